"""Files of weights become demucs networks. What is in a file is not believed: only demucs' own classes are built from
it, also from pickles, unless the operator put them into their own folder."""

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
from engine.separation.models.pickles import NETWORKS, QUANTIZERS, has_checksum, read_package

NEEDS_DIFFQ = "It needs the package diffq (Stemify's extra “quantized”)."


@dataclass(frozen=True)
class Bag:
    """A bag as its .yaml describes it. `members`: signatures, each the stem of a file's name."""

    members: tuple[str, ...]
    weights: list[list[float]] | None = None
    segment_s: float | None = None

    @classmethod
    def read(cls, path: Path) -> Bag:
        """Raises `ModelCorrupt`."""
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


def load_bag(bag: Bag, files: list[Path], *, may_run_code: bool = False) -> nn.Module:
    """Load the network, or bag of networks, whose members are `files`.

    `may_run_code`: they are from the operator's own folder. Raises `ModelCorrupt`, `ModelUnavailable`.
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

    Only demucs' classes are imported and made, except with `may_run_code` from a pickle that needs others. Raises
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
    except (SystemExit, ImportError) as error:  # demucs' way to say that diffq is missing
        raise ModelUnavailable(f"This model is quantized. {NEEDS_DIFFQ}", detail=str(error)) from error
    except Exception as error:  # whatever a damaged file makes of torch, pickle or safetensors
        raise _corrupt(path, error) from error


def _quietly(load: Callable[[Any], Any], source: Path | dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = load(source)
    return network


def load_torchaudio_network(path: Path) -> nn.Module:
    """torchaudio's `HDEMUCS_HIGH_MUSDB_PLUS` from its weights. Raises `ModelCorrupt`, `ModelUnavailable`."""
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
    """Why a model cannot be used on this machine whatever weights there are; None: it can."""
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
    """A name like `signature-checksum.th` promises what is in it. Raises `ModelCorrupt`."""
    _, dash, checksum = path.stem.rpartition("-")
    if dash and not has_checksum(path, checksum):
        raise _corrupt(path, ValueError("the checksum in its name is not its own"))


def _check_names(path: Path) -> None:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("klass") not in NETWORKS:
        raise ValueError(f"it names {metadata.get('klass')!r}, which is no network of demucs")
    for name in _named_classes(json.loads(metadata.get("structure", "null"))):
        if name not in QUANTIZERS:
            raise ValueError(f"it names {name!r}, which is no quantizer of diffq")


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
        f"The model's file {path.name} is damaged or not what it says. Ask whoever runs this bot to delete and fetch "
        "it again (python -m engine models pull).",
        detail=f"{path}: {error!r}",
    )
