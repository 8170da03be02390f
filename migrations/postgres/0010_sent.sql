-- Inputs that were sent to the API: they lie in blob storage before their jobs are there, and in no folder.

ALTER TABLE job ADD COLUMN sent json;
ALTER TABLE job_history ADD COLUMN sent json;
COMMENT ON COLUMN job.sent IS 'The input that was sent: {blob, content: {size_bytes, sha256}}; null: it is a file, or a blob that was there before';
COMMENT ON COLUMN job_history.sent IS 'The input that was sent: {blob, content: {size_bytes, sha256}}; null: it is a file, or a blob that was there before';

CREATE TABLE sent_key (
    site   text NOT NULL,
    feed   text NOT NULL,
    key    text NOT NULL,
    job_id uuid NOT NULL,
    PRIMARY KEY (site, feed, key)
);
CREATE INDEX sent_key_job ON sent_key (job_id);
COMMENT ON TABLE sent_key IS 'What makes a sending the same when it comes again; kept as long as the job is';
COMMENT ON COLUMN sent_key.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN sent_key.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN sent_key.key IS 'The caller''s Idempotency-Key, else the job''s id';
COMMENT ON COLUMN sent_key.job_id IS 'The job that it became';
