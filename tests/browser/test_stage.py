"""The page that follows a voice channel: in step with it, through pauses, jumps, other tempos and songs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from engine.service.stages import NowPlaying, new_stage_id
from tests.browser.conftest import Site
from tests.browser.playback import RECORD_LOCKS
from tests.fakes.slow_line import Line
from tests.fixtures.chromium import Browser

APART_S = 0.1
TIMEOUT_S = 120.0


class FakeSession:
    """What a voice session would say: a song of 15 s that plays on, unless it is changed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.now: NowPlaying | None = NowPlaying(
            job_id=site.planted["mp3"], title="Known mp3", next_title=None, stems=("vocals", "drums", "bass", "other"),
            muted=frozenset(), duration_s=15.0, position_s=1.0, is_paused=True, key=0, tempo=1.0, loop_s=None,
        )  # fmt: skip
        self.at_s = time.monotonic()
        self.id = new_stage_id()
        self.open()

    def open(self) -> None:
        self.site.stages.open(self.id, self.look)

    def look(self) -> NowPlaying | None:
        now = self.now
        return now and replace(now, position_s=self.position_s(now))

    def position_s(self, now: NowPlaying) -> float:
        moved_s = 0.0 if now.is_paused else (time.monotonic() - self.at_s) * now.tempo
        return min(now.duration_s, now.position_s + moved_s)

    def change(self, **changes: Any) -> None:
        now = self.look()
        assert now is not None
        changed = replace(now, **changes)
        self.at_s = time.monotonic()
        self.now = changed

    @property
    def url(self) -> str:
        return self.site.stages.url(self.id)


@pytest.fixture
def session(site: Site) -> Iterator[FakeSession]:
    session = FakeSession(site)
    yield session
    site.stages.close(session.id)


def open_stage(browser: Browser, session: FakeSession) -> None:
    browser.get(session.url)
    browser.until("return !document.getElementById('song').hidden", timeout_s=TIMEOUT_S)


def position_s(browser: Browser) -> float:
    found = browser.run_async("return (await import('/static/stage/stage.js')).follower.position;")
    assert isinstance(found, (int, float))
    return float(found)


def is_in_step(browser: Browser, session: FakeSession) -> bool:
    """Whether the page's position is within 100 ms of the session's, read before and after it."""
    before, shown, after = session.look(), position_s(browser), session.look()
    assert before is not None and after is not None
    return before.position_s - APART_S < shown < after.position_s + APART_S


def until(condition: Callable[[], object], description: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, description
        time.sleep(0.05)


def text(browser: Browser, name: str) -> str:
    return str(browser.find_element("id", name).text)


def test_stage_is_in_step_with_the_channel(browser: Browser, session: FakeSession) -> None:
    open_stage(browser, session)
    until(lambda: is_in_step(browser, session), "in step while paused")
    assert browser.find_element("id", "paused").is_displayed()
    session.change(is_paused=False)
    until(lambda: not browser.find_element("id", "paused").is_displayed(), "the song to go on")
    until(lambda: is_in_step(browser, session), "in step while playing")
    session.change(position_s=9.0)
    until(lambda: is_in_step(browser, session) and position_s(browser) >= 9, "in step after a jump")
    session.change(position_s=2.0, tempo=0.5)
    until(lambda: is_in_step(browser, session) and position_s(browser) > 2.5, "in step at half the tempo")
    session.change(loop_s=(3.0, 4.0), position_s=3.5, is_paused=True)
    until(lambda: is_in_step(browser, session), "in step in a loop")
    assert "tempo 50" in text(browser, "sound") and "repeating 0:03 to 0:04" in text(browser, "sound")
    assert browser.console_errors() == []


def test_stage_shows_chords_bars_and_muted_stems(browser: Browser, session: FakeSession) -> None:
    session.change(position_s=4.3)
    open_stage(browser, session)
    until(lambda: text(browser, "chord") == "Am", "the first chord")
    assert text(browser, "bar") == "Bar 3" and text(browser, "next-chord") == "then F"
    assert len(browser.find_elements("css selector", "#beats .on")) == 1
    session.change(muted=frozenset({"vocals"}), key=2, position_s=9.0)
    until(lambda: text(browser, "chord") == "G", "the chord in another key")
    lane = browser.find_element("css selector", ".lane[data-stem=vocals]")
    assert "off" in lane.text.lower() and "off" not in browser.find_element("css selector", "[data-stem=drums]").text
    assert "without vocals" in text(browser, "sound") and "key +2" in text(browser, "sound")
    wave = "const c = document.querySelector('.lane[data-stem=drums] canvas');"
    drawn = "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((each) => each > 0);"
    until(lambda: browser.execute_script(wave + drawn), "a waveform")


def test_stage_follows_to_the_next_song_and_the_end(browser: Browser, session: FakeSession) -> None:
    session.change(next_title="Sung by you")
    open_stage(browser, session)
    until(lambda: text(browser, "next") == "Next: Sung by you", "the next title")
    karaoke = session.site.planted["karaoke"]
    stems = ("vocals", "instrumental")
    session.change(job_id=karaoke, title="Sung by you", next_title=None, stems=stems, position_s=0.0, duration_s=1.0)
    until(lambda: text(browser, "title") == "Sung by you", "the next song")
    until(lambda: len(browser.find_elements("css selector", ".lane")) == 2, "its stems")
    assert text(browser, "next") == ""
    session.site.stages.close(session.id)
    until(lambda: "has ended" in text(browser, "notice"), "the end")
    assert not browser.find_element("id", "song").is_displayed()


def test_stage_returns_after_a_restart_of_the_server(browser: Browser, session: FakeSession) -> None:
    with Line(session.site.url) as line:
        browser.get(session.url.replace(session.site.url, line.url))
        browser.until("return !document.getElementById('song').hidden", timeout_s=TIMEOUT_S)
        line.cut()
        until(lambda: "Reconnecting" in text(browser, "notice"), "the page to notice")
        session.site.stages.close(session.id)  # the page cannot be told
        line.mend()
        requests = "performance.getEntriesByType('resource').filter((each) => each.name.includes('song.json'))"
        browser.until(f"return {requests}.length > 1", timeout_s=TIMEOUT_S)
        session.open()
        session.change(position_s=7.0)
        until(lambda: is_in_step(browser, session) and position_s(browser) == 7, "in step again")
        until(lambda: text(browser, "notice") == "", "no more notice")


def test_shortest_round_trip_sets_the_clock(browser: Browser, session: FakeSession) -> None:
    """The server is 1000 s ahead; all answers but the fourth are delayed on their way back."""
    open_stage(browser, session)
    apart = browser.run_async("""
        const { ServerClock } = await import("/static/stage/clock.js");
        let asked = 0;
        const ask = async () => {
            const told = performance.now() / 1000 + 1000;
            if (++asked !== 4) await new Promise((resolve) => setTimeout(resolve, 400));
            return told;
        };
        const clock = new ServerClock(ask);
        await clock.align();
        return clock.now() - performance.now() / 1000 - 1000;
    """)
    assert abs(apart) < 0.15


def test_changed_link_opens_no_stage(browser: Browser, session: FakeSession) -> None:
    browser.get(session.url[:-2] + "xx")
    until(lambda: "link" in text(browser, "notice"), "a refusal")
    assert not browser.find_element("id", "song").is_displayed()


def test_stage_moves_beat_by_beat_with_reduced_motion(browser: Browser, session: FakeSession) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    session.change(is_paused=False, tempo=0.5)
    open_stage(browser, session)
    seen = browser.run_async("""
        const { follower } = await import("/static/stage/stage.js");
        const area = document.getElementById("stage-area");
        const places = new Set();
        const from = follower.position;
        while (follower.position < from + 2) {
            await new Promise(requestAnimationFrame);
            places.add(area.style.getPropertyValue("--played"));
        }
        return places.size;
    """)
    assert 2 <= seen <= 6, "one place for each beat of half a second"
    assert browser.execute_script("return document.getAnimations().length") == 0


def test_screen_stays_on_while_a_session_goes(browser: Browser, session: FakeSession) -> None:
    recording = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORD_LOCKS})
    open_stage(browser, session)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", recording)
    browser.until("return locks.length === 1 && locks[0].held")
    session.site.stages.close(session.id)
    browser.until("return locks.length === 1 && !locks[0].held")


@pytest.mark.parametrize("width", [390, 768])
def test_stage_fits_the_width_of_the_screen(browser: Browser, session: FakeSession, width: int) -> None:
    browser.emulate_screen(width, 844)
    session.change(position_s=4.3, key=2, muted=frozenset({"drums"}))
    open_stage(browser, session)
    until(lambda: text(browser, "chord") == "Bm", "a wide chord")
    beyond = """
        return [...document.querySelectorAll("body *")]
            .filter((each) => each.getBoundingClientRect().right > innerWidth)
            .map(({ id, className }) => id || className);
    """
    assert browser.execute_script(beyond) == []
