"""Separate a mix that is in memory; equivalent to `demucs.apply.apply_model`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.errors import BadOptions
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.batcher import Batcher


class Separator:
    """One model on one device. Thread-safe."""

    def __init__(
        self,
        model: str | nn.Module | LoadedModel,
        device: str | torch.device = "cpu",
        *,
        library: ModelLibrary | None = None,
        precision: str = "fp32",
    ) -> None:
        """`model`: a name to load from `library` (by default the configured one), or a loaded demucs network or bag.

        Raises `UnknownModel`, `ModelUnavailable`.
        """
        if isinstance(model, str):
            model = (library or ModelLibrary.from_environment()).load(model)
        elif isinstance(model, nn.Module):
            model = LoadedModel.of(model)
        self.model = model
        self._batcher = Batcher(device, precision=precision, allow_cpu=False)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.model.stems

    def separate(
        self,
        mix: Tensor,
        *,
        shifts: int = 1,
        overlap: float = 0.25,
        segment: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Separate a mix into {name: (channels, samples)}, on the CPU.

        `mix`: (channels, samples), float32 at the model's rate, normalised by the caller as for `apply_model`; a single
        channel is copied to all of the model's. With a `seed` the shifts are the ones that stock Demucs draws after
        `random.seed(seed)`. Raises `BadOptions`, `OutOfMemory`.
        """
        if mix.dim() != 2 or mix.shape[0] not in (1, self.model.audio_channels):
            raise BadOptions(f"The mix must be (channels, samples), with 1 or {self.model.audio_channels} channels.")
        if segment is not None and segment > self.model.max_segment_s:
            raise BadOptions(f"The longest segment that {self.model.name} supports is {self.model.max_segment_s:g} s.")
        source = _TensorMix(mix, self.model.audio_channels)
        sink = _TensorSink(self.model.sources, self.model.audio_channels, source.samples)
        self._batcher.run(
            self.model,
            source,
            sink,
            stems=self.model.sources,
            shifts=shifts,
            overlap=overlap,
            segment_s=segment,
            seed=seed,
        )
        if self.model.rest is not None:
            sink.stems[self.model.rest] = source.read(0, source.samples) - sum(sink.stems.values())
        return sink.stems


class _TensorMix:
    def __init__(self, mix: Tensor, channels: int) -> None:
        self._mix = mix.detach().to("cpu", torch.float32).expand(channels, -1)
        self.samples = mix.shape[-1]

    def read(self, start: int, stop: int) -> Tensor:
        return self._mix[:, start:stop]


class _TensorSink:
    def __init__(self, stems: tuple[str, ...], channels: int, samples: int) -> None:
        self.stems = {stem: torch.empty(channels, samples) for stem in stems}

    def write(self, start: int, stems: dict[str, Tensor]) -> None:
        for stem, block in stems.items():
            self.stems[stem][:, start : start + block.shape[-1]] = block
