-- Version 2: blocked owners, and the stored bytes of each job.

CREATE TABLE blocked (
    owner      TEXT PRIMARY KEY NOT NULL,  -- "discord:<user or server id>", "ip:<address or network>"
    blocked_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stored (
    job_id TEXT PRIMARY KEY NOT NULL,
    owner  TEXT NOT NULL,
    bytes  INTEGER NOT NULL CHECK (bytes >= 0)  -- of the input; of the stems once completed
) STRICT, WITHOUT ROWID;
CREATE INDEX stored_owner ON stored (owner, bytes);

INSERT INTO stored
    SELECT id, owner, iif(status = 'completed', coalesce(result ->> '$.file_size', 0), input_size)
    FROM jobs WHERE error_code IS NOT 'cancelled';

CREATE TRIGGER stored_insert AFTER INSERT ON jobs
BEGIN
    INSERT OR REPLACE INTO stored VALUES (NEW.id, NEW.owner, NEW.input_size);
END;

CREATE TRIGGER stored_input AFTER UPDATE OF input_size ON jobs
BEGIN
    UPDATE stored SET bytes = NEW.input_size WHERE job_id = NEW.id;
END;

CREATE TRIGGER stored_completed AFTER UPDATE OF status ON jobs WHEN NEW.status = 'completed'
BEGIN
    UPDATE stored SET bytes = coalesce(NEW.result ->> '$.file_size', 0) WHERE job_id = NEW.id;
END;

CREATE TRIGGER stored_cancelled AFTER UPDATE OF status ON jobs WHEN NEW.error_code = 'cancelled'
BEGIN
    DELETE FROM stored WHERE job_id = NEW.id;
END;

CREATE TRIGGER stored_deleted AFTER INSERT ON deletions
BEGIN
    DELETE FROM stored WHERE job_id = NEW.job_id;
END;
