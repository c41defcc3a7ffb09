"""SIR and SAR of BSS Eval (Vincent, Gribonval, Févotte 2006), for stereo images as in mir_eval and museval.

An estimate is projected onto its own reference, and onto all references, each delayed by 0 … `filter_length` - 1
samples. The difference of the projections is interference, the remainder is artefacts. The scores are for the whole
song; museval v4 takes the median over windows of one second, so its figures differ slightly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_SAMPLES = 1 << 14


def sir_sar_db(
    references: NDArray[np.float32], estimates: NDArray[np.float32], filter_length: int = 512
) -> list[tuple[float | None, float | None]]:
    """Return (SIR, SAR) in dB of each estimate and the reference at the same index.

    Both arrays are (sources, channels, samples). Both scores are None for a silent reference or estimate, and SIR is
    None for a single source. The linear system has audible channels × `filter_length` unknowns: four stereo stems take
    some seconds and 150 MB.
    """
    sources, channels, samples = references.shape
    flat_estimates = estimates.reshape(-1, samples)
    audible = [source for source in range(sources) if np.any(references[source])]
    if not audible:
        return [(None, None)] * sources
    # A channel equal to the previous one (a mono file) would make the system singular.
    duplicates = [row for row in range(sources * channels) if row % channels and _equals_previous(references, row)]
    rows = np.any(references.reshape(-1, samples), axis=1)
    rows[duplicates] = False
    flat_references = references.reshape(-1, samples)[rows]
    owner = np.repeat(np.arange(sources), channels)[rows]
    lags = _correlations(flat_references, np.concatenate([flat_references, flat_estimates]), filter_length)
    gram = _delayed(lags[:, : len(flat_references)], filter_length)
    products = lags[:, len(flat_references) :].transpose(0, 2, 1).reshape(len(flat_references) * filter_length, -1)
    explained = np.sum(products * _solve(gram, products), axis=0)
    total = np.square(flat_estimates, dtype=np.float64).sum(1)
    scores: list[tuple[float | None, float | None]] = []
    for source in range(sources):
        of_source = slice(source * channels, (source + 1) * channels)
        energy = float(total[of_source].sum())
        if source not in audible or energy <= 0:
            scores.append((None, None))
            continue
        own = np.repeat(owner == source, filter_length)
        own_products = products[own][:, of_source]
        target = float(np.sum(own_products * _solve(gram[np.ix_(own, own)], own_products)))
        known = float(explained[of_source].sum())
        sir_db = _ratio_db(target, known - target, energy) if len(audible) > 1 else None
        scores.append((sir_db, _ratio_db(known, energy - known, energy)))
    return scores


def _equals_previous(references: NDArray[np.float32], row: int) -> bool:
    source, channel = divmod(row, references.shape[1])
    return np.array_equal(references[source, channel], references[source, channel - 1])


def _correlations(left: NDArray[np.float32], right: NDArray[np.float32], lags: int) -> NDArray[np.float64]:
    """Return Σ left[i, t] · right[j, t + k] for k = 0 … lags - 1 as (left, right, lags), block by block."""
    size = 1 << (_BLOCK_SAMPLES + lags - 1).bit_length()
    total = np.zeros((len(left), len(right), size // 2 + 1), np.complex128)
    for start in range(0, left.shape[1], _BLOCK_SAMPLES):
        a = np.fft.rfft(left[:, start : start + _BLOCK_SAMPLES].astype(np.float64), size)
        b = np.fft.rfft(right[:, start : start + _BLOCK_SAMPLES + lags - 1].astype(np.float64), size)
        total += a.conj()[:, None] * b[None]
    result: NDArray[np.float64] = np.fft.irfft(total, size)[..., :lags]
    return result


def _delayed(lags: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return the products of all delayed signals, (signals · length, signals · length)."""
    count = len(lags)
    delay = np.arange(length)
    difference = delay[:, None] - delay[None]  # between the delays of both signals
    later, earlier = np.maximum(difference, 0), np.maximum(-difference, 0)
    gram = np.empty((count, length, count, length))
    for i in range(count):
        for j in range(count):
            gram[i, :, j, :] = np.where(difference >= 0, lags[i, j][later], lags[j, i][earlier])
    return gram.reshape(count * length, count * length)


def _solve(gram: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return np.asarray(np.linalg.solve(gram, products), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(gram, products, rcond=None)[0], np.float64)


def _ratio_db(over: float, under: float, total: float) -> float:
    """Return a ratio in dB, limited to the double precision range of ±120."""
    rounding = 1e-12 * total
    return float(10 * np.log10(max(over, rounding) / max(under, rounding)))
