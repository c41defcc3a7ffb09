"""The embedded model's architecture, and its file in the format of demucs' hub loader."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.synth.song import STEMS

# 1.5 M parameters. The long window (4096) halves the frames of the spectral branch and tells close bass notes apart;
# residual branches (dconv) only in the encoder: in the decoder they cost 40 % of a training step for little.
ARGUMENTS: dict[str, Any] = {
    "sources": list(STEMS),
    "channels": 16,
    "bottom_channels": 128,
    "t_layers": 1,
    "t_heads": 4,
    "dconv_mode": 1,
    "dconv_comp": 4,
    "nfft": 4096,
    "segment": Fraction(39, 10),
}


def new_model() -> nn.Module:
    model: nn.Module = HTDemucs(**ARGUMENTS)
    return model


def write_hub_files(
    state: dict[str, Tensor], folder: Path, name: str = "mini", arguments: dict[str, Any] = ARGUMENTS
) -> Path:
    """Write `<signature>.safetensors` (half precision) and `<name>.yaml`; return the weights' path.

    The signature is the first eight hex digits of the weights' hash, as in demucs' releases.
    """
    half = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
    digest = hashlib.sha256(b"".join(half[key].numpy().tobytes() for key in sorted(half))).hexdigest()[:8]
    encoded = {
        key: {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
        if isinstance(value, Fraction)
        else value
        for key, value in arguments.items()
    }
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(encoded)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.safetensors"
    save_file(half, str(path), metadata=metadata)
    (folder / f"{name}.yaml").write_text(f"models: ['{digest}']\n")
    return path


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights rounded as in the file, for scores of the shipped weights."""
    return {key: value.half().to(torch.float32) for key, value in state.items()}
