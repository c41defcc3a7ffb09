"""What the documents promise to be tested is tested under that name, and what they quote is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEMS = ("drums", "bass", "other", "vocals", "mean")


def test_every_test_that_the_table_of_faults_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text()))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", written))
    assert len(named) > 40 and named - there == set()


def test_documents_quote_measured_scores() -> None:
    embedded = ROOT / "engine" / "separation" / "embedded"
    measured = json.loads((embedded / "scores.json").read_text())
    rows = {
        key: [f"| {way} | " + " | ".join(_rounded(row.get(stem)) for stem in STEMS) + " |" for way, row in ways.items()]
        for key, ways in measured.items()
    }
    assert list(rows) == ["held_out", "training", "demo", "real"]
    card = (embedded / "MODEL_CARD.md").read_text()
    assert all("\n".join(table) in card for table in rows.values())


def test_private_parts_were_checked_in_the_pinned_versions() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Private parts of libraries")[2]
    checked = set(re.findall(r"^\| ([\w.]+) (\d[\w.]*) \|", page, re.MULTILINE))
    pinned = set(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert len(checked) >= 6 and checked - pinned == set()


def _rounded(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
