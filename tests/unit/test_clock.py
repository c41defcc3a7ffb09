"""A clock jump does not age files at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.clock import SteadyClock
from tests.fixtures.jobs import START, Clock

DAY = timedelta(days=1)


class Machine:
    """A wall clock, the time that really passes, and the saved clock state."""

    def __init__(self, folder: Path) -> None:
        self.wall, self.real_s, self._file = Clock(), 0.0, folder / "clock.json"
        self.steady = self.restart()

    def restart(self) -> SteadyClock:
        self.steady = SteadyClock(self._file, self.wall, lambda: self.real_s)
        return self.steady

    def pass_time(self, **span: float) -> None:
        self.wall.move(**span)
        self.real_s += timedelta(**span).total_seconds()

    def check_hourly(self, hours: int) -> None:
        for _ in range(hours):
            self.pass_time(hours=1)
            self.steady()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine that has run for two days."""
    machine = Machine(tmp_path)
    machine.check_hourly(48)
    assert machine.steady() == machine.wall()
    return machine


@pytest.mark.parametrize("restarts", [False, True])
def test_clock_years_ahead_expires_nothing(machine: Machine, restarts: bool) -> None:
    before = machine.wall()
    machine.wall.move(days=5000)
    if restarts:
        machine.restart()
    assert machine.steady() == before
    machine.check_hourly(20)
    machine.restart()
    assert machine.steady() <= before, "a restart does not end the doubt"
    machine.wall.move(days=-5000)
    machine.check_hourly(3)
    assert machine.steady() < machine.wall(), "that is a second jump"
    machine.check_hourly(24)
    assert machine.steady() == machine.wall()


def test_new_time_is_accepted_after_a_day(machine: Machine) -> None:
    machine.wall.move(days=100)
    machine.check_hourly(23)
    assert machine.steady() < machine.wall() - 99 * DAY
    machine.check_hourly(2)
    assert machine.steady() == machine.wall()


def test_time_off_or_suspended_is_not_a_jump(machine: Machine) -> None:
    machine.pass_time(days=3)
    machine.restart()
    assert machine.steady() == machine.wall()
    machine.pass_time(hours=30)
    assert machine.steady() == machine.wall()


def test_first_start_expires_nothing_for_a_day(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.steady() < START - 1000 * DAY, "a restored backup on a machine with a wrong clock"
    machine.check_hourly(25)
    assert machine.steady() == machine.wall()


def test_damaged_state_counts_as_first_start(machine: Machine, tmp_path: Path) -> None:
    for text in ("", "[]", '{"seen": "yesterday"}', '{"seen": "2026-11-23T12:00:00", "believed": 1, "doubt_until": 2}'):
        (tmp_path / "clock.json").write_text(text)
        assert machine.restart()() < machine.wall()
