"""Two models one after the other, as in `best_of_both`: a tiny RoFormer and a tiny HTDemucs with random weights."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled, ModelCorrupt
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import RunReport
from engine.separation.schedule.steps import run_steps
from engine.separation.separator import Separator
from tests.fixtures.songs import tune
from tests.fixtures.tiny_models import tiny_hdemucs, tiny_htdemucs
from tests.fixtures.tiny_roformers import FOUR_STEMS, VOCALS, tiny_roformer

STEMS = ("vocals", "drums", "bass")
SHIFTS, SEED = 1, 7


class Mix:
    def __init__(self, samples: Tensor) -> None:
        self._all = samples
        self.samples = samples.shape[-1]

    def read(self, start: int, stop: int) -> Tensor:
        return self._all[:, start:stop]


class Blocks:
    """Collects stems, and checks that each block starts where the last one ended."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Tensor]] = []
        self.samples = 0

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        assert start == self.samples and tuple(stems) == STEMS
        self.samples += stems["vocals"].shape[-1]
        self._blocks.append({name: block.clone() for name, block in stems.items()})

    @property
    def stems(self) -> dict[str, Tensor]:
        return {name: torch.cat([block[name] for block in self._blocks], dim=1) for name in STEMS}


@pytest.fixture(scope="module")
def mix() -> Tensor:
    return torch.from_numpy(tune(3.3)) * 4


def run(models: list[LoadedModel], mix: Tensor, sink: Blocks, scratch: Path, **changes: Any) -> RunReport:
    how: dict[str, Any] = {"shifts": SHIFTS, "overlap": 0.25, "segment_s": None, "seed": SEED}
    how |= {"on_progress": lambda _: None, "on_cpu": lambda: None, "cancelled": threading.Event(), "stems": STEMS}
    return run_steps(Batcher("cpu"), models, Mix(mix), sink, scratch, **{**how, **changes})


def models() -> list[LoadedModel]:
    return [LoadedModel.of(tiny_roformer(), "first"), LoadedModel.of(tiny_htdemucs(), "second")]


def test_second_model_gets_what_the_first_leaves(mix: Tensor, tmp_path: Path) -> None:
    first, second = models()
    sink, fractions = Blocks(), list[float]()
    report = run([first, second], mix, sink, tmp_path, on_progress=fractions.append)
    how = {"shifts": SHIFTS, "overlap": 0.25, "seed": SEED}
    before = Separator(first).separate(mix, **how)  # type: ignore[arg-type]
    after = Separator(second).separate(mix - before["vocals"], **how)  # type: ignore[arg-type]
    expected = {"vocals": before["vocals"], "drums": after["drums"], "bass": after["bass"]}
    for name, stem in sink.stems.items():
        assert float((stem - expected[name]).abs().max()) < 1e-6 * float(mix.abs().max()), name
    assert fractions == sorted(fractions) and fractions[-1] == 1 and any(0 < each < 0.875 for each in fractions)
    assert set(report.agreement_db) == set(STEMS) and report.devices == ("cpu",)
    assert report.notes[0].startswith("first separated vocals from the mix, in ")
    assert report.notes[1].startswith("second separated drums and bass from what remained, in ")
    assert list(tmp_path.iterdir()) == []


def test_sum_is_as_exact_as_that_of_each_model(mix: Tensor, tmp_path: Path) -> None:
    first, second = models()
    sink = Blocks()
    run([first, second], mix, sink, tmp_path)
    other = mix - sum(sink.stems.values())

    def residual(stems: list[Tensor]) -> float:
        return float((mix.double() - sum(stem.double() for stem in stems)).norm() / mix.norm())

    both = residual([*sink.stems.values(), other])
    alone = [residual(list(Separator(each).separate(mix, shifts=0, overlap=0.25).values())) for each in (first, second)]
    assert both <= max(alone) and both < 1e-6


def test_one_model_needs_no_second_step(mix: Tensor, tmp_path: Path) -> None:
    sink = Blocks()
    report = run([LoadedModel.of(tiny_htdemucs(), "only")], mix, sink, tmp_path)
    assert report.notes == () and sink.samples == mix.shape[-1]


def test_cancelled_in_the_second_step(mix: Tensor, tmp_path: Path) -> None:
    cancelled = threading.Event()

    def cancel_late(fraction: float) -> None:
        if fraction > 0.875:
            cancelled.set()

    with pytest.raises(Cancelled):
        run(models(), mix, Blocks(), tmp_path, on_progress=cancel_late, cancelled=cancelled)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["no vocals alone", "no drums", "rates"])
def test_models_that_do_not_fit_together_are_refused(mix: Tensor, tmp_path: Path, which: str) -> None:
    vocals, others = tiny_roformer(), tiny_htdemucs()
    first, second, message = {
        "no vocals alone": (tiny_roformer(FOUR_STEMS, is_mel=False), others, "one and two together do not separate"),
        "no drums": (vocals, tiny_roformer(VOCALS), "one and two together do not separate vocals, drums, bass"),
        "rates": (vocals, tiny_hdemucs(samplerate=48000), "one and two differ in sample rate or channels"),
    }[which]
    both = [LoadedModel.of(first, "one"), LoadedModel.of(second, "two")]
    stems = ("vocals", "drums", "piano") if which == "no vocals alone" else STEMS
    with pytest.raises(ModelCorrupt, match=message):
        run(both, mix, Blocks(), tmp_path, stems=stems)
