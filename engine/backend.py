"""Wiring: everything between the settings and a running service, opened and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web

from config.settings import Settings, Workers
from engine.dispatcher import AttemptLimits, Dispatcher
from engine.errors import StorageFailed
from engine.links import Links, load_key
from engine.media.limits import MediaLimits
from engine.pool import PoolLimits, WorkerPool, find_devices
from engine.protocol import WorkerConfig
from engine.quota import Quota
from engine.retention import Sweeper
from engine.service import ServiceLimits, StemService
from engine.storage import Storage
from engine.store.store import Caps, Store
from engine.web.app import create_app

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class House:
    """A running backend."""

    service: StemService
    web_url: str | None


def utc_now() -> datetime:
    return datetime.now(UTC)


def media_limits(settings: Settings) -> MediaLimits:
    return MediaLimits(
        max_bytes=settings.limits.input_bytes,
        max_duration_s=settings.limits.input_duration_s,
        timeout_s=settings.media.probe_timeout_s,
        memory_bytes=settings.media.child_memory_bytes,
    )


def worker_config(settings: Settings, device: str) -> WorkerConfig:
    workers: Workers = settings.workers
    return WorkerConfig(
        device=device,
        threads=workers.threads,
        models_dir=str(settings.models_dir.absolute()) if settings.models_dir else None,
        cache_dir=str((settings.data_dir / "models").absolute()),
        model_memory_bytes=workers.model_memory_bytes,
        heartbeat_s=workers.heartbeat_s,
        precision=workers.precision,
        compile=workers.compile,
        decode_timeout_s=settings.media.decode_timeout_s,
        child_memory_bytes=settings.media.child_memory_bytes,
        input_bytes=settings.limits.input_bytes,
    )


def pool_limits(workers: Workers) -> PoolLimits:
    return PoolLimits(
        attempts_per_worker=workers.attempts_per_worker,
        heartbeat_timeout_s=workers.heartbeat_timeout_s,
        stall_timeout_s=workers.stall_timeout_s,
        start_timeout_s=workers.start_timeout_s,
        cancel_grace_s=workers.cancel_grace_s,
    )


def prepare_folder(data_dir: Path) -> Path:
    """Make the data folder, absolute. Raises `StorageFailed` when it cannot be written."""
    root = data_dir.expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageFailed(f"The data folder {root} cannot be written: {error.strerror}.") from error
    return root


@asynccontextmanager
async def backend(
    settings: Settings, *, with_web: bool = True, now: "Callable[[], datetime]" = utc_now
) -> AsyncIterator[House]:
    """Open everything, yield the running house, close it in the reverse order."""
    root = prepare_folder(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        storage = Storage(root)
        store = await Store.open(root / "stemify.sqlite3", now=now)
        stack.push_async_callback(store.close)
        quota = await Quota.open(root / "stemify.sqlite3", per_hour=settings.limits.jobs_per_hour, now=now)
        stack.push_async_callback(quota.close)
        runner, port = None, settings.web.port
        http = await stack.enter_async_context(aiohttp.ClientSession())
        base_url = settings.web.public_url or f"http://{settings.web.host}:{port}"
        links = Links(load_key(root / "keys" / "links.key"), base_url)
        devices = await find_devices(settings.workers.devices)
        service: StemService | None = None
        dispatcher: Dispatcher | None = None
        pool = WorkerPool(
            [worker_config(settings, device) for device in devices],
            pool_limits(settings.workers),
            on_change=lambda: dispatcher.wake() if dispatcher is not None else None,
        )
        service = StemService(...)
    yield House(service, None)
