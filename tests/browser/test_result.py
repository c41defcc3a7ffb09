"""What a result offers: words for its quality, and another separation of the song."""

from __future__ import annotations

from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import is_open
from tests.fixtures.chromium import Browser
from tests.fixtures.songs import make_song


def test_song_is_separated_again_with_another_model(browser: Browser, site: Site) -> None:
    browser.get(site.page("wav"))
    is_open(browser)
    assert not browser.find_element(By.ID, "again").is_displayed(), "the song is gone"
    song = site.data / "jobs" / site.planted["wav"] / "input"
    make_song(song, seconds=2)
    browser.refresh()
    is_open(browser)
    browser.find_element(By.CSS_SELECTOR, "#again summary").click()
    browser.until("return document.getElementById('again-words').textContent.startsWith('This is how')")
    browser.find_element(By.ID, "again-go").click()
    assert browser.current_url.startswith(site.page("wav")), "a separation with the same options is not offered"
    browser.execute_script(
        """
        const model = document.getElementById("again-model");
        model.value = "mini";
        model.dispatchEvent(new Event("change", { bubbles: true }));
        """
    )
    assert browser.find_element(By.ID, "again-words").text == "Takes a few seconds."
    song.rename(song.with_name("moved"))
    browser.find_element(By.ID, "again-go").click()
    refused = browser.until("return document.getElementById('again-error').textContent")
    assert "no longer here" in refused and "Send it again" in refused
    song.with_name("moved").rename(song)
    browser.find_element(By.ID, "again-go").click()
    browser.until("return !arguments[0].includes(location.pathname)", site.page("wav"))
    is_open(browser)
    assert browser.find_element(By.ID, "title").text == "Known wav"
    assert browser.find_element(By.ID, "badges").text.split() == ["mini", "balanced", "wav"]


def test_words_precede_scores(browser: Browser, site: Site) -> None:
    browser.get(site.page("mp3"))
    is_open(browser)
    verdicts = browser.find_element(By.ID, "verdicts")
    assert verdicts.text.splitlines() == ["Overall good", "Vocals clean", "Drums clean", "Bass good"]
    assert not browser.find_element(By.ID, "scores").is_displayed(), "numbers are folded"
    browser.find_element(By.CSS_SELECTOR, "#in-scores summary").click()
    scores = browser.find_element(By.ID, "scores")
    assert scores.text.splitlines()[:4] == ["Overall", "83 %", "Vocals", "86 %"]
    assert "from 85 % is clean" in scores.text
    browser.run_async(
        """
        const { job } = await import("/static/job.js");
        const { showTrust } = await import("/static/trust.js");
        const quality = job.result.qualityMetrics;
        delete quality.words.vocals;
        showTrust({ ...job, result: { ...job.result, qualityMetrics: { ...quality, absent: ["vocals"] } } }, []);
        """
    )
    assert verdicts.text.splitlines()[:2] == ["Overall good", "no vocals found"]
