"""Download one video's audio in a child process, the only one that imports yt_dlp.

Run by its path (`python -I child.py`); it needs only the standard library and yt_dlp. Input: one JSON object on the
first line of stdin, which stays open. Output: one JSON object per line: `metadata`, `progress`, then `done` or
`failed`. A failure is reported as facts (exception classes, HTTP status, texts, warnings), which `classify.py`
interprets in the parent.

An extraction cannot be interrupted, so there are two processes: the inner one works, the outer one waits. When stdin
closes (the parent cancels or was killed), the outer one kills the inner one's process group, including Deno, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

MEDIA_HOST = "googlevideo.com"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MEMORY_BYTES = 1 << 30  # per process; yt-dlp and Deno need a fifth of it
CPU_S = 150  # far more than any download needs; ends a script that loops in Deno
WARNINGS_KEPT = 40
TEXT_CHARACTERS = 2000
PROGRESS_INTERVAL_S = 0.2
_TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class DownloadRejected(Exception):  # not from engine.errors: this process does not import the engine
    """A check of ours failed."""

    def __init__(self, reason: str, **facts: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.facts = facts


class YtdlpLogger:
    """A logger for yt-dlp that prints nothing and keeps warnings, which often contain the cause."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, text: str) -> None:
        pass

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str, *, once: bool = False, only_once: bool = False) -> None:
        if len(self.warnings) < WARNINGS_KEPT:
            self.warnings.append(_TERMINAL_COLOURS.sub("", text)[:TEXT_CHARACTERS])

    def error(self, text: str) -> None:
        self.warning(text)


def main() -> None:
    """Run the outer process."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere init reaps Deno
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    request = json.loads(_first_line())
    ended, keep_open = os.pipe()  # only the inner process keeps the writing end: it closes when that process ends
    inner = os.fork()
    if inner == 0:
        os.close(ended)
        _run(request)
    with contextlib.suppress(OSError):  # both processes set it, because either may run first
        os.setpgid(inner, inner)
    os.close(keep_open)
    os.close(1)
    while ended not in (readable := select.select([0, ended], [], [])[0]):
        if readable and not os.read(0, 65536):
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(inner, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(2)
        line += byte
    return line


def _run(request: dict[str, Any]) -> NoReturn:
    """Run the inner process."""
    os.setpgid(0, 0)
    os.umask(0o077)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    limit_bytes = int(request["max_bytes"]) + (1 << 20)  # in case the progress hook fails to stop it
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not RLIMIT_AS: Deno reserves more address space than any useful limit, but uses little of it.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # only `emit` writes to the parent, only the outer process reads from it
        os.dup2(null, descriptor)

    def emit(event: str, **facts: object) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    log = YtdlpLogger()
    phase = ["start"]
    try:
        if request["package_dir"] not in sys.path:
            sys.path.append(request["package_dir"])
        _download(request, emit, log, phase)
    except DownloadRejected as rejected:
        emit("failed", phase=phase[0], reason=rejected.reason, warnings=log.warnings, **rejected.facts)
    except BaseException as error:  # including SystemExit and MemoryError
        emit("failed", phase=phase[0], reason=None, **_facts(error, log))
    out.flush()
    os._exit(0)


def _download(request: dict[str, Any], emit: Any, log: YtdlpLogger, phase: list[str]) -> None:
    from yt_dlp import YoutubeDL
    from yt_dlp.version import __version__ as version

    max_bytes = int(request["max_bytes"])
    reported_at = [0.0]

    def count(state: dict[str, Any]) -> None:
        got, total = state.get("downloaded_bytes") or 0, state.get("total_bytes") or 0
        if max(got, total) > max_bytes:
            raise DownloadRejected("too_large")
        if time.monotonic() - reported_at[0] >= PROGRESS_INTERVAL_S:
            reported_at[0] = time.monotonic()
            emit("progress", bytes=got, total_bytes=total)

    phase[0] = "metadata"
    with YoutubeDL(parameters(request, log, count)) as ydl:
        info = ydl.extract_info(request["url"], download=False, process=False, ie_key="Youtube")
        check(info, request)
        formats = [entry for entry in info.get("formats") or [] if _is_allowed(entry)]
        if not formats:
            raise DownloadRejected("no_audio", **_why_no_audio(info))
        formats = [entry for entry in formats if (entry.get("filesize") or 0) <= max_bytes]
        if not formats:
            raise DownloadRejected("too_large")
        emit("metadata", version=version, **describe(info))
        phase[0] = "media"
        info["formats"] = formats
        done = ydl.process_ie_result(info, download=True)
    downloads = (done or {}).get("requested_downloads") or []
    paths = [Path(entry["filepath"]) for entry in downloads if entry.get("filepath")]
    # yt-dlp can skip a download and report success, so check the file.
    if len(paths) != 1 or not paths[0].is_file() or not paths[0].stat().st_size:
        raise DownloadRejected("no_file")
    if paths[0].stat().st_size > max_bytes:
        raise DownloadRejected("too_large")
    emit("done", path=str(paths[0]), format=str(done.get("format_id")), bytes=paths[0].stat().st_size)


def parameters(request: dict[str, Any], log: YtdlpLogger, hook: Any) -> dict[str, Any]:
    """Return new parameters for YoutubeDL, which modifies them."""
    small = f"[filesize<=?{int(request['max_bytes'])}]"
    kinds = ("bestaudio[acodec=opus]", "bestaudio[acodec^=mp4a]", "bestaudio", "18", "worst[acodec!=none]")
    return {
        "allowed_extractors": ["youtube"],
        "noplaylist": True,
        "enable_file_urls": False,
        "extractor_args": {"youtube": {"skip": ["hls", "dash", "translated_subs"]}},
        "format": "/".join(kind + small for kind in kinds),
        "format_sort": ["lang", "quality", "abr"],
        "outtmpl": {"default": "%(id)s.%(ext)s"},
        "paths": {"home": request["dir"], "temp": request["dir"]},
        "postprocessors": [],
        "fixup": "never",
        "updatetime": False,
        "socket_timeout": request["socket_timeout_s"],
        "retries": 3,
        "extractor_retries": 1,
        "cachedir": False,
        "continuedl": False,
        "remote_components": [],
        "js_runtimes": {"deno": {}},
        "progress_hooks": [hook],
        "logger": log,
        "color": "never",
        "proxy": request["proxy"],
        "cookiefile": request["cookies_file"],
        # The operator's own certificates (for a proxy that intercepts TLS) replace certifi's.
        "compat_opts": ["no-certifi"] if request["own_ca"] else [],
    }


def check(info: dict[str, Any], request: dict[str, Any]) -> None:
    """Raise `DownloadRejected` unless this is the requested video, not live, and short enough."""
    if info.get("_type", "video") != "video" or info.get("id") != request["video_id"]:
        raise DownloadRejected("not_this_video")
    live = info.get("live_status")
    if live in ("is_live", "post_live", "is_upcoming"):
        raise DownloadRejected("upcoming" if live == "is_upcoming" else "live")
    duration_s = info.get("duration")
    if duration_s is not None and duration_s > request["max_duration_s"]:
        raise DownloadRejected("too_long", duration_s=duration_s)


def _is_allowed(entry: dict[str, Any]) -> bool:
    """Return True if a format is unprotected audio over plain HTTPS from YouTube's media hosts."""
    address = urlsplit(entry.get("url") or "")
    host = address.hostname or ""
    return (
        address.scheme == "https"
        and host.endswith("." + MEDIA_HOST)
        and entry.get("protocol") in (None, "https")
        and entry.get("acodec") != "none"
        and not entry.get("has_drm")
    )


def _why_no_audio(info: dict[str, Any]) -> dict[str, object]:
    media = [entry for entry in info.get("formats") or [] if entry.get("ext") != "mhtml"]  # mhtml: preview pictures
    return {"formats": len(media), "protected": bool(media) and all(entry.get("has_drm") for entry in media)}


def describe(info: dict[str, Any]) -> dict[str, object]:
    """Return title, artist and duration.

    Without an artist from YouTube Music the channel is the artist, and is removed from the start of the title.
    """
    artists = [name for name in info.get("artists") or [] if isinstance(name, str)]
    artist = ", ".join(artists) or re.sub(r" - Topic$", "", info.get("channel") or info.get("uploader") or "")
    title = info.get("track") or info.get("title") or ""
    if not info.get("track") and artist and title.casefold().startswith(f"{artist} - ".casefold()):
        title = title[len(artist) + 3 :]
    return {"title": title, "artist": artist or None, "duration_s": info.get("duration")}


def _facts(error: BaseException, log: YtdlpLogger) -> dict[str, object]:
    """Collect classes, texts and HTTP status of an exception and its causes."""
    kinds: list[str] = []
    texts: list[str] = []
    status: int | None = None
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        kinds += [kind.__name__ for kind in type(cause).__mro__ if kind.__name__ not in kinds]
        texts.append(_TERMINAL_COLOURS.sub("", str(cause))[:TEXT_CHARACTERS])
        status = status or getattr(cause, "status", None)
        wrapped = getattr(cause, "exc_info", None)
        pending += [wrapped[1] if wrapped else None, getattr(cause, "cause", None), cause.__cause__, cause.__context__]
    return {"kinds": kinds, "status": status, "texts": texts, "warnings": log.warnings}


if __name__ == "__main__":
    main()
