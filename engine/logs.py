"""Log lines: one event a line, plain or JSON, with nothing in them that opens a door."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

_SECRETS = re.compile(
    r"(?P<keep>[?&](?:s|sig|signature|token|hm|ex|is|key)=)[^&\s\"']+"  # signed links, ours and Discord's
    r"|(?P<head>(?:Bot|Bearer)\s+)[\w.\-]{8,}"
    r"|(?P<webhook>/(?:webhooks|interactions)/\d+/)[\w\-.]{16,}"
    r"|[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}",  # a Discord token
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without tokens and signatures."""
    return _SECRETS.sub(lambda hit: (hit["keep"] or hit["head"] or hit["webhook"] or "") + "…", text)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        if record.exc_info:
            event["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(event, ensure_ascii=False)


def configure(level: str, *, json_lines: bool) -> None:
    """Send the log of this process to stderr. Called once, in a `__main__`."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonLines() if json_lines else _Plain("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[stream], force=True)
    logging.getLogger("aiosqlite").setLevel("WARNING")
    logging.getLogger("discord").setLevel("WARNING")
    logging.getLogger("aiohttp.access").setLevel("WARNING")
