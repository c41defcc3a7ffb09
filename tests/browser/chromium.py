"""Debian's Chromium, driven by Debian's chromedriver: nothing is downloaded, nothing is shared between two starts."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--autoplay-policy=no-user-gesture-required",
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",  # a mouse
    "--enable-precise-memory-info", "--js-flags=--expose-gc",
)  # fmt: skip


def check_present() -> None:
    """Skip, with the reason, where there is no Chromium; CI must have one."""
    missing = [path for path in (CHROMIUM, DRIVER) if not Path(path).exists()]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Browser(webdriver.Chrome):
    def until(self, script: str, *arguments: Any, timeout_s: float = 30) -> Any:
        """The script's value, as soon as it is true."""
        return WebDriverWait(self, timeout_s, poll_frequency=0.1).until(
            lambda driver: driver.execute_script(script, *arguments), f"never true: {script}"
        )

    def awaited(self, body: str, *arguments: Any) -> Any:
        """What an async function with this body returns. The modules of the page are its own: `import` gives them."""
        script = f"""
            const done = arguments[arguments.length - 1];
            (async (...given) => {{ {body} }})(...[...arguments].slice(0, -1))
                .then((value) => done({{ value }}))
                .catch((error) => done({{ error: String(error?.stack ?? error) }}));
        """
        answer = self.execute_async_script(script, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def complaints(self) -> list[str]:
        """What the page has complained about on the console since the last call (blocked by the policy, errors)."""
        entries: list[dict[str, str]] = self.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def show_as(self, width: int, height: int, *, dark: bool = False, scale: float = 1, mobile: bool = False) -> None:
        """As on a screen of that size, in CSS pixels, with `scale` times as many real ones."""
        self.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile},
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def shoot(self, path: Path, *, whole: bool = True) -> None:
        picture = self.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def open_browser(profile: Path, downloads: Path) -> Iterator[Browser]:
    options = Options()
    options.binary_location = CHROMIUM
    for switch in (*_SWITCHES, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = Browser(options=options, service=Service(executable_path=DRIVER))
    try:
        browser.set_script_timeout(60)
        yield browser
    finally:
        browser.quit()
        shutil.rmtree(profile, ignore_errors=True)


def floats(text: str) -> NDArray[np.float32]:
    """Samples that a script returned as base64."""
    return np.frombuffer(base64.b64decode(text), dtype=np.float32)
