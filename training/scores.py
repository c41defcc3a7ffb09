"""Print what the shipped weights score: `python -m training.scores`.

Three tables of global SDR: songs whose seeds, soundfonts and voices training never met; new songs of the training
synthesizers; the demo's song. Each beside the mix itself, silence and a band-split, which any model has to beat.
With `--write` the figures go to `scores.json` beside the model card, from where README and card quote them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from demucs.hf import load_safetensors_model
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from engine.sample_song import STEMS, sample_song
from engine.scores import sdr_db
from engine.separation import Separator
from engine.synth import SAMPLE_RATE, Audio
from training.midi_songs import midi_song, missing_programs
from training.songs import HELD_OUT_SEEDS, SECONDS, numpy_song

EMBEDDED = Path(__file__).parent.parent / "engine" / "separation" / "embedded"
Stems = dict[str, Audio]


def band_split(mix: Audio) -> Stems:
    """What an equalizer can do: bass below 160 Hz, drums above 4.5 kHz, the centre between for the voice."""
    spectrum = np.fft.rfft(mix)
    hz = np.fft.rfftfreq(mix.shape[1], 1 / SAMPLE_RATE)
    low, high = hz < 160, hz > 4500
    middle = spectrum * ~(low | high)
    centre = middle.mean(0, keepdims=True).repeat(2, 0) / 2
    parts = {"drums": spectrum * high, "bass": spectrum * low, "other": middle - centre, "vocals": centre}
    return {name: np.fft.irfft(part, mix.shape[1]).astype(np.float32) for name, part in parts.items()}


def load_embedded(folder: Path = EMBEDDED) -> nn.Module:
    (weights,) = folder.glob("*.safetensors")
    model: nn.Module = load_safetensors_model(weights)
    return model


def separated(separator: Separator, mix: Audio) -> Stems:
    """The mix through the engine with demucs' default overlap and no shift; normalised as demucs does."""
    audio = torch.from_numpy(mix)
    mean, std = audio.mean(0).mean(), audio.mean(0).std() + 1e-8
    estimates = separator.separate((audio - mean) / std, shifts=0, overlap=0.25)
    return {name: (estimates[name] * std + mean).numpy() for name in STEMS}


def scores_of(stems: Stems, separate: Callable[[Audio], Stems]) -> dict[str, dict[str, float]]:
    """SDR of each method for each stem of one song."""
    mix: Audio = np.sum(np.stack([stems[name] for name in STEMS]), axis=0)
    ways: dict[str, Stems] = {
        "mini": separate(mix), "the mix itself": dict.fromkeys(STEMS, mix),
        "silence": dict.fromkeys(STEMS, np.zeros_like(mix)), "band-split": band_split(mix),
    }  # fmt: skip
    return {way: {name: sdr_db(stems[name], guess[name]) for name in STEMS} for way, guess in ways.items()}


def mean_scores(songs: Iterable[Stems], separate: Callable[[Audio], Stems]) -> dict[str, dict[str, float]]:
    """Each way's SDR by stem, averaged over songs, with the mean over stems as `mean`."""
    rows = [scores_of(stems, separate) for stems in songs]
    table = {way: {name: float(np.mean([row[way][name] for row in rows])) for name in STEMS} for way in rows[0]}
    return {way: by_stem | {"mean": float(np.mean(list(by_stem.values())))} for way, by_stem in table.items()}


def show(console: Console, title: str, table: dict[str, dict[str, float]]) -> None:
    view = Table("global SDR, dB", *STEMS, "mean", title=title)
    for way, row in table.items():
        view.add_row(way, *(f"{row[name]:.2f}" for name in (*STEMS, "mean")))
    console.print(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--songs", type=int, default=30, help="held-out songs; half as many of each training synthesizer"
    )
    parser.add_argument("--folder", type=Path, default=EMBEDDED, help="where the weights are")
    parser.add_argument("--checkpoint", type=Path, help="an ema.pt of the trainer instead of the shipped weights")
    parser.add_argument("--write", action="store_true", help="write scores.json beside the model card")
    args = parser.parse_args()
    console = Console()
    model = load_embedded(args.folder) if args.checkpoint is None else load_checkpoint(args.checkpoint)
    separate = partial(separated, Separator(model.eval()))
    first, half = HELD_OUT_SEEDS, max(1, args.songs // 2)
    own = [partial(numpy_song, first + i) for i in range(half)]
    sets: dict[str, list[Callable[[], Stems]]] = {}
    if missing := missing_programs():
        console.print(f"Not here: {', '.join(missing)}. The songs that need them are left out; see training/README.md.")
        sets["new songs of the training synthesizers (numpy only)"] = [*own]
    else:
        unseen = [partial(midi_song, first + 1000 + i, SECONDS, held_out=True) for i in range(args.songs)]
        known = [partial(midi_song, first + 2000 + i) for i in range(half)]
        sets[f"{args.songs} held-out songs: unseen seeds, soundfonts and voices"] = [*unseen]
        sets["new songs of the training synthesizers"] = [
            *known,
            *(partial(numpy_song, first + i) for i in range(half)),
        ]
    result = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool, torch.inference_mode():
        for title, makers in sets.items():
            songs = (
                future.result() for future in track([pool.submit(make) for make in makers], title, console=console)
            )
            result[title] = mean_scores(songs, separate)
            show(console, title, result[title])
        result["the demo's song"] = mean_scores([sample_song().stems], separate)
        show(console, "the demo's song", result["the demo's song"])
    if args.write:
        rounded = {
            t: {w: {k: round(v, 2) for k, v in row.items()} for w, row in ways.items()} for t, ways in result.items()
        }
        (args.folder / "scores.json").write_text(json.dumps(rounded, indent=2) + "\n")


def load_checkpoint(path: Path) -> nn.Module:
    from training.model import half_precision, new_model

    model = new_model()
    model.load_state_dict(half_precision(torch.load(path, weights_only=True)))
    return model


if __name__ == "__main__":
    main()
