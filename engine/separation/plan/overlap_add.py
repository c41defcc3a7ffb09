"""Overlap-add that returns samples as soon as they are final, and measures how well the passes agree.

Neighbouring segments, shifts and members of a bag estimate the same samples. With weights w that add up to 1, and
independent errors of variance v, the spread Σ w·s² − (Σ w·s)² has the mean v·(1 − Σ w²). Every eighth sample is enough
to measure it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.separation.plan.segments import Plan, Segment, blend_window

_EVERY = 8  # positions divisible by this are measured


class StemBuffer:
    """Sums the segments of one run into its stems, on their device.

    It holds only samples that are not final, up to the end of the furthest segment.
    """

    def __init__(
        self, plan: Plan, shares: Sequence[Sequence[float]], *, channels: int, samples: int, device: torch.device
    ) -> None:
        """`shares[stream][stem]`: the share of a stream in a stem; those of all streams add up to 1."""
        self._plan = plan
        self._shares = list(to_device(torch.tensor(shares, dtype=torch.float32)[..., None, None], device))
        self._samples = samples
        self.device = device
        self._next = [stream.start for stream in plan.streams]  # per stream: up to here it has been added
        self._start = 0  # the position of the buffer's first sample
        self._data = torch.zeros(len(shares[0]), channels, 0, device=device)
        self._sides = torch.zeros(2, len(shares[0]), 0, device=device)  # Σ w·s², over channels too, and Σ w²
        self._sums = torch.zeros(3, len(shares[0]), dtype=_sum_type(device), device=device)
        self._windows: dict[tuple[int, int], Tensor] = {}

    def move(self, device: torch.device) -> None:
        """Continue on another device."""
        self.device = device
        self._data = self._data.to(device)
        self._sides = self._sides.to(device)
        self._sums = self._sums.to(device, _sum_type(device))
        self._shares = [share.to(device) for share in self._shares]
        self._windows.clear()

    def add(self, segment: Segment, stems: Tensor) -> None:
        """Add (stems, channels, segment.samples); segments of one stream must come in order.

        Changes nothing when it runs out of memory.
        """
        stream = self._plan.streams[segment.stream]
        begin = max(segment.start, 0)
        end = segment.start + segment.samples
        if end > begin:
            inner = slice(begin - segment.start, segment.samples)
            self._grow(end)
            weight = self._window(segment)[inner] * self._shares[segment.stream]
            here = slice(begin - self._start, end - self._start)
            self._note_spread(begin, stems[..., inner], weight[:, 0])
            self._data[..., here].addcmul_(stems[..., inner], weight)
        self._next[segment.stream] = min(segment.start + stream.stride, stream.stop)

    def take(self) -> tuple[int, Tensor] | None:
        """Return (position, (stems, channels, n)) of samples that became final since the last call, or None.

        Changes nothing when it runs out of memory.
        """
        final = min(self._next)
        if final <= self._start:
            return None
        n = final - self._start
        position, block = self._start, self._data[..., :n].clone()
        rest = self._data[..., n:].clone()
        self._measure(position, block)
        self._data, self._start = rest, final
        return position, block

    def agreement_db(self) -> list[float | None]:
        """Return the level of each stem over the disagreement of its passes, in dB, where several passes overlap.

        None for a stem that is silent or has hardly any overlap.
        """
        found: list[float | None] = []
        for expected, spread, power in self._sums.T.tolist():
            measured = expected > 1e-3 * power > 0
            found.append(10 * math.log10(expected / max(spread, 1e-7 * expected)) if measured else None)
        return found

    def _note_spread(self, begin: int, stems: Tensor, weight: Tensor) -> None:
        looked_at = slice(-begin % _EVERY, None, _EVERY)
        weight = weight[..., looked_at]
        first = -(-begin // _EVERY) - -(-self._start // _EVERY)
        here = slice(first, first + weight.shape[-1])
        power = stems[..., looked_at].square().sum(1)
        self._sides[0, :, here].addcmul_(power, weight)
        self._sides[1, :, here].addcmul_(weight, weight)

    def _measure(self, position: int, block: Tensor) -> None:
        power = block[..., -position % _EVERY :: _EVERY].square().sum(1)
        squares, owned = self._sides[..., : power.shape[-1]]
        sums = torch.stack([((1 - owned) * power), squares - power, power]).sum(-1, dtype=self._sums.dtype)
        self._sides = self._sides[..., power.shape[-1] :].clone()
        self._sums += sums

    def _grow(self, end: int) -> None:
        missing = end - self._start - self._data.shape[-1]
        if missing > 0:
            data = torch.nn.functional.pad(self._data, (0, missing))
            looked_at = -(-end // _EVERY) - -(-self._start // _EVERY)
            self._sides = torch.nn.functional.pad(self._sides, (0, looked_at - self._sides.shape[-1]))
            self._data = data

    def _window(self, segment: Segment) -> Tensor:
        stream = self._plan.streams[segment.stream]
        key = (stream.member, min(segment.index, stream.settled))
        if key not in self._windows:
            window = torch.from_numpy(blend_window(stream, segment.index).copy())
            self._windows[key] = to_device(window, self.device)
        return self._windows[key]


def _sum_type(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no double precision


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device without waiting for the work that a GPU has queued."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
