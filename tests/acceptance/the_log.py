"""What a bot's log says, read back: its events, whether jobs went forward only, and whether it gives anything away."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

_SIGNED = re.compile(r"[?&](?:s|sig|hm)=(?!…)[\w-]{6}")
_LIFE = re.compile(r"job [0-9a-f-]{36} (?:attempt \d+ )?(accepted|begins|is handed back|completed|failed)")
_ENDS = ("completed", "failed")


def events(log_path: Path) -> list[dict[str, Any]]:
    """Every line of a log in JSON lines, but for what is printed beside it."""
    return [json.loads(line) for line in log_path.read_text().splitlines() if line.startswith("{")]


def assert_gives_nothing_away(text: str, *secrets: str) -> None:
    """No token, no signed link; `secrets` are the tokens of this run."""
    for secret in secrets:
        assert secret not in text, next(line for line in text.splitlines() if secret in line)
    assert (found := _SIGNED.search(text)) is None, next(line for line in text.splitlines() if found[0] in line)


def assert_jobs_go_forward_only(log: list[dict[str, Any]]) -> dict[str, list[str]]:
    """No job has two ends, none goes on after its end, and its attempts only grow. Lines may be missing (the process
    was killed before it wrote them). Returns what happened to each job."""
    lives: dict[str, list[str]] = defaultdict(list)
    attempts: dict[str, int] = defaultdict(int)
    for event in log:
        assert "illegal" not in event["event"], event
        step = _LIFE.match(event["event"])
        if step is None:
            continue
        job, what, attempt = event["job"], step[1], event.get("attempt", 0)
        past = lives[job]
        if what != "accepted":  # may be told after the first attempt has begun
            assert not any(end in past for end in _ENDS), (event, past)
            assert attempt >= attempts[job], (event, past)
            attempts[job] = attempt
        past.append(what)
    return dict(lives)
