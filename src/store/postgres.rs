//! The store on a PostgreSQL server, made for several nodes.
//!
//! Every write is one statement over arrays wherever it can be: one way to the server and back, one transaction that
//! nobody can leave half open, and no difference between one job and a thousand. Rows are locked in the order of their
//! keys, and adoption skips what others have locked, so nodes do not wait for one another in circles.
//!
//! A connection goes back to the pool by a finished call alone. After an error, or when the caller went away in the
//! middle, it is closed: a connection that doesn't know where it stands must not be used again. What the server was
//! asked meanwhile ends by its own time limit, which is shorter than ours.
//!
//! What a session needs in order to be right is asked for when it begins and wins over every default of the server, the
//! database and the user: an answered commit is on the disk (`synchronous_commit`), whatever anybody set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::{Postgres, QueryBuilder, Row, query, query_scalar};
use uuid::Uuid;

use super::row::Unreadable;
use super::{Ids, Migrate, forgotten, signed};
use crate::feed::Name;
use crate::job::{Arrival, Event, Job, JobId, Want};
use crate::ports::{
    Accepted, Adopted, Clock, Committed, JobPage, JobQuery, Node, NodeId, Pause, Reservation,
    Reserved, Store, StoreError, Transition, Unowned, Wished,
};

mod rows;
mod schema;
mod server;

use rows::{ACCEPT, KNOWN, REPEATED, WRITE, columns, event, job, text};
pub use server::check_url;
use server::{close, failed, open, options};

/// The store on a PostgreSQL server.
#[derive(Debug)]
pub struct PostgresStore<C> {
    clock: C,
    ids: Ids,
    pool: PgPool,
    /// The database's own identity.
    id: Uuid,
}

impl<C: Clock> PostgresStore<C> {
    /// Connects to the database at `url` (`postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`), by up to
    /// `max_connections` connections. What the URL leaves out is taken from `PGUSER` and its like and from `~/.pgpass`.
    pub async fn connect(
        url: SecretString,
        max_connections: u32,
        migrate: Migrate,
        clock: C,
    ) -> Result<Self, StoreError> {
        if migrate == Migrate::Yes {
            Self::migrate(&url, clock.clone()).await?;
        }
        let options = options(&url)?;
        let id = within(&clock, CALL_LIMIT, "be opened", async {
            let mut connection = open(&options).await?;
            schema::check(&mut connection, Migrate::Check).await?;
            let id = query_scalar("SELECT id FROM store").fetch_one(&mut connection).await?;
            close(connection).await;
            Ok(id)
        })
        .await?;
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .connect_lazy_with(options);
        Ok(Self { clock, ids: Ids::default(), pool, id })
    }

    /// Brings the database to this program's version. Returns the migrations that ran.
    pub async fn migrate(url: &SecretString, clock: C) -> Result<Vec<String>, StoreError> {
        // One that copies a large table may take its time.
        let options = options(url)?.options([("statement_timeout", 0), ("lock_timeout", 0)]);
        within(&clock, MIGRATION_LIMIT, "be migrated", async {
            let mut connection = open(&options).await?;
            let ran = schema::migrate(&mut connection).await?;
            close(connection).await;
            Ok(ran)
        })
        .await
    }

    /// Whether a daemon that starts with `migrate` could work with the database. Changes nothing.
    pub async fn check(url: &SecretString, migrate: Migrate, clock: C) -> Result<(), StoreError> {
        let options = options(url)?;
        within(&clock, CALL_LIMIT, "be opened", async {
            let mut connection = open(&options).await?;
            schema::check(&mut connection, migrate).await?;
            close(connection).await;
            Ok(())
        })
        .await
    }

    /// The database's own identity: no other database has it, although others give the same ids to their nodes.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Closes all connections. A store that is dropped instead loses nothing.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Does `work` in a time that is bounded by how much it is.
    async fn bounded<T: Send>(
        &self,
        attempted: &'static str,
        rows: usize,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, StoreError> {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let limit = CALL_LIMIT.saturating_add(ROW_LIMIT.saturating_mul(rows));
        within(&self.clock, limit, attempted, work).await
    }

    async fn session(&self) -> Result<Session, Failure> {
        // Boxed: connecting with TLS is most of what any call's future could ever need room for.
        let connection = Box::pin(self.pool.acquire()).await?;
        Ok(Session { connection, done: false })
    }
}

impl<C: Clock> Store for PostgresStore<C> {
    fn is_shared(&self) -> bool {
        true
    }

    async fn register(&self, label: &str, site: &str) -> Result<Node, StoreError> {
        let now = self.clock.now();
        self.bounded("register the node", 1, async {
            let mut session = self.session().await?;
            let sql = "INSERT INTO node (label, site, started_at) VALUES ($1, $2, $3) RETURNING id";
            let id = query_scalar(sql).bind(text(label)).bind(text(site)).bind(now);
            let id = NodeId(id.fetch_one(session.on()).await?);
            session.done();
            Ok(Node { id, site: site.to_owned() })
        })
        .await
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        self.bounded("count the node's beat", 1, async {
            let mut session = self.session().await?;
            let sql = "UPDATE node SET beats = beats + 1 WHERE id = $1";
            let beaten = query(sql).bind(node.id.0).execute(session.on()).await?;
            session.done();
            Ok(beaten.rows_affected() == 1)
        })
        .await
    }

    async fn others(&self, node: &Node) -> Result<Vec<(NodeId, u64)>, StoreError> {
        self.bounded("read the other nodes", 1, async {
            let mut session = self.session().await?;
            let sql = "SELECT id, beats FROM node WHERE site = $1 AND id <> $2 ORDER BY id";
            let rows = query(sql).bind(text(&node.site)).bind(node.id.0);
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            let other = |row: &PgRow| {
                let beats: i64 = row.try_get("beats")?;
                Ok((NodeId(row.try_get("id")?), beats.cast_unsigned()))
            };
            rows.iter().map(other).collect()
        })
        .await
    }

    /// Nobody that the server alone could tell: any of them may be alive on another machine.
    async fn gone(&self, _node: &Node) -> Result<Vec<NodeId>, StoreError> {
        Ok(Vec::new())
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        unfinished((node, beats))
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        unfinished((node, feeds))
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        unfinished((node, feeds))
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        jobs: &[JobId],
        limit: usize,
    ) -> Result<Vec<JobId>, StoreError> {
        unfinished((node, endpoint, jobs, limit))
    }

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        unfinished((id, want, generation))
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        unfinished((node,))
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        unfinished((node,))
    }

    async fn pause(&self, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        unfinished((endpoint, time))
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        unfinished((after,))
    }

    async fn retire(&self, node: &Node) -> Result<u64, StoreError> {
        self.bounded("give the node's jobs back", 1000, async {
            let mut session = self.session().await?;
            session.begin().await?;
            // Nobody accepts or adopts for it any more, once this is ours.
            let sql = "SELECT 1 FROM node WHERE id = $1 FOR UPDATE";
            query(sql).bind(node.id.0).execute(session.on()).await?;
            let sql = "UPDATE job SET node = NULL WHERE node = $1";
            let given_back = query(sql).bind(node.id.0).execute(session.on()).await?;
            let sql = "DELETE FROM node WHERE id = $1";
            query(sql).bind(node.id.0).execute(session.on()).await?;
            session.commit().await?;
            Ok(given_back.rows_affected())
        })
        .await
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        const ATTEMPTED: &str = "adopt jobs";
        // A row changed by hand may have an event of that revision already; the others must not wait for it.
        const ADOPT: &str = concat!(
            "WITH me AS ( \
               SELECT id FROM node WHERE id = $1 FOR KEY SHARE \
             ), found AS ( \
               SELECT id FROM job WHERE (node IS NULL OR node = ANY($4)) AND site = $2 AND feed = ANY($3) \
                 AND EXISTS (SELECT FROM me) \
               ORDER BY id LIMIT $5 FOR UPDATE SKIP LOCKED \
             ), adopted AS ( \
               UPDATE job SET node = $1, revision = revision + 1, updated_at = $6 FROM found \
               WHERE job.id = found.id RETURNING job.* \
             ), noted AS ( \
               INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome) \
               SELECT id, revision, $6, $1, generation, phase, phase, 'adopted' FROM adopted ON CONFLICT DO NOTHING \
             ) SELECT ",
            columns!(),
            " FROM adopted ORDER BY id"
        );
        let now = self.clock.now();
        self.bounded(ATTEMPTED, limit, async {
            let mut session = self.session().await?;
            let feeds: Vec<_> = feeds.iter().map(Name::as_str).collect();
            let dead: Vec<i64> = Vec::new();
            let rows = query(ADOPT).bind(node.id.0).bind(text(&node.site)).bind(feeds).bind(dead);
            let rows = rows.bind(signed(limit)).bind(now).fetch_all(session.on()).await?;
            if rows.is_empty() {
                session.require(node, ATTEMPTED).await?;
            }
            session.done();
            let mut adopted = Adopted::default();
            for row in &rows {
                match job(row) {
                    Ok(job) => adopted.jobs.push((job, None)),
                    Err(Unreadable::Corrupt(corrupt)) => adopted.corrupt.push(corrupt),
                    Err(unreadable) => unreadable.log(),
                }
            }
            Ok(adopted)
        })
        .await
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<Accepted>, StoreError> {
        const ATTEMPTED: &str = "accept arrivals";
        // One of each, in the order of what makes them unique; ids rise in the order of the call.
        let mut new = BTreeMap::new();
        for arrival in arrivals {
            let candidate = || (arrival, Job::accepted(self.ids.next(now), arrival, now));
            new.entry(arrival_key(arrival)).or_insert_with(candidate);
        }
        let new: Vec<_> = new.into_values().collect();
        self.bounded(ATTEMPTED, arrivals.len(), async {
            let mut session = self.session().await?;
            let row = rows::accepted(query(ACCEPT), node, &new).fetch_one(session.on()).await?;
            if !row.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            let made: Vec<Uuid> = row.try_get("new")?;
            let made: HashSet<_> = made.into_iter().map(JobId::new).collect();
            let (ours, known): (Vec<_>, Vec<_>) =
                new.into_iter().partition(|(_, job)| made.contains(&job.id()));
            let mut answers = HashMap::with_capacity(ours.len() + known.len());
            if !known.is_empty() {
                let known = known.iter().map(|(arrival, _)| *arrival);
                let ids = rows::by_arrival(query(KNOWN), node, known.clone());
                let ids = ids.fetch_all(session.on()).await?;
                for (arrival, row) in known.zip(ids) {
                    let id: Uuid = row.try_get(0)?;
                    answers.insert(arrival_key(arrival), Accepted::Known(JobId::new(id)));
                }
            }
            session.done();
            for (arrival, job) in ours {
                answers.insert(arrival_key(arrival), Accepted::New(Box::new(job)));
            }
            let answer = |arrival| {
                let answer = answers.get_mut(&arrival_key(arrival))?;
                // Whoever comes second in one call finds the first one's job.
                let again = match answer {
                    Accepted::New(job) | Accepted::Free(job) => Accepted::Known(job.id()),
                    Accepted::Known(id) => Accepted::Known(*id),
                };
                Some(std::mem::replace(answer, again))
            };
            Ok(arrivals.iter().filter_map(answer).collect())
        })
        .await
    }

    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        self.bounded("write transitions", transitions.len(), async {
            let mut answers = vec![Committed::Stale; transitions.len()];
            let rounds = rounds(transitions);
            if rounds.is_empty() {
                return Ok(answers);
            }
            let mut session = self.session().await?;
            // A single statement is a transaction by itself.
            let many = rounds.len() > 1;
            if many {
                session.begin().await?;
            }
            for round in &rounds {
                let written = session.write(node, transitions, round).await?;
                for n in round {
                    if written.contains(&transitions[*n].job.id()) {
                        answers[*n] = Committed::Done;
                    }
                }
            }
            if many {
                session.commit().await?;
            } else {
                session.done();
            }
            Ok(answers)
        })
        .await
    }

    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        const ATTEMPTED: &str = "reserve file names";
        self.bounded(ATTEMPTED, reservations.len(), async {
            // Each time, somebody else was given a name of ours.
            for _ in 0..RESERVE_TRIES {
                let mut session = self.session().await?;
                session.begin().await?;
                if let Some(answers) = session.reserve(node, reservations).await? {
                    session.commit().await?;
                    return Ok(answers);
                }
                session.roll_back().await?;
            }
            let cause = "others reserve the same names all the time".to_owned();
            Err(StoreError::Unavailable { attempted: ATTEMPTED, cause }.into())
        })
        .await
    }

    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        self.bounded("read jobs", ids.len(), async {
            // One statement, so that a job that is just moving into the history is seen on one side of it.
            let sql = concat!(
                "SELECT node, ",
                columns!(),
                " FROM job WHERE id = ANY($1) UNION ALL SELECT NULL, ",
                columns!(),
                " FROM job_history WHERE id = ANY($1)",
            );
            let mut session = self.session().await?;
            let wanted: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
            let rows = query(sql).bind(wanted).fetch_all(session.on()).await?;
            session.done();
            let mut found = HashMap::with_capacity(rows.len());
            for row in &rows {
                match job(row) {
                    Ok(job) => {
                        let owner: Option<i64> = row.try_get("node")?;
                        found.insert(job.id(), (job, owner.map(NodeId)));
                    }
                    Err(unreadable) => unreadable.log(),
                }
            }
            Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
        })
        .await
    }

    async fn list(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.bounded("list jobs", wanted.limit, async {
            // One more than the page, to know whether there is another.
            let limit = signed(wanted.limit).saturating_add(1);
            let mut sql = QueryBuilder::new("SELECT * FROM (");
            for (begin, end) in [
                (concat!("(SELECT ", columns!(), " FROM job"), ") UNION ALL "),
                (concat!("(SELECT ", columns!(), " FROM job_history"), ")"),
            ] {
                sql.push(begin);
                filter(&mut sql, wanted);
                sql.push(" ORDER BY id DESC LIMIT ").push_bind(limit).push(end);
            }
            sql.push(") AS job ORDER BY id DESC LIMIT ").push_bind(limit);
            let mut session = self.session().await?;
            let mut rows = sql.build().fetch_all(session.on()).await?;
            session.done();
            let more = rows.len() > wanted.limit;
            rows.truncate(wanted.limit);
            let mut page = JobPage::default();
            if let (true, Some(last)) = (more, rows.last()) {
                page.next = Some(JobId::new(last.try_get("id")?));
            }
            for row in &rows {
                match job(row) {
                    Ok(job) => page.jobs.push(job),
                    Err(unreadable) => unreadable.log(),
                }
            }
            Ok(page)
        })
        .await
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.bounded("read a job's history", 1, async {
            let sql = "SELECT revision, at, generation, from_phase, to_phase, outcome, detail \
                       FROM job_event WHERE job_id = $1 ORDER BY revision";
            let mut session = self.session().await?;
            let rows = query(sql).bind(id.uuid()).fetch_all(session.on()).await?;
            session.done();
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                if let Some(event) = event(row) {
                    events.push(event);
                } else {
                    tracing::error!(job = %id, "an event in the store can't be read");
                }
            }
            Ok(events)
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.bounded("answer", 1, async {
            let mut session = self.session().await?;
            schema::check(session.on(), Migrate::Check).await?;
            session.done();
            Ok(())
        })
        .await
    }
}

/// A connection that something is under way on. Dropping it before that is done closes the connection.
struct Session {
    connection: PoolConnection<Postgres>,
    done: bool,
}

impl Session {
    fn on(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        query("BEGIN").execute(self.on()).await.map(drop)
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        query("COMMIT").execute(self.on()).await?;
        self.done();
        Ok(())
    }

    async fn roll_back(mut self) -> Result<(), sqlx::Error> {
        query("ROLLBACK").execute(self.on()).await?;
        self.done();
        Ok(())
    }

    fn done(mut self) {
        self.done = true;
    }

    /// A job of a node that is forgotten would never be anybody's again.
    async fn require(&mut self, node: &Node, attempted: &'static str) -> Result<(), Failure> {
        let known = query("SELECT 1 FROM node WHERE id = $1").bind(node.id.0);
        if known.fetch_optional(self.on()).await?.is_some() {
            return Ok(());
        }
        let cause = forgotten(node.id);
        Err(StoreError::Unavailable { attempted, cause }.into())
    }

    /// Writes a round of transitions; answers the jobs of those that are written, now or before.
    async fn write(
        &mut self,
        node: &Node,
        transitions: &[Transition],
        round: &[usize],
    ) -> Result<HashSet<JobId>, sqlx::Error> {
        let mut round: Vec<_> = round.iter().map(|n| &transitions[*n]).collect();
        let written = rows::transitions(query(WRITE), node, &round).fetch_all(self.on()).await?;
        let id = |row: &PgRow| row.try_get("id").map(JobId::new);
        let mut written = written.iter().map(id).collect::<Result<HashSet<_>, _>>()?;
        round.retain(|transition| !written.contains(&transition.job.id()));
        if !round.is_empty() {
            let repeated = rows::events(query(REPEATED), node, &round).fetch_all(self.on()).await?;
            written.extend(repeated.iter().map(id).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(written)
    }

    /// Reserves, in the transaction that is begun; `None` when somebody else was quicker.
    async fn reserve(
        &mut self,
        node: &Node,
        wishes: &[Reservation],
    ) -> Result<Option<Vec<Reserved>>, Failure> {
        let jobs: Vec<_> = wishes.iter().map(|wish| wish.job.uuid()).collect();
        let paths: Vec<_> = wishes.iter().map(|wish| wish.path.as_os_str().as_bytes()).collect();
        let slots: Vec<_> = wishes.iter().map(|wish| text(&wish.slot)).collect();
        // Locked, so that none of them ends, or becomes another node's, before its reservation is there.
        let sql = "SELECT id FROM job WHERE id = ANY($1) AND node = $2 ORDER BY id FOR SHARE";
        let ours = query_scalar(sql).bind(&jobs).bind(node.id.0);
        let ours: Vec<Uuid> = ours.fetch_all(self.on()).await?;
        let sql = "SELECT path, job_id, slot FROM reservation WHERE path = ANY($1) UNION \
                   SELECT r.path, r.job_id, r.slot FROM reservation r \
                   JOIN unnest($2::uuid[], $3::text[]) AS wish (job_id, slot) USING (job_id, slot)";
        let rows = query(sql).bind(&paths).bind(&jobs).bind(&slots).fetch_all(self.on()).await?;
        let mut names = Names::default();
        for row in &rows {
            let (path, slot): (Vec<u8>, String) = (row.try_get("path")?, row.try_get("slot")?);
            names.give(JobId::new(row.try_get("job_id")?), slot, OsString::from_vec(path).into());
        }
        let ours: HashSet<_> = ours.into_iter().map(JobId::new).collect();
        let (answers, mut new) = names.allot(wishes, &ours);
        new.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let jobs: Vec<_> = new.iter().map(|wish| wish.job.uuid()).collect();
        let paths: Vec<_> = new.iter().map(|wish| wish.path.as_os_str().as_bytes()).collect();
        let slots: Vec<_> = new.iter().map(|wish| text(&wish.slot)).collect();
        let sql = "INSERT INTO reservation (path, job_id, slot) \
                   SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::text[]) ON CONFLICT DO NOTHING";
        let kept = query(sql).bind(paths).bind(jobs).bind(slots).execute(self.on()).await?;
        Ok((kept.rows_affected() == new.len() as u64).then_some(answers))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// Names that are reserved.
#[derive(Default)]
struct Names {
    by_slot: HashMap<(JobId, String), PathBuf>,
    taken: HashSet<PathBuf>,
}

impl Names {
    fn give(&mut self, job: JobId, slot: String, path: PathBuf) {
        self.taken.insert(path.clone());
        self.by_slot.insert((job, slot), path);
    }

    /// Answers wishes one after the other, and says which of them are to be kept.
    fn allot<'w>(
        mut self,
        wishes: &'w [Reservation],
        ours: &HashSet<JobId>,
    ) -> (Vec<Reserved>, Vec<&'w Reservation>) {
        let mut new = Vec::new();
        let mut answers = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let slot = text(&wish.slot).into_owned();
            answers.push(if !ours.contains(&wish.job) {
                Reserved::Lost
            } else if let Some(path) = self.by_slot.get(&(wish.job, slot.clone())) {
                Reserved::Yours(path.clone())
            } else if self.taken.contains(&wish.path) {
                Reserved::Taken
            } else {
                self.give(wish.job, slot, wish.path.clone());
                new.push(wish);
                Reserved::Yours(wish.path.clone())
            });
        }
        (answers, new)
    }
}

/// Why a call came to nothing.
enum Failure {
    Sql(sqlx::Error),
    Refused(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// Transitions in rounds, each with one of a job at most, in the order of the jobs' ids: a statement can write a row
/// once. Almost always it is one round.
fn rounds(transitions: &[Transition]) -> Vec<Vec<usize>> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<JobId, usize> = HashMap::with_capacity(transitions.len());
    for (n, transition) in transitions.iter().enumerate() {
        let round = seen.entry(transition.job.id()).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(n);
        *round += 1;
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|n| transitions[*n].job.id());
    }
    rounds
}

/// What makes an arrival unique in its site.
fn arrival_key(arrival: &Arrival) -> (&str, &[u8], u64, u64, i64) {
    let file = arrival.file;
    let (feed, path) = (arrival.feed.as_str(), arrival.path.as_bytes());
    (feed, path, file.inode, file.size_bytes, file.mtime_ns)
}

fn filter(sql: &mut QueryBuilder<Postgres>, wanted: &JobQuery) {
    sql.push(" WHERE true");
    if let Some(feed) = &wanted.feed {
        sql.push(" AND feed = ").push_bind(feed.as_str().to_owned());
    }
    if let Some(phase) = wanted.phase {
        sql.push(" AND phase = ").push_bind(phase.name());
    }
    if let Some(held) = wanted.held {
        sql.push(if held { " AND held_code IS NOT NULL" } else { " AND held_code IS NULL" });
    }
    if let Some(name) = &wanted.name {
        if name.contains('\0') {
            // No file has it in its name, and no text can here.
            sql.push(" AND false");
        } else {
            // Not LIKE: its pattern would have to be escaped. In the column's collation `lower` knows ASCII alone.
            let name = name.to_ascii_lowercase();
            sql.push(" AND position(").push_bind(name).push(" in lower(name)) > 0");
        }
    }
    if let Some(since) = wanted.since {
        sql.push(" AND created_at >= ").push_bind(since);
        // An id carries the time it was made, or a later one: the key leads there without a walk through all that is
        // older.
        let millis = u64::try_from(since.timestamp_millis()).unwrap_or_default();
        sql.push(" AND id >= ").push_bind(Uuid::from_u128(u128::from(millis) << 80));
    }
    if let Some(before) = wanted.before {
        sql.push(" AND id < ").push_bind(before.uuid());
    }
}

/// Does `work` within a time, and says in words what went wrong.
async fn within<C: Clock, T: Send>(
    clock: &C,
    limit: Duration,
    attempted: &'static str,
    work: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<T, StoreError> {
    match clock.timeout(limit, work).await {
        Some(Ok(done)) => Ok(done),
        Some(Err(Failure::Refused(error))) => Err(error),
        Some(Err(Failure::Sql(error))) => Err(failed(attempted, &error)),
        None => {
            let cause = format!(
                "no answer within {limit:?}; look at the database server and at the network between"
            );
            Err(StoreError::Unavailable { attempted, cause })
        }
    }
}

/// Less than a call's limit, so that the reason is known.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// How long a call may take that touches few rows, and how much more for each row.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const ROW_LIMIT: Duration = Duration::from_millis(1);
const MIGRATION_LIMIT: Duration = Duration::from_mins(10);
const RESERVE_TRIES: usize = 5;

fn unfinished<T, A>(_: A) -> Result<T, StoreError> {
    Err(StoreError::Unusable("unfinished".into()))
}
