"""Separate songs with Mel-Band RoFormer: `python -m bench.roformer_song`.

Memory and CPU time against the inference of the package melband-roformer-infer (with pymss-core's network, on the same
weights and at the same overlap), the cost relative to htdemucs, and how soon a job of the published size is cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bench.job import cached_library, noise, write_song
from bench.networks import RATE, MemoryMix, htdemucs
from bench.peak_memory import peak_bytes
from bench.report import table
from bench.roformer import PUBLISHED_DEPTH, networks
from config.settings import load
from engine.backend import backend
from engine.jobs.job import Stage
from engine.jobs.options import StemSeparationOptions
from engine.jobs.roformer_config import MELBAND_VOCALS
from engine.separation.audio.pcm import PcmMix
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher
from engine.service.service import Submission, upload_of
from engine.worker.malloc import tune_malloc

REFERENCE = "melband-roformer-infer==0.1.5"
DIGEST = "8b509b90c9c02f014730c897222a31471db59a2d538bf60a5a9e6469c14823e3"
OVERLAP = 0.5  # that of the reference's configuration


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roformer_song", description=__doc__)
    parser.add_argument("--depth", type=int, default=1, help="pairs of transformers (1; 6 as published)")
    parser.add_argument("--seconds", type=int, nargs="+", default=[30, 120], help="lengths of the songs (30 120)")
    parser.add_argument("--cancel", action="store_true", help="only cancel a job of the published size")
    parser.add_argument("--child", nargs=2, metavar=("WHO", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], Path(args.child[1]), args.depth)))
    elif args.cancel:
        asyncio.run(cancel())
    else:
        compare(args.depth, args.seconds)


def compare(depth: int, lengths: list[int]) -> None:
    rows: list[dict[str, Any]] = []
    for seconds in lengths:
        with tempfile.TemporaryDirectory() as name:
            raw = Path(name) / "song.f32"
            with raw.open("wb") as file:
                for number in range(seconds):
                    file.write(np.ascontiguousarray(noise(number).T).data)
            for who in ("reference", "ours", "htdemucs"):
                command = [sys.executable, "-m", "bench.roformer_song", "--depth", str(depth), "--child", who, str(raw)]
                found = json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
                )
                rows.append({"seconds": seconds, "who": who, **found, "cpu_s_per_s": found["cpu_s"] / seconds})
    print(table(f"Songs at overlap {OVERLAP}, depth {depth}, {torch.get_num_threads()} threads", rows))


def measure(who: str, raw: Path, depth: int) -> dict[str, float]:
    """Separate a file of float32; return CPU seconds and the peak memory of this process."""
    tune_malloc()
    if who == "reference":
        network, _ = networks(depth)
        demix = reference_inference()
        began = time.process_time()
        whole = torch.from_numpy(np.fromfile(raw, np.float32).reshape(-1, 2).T.copy())
        config = SimpleNamespace(
            inference=SimpleNamespace(chunk_size=MELBAND_VOCALS.window_samples, num_overlap=2),
            training=SimpleNamespace(target_instrument="vocals", instruments=["vocals", "other"]),
        )
        demix(config, network, whole, torch.device("cpu"))
    else:
        model = LoadedModel.of(htdemucs() if who == "htdemucs" else networks(depth)[1])  # type: ignore[arg-type]
        batcher = Batcher(native=cached_library() if who == "htdemucs" else None)
        began = time.process_time()
        with PcmMix(raw, channels=2, sample_rate=RATE) as mix:
            nowhere = MemoryMix(torch.zeros(2, 1), keep=False)
            batcher.run(model, mix, nowhere, stems=model.sources, shifts=0, overlap=OVERLAP, seed=0)
        batcher.close()
    return {"cpu_s": time.process_time() - began, "peak_mib": peak_bytes() / 2**20}


def reference_inference() -> Any:
    """Return `demix_track` of the reference package, which is downloaded once, without its dependencies."""
    folder = Path.home() / ".cache" / "stemify-bench" / "melband-roformer-infer"
    if not folder.is_dir():
        requirement = folder.with_suffix(".txt")
        requirement.parent.mkdir(parents=True, exist_ok=True)
        requirement.write_text(f"{REFERENCE} --hash=sha256:{DIGEST}\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--target", str(folder), "-r", str(requirement)], check=True, stdout=subprocess.DEVNULL)
    found = importlib.util.spec_from_file_location("reference", folder / "mel_band_roformer" / "utils.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.demix_track


async def cancel(rounds: int = 3) -> None:
    """Cancel jobs of a network of the published size in the middle of their separation, through the service."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        network, _ = networks(PUBLISHED_DEPTH)
        state = {key: value.clone() for key, value in network.state_dict().items()}  # type: ignore[attr-defined]
        save_file(state, folder / "models" / "melband_vocals.safetensors")
        write_song(folder / "song.mp3", 60, noise)
        settings = load(data_dir=folder / "data", models_dir=folder / "models", workers={"devices": ["cpu"]})
        async with backend(settings, with_web=False) as running:
            service = running.service
            options = StemSeparationOptions(model="melband_vocals")
            for number in range(rounds):
                source = upload_of(folder / "song.mp3")
                job = (await service.submit(Submission(source, options, owner=f"local:{number}"))).job
                async for view in service.watch(job.id):
                    if view.job.stage is Stage.SEPARATING:
                        break
                    assert not view.job.is_over, view.job.error
                await asyncio.sleep(5)  # in the middle of a window
                began = time.monotonic()
                ended = await service.cancel(job.id, by=job.owner)
                rows.append(
                    {"round": number, "cancelled": ended.job.was_cancelled, "after_s": time.monotonic() - began}
                )
    print(table(f"Cancel a job of depth {PUBLISHED_DEPTH}, {torch.get_num_threads()} threads", rows))


if __name__ == "__main__":
    main()
