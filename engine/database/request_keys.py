"""Idempotency keys: a request that is sent twice with one key creates one job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiosqlite

from engine.database.database import Database, Fetch, Step
from engine.database.rows import to_us
from engine.database.sql import QUERIES

LIFETIME = timedelta(days=1)


@dataclass(frozen=True)
class EarlierRequest:
    """A request that has created a job; `digest`: of its body."""

    job_id: str
    digest: str


class RequestSeen(Exception):
    """Another request with the same key was faster; `is_other`: it asked for something else."""

    def __init__(self, job_id: str, *, is_other: bool) -> None:
        super().__init__(job_id)
        self.job_id = job_id
        self.is_other = is_other


class RequestKeys:
    """Keys of each owner, for a day or until the job is deleted."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def find(self, owner: str, key: str) -> EarlierRequest | None:
        return await self._find(self._database.read, owner, key)

    def add_in(self, owner: str, key: str, digest: str, job_id: str) -> Step:
        """Return the step of a transaction that records the request; it raises `RequestSeen`."""

        async def add(writer: aiosqlite.Connection) -> None:
            fetch, now = writer.execute_fetchall, self._now()
            if (earlier := await self._find(fetch, owner, key)) is not None:
                raise RequestSeen(earlier.job_id, is_other=earlier.digest != digest)
            await fetch(QUERIES["delete_expired_request_keys"], {"now": to_us(now)})
            params = {"owner": owner, "key": key, "digest": digest, "job_id": job_id}
            await fetch(QUERIES["add_request_key"], params | {"expires_at": to_us(now + LIFETIME)})

        return add

    async def _find(self, fetch: Fetch, owner: str, key: str) -> EarlierRequest | None:
        rows = list(await fetch(QUERIES["request_key"], {"owner": owner, "key": key, "now": to_us(self._now())}))
        return EarlierRequest(rows[0]["job_id"], rows[0]["digest"]) if rows else None
