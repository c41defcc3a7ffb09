"""Looped parts and versions, rendered offline by the timeline of the page: independent of the load of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.browser.conftest import BEATS_S, Site
from tests.browser.pages import open_player
from tests.browser.playback import decoded
from tests.fixtures.chromium import Browser, floats
from tests.fixtures.planted_results import RATE
from tests.fixtures.recording import lag

# One channel for each stem, and one for the metronome: sample n of all is the same moment.
_RENDER = """
    const [{ seconds, from, part, change, at, countsIn }] = args;
    const { mixer, practice } = await import("/static/job.js");
    await practice.ready;
    const { ask, here } = await import("/static/api.js");
    const { Metronome } = await import("/static/sound/metronome.js");
    const { Timeline } = await import("/static/sound/timeline.js");
    const { Version } = await import("/static/sound/version.js");
    const { stems, sampleRate } = mixer.player;
    const context = new OfflineAudioContext(stems.length + 1, Math.round(seconds * sampleRate), sampleRate);
    const merger = context.createChannelMerger(stems.length + 1);
    merger.connect(context.destination);
    const outputs = stems.map((_, index) => {
        const splitter = context.createChannelSplitter(2);
        splitter.connect(merger, 0, index);
        return splitter;
    });
    const clicks = context.createGain();
    clicks.connect(merger, 0, stems.length);
    const { beats } = practice.beatTools;
    const metronome = Object.assign(new Metronome(), { isOn: true, beats });
    metronome.attach(context, clicks);
    const timeline = Object.assign(new Timeline(context, outputs, metronome), { part, loop: Boolean(part) });
    const loaded = async (files, position, wanted) => {
        const opened = stems.map((stem) => ({ ...stem, ...files?.[stem.name] }));
        const version = await Version.open(opened, (bytes) => context.decodeAudioData(bytes), wanted);
        version.connect(context, () => {});
        const windows = timeline.windowsFrom(version, position);
        version.want(windows);
        while (!windows.every((window) => version.has(window))) await new Promise((done) => setTimeout(done, 20));
        return version;
    };
    const playing = await loaded(null, from);
    timeline.start(playing, from, countsIn ? beats.countIn(from) : []);
    timeline.schedule();
    let samples = playing.samples;
    if (change) {
        const id = location.pathname.split("/")[2];
        const headers = { "Content-Type": "application/json" };
        const options = { method: "POST", body: JSON.stringify(change), headers };
        const { stems: files } = await ask(`/api/jobs/${id}/versions`, options);
        for (const file of Object.values(files)) file.url = here(file.url);
        const version = await loaded(files, from + at, change);
        samples = version.samples;
        context.suspend(at).then(() => {
            timeline.goOn(version);
            timeline.schedule();
            context.resume();
        });
    }
    const buffer = await context.startRendering();
    const text = (index) => new Promise((resolve) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
        reader.readAsDataURL(new Blob([buffer.getChannelData(index)]));
    });
    return [samples, await Promise.all([...stems.keys(), stems.length].map(text))];
"""
_LEAD_S = 0.1
_FADE = RATE // 20  # samples; more than a fade
_10_MS = RATE // 100


def render(browser: Browser, **options: Any) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
    """Return the version's length, (stems, samples) of what is heard from the start of playback on, and the clicks."""
    samples, texts = browser.run_async(_RENDER, options)
    heard = np.stack([floats(text) for text in texts])[:, round(_LEAD_S * RATE) :]
    return samples, heard[:-1], heard[-1]


def onsets_s(clicks: NDArray[np.float32]) -> list[float]:
    """Return when clicks begin, in seconds."""
    loud = np.flatnonzero(np.abs(clicks) > 0.05)
    begins = loud[np.diff(loud, prepend=-RATE) > RATE // 20]
    return [float(begin) / RATE for begin in begins]


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_loop_repeats_exactly_its_part(browser: Browser, site: Site, kind: str) -> None:
    open_player(browser, site.page(kind))
    start, end = 1.7013, 3.2517  # the window of the stems ends in between
    _, heard, _ = render(browser, seconds=5, **{"from": 2.5}, part={"start": start, "end": end})
    assert np.array_equal(heard, np.broadcast_to(heard[0], heard.shape)), "stems are 0 samples apart"
    first, last = round(start * RATE), round(end * RATE)
    order = np.concatenate([np.arange(round(2.5 * RATE), last), *[np.arange(first, last)] * 4])[: heard.shape[1]]
    truth = decoded(site.file(kind, "drums"))[0]
    expected = truth[order]
    boundaries = np.flatnonzero(np.diff(order) < 0)
    assert len(boundaries) == 3
    error = np.abs(heard[0] - expected)
    error[:_FADE] = 0  # fades in
    for boundary in boundaries:
        assert float(error[boundary + _10_MS :][:_FADE].max()) < 0.02, "the fade is over within 10 ms"
        error[boundary - 1 : boundary + _FADE] = 0
        after = heard[0, boundary + _10_MS : boundary + 4 * _FADE]
        assert lag(after, truth) - first == _10_MS - 1
    assert float(error.max()) < (1e-3 if kind == "mp3" else 1e-5)
    loudness = np.sqrt(np.convolve(heard[0, _FADE:] ** 2, np.ones(441) / 441, "valid"))
    assert float(loudness.min()) > 0.5 * float(np.median(loudness)), "there is no gap at a boundary"


@pytest.mark.parametrize("tempo", [0.8, 1.2])
def test_version_goes_on_at_the_same_musical_place(browser: Browser, site: Site, tempo: float) -> None:
    open_player(browser, site.page("wav"))
    options: dict[str, Any] = {"from": 4.0, "at": 1.5, "change": {"key": 0, "tempo": tempo}}
    samples, heard, _ = render(browser, seconds=4, **options)
    assert np.abs(heard - heard[0]).max() < 1e-4, "stems are 0 samples apart"
    assert samples == round(site.known.shape[1] / tempo)
    switch = round(1.5 * RATE)
    assert np.abs(heard[0, _FADE:switch] - site.known[0, round(4 * RATE) :][_FADE:switch]).max() < 1e-5
    version = version_of(site, site.planted["wav"], tempo)
    for after in (2 * _FADE, RATE):
        place = lag(heard[0, switch + after : switch + after + _FADE], version[0]) / RATE * tempo
        expected = 4.0 + 1.5 + after / RATE * tempo
        assert abs(place - expected) < 0.001, "the bar is 50 ms"


def test_preview_goes_on_at_the_same_sample(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("mp3"))
    _, heard, _ = render(browser, seconds=5, **{"from": 4.0}, at=1.5, change={"preview": True})
    assert np.abs(heard - heard[0]).max() < 1e-4, "stems are 0 samples apart"
    truth = decoded(site.file("mp3", "drums"))[0]
    for at in (0.5, 2.0, 3.0):  # the last two are in the preview, in two windows of it
        first = round(at * RATE)
        assert lag(heard[0, first : first + _FADE], truth) == round(4 * RATE) + first


def test_clicks_are_on_the_beat_at_every_tempo(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("wav"))
    _, _, clicks = render(browser, seconds=6, **{"from": 2.0}, at=1.5, change={"key": 0, "tempo": 0.8})
    before = [beat - 2.0 for beat in BEATS_S if 2.0 <= beat < 3.5]
    after = [1.5 + (beat - 3.5) / 0.8 for beat in BEATS_S if beat >= 3.5]
    heard = onsets_s(clicks)
    expected = [*before, *after][: len(heard)]
    assert len(heard) == 10
    assert np.abs(np.subtract(heard, expected)).max() < 0.001, "the bar is 10 ms"


def test_clicks_follow_a_looped_part(browser: Browser, site: Site) -> None:
    open_player(browser, site.page("wav"))
    _, _, clicks = render(browser, seconds=4.5, **{"from": 2.25}, part={"start": 2.25, "end": 4.25})
    assert onsets_s(clicks) == pytest.approx([0.5 * beat for beat in range(9)], abs=0.001)


@pytest.mark.parametrize("start", [2.25, 2.4])
def test_count_in_is_one_bar_before_the_song(browser: Browser, site: Site, start: float) -> None:
    open_player(browser, site.page("wav"))
    _, heard, clicks = render(browser, seconds=4, **{"from": start}, countsIn=True)
    bar = 2.0 if start == 2.25 else 1.65  # from the first click to the song, which begins between two beats
    assert np.abs(heard[:, : round(bar * RATE) - 1]).max() == 0
    assert (
        np.abs(heard[0, round(bar * RATE) :][_FADE:RATE] - site.known[0, round(start * RATE) :][_FADE:RATE]).max()
        < 1e-5
    )
    assert onsets_s(clicks)[:6] == pytest.approx([0.5 * beat for beat in range(6)], abs=0.001)


def version_of(site: Site, job_id: str, tempo: float) -> NDArray[np.float32]:
    """Return the version's drums as the server wrote them."""
    name = f"Known wav - drums ({round(100 * tempo)} %).wav"
    (path,) = (site.data / "jobs" / job_id).glob(f"m*/{name}")
    return decoded(path)
