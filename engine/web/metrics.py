"""Prometheus metrics of the backend, in a separate registry."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.jobs.job import JobStatus
from engine.service.service import ServiceSnapshot


class Metrics(Collector):
    """HTTP request counts, and the last service snapshot as metric families."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._snapshot: ServiceSnapshot | None = None
        self._requests = Counter(
            "stemify_http_requests",
            "HTTP requests by route, method and status",
            ("route", "method", "status"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def count(self, request: web.Request, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        method = request.method if request.method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"
        self._requests.labels(route, method, str(response.status)).inc()

    def text(self, snapshot: ServiceSnapshot) -> bytes:
        self._snapshot = snapshot
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        if self._snapshot is None:
            return
        yield from _of_jobs(self._snapshot)
        yield from _of_work(self._snapshot)
        yield from _of_workers(self._snapshot)


def _of_jobs(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("stemify_jobs", "Jobs that are not archived, by state", labels=["state"])
    for status in JobStatus:
        jobs.add_metric([status], snapshot.jobs.get(status, 0))
    yield jobs
    depth = snapshot.jobs.get(JobStatus.PENDING, 0)
    yield GaugeMetricFamily("stemify_queue_depth", "Jobs waiting for a worker", value=depth)


def _of_work(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    stages = CounterMetricFamily("stemify_stage_seconds", "Seconds spent in each stage, all attempts", labels=["stage"])
    for stage, seconds in snapshot.stage_seconds.items():
        stages.add_metric([stage], seconds)
    yield stages
    audio_s, processing_s = snapshot.audio_seconds, snapshot.processing_seconds
    yield CounterMetricFamily("stemify_audio_seconds", "Seconds of audio separated", value=audio_s)
    yield CounterMetricFamily("stemify_processing_seconds", "Seconds spent separating it", value=processing_s)
    if audio_s > 0:
        yield GaugeMetricFamily(
            "stemify_real_time_factor",
            "Processing seconds per second of audio since the start (below 1: faster than it plays)",
            value=processing_s / audio_s,
        )


def _of_workers(snapshot: ServiceSnapshot) -> Iterable[Metric]:
    up = GaugeMetricFamily("stemify_worker_up", "Whether the worker of a device is ready", labels=["device"])
    running = GaugeMetricFamily("stemify_worker_attempts", "Attempts running on a worker", labels=["device"])
    deaths = CounterMetricFamily("stemify_worker_deaths", "Crashes of a worker", labels=["device"])
    resident = GaugeMetricFamily("stemify_worker_resident_bytes", "Memory of a worker process", labels=["device"])
    memory = GaugeMetricFamily("stemify_device_memory_bytes", "Memory in use on a device", labels=["device"])
    for worker in snapshot.workers:
        up.add_metric([worker.device], worker.ready)
        running.add_metric([worker.device], worker.attempts)
        deaths.add_metric([worker.device], worker.deaths)
        resident.add_metric([worker.device], worker.rss_bytes)
        if worker.device_bytes is not None:
            memory.add_metric([worker.device], worker.device_bytes)
    yield from (up, running, deaths, resident, memory)


CONTENT_TYPE = CONTENT_TYPE_LATEST
