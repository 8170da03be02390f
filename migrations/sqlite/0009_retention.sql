-- What has outlived its time is forgotten.

-- Up to when the jobs that are done may be gone: a file of that time need not have one.
CREATE TABLE forgotten (
    site        TEXT    NOT NULL PRIMARY KEY,
    done_before INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What belongs to old jobs is found by their ids, which rise with time: new rows go to the end of these.
CREATE INDEX arrival_job ON arrival (site, feed, job_id);
CREATE INDEX content_job ON content (job_id);
