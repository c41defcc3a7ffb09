"""The tools to practise with: a repeated part, another tempo or key, zoom."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.conftest import Site
from tests.browser.pages import open_player
from tests.browser.playback import part, player, value, words
from tests.fixtures.chromium import Browser


def drag_on_ruler(browser: Browser, start: float, end: float) -> None:
    """Drag between two shares of the ruler's width."""
    ruler = browser.find_element(By.ID, "ruler")
    width = ruler.size["width"]
    actions = ActionChains(browser).move_to_element_with_offset(ruler, round((start - 0.5) * width), 0)
    actions.click_and_hold().move_by_offset(round((end - start) * width / 2), 0)
    actions.move_by_offset(round((end - start) * width / 2), 0).release().perform()


def retype(field: WebElement, keys: str) -> None:
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys(keys)


def click(browser: Browser, *names: str) -> None:
    """Click elements within one task of the page, so that a slow machine makes no pauses."""
    browser.execute_script("for (const name of arguments) document.getElementById(name).click()", *names)


def test_drag_on_ruler_repeats_a_part(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    drag_on_ruler(browser, 0.6, 0.2)
    assert part(browser) == pytest.approx((3, 9), abs=0.1)
    assert player(browser, "player.position") == part(browser)[0], "it was outside"  # type: ignore[index]
    assert browser.find_element(By.ID, "loop").get_attribute("aria-pressed") == "true"
    handle = browser.find_element(By.CSS_SELECTOR, ".handle.end")
    ActionChains(browser).drag_and_drop_by_offset(
        handle, round(browser.find_element(By.ID, "ruler").size["width"] / 5), 0
    ).perform()
    assert part(browser) == pytest.approx((3, 12), abs=0.1)
    browser.find_element(By.ID, "part-clear").click()
    assert part(browser) is None and value(browser, "part-start") == ""
    assert browser.find_element(By.ID, "loop").get_attribute("aria-pressed") == "false"
    assert browser.console_errors() == []


def test_part_is_set_by_typed_times(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    start, end = (browser.find_element(By.ID, f"part-{edge}") for edge in ("start", "end"))
    start.send_keys("0:02.5" + Keys.TAB)
    assert part(browser) == pytest.approx((2.5, 15), abs=0.01)
    retype(end, "4,25" + Keys.TAB)
    assert part(browser) == (2.5, 4.25) and value(browser, "part-end") == "0:04.25"
    browser.run_async("const { practice } = await import('/static/job.js'); await practice.ready;")
    retype(start, "bar 2" + Keys.TAB)
    assert part(browser) == (2.25, 4.25)
    retype(end, "Bar 3" + Keys.TAB)
    assert part(browser) == (2.25, 6.25), "to the end of bar 3"
    retype(start, "bar 99" + Keys.TAB)
    assert part(browser) == (2.25, 6.25) and start.get_attribute("aria-invalid") == "true"
    assert "bar 2" in browser.find_element(By.ID, "part-words").text
    retype(start, "2.5" + Keys.TAB)
    retype(end, "4.25" + Keys.TAB)
    retype(end, "7:00" + Keys.TAB)
    assert part(browser) == (2.5, 4.25)
    assert (
        browser.find_element(By.ID, "part-words").text
        == "Enter a time of the song, such as 0:07.50, or a bar, such as bar 2."
    )
    assert end.get_attribute("aria-invalid") == "true"
    retype(end, Keys.DELETE + Keys.TAB)
    assert part(browser) == pytest.approx((2.5, 15), abs=0.01)


def test_part_is_set_by_keys_alone(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_RIGHT + "i")
    body.send_keys(Keys.ARROW_RIGHT + "o")
    assert part(browser) == pytest.approx((5, 10), abs=0.01)
    body.send_keys("l")
    assert player(browser, "player.loop") is False
    handle = browser.find_element(By.CSS_SELECTOR, ".handle.start")
    handle.send_keys(Keys.ARROW_RIGHT)
    handle.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT)
    assert part(browser) == pytest.approx((6.1, 10), abs=0.01)
    assert handle.get_attribute("aria-valuetext") == "6.1 seconds"
    handle.send_keys(Keys.END)  # beyond the end of the part
    start, end = part(browser)  # type: ignore[misc]
    assert end - start == pytest.approx(0.25)


def test_tempo_and_key_change_while_the_song_plays(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    player(browser, "player.setPart({ start: 2, end: 14 })")
    browser.find_element(By.ID, "play").click()
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    click(browser, *["tempo-less"] * 4, "key-less", "key-less")
    assert words(browser, "Making").startswith("Making it at 80\xa0%, in key −2")
    assert player(browser, "player.isGoing"), "it plays on in the meantime"
    words(browser, "Now at 80\xa0%, in key −2.")
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    assert player(browser, "[player.version.key, player.version.tempo]") == [-2, 0.8]
    assert player(browser, "player.version.samples") == round(player(browser, "player.original.samples") / 0.8)
    retype(browser.find_element(By.ID, "tempo"), "100" + Keys.ENTER)
    click(browser, "key-more", "key-more")
    words(browser, "Now as recorded.")
    assert player(browser, "player.version === player.original")
    assert browser.console_errors() == []


# Versions wait for `go`; until then the server says that 40 % are made.
_SLOW_VERSIONS = """
    const fetchNow = window.fetch;
    window.fetch = async (url, options) => {
        if (url.includes("version-progress")) return new Response('{"progress": 40}');
        if (url.includes("/versions?")) await new Promise((resolve) => (window.go = resolve));
        return fetchNow(url, options);
    };
"""


def test_progress_of_a_version_is_shown(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    browser.execute_script(_SLOW_VERSIONS)
    browser.find_element(By.ID, "tempo-less").click()
    words(browser, "Making it at 95")
    text = "document.getElementById('version-progress').textContent"
    browser.until(f"return {text}.trim() === '40\u00a0%'")
    browser.execute_script("go()")
    words(browser, "Now at 95")
    assert browser.execute_script(f"return {text}") == ""


def test_refused_version_says_why_and_the_song_plays_on(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    browser.execute_script(
        """
        const send = fetch;
        fetch = (path, ...rest) => path.includes("/versions")
            ? Promise.resolve(new Response('{"error": {"code": "busy", "message": "Try later."}}', { status: 429 }))
            : send(path, ...rest);
        """
    )
    browser.find_element(By.ID, "play").click()
    browser.find_element(By.ID, "tempo-more").click()
    words(browser, "Try later.")
    assert value(browser, "tempo") == "100"
    assert player(browser, "player.isGoing")


def test_zoom_shows_one_bar_and_follows_the_song(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("long"))
    player(browser, "player.setPart({ start: 300, end: 302 })")
    browser.find_element(By.ID, "zoom-part").click()
    assert player(browser, "[view.from, view.to]") == pytest.approx([299.9, 302.1])
    waves = browser.find_element(By.CSS_SELECTOR, ".wave")
    ActionChains(browser).move_to_element(waves).click().perform()
    assert player(browser, "player.position") == pytest.approx(301, abs=0.02)
    player(browser, "player.setPart(null)")
    player(browser, "player.seek(450)")
    assert player(browser, "view.from <= 450 && 450 <= view.to")
    browser.find_element(By.ID, "zoom-part").click()
    assert player(browser, "view.isWhole")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("++")
    assert player(browser, "view.span") == pytest.approx(150)
    body.send_keys("-")
    assert player(browser, "view.span") == pytest.approx(300)
