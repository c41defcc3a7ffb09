"""Copy a run's averaged weights into the package: `python -m training.export`; then run `training.scores --write`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.model import write_hub_files
from training.scores import EMBEDDED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("training/runs/mini/ema.pt"))
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    args = parser.parse_args()
    before = set(args.folder.glob("*.safetensors"))
    path = write_hub_files(torch.load(args.checkpoint, weights_only=True), args.folder)
    for old in before - {path}:
        old.unlink()
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
