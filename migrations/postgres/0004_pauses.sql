-- Who was asked for a pause knows of it already: the others alone have to hear of it.

ALTER TABLE pause ADD COLUMN node bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN pause.node IS 'Who was asked, and told the others; 0 before it was noted';
