"""The text of cards and messages, and the escaping of untrusted names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from textwrap import wrap

import pytest

from bot import text as bot_text
from bot.announcement.announcer import nonce
from bot.announcement.text import announcement
from bot.cards.batch_card import SongState, batch_announcement, batch_card
from bot.cards.card import without_link_buttons
from bot.cards.job_card import job_card
from bot.cards.job_lines import autocomplete_label, job_line, job_list
from bot.cards.more_card import details_text, more_buttons
from bot.commands.job_list import PAGE_LENGTH
from bot.submission.batch import MAX_NAMED
from bot.submission.songs import MAX_SONGS
from bot.submission.text import too_many
from engine.errors import NotFound
from engine.jobs.comparison import Comparison
from engine.jobs.entity import new_job_id
from engine.jobs.job import FileLink, InputType, Job, JobStatus, JobView, Stage
from engine.jobs.options import STEMS, OutputFormat, StemSeparationOptions
from engine.jobs.results import (
    Candidate,
    ComparisonResult,
    JobResult,
    Music,
    QualityMetrics,
    StemFiles,
    StemInfo,
    TrustCard,
)
from tests.fixtures.card_text import card_text

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MIB = 1024 * 1024
ID = "019ab5f0-0000-7000-8000-000000000001"


def stem(
    name: str, size_bytes: int, silence_share: float = 0.0, level_db: float | None = None, peak_db: float | None = None
) -> StemInfo:
    return StemInfo(
        filename=f"Blue Hour - {name} - htdemucs.mp3",
        path=f"jobs/{ID}/a1/{name}.mp3",
        size=size_bytes,
        duration=225.0,
        format=OutputFormat.MP3,
        sample_rate=44100,
        silence_share=silence_share,
        level_db=level_db,
        peak_db=peak_db,
    )


def view(status: JobStatus = JobStatus.PENDING, **changes: object) -> JobView:
    shown = {name: changes.pop(name) for name in list(changes) if name in JobView.model_fields}
    values: dict[str, object] = {
        "id": ID, "status": status, "created_at": NOW, "updated_at": NOW, "input_type": InputType.FILE_UPLOAD,
        "input_source": "jobs/x/input.mp3", "model": "htdemucs", "options": StemSeparationOptions(),
        "estimated_duration": 60, "owner": "discord:7", "title": "Blue Hour", "artist": "The Lamps",
        "input_duration": 225.0,
    }  # fmt: skip
    return JobView.model_validate({"job": Job.model_validate(values | changes), **shown})


def result(**changes: object) -> JobResult:
    stems = {"vocals": stem("vocals", 9_000_000, 0.25, -21.04, -3.5),
             "drums": stem("drums", 8_600_000, 0.0, -17.5, 0.0), "bass": stem("bass", 512_000, 0.0, -19.96, -9.1),
             "other": stem("other", 40_000, silence_share=1.0)}  # fmt: skip
    values: dict[str, object] = {
        "job_id": ID, "output_dir": f"jobs/{ID}/a1", "stems": StemFiles(**stems), "processing_time": 72,
        "model_used": "htdemucs", "file_size": 18_152_000, "waveform_path": f"jobs/{ID}/a1/waveform.png",
        "trust": TrustCard(residual_db=-41.23, gain_db=-1.24, clipped_samples=0, seed=7, shifts=1, overlap=0.25,
                           segment_s=7.8, segments=39, device="cpu"),
    }  # fmt: skip
    return JobResult.model_validate(values | changes)


def done(**changes: object) -> JobView:
    links = tuple(
        FileLink(name=name, filename=f"{name}.mp3", url=f"https://stems.example/files/{name}?e=1&s=2", size=1)
        for name in ("vocals", "drums", "bass", "other", "zip")
    )
    values: dict[str, object] = {
        "result": result(), "progress": 100, "attempt": 1, "actual_duration": 72, "links": links,
        "page_url": "https://stems.example/jobs/1?e=1&s=2", "links_expire_at": NOW + timedelta(days=90),
    }  # fmt: skip
    return view(JobStatus.COMPLETED, **values | changes)


def text(shown: JobView) -> str:
    return card_text(job_card(shown, now=NOW))


def test_low_memory_is_shown_live_and_on_result() -> None:
    running = {"stage": Stage.SEPARATING, "progress": 40, "attempt": 1}
    slower = "The GPU is out of memory. Continuing on the CPU, which takes longer."
    assert slower in text(view(JobStatus.PROCESSING, on_cpu=True, **running))
    assert slower not in text(view(JobStatus.PROCESSING, **running))
    trust = result().trust
    assert trust is not None
    notes = ("The batch was halved to save memory.", "The GPU had too little memory, so the CPU took over.")
    shown = details_text(done(result=result(trust=trust.model_copy(update={"notes": notes}))).job)
    assert all(note in shown for note in notes)


def test_card_names_failed_separation() -> None:
    trust = result().trust
    assert trust is not None
    failed = trust.model_copy(update={"notes": ("The separation failed: the stems are almost alike.",)})
    shown = done(result=result(trust=failed))
    assert "seems to have failed" in text(shown)
    assert "done, but the separation seems to have failed" in batch_card([SongState("a.mp3", shown)]).below


def test_card_of_the_longest_batch_fits_into_a_message() -> None:
    refused = SongState("*" * 200, refusal="x" * 500)
    linked = SongState("", done(title="*" * 200), url="https://discord.com/channels/" + "/".join(["1" * 19] * 3))
    left_out = SongState("*" * 200, refusal=too_many(MAX_SONGS))
    for song in (refused, linked):
        assert len(batch_card([song] * MAX_SONGS + [left_out] * MAX_NAMED).below) < 3900
    assert batch_announcement([refused, linked], 7) == (
        "<@7> the stems of 1 of 2 songs are ready. The card above names the others."
    )
    assert "failed" not in text(done())


def test_queued_job_shows_position_and_eta() -> None:
    assert text(view(queue_place=3, eta_s=170.0)) == (
        "### Blue Hour — The Lamps\n"
        "**3rd** in the queue · done in about 3 min\n"
        "-# htdemucs · balanced · mp3\n"
        "[Cancel]"
    )  # fmt: skip
    assert "Next in the queue" in text(view(queue_place=1))
    assert "**12th** in the queue" in text(view(queue_place=12))


def test_running_job_shows_stage_progress_and_eta() -> None:
    running = view(JobStatus.PROCESSING, stage=Stage.SEPARATING, progress=58, attempt=1, eta_s=41.0)
    assert text(running) == (
        "### Blue Hour — The Lamps\n"
        "Separating\n"
        "**58 %** ▰▰▰▰▰▰▰▱▱▱▱▱ · about 40 s left\n"
        "-# htdemucs · balanced · mp3\n"
        "[Cancel]"
    )
    again = view(JobStatus.PROCESSING, stage=Stage.DECODING, progress=58, attempt=2)
    assert "this is attempt 2" in text(again)


MUSIC = Music(tempo_bpm=123.6, tempo_confidence=0.9, key="F# minor", camelot="11A", key_confidence=0.8)


def test_completed_job_shows_few_lines() -> None:
    day = int((NOW + timedelta(days=90)).timestamp())
    assert text(done(result=result(music=MUSIC))) == (
        "### Blue Hour — The Lamps\n"
        "4 stems · 3:45 · F# minor · 124 BPM\n"
        "[waveform.png: Waveforms of vocals, drums, bass and other]\n"
        "[Karaoke] [No drums] [No bass] [Mix…]\n"
        "[Listen↗] [Zip↗] [Play in voice] [More]\n"
        f"Available until <t:{day}:D>"
    )
    assert "4 stems · 3:45\n" in text(done()), "unknown facts are left out"
    repeated = text(done(result=result(separated_at=NOW - timedelta(days=3))))
    separated = int((NOW - timedelta(days=3)).timestamp())
    assert repeated.endswith(f"\nSeparated on <t:{separated}:D>. Available until <t:{day}:D>.")
    two = StemFiles(vocals=stem("vocals", 1), instrumental=stem("instrumental", 1))
    karaoke = text(done(result=result(stems=two)))
    assert "Vocals and instrumental · 3:45\n" in karaoke and "[Karaoke]" not in karaoke


@pytest.mark.parametrize("title", ["Blue Hour", "A " + "very long title " * 8], ids=["short", "long"])
def test_card_fits_on_a_phone(title: str) -> None:
    six = StemFiles(**{name: stem(name, 9_000_000) for name in STEMS})
    shown = text(done(result=result(music=MUSIC, stems=six), title=title, artist="The Lamps and Their Friends"))
    shown = re.sub("<t:.*>", "21 February 2027", shown.replace("### ", "")).replace("[waveform", "[").replace("↗", "")
    picture = next(line for line in shown.splitlines() if ".png" in line)
    lines = [wrapped for line in shown.replace(picture, "[picture]").splitlines() for wrapped in wrap(line, 46)]
    assert len(lines) <= 9, "\n".join(lines)


def test_details_have_all_measurements() -> None:
    scored = result(
        music=MUSIC,
        quality_metrics=QualityMetrics(
            overall_score=0.62, vocal_isolation=0.71, drum_separation=0.5, artifact_reduction=0.66, low_confidence=True,
            advice="Try the quality best.", method="estimate v1",
        ),
    )  # fmt: skip
    assert details_text(done(result=scored).job) == (
        "**Blue Hour — The Lamps**\n"
        "Separated in 1 min 12 s\n"
        "**Vocals** 8.6 MB · **Drums** 8.2 MB · **Bass** 500 KB · **Other** 39 KB (silent)\n"
        "Vocals: -21.0 dBFS, peak -3.5 dBFS, silent for 25% of the song · Drums: -17.5 dBFS, peak 0.0 dBFS"
        " · Bass: -20.0 dBFS, peak -9.1 dBFS\n"
        "Music: 123.6 BPM, F# minor (11A)\n"
        "In no stem: -41.2 dB of the mix · common gain: -1.24 dB, 0 clipped samples\n"
        "Plan: 39 segments of 7.8 s, overlap 0.25, shifts 1, seed 7\n"
        "Quality: fair 62%, uncertain because the song is short, unvalidated"
        " (vocals fair 71%, drums fair 50%, 66% free of artefacts)\n"
        "Advice: Try the quality best.\n"
        "htdemucs · balanced · mp3 · cpu"
    )
    many = result(trust=scored.trust.model_copy(update={"notes": ("x" * 500,) * 9})) if scored.trust else scored
    assert len(details_text(done(result=many).job)) <= 2000
    with pytest.raises(NotFound):
        details_text(view().job)


def test_kept_job_offers_no_keep() -> None:
    assert "Kept until you delete it." in text(done(keep=True))
    for view, offered in ((done(), True), (done(keep=True), False)):
        buttons = more_buttons(view, NOW, is_owner=True, may_delete=True, has_song=True)
        assert ("keep" in [spec.action for spec in buttons]) is offered


def test_song_that_is_gone_is_not_offered_again() -> None:
    for has_song in (True, False):
        buttons = more_buttons(done(), NOW, is_owner=True, may_delete=True, has_song=has_song)
        assert ("again" in [spec.action for spec in buttons]) is has_song


def test_card_of_a_comparison_names_no_stems() -> None:
    options = StemSeparationOptions.from_user(comparison=Comparison(models=("mini", "htdemucs")))
    files = {"A": "mini", "B": "htdemucs"}
    candidates = tuple(
        Candidate(label=label, model=model, stems=StemFiles(vocals=stem("vocals", 9))) for label, model in files.items()
    )
    compared = ComparisonResult(start_s=12, duration_s=30, candidates=candidates)
    shown = done(
        options=options, links=(), result=result(stems=StemFiles(), trust=None, waveform_path=None, comparison=compared)
    )
    assert "Press the letter of the best one" in text(shown) and "2 models · balanced" in text(shown)
    assert "mini" not in text(shown) and [spec.action for spec in job_card(shown, now=NOW).mixes] == [
        "choose_a",
        "choose_b",
    ]
    assert "mini" not in details_text(shown.job) and "2 models" in job_line(shown, None)


def test_failed_job_shows_reason_and_free_retry() -> None:
    failed = view(JobStatus.FAILED, error="The worker process died on this song. It was tried 3 times.",
                  error_code="worker_died", attempt=3)  # fmt: skip
    assert text(failed) == (
        "### Blue Hour — The Lamps\n"
        "**Separation failed.** The worker process died on this song. It was tried 3 times.\n"
        "-# Retry does not count toward your hourly limit.\n"
        "-# htdemucs · balanced · mp3\n"
        "[Retry]"
    )
    retried = job_card(failed, now=NOW, retried=True)
    assert retried.buttons == ()
    cancelled = text(view(JobStatus.FAILED, error="Cancelled.", error_code="cancelled"))
    assert cancelled.splitlines()[1:] == ["Cancelled.", "-# htdemucs · balanced · mp3"]


@pytest.mark.parametrize(
    "title",
    ["@everyone", "<@123> hi", "**bold** _it_ `code` ||spoiler||", "[free](https://evil.example)", "# big\n> quote",
     "a\u202egnp.exe", "\x00\x07", "https://evil.example/x", "\u200b"],
)  # fmt: skip
def test_untrusted_title_is_escaped(title: str) -> None:
    named = view(title=title, artist=None)
    for message in (text(named), announcement(named, 7, shown=False), job_line(named, None)):
        rest = message.replace("<@7>", "")
        assert "\n# " not in rest and "\n> " not in rest and "\u202e" not in rest and "\x00" not in rest
        bare = rest.replace("\\\\", "")
        for mark in ("@e", "<@", "](h", "||s", "`c", "s:/", "_i"):
            assert mark not in bare.replace("\\" + mark[0], ""), message
    assert bot_text.escape("\x00") == "audio"


def test_urls_refused_by_discord_move_into_text() -> None:
    card = without_link_buttons(job_card(done(), now=NOW))
    assert card.links == ()
    assert card.below.endswith(" · [Zip](<https://stems.example/files/zip?e=1&s=2>)")


def test_announcement_names_large_stems_with_links() -> None:
    view = done()
    assert announcement(view, 7) == "<@7> your stems of **Blue Hour** are ready."
    assert announcement(view, 7, left_out=["vocals", "drums"], limit_bytes=10 * MIB) == (
        "<@7> your stems of **Blue Hour** are ready. [Vocals](<https://stems.example/files/vocals?e=1&s=2>) and "
        "[Drums](<https://stems.example/files/drums?e=1&s=2>) are too large to attach here (10 MB at most)."
    )
    assert announcement(view, 7, bit_rate=192_000) == (
        "<@7> your stems of **Blue Hour** are ready. Attached at 192 kbit/s; full quality by the links on the card."
    )
    long = tuple(
        FileLink(name=name, filename="x", url="https://x.example/" + "x" * 900) for name in ("vocals", "drums")
    )
    text = announcement(done(links=long), 7, left_out=["vocals", "drums"], limit_bytes=MIB)
    assert text.endswith("Vocals and Drums are too large to attach here (1 MB at most): use the links on the card.")


def test_page_of_jobs_fits_into_message() -> None:
    url = f"https://discord.com/channels/{10**19}/{10**19}/{10**19}"
    line = job_line(view(title="*" * 200, id=new_job_id()), url)
    assert len(job_list([line] * PAGE_LENGTH)) < 4000
    assert job_list([]) == "You have no jobs yet. Start one with `/stemify`."
    assert len(autocomplete_label(view(title="y" * 300))) <= 100


def test_nonce_fits_and_differs_between_parts() -> None:
    assert len({nonce(ID, part) for part in (0, 1, "p")}) == 3
    assert all(len(nonce(new_job_id(), part)) <= 25 for part in (0, 9, "p"))
