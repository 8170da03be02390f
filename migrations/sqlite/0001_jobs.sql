-- The database of jobs, embedded.
--
-- Times are microseconds since 1970 in UTC. Unsigned 64-bit numbers are kept as the signed number of the same bits.
-- Paths are bytes, as the file system has them. Ids are UUIDs of version 7 as text, so they sort by age.
-- What is only ever read whole (redirects, results, outputs) is JSON; what is searched for has a column of its own.

-- The running daemons. AUTOINCREMENT: an id is never given twice, or a job of a dead node could find a new owner
-- that knows nothing of it.
CREATE TABLE node (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    label      TEXT    NOT NULL,
    site       TEXT    NOT NULL,
    beats      INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL
) STRICT;

-- The jobs that something is left to do for. It stays small, because every transition writes to it.
CREATE TABLE job (
    id              TEXT    NOT NULL PRIMARY KEY,
    site            TEXT    NOT NULL,
    feed            TEXT    NOT NULL,
    path            BLOB    NOT NULL,
    name            TEXT    NOT NULL,   -- the file's name for people: what is no UTF-8 is replaced
    inode           INTEGER NOT NULL,
    size_bytes      INTEGER NOT NULL,
    mtime_ns        INTEGER NOT NULL,
    node            INTEGER REFERENCES node (id),   -- the owner; null: free for adoption
    want            TEXT,               -- an operator's wish, written outside the revision
    phase           TEXT    NOT NULL,
    generation      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    finished_at     INTEGER,
    deadline_at     INTEGER NOT NULL,
    held_code       TEXT,
    held_message    TEXT,
    error_class     TEXT,
    error_code      TEXT,
    error_message   TEXT,
    input_blob      TEXT,
    input_bytes     INTEGER,
    sha256          TEXT,
    remote_id       TEXT,
    redirects       TEXT,
    results         TEXT,
    outputs         TEXT,
    cancel_reason   TEXT,
    ended_at        TEXT,               -- the phase that a bad end was met in
    source_settled  INTEGER NOT NULL DEFAULT 0,
    source_moved_to BLOB,
    duplicate_of    TEXT,

    CHECK (phase IN ('queued', 'uploaded', 'submitted', 'running', 'cancelling', 'scored', 'delivered',
                     'succeeded', 'failed', 'cancelled', 'skipped')),
    CHECK (generation >= 1 AND attempts >= 0),
    CHECK ((held_code IS NULL) = (held_message IS NULL)),
    CHECK ((error_class IS NULL) = (error_code IS NULL) AND (error_class IS NULL) = (error_message IS NULL)),
    -- A bad end, and only that, names the phase it was met in; each kind brings what belongs to it.
    CHECK ((phase IN ('failed', 'cancelled', 'skipped')) = (ended_at IS NOT NULL)),
    CHECK (ended_at IN ('queued', 'uploaded', 'submitted', 'running', 'cancelling', 'scored', 'delivered')),
    CHECK (source_settled = 0 OR (source_settled = 1 AND ended_at IS NOT NULL)),
    CHECK ((phase = 'skipped') = (duplicate_of IS NOT NULL)),
    CHECK ((phase IN ('succeeded', 'failed', 'cancelled', 'skipped')) = (finished_at IS NOT NULL)),
    -- What is known at a phase is there from it on, and not before.
    CHECK ((coalesce(ended_at, phase) = 'queued') = (input_blob IS NULL)),
    CHECK ((input_blob IS NULL) = (sha256 IS NULL) AND (input_blob IS NULL) = (input_bytes IS NULL)),
    CHECK ((coalesce(ended_at, phase) IN ('queued', 'uploaded')) = (remote_id IS NULL)),
    CHECK ((remote_id IS NULL) = (redirects IS NULL)),
    CHECK ((coalesce(ended_at, phase) = 'cancelling') = (cancel_reason IS NOT NULL)),
    CHECK ((coalesce(ended_at, phase) IN ('scored', 'delivered', 'succeeded')) = (results IS NOT NULL)),
    CHECK ((coalesce(ended_at, phase) IN ('delivered', 'succeeded')) = (outputs IS NOT NULL))
) STRICT;

-- Adoption reads the jobs of an owner, oldest first. No index may name a phase or a due time, neither in its columns
-- nor in a predicate: every transition would have to keep it up.
CREATE INDEX job_owner ON job (node, id);

-- The jobs that are done: the same columns, and `node` is the last owner, which may be long gone.
CREATE TABLE job_history (
    id              TEXT    NOT NULL PRIMARY KEY,
    site            TEXT    NOT NULL,
    feed            TEXT    NOT NULL,
    path            BLOB    NOT NULL,
    name            TEXT    NOT NULL,
    inode           INTEGER NOT NULL,
    size_bytes      INTEGER NOT NULL,
    mtime_ns        INTEGER NOT NULL,
    node            INTEGER,
    want            TEXT,
    phase           TEXT    NOT NULL CHECK (phase IN ('succeeded', 'failed', 'cancelled', 'skipped')),
    generation      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    finished_at     INTEGER NOT NULL,
    deadline_at     INTEGER NOT NULL,
    held_code       TEXT,
    held_message    TEXT,
    error_class     TEXT,
    error_code      TEXT,
    error_message   TEXT,
    input_blob      TEXT,
    input_bytes     INTEGER,
    sha256          TEXT,
    remote_id       TEXT,
    redirects       TEXT,
    results         TEXT,
    outputs         TEXT,
    cancel_reason   TEXT,
    ended_at        TEXT,
    source_settled  INTEGER NOT NULL,
    source_moved_to BLOB,
    duplicate_of    TEXT
) STRICT;

-- Lists go newest first: by the primary key, or by this when they are of one feed.
CREATE INDEX job_history_feed ON job_history (feed, id);

-- What became of each job, a row a write. It outlives the move into the history.
CREATE TABLE job_event (
    job_id     TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    node       INTEGER NOT NULL,        -- who wrote it
    generation INTEGER NOT NULL,
    from_phase TEXT    NOT NULL,
    to_phase   TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    detail     TEXT,
    PRIMARY KEY (job_id, revision)
) STRICT, WITHOUT ROWID;

-- What was ever taken in. Kept when the job is done, so that a file that stays in its folder is not scored again.
CREATE TABLE arrival (
    site       TEXT    NOT NULL,
    feed       TEXT    NOT NULL,
    path       BLOB    NOT NULL,
    inode      INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns   INTEGER NOT NULL,
    job_id     TEXT    NOT NULL,
    PRIMARY KEY (site, feed, path, inode, size_bytes, mtime_ns)
) STRICT, WITHOUT ROWID;

-- File names that live jobs are going to use.
CREATE TABLE reservation (
    path   BLOB NOT NULL PRIMARY KEY,
    job_id TEXT NOT NULL REFERENCES job (id),
    slot   TEXT NOT NULL,
    UNIQUE (job_id, slot)
) STRICT, WITHOUT ROWID;
