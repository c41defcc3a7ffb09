"""Retry what must be sent at the end of a job."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from bot.messages.messenger import FailureKind, classify_failure
from engine.errors import StemifyError

log = logging.getLogger(__name__)

PAUSES_S = (2.0, 5.0, 15.0, 60.0, 300.0, 900.0)


async def retry_delivery(job_id: str, call: Callable[[], Awaitable[None]]) -> None:
    """Call again for 20 minutes after failures of Discord, the storage or the database.

    Raises the last failure. Then the delivery continues when Discord reconnects or at the next start.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            await call()
        except Exception as error:
            is_transient = classify_failure(error) is FailureKind.TRANSIENT or isinstance(
                error, StemifyError | sqlite3.Error
            )
            if not is_transient or pause_s is None:
                raise
            log.warning("could not announce the job, will retry", extra={"job": job_id, "reason": type(error).__name__})
            await asyncio.sleep(pause_s)
        else:
            return
