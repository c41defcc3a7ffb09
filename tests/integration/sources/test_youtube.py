"""The unmodified yt-dlp against a fake YouTube: real child processes, TLS, Deno and range requests."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
import trustme
from pydantic import SecretStr

from engine.errors import LinksDisabled, SourceFailed
from engine.sources.errors import (
    VideoNoAudio,
    VideoTooLarge,
    VideoTooLong,
    YoutubeCaptcha,
    YoutubeChallengeUnsolved,
    YoutubeFetcherDied,
    YoutubeForbidden,
    YoutubeNotSetUp,
    YoutubePaused,
    YoutubeRateLimited,
    YoutubeTimedOut,
    YoutubeUnreachable,
)
from engine.sources.youtube import downloader as youtube_module
from engine.sources.youtube.downloader import DownloadedAudio, Youtube, check_version, version
from engine.sources.youtube.link import VideoLink
from tests.fakes.youtube import FakeYoutube, Video, puzzle
from tests.fixtures.songs import make_song

ID = "dQw4w9WgXcQ"
LINK = VideoLink.of(ID)
MIB = 1 << 20
HANGING_PLAYER_JS = puzzle.PLAYER_JS.replace("var n=this.q.n;", "for(;;){}")
LOGIN = "LOGIN_REQUIRED"


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("song") / "song.webm"
    make_song(path, seconds=3, sample_rate=48000)
    return path.read_bytes()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeYoutube]:
    (tmp_path / "fake").mkdir()
    async with FakeYoutube(tmp_path / "fake") as server:
        yield server


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "dest"
    folder.mkdir()
    return folder


def client(fake: FakeYoutube, **changes: Any) -> Youtube:
    arguments: dict[str, Any] = {
        "max_bytes": 50 * MIB,
        "max_duration_s": 600,
        "metadata_timeout_s": 30,
        "total_timeout_s": 60,
        "proxy": SecretStr(fake.proxy_url),
        "ca_file": fake.ca_file,
    }
    return Youtube(**{**arguments, **changes})


def silent(_: float) -> None:
    """Ignore progress."""


def pids_in(folder: Path) -> list[int]:
    """Return the ids of all processes whose working directory is in `folder`, even if it was deleted."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, a zombie, or ended
            if (process / "cwd").readlink().as_posix().startswith(folder.as_posix()):
                pids.append(int(process.name))
    return pids


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes in `folder`, and this process's zombies."""
    processes = []
    for pid in pids_in(folder):
        with suppress(OSError):
            processes.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                processes.append(f"unreaped {process.name}")
    return processes


async def until(condition: Callable[[], object], within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def decoded_samples(path: Path) -> int:
    with av.open(path) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


async def test_link_becomes_decodable_file_with_title_and_artist(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    video = fake.add(Video(ID, media=song, title="The Testers - Sunny", channel="The Testers - Topic"))
    progress: list[float] = []
    fetched = await client(fake).fetch(LINK, dest, on_progress=progress.append)
    assert fetched == DownloadedAudio(
        path=dest / f"{ID}.webm", title="Sunny", artist="The Testers", duration_s=3.0,
        ytdlp_version=fetched.ytdlp_version,
    )  # fmt: skip
    assert fetched.path.read_bytes() == song
    assert decoded_samples(fetched.path) >= 3 * 48000
    assert list(dest.iterdir()) == [fetched.path]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    # One request: the n challenge was solved, because the media host answers 403 to a wrong solution.
    assert video.media_requests == 1
    assert {target.partition(":")[0] for target in fake.connects} == {"www.youtube.com", video.media_host}
    assert not processes_in(dest)


async def test_scrambled_url_and_long_file_are_fetched_in_ranges(fake: FakeYoutube, dest: Path, tmp_path: Path) -> None:
    make_song(tmp_path / "song.m4a", seconds=2)
    padding = 12 * MIB
    media = (tmp_path / "song.m4a").read_bytes() + (8 + padding).to_bytes(4) + b"free" + bytes(padding)
    fake.add(Video(ID, media=media, mime='audio/mp4; codecs="mp4a.40.2"', itag=140, signed=True))
    fetched = await client(fake).fetch(LINK, dest, on_progress=silent)
    assert fetched.path == dest / f"{ID}.m4a"
    assert fetched.path.read_bytes() == media
    assert decoded_samples(fetched.path) >= 2 * 44100
    ranges = [request.range for request in fake.media_seen]
    assert len(ranges) > 1
    assert None not in ranges


async def test_youtube_music_metadata_gives_title_and_artist(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    description = "Provided to YouTube by X\n\nSunny · Ann · Bob\n\nAn Album\n\n℗ 2020 X\n\nAuto-generated by YouTube."
    fake.add(Video(ID, media=song, title="Sunny (Official)", channel="X", description=description))
    fetched = await client(fake).fetch(LINK, dest, on_progress=silent)
    assert (fetched.title, fetched.artist) == ("Sunny", "Ann, Bob")


async def test_title_is_one_printable_line(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, title="A\u202e song\n\x00of\t" + "x" * 300))
    fetched = await client(fake).fetch(LINK, dest, on_progress=silent)
    assert fetched.title == ("A song of " + "x" * 300)[:200]


async def test_concurrent_downloads_do_not_interfere(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    names = ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"]
    for name in names:
        fake.add(Video(name, media=song, title=name))
    youtube = client(fake)
    fetched = await asyncio.gather(*(youtube.fetch(VideoLink.of(name), dest, on_progress=silent) for name in names))
    assert [download.title for download in fetched] == names
    assert sorted(dest.iterdir()) == [dest / f"{name}.webm" for name in names]


ABOUT_VIDEOS: dict[str, dict[str, Any]] = {
    "youtube_private": {
        "status": LOGIN,
        "reason": "Private video",
        "subreason": "Sign in if you've been granted access to this video",
    },
    "youtube_age": {
        "status": LOGIN,
        "reason": "Sign in to confirm your age",
        "subreason": "This video may be inappropriate for some users.",
    },
    "youtube_members": {
        "status": "UNPLAYABLE",
        "reason": "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    },
    "youtube_removed": {
        "status": "ERROR",
        "reason": "Video unavailable",
        "subreason": "This video has been removed by the uploader",
    },
    "youtube_copyright": {
        "status": "UNPLAYABLE",
        "reason": "Video unavailable",
        "subreason": "This video is no longer available due to a copyright claim by A Label",
    },
    "youtube_geo": {
        "status": "UNPLAYABLE",
        "reason": "Video unavailable",
        "subreason": "The uploader has not made this video available in your country",
    },
    "youtube_unavailable": {"status": "ERROR", "reason": "Video unavailable"},
    "youtube_protected": {"format_extras": {"drmFamilies": ["WIDEVINE"]}},
    "youtube_live": {"details": {"isLive": True, "isLiveContent": True}, "duration_s": None},
    "youtube_upcoming": {
        "status": "LIVE_STREAM_OFFLINE",
        "reason": "Premieres in 3 days",
        "details": {"isUpcoming": True, "isLiveContent": True},
    },
    "youtube_too_long": {"duration_s": 601},
    "youtube_no_audio": {"mime": 'video/mp4; codecs="avc1.640028"', "itag": 136},
    "youtube_changed": {"has_formats": False},
    "youtube_unreachable": {"behaviour": "unavailable"},
}


@pytest.mark.parametrize("code", ABOUT_VIDEOS)
async def test_every_video_failure_has_its_own_error(code: str, fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, **ABOUT_VIDEOS[code]))
    with pytest.raises(SourceFailed) as failed:
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert failed.value.code == code, failed.value.detail
    assert failed.value.message.endswith("attach the file instead.")
    assert not list(dest.iterdir())
    assert not processes_in(dest)


async def test_long_video_is_refused_before_download(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, duration_s=754))
    with pytest.raises(VideoTooLong, match="is 12:34 long; the limit is 10:00"):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert not fake.media_seen


async def test_captcha_stops_requests_during_pause(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    now_s = [0.0]
    youtube = client(fake, breaker_pause_s=3600, monotonic=lambda: now_s[0])
    video = fake.add(Video(ID, media=song, status=LOGIN, reason="Sign in to confirm you’re not a bot"))
    with pytest.raises(YoutubeCaptcha) as refused:
        await youtube.fetch(LINK, dest, on_progress=silent)
    assert refused.value.retry_after_s == 3600
    requests = len(fake.connects)
    now_s[0] = 3000
    with pytest.raises(YoutubePaused, match="in about 10 minutes") as paused:
        await youtube.fetch(LINK, dest, on_progress=silent)
    assert paused.value.retry_after_s == youtube.paused_for_s == 600
    assert len(fake.connects) == requests
    now_s[0], video.status, video.reason = 3600, "OK", None
    assert (await youtube.fetch(LINK, dest, on_progress=silent)).path.exists()
    assert youtube.paused_for_s == 0


async def test_status_429_opens_breaker(fake: FakeYoutube, dest: Path) -> None:
    fake.fails_with = 429
    youtube = client(fake)
    with pytest.raises(YoutubeRateLimited):
        await youtube.fetch(LINK, dest, on_progress=silent)
    assert youtube.paused_for_s > 3000


async def test_rate_limited_session_is_recognised(fake: FakeYoutube, dest: Path) -> None:
    reason = "This content isn't available, try again later."
    fake.add(Video(ID, status="UNPLAYABLE", reason="Video unavailable", subreason=reason))
    with pytest.raises(YoutubeRateLimited):
        await client(fake).fetch(LINK, dest, on_progress=silent)


async def test_status_503_is_transient_and_opens_no_pause(fake: FakeYoutube, dest: Path) -> None:
    fake.fails_with = 503
    youtube = client(fake)
    with pytest.raises(YoutubeUnreachable) as failed:
        await youtube.fetch(LINK, dest, on_progress=silent)
    assert failed.value.transient
    assert youtube.paused_for_s == 0


async def test_refused_media_address_is_requested_again_once(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    video = fake.add(Video(ID, media=song, behaviour="forbid_once"))
    fetched = await client(fake).fetch(LINK, dest, on_progress=silent)
    assert fetched.path.read_bytes() == song
    assert video.media_requests == 2


async def test_media_refused_twice_fails(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    video = fake.add(Video(ID, media=song, behaviour="forbid"))
    with pytest.raises(YoutubeForbidden):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert video.media_requests == 2
    assert not list(dest.iterdir())


async def test_interrupted_media_are_unreachable(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, behaviour="break"))
    with pytest.raises(YoutubeUnreachable):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert not list(dest.iterdir())


async def test_unsolvable_player_is_reported(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.player_js = puzzle.UNREADABLE_PLAYER_JS
    fake.add(Video(ID, media=song))
    with pytest.raises(YoutubeChallengeUnsolved):
        await client(fake).fetch(LINK, dest, on_progress=silent)


async def test_unreachable_proxy_password_is_not_logged(
    fake: FakeYoutube, dest: Path, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy = SecretStr(f"http://operator:hunter2@127.0.0.1:{unused_tcp_port}")
    with pytest.raises(YoutubeUnreachable) as failed:
        await client(fake, proxy=proxy).fetch(LINK, dest, on_progress=silent)
    assert "youtube_unreachable" in caplog.text
    assert "hunter2" not in caplog.text + str(failed.value.detail) + failed.value.message


async def test_untrusted_certificate_is_rejected(fake: FakeYoutube, dest: Path) -> None:
    other = dest.parent / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(YoutubeNotSetUp):
        await client(fake, ca_file=other).fetch(LINK, dest, on_progress=silent)
    assert not fake.seen


async def test_media_on_other_host_are_not_fetched(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    fake.add(Video(ID, media=song, media_host="googlevideo.com.evil.example"))
    with pytest.raises(VideoNoAudio):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert set(fake.connects) == {"www.youtube.com:443"}


async def test_file_with_stated_size_over_cap_is_not_downloaded(fake: FakeYoutube, dest: Path) -> None:
    fake.add(Video(ID, media=bytes(2 * MIB)))
    with pytest.raises(VideoTooLarge):
        await client(fake, max_bytes=MIB).fetch(LINK, dest, on_progress=silent)
    assert not fake.media_seen


async def test_file_without_stated_size_is_stopped_at_cap(fake: FakeYoutube, dest: Path) -> None:
    fake.add(Video(ID, media=bytes(64 * MIB), says_length=False))
    with pytest.raises(VideoTooLarge):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert not list(dest.iterdir())


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


async def test_cookies_file_of_operator_is_not_modified(fake: FakeYoutube, dest: Path, song: bytes) -> None:
    cookies = dest.parent / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n.youtube.com\tTRUE\t/\tTRUE\t0\tmine\toatmeal\n")
    before = (cookies.read_bytes(), cookies.stat().st_mtime_ns)
    fake.add(Video(ID, media=song))
    await client(fake, cookies_file=cookies).fetch(LINK, dest, on_progress=silent)
    assert all("mine=oatmeal" in (request.cookie or "") for request in fake.seen if request.host == "www.youtube.com")
    assert (cookies.read_bytes(), cookies.stat().st_mtime_ns) == before
    assert [file.name for file in dest.iterdir()] == [f"{ID}.webm"]


@pytest.mark.parametrize("content", [None, "not a cookie file\n"])
async def test_unreadable_cookies_are_setup_error(
    content: str | None, fake: FakeYoutube, dest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cookies = dest.parent / "cookies.txt"
    if content is not None:
        cookies.write_text(content)
    with pytest.raises(YoutubeNotSetUp):
        await client(fake, cookies_file=cookies).fetch(LINK, dest, on_progress=silent)
    assert "cookies" in caplog.text
    assert not fake.seen


async def test_outdated_ytdlp_fails_before_any_request(
    fake: FakeYoutube, dest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(youtube_module, "MINIMUM_YTDLP", (9999, 1, 1))
    with pytest.raises(YoutubeNotSetUp):
        await client(fake).fetch(LINK, dest, on_progress=silent)
    assert "too old" in caplog.text
    assert not fake.connects


async def test_disabled_links_are_refused(fake: FakeYoutube, dest: Path) -> None:
    with pytest.raises(LinksDisabled):
        await client(fake, enabled=False).fetch(LINK, dest, on_progress=silent)


def test_version_is_found_without_importing_ytdlp() -> None:
    assert check_version() == version() == importlib.metadata.version("yt-dlp")
    code = "import sys, engine.sources.youtube.downloader as y; y.version(); sys.exit('yt_dlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
