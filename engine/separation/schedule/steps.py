"""Separate a mix in one step or two: the second model separates what the first one leaves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.errors import ModelCorrupt
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import MixSource, RunReport, StemSink


def run_steps(
    batcher: Batcher,
    models: Sequence[LoadedModel],
    mix: MixSource,
    sink: StemSink,
    scratch: Path,
    *,
    stems: Sequence[str],
    on_progress: Callable[[float], None],
    **run: Any,
) -> RunReport:
    """Separate `stems` with one model or two; return when the last block is written.

    `scratch`: a folder for the stems of the first of two models. `on_progress` gets the fraction of the whole.
    `run`: as for `Batcher.run`, which raises the errors.
    """
    first = models[0]
    later = [stem for stem in stems if stem not in first.sources]
    if len(models) == 1 or not later:
        return batcher.run(
            first, mix, sink, stems=stems, on_progress=lambda done, total: on_progress(done / max(1, total)), **run
        )
    second = models[1]
    _check(first, second, stems, later)
    share = first.window_cost / (first.window_cost + second.window_cost)
    with _StemFile(scratch, first.sources, first.audio_channels) as separated:
        before = batcher.run(
            first,
            mix,
            separated,
            stems=first.sources,
            on_progress=lambda done, total: on_progress(share * done / max(1, total)),
            **run,
        )
        after = batcher.run(
            second,
            _Remainder(mix, separated),
            _AllStems(separated, sink),
            stems=later,
            on_progress=lambda done, total: on_progress(share + (1 - share) * done / max(1, total)),
            **run,
        )
    return RunReport(
        segments=before.segments + after.segments,
        separating_s=before.separating_s + after.separating_s,
        busy_s=before.busy_s + after.busy_s,
        notes=tuple(
            dict.fromkeys(
                (
                    _sentence(first, first.sources, before, "the mix"),
                    _sentence(second, later, after, "what remained"),
                    *before.notes,
                    *after.notes,
                )
            )
        ),
        segment_s=before.segment_s,
        agreement_db={**before.agreement_db, **after.agreement_db},
        devices=tuple(dict.fromkeys((*before.devices, *after.devices))),
    )


def _check(first: LoadedModel, second: LoadedModel, stems: Sequence[str], later: Sequence[str]) -> None:
    """Raise `ModelCorrupt` for files of the operator that do not fit together."""
    if not {*first.sources} <= {*stems} or not {*later} <= {*second.sources}:
        raise ModelCorrupt(f"{first.name} and {second.name} together do not separate {', '.join(stems)}.")
    if (first.sample_rate, first.audio_channels) != (second.sample_rate, second.audio_channels):
        raise ModelCorrupt(f"{first.name} and {second.name} differ in sample rate or channels.")


def _sentence(model: LoadedModel, stems: Sequence[str], report: RunReport, source: str) -> str:
    segments = f"{report.segments} segments of {report.segment_s:.3g} s"
    return f"{model.name} separated {' and '.join(stems)} from {source}, in {segments}."


class _StemFile:
    """The sink of the first step: a temporary file of float32, so that memory does not grow with the song."""

    def __init__(self, folder: Path, stems: Sequence[str], channels: int) -> None:
        self.stems = tuple(stems)
        self._channels = channels
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        block = torch.cat([stems[stem] for stem in self.stems]).numpy()
        self._file.write(np.ascontiguousarray(block.T).data)
        self._file.flush()

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return (channels, stop - start) of each stem. Thread-safe."""
        frame_bytes = 4 * len(self.stems) * self._channels
        data = bytearray(os.pread(self._file.fileno(), (stop - start) * frame_bytes, start * frame_bytes))
        block = torch.from_numpy(np.frombuffer(data, np.float32).reshape(stop - start, -1).T.copy())
        return dict(zip(self.stems, torch.split(block, self._channels), strict=True))


class _Remainder:
    """The mix minus the stems of the first step, at the level of the mix: networks normalise their input again."""

    def __init__(self, mix: MixSource, separated: _StemFile) -> None:
        self.samples = mix.samples
        self._mix = mix
        self._separated = separated

    def read(self, start: int, stop: int) -> Tensor:
        rest = self._mix.read(start, stop)
        for stem in self._separated.read(start, stop).values():
            rest = rest - stem
        return rest


class _AllStems:
    """Adds the stems of the first step to the blocks of the second one."""

    def __init__(self, separated: _StemFile, sink: StemSink) -> None:
        self._separated = separated
        self._sink = sink

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        stop = start + next(iter(stems.values())).shape[-1]
        self._sink.write(start, {**self._separated.read(start, stop), **stems})
