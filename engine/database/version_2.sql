-- Version 2: blocked owners, the stored bytes of each job, results that answer the same request again, idempotency keys,
-- and the jobs that hits of rate limits belong to.

CREATE TABLE blocked (
    owner      TEXT PRIMARY KEY NOT NULL,  -- "discord:<user or server id>", "ip:<address or network>"
    blocked_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stored (
    job_id       TEXT PRIMARY KEY NOT NULL,
    owner        TEXT NOT NULL,
    input_bytes  INTEGER NOT NULL CHECK (input_bytes >= 0),
    result_bytes INTEGER NOT NULL DEFAULT 0 CHECK (result_bytes >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX stored_owner ON stored (owner, input_bytes, result_bytes);

INSERT INTO stored
    SELECT
        id, owner, iif(status = 'completed', 0, input_size),
        iif(status = 'completed', coalesce(result ->> '$.file_size', 0), 0)
    FROM jobs WHERE error_code IS NOT 'cancelled';

CREATE TRIGGER stored_insert AFTER INSERT ON jobs
BEGIN
    INSERT OR REPLACE INTO stored (job_id, owner, input_bytes) VALUES (NEW.id, NEW.owner, NEW.input_size);
END;

CREATE TRIGGER stored_input AFTER UPDATE OF input_size ON jobs
BEGIN
    UPDATE stored SET input_bytes = NEW.input_size WHERE job_id = NEW.id;
END;

CREATE TRIGGER stored_completed AFTER UPDATE OF status ON jobs WHEN NEW.status = 'completed'
BEGIN
    UPDATE stored SET result_bytes = coalesce(NEW.result ->> '$.file_size', 0) WHERE job_id = NEW.id;
END;

CREATE TRIGGER stored_cancelled AFTER UPDATE OF status ON jobs WHEN NEW.error_code = 'cancelled'
BEGIN
    DELETE FROM stored WHERE job_id = NEW.id;
END;

-- Completed jobs whose files are still there. Unlike their rows in `jobs`, they are not archived.
CREATE TABLE results (
    job_id        TEXT PRIMARY KEY NOT NULL,
    owner         TEXT NOT NULL,
    place         TEXT,
    audio         TEXT NOT NULL,  -- address of the video, or hash of the decoded samples
    options       TEXT NOT NULL,
    model_version TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX results_audio ON results (audio);

CREATE TRIGGER results_completed AFTER UPDATE OF status ON jobs
WHEN NEW.status = 'completed' AND NEW.result ->> '$.audio_hash' IS NOT NULL
    AND NEW.result ->> '$.model_version' IS NOT NULL
BEGIN
    INSERT OR REPLACE INTO results VALUES (
        NEW.id, NEW.owner, NEW.place,
        iif(NEW.input_type = 'youtube_url', NEW.input_source, NEW.result ->> '$.audio_hash'),
        NEW.options, NEW.result ->> '$.model_version'
    );
END;

-- Idempotency keys of the API.
CREATE TABLE request_keys (
    owner      TEXT NOT NULL,
    key        TEXT NOT NULL,
    digest     TEXT NOT NULL,  -- of the request's body
    job_id     TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_keys_job ON request_keys (job_id);
CREATE INDEX request_keys_expires_at ON request_keys (expires_at);

CREATE TRIGGER job_deleted AFTER INSERT ON deletions
BEGIN
    DELETE FROM request_keys WHERE job_id = NEW.job_id;
    DELETE FROM stored WHERE job_id = NEW.job_id;
    DELETE FROM results WHERE job_id = NEW.job_id;
END;

ALTER TABLE hits ADD COLUMN job_id TEXT;  -- which a failed job gives back; null: no job
CREATE INDEX hits_job ON hits (job_id) WHERE job_id IS NOT NULL;
