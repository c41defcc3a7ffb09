"""State of the practice tools: in the link, remembered for each song; beats, chords, levels."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.browser.conftest import Site
from tests.browser.pages import open_player
from tests.browser.playback import levels, part, player, set_fader, value, words
from tests.fixtures.chromium import Browser


def click(browser: Browser, name: str) -> None:
    browser.find_element(By.ID, name).click()


def has_music(browser: Browser) -> None:
    """Wait for beats and chords."""
    browser.run_async("const { practice } = await import('/static/job.js'); await practice.ready;")


def fragment(browser: Browser) -> str:
    """Return the fragment of the page's address once it has settled."""
    browser.run_async("await new Promise((done) => setTimeout(done, 600));")
    return str(browser.execute_script("return location.hash"))


def marks(browser: Browser, selector: str = "#marks span") -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((mark) => mark.textContent)", selector
    )
    return found


def test_link_holds_the_state_and_song_remembers_it(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    assert fragment(browser) == ""
    player(browser, "player.setPart({ start: 2, end: 4.5 })")
    set_fader(browser, "bass", 50)
    player(browser, "mix.toggleMute('vocals')")
    player(browser, "mix.setPan('drums', -0.5)")
    click(browser, "key-more")
    click(browser, "click")
    click(browser, "beats-double")
    state = "#part=2-4.5&key=1&mute=vocals&volume=bass:0.5&pan=drums:-0.5&beats=2&click=on"
    assert fragment(browser) == state
    words(browser, "Now in key +1.")

    browser.execute_script("localStorage.clear()")
    for address in (f"{site.page('mp3')}{state}", site.page("mp3")):  # the link, then what is remembered
        browser.get("about:blank")
        open_player(browser, address)
        assert part(browser) == (2, 4.5) and value(browser, "key") == "+1"
        assert player(browser, "[...mix.muted, mix.volumes.bass, mix.pans.drums]") == ["vocals", 0.5, -0.5]
        assert player(browser, "[player.loop, player.metronome.isOn, player.metronome.countsIn]") == [True, True, False]
        words(browser, "Now in key +1.")
        assert player(browser, "player.version.key") == 1
        assert fragment(browser) == state
    browser.get("about:blank")
    open_player(browser, f"{site.page('mp3')}#try-models")
    assert part(browser) == (2, 4.5), "the name of a section is not a state"
    browser.get("about:blank")
    open_player(browser, site.page("wav"))
    assert fragment(browser) == "", "it is another song"


def test_nonsense_in_the_link_is_ignored(browser: Browser, site: Site) -> None:
    open_player(
        browser,
        f"{site.page('mp3')}#part=9-2&tempo=x&key=<b>&volume=bass:9,nothing:1,drums&pan=bass:-7&mute=no&beats=3&view=a",
    )
    assert part(browser) is None
    assert player(browser, "[mix.volumes.bass, mix.volumes.drums, mix.pans.bass, mix.muted.size]") == [2**0.5, 1, -1, 0]
    assert [value(browser, name) for name in ("tempo", "key")] == ["100", "0"]
    assert fragment(browser) == "#volume=bass:1.414&pan=bass:-1"
    assert browser.console_errors() == []


def test_ruler_shows_bars_at_half_and_twice_the_rate(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    has_music(browser)
    assert marks(browser) == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert browser.find_element(By.ID, "bpm").text == "120.0 BPM"
    click(browser, "beats-double")
    assert marks(browser)[:3] == ["1", "3", "5"] and browser.find_element(By.ID, "bpm").text == "240.0 BPM"
    click(browser, "beats-half")
    click(browser, "beats-half")
    assert marks(browser) == ["1", "2", "3", "4"]
    assert browser.find_element(By.ID, "beats-half").get_attribute("aria-disabled") == "true"
    # A dragged edge near a beat snaps to it.
    ruler = browser.find_element(By.ID, "ruler")
    width = ruler.size["width"]
    to = round((4.25 / 15 - 0.5) * width) + 4
    ActionChains(browser).move_to_element_with_offset(ruler, to, 0).click_and_hold().move_by_offset(
        200, 0
    ).release().perform()
    assert part(browser)[0] == 4.25  # type: ignore[index]


def test_zoomed_view_stays_where_it_is_moved(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    player(browser, "view.show(8, 10)")
    assert player(browser, "[view.from, view.to]") == [8, 10], "the playhead is elsewhere"
    player(browser, "player.seek(4)")
    assert player(browser, "view.from <= 4 && 4 <= view.to")
    click(browser, "play")
    player(browser, "view.show(11, 13)")
    browser.until("return /^0:0[5-9]/.test(document.getElementById('time').textContent)")
    assert player(browser, "[view.from, view.to]") == [11, 13]
    player(browser, "view.show(player.position - 0.5, player.position + 0.5)")
    shown = player(browser, "view.to")
    browser.until("return Number(document.getElementById('time').textContent.slice(2, 4)) > arguments[0] + 1", shown)
    # A frame may be drawn after the song has left the page.
    turned = (player(browser, "player.position <= view.to") for _ in range(100))
    assert any(turned), "it turns the page when the song leaves it"


def test_chord_lane_follows_the_key(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    has_music(browser)
    assert marks(browser, "#chords span") == ["Am", "F"] and marks(browser, "#chords .cut") == []
    assert browser.find_element(By.ID, "key-name").text == "A minor"
    click(browser, "key-more")
    words(browser, "Now in key +1.")
    assert marks(browser, "#chords span") == ["Bbm", "Gb"], "a key with flats"
    assert browser.find_element(By.ID, "key-name").text == "Bb minor"


def test_comparison_plays_the_song_as_recorded(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    player(browser, "mix.toggleSolo('bass')")
    set_fader(browser, "bass", 30)
    click(browser, "play")
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    mixed = levels(browser)
    assert mixed["vocals"] < 1e-6 < mixed["bass"]
    click(browser, "compare")
    recorded = levels(browser)
    assert min(recorded.values()) > 0.02
    assert recorded["bass"] == pytest.approx(recorded["vocals"], rel=0.1), "the fader is not at 30 %"
    click(browser, "compare")
    assert levels(browser)["vocals"] < 1e-6


def test_faders_show_decibels_and_double_click_resets(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    set_fader(browser, "bass", 141)
    player(browser, "mix.setPan('bass', -1)")
    lane = browser.find_element(By.CSS_SELECTOR, ".lane[data-stem=bass]")
    words = [each.text for each in lane.find_elements(By.CLASS_NAME, "lane-words")]
    assert words == ["+6.0 dB", "100 % left"]
    assert lane.find_element(By.CLASS_NAME, "fader").get_attribute("aria-valuetext") == "+6.0\xa0dB"
    click(browser, "play")
    browser.until("return document.getElementById('player').dataset.state === 'playing'")
    found = levels(browser)
    assert found["bass"] > 1.5 * found["drums"]
    sides = browser.run_async(
        """
        const { mixer } = await import("/static/job.js");
        const { context, stems } = mixer.player;
        const splitter = context.createChannelSplitter(2);
        stems.find(({ name }) => name === "bass").pan.connect(splitter);
        const analysers = [0, 1].map((side) => {
            const analyser = context.createAnalyser();
            splitter.connect(analyser, side);
            return analyser;
        });
        await new Promise((done) => setTimeout(done, 500));
        return analysers.map((analyser) => {
            const samples = new Float32Array(analyser.fftSize);
            analyser.getFloatTimeDomainData(samples);
            return Math.sqrt(samples.reduce((sum, each) => sum + each * each, 0) / samples.length);
        });
        """
    )
    assert sides[1] < 1e-4 < 0.02 < sides[0]
    for control in ("fader", "pan"):
        ActionChains(browser).double_click(lane.find_element(By.CLASS_NAME, control)).perform()
    assert player(browser, "[mix.volumes.bass, mix.pans.bass]") == [1, 0]
