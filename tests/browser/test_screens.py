"""The pages on phones, in low windows, with forced colours and with reduced motion."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import failed, open_job, open_start, practising, refused, running
from tests.fixtures.chromium import Browser

_SMALL = """
    const selector = "a, button, input, select, summary, .switch, .handle";
    return [...document.querySelectorAll(selector)]
        .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest(".unseen, label, li a"))
        .map((each) => [each.outerHTML.slice(0, 90), each.getBoundingClientRect()])
        .filter(([, { width, height }]) => width < 44 || height < 44)
        .map(([html, { width, height }]) => `${width} x ${height}: ${html}`);
"""


@pytest.mark.parametrize("state", [refused, practising, failed], ids=lambda state: state.__name__)
def test_targets_on_phones_have_44_pixels(browser: Browser, site: Site, state: Callable[[Browser, Site], None]) -> None:
    browser.emulate_screen(390, 844, mobile=True)
    state(browser, site)
    assert browser.execute_script(_SMALL) == []


def transport_is_below_lanes(browser: Browser) -> bool:
    bottom, top = browser.execute_script(
        """
        const box = (selector) => document.querySelector(selector).getBoundingClientRect();
        return [box("#lanes").bottom, box(".transport").top];
        """
    )
    return bool(bottom <= top)


@pytest.mark.parametrize("name", ["mp3", "karaoke"])
def test_four_lanes_fit_a_phone_above_the_transport(browser: Browser, site: Site, name: str) -> None:
    browser.emulate_screen(390, 844, mobile=True)
    open_job(browser, site, name)
    assert transport_is_below_lanes(browser)
    ends = "return [...document.querySelectorAll('.lane-head *')].map((each) => each.getBoundingClientRect().right)"
    assert max(browser.execute_script(ends)) <= 390


def test_forced_colours_leave_state_visible(browser: Browser, site: Site) -> None:
    features = [{"name": "forced-colors", "value": "active"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    practising(browser, site)
    shown = """
        const colour = (selector) => getComputedStyle(document.querySelector(selector)).backgroundColor;
        return [colour(".mute[aria-pressed=true]") !== colour(".mute[aria-pressed=false]"),
            getComputedStyle(document.querySelector(".wave"), "::after").backgroundColor !== colour(".wave"),
            getComputedStyle(document.querySelector(".score-bar")).borderTopStyle];
    """
    assert browser.execute_script(shown) == [True, True, "solid"]


def test_reduced_motion_stops_animations(browser: Browser, site: Site) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    running(browser, site)
    moving = "return document.getAnimations().filter(({ playState }) => playState === 'running').length"
    assert browser.execute_script(moving) == 0


def test_six_lanes_fit_a_desktop_above_the_transport(browser: Browser, site: Site) -> None:
    browser.emulate_screen(1440, 900)
    open_job(browser, site, "six")
    browser.execute_script("document.getElementById('title').textContent = 'One line'")
    assert transport_is_below_lanes(browser)


def test_transport_covers_no_lane_at_400_percent_zoom(browser: Browser, site: Site) -> None:
    browser.emulate_screen(320, 256)
    open_job(browser, site)
    assert transport_is_below_lanes(browser)


@pytest.mark.parametrize("page", ["/", "mp3"])
def test_pages_reflow_at_320_pixels(browser: Browser, site: Site, page: str) -> None:
    browser.emulate_screen(320, 512)  # 1280 pixels at 400 %
    if page == "/":
        open_start(browser, site)
    else:
        open_job(browser, site)
        assert browser.find_element(By.ID, "master").is_displayed()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
