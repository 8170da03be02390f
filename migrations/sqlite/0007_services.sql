-- Which service knows a job's remote run, as JSON: {endpoint, url}. Whatever the config says meanwhile, nobody else is
-- asked about it. Null: an earlier version submitted it, to whatever its feed named.
ALTER TABLE job ADD COLUMN service TEXT;
ALTER TABLE job_history ADD COLUMN service TEXT;
