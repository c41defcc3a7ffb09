"""`python -m bench.peak_memory ours|stock SECONDS`: separate a song of that length from a file in a process of its own,
and print its peak resident memory. The embedded model is used: what grows with the length of the song is the same."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.networks import RATE, stock
from engine.separation.batcher import Batcher
from engine.separation.loaded import LoadedModel
from engine.separation.mix import PcmMix
from engine.separation.models import EMBEDDED
from engine.separation.shelves import FolderShelf
from engine.separation.weights import load_bag


def write_song(path: Path, seconds: float) -> None:
    """Raw float32 stereo, written in blocks so that it leaves no mark on the peak."""
    chance = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(int(seconds)):
            file.write((chance.standard_normal((RATE, 2)) * 0.1).astype("<f4").tobytes())


class RawFiles:
    """Stems written away as they come, as the worker does it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, start: int, stems: dict[str, torch.Tensor]) -> None:
        for name, block in stems.items():
            with (self._folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(block.numpy().T).tobytes())


def main() -> None:
    who, seconds = sys.argv[1], float(sys.argv[2])
    found = FolderShelf(EMBEDDED, pickles=False).find("mini")
    assert found is not None, "the embedded model is not in this copy"
    bag = load_bag(found.bag, found.files)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "mix"
        write_song(raw, seconds)
        if who == "ours":
            model = LoadedModel.of(bag, "mini")
            with PcmMix(raw, channels=2, sample_rate=RATE) as mix:
                Batcher().run(model, mix, RawFiles(Path(folder)), stems=model.sources, shifts=0, seed=0)
        else:  # as demucs.api.Separator and its command line do it, the files aside
            wav = torch.from_numpy(np.fromfile(raw, dtype="<f4").reshape(-1, 2).T.copy())
            reference = wav.mean(0)
            out = stock(bag, (wav - reference.mean()) / (reference.std() + 1e-8))
            out = out * (reference.std() + 1e-8) + reference.mean()
            RawFiles(Path(folder)).write(0, dict(zip("abcd", out, strict=True)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
