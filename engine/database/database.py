"""One SQLite file: one connection that writes, a few that read, and our own errors instead of SQLite's.

Durability: WAL with `synchronous=NORMAL`. A commit is in the operating system's hands when `write` returns, so what
was accepted or completed survives `kill -9` of this process at any moment. A power cut may take back the last commits
(never half of one, and the file stays whole); paying an fsync for each is not worth it for a queue of songs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite

from engine.database.errors import StoreBusy, StoreDamaged, StoreFailed, StoreFull, StoreReadOnly
from engine.database.migrations import MIGRATIONS, migrate
from engine.errors import AlreadyAccepted, IllegalTransition, StemifyError

T = TypeVar("T")
Params = Mapping[str, Any]
Fetch = Callable[[str, Params], Awaitable[Iterable[sqlite3.Row]]]

_WAL_BYTES = 64 * 2**20  # a WAL that a long batch has made larger is cut back to this
_CHECKED_BYTES = 64 * 2**20  # a file up to this size is read through when it is opened (below 0.3 s)


class Database:
    """Made by `open`. `read` runs on one of the readers, `write` alone on the writer, in one transaction."""

    def __init__(
        self, path: Path, writer: aiosqlite.Connection, readers: list[aiosqlite.Connection], *, busy_limit_s: float
    ) -> None:
        self.path = path
        self._writer = writer
        self._writing = asyncio.Lock()
        self._readers = readers
        self._idle: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._busy_limit_s = busy_limit_s
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, *, readers: int = 3, migrations: Sequence[str] = MIGRATIONS, busy_limit_s: float = 15.0
    ) -> Self:
        """`busy_limit_s`: how long to try when another process holds the file.

        Raises `StoreDamaged`, `UnsupportedSchemaVersion`, `StoreReadOnly`, `StoreFull`, `StoreBusy`, `StoreFailed`."""
        connections: list[aiosqlite.Connection] = []
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # SQLite gives its other files the same mode
            await asyncio.to_thread(_prepare, path, migrations, busy_limit_s)
            for number in range(readers + 1):
                connection = aiosqlite.connect(path, isolation_level=None, timeout=min(5.0, busy_limit_s))
                # Else a process that dies of an exception, without closing, would hang at its exit for ever.
                connection._thread.daemon = True
                connections.append(await connection)
                connection.row_factory = sqlite3.Row
                for pragma in (
                    "synchronous=NORMAL",
                    "foreign_keys=ON",
                    f"journal_size_limit={_WAL_BYTES}",
                    "cache_size=-16000",  # KiB; a claim touches a dozen pages here and there
                    f"query_only={int(number > 0)}",
                ):
                    await connection.execute_fetchall(f"PRAGMA {pragma}")
        except (sqlite3.Error, OSError) as error:
            for connection in connections:
                await connection.close()
            raise to_store_error(error, path) from error
        return cls(path, connections[0], connections[1:], busy_limit_s=busy_limit_s)

    async def close(self) -> None:
        """Waits for the write in progress. Safe to call twice."""
        async with self._writing:
            if self._closed:
                return
            self._closed = True
            for connection in (*self._readers, self._writer):  # the last one out folds the WAL into the file
                await connection.close()

    async def read(self, query: str, params: Params | None = None) -> list[sqlite3.Row]:
        if self._closed:
            raise StoreFailed(detail="the database is closed")
        reader = await self._idle.get()
        try:
            return list(await reader.execute_fetchall(query, params or {}))
        except (sqlite3.Error, ValueError) as error:
            raise to_store_error(error, self.path) from error
        finally:
            self._idle.put_nowait(reader)

    async def read_one(self, query: str, params: Params | None = None) -> sqlite3.Row | None:
        rows = await self.read(query, params)
        return rows[0] if rows else None

    async def run(self, query: str, params: Params | None = None) -> list[sqlite3.Row]:
        """One writing statement (a transaction of its own); the rows of its RETURNING."""

        async def step() -> list[sqlite3.Row]:
            return list(await self._writer.execute_fetchall(query, params or {}))

        return await self._shielded(step)

    async def write(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work` in one transaction. It may be run again when the file was busy, so it only touches the database.
        An exception rolls back; cancelling the caller does not stop what has begun."""

        async def step() -> T:
            await self._writer.execute_fetchall("BEGIN IMMEDIATE")
            try:
                result = await work(self._writer)
                await self._writer.execute_fetchall("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    await self._writer.execute_fetchall("ROLLBACK")
                raise
            return result

        return await self._shielded(step)

    async def _shielded(self, step: Callable[[], Awaitable[T]]) -> T:
        # A status write is never torn by the cancellation of whoever waits for it.
        task = asyncio.ensure_future(self._alone(step))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_consume_exception)
            raise

    async def _alone(self, step: Callable[[], Awaitable[T]]) -> T:
        async with self._writing:
            if self._closed:
                raise StoreFailed(detail="the database is closed")
            give_up_at = time.monotonic() + self._busy_limit_s
            pause_s = 0.01
            while True:
                try:
                    return await step()
                except sqlite3.Error as error:
                    problem = to_store_error(error, self.path)
                    if not isinstance(problem, StoreBusy) or time.monotonic() + pause_s > give_up_at:
                        raise problem from error
                await asyncio.sleep(pause_s)
                pause_s = min(0.5, 2 * pause_s)


def _consume_exception(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()  # else asyncio complains that nobody did


def _prepare(path: Path, migrations: Sequence[str], busy_limit_s: float) -> None:
    """Make or migrate the file, and look whether it is whole."""
    deadline = time.monotonic() + busy_limit_s
    while True:
        try:
            return _prepare_once(path, migrations, busy_limit_s)
        except sqlite3.OperationalError as error:  # SQLite does not wait where two turn on the WAL at once
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def _prepare_once(path: Path, migrations: Sequence[str], busy_limit_s: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=busy_limit_s)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if path.stat().st_size <= _CHECKED_BYTES:
            complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if complaint != "ok":
                raise StoreDamaged(detail=f"{path}: {complaint}")
        migrate(connection, migrations)
    finally:
        connection.close()


def to_store_error(error: Exception, path: Path) -> StemifyError:
    """Our error for one of SQLite's (or of the file system's)."""
    detail = f"{path}: {type(error).__name__}: {error}"
    if isinstance(error, PermissionError):
        return StoreReadOnly(detail=detail)
    code = getattr(error, "sqlite_errorcode", 0)
    if isinstance(error, sqlite3.IntegrityError):
        if "illegal transition" in str(error):
            return IllegalTransition(detail=detail)
        if code in (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE):
            return AlreadyAccepted(detail=detail)
        return StoreFailed(detail=detail)
    kinds: dict[int, type[StoreFailed]] = {
        sqlite3.SQLITE_BUSY: StoreBusy,
        sqlite3.SQLITE_LOCKED: StoreBusy,
        sqlite3.SQLITE_FULL: StoreFull,
        sqlite3.SQLITE_READONLY: StoreReadOnly,
        sqlite3.SQLITE_CANTOPEN: StoreReadOnly,
        sqlite3.SQLITE_CORRUPT: StoreDamaged,
        sqlite3.SQLITE_NOTADB: StoreDamaged,
    }
    return kinds.get(code & 0xFF, StoreFailed)(detail=detail)
