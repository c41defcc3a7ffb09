"""User journeys in a real browser against a real backend."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from engine.jobs.entity import new_job_id
from tests.browser.conftest import TOKEN, Site
from tests.browser.pages import downloaded, is_open, submit
from tests.fakes.slow_line import Line
from tests.fixtures.chromium import Browser
from tests.fixtures.service_jobs import stopped, worker_pid
from tests.fixtures.songs import make_song

# Record every text of the stage line, across page loads.
_NOTE_STAGES = """
    new MutationObserver(() => {
        const words = document.getElementById("stage")?.textContent;
        if (words) sessionStorage.setItem("stages", (sessionStorage.getItem("stages") ?? "") + "|" + words);
    }).observe(document, { childList: true, subtree: true });
"""


def test_upload_plays_and_downloads_stems(browser: Browser, site: Site, tmp_path: Path) -> None:
    song = tmp_path / "Sunny side.mp3"
    make_song(song, seconds=12)
    noting = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NOTE_STAGES})
    submit(browser, site, song)
    is_open(browser)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", noting)
    assert "/jobs/" in browser.current_url and "s=" in browser.current_url
    assert browser.execute_script("return sessionStorage.getItem('stages')"), "no progress was shown"
    assert browser.find_element(By.ID, "title").text == "Sunny side"
    numbers = browser.execute_script("return document.getElementById('numbers').textContent")
    assert numbers.count("dBFS, peak") == 4 and "of the mix" in numbers and re.search(r"Seed\d+", numbers), numbers

    browser.find_element(By.ID, "play").click()
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    browser.until("return /^0:0[1-9]/.test(document.getElementById('time').textContent)")
    browser.find_element(By.ID, "play").click()

    browser.find_element(By.ID, "zip").click()
    with zipfile.ZipFile(downloaded(site.downloads, "*.zip", browser)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 4
    stem = browser.find_element(By.CSS_SELECTOR, ".lane[data-stem=drums] a")
    stem.click()
    assert downloaded(site.downloads, "*drums*.mp3", browser).name == stem.get_attribute("download")
    assert browser.console_errors() == []

    browser.get(f"{site.url}/")
    assert "Sunny side" in browser.find_element(By.ID, "recent").text


def test_running_job_can_be_cancelled(browser: Browser, site: Site, tmp_path: Path) -> None:
    song = tmp_path / "long.flac"
    make_song(song, seconds=60)
    submit(browser, site, song)
    browser.until("return document.getElementById('cancel')?.checkVisibility()", timeout_s=60)
    browser.find_element(By.ID, "cancel").click()
    browser.until("return document.getElementById('failure').checkVisibility()")
    assert browser.find_element(By.ID, "failure-title").text == "Cancelled"
    browser.until("return document.getElementById('status').textContent === 'Cancelled'")
    assert browser.switch_to.active_element.get_attribute("id") == "title"
    assert not browser.find_element(By.ID, "retry").is_displayed()  # its file was deleted


@pytest.mark.parametrize("behind_a_proxy", [False, True], ids=["alone", "behind a proxy"])
def test_page_reports_lost_connection_and_reconnects(
    browser: Browser, site: Site, tmp_path: Path, behind_a_proxy: bool
) -> None:
    song = tmp_path / "long.flac"
    make_song(song, seconds=60)
    with Line(site.url) as line:
        submit(browser, replace(site, url=line.url), song)
        browser.until("return document.getElementById('stage')?.textContent === 'Separating the stems'", timeout_s=60)
        with stopped(worker_pid(site.service)):
            line.cut(behind_a_proxy=behind_a_proxy)
            browser.until("return document.getElementById('stage').textContent.includes('Connection lost')")
            shown = browser.find_element(By.ID, "progress").text
            assert "left" not in shown and "%" not in shown and "Cancel" not in shown
            assert browser.title.startswith("No connection")
            asked = (
                "return performance.getEntriesByType('resource')"
                ".filter((each) => each.name.includes(arguments[0])).length"
            )
            browser.until(f"{asked} > 1", "player.json" if behind_a_proxy else "events")
            assert not browser.find_element(By.ID, "notice").is_displayed()
            moving = "return getComputedStyle(document.querySelector('.bars i')).animationPlayState"
            assert browser.execute_script(moving) == "paused"
            line.mend()
            browser.until("return !document.querySelector('.lost')?.checkVisibility()")
            assert browser.find_element(By.ID, "stage").text == "Separating the stems"
            assert "%" in browser.find_element(By.ID, "share").text
            assert browser.execute_script(moving) == "running"
            browser.find_element(By.ID, "cancel").click()
        browser.until("return document.getElementById('failure').checkVisibility()")


def test_unavailable_model_offers_retry_with_mini(browser: Browser, site: Site) -> None:
    for name, is_of_the_model in (("no room", False), ("no weights", True)):
        browser.get(site.page(name))
        browser.until("return document.getElementById('failure').checkVisibility()")
        assert browser.find_element(By.ID, "retry").is_displayed()
        assert browser.find_element(By.ID, "retry-mini").is_displayed() is is_of_the_model
    browser.find_element(By.ID, "retry-mini").click()
    browser.until("return !arguments[0].includes(location.pathname)", site.page("no weights"))
    is_open(browser)
    assert browser.find_element(By.ID, "title").text == "Without weights"
    assert browser.find_element(By.ID, "badges").text.startswith("mini")


def test_hostile_names_are_shown_as_text(browser: Browser, site: Site, tmp_path: Path) -> None:
    hostile = '<img src=x onerror="hacked=1">'
    song = tmp_path / f"{hostile}.wav"
    make_song(song, seconds=2)
    submit(browser, site, song)
    is_open(browser)
    title = browser.find_element(By.ID, "title")
    assert "img src=x onerror" in title.text
    assert title.find_elements(By.TAG_NAME, "img") == []
    assert browser.execute_script("return typeof hacked") == "undefined"
    browser.get(f"{site.url}/")
    assert "img src=x" in browser.find_element(By.ID, "recent").text
    assert browser.execute_script("return typeof hacked") == "undefined"


def test_refusal_shows_message_of_the_api(browser: Browser, site: Site, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp3"
    text.write_text("not a song at all " * 100)
    submit(browser, site, text)
    error = browser.until("return document.getElementById('error').textContent")
    assert error.startswith("That is not an audio file")
    assert browser.current_url == f"{site.url}/"

    browser.find_element(By.ID, "unchoose").click()
    browser.find_element(By.ID, "link").send_keys("https://example.com/song" + Keys.ENTER)
    browser.until("return document.getElementById('error').textContent.includes('YouTube')")


def test_page_asks_for_token_in_plain_words(browser: Browser, closed_site: Site, tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    make_song(song, seconds=2)
    submit(browser, closed_site, song)
    error, token, go = (browser.find_element(By.ID, name) for name in ("error", "token", "go"))
    assert error.text == "Enter the access token. Ask the server's operator for it."
    assert browser.switch_to.active_element == token
    token.send_keys("not the right one")
    go.click()
    browser.until("return document.getElementById('error').textContent.startsWith('This access token is wrong.')")
    browser.get(f"{closed_site.url}/jobs/{new_job_id()}")
    notice = browser.until("return document.getElementById('notice').textContent")
    assert notice.startswith("Open the whole link")

    submit(browser, closed_site, song)
    token = browser.find_element(By.ID, "token")
    token.clear()
    token.send_keys(TOKEN + Keys.ENTER)
    browser.until("return location.pathname.startsWith('/jobs/')")

    browser.get(f"{closed_site.url}/")
    browser.until("return !document.getElementById('forget-token').hidden")
    browser.find_element(By.ID, "forget-token").click()
    assert browser.find_element(By.ID, "token").get_attribute("value") == ""
    assert browser.execute_script("return localStorage.length && localStorage.getItem('stemify-token')") in (0, None)
    browser.get(f"{closed_site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")
    assert not browser.find_element(By.ID, "forget-token").is_displayed()


def test_too_large_file_is_not_sent(browser: Browser, site: Site, tmp_path: Path) -> None:
    with (tmp_path / "huge.wav").open("wb") as file:
        file.truncate(60 * 2**20)
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")
    browser.execute_script("XMLHttpRequest.prototype.send = () => (window.wasSent = true)")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "huge.wav"))
    error = browser.find_element(By.ID, "error")
    assert error.text == "This file has 60 MB, the limit is 50 MB. As FLAC or MP3 it fits."
    browser.find_element(By.ID, "go").click()
    assert error.text == "This file has 60 MB, the limit is 50 MB. As FLAC or MP3 it fits."
    assert browser.execute_script("return window.wasSent") is None


def test_chosen_model_shows_its_terms(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")
    hint = browser.execute_script(
        """
        const model = document.getElementById("model");
        model.value = "melband_vocals";
        model.dispatchEvent(new Event("change", { bubbles: true }));
        return document.getElementById("model-hint").textContent;
        """
    )
    assert "Vocals, instrumental · 6.8x the time · GPU advisable · weights: MIT · not downloaded, 913 MB." in hint
    assert hint.endswith("Source of the licence: the model's card at huggingface.co/KimberleyJSN/melbandroformer.")


def test_recent_songs_show_model_and_date(browser: Browser, site: Site) -> None:
    old = '{"id": "old", "title": "An old one", "href": "/jobs/0-0?e=1"}'
    browser.get(f"{site.url}/")
    browser.execute_script("localStorage.setItem('stemify-songs', arguments[0])", f"[{old}]")
    browser.get(site.page("mp3"))
    is_open(browser)
    browser.get(f"{site.url}/")
    songs = [song.text.split("\n") for song in browser.find_elements(By.CSS_SELECTOR, "#recent a")]
    today = datetime.now().astimezone()
    assert songs == [
        ["The Testers – Known mp3", f"htdemucs · {today:%B} {today.day}, {today.year}"],
        ["An old one"],
    ]


def test_keys_play_seek_mute_and_solo(browser: Browser, site: Site) -> None:
    browser.get(site.page("mp3"))
    is_open(browser)
    body = browser.find_element(By.TAG_NAME, "body")

    def position() -> float:
        found: float = browser.run_async("return (await import('/static/job.js')).mixer.player.position")
        return found

    body.send_keys(Keys.SPACE)
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    body.send_keys(Keys.SPACE)
    browser.until("return document.getElementById('player').dataset.state === 'paused'")
    browser.find_element(By.ID, "home").click()
    body.send_keys(Keys.ARROW_RIGHT)
    body.send_keys(Keys.ARROW_RIGHT)
    body.send_keys(Keys.ARROW_LEFT)
    assert position() == pytest.approx(5, abs=0.01)
    body.send_keys("2")
    assert pressed(browser) == ["drums mute"]
    body.send_keys("2")
    body.send_keys(Keys.SHIFT + "3")
    assert pressed(browser) == ["bass solo"]
    body.send_keys("0")
    assert pressed(browser) == []
    # A click on a waveform seeks.
    browser.execute_script(
        """
        const wave = document.querySelector(".wave"), { left, width, top } = wave.getBoundingClientRect();
        for (const type of ["pointerdown", "pointerup"]) wave.dispatchEvent(new PointerEvent(type,
            { bubbles: true, button: 0, pointerId: 1, clientX: left + width * 0.6, clientY: top + 5 }));
        """
    )
    assert position() == pytest.approx(9, abs=0.1)


def pressed(browser: Browser) -> list[str]:
    found: list[str] = browser.execute_script(
        """return [...document.querySelectorAll(".chip[aria-pressed=true]")].map(
            (chip) => chip.closest(".lane").dataset.stem + (chip.matches(".mute") ? " mute" : " solo"))"""
    )
    return found


def test_delete_asks_first_and_keep_persists(browser: Browser, site: Site) -> None:
    browser.get(site.page("gone"))
    is_open(browser)
    browser.find_element(By.ID, "keep").click()
    browser.until("return document.getElementById('expiry').textContent.includes('until you delete')")
    browser.find_element(By.ID, "delete").click()
    browser.find_element(By.CSS_SELECTOR, "#ask-delete button[value=no]").click()
    browser.until("return document.getElementById('delete').ariaBusy === 'false'")
    assert site.file("gone", "drums").exists()
    browser.find_element(By.ID, "delete").click()
    browser.find_element(By.CSS_SELECTOR, "#ask-delete button[value=yes]").click()
    browser.until("return document.getElementById('notice').textContent === 'This job was deleted.'")
    assert not site.file("gone", "drums").exists()
    assert browser.switch_to.active_element.get_attribute("id") == "title"
    browser.refresh()
    browser.until("return document.getElementById('notice').textContent.startsWith('There is no such job')")
