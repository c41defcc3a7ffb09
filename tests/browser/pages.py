"""Open the pages, use their forms, and read their states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.fixtures.chromium import Browser


def submit(browser: Browser, site: Site, song: Path) -> None:
    browser.get(f"{site.url}/")
    choose(browser, song)
    browser.find_element(By.ID, "go").click()


def choose(browser: Browser, song: Path) -> None:
    browser.until("return document.getElementById('model').options.length > 0")
    browser.find_element(By.ID, "file").send_keys(str(song))


def is_open(browser: Browser) -> None:
    browser.until("return document.getElementById('player')?.dataset.state === 'paused'", timeout_s=90)
    browser.until("return !document.getElementById('practice').inert")


def downloaded(folder: Path, name: str, browser: Browser) -> Path:
    for _ in range(100):
        found = [path for path in folder.iterdir() if path.match(name)]
        if found:
            return found[0]
        browser.run_async("await new Promise((resolve) => setTimeout(resolve, 100));")
    raise AssertionError(f"{name} did not arrive: {[path.name for path in folder.iterdir()]}")


def open_start(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")


def open_player(browser: Browser, url: str) -> None:
    browser.get(url)
    is_open(browser)


def open_job(browser: Browser, site: Site, name: str = "mp3") -> None:
    open_player(browser, site.page(name))


def refused(browser: Browser, site: Site) -> None:
    open_start(browser, site)
    browser.execute_script("document.querySelector('#form details').open = true")
    browser.find_element(By.ID, "go").click()
    browser.until("return !document.getElementById('error').hidden")


def show_progress(browser: Browser, **state: Any) -> None:
    """Show the open job as one that is not finished."""
    browser.run_async(
        """
        const { showProgress } = await import("/static/progress.js");
        const { job } = await import("/static/job.js");
        document.getElementById("player").hidden = true;
        showProgress({ ...job, mayChange: true, ...args[0] });
        """,
        state,
    )


def running(browser: Browser, site: Site) -> None:
    open_job(browser, site)
    show_progress(browser, status="processing", stage="separating", progress=41, etaS=170)


def failed(browser: Browser, site: Site) -> None:
    browser.get(site.page("no room"))
    browser.until("return document.getElementById('failure').checkVisibility()")


def practise(browser: Browser) -> None:
    browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        mixer.player.setPart({ start: 3, end: 8 });
        mixer.mix.toggleMute("drums");
        mixer.mix.toggleSolo("bass");
        document.getElementById("details").open = true;
        """
    )


def practising(browser: Browser, site: Site) -> None:
    open_job(browser, site)
    practise(browser)


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
