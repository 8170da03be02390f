-- Several nodes: who is fenced off, who scans which folder, whose runs an endpoint has, and what operators want.

ALTER TABLE node ADD COLUMN fenced boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN node.fenced IS 'Silent for too long: it gets nothing more, its jobs are free, and when they are gone, so is it';

-- What operators want of a node's jobs is looked for all the time, and there is hardly ever any. Transitions leave
-- `want` as it is, so that their updates stay heap-only.
CREATE INDEX job_want ON job (node) WHERE want IS NOT NULL;

-- Not a column of job: every look at an endpoint's runs would be one at all live jobs, or an index there would have to
-- follow each of them through its phases.
CREATE TABLE remote_run (
    job_id   uuid NOT NULL PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    endpoint text NOT NULL
);
COMMENT ON TABLE remote_run IS 'The live jobs that may have a run at an endpoint: as many as its limit allows over all nodes';
COMMENT ON COLUMN remote_run.endpoint IS 'The endpoint''s name in the config';

-- They are counted.
CREATE INDEX remote_run_endpoint ON remote_run (endpoint);

CREATE TABLE waiting (
    endpoint text   NOT NULL,
    node     bigint NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    jobs     bigint NOT NULL,
    beats    bigint NOT NULL,
    PRIMARY KEY (endpoint, node)
) WITH (fillfactor = 50);
COMMENT ON TABLE waiting IS 'The nodes that asked for runs at an endpoint and did not get all of them';
COMMENT ON COLUMN waiting.endpoint IS 'The endpoint''s name in the config';
COMMENT ON COLUMN waiting.node IS 'Who waits';
COMMENT ON COLUMN waiting.jobs IS 'For how many runs more';
COMMENT ON COLUMN waiting.beats IS 'The node''s beats when it asked: one that has not asked for a few waits no more';

CREATE TABLE scanner (
    site text   NOT NULL,
    feed text   NOT NULL,
    node bigint NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    PRIMARY KEY (site, feed)
);
COMMENT ON TABLE scanner IS 'Who scans a feed''s folder: one node at a time';
COMMENT ON COLUMN scanner.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN scanner.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN scanner.node IS 'Who scans it, until it retires or is fenced off';

CREATE SEQUENCE pause_serial;
CREATE TABLE pause (
    endpoint text   NOT NULL PRIMARY KEY,
    serial   bigint NOT NULL,
    millis   bigint NOT NULL
);
ALTER SEQUENCE pause_serial OWNED BY pause.serial;
COMMENT ON TABLE pause IS 'The last time that each endpoint asked to be left alone';
COMMENT ON COLUMN pause.endpoint IS 'The endpoint''s name in the config';
COMMENT ON COLUMN pause.serial IS 'Rises with each pause of whatever endpoint: nodes ask for what came after the last they know';
COMMENT ON COLUMN pause.millis IS 'For how long, in milliseconds from when it was told';
