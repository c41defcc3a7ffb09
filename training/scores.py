"""Print the scores of the shipped weights: `python -m training.scores`.

Three tables of global SDR: songs of unseen seeds, soundfonts and voices; new songs of the training
synthesizers; the demo's song. Baselines: the mix itself, silence and a band-split.
With `--write` the figures go to `scores.json` beside the model card; README and card quote them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from demucs.hf import load_safetensors_model
from julius.resample import resample_frac
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from engine.media.decode import decode
from engine.quality.sdr import sdr_db
from engine.separation import Separator
from engine.synth.song import STEMS, sample_song
from engine.synth.synthesizer import SAMPLE_RATE, Audio
from training.midi_songs import missing_programs
from training.mixing import read
from training.model import half_precision, new_model
from training.songs import HELD_OUT_SEEDS, make

EMBEDDED = Path(__file__).parent.parent / "engine" / "separation" / "embedded"
Stems = dict[str, Audio]
Scores = dict[str, dict[str, float]]
TITLES = {
    "held_out": "{songs} held-out songs: unseen seeds, soundfonts and voices",
    "training": "{songs} new songs of the training synthesizers",
    "demo": "the demo's song",
    "real": "a real recording",
}


def band_split(mix: Audio) -> Stems:
    """Separate by frequency: bass below 160 Hz, drums above 4.5 kHz, vocals from the centre in between."""
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
    """Separate a mix with demucs' normalisation and default overlap, without shifts."""
    audio = torch.from_numpy(mix)
    mean, std = audio.mean(0).mean(), audio.mean(0).std() + 1e-8
    estimates = separator.separate((audio - mean) / std, shifts=0, overlap=0.25)
    return {name: (estimates[name] * std + mean).numpy() for name in STEMS}


def scores_of(stems: Stems, separate: Callable[[Audio], Stems]) -> Scores:
    """Return the SDR of each method for each stem of one song; NaN for silent stems."""
    mix: Audio = np.sum(np.stack([stems[name] for name in STEMS]), axis=0)
    ways: dict[str, Stems] = {
        "mini": separate(mix), "the mix itself": dict.fromkeys(STEMS, mix),
        "silence": dict.fromkeys(STEMS, np.zeros_like(mix)), "band-split": band_split(mix),
    }  # fmt: skip
    heard = {name: bool(np.abs(stems[name]).max() > 1e-4) for name in STEMS}
    return {
        way: {name: sdr_db(stems[name], guess[name]) if heard[name] else float("nan") for name in STEMS}
        for way, guess in ways.items()
    }


def mean_scores(songs: Iterable[Stems], separate: Callable[[Audio], Stems]) -> Scores:
    """Return each method's SDR by stem, averaged over songs; `mean` is over the audible stems."""
    rows = [scores_of(stems, separate) for stems in songs]
    table: Scores = {}
    for way in rows[0]:
        columns = {name: [row[way][name] for row in rows if not np.isnan(row[way][name])] for name in STEMS}
        table[way] = {name: float(np.mean(column)) for name, column in columns.items() if column}
        table[way]["mean"] = float(np.mean(list(table[way].values())))
    return table


def read_tracks(folder: Path) -> Stems:
    """Read a folder of one song's tracks: files named drums…, bass…, vocal…; all others belong to `other`."""
    stems: dict[str, list[Audio]] = {name: [] for name in STEMS}
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(folder.iterdir()):
            raw = Path(scratch) / "track.f32"
            track = decode(path, raw, max_duration_s=600)
            audio = torch.from_numpy(np.fromfile(raw, "<f4").reshape(-1, track.channels).T.copy()).expand(2, -1)
            name = next(
                (n for n in ("drums", "bass", "vocals") if path.name.lower().startswith(n.rstrip("s"))), "other"
            )
            stems[name].append(resample_frac(audio, track.sample_rate, SAMPLE_RATE).numpy())
    n = max(audio.shape[1] for tracks in stems.values() for audio in tracks)
    silence = np.zeros((2, n), np.float32)
    return {
        name: np.sum([silence, *(np.pad(a, ((0, 0), (0, n - a.shape[1]))) for a in tracks)], axis=0, dtype=np.float32)
        for name, tracks in stems.items()
    }


def show(console: Console, title: str, table: Scores) -> None:
    view = Table("global SDR, dB", *STEMS, "mean", title=title)
    for way, row in table.items():
        view.add_row(way, *(f"{row[name]:.2f}" if name in row else "–" for name in (*STEMS, "mean")))
    console.print(view)


def sets_of_songs(count: int, *, numpy_only: bool) -> dict[str, list[tuple[int, str]]]:
    """(seed, kind) of each table's songs: `count` held-out ones, half as many of each training synthesizer."""
    first, half = HELD_OUT_SEEDS, max(1, count // 2)
    own = [(first + i, "numpy") for i in range(half)]
    if numpy_only:
        return {"training": own}
    known = [(first + 2000 + i, "midi") for i in range(half)]
    return {"held_out": [(first + 1000 + i, "held-out") for i in range(count)], "training": known + own}


def load_checkpoint(path: Path) -> nn.Module:
    model = new_model()
    model.load_state_dict(half_precision(torch.load(path, weights_only=True)))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=30, help="held-out songs; half as many of each known synthesizer")
    parser.add_argument("--folder", type=Path, default=EMBEDDED, help="where the weights are")
    parser.add_argument("--checkpoint", type=Path, help="an ema.pt of the trainer instead of the shipped weights")
    parser.add_argument("--tracks", type=Path, help="a folder of a real song's tracks, for one more table")
    parser.add_argument("--rendered", type=Path, default=Path("training/data/scores"), help="where the songs are kept")
    parser.add_argument("--write", action="store_true", help="write scores.json beside the model card")
    args = parser.parse_args()
    console = Console()
    missing = missing_programs()
    if missing:
        console.print(f"Not here: {', '.join(missing)}. The songs that need them are left out; see training/README.md.")
        if args.write:
            parser.error("the figures beside the card come from the full set only")
    model = load_embedded(args.folder) if args.checkpoint is None else load_checkpoint(args.checkpoint)
    separate = partial(separated, Separator(model.eval()))
    args.rendered.mkdir(parents=True, exist_ok=True)
    result: dict[str, Scores] = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool, torch.inference_mode():
        for key, wanted in sets_of_songs(args.songs, numpy_only=bool(missing)).items():
            title = TITLES[key].format(songs=len(wanted))
            rendering = [pool.submit(make, seed, kind, args.rendered) for seed, kind in wanted]
            songs = (read(song.result()) for song in track(rendering, title, console=console))
            result[key] = mean_scores(songs, separate)
            show(console, title, result[key])
        result["demo"] = mean_scores([sample_song().stems], separate)
        show(console, TITLES["demo"], result["demo"])
        if args.tracks:
            result["real"] = mean_scores([read_tracks(args.tracks)], separate)
            show(console, TITLES["real"], result["real"])
    if args.write:
        rounded = {
            key: {way: {name: round(value, 2) for name, value in row.items()} for way, row in ways.items()}
            for key, ways in result.items()
        }
        (args.folder / "scores.json").write_text(json.dumps(rounded, indent=2) + "\n")


if __name__ == "__main__":
    main()
