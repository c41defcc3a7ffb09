"""The web server over a real socket, in front of a service that keeps its jobs in memory and ends them on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from config.settings import Settings, load
from engine.errors import NotAllowed, NotFound, QuotaExceeded
from engine.jobs.entity import new_job_id
from engine.jobs.job import FileLink, InputType, Job, JobStatus, JobView, Stage
from engine.jobs.options import OutputFormat
from engine.jobs.results import JobResult, StemFiles, StemInfo
from engine.service.admission import Ticket
from engine.service.links import Links
from engine.service.service import ModelChoice, ServiceSnapshot, StemService, Submission, Upload, WorkerSnapshot
from engine.storage.disk_space import Room
from engine.storage.local import Storage
from engine.web.app import HEAD_S, IDLE_S, create_app, make_runner
from tests.jobs import Clock

TOKEN = "a-token-of-good-length"


class MemoryService(StemService):
    """Accepts `per_hour` jobs of each owner. Files and links are real."""

    def __init__(self, storage: Storage, links: Links, now: Clock, *, per_hour: int, max_bytes: int) -> None:
        self.jobs: dict[str, Job] = {}
        self.submissions: list[Submission] = []
        self.watching = 0
        self.raises: BaseException | None = None
        self._files, self._signer, self._now = storage, links, now
        self._per_hour, self._max_bytes = per_hour, max_bytes
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def admit_upload(self, owner: str, size_bytes: int | None = None) -> AsyncIterator[Ticket]:
        self._check_quota(owner)
        size_bytes = size_bytes or self._max_bytes
        yield Ticket(owner, Room(self._files.root, 0).reserve(size_bytes), AsyncExitStack())

    def _check_quota(self, owner: str) -> None:
        if sum(job.owner == owner for job in self.jobs.values()) >= self._per_hour:
            raise QuotaExceeded(retry_after_s=1234.5)

    async def submit(self, submission: Submission, ticket: Ticket | None = None) -> JobView:
        if self.raises:
            raise self.raises
        self._check_quota(submission.owner)
        job_id, source = new_job_id(), submission.source
        title, size, where = "link", 0, "https://www.youtube.com/watch?v=dQw4w9WgXcQ"
        if isinstance(source, Upload):
            title, where = Path(source.filename).stem, f"jobs/{job_id}/input"
            size = await self._files.receive(source.stream, where, self._max_bytes)
            if source.late_options is not None:
                try:
                    submission = replace(submission, options=await source.late_options())
                except BaseException:
                    await self._files.delete_job(job_id)
                    raise
        self.submissions.append(submission)
        self.jobs[job_id] = Job(
            id=job_id,
            status=JobStatus.PENDING,
            created_at=self._now(),
            updated_at=self._now(),
            input_type=InputType.FILE_UPLOAD if size else InputType.YOUTUBE_URL,
            input_source=where,
            model=submission.options.model,
            options=submission.options,
            estimated_duration=40,
            owner=submission.owner,
            title=title,
            input_size=size,
        )
        return await self.get(job_id)

    async def get(self, job_id: str) -> JobView:
        if self.raises:
            raise self.raises
        if (job := self.jobs.get(job_id)) is None:
            raise NotFound
        until = self._now() + timedelta(days=90)
        links: tuple[FileLink, ...] = ()
        if job.result:
            links = tuple(
                FileLink(name=name, filename=info.filename, url=self._signer.file(info.path, until), size=info.size)
                for name, info in job.result.stems
            )
        pending = [each.id for each in self.jobs.values() if each.status is JobStatus.PENDING]
        place = pending.index(job_id) + 1 if job_id in pending else None
        page = self._signer.page(job_id, until)
        return JobView(job=job, queue_place=place, eta_s=40.0 * (place or 1), links=links, page_url=page)

    async def change(self, job_id: str, **changes: Any) -> None:
        job = self.jobs[job_id]
        self.jobs[job_id] = Job.model_validate({**job.model_dump(), "updated_at": self._now(), **changes})
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def run(self, job_id: str, progress: int, stage: Stage = Stage.SEPARATING) -> None:
        await self.change(job_id, status=JobStatus.PROCESSING, progress=progress, stage=stage, attempt=1)

    async def complete(self, job_id: str, stems: dict[str, bytes] | None = None, *, title: str = "Sunny") -> None:
        stems = stems or {name: name.encode() * 5000 for name in ("vocals", "drums", "bass", "other")}
        infos = {}
        for name, content in stems.items():
            info = StemInfo(
                filename=f"{title} - {name} - mini.mp3",
                path=f"jobs/{job_id}/a1/{title} - {name} - mini.mp3",
                size=len(content),
                duration=2.0,
                format=OutputFormat.MP3,
                sample_rate=44100,
                bitrate=320_000,
            )
            path = self._files.local_path(info.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            infos[name] = info
        result = JobResult(
            job_id=job_id,
            output_dir=f"jobs/{job_id}/a1",
            stems=StemFiles(**infos),
            processing_time=3,
            model_used="mini",
            file_size=sum(len(content) for content in stems.values()),
        )
        await self.change(job_id, status=JobStatus.COMPLETED, progress=100, result=result, actual_duration=3)

    async def watch(self, job_id: str) -> AsyncGenerator[JobView, None]:
        self.watching += 1
        try:
            shown: Job | None = None
            while True:
                view = await self.get(job_id)
                if view.job != shown:
                    shown = view.job
                    yield view
                if view.job.is_over:
                    return
                async with self._news:
                    if self.jobs.get(job_id) == shown:
                        await self._news.wait()
        finally:
            self.watching -= 1

    async def cancel(self, job_id: str, *, by: str) -> JobView:
        if self.jobs[job_id].owner != by:
            raise NotAllowed
        await self.change(job_id, status=JobStatus.FAILED, error="Cancelled.", error_code="cancelled")
        return await self.get(job_id)

    async def delete(self, job_id: str, *, by: str) -> None:
        if self.jobs[job_id].owner != by:
            raise NotAllowed
        del self.jobs[job_id]
        await self._files.delete_job(job_id)
        await self._tell()

    @asynccontextmanager
    async def open_file(self, job: Job, name: str) -> AsyncIterator[Path]:
        assert job.result is not None
        path = self._files.local_path(dict(job.result.stems)[name].path)
        if not path.is_file():
            raise NotFound("That file is no longer here.")
        yield path

    def models(self) -> list[ModelChoice]:
        return [ModelChoice("mini", "small", usable=True)]

    async def snapshot(self) -> ServiceSnapshot:
        if self.raises:
            raise self.raises
        counts = {status: sum(job.status is status for job in self.jobs.values()) for status in JobStatus}
        return ServiceSnapshot(
            jobs=counts,
            workers=(WorkerSnapshot("cpu", True, 1, 2, 300_000_000, None),),
            usable_models=("mini",),
            stage_seconds={"separating": 12.5},
            audio_seconds=100.0,
            processing_seconds=25.0,
        )


@dataclass
class WebHouse:
    """A running server. `client` asks from 127.0.0.1 and sends nothing that a browser would."""

    service: MemoryService
    storage: Storage
    links: Links
    clock: Clock
    settings: Settings
    app: web.Application
    runner: web.AppRunner
    client: aiohttp.ClientSession
    url: str

    async def job(self, *, title: str = "Sunny", done: bool = False, **stems: bytes) -> str:
        """A job made over the API; completed with these stems, if `done`."""
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", b"sound", filename=f"{title}.mp3")
        async with self.client.post("/api/stemify", data=form) as response:
            assert response.status == 202, await response.text()
            job_id = str((await response.json())["jobId"])
        if done:
            await self.service.complete(job_id, stems or None, title=title)
        return job_id

    def file_link(self, key: str, *, days: float = 90) -> str:
        return self.links.file(key, self.clock() + timedelta(days=days)).removeprefix(self.links.base_url)


@asynccontextmanager
async def open_web_house(
    data_dir: Path,
    *,
    per_hour: int = 5,
    max_bytes: int = 50 * 2**20,
    keep_alive_s: float = 15.0,
    storage: Storage | None = None,
    head_s: float = HEAD_S,
    idle_s: float = IDLE_S,
    **web_settings: Any,
) -> AsyncIterator[WebHouse]:
    """`web_settings` override those of [web]."""
    loaded = load(data_dir=data_dir)
    settings = loaded.model_copy(
        update={
            "web": type(loaded.web).model_validate({**loaded.web.model_dump(), **web_settings}),
            "limits": loaded.limits.model_copy(update={"input_bytes": max_bytes}),
        }
    )
    clock, storage = Clock(), storage or Storage(data_dir)
    links = Links(b"k" * 32, "http://127.0.0.1:8080", settings.web.cdn_url)
    service = MemoryService(storage, links, clock, per_hour=per_hour, max_bytes=max_bytes)
    app = create_app(service, settings, links, storage, now=clock, keep_alive_s=keep_alive_s)
    runner = make_runner(app, head_s=head_s, idle_s=idle_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as client:
            yield WebHouse(service, storage, links, clock, settings, app, runner, client, url)
    finally:
        await runner.cleanup()
