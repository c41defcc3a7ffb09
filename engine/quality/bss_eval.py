"""SIR and SAR of BSS Eval (Vincent, Gribonval, Févotte 2006), for stereo images as in mir_eval and museval.

An estimate is projected onto its own reference, and onto all references, each delayed by 0 … `filter_length` - 1
samples. What the second projection adds is interference; what remains is artefacts. Over the whole song at once;
museval v4 takes the median over windows of a second, so its figures differ a little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_SAMPLES = 1 << 14


def sir_sar_db(
    references: NDArray[np.float32], estimates: NDArray[np.float32], filter_length: int = 512
) -> list[tuple[float | None, float | None]]:
    """(SIR, SAR) in dB of each estimate against the reference of the same place; both (sources, channels, samples).

    None where it has no meaning: of a silent reference or estimate, and SIR where there is one source alone. The system
    has heard channels × `filter_length` unknowns: four stereo stems take some seconds and 150 MB.
    """
    sources, channels, samples = references.shape
    guesses = estimates.reshape(-1, samples)
    heard = [source for source in range(sources) if np.any(references[source])]
    if not heard:
        return [(None, None)] * sources
    # A channel like the one before it (a mono file) would count twice and make the system singular.
    again = [row for row in range(sources * channels) if row % channels and _same(references, row)]
    rows = np.any(references.reshape(-1, samples), axis=1)
    rows[again] = False
    truths = references.reshape(-1, samples)[rows]
    owner = np.repeat(np.arange(sources), channels)[rows]
    lags = _correlations(truths, np.concatenate([truths, guesses]), filter_length)
    gram = _delayed(lags[:, : len(truths)], filter_length)
    seen = lags[:, len(truths) :].transpose(0, 2, 1).reshape(len(truths) * filter_length, -1)
    explained = np.sum(seen * _solve(gram, seen), axis=0)
    total = np.square(guesses, dtype=np.float64).sum(1)
    found: list[tuple[float | None, float | None]] = []
    for source in range(sources):
        of_source = slice(source * channels, (source + 1) * channels)
        energy = float(total[of_source].sum())
        if source not in heard or energy <= 0:
            found.append((None, None))
            continue
        own = np.repeat(owner == source, filter_length)
        own_seen = seen[own][:, of_source]
        target = float(np.sum(own_seen * _solve(gram[np.ix_(own, own)], own_seen)))
        known = float(explained[of_source].sum())
        sir_db = _ratio_db(target, known - target, energy) if len(heard) > 1 else None
        found.append((sir_db, _ratio_db(known, energy - known, energy)))
    return found


def _same(references: NDArray[np.float32], row: int) -> bool:
    source, channel = divmod(row, references.shape[1])
    return np.array_equal(references[source, channel], references[source, channel - 1])


def _correlations(left: NDArray[np.float32], right: NDArray[np.float32], lags: int) -> NDArray[np.float64]:
    """Σ left[i, t] · right[j, t + k] for k = 0 … lags - 1: (left, right, lags). Block by block."""
    size = 1 << (_BLOCK_SAMPLES + lags - 1).bit_length()
    total = np.zeros((len(left), len(right), size // 2 + 1), np.complex128)
    for start in range(0, left.shape[1], _BLOCK_SAMPLES):
        a = np.fft.rfft(left[:, start : start + _BLOCK_SAMPLES].astype(np.float64), size)
        b = np.fft.rfft(right[:, start : start + _BLOCK_SAMPLES + lags - 1].astype(np.float64), size)
        total += a.conj()[:, None] * b[None]
    found: NDArray[np.float64] = np.fft.irfft(total, size)[..., :lags]
    return found


def _delayed(lags: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The products of all delayed signals: (signals · length, signals · length)."""
    count = len(lags)
    delay = np.arange(length)
    difference = delay[:, None] - delay[None]  # of the first signal's delay and the second's
    later, earlier = np.maximum(difference, 0), np.maximum(-difference, 0)
    gram = np.empty((count, length, count, length))
    for i in range(count):
        for j in range(count):
            gram[i, :, j, :] = np.where(difference >= 0, lags[i, j][later], lags[j, i][earlier])
    return gram.reshape(count * length, count * length)


def _solve(gram: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return np.asarray(np.linalg.solve(gram, seen), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(gram, seen, rcond=None)[0], np.float64)


def _ratio_db(over: float, under: float, total: float) -> float:
    """In dB, within what double precision can tell apart (±120)."""
    rounding = 1e-12 * total
    return float(10 * np.log10(max(over, rounding) / max(under, rounding)))
