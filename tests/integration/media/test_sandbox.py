"""The child that reads untrusted files: its limits, how it ends, and what it cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import (
    BrokenAudio,
    Cancelled,
    DecodingTooExpensive,
)
from engine.media.limits import MediaLimits
from engine.media.sandbox import _environment, decode_in_sandbox, probe_in_sandbox, run_child
from tests.fixtures.songs import cover_jpeg, make_song, silence

LIMITS = MediaLimits(max_duration_s=10)
HOURS = MediaLimits(max_duration_s=36_000)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sparse file that takes seconds to decode: hours of silence at an unusual sample rate."""
    path = tmp_path_factory.mktemp("heavy") / "heavy.wav"
    make_song(path, samples=silence(1, sample_rate=8001, channels=1), sample_rate=8001, codec="pcm_u8")
    head = path.read_bytes()
    at = head.index(b"data") + 4
    path.write_bytes(head[:at] + struct.pack("<I", 40 << 20))
    os.truncate(path, at + 4 + (40 << 20))
    return path


def test_child_reports_progress_and_samples(tmp_path: Path) -> None:
    mix = make_song(tmp_path / "song.flac", seconds=3, cover=True, tags={"title": "Sunny"})
    seen: list[float] = []
    facts = decode_in_sandbox(tmp_path / "song.flac", tmp_path / "raw", limits=LIMITS, on_progress=seen.append)
    actual = np.fromfile(tmp_path / "raw", "<f4").reshape(-1, 2).T
    assert actual.shape == mix.shape
    assert np.abs(actual - mix).max() < 1e-4
    assert facts.cover == cover_jpeg()
    assert facts.tags == {"title": "Sunny"}
    assert seen


@contextlib.contextmanager
def no_child_left() -> Iterator[None]:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = children()
    yield
    assert children() <= before


def test_cancel_event_kills_child(tmp_path: Path, heavy: Path) -> None:
    cancelled = threading.Event()
    with no_child_left(), pytest.raises(Cancelled):
        decode_in_sandbox(
            heavy,
            tmp_path / "raw",
            limits=HOURS,
            cancelled=cancelled,
            on_progress=lambda fraction: cancelled.set(),
        )


async def test_cancelled_task_kills_child(heavy: Path) -> None:
    work = asyncio.create_task(probe_in_sandbox(heavy, HOURS))
    while not media_children(os.getpid()):
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not media_children(os.getpid())


def media_children(parent_pid: int) -> list[int]:
    pids = []
    for children in Path(f"/proc/{parent_pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in children.read_text().split() if _is_media_child(int(pid))]
    return pids


def _is_media_child(pid: int) -> bool:
    """Return True if the process runs; a zombie has no command line."""
    try:
        return b"engine.media.sandbox_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_child_past_deadline_is_killed(heavy: Path) -> None:
    with no_child_left(), pytest.raises(DecodingTooExpensive) as refusal:
        run_child("probe", heavy, None, replace(HOURS, timeout_s=0.3))
    assert "takes too long to decode" in refusal.value.message


def test_slow_header_is_refused_after_a_fifth_of_the_time(tmp_path: Path) -> None:
    """Search millions of places that look like tags."""
    (tmp_path / "song.m4a").write_bytes(struct.pack(">I4s4s", 12, b"ftyp", b"M4A ") + b"udta" * (2 << 20))
    with no_child_left(), pytest.raises(DecodingTooExpensive) as refusal:
        run_child("probe", tmp_path / "song.m4a", None, replace(LIMITS, timeout_s=5))
    assert f"ended with {-signal.SIGPROF}" in (refusal.value.detail or "")


def test_child_out_of_memory_is_refusal(tmp_path: Path) -> None:
    """Decoding needs more than 24 MB."""
    make_song(tmp_path / "song.flac", seconds=2)
    with no_child_left(), pytest.raises(DecodingTooExpensive):
        run_child("probe", tmp_path / "song.flac", None, replace(MediaLimits(), memory_bytes=24 << 20))


def test_decoder_crash_is_broken_audio(heavy: Path, tmp_path: Path) -> None:
    def crash() -> None:
        for _ in range(1000):
            pids = media_children(os.getpid())
            if pids:
                time.sleep(0.3)  # until the interpreter runs
                os.kill(pids[0], signal.SIGSEGV)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=crash)
    killer.start()
    with pytest.raises(BrokenAudio, match="crashes the decoder"):
        decode_in_sandbox(heavy, tmp_path / "raw", limits=HOURS)
    killer.join()


def test_suspended_machine_does_not_expire_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    clock, looks = time.monotonic, iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: clock() + (1000 if next(looks) > 3 else 0))
    assert decode_in_sandbox(tmp_path / "song.wav", tmp_path / "raw", limits=LIMITS).samples == 44100


@pytest.mark.parametrize("stopped", [False, True])
def test_child_dies_when_its_parent_is_killed(heavy: Path, tmp_path: Path, stopped: bool) -> None:
    program = (
        "from pathlib import Path; import sys\n"
        "from engine.media.sandbox import decode_in_sandbox\n"
        "from engine.media.limits import MediaLimits\n"
        "limits = MediaLimits(max_duration_s=36_000, timeout_s=600)\n"
        "def report(fraction): print(flush=True)\n"
        "decode_in_sandbox(Path(sys.argv[1]), Path(sys.argv[2]), limits=limits, on_progress=report)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(heavy), str(tmp_path / "raw")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    parent.stdout.readline()  # decoding has started
    (child,) = media_children(parent.pid)
    if stopped:
        os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _is_media_child(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child survived its parent")


def test_child_environment_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_DISCORD__TOKEN", "secret")
    monkeypatch.setenv("https_proxy", "http://proxy")
    assert not {"STEMIFY_DISCORD__TOKEN", "https_proxy"} & _environment().keys()
    assert "secret" not in " ".join(_environment().values())


async def test_many_concurrent_probes_all_succeed(tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=1)
    tight = replace(LIMITS, timeout_s=20)
    results = await asyncio.gather(*(probe_in_sandbox(tmp_path / "song.mp3", tight) for _ in range(8)))
    assert {result.samples for result in results} == {44100}


FUZZ = """
from pathlib import Path
import sys
from tests.fuzz_media import run, search
count = int(sys.argv[3])
counts, bad = run(Path(sys.argv[1]), count, 11) if sys.argv[2] == "mutated" else (search(Path(sys.argv[1]), count), [])
print(counts)
sys.exit("\\n".join(bad) or 0)
"""


@pytest.mark.parametrize(
    ("by", "count"),
    [
        ("mutated", 100),
        ("hypothesis", 50),
        pytest.param("mutated", 20_000, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]),
        pytest.param("hypothesis", 1000, marks=[pytest.mark.nightly, pytest.mark.timeout(1200)]),
    ],
)
def test_damaged_files_neither_crash_nor_hang(tmp_path: Path, by: str, count: int) -> None:
    """Fork from a process without threads, once per damaged file."""
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path), by, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110 if count < 1000 else 7000,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'read'" in done.stdout
    assert "'BrokenAudio'" in done.stdout
