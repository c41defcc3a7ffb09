"""A real backend with a tiny model, and a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from config.settings import load
from engine.errors import DiskFull, ModelUnavailable
from engine.service.service import StemService
from engine.service.stages import Stages
from tests.fixtures.backend_server import running_backend, served
from tests.fixtures.chromium import Browser, check_present, open_browser
from tests.fixtures.planted_results import RATE, plant, plant_failed, plant_long
from tests.fixtures.songs import Samples, tune
from tests.fixtures.tiny_models import write_model

TOKEN = "a-token-of-the-tests"
LONG_S = 600
CLICKS_S = (301.5, 597.25)
BEATS_S = [0.25 + 0.5 * beat for beat in range(29)]
_CLEAR_STORAGE_ONCE = """
    if (location.protocol.startsWith("http") && sessionStorage.getItem("test") !== "TEST") {
        localStorage.clear();
        sessionStorage.clear();
        sessionStorage.setItem("test", "TEST");
    }
"""
CHORDS = [{"start": 0.0, "end": 8.25, "chord": "Am"}, {"start": 8.25, "end": 15.0, "chord": "F"}]


@dataclass(frozen=True)
class Site:
    url: str
    data: Path
    downloads: Path
    known: Samples  # the audio of each planted stem, (2, samples)
    planted: dict[str, str]  # format, or "long" → job id
    stages: Stages
    service: StemService

    def page(self, name: str) -> str:
        return f"{self.url}/jobs/{self.planted[name]}"

    def file(self, kind: str, stem: str) -> Path:
        suffix = kind if kind in ("flac", "wav") else "mp3"
        return self.data / "jobs" / self.planted[kind] / "a1" / f"{stem}.{suffix}"


def known_sound() -> Samples:
    """Make 15 s that never repeat: noise on a tune."""
    noise = np.random.default_rng(5).normal(0, 0.08, (2, 15 * RATE)).astype(np.float32)
    return np.asarray(tune(15) * 0.5 + noise, dtype=np.float32)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    check_present()
    root = tmp_path_factory.mktemp("site")
    data, models = root / "data", root / "models"
    data.mkdir()
    write_model(models)
    known = known_sound()
    planted = asyncio.run(_plant(data, known))
    workers = {"devices": ["cpu"], "threads": 1, "compile": False, "heartbeat_timeout_s": 120}  # tests stop the worker
    settings = load(
        data_dir=data,
        models_dir=models,
        web={"port": 0},
        workers=workers,
        limits={"jobs_per_hour": 100},
        mixes={"niceness": 0},  # so that mixes do not wait for other tests
    )
    with running_backend(settings) as running:
        yield Site(str(running.web_url), data, root / "downloads", known, planted, running.stages, running.service)


@pytest.fixture
def closed_site(site: Site, tmp_path: Path) -> Iterator[Site]:
    """Run a second backend that requires a token."""
    workers = {"devices": ["cpu"], "threads": 1, "compile": False}
    web = {"port": 0, "api_tokens": [TOKEN]}
    data = tmp_path / "closed"
    models = site.data.parent / "models"
    with served(load(data_dir=data, models_dir=models, web=web, workers=workers, mixes={"niceness": 0})) as url:
        yield replace(site, url=url, data=data, planted={})


async def _plant(data: Path, known: Samples) -> dict[str, str]:
    names = ("vocals", "drums", "bass", "other")
    music: dict[str, Any] = {"beats": {"beats": BEATS_S, "downbeats": BEATS_S[::4]}, "chords": CHORDS}
    planted = {
        kind: await plant(
            data, dict.fromkeys(names, known), title=f"Known {kind}", artist="The Testers", kind=kind, **music
        )
        for kind in ("mp3", "flac", "wav")
    }
    drawn = ("drums", "bass", "other", "vocals")
    six = (*names, "guitar", "piano")
    long_title = "A title that is much too long for one line of a phone, with-a-word-that-cannot-be-broken-anywhere"
    planted["six"] = await plant(data, dict.fromkeys(six, known[:, :RATE]), title=long_title, **music)
    planted["karaoke"] = await plant(
        data, dict.fromkeys(("vocals", "instrumental"), known[:, :RATE]), title="Sung by you"
    )
    planted["as drawn"] = await plant(data, dict.fromkeys(drawn, known[:, :RATE]), title="As drawn")
    planted["gone"] = await plant(data, dict.fromkeys(names, known[:, :RATE]), title="Soon gone")
    planted["long"] = await plant_long(data, seconds=LONG_S, clicks_at_s=CLICKS_S)
    planted["no weights"] = await plant_failed(data, ModelUnavailable, title="Without weights")
    planted["no room"] = await plant_failed(data, DiskFull, title="Without room")
    return planted


@pytest.fixture(scope="session")
def _one_browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    site.downloads.mkdir()
    with open_browser(tmp_path_factory.mktemp("profile"), site.downloads) as browser:
        yield browser


@pytest.fixture
def browser(_one_browser: Browser) -> Iterator[Browser]:
    """Reset the browser, which all tests share because it starts slowly."""
    _one_browser.get("about:blank")
    _one_browser.console_errors()
    _one_browser.emulate_screen(1280, 900)
    # Clearing the storage from outside does not reach the copy of a renderer that is used again.
    source = _CLEAR_STORAGE_ONCE.replace("TEST", uuid4().hex)
    script = _one_browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    yield _one_browser
    _one_browser.get("about:blank")  # stops playback
    _one_browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
