-- What people look at, in a history of millions.

-- What became of the jobs of the last hours is counted from this alone. Rows of the history are never changed.
CREATE INDEX job_history_ended ON job_history (site, finished_at, feed, phase, size_bytes, input_bytes);

-- Lists of what ended badly, newest first: it is rare, or nobody would look for it.
CREATE INDEX job_history_bad ON job_history (phase, id) WHERE phase <> 'succeeded';
CREATE INDEX job_history_bad_of_feed ON job_history (feed, phase, id) WHERE phase <> 'succeeded';

-- What is held is live. Should a row be both, it is found.
CREATE INDEX job_history_held ON job_history (id) WHERE held_code IS NOT NULL;
