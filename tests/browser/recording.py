"""What the stems play, recorded in the page, all on one clock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.browser.chromium import Browser, floats
from tests.browser.planted import RATE

# A merger puts one channel of each stem side by side, so that sample n of all is the same moment.
_RECORD = """
    const { mixer } = await import("/static/job.js");
    const { context, stems } = mixer.player;
    const [count, position] = given;
    const merger = context.createChannelMerger(stems.length);
    const splitters = stems.map((stem, index) => {
        const splitter = context.createChannelSplitter(2);
        stem.gain.connect(splitter);
        splitter.connect(merger, 0, index);
        return splitter;
    });
    const recorder = context.createScriptProcessor(16384, stems.length, 1);
    const blocks = stems.map(() => []);
    merger.connect(recorder).connect(context.destination);
    if (position !== null) { mixer.player.seek(position); await mixer.player.play(); }
    await new Promise((resolve) => {
        let isBegun = false;
        recorder.onaudioprocess = ({ inputBuffer }) => {
            isBegun ||= inputBuffer.getChannelData(0).some((sample) => sample !== 0);
            if (!isBegun) return;
            blocks.forEach((list, index) => list.push(inputBuffer.getChannelData(index).slice()));
            if (blocks[0].length * 16384 >= count) resolve();
        };
    });
    recorder.onaudioprocess = null;
    recorder.disconnect();
    splitters.forEach((splitter, index) => { stems[index].gain.disconnect(splitter); splitter.disconnect(); });
    return Promise.all(blocks.map(async (list) => {
        const url = await new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.readAsDataURL(new Blob(list));
        });
        return url.slice(url.indexOf(",") + 1);
    }));
"""


def record(browser: Browser, seconds: float, *, position: float | None = None) -> NDArray[np.float32]:
    """(stems, samples) of the left channels, after the faders; `position`: go there and play first."""
    texts: list[Any] = browser.awaited(_RECORD, round(seconds * RATE), position)
    return np.stack([floats(text) for text in texts])


def lag(heard: NDArray[np.float32], known: NDArray[np.float32]) -> int:
    """Where in `known` it is that `heard` begins, in samples (cross-correlation)."""
    size = 1 << (len(heard) + len(known) - 1).bit_length()
    spectrum = np.fft.rfft(known, size) * np.conj(np.fft.rfft(heard, size))
    best = int(np.argmax(np.fft.irfft(spectrum, size)))
    return best - size if best > size // 2 else best
