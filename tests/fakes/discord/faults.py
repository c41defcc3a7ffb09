"""Injected faults, and Discord's rate limit buckets."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal


@dataclass
class Fault:
    """Makes the next `times` matching requests fail with `status` or a connection reset.

    With `after`, the request is carried out, and only its response is lost.
    """

    method: str
    path: str  # regular expression, searched in the path below the API root
    status: int | Literal["reset"]
    times: int = 1
    after: bool = False
    code: int = 0
    message: str = "injected"
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        return self.hits < self.times and self.method == method and re.search(self.path, path) is not None


@dataclass
class Bucket:
    """A limit on requests in a window that starts with its first request, as Discord counts."""

    limit: int
    window_s: float
    taken: int = 0
    ends_at: float = 0.0

    def take(self) -> tuple[bool, int, float]:
        """Count a request; return (allowed, remaining, seconds until the window ends)."""
        now = time.monotonic()
        if now >= self.ends_at:
            self.taken, self.ends_at = 0, now + self.window_s
        allowed = self.taken < self.limit
        if allowed:
            self.taken += 1
        return allowed, self.limit - self.taken, self.ends_at - now


class Buckets:
    """Rate limits by route and major parameter."""

    RULES: tuple[tuple[str, str, str, int, float], ...] = (
        ("POST", r"^/channels/(\d+)/messages$", "post", 5, 5.0),
        ("PATCH", r"^/channels/(\d+)/messages/\d+$", "edit", 5, 5.0),
        ("GET", r"^/channels/(\d+)/messages", "read", 10, 5.0),
        ("PATCH", r"^/webhooks/\d+/([^/]+)/", "hook", 5, 2.0),
        ("POST", r"^/webhooks/\d+/([^/]+)$", "hook", 5, 2.0),
    )

    def __init__(self) -> None:
        self.buckets: dict[tuple[str, str], Bucket] = {}
        self.enforced = True

    def take(self, method: str, path: str) -> tuple[bool, dict[str, str], float]:
        """Count a request; return (allowed, response headers, seconds to wait)."""
        for rule_method, pattern, name, limit, window_s in self.RULES:
            found = re.search(pattern, path)
            if self.enforced and rule_method == method and found:
                bucket = self.buckets.setdefault((name, found.group(1)), Bucket(limit, window_s))
                allowed, remaining, wait_s = bucket.take()
                headers = {
                    "X-RateLimit-Limit": str(limit),
                    "X-RateLimit-Remaining": str(remaining),
                    "X-RateLimit-Reset": f"{time.time() + wait_s:.3f}",
                    "X-RateLimit-Reset-After": f"{wait_s:.3f}",
                    "X-RateLimit-Bucket": name,
                }
                return allowed, headers, wait_s
        return True, {}, 0.0
