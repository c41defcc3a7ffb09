"""Render a plan in a child process, from local stem files into a folder. Calls block."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import BrokenAudio, DecodingTooExpensive, InternalError
from engine.jobs.results import db
from engine.media.limits import BUSY_FACTOR
from engine.media.sandbox import run_module
from engine.mixes.errors import MixFailed
from engine.mixes.names import mix_filename, mix_name, version_filename, version_name, version_parts
from engine.mixes.plan import MixPlan
from engine.mixes.protocol import Rendered, RenderRequest

_FLOAT_BYTES = 4
_HIGHEST_RATE = 192_000
_MEMORY_BYTES = 2 * 1024**3  # address space; a part of the stretcher takes up to 0.5 GB


@dataclass(frozen=True)
class Song:
    """Where the stems are, and what the files are named after."""

    title: str
    model: str
    duration_s: float
    gain_db: float
    """The common gain of the stems; it is undone."""
    stems: Mapping[str, Path]


@dataclass(frozen=True)
class RenderedFiles:
    """`files`: name of each file by stem, or by "mix"."""

    name: str
    files: dict[str, str]
    gain_db: float
    samples: int
    sample_rate: int


def render_files(
    song: Song,
    plan: MixPlan,
    folder: Path,
    *,
    cpu_s: float,
    niceness: int = 0,
    cancelled: threading.Event | None = None,
    spool: BinaryIO | None = None,
) -> RenderedFiles:
    """Write the files of a plan to `folder`. Its float samples fill `spool`, an empty file.

    Raises `MixFailed`, `BrokenAudio`, `DiskFull`, `StorageFailed` and `Cancelled`.
    """
    name, titles = _titles(song, plan)
    # A stem that is not heard is only needed by the stretcher, which changes all stems together.
    gains = {stem: gain for stem, gain in plan.gains if gain or plan.is_stretched}
    level_db = 0.0 if plan.keeps_stems else -song.gain_db
    with ExitStack() as stack:
        stems = [stack.enter_context(song.stems[stem].open("rb")) for stem in gains]
        outputs = [stack.enter_context((folder / titles[key][0]).open("wb")) for key in titles]
        spool = spool or stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
        request = RenderRequest(
            stems=[file.fileno() for file in stems],
            gains=list(gains.values()),
            pans=[dict(plan.pans).get(stem, 0.0) for stem in gains],
            outputs=[file.fileno() for file in outputs],
            titles=[title for _, title in titles.values()],
            comments=[_comment(key, song.model) for key in titles],
            spool=spool.fileno(),
            format=plan.format,
            bit_rate=plan.bit_rate,
            start_s=plan.start_s,
            end_s=plan.end_s,
            key=plan.key,
            tempo=plan.tempo,
            keeps_stems=plan.keeps_stems,
            level=10 ** (level_db / 20),
        )
        channels = 2 * (len(stems) if plan.keeps_stems else 1)
        longest_s = (song.duration_s + 1) / plan.tempo
        limits = {
            "memory_bytes": _MEMORY_BYTES,
            "cpu_s": math.ceil(cpu_s),
            "file_bytes": math.ceil(longest_s * _HIGHEST_RATE * channels * _FLOAT_BYTES),
        }
        child = {"render": asdict(request), "limits": limits, "niceness": niceness}
        rendered = Rendered(**_run(child, [*request.stems, *request.outputs, request.spool], cpu_s, cancelled))
    gain_db = round(db(rendered.gain) or 0.0, 3) + (song.gain_db if plan.keeps_stems else 0.0)
    files = {key: filename for key, (filename, _) in titles.items()}
    return RenderedFiles(name, files, round(gain_db, 3), rendered.samples, rendered.sample_rate)


def _run(
    request: dict[str, Any],
    descriptors: list[int],
    cpu_s: float,
    cancelled: threading.Event | None,
) -> dict[str, Any]:
    try:
        return run_module(
            "engine.mixes.child",
            request,
            descriptors=descriptors,
            timeout_s=BUSY_FACTOR * cpu_s,
            cancelled=cancelled,
        )
    except DecodingTooExpensive as error:
        raise MixFailed("The mix needs too much time or memory. Try a shorter range.", detail=error.detail) from error
    except InternalError as error:
        raise MixFailed(detail=error.detail) from error
    except BrokenAudio as error:
        raise MixFailed("A stem of this song is damaged. Separate the song again.", detail=error.detail) from error


def _titles(song: Song, plan: MixPlan) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the name of the result, and (file name, title) of each output."""
    key, tempo = plan.key, plan.tempo
    if plan.keeps_stems:
        changes = version_parts(key, tempo, is_preview=plan.bit_rate is not None)
        name = version_name(song.title, changes)
        titles = {
            stem: (version_filename(song.title, stem, changes, plan.format), f"{name[:-1]}, {stem})")
            for stem, _ in plan.gains
        }
        return name, titles
    end_s = plan.end_s
    gains, pans = dict(plan.gains), dict(plan.pans)
    name = mix_name(song.title, gains, pans, start_s=plan.start_s, end_s=end_s, key=key, tempo=tempo)
    return name, {"mix": (mix_filename(name, plan.format), name)}


def _comment(key: str, model: str) -> str:
    what = "mix of stems" if key == "mix" else key
    return f"{what}, separated with {model} by Stemify"
