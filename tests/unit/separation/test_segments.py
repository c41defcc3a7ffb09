from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadOptions
from engine.separation.plan.segments import MemberShape, Plan, blend_window, make_plan

RATE = 100  # a shift is at most 50 samples


def plan_of(
    samples: int,
    *,
    segment: int = 40,
    window: int | None = None,
    shifts: int = 0,
    overlap: float = 0.25,
    seed: int = 0,
    members: int = 1,
    draws: int | None = None,
) -> Plan:
    shape = MemberShape(segment, (lambda _: window) if window else int, draws)
    return make_plan(
        samples,
        [shape] * members,
        range(members),
        sample_rate=RATE,
        shifts=shifts,
        overlap=overlap,
        rng=random.Random(seed),
    )


@given(
    samples=st.integers(1, 400),
    segment=st.integers(1, 60),
    shifts=st.integers(0, 3),
    overlap=st.floats(0, 0.9),
    seed=st.integers(0, 9),
)
def test_shares_add_up_to_one_at_every_sample(
    samples: int, segment: int, shifts: int, overlap: float, seed: int
) -> None:
    if int((1 - overlap) * segment) < 1:
        return
    plan = plan_of(samples, segment=segment, shifts=shifts, overlap=overlap, seed=seed)
    for number, stream in enumerate(plan.streams):
        total = np.zeros(samples - stream.start)
        for part in plan.segments:
            if part.stream == number:
                begin = part.start - stream.start
                total[begin : begin + part.samples] += blend_window(stream, part.index)[: part.samples]
        np.testing.assert_allclose(total, 1, atol=1e-6)


@given(samples=st.integers(1, 400), shifts=st.integers(0, 3), members=st.integers(1, 3))
def test_segments_are_in_order_of_time_and_reach_the_end(samples: int, shifts: int, members: int) -> None:
    plan = plan_of(samples, shifts=shifts, members=members)
    starts = [segment.start for segment in plan.segments]
    assert starts == sorted(starts)
    assert len(plan.streams) == members * max(1, shifts)
    for number in range(len(plan.streams)):
        last = [segment for segment in plan.segments if segment.stream == number][-1]
        assert last.start + last.samples == samples


def test_short_segment_has_a_wider_window() -> None:
    last = plan_of(100, segment=40, window=64).segments[-1]
    assert (last.start, last.samples, last.window_samples) == (90, 10, 64)
    assert last.trim == 27  # as in TensorChunk.padded: the smaller half before, the larger after
    assert last.window_start == 63


def test_shifts_equal_those_of_stock() -> None:
    plan = plan_of(1000, shifts=2, members=2, draws=1, seed=5)
    stock = random.Random(5)
    expected = []
    for _ in range(2):
        for _ in range(2):
            offset = stock.randint(0, 50)
            expected.append(offset - 50)
            for _ in range(0, 1000 + 50 - offset, 30):
                stock.randrange(1)
    assert [stream.start for stream in plan.streams] == expected


def test_unwanted_members_draw_shifts_too() -> None:
    shape = MemberShape(40, int, 1)
    both = plan_of(500, shifts=1, members=2, draws=1, seed=3)
    one = make_plan(500, [shape] * 2, [1], sample_rate=RATE, shifts=1, overlap=0.25, rng=random.Random(3))
    assert [stream.start for stream in one.streams] == [both.streams[1].start]
    assert {segment.member for segment in one.segments} == {1}


@pytest.mark.parametrize(
    ("samples", "segment", "overlap", "shifts"),
    [(0, 40, 0.25, 0), (10, 40, 1.0, 0), (10, 40, 0.999, 0), (10, 40, 0.25, -1)],
)
def test_impossible_plans_are_rejected(samples: int, segment: int, overlap: float, shifts: int) -> None:
    with pytest.raises(BadOptions):
        plan_of(samples, segment=segment, overlap=overlap, shifts=shifts)
