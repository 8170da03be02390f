-- Who was asked for a pause knows of it already: the others alone have to hear of it. 0: it was not noted.
ALTER TABLE pause ADD COLUMN node INTEGER NOT NULL DEFAULT 0;
