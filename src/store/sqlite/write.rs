//! A write that is under way: one transaction, and what can be done in it.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStringExt;

use chrono::{DateTime, Utc};
use sqlx::{Row, SqliteConnection, query, query_as, query_scalar};
use tokio::sync::MutexGuard;

use super::rows::{by_arrival, by_event, columns, job};
use super::{Failure, refusal};
use crate::feed::Name;
use crate::fire::Fired;
use crate::job::{Arrival, Event, Job, JobId, Phase, Want};
use crate::ports::{
    Accepted, Adopted, Ask, Committed, Node, NodeId, StoreError, Told, Transition, Wished,
};
use crate::store::overview::{Recent, as_told};
use crate::store::quota::{Admission, FeedQuotas, Quota, STILL_WAITS};
use crate::store::row::{self, cancel_reason_name, digest_text, holds_run, is_done, json};
use crate::store::{forgotten, signed};

/// A write that is under way. Dropping it, with its connection, undoes it.
pub(super) struct Write<'s> {
    slot: MutexGuard<'s, Option<SqliteConnection>>,
    connection: SqliteConnection,
    recent: &'s Recent,
    /// What is told to those who follow, with their sites, once it is in the store.
    noted: Vec<(String, Told)>,
}

impl<'s> Write<'s> {
    pub(super) async fn begin(
        slot: MutexGuard<'s, Option<SqliteConnection>>,
        mut connection: SqliteConnection,
        recent: &'s Recent,
    ) -> Result<Self, Failure> {
        query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Self { slot, connection, recent, noted: Vec::new() })
    }

    pub(super) fn on(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let doubt = Doubt((!self.noted.is_empty()).then_some(self.recent));
        query("COMMIT").execute(&mut self.connection).await?;
        self.recent.add(self.noted);
        doubt.settled();
        *self.slot = Some(self.connection);
        Ok(())
    }

    pub(super) async fn roll_back(mut self) -> Result<(), sqlx::Error> {
        query("ROLLBACK").execute(&mut self.connection).await?;
        *self.slot = Some(self.connection);
        Ok(())
    }

    /// Refuses a node that is fenced off or forgotten.
    pub(super) async fn require(
        &mut self,
        node: &Node,
        attempted: &'static str,
    ) -> Result<(), Failure> {
        let known = query("SELECT 1 FROM node WHERE id = ?1 AND NOT fenced").bind(node.id.0);
        if known.fetch_optional(self.on()).await?.is_some() {
            return Ok(());
        }
        let cause = forgotten(node.id);
        Err(Failure::Refused(StoreError::Unavailable { attempted, cause }))
    }

    /// Takes from those that are fenced off what they have beside jobs, and forgets those that have no job either.
    pub(super) async fn forget_the_dead(&mut self) -> Result<(), Failure> {
        let sql = "DELETE FROM scanner WHERE node IN (SELECT id FROM node WHERE fenced)";
        query(sql).execute(self.on()).await?;
        let sql = "DELETE FROM node WHERE fenced AND id NOT IN (SELECT node FROM job WHERE node IS NOT NULL)";
        query(sql).execute(self.on()).await?;
        Ok(())
    }

    pub(super) async fn adopt(
        &mut self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
        now: i64,
    ) -> Result<Adopted, Failure> {
        let fenced: Vec<i64> =
            query_scalar("SELECT id FROM node WHERE fenced").fetch_all(self.on()).await?;
        let owners = [None].into_iter().chain(fenced.into_iter().map(Some));
        let feeds = json(feeds);
        let mut found: Vec<(String, Option<i64>)> = Vec::new();
        // One look for each owner: each reads its part of the index in the order of ids, and stops at the limit.
        for owner in owners {
            let sql = "SELECT id, node FROM job WHERE node IS ?1 AND site = ?2 \
                       AND feed IN (SELECT value FROM json_each(?3)) ORDER BY id LIMIT ?4";
            let rows = query_as(sql).bind(owner).bind(&node.site).bind(&feeds);
            found.extend(rows.bind(signed(limit)).fetch_all(self.on()).await?);
        }
        found.sort_unstable();
        found.truncate(limit);
        let ids = json(&found.iter().map(|(id, _)| id).collect::<Vec<_>>());
        let sql = concat!(
            "UPDATE job SET node = ?1, revision = revision + 1, updated_at = ?2 \
             WHERE id IN (SELECT value FROM json_each(?3)) RETURNING ",
            columns!(),
        );
        let rows = query(sql).bind(node.id.0).bind(now).bind(&ids).fetch_all(self.on()).await?;
        // A row changed by hand may have an event of that revision already; the others must not wait for it.
        let sql = "INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome) \
                   SELECT id, revision, ?1, node, generation, phase, phase, 'adopted' FROM job WHERE id IN (SELECT value FROM json_each(?2)) ON CONFLICT DO NOTHING";
        query(sql).bind(now).bind(&ids).execute(self.on()).await?;
        let sql = concat!(
            "DELETE FROM remote_run WHERE job_id IN \
             (SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?1)) AND NOT ",
            holds_run!(),
            ")",
        );
        query(sql).bind(&ids).execute(self.on()).await?;
        let left_by: HashMap<String, Option<i64>> = found.into_iter().collect();
        let left_by = |id: &str| left_by.get(id).copied().flatten();
        let rows = rows.iter().map(|row| Ok((job(row), left_by(row.try_get("id")?))));
        let adopted = row::adopted(rows.collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter());
        for (job, _) in &adopted.jobs {
            self.noted.push((node.site.clone(), as_told(job, &job.adopted_event())));
        }
        Ok(adopted)
    }

    /// Makes a job of an arrival, of the `owner` if it is given.
    pub(super) async fn accept(
        &mut self,
        node: &Node,
        arrival: &Arrival,
        owner: Option<NodeId>,
        id: JobId,
        now: DateTime<Utc>,
        fired: Option<Fired>,
    ) -> Result<Accepted, Failure> {
        let sql = "INSERT INTO arrival (site, feed, path, inode, size_bytes, mtime_ns, job_id) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
        let new = by_arrival(query(sql), node, arrival).bind(id.to_string());
        let once = arrival.once && fired.is_some();
        if !once && new.execute(self.on()).await?.rows_affected() == 0 {
            let sql = "SELECT job_id FROM arrival WHERE site = ?1 AND feed = ?2 AND path = ?3 \
                       AND inode = ?4 AND size_bytes = ?5 AND mtime_ns = ?6";
            let row = by_arrival(query(sql), node, arrival).fetch_one(self.on()).await?;
            let known: &str = row.try_get("job_id")?;
            let known = JobId::parse(known).ok_or_else(|| {
                let text = format!("an arrival names the job {known:?}, which is no id");
                Failure::Refused(StoreError::Unusable(text))
            })?;
            return Ok(Accepted::Known(known));
        }
        let job = Job::accepted(id, arrival, now).made_by(fired);
        let record = job.record();
        let sql = "INSERT INTO job (site, feed, path, inode, size_bytes, mtime_ns, id, name, node, phase, generation, \
                   revision, attempts, created_at, updated_at, deadline_at, fire) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
        by_arrival(query(sql), node, arrival)
            .bind(id.to_string())
            .bind(arrival.path.file_name().to_string_lossy().into_owned())
            .bind(owner.map(|node| node.0))
            .bind(record.phase.name())
            .bind(record.generation)
            .bind(record.revision.cast_signed())
            .bind(record.attempts)
            .bind(record.created_at.timestamp_micros())
            .bind(record.updated_at.timestamp_micros())
            .bind(record.deadline_at.timestamp_micros())
            .bind(record.fire.as_ref().map(json))
            .execute(self.on())
            .await?;
        self.note(node, &job, &job.accepted_event()).await?;
        let job = Box::new(job);
        Ok(if owner.is_some() { Accepted::New(job) } else { Accepted::Free(job) })
    }

    pub(super) async fn admit(
        &mut self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        jobs: &[JobId],
        limit: usize,
    ) -> Result<Admission, Failure> {
        let (me, at) = (node.id.0, endpoint.as_str());
        // Live nodes that hold runs there; null: runs of jobs that nobody has, or somebody who is dead.
        let sql = "SELECT n.id, count(*) FROM remote_run r JOIN job j ON j.id = r.job_id \
                   LEFT JOIN node n ON n.id = j.node AND NOT n.fenced WHERE r.endpoint = ?1 GROUP BY n.id";
        let held = query_as(sql).bind(at).fetch_all(self.on()).await?;
        let held: HashMap<Option<i64>, i64> = held.into_iter().collect();
        let sql = "SELECT w.node FROM waiting w JOIN node n ON n.id = w.node WHERE w.endpoint = ?1 AND n.id <> ?2 \
                   AND w.jobs > 0 AND NOT n.fenced AND n.beats < w.beats + ?3";
        let waiting = query_scalar(sql).bind(at).bind(me).bind(STILL_WAITS.cast_signed());
        let waiting: HashSet<i64> = waiting.fetch_all(self.on()).await?.into_iter().collect();
        let others = held.keys().flatten().filter(|id| **id != me);
        let quota = Quota {
            limit,
            used: count(held.values().sum()),
            mine: count(held.get(&Some(me)).copied().unwrap_or_default()),
            others_waiting: waiting.len(),
            others: others.chain(&waiting).collect::<HashSet<_>>().len(),
        };
        let mut feeds = FeedQuotas::new(asks);
        let limited = json(&feeds.feeds());
        if limited != "[]" {
            let sql = "SELECT j.feed, count(*) FROM remote_run r JOIN job j ON j.id = r.job_id \
                       WHERE r.endpoint = ?1 AND j.site = ?2 AND j.feed IN (SELECT value FROM json_each(?3)) \
                       GROUP BY j.feed";
            let used = query_as(sql).bind(at).bind(&node.site).bind(limited);
            let used: Vec<(String, i64)> = used.fetch_all(self.on()).await?;
            for (feed, runs) in used {
                feeds.used(&feed, count(runs));
            }
        }
        let sql = "SELECT j.id, r.endpoint IS ?3 FROM job j LEFT JOIN remote_run r ON r.job_id = j.id \
                   WHERE j.node = ?1 AND j.id IN (SELECT value FROM json_each(?2))";
        let ours = query_as(sql).bind(me).bind(json(jobs)).bind(at).fetch_all(self.on()).await?;
        let ours: HashMap<String, bool> = ours.into_iter().collect();
        let ours = |id: JobId| ours.get(&id.to_string()).copied();
        let admission =
            quota.admit(jobs, feeds, |id| ours(id).is_some(), |id| ours(id).unwrap_or_default());
        for id in &admission.begun {
            self.hold_run(*id, endpoint).await?;
        }
        let sql = "INSERT INTO waiting (endpoint, node, jobs, beats) SELECT ?1, id, ?3, beats FROM node WHERE id = ?2 \
                   ON CONFLICT (endpoint, node) DO UPDATE SET jobs = excluded.jobs, beats = excluded.beats";
        let waits = query(sql).bind(at).bind(me).bind(signed(admission.waiting));
        waits.execute(self.on()).await?;
        Ok(admission)
    }

    async fn hold_run(&mut self, id: JobId, endpoint: &Name) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO remote_run (job_id, endpoint) VALUES (?1, ?2) \
                   ON CONFLICT (job_id) DO UPDATE SET endpoint = excluded.endpoint";
        query(sql).bind(id.to_string()).bind(endpoint.as_str()).execute(self.on()).await?;
        Ok(())
    }

    pub(super) async fn transitions(
        &mut self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, Failure> {
        let mut answers = Vec::with_capacity(transitions.len());
        for transition in transitions {
            answers.push(self.transition(node, transition).await?);
        }
        Ok(answers)
    }

    /// As [`Self::transition`], but what is refused is undone and answered, and the write goes on without it. For when
    /// something was: one row that can't be written must not keep hundreds of others waiting for ever.
    pub(super) async fn transition_apart(
        &mut self,
        node: &Node,
        transition: &Transition,
    ) -> Result<Committed, Failure> {
        query("SAVEPOINT apart").execute(self.on()).await?;
        let noted = self.noted.len();
        let answer = match self.transition(node, transition).await {
            Err(Failure::Sql(error)) => {
                let why = refusal(&error).ok_or(error)?;
                query("ROLLBACK TO apart").execute(self.on()).await?;
                self.noted.truncate(noted);
                Committed::Refused(why)
            }
            answer => answer?,
        };
        query("RELEASE apart").execute(self.on()).await?;
        Ok(answer)
    }

    async fn transition(
        &mut self,
        node: &Node,
        Transition { job, event, run, answers }: &Transition,
    ) -> Result<Committed, Failure> {
        let record = job.record();
        let id = record.id.to_string();
        let revision = record.revision.cast_signed();
        let sql = "UPDATE job SET revision = ?3, phase = ?5, generation = ?6, attempts = ?7, updated_at = ?8, \
                   finished_at = ?9, deadline_at = ?10, held_code = ?11, held_message = ?12, error_class = ?13, \
                   error_code = ?14, error_message = ?15, input_blob = ?16, input_bytes = ?17, sha256 = ?18, \
                   remote_id = ?19, redirects = ?20, results = ?21, outputs = ?22, cancel_reason = ?23, \
                   ended_at = ?24, source_settled = ?25, source_moved_to = ?26, duplicate_of = ?27, service = ?28 \
                   WHERE id = ?1 AND node = ?2 AND revision = ?4";
        let digest = digest_text(&record);
        let held = record.held.map(|held| (held.code, held.message)).unzip();
        let error = record.error.map(|error| (error.class, (error.code, error.message))).unzip();
        let (error_code, error_message) = error.1.unzip();
        let written = query(sql)
            .bind(&id)
            .bind(node.id.0)
            .bind(revision)
            .bind(revision.wrapping_sub(1))
            .bind(record.phase.name())
            .bind(record.generation)
            .bind(record.attempts)
            .bind(record.updated_at.timestamp_micros())
            .bind(record.finished_at.map(|at| at.timestamp_micros()))
            .bind(record.deadline_at.timestamp_micros())
            .bind(held.0)
            .bind(held.1)
            .bind(error.0)
            .bind(error_code)
            .bind(error_message)
            .bind(record.input_blob)
            .bind(record.input_bytes.map(u64::cast_signed))
            .bind(digest)
            .bind(record.remote_id.map(|id| id.0))
            .bind(record.redirects.as_ref().map(json))
            .bind(record.results.as_ref().map(json))
            .bind(record.outputs.as_ref().map(json))
            .bind(record.cancel_reason.map(cancel_reason_name))
            .bind(record.ended_at.map(Phase::name))
            .bind(record.source_settled)
            .bind(record.source_moved_to.map(|path| path.into_os_string().into_vec()))
            .bind(record.duplicate_of.map(|of| of.to_string()))
            .bind(record.service.as_ref().map(json))
            .execute(self.on())
            .await?;
        if written.rows_affected() == 0 {
            return self.repeated(node, record.id, event).await;
        }
        self.note(node, job, event).await?;
        if let Some(want) = answers {
            let sql = "UPDATE job SET want = NULL WHERE id = ?1 AND want = ?2";
            query(sql).bind(&id).bind(want.to_text()).execute(self.on()).await?;
        }
        match run {
            Some(endpoint) if !job.is_done() => self.hold_run(job.id(), endpoint).await?,
            _ => {
                let sql = "DELETE FROM remote_run WHERE job_id = ?1";
                query(sql).bind(&id).execute(self.on()).await?;
            }
        }
        if job.is_done() {
            let sql = "DELETE FROM reservation WHERE job_id = ?1";
            query(sql).bind(&id).execute(self.on()).await?;
            // With a wish still to be answered it stays among the live ones, for anybody.
            let sql = "UPDATE job SET node = NULL WHERE id = ?1 AND want IS NOT NULL";
            if query(sql).bind(&id).execute(self.on()).await?.rows_affected() == 0 {
                let sql = concat!(
                    "INSERT INTO job_history (site, name, node, ",
                    columns!(),
                    ") SELECT site, name, node, ",
                    columns!(),
                    " FROM job WHERE id = ?1",
                );
                query(sql).bind(&id).execute(self.on()).await?;
                query("DELETE FROM job WHERE id = ?1").bind(&id).execute(self.on()).await?;
            }
        }
        Ok(Committed::Done)
    }

    /// What to answer for a write that found nothing to write to: it may be there already, its answer lost.
    async fn repeated(
        &mut self,
        node: &Node,
        id: JobId,
        event: &Event,
    ) -> Result<Committed, Failure> {
        let sql = concat!(
            "SELECT 1 FROM job_event e WHERE job_id = ?1 AND revision = ?2 AND at = ?3 AND node = ?4 \
             AND generation = ?5 AND from_phase = ?6 AND to_phase = ?7 AND outcome = ?8 AND detail IS ?9 \
             AND (EXISTS (SELECT 1 FROM job WHERE id = ?1 AND revision = ?2 AND (node = ?4 OR ",
            is_done!(),
            ")) OR EXISTS (SELECT 1 FROM job_history WHERE id = ?1 AND revision = ?2))",
        );
        let same = by_event(query(sql), node, id, event).fetch_optional(self.on()).await?;
        Ok(if same.is_some() { Committed::Done } else { Committed::Stale })
    }

    /// A row changed by hand may have an event of that revision already; it keeps that one.
    pub(super) async fn note(
        &mut self,
        node: &Node,
        job: &Job,
        event: &Event,
    ) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO job_event \
                   (job_id, revision, at, node, generation, from_phase, to_phase, outcome, detail) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
        by_event(query(sql), node, job.id(), event).execute(self.on()).await?;
        self.noted.push((node.site.clone(), as_told(job, event)));
        Ok(())
    }

    pub(super) async fn wish(
        &mut self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, Failure> {
        let (id, want) = (id.to_string(), want.to_text());
        let sql = "UPDATE job SET want = ?2 WHERE id = ?1 AND (?3 IS NULL OR generation = ?3)";
        let live = query(sql).bind(&id).bind(&want).bind(generation).execute(self.on()).await?;
        if live.rows_affected() > 0 {
            return Ok(Wished::Noted);
        }
        let sql = concat!(
            "INSERT INTO job (site, name, want, ",
            columns!(),
            ") SELECT site, name, ?2, ",
            columns!(),
            " FROM job_history WHERE id = ?1 AND (?3 IS NULL OR generation = ?3)",
        );
        let done = query(sql).bind(&id).bind(&want).bind(generation).execute(self.on()).await?;
        if done.rows_affected() > 0 {
            query("DELETE FROM job_history WHERE id = ?1").bind(&id).execute(self.on()).await?;
            return Ok(Wished::Noted);
        }
        let sql = "SELECT generation FROM job WHERE id = ?1 UNION ALL \
                   SELECT generation FROM job_history WHERE id = ?1";
        let generation = query_scalar(sql).bind(&id).fetch_optional(self.on()).await?;
        Ok(generation.map_or(Wished::Unknown, Wished::Generation))
    }
}

/// A commit under way: if nobody hears how it ended, those who follow are told that they missed something.
struct Doubt<'s>(Option<&'s Recent>);

impl Doubt<'_> {
    fn settled(mut self) {
        self.0 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(recent) = self.0 {
            recent.lose();
        }
    }
}

/// A count as SQL gives it.
fn count(rows: i64) -> usize {
    usize::try_from(rows).unwrap_or_default()
}
