-- The way of :batch jobs, written by hand: what Store::commit does for them, with no more than it takes.
--
-- Same tables, same rows, one statement and one commit for each step of all :batch jobs. It has an easier life than the
-- store: nothing comes over the wire but the number of the first job, the rows are neighbours in the key, and nobody
-- asks which of them were written. Each client has its own :share of the jobs.
\set first :client_id * :share + :next
\set last :first + :batch - 1
\set next :next + :batch
WITH moved AS (
  UPDATE job SET revision = 2, phase = 'uploaded', updated_at = now(), input_blob = 'churn/' || id || '/1-1/in.csv',
    input_bytes = 1024, sha256 = repeat('a7', 32)
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 1 RETURNING id
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 2, 1, now(), 1, 'queued', 'uploaded', 'uploaded', '1024 bytes, sha256 ' || repeat('a7', 32) FROM moved;
WITH moved AS (
  UPDATE job SET revision = 3, phase = 'submitted', updated_at = now(), remote_id = replace(id::text, '-', ''),
    redirects = ('[{"output":"output1","blob":"churn/' || id || '/1-2/output1.csv"}]')::json
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 2 RETURNING id
), begun AS (
  INSERT INTO remote_run (job_id, endpoint) SELECT id, 'churn' FROM moved
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 3, 1, now(), 1, 'uploaded', 'submitted', 'submitted', 'remote id ' || replace(id::text, '-', '') FROM moved;
WITH moved AS (
  UPDATE job SET revision = 4, phase = 'running', updated_at = now()
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 3 RETURNING id
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 4, 1, now(), 1, 'submitted', 'running', 'started', NULL FROM moved;
WITH moved AS (
  UPDATE job SET revision = 5, phase = 'scored', updated_at = now(),
    results = ('[{"output":"output1","place":{"ours":"churn/' || id || '/1-2/output1.csv"}}]')::json
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 4 RETURNING id
), ended AS (
  DELETE FROM remote_run WHERE job_id BETWEEN bench_id(:first) AND bench_id(:last)
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 5, 1, now(), 1, 'running', 'scored', 'finished', 'output1' FROM moved;
WITH moved AS (
  UPDATE job SET revision = 6, phase = 'delivered', updated_at = now(),
    outputs = ('[{"name":"output1","path":"/srv/churn/out/' || id || '.scores.csv","size_bytes":1024,"sha256":"' || repeat('a7', 32) || '"}]')::json
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 5 RETURNING id
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 6, 1, now(), 1, 'scored', 'delivered', 'delivered', '/srv/churn/out/' || id || '.scores.csv' FROM moved;
WITH done AS (
  DELETE FROM job
  WHERE id BETWEEN bench_id(:first) AND bench_id(:last) AND node = 1 AND revision = 6 RETURNING *
), kept AS (
  INSERT INTO job_history (id, site, feed, path, name, inode, size_bytes, mtime_ns, node, phase, generation, revision,
    attempts, created_at, updated_at, finished_at, deadline_at, input_blob, input_bytes, sha256, remote_id, redirects,
    results, outputs, source_settled, source_moved_to)
  SELECT id, site, feed, path, name, inode, size_bytes, mtime_ns, node, 'succeeded', generation, 7,
    attempts, created_at, now(), now(), deadline_at, input_blob, input_bytes, sha256, remote_id, redirects,
    results, outputs, source_settled, convert_to('/srv/churn/archive/' || id || '.csv', 'UTF8') FROM done
) INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail)
  SELECT id, 7, 1, now(), 1, 'delivered', 'succeeded', 'settled', '/srv/churn/archive/' || id || '.csv' FROM done;
