"""Migrate a database file to the newest version; `PRAGMA user_version` holds its version.

Version 1 is schema.sql, `MIGRATIONS[0]` leads to version 2, and so on. Each script runs completely or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from engine.database.errors import UnsupportedSchemaVersion
from engine.database.sql import QUERIES, read_script
from engine.jobs.job import TRANSITIONS

MIGRATIONS: tuple[str, ...] = (read_script("version_2.sql"),)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Run the missing scripts in order, and return the version. `connection` is in autocommit mode.

    Raises `UnsupportedSchemaVersion` for a file of a later version, and `sqlite3.Error` (the file is unchanged).
    """
    scripts = (read_script("schema.sql"), *migrations)
    for version in range(_version(connection), len(scripts)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == version:  # another process may have been faster
                for statement in statements(scripts[version]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if _version(connection) > len(scripts):
        raise UnsupportedSchemaVersion(detail=f"version {_version(connection)}, this program supports {len(scripts)}")
    _copy_transitions(connection)
    return _version(connection)


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script (`executescript` would commit in between)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        yield pending


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _copy_transitions(connection: sqlite3.Connection) -> None:
    """Copy the current `engine.jobs.job.TRANSITIONS` into the table that the triggers read."""
    wanted = {(str(before), str(after)) for before, following in TRANSITIONS.items() for after in following}
    if set(connection.execute("SELECT before, after FROM transitions").fetchall()) == wanted:
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(QUERIES["clear_transitions"])
    for before, after in sorted(wanted):
        connection.execute(QUERIES["add_transition"], {"before": before, "after": after})
    connection.execute("COMMIT")
