"""The child processes of a download: cancelled, stalled, killed, and confined."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from engine.errors import SourceFailed
from engine.sources.errors import (
    YoutubeFetcherDied,
    YoutubeTimedOut,
)
from engine.sources.youtube.downloader import DownloadedAudio
from tests.fakes.youtube import FakeYoutube, Video, puzzle
from tests.integration.sources.conftest import ID, LINK, MIB, client, pids_in, processes_in, silent, until

HANGING_PLAYER_JS = puzzle.PLAYER_JS.replace("var n=this.q.n;", "for(;;){}")


async def cancelled_leaves_nothing(
    fetching: asyncio.Task[DownloadedAudio], dest: Path, ready: Callable[[], object]
) -> None:
    await until(ready)
    assert processes_in(dest)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert not processes_in(dest)
    assert not list(dest.iterdir())


async def test_cancel_of_stalled_download_leaves_nothing(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, behaviour="stall"))
    fetching = asyncio.create_task(client(fake).fetch(LINK, dest, on_progress=silent))
    await cancelled_leaves_nothing(fetching, dest, lambda: list(dest.glob(".youtube-*/*.part")))


async def test_cancel_during_stalled_page_leaves_nothing(fake: FakeYoutube, dest: Path) -> None:
    fake.stalls = "watch"
    fetching = asyncio.create_task(client(fake).fetch(LINK, dest, on_progress=silent))
    await cancelled_leaves_nothing(fetching, dest, lambda: fake.seen)


async def test_cancel_during_challenge_kills_deno(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.player_js = HANGING_PLAYER_JS
    fake.add(Video(ID, media=song))
    fetching = asyncio.create_task(client(fake).fetch(LINK, dest, on_progress=silent))
    await cancelled_leaves_nothing(fetching, dest, lambda: "deno" in " ".join(processes_in(dest)))


async def test_early_cancel_leaves_nothing(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song))
    for wait_s in (0.0, 0.01, 0.03, 0.1):
        fetching = asyncio.create_task(client(fake).fetch(LINK, dest, on_progress=silent))
        await asyncio.sleep(wait_s)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert not processes_in(dest)
        assert not list(dest.iterdir())


async def test_stalled_page_ends_at_metadata_deadline(fake: FakeYoutube, dest: Path) -> None:
    fake.stalls = "watch"
    with pytest.raises(YoutubeTimedOut) as late:
        await client(fake, metadata_timeout_s=1).fetch(LINK, dest, on_progress=silent)
    assert late.value.transient
    assert "metadata" in str(late.value.detail)
    assert not processes_in(dest)


async def test_stalled_media_end_at_total_deadline(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, behaviour="stall"))
    with pytest.raises(YoutubeTimedOut, match="too long") as late:
        await client(fake, total_timeout_s=3).fetch(LINK, dest, on_progress=silent)
    assert "in total" in str(late.value.detail)
    assert not processes_in(dest)
    assert not list(dest.iterdir())


async def test_killed_child_is_transient_failure(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, behaviour="stall"))
    fetching = asyncio.create_task(client(fake).fetch(LINK, dest, on_progress=silent))
    await until(lambda: list(dest.glob(".youtube-*/*.part")))
    for pid in pids_in(dest):
        with suppress(ProcessLookupError):  # the inner process dies with the outer one
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(YoutubeFetcherDied) as died:
        await fetching
    assert died.value.transient
    assert not list(dest.iterdir())


MAIN_PROCESS = """
import asyncio, sys
from pathlib import Path
from pydantic import SecretStr
from engine.sources.youtube.link import VideoLink
from engine.sources.youtube.downloader import Youtube
proxy, ca_file, dest, video_id = sys.argv[1:]
youtube = Youtube(max_bytes=1 << 26, max_duration_s=600, proxy=SecretStr(proxy), ca_file=Path(ca_file))
asyncio.run(youtube.fetch(VideoLink.of(video_id), Path(dest), on_progress=lambda _: None))
"""


@pytest.mark.parametrize("hangs_in", ["media", "deno"])
async def test_killed_main_process_ends_its_downloads(
    hangs_in: str, fake: FakeYoutube, dest: Path, song: bytes
) -> None:
    fake.add(Video(ID, media=song, behaviour="stall"))
    if hangs_in == "deno":
        fake.player_js = HANGING_PLAYER_JS
    arguments = [fake.proxy_url, str(fake.ca_file), str(dest), ID]
    main = await asyncio.create_subprocess_exec(sys.executable, "-c", MAIN_PROCESS, *arguments)
    try:
        if hangs_in == "deno":
            await until(lambda: "deno" in " ".join(processes_in(dest)))
        else:
            await until(lambda: list(dest.glob(".youtube-*/*.part")))
    finally:
        main.kill()
        await main.wait()
    await until(lambda: not processes_in(dest), within_s=5)


async def test_child_has_no_secrets_and_a_write_cap(
    fake: FakeYoutube, dest: Path, song: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMIFY_DISCORD__TOKEN", "very-secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    fake.add(Video(ID, media=song, behaviour="stall"))
    proxy = SecretStr(fake.proxy_url.replace("http://", "http://operator:hunter2@"))
    fetching = asyncio.create_task(client(fake, proxy=proxy).fetch(LINK, dest, on_progress=silent))
    await until(lambda: list(dest.glob(".youtube-*/*.part")))
    processes = [Path("/proc", str(pid)) for pid in pids_in(dest)]
    seen = b"".join((path / "environ").read_bytes() + (path / "cmdline").read_bytes() for path in processes)
    limits = "".join((path / "limits").read_text() for path in processes)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert seen.count(b"youtube/child.py") == 2
    for secret in (b"very-secret", b"/somewhere/else", b"hunter2"):
        assert secret not in seen
    assert re.search(rf"Max file size +{51 * MIB} +{51 * MIB}", limits)
    assert re.search(rf"Max data size +{1 << 30} +{1 << 30}", limits)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts memory on Linux only")
async def test_script_over_memory_limit_is_killed(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song))
    takes_2_gb = "for(var held=[],i=0;i<32;i++)held.push(new Uint8Array(67108864).fill(1));var n=this.q.n;"
    fake.player_js = puzzle.PLAYER_JS.replace("var n=this.q.n;", takes_2_gb)
    with pytest.raises(SourceFailed):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert not list(dest.iterdir())
