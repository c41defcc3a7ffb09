"""An attempt that compares models: the same excerpt of a song, separated with each of them.

The models have labels in random order, and each stem is equally loud from all of them, so that a listener can choose
without knowing which is which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InvalidModelOutput, ModelUnavailable
from engine.jobs.comparison import EXCERPT_S, Comparison, compared_stems, labelled
from engine.jobs.estimates import relative_cost
from engine.jobs.job import Stage
from engine.jobs.models import join_versions
from engine.jobs.options import OutputFormat
from engine.jobs.results import Candidate, ComparisonResult, JobResult, StemFiles, StemInfo, db
from engine.media.decode import RawAudio
from engine.media.encode import StemEncoder
from engine.media.excerpt import cut_excerpt
from engine.media.tags import stem_tags
from engine.media.waveform import Peaks
from engine.separation.audio.pcm import PcmMix
from engine.separation.audio.resample import Resampler
from engine.separation.models.loaded_model import LoadedModel
from engine.text import safe_title, stem_filename
from engine.worker.attempt import Attempt
from engine.worker.protocol import Done

_RATE = 44_100  # of all files, whatever the model's is: a player plays them together
_BLOCK_SAMPLES = 1 << 18
_MOST_ATTENUATION = 0.5
_MAX_PEAK = 0.9999


@dataclass(frozen=True)
class _Run:
    """The excerpt as one model separates it."""

    label: str
    model: str
    version: str | None
    sounds: _Sounds
    separating_s: float
    busy_s: float


class _Sounds:
    """The sink of a separation: a raw file of float32 for each stem, and its levels."""

    def __init__(self, folder: Path, label: str, stems: Sequence[str], rest: str | None, mix: PcmMix) -> None:
        """Take all `stems` but `rest`, which is the mix minus the others."""
        self.peaks = {stem: Peaks(mix.samples) for stem in stems}
        self._paths = {stem: folder / f"{label}-{stem}.f32" for stem in stems}
        self._rest, self._mix = rest, mix
        self._sample_rate, self._samples = mix.sample_rate, mix.samples
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def write(self, start: int, stems: Mapping[str, Tensor]) -> None:
        """Write the next block of every stem, at the model's level."""
        blocks = {stem: block.numpy() * np.float32(self._mix.std) for stem, block in stems.items()}
        if self._rest is not None:
            stop = start + next(iter(blocks.values())).shape[1]
            mix = self._mix.without_offset(start, stop)
            blocks[self._rest] = mix.numpy() - np.sum([*blocks.values()], axis=0, dtype=np.float32)
        for stem, path in self._paths.items():
            if not np.isfinite(blocks[stem]).all():
                raise InvalidModelOutput
            self.peaks[stem].add(blocks[stem])
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(blocks[stem].T).data)

    def blocks(self, stem: str) -> Iterator[NDArray[np.float32]]:
        """Yield a stem as blocks (channels, n) at `_RATE`."""
        sound = np.memmap(self._paths[stem], "<f4", mode="r").reshape(self._samples, -1)
        resampler = Resampler(self._sample_rate, _RATE)
        samples = resampler.samples(self._samples)

        def read(start: int, stop: int) -> Tensor:
            return torch.from_numpy(np.array(sound[start:stop].T, order="C"))

        for start in range(0, samples, _BLOCK_SAMPLES):
            yield resampler.read(read, self._samples, start, min(start + _BLOCK_SAMPLES, samples)).numpy()


class ComparisonAttempt(Attempt):
    def run(self) -> Done:
        comparison = self.spec.options.comparison
        assert comparison is not None
        out, song, decoded = self._begin()
        excerpt = self._scratch / "excerpt.f32"
        start_s, samples = cut_excerpt(self._raw, decoded, excerpt, seconds=EXCERPT_S, start_s=comparison.start_s)
        for name in comparison.models:  # before the clock of the separation starts
            with _naming(name):
                self._in_loader(self._library.pull, name, lambda: self._on_progress(Stage.DECODING, 1.0))
        runs = self._separate_all(comparison, excerpt, decoded)
        candidates = self._encode(runs, decoded, out)
        self._publish(out)
        duration_s = samples / decoded.sample_rate
        result = ComparisonResult(start_s=start_s, duration_s=duration_s, candidates=candidates)
        metrics = self._metrics(song, sum(run.busy_s for run in runs), [info.size for _, _, info in result.files])
        return Done(
            job_id=self.spec.job_id,
            attempt=self.spec.attempt,
            result=JobResult(
                job_id=self.spec.job_id,
                output_dir=self.spec.output_key,
                stems=StemFiles(),
                processing_time=metrics.processing_time,
                model_used=", ".join(comparison.models),
                file_size=sum(metrics.output_file_sizes),
                processing=metrics,
                audio_hash=decoded.audio_hash,
                comparison=result,
            ),
            separating_s=sum(run.separating_s for run in runs),
            input_duration_s=duration_s * len(runs),
        )

    def _separate_all(self, comparison: Comparison, excerpt: Path, decoded: RawAudio) -> list[_Run]:
        """Separate the excerpt with each model; the order of the runs is that of the labels."""
        wanted = compared_stems(comparison.models, karaoke=self.spec.options.remove_vocals)
        models = labelled(comparison.models, self.spec.seed)
        costs = [relative_cost(model) for model in models.values()]
        runs = []
        for index, (label, name) in enumerate(models.items()):
            before, share = sum(costs[:index]) / sum(costs), costs[index] / sum(costs)

            def report(fraction: float, before: float = before, share: float = share) -> None:
                self._on_progress(Stage.SEPARATING, before + share * fraction)

            report(0.0)
            with _naming(name):
                loaded = self._load(name, lambda: report(0.0))
            stems, rest = _outputs(loaded, wanted)
            with self._open_mix(excerpt, decoded, loaded[0]) as mix:
                sink = _Sounds(self._scratch, label, wanted, rest, mix)
                separated = self._separate(loaded, mix, sink, stems, report)
            version = join_versions([each.version for each in loaded])
            runs.append(_Run(label, name, version, sink, separated.separating_s, separated.busy_s))
        return runs

    def _encode(self, runs: Sequence[_Run], decoded: RawAudio, out: Path) -> tuple[Candidate, ...]:
        files: dict[str, dict[str, StemInfo]] = {run.label: {} for run in runs}
        stems = list(runs[0].sounds.peaks)
        for done, stem in enumerate(stems):
            self._step(Stage.ENCODING, done / len(stems))
            gains = matched_gains([run.sounds.peaks[stem] for run in runs])
            for run, gain in zip(runs, gains, strict=True):
                files[run.label][stem] = self._encode_one(run, stem, gain, decoded, out)
        return tuple(
            Candidate(label=run.label, model=run.model, model_version=run.version, stems=StemFiles(**files[run.label]))
            for run in runs
        )

    def _encode_one(self, run: _Run, stem: str, gain: float, decoded: RawAudio, out: Path) -> StemInfo:
        title, name = safe_title(self.spec.title), f"model {run.label}"
        path = out / stem_filename(title, stem, run.label, "mp3")
        tags = stem_tags(self._tags(decoded), title=title, stem=stem, model=name)
        with StemEncoder(path, format="mp3", sample_rate=_RATE, tags=tags) as encoder:
            for block in run.sounds.blocks(stem):
                self._stop_if_cancelled()
                encoder.write(block * np.float32(gain))
        assert encoder.encoded is not None
        peaks = run.sounds.peaks[stem]
        return StemInfo(
            filename=path.name,
            path=f"{self.spec.output_key}/{path.name}",
            size=encoder.encoded.size_bytes,
            duration=encoder.encoded.samples / _RATE,
            format=OutputFormat.MP3,
            sample_rate=_RATE,
            bitrate=encoder.encoded.bitrate,
            level_db=_rounded(db(peaks.level * gain)),
            peak_db=_rounded(db(peaks.peak * gain)),
            silence_share=round(peaks.silence_share, 4),
        )


@contextmanager
def _naming(model: str) -> Iterator[None]:
    """Raise errors of the weights with the name of the model, and the advice for the operator as their detail."""
    try:
        yield
    except ModelUnavailable as error:
        message = f"The model {model} cannot be used here at the moment, so nothing was compared. Leave it out."
        raise type(error)(message, detail=f"{error.message} {error.detail or ''}".strip()) from error


def _outputs(models: Sequence[LoadedModel], wanted: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the stems to separate, and the one that is the rest of the mix."""
    made = {stem for model in models for stem in model.sources}
    rests = [stem for stem in wanted if stem not in made or (len(models) > 1 and stem == "other")]
    return tuple(stem for stem in wanted if stem not in rests), rests[0] if rests else None


def matched_gains(sounds: Sequence[Peaks]) -> list[float]:
    """Return a gain for each sound that makes all as loud as the quietest, by RMS, without clipping.

    A sound is lowered by at most 6 dB: a model that leaves out half of a stem should be heard to do so.
    """
    quietest = min(sound.level for sound in sounds)
    gains = [max(_MOST_ATTENUATION, quietest / sound.level) if sound.level > 0 else 1.0 for sound in sounds]
    peak = max(sound.peak * gain for sound, gain in zip(sounds, gains, strict=True))
    return [gain * min(1.0, _MAX_PEAK / peak) if peak > 0 else gain for gain in gains]


def _rounded(level_db: float | None) -> float | None:
    return None if level_db is None else round(level_db, 2)
