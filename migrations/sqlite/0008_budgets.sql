-- The calls that were granted out of each budget. `calls` has the time of each of the last minute, in microseconds and
-- oldest first, as a JSON array; `week_calls` those since `week_began`.
CREATE TABLE budget (
    name       TEXT    NOT NULL PRIMARY KEY,
    calls      TEXT    NOT NULL,
    week_began INTEGER,
    week_calls INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
