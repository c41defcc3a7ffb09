"""`python -m bench.music`: how often tempo, beats, key and chords are right, on songs whose truth is known.

The composer's songs are rendered and separated with the embedded model; `--keep` stores the stems for the next run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import table
from engine.music import facts as music_facts
from engine.music.chords import Chord
from engine.music.facts import Facts, find_facts
from engine.music.features import StemFeatures
from engine.synth.song import STEMS, compose, sample_song
from engine.synth.synthesizer import SAMPLE_RATE, Audio
from engine.synth.truth import MusicTruth

FIRST_SEED = 50_000_000  # unseen by the training of `mini` and the development of `engine.music`
_BLOCK_SAMPLES = 3 * SAMPLE_RATE
_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_CONFIDENCES = ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01))


@dataclass(frozen=True)
class Score:
    """How right the facts of a song are, 0 to 1 each, and their confidences; without facts left out."""

    right: dict[str, float]
    confidence: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help=f"of the first song ({FIRST_SEED})")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each song (40)")
    parser.add_argument("--keep", type=Path, help="folder in which the separated stems are kept")
    parser.add_argument("--kept-only", action="store_true", help="leave out songs that are not in that folder yet")
    parser.add_argument("--true-stems", action="store_true", help="use the true stems instead of separated ones")
    chosen = parser.parse_args()
    music_facts.LEAST_CONFIDENCE = 0.0  # score uncertain facts too
    scores, cpu_s, seconds = [], 0.0, 0.0
    for seed in range(chosen.seed, chosen.seed + chosen.songs):
        path = None if chosen.keep is None else chosen.keep / f"{seed}-{chosen.seconds:g}.npz"
        if chosen.kept_only and (path is None or not path.exists()):
            continue
        stems = true_stems(seed, chosen.seconds) if chosen.true_stems else separated(seed, chosen.seconds, path)
        began = time.process_time()
        found = find_facts(features_of(stems), chosen.seconds)
        cpu_s += time.process_time() - began
        seconds += chosen.seconds
        scores.append(score(truth_of(seed, chosen.seconds), found, chosen.seconds))
    print(table(f"{len(scores)} songs", means(scores)))
    print(table("Of the facts with this confidence, how many are right", calibration(scores)))
    print(f"{1000 * cpu_s / seconds:.1f} ms of CPU for each second of audio")


def truth_of(seed: int, seconds: float) -> MusicTruth:
    return compose(np.random.default_rng(seed), seconds).truth


def true_stems(seed: int, seconds: float) -> Mapping[str, Audio]:
    return sample_song(seed, seconds).stems


def separated(seed: int, seconds: float, path: Path | None) -> Mapping[str, Audio]:
    """Return the stems that `mini` separates, from the file at `path` if it exists; otherwise write it."""
    if path is not None and path.exists():
        with np.load(path) as kept:
            return {name: kept[name].astype(np.float32) / np.float32(32767) for name in STEMS}
    from training.validation_outputs import Way
    from training.validation_outputs import separated as separate

    batcher, model = _separation()
    stems, _ = separate(batcher, model, sample_song(seed, seconds).mix, Way("mini"))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rounded = {name: np.round(np.clip(stem, -1, 1) * 32767).astype(np.int16) for name, stem in stems.items()}
        np.savez(path, **rounded)  # type: ignore[arg-type]  # the stubs take the names for options
    return stems


@cache
def _separation() -> tuple[Any, Any]:
    import torch

    from engine.separation.models.library import ModelLibrary
    from engine.separation.schedule.batcher import Batcher

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return Batcher(), ModelLibrary(None, Path(folder), 1 << 30).load("mini")


def features_of(stems: Mapping[str, Audio]) -> dict[str, StemFeatures]:
    out = {}
    for name, stem in stems.items():
        out[name] = StemFeatures(SAMPLE_RATE, has_drums=name == "drums", is_pitched=name != "drums")
        for start in range(0, stem.shape[1], _BLOCK_SAMPLES):
            out[name].add(stem[:, start : start + _BLOCK_SAMPLES])
        out[name].finish()
    return out


def score(truth: MusicTruth, found: Facts, seconds: float) -> Score:
    right = dict.fromkeys(("tempo", "tempo or octave", "beats", "downbeats", "key", "same notes", "chords"), 0.0)
    confidence: dict[str, float] = {}
    if (rhythm := found.rhythm) is not None:
        ratio = rhythm.tempo_bpm / truth.tempo_bpm
        right["tempo"] = float(abs(ratio - 1) < 0.01)
        right["tempo or octave"] = float(min(abs(ratio / octave - 1) for octave in (0.5, 1, 2)) < 0.01)
        right["beats"] = f_measure(truth.beats_s, rhythm.beats_s)
        right["downbeats"] = f_measure(truth.downbeats_s, rhythm.downbeats_s)
        confidence["tempo"] = rhythm.tempo_confidence
        confidence["beats"] = rhythm.beat_confidence
        confidence["downbeats"] = rhythm.bar_confidence
    if (key := found.key) is not None:
        right["key"] = float((key.tonic, key.is_minor) == (truth.tonic, truth.is_minor))
        notes = frozenset((key.tonic + step) % 12 for step in (_MINOR if key.is_minor else _MAJOR))
        right["same notes"] = float(right["key"] or notes == truth.notes)
        confidence["key"] = key.confidence
    if found.chords is not None:
        right["chords"] = overlap(truth, found.chords, seconds)
        confidence["chords"] = found.chords_confidence
    return Score(right, confidence)


def f_measure(true_s: Sequence[float], found_s: Sequence[float] | NDArray[np.float64], within_s: float = 0.07) -> float:
    """Return the F-measure of times: each true one is matched at most once, within 70 ms."""
    matched = true = found = 0
    while true < len(true_s) and found < len(found_s):
        late_s = found_s[found] - true_s[true]
        matched += abs(late_s) <= within_s
        true += late_s >= -within_s
        found += late_s <= within_s
    return 2 * matched / max(1, len(true_s) + len(found_s))


def overlap(truth: MusicTruth, chords: Sequence[Chord], seconds: float) -> float:
    """Return the share of the song with the right major or minor chord; a diminished chord is never right."""
    right_s = 0.0
    for true in truth.chords:
        for chord in chords:
            if (chord.root, chord.is_minor) == (true.root, true.is_minor) and not true.is_diminished:
                right_s += max(0.0, min(chord.end_s, true.end_s) - max(chord.start_s, true.start_s))
    return right_s / seconds


def means(scores: Sequence[Score]) -> list[dict[str, Any]]:
    bars = {"tempo": 0.75, "tempo or octave": 0.95, "beats": 0.85, "key": 0.75, "same notes": 0.85, "chords": 0.6}
    rows = []
    for name in scores[0].right if scores else ():
        mean = float(np.mean([each.right[name] for each in scores]))
        rows.append({"fact": name, "right": round(mean, 3), "bar": bars.get(name, "")})
    return rows


def calibration(scores: Sequence[Score]) -> list[dict[str, Any]]:
    rows = []
    for name in ("tempo", "beats", "downbeats", "key", "chords"):
        for low, high in _CONFIDENCES:
            inside = [each.right[name] for each in scores if low <= each.confidence.get(name, -1) < high]
            if inside:
                right = round(float(np.mean(inside)), 2)
                rows.append({"fact": name, "from": low, "to": min(high, 1.0), "songs": len(inside), "right": right})
    return rows


if __name__ == "__main__":
    main()
