-- What was scored once, so that the same is not scored again unasked. The digest, in hexadecimal, is of the feed and of
-- what its rules hold against what was scored before.
CREATE TABLE content (
    site   TEXT    NOT NULL,
    digest TEXT    NOT NULL,
    job_id TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (site, digest)
) STRICT, WITHOUT ROWID;
