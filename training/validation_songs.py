"""Songs whose true stems are known, to calibrate the quality estimate: `python -m training.validation_songs`.

Families share no soundfont, drum kit or voice, so a fit on some families can be tested on unseen sounds. Training uses
none of their seeds.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import Progress

from engine.synth.song import STEMS
from engine.synth.synthesizer import Audio
from training.instruments import SF2, TRAINING_FONTS
from training.midi_songs import HELD_OUT_KITS, Sounds, midi_song
from training.mixing import numpy_song, pack
from training.songs import HELD_OUT_SEEDS

SECONDS = 12.0
SONGS = 18  # of each family
FOLDER = Path("training/data/validation")
FAMILIES: dict[str, Sounds | None] = {
    "synth": None,  # the project's synthesizer and formant voice
    "fluid": Sounds(TRAINING_FONTS[:3], (), ("en-us", "de", "it", "fr-fr"), ("m1", "m3", "f1", "klatt")),
    "timgm": Sounds((SF2 / "TimGM6mb.sf2",), HELD_OUT_KITS[:1], ("es", "pt", "sv"), ("m2", "m4", "f2")),
    "opl3": Sounds((SF2 / "OPL-3_FM_128M.sf2",), HELD_OUT_KITS[1:], ("cs", "tr", "el"), ("m6", "f4", "klatt2")),
    "csound": Sounds((SF2 / "sf_GMbank.sf2",), (), ("en-gb", "nl", "pl"), ("m5", "f3", "Andy")),
}
_FIRST_SEED = HELD_OUT_SEEDS + 50_000


def families_here() -> list[str]:
    """Return the families whose soundfonts are installed."""
    return [
        name for name, sounds in FAMILIES.items()
        if sounds is None or all(font.exists() for font in (*sounds.fonts, *sounds.kits))
    ]  # fmt: skip


def song_of(family: str, number: int, duration_s: float = SECONDS) -> dict[str, Audio]:
    """Render a song at realistic, uneven levels; one in five lacks a stem."""
    seed = _FIRST_SEED + 1000 * list(FAMILIES).index(family) + number
    sounds = FAMILIES[family]
    stems = numpy_song(seed, duration_s) if sounds is None else midi_song(seed, duration_s, sounds=sounds)
    rng = np.random.default_rng([seed, 1])
    for name in STEMS:
        stems[name] = stems[name] * np.float32(10 ** (np.clip(rng.normal(0, 3.5), -8, 8) / 20))
    if rng.uniform() < 0.2:
        absent = str(rng.choice(STEMS))
        stems[absent] = np.zeros_like(stems[absent])
    peak = max(float(np.abs(audio).max()) for audio in (sum(stems.values()), *stems.values()))
    gain = np.float32(0.9 / max(peak, 1e-9))
    return {name: audio * gain for name, audio in stems.items()}


def make(family: str, number: int, out: Path) -> Path:
    """Render a song to a file as `training.songs` does, unless it exists; return the path."""
    path = out / f"{family}-{number}.npy"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, pack(song_of(family, number)))
        part.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=SONGS, help=f"of each family ({SONGS})")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    here = families_here()
    if missing := [name for name in FAMILIES if name not in here]:
        print(f"Without {', '.join(missing)}: their soundfonts are not installed (training/README.md).")
    wanted = [(family, number) for number in range(args.songs) for family in here]
    with Progress() as progress, ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        task = progress.add_task("songs", total=len(wanted))
        for done in [pool.submit(make, family, number, args.out) for family, number in wanted]:
            done.result()
            progress.advance(task)


if __name__ == "__main__":
    main()
