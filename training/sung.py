"""Sung lines from speech synthesizers: phrases cut into syllables, moved to the notes' pitch and length (TD-PSOLA)."""

from __future__ import annotations

import io
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from julius.resample import resample_frac
from numpy.typing import NDArray

from engine.synth.synthesizer import SAMPLE_RATE, Audio, Note, noise

RATE = 22050  # of espeak-ng
# A voice is a language and a variant; held-out voices share neither with training.
TRAINING_LANGUAGES = ("en-us", "en-gb", "de", "it", "fr-fr", "nl", "pl", "fi", "hu", "ro")
TRAINING_VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f3", "f5", "klatt", "Annie", "Andy", "Gene", "Jacky", "Lee")
HELD_OUT_LANGUAGES = ("es", "pt", "sv", "cs", "tr", "el")
HELD_OUT_VARIANTS = ("m2", "m4", "m6", "f2", "f4", "klatt2", "anika", "Mario", "belinda")
# Voices made of recordings of people: flite's (CMU) and festival's. Training only; held-out ones are espeak-ng's.
FLITE_VOICES = ("awb", "kal16", "rms", "slt")
FESTIVAL = Path("/usr/share/festival/voices/english")
FESTIVAL_VOICES = {"ked_diphone": FESTIVAL / "ked_diphone", "kal_diphone": FESTIVAL / "kal_diphone"}
WORDS = (
    "la na da mo ray sun moon love river home night over under falling hold me now come back again higher away shine "
    "summer never ever light fire ocean alone tonight dance with you dream of gold silver wind blow low ya hey oh ah "
    "mama solo luna amore stella vida casa mare sole terra notte bella tango rosa lado nada todo mano"
)


@dataclass(frozen=True)
class Speech:
    """Mono audio at `RATE`, pitch marks in samples, the period at each mark (0 where unvoiced), and syllable bounds."""

    audio: NDArray[np.float64]
    marks: NDArray[np.int64]
    periods: NDArray[np.int64]
    syllables: tuple[tuple[int, int], ...]


def speak(voice: str, text: str, speed: int, pitch: int) -> NDArray[np.float64]:
    """Speak a phrase in a voice of any program: mono at `RATE`. Only espeak-ng uses speed and pitch."""
    if voice in FLITE_VOICES:
        return _spoken_file(["flite", "-voice", voice, "-t", text, "-o"])
    if voice in FESTIVAL_VOICES:
        return _spoken_file(["text2wave", "-eval", f"(voice_{voice})", "-o"], text)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:  # the header of piped output has a wrong length
        assert file.getframerate() == RATE
    pcm = np.frombuffer(spoken[44:], np.int16)
    return pcm / 32768.0


def _spoken_file(command: list[str], text: str | None = None) -> NDArray[np.float64]:
    """Run a program that writes to the file at the end of its command; return the audio at `RATE`."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:
        subprocess.run([*command, out.name], input=(text or "").encode(), capture_output=True, check=True)
        with wave.open(out.name) as file:
            rate, pcm = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return np.asarray(resample_frac(torch.from_numpy(pcm / 32768.0), rate, RATE).numpy())


def _period(frame: NDArray[np.float64], low: int = 40, high: int = 330) -> int:
    """Pitch period in samples by autocorrelation, 0 when the frame has none."""
    size = 1 << (2 * len(frame) - 1).bit_length()
    spectrum = np.fft.rfft(frame - frame.mean(), size)
    r = np.fft.irfft(np.abs(spectrum) ** 2)[: high + 1]
    r = r / (r[0] + 1e-9) / (1 - np.arange(high + 1) / len(frame))
    best = low + int(np.argmax(r[low:] - np.arange(high + 1 - low) * 2e-4))
    return best if r[best] > 0.45 else 0


@lru_cache(maxsize=8)
def speech(voice: str, seed: int) -> Speech:
    """Return a spoken phrase of a voice, analysed for singing."""
    rng = np.random.default_rng(seed)
    text = " ".join(rng.choice(WORDS.split(), 28))
    audio = speak(voice, text, int(rng.integers(110, 170)), int(rng.integers(30, 80)))
    hop, size = 220, 1024
    frames = range(0, len(audio) - size, hop)
    loud = np.array([np.sqrt((audio[i : i + size] ** 2).mean()) for i in frames])
    gate = 0.08 * loud.max()
    raw = [_period(audio[i : i + size]) if loud[j] > gate else 0 for j, i in enumerate(frames)]
    marks, periods, place = [], [], size // 2
    while place < len(audio) - size:
        period = raw[min(len(raw) - 1, max(0, (place - size // 2) // hop))]
        if period:  # pull the mark to the nearest peak so that grains line up
            near = audio[place - period // 3 : place + period // 3 + 1]
            place += int(np.argmax(near)) - period // 3 if len(near) else 0
        marks.append(place)
        periods.append(period)
        place += period or 110
    syllables, start = [], None
    smooth = np.convolve(loud, np.ones(5) / 5, "same")
    for j in range(1, len(smooth) - 1):
        dip = (
            smooth[j] <= smooth[j - 1]
            and smooth[j] < smooth[j + 1]
            and smooth[j] < 0.6 * smooth[max(0, j - 18) : j + 18].max()
        )
        if dip or smooth[j] < gate:
            if start is not None and 9 < j - start < 60:
                syllables.append((start * hop + size // 2, j * hop + size // 2))
            start = j
    return Speech(audio, np.array(marks), np.array(periods), tuple(syllables))


def sing(notes: Sequence[Note], voice: str, n: int, rng: np.random.Generator) -> Audio:
    """Sing the notes with a voice's syllables: mono `(n,)` at 44.1 kHz."""
    spoken = speech(voice, int(rng.integers(1 << 30)))
    size = rng.uniform(0.85, 1.2)  # of the singer: the whole voice is read faster or slower
    vibrato, vibrato_hz = rng.uniform(0.1, 0.55), rng.uniform(4.6, 6.6)
    low = int(n * RATE / SAMPLE_RATE / size) + RATE
    out = np.zeros(low)
    if not spoken.syllables:
        raise ValueError(f"{voice} spoke nothing that can be sung")
    order = int(rng.integers(len(spoken.syllables)))
    rate = RATE / size  # samples of `out` in a second of the result
    before = None
    for note in notes:
        first, last = spoken.syllables[order % len(spoken.syllables)]
        order += 1
        length, natural = note.length_s * rate, float(last - first)
        onset = min(0.08 * RATE, natural * 0.4, length * 0.5)
        t, start = 0.0, note.start_s * rate
        bend = 0.0 if before is None else float(np.clip(before - note.midi, -4, 4))
        drift, phase = rng.uniform(0.5, 2), rng.uniform(0, 6)
        while t < length:
            source = t if t < onset else onset + (t - onset) * (natural - onset) / max(1.0, length - onset)
            i = int(np.searchsorted(spoken.marks, first + source))
            i = min(
                len(spoken.marks) - 1,
                max(0, i + (0 if spoken.periods[min(i, len(spoken.marks) - 1)] else int(rng.integers(-2, 3)))),
            )
            period, mark = int(spoken.periods[i]), int(spoken.marks[i])
            half = period or 110
            seconds = t / rate
            midi = note.midi + bend * np.exp(-seconds / 0.05) + 0.1 * np.sin(drift * 6.28 * seconds + phase)
            midi += vibrato * min(1.0, seconds / 0.3) * np.sin(6.28 * vibrato_hz * seconds + phase)
            step = rate / (440.0 * 2 ** ((midi - 69) / 12)) if period else 110.0
            width = half if not period else int(min(half, 1.3 * step))
            grain = spoken.audio[max(0, mark - width) : mark + width]
            place = int(start + t) - width
            if place >= 0 and place + len(grain) < low and len(grain) == 2 * width:
                fade = min(1.0, (length - t) / (0.05 * rate))
                out[place : place + len(grain)] += grain * np.hanning(len(grain)) * fade * note.velocity * step / half
            t += step
        before = note.midi
    places = np.arange(n) * (rate / SAMPLE_RATE)
    spectrum = np.fft.rfft(out)  # twice the samples before reading between them keeps images above 15 kHz
    dense = np.fft.irfft(np.pad(spectrum, (0, len(spectrum) - 1)), 2 * len(out)) * 2
    sung = np.interp(places * 2, np.arange(len(dense)), dense)
    envelope = np.abs(sung - np.convolve(sung, np.ones(9) / 9, "same"))
    envelope = np.convolve(envelope, np.ones(400) / 400, "same")
    air = noise(rng, n, 7000, 16000) * envelope * rng.uniform(0.0, 0.6)
    return np.asarray(sung + air, np.float32)


def training_voice(rng: np.random.Generator) -> str:
    """Return a random training voice of any program."""
    if rng.uniform() < 0.45:
        return str(rng.choice([*FLITE_VOICES, *FESTIVAL_VOICES]))
    return f"{rng.choice(TRAINING_LANGUAGES)}+{rng.choice(TRAINING_VARIANTS)}"
