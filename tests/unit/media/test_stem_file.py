"""Stem files, read as Mixxx 2.6 does (`steminfoimporter.cpp`, `soundsourcestem.cpp`)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import av
import mutagen
import numpy as np
import pytest
from av.stream import Disposition

from engine.errors import BadOptions
from engine.media.mp4_boxes import boxes
from engine.media.samples import Samples
from engine.media.stem_file import PARTS, StemFileEncoder, read_parts
from tests.fixtures.songs import cover_jpeg, tune
from tests.fixtures.stem_files import error_db, tracks

RATE = 44100
CLICK_AT = 30_011


def write(path: Path, stems: dict[str, Samples], cover: bytes | None = None) -> Samples:
    mix: Samples = np.sum(list(stems.values()), axis=0, dtype=np.float32)
    with StemFileEncoder(path, sample_rate=RATE, tags={"title": "Sunny", "artist": "Ann"}, cover=cover) as encoder:
        for start in range(0, mix.shape[1], 50_000):
            part = slice(start, start + 50_000)
            encoder.write(mix[:, part], {name: stem[:, part] for name, stem in stems.items()})
    return mix


def children(data: bytes, kind: bytes, start: int, end: int) -> list[tuple[int, int]]:
    return [(content, last) for each, _, content, last in boxes(data, start, end) if each == kind]


def stem_info(data: bytes) -> dict[str, Any]:
    """Walk to moov/udta/stem and parse its JSON."""
    ((moov_start, moov_end),) = children(data, b"moov", 0, len(data))
    ((udta_start, udta_end),) = children(data, b"udta", moov_start, moov_end)
    ((start, end),) = children(data, b"stem", udta_start, udta_end)
    info: dict[str, Any] = json.loads(data[start:end])
    return info


@pytest.mark.parametrize("cover", [None, cover_jpeg()], ids=["no cover", "cover"])
def test_stem_file_is_accepted_by_rules_of_mixxx(tmp_path: Path, cover: bytes | None) -> None:
    path = tmp_path / "song.stem.m4a"
    write(path, {name: tune(3, seed=at) * np.float32(0.2) for at, name in enumerate(PARTS)}, cover)
    info = stem_info(path.read_bytes())
    assert info["version"] == 1
    assert [stem["name"] for stem in info["stems"]] == ["Drums", "Bass", "Other", "Vocals"]
    assert all(stem["color"].startswith("#") for stem in info["stems"])
    assert not any(part["enabled"] for part in info["mastering_dsp"].values())
    with av.open(path) as container:
        streams = container.streams.audio
        assert [stream.codec_context.name for stream in streams] == ["aac"] * 5
        assert {(stream.sample_rate, stream.codec_context.layout.name) for stream in streams} == {(RATE, "stereo")}
        assert [bool(stream.disposition & Disposition.default) for stream in streams] == [True, *[False] * 4]
        assert container.metadata["title"] == "Sunny" and container.metadata["artist"] == "Ann"
        assert len(container.streams.video) == (cover is not None)


def test_boxes_of_stem_file_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "song.stem.m4a"
    write(path, {name: tune(3, seed=at) * np.float32(0.2) for at, name in enumerate(PARTS)})
    data = path.read_bytes()
    assert data[8:12] == b"M4A "
    ((mdat_start, mdat_end),) = children(data, b"mdat", 0, len(data))
    ((moov_start, moov_end),) = children(data, b"moov", 0, len(data))
    assert moov_end == len(data)
    flags, durations, groups = [], [], []
    for start, end in children(data, b"trak", moov_start, moov_end):
        ((head, _),) = children(data, b"tkhd", start, end)
        flags.append(int.from_bytes(data[head + 1 : head + 4], "big"))
        groups.append(struct.unpack_from(">H", data, head + (46 if data[head] else 34))[0])
        ((mdia, mdia_end),) = children(data, b"mdia", start, end)
        ((mdhd, _),) = children(data, b"mdhd", mdia, mdia_end)
        durations.append(struct.unpack_from(">I", data, mdhd + 16)[0])
        ((minf, minf_end),) = children(data, b"minf", mdia, mdia_end)
        ((stbl, stbl_end),) = children(data, b"stbl", minf, minf_end)
        ((stco, _),) = children(data, b"stco", stbl, stbl_end)
        (count,) = struct.unpack_from(">I", data, stco + 4)
        offsets = struct.unpack_from(f">{count}I", data, stco + 8)
        assert all(mdat_start <= offset < mdat_end for offset in offsets)
    assert flags == [1, 0, 0, 0, 0] and groups == [0] * 5
    assert len(set(durations)) == 1


def test_tempo_and_key_are_in_the_tags(tmp_path: Path) -> None:
    path = tmp_path / "song.stem.m4a"
    stems = {name: tune(1, seed=at) * np.float32(0.2) for at, name in enumerate(PARTS)}
    tags = {"title": "Sunny"}
    with StemFileEncoder(path, sample_rate=RATE, tags=tags, cover=cover_jpeg(), tempo_bpm=123.6, key="F#m") as encoder:
        encoder.write(np.sum(list(stems.values()), axis=0, dtype=np.float32), stems)
    found = mutagen.File(path)
    assert found is not None
    assert found["\xa9nam"] == ["Sunny"] and found["tmpo"] == [124]
    assert found["----:com.apple.iTunes:initialkey"] == [b"F#m"]
    assert stem_info(path.read_bytes())["version"] == 1
    with av.open(path) as container:
        assert sum(frame.samples for frame in container.decode(audio=4)) >= RATE


def test_tracks_are_aligned_and_add_up_to_the_mix(tmp_path: Path) -> None:
    path = tmp_path / "song.stem.m4a"
    stems = {name: tune(3, seed=at) * np.float32(0.2) for at, name in enumerate(PARTS)}
    mix = write(path, stems)
    found = tracks(path)
    length = mix.shape[1]
    assert all(length <= track.shape[1] < length + 1024 for track in found)
    for track, truth in zip(found, [mix, *stems.values()], strict=True):
        assert error_db(track[:, :length], truth) < -20
    assert error_db(np.sum(found[1:], axis=0)[:, :length], mix) < -20


def test_click_is_at_its_place_in_every_track(tmp_path: Path) -> None:
    stems = {name: np.zeros((2, RATE), np.float32) for name in PARTS}
    for stem in stems.values():
        stem[:, CLICK_AT] = 0.2
    write(tmp_path / "click.stem.m4a", stems)
    for track in tracks(tmp_path / "click.stem.m4a"):
        assert np.argmax(np.abs(track[0])) == CLICK_AT


def test_six_stems_are_folded_into_four(tmp_path: Path) -> None:
    names = ("drums", "bass", "other", "vocals", "guitar", "piano")
    samples = {name: np.full((2, 300_000), 2.0**-at, np.float32) for at, name in enumerate(names)}
    for name, stem in samples.items():
        (tmp_path / name).write_bytes(np.ascontiguousarray(stem.T).tobytes())
    blocks = list(read_parts({name: tmp_path / name for name in names}, gain=0.5))
    assert [start for start, _ in blocks] == [0, 262_144]
    assert {part: float(block[0, 0]) for part, block in blocks[1][1].items()} == {
        "drums": 0.5, "bass": 0.25, "other": (2**-2 + 2**-4 + 2**-5) / 2, "vocals": 2**-4
    }  # fmt: skip
    with pytest.raises(BadOptions, match="needs vocals, drums, bass and other"):
        next(read_parts({"vocals": tmp_path / "vocals", "instrumental": tmp_path / "drums"}, gain=1))
