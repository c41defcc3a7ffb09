"""A signed link gives access to one thing until it expires, and cannot be changed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.errors import ConfigurationError
from engine.service.links import Kind, Links, load_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UNTIL = NOW + timedelta(days=90)
KEY = bytes(range(32))
LINKS = Links(KEY, "https://stems.example.org/")
FILE = "jobs/01a205da-ddc6-73d5-bd4d-7e472d7d968d/a1/Song (live) #1 – vocals 100%.mp3"
JOB = "01a205da-ddc6-73d5-bd4d-7e472d7d968d"
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


def parts(url: str) -> tuple[str, dict[str, str]]:
    """Return (decoded path, query) as a web server gets them."""
    split = urlsplit(url)
    return unquote(split.path), {name: values[0] for name, values in parse_qs(split.query).items()}


def test_link_is_valid_until_it_expires() -> None:
    for kind, subject, url, path in (
        ("file", FILE, LINKS.file(FILE, UNTIL), f"/files/{FILE}"),
        ("page", JOB, LINKS.page(JOB, UNTIL), f"/jobs/{JOB}"),
        ("zip", JOB, LINKS.zip(JOB, UNTIL), f"/api/jobs/{JOB}/stems.zip"),
    ):
        assert url.startswith("https://stems.example.org/") and "//" not in url[8:] and " " not in url
        found, query = parts(url)
        assert found == path
        assert LINKS.verify(kind, subject, query, NOW)  # type: ignore[arg-type]
        assert LINKS.verify(kind, subject, query, UNTIL - timedelta(seconds=1))  # type: ignore[arg-type]
        assert not LINKS.verify(kind, subject, query, UNTIL)  # type: ignore[arg-type]


@given(TEXT, st.sampled_from(get_args(Kind)), st.sampled_from(get_args(Kind)))
def test_signature_is_not_valid_for_other_kind(subject: str, kind: Kind, other: Kind) -> None:
    assume(kind != other)
    _, query = parts(getattr(LINKS, kind)(subject, UNTIL))
    assert LINKS.verify(kind, subject, query, NOW)
    assert not LINKS.verify(other, subject, query, NOW)


@given(TEXT, TEXT)
def test_signature_is_not_valid_for_other_file(subject: str, other: str) -> None:
    assume(subject != other)
    _, query = parts(LINKS.file(subject, UNTIL))
    assert not LINKS.verify("file", other, query, NOW)


@given(TEXT, st.integers(0, 10**12 - 1))
def test_expiry_cannot_be_changed(subject: str, expiry: int) -> None:
    _, query = parts(LINKS.file(subject, UNTIL))
    assume(str(expiry) != query["e"])
    assert not LINKS.verify("file", subject, query | {"e": str(expiry)}, NOW)


@given(st.text(max_size=20), st.text(max_size=60))
def test_garbage_is_refused_without_error(expiry: str, signature: str) -> None:
    assert not LINKS.verify("file", FILE, {"e": expiry, "s": signature}, NOW)
    _, query = parts(LINKS.file(FILE, UNTIL))
    assume(expiry != query["e"] and signature != query["s"])
    assert not LINKS.verify("file", FILE, query | {"e": expiry}, NOW)
    assert not LINKS.verify("file", FILE, query | {"s": signature}, NOW)


@given(st.integers(0, 42), st.integers(1, 255))
def test_changed_character_breaks_signature(index: int, by: int) -> None:
    _, query = parts(LINKS.file(FILE, UNTIL))
    good = query["s"]
    wrong = good[:index] + chr((ord(good[index]) + by) % 256) + good[index + 1 :]
    assert not LINKS.verify("file", FILE, query | {"s": wrong}, NOW)


def test_other_spellings_of_valid_link_are_refused() -> None:
    _, query = parts(LINKS.file(FILE, UNTIL))
    for expiry in (f"0{query['e']}", f"+{query['e']}", f" {query['e']}", f"{query['e']}.0", "٣" * 10, ""):
        assert not LINKS.verify("file", FILE, query | {"e": expiry}, NOW)
    for signature in (f"{query['s']}=", query["s"].swapcase(), query["s"][:-1], ""):
        assert not LINKS.verify("file", FILE, query | {"s": signature}, NOW)
    assert not LINKS.verify("file", FILE, {}, NOW)


def test_link_of_other_key_is_refused() -> None:
    _, query = parts(Links(bytes(32), "https://x").file(FILE, UNTIL))
    assert not LINKS.verify("file", FILE, query, NOW)
    with pytest.raises(ValueError, match="32 bytes"):
        Links(b"short", "https://x")


# The key file.


def test_key_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "links.key"
    old_mask = os.umask(0)
    try:
        key = load_key(path)
    finally:
        os.umask(old_mask)
    assert len(key) == 32 and load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [found.name for found in path.parent.iterdir()] == ["links.key"]
    assert load_key(tmp_path / "other.key") != key


def test_concurrent_processes_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "links.key"
    program = "import sys, pathlib, engine.service.links as l; print(l.load_key(pathlib.Path(sys.argv[1])).hex())"
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    keys = {child.communicate(timeout=60)[0] for child in children}
    assert len(keys) == 1 and all(child.returncode == 0 for child in children)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_damaged_key_stops_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "links.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="Delete it"):
        load_key(path)


def test_key_that_cannot_be_created_stops_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="permissions"):
        load_key(tmp_path / "file" / "links.key")
