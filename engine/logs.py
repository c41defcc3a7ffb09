"""Log format: one event per line, plain or JSON, with secrets redacted and control characters escaped.

Messages are short events; what they are about goes into fields:
`log.info("job accepted", extra={"job": job.id})`.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType

# What a pattern's group matches is kept.
_SECRETS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # signed links, ours and those of Discord, S3, Google, Azure and YouTube, which also signs in the path
        r"([?&;#](?:s|hm|ex|is|pot|[\w.\-]{0,40}(?:sig|signature|token|key|secret|password|credential))=)[^&;\s\"']+",
        r"(googlevideo\.com(?::\d+)?/)[^\s\"'<>]+",
        # user and password of an address, with and without a scheme
        r"(://)[^\s/?#\"<>]{1,500}@",
        r"(?<![\w.%+~:\-])[\w.%+~\-]{1,200}:[^\s/@\"'<>]{1,200}@(?=[\w\[])",
        # headers, also in tuples and dictionaries
        r"((?:authorization|cookie)(?:[\"'],\s?b?[\"']|[\"']?[=:]\s?b?[\"']?))[^\"'\r\n]+",
        r"(\b(?:Bot|Bearer|Basic)\s+)(?-i:(?=\S*(?:\d|[a-z][A-Z]|[A-Z]{2})))[\w.~+/=\-]{8,}",
        # names and values
        r"((?:token|secret|password|(?:api|access)[_\-]?key)s?[\"']?=\s*[\"']?)[^\s\"',;&]{4,}",
        r"((?:token|secret|password|(?:api|access)[_\-]?key)s?[\"']?\s*:\s*[\"']?)[^\s\"',;&]{12,}",
        r"(/(?:webhooks|interactions)/\d+/)[\w\-.]{16,}",
        # tokens of Hugging Face and of Discord
        r"\bhf_\w{16,}|[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}",
    )
]


def redact(text: str) -> str:
    """Return `text` without tokens, passwords and signatures."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\g<1>…" if pattern.groups else "…", text)
    return text


def escaped(text: str) -> str:
    """Return `text` with all characters escaped that change or break a line, such as \\n, \\x1b and \\u200b."""
    return _escape(text, lambda char: char.encode("unicode_escape").decode())


def _escape(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else escape(char) for char in text)


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what the caller passed as `extra`, redacted; None values are left out."""
    return {
        name: value if isinstance(value, int | float) else redact(str(value))
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_") and value is not None
    }


class _Plain(logging.Formatter):
    """One line per event, ending with its fields as `name=value`.

    Each line of a traceback starts with a bar, so that it cannot pass for an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        lines = [escaped(redact(self.formatMessage(record)) + fields)]
        if record.exc_info:
            trace = redact(self.formatException(record.exc_info))
            lines += [f"  | {escaped(line)}" for line in trace.split("\n")]
        return "\n".join(lines)


def _quoted(value: object) -> str:
    """Return `value` as text, in quotes if it could be mistaken for several fields."""
    text = str(value)
    if text and not any(each.isspace() or each in '"=' for each in text):
        return text
    return json.dumps(text, ensure_ascii=False)


class _JsonLines(logging.Formatter):
    """One JSON object per line: the event and its fields, such as `job` and `attempt`; `error` is a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        event |= {name: value for name, value in _fields(record).items() if name not in event}
        if record.exc_info:
            event["error"] = redact(self.formatException(record.exc_info))
        text = json.dumps(event, ensure_ascii=False)
        return _escape(text, lambda char: json.dumps(char)[1:-1])


def escape_unencodable() -> None:
    """Print characters that the terminal cannot encode as `\\x…` instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process; Python itself would print it with its secrets."""
    logging.getLogger("engine").critical("the process ends", exc_info=(kind, error, trace))


def configure(level: str, *, json_lines: bool) -> None:
    """Send the log of this process to stderr. Called once, in a `__main__`."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonLines() if json_lines else _Plain("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[stream], force=True)
    sys.excepthook = _log_uncaught
    logging.getLogger("aiosqlite").setLevel("WARNING")
    logging.getLogger("discord").setLevel("WARNING")
    logging.getLogger("aiohttp.access").setLevel("WARNING")
