"""Log lines: one event a line, plain or JSON, with secrets redacted and control characters escaped."""

from __future__ import annotations

import io
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


# C0 and C1 controls, DEL, line and paragraph separators, direction marks, lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """`text` on one line: control characters become escapes such as \\n, \\x1b and \\u2028."""
    return _CONTROLS.sub(lambda hit: hit[0].encode("unicode_escape").decode(), text)


class _Plain(logging.Formatter):
    """One line an event. A traceback follows, each line behind a bar, so that none of it reads like an event."""

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        lines = [escaped(redact(self.formatMessage(record)))]
        if record.exc_info:
            trace = redact(self.formatException(record.exc_info))
            lines += [f"  | {escaped(line)}" for line in trace.split("\n")]
        return "\n".join(lines)


# Our lines name what they are about in these words; one place that reads them is simpler than two ways of writing.
_JOB = re.compile(r"\bjob ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_ATTEMPT = re.compile(r"\battempt (\d+)\b")


class _JsonLines(logging.Formatter):
    """One JSON object a line; `job` and `attempt` are fields of their own where the line names them."""

    def format(self, record: logging.LogRecord) -> str:
        text = redact(record.getMessage())
        event: dict[str, str | int] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": text,
        }
        if job := _JOB.search(text):
            event["job"] = job[1]
            if attempt := _ATTEMPT.search(text):
                event["attempt"] = int(attempt[1])
        if record.exc_info:
            event["error"] = redact(self.formatException(record.exc_info))
        text = json.dumps(event, ensure_ascii=False)
        return _CONTROLS.sub(lambda hit: f"\\u{ord(hit[0]):04x}", text)


def escape_unencodable() -> None:
    """Write characters that the terminal's encoding lacks as `\\x…`, in place of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def configure(level: str, *, json_lines: bool) -> None:
    """Send the log of this process to stderr. Called once, in a `__main__`."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonLines() if json_lines else _Plain("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[stream], force=True)
    logging.getLogger("aiosqlite").setLevel("WARNING")
    logging.getLogger("discord").setLevel("WARNING")
    logging.getLogger("aiohttp.access").setLevel("WARNING")
