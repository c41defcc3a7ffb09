"""Load demucs networks from files of weights.

The files are not trusted: only demucs' own classes are created, also from pickles. Pickles in the operator's folder may
need others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from demucs.apply import BagOfModels
from demucs.hf import load_safetensors_model
from demucs.states import load_model
from safetensors import safe_open
from torch import nn

from engine.errors import ModelCorrupt, ModelUnavailable
from engine.jobs.roformer_config import RoFormerConfig
from engine.separation.models.pickles import NETWORKS, QUANTIZERS, has_checksum, read_package

NEEDS_DIFFQ = "It needs the package diffq (Stemify's extra “quantized”)."


@dataclass(frozen=True)
class Bag:
    """The contents of a bag's .yaml. `members`: signatures, each the stem of a file's name."""

    members: tuple[str, ...]
    weights: list[list[float]] | None = None
    segment_s: float | None = None

    @classmethod
    def read(cls, path: Path) -> Bag:
        """Read a .yaml. Raises `ModelCorrupt`."""
        try:
            found = yaml.safe_load(path.read_text())
            members = tuple(str(member) for member in found["models"])
            weights = found.get("weights")
            segment = found.get("segment")
            if weights is not None:
                weights = [[float(weight) for weight in row] for row in weights]
            if not members or not all(member.replace("_", "").replace("-", "").isalnum() for member in members):
                raise ValueError("members are named by signatures")
            return cls(members, weights, None if segment is None else float(segment))
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, UnicodeDecodeError) as error:
            raise _corrupt(path, error) from error


def read_description(path: Path) -> Bag | RoFormerConfig:
    """Read the .yaml of a bag or of a RoFormer model. Raises `ModelCorrupt`."""
    try:
        config = RoFormerConfig.read(path)
    except ValueError as error:
        raise ModelCorrupt(f"The model's file {path.name} is not supported: {error}.", detail=str(path)) from error
    return config or Bag.read(path)


def load_bag(bag: Bag, files: list[Path], *, may_run_code: bool = False) -> nn.Module:
    """Load the network, or bag of networks, whose members are `files`.

    `may_run_code`: the files are from the operator's folder. Raises `ModelCorrupt`, `ModelUnavailable`.
    """
    loaded: dict[Path, Any] = {}
    for file in files:
        if file not in loaded:
            loaded[file] = load_network(file, may_run_code=may_run_code)
    try:
        return BagOfModels([loaded[file] for file in files], bag.weights, bag.segment_s)
    except (AssertionError, AttributeError) as error:
        raise _corrupt(files[0], error) from error


def load_network(path: Path, *, may_run_code: bool = False) -> nn.Module:
    """Load one network from `.safetensors` or `.th` (a pickle).

    Only demucs' classes are imported and created; with `may_run_code`, a pickle may need others. Raises
    `ModelCorrupt`, `ModelUnavailable`.
    """
    try:
        if path.suffix == ".safetensors":
            _check_names(path)
            return _quietly(load_safetensors_model, path)
        check_name(path)
        package = read_package(path, may_run_code=may_run_code)
        return _quietly(load_model, package)
    except ModelUnavailable:
        raise
    except (SystemExit, ImportError) as error:  # demucs raises these when diffq is missing
        raise ModelUnavailable(f"This model is quantized. {NEEDS_DIFFQ}", detail=str(error)) from error
    except Exception as error:  # torch, pickle and safetensors raise anything for a damaged file
        raise _corrupt(path, error) from error


def _quietly(load: Callable[[Any], Any], source: Path | dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = load(source)
    return network


def load_torchaudio_network(path: Path) -> nn.Module:
    """Load torchaudio's `HDEMUCS_HIGH_MUSDB_PLUS` from its weights. Raises `ModelCorrupt`, `ModelUnavailable`."""
    try:
        from torchaudio.models import hdemucs_high
    except (ImportError, OSError) as error:
        raise ModelUnavailable(f"This model needs torchaudio, which cannot be used here: {error}") from error
    try:
        network: Any = hdemucs_high(sources=["drums", "bass", "other", "vocals"])
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise _corrupt(path, error) from error
    network.sources = ["drums", "bass", "other", "vocals"]
    network.samplerate = 44100
    network.segment = 10.0  # as in torchaudio's own tutorial
    network.audio_channels = 2
    checked: nn.Module = network
    return checked


def missing_for(model: str) -> str | None:
    """Return the reason why this machine cannot run a model, whatever its weights; None if it can."""
    if model == "mdx_extra_q" and find_spec("diffq") is None:
        return NEEDS_DIFFQ
    if model == "hdemucs_high":
        if find_spec("torchaudio") is None:
            return "It needs the package torchaudio (Stemify's extra “torchaudio”) beside a CUDA torch."
        try:
            import torchaudio.models  # noqa: F401
        except (ImportError, OSError) as error:
            return f"torchaudio is installed but cannot be used here: {str(error).splitlines()[0]}"
    return None


def check_name(path: Path) -> None:
    """Verify the checksum in a name such as `signature-checksum.th`. Raises `ModelCorrupt`."""
    _, dash, checksum = path.stem.rpartition("-")
    if dash and not has_checksum(path, checksum):
        raise _corrupt(path, ValueError("the checksum in its name does not match"))


def _check_names(path: Path) -> None:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("klass") not in NETWORKS:
        raise ValueError(f"its class {metadata.get('klass')!r} is not a demucs network")
    for name in _named_classes(json.loads(metadata.get("structure", "null"))):
        if name not in QUANTIZERS:
            raise ValueError(f"its class {name!r} is not a diffq quantizer")


def _named_classes(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if "_class" in node:
            yield str(node["_class"])
        for value in node.values():
            yield from _named_classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _named_classes(value)


def _corrupt(path: Path, error: Exception) -> ModelCorrupt:
    return ModelCorrupt(
        f"The model's file {path.name} is damaged or invalid. Ask the bot's operator to delete it and download it "
        "again (python -m engine models pull).",
        detail=f"{path}: {error!r}",
    )
