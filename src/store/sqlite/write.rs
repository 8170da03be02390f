//! A write that is under way: one transaction, and what can be done in it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use sqlx::{Row, SqliteConnection, query, query_as, query_scalar};
use tokio::sync::MutexGuard;

use super::rows::{by_arrival, by_event, columns, job};
use super::{Failure, refusal};
use crate::feed::Name;
use crate::fire::Fired;
use crate::job::{Arrival, Event, Job, JobId, Phase, Want};
use crate::ports::{Accepted, Adopted, Ask, Committed, Node, StoreError, Told, Transition, Wished};
use crate::store::overview::{Recent, as_told};
use crate::store::quota::{Admission, FeedQuotas, Quota, STILL_WAITS};
use crate::store::row::{self, cancel_reason_name, digest_text, holds_run, is_done, json};
use crate::store::{Ids, arrival_key, forgotten, rounds, signed};

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

    /// Makes jobs of the arrivals that are new, the first `ours` of them the node's own.
    pub(super) async fn accept(
        &mut self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fired: Option<&Fired>,
        ids: &Ids,
    ) -> Result<Vec<Accepted>, Failure> {
        let candidates: Vec<_> = arrivals.iter().map(|arrival| (ids.next(now), arrival)).collect();
        let is_once = |arrival: &Arrival| arrival.once && fired.is_some();
        let lasting: Vec<_> =
            candidates.iter().filter(|(_, arrival)| !is_once(arrival)).copied().collect();
        let mut new = HashSet::with_capacity(arrivals.len());
        for (part, sql) in ARRIVE.parts(&lasting) {
            let mut statement = query_scalar(sql).bind(node.site.clone());
            for (id, arrival) in part {
                statement = statement
                    .bind(arrival.feed.as_str())
                    .bind(arrival.path.as_bytes())
                    .bind(arrival.file.inode.cast_signed())
                    .bind(arrival.file.size_bytes.cast_signed())
                    .bind(arrival.file.mtime_ns)
                    .bind(id.to_string());
            }
            let made: Vec<String> = statement.fetch_all(self.on()).await?;
            new.extend(made.iter().filter_map(|id| JobId::parse(id)));
        }
        let (mut answers, mut jobs) = (Vec::with_capacity(arrivals.len()), Vec::new());
        // What is taken once by the fire leaves nothing behind that could tell the next fire of it.
        let mut once = HashMap::new();
        for (id, arrival) in candidates {
            let known = if is_once(arrival) {
                match once.entry(arrival_key(arrival)) {
                    Entry::Occupied(first) => Some(*first.get()),
                    Entry::Vacant(first) => {
                        first.insert(id);
                        None
                    }
                }
            } else if new.contains(&id) {
                None
            } else {
                Some(self.arrived(node, arrival).await?)
            };
            if let Some(known) = known {
                answers.push(Accepted::Known(known));
                continue;
            }
            let job = Job::accepted(id, arrival, now).made_by(fired.cloned());
            jobs.push((job.clone(), arrival, (jobs.len() < ours).then_some(node.id.0)));
            let job = Box::new(job);
            answers.push(if jobs.len() <= ours { Accepted::New(job) } else { Accepted::Free(job) });
        }
        for (part, sql) in MAKE.parts(&jobs) {
            let mut statement = query(sql).bind(node.site.clone());
            for (job, arrival, owner) in part {
                let record = job.record();
                statement = statement
                    .bind(arrival.feed.as_str())
                    .bind(arrival.path.as_bytes())
                    .bind(arrival.file.inode.cast_signed())
                    .bind(arrival.file.size_bytes.cast_signed())
                    .bind(arrival.file.mtime_ns)
                    .bind(record.id.to_string())
                    .bind(arrival.path.file_name().to_string_lossy().into_owned())
                    .bind(*owner)
                    .bind(record.phase.name())
                    .bind(record.generation)
                    .bind(record.revision.cast_signed())
                    .bind(record.attempts)
                    .bind(record.created_at.timestamp_micros())
                    .bind(record.updated_at.timestamp_micros())
                    .bind(record.deadline_at.timestamp_micros())
                    .bind(record.fire.as_ref().map(json));
            }
            statement.execute(self.on()).await?;
        }
        let events: Vec<_> = jobs.iter().map(|(job, ..)| (job, job.accepted_event())).collect();
        let events: Vec<_> = events.iter().map(|(job, event)| (*job, event)).collect();
        self.note(node, &events).await?;
        Ok(answers)
    }

    /// The job of an arrival that is known.
    async fn arrived(&mut self, node: &Node, arrival: &Arrival) -> Result<JobId, Failure> {
        let sql = "SELECT job_id FROM arrival WHERE site = ?1 AND feed = ?2 AND path = ?3 \
                   AND inode = ?4 AND size_bytes = ?5 AND mtime_ns = ?6";
        let row = by_arrival(query(sql), node, arrival).fetch_one(self.on()).await?;
        let known: &str = row.try_get("job_id")?;
        JobId::parse(known).ok_or_else(|| {
            let text = format!("an arrival names the job {known:?}, which is no id");
            Failure::Refused(StoreError::Unusable(text))
        })
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

    /// Writes transitions, in rounds with one of a job at most: each round goes to the database's thread in a few
    /// statements, however many they are, since the way there and back costs more than a row does.
    pub(super) async fn transitions(
        &mut self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, Failure> {
        let mut answers = vec![Committed::Stale; transitions.len()];
        for round in rounds(transitions) {
            let mut moved = Vec::with_capacity(round.len());
            for (part, sql) in UPDATE.parts(&round) {
                moved.extend(self.update(node, transitions, part, sql).await?);
            }
            let (written, others): (Vec<_>, Vec<_>) =
                round.iter().partition(|n| moved.binary_search(&transitions[**n].job.id()).is_ok());
            for n in others {
                let Transition { job, event, .. } = &transitions[n];
                answers[n] = self.repeated(node, job.id(), event).await?;
            }
            if !written.is_empty() {
                self.follow(node, transitions, &written).await?;
            }
            for n in written {
                answers[n] = Committed::Done;
            }
        }
        Ok(answers)
    }

    /// As [`Self::transitions`] of one, but if it is refused, that is undone and answered, and the write goes on without it. For
    /// when something was: one row that can't be written must not keep hundreds of others waiting for ever.
    pub(super) async fn transition_apart(
        &mut self,
        node: &Node,
        transition: &Transition,
    ) -> Result<Committed, Failure> {
        query("SAVEPOINT apart").execute(self.on()).await?;
        let noted = self.noted.len();
        let answer = match self.transitions(node, std::slice::from_ref(transition)).await {
            Err(Failure::Sql(error)) => {
                let why = refusal(&error).ok_or(error)?;
                query("ROLLBACK TO apart").execute(self.on()).await?;
                self.noted.truncate(noted);
                Committed::Refused(why)
            }
            answers => answers?.pop().unwrap_or(Committed::Stale),
        };
        query("RELEASE apart").execute(self.on()).await?;
        Ok(answer)
    }

    /// Writes the rows that fit, and answers their jobs, in the order of their ids.
    async fn update(
        &mut self,
        node: &Node,
        transitions: &[Transition],
        part: &[usize],
        sql: &'static str,
    ) -> Result<Vec<JobId>, sqlx::Error> {
        let mut statement = query_scalar(sql).bind(node.id.0);
        for n in part {
            let record = transitions[*n].job.record();
            let digest = digest_text(&record);
            let held = record.held.map(|held| (held.code, held.message)).unzip();
            let error =
                record.error.map(|error| (error.class, (error.code, error.message))).unzip();
            let (error_code, error_message) = error.1.unzip();
            statement = statement
                .bind(record.id.to_string())
                .bind(record.revision.cast_signed())
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
                .bind(record.service.as_ref().map(json));
        }
        let ids: Vec<String> = statement.fetch_all(self.on()).await?;
        let mut ids: Vec<_> = ids.iter().filter_map(|id| JobId::parse(id)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Writes what goes with the rows of a round that were written.
    async fn follow(
        &mut self,
        node: &Node,
        transitions: &[Transition],
        written: &[usize],
    ) -> Result<(), sqlx::Error> {
        let events = written.iter().map(|n| (&transitions[*n].job, &transitions[*n].event));
        self.note(node, &events.collect::<Vec<_>>()).await?;
        let (mut ended, mut begun, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for n in written {
            let Transition { job, run, answers, .. } = &transitions[*n];
            let id = job.id().to_string();
            if let Some(want) = answers {
                let sql = "UPDATE job SET want = NULL WHERE id = ?1 AND want = ?2";
                query(sql).bind(&id).bind(want.to_text()).execute(self.on()).await?;
            }
            match run {
                Some(endpoint) if !job.is_done() => begun.push((id, endpoint.as_str())),
                _ => {
                    done.extend(job.is_done().then(|| id.clone()));
                    ended.push(id);
                }
            }
        }
        if !begun.is_empty() {
            let sql = "INSERT INTO remote_run (job_id, endpoint) \
                       SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true ON CONFLICT (job_id) \
                       DO UPDATE SET endpoint = excluded.endpoint WHERE endpoint <> excluded.endpoint";
            query(sql).bind(json(&begun)).execute(self.on()).await?;
        }
        if !ended.is_empty() {
            let sql = "DELETE FROM remote_run WHERE job_id IN (SELECT value FROM json_each(?1))";
            query(sql).bind(json(&ended)).execute(self.on()).await?;
        }
        if done.is_empty() {
            return Ok(());
        }
        let done = json(&done);
        for sql in [
            "DELETE FROM reservation WHERE job_id IN (SELECT value FROM json_each(?1))",
            // With a wish still to be answered it stays among the live ones, for anybody.
            "UPDATE job SET node = NULL \
             WHERE want IS NOT NULL AND id IN (SELECT value FROM json_each(?1))",
            concat!(
                "INSERT INTO job_history (site, name, node, ",
                columns!(),
                ") SELECT site, name, node, ",
                columns!(),
                " FROM job WHERE want IS NULL AND id IN (SELECT value FROM json_each(?1))",
            ),
            "DELETE FROM job WHERE want IS NULL AND id IN (SELECT value FROM json_each(?1))",
        ] {
            query(sql).bind(&done).execute(self.on()).await?;
        }
        Ok(())
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

    /// Writes events, and tells of them.
    pub(super) async fn note(
        &mut self,
        node: &Node,
        events: &[(&Job, &Event)],
    ) -> Result<(), sqlx::Error> {
        for (part, sql) in NOTE.parts(events) {
            let mut statement = query(sql);
            for (job, event) in part {
                statement = by_event(statement, node, job.id(), event);
            }
            statement.execute(self.on()).await?;
        }
        self.noted
            .extend(events.iter().map(|(job, event)| (node.site.clone(), as_told(job, event))));
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

/// A statement over rows that are bound one after the other, in a few lengths: each is prepared once.
struct Rows {
    /// What stands before the rows, and behind them.
    frame: [&'static str; 2],
    /// How many values a row has.
    columns: usize,
    texts: OnceLock<[String; LENGTHS.len()]>,
}

impl Rows {
    const fn new(columns: usize, frame: [&'static str; 2]) -> Self {
        Self { frame, columns, texts: OnceLock::new() }
    }

    /// The rows in parts, each with the statement for so many: its last rows may stay unbound, and so without an id.
    fn parts<'r, T>(&'static self, rows: &'r [T]) -> Vec<(&'r [T], &'static str)> {
        let texts = self.texts.get_or_init(|| LENGTHS.map(|length| self.text(length)));
        let text = |part: &[T]| {
            let n = LENGTHS.iter().position(|length| part.len() <= *length);
            texts[n.unwrap_or(LENGTHS.len() - 1)].as_str()
        };
        rows.chunks(LENGTHS[LENGTHS.len() - 1]).map(|part| (part, text(part))).collect()
    }

    fn text(&self, length: usize) -> String {
        // Without numbers, which the driver would look for in a list of all of them, at each.
        let row = format!("({})", vec!["?"; self.columns].join(","));
        [self.frame[0], &vec![row; length].join(","), self.frame[1]].concat()
    }
}

/// Few rows are padded to the next of these.
const LENGTHS: [usize; 3] = [1, 8, 64];

/// Writes rows that fit; the node comes first. Each `+` keeps the planner from another way than from what is bound to the
/// rows by their key: it would rather go through all of the node's jobs.
static UPDATE: Rows = Rows::new(
    26,
    [
        "WITH me (node) AS (VALUES (?)), i (id, revision, phase, generation, attempts, updated_at, finished_at, deadline_at, held_code, held_message, \
         error_class, error_code, error_message, input_blob, input_bytes, sha256, remote_id, redirects, results, outputs, \
         cancel_reason, ended_at, source_settled, source_moved_to, duplicate_of, service) AS (VALUES ",
        ") UPDATE job SET revision = i.revision, phase = i.phase, generation = i.generation, attempts = i.attempts, \
         updated_at = i.updated_at, finished_at = i.finished_at, deadline_at = i.deadline_at, held_code = i.held_code, \
         held_message = i.held_message, error_class = i.error_class, error_code = i.error_code, \
         error_message = i.error_message, input_blob = i.input_blob, input_bytes = i.input_bytes, sha256 = i.sha256, \
         remote_id = i.remote_id, redirects = i.redirects, results = i.results, outputs = i.outputs, \
         cancel_reason = i.cancel_reason, ended_at = i.ended_at, source_settled = i.source_settled, \
         source_moved_to = i.source_moved_to, duplicate_of = i.duplicate_of, service = i.service \
         FROM i WHERE job.id = +i.id AND +job.node = (SELECT node FROM me) AND job.revision = i.revision - 1 RETURNING job.id",
    ],
);

/// Writes arrivals, the site comes first; answers the jobs of those that are new.
static ARRIVE: Rows = Rows::new(
    6,
    [
        "INSERT INTO arrival (site, feed, path, inode, size_bytes, mtime_ns, job_id) SELECT ?, * FROM (VALUES ",
        ") WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING RETURNING job_id",
    ],
);

/// Writes jobs, the site comes first.
static MAKE: Rows = Rows::new(
    16,
    [
        "INSERT INTO job (site, feed, path, inode, size_bytes, mtime_ns, id, name, node, phase, generation, revision, \
         attempts, created_at, updated_at, deadline_at, fire) SELECT ?, * FROM (VALUES ",
        ") WHERE column1 IS NOT NULL",
    ],
);

/// Writes events. A row changed by hand may have an event of that revision already; it keeps that one.
static NOTE: Rows = Rows::new(
    9,
    [
        "INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome, detail) \
         SELECT * FROM (VALUES ",
        ") WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
    ],
);

/// A count as SQL gives it.
fn count(rows: i64) -> usize {
    usize::try_from(rows).unwrap_or_default()
}
