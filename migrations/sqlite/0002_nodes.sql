-- Several nodes: who is fenced off, who scans which folder, whose runs an endpoint has, and what operators want.
-- The embedded store serves one node at a time; the others that it knows are those that ended before.

-- 1: it gets nothing more, its jobs are free, and when they are gone, so is it.
ALTER TABLE node ADD COLUMN fenced INTEGER NOT NULL DEFAULT 0 CHECK (fenced IN (0, 1));

-- What operators want of a node's jobs is looked for all the time, and there is hardly ever any.
CREATE INDEX job_want ON job (node) WHERE want IS NOT NULL;

-- The live jobs that may have a run at an endpoint (its name in the config): as many as its limit allows over all nodes.
CREATE TABLE remote_run (
    job_id   TEXT NOT NULL PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    endpoint TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- They are counted.
CREATE INDEX remote_run_endpoint ON remote_run (endpoint);

-- The nodes that asked for runs at an endpoint and did not get all of them.
CREATE TABLE waiting (
    endpoint TEXT    NOT NULL,
    node     INTEGER NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    jobs     INTEGER NOT NULL,          -- for how many runs more
    beats    INTEGER NOT NULL,          -- the node's when it asked: one that has not asked for a few waits no more
    PRIMARY KEY (endpoint, node)
) STRICT, WITHOUT ROWID;

-- Who scans a feed's folder: one node at a time.
CREATE TABLE scanner (
    site TEXT    NOT NULL,
    feed TEXT    NOT NULL,
    node INTEGER NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    PRIMARY KEY (site, feed)
) STRICT, WITHOUT ROWID;

-- The last time that each endpoint asked to be left alone.
CREATE TABLE pause (
    endpoint TEXT    NOT NULL PRIMARY KEY,
    serial   INTEGER NOT NULL,          -- rises with each pause of whatever endpoint
    millis   INTEGER NOT NULL           -- for how long, from when it was told
) STRICT, WITHOUT ROWID;
