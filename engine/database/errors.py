"""Errors of the database."""

from __future__ import annotations

from engine.errors import StemifyError


class StoreFailed(StemifyError, code="store_failed"):
    """The job database could not be read or written. Try again in a minute; if it happens again, tell the bot's
    operator.
    """


class StoreBusy(StoreFailed, code="store_busy", transient=True):
    """The job database is locked by another program. Try again in a minute."""


class StoreFull(StoreFailed, code="store_full"):
    """The disk of this machine is full. Ask the bot's operator to free space, then try again."""


class StoreReadOnly(StoreFailed, code="store_read_only"):
    """The bot cannot write to its data folder. Ask the bot's operator to check its permissions."""


class StoreDamaged(StoreFailed, code="store_damaged"):
    """The job database is damaged. Ask the bot's operator to restore a backup."""


class UnsupportedSchemaVersion(StoreFailed, code="store_too_new"):
    """The job database was written by a newer version of this bot. Ask the bot's operator to update."""


class AlreadyRunning(StemifyError, code="already_running"):
    """Stemify is already running with this data folder. Stop it, or choose another folder (STEMIFY_DATA_DIR)."""
