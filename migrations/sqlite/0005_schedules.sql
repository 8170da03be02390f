-- Schedules: the times at which they take their inputs, and paused feeds.

-- The fire that made the job: {id, kind, nominal, window_start, window_end}; null: the drop folder did.
ALTER TABLE job ADD COLUMN fire TEXT;
ALTER TABLE job_history ADD COLUMN fire TEXT;

-- Whether the fire before is over is asked all the time. No transition changes these columns.
CREATE INDEX job_fire ON job (site, feed) WHERE fire IS NOT NULL;

-- The times at which schedules take their inputs: those that ran, those that did not, and why.
CREATE TABLE fire (
    id           TEXT    NOT NULL PRIMARY KEY,
    site         TEXT    NOT NULL,
    feed         TEXT    NOT NULL,
    nominal      INTEGER NOT NULL,      -- the time that it stands for, whenever it ran
    kind         TEXT    NOT NULL CHECK (kind IN ('scheduled', 'catch_up', 'manual')),
    window_start INTEGER NOT NULL,
    window_end   INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('open', 'ran', 'skipped')),
    reason       TEXT,                  -- why it was skipped; of an open one why it waits
    jobs         INTEGER NOT NULL DEFAULT 0,
    first_job    TEXT,                  -- of the jobs that it made the one with the smallest id
    last_job     TEXT,                  -- and the one with the greatest: none is looked for beyond
    missed       INTEGER NOT NULL DEFAULT 1,    -- how many nominal times it stands for
    key          TEXT,                  -- what makes a manual one the same when it is asked for again
    note         TEXT,                  -- who wanted it, and why
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER,

    CHECK (jobs >= 0 AND missed >= 1),
    CHECK ((jobs = 0) = (first_job IS NULL) AND (jobs = 0) = (last_job IS NULL)),
    CHECK ((state = 'open') = (ended_at IS NULL)),
    -- Whoever waits may have no reason, whoever ran has none.
    CHECK (CASE state WHEN 'ran' THEN reason IS NULL WHEN 'skipped' THEN reason IS NOT NULL ELSE true END)
) STRICT;

-- One for each time, however often it is seen that it has come.
CREATE UNIQUE INDEX fire_nominal ON fire (site, feed, nominal) WHERE kind <> 'manual';
CREATE UNIQUE INDEX fire_key ON fire (site, feed, key) WHERE key IS NOT NULL;
-- There are few of these.
CREATE INDEX fire_open ON fire (site, feed, nominal, id) WHERE state = 'open';
-- Lists go newest first.
CREATE INDEX fire_list ON fire (site, feed, nominal, id);
-- So do looks at how the last ones came out: nearly all others may have been skipped.
CREATE INDEX fire_ran ON fire (site, feed, nominal, id) WHERE state = 'ran' AND jobs > 0;

-- From when on each feed's schedule holds, so that no new one fires for the past.
CREATE TABLE schedule (
    site  TEXT    NOT NULL,
    feed  TEXT    NOT NULL,
    rules TEXT    NOT NULL,             -- the same as long as the schedule is
    since INTEGER NOT NULL,             -- when a node first came with these rules
    PRIMARY KEY (site, feed)
) STRICT, WITHOUT ROWID;

-- The feeds that somebody paused, and those whose pause is over and was not answered yet.
CREATE TABLE feed_pause (
    site      TEXT    NOT NULL,
    feed      TEXT    NOT NULL,
    paused_by TEXT    NOT NULL,
    why       TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    until     INTEGER,                  -- null: until somebody resumes
    ended     INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1)),   -- somebody resumed
    PRIMARY KEY (site, feed)
) STRICT, WITHOUT ROWID;
