"""Fixtures and settings for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# Several test processes share the cores, where waiting OpenMP threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# At low priority, mixes would wait for the tests in the other processes.
os.environ.setdefault("STEMIFY_MIXES__NICENESS", "0")

# Tests submit the same song many times; tests of repeats switch this on.
os.environ.setdefault("STEMIFY_RETENTION__REUSE_RESULTS", "false")

# Each server would separate it; its own test switches it on.
os.environ.setdefault("STEMIFY_WEB__SAMPLE", "false")


@pytest.fixture(autouse=True)
def restore_root_logger() -> Iterator[None]:
    """Restore the root logger after a test that configured it."""
    level, handlers = logging.root.level, logging.root.handlers[:]
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how to get Chromium if tests were skipped without it."""
    for report in terminalreporter.stats.get("skipped", []):
        _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
        if "apt-get install chromium" in reason:
            terminalreporter.write_line(f"The tests of the page were skipped: {reason}", yellow=True)
            return
