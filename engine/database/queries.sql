-- The queries of stemify.sqlite3, by name (loaded by sql.py).
-- {to_…}: the statuses from which engine.jobs.job.TRANSITIONS allows the step.

-- name: add_job
INSERT INTO jobs (
    id, status, created_at, updated_at, input_type, input_source, model, options, progress, result, error,
    estimated_duration, actual_duration, owner, scope, place, title, artist, input_size, input_duration, attempt,
    stage, error_code, retry_of, keep
) VALUES (
    :id, :status, :created_at, :updated_at, :input_type, :input_source, :model, :options, :progress, :result, :error,
    :estimated_duration, :actual_duration, :owner, :scope, :place, :title, :artist, :input_size, :input_duration,
    :attempt, :stage, :error_code, :retry_of, :keep
);

-- name: active_counts
-- Pending and running jobs, for the caps.
SELECT
    coalesce((SELECT pending + running FROM owners WHERE owner = :owner), 0) AS of_owner,
    coalesce((SELECT active FROM scopes WHERE scope = :scope), 0) AS of_scope,
    (SELECT sum(jobs) FROM counters WHERE status IN ('pending', 'processing')) AS in_all;

-- name: shortest_active
-- The estimated seconds of the shortest of these jobs.
SELECT min(estimated_duration) AS seconds FROM jobs
WHERE status IN ('pending', 'processing') AND (:owner IS NULL OR owner = :owner) AND (:scope IS NULL OR scope = :scope);

-- name: job
SELECT * FROM jobs WHERE id = :id;

-- name: jobs_of
SELECT * FROM jobs WHERE owner = :owner ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset;

-- name: active_jobs_of
SELECT * FROM jobs INDEXED BY jobs_active WHERE owner = :owner AND status IN ('pending', 'processing')
ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset;

-- name: titles_of
SELECT id, title, artist FROM jobs WHERE owner = :owner ORDER BY created_at DESC, id DESC;

-- name: ids_of
SELECT id FROM jobs WHERE owner = :owner ORDER BY created_at;

-- name: processing_jobs
SELECT * FROM jobs WHERE status = 'processing' ORDER BY created_at, id;

-- name: claim
-- The oldest job of the owner whose turn it is. One statement, so one transaction.
UPDATE jobs SET status = 'processing', attempt = 1, stage = NULL, updated_at = max(updated_at, :now)
WHERE status IN {to_processing} AND id = (
    SELECT id FROM jobs INDEXED BY jobs_waiting
    WHERE status = 'pending' AND owner = (
        SELECT owner FROM owners INDEXED BY owners_turn WHERE pending > 0 ORDER BY running, last_claim, oldest_pending, owner LIMIT 1
    )
    ORDER BY created_at, id LIMIT 1
)
RETURNING *;

-- name: next_attempt
UPDATE jobs SET attempt = attempt + 1, stage = NULL, updated_at = max(updated_at, :now)
WHERE id = :id AND attempt = :attempt AND status = 'processing'
RETURNING *;

-- name: save_progress
-- All reports, as JSON, in one statement.
UPDATE jobs SET stage = report.stage, progress = max(jobs.progress, report.progress),
    updated_at = max(jobs.updated_at, :now)
FROM (
    SELECT value ->> '$.id' AS id, value ->> '$.attempt' AS attempt, value ->> '$.stage' AS stage,
        value ->> '$.progress' AS progress
    FROM json_each(:reports)
) AS report
WHERE jobs.id = report.id AND jobs.attempt = report.attempt AND jobs.status = 'processing'
RETURNING jobs.id AS id;

-- name: set_input
UPDATE jobs SET
    title = :title, artist = :artist, input_size = :input_size, input_duration = :input_duration,
    input_source = coalesce(:input_source, input_source), updated_at = max(updated_at, :now)
WHERE id = :id AND attempt = :attempt AND status = 'processing'
RETURNING id;

-- name: complete
UPDATE jobs SET
    status = 'completed', progress = 100, stage = NULL, result = :result, actual_duration = :actual_duration,
    updated_at = max(updated_at, :now)
WHERE id = :id AND attempt = :attempt AND status IN {to_completed}
RETURNING *;

-- name: fail
UPDATE jobs SET
    status = 'failed', stage = NULL, error_code = :code, error = :message,
    actual_duration = coalesce(:actual_duration, actual_duration), updated_at = max(updated_at, :now)
WHERE id = :id AND (:attempt IS NULL OR attempt = :attempt) AND status IN {to_failed}
RETURNING *;

-- name: counts
SELECT status, jobs FROM counters;

-- name: queue_place
-- If no job ended, the jobs of an owner with r running would be claimed at levels r, r+1, …, one job a level, and lower
-- levels come first. Within a level, owners with more running jobs come first (they reached it by a real claim), then
-- the turn order decides. So the place follows from the counts of the owners, without reading the queue.
WITH this AS MATERIALIZED (
    SELECT
        owners.*,
        (
            SELECT count(*) FROM jobs AS earlier INDEXED BY jobs_waiting
            WHERE earlier.owner = jobs.owner AND earlier.status = 'pending'
                AND (earlier.created_at, earlier.id) < (jobs.created_at, jobs.id)
        ) AS own_ahead
    FROM jobs JOIN owners ON owners.owner = jobs.owner
    WHERE jobs.id = :id AND jobs.status = 'pending'
)
SELECT 1 + own_ahead + coalesce((
    SELECT sum(min(other.pending, max(0,
        this.running + own_ahead - other.running
        + ((-other.running, other.last_claim, other.oldest_pending, other.owner)
            < (-this.running, this.last_claim, this.oldest_pending, this.owner))
    )))
    FROM owners AS other INDEXED BY owners_turn WHERE other.pending > 0 AND other.owner <> this.owner
), 0) AS place
FROM this;

-- name: queue
-- Pending jobs in claim order (as in queue_place).
SELECT jobs.id, jobs.estimated_duration
FROM jobs JOIN owners ON owners.owner = jobs.owner
WHERE jobs.status = 'pending'
ORDER BY
    owners.running + row_number() OVER (PARTITION BY jobs.owner ORDER BY jobs.created_at, jobs.id),
    -owners.running, owners.last_claim, owners.oldest_pending, owners.owner
LIMIT :limit;

-- name: keep
UPDATE jobs SET keep = :keep WHERE id = :id RETURNING *;

-- name: delete_job
DELETE FROM jobs WHERE id = :id RETURNING id;

-- name: note_deletion
-- The files are deleted from `deleted_at` on.
INSERT INTO deletions (job_id, deleted_at) VALUES (:id, :now) ON CONFLICT DO NOTHING;

-- name: deletions
SELECT job_id FROM deletions WHERE deleted_at <= :now ORDER BY deleted_at LIMIT 500;

-- name: forget_deletion
DELETE FROM deletions WHERE job_id = :id;

-- name: forget_idle_owners
-- After so many other claims, the last one no longer affects the order.
DELETE FROM owners WHERE pending = 0 AND running = 0 AND last_claim < (SELECT last FROM turns) - 1000;

-- name: forget_owner
DELETE FROM owners WHERE owner = :owner AND pending = 0 AND running = 0;

-- name: over_since
SELECT * FROM jobs INDEXED BY jobs_over
WHERE status IN ('completed', 'failed') AND status = :status AND updated_at < :before ORDER BY updated_at LIMIT :limit;

-- name: summaries
SELECT id, status, attempt, updated_at, keep, error_code FROM jobs
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: remove_archived
-- Unless `keep` changed after the copy: then the job is copied again.
DELETE FROM jobs WHERE id = :id AND keep = :keep AND status IN {terminal};

-- name: speeds
SELECT * FROM speeds;

-- name: learn_speed
-- A moving average: a new measurement weighs 0.3.
INSERT INTO speeds VALUES (:model, :quality, :device, :measured)
ON CONFLICT DO UPDATE SET s_per_audio_s = 0.7 * s_per_audio_s + 0.3 * excluded.s_per_audio_s;

-- name: clear_transitions
DELETE FROM transitions;

-- name: add_transition
INSERT INTO transitions VALUES (:before, :after);

-- name: retry_statuses
SELECT status FROM jobs WHERE owner = :owner AND retry_of = :root AND status <> 'failed';

-- name: uploads_needed
SELECT id FROM jobs WHERE status IN ('pending', 'processing') AND input_type = 'file_upload';

-- name: hit
-- The test and the hit are one statement: no two processes can both take the last free slot. A hit more than a window
-- in the future was made under a wrong clock and does not count.
WITH RECURSIVE slots (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM slots WHERE n < :amount)
INSERT INTO hits (key, at, expires_at, job_id)
SELECT :key, :now, :now + :window, :job_id FROM slots
WHERE :amount + (
    SELECT count(*) FROM hits WHERE key = :key AND at > :now - :window AND at < :now + :window
) <= :limit
RETURNING id;

-- name: newest_hits
-- The newest `limit` hits in the window: how many, and when the first of them was.
SELECT count(*) AS hits, min(at) AS oldest FROM (
    SELECT at FROM hits WHERE key = :key AND at > :now - :window AND at < :now + :window
    ORDER BY at DESC LIMIT :limit
);

-- name: delete_expired_hits
DELETE FROM hits WHERE expires_at <= :now;

-- name: give_back_hits
DELETE FROM hits WHERE job_id = :id RETURNING id;

-- name: stored_bytes
SELECT coalesce(sum(input_bytes + result_bytes), 0) AS bytes FROM stored WHERE owner = :owner;

-- name: largest_stored
SELECT jobs.title, stored.input_bytes + stored.result_bytes AS bytes
FROM stored JOIN jobs ON jobs.id = stored.job_id
WHERE stored.owner = :owner AND jobs.status IN ('completed', 'failed') ORDER BY bytes DESC LIMIT 3;

-- name: forget_stored
DELETE FROM stored WHERE job_id = :id;

-- name: forget_result
DELETE FROM results WHERE job_id = :id;

-- name: forget_input
UPDATE stored SET input_bytes = 0 WHERE job_id = :id AND input_bytes > 0;

-- name: equal_results
-- The newest first: ids contain the time.
SELECT job_id FROM results
WHERE audio = :audio AND options = :options AND model_version = :model_version AND (owner = :owner OR place = :place)
ORDER BY job_id DESC LIMIT 3;

-- name: request_key
SELECT job_id, digest FROM request_keys WHERE owner = :owner AND key = :key AND expires_at > :now;

-- name: add_request_key
INSERT OR REPLACE INTO request_keys VALUES (:owner, :key, :digest, :job_id, :expires_at);

-- name: delete_expired_request_keys
DELETE FROM request_keys WHERE expires_at <= :now;

-- name: claim_job
UPDATE jobs SET status = 'processing', attempt = 1, updated_at = max(updated_at, :now)
WHERE id = :id AND status IN {to_processing};

-- name: add_stored
UPDATE stored SET result_bytes = result_bytes + :bytes WHERE job_id = :id;

-- name: block
INSERT OR REPLACE INTO blocked VALUES (:owner, :now);

-- name: unblock
DELETE FROM blocked WHERE owner = :owner RETURNING owner;

-- name: blocked
SELECT owner FROM blocked ORDER BY blocked_at, owner;
