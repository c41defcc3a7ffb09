"""The pages for people who use a keyboard, a screen reader, a phone or high contrast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from engine.jobs.entity import new_job_id
from tests.browser.axe import violations
from tests.browser.conftest import Site
from tests.browser.pages import (
    failed,
    is_open,
    open_job,
    open_start,
    practise,
    practising,
    press,
    refused,
    running,
    show_progress,
)
from tests.fixtures.chromium import Browser


def unknown(browser: Browser, site: Site) -> None:
    browser.get(f"{site.url}/jobs/{new_job_id()}")
    browser.until("return !document.getElementById('notice').hidden")


@pytest.mark.parametrize("state", [open_start, refused, failed, unknown], ids=lambda state: state.__name__)
def test_axe_finds_nothing(browser: Browser, site: Site, state: Callable[[Browser, Site], None]) -> None:
    state(browser, site)
    assert violations(browser) == []


def test_axe_finds_nothing_while_a_job_runs(browser: Browser, site: Site) -> None:
    running(browser, site)
    assert violations(browser) == []
    show_progress(browser, status="pending", stage=None, progress=0, queuePlace=3)
    assert violations(browser) == [], "in the queue"


def test_axe_finds_nothing_in_the_player(browser: Browser, site: Site) -> None:
    open_job(browser, site)
    assert violations(browser) == []
    practise(browser)
    assert violations(browser) == [], "with a part"
    browser.find_element(By.ID, "delete").click()
    assert violations(browser) == [], "before deleting"
    press(browser, Keys.ESCAPE, "?")
    browser.until("return document.getElementById('keys').open")
    assert violations(browser) == [], "with the list of keys"


@pytest.mark.parametrize("state", [refused, practising], ids=lambda state: state.__name__)
def test_axe_finds_nothing_on_a_dark_phone(
    browser: Browser, site: Site, state: Callable[[Browser, Site], None]
) -> None:
    browser.emulate_screen(390, 844, dark=True, mobile=True)
    state(browser, site)
    assert violations(browser) == []


@pytest.mark.parametrize("name", ["six", "karaoke"])
def test_axe_finds_nothing_with_other_stems(browser: Browser, site: Site, name: str) -> None:
    open_job(browser, site, name)
    assert violations(browser) == []


def focused(browser: Browser) -> str:
    found: str = browser.execute_script("return document.activeElement.id || document.activeElement.tagName")
    return found


def test_tab_reaches_every_control_of_the_player(browser: Browser, site: Site) -> None:
    practising(browser, site)
    controls = browser.execute_script(
        """
        const all = document.querySelectorAll("#player :is(a, button, input, select, summary, [tabindex='0'])");
        window.unreached = new Set([...all].filter((each) => each.checkVisibility()));
        document.getElementById("title").tabIndex = -1;
        document.getElementById("title").focus();
        return unreached.size;
        """
    )
    assert controls > 50
    for _ in range(controls):
        press(browser, Keys.TAB)
        browser.execute_script("unreached.delete(document.activeElement)")
    assert browser.execute_script("return [...unreached].map((each) => each.outerHTML)") == []


def test_player_is_used_by_keyboard_alone(browser: Browser, site: Site) -> None:
    open_job(browser, site)

    def player(expression: str) -> Any:
        script = "const { mixer, practice } = await import('/static/job.js'); const { player, mix, view } = mixer;"
        return browser.run_async(f"{script} return {expression}")

    def focus(selector: str) -> None:
        browser.execute_script("document.querySelector(arguments[0]).focus()", selector)

    def use(selector: str, *keys: str) -> None:
        focus(selector)
        press(browser, *keys)

    use("#play", Keys.ENTER)
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    press(browser, Keys.SPACE)
    browser.until("return document.getElementById('player').dataset.state === 'paused'")
    use("#timeline", Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert player("player.position") == pytest.approx(5, abs=0.02)
    assert "5 seconds of 15 seconds" in str(browser.find_element(By.ID, "timeline").get_attribute("aria-valuetext"))
    use("#home", Keys.SPACE)
    assert player("player.position") == 0
    use("#loop", Keys.SPACE)
    assert player("player.loop") is True
    use("#master", Keys.ARROW_LEFT)
    assert player("mix.master") == pytest.approx(0.99)
    use(".lane[data-stem=vocals] .mute", Keys.SPACE)
    use(".lane[data-stem=drums] .solo", Keys.SPACE)
    assert player("[...mix.muted, ...mix.soloed]") == ["vocals", "drums"]
    use(".lane[data-stem=bass] .fader", Keys.HOME)
    use(".lane[data-stem=bass] .pan", Keys.END)
    assert player("[mix.volumes.bass, mix.pans.bass]") == [0, 1]
    use(".pill", Keys.ENTER)
    assert player("mix.muted.size + mix.soloed.size") == 0
    use("#compare", Keys.SPACE)
    assert player("mix.isComparing") is True
    use("#zoom-in", Keys.SPACE)
    assert player("view.isWhole") is False
    use("#zoom-out", Keys.SPACE, Keys.SPACE)
    assert player("view.isWhole") is True and focused(browser) == "zoom-out", "a button without effect keeps the focus"
    use("#part-start", "2", Keys.ENTER)
    use("#part-end", Keys.CONTROL + "a", "4", Keys.ENTER)
    assert player("[player.part.start, player.part.end]") == [2, 4]
    use(".handle.end", Keys.ARROW_RIGHT)
    assert player("player.part.end") == pytest.approx(4.1)
    use("#part-clear", Keys.SPACE)
    assert player("player.part") is None and focused(browser) == "loop"
    use("#click", Keys.SPACE)
    use("#count-in", Keys.SPACE)
    use("#beats-half", Keys.SPACE)
    assert player("[player.metronome.isOn, player.metronome.countsIn, practice.beatTools.factor]") == [True, True, 0.5]
    use("#key-more", Keys.SPACE)
    use("#tempo-less", Keys.SPACE)
    assert player("practice.versions.wanted") == {"key": 1, "tempo": 0.95, "isPreview": False}
    use("#show-keys", Keys.SPACE)
    assert browser.execute_script("return document.getElementById('keys').open")
    press(browser, Keys.ESCAPE)
    assert focused(browser) == "show-keys"


def test_keys_leave_the_page_its_own(browser: Browser, site: Site) -> None:
    browser.emulate_screen(1280, 500)
    open_job(browser, site)
    body = browser.find_element(By.TAG_NAME, "body")
    for key, place in ((Keys.END, "scrollY > 100"), (Keys.HOME, "scrollY === 0")):
        for _ in range(100):  # the page grows while it loads, which can end a smooth scroll
            body.send_keys(key)
            if browser.execute_script(f"return {place}"):
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"the page did not scroll until {place}")
    muted = "return document.querySelectorAll('.mute[aria-pressed=true]').length"
    browser.execute_script("document.querySelector('header .button').focus()")
    press(browser, "1")
    assert browser.execute_script(muted) == 0, "the focus is not in the player"
    browser.find_element(By.ID, "show-keys").click()
    browser.find_element(By.CSS_SELECTOR, "#keys .switch").click()
    press(browser, Keys.ESCAPE)
    body.send_keys("1")
    assert browser.execute_script(muted) == 0, "they are switched off"
    browser.refresh()
    is_open(browser)
    browser.find_element(By.TAG_NAME, "body").send_keys("1")
    assert browser.execute_script(muted) == 0
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.SPACE)
    browser.until("return document.getElementById('player').dataset.state === 'playing'")


def test_focus_returns_from_the_question_to_delete(browser: Browser, site: Site) -> None:
    open_job(browser, site)
    browser.execute_script("document.getElementById('delete').focus()")
    press(browser, Keys.ENTER)
    press(browser, Keys.ESCAPE)
    assert focused(browser) == "delete"


def test_refused_form_names_its_field(browser: Browser, site: Site) -> None:
    refused(browser, site)
    link = browser.find_element(By.ID, "link")
    assert link.get_attribute("aria-invalid") == "true" and link.get_attribute("aria-describedby") == "error"
    assert focused(browser) == "link"
    link.send_keys("h")
    assert link.get_attribute("aria-invalid") == "false"
