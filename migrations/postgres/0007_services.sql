-- Which service knows a job's remote run: {endpoint, url}. Whatever the config says meanwhile, nobody else is asked about
-- it. Null: an earlier version submitted it, to whatever its feed named.
ALTER TABLE job ADD COLUMN service json;
ALTER TABLE job_history ADD COLUMN service json;
COMMENT ON COLUMN job.service IS 'The service that knows the remote run: {endpoint, url}; null: the feed''s endpoint';
COMMENT ON COLUMN job_history.service IS 'The service that knows the remote run: {endpoint, url}; null: the feed''s endpoint';
