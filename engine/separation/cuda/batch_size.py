"""The batch sizes of a CUDA device, and how large a batch its free memory takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
USUAL_MAX_BATCH = 16
_USABLE_SHARE = 0.7  # of the free memory


def padded_size(count: int, sizes: Sequence[int] = BATCH_SIZES) -> int:
    """Return the smallest of the sizes that takes `count` segments; `count` if none does."""
    return next((size for size in sizes if size >= count), count)


def next_smaller(size: int) -> int:
    """Return the largest size below `size`, which is more than 1."""
    return max(smaller for smaller in BATCH_SIZES if smaller < size)


def fitting_batch(max_batch: int, free_bytes: int, segment_bytes: int) -> int:
    """Return the largest size, up to `max_batch`, that fits the free memory; at least 1."""
    most = min(max_batch, int(_USABLE_SHARE * free_bytes) // max(1, segment_bytes))
    return max((size for size in BATCH_SIZES if size <= most), default=1)


def measure_bytes(run: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """Return the bytes that `run` takes at its peak, and the bytes that are free for it and for recordings.

    What the recordings of this process hold and do not use between two replays counts as free: they share one pool.
    """
    run()  # one-time allocations do not count
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    pooled = torch.cuda.memory_reserved(device) - before
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak, torch.cuda.mem_get_info(device)[0] + pooled
