"""Add a known fault of random strength to an output, or improve the output toward the truth."""

from __future__ import annotations

import numpy as np

from engine.synth.synthesizer import SAMPLE_RATE, Audio

Stems = dict[str, Audio]
Agreement = dict[str, float | None]

FAULTS = ("nearer", "leakage", "swap", "low-pass", "musical noise", "clipping")
_WINDOW = 2048


def altered(
    fault: str, stems: Stems, truth: Stems, agreement_db: Agreement, rng: np.random.Generator
) -> tuple[Stems, Agreement]:
    """Return all stems of an output with a fault.

    The agreement of the passes does not change, except that an error made smaller is smaller in every pass.
    """
    out, agreement = dict(stems), dict(agreement_db)
    names = list(stems)
    if fault == "nearer":
        for name in names:
            kept = 10 ** (-rng.uniform(2, 14) / 20)
            out[name] = truth[name] + np.float32(kept) * (stems[name] - truth[name])
            if (value := agreement[name]) is not None:
                agreement[name] = value - 20 * float(np.log10(kept))
    elif fault == "leakage":
        for name in names:
            source = stems[str(rng.choice([other for other in names if other != name]))]
            out[name] = stems[name] + np.float32(10 ** (-rng.uniform(2, 20) / 20)) * source
    elif fault == "swap":
        samples = stems[names[0]].shape[1]
        for first, second in _pairs(names, rng):
            start = int(rng.uniform(0, 0.8) * samples)
            here = slice(start, start + int(rng.uniform(0.1, 0.8) * samples))
            out[first], out[second] = stems[first].copy(), stems[second].copy()
            out[first][:, here], out[second][:, here] = stems[second][:, here], stems[first][:, here]
    elif fault == "low-pass":
        for name in names:
            top = 200 if name == "bass" else 1000
            out[name] = _below(stems[name], top * 2 ** rng.uniform(0, 3))
    elif fault == "musical noise":
        for name in names:
            out[name] = _holes(stems[name], rng.uniform(0.05, 0.6), rng)
    elif fault == "clipping":
        for name in names:
            limit = np.float32(np.abs(stems[name]).max() * rng.uniform(0.1, 0.6))
            out[name] = np.clip(stems[name], -limit, limit)
    else:
        raise ValueError(fault)
    return out, agreement


def _pairs(names: list[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    order = [str(name) for name in rng.permutation(names)]
    return list(zip(order[::2], order[1::2], strict=False))


def _below(audio: Audio, hz: float) -> Audio:
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE) / hz + 1e-9)
    return np.asarray(np.fft.irfft(spectrum / (1 + np.exp(12 * octaves)), audio.shape[1]), np.float32)


def _holes(audio: Audio, share: float, rng: np.random.Generator) -> Audio:
    """Drop random cells of the short-time spectrum, the same in both channels."""
    hop, samples = _WINDOW // 2, audio.shape[1]
    window = np.sqrt(np.hanning(_WINDOW + 1)[:-1]).astype(np.float32)
    padded = np.pad(audio, ((0, 0), (hop, hop + -samples % hop)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW, axis=1)[:, ::hop] * window
    spectra = np.fft.rfft(frames)
    spectra *= rng.uniform(size=spectra.shape[1:]) >= share
    pieces = np.fft.irfft(spectra, _WINDOW) * window
    out = np.zeros_like(padded)
    for i in range(pieces.shape[1]):
        out[:, i * hop : i * hop + _WINDOW] += pieces[:, i]
    return out[:, hop : hop + samples]
