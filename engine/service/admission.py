"""Admission of songs before a job exists: quota, queue limits, free space, concurrent uploads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from engine.database.blocklist import BlockList
from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.database.usage import Usage
from engine.errors import DecodingTooExpensive, TooManyUploads
from engine.service.turns import Turns
from engine.storage.disk_space import DiskSpace, Reservation

SONGS_PER_OWNER = 2
UPLOADS = 16
ATTACHMENTS = 8
PROBES = 4
WAITING_PER_OWNER = 20
UPLOAD_PATIENCE_S = 3.0
COSTLY_S = 3.0
"""A refused song counts against its owner's second window if probing took this long."""


class Ticket:
    """Permission to receive one song of `owner`. `spend` is called before each block of it is written."""

    def __init__(self, owner: str, reservation: Reservation, transfer: AsyncExitStack) -> None:
        self.owner = owner
        self.probing_s = 0.0
        self.spend = reservation.spend
        self._reservation = reservation
        self._transfer = transfer

    async def received(self) -> None:
        """Release the transfer slot: all bytes are on disk."""
        self._reservation.close()
        await self._transfer.aclose()


class Admission:
    def __init__(
        self,
        store: JobStore,
        quota: Quota,
        disk_space: DiskSpace,
        queue_limits: QueueLimits,
        blocked: BlockList,
        usage: Usage,
    ) -> None:
        self._store = store
        self._quota = quota
        self._disk_space = disk_space
        self._queue_limits = queue_limits
        self._blocked = blocked
        self._usage = usage
        self._songs = Turns(total=None, per_owner=SONGS_PER_OWNER)
        self._uploads = Turns(total=UPLOADS, per_owner=SONGS_PER_OWNER)
        self._attachments = Turns(total=ATTACHMENTS, per_owner=SONGS_PER_OWNER)
        self._probes = Turns(total=PROBES, per_owner=1)

    async def check(self, owner: str, scope: str | None, *, free: bool = False) -> None:
        """Raise unless `owner` could submit a song now. `free`: it need not count toward the quota.

        A song is checked twice: before it waits for its turn, and again when the turn comes.

        Raises `Blocked`, `QuotaExceeded`, `TooManyRefusals`, `QueueFull`, `TooMuchStored`, `DiskSpaceLow`.
        """
        await self._blocked.check(owner, scope)
        await asyncio.to_thread(self._disk_space.check)
        if not free:
            await self._quota.check(owner)
            await self._quota.check_refusals(owner)
        await self._store.check_queue_limits(owner, scope, self._queue_limits)
        await self._usage.check(owner)

    @asynccontextmanager
    async def upload(self, owner: str, scope: str | None, size_bytes: int) -> AsyncIterator[Ticket]:
        """Admit an upload of at most `size_bytes` before its first byte is read.

        Raises what `check` raises, and `TooManyUploads` if there is no slot within a few seconds.
        """
        await self.check(owner, scope)
        async with AsyncExitStack() as stack:
            transfer = await stack.enter_async_context(AsyncExitStack())
            try:
                await stack.enter_async_context(self._songs.turn(owner, timeout_s=UPLOAD_PATIENCE_S))
                await transfer.enter_async_context(self._uploads.turn(owner, timeout_s=UPLOAD_PATIENCE_S))
            except TimeoutError:
                raise TooManyUploads(retry_after_s=2 * UPLOAD_PATIENCE_S) from None
            yield await self._ticket(owner, scope, size_bytes, stack, transfer)

    @asynccontextmanager
    async def attachment(self, owner: str, scope: str | None, size_bytes: int) -> AsyncIterator[Ticket]:
        """Admit the download of a file of at most `size_bytes` from Discord, waiting for the owner's turn.

        Raises what `check` raises, and `TooManyUploads` if too many files of the owner already wait.
        """
        await self.check(owner, scope)
        if self._songs.waiting(owner) >= WAITING_PER_OWNER:
            raise TooManyUploads(retry_after_s=60.0)
        async with AsyncExitStack() as stack:
            transfer = await stack.enter_async_context(AsyncExitStack())
            await stack.enter_async_context(self._songs.turn(owner))
            await transfer.enter_async_context(self._attachments.turn(owner))
            yield await self._ticket(owner, scope, size_bytes, stack, transfer)

    async def _ticket(
        self, owner: str, scope: str | None, size_bytes: int, stack: AsyncExitStack, transfer: AsyncExitStack
    ) -> Ticket:
        await self.check(owner, scope)
        reservation = self._disk_space.reserve(size_bytes)
        stack.callback(reservation.close)
        return Ticket(owner, reservation, transfer)

    @asynccontextmanager
    async def probing(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a probing slot; owners take turns."""
        async with self._probes.turn(ticket.owner):
            started_s = time.monotonic()
            try:
                yield
            finally:
                ticket.probing_s = time.monotonic() - started_s

    async def refused(self, ticket: Ticket, error: BaseException) -> None:
        """Count a song that was not accepted against its owner if probing it was expensive."""
        if ticket.probing_s >= COSTLY_S or isinstance(error, DecodingTooExpensive):
            await self._quota.note_refusal(ticket.owner)
