from __future__ import annotations

from datetime import UTC, datetime

from bot.messages.text import error_text
from engine.errors import EmptyInput, QuotaExceeded

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_quota_error_shows_when_to_retry() -> None:
    error = QuotaExceeded("You have used your 5 jobs for this hour. It is free at 12:10 UTC.", retry_after_s=600)
    back = int(NOW.timestamp()) + 601
    assert error_text(error, NOW) == f"You have used your 5 jobs for this hour. Try again <t:{back}:R>."
    assert error_text(EmptyInput(), NOW) == "That file is empty. Send it again."
