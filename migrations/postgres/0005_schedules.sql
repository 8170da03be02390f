-- Schedules: the times at which they take their inputs, and paused feeds.

-- What a job keeps of the fire that made it. JSON as it was written; no transition changes it, so that an index on it
-- leaves their updates heap-only.
ALTER TABLE job ADD COLUMN fire json;
ALTER TABLE job_history ADD COLUMN fire json;
COMMENT ON COLUMN job.fire IS 'The fire that made it: {id, kind, nominal, window_start, window_end}; null: the drop folder did';
COMMENT ON COLUMN job_history.fire IS 'The fire that made it: {id, kind, nominal, window_start, window_end}; null: the drop folder did';

-- Whether the fire before is over is asked all the time.
CREATE INDEX job_fire ON job (site, feed) WHERE fire IS NOT NULL;

CREATE TABLE fire (
    id           uuid        NOT NULL PRIMARY KEY,
    site         text        NOT NULL,
    feed         text        NOT NULL,
    nominal      timestamptz NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('scheduled', 'catch_up', 'manual')),
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    state        text        NOT NULL CHECK (state IN ('open', 'ran', 'skipped')),
    reason       text,
    jobs         bigint      NOT NULL DEFAULT 0,
    first_job    uuid,
    last_job     uuid,
    missed       bigint      NOT NULL DEFAULT 1,
    key          text,
    note         text,
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz,

    CHECK (jobs >= 0 AND missed >= 1),
    CHECK ((jobs = 0) = (first_job IS NULL) AND (jobs = 0) = (last_job IS NULL)),
    CHECK ((state = 'open') = (ended_at IS NULL)),
    -- Whoever waits may have no reason, whoever ran has none.
    CHECK (CASE state WHEN 'ran' THEN reason IS NULL WHEN 'skipped' THEN reason IS NOT NULL ELSE true END)
);

-- One for each time, whoever sees first that it has come: this is what keeps nodes from doing the same twice.
CREATE UNIQUE INDEX fire_nominal ON fire (site, feed, nominal) WHERE kind <> 'manual';
CREATE UNIQUE INDEX fire_key ON fire (site, feed, key) WHERE key IS NOT NULL;
-- There are few of these.
CREATE INDEX fire_open ON fire (site, feed, nominal, id) WHERE state = 'open';
-- Lists go newest first.
CREATE INDEX fire_list ON fire (site, feed, nominal, id);
-- So do looks at how the last ones came out: nearly all others may have been skipped.
CREATE INDEX fire_ran ON fire (site, feed, nominal, id) WHERE state = 'ran' AND jobs > 0;

COMMENT ON TABLE fire IS 'The times at which schedules take their inputs: those that ran, those that did not, and why';
COMMENT ON COLUMN fire.id IS 'A UUID of version 7; of a scheduled one made of site, feed and nominal time';
COMMENT ON COLUMN fire.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN fire.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN fire.nominal IS 'The time that it stands for, whenever it ran';
COMMENT ON COLUMN fire.kind IS 'Why there is one: scheduled, catch_up or manual';
COMMENT ON COLUMN fire.window_start IS 'Where the time that it covers begins';
COMMENT ON COLUMN fire.window_end IS 'Where it ends';
COMMENT ON COLUMN fire.state IS 'open: it has still to take inputs; ran; skipped';
COMMENT ON COLUMN fire.reason IS 'Why it was skipped; of an open one why it waits';
COMMENT ON COLUMN fire.jobs IS 'The jobs that it made';
COMMENT ON COLUMN fire.first_job IS 'The one of them with the smallest id';
COMMENT ON COLUMN fire.last_job IS 'The one of them with the greatest id: none is looked for beyond';
COMMENT ON COLUMN fire.missed IS 'How many nominal times it stands for';
COMMENT ON COLUMN fire.key IS 'What makes a manual one the same when it is asked for again';
COMMENT ON COLUMN fire.note IS 'Who wanted it, and why';
COMMENT ON COLUMN fire.created_at IS 'When it was entered';
COMMENT ON COLUMN fire.started_at IS 'When it first took inputs, or looked for some';
COMMENT ON COLUMN fire.ended_at IS 'When it ran to its end, or was skipped';

CREATE TABLE schedule (
    site  text        NOT NULL,
    feed  text        NOT NULL,
    rules text        NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (site, feed)
);
COMMENT ON TABLE schedule IS 'From when on each feed''s schedule holds, so that no new one fires for the past';
COMMENT ON COLUMN schedule.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN schedule.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN schedule.rules IS 'A text that is the same as long as the schedule is';
COMMENT ON COLUMN schedule.since IS 'When a node first came with these rules';

CREATE TABLE feed_pause (
    site      text        NOT NULL,
    feed      text        NOT NULL,
    paused_by text        NOT NULL,
    why       text        NOT NULL,
    since     timestamptz NOT NULL,
    until     timestamptz,
    ended     boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (site, feed)
);
COMMENT ON TABLE feed_pause IS 'The feeds that somebody paused, and those whose pause is over and was not answered yet';
COMMENT ON COLUMN feed_pause.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN feed_pause.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN feed_pause.paused_by IS 'Who paused it';
COMMENT ON COLUMN feed_pause.why IS 'Why';
COMMENT ON COLUMN feed_pause.since IS 'Since when';
COMMENT ON COLUMN feed_pause.until IS 'When it is over by itself; null: when somebody resumes';
COMMENT ON COLUMN feed_pause.ended IS 'Somebody resumed';
