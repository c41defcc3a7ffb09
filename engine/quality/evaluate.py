"""`python -m engine evaluate`: stems against the true ones, file by file."""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.alias_generators import to_camel

from engine.errors import InputRefused
from engine.jobs.options import DISPLAY_ORDER
from engine.media.decode import decode
from engine.quality.bss_eval import sir_sar_db
from engine.quality.sdr import sdr_db, si_scores_db

Audio = NDArray[np.float32]
_TOLERANCE_S = 0.1  # lossy codecs may change the length slightly
_WORD = re.compile(r"[a-z]+")
_MAX_DURATION_S = 24 * 3600


@dataclass(frozen=True)
class StemScore:
    """Scores of one stem in dB.

    SDR is the global one of the Music Demixing Challenge, which is defined for silence too. The others are None if they
    are undefined. SIR and SAR are those of `engine.quality.bss_eval`, with all references.
    """

    stem: str
    sdr_db: float
    si_sdr_db: float | None
    sir_db: float | None
    sar_db: float | None
    silent_reference: bool

    def as_dict(self) -> dict[str, object]:
        """Return the scores by name, in camelCase."""
        return {to_camel(name): value for name, value in asdict(self).items()}


def evaluate(estimates: Path, references: Path) -> list[StemScore]:
    """Score every stem that is in both folders.

    If only one folder has guitar or piano, they are added to `other`. If only the estimates have `instrumental`, its
    reference is the sum of all stems but vocals. Raises `InputRefused`, and errors of `decode`.
    """
    estimated_stems, rate = _read_folder(estimates)
    reference_stems, reference_rate = _read_folder(references)
    if rate != reference_rate:
        raise InputRefused(f"The estimates have a sample rate of {rate} Hz, the references of {reference_rate} Hz.")
    estimated_stems, reference_stems = _same_stems(estimated_stems, reference_stems)
    names = [name for name in DISPLAY_ORDER if name in estimated_stems and name in reference_stems]
    if not names:
        raise InputRefused("The two folders have no stem in common. Name files after their stem, such as vocals.wav.")
    lengths = [audio.shape[1] for folder in (estimated_stems, reference_stems) for audio in folder.values()]
    if max(lengths) - min(lengths) > _TOLERANCE_S * rate:
        raise InputRefused(f"The files differ in length, by {(max(lengths) - min(lengths)) / rate:.1f} s.")
    truth, guess = (
        np.stack([folder[name][:, : min(lengths)] for name in names]) for folder in (reference_stems, estimated_stems)
    )
    ratios = sir_sar_db(truth, guess)
    return [
        StemScore(
            stem=name,
            sdr_db=round(sdr_db(truth[i], guess[i]), 3),
            si_sdr_db=_finite(si_scores_db(truth, i, guess[i])[0]),
            sir_db=_finite(ratios[i][0]),
            sar_db=_finite(ratios[i][1]),
            silent_reference=not np.any(truth[i]),
        )
        for i, name in enumerate(names)
    ]


def read_audio(path: Path) -> tuple[Audio, int]:
    """Decode a trusted file to (2, samples); return it with its sample rate."""
    with tempfile.NamedTemporaryFile(suffix=".f32") as raw:
        decoded = decode(path, Path(raw.name), max_duration_s=_MAX_DURATION_S)
        audio = np.fromfile(raw.name, "<f4").reshape(-1, decoded.channels).T
    return np.ascontiguousarray(np.broadcast_to(audio, (2, audio.shape[1]))), decoded.sample_rate


def _read_folder(folder: Path) -> tuple[dict[str, Audio], int]:
    if not folder.is_dir():
        raise InputRefused(f"There is no folder {folder}.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = _stem_in(path.stem)
        if name is None or path.suffix in (".png", ".json") or not path.is_file():
            continue
        if name in files:
            raise InputRefused(f"{folder} has two files for {name}: {files[name].name} and {path.name}.")
        files[name] = path
    read = {name: read_audio(path) for name, path in files.items()}
    rates = {rate for _, rate in read.values()}
    if len(rates) != 1:
        raise InputRefused(
            f"The files in {folder} differ in their sample rate."
            if rates
            else f"{folder} has no file that is named after a stem ({', '.join(DISPLAY_ORDER)})."
        )
    return {name: audio for name, (audio, _) in read.items()}, rates.pop()


def _stem_in(filename: str) -> str | None:
    """Return the stem in a file name such as "vocals" or "Song - vocals - mini"; the last one of several."""
    ours = re.search(rf" - ({'|'.join(DISPLAY_ORDER)}) - [^-]+$", filename)
    if ours is not None:
        return ours[1]
    found = [word for word in _WORD.findall(filename.lower()) if word in DISPLAY_ORDER]
    return found[-1] if found else None


def _same_stems(
    estimated_stems: dict[str, Audio], reference_stems: dict[str, Audio]
) -> tuple[dict[str, Audio], dict[str, Audio]]:
    estimated_stems, reference_stems = dict(estimated_stems), dict(reference_stems)
    for part in ("guitar", "piano"):
        for folder, opposite in ((estimated_stems, reference_stems), (reference_stems, estimated_stems)):
            if part in folder and part not in opposite and "other" in folder and "other" in opposite:
                folder["other"] = _sum([folder["other"], folder.pop(part)])
    if "instrumental" in estimated_stems and "instrumental" not in reference_stems:
        rest = [audio for name, audio in reference_stems.items() if name != "vocals"]
        if rest:
            reference_stems["instrumental"] = _sum(rest)
    return estimated_stems, reference_stems


def _sum(parts: list[Audio]) -> Audio:
    samples = min(part.shape[1] for part in parts)
    total: Audio = np.sum([part[:, :samples] for part in parts], axis=0, dtype=np.float32)
    return total


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)
