//! An endpoint's runs, over all nodes.
//!
//! Whoever asks for some holds the endpoint's lock until the answer is written: what it counts is still so when its own
//! are added. Runs that end meanwhile are counted once more, which harms nobody. The lock is the only thing that is
//! waited for, and a node that stops while it holds it loses it soon.

use std::collections::HashSet;

use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::Failure;
use super::rows::text;
use super::session::Session;
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Ask, Node, StoreError};
use crate::store::quota::{Admission, FeedQuotas, Quota, STILL_WAITS};
use crate::store::{forgotten, signed};

impl Session {
    /// Admits, in the transaction that is begun.
    pub(super) async fn admit(
        &mut self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        jobs: &[JobId],
        limit: usize,
    ) -> Result<Admission, Failure> {
        // A statement of its own: the next one sees what was committed before the lock was ours.
        query(LOCK).bind(RUNS).bind(endpoint.as_str()).execute(self.on()).await?;
        let mut feeds = FeedQuotas::new(asks);
        let limited: Vec<_> = feeds.feeds().into_iter().map(Name::as_str).collect();
        let asked: Vec<_> = jobs.iter().map(|id| id.uuid()).collect();
        let row = query(LOOK).bind(node.id.0).bind(endpoint.as_str()).bind(asked);
        let row = row.bind(STILL_WAITS.cast_signed()).bind(text(&node.site)).bind(limited);
        let row = row.fetch_one(self.on()).await?;
        let Some(beats) = row.try_get::<Option<i64>, _>("beats")? else {
            let cause = forgotten(node.id);
            return Err(StoreError::Unavailable { attempted: "admit jobs", cause }.into());
        };
        let count = |column| row.try_get(column).map(|n: i64| usize::try_from(n).unwrap_or(0));
        let waiting: HashSet<i64> = row.try_get::<Vec<_>, _>("waiting")?.into_iter().collect();
        let holders: Vec<i64> = row.try_get("holders")?;
        let others = holders.iter().filter(|id| **id != node.id.0);
        let quota = Quota {
            limit,
            used: count("used")?,
            mine: count("mine")?,
            others_waiting: waiting.len(),
            others: others.chain(&waiting).collect::<HashSet<_>>().len(),
        };
        for feed in row.try_get::<Vec<String>, _>("limited")? {
            feeds.used(&feed, 1);
        }
        let set = |column| -> Result<HashSet<Uuid>, sqlx::Error> {
            Ok(row.try_get::<Vec<_>, _>(column)?.into_iter().collect())
        };
        let (ours, running) = (set("ours")?, set("running")?);
        let is_ours = |id: JobId| ours.contains(&id.uuid());
        let mut admission = quota.admit(jobs, feeds, is_ours, |id| running.contains(&id.uuid()));
        let begun: Vec<_> = admission.begun.iter().map(|id| id.uuid()).collect();
        let begun = query_scalar(BEGIN).bind(node.id.0).bind(endpoint.as_str()).bind(begun);
        let begun = begun.bind(signed(admission.waiting)).bind(beats).fetch_all(self.on()).await?;
        let begun: HashSet<Uuid> = begun.into_iter().collect();
        admission.begun.retain(|id| begun.contains(&id.uuid()));
        Ok(admission)
    }
}

/// $1 is [`RUNS`], $2 the endpoint.
const LOCK: &str = "SELECT set_config('idle_in_transaction_session_timeout', '2s', true), \
     pg_advisory_xact_lock($1, hashtext($2))";

/// What [`Quota`] wants to know, and which of the jobs are the node's and which have runs here: a run of another
/// endpoint, which the feed had before, is none here. $1 is the node, $2 the endpoint, $3 the jobs, $4 after how many
/// beats nobody waits any more, $5 the site, $6 the feeds that have limits: each is answered as often as it has a run
/// here. Who holds how many is looked up only if somebody waits, and what feeds have only if one is limited: nothing
/// depends on it else.
const LOOK: &str = "WITH me AS ( \
       SELECT beats FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), waits AS MATERIALIZED ( \
       SELECT n.id FROM waiting w JOIN node n ON n.id = w.node \
       WHERE w.endpoint = $2 AND n.id <> $1 AND w.jobs > 0 AND NOT n.fenced AND n.beats < w.beats + $4 \
     ), holds AS MATERIALIZED ( \
       SELECT n.id, count(*) AS runs FROM remote_run r JOIN job j ON j.id = r.job_id \
       JOIN node n ON n.id = j.node AND NOT n.fenced \
       WHERE r.endpoint = $2 AND EXISTS (SELECT FROM waits) GROUP BY n.id \
     ) SELECT (SELECT beats FROM me) AS beats, \
       (SELECT count(*) FROM remote_run WHERE endpoint = $2) AS used, \
       coalesce((SELECT runs FROM holds WHERE id = $1), 0) AS mine, \
       ARRAY(SELECT id FROM waits) AS waiting, \
       ARRAY(SELECT j.feed FROM remote_run r JOIN job j ON j.id = r.job_id \
         WHERE r.endpoint = $2 AND cardinality($6::text[]) > 0 AND j.site = $5 AND j.feed = ANY($6)) AS limited, \
       ARRAY(SELECT id FROM holds) AS holders, \
       ARRAY(SELECT id FROM job WHERE id = ANY($3) AND node = $1) AS ours, \
       ARRAY(SELECT job_id FROM remote_run WHERE job_id = ANY($3) AND endpoint = $2) AS running";

/// Begins runs and answers them, and notes how many jobs wait. $1 is the node, $2 the endpoint, $3 the jobs, $4 how many
/// wait, $5 the node's beats. A job that somebody has locked is ending, or somebody else's in a moment: it is passed
/// over.
const BEGIN: &str = "WITH ours AS ( \
       SELECT id FROM job WHERE id = ANY($3) AND node = $1 ORDER BY id FOR KEY SHARE SKIP LOCKED \
     ), waits AS ( \
       INSERT INTO waiting (endpoint, node, jobs, beats) SELECT $2, $1, $4, $5 WHERE $4 > 0 \
       ON CONFLICT (endpoint, node) DO UPDATE SET jobs = excluded.jobs, beats = excluded.beats \
     ), waited AS ( \
       DELETE FROM waiting WHERE endpoint = $2 AND node = $1 AND $4 = 0 \
     ) INSERT INTO remote_run (job_id, endpoint) SELECT id, $2 FROM ours \
       ON CONFLICT (job_id) DO UPDATE SET endpoint = excluded.endpoint RETURNING job_id";

/// The locks of those who ask for runs: "runs" in ASCII.
const RUNS: i32 = 0x7275_6e73;
