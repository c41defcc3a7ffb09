"""A backend whose jobs move when a test says so: it reads `script.json` in its data folder. For what concerns only
the bot and Discord. Jobs outlive the process, as the real ones do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from config.settings import Settings
from engine.backend import House
from engine.errors import InputRefused, NotAllowed, NotFound
from engine.jobs.entity import new_job_id
from engine.jobs.job import FileLink, InputType, Job, JobStatus, JobView, Stage
from engine.jobs.options import OutputFormat
from engine.jobs.results import JobResult, StemFiles, StemInfo, TrustCard
from engine.service.service import Link, ModelChoice, StemService, Submission, Ticket
from engine.sources.youtube.link import parse_link

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c63000100000500010d0a2db40000000049454e44ae426082"
)


class ScriptedService(StemService):
    """`script.json`: {"hold": […steps…]}: a job stays before the steps named there, "accept" among them."""

    STEPS: ClassVar[tuple[str, ...]] = ("claim", "half", "end")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "w.png").write_bytes(PNG)

    # Jobs on disk.

    def _script(self) -> dict[str, Any]:
        path = self.folder / "script.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    async def _until_let(self, step: str) -> None:
        while step in self._script().get("hold", []):
            await asyncio.sleep(0.02)

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"

    def _write(self, job: Job) -> None:
        path = self._path(job.id)
        path.with_suffix(".new").write_text(job.model_dump_json())
        path.with_suffix(".new").rename(path)

    def _read(self, job_id: str) -> Job:
        try:
            return Job.model_validate_json(self._path(job_id).read_text())
        except FileNotFoundError:
            raise NotFound from None

    def _change(self, job: Job, **changes: Any) -> Job:
        job = Job.model_validate(job.model_dump() | {"updated_at": datetime.now(UTC)} | changes)
        self._write(job)
        return job

    def _view(self, job: Job) -> JobView:
        waiting = job.status is JobStatus.PENDING
        links: tuple[FileLink, ...] = ()
        if job.result is not None:
            links = tuple(
                FileLink(
                    name=name, filename=info.filename, url=f"http://127.0.0.1:9/files/{name}?e=1&s=2", size=info.size
                )
                for name, info in job.result.stems
            )
        return JobView(
            job=job, queue_place=1 if waiting else None, eta_s=None if job.is_over else 20.0, links=links,
            page_url="http://127.0.0.1:9/jobs/1" if links else None,
            links_expire_at=job.updated_at + timedelta(days=90) if links else None,
        )  # fmt: skip

    # The door.

    async def submit(self, submission: Submission, ticket: Ticket | None = None) -> JobView:
        await self._until_let("accept")
        source = submission.source
        if isinstance(source, Link):
            parse_link(source.text)
            raise InputRefused("Links are not scripted.")
        if (refusal := self._script().get("refuse")) is not None:
            raise InputRefused(refusal)
        now = datetime.now(UTC)
        job = Job(
            id=submission.job_id or new_job_id(), status=JobStatus.PENDING, created_at=now, updated_at=now,
            input_type=InputType.FILE_UPLOAD, input_source="input.mp3", model=submission.options.model,
            options=submission.options, estimated_duration=20, owner=submission.owner, scope=submission.scope,
            place=submission.place, title=Path(source.filename).stem, input_duration=60.0,
        )  # fmt: skip
        self._write(job)
        return self._view(job)

    async def drive(self) -> None:
        """Move every job along as the script allows."""
        while True:
            for path in self.folder.glob("*-*.json"):
                job = self._read(path.stem)
                hold = self._script().get("hold", [])
                if job.status is JobStatus.PENDING and "claim" not in hold:
                    self._change(job, status=JobStatus.PROCESSING, stage=Stage.SEPARATING, progress=10, attempt=1)
                elif job.status is JobStatus.PROCESSING and job.progress < 50 and "half" not in hold:
                    self._change(job, progress=50)
                elif job.status is JobStatus.PROCESSING and job.progress >= 50 and "end" not in hold:
                    self._end(job)
            await asyncio.sleep(0.02)

    def _end(self, job: Job) -> None:
        if (error := self._script().get("fail")) is not None:
            self._change(job, status=JobStatus.FAILED, error=error, error_code="worker_died")
            return
        stems = {}
        for name in ("vocals", "drums", "bass", "other"):
            data = os.urandom(int(self._script().get("stem_bytes", 1000)))
            file = self.folder / f"{job.id}-{name}.mp3"
            file.write_bytes(data)
            stems[name] = StemInfo(
                filename=f"{job.title} - {name}.mp3", path=file.name, size=len(data), duration=60,
                format=OutputFormat.MP3, sample_rate=44100,
            )  # fmt: skip
        result = JobResult(
            job_id=job.id, output_dir="x", stems=StemFiles(**stems), processing_time=3, model_used=job.model,
            file_size=1, waveform_path="w.png", trust=TrustCard(
                residual_db=-40, gain_db=0, clipped_samples=0, seed=1, shifts=1, overlap=0.25, segment_s=7.8,
                segments=8, device="cpu"),
        )  # fmt: skip
        self._change(job, status=JobStatus.COMPLETED, result=result, progress=100, actual_duration=3)

    async def get(self, job_id: str) -> JobView:
        return self._view(self._read(job_id))

    async def list(self, owner: str, *, limit: int = 25, active_only: bool = False) -> list[JobView]:
        jobs = [self._read(path.stem) for path in sorted(self.folder.glob("*-*.json"), reverse=True)]
        mine = [job for job in jobs if job.owner == owner and not (active_only and job.is_over)]
        return [self._view(job) for job in mine[:limit]]

    async def watch(self, job_id: str) -> AsyncIterator[JobView]:  # type: ignore[override]
        shown = None
        while True:
            view = await self.get(job_id)
            if view != shown:
                yield view
                shown = view
            if view.job.is_over:
                return
            await asyncio.sleep(0.02)

    def _mine(self, job_id: str, by: str) -> Job:
        job = self._read(job_id)
        if job.owner != by:
            raise NotAllowed
        return job

    async def cancel(self, job_id: str, *, by: str) -> JobView:
        job = self._mine(job_id, by)
        if not job.is_over:
            job = self._change(job, status=JobStatus.FAILED, error="Cancelled.", error_code="cancelled")
        return self._view(job)

    async def delete(self, job_id: str, *, by: str) -> None:
        self._mine(job_id, by)
        self._path(job_id).unlink()

    async def delete_everything_of(self, owner: str) -> int:
        mine = await self.list(owner, limit=1000)
        for view in mine:
            await self.delete(view.job.id, by=owner)
        return len(mine)

    async def retry(self, job_id: str, *, by: str, new_id: str | None = None, model: str | None = None) -> JobView:
        old = self._mine(job_id, by)
        job = old.model_copy(update={
            "id": new_id or new_job_id(), "status": JobStatus.PENDING, "error": None, "error_code": None,
            "progress": 0, "stage": None, "attempt": 0, "retry_of": old.id,
        })  # fmt: skip
        self._write(job)
        return self._view(job)

    async def keep(self, job_id: str, *, by: str) -> JobView:
        return self._view(self._change(self._mine(job_id, by), keep=True))

    @asynccontextmanager
    async def open_file(self, job: Job, name: str) -> AsyncIterator[Path]:
        path = self.folder / f"{job.id}-{name}.mp3"
        if name == "waveform":
            path = self.folder / "w.png"
        if not path.exists():
            raise NotFound
        yield path

    def models(self) -> list[ModelChoice]:  # type: ignore[valid-type]
        return [
            ModelChoice("htdemucs", "the standard", usable=True),
            ModelChoice("mdx_extra_q", "quantized", usable=False, reason="needs diffq"),
        ]


@asynccontextmanager
async def backend(settings: Settings, *, hurried: asyncio.Event) -> AsyncIterator[House]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    service = ScriptedService(settings.data_dir)
    driving = asyncio.create_task(service.drive())
    try:
        yield House(service=service, web_url="http://127.0.0.1:9")
    finally:
        driving.cancel()
