"""What a page loads first, so that it can be used early on a slow line."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import is_open
from tests.fixtures.chromium import Browser

_LOADED = """
    return performance.getEntriesByType("resource").sort((one, other) => one.startTime - other.startTime)
        .map(({ name }) => name);
"""


def test_song_plays_without_its_tools(browser: Browser, site: Site) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/static/tools.js"]})
    try:
        browser.get(site.page("mp3"))
        browser.until("return document.getElementById('player').dataset.state === 'paused'")
        browser.find_element(By.ID, "play").click()
        browser.until("return document.getElementById('player').dataset.state === 'playing'")
        browser.until("return document.getElementById('notice').textContent.includes('tools')")
        assert browser.execute_script("return document.getElementById('practice').inert"), "its buttons do nothing"
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_page_loads_each_file_once_and_its_data_early(browser: Browser, site: Site) -> None:
    browser.get(site.page("mp3"))
    is_open(browser)
    paths = [urlsplit(url).path for url in browser.execute_script(_LOADED)]
    counts = Counter(path for path in paths if path.endswith((".js", ".css", ".json")) and "/files/" not in path)
    assert set(counts.values()) == {1}, counts
    assert sum(path.endswith(".css") for path in counts) == 1
    job = f"/jobs/{site.planted['mp3']}"
    assert paths.index(f"{job}/player.json") < paths.index("/static/tools.js"), "it does not wait for the scripts"
    assert paths.index(f"{job}/peaks.json") < paths.index("/static/tools.js")
    sound, tools = paths.index("/static/sound/version.js"), paths.index("/static/practice/practice.js")
    assert paths.index("/static/mixer.js") < sound < tools


def test_start_page_loads_its_choices_with_its_scripts(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")
    kinds = browser.execute_script(
        "return performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/choices.json'))"
        ".map(({ initiatorType }) => initiatorType)"
    )
    assert kinds == ["link"], "it is requested once, by the page"
