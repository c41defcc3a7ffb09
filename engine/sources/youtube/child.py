"""The process that downloads one video's sound: the only place that imports yt_dlp.

Run by its path (`python -I youtube_child.py`), needs nothing but the standard library and yt_dlp. In: one JSON object
on the first line of stdin, which stays open as a lifeline. Out, one JSON object a line: `metadata`, `progress`, then
`done` or `failed`. A failure is told as facts (kinds of exception, HTTP status, texts, warnings); what it means is the
parent's business (`youtube_errors.py`).

Two processes: the outer one starts the inner one, which does the work, and waits. When stdin closes (the parent
cancels, or was killed) it kills the inner one's group, Deno included, reaps it, and is gone. An extraction cannot be
interrupted from within.
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
MEMORY_BYTES = 1 << 30  # of each process; yt-dlp and Deno need a fifth of it
CPU_S = 150  # far more than any download takes; ends a script that hangs in Deno
WARNINGS_KEPT = 40
TEXT_CHARACTERS = 2000
PROGRESS_INTERVAL_S = 0.2
_TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class DownloadRejected(Exception):  # not of engine.errors: this process knows nothing of the engine
    """Our own check said no."""

    def __init__(self, reason: str, **facts: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.facts = facts


class YtdlpLogger:
    """yt-dlp's logger: nothing is printed, warnings are kept, for they often hold the cause."""

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
    """The outer process."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux: Deno would be init's to reap
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    request = json.loads(_first_line())
    lives, dies = os.pipe()  # the inner process holds the only writing end: closed means that it ended
    inner = os.fork()
    if inner == 0:
        os.close(lives)
        _run(request)
    with contextlib.suppress(OSError):  # the inner one says the same; whoever is first
        os.setpgid(inner, inner)
    os.close(dies)
    os.close(1)
    while lives not in (readable := select.select([0, lives], [], [])[0]):
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
    """The inner process."""
    os.setpgid(0, 0)
    os.umask(0o077)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    limit_bytes = int(request["max_bytes"]) + (1 << 20)  # the last line of defence, behind the hook
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not RLIMIT_AS: Deno reserves more address space than any useful limit, and then uses little of it.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # nobody but `tell` writes to the parent, nobody but the outer process reads
        os.dup2(nothing, descriptor)

    def tell(event: str, **facts: object) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")
        out.flush()

    log = YtdlpLogger()
    phase = ["start"]
    try:
        if request["package_dir"] not in sys.path:
            sys.path.append(request["package_dir"])
        _download(request, tell, log, phase)
    except DownloadRejected as refused:
        tell("failed", phase=phase[0], reason=refused.reason, warnings=log.warnings, **refused.facts)
    except BaseException as error:  # whatever it is, the parent hears of it
        tell("failed", phase=phase[0], reason=None, **_facts(error, log))
    out.flush()
    os._exit(0)


def _download(request: dict[str, Any], tell: Any, log: YtdlpLogger, phase: list[str]) -> None:
    from yt_dlp import YoutubeDL
    from yt_dlp.version import __version__ as version

    max_bytes = int(request["max_bytes"])
    told_at = [0.0]

    def count(state: dict[str, Any]) -> None:
        got, total = state.get("downloaded_bytes") or 0, state.get("total_bytes") or 0
        if max(got, total) > max_bytes:
            raise DownloadRejected("too_large")
        if time.monotonic() - told_at[0] >= PROGRESS_INTERVAL_S:
            told_at[0] = time.monotonic()
            tell("progress", bytes=got, total_bytes=total)

    phase[0] = "metadata"
    with YoutubeDL(parameters(request, log, count)) as ydl:
        found = ydl.extract_info(request["url"], download=False, process=False, ie_key="Youtube")
        check(found, request)
        formats = [one for one in found.get("formats") or [] if _is_ours(one)]
        if not formats:
            raise DownloadRejected("no_audio", **_why_no_audio(found))
        formats = [one for one in formats if (one.get("filesize") or 0) <= max_bytes]
        if not formats:
            raise DownloadRejected("too_large")
        tell("metadata", version=version, **describe(found))
        phase[0] = "media"
        found["formats"] = formats
        done = ydl.process_ie_result(found, download=True)
    paths = [Path(one["filepath"]) for one in (done or {}).get("requested_downloads") or [] if one.get("filepath")]
    # yt-dlp can skip a download and call it a success: what counts is the file.
    if len(paths) != 1 or not paths[0].is_file() or not paths[0].stat().st_size:
        raise DownloadRejected("no_file")
    if paths[0].stat().st_size > max_bytes:
        raise DownloadRejected("too_large")
    tell("done", path=str(paths[0]), format=str(done.get("format_id")), bytes=paths[0].stat().st_size)


def parameters(request: dict[str, Any], log: YtdlpLogger, hook: Any) -> dict[str, Any]:
    """What YoutubeDL is started with. Made anew each time: it changes what it is given."""
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
        # An operator's own certificates (a proxy that opens TLS); verified like any other.
        "compat_opts": ["no-certifi"] if request["own_ca"] else [],
    }


def check(found: dict[str, Any], request: dict[str, Any]) -> None:
    """Refuse what is not this one video, finished, and short enough. Raises `Refused`."""
    if found.get("_type", "video") != "video" or found.get("id") != request["video_id"]:
        raise DownloadRejected("not_this_video")
    live = found.get("live_status")
    if live in ("is_live", "post_live", "is_upcoming"):
        raise DownloadRejected("upcoming" if live == "is_upcoming" else "live")
    duration_s = found.get("duration")
    if duration_s is not None and duration_s > request["max_duration_s"]:
        raise DownloadRejected("too_long", duration_s=duration_s)


def _is_ours(one: dict[str, Any]) -> bool:
    """Whether this format is plain HTTPS from YouTube's media hosts, with sound, unprotected."""
    address = urlsplit(one.get("url") or "")
    host = address.hostname or ""
    return (
        address.scheme == "https"
        and host.endswith("." + MEDIA_HOST)
        and one.get("protocol") in (None, "https")
        and one.get("acodec") != "none"
        and not one.get("has_drm")
    )


def _why_no_audio(found: dict[str, Any]) -> dict[str, object]:
    media = [one for one in found.get("formats") or [] if one.get("ext") != "mhtml"]  # mhtml: preview pictures
    return {"formats": len(media), "protected": bool(media) and all(one.get("has_drm") for one in media)}


def describe(found: dict[str, Any]) -> dict[str, object]:
    """Title and artist as a music library would have them. YouTube Music names them; otherwise the channel stands in,
    and a title that starts with the channel's own name loses it."""
    artists = [name for name in found.get("artists") or [] if isinstance(name, str)]
    artist = ", ".join(artists) or re.sub(r" - Topic$", "", found.get("channel") or found.get("uploader") or "")
    title = found.get("track") or found.get("title") or ""
    if not found.get("track") and artist and title.casefold().startswith(f"{artist} - ".casefold()):
        title = title[len(artist) + 3 :]
    return {"title": title, "artist": artist or None, "duration_s": found.get("duration")}


def _facts(error: BaseException, log: YtdlpLogger) -> dict[str, object]:
    """An exception and what caused it, down to the network."""
    kinds: list[str] = []
    texts: list[str] = []
    status: int | None = None
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        kinds += [kind.__name__ for kind in type(one).__mro__ if kind.__name__ not in kinds]
        texts.append(_TERMINAL_COLOURS.sub("", str(one))[:TEXT_CHARACTERS])
        status = status or getattr(one, "status", None)
        wrapped = getattr(one, "exc_info", None)
        waiting += [wrapped[1] if wrapped else None, getattr(one, "cause", None), one.__cause__, one.__context__]
    return {"kinds": kinds, "status": status, "texts": texts, "warnings": log.warnings}


if __name__ == "__main__":
    main()
