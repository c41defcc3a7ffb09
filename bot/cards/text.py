"""What users read on cards, on their buttons, and in the answers about a job."""

from __future__ import annotations

from collections.abc import Sequence

from bot.text import counted, format_eta, join_words, ordinal
from engine.jobs.job import Stage

# Buttons.

CANCEL = "Cancel"
REFRESH = "Refresh"
RETRY = "Retry"
START_AGAIN = "Start again"
KARAOKE = "Karaoke"
NO_DRUMS = "No drums"
NO_BASS = "No bass"
MIX = "Mix…"
PLAY_IN_VOICE = "Play in voice"
MORE = "More"
DETAILS = "Details"
SEPARATE_AGAIN = "Separate again…"
TRY_MODELS = "Try models on 30 s…"
KEEP = "Keep"
DELETE_NOW = "Delete now"
DELETE_PERMANENTLY = "Delete permanently"
DELETE_EVERYTHING = "Delete everything permanently"
CANCEL_ALL = "Cancel all"
DELETE_ALL = "Delete all"
LISTEN = "Listen"
ZIP = "Zip"


def try_with(model: str) -> str:
    return f"Try with {model}"


# A waiting or running job.

STAGES: dict[Stage | None, str] = {
    None: "Starting",
    Stage.FETCHING: "Fetching the audio",
    Stage.DECODING: "Reading the audio",
    Stage.SEPARATING: "Separating",
    Stage.MEASURING: "Measuring the stems",
    Stage.ENCODING: "Writing the files",
    Stage.PUBLISHING: "Storing the files",
}
NO_WORKER = "Waiting: no worker is available. Your song is saved, and the job continues when a worker is back."
ON_CPU = "The GPU is out of memory. Continuing on the CPU, which takes longer."


def queue_place(place: int | None, eta_s: float | None) -> str:
    text = "Waiting" if place is None else "Next in the queue" if place == 1 else f"**{ordinal(place)}** in the queue"
    return text if eta_s is None else f"{text} · done in {format_eta(eta_s)}"


def percent(progress: int, bar: str, eta_s: float | None) -> str:
    text = f"**{progress} %** {bar}"
    return text if eta_s is None else f"{text} · {format_eta(eta_s)} left"


def attempt(number: int) -> str:
    return f"The last attempt failed; this is attempt {number}."


# The status of a job in a line.

WAITING = "waiting"
CHECKING = "checking"
DONE = "done"
CANCELLED = "cancelled"
FAILED = "failed"
DELETED = "deleted"
SEEMS_FAILED = "done, but the separation seems to have failed"
NO_JOBS = "You have no jobs yet. Start one with `/stemify`."


def place_status(place: int) -> str:
    return f"{ordinal(place)} in the queue"


def stage_status(stage: Stage | None, progress: int) -> str:
    return f"{STAGES[stage].lower()}, {progress} %"


# A result.

KARAOKE_STEMS = "Vocals and instrumental"
RESULT_SEEMS_FAILED = "**The separation seems to have failed.** *Details*, behind *More*, says why."
KEPT = "Kept until you delete it."


COMPARED = "Listen to the same half minute from each model, without their names. Press the letter of the best one."


def compared_models(count: int) -> str:
    return counted(count, one="{} model", other="{} models")


def stem_count(count: int) -> str:
    return counted(count, one="{} stem", other="{} stems")


def tempo(bpm: float) -> str:
    return f"{bpm:.0f} BPM"


def separated_on(day: str) -> str:
    return f"Separated on {day}."


def expiry(day: str, *, has_expired: bool) -> str:
    return f"{'Expired' if has_expired else 'Available until'} {day}"


def picture(stems: Sequence[str]) -> str:
    """Return the alternative text of the picture."""
    return f"Waveforms of {join_words(stems)}"


def separated_in(duration: str) -> str:
    return f"Separated in {duration}"


def stem_size(stem: str, size: str, *, is_silent: bool) -> str:
    return f"**{stem.capitalize()}** {size}{' (silent)' if is_silent else ''}"


# A failed job.

CANCELLED_CARD = "Cancelled."
FREE_RETRY = "Retry does not count toward your hourly limit."


def failed(reason: str) -> str:
    return f"**Separation failed.** {reason}"


def model_unavailable(model: str) -> str:
    return f"The model {model} is not available here right now."


# Other cards.

DELETED_HEADING = "Deleted"
DELETED_CARD = "The song and its stems were deleted."
NEVER_ACCEPTED_HEADING = "Please send that again"
NEVER_ACCEPTED = "I restarted before I could accept your song. Please send it again; it didn't count toward your limit."
SONG_NEVER_ACCEPTED = "I restarted before I could accept this song. Please send it again."
UNTITLED = "Your song"

# The options of a job.

OPTION_KARAOKE = "karaoke"
OPTION_NORMALIZED = "normalized"
FROM_YOUTUBE = "from YouTube"

# A batch.


def batch_heading(done: int, songs: int) -> str:
    return f"{done} of {_songs(songs)} done"


def batch_failed(user_id: int, songs: int) -> str:
    return f"<@{user_id}> none of your {songs} songs could be separated. The card above says why."


def batch_done(user_id: int, done: int, songs: int) -> str:
    if done == songs:
        return f"<@{user_id}> the stems of all {_songs(songs)} are ready."
    return f"<@{user_id}> the stems of {done} of {_songs(songs)} are ready. The card above names the others."


def _songs(count: int) -> str:
    return counted(count, one="{} song", other="{} songs")
