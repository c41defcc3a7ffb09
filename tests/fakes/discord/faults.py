"""Faults that are laid in the way of requests, and rate limit buckets as Discord keeps them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal


@dataclass
class Fault:
    """The next `times` requests that match fail: with `status`, or the connection is reset. With `after`, the request
    is carried out first and only its answer is lost."""

    method: str
    path: str  # regular expression, searched in the path below the API root
    status: int | Literal["reset"]
    times: int = 1
    after: bool = False
    code: int = 0
    message: str = "injected"
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        return self.hits < self.times and self.method == method and re.search(self.path, path) is not None


@dataclass
class Bucket:
    """So many requests in a window that starts with the first of them, as Discord counts."""

    limit: int
    window_s: float
    taken: int = 0
    over_at: float = 0.0

    def take(self) -> tuple[bool, int, float]:
        """(allowed, remaining, seconds until the window is over)."""
        now = time.monotonic()
        if now >= self.over_at:
            self.taken, self.over_at = 0, now + self.window_s
        allowed = self.taken < self.limit
        if allowed:
            self.taken += 1
        return allowed, self.limit - self.taken, self.over_at - now


class Buckets:
    """Limits by route and major parameter. `(method, pattern)` → (requests, seconds)."""

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
        """(allowed, headers to answer with, seconds to wait where not)."""
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
