"""`python -m engine evaluate`: stems against the true ones, file by file."""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputRefused
from engine.jobs.options import STEMS
from engine.media.decode import decode
from engine.quality.bss_eval import sir_sar_db
from engine.quality.sdr import sdr_db, si_scores_db

Audio = NDArray[np.float32]
_NAMES = (*STEMS, "instrumental")
_SLACK_S = 0.1  # lossy codecs may add or lose a little at the end
_WORD = re.compile(r"[a-z]+")
_LONGEST_S = 24 * 3600


@dataclass(frozen=True)
class StemScore:
    """One stem, in dB. SDR is the global one of the Music Demixing Challenge, and defined for silence too; the others
    are None where they have no meaning. SIR and SAR: `engine.quality.bss_eval`, against all references."""

    stem: str
    sdr_db: float
    si_sdr_db: float | None
    sir_db: float | None
    sar_db: float | None
    silent_reference: bool

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def evaluate(estimates: Path, references: Path) -> list[StemScore]:
    """Compare every stem that is in both folders. Guitar and piano count as `other`, and the rest as `instrumental`,
    where the references know no better. Raises `InputRefused` and what `decode` does."""
    guesses, rate = _read_folder(estimates)
    truths, true_rate = _read_folder(references)
    if rate != true_rate:
        raise InputRefused(f"The estimates have {rate} samples a second, the references {true_rate}.")
    guesses, truths = _same_stems(guesses, truths)
    names = [name for name in _NAMES if name in guesses and name in truths]
    if not names:
        raise InputRefused("The two folders have no stem in common: their files are found by names such as vocals.wav.")
    lengths = [audio.shape[1] for folder in (guesses, truths) for audio in folder.values()]
    if max(lengths) - min(lengths) > _SLACK_S * rate:
        raise InputRefused(f"The files differ in length, by {(max(lengths) - min(lengths)) / rate:.1f} s.")
    truth, guess = (np.stack([folder[name][:, : min(lengths)] for name in names]) for folder in (truths, guesses))
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


def samples_of(path: Path) -> tuple[Audio, int]:
    """A file of our own as (2, samples) and its sample rate."""
    with tempfile.NamedTemporaryFile(suffix=".f32") as raw:
        decoded = decode(path, Path(raw.name), max_duration_s=_LONGEST_S)
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
    read = {name: samples_of(path) for name, path in files.items()}
    rates = {rate for _, rate in read.values()}
    if len(rates) != 1:
        raise InputRefused(
            f"The files in {folder} differ in their sample rate."
            if rates
            else f"{folder} has no file that is named after a stem ({', '.join(_NAMES)})."
        )
    return {name: audio for name, (audio, _) in read.items()}, rates.pop()


def _stem_in(filename: str) -> str | None:
    """The stem that a file is named after: "vocals", "Song - vocals - mini"; in case of doubt the last one."""
    ours = re.search(rf" - ({'|'.join(_NAMES)}) - [^-]+$", filename)
    if ours is not None:
        return ours[1]
    found = [word for word in _WORD.findall(filename.lower()) if word in _NAMES]
    return found[-1] if found else None


def _same_stems(guesses: dict[str, Audio], truths: dict[str, Audio]) -> tuple[dict[str, Audio], dict[str, Audio]]:
    guesses, truths = dict(guesses), dict(truths)
    for part in ("guitar", "piano"):
        for folder, beside in ((guesses, truths), (truths, guesses)):
            if part in folder and part not in beside and "other" in folder and "other" in beside:
                folder["other"] = _sum([folder["other"], folder.pop(part)])
    if "instrumental" in guesses and "instrumental" not in truths:
        rest = [audio for name, audio in truths.items() if name != "vocals"]
        if rest:
            truths["instrumental"] = _sum(rest)
    return guesses, truths


def _sum(parts: list[Audio]) -> Audio:
    samples = min(part.shape[1] for part in parts)
    total: Audio = np.sum([part[:, :samples] for part in parts], axis=0, dtype=np.float32)
    return total


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)
