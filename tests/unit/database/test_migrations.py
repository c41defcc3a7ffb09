"""The schema, and upgrades of older files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.database.errors import (
    StoreFailed,
    UnsupportedSchemaVersion,
)
from engine.database.job_store import JobStore
from engine.database.migrations import MIGRATIONS, migrate, statements
from engine.database.quota import Quota
from engine.database.sql import QUERIES, read_script
from engine.database.usage import Usage
from tests.fixtures.jobs import NO_QUEUE_LIMITS, create_database, pending_job, result_of


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def test_scripts_are_split_into_complete_statements() -> None:
    schema = read_script("schema.sql")
    found = list(statements(schema))
    assert all(sqlite3.complete_statement(statement) for statement in found)
    assert sum("CREATE TRIGGER" in statement for statement in found) == read_script("schema.sql").count(
        "CREATE TRIGGER"
    )


async def test_database_has_indexes_of_data_model(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    try:
        assert (await store.database.read("PRAGMA journal_mode"))[0][0] == "wal"
        assert (await store.database.run("PRAGMA synchronous"))[0][0] == 1  # NORMAL
        assert (await store.database.run("PRAGMA foreign_keys"))[0][0] == 1
        assert (await store.database.run("PRAGMA busy_timeout"))[0][0] > 0
        indexes = {
            tuple(row["name"] for row in await store.database.read(f"PRAGMA index_info({index['name']})"))
            for index in await store.database.read("PRAGMA index_list(jobs)")
            if not index["partial"]
        }
        assert indexes >= {("id",), ("status",), ("created_at",), ("status", "created_at")}
    finally:
        await store.close()


@pytest.mark.parametrize(
    "query", ["claim", "active_jobs_of", "jobs_of", "job", "queue_place", "over_since", "shortest_active", "summaries"]
)
def test_no_frequent_query_reads_all_jobs(query: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    sql = QUERIES[query]
    names = ("now", "id", "owner", "scope", "limit", "offset", "status", "before")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(names, 1) | {"ids": "[]"}).fetchall()
    connection.close()
    assert not [step[3] for step in plan if step[3].startswith(("SCAN jobs", "SCAN earlier"))]


UPGRADE = """
-- A comment; with a semicolon.
ALTER TABLE jobs ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm';
CREATE TRIGGER moody AFTER INSERT ON jobs BEGIN
    UPDATE counters SET jobs = jobs; SELECT 1;
END;
"""


async def test_older_file_is_upgraded_and_keeps_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    job_id = await create_database(path)
    assert version_of(path) == 2
    connection = sqlite3.connect(path, isolation_level=None)
    for _ in range(2):
        assert migrate(connection, [*MIGRATIONS, UPGRADE, "CREATE TABLE fourth (x);"]) == 4
    assert connection.execute("SELECT id, mood FROM jobs").fetchall() == [(job_id, "calm")]
    connection.close()


async def test_upgrade_to_version_2_counts_the_stored_bytes(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path, migrations=[])
    for number in range(2):
        await store.add(pending_job().model_copy(update={"input_size": 600 + number}), NO_QUEUE_LIMITS)
    job = await store.claim()
    assert job is not None and job.input_size == 600
    await store.complete(job.id, 1, result_of(job), 3)
    await store.close()
    assert version_of(path) == 1
    store = await JobStore.open(path)
    assert await Usage(store.database, 0).stored_bytes(job.owner) == 4000 + 601
    assert await store.database.read("SELECT * FROM results") == [], "its audio is not known"
    quota = Quota(store.database, per_hour=5)
    await store.add(pending_job(), NO_QUEUE_LIMITS, also=quota.spend_in(job.owner, "new"))
    await store.close()


async def test_new_file_runs_all_migrations(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path, migrations=[*MIGRATIONS, "CREATE TABLE third (x);"])
    assert await store.database.read("SELECT * FROM third") == []
    await store.close()
    assert version_of(path) == 3


async def test_failed_upgrade_leaves_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    job_id = await create_database(path)
    with pytest.raises(StoreFailed):
        await JobStore.open(path, migrations=[*MIGRATIONS, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"])
    assert version_of(path) == 2
    store = await JobStore.open(path)
    assert await store.get(job_id) is not None
    assert await store.database.read("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    await store.close()


async def test_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path, migrations=[*MIGRATIONS, "CREATE TABLE later (x);"])
    await store.close()
    with pytest.raises(UnsupportedSchemaVersion, match="newer version"):
        await JobStore.open(path)


async def test_transitions_are_updated_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    await create_database(path)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM transitions")
    connection.execute("INSERT INTO transitions VALUES ('completed', 'pending')")
    connection.commit()
    connection.close()
    store = await JobStore.open(path)
    assert len(await store.database.read("SELECT * FROM transitions")) == 4
    assert await store.claim() is not None
    await store.close()
