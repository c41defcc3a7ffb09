"""Read and change the state of the player."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from selenium.webdriver.common.by import By

from tests.fixtures.chromium import Browser
from tests.fixtures.planted_results import RATE

RECORD_LOCKS = """
    window.locks = [];
    navigator.wakeLock.request = async (kind) => {
        const lock = { kind, held: true, release: () => (lock.held = false) };
        window.locks.push(lock);
        return lock;
    };
"""


def decoded(path: Path) -> NDArray[np.float32]:
    """Decode a file to (channels, samples) with FFmpeg."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


def levels(browser: Browser) -> dict[str, float]:
    """Return the RMS after the faders, by stem and of "all", once the faders have settled."""
    found: dict[str, float] = browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        await new Promise((resolve) => setTimeout(resolve, 400));
        const rms = (analyser) => {
            const samples = new Float32Array(analyser.fftSize);
            analyser.getFloatTimeDomainData(samples);
            return Math.sqrt(samples.reduce((sum, each) => sum + each * each, 0) / samples.length);
        };
        const { stems, meter } = mixer.player;
        return Object.fromEntries([["all", rms(meter)], ...stems.map((stem) => [stem.name, rms(stem.meter)])]);
        """
    )
    return found


def player(browser: Browser, expression: str) -> Any:
    """Return the value of an expression about `player`, `view` or `mix`."""
    names = "const { mixer } = await import('/static/job.js'), { player, view, mix } = mixer;"
    return browser.run_async(f"{names} return {expression};")


def part(browser: Browser) -> tuple[float, float] | None:
    found = player(browser, "player.part")
    return None if found is None else (found["start"], found["end"])


def words(browser: Browser, beginning: str) -> str:
    text = "document.getElementById('version-words').textContent"
    found: str = browser.until(f"return {text}.startsWith(arguments[0]) && {text}", beginning, timeout_s=120)
    return found


def value(browser: Browser, name: str) -> str:
    return str(browser.find_element(By.ID, name).get_property("value"))


def set_fader(browser: Browser, stem: str, percent: int) -> None:
    browser.execute_script(
        """
        const fader = document.querySelector(`.lane[data-stem=${arguments[0]}] .fader`);
        fader.value = arguments[1];
        fader.dispatchEvent(new Event("input"));
        """,
        stem,
        percent,
    )
