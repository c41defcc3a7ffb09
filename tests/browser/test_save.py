"""Saving the mix that is heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import TOKEN, Site
from tests.browser.pages import downloaded, is_open, submit
from tests.browser.playback import set_fader
from tests.fakes.slow_line import Line
from tests.fixtures.chromium import Browser
from tests.fixtures.mix_server import samples_of
from tests.fixtures.planted_results import RATE
from tests.fixtures.songs import make_song


def press(browser: Browser, stem: str, word: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f".lane[data-stem={stem}] .{word}").click()


def save(browser: Browser, kind: str | None = None) -> None:
    if kind is not None:
        browser.find_element(By.CSS_SELECTOR, f"#save-format option[value={kind}]").click()
    button = browser.find_element(By.ID, "save-mix")
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", button)  # the transport may cover it
    button.click()


def words(browser: Browser, beginning: str) -> str:
    text = "document.getElementById('save-words').textContent"
    found: str = browser.until(f"return {text}.startsWith(arguments[0]) && {text}", beginning, timeout_s=90)
    return found


def test_saved_mix_is_what_is_heard(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.get(site.page("wav"))
    is_open(browser)
    assert browser.find_element(By.ID, "save-format").get_attribute("value") == "wav"
    set_fader(browser, "bass", 50)
    set_fader(browser, "other", 60)
    press(browser, "bass", "solo")
    press(browser, "other", "solo")
    save(browser, "flac")
    filename = "Known wav (no vocals, no drums, bass −12 dB, other −8.9 dB).flac"
    assert words(browser, "Saved").startswith(f"Saved: {filename}, ")
    mix, _ = samples_of(downloaded(site.downloads, filename, browser), tmp_path)
    assert mix.shape == site.known.shape
    assert float(np.abs(mix - (0.5**2 + 0.6**2) * site.known).max()) < 1e-5
    assert browser.console_errors() == []


def test_saved_mix_has_the_part_that_is_repeated(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.get(site.page("wav"))
    is_open(browser)
    browser.run_async("(await import('/static/job.js')).mixer.player.setPart({ start: 2, end: 5.5 });")
    browser.run_async("(await import('/static/job.js')).mixer.mix.setPan('bass', 0.5);")
    save(browser, "wav")
    filename = "Known wav (panned, 0.02–0.06).wav"
    words(browser, f"Saved: {filename}")
    mix, _ = samples_of(downloaded(site.downloads, filename, browser), tmp_path)
    left, right = site.known[:, 2 * RATE : round(5.5 * RATE)]
    share = 0.5**0.5  # of the left channel, on both sides
    panned = np.stack([(3 + share) * left, 4 * right + share * left])
    level = float(np.abs(panned).max())
    assert float(np.abs(mix - panned / max(1.0, level)).max()) < 1e-3


def test_failed_mix_says_why_and_can_be_repeated(browser: Browser, site: Site) -> None:
    with Line(site.url) as line:
        browser.get(replace(site, url=line.url).page("mp3"))
        is_open(browser)
        for stem in ("vocals", "drums", "bass", "other"):
            press(browser, stem, "mute")
        save(browser)
        words(browser, "All stems are silent.")
        press(browser, "drums", "mute")
        assert browser.find_element(By.ID, "save-words").text == ""
        line.cut(behind_a_proxy=False)
        save(browser)
        words(browser, "The server cannot be reached.")
        line.mend()
        save(browser)
        words(browser, "Saved: Known mp3 (only drums).mp3")
        assert downloaded(site.downloads, "Known mp3 (only drums).mp3", browser).stat().st_size > 0


def test_page_link_without_token_saves_mix(browser: Browser, closed_site: Site, tmp_path: Path) -> None:
    make_song(tmp_path / "A song.mp3", seconds=2)
    submit(browser, closed_site, tmp_path / "A song.mp3")
    browser.find_element(By.ID, "token").send_keys(TOKEN + Keys.ENTER)
    is_open(browser)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    is_open(browser)
    press(browser, "vocals", "mute")
    save(browser, "mp3")
    words(browser, "Saved: A song (karaoke).mp3")
    assert downloaded(closed_site.downloads, "A song (karaoke).mp3", browser).stat().st_size > 0
