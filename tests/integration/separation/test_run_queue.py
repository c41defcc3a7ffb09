"""Which run the device serves next."""

from __future__ import annotations

from dataclasses import replace

import torch

from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.run_queue import RunQueue
from engine.separation.schedule.song_run import SongRun
from tests.fixtures.echo_network import SEGMENT_S, STEMS, Echo
from tests.fixtures.tiny_roformers import tiny_roformer


def test_costly_windows_are_served_less_often() -> None:
    cheap = LoadedModel.of(Echo())
    costly = replace(cheap, window_cost=7.0)
    queue, runs = RunQueue(), []
    for model in (cheap, costly):
        run = SongRun(model, 5000, stems=STEMS, shifts=0, overlap=0.0, segment_s=SEGMENT_S, seed=1)
        queue.add(run)
        for segment in run.plan.segments:
            queue.add_window(run, segment, torch.zeros(2, segment.window_samples))
        runs.append(run)
    for _ in range(40):
        queue.next_batch(lambda _: 1, in_pairs=False)
    assert 4 <= runs[1].taken <= 7 and runs[0].taken + runs[1].taken == 40


def test_windows_of_a_roformer_count_as_costly() -> None:
    assert LoadedModel.of(tiny_roformer()).window_cost == 7 and LoadedModel.of(Echo()).window_cost == 1
