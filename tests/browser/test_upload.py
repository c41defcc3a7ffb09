"""The start page: what a separation costs, and uploads over a bad line."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import choose, is_open
from tests.fakes.slow_line import Line
from tests.fixtures.chromium import Browser
from tests.fixtures.songs import make_song


def test_upload_survives_a_lost_connection(browser: Browser, site: Site, tmp_path: Path) -> None:
    song = tmp_path / "Over a bad line.mp3"
    make_song(song, seconds=3)
    with Line(site.url) as line:
        browser.get(f"{line.url}/")
        choose(browser, song)
        line.cut()
        browser.find_element(By.ID, "go").click()
        is_lost = "return document.getElementById('sent-words').textContent.startsWith('The connection was lost')"
        browser.until(is_lost)
        assert browser.execute_script("return document.getElementById('chosen').inert")
        browser.find_element(By.ID, "stop").click()
        browser.until("return document.activeElement.id === 'go'")
        assert not browser.find_element(By.ID, "error").is_displayed()
        assert browser.find_element(By.ID, "chosen-name").text == song.name, "it can be sent again"
        browser.find_element(By.ID, "go").click()
        browser.until(is_lost)
        line.mend()
        is_open(browser)
        assert browser.find_element(By.ID, "title").text == "Over a bad line"


def test_upload_waits_while_a_proxy_has_no_server(browser: Browser, site: Site, tmp_path: Path) -> None:
    song = tmp_path / "Behind a proxy.mp3"
    make_song(song, seconds=3)
    with Line(site.url) as line:
        browser.get(f"{line.url}/")
        choose(browser, song)
        line.cut(behind_a_proxy=True)
        browser.find_element(By.ID, "go").click()
        browser.until("return document.getElementById('sent-words').textContent.includes('status 502')")
        line.mend()
        is_open(browser)
        assert browser.find_element(By.ID, "title").text == "Behind a proxy"


def test_lost_response_makes_no_second_job(browser: Browser, site: Site, tmp_path: Path) -> None:
    song = tmp_path / "Sent twice.mp3"
    make_song(song, seconds=3)
    browser.get(f"{site.url}/")
    browser.execute_script(
        """
        const { send } = XMLHttpRequest.prototype;
        XMLHttpRequest.prototype.send = function (body) {
          if (window.wasSent) return send.call(this, body);
          this.onload = this.onerror; // the first response is lost
          window.wasSent = true;
          send.call(this, body);
        };
        """
    )
    choose(browser, song)
    browser.find_element(By.ID, "go").click()
    is_open(browser)
    jobs = browser.run_async("return (await (await fetch('/api/jobs')).json()).jobs;")
    assert [job["title"] for job in jobs].count("Sent twice") == 1


def test_time_and_download_are_announced(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('time-balanced').textContent")
    change = "document.getElementById('model').value = arguments[0];" + (
        "document.getElementById('model').dispatchEvent(new Event('change', { bubbles: true }))"
    )
    browser.execute_script(change, "mini")
    times = [browser.find_element(By.ID, f"time-{quality}").text for quality in ("fast", "balanced", "best")]
    assert all(time.startswith("about ") or time == "a few seconds" for time in times)
    assert browser.find_element(By.ID, "download-words").text == ""
    browser.execute_script(change, "melband_vocals")
    announced = "The first song with melband_vocals starts with a download of 913 MB."
    assert browser.find_element(By.ID, "download-words").text == announced


def test_times_of_refusals_are_local(browser: Browser, site: Site) -> None:
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "America/Phoenix"})  # UTC-7 all year
    browser.get(f"{site.url}/")
    text = browser.run_async(
        """
        const { refusalOf } = await import("/static/api.js");
        const error = { code: "quota_exceeded", message: "The next one is free at 22:07 UTC (in 23 minutes)." };
        return refusalOf(429, JSON.stringify({ error })).message;
        """
    )
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    assert text.replace("\u202f", " ") == "The next one is free at 3:07 PM (in 23 minutes)."


def test_expected_times_that_differ_look_different(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    words = browser.run_async(
        "const { about } = await import('/static/words.js'); return args[0].map(about);",
        [4, 38, 74, 80, 115, 150, 284, 300, 8000],
    )
    assert words == [
        "a few seconds",
        "about 40 seconds",
        "about a minute",
        "about 1½ minutes",
        "about 2 minutes",
        "about 2½ minutes",
        "about 4½ minutes",
        "about 5 minutes",
        "about 2 hours",
    ]
