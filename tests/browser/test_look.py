"""Colours, texts and sizes of the pages."""

from __future__ import annotations

import colorsys
import re
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from engine.media.waveform import COLOURS
from tests.browser.conftest import Site
from tests.browser.pages import is_open
from tests.fixtures.chromium import Browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_stems_have_colours_and_order_of_the_picture(browser: Browser, site: Site, dark: bool) -> None:
    browser.emulate_screen(1280, 900, dark=dark)
    browser.get(site.page("as drawn"))
    is_open(browser)
    for rows in (".lane", "#files li"):
        names = "return [...document.querySelectorAll(arguments[0])].map((row) => row.dataset.stem)"
        assert browser.execute_script(names, rows) == ["vocals", "drums", "bass", "other"]
    colours = browser.execute_script(
        """
        const lane = document.querySelector(".lane");
        return Object.fromEntries(arguments[0].map((name) => {
            lane.dataset.stem = name;
            return [name, getComputedStyle(lane).getPropertyValue("--stem")];
        }));
        """,
        list(COLOURS),
    )
    if dark:
        assert colours == COLOURS
        return
    ground = browser.execute_script("return getComputedStyle(document.documentElement).getPropertyValue('--well')")
    for name, colour in colours.items():
        assert abs(hue(colour) - hue(COLOURS[name])) < 0.02, name
        assert contrast(colour, ground) > 3, f"{name} is to be seen on a light ground"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_waves_are_visible_after_a_change_of_scheme(browser: Browser, site: Site, dark: bool) -> None:
    browser.emulate_screen(1280, 900, dark=not dark)
    browser.get(site.page("mp3"))
    is_open(browser)
    browser.emulate_screen(1280, 900, dark=dark)
    colours = browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        mixer.mix.toggleMute("bass");
        const shown = ({ element }, name) => {
            const canvas = element.querySelector(`canvas.${name}`), context = canvas.getContext("2d");
            const row = context.getImageData(0, Math.floor(canvas.height / 2), canvas.width, 1).data;
            const at = row.findIndex((value, index) => index % 4 === 3 && value === 255) - 3;
            return "#" + [...row.slice(at, at + 3)].map((value) => value.toString(16).padStart(2, "0")).join("");
        };
        return mixer.lanes.map((lane) => [shown(lane, "unplayed"), shown(lane, "played")]);
        """
    )
    ground = browser.execute_script("return getComputedStyle(document.documentElement).getPropertyValue('--well')")
    for unplayed, played in colours:
        assert ratio(unplayed, ground) >= 3
        assert ratio(played, unplayed) >= 1.4
    muted = browser.execute_script("return Number(getComputedStyle(document.querySelector('.silent canvas')).opacity)")
    assert muted >= 0.6


_HOLD_PEAKS = """
    const send = window.fetch, held = new Promise((resolve) => (window.release = resolve));
    window.fetch = async (path, ...rest) => {
        if (path.includes("peaks.json")) await held;
        return send(path, ...rest);
    };
"""


def test_song_plays_before_its_peaks_arrive(browser: Browser, site: Site) -> None:
    holding = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _HOLD_PEAKS})
    browser.get(site.page("mp3"))
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", holding)
    browser.until("return document.querySelectorAll('.lane').length === 4")
    height = browser.execute_script("return document.querySelector('.mixer').clientHeight")
    browser.find_element(By.ID, "play").click()
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    browser.execute_script("window.release()")
    browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        while (mixer.lanes.some(({ wave }) => !wave.levels.length)) await new Promise((done) => setTimeout(done, 50));
        """
    )
    assert browser.execute_script("return document.querySelector('.mixer').clientHeight") == height


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_edges_of_controls_are_visible(browser: Browser, site: Site, dark: bool) -> None:
    browser.emulate_screen(1280, 900, dark=dark)
    browser.get(site.page("mp3"))
    is_open(browser)
    colour = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
    edge = browser.execute_script(colour, "--edge")
    for ground in ("--card", "--well", "--back"):
        assert ratio(edge, browser.execute_script(colour, ground)) >= 3, ground
    shown = "return getComputedStyle(document.querySelector(arguments[0])).borderTopColor.match(/\\d+/g).map(Number)"
    for control in (".pill[aria-pressed=false]", ".chip", "#save-mix", "#save-format"):
        assert tuple(each / 255 for each in browser.execute_script(shown, control)) == channels(edge), control


def ratio(one: str, other: str) -> float:
    found = contrast(one, other)
    return max(found, 1 / found)


def hue(colour: str) -> float:
    return colorsys.rgb_to_hsv(*channels(colour))[0]


def contrast(colour: str, ground: str) -> float:
    """Return the contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in channels(colour))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    return (luminance(ground) + 0.05) / (luminance(colour) + 0.05)


def channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def test_result_numbers_appear_once_with_units(browser: Browser, site: Site) -> None:
    browser.get(site.page("mp3"))
    is_open(browser)
    text = browser.execute_script("return document.getElementById('player').textContent")
    assert re.findall(r".*\d (?:%|dB|kB|MB|s\b).*", text) == []
    numbers = dict(
        browser.execute_script(
            "return [...document.querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextSibling.textContent])"
        )
    )
    assert re.fullmatch(r"−18\.3\sdBFS, peak [−+]?\d+\.\d\sdBFS", numbers["Vocals"]), "it is nowhere silent"
    assert numbers["Took"] == "8 seconds"
    assert numbers["Separated in"] == "1 segment of 7.8\xa0s, 25\xa0% overlap"


@pytest.mark.parametrize("page", ["/", "mp3"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_phone_and_desktop(browser: Browser, site: Site, tmp_path: Path, page: str, dark: bool) -> None:
    """Save screenshots for manual inspection."""
    for width, height, mobile in ((390, 844, True), (1280, 900, False)):
        browser.emulate_screen(width, height, dark=dark, scale=2 if mobile else 1, mobile=mobile)
        browser.get(f"{site.url}/" if page == "/" else site.page(page))
        if page == "/":
            browser.until("return document.getElementById('model').options.length > 0")
        else:
            is_open(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(each) for each in re.findall(r"\d+", background)[:3]) / 3
        assert (lightness < 128) is dark
        name = "index" if page == "/" else "job"
        browser.capture(tmp_path / f"{name}-{'dark' if dark else 'light'}-{width}.png")
    assert browser.console_errors() == []


def test_start_page_shows_a_result_beside_the_form(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/")
    browser.until("return document.getElementById('model').options.length > 0")
    boxes = browser.execute_script(
        "return arguments[0].map((each) => document.querySelector(each).getBoundingClientRect())",
        [".brand", "h1", "#form", ".result img"],
    )
    assert len({box["left"] for box in boxes[:3]}) == 1, "one grid"
    form, picture = boxes[2:]
    assert picture["left"] > form["right"] and picture["top"] == form["top"]
    browser.until("return document.querySelector('.result img').naturalWidth > 0")
    assert not browser.find_element(By.ID, "sample").is_displayed(), "this server offers none"
    browser.emulate_screen(390, 844, mobile=True)
    assert not browser.find_element(By.CSS_SELECTOR, ".result img").is_displayed()


@pytest.mark.parametrize("width", [360, 420])
def test_phone_layout_has_one_step_line_and_no_drop_hint(browser: Browser, site: Site, width: int) -> None:
    browser.emulate_screen(width, 844, mobile=True)
    browser.get(site.page("mp3"))
    is_open(browser)
    tops = browser.run_async(
        """
        const { showProgress } = await import("/static/progress.js");
        const { job } = await import("/static/job.js");
        showProgress({ ...job, status: "processing", stage: "separating", progress: 41, etaS: 170, sourceUrl: "…" });
        return [...document.querySelectorAll("#steps li")].map((step) => step.getBoundingClientRect().top);
        """
    )
    assert len(tops) == 6 and len(set(tops)) == 1
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.get(f"{site.url}/")
    words = browser.find_element(By.CSS_SELECTOR, ".drop-words span")
    assert not words.is_displayed()
    browser.emulate_screen(1280, 900)
    assert words.is_displayed()
