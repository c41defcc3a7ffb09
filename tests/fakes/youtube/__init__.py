"""A fake YouTube for an unmodified yt-dlp, with real TLS, reached through a CONNECT proxy.

It has the watch page, the innertube player, the player's script with its n and signature challenges, and the media
hosts.

    async with FakeYoutube(tmp_path) as youtube:
        youtube.add(Video("dQw4w9WgXcQ", media=path.read_bytes()))
        Youtube(proxy=SecretStr(youtube.proxy_url), ca_file=youtube.ca_file, …)
"""

from __future__ import annotations

from tests.fakes.youtube.server import FakeYoutube, Seen
from tests.fakes.youtube.video import Video

__all__ = ["FakeYoutube", "Seen", "Video"]
