"""Every error that a user may see.

StemifyError
├── InternalError, NotFound, InvalidState, IllegalTransition, DeviceNotFound, AlreadyAccepted
├── NotAllowed ── Blocked
├── ConfigurationError ── FolderNotPrivate  # Stemify cannot start
├── InputRefused  # no job was created
│   ├── EmptyInput ── EmptyAudio
│   ├── NotAudio ── UnreadableCodec
│   ├── BrokenAudio ── TruncatedAudio
│   ├── BadOptions ── UnknownModel
│   ├── TooLarge, TooLong, NoAudioTrack, DecodingTooExpensive, TooMuchStored
│   └── BadAttachment, AttachmentGone, BadLink, LinksDisabled
├── RetryLater  # no job was created; the same request may succeed later
│   └── QuotaExceeded, MixesExceeded, QueueFull, TooManyUploads, TooManyRefusals, DiskSpaceLow
└── AttemptError  # the job is retried or ends with this error
    ├── ModelUnavailable ── ModelCorrupt
    ├── WorkerDied ── NodeLost, WorkerKilled
    ├── StorageFailed ── StorageUnavailable, StorageAccessDenied
    ├── SourceFailed ── SourceUnreachable
    └── Cancelled, InvalidModelOutput, WorkerStalled, AttemptTimedOut, OutOfMemory, DiskFull

More leaves: the modules `errors` of `engine.database`, `engine.service`, `engine.sources` and `engine.web`. Any other
exception is a defect and is shown as `internal`.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class StemifyError(Exception):
    """Something went wrong."""

    # The docstring of a class is its default message: what happened, then what the user can do.

    code: ClassVar[str] = "internal"  # stable, for programs
    transient: ClassVar[bool] = False  # whether the same attempt may succeed if it is repeated

    def __init_subclass__(cls, *, code: str | None = None, transient: bool | None = None) -> None:
        if code is not None:
            cls.code = code
        if transient is not None:
            cls.transient = transient

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        """`message` is shown to the user; `detail` goes to the log only."""
        self.message = message or " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(self.message)


class InternalError(StemifyError):
    """Something went wrong on our side. Try again; if it happens again, tell the bot's operator."""


class ConfigurationError(StemifyError, code="configuration"):
    """Stemify cannot start with its settings."""


class FolderNotPrivate(ConfigurationError, code="folder_not_private"):
    """Other users of this machine can change the bot's files. Ask the bot's operator to check the log."""


# Refusals: no job was created.


class InputRefused(StemifyError, code="input_refused"):
    """This input cannot be separated."""


class EmptyInput(InputRefused, code="empty_input"):
    """That file is empty. Send it again."""


class EmptyAudio(EmptyInput, code="empty_audio"):
    """That file has an audio track without a single sample. Export it again."""


class TooLarge(InputRefused, code="too_large"):
    """That file is too large."""

    @classmethod
    def over(cls, max_bytes: int, size_bytes: int | None = None, filename: str = "") -> TooLarge:
        """Return the error with the numbers; `size_bytes` is None if the file was cut off at the limit."""
        lead = f"That file is {size_bytes / 2**20:.1f} MB." if size_bytes else "That file is too large."
        is_flac_small = filename.lower().endswith((".wav", ".aiff")) and 0 < (size_bytes or 0) <= max_bytes * 4 / 3
        advice = "As FLAC or MP3 it fits." if is_flac_small else "Send it as an MP3, at most 2.3 MB a minute."
        return cls(f"{lead} The limit is {max_bytes / 2**20:.4g} MB. {advice}")


class TooLong(InputRefused, code="too_long"):
    """That track is too long."""


class NotAudio(InputRefused, code="not_audio"):
    """That is not an audio file that I can read. Send an mp3, wav, m4a, flac, ogg, opus or webm file."""


class NoAudioTrack(InputRefused, code="no_audio_track"):
    """That file has no sound in it. Send a file with an audio track."""


class BrokenAudio(InputRefused, code="broken_audio"):
    """That file is damaged: its audio cannot be decoded to the end. Export or upload it again."""


class TruncatedAudio(BrokenAudio, code="truncated_audio"):
    """The end of that file is missing. Export or upload it again."""


class UnreadableCodec(NotAudio, code="unreadable_codec"):
    """The codec of that file is not supported, or it is copy-protected. Send it as mp3, wav, m4a or flac."""


class DecodingTooExpensive(InputRefused, code="too_heavy"):
    """That file takes too long to decode. Export it as a normal stereo file."""


class BadAttachment(InputRefused, code="bad_attachment"):
    """Only files attached in Discord are accepted. Attach the file to a message and try again."""


class AttachmentGone(InputRefused, code="attachment_gone"):
    """That attachment is no longer available: its link has expired or it was deleted. Attach the file again."""


class BadOptions(InputRefused, code="bad_options"):
    """One of the options has an invalid value."""


class UnknownModel(BadOptions, code="unknown_model"):
    """There is no model of that name."""


class BadLink(InputRefused, code="bad_link"):
    """That is not a link to one YouTube video. Paste the address of the video, or attach the file instead."""


class LinksDisabled(InputRefused, code="links_not_available"):
    """YouTube links are disabled here. Attach the file instead."""


class TooMuchStored(InputRefused, code="too_much_stored"):
    """Your jobs take up too much space here. Delete some of them, then try again."""


class RetryLater(StemifyError, code="come_back_later"):
    """Too many requests. Try again later."""

    def __init__(self, message: str | None = None, *, retry_after_s: float, detail: str | None = None) -> None:
        """`retry_after_s`: seconds until another try makes sense."""
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class QuotaExceeded(RetryLater, code="quota_exceeded"):
    """You have used up your jobs for this hour."""


class MixesExceeded(RetryLater, code="mixes_exceeded"):
    """You have used up your mixes for this hour."""


class QueueFull(RetryLater, code="queue_full"):
    """The queue is full. Wait until one of the queued jobs is done."""


class TooManyUploads(RetryLater, code="too_many_uploads"):
    """Too many of your songs are being uploaded or checked. Try again when one of them has been accepted."""


class TooManyRefusals(RetryLater, code="too_many_refusals"):
    """Too many of your files took very long to check and were refused."""


class DiskSpaceLow(RetryLater, code="short_of_room"):
    """This machine is short of disk space, so no new songs are accepted. Ask the bot's operator to free some space,
    then try again."""


class NotFound(StemifyError, code="not_found"):
    """There is no such job, or it is not yours."""


class NotAllowed(StemifyError, code="not_allowed"):
    """Only the person who submitted this job can do that."""


class Blocked(NotAllowed, code="blocked"):
    """The operator of this bot has blocked you. Ask the operator if this is a mistake."""


class InvalidState(StemifyError, code="not_possible_now"):
    """That is no longer possible for this job."""


class IllegalTransition(StemifyError, code="illegal_transition"):
    """Illegal status change."""


class DeviceNotFound(StemifyError, code="no_such_device"):
    """This machine does not have that device. Use "auto" or "cpu"."""


class AlreadyAccepted(StemifyError, code="already_accepted"):
    """This job was already accepted. Look it up by its id instead of submitting it again."""


# Failures of an attempt: the job is retried or ends with this error.


class AttemptError(StemifyError, code="attempt_failed"):
    """The separation failed."""


class Cancelled(AttemptError, code="cancelled"):
    """Cancelled."""


class ModelUnavailable(AttemptError, code="model_unavailable"):
    """The weights of this model are not on this machine and could not be downloaded. Choose another model, or ask the
    bot's operator to download them."""


class ModelCorrupt(ModelUnavailable, code="model_corrupt"):
    """The file of this model is damaged. Ask the bot's operator to delete it and download it again."""


class InvalidModelOutput(AttemptError, code="soundless_model"):
    """The model produced invalid output for this song. Try another model."""


class WorkerDied(AttemptError, code="worker_died", transient=True):
    """The worker process died while it was separating this song."""


class NodeLost(WorkerDied, code="worker_lost"):
    """The machine that was separating this song was lost."""


class WorkerKilled(WorkerDied, code="worker_killed"):
    """The worker process was killed while it was separating this song, probably because the machine ran out of memory.
    Try a shorter song, or the quality "fast"."""


class WorkerStalled(AttemptError, code="worker_stalled", transient=True):
    """The worker stopped making progress on this song."""


class AttemptTimedOut(AttemptError, code="timed_out"):
    """The separation took too long. Try a shorter song, a faster model, or the quality "fast"."""


class OutOfMemory(AttemptError, code="out_of_memory", transient=True):
    """The machine ran out of memory. Try a shorter song, or the quality "fast"."""


class DiskFull(AttemptError, code="disk_full"):
    """The disk of this machine is full. Ask the bot's operator to free some space, then try again."""


def is_disk_full(error: OSError) -> bool:
    """Return True if `error` means that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class StorageFailed(AttemptError, code="storage_failed", transient=True):
    """The stems could not be stored."""


class StorageUnavailable(StorageFailed, code="storage_away"):
    """The file storage does not respond. Try again in a few minutes."""


class StorageAccessDenied(StorageFailed, code="storage_refused", transient=False):
    """This bot has no access to its file storage. Ask the bot's operator to check the credentials."""


class SourceFailed(AttemptError, code="source_failed"):
    """The audio could not be downloaded; attach the file instead."""

    retry_after_s: float | None = None  # seconds, if known

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class SourceUnreachable(SourceFailed, code="source_unreachable", transient=True):
    """The audio cannot be downloaded at the moment. Try again later, or attach the file instead."""


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
    """Rebuild an error that crossed a process boundary; one with an unknown code becomes `InternalError`."""
    kind = error_types().get(code)
    if kind is None or kind is StemifyError:
        return InternalError(detail=f"{code}: {message}")
    return with_message(kind, message)


def with_message(kind: type[StemifyError], message: str) -> StemifyError:
    """Return an error of `kind` with another message."""
    if issubclass(kind, RetryLater):
        return kind(message, retry_after_s=0.0)
    return kind(message)
