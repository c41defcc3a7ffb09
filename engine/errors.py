"""The one tree of errors.

Every error that may reach a person has a `code` (stable, for programs), a sentence for the person (with the next
step in it) and `transient`: whether the same attempt may succeed if it is made again. Anything else that is raised
is a defect and is shown as `internal`.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class StemifyError(Exception):
    """Something went wrong on our side."""

    # A subclass's docstring is its default sentence for the user.

    code: ClassVar[str] = "internal"
    transient: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        """`message` is shown to the user; `detail` goes to the log only."""
        self.message = message or " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(self.message)


class InternalError(StemifyError):
    """Something went wrong on our side. Please try again; if it happens again, tell whoever runs this bot."""


class ConfigurationError(StemifyError):
    """Stemify cannot start with its settings."""

    code = "configuration"


class FolderNotPrivate(ConfigurationError):
    """Other users of this machine can change the bot's files. Ask the bot's operator to check the log."""

    code = "folder_not_private"


# Refusals: nothing was accepted, nothing is lost.


class InputRefused(StemifyError):
    """This input cannot be separated."""

    code = "input_refused"


class EmptyInput(InputRefused):
    """That file is empty. Please send it again."""

    code = "empty_input"


class EmptyAudio(EmptyInput):
    """There is not one sample of sound in that file. Please export it again."""

    code = "empty_audio"


class TooLarge(InputRefused):
    """That file is too large."""

    code = "too_large"

    @classmethod
    def over(cls, max_bytes: int, size_bytes: int | None = None) -> TooLarge:
        """In numbers; `size_bytes` is None for a file that was cut off at the limit, so that nobody knows its size."""
        lead = f"That file is {size_bytes / 2**20:.1f} MB." if size_bytes else "That file is too large."
        return cls(f"{lead} The limit is {max_bytes / 2**20:.4g} MB: send a shorter part, or the same as mp3 or m4a.")


class TooLong(InputRefused):
    """That track is too long."""

    code = "too_long"


class NotAudio(InputRefused):
    """That is not an audio file that I can read. Send an mp3, wav, m4a, flac, ogg, opus or webm file."""

    code = "not_audio"


class NoAudioTrack(InputRefused):
    """That file has no sound in it. Send a file with an audio track."""

    code = "no_audio_track"


class BrokenAudio(InputRefused):
    """That file is damaged, its audio cannot be decoded to the end. Please export or upload it again."""

    code = "broken_audio"


class TruncatedAudio(BrokenAudio):
    """The end of that file is missing. Please export or upload it again."""

    code = "truncated_audio"


class UnreadableCodec(NotAudio):
    """The sound in that file is in a form that I cannot decode, or it is copy-protected. Send it as mp3, wav, m4a
    or flac."""

    code = "unreadable_codec"


class DecodingTooExpensive(InputRefused):
    """That file takes far more work to decode than a song does. Export it as an ordinary stereo file and send that."""

    code = "too_heavy"


class BadAttachment(InputRefused):
    """That file does not lie where attachments lie, so it is not fetched. Attach it to a message and try again."""

    code = "bad_attachment"


class AttachmentGone(InputRefused):
    """That attachment cannot be fetched any more: its link has expired, or it was deleted. Please attach the file
    again."""

    code = "attachment_gone"


class BadOptions(InputRefused):
    """One of the options has a value that does not exist."""

    code = "bad_options"


class UnknownModel(BadOptions):
    """There is no model of that name."""

    code = "unknown_model"


class BadLink(InputRefused):
    """That is not a link to one YouTube video. Paste the video's address, or attach the file instead."""

    code = "bad_link"


class LinksDisabled(InputRefused):
    """YouTube links cannot be fetched here. Please attach the file instead."""

    code = "links_not_available"


class TooMuchStored(InputRefused):
    """Your jobs take up too much space here. Delete some of them, then try again."""

    code = "too_much_stored"


class RetryLater(StemifyError):
    """Too much at once. Please try again later."""

    code = "come_back_later"

    def __init__(self, message: str | None = None, *, retry_after_s: float, detail: str | None = None) -> None:
        """`retry_after_s`: seconds until it is worth trying again."""
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class QuotaExceeded(RetryLater):
    """You have used up your jobs for this hour."""

    code = "quota_exceeded"


class QueueFull(RetryLater):
    """The queue is full. Wait until one of the queued jobs is done."""

    code = "queue_full"


class TooManyUploads(RetryLater):
    """Too many of your songs are being uploaded or checked. Try again when one of them has been accepted."""

    code = "too_many_uploads"


class TooManyRefusals(RetryLater):
    """Too many of your files took very long to check and were refused."""

    code = "too_many_refusals"


class DiskSpaceLow(RetryLater):
    """This machine is short of disk space and takes no new songs until there is room again. Ask whoever runs this bot
    to make some, then try again."""

    code = "short_of_room"


class NotFound(StemifyError):
    """There is no such job, or it is not yours."""

    code = "not_found"


class NotAllowed(StemifyError):
    """Only the person who asked for this job can do that."""

    code = "not_allowed"


class Blocked(NotAllowed):
    """The operator of this bot has blocked you. Ask the operator if this is a mistake."""

    code = "blocked"


class InvalidState(StemifyError):
    """That cannot be done with this job any more."""

    code = "not_possible_now"


class IllegalTransition(StemifyError):
    """A job cannot go that way."""

    code = "illegal_transition"


class DeviceNotFound(StemifyError):
    """There is no such device on this machine. Use "auto" or "cpu"."""

    code = "no_such_device"


class AlreadyAccepted(StemifyError):
    """This job was already accepted. Look at it with its id instead of sending it again."""

    code = "already_accepted"


# Failures of an attempt: the job exists, and ends with the sentence or is tried again.


class AttemptError(StemifyError):
    """The separation failed."""

    code = "attempt_failed"


class Cancelled(AttemptError):
    """Cancelled."""

    code = "cancelled"


class ModelUnavailable(AttemptError):
    """The model's weights are not on this machine and could not be fetched. Choose another model, or ask whoever
    runs this bot to fetch them."""

    code = "model_unavailable"


class ModelCorrupt(ModelUnavailable):
    """The model's file on this machine is damaged. Ask whoever runs this bot to delete and fetch it again."""

    code = "model_corrupt"


class InvalidModelOutput(AttemptError):
    """The model gave numbers for this song that are no sound. Try another model."""

    code = "soundless_model"


class WorkerDied(AttemptError):
    """The worker process died while it was separating this song."""

    code = "worker_died"
    transient = True


class NodeLost(WorkerDied):
    """The machine that was separating this song went away."""

    code = "worker_lost"


class WorkerKilled(WorkerDied):
    """The worker process was killed while it was separating this song, most likely because the machine ran out of
    memory. Try a shorter song, or the quality "fast"."""

    code = "worker_killed"


class WorkerStalled(AttemptError):
    """The worker stopped making progress on this song."""

    code = "worker_stalled"
    transient = True


class AttemptTimedOut(AttemptError):
    """The separation took too long. Try a shorter song, a faster model, or the quality "fast"."""

    code = "timed_out"


class OutOfMemory(AttemptError):
    """The machine ran out of memory. Try a shorter song, or the quality "fast"."""

    code = "out_of_memory"
    transient = True


class DiskFull(AttemptError):
    """The disk of this machine is full. Ask whoever runs this bot to make room, then try again."""

    code = "disk_full"


def is_disk_full(error: OSError) -> bool:
    """Return True if `error` means that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class StorageFailed(AttemptError):
    """The stems could not be stored."""

    code = "storage_failed"
    transient = True


class StorageUnavailable(StorageFailed):
    """The place where songs and stems are kept does not answer. Please try again in some minutes."""

    code = "storage_away"


class StorageAccessDenied(StorageFailed):
    """The place where songs and stems are kept does not let this bot in. Ask whoever runs it to look at its keys."""

    code = "storage_refused"
    transient = False


class SourceFailed(AttemptError):
    """The audio could not be fetched. Please attach the file instead."""

    code = "source_failed"
    retry_after_s: float | None = None  # where it is known: seconds until it is worth trying again

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class SourceUnreachable(SourceFailed):
    """The audio could not be reached just now. Try again in a while, or attach the file instead."""

    code = "source_unreachable"
    transient = True


def error_types() -> dict[str, type[StemifyError]]:
    """Code → class, over the whole tree as it is imported now."""
    found: dict[str, type[StemifyError]] = {}
    waiting: list[type[StemifyError]] = [StemifyError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found


def error_from_code(code: str, message: str) -> StemifyError:
    """Rebuild an error that crossed a process boundary. An unknown code becomes `InternalError` (no message is
    believed that we did not write)."""
    kind = error_types().get(code)
    if kind is None or kind is StemifyError:
        return InternalError(detail=f"{code}: {message}")
    return with_message(kind, message)


def with_message(kind: type[StemifyError], message: str) -> StemifyError:
    """An error of `kind` with another sentence, whatever its own constructor asks for."""
    if issubclass(kind, RetryLater):
        return kind(message, retry_after_s=0.0)
    return kind(message)
