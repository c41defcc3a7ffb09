"""Public refusals of audio that users posted without a command."""

from __future__ import annotations

import time

INTERVAL_S = 3600.0


class RefusalNotices:
    """Allows each user's songs one public refusal an hour."""

    def __init__(self) -> None:
        self._next_at: dict[int, float] = {}

    def allow(self, user_id: int) -> bool:
        """Return whether the user may be notified now, and count the notice."""
        now = time.monotonic()
        if self._next_at.get(user_id, 0.0) > now:
            return False
        self._next_at = {user: at for user, at in self._next_at.items() if at > now}
        self._next_at[user_id] = now + INTERVAL_S
        return True
