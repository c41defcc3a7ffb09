"""One SQLite file with one writing connection and a few reading ones; its errors are store errors.

Durability: WAL with `synchronous=NORMAL`. A commit survives `kill -9` of this process once `write` has returned. A
power cut may undo the last commits, never a part of one, and does not damage the file. An fsync for each commit is not
worth its cost for a queue of songs.
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
Step = Callable[[aiosqlite.Connection], Awaitable[None]]
"""Part of a transaction; what it raises rolls the transaction back."""

_WAL_BYTES = 64 * 2**20  # a larger WAL is truncated to this
_CHECKED_BYTES = 64 * 2**20  # a file up to this size is checked when opened (below 0.3 s)


class Database:
    """Connections to one file, from `open`. Reads run in parallel, writes one at a time."""

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
        """Create or migrate the file, check it and connect.

        `busy_limit_s`: how long to retry while another process locks the file. Raises `StoreDamaged`,
        `UnsupportedSchemaVersion`, `StoreReadOnly`, `StoreFull`, `StoreBusy`, `StoreFailed`.
        """
        connections: list[aiosqlite.Connection] = []
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # SQLite's other files get the same mode
            await asyncio.to_thread(_prepare, path, migrations, busy_limit_s)
            for number in range(readers + 1):
                connection = aiosqlite.connect(path, isolation_level=None, timeout=min(5.0, busy_limit_s))
                # Without this, a process that ends with an exception before `close` hangs at exit.
                connection._thread.daemon = True
                connections.append(await connection)
                connection.row_factory = sqlite3.Row
                for pragma in (
                    "synchronous=NORMAL",
                    "foreign_keys=ON",
                    f"journal_size_limit={_WAL_BYTES}",
                    "cache_size=-16000",  # KiB; a claim reads a dozen scattered pages
                    f"query_only={int(number > 0)}",
                ):
                    await connection.execute_fetchall(f"PRAGMA {pragma}")
        except (sqlite3.Error, OSError) as error:
            for connection in connections:
                await connection.close()
            raise to_store_error(error, path) from error
        return cls(path, connections[0], connections[1:], busy_limit_s=busy_limit_s)

    async def close(self) -> None:
        """Close the connections after the write in progress. Safe to call twice."""
        async with self._writing:
            if self._closed:
                return
            self._closed = True
            for connection in (*self._readers, self._writer):  # the last one to close merges the WAL
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
        """Run one writing statement as a transaction, and return the rows of its RETURNING."""

        async def step() -> list[sqlite3.Row]:
            return list(await self._writer.execute_fetchall(query, params or {}))

        return await self._shielded(step)

    async def write(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Run `work` in one transaction; an exception rolls it back, cancelling the caller does not stop it.

        `work` may run again if the file was busy, so it must change nothing but the database.
        """

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
        # Cancelling the caller must not interrupt a write.
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
        task.exception()  # otherwise asyncio logs that it was never retrieved


def _prepare(path: Path, migrations: Sequence[str], busy_limit_s: float) -> None:
    """Create or migrate the file, and check it."""
    deadline = time.monotonic() + busy_limit_s
    while True:
        try:
            return _prepare_once(path, migrations, busy_limit_s)
        except sqlite3.OperationalError as error:  # SQLite does not wait when two processes enable the WAL at once
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def _prepare_once(path: Path, migrations: Sequence[str], busy_limit_s: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=busy_limit_s)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if path.stat().st_size <= _CHECKED_BYTES:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StoreDamaged(detail=f"{path}: {problem}")
        migrate(connection, migrations)
    finally:
        connection.close()


def to_store_error(error: Exception, path: Path) -> StemifyError:
    """Return the store error for an error of SQLite or of the file system."""
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
