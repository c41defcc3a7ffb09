"""`make canary`: fetch and decode one video from the real YouTube, as the bot does.

It shows what the tests cannot: how YouTube answers today to this machine's address. It uses the operator's settings
(proxy, cookies, certificates) and exits with 1 on failure.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from config.settings import load
from engine.errors import StemifyError
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from engine.sources.youtube.downloader import Youtube, version
from engine.sources.youtube.link import parse_link

FIRST_VIDEO_EVER = "https://www.youtube.com/watch?v=jNQXAC9IVRw"  # 19 seconds, from 2005


async def fetch(text: str) -> str:
    settings = load()
    youtube = Youtube(
        max_bytes=settings.limits.input_bytes,
        max_duration_s=settings.limits.input_duration_s,
        metadata_timeout_s=settings.youtube.metadata_timeout_s,
        total_timeout_s=settings.youtube.total_timeout_s,
        cookies_file=settings.youtube.cookies_file,
        proxy=settings.youtube.proxy,
        ca_file=settings.youtube.ca_file,
    )
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stemify-canary-") as folder:
        download = await youtube.fetch(parse_link(text), Path(folder), on_progress=lambda _: None)
        info = await probe_in_sandbox(download.path, MediaLimits())
        return (
            f"{download.artist} - {download.title}: {info.codec}, {info.duration_s:.1f} s of audio, "
            f"{download.path.stat().st_size} bytes in {time.monotonic() - started_s:.1f} s"
        )


def main() -> int:
    logging.basicConfig(level="INFO", format="%(message)s")
    print(f"yt-dlp {version()}")
    try:
        print(asyncio.run(fetch(" ".join(sys.argv[1:]) or FIRST_VIDEO_EVER)))
    except StemifyError as error:
        print(f"{error.code}: {error.message}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
