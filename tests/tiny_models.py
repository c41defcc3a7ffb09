"""Tiny, randomly initialised models of the real classes, in demucs' own file formats: real loaders, no real cost."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file

SOURCES = ["drums", "bass", "other", "vocals"]
HTDEMUCS: dict[str, Any] = {
    "channels": 8,
    "dconv_comp": 4,
    "growth": 2,
    "nfft": 512,
    "depth": 3,
    "t_layers": 1,
    "t_heads": 2,
    "bottom_channels": 16,
    "dconv_depth": 1,
    "segment": Fraction(2),
}


def tiny_htdemucs(seed: int = 0, **changes: Any) -> HTDemucs:
    torch.manual_seed(seed)
    return HTDemucs(SOURCES, **{**HTDEMUCS, **changes}).eval()


def _encoded(value: Any) -> Any:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    return value


def write_model(folder: Path, name: str = "htdemucs", *, seed: int = 0, signature: str = "0a1b2c3d") -> None:
    """Write `<signature>.safetensors` and the bag `<name>.yaml` as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_htdemucs(seed)
    metadata = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps([SOURCES]),
        "kwargs": json.dumps({key: _encoded(value) for key, value in HTDEMUCS.items()}),
    }
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / f"{signature}.safetensors", metadata)
    (folder / f"{name}.yaml").write_text(f"models: ['{signature}']\n")
