"""A clock that jumps makes nothing old at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.clock import SteadyClock
from tests.fixtures.jobs import START, Clock

DAY = timedelta(days=1)


class Machine:
    """A clock on the wall, the time that really passes, and the file that outlives the process."""

    def __init__(self, folder: Path) -> None:
        self.wall, self.real_s, self._file = Clock(), 0.0, folder / "clock.json"
        self.steady = self.started()

    def started(self) -> SteadyClock:
        self.steady = SteadyClock(self._file, self.wall, lambda: self.real_s)
        return self.steady

    def passes(self, **span: float) -> None:
        self.wall.move(**span)
        self.real_s += timedelta(**span).total_seconds()

    def looks_hourly(self, hours: int) -> None:
        for _ in range(hours):
            self.passes(hours=1)
            self.steady()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has run for two days."""
    machine = Machine(tmp_path)
    machine.looks_hourly(48)
    assert machine.steady() == machine.wall()
    return machine


@pytest.mark.parametrize("restarts", [False, True])
def test_clock_years_ahead_expires_nothing(machine: Machine, restarts: bool) -> None:
    before = machine.wall()
    machine.wall.move(days=5000)
    if restarts:
        machine.started()
    assert machine.steady() == before
    machine.looks_hourly(20)
    machine.started()
    assert machine.steady() <= before, "a restart does not make it believe"
    machine.wall.move(days=-5000)
    machine.looks_hourly(3)
    assert machine.steady() < machine.wall(), "it has jumped again"
    machine.looks_hourly(24)
    assert machine.steady() == machine.wall()


def test_a_new_time_that_stays_for_a_day_is_believed(machine: Machine) -> None:
    machine.wall.move(days=100)
    machine.looks_hourly(23)
    assert machine.steady() < machine.wall() - 99 * DAY
    machine.looks_hourly(2)
    assert machine.steady() == machine.wall()


def test_a_weekend_without_the_bot_and_a_slept_night_are_no_jump(machine: Machine) -> None:
    machine.passes(days=3)
    machine.started()
    assert machine.steady() == machine.wall()
    machine.passes(hours=30)
    assert machine.steady() == machine.wall()


def test_what_is_not_known_yet_is_not_believed_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.steady() < START - 1000 * DAY, "a restored backup on a machine with a wrong clock"
    machine.looks_hourly(25)
    assert machine.steady() == machine.wall()


def test_a_damaged_note_is_no_note(machine: Machine, tmp_path: Path) -> None:
    for text in ("", "[]", '{"seen": "yesterday"}', '{"seen": "2026-11-23T12:00:00", "believed": 1, "doubt_until": 2}'):
        (tmp_path / "clock.json").write_text(text)
        assert machine.started()() < machine.wall()
