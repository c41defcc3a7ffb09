"""What users read about the commands, in Discord's list of them and in the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.text import counted, escape

# `/stemify`, and the message menus.

STEMIFY = "Stemify"
WITH_OPTIONS = "Stemify with options"
STEMIFY_DESCRIPTION = "Split a song into vocals, drums, bass and the rest"
URL = "A YouTube link, instead of a file; or several links"
MODEL = "The separation model; the list says how long each takes here"
QUALITY = "Better takes longer; the list says how long here"
ONLY_KARAOKE = "Only vocals and the instrumental"
PRIVATE = "Only you see the progress and the stems; after 15 minutes they come as a direct message"
NORMALIZE = "Bring the loudest stem to full level, with the same gain on all stems"
ONE_SONG = "Give me one song: attach a `file` or paste a YouTube `url`, not both."
NO_AUDIO = "There is no audio in that message. Use this on a message with an audio file or a YouTube link."


def file(most_mb: float, most_min: float) -> str:
    return f"An audio file: mp3, wav, m4a, flac, ogg, opus or webm, up to {most_mb:.4g} MB and {most_min:.4g} minutes"


def output_format(default: str) -> str:
    return f"The file format of the stems (default: {default})"


def format_choice(name: str, note: str) -> str:
    return f"{name} — {note}"


# `/job`.

JOB_DESCRIPTION = "Show, cancel and delete your jobs"
STATUS_DESCRIPTION = "Show a job's progress"
LIST_DESCRIPTION = "List your jobs, newest first"
CANCEL_DESCRIPTION = "Cancel a queued or running job"
DELETE_DESCRIPTION = "Delete a job with its stems, or all your jobs"
YOUR_JOB = "One of your jobs"
YOUR_JOB_OR_EVERYTHING = "One of your jobs, or everything"
EVERYTHING = "everything"  # in place of a job
EVERYTHING_CHOICE = "Everything: all my jobs and stems"
NEWER, OLDER = "Newer", "Older"
ALREADY_FINISHED = "That job has already finished. Use `/job delete` to delete its stems."
FINISHED_MEANWHILE = "That job had already finished."
NOTHING_TO_DELETE = "You have no jobs to delete."
ASK_DELETE_BATCH = "Delete **all songs of this message** and their stems? This cannot be undone."
ASK_DELETE_EVERYTHING = (
    "Delete **all your jobs** in every server, with their songs and stems? This includes queued, running and kept "
    "jobs, and cannot be undone."
)
DELETED = "Deleted"


def cancelled(title: str) -> str:
    return f"Cancelled **{escape(title)}**."


def ask_delete(title: str) -> str:
    return f"Delete **{escape(title)}** and its stems? This cannot be undone."


def deleted_everything(jobs: int) -> str:
    return f"Deleted {counted(jobs, one='{} job', other='{} jobs')} with all songs and stems"


def deletion(what: str, left: Sequence[str]) -> str:
    """Return the answer to a deletion; `left`: links to messages that the bot cannot delete."""
    if not left:
        return f"{what}."
    messages = counted(len(left), one="this message", other="these messages")
    return f"{what}. I cannot delete {messages} from here; a moderator can: {' '.join(left[:10])}"


# Mixes.


def posted_mix(url: str) -> str:
    return f"Your mix: {url}"


# `/play`.

PLAY_DESCRIPTION = "Play a song in your voice channel, with switches for its stems"
PRIVATE_SONG = "A private song"
NOT_A_MEMBER = "I can only play in the voice channels of servers that I am a member of."
NO_VOICE = (
    "This bot cannot play in voice channels: its extra `voice` is not installed. Ask its operator to run "
    "`.venv/bin/pip install -c constraints.txt '.[voice]'` and to restart it."
)


# A comparison.


def separate_whole(model: str) -> str:
    return f"Separate the whole song with {model}"[:80]


def chosen_model(label: str, models: Mapping[str, str]) -> str:
    names = "\n".join(f"{each}: {name}" for each, name in models.items())
    return f"You chose {label}, which is **{models[label]}**.\n{names}"
