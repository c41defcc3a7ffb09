"""Load Mel-Band and BS-RoFormer networks; their sizes are read from the shapes of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import ModelCorrupt
from engine.jobs.roformer_config import RoFormerConfig
from engine.separation.models.pickles import read_pickle
from engine.separation.network.bands import MEL_FFT_SAMPLES, MEL_SAMPLE_RATE, adjacent_bands, mel_bands
from engine.separation.network.roformer import PARTS, RoFormer, RoFormerShape
from engine.separation.network.roformer_layers import rotary_frequencies

Shapes = Mapping[str, tuple[int, ...]]
_WRAPPERS = ("state_dict", "state", "model_state_dict")
_MOST_NAMED = 3  # parameters in an error


def load_roformer(config: RoFormerConfig, path: Path, *, may_run_code: bool = False) -> RoFormer:
    """Load a network from `.safetensors` or a checkpoint of torch, in single precision.

    `may_run_code`: the file is from the operator's folder. Raises `ModelCorrupt`.
    """
    try:
        state = _read(path, may_run_code=may_run_code)
    except Exception as error:  # torch, pickle and safetensors raise anything for a damaged file
        raise ModelCorrupt(
            f"The model's file {path.name} is damaged. Ask the bot's operator to replace it.",
            detail=f"{path}: {error!r}",
        ) from error
    try:
        shape = shape_of({name: tuple(value.shape) for name, value in state.items()}, config)
        with torch.device("meta"):
            network = build(shape, config)
        _check_keys(network, state)
        network.load_state_dict(state, strict=True, assign=True)
    except ValueError as error:
        raise ModelCorrupt(
            f"The weights in {path.name} are not a supported RoFormer network: {error}.", detail=str(path)
        ) from error
    except (IndexError, ZeroDivisionError) as error:  # of empty tensors, or of ones with too few dimensions
        raise ModelCorrupt(
            f"The weights in {path.name} are not a supported RoFormer network: their shapes do not fit together.",
            detail=f"{path}: {error!r}",
        ) from error
    return network.eval()


def build(shape: RoFormerShape, config: RoFormerConfig) -> RoFormer:
    return RoFormer(shape, config.sources, config.sample_rate, rest=config.rest, inverted=config.is_inverted)


def shape_of(shapes: Shapes, config: RoFormerConfig) -> RoFormerShape:
    """Return the sizes of the network with these parameters. Raises `ValueError` if it is of another kind."""
    try:
        (dim,) = shapes["layers.0.0.layers.0.0.norm.gamma"]
        (heads,) = shapes["layers.0.0.layers.0.0.to_gates.bias"]
        (feed_forward,) = shapes["layers.0.0.layers.0.1.net.1.bias"]
        (mask_hidden,) = shapes["mask_estimators.0.to_freqs.0.0.0.bias"]
        qkv_rows, _ = shapes["layers.0.0.layers.0.0.to_qkv.weight"]
        widths = [
            shapes[f"band_split.to_features.{band}.0.gamma"][0]
            for band in range(_count(shapes, "band_split.to_features."))
        ]
    except KeyError as error:
        raise ValueError(f"it has no parameter {error.args[0]}") from error
    is_mel = "final_norm.gamma" not in shapes
    if is_mel and (config.fft_samples, config.sample_rate) != (MEL_FFT_SAMPLES, MEL_SAMPLE_RATE):
        raise ValueError(
            f"bands of Mel-Band RoFormer need {MEL_SAMPLE_RATE} Hz and an FFT of {MEL_FFT_SAMPLES} samples"
        )
    shape = RoFormerShape(
        bands=mel_bands() if is_mel else adjacent_bands([width // PARTS for width in widths]),
        dim=dim,
        depth=_count(shapes, "layers."),
        heads=heads,
        head_dim=qkv_rows // (3 * heads),
        feed_forward=feed_forward,
        stems=_count(shapes, "mask_estimators."),
        mask_hidden=mask_hidden,
        mask_linears=sum(name.startswith("mask_estimators.0.to_freqs.0.0.") for name in shapes) // 2,
        is_mel=is_mel,
        window_samples=config.window_samples,
        fft_samples=config.fft_samples,
        hop_samples=config.hop_samples,
    )
    if [len(band) * PARTS for band in shape.bands] != widths or shape.bands[-1].stop != shape.bins:
        raise ValueError(f"its {len(widths)} bands are not those of the published networks")
    if shape.stems != len(config.sources):
        raise ValueError(f"it has {shape.stems} stems, and its .yaml names {', '.join(config.sources)}")
    return shape


def _count(shapes: Shapes, prefix: str) -> int:
    """Return how many numbered modules have this prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def _read(path: Path, *, may_run_code: bool) -> dict[str, Tensor]:
    found: Any = load_file(path) if path.suffix == ".safetensors" else read_pickle(path, may_run_code=may_run_code)
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise TypeError("it is not a state dict")
    return {str(name): value.float() for name, value in found.items()}


def _check_keys(network: RoFormer, state: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and rotary frequencies with those of the network. Raises `ValueError`."""
    expected = network.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    for words, names in (("lacks", missing), ("also has", unknown), ("has other shapes of", wrong)):
        if names:
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            raise ValueError(f"it {words} {', '.join(sorted(names)[:_MOST_NAMED])}{more}")
    usual = rotary_frequencies(network.shape.head_dim)
    for name, value in state.items():
        if name.endswith(".rotary_embed.freqs") and not torch.allclose(value, usual, rtol=1e-2):
            raise ValueError("its rotary positions have other frequencies")
