"""Encode a stem file of Native Instruments (`.stem.m4a`): the mix and four stems as tracks of one MP4 file.

Players play the mix; DJ software such as Traktor and Mixxx mixes the stems. All tracks are AAC at a constant 256 kbit/s
and have the same encoder delay, so they stay aligned. The stems add up to the mix, so the compressor and limiter that
the format provides for are disabled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition

from engine.errors import BadOptions
from engine.media.encode import encoder_errors, start_output
from engine.media.mp4_boxes import finish_stem_file
from engine.media.samples import Samples

EXTENSION = ".stem.m4a"
PARTS: Mapping[str, tuple[str, ...]] = {
    "drums": ("drums",),
    "bass": ("bass",),
    "other": ("other", "guitar", "piano"),
    "vocals": ("vocals",),
}
"""The four stems of the file, in order, and the stems of a model that each contains."""

_BLOCK_SAMPLES = 1 << 18
_BIT_RATE = 256_000  # of each track
_FRAME_SAMPLES = 1 << 14
_COLOURS = {"drums": "#009E73", "bass": "#D55E00", "other": "#CC79A7", "vocals": "#56B4E9"}
_COMPRESSOR = {
    "enabled": False, "input_gain": 0.5, "output_gain": 0.5, "threshold": 0, "dry_wet": 50, "attack": 0.003,
    "release": 0.3, "ratio": 3, "hp_cutoff": 300,
}  # fmt: skip
_LIMITER = {"enabled": False, "threshold": 0, "ceiling": -0.35, "release": 0.05}


def stem_metadata() -> bytes:
    """Return the JSON of the `stem` box."""
    stems = [{"name": name.capitalize(), "color": _COLOURS[name]} for name in PARTS]
    mastering = {"compressor": _COMPRESSOR, "limiter": _LIMITER}
    return json.dumps({"version": 1, "mastering_dsp": mastering, "stems": stems}).encode()


def read_parts(raw: Mapping[str, Path], gain: float) -> Iterator[tuple[int, dict[str, Samples]]]:
    """Yield the start and the samples of each block of `PARTS`, times `gain`, from raw files of a model's stems.

    Raises `BadOptions` if the model has other stems.
    """
    if any(name not in raw for name in PARTS):
        raise BadOptions("A stem file needs vocals, drums, bass and other. Choose another model or format.")
    start = 0
    with contextlib.ExitStack() as opened:
        files = {name: opened.enter_context(path.open("rb")) for name, path in raw.items()}
        while True:
            blocks = {
                name: np.frombuffer(file.read(_BLOCK_SAMPLES * 8), np.float32).reshape(-1, 2).T
                for name, file in files.items()
            }
            length = blocks["vocals"].shape[1]
            if not length:
                return
            yield (
                start,
                {
                    part: np.float32(gain) * np.sum([blocks[name] for name in names if name in blocks], axis=0)
                    for part, names in PARTS.items()
                },
            )
            start += length


class StemFileEncoder:
    """Write one stem file, which appears under its name at `close`. Raises `DiskFull` and `StorageFailed`."""

    def __init__(
        self,
        path: Path,
        *,
        sample_rate: int,
        tags: Mapping[str, str],
        cover: bytes | None = None,
        tempo_bpm: float | None = None,
        key: str | None = None,
    ) -> None:
        """Open the file. `key`: its short name, such as "F#m"."""
        self.size_bytes = 0
        """Size of the file after `close`."""
        self._path = path
        self._sample_rate = sample_rate
        self._samples = 0
        self._key = key
        self._partial = path.with_name(f".{path.name}.part")
        self._threads = ThreadPoolExecutor(1 + len(PARTS), thread_name_prefix="stem-file")
        with encoder_errors():
            # The default time scale would round edit lists to milliseconds.
            options = {"brand": "M4A ", "movie_timescale": str(sample_rate)}
            self._output = av.open(str(self._partial), "w", format="mp4", container_options=options)
            self._output.metadata.update(tags)
            if tempo_bpm is not None:
                self._output.metadata["tmpo"] = f"{tempo_bpm:.0f}"
            self._streams = [self._add_stream(name) for name in ("mix", *PARTS)]
            start_output(self._output, cover)

    def __enter__(self) -> StemFileEncoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, mix: Samples, stems: Mapping[str, Samples]) -> None:
        """Append a block of the mix and of each of `PARTS`, all (2, samples)."""
        tracks = [mix, *(stems[name] for name in PARTS)]
        with encoder_errors():
            for start in range(0, mix.shape[1], _FRAME_SAMPLES):
                self._encode([track[:, start : start + _FRAME_SAMPLES] for track in tracks])

    def close(self) -> None:
        """Finish the file and move it to its name."""
        try:
            with encoder_errors():
                for stream in self._streams:
                    self._output.mux(stream.encode(None))
                self._output.close()
                finish_stem_file(self._partial, stem_metadata(), key=self._key)
                self.size_bytes = self._partial.stat().st_size
                self._partial.replace(self._path)
        except BaseException:
            self.abort()
            raise
        self._threads.shutdown()

    def abort(self) -> None:
        """Stop and delete the unfinished file."""
        self._threads.shutdown()
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._output.close()
        self._partial.unlink(missing_ok=True)

    def _add_stream(self, name: str) -> AudioStream:
        stream = self._output.add_stream("aac", rate=self._sample_rate)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "stereo"
        stream.codec_context.thread_count = 1
        stream.bit_rate = _BIT_RATE
        stream.disposition = Disposition.default if name == "mix" else Disposition(0)
        stream.metadata["title"] = name.capitalize()
        return stream

    def _encode(self, tracks: Sequence[Samples]) -> None:
        """Encode a frame of every track in parallel; FFmpeg releases the interpreter lock."""
        for packets in self._threads.map(self._encode_track, self._streams, tracks):
            self._output.mux(packets)
        self._samples += tracks[0].shape[1]

    def _encode_track(self, stream: AudioStream, samples: Samples) -> list[av.Packet[Any]]:
        block = np.ascontiguousarray(samples, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate = self._sample_rate
        frame.pts = self._samples
        frame.time_base = Fraction(1, self._sample_rate)
        return list(stream.encode(frame))
