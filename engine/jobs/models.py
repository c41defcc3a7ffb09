"""The catalogue of models: what each separates, what it costs and under which terms its weights are published."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from engine.errors import UnknownModel
from engine.jobs.roformer_config import MELBAND_VOCALS, RoFormerConfig
from engine.text import did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
WEIGHTS = (".safetensors", ".ckpt", ".th")
"""Endings of the operator's weights."""

State = Literal["ready", "to_fetch", "unavailable"]
STATES: tuple[State, ...] = ("ready", "to_fetch", "unavailable")
"""Whether a model is on the machine, is downloaded at first use, or cannot be used; best first."""

_FOUR = ("vocals", "drums", "bass", "other")
_NOT_STATED = "not stated"
_ROFORMER_COST = 6.8
BEST_OF_BOTH = "best_of_both"
KARAOKE = "melband_vocals"


@dataclass(frozen=True)
class ModelInfo:
    """`licence`: of the weights. `cost`: the time for a song on a CPU relative to htdemucs."""

    description: str
    cost: float
    licence: str
    licence_source: str
    stems: tuple[str, ...] = _FOUR  # in display order
    download_bytes: int | None = None  # None: unknown, or nothing to download
    advises_gpu: bool = False
    is_own: bool = False  # from the operator's folder
    steps: tuple[str, ...] = ()  # models that run one after the other, each on what the one before leaves


def _demucs(
    description: str, cost: float, stems: tuple[str, ...] = _FOUR, download_bytes: int | None = None
) -> ModelInfo:
    return ModelInfo(
        description,
        cost,
        "scientific purposes only",
        "the author in github.com/facebookresearch/demucs/issues/327",
        stems,
        download_bytes,
    )


MODELS: dict[str, ModelInfo] = {
    "htdemucs": _demucs("Hybrid Transformer Demucs, the standard", 1.0, download_bytes=84_141_911),
    "htdemucs_ft": _demucs(
        "fine-tuned, one network a stem: better, four times slower", 4.0, download_bytes=336_565_084
    ),
    "htdemucs_6s": _demucs(
        "six stems, with guitar and piano (experimental)", 1.09, ("vocals", "drums", "bass", "guitar", "piano", "other")
    ),
    "hdemucs_mmi": _demucs("Hybrid Demucs v3, retrained", 0.91),
    "mdx_extra": _demucs("four Hybrid Demucs v3, MDX challenge", 3.64),
    "mdx_extra_q": _demucs("the same, quantized: a smaller download (needs diffq)", 3.64),
    "hdemucs_high": ModelInfo("torchaudio's Hybrid Demucs (needs torchaudio)", 0.91, "not known", "not looked up"),
    "melband_vocals": ModelInfo(
        "Mel-Band RoFormer by Kimberley Jensen: better vocals and instrumental, much slower",
        _ROFORMER_COST,
        "MIT",
        "the model's card at huggingface.co/KimberleyJSN/melbandroformer",
        MELBAND_VOCALS.stems,
        download_bytes=912_885_624,
        advises_gpu=True,
    ),
    BEST_OF_BOTH: ModelInfo(
        "vocals by melband_vocals, then drums and bass by htdemucs, other is the rest",
        _ROFORMER_COST + 1.0,
        "those of melband_vocals and htdemucs",
        "see these two models",
        advises_gpu=True,
        steps=("melband_vocals", "htdemucs"),
    ),
    "mini": ModelInfo(
        "small and embedded: works without a download, rougher results", 0.14, "MIT", "LICENSE, as a part of Stemify"
    ),
}
"""Supported models: the built-in ones and, after `add_own_models`, those of the operator."""


def _possible_model(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is not the name of a model")
    return name


def _list_models(schema: dict[str, Any]) -> None:
    schema["enum"] = list(MODELS)


ModelName = Annotated[str, AfterValidator(_possible_model), Field(json_schema_extra=_list_models)]
"""The name of a model, which may be gone: stored jobs keep it."""


def traits(info: ModelInfo, *, is_downloaded: bool, size_bytes: int | None) -> list[str]:
    """Return what to know before choosing a model, in short phrases. `size_bytes`: of its files on this machine."""
    size = size_bytes if is_downloaded else info.download_bytes
    state = "on this machine" if is_downloaded else "not downloaded"
    return [
        ", ".join(info.stems) if len(info.stems) < len(_FOUR) else f"{len(info.stems)} stems",
        f"{info.cost:.2g}x the time",
        *(["GPU advisable"] if info.advises_gpu else []),
        f"weights: {info.licence}",
        state if size is None else f"{state}, {size / 1e6:.3g} MB",
    ]


def stems_of(model: str) -> tuple[str, ...]:
    """Return the stems of a model, in display order; those of most models for one that is gone."""
    return MODELS[model].stems if model in MODELS else _FOUR


def steps_of(model: str) -> tuple[str, ...]:
    """Return the models that run for a model: itself, or its steps."""
    return (MODELS[model].steps if model in MODELS else ()) or (model,)


def join_versions(versions: Sequence[str | None]) -> str | None:
    """Return the version of a model from those of its steps; None if one is unknown."""
    known = [version for version in versions if version is not None]
    return "+".join(known) if known and len(known) == len(versions) else None


def better_model(*, best: bool, karaoke: bool, ready: Collection[str]) -> str:
    """Return the model of a job for which none was chosen. `ready`: the models that are on the machine."""
    if karaoke and KARAOKE in ready:
        return KARAOKE
    if best:
        return BEST_OF_BOTH if BEST_OF_BOTH in ready else "htdemucs_ft"
    return "htdemucs"


def describe_default(ready: Collection[str]) -> str:
    """Return a sentence about the models that are used where none is chosen."""
    best = better_model(best=True, karaoke=False, ready=ready)
    karaoke = better_model(best=False, karaoke=True, ready=ready)
    details = f" ({MODELS[best].description})" if MODELS[best].steps else ""
    for_karaoke = f"; for karaoke, {karaoke}" if karaoke == KARAOKE else ""
    return f"Automatic is htdemucs{for_karaoke}; for the quality best, {best}{details}."


def unknown_model(name: str) -> UnknownModel:
    """Return the error for a model that does not exist."""
    hint = did_you_mean(name[:40].lower(), MODELS)
    return UnknownModel(f"There is no model {name[:40]!r}.{hint} Choose one of: {', '.join(MODELS)}.")


def add_own_models(folder: Path | None) -> list[str]:
    """Replace the models of the operator by the RoFormer models in this folder; return why others are left out."""
    for name in [name for name, info in MODELS.items() if info.is_own]:
        del MODELS[name]
    if folder is None or not folder.is_dir():
        return []
    problems = []
    for path in sorted(folder.glob("*.yaml")):
        if path.stem in MODELS:
            continue
        try:
            config = RoFormerConfig.read(path)
        except (OSError, ValueError) as error:
            problems.append(f"The model {path.name} is left out: {error}.")
            continue
        if config is None:
            continue
        if not NAME.fullmatch(path.stem):
            problems.append(f"The model {path.name} is left out: use letters, digits, _ and - for its name.")
        elif not any(path.with_suffix(ending).is_file() for ending in WEIGHTS):
            endings = ", ".join(WEIGHTS)
            problems.append(f"The model {path.name} is left out: there are no weights beside it ({endings}).")
        else:
            MODELS[path.stem] = ModelInfo(
                "from the operator's folder", _ROFORMER_COST, _NOT_STATED, "the operator", config.stems,
                advises_gpu=True, is_own=True,
            )  # fmt: skip
    return problems
