"""Every error that a user may see.

StemifyError
├── InternalError
├── ConfigurationError          Stemify cannot start
│   └── FolderNotPrivate
├── InputRefused                no job was created
│   ├── EmptyInput
│   │   └── EmptyAudio
│   ├── TooLarge
│   ├── TooLong
│   ├── NotAudio
│   │   └── UnreadableCodec
│   ├── NoAudioTrack
│   ├── BrokenAudio
│   │   └── TruncatedAudio
│   ├── DecodingTooExpensive
│   ├── BadAttachment
│   ├── AttachmentGone
│   ├── BadOptions
│   │   └── UnknownModel
│   ├── BadLink
│   ├── LinksDisabled
│   └── TooMuchStored
├── RetryLater                  no job was created; the same request may succeed later
│   ├── QuotaExceeded
│   ├── QueueFull
│   ├── TooManyUploads
│   ├── TooManyRefusals
│   └── DiskSpaceLow
├── NotFound
├── NotAllowed
│   └── Blocked
├── InvalidState
├── IllegalTransition
├── DeviceNotFound
├── AlreadyAccepted
└── AttemptError                the attempt failed; the job is retried or ends with this error
    ├── Cancelled
    ├── ModelUnavailable
    │   └── ModelCorrupt
    ├── InvalidModelOutput
    ├── WorkerDied
    │   ├── NodeLost
    │   └── WorkerKilled
    ├── WorkerStalled
    ├── AttemptTimedOut
    ├── OutOfMemory
    ├── DiskFull
    ├── StorageFailed
    │   ├── StorageUnavailable
    │   └── StorageAccessDenied
    └── SourceFailed
        └── SourceUnreachable

More leaves: `engine.database.errors`, `engine.sources.errors` and `engine.web.errors`. Any other exception is a defect
and is shown as `internal`.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class StemifyError(Exception):
    """Something went wrong."""

    # The docstring of a class is its default message: what happened, then what the user can do.

    code: ClassVar[str] = "internal"  # stable, for programs
    transient: ClassVar[bool] = False  # whether the same attempt may succeed if it is repeated

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        """`message` is shown to the user; `detail` goes to the log only."""
        self.message = message or " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(self.message)


class InternalError(StemifyError):
    """Something went wrong on our side. Try again; if it happens again, tell the bot's operator."""


class ConfigurationError(StemifyError):
    """Stemify cannot start with its settings."""

    code = "configuration"


class FolderNotPrivate(ConfigurationError):
    """Other users of this machine can change the bot's files. Ask the bot's operator to check the log."""

    code = "folder_not_private"


# Refusals: no job was created.


class InputRefused(StemifyError):
    """This input cannot be separated."""

    code = "input_refused"


class EmptyInput(InputRefused):
    """That file is empty. Send it again."""

    code = "empty_input"


class EmptyAudio(EmptyInput):
    """That file has an audio track without a single sample. Export it again."""

    code = "empty_audio"


class TooLarge(InputRefused):
    """That file is too large."""

    code = "too_large"

    @classmethod
    def over(cls, max_bytes: int, size_bytes: int | None = None) -> TooLarge:
        """Return the error with the numbers; `size_bytes` is None if the file was cut off at the limit."""
        lead = f"That file is {size_bytes / 2**20:.1f} MB." if size_bytes else "That file is too large."
        return cls(f"{lead} The limit is {max_bytes / 2**20:.4g} MB. Send a shorter part, or the song as mp3 or m4a.")


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
    """That file is damaged: its audio cannot be decoded to the end. Export or upload it again."""

    code = "broken_audio"


class TruncatedAudio(BrokenAudio):
    """The end of that file is missing. Export or upload it again."""

    code = "truncated_audio"


class UnreadableCodec(NotAudio):
    """The codec of that file is not supported, or it is copy-protected. Send it as mp3, wav, m4a or flac."""

    code = "unreadable_codec"


class DecodingTooExpensive(InputRefused):
    """That file takes too long to decode. Export it as a normal stereo file."""

    code = "too_heavy"


class BadAttachment(InputRefused):
    """Only files attached in Discord are accepted. Attach the file to a message and try again."""

    code = "bad_attachment"


class AttachmentGone(InputRefused):
    """That attachment is no longer available: its link has expired or it was deleted. Attach the file again."""

    code = "attachment_gone"


class BadOptions(InputRefused):
    """One of the options has an invalid value."""

    code = "bad_options"


class UnknownModel(BadOptions):
    """There is no model of that name."""

    code = "unknown_model"


class BadLink(InputRefused):
    """That is not a link to one YouTube video. Paste the address of the video, or attach the file instead."""

    code = "bad_link"


class LinksDisabled(InputRefused):
    """YouTube links are disabled here. Attach the file instead."""

    code = "links_not_available"


class TooMuchStored(InputRefused):
    """Your jobs take up too much space here. Delete some of them, then try again."""

    code = "too_much_stored"


class RetryLater(StemifyError):
    """Too many requests. Try again later."""

    code = "come_back_later"

    def __init__(self, message: str | None = None, *, retry_after_s: float, detail: str | None = None) -> None:
        """`retry_after_s`: seconds until another try makes sense."""
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
    """This machine is short of disk space, so no new songs are accepted. Ask the bot's operator to free some space,
    then try again."""

    code = "short_of_room"


class NotFound(StemifyError):
    """There is no such job, or it is not yours."""

    code = "not_found"


class NotAllowed(StemifyError):
    """Only the person who submitted this job can do that."""

    code = "not_allowed"


class Blocked(NotAllowed):
    """The operator of this bot has blocked you. Ask the operator if this is a mistake."""

    code = "blocked"


class InvalidState(StemifyError):
    """That is no longer possible for this job."""

    code = "not_possible_now"


class IllegalTransition(StemifyError):
    """Illegal status change."""

    code = "illegal_transition"


class DeviceNotFound(StemifyError):
    """This machine does not have that device. Use "auto" or "cpu"."""

    code = "no_such_device"


class AlreadyAccepted(StemifyError):
    """This job was already accepted. Look it up by its id instead of submitting it again."""

    code = "already_accepted"


# Failures of an attempt: the job is retried or ends with this error.


class AttemptError(StemifyError):
    """The separation failed."""

    code = "attempt_failed"


class Cancelled(AttemptError):
    """Cancelled."""

    code = "cancelled"


class ModelUnavailable(AttemptError):
    """The weights of this model are not on this machine and could not be downloaded. Choose another model, or ask the
    bot's operator to download them."""

    code = "model_unavailable"


class ModelCorrupt(ModelUnavailable):
    """The file of this model is damaged. Ask the bot's operator to delete it and download it again."""

    code = "model_corrupt"


class InvalidModelOutput(AttemptError):
    """The model produced invalid output for this song. Try another model."""

    code = "soundless_model"


class WorkerDied(AttemptError):
    """The worker process died while it was separating this song."""

    code = "worker_died"
    transient = True


class NodeLost(WorkerDied):
    """The machine that was separating this song was lost."""

    code = "worker_lost"


class WorkerKilled(WorkerDied):
    """The worker process was killed while it was separating this song, probably because the machine ran out of memory.
    Try a shorter song, or the quality "fast"."""

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
    """The disk of this machine is full. Ask the bot's operator to free some space, then try again."""

    code = "disk_full"


def is_disk_full(error: OSError) -> bool:
    """Return True if `error` means that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class StorageFailed(AttemptError):
    """The stems could not be stored."""

    code = "storage_failed"
    transient = True


class StorageUnavailable(StorageFailed):
    """The file storage does not respond. Try again in a few minutes."""

    code = "storage_away"


class StorageAccessDenied(StorageFailed):
    """This bot has no access to its file storage. Ask the bot's operator to check the credentials."""

    code = "storage_refused"
    transient = False


class SourceFailed(AttemptError):
    """The audio could not be downloaded. Attach the file instead."""

    code = "source_failed"
    retry_after_s: float | None = None  # seconds, if known

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class SourceUnreachable(SourceFailed):
    """The audio cannot be downloaded at the moment. Try again later, or attach the file instead."""

    code = "source_unreachable"
    transient = True


def error_types() -> dict[str, type[StemifyError]]:
    """Return code → class for every error imported so far."""
    found: dict[str, type[StemifyError]] = {}
    waiting: list[type[StemifyError]] = [StemifyError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found


def error_from_code(code: str, message: str) -> StemifyError:
    """Rebuild an error that crossed a process boundary.

    An unknown code becomes `InternalError`: its message is not ours, so users do not see it."""
    kind = error_types().get(code)
    if kind is None or kind is StemifyError:
        return InternalError(detail=f"{code}: {message}")
    return with_message(kind, message)


def with_message(kind: type[StemifyError], message: str) -> StemifyError:
    """Return an error of `kind` with another message."""
    if issubclass(kind, RetryLater):
        return kind(message, retry_after_s=0.0)
    return kind(message)
