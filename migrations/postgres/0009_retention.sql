-- What has outlived its time is forgotten.

CREATE TABLE forgotten (
    site        text        NOT NULL PRIMARY KEY,
    done_before timestamptz NOT NULL
);
COMMENT ON TABLE forgotten IS 'Up to when the jobs that are done may be gone: a file of that time need not have one';
COMMENT ON COLUMN forgotten.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN forgotten.done_before IS 'Jobs that were done before this may be gone';

-- What belongs to old jobs is found by their ids, which rise with time: new rows go to the end of these.
CREATE INDEX arrival_job ON arrival (site, feed, job_id);
CREATE INDEX content_job ON content (job_id);

-- What was deleted makes room for what comes, soon and not when a fifth of years is gone.
ALTER TABLE job_history SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE job_event SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE arrival SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE content SET (autovacuum_vacuum_scale_factor = 0.02);
