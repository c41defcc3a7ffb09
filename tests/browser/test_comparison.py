"""Models compared on half a minute of a song: the choice of models, the blind test, the winner for the whole song."""

from __future__ import annotations

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.axe import violations
from tests.browser.conftest import Site
from tests.browser.pages import is_open, press
from tests.fixtures.chromium import Browser
from tests.fixtures.songs import make_song

_HEARD = """
    const { comparing } = await import("/static/job.js");
    return comparing.stems.filter(({ name }) => comparing.gains[name] === 1).map(({ name }) => name);
"""
_CLICK = "document.querySelector(arguments[0]).click()"


def words(browser: Browser) -> str:
    return browser.find_element(By.CSS_SELECTOR, ".try-models [role=status]").text


def test_models_are_chosen_by_their_sound(browser: Browser, site: Site) -> None:
    make_song(site.data / "jobs" / site.planted["flac"] / "input", seconds=2)
    browser.get(f"{site.page('flac')}#try-models")
    is_open(browser)
    browser.until("return document.querySelector('.try-models')")
    assert [box.get_attribute("value") for box in browser.find_elements(By.CSS_SELECTOR, ".try-models :checked")] == [
        "htdemucs", "mini",
    ]  # fmt: skip
    assert "It counts as one job." in words(browser)
    assert "weights: MIT" in browser.find_element(By.CSS_SELECTOR, ".try-models fieldset").text
    assert violations(browser) == []
    browser.execute_script(_CLICK, ".try-models [value=mini]")
    assert words(browser) == "Choose 2 to 4 models."
    browser.find_element(By.CSS_SELECTOR, ".try-models .button").click()
    assert browser.current_url.startswith(site.page("flac")), "one model cannot be compared"
    browser.execute_script(_CLICK, ".try-models [value=mini]")
    browser.find_element(By.CSS_SELECTOR, ".try-models .button").click()

    browser.until("return document.querySelector('#comparison .heard')")
    comparison = browser.find_element(By.ID, "comparison")
    assert browser.find_element(By.ID, "badges").text.split("\n") == ["2 models", "balanced"]
    assert "mini" not in str(comparison.get_attribute("innerHTML"))
    told = 'const { job } = await import("/static/job.js"); return JSON.stringify(job.result.comparison);'
    assert "mini" not in browser.run_async(told), "the page does not get the names"
    assert violations(browser) == []
    browser.execute_script("document.querySelector('#comparison .heard input').focus()")
    assert browser.run_async(_HEARD) == ["A"]
    press(browser, " ")
    browser.until("return document.querySelector('#comparison .play').ariaLabel === 'Pause'")
    press(browser, Keys.ARROW_RIGHT)
    assert browser.run_async(_HEARD) == ["B"] and "Choose B" in comparison.text, "it plays on, with the other model"
    browser.execute_script(_CLICK, "#comparison .stem input[value=drums]")
    browser.run_async(
        """
        const { comparing } = await import("/static/job.js");
        while (!comparing.version.sources || comparing.version === comparing.original) {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        """
    )
    assert browser.run_async(_HEARD) == ["B"]
    comparison.find_element(By.CSS_SELECTOR, ".button.primary").click()
    browser.until(
        "return document.querySelector('#comparison .hint[role=status]').textContent.startsWith('You chose B')"
    )
    names = [caption.text for caption in comparison.find_elements(By.CSS_SELECTOR, ".heard span")]
    assert sorted(name.split()[1] for name in names) == ["htdemucs", "mini"]
    assert violations(browser) == []

    browser.refresh()
    browser.until("return document.querySelector('#comparison .heard b')")
    comparison = browser.find_element(By.ID, "comparison")
    assert [caption.text for caption in comparison.find_elements(By.CSS_SELECTOR, ".heard span")] == names
    chosen = names[1].split()[1]
    button = comparison.find_element(By.CSS_SELECTOR, ".button.primary")
    assert button.text == f"Separate the whole song with {chosen}"
    before = browser.current_url
    button.click()
    browser.until("return location.href !== arguments[0]", before)
    is_open(browser)
    assert browser.find_element(By.ID, "badges").text.split() == [chosen, "balanced", "flac"]
    assert browser.console_errors() == []
