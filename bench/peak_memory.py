"""Print the peak resident memory of separating one song: `python -m bench.peak_memory ours|stock SECONDS`.

`ours` runs a whole job as a worker does, from mp3 to four mp3; `stock` loads, separates and keeps the song as
`demucs.api` does. The model is the embedded one; memory grows with the length in the same way for all models.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.job import attempt_of, cached_library, noise, write_song
from bench.networks import RATE, stock
from engine.separation.models.files import Bag, load_bag
from engine.separation.models.library import EMBEDDED, ModelLibrary
from engine.separation.models.sources import FolderSource
from engine.separation.schedule.batcher import Batcher
from engine.worker.malloc import tune_malloc


def main() -> None:
    who, seconds = sys.argv[1], float(sys.argv[2])
    if who == "ours":
        tune_malloc()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_song(folder / "song.mp3", seconds, noise)
            batcher = Batcher(native=cached_library())
            attempt_of(folder, ModelLibrary(None, folder / "cache", 1 << 30), batcher).run()
            batcher.close()
    else:
        found = FolderSource(EMBEDDED, pickles=False).find("mini")
        assert found is not None and isinstance(found.description, Bag), "the embedded model is missing"
        wav = torch.from_numpy(np.random.default_rng(0).standard_normal((2, int(seconds) * RATE), np.float32) * 0.1)
        reference = wav.mean(0)
        out = stock(load_bag(found.description, found.files), (wav - reference.mean()) / (reference.std() + 1e-8))
        out = out * (reference.std() + 1e-8) + reference.mean()
    print(peak_bytes())


def peak_bytes() -> int:
    """Return the peak since this program started; that of `getrusage` includes the parent process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
