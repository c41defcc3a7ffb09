"""Errors of mixes and versions."""

from __future__ import annotations

from engine.errors import BadOptions, RetryLater, StemifyError


class BadMix(BadOptions, code="bad_mix"):
    """This mix is not possible. Check the gains, the range, the key and the tempo."""


class TooManyMixes(RetryLater, code="too_many_mixes"):
    """Too many mixes are being made. Try again in a few seconds."""


class MixFailed(StemifyError, code="mix_failed"):
    """The mix could not be made. Try again; if it fails again, separate the song again."""
