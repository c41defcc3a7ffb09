-- Version 1 of stemify.sqlite3. Later versions are the scripts in migrations.py; this file does not change again.
--
-- The steps of a job and their queries. The legal steps are engine.jobs.job.TRANSITIONS, copied into `transitions` at
-- every start, so that triggers check them for the program and at a sqlite3 prompt alike:
--
--     insert        →  pending      add        accepted; counted in counters, owners.pending, scopes.active
--     pending       →  processing   claim      attempt 1; owners.pending-1, running+1, last_claim := next turn
--     processing    →  processing   next_attempt, save_progress, set_input    fenced by attempt
--     processing    →  completed    complete   result stored, fenced by attempt; owners.running-1
--     pending       →  failed       fail       cancelled while it waited, or cannot be started
--     processing    →  failed       fail       error, cancel, or the last attempt is lost
--     completed or failed           archive, delete    the row leaves; only `keep` may still change before
--
-- Times are microseconds since 1970, UTC.

CREATE TABLE transitions (
    before TEXT NOT NULL,
    after  TEXT NOT NULL,
    PRIMARY KEY (before, after)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    id                 TEXT PRIMARY KEY NOT NULL,
    status             TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,  -- of a finished job: when it ended
    input_type         TEXT NOT NULL CHECK (input_type IN ('file_upload', 'youtube_url')),
    input_source       TEXT NOT NULL CHECK (input_source <> ''),
    model              TEXT NOT NULL,
    options            TEXT NOT NULL,     -- StemSeparationOptions as JSON
    progress           INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
    result             TEXT,              -- JobResult as JSON
    error              TEXT,
    estimated_duration INTEGER NOT NULL CHECK (estimated_duration >= 0),
    actual_duration    INTEGER CHECK (actual_duration >= 0),
    owner              TEXT NOT NULL CHECK (owner <> ''),
    scope              TEXT,
    place              TEXT,
    title              TEXT NOT NULL,
    artist             TEXT,
    input_size         INTEGER NOT NULL CHECK (input_size >= 0),
    input_duration     REAL,
    attempt            INTEGER NOT NULL CHECK (attempt >= 0),
    stage              TEXT,
    error_code         TEXT,
    retry_of           TEXT,
    keep               INTEGER NOT NULL CHECK (keep IN (0, 1)),
    CHECK ((result IS NOT NULL) = (status = 'completed')),
    CHECK ((error IS NOT NULL) = (status = 'failed'))
) STRICT;

-- The data model's indexes (the primary key is the first).
CREATE INDEX jobs_status ON jobs (status);
CREATE INDEX jobs_created_at ON jobs (created_at);
CREATE INDEX jobs_status_created_at ON jobs (status, created_at);
-- For an owner's list, their active jobs, their queue, and the jobs to archive. The queries name these (INDEXED BY): the
-- planner would read all jobs of the owner.
CREATE INDEX jobs_owner ON jobs (owner, created_at, id);
CREATE INDEX jobs_active ON jobs (owner, created_at, id) WHERE status IN ('pending', 'processing');
CREATE INDEX jobs_waiting ON jobs (owner, created_at, id) WHERE status = 'pending';
CREATE INDEX jobs_over ON jobs (status, updated_at) WHERE status IN ('completed', 'failed');

-- Maintained by the triggers below, so that no query counts all jobs.
CREATE TABLE counters (
    status TEXT PRIMARY KEY NOT NULL,
    jobs   INTEGER NOT NULL CHECK (jobs >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('pending', 0), ('processing', 0), ('completed', 0), ('failed', 0);

-- The turn order: fewest running jobs, then longest since the last claim, then the oldest pending job. `last_claim` is a
-- turn number, not a time, so that clock jumps do not change the order; 0 is never.
CREATE TABLE owners (
    owner          TEXT PRIMARY KEY NOT NULL,
    pending        INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
    running        INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    last_claim     INTEGER NOT NULL DEFAULT 0,
    oldest_pending INTEGER  -- created_at of the next one to be claimed
) STRICT, WITHOUT ROWID;
CREATE INDEX owners_turn ON owners (running, last_claim, oldest_pending, owner, pending) WHERE pending > 0;

CREATE TABLE turns (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO turns VALUES (1, 0);

CREATE TABLE scopes (
    scope  TEXT PRIMARY KEY NOT NULL,
    active INTEGER NOT NULL CHECK (active >= 0)
) STRICT, WITHOUT ROWID;

-- Jobs whose row was deleted and whose files must still be (written in the transaction that deletes the row).
CREATE TABLE deletions (
    job_id     TEXT PRIMARY KEY NOT NULL,
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Learned: seconds of processing per second of audio.
CREATE TABLE speeds (
    model          TEXT NOT NULL,
    quality        TEXT NOT NULL,
    device         TEXT NOT NULL,
    s_per_audio_s  REAL NOT NULL CHECK (s_per_audio_s > 0),
    PRIMARY KEY (model, quality, device)
) STRICT, WITHOUT ROWID;

-- Rate limits (quota.py): one row a hit, deleted after its window.
CREATE TABLE hits (
    id         INTEGER PRIMARY KEY,
    key        TEXT NOT NULL,
    at         INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX hits_key ON hits (key, at);
CREATE INDEX hits_expires_at ON hits (expires_at);

CREATE TRIGGER jobs_begin_pending BEFORE INSERT ON jobs WHEN NEW.status <> 'pending'
BEGIN
    SELECT RAISE(ABORT, 'illegal transition: a job begins as pending');
END;

CREATE TRIGGER jobs_move_forward BEFORE UPDATE OF status ON jobs
WHEN NEW.status <> OLD.status
    AND NOT EXISTS (SELECT 1 FROM transitions WHERE before = OLD.status AND after = NEW.status)
BEGIN
    SELECT RAISE(ABORT, 'illegal transition');
END;

-- A job in a final status is immutable, except for `keep`.
CREATE TRIGGER jobs_end_for_good BEFORE UPDATE OF
    id, status, created_at, updated_at, input_type, input_source, model, options, progress, result, error,
    estimated_duration, actual_duration, owner, scope, place, title, artist, input_size, input_duration, attempt,
    stage, error_code, retry_of
ON jobs WHEN NOT EXISTS (SELECT 1 FROM transitions WHERE before = OLD.status)
BEGIN
    SELECT RAISE(ABORT, 'illegal transition: the job is over');
END;

-- The counters below depend on these columns.
CREATE TRIGGER jobs_stay_with_owner BEFORE UPDATE OF id, owner, scope, created_at ON jobs
BEGIN
    SELECT RAISE(ABORT, 'a job does not change its id, owner, scope or age');
END;

CREATE TRIGGER jobs_count_insert AFTER INSERT ON jobs
BEGIN
    UPDATE counters SET jobs = jobs + 1 WHERE status = NEW.status;
    INSERT INTO owners (owner, pending, running, oldest_pending)
        VALUES (
            NEW.owner, NEW.status = 'pending', NEW.status = 'processing',
            iif(NEW.status = 'pending', NEW.created_at, NULL)
        )
        ON CONFLICT (owner) DO UPDATE SET
            pending = pending + excluded.pending,
            running = running + excluded.running,
            oldest_pending = min(
                coalesce(oldest_pending, excluded.oldest_pending), coalesce(excluded.oldest_pending, oldest_pending)
            );
    INSERT INTO scopes (scope, active)
        SELECT NEW.scope, 1 WHERE NEW.scope IS NOT NULL AND NEW.status IN ('pending', 'processing')
        ON CONFLICT (scope) DO UPDATE SET active = active + 1;
END;

CREATE TRIGGER jobs_count_claim AFTER UPDATE OF status ON jobs
WHEN OLD.status = 'pending' AND NEW.status = 'processing'
BEGIN
    UPDATE counters SET jobs = jobs - 1 WHERE status = 'pending';
    UPDATE counters SET jobs = jobs + 1 WHERE status = 'processing';
    UPDATE turns SET last = last + 1;
    UPDATE owners SET
        pending = pending - 1,
        running = running + 1,
        last_claim = (SELECT last FROM turns),
        oldest_pending = (
            SELECT min(created_at) FROM jobs INDEXED BY jobs_waiting WHERE owner = NEW.owner AND status = 'pending'
        )
    WHERE owner = NEW.owner;
END;

CREATE TRIGGER jobs_count_end AFTER UPDATE OF status ON jobs
WHEN OLD.status IN ('pending', 'processing') AND NEW.status IN ('completed', 'failed')
BEGIN
    UPDATE counters SET jobs = jobs - 1 WHERE status = OLD.status;
    UPDATE counters SET jobs = jobs + 1 WHERE status = NEW.status;
    UPDATE owners SET
        pending = pending - (OLD.status = 'pending'),
        running = running - (OLD.status = 'processing'),
        oldest_pending = (
            SELECT min(created_at) FROM jobs INDEXED BY jobs_waiting WHERE owner = NEW.owner AND status = 'pending'
        )
    WHERE owner = NEW.owner;
    UPDATE scopes SET active = active - 1 WHERE scope = NEW.scope;
    DELETE FROM scopes WHERE scope = NEW.scope AND active = 0;
END;

CREATE TRIGGER jobs_count_delete AFTER DELETE ON jobs
BEGIN
    UPDATE counters SET jobs = jobs - 1 WHERE status = OLD.status;
    UPDATE owners SET
        pending = pending - (OLD.status = 'pending'),
        running = running - (OLD.status = 'processing'),
        oldest_pending = (
            SELECT min(created_at) FROM jobs INDEXED BY jobs_waiting WHERE owner = OLD.owner AND status = 'pending'
        )
    WHERE owner = OLD.owner AND OLD.status IN ('pending', 'processing');
    UPDATE scopes SET active = active - 1 WHERE scope = OLD.scope AND OLD.status IN ('pending', 'processing');
    DELETE FROM scopes WHERE scope = OLD.scope AND active = 0;
END;
