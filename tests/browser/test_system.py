"""What the player offers to the system: media keys, one playing tab, a screen that stays on, installation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.conftest import Site
from tests.browser.pages import is_open
from tests.browser.playback import RECORD_LOCKS
from tests.fixtures.chromium import Browser

_RECORD = """
    window.actions = {};
    const set = MediaSession.prototype.setActionHandler;
    MediaSession.prototype.setActionHandler = function (name, action) {
        window.actions[name] = action;
        return set.call(this, name, action);
    };
"""


def open_recorded(browser: Browser, site: Site) -> None:
    recording = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORD_LOCKS + _RECORD})
    browser.get(site.page("mp3"))
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", recording)
    is_open(browser)


def until_state(browser: Browser, state: str) -> None:
    browser.until("return document.getElementById('player').dataset.state === arguments[0]", state)


def act(browser: Browser, name: str, details: dict[str, Any] | None = None) -> None:
    browser.execute_script("actions[arguments[0]](arguments[1])", name, details or {})


def position(browser: Browser) -> float:
    found: float = browser.run_async("return (await import('/static/job.js')).mixer.player.position")
    return found


def test_media_keys_control_the_player(browser: Browser, site: Site) -> None:
    open_recorded(browser, site)
    shown = browser.execute_script("const { title, artist } = navigator.mediaSession.metadata; return [title, artist]")
    assert shown == ["Known mp3", "The Testers"]
    act(browser, "seekto", {"seekTime": 4})
    act(browser, "seekforward", {"seekOffset": 5})
    act(browser, "seekbackward")
    assert position(browser) == 0
    act(browser, "play")
    until_state(browser, "playing")
    browser.until("return navigator.mediaSession.playbackState === 'playing'")
    act(browser, "pause")
    until_state(browser, "paused")
    browser.until("return navigator.mediaSession.playbackState === 'paused'")
    assert browser.console_errors() == []


def test_screen_stays_on_while_the_song_plays(browser: Browser, site: Site) -> None:
    open_recorded(browser, site)
    act(browser, "play")
    browser.until("return locks.length === 1 && locks[0].held")
    act(browser, "pause")
    browser.until("return locks.length === 1 && !locks[0].held")


def test_tab_that_starts_pauses_the_other(browser: Browser, site: Site) -> None:
    open_recorded(browser, site)
    first = browser.current_window_handle
    act(browser, "play")
    until_state(browser, "playing")
    browser.switch_to.new_window("tab")
    try:
        open_recorded(browser, site)
        act(browser, "play")
        until_state(browser, "playing")
    finally:
        browser.close()
        browser.switch_to.window(first)
    until_state(browser, "paused")


@pytest.mark.parametrize("page", ["/", "mp3"])
def test_page_can_be_installed(browser: Browser, site: Site, page: str) -> None:
    browser.get(f"{site.url}/" if page == "/" else site.page(page))
    found = browser.execute_cdp_cmd("Page.getAppManifest", {})
    assert found["errors"] == []
    for each in json.loads(found["data"])["icons"]:
        size = browser.run_async(
            """
            const image = new Image();
            image.src = args[0];
            await image.decode();
            return `${image.naturalWidth}x${image.naturalHeight}`;
            """,
            each["src"],
        )
        assert each["sizes"] in ("any", size)
