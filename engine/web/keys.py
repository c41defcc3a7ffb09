"""Typed application keys of what the handlers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from config.settings import Settings
from engine.service.links import Links
from engine.service.sample import SampleSong
from engine.service.service import StemService
from engine.service.stages import Stages
from engine.storage.storage import Storage
from engine.web.access import Access
from engine.web.metrics import Metrics

SERVICE = web.AppKey("service", StemService)
SAMPLE: web.AppKey[SampleSong | None] = web.AppKey("sample")
STAGES = web.AppKey("stages", Stages)
SETTINGS = web.AppKey("settings", Settings)
LINKS = web.AppKey("links", Links)
STORAGE: web.AppKey[Storage] = web.AppKey("storage")
ACCESS = web.AppKey("access", Access)
METRICS = web.AppKey("metrics", Metrics)
NOW = web.AppKey[Callable[[], datetime]]("now")
CLOSING = web.AppKey("closing", asyncio.Event)
"""Set when the server shuts down, to end event streams."""
