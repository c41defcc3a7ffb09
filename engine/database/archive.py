"""The archive: a database a month, `archive/YYYY-MM.sqlite3`, with whole jobs as zlib-compressed JSON.

The month is that of the job's id (a UUIDv7 holds the time it was made), so a look-up by id opens one file. A job's
row is first copied here and synced to disk, then deleted from the hot database: a crash in between leaves it in both,
the hot one counts, and the copy is made again.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from engine.database.database import to_store_error
from engine.database.errors import StoreDamaged
from engine.database.rows import to_us
from engine.jobs.entity import id_time
from engine.jobs.job import Job

_MONTH_FILE = re.compile(r"\d{4}-\d{2}\.sqlite3")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id         TEXT PRIMARY KEY NOT NULL,
    owner      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    job        BLOB NOT NULL  -- Job as JSON, zlib
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_owner ON jobs (owner, created_at);
"""
_ADD = "INSERT OR REPLACE INTO jobs (id, owner, created_at, job) VALUES (?, ?, ?, ?)"


def month_of(job_id: str) -> str | None:
    """ "YYYY-MM" of a UUIDv7; None for other ids and for times that no calendar has."""
    value = UUID(job_id)
    if value.version != 7:
        return None
    try:
        return f"{id_time(job_id):%Y-%m}"
    except (OverflowError, ValueError, OSError):
        return None


def serialize(job: Job) -> bytes:
    return zlib.compress(job.model_dump_json().encode())


def deserialize(data: bytes) -> Job:
    """Raises `StoreDamaged`."""
    try:
        return Job.model_validate_json(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise StoreDamaged(detail=f"archived job: {type(error).__name__}") from error


class Archive:
    """Blocking calls, each with a connection of its own; the store runs them in threads, its writes one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, jobs: Iterable[Job]) -> None:
        """On disk when this returns. A job that is there already is replaced."""
        months: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            months[month_of(job.id) or f"{job.created_at:%Y-%m}"].append(job)
        for month, of_month in sorted(months.items()):
            path = self.folder / f"{month}.sqlite3"
            if not path.exists():
                self._make(path)
            with self._connect(path) as connection, connection:
                connection.executemany(
                    _ADD, [(job.id, job.owner, to_us(job.created_at), serialize(job)) for job in of_month]
                )

    def _make(self, path: Path) -> None:
        """The file appears with its table: whoever reads, or copies it for a backup, never finds it without."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a process that was killed
        with self._connect(part) as connection:
            connection.executescript(_SCHEMA)
        part.rename(path)

    def get(self, job_id: str) -> Job | None:
        for path in self._files_for(job_id):
            with self._connect(path) as connection:
                row = connection.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row:
                return deserialize(row[0])
        return None

    def of(self, owner: str, limit: int) -> list[Job]:
        """The owner's archived jobs, newest first."""
        found: list[Job] = []
        for path in reversed(self._all_files()):
            with self._connect(path) as connection:
                rows = connection.execute(
                    "SELECT job FROM jobs WHERE owner = ? ORDER BY created_at DESC, id DESC LIMIT ?",
                    (owner, limit - len(found)),
                ).fetchall()
            found.extend(deserialize(row[0]) for row in rows)
            if len(found) >= limit:
                break
        return found

    def ids_of(self, owner: str) -> list[str]:
        found: list[str] = []
        for path in self._all_files():
            with self._connect(path) as connection:
                rows = connection.execute("SELECT id FROM jobs WHERE owner = ? ORDER BY created_at", (owner,))
                found.extend(str(row[0]) for row in rows)
        return found

    def set_keep(self, job_id: str, keep: bool) -> Job | None:
        job = self.get(job_id)
        if job is None or job.keep == keep:
            return job
        changed = job.model_copy(update={"keep": keep})
        self.add([changed])
        return changed

    def delete(self, job_id: str) -> bool:
        gone = 0
        for path in self._files_for(job_id):
            with self._connect(path) as connection, connection:
                gone += connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount
        return gone > 0

    def months(self) -> list[str]:
        return [path.stem for path in self._all_files()]

    def _files_for(self, job_id: str) -> list[Path]:
        month = month_of(job_id)
        if month is None:  # not one of our ids: it may be anywhere
            return self._all_files()
        path = self.folder / f"{month}.sqlite3"
        return [path] if path.is_file() else []

    def _all_files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _MONTH_FILE.fullmatch(path.name))

    @contextmanager
    def _connect(self, path: Path) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(path, timeout=5.0)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise to_store_error(error, path) from error
