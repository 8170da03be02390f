-- The calls that were granted out of each budget.

-- One row a budget, which every draw writes anew: room for that without touching an index.
CREATE TABLE budget (
    name       text          NOT NULL PRIMARY KEY,
    calls      timestamptz[] NOT NULL DEFAULT '{}',
    week_began timestamptz,
    week_calls integer       NOT NULL DEFAULT 0,
    granted    integer,
    at         timestamptz
) WITH (fillfactor = 10);
COMMENT ON TABLE budget IS 'The calls that were granted out of each budget, whichever node and endpoint they were for';
COMMENT ON COLUMN budget.calls IS 'When those of the last minute were granted, oldest first';
COMMENT ON COLUMN budget.week_began IS 'When the first of the present seven days was granted';
COMMENT ON COLUMN budget.week_calls IS 'How many were granted since';
COMMENT ON COLUMN budget.granted IS 'What the last draw was granted; NULL before the first';
COMMENT ON COLUMN budget.at IS 'When it was';
