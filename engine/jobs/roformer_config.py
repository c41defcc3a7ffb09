"""The configuration of a RoFormer model: the .yaml that its training program writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STEM_NAMES = ("vocals", "drums", "bass", "guitar", "piano", "other", "instrumental")
_LONGEST_WINDOW_S = 60
_SAMPLE_RATES = range(8_000, 192_001)
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class RoFormerConfig:
    """What the weights do not say. `instruments`: what the networks separate; `target`: the only one, if so."""

    window_samples: int
    hop_samples: int
    instruments: tuple[str, ...]
    target: str | None
    fft_samples: int = 2048
    sample_rate: int = 44100

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that the network does not support."""
        if self.sample_rate not in _SAMPLE_RATES:
            raise ValueError(f"audio.sample_rate is {self.sample_rate}")
        if not self.fft_samples // 2 < self.window_samples <= _LONGEST_WINDOW_S * self.sample_rate:
            raise ValueError(f"audio.chunk_size is {self.window_samples}")
        if not 0 < self.hop_samples <= self.fft_samples // 2:
            raise ValueError(f"model.stft_hop_length is {self.hop_samples}")
        names = self._names
        if wrong := [name for name in names if name not in STEM_NAMES]:
            raise ValueError(f"it separates {', '.join(wrong)}; stems here are {', '.join(STEM_NAMES)}")
        if not names or len(set(names)) < len(names):
            raise ValueError("training.instruments must name each stem once")

    @classmethod
    def read(cls, path: Path) -> RoFormerConfig | None:
        """Read a .yaml; None if it describes something else. Raises `ValueError` for unsupported values."""
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES // 1024} KiB")
        try:
            found = yaml.load(text, _Loader)  # noqa: S506
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"it is not a YAML file: {error}") from error
        except RecursionError:
            raise ValueError("its values are nested too deeply") from None
        if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in ("audio", "model")):
            return None
        try:
            return cls._of(found["audio"], found["model"], found.get("training") or {})
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a value is missing or has the wrong type: {error}") from error

    @classmethod
    def _of(cls, audio: Mapping[str, Any], model: Mapping[str, Any], training: Mapping[str, Any]) -> RoFormerConfig:
        fft_samples = int(model.get("stft_n_fft", 2048))
        expected = {
            "stereo": True,
            "stft_normalized": False,
            "stft_win_length": fft_samples,
            "skip_connection": False,
            "use_pope": False,
        }
        for name, value in expected.items():
            found = model.get(name, value)
            if found != value:
                # Not the text of a list: with YAML's references it can be exponentially longer than the file.
                shown = repr(found) if isinstance(found, str | int | float | None) else type(found).__name__
                raise ValueError(f"model.{name} is {shown}; only {value!r} is supported")
        target, instruments = training.get("target_instrument"), training["instruments"]
        if not isinstance(instruments, list) or not all(isinstance(name, str) for name in [*instruments, target or ""]):
            raise ValueError("training.instruments must be a list of names, and training.target_instrument one of them")
        return cls(
            window_samples=int(audio["chunk_size"]),
            hop_samples=int(model["stft_hop_length"]),
            instruments=tuple(name.lower() for name in instruments),
            target=target.lower() if target else None,
            fft_samples=fft_samples,
            sample_rate=int(audio.get("sample_rate", model.get("sample_rate", 44100))),
        )

    @property
    def _names(self) -> tuple[str, ...]:
        names = (self.target,) if self.target else self.instruments
        if set(names) == {"vocals", "other"}:
            return tuple("instrumental" if name == "other" else name for name in names)
        return names

    @property
    def is_inverted(self) -> bool:
        """Whether the network gives only what remains without the vocals."""
        return self._names == ("instrumental",) or (self._names == ("other",) and "vocals" in self.instruments)

    @property
    def sources(self) -> tuple[str, ...]:
        """The stems that the network separates, in its order."""
        return ("vocals",) if self.is_inverted else self._names

    @property
    def rest(self) -> str | None:
        """The stem that is the mix minus the only source."""
        if len(self.sources) > 1:
            return None
        return "instrumental" if self.sources == ("vocals",) else "other"

    @property
    def stems(self) -> tuple[str, ...]:
        """All stems of a result, in display order."""
        return tuple(name for name in STEM_NAMES if name in self.sources or name == self.rest)


MELBAND_VOCALS = RoFormerConfig(352_800, 441, ("vocals", "other"), "vocals")
"""The configuration of Kimberley Jensen's model, `melband_vocals`."""


class _Loader(yaml.SafeLoader):
    """Reads Python's tuples as lists."""


def _list(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _list)
