"""Brings a database file to the newest version, which `PRAGMA user_version` holds.

Version 1 is schema.sql; `MIGRATIONS[0]` leads to 2, and so on. A script is run whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from engine.database.errors import UnsupportedSchemaVersion
from engine.database.sql import QUERIES, read_script
from engine.jobs.job import TRANSITIONS

MIGRATIONS: tuple[str, ...] = (read_script("version_2.sql"),)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Run what is missing, in order; returns the version. `connection` is in autocommit mode.

    Raises `UnsupportedSchemaVersion` for a file of a later version, and `sqlite3.Error` (the file is unchanged)."""
    scripts = (read_script("schema.sql"), *migrations)
    for version in range(_version(connection), len(scripts)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == version:  # else another process was faster
                for statement in statements(scripts[version]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if _version(connection) > len(scripts):
        raise UnsupportedSchemaVersion(detail=f"version {_version(connection)}, this program knows {len(scripts)}")
    _copy_transitions(connection)
    return _version(connection)


def statements(script: str) -> Iterator[str]:
    """The statements of a script, triggers with their inner semicolons whole (`executescript` would commit between)."""
    waiting = ""
    for line in script.splitlines(keepends=True):
        waiting += line
        if sqlite3.complete_statement(waiting):
            yield waiting
            waiting = ""
    if waiting.strip():
        yield waiting


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _copy_transitions(connection: sqlite3.Connection) -> None:
    """The triggers obey the table of `engine.jobs.job`, whatever it said when the file was made."""
    wanted = {(str(before), str(after)) for before, following in TRANSITIONS.items() for after in following}
    if set(connection.execute("SELECT before, after FROM transitions").fetchall()) == wanted:
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(QUERIES["clear_transitions"])
    for before, after in sorted(wanted):
        connection.execute(QUERIES["add_transition"], {"before": before, "after": after})
    connection.execute("COMMIT")
