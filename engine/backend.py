"""Opens and closes the parts of the backend in order, and handles shutdown signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from config.settings import Settings, Workers
from engine.clock import SteadyClock, utc_now
from engine.database.blocklist import BlockList
from engine.database.job_store import JobStore
from engine.database.lock import exclusive_lock
from engine.database.queue_limits import QueueLimits
from engine.database.quota import Quota
from engine.database.request_keys import RequestKeys
from engine.database.usage import Usage
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.progress import ProgressTracker
from engine.dispatch.runner import JobRunner
from engine.dispatch.sweeper import Sweeper
from engine.errors import ConfigurationError
from engine.gateway.protocol import GatewayConfig
from engine.jobs.models import add_own_models
from engine.media.limits import MediaLimits
from engine.mixes.mixer import Mixer
from engine.pool.devices import find_devices
from engine.pool.handle import PoolLimits
from engine.pool.pool import WorkerPool
from engine.pool.remote import ray_is_installed
from engine.process.private_files import private_folder
from engine.service.acceptance import Acceptance
from engine.service.admission import Admission
from engine.service.intake import Intake
from engine.service.links import Links, load_key
from engine.service.repeats import Repeats
from engine.service.resubmission import Resubmission
from engine.service.sample import SampleSong
from engine.service.service import StemService
from engine.service.stages import Stages
from engine.service.views import JobPresenter
from engine.sources.fetch import LinkFetcher
from engine.sources.youtube.downloader import Youtube
from engine.storage.disk_space import DiskSpace
from engine.storage.object_store import open_storage
from engine.text import plural
from engine.web.access import is_private_page
from engine.web.app import create_app, make_runner
from engine.web.connections import start_listening
from engine.worker.protocol import WorkerConfig

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0  # for object storage, while a user waits


@dataclass(frozen=True)
class Backend:
    """A running backend.

    `web_url`: None without the web server. `steady_now`: the time by which age is judged (`SteadyClock`).
    """

    service: StemService
    web_url: str | None
    stages: Stages
    steady_now: Callable[[], datetime] = utc_now


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
        data_dir=str(settings.data_dir.expanduser().absolute()),
        storage=settings.storage if settings.storage.url else None,
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
        log_level=settings.log.level,
        json_lines=settings.log.json_lines,
    )


def pool_limits(workers: Workers) -> PoolLimits:
    return PoolLimits(
        attempts_per_worker=workers.attempts_per_worker,
        heartbeat_timeout_s=workers.heartbeat_timeout_s,
        stall_timeout_s=workers.stall_timeout_s,
        start_timeout_s=workers.start_timeout_s,
        cancel_grace_s=workers.cancel_grace_s,
    )


@asynccontextmanager
async def backend(
    settings: Settings,
    *,
    with_web: bool = True,
    now: Callable[[], datetime] = utc_now,
    forced: asyncio.Event | None = None,
) -> AsyncIterator[Backend]:
    """Run the backend. Set `forced` to shut down without waiting for running jobs.

    Raises `ConfigurationError`, or `StoreFailed` if the database cannot be used.
    """
    root = prepare_folder(settings.data_dir)
    for problem in add_own_models(settings.models_dir):
        log.warning(problem)
    media = media_limits(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(exclusive_lock(root / "stemify.lock"))
        listening = stack.enter_context(_listen(settings)) if with_web else None
        store = await JobStore.open(root / "stemify.sqlite3", now=now)
        stack.push_async_callback(store.close)
        storage, progress = open_storage(root, settings.storage, patience_s=_PATIENCE_S), ProgressTracker()
        await storage.prepare()
        links = Links(load_key(root / "keys" / "links.key"), _base_url(settings, listening), settings.web.cdn_url)
        no_limit_for = "ip:" if is_private_page(settings.web) else None
        quota = Quota(
            store.database,
            per_hour=settings.limits.jobs_per_hour,
            mixes_per_hour=settings.mixes.per_hour,
            now=now,
            no_limit_for=no_limit_for,
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        pool = await _pool(settings)
        youtube, disk_space = _youtube(settings), DiskSpace(root, settings.limits.free_disk_bytes)
        fetch_link = LinkFetcher(youtube, storage, disk_space, media)
        workers, limits, retention = settings.workers, settings.limits, settings.retention
        max_duration_s, keep_inputs = limits.input_duration_s, retention.input_days > 0
        runner = JobRunner(
            store, storage, pool, fetch_link, workers, max_duration_s, progress, quota, keep_inputs=keep_inputs
        )
        dispatcher = Dispatcher(store, runner, progress, root / "handover.json", max_attempts=workers.max_attempts)
        queue_limits = QueueLimits(
            per_owner=limits.queued_per_user, per_scope=limits.queued_per_scope, total=limits.queued_total
        )
        blocked = BlockList(store.database, limits.blocked_owners)
        usage = Usage(store.database, limits.stored_bytes_per_user)
        admission = Admission(store, quota, disk_space, queue_limits, blocked, usage)
        lifetime, link_lifetime = timedelta(days=retention.stems_days), timedelta(days=settings.web.link_lifetime_days)
        repeats = Repeats(store, storage, pool, runner.cleanup, lifetime=lifetime, now=now)
        acceptance = Acceptance(store, storage, pool, queue_limits, quota, repeats if retention.reuse_results else None)
        keys = RequestKeys(store.database, now)
        intake = Intake(store, quota, admission, acceptance, storage, youtube, settings, media, http, keys, now)
        resubmission = Resubmission(store, quota, admission, acceptance, storage, now)
        presenter = JobPresenter(store, pool, progress, links, link_lifetime)
        mixer = Mixer(store, storage, quota, usage, disk_space, blocked, settings.mixes)
        await mixer.prepare()
        stack.push_async_callback(mixer.close)
        service = StemService(store, storage, pool, dispatcher, intake, resubmission, presenter, progress, mixer)
        await pool.start(on_change=dispatcher.wake)
        stack.push_async_callback(pool.stop)
        await dispatcher.start()
        stack.push_async_callback(dispatcher.stop, settings.workers.shutdown_grace_s, forced)
        steady = SteadyClock(root / "clock.json", now)
        sweeper = asyncio.create_task(Sweeper(store, storage, steady, retention).run(), name="sweeper")
        stack.push_async_callback(_cancel, sweeper)
        stages, sample = Stages(links), None
        if listening is not None:
            if settings.web.sample:
                sample = SampleSong(service, link_lifetime)
                stack.push_async_callback(_cancel, asyncio.create_task(sample.run(), name="sample"))
            app = create_app(service, settings, links, storage, stages, sample=sample, now=now)
            await _serve_web(app, listening, stack)
        yield Backend(service, links.base_url if with_web else None, stages, steady)
        if dispatcher.running:
            log.warning(
                "Shutting down: waiting up to %.0f s for %s (Ctrl-C again to skip). "
                "Unfinished jobs resume at the next start.",
                workers.shutdown_grace_s,
                plural(dispatcher.running, "running job"),
            )


async def _pool(settings: Settings) -> WorkerPool:
    gateway = _gateway(settings) if settings.cluster.address else None
    wanted = [] if gateway is not None and "auto" in settings.workers.devices else settings.workers.devices
    devices = await find_devices(wanted)
    configs = [worker_config(settings, device) for device in devices]
    return WorkerPool(configs, pool_limits(settings.workers), gateway=gateway)


def _gateway(settings: Settings) -> GatewayConfig:
    """Return the config of the gateway. Raises `ConfigurationError` if Ray is not installed."""
    if not ray_is_installed():
        raise ConfigurationError(
            "STEMIFY_CLUSTER__ADDRESS is set, but Ray is not installed here. Install it with: "
            "pip install -c constraints.txt '.[cluster]', or empty the setting to work on this machine alone."
        )
    cluster, workers = settings.cluster, settings.workers
    overrides: dict[str, Any] = {"cache_dir": str(cluster.node_dir / "models")}
    if settings.storage.url:  # otherwise all machines share the data folder
        overrides |= {"data_dir": str(cluster.node_dir / "workers"), "clears_scratch": True}
    on_nodes = worker_config(settings, "cpu").model_copy(update=overrides)
    return GatewayConfig(
        address=cluster.address,
        node_ip=cluster.node_ip,
        own_node=cluster.own_node,
        cpus_per_worker=cluster.cpus_per_worker,
        heartbeat_s=workers.heartbeat_s,
        worker=on_nodes,
        lease_s=workers.heartbeat_timeout_s,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def prepare_folder(data_dir: Path) -> Path:
    """Create the data folder. Raises `ConfigurationError` if it is not writable, or writable by other users."""
    root = data_dir.expanduser().absolute()
    try:
        private_folder(root)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        reason = f"The data folder {root} cannot be written: {error.strerror}. STEMIFY_DATA_DIR sets it."
        raise ConfigurationError(reason) from error
    return root


def _listen(settings: Settings) -> socket.socket:
    """Open the web server's socket. Port 0 selects a free port. Raises `ConfigurationError`."""
    host, port = settings.web.host, settings.web.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # create_server appends the address
        setting = "STEMIFY_WEB__PORT" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "STEMIFY_WEB__HOST"
        raise ConfigurationError(
            f"The web server cannot listen at {_at(host)}:{port}: {reason}. Change {setting}."
        ) from error


def _base_url(settings: Settings, listening: socket.socket | None) -> str:
    if settings.web.public_url:
        return settings.web.public_url
    return f"http://{_at(settings.web.host)}:{listening.getsockname()[1] if listening else settings.web.port}"


def _at(host: str) -> str:
    """Format a host for use before a port."""
    return f"[{host}]" if ":" in host else host


async def _serve_web(app: web.Application, listening: socket.socket, stack: contextlib.AsyncExitStack) -> None:
    runner = make_runner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await start_listening(runner, listening)


def _youtube(settings: Settings) -> Youtube:
    youtube = settings.youtube
    return Youtube(
        max_bytes=settings.limits.input_bytes,
        max_duration_s=settings.limits.input_duration_s,
        metadata_timeout_s=youtube.metadata_timeout_s,
        total_timeout_s=youtube.total_timeout_s,
        breaker_pause_s=youtube.breaker_pause_s,
        cookies_file=youtube.cookies_file,
        proxy=youtube.proxy,
        ca_file=youtube.ca_file,
        enabled=youtube.enabled,
    )


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ShutdownSignals:
    """SIGINT and SIGTERM of this process, from its creation in the running event loop."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.forced = asyncio.Event()
        """Set by a second signal: do not wait for running jobs. They are still handed back."""
        self._loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._handle)

    def _handle(self) -> None:
        if self.requested.is_set():
            self.forced.set()
            for number in _SIGNALS:  # a third one has its default effect
                self._loop.remove_signal_handler(number)
        self.requested.set()
