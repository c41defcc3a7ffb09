"""What the child process that renders a mix gets and returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RenderRequest:
    """Descriptors are open files. Each output has a title; `gains` and `pans` belong to the `stems`."""

    stems: list[int]
    gains: list[float]
    pans: list[float]
    outputs: list[int]
    titles: list[str]
    comments: list[str]
    spool: int
    format: str
    bit_rate: int | None
    """Of a preview, in bits per second; None: the usual one."""
    start_s: float
    end_s: float | None
    key: float
    tempo: float
    keeps_stems: bool
    level: float
    """Factor that brings the sum of the stems to the level of the song."""

    @property
    def is_stretched(self) -> bool:
        return self.key != 0 or self.tempo != 1


@dataclass(frozen=True)
class Rendered:
    """`gain` was applied to all outputs in addition to the level; 1 unless they would have clipped."""

    gain: float
    samples: int
    sample_rate: int
