"""Errors of requests for a job."""

from __future__ import annotations

from engine.errors import InputRefused, InvalidState


class SongGone(InvalidState, code="song_gone"):
    """The song of this job is no longer here, so it cannot be separated again. Send it again."""


class KeyReused(InputRefused, code="key_reused"):
    """This Idempotency-Key was sent with another song or other options. Use a new key for each request."""


class TooShort(InputRefused, code="too_short"):
    """That track is too short to be separated here."""
