"""A mix or a version with normalised parameters, and the key under which it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec

from engine.jobs.results import StemFiles
from engine.mixes.entities import Change, MixFormat, MixRequest, VersionRequest
from engine.mixes.errors import BadMix
from engine.text import format_duration

_REVISION = 1  # increase it when the same parameters give other samples
_SHORTEST_S = 0.1
_DIGITS = 4
_PREVIEW_BIT_RATE = 64_000


@dataclass(frozen=True)
class MixPlan:
    """Parameters that decide every sample of the result. `gains` are in the order of the job's stems."""

    gains: tuple[tuple[str, float], ...]
    start_s: float
    end_s: float | None  # None: to the end of the song
    key: float
    tempo: float
    format: str
    keeps_stems: bool  # a version: one file for each stem instead of their sum
    pans: tuple[tuple[str, float], ...] = ()  # of the stems that are not in the centre
    bit_rate: int | None = None  # of a preview's mp3; None: the usual one

    @property
    def digest(self) -> str:
        values = asdict(self)
        for added, default in (("pans", ()), ("bit_rate", None)):  # the digest is as before there were these
            if values[added] == default:
                del values[added]
        text = json.dumps([_REVISION, values])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def is_stretched(self) -> bool:
        return self.key != 0 or self.tempo != 1

    def duration_s(self, song_s: float) -> float:
        """Return the length of the result, for a song of `song_s`."""
        end_s = song_s if self.end_s is None else self.end_s
        return (end_s - self.start_s) / self.tempo


def plan_mix(request: MixRequest, stems: Sequence[str], duration_s: float) -> MixPlan:
    """Return the plan of a mix of `stems`. Raises `BadMix` with a sentence for the user."""
    if unknown := [name for name in (*request.gains, *request.pans) if name not in stems]:
        raise BadMix(f"This song has no stem {unknown[0]!r:.40}. Its stems are: {', '.join(stems)}.")
    gains = tuple((name, _rounded(request.gains.get(name, 1.0))) for name in stems)
    if not any(gain for _, gain in gains):
        raise BadMix("All stems are silent. At least one needs a gain above 0.")
    start_s, end_s = round(request.start_s or 0.0, _DIGITS), request.end_s
    if end_s is not None:
        end_s = None if end_s >= duration_s else round(end_s, _DIGITS)
    if start_s >= duration_s:
        raise BadMix(f"The time from is after the end of the song, which is {format_duration(duration_s)} long.")
    if (duration_s if end_s is None else end_s) - start_s < _SHORTEST_S:
        raise BadMix(f"The range must be at least {_SHORTEST_S:g} seconds long.")
    heard = {name for name, gain in gains if gain}
    pans = tuple((name, pan) for name in stems if name in heard and (pan := _rounded(request.pans.get(name, 0.0))))
    plan = MixPlan(gains, start_s, end_s, 0.0, 1.0, request.format.value, keeps_stems=False, pans=pans)
    return _with_changes(plan, request)


def plan_version(request: VersionRequest, stems: Sequence[str], output_format: str) -> MixPlan:
    gains = tuple((name, 1.0) for name in stems)
    plan = MixPlan(gains, 0.0, None, 0.0, 1.0, output_format, keeps_stems=True)
    if request.preview:
        plan = replace(plan, format=MixFormat.MP3.value, bit_rate=_PREVIEW_BIT_RATE)
    return _with_changes(plan, request)


def plan_version_of(files: StemFiles, request: VersionRequest) -> MixPlan:
    """Return the plan of a version of all these files, in their format unless it is a preview. Raises `BadMix`."""
    stems = dict(files)
    return plan_version(request, list(stems), next(iter(stems.values())).format.value)


def _with_changes(plan: MixPlan, request: Change) -> MixPlan:
    is_stretched = request.key != 0 or request.tempo != 1
    if is_stretched and find_spec("python_stretch") is None:
        raise BadMix(
            "This server cannot change key and tempo: python-stretch is not installed. Ask its operator to install it."
        )
    return replace(plan, key=_rounded(request.key), tempo=_rounded(request.tempo))


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # turns -0.0 into 0.0, which has another spelling
