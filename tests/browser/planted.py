"""Finished jobs that were never run: their stems are known to the sample."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engine.database.job_store import Store
from engine.errors import StemifyError
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import OutputFormat, StemSeparationOptions
from engine.jobs.results import JobResult, QualityMetrics, StemFiles, StemInfo, TrustCard
from engine.media.encode import StemEncoder
from engine.media.samples import Samples
from engine.media.waveform import Peaks
from tests.jobs import NO_CAPS
from tests.songs import make_song

RATE = 44100
OWNER = "ip:127.0.0.1"


async def plant(
    data_dir: Path, stems: dict[str, Samples], *, title: str, artist: str | None = None, kind: str = "mp3"
) -> str:
    """A completed job with these stems (2, samples) in its files; its id."""
    options = StemSeparationOptions(output_format=OutputFormat(kind))
    job = _job(title, artist, options)
    folder = data_dir / "jobs" / job.id / "a1"
    folder.mkdir(parents=True)
    infos, shapes = {}, {}
    for name, samples in stems.items():
        path = folder / f"{name}.{kind}"
        with StemEncoder(path, format=kind, sample_rate=RATE, tags={"title": f"{title} ({name})"}) as encoder:
            encoder.write(samples)
        assert encoder.encoded is not None
        peaks = Peaks(samples.shape[1])
        peaks.add(samples)
        shapes[name] = peaks
        infos[name] = _info(path, data_dir, kind, samples.shape[1] / RATE, peaks, encoder.encoded.bitrate)
    (folder / "peaks.json").write_text(
        json.dumps({"duration_s": 0, "stems": {name: peaks.as_json() for name, peaks in shapes.items()}})
    )
    await _complete(data_dir, job, infos)
    return job.id


async def plant_failed(data_dir: Path, error: type[StemifyError], *, title: str) -> str:
    """A job that failed, with its song still there; its id."""
    job = _job(title, None, StemSeparationOptions())
    (data_dir / "jobs" / job.id).mkdir(parents=True)
    make_song(data_dir / "jobs" / job.id / "input", seconds=2)
    store = await Store.open(data_dir / "stemify.sqlite3")
    try:
        await store.add(job, NO_CAPS)
        await store.claim()
        await store.fail(job.id, attempt=1, code=error.code, message=error().message, actual_duration=1)
    finally:
        await store.close()
    return job.id


async def plant_long(data_dir: Path, *, seconds: int, clicks_at_s: tuple[float, ...]) -> str:
    """Four wav stems of `seconds`, silent but for one click at each of `clicks_at_s`; a file with holes, so that ten
    minutes cost nothing."""
    job = _job("Ten minutes", None, StemSeparationOptions(output_format=OutputFormat.WAV))
    path = data_dir / "jobs" / job.id / "a1" / "long.wav"
    path.parent.mkdir(parents=True)
    size = seconds * RATE * 6
    with path.open("wb") as file:
        fmt = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 6, 6, 24)
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + fmt)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
        for at_s in clicks_at_s:
            file.seek(44 + round(at_s * RATE) * 6)
            file.write(b"\xff\xff\x5f" * 2)
    info = _info(path, data_dir, "wav", float(seconds), None, None)
    await _complete(data_dir, job, dict.fromkeys(("vocals", "drums", "bass", "other"), info))
    return job.id


def _job(title: str, artist: str | None, options: StemSeparationOptions) -> Job:
    now = datetime.now(UTC)
    job_id = new_job_id(now)
    return Job(
        id=job_id,
        status=JobStatus.PENDING,
        created_at=now,
        updated_at=now,
        input_type=InputType.FILE_UPLOAD,
        input_source=f"jobs/{job_id}/input",
        model=options.model,
        options=options,
        estimated_duration=5,
        owner=OWNER,
        title=title,
        artist=artist,
    )


def _info(path: Path, data_dir: Path, kind: str, duration: float, peaks: Peaks | None, bitrate: int | None) -> StemInfo:
    return StemInfo(
        filename=path.name,
        path=path.relative_to(data_dir).as_posix(),
        size=path.stat().st_size,
        duration=duration,
        format=OutputFormat(kind),
        sample_rate=RATE,
        bitrate=bitrate,
        level_db=-18.3 if peaks else None,
        peak_db=20 * float(np.log10(peaks.peak)) if peaks else -3.0,
        silence_share=peaks.silence_share if peaks else 0.0,
    )


async def _complete(data_dir: Path, job: Job, infos: dict[str, StemInfo]) -> None:
    result = JobResult(
        job_id=job.id,
        output_dir=f"jobs/{job.id}/a1",
        stems=StemFiles.model_validate({name: info.model_dump() for name, info in infos.items()}),
        processing_time=8,
        model_used=job.model,
        quality_metrics=QualityMetrics(
            overall_score=0.83,
            vocal_isolation=0.86,
            drum_separation=0.88,
            bass_isolation=0.79,
            artifact_reduction=0.8,
            method="planted for a test",
        ),
        file_size=sum(info.size for info in infos.values()),
        trust=TrustCard(
            residual_db=-52.3,
            gain_db=0.0,
            clipped_samples=0,
            seed=7,
            shifts=1,
            overlap=0.25,
            segment_s=7.8,
            segments=1,
            device="cpu",
        ),
        peaks_path=f"jobs/{job.id}/a1/peaks.json",
    )
    store = await Store.open(data_dir / "stemify.sqlite3")
    try:
        await store.add(job, NO_CAPS)
        claimed = await store.claim()
        assert claimed is not None and claimed.status is JobStatus.PROCESSING and claimed.id == job.id
        assert await store.complete(job.id, claimed.attempt, result, 8) is not None
    finally:
        await store.close()
