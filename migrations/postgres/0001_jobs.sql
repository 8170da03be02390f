-- The database of jobs, for one node or several. All of it lives in the schema `scoreline`.
--
-- Unsigned 64-bit numbers are kept as the signed number of the same bits. Paths are bytes, as the file system has them.
-- Ids are UUIDs of version 7, so they sort by age. Lists (redirects, results, outputs) are JSON as it was written:
-- `json`, since `jsonb` refuses the character NUL, which a service may send. In texts it is replaced by U+FFFD.

-- One row. A node remembers in its state folder which ids it had, and of which store.
CREATE TABLE store (
    id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO store DEFAULT VALUES;
COMMENT ON TABLE store IS 'This database''s identity: one row, made with the schema';

-- An id is never given twice, or a job of a dead node could find a new owner that knows nothing of it.
CREATE TABLE node (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    label      text        NOT NULL,
    site       text        NOT NULL,
    beats      bigint      NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE node IS 'The running daemons, and those that ended without giving their jobs back';
COMMENT ON COLUMN node.label IS 'For people: [node] name, by default the host''s name';
COMMENT ON COLUMN node.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN node.beats IS 'Counted on by the node while it lives; others look whether it moves';

-- Every transition writes to it, so it stays small: a job that is done leaves it. The free space in each page is for the
-- next version of a row beside the last one (heap-only tuples), which needs no index entry as long as no index names a
-- column that transitions change, neither in its columns nor in a predicate: never a phase, never a due time. It is much
-- because rows grow to more than three times their first length: of 10,000 updates on the way of 2,000 jobs, 98 % were
-- heap-only at 20, 84 % at 50 and 75 % at 70, and the table took no more room for it.
CREATE TABLE job (
    id              uuid        NOT NULL PRIMARY KEY,
    site            text        NOT NULL,
    feed            text        NOT NULL,
    path            bytea       NOT NULL,
    name            text        NOT NULL COLLATE "C",
    inode           bigint      NOT NULL,
    size_bytes      bigint      NOT NULL,
    mtime_ns        bigint      NOT NULL,
    node            bigint      REFERENCES node (id),
    want            text,
    phase           text        NOT NULL,
    generation      bigint      NOT NULL,
    revision        bigint      NOT NULL,
    attempts        bigint      NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    deadline_at     timestamptz NOT NULL,
    held_code       text,
    held_message    text,
    error_class     text,
    error_code      text,
    error_message   text,
    input_blob      text,
    input_bytes     bigint,
    sha256          text,
    remote_id       text,
    redirects       json,
    results         json,
    outputs         json,
    cancel_reason   text,
    ended_at        text,
    source_settled  boolean     NOT NULL DEFAULT false,
    source_moved_to bytea,
    duplicate_of    uuid,

    CHECK (phase IN ('queued', 'uploaded', 'submitted', 'running', 'cancelling', 'scored', 'delivered',
                     'succeeded', 'failed', 'cancelled', 'skipped')),
    CHECK (generation >= 1 AND attempts >= 0),
    CHECK ((held_code IS NULL) = (held_message IS NULL)),
    CHECK ((error_class IS NULL) = (error_code IS NULL) AND (error_class IS NULL) = (error_message IS NULL)),
    -- A bad end, and only that, names the phase it was met in; each kind brings what belongs to it.
    CHECK ((phase IN ('failed', 'cancelled', 'skipped')) = (ended_at IS NOT NULL)),
    CHECK (ended_at IN ('queued', 'uploaded', 'submitted', 'running', 'cancelling', 'scored', 'delivered')),
    CHECK (NOT source_settled OR ended_at IS NOT NULL),
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
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);

-- Adoption reads the jobs of an owner.
CREATE INDEX job_owner ON job (node, id);

COMMENT ON TABLE job IS 'The jobs that something is left to do for; those that are done are in job_history';
COMMENT ON COLUMN job.id IS 'A UUID of version 7: later jobs have greater ones';
COMMENT ON COLUMN job.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN job.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN job.path IS 'Where in the drop folder the file was, relative to it, as the bytes of the file system';
COMMENT ON COLUMN job.name IS 'The file''s name for people: what is no UTF-8 is replaced';
COMMENT ON COLUMN job.inode IS 'The file system''s number of the file (unsigned: the signed number of the same bits)';
COMMENT ON COLUMN job.size_bytes IS 'The file''s length when it was accepted (unsigned: the signed number of the same bits)';
COMMENT ON COLUMN job.mtime_ns IS 'When the file was last written, in nanoseconds since 1970';
COMMENT ON COLUMN job.node IS 'The owner; null: free for adoption; in job_history the last owner, which may be long gone';
COMMENT ON COLUMN job.want IS 'An operator''s wish, written outside the revision';
COMMENT ON COLUMN job.phase IS 'Where the job durably stands';
COMMENT ON COLUMN job.generation IS 'The remote run that this is, from 1';
COMMENT ON COLUMN job.revision IS 'Counts the writes of this row; every write names the revision it follows on';
COMMENT ON COLUMN job.attempts IS 'Tries of the present step that failed for a reason that may be the job''s own';
COMMENT ON COLUMN job.created_at IS 'When it was accepted';
COMMENT ON COLUMN job.updated_at IS 'When it was last written';
COMMENT ON COLUMN job.finished_at IS 'When it got to its final phase';
COMMENT ON COLUMN job.deadline_at IS 'When it is given up';
COMMENT ON COLUMN job.held_code IS 'Why it waits for a person, as a short name; null: it doesn''t';
COMMENT ON COLUMN job.held_message IS 'Why it waits for a person, and what that person can do';
COMMENT ON COLUMN job.error_class IS 'What kind of fault it last met';
COMMENT ON COLUMN job.error_code IS 'The fault''s short name';
COMMENT ON COLUMN job.error_message IS 'The fault''s own words';
COMMENT ON COLUMN job.input_blob IS 'The uploaded input, in the feed''s container';
COMMENT ON COLUMN job.input_bytes IS 'The uploaded input''s length (unsigned: the signed number of the same bits)';
COMMENT ON COLUMN job.sha256 IS 'The uploaded input''s SHA-256, in hexadecimal';
COMMENT ON COLUMN job.remote_id IS 'The scoring service''s name for the job';
COMMENT ON COLUMN job.redirects IS 'Where the service was asked to write outputs: a list of {output, blob}';
COMMENT ON COLUMN job.results IS 'What the run brought: a list of {output, place}';
COMMENT ON COLUMN job.outputs IS 'What was delivered: a list of {name, path, size_bytes, sha256}';
COMMENT ON COLUMN job.cancel_reason IS 'Why the remote run is to be stopped: operator or deadline';
COMMENT ON COLUMN job.ended_at IS 'The phase that a bad end was met in';
COMMENT ON COLUMN job.source_settled IS 'After a bad end: whether the source is where it belongs';
COMMENT ON COLUMN job.source_moved_to IS 'Where the source went at the end';
COMMENT ON COLUMN job.duplicate_of IS 'Of a skipped job: the earlier one that it repeats';

-- The same columns with the same comments and checks, by construction.
CREATE TABLE job_history (
    LIKE job INCLUDING COMMENTS INCLUDING CONSTRAINTS,
    PRIMARY KEY (id),
    CHECK (finished_at IS NOT NULL)
);
COMMENT ON TABLE job_history IS 'The jobs that are done';

-- Lists go newest first: by the primary key, or by this when they are of one feed.
CREATE INDEX job_history_feed ON job_history (feed, id);

-- It outlives the move into the history.
CREATE TABLE job_event (
    job_id     uuid        NOT NULL,
    revision   bigint      NOT NULL,
    at         timestamptz NOT NULL,
    node       bigint      NOT NULL,
    generation bigint      NOT NULL,
    from_phase text        NOT NULL,
    to_phase   text        NOT NULL,
    outcome    text        NOT NULL,
    detail     text,
    PRIMARY KEY (job_id, revision)
);
COMMENT ON TABLE job_event IS 'What became of each job: a row for every write, kept when the job is done';
COMMENT ON COLUMN job_event.job_id IS 'The job, in job or in job_history';
COMMENT ON COLUMN job_event.revision IS 'The job''s revision after this write';
COMMENT ON COLUMN job_event.at IS 'When it happened, by the writer''s clock';
COMMENT ON COLUMN job_event.node IS 'Who wrote it';
COMMENT ON COLUMN job_event.generation IS 'The remote run that it belongs to';
COMMENT ON COLUMN job_event.from_phase IS 'The phase before';
COMMENT ON COLUMN job_event.to_phase IS 'The phase after';
COMMENT ON COLUMN job_event.outcome IS 'What happened, as a short name';
COMMENT ON COLUMN job_event.detail IS 'More about it, in words';

-- Kept when the job is done, so that a file that stays in its folder is not scored again.
CREATE TABLE arrival (
    site       text   NOT NULL,
    feed       text   NOT NULL,
    path       bytea  NOT NULL,
    inode      bigint NOT NULL,
    size_bytes bigint NOT NULL,
    mtime_ns   bigint NOT NULL,
    job_id     uuid   NOT NULL,
    PRIMARY KEY (site, feed, path, inode, size_bytes, mtime_ns)
);
COMMENT ON TABLE arrival IS 'What was ever taken in, and the job that it became';

CREATE TABLE reservation (
    path   bytea NOT NULL PRIMARY KEY,
    job_id uuid  NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    slot   text  NOT NULL,
    UNIQUE (job_id, slot)
);
COMMENT ON TABLE reservation IS 'File names that live jobs are going to use';
COMMENT ON COLUMN reservation.slot IS 'What of the job the name is for';
