"""Tiny, randomly initialised models of the real classes, in demucs' own file formats: real loaders, no real cost."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import torch
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.transformer import LayerScale
from safetensors.torch import save_file
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
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
    model: HTDemucs = HTDemucs(SOURCES, **{**HTDEMUCS, **changes}).eval()
    return model


def tiny_hdemucs(seed: int = 0, **changes: Any) -> HDemucs:
    """Of full depth: its two innermost layers have BLSTM and local attention."""
    torch.manual_seed(seed)
    model: HDemucs = HDemucs(SOURCES, **{"channels": 8, "segment": 2.0, "dconv_depth": 1, **changes})
    return model.eval()


def awake(model: Network) -> Network:
    """Residual branches start out at almost nothing; here they count, so that an error in them is heard."""
    for module in model.modules():
        if isinstance(module, LayerScale):
            module.scale.data.fill_(0.5)
    return model


def trained(layer: nn.Module, by: float) -> Any:
    """`layer` with norms and scales that are not those of the first step of a training."""
    torch.manual_seed(5)
    for parameter in layer.parameters():
        parameter.data.add_(by * torch.randn_like(parameter))
    return awake(layer).eval()


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
