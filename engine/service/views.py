"""Views of jobs for front ends: queue position, remaining time, signed links."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import PurePosixPath

from engine.database.job_store import JobStore
from engine.dispatch.progress import ProgressTracker
from engine.jobs.estimates import eta_s
from engine.jobs.job import FileLink, Job, JobStatus, JobView
from engine.mixes.cache import StoredMix
from engine.mixes.entities import Mix, Version, VersionStem
from engine.mixes.plan import MixPlan
from engine.pool.pool import WorkerPool
from engine.service.links import Links
from engine.text import safe_title


class JobPresenter:
    def __init__(
        self, store: JobStore, pool: WorkerPool, progress: ProgressTracker, links: Links, link_lifetime: timedelta
    ) -> None:
        self._store = store
        self._pool = pool
        self._progress = progress
        self._links = links
        self._link_lifetime = link_lifetime

    async def present(self, job: Job) -> JobView:
        view = await self._of(job)
        if job.is_over or not self._pool.has_no_workers:
            return view
        return view.model_copy(update={"no_worker": True, "eta_s": None})

    async def _of(self, job: Job) -> JobView:
        page_url = self._links.page(job.id, job.created_at + 2 * self._link_lifetime)
        if job.status is JobStatus.PENDING:
            position = await self._store.standing(job.id)
            place = position.place if position is not None else None
            waiting_s = eta_s(
                job,
                # The job may have been claimed in the meantime; it does not wait for itself.
                running_s=self._progress.remaining_s(but=job.id),
                ahead_s=position.ahead_s if position is not None else 0.0,
                lanes=sum(1 for worker in self._pool.workers if worker.ready),
            )
            return JobView(job=job, queue_place=place, eta_s=waiting_s, page_url=page_url)
        if job.status is JobStatus.PROCESSING:
            job, running = self._progress.with_live_progress(job), self._progress.get(job.id)
            return JobView(
                job=job,
                eta_s=self._progress.own_remaining_s(job),
                on_cpu=running is not None and running.on_cpu,
                page_url=page_url,
            )
        if job.status is JobStatus.COMPLETED:
            until, expires_at = self._expiry(job)
            return JobView(
                job=job,
                links=self._file_links(job, until),
                music_links=self._music_links(job, until),
                picture_url=self._picture_url(job, until),
                page_url=page_url,
                links_expire_at=expires_at,
            )
        return JobView(job=job, page_url=page_url)

    def present_mix(self, job: Job, mix: StoredMix) -> Mix:
        (file,) = mix.files.values()
        until, expires_at = self._expiry(job)
        return Mix(
            name=mix.name,
            filename=file.filename,
            url=self._links.file(file.key, until),
            size=file.size,
            expires_at=expires_at,
            gain_db=mix.gain_db,
        )

    def present_version(self, job: Job, plan: MixPlan, version: StoredMix) -> Version:
        until, expires_at = self._expiry(job)
        stems = {
            stem: VersionStem(filename=file.filename, url=self._links.file(file.key, until), size=file.size)
            for stem, file in version.files.items()
        }
        return Version(
            name=version.name,
            key=plan.key,
            tempo=plan.tempo,
            stems=stems,
            expires_at=expires_at,
            gain_db=version.gain_db,
        )

    def _expiry(self, job: Job) -> tuple[datetime, datetime | None]:
        """Return the end of links to the job's files, and the same time as shown: None for a kept job."""
        if job.keep:
            return job.updated_at + 40 * self._link_lifetime, None  # practically unlimited
        expires_at = job.updated_at + self._link_lifetime
        return expires_at, expires_at

    def _file_links(self, job: Job, until: datetime) -> tuple[FileLink, ...]:
        assert job.result is not None
        if (comparison := job.result.comparison) is not None:
            return tuple(
                FileLink(
                    name=f"{label} {stem}",
                    filename=info.filename,
                    url=self._links.file(info.path, until),
                    size=info.size,
                )
                for label, stem, info in comparison.files
            )
        files = [
            FileLink(name=name, filename=info.filename, url=self._links.file(info.path, until), size=info.size)
            for name, info in job.result.stems
        ]
        if (stem_file := job.result.stem_file) is not None:
            url = self._links.file(stem_file.path, until)
            files.append(FileLink(name="stem", filename=stem_file.filename, url=url, size=stem_file.size))
        archive = FileLink(name="zip", filename=f"{safe_title(job.title)}.zip", url=self._links.zip(job.id, until))
        return (*files, archive)

    def _music_links(self, job: Job, until: datetime) -> tuple[FileLink, ...]:
        assert job.result is not None
        music = job.result.music
        paths = {} if music is None else {"beats": music.beats_path, "chords": music.chords_path}
        return tuple(
            FileLink(name=name, filename=PurePosixPath(path).name, url=self._links.file(path, until))
            for name, path in paths.items()
            if path is not None
        )

    def _picture_url(self, job: Job, until: datetime) -> str | None:
        assert job.result is not None
        key = job.result.waveform_path
        return None if key is None else self._links.file(key, until)
