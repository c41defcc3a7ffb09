"""A model in memory: the members of a bag, their weights and their segment lengths."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from demucs.apply import BagOfModels
from demucs.htdemucs import HTDemucs
from torch import nn

from engine.errors import BadOptions, ModelCorrupt
from engine.separation.network.roformer import RoFormer
from engine.separation.plan.segments import MemberShape, segment_samples

T = TypeVar("T")
_ROFORMER_COST = 7.0  # by the arithmetic of the published networks


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """`weights[member][source]`: how much a member counts in a source; a plain network is a bag of one."""

    name: str
    members: tuple[nn.Module, ...]
    weights: tuple[tuple[float, ...], ...]
    sources: tuple[str, ...]
    sample_rate: int
    audio_channels: int
    segment_s: float  # default; a job may choose a shorter one
    max_segment_s: float  # a transformer is limited to the length it was trained on
    rest: str | None = None  # the stem that is the mix minus all sources
    window_cost: float = 1.0  # the time for a window, relative to htdemucs
    version: str | None = None  # of the files that it was loaded from
    _placed: dict[object, Any] = field(default_factory=dict, repr=False)
    _placing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(cls, model: nn.Module, name: str = "", version: str | None = None) -> LoadedModel:
        """Wrap a network or a bag of demucs; it is put in eval mode and not changed otherwise."""
        model.eval()
        first: Any = model
        members: tuple[Any, ...] = (model,)
        weights = [[1.0] * len(first.sources)]
        if isinstance(model, BagOfModels):
            members = tuple(model.models)
            weights = [[float(weight) for weight in row] for row in model.weights]
        transformers = [float(member.segment) for member in members if isinstance(member, HTDemucs | RoFormer)]
        loaded = cls(
            name=name or type(members[0]).__name__.lower(),
            members=members,
            weights=tuple(tuple(row) for row in weights),
            sources=tuple(first.sources),
            sample_rate=int(first.samplerate),
            audio_channels=int(first.audio_channels),
            segment_s=min(float(member.segment) for member in members),
            max_segment_s=min(transformers, default=math.inf),
            rest=getattr(first, "rest", None),
            window_cost=_ROFORMER_COST if isinstance(first, RoFormer) else 1.0,
            version=version,
        )
        if not all(loaded._total(source) for source in range(len(loaded.sources))):
            raise ModelCorrupt(detail=f"{loaded.name}: a source without a member of nonzero weight")
        return loaded

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems of a result: the sources, and the rest if there is one."""
        return self.sources if self.rest is None else (*self.sources, self.rest)

    @property
    def size_bytes(self) -> int:
        """Size of the weights; a repeated member counts once."""
        tensors = {id(p): p for m in self.members for p in (*m.parameters(), *m.buffers())}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def rows(self, stems: Sequence[str]) -> tuple[int, ...]:
        """Return the indices of stems among the sources. Raises `BadOptions` for an unknown stem."""
        missing = [stem for stem in stems if stem not in self.sources]
        if missing or not stems:
            raise BadOptions(
                f"The model {self.name} separates {', '.join(self.sources)}; not {', '.join(missing) or '–'}."
            )
        return tuple(self.sources.index(stem) for stem in stems)

    def wanted_members(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Return the members with a weight in any of these sources."""
        return tuple(i for i, weights in enumerate(self.weights) if any(weights[row] for row in rows))

    def share(self, member: int, row: int) -> float:
        """Return the share of a member in a source; the shares of all members add up to 1."""
        return self.weights[member][row] / self._total(row)

    def _total(self, row: int) -> float:
        return sum(weights[row] for weights in self.weights)

    def shapes(self, segment_s: float | None) -> list[MemberShape]:
        """Return the segment lengths of each member for segments of `segment_s` (None: the member's default)."""
        return [self._shape(member, segment_s) for member in self.members]

    def _shape(self, member: Any, segment_s: float | None) -> MemberShape:
        samples = segment_samples(self.sample_rate, member.segment if segment_s is None else segment_s)
        window: Callable[[int], int] = getattr(member, "valid_length", int)
        draws = None
        if isinstance(member, HTDemucs):
            if segment_s is not None:
                window = lambda _: samples  # noqa: E731
            if member.crosstransformer is not None and member.crosstransformer.emb == "sin":
                draws = member.crosstransformer.sin_random_shift + 1
        return MemberShape(samples, window, draws)

    def placed(
        self,
        member: int,
        device: torch.device,
        build: Callable[[nn.Module], T],
        kind: object = None,
        *,
        own: bool = False,
    ) -> T:
        """Return the result of `build` for a member on a device; it is built once and freed with the model.

        `kind` separates the results of different callers. `own`: pass a copy that `build` may change.
        """
        module = self.members[member]
        key = (id(module), str(device), kind)
        with self._placing:
            if key not in self._placed:
                here = not own and next(module.parameters()).device == device
                self._placed[key] = build(module if here else copy.deepcopy(module).to(device))
            found: T = self._placed[key]
        return found

    def forget_placed(self, device: torch.device) -> None:
        """Free everything that was built on a device."""
        with self._placing:
            for key in [key for key in self._placed if isinstance(key, tuple) and key[1] == str(device)]:
                del self._placed[key]
