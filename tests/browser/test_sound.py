"""Sample-accurate playback of the stems in every format, from any position."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import CLICKS_S, LONG_S, Site
from tests.browser.pages import open_player
from tests.browser.playback import decoded, levels
from tests.fixtures.chromium import Browser, floats
from tests.fixtures.planted_results import RATE
from tests.fixtures.recording import lag, record

_PIECE = 8192


def sync_error_samples(heard: NDArray[np.float32]) -> int:
    """Return the largest lag between stems in samples.

    All stems play the same sound. A busy machine loses recorded samples, but of all stems at once.
    """
    if all(np.array_equal(heard[0], stem) for stem in heard[1:]):
        return 0
    pieces = [heard[:, start : start + _PIECE] for start in range(16384, heard.shape[1] - _PIECE, _PIECE)]
    return max(abs(lag(stem, piece[0])) for piece in pieces for stem in piece[1:])


@pytest.mark.parametrize("kind", ["mp3", "flac", "wav"])
def test_stems_are_sample_aligned_after_every_seek(browser: Browser, site: Site, kind: str) -> None:
    open_player(browser, site.page(kind))
    for position in (0.0, 9.3):
        heard = record(browser, 2.8, position=position)
        assert np.abs(heard[:, -RATE:]).max(axis=1).min() > 0.1, f"too little was heard from {position} s on"
        assert sync_error_samples(heard) == 0  # the requirement is 20 ms


@pytest.mark.parametrize(("kind", "exact_within"), [("mp3", 1e-3), ("flac", 2e-7), ("wav", 2e-7)])
def test_windows_join_exactly_like_the_file(browser: Browser, site: Site, kind: str, exact_within: float) -> None:
    """Read windows at arbitrary positions, as the player does, and join them."""
    open_player(browser, site.page(kind))
    starts = [0, 88_200, 88_200 * 3 + 17, 12 * RATE]
    texts = browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        const text = (samples) => btoa([...new Uint8Array(samples.buffer)].map((b) => String.fromCharCode(b)).join(""));
        const out = [];
        for (const start of args[0]) out.push(text((await mixer.player.version.sources[1].read(start, 20000))[1]));
        return [mixer.player.version.samples, out];
        """,
        starts,
    )
    length, windows = texts
    truth = decoded(site.file(kind, "drums"))[1]
    assert length == site.known.shape[1]
    for start, text in zip(starts, windows, strict=True):
        assert float(np.abs(floats(text) - truth[start : start + 20000]).max()) <= exact_within


def test_ten_minutes_keep_only_seconds_in_memory(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("long"))
    for click_s in CLICKS_S:
        heard = record(browser, 1.2, position=click_s - 0.4)
        peaks = np.abs(heard).argmax(axis=1)
        assert np.abs(heard).max() > 0.5, "the click was not heard"
        assert int(peaks.max() - peaks.min()) == 0
    held, duration = browser.run_async(
        "const { mixer } = await import('/static/job.js'); return [mixer.player.heldBytes, mixer.player.duration];"
    )
    assert duration == pytest.approx(LONG_S)
    whole = LONG_S * RATE * 2 * 4 * 4
    assert 0 < held < 30e6 < whole


def test_solo_silences_others_and_mute_only_its_stem(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    browser.find_element("id", "play").click()
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    everything = levels(browser)
    assert min(everything.values()) > 0.02

    solo = "document.querySelector('[data-stem=drums] .solo').click()"
    browser.execute_script(solo)
    soloed = levels(browser)
    assert soloed["drums"] > 0.02
    assert max(soloed[name] for name in ("vocals", "bass", "other")) < 1e-6
    assert soloed["all"] == pytest.approx(soloed["drums"], rel=0.5)

    browser.execute_script(solo)
    browser.execute_script("document.querySelector('[data-stem=vocals] .mute').click()")
    muted = levels(browser)
    assert muted["vocals"] < 1e-6 < 0.02 < min(muted[name] for name in ("drums", "bass", "other"))
    assert browser.find_element("xpath", "//button[text()='Karaoke']").get_attribute("aria-pressed") == "true"


def test_slow_line_is_buffered_before_it_plays_on(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("wav"))
    asked = browser.run_async(
        """
        const { mixer: { player } } = await import("/static/job.js");
        const has = player.version.has.bind(player.version);
        window.arrived = 1; // windows
        window.asked = 0;
        player.version.has = (window_) => (window.asked++, window_ < window.arrived && has(window_));
        await player.play();
        const become = (state) => new Promise((resolve) => {
          const look = () => player.state === state && (player.removeEventListener("state", look), resolve());
          player.addEventListener("state", look);
          look();
        });
        await become("playing");
        await become("waiting");
        window.arrived = 3;
        return window.asked;
        """
    )
    browser.until("return window.asked > arguments[0] + 10", asked)
    assert browser.execute_script("return document.getElementById('player').dataset.state") == "waiting"
    browser.execute_script("window.arrived = Infinity")
    browser.until("return document.getElementById('player').dataset.state === 'playing'")


def test_slow_line_plays_a_preview(browser: Browser, site: Site) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    line = {"offline": False, "latency": 50, "downloadThroughput": 50_000, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", line)
    heard = "return (await import('/static/job.js')).mixer.player.version.isPreview"
    try:
        open_player(browser, site.page("mp3"))
        assert browser.run_async(heard) is False
        browser.find_element(By.ID, "play").click()
        browser.until(
            "return document.getElementById('version-words').textContent.startsWith('Now as a preview')", timeout_s=120
        )
        browser.until("return document.getElementById('player').dataset.state === 'playing'", timeout_s=60)
        assert browser.run_async(heard) is True
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", line | {"latency": 0, "downloadThroughput": -1})
    browser.find_element(By.ID, "full-quality").send_keys(Keys.ENTER)
    browser.until("return document.getElementById('version-words').textContent === 'Now as recorded.'")
    assert browser.run_async(heard) is False
