"""Measure and encode stems block by block, while the rest of the song is still being separated.

All stems of a job get one common gain, so that they still add up to the mix. It is known only at the end: files are
first encoded at unity gain, and encoded again from the float samples in scratch if a peak exceeds full scale or
`normalize` is set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import isfinite, log10
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import Cancelled, InvalidModelOutput
from engine.jobs.options import DISPLAY_ORDER, OutputFormat
from engine.jobs.results import StemContainer, StemInfo, db
from engine.media.encode import EncodedFile, StemEncoder
from engine.media.music_tags import add_music_tags
from engine.media.stem_file import EXTENSION, StemFileEncoder, read_parts
from engine.media.tags import stem_tags
from engine.media.waveform import Peaks, render_waveform
from engine.music.facts import Facts, find_facts
from engine.music.features import StemFeatures
from engine.quality.features import StemMeter
from engine.text import stem_filename
from engine.worker.music_files import music_tags

Block = NDArray[np.float32]
"""(2, samples)"""

NORMALIZED_PEAK = 10 ** (-1 / 20)
_MAX_PEAK = 0.9999
_BLOCK_SAMPLES = 1 << 18


class SupportsNumpy(Protocol):
    """A torch tensor, without an import of torch."""

    def numpy(self) -> Block: ...


@dataclass(frozen=True)
class TrackInfo:
    """Names and tags for the files of a job."""

    title: str
    model: str
    tags: Mapping[str, str]
    cover: bytes | None


class _Stem:
    """Write one stem in a thread: raw samples in scratch, measurements, and an encoded file at unity gain."""

    def __init__(self, name: str, raw_path: Path, samples: int, sample_rate: int, encoder: StemEncoder | None) -> None:
        self.name = name
        has_drums = name in ("drums", "instrumental")
        self.features = StemFeatures(sample_rate, has_drums=has_drums, is_pitched=name != "drums")
        self.raw_path = raw_path
        self.peaks = Peaks(samples)
        self.encoder = encoder
        self._raw = raw_path.open("wb")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"stem-{name}")
        self._measuring: Future[None] | None = None
        self._encoding: Future[None] | None = None

    def write(self, block: Block) -> None:
        """Queue a block after waiting for the previous one, so that at most two are in memory."""
        self.wait()
        self._measuring = self._thread.submit(self._measure, block)
        self._encoding = self._thread.submit(self._encode, block)

    def _measure(self, block: Block) -> None:
        self._raw.write(np.ascontiguousarray(block.T).data)
        self.peaks.add(block)
        self.features.add(block)

    def _encode(self, block: Block) -> None:
        if self.encoder is not None:
            self.encoder.write(block)

    def wait(self) -> None:
        """Wait until the last block is written and encoded."""
        for step in (self._measuring, self._encoding):
            if step is not None:
                step.result()

    def finish_raw(self) -> None:
        """Close the raw file after the last block, which may still be encoding."""
        if self._measuring is not None:
            self._measuring.result()
        self._raw.close()
        self.features.finish()

    def close(self) -> None:
        """Stop the thread; discard an unfinished file."""
        self._thread.shutdown(wait=True)
        if not self._raw.closed:
            self._raw.close()
        if self.encoder is not None:
            self.encoder.abort()


class StemWriter:
    """The sink of a separation.

    As a context manager it stops all threads and discards unfinished files on exit.
    """

    def __init__(
        self,
        scratch: Path,
        out: Path,
        *,
        stems: Sequence[str],
        read_mix: Callable[[int, int], Block],
        samples: int,
        sample_rate: int,
        output_format: OutputFormat,
        normalize: bool,
        rest: str | None,
        track: TrackInfo,
        scale: float,
        cancelled: Event,
    ) -> None:
        """Open a file for every stem.

        `read_mix(start, stop)` returns samples of the mix that the stems add up to. Separated samples are multiplied
        by `scale`. `rest`: the name of a further stem, the mix minus all that the caller writes.
        """
        self.samples = samples
        self._out = out
        self._read_mix = read_mix
        self._rate = sample_rate
        self._format = output_format.of_stems
        self._normalize = normalize
        self._rest = rest
        self._track = track
        self._scale = np.float32(scale)
        self._cancelled = cancelled
        self._mix_energy = 0.0
        self._residual_energy = 0.0
        names = [*stems, *([rest] if rest is not None else [])]
        self.meter = StemMeter(stems)
        self._stems = {
            name: _Stem(name, scratch / f"{name}.f32", samples, sample_rate, None if normalize else self._encoder(name))
            for name in names
        }
        self._paths: dict[str, Path] = {}
        self.facts = Facts()
        self.gain = 1.0
        self.clipped_samples = 0

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for stem in self._stems.values():
            stem.close()

    def _encoder(self, name: str) -> StemEncoder:
        track = self._track
        filename = stem_filename(track.title, name, track.model, self._format.value)
        tags = stem_tags(track.tags, title=track.title, stem=name, model=track.model)
        return StemEncoder(
            self._out / filename,
            format=self._format.value,
            sample_rate=self._rate,
            tags=tags,
            cover=track.cover,
        )

    def write(self, start: int, stems: Mapping[str, SupportsNumpy]) -> None:
        """Write the next final block of every stem, (2, n), at the model's level."""
        blocks = {name: block.numpy() * self._scale for name, block in stems.items()}
        length = next(iter(blocks.values())).shape[1]
        mix = self._read_mix(start, start + length)
        self.meter.add(mix, blocks)
        if self._rest is not None:
            blocks[self._rest] = mix - sum(blocks.values())
        rest = mix.astype(np.float64)
        for block in blocks.values():
            rest -= block
        self._mix_energy += _energy(mix)
        self._residual_energy += _energy(rest)
        if not isfinite(self._residual_energy):
            raise InvalidModelOutput
        for name, stem in self._stems.items():
            stem.write(blocks[name])

    def finish(self) -> None:
        """Compute measurements, musical facts and the common gain after the last block, which may still be encoding."""
        for stem in self._stems.values():
            stem.finish_raw()
        self.meter.finish()
        self.facts = find_facts({name: stem.features for name, stem in self._stems.items()}, self.samples / self._rate)
        peak = max(stem.peaks.peak for stem in self._stems.values())
        if self._normalize and peak > 0:
            self.gain = NORMALIZED_PEAK / peak
        elif peak > 1:
            self.gain = _MAX_PEAK / peak

    @property
    def has_rest(self) -> bool:
        """Whether one stem is the rest of the mix, so that they add up to it whatever the model does."""
        return self._rest is not None

    @property
    def residual_db(self) -> float | None:
        """Level of the mix minus all stems, relative to the mix."""
        if self._mix_energy <= 0 or self._residual_energy <= 0:
            return None
        return round(10 * float(np.log10(self._residual_energy / self._mix_energy)), 2)

    def encode(self, on_progress: Callable[[float], None]) -> dict[str, StemInfo]:
        """Finish all files in parallel, encoding again if a gain applies.

        `path` in the result is the file name.
        """
        encode_again = self._normalize or self.gain != 1.0
        stems = list(self._stems.values())
        done = 0
        infos: dict[str, StemInfo] = {}
        with ThreadPoolExecutor(len(stems), thread_name_prefix="encode") as threads:
            futures = {stem.name: threads.submit(self._encode_one, stem, encode_again) for stem in stems}
            for name, future in futures.items():
                encoded = future.result()
                self.clipped_samples += encoded.clipped_samples
                infos[name] = self._info(self._stems[name], encoded)
                done += 1
                on_progress(done / len(stems))
        return infos

    def _encode_one(self, stem: _Stem, encode_again: bool) -> EncodedFile:
        stem.wait()
        if encode_again:
            if stem.encoder is not None:
                stem.encoder.abort()
            stem.encoder = self._encoder(stem.name)
            with stem.raw_path.open("rb") as raw:
                while data := raw.read(_BLOCK_SAMPLES * 8):
                    if self._cancelled.is_set():
                        raise Cancelled
                    block = np.frombuffer(data, np.float32).reshape(-1, 2).T * np.float32(self.gain)
                    stem.encoder.write(np.ascontiguousarray(block))
        assert stem.encoder is not None
        encoded = self._with_music_tags(stem.encoder.close(), stem.encoder.path)
        self._paths[stem.name] = stem.encoder.path
        stem.encoder = None
        return encoded

    def _with_music_tags(self, encoded: EncodedFile, path: Path) -> EncodedFile:
        add_music_tags(path, **music_tags(self.facts))
        return replace(encoded, size_bytes=path.stat().st_size)

    def _info(self, stem: _Stem, encoded: EncodedFile) -> StemInfo:
        level_db, peak_db = db(stem.peaks.level * self.gain), db(stem.peaks.peak * self.gain)
        filename = self._paths[stem.name].name
        return StemInfo(
            filename=filename,
            path=filename,
            size=encoded.size_bytes,
            duration=encoded.samples / self._rate,
            format=self._format,
            sample_rate=self._rate,
            bitrate=encoded.bitrate,
            level_db=None if level_db is None else round(level_db, 2),
            peak_db=None if peak_db is None else round(peak_db, 2),
            silence_share=round(stem.peaks.silence_share, 4),
        )

    def write_stem_file(self, on_progress: Callable[[float], None]) -> StemContainer:
        """Write the mix and the stems to one file; call after `finish`. Raises `BadOptions`, `Cancelled`."""
        raw = {name: stem.raw_path for name, stem in self._stems.items()}
        track = self._track
        filename = f"{track.title} - {track.model}{EXTENSION}"
        tags = {**track.tags, "title": track.title}
        with StemFileEncoder(
            self._out / filename, sample_rate=self._rate, tags=tags, cover=track.cover, **music_tags(self.facts)
        ) as encoder:
            for start, stems in read_parts(raw, self.gain):
                if self._cancelled.is_set():
                    raise Cancelled
                mix = self._read_mix(start, start + stems["vocals"].shape[1])
                encoder.write(mix * np.float32(self.gain), stems)
                on_progress(start / self.samples)
        return StemContainer(filename=filename, path=filename, size=encoder.size_bytes)

    def write_pictures(self) -> tuple[Path, Path]:
        """Write the waveform picture and the player's peaks to the output folder; call after `finish`."""
        peaks = {name: self._stems[name].peaks for name in sorted(self._stems, key=DISPLAY_ORDER.index)}
        picture, data = self._out / "waveform.png", self._out / "peaks.json"
        render_waveform(peaks, picture, gain=self.gain)
        shapes = {name: shape.as_json(self.gain) for name, shape in peaks.items()}
        facts = {"duration_s": self.samples / self._rate, "model": self._track.model, "gain_db": 20 * log10(self.gain)}
        data.write_text(json.dumps({**facts, "stems": shapes}))
        return picture, data


def _energy(block: NDArray[np.floating[Any]]) -> float:
    return float(np.einsum("ij,ij->", block, block))  # np.vdot starts threads that busy-wait
