-- Inputs that were sent to the API: they lie in blob storage before their jobs are there, and in no folder.

-- Where it is: {blob, content: {size_bytes, sha256}}; null: the input is a file, or a blob that was there before.
ALTER TABLE job ADD COLUMN sent TEXT;
ALTER TABLE job_history ADD COLUMN sent TEXT;

-- What makes a sending the same when it comes again: the caller's Idempotency-Key, else the job's id. Kept as long as
-- the job is.
CREATE TABLE sent_key (
    site   TEXT NOT NULL,
    feed   TEXT NOT NULL,
    key    TEXT NOT NULL,
    job_id TEXT NOT NULL,
    PRIMARY KEY (site, feed, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX sent_key_job ON sent_key (job_id);
