"""Songs from a slash command in the fake Discord to posted stems, and refused files.

The bot, queue and worker are the real ones; the models are tiny, with random weights.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import aiohttp
import av
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from tests.fakes.discord import Channel, FakeDiscord, Interaction, Message, Person, Upload
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.ports import free_port
from tests.fixtures.songs import make_song, silence
from tests.fixtures.tiny_models import write_model

ADDRESS = "https://stems.example"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class BotSetup:
    """A real bot in a fake Discord, with Ann as its user."""

    def __init__(self, fake: FakeDiscord, bot: RunningBot) -> None:
        self.fake, self.bot = fake, bot
        self.band = fake.guild()
        self.songs: Channel
        self.ann: Person

    def local(self, url: str) -> str:
        """Return the address on this machine of a link."""
        assert url.startswith(ADDRESS)
        return f"http://127.0.0.1:{self.bot.variables['STEMIFY_WEB__PORT']}{url.removeprefix(ADDRESS)}"

    def reset(self) -> None:
        self.songs = self.fake.channel(self.band)
        self.ann = Person(self.fake, "ann")
        self.fake.faults.clear()

    async def ask(self, path: Path | None = None, **options: object) -> tuple[Interaction, Message]:
        if path is not None:
            options["file"] = Upload(path.name, path.read_bytes())
        interaction = await self.ann.slash(self.songs, "stemify", **options)
        return interaction, await self.ann.answered(interaction, 60)

    async def details(self, message: Message) -> str:
        more = await self.ann.answered(await self.ann.press(message, "More"))
        return (await self.ann.answered(await self.ann.press(more, "Details"))).text

    async def done(self, message: Message) -> Message:
        """Return the announcement once the message's job is complete."""
        await self.fake.until(lambda: "Available until" in message.text, "the stems", 120)
        await self.fake.until(lambda: self.fake.mentions_of(self.ann.user), "the mention", 60)
        (announcement,) = self.fake.mentions_of(self.ann.user)
        return announcement

    def files(self) -> list[str]:
        """Return the files of all jobs."""
        return [str(path) for name in ("jobs", "scratch") for path in (self.bot.folder / name).rglob("*")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running_setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BotSetup]:
    folder = tmp_path_factory.mktemp("bot")
    write_model(folder / "models")
    async with FakeDiscord() as fake:
        variables = {
            "STEMIFY_MODELS_DIR": str(folder / "models"), "STEMIFY_WEB__PORT": str(free_port()),
            "STEMIFY_WEB__PUBLIC_URL": ADDRESS, "STEMIFY_WEB__OPEN": "true",
        }  # fmt: skip
        bot = RunningBot(fake, folder / "data", variables=variables)
        async with bot:
            yield BotSetup(fake, bot)


@pytest_asyncio.fixture(loop_scope="module")
async def setup(running_setup: BotSetup) -> BotSetup:
    running_setup.reset()
    return running_setup


def decoded(data: bytes) -> NDArray[np.float32]:
    """Return float samples, (channels, samples)."""
    resampler = av.AudioResampler(format="fltp")
    with av.open(io.BytesIO(data), "r") as source:
        parts = [part.to_ndarray() for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts, axis=1)


def similarity(one: NDArray[np.float32], other: Any) -> float:
    """Return the correlation of two signals below 8 kHz, where an mp3 is close to its source."""
    low = [np.fft.rfft(signal)[:, : signal.shape[1] * 8000 // 44100].ravel() for signal in (one, other)]
    return float(abs(np.vdot(*low)) / np.prod([np.linalg.norm(part) for part in low]))


async def test_stems_over_the_limit_are_posted_as_mp3(setup: BotSetup, tmp_path: Path) -> None:
    mix = make_song(tmp_path / "song.wav", seconds=6)
    setup.songs.user_limit_bytes = 200_000
    _, message = await setup.ask(tmp_path / "song.wav", format="wav", quality="fast")
    announcement = await setup.done(message)
    setup.songs.user_limit_bytes = None
    assert "Attached at 224 kbit/s; full quality by the links on the card." in announcement.text
    assert [file.filename.rpartition(".")[2] for file in announcement.attachments] == ["mp3"] * 4
    assert all(len(file.data) <= 200_000 for file in announcement.attachments)
    assert {decoded(file.data).shape for file in announcement.attachments} == {mix.shape}


async def test_stem_file_is_posted_and_linked(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=2)
    _, message = await setup.ask(tmp_path / "song.wav", format="stem", quality="fast")
    announcement = await setup.done(message)
    *stems, stem_file = announcement.attachments
    assert len(stems) == 4 and stem_file.filename.endswith(".stem.m4a")
    async with (
        aiohttp.ClientSession() as session,
        session.get(setup.local(message.button("Stem file")["url"])) as answer,
    ):
        assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/mp4")
        assert await answer.read() == stem_file.data


async def test_posted_stems_are_whole_and_sum_to_song(setup: BotSetup, tmp_path: Path) -> None:
    mix = make_song(tmp_path / "Blue Hour.flac", seconds=6, bits="24", tags={"title": "Blue Hour", "artist": "Lamps"})
    interaction, message = await setup.ask(tmp_path / "Blue Hour.flac", format="flac", quality="fast")
    announcement = await setup.done(message)
    assert message.text.startswith("### Blue Hour — Lamps\n4 stems · 0:06")
    assert interaction.ack_s < 3
    assert [file.filename for file in message.attachments] == ["waveform.png"]
    assert [file.description for file in announcement.attachments] == [
        f"{stem} of Blue Hour" for stem in ("Vocals", "Drums", "Bass", "Other")
    ]
    peaks = json.loads(
        max(setup.bot.folder.glob("jobs/*/*/peaks.json"), key=lambda path: path.stat().st_mtime).read_text()
    )
    assert list(peaks["stems"]) == ["vocals", "drums", "bass", "other"], "the picture has this order too"
    (gallery,) = (part for part in message.parts() if part["type"] == 12)
    shown = {gallery["items"][0]["description"], message.attachments[0].description}
    assert shown == {"Waveforms of vocals, drums, bass and other"}
    assert message.attachments[0].data.startswith(b"\x89PNG")
    stems = {file.filename: decoded(file.data) for file in announcement.attachments}
    assert len(stems) == 4
    assert all("Blue" in name and name.endswith(".flac") for name in stems)
    assert {stem.shape for stem in stems.values()} == {mix.shape}
    details = await setup.details(message)
    stated = re.search(r"In no stem: (-[\d.]+) dB of the mix · common gain: ([-+][\d.]+) dB", details)
    assert stated is not None, details
    gain_db = float(stated[2])
    residual = mix - sum(stems.values()) / 10 ** (gain_db / 20)
    residual_db = 20 * np.log10(np.linalg.norm(residual) / np.linalg.norm(mix))
    assert residual_db == pytest.approx(float(stated[1]), abs=0.5), "the details must state the measured residual"
    async with aiohttp.ClientSession() as session:  # the links serve the same bytes
        async with session.get(setup.local(message.button("Zip")["url"])) as answer:
            with ZipFile(io.BytesIO(await answer.read())) as archive:
                zipped = [archive.read(name) for name in archive.namelist()]
        assert zipped == [file.data for file in announcement.attachments]
        async with session.get(setup.local(message.button("Listen")["url"])) as answer:
            assert answer.status == 200
    await setup.ann.press(message, "Karaoke")
    await setup.fake.until(lambda: "karaoke" in setup.songs.visible()[-1].text, "the karaoke mix", 60)
    (attached,) = setup.songs.visible()[-1].attachments
    karaoke, expected = decoded(attached.data), sum(stem for name, stem in stems.items() if "vocals" not in name)
    assert attached.filename == "Blue Hour (karaoke).mp3" and karaoke.shape == mix.shape
    assert similarity(karaoke, expected) > max(0.98, similarity(karaoke, sum(stems.values())))


async def test_karaoke_gives_vocals_and_instrumental(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=2)
    _, message = await setup.ask(tmp_path / "song.mp3", karaoke=True, normalize=True)
    announcement = await setup.done(message)
    assert "Vocals and instrumental" in message.text
    assert "karaoke · normalized" in await setup.details(message)
    assert len(announcement.attachments) == 2


async def test_killed_bot_finishes_job_after_restart(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=20)
    _, message = await setup.ask(tmp_path / "song.mp3")
    await setup.fake.until(lambda: "%" in message.text, "the job to run", 60)
    await setup.bot.kill()
    assert "stems ·" not in message.text, "too fast to be killed in the middle"
    await setup.bot.start()
    announcement = await setup.done(message)
    assert [abs(decoded(file.data).shape[1] - 20 * 44100) < 2000 for file in announcement.attachments] == [True] * 4
    await asyncio.sleep(0.5)
    assert setup.fake.mentions_of(setup.ann.user) == [announcement]


async def test_cancel_of_running_job_leaves_nothing(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=60)
    before = set(setup.files())
    _, message = await setup.ask(tmp_path / "song.mp3", quality="best", model="htdemucs")
    await setup.fake.until(lambda: "Separating" in message.text, "the job to run", 60)
    await setup.ann.press(message, "Cancel")
    await setup.fake.until(lambda: "Cancelled." in message.text, "the end")
    assert set(setup.files()) - before == set(), "scratch, stems and the song must be deleted"


def too_big(path: Path) -> None:
    path.write_bytes(b"ID3" + bytes(51 * 1024 * 1024))


def renamed_text(path: Path) -> None:
    path.write_text("la la la\n" * 500)


def truncated(path: Path) -> None:
    whole = path.with_name("whole.mp3")
    make_song(whole, seconds=5)
    data = whole.read_bytes()
    path.write_bytes(data[:300] + bytes(200))


def lying_header(path: Path) -> None:
    """Write a WAV that declares one second and is longer than ten minutes."""
    make_song(path, samples=silence(601, sample_rate=8000, channels=1), sample_rate=8000, bits="16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = (16000).to_bytes(4, "little")
    path.write_bytes(data)


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty.mp3", lambda path: path.write_bytes(b""), "That file is empty"),
    ("big.mp3", too_big, "The limit is 50 MB"),
    ("long.flac", lambda path: make_song(path, samples=silence(601, sample_rate=8000), sample_rate=8000), "10:01"),
    ("text.mp3", renamed_text, "not an audio file"),
    ("broken.mp3", truncated, "(damaged|not an audio file)"),
    ("mute.mp4", lambda path: make_song(path, seconds=1, video=True, audio=False), "no sound in it"),
]


@pytest.mark.parametrize(("name", "make", "sentence"), REFUSED, ids=[name for name, _, _ in REFUSED])
async def test_unusable_file_is_refused_with_reason(
    setup: BotSetup, tmp_path: Path, name: str, make: Callable[[Path], object], sentence: str
) -> None:
    make(tmp_path / name)
    before = setup.files()
    _, message = await setup.ask(tmp_path / name)
    assert re.search(sentence, message.text), message.text
    assert message.buttons() == []
    listed = await setup.ann.slash(setup.songs, "job list")
    assert "no jobs yet" in (await setup.ann.answered(listed)).text
    assert setup.files() == before, "a refused file must not stay"


async def test_hostile_names_stay_in_folder_and_message(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=0.3)
    song = (tmp_path / "song.wav").read_bytes()
    bob = Person(setup.fake, "bob")
    names = [
        "../../../../tmp/escaped\0.wav", "愛" * 200 + ".wav", "song\u202evaw.exe",
        f"@everyone <@{bob.user.id}> **loud** [a](evil.example) `x`.wav",
    ]  # fmt: skip
    messages = []
    for name in names:
        interaction = await setup.ann.slash(setup.songs, "stemify", file=Upload(name, song), quality="fast")
        messages.append(await setup.ann.answered(interaction, 60))
    for message in messages:
        await setup.fake.until(lambda message=message: "stems ·" in message.text, "the stems", 60)  # type: ignore[misc]
    await setup.fake.until(lambda: len(setup.fake.mentions_of(setup.ann.user)) == len(names), "the mentions")
    for shown in setup.songs.visible():
        assert set(shown.pinged) <= {setup.ann.user.id}
        assert not re.search(r"(?<!\\)\*\*loud|(?<!\\)\[a\]|[\u202e\0]", shown.text)
        for attachment in shown.attachments:
            assert "/" not in attachment.filename and attachment.filename.isprintable()
            assert len(attachment.filename.encode()) <= 255
    assert not Path("/tmp/escaped").exists() and not list(setup.bot.folder.parent.glob("escaped*"))


async def test_file_larger_than_stated_is_cut_off(setup: BotSetup) -> None:
    interaction = await setup.ann.slash(
        setup.songs, "stemify", file=Upload("big.mp3", bytes(51 * 1024 * 1024), stated_bytes=1000)
    )
    assert "The limit is 50 MB" in (await setup.ann.answered(interaction)).text


async def test_wav_longer_than_its_header_is_refused(setup: BotSetup, tmp_path: Path) -> None:
    lying_header(tmp_path / "short.wav")
    _, message = await setup.ask(tmp_path / "short.wav", quality="fast")
    assert "longer than 10:00" in message.text


@pytest.mark.parametrize(
    "text",
    ["https://example.com/watch?v=dQw4w9WgXcQ", "not a link", "https://www.youtube.com/playlist?list=PL1234567890"],
)
async def test_link_to_anything_but_one_video_is_refused(setup: BotSetup, text: str) -> None:
    _, message = await setup.ask(url=text)
    assert "YouTube" in message.text and "attach the file instead" in message.text
    listed = await setup.ann.slash(setup.songs, "job list")
    assert "no jobs yet" in (await setup.ann.answered(listed)).text


async def test_sixth_song_in_an_hour_shows_when_to_retry(setup: BotSetup, tmp_path: Path) -> None:
    make_song(tmp_path / "song.mp3", seconds=1)
    for _ in range(5):
        _, message = await setup.ask(tmp_path / "song.mp3", quality="fast")
        assert "###" in message.text
    _, refused = await setup.ask(tmp_path / "song.mp3")
    assert re.search(r"<t:(\d+):R>", refused.text), refused.text
    await setup.fake.until(lambda: len(setup.fake.mentions_of(setup.ann.user)) == 5, "the five others", 60)


async def test_log_has_no_traceback(setup: BotSetup) -> None:
    """`RunningBot.stop` checks the log of every test for secrets."""
    assert "Traceback" not in setup.bot.log_path.read_text()
