-- What was scored once, so that the same is not scored again unasked.

-- A digest and not the content itself: what it is made of is the feed's own rule.
CREATE TABLE content (
    site   text        NOT NULL,
    digest bytea       NOT NULL,
    job_id uuid        NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (site, digest)
);
COMMENT ON TABLE content IS 'What jobs asked to score, and the job that has it';
COMMENT ON COLUMN content.digest IS 'SHA-256 of the feed and of what its rules hold against what was scored before: path, content or both';
COMMENT ON COLUMN content.job_id IS 'The job that has it: another takes it over when this one came to a bad end';
COMMENT ON COLUMN content.at IS 'When it got it';
