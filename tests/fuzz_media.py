"""Fuzz the decoder with mutated files of every container and codec, each read in a forked process.

    python -m tests.fuzz_media --count 20000 --seed 7

prints the outcomes and fails if a file crashed the decoder, raised an unexpected error, hung, or used too much memory;
such a file is kept. `make test` runs 100, and 50 that hypothesis makes; `make test-nightly` runs 20,000.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av.logging
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputRefused
from engine.media.decoder import read_audio
from tests.fixtures.songs import make_song

LONGEST_CPU_S = 10
ADDRESS_SPACE_BYTES = 1024 * 1024 * 1024  # the child's limit; a few bytes of mp4 can request gigabytes of index

KINDS: dict[str, dict[str, Any]] = {
    "cover.mp3": {"cover": True, "tags": {"title": "t"}},
    "plain.mp3": {"container_options": {"write_xing": "0"}},
    "aac.m4a": {},
    "cover.m4a": {"cover": True},
    "alac.m4a": {"codec": "alac"},
    "fast.m4a": {"container_options": {"movflags": "+faststart"}},
    "fragments.m4a": {"container_options": {"movflags": "+frag_keyframe+empty_moov"}},
    "cover.flac": {"cover": True},
    "24.flac": {"bits": "24"},
    "16.wav": {},
    "float.wav": {"bits": "f32"},
    "surround.wav": {"channels": 6},
    "vorbis.ogg": {},
    "opus.opus": {"sample_rate": 48000},
    "opus.webm": {"sample_rate": 48000},
    "flac.mkv": {},
    "video.mp4": {"video": True},
    "video.webm": {"video": True, "sample_rate": 48000},
    "adts.aac": {"container": "adts", "codec": "aac"},
    "pcm.aiff": {"container": "aiff", "codec": "pcm_s16be"},
    "pcm.caf": {"container": "caf", "codec": "pcm_s16be"},
    "pcm.w64": {"container": "w64", "codec": "pcm_s16le"},
}
_NUMBERS = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01", b"\xff\xff\xff\x7f")


def originals(folder: Path) -> dict[str, bytes]:
    """Return one short file of each kind."""
    songs = {}
    for name, choices in KINDS.items():
        make_song(folder / name, seconds=0.7, **choices)
        songs[name] = (folder / name).read_bytes()
    return songs


def mutated(songs: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, bytes) of `count` damaged files, the same for the same seed."""
    rng = random.Random(seed)
    kinds = list(songs)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        data = bytearray(songs[kind])
        for _ in range(rng.choice((1, 1, 2, 3))):
            if len(data) < 16:
                break
            _mutate(data, rng, songs[rng.choice(kinds)])
        yield kind, bytes(data)


def _mutate(data: bytearray, rng: random.Random, other: bytes) -> None:
    size = len(data)
    at = rng.randrange(size - 8)
    head = rng.randrange(min(size - 8, 1500))
    end = min(size, at + rng.randint(1, 2000))
    match rng.randrange(8):
        case 0:
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(size)] = rng.randrange(256)
        case 1:
            for _ in range(rng.randint(1, 10)):
                data[rng.randrange(min(size, 600))] = rng.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at:end]
        case 4:
            data[at:at] = data[at:end]
        case 5:
            data[at : at + 4] = rng.choice(_NUMBERS)
        case 6:
            data[head : head + 4] = rng.choice(_NUMBERS)
        case _:
            begin = rng.randrange(len(other))
            data[at : rng.randrange(at, size)] = other[begin : begin + rng.randint(1, 4000)]


def outcome(path: Path) -> tuple[str, str]:
    """Read one file in this process; return ("read", …), the name of a refusal, or "escaped" and the error."""
    try:
        audio = read_audio(path, max_bytes=50 * 1024 * 1024, max_duration_s=60, sink=lambda block: None)
    except InputRefused as error:
        return type(error).__name__, error.detail or ""
    except BaseException as error:  # anything else is a bug
        return "escaped", repr(error)[:500]
    return "read", f"{audio.samples / audio.out_sample_rate:.2f}"


def outcome_in_fork(path: Path) -> tuple[str, str]:
    """Read one file in a forked process with the child's limits; also returns "crashed" and "slow"."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (2 * LONGEST_CPU_S, 2 * LONGEST_CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(writer, json.dumps(outcome(path)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read()
    _, status, used = os.wait4(pid, 0)
    if status or not report:
        return "crashed", f"status {status}"
    if used.ru_utime + used.ru_stime > LONGEST_CPU_S:
        return "slow", f"{used.ru_utime + used.ru_stime:.1f} s"
    kind, detail = json.loads(report)
    return str(kind), str(detail)


BAD = frozenset({"crashed", "slow", "escaped"})


def run(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Read `count` mutated files; return the number of each outcome, and a line for each bad one."""
    av.logging.set_level(None)
    counts: Counter[str] = Counter()
    bad = []
    path = folder / "song"
    for number, (kind, data) in enumerate(mutated(originals(folder), count, seed)):
        path.write_bytes(data)
        outcome_name, detail = outcome_in_fork(path)
        counts[outcome_name] += 1
        if outcome_name in BAD:
            kept = folder / f"{outcome_name}-{seed}-{number}-{kind}"
            kept.write_bytes(data)
            bad.append(f"{kept}: {detail}")
    return counts, bad


EDITS = st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=48), st.booleans()), max_size=6)
"""Position, bytes, and whether they are inserted or overwrite."""


def search(folder: Path, count: int) -> Counter[str]:
    """Search with hypothesis, which reduces a failure to its smallest edit.

    Raises if one of `count` files is neither read nor refused.
    """
    av.logging.set_level(None)
    songs, counts = originals(folder), Counter[str]()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(kind=st.sampled_from(sorted(songs)), head_bytes=st.integers(0, 4000), edits=EDITS)
    def is_read_or_refused(kind: str, head_bytes: int, edits: list[tuple[int, bytes, bool]]) -> None:
        data = bytearray(songs[kind] if edits else songs[kind][:head_bytes])
        for at, new, is_insertion in edits:
            data[at : at if is_insertion else at + len(new)] = new
        (folder / "song").write_bytes(data)
        outcome_name, detail = outcome_in_fork(folder / "song")
        counts[outcome_name] += 1
        assert outcome_name not in BAD, (outcome_name, detail)

    is_read_or_refused()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-media-"))
    counts, bad = run(folder, options.count, options.seed)
    print(json.dumps({"seed": options.seed, "folder": str(folder), "outcomes": counts, "bad": bad}, indent=1))
    sys.exit(1 if bad or not counts["read"] else 0)


if __name__ == "__main__":
    main()
