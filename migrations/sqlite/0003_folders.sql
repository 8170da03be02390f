-- Nodes whose configs differ, and folders that only seem to be the same.

-- How long it must be silent before others take its jobs over, in milliseconds.
ALTER TABLE node ADD COLUMN term_ms INTEGER NOT NULL DEFAULT 15000 CHECK (term_ms >= 0);

-- Which drop folder a feed has: a node works on it only while it sees that one, or an empty mount point would pass for
-- a folder whose files are gone.
CREATE TABLE folder (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    id   TEXT NOT NULL,                 -- what the folder's marker says, .scoreline/folder
    PRIMARY KEY (site, feed)
) STRICT, WITHOUT ROWID;
