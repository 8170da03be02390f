-- Nodes whose configs differ, and folders that only seem to be the same.

-- A node acts until its own term is over, so whoever takes it for dead must wait for that one. Those that are there
-- already said nothing; nearly all of them have the default.
ALTER TABLE node ADD COLUMN term_ms bigint NOT NULL DEFAULT 15000 CHECK (term_ms >= 0);
COMMENT ON COLUMN node.term_ms IS 'How long it must be silent before others take its jobs over, in milliseconds: its own node.lease';

CREATE TABLE folder (
    site text NOT NULL,
    feed text NOT NULL,
    id   uuid NOT NULL,
    PRIMARY KEY (site, feed)
);
COMMENT ON TABLE folder IS 'Which drop folder a feed has: a node works on it only while it sees that one';
COMMENT ON COLUMN folder.site IS 'The set of nodes that see the same folders';
COMMENT ON COLUMN folder.feed IS 'The feed''s name in the config';
COMMENT ON COLUMN folder.id IS 'What the folder''s marker says, .scoreline/folder; the first that a node told, for good';
