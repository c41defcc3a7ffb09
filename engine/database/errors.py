"""Why the list of jobs cannot be read or written: leaves of the one tree."""

from __future__ import annotations

from engine.errors import StemifyError


class StoreFailed(StemifyError):
    """The list of jobs could not be read or written. Please try again in a minute; if it happens again, tell whoever
    runs this bot."""

    code = "store_failed"


class StoreBusy(StoreFailed):
    """The list of jobs is being used by another program. Please try again in a minute."""

    code = "store_busy"
    transient = True


class StoreFull(StoreFailed):
    """The disk of this machine is full. Ask whoever runs this bot to make room, then try again."""

    code = "store_full"


class StoreReadOnly(StoreFailed):
    """The data folder of this bot cannot be written. Ask whoever runs this bot to look at its permissions."""

    code = "store_read_only"


class StoreDamaged(StoreFailed):
    """The list of jobs on this machine is damaged. Ask whoever runs this bot to restore a backup."""

    code = "store_damaged"


class UnsupportedSchemaVersion(StoreFailed):
    """The list of jobs was written by a newer version of this bot. Ask whoever runs it to update."""

    code = "store_too_new"


class AlreadyRunning(StemifyError):
    """Stemify works with this data folder already. Stop it there, or give this one a folder of its own
    (STEMIFY_DATA_DIR)."""

    code = "already_running"
