-- What people look at, in a history of millions.

-- What became of the jobs of the last hours is counted from this alone. Rows of the history are never changed.
CREATE INDEX job_history_ended ON job_history (site, finished_at) INCLUDE (feed, phase, size_bytes, input_bytes);

-- Lists of what ended badly, newest first: it is rare, or nobody would look for it.
CREATE INDEX job_history_bad ON job_history (phase, id) WHERE phase <> 'succeeded';
CREATE INDEX job_history_bad_of_feed ON job_history (feed, phase, id) WHERE phase <> 'succeeded';

-- What is held is live. Should a row be both, it is found.
CREATE INDEX job_history_held ON job_history (id) WHERE held_code IS NOT NULL;

-- The transaction that wrote an event: once all transactions before some number have ended, those who follow can read
-- up to it, each event once. Rows that are there have none, and no row is rewritten; programs of before write it without
-- knowing of it. A block range index would do, but for what is not summarised yet, which is read again at each look.
ALTER TABLE job_event ADD COLUMN xact bigint;
ALTER TABLE job_event ALTER COLUMN xact SET DEFAULT (pg_current_xact_id()::text::bigint);
COMMENT ON COLUMN job_event.xact IS 'The transaction that wrote it; null: an earlier version of the schema had no such column';
CREATE INDEX job_event_xact ON job_event (xact) WHERE xact IS NOT NULL;
