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
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Row, query, query_as, query_scalar};
use uuid::Uuid;

use super::state_dir::Registration;
use super::{Ids, Migrate, arrival_key, rounds, row, signed};
use crate::feed::Name;
use crate::job::{Arrival, Event, Job, JobId, Want};
use crate::ports::{
    Accepted, Admitted, Adopted, Ask, CallLimits, Clock, Committed, Draw, Drawn, Firing, FolderId,
    JobPage, JobQuery, Node, NodeId, Pause, Peer, Reservation, Reserved, Store, StoreError,
    Transition, Unowned, Wished,
};

mod budget;
mod content;
mod fires;
mod names;
mod nodes;
mod overview;
mod retention;
mod rows;
mod runs;
mod schema;
mod sent;
mod server;
mod session;
mod wish;

use nodes::{ADOPT, CLAIM, PAUSE, PAUSES, UNOWNED, WAITING};
use rows::{ACCEPT, KNOWN, columns, event, job, text};
pub use server::check_url;
use server::{CALLS, CONTROL, WRITING, close, failed, open, options, refusal};
use session::{Session, note};

/// The store on a PostgreSQL server.
#[derive(Debug)]
pub struct PostgresStore<C> {
    clock: C,
    ids: Ids,
    pool: PgPool,
    /// One connection for who lives: a beat must not wait behind what takes long, or all of the node's work stops.
    control: PgPool,
    /// One connection for transitions, which come one batch after the other; of two connections it is the other one.
    writer: PgPool,
    /// The database's own identity.
    id: Uuid,
}

impl<C: Clock> PostgresStore<C> {
    /// Connects to the database at `url` (`postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`), by up to
    /// `max_connections` connections, at least two. What the URL leaves out is taken from `PGUSER` and its like and from `~/.pgpass`.
    pub async fn connect(
        url: SecretString,
        max_connections: u32,
        migrate: Migrate,
        clock: C,
    ) -> Result<Self, StoreError> {
        if migrate == Migrate::Yes {
            Self::migrate(&url, clock.clone()).await?;
        }
        let control = options(&url, CONTROL)?;
        let options = options(&url, CALLS)?;
        let writing = options.clone().options(WRITING);
        let id = within(&clock, CALL_LIMIT, "be opened", async {
            let mut connection = open(&options).await?;
            match migrate {
                // It was told by the migration.
                Migrate::Yes => schema::check(&mut connection, Migrate::Check).await?,
                Migrate::Check => schema::check_and_tell(&mut connection).await?,
            }
            let id = query_scalar("SELECT id FROM store").fetch_one(&mut connection).await?;
            close(connection).await;
            Ok(id)
        })
        .await?;
        let pool = |connections: u32, options: PgConnectOptions| {
            let pool = PgPoolOptions::new().max_connections(connections);
            pool.acquire_timeout(ACQUIRE_LIMIT).connect_lazy_with(options)
        };
        let control = pool(1, control);
        let writer = (max_connections > 2).then(|| pool(1, writing));
        let taken = 1 + u32::from(writer.is_some());
        let pool = pool(max_connections.saturating_sub(taken).max(1), options);
        let writer = writer.unwrap_or_else(|| pool.clone());
        Ok(Self { clock, ids: Ids::default(), pool, control, writer, id })
    }

    /// Brings the database to this program's version. Returns the migrations that ran.
    pub async fn migrate(url: &SecretString, clock: C) -> Result<Vec<String>, StoreError> {
        // One that copies a large table may take its time.
        let options = options(url, CALLS)?.options([("statement_timeout", 0), ("lock_timeout", 0)]);
        within(&clock, MIGRATION_LIMIT, "be migrated", async {
            let mut connection = open(&options).await?;
            let ran = schema::migrate(&mut connection, &clock).await?;
            close(connection).await;
            Ok(ran)
        })
        .await
    }

    /// Whether a daemon that starts with `migrate` could work with the database. Changes nothing.
    pub async fn check(url: &SecretString, migrate: Migrate, clock: C) -> Result<(), StoreError> {
        let options = options(url, CALLS)?;
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

    /// The nodes of a site that the server knows, alive or not.
    pub(super) async fn known(&self, site: &str) -> Result<Vec<Registration>, StoreError> {
        self.bounded("read the nodes", 1, async {
            let mut session = self.session().await?;
            let sql = "SELECT id, started_at FROM node WHERE site = $1 ORDER BY id";
            let rows: Vec<(i64, DateTime<Utc>)> =
                query_as(sql).bind(text(site)).fetch_all(session.on()).await?;
            session.done();
            let known = |(id, at): (i64, DateTime<Utc>)| Registration {
                id: NodeId(id),
                at: at.timestamp_micros(),
            };
            Ok(rows.into_iter().map(known).collect())
        })
        .await
    }

    /// Closes all connections. A store that is dropped instead loses nothing.
    pub async fn close(self) {
        self.pool.close().await;
        self.control.close().await;
        self.writer.close().await;
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
        Session::from(&self.pool).await
    }

    /// Writes all rounds in one transaction, or nothing.
    async fn write(
        &self,
        node: &Node,
        transitions: &[Transition],
        rounds: &[Vec<usize>],
        answers: &mut [Committed],
    ) -> Result<(), Failure> {
        let mut session = Session::from(&self.writer).await?;
        let parts: Vec<_> = rounds.iter().flat_map(|round| round.chunks(STATEMENT_MAX)).collect();
        // A single statement is a transaction by itself.
        let many = parts.len() > 1;
        if many {
            session.begin().await?;
        }
        for part in parts {
            let written = session.write(node, transitions, part).await?;
            note(&written, transitions, part, answers);
        }
        if many {
            session.commit().await?;
        } else {
            session.done();
        }
        Ok(())
    }
}

impl<C: Clock> Store for PostgresStore<C> {
    fn is_shared(&self) -> bool {
        true
    }

    async fn register(&self, label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        let now = self.clock.now();
        self.bounded("register the node", 1, async {
            let mut session = self.session().await?;
            let sql = "INSERT INTO node (label, site, started_at, term_ms) VALUES ($1, $2, $3, $4) RETURNING id";
            let id = query_scalar(sql).bind(text(label)).bind(text(site)).bind(now);
            let id = id.bind(row::millis(term));
            let id = NodeId(id.fetch_one(session.on()).await?);
            session.done();
            Ok(Node { id, site: site.to_owned() })
        })
        .await
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        within(&self.clock, CONTROL_LIMIT, "count the node's beat", async {
            let mut session = Session::from(&self.control).await?;
            let sql = "UPDATE node SET beats = beats + 1 WHERE id = $1 AND NOT fenced";
            let beaten = query(sql).bind(node.id.0).execute(session.on()).await?;
            session.done();
            Ok(beaten.rows_affected() == 1)
        })
        .await
    }

    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        within(&self.clock, CONTROL_LIMIT, "read the other nodes", async {
            let mut session = Session::from(&self.control).await?;
            let sql = "SELECT id, beats, term_ms FROM node WHERE site = $1 AND id <> $2 AND NOT fenced ORDER BY id";
            let rows = query_as(sql).bind(text(&node.site)).bind(node.id.0);
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            Ok(row::peers(rows))
        })
        .await
    }

    /// Nobody that the server alone could tell: any of them may be alive on another machine.
    async fn gone(&self, _node: &Node) -> Result<Vec<NodeId>, StoreError> {
        Ok(Vec::new())
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        within(&self.clock, CONTROL_LIMIT, "fence a node off", async {
            let mut session = Session::from(&self.control).await?;
            let fenced = session.fence(node, beats).await?;
            session.done();
            Ok(fenced)
        })
        .await
    }

    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        const ATTEMPTED: &str = "give the node's jobs back";
        let knows: Vec<_> = knows.iter().map(|id| id.uuid()).collect();
        let mut all = 0;
        loop {
            // Most of them in bites that the server's time limit leaves enough time for.
            let some = self.bounded(ATTEMPTED, RETIRE_BATCH, async {
                let mut session = self.session().await?;
                let some = session.give_back(node, &knows, Some(signed(RETIRE_BATCH))).await?;
                session.done();
                Ok(some)
            });
            let some = some.await?;
            all += some;
            if some < RETIRE_BATCH as u64 {
                break;
            }
        }
        let rest = self.bounded(ATTEMPTED, RETIRE_BATCH, async {
            let mut session = self.session().await?;
            session.begin().await?;
            let rest = session.forget(node, &knows).await?;
            session.commit().await?;
            Ok(rest)
        });
        Ok(all + rest.await?)
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        self.bounded("count the jobs that nobody has", 1, async {
            let mut session = self.session().await?;
            let counts = query_as(UNOWNED).bind(text(&node.site)).bind(names_of(feeds));
            let (all, adoptable): (i64, i64) = counts.fetch_one(session.on()).await?;
            session.done();
            Ok(Unowned { all: all.cast_unsigned(), adoptable: adoptable.cast_unsigned() })
        })
        .await
    }

    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        self.bounded("count the jobs that wait", 1, async {
            let mut session = self.session().await?;
            let count = query_scalar(WAITING).bind(text(&node.site)).bind(feed.as_str());
            let count: i64 = count.fetch_one(session.on()).await?;
            session.done();
            Ok(count.cast_unsigned())
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
        let now = self.clock.now();
        self.bounded(ATTEMPTED, limit, async {
            let mut session = self.session().await?;
            session.begin().await?;
            let rows = query(ADOPT).bind(node.id.0).bind(text(&node.site)).bind(names_of(feeds));
            let rows = rows.bind(signed(limit)).bind(now).fetch_all(session.on()).await?;
            if rows.is_empty() {
                session.require(node, ATTEMPTED).await?;
            }
            let rows = rows.iter().map(|row| Ok((job(row), row.try_get("left_by")?)));
            let rows = rows.collect::<Result<Vec<_>, sqlx::Error>>()?;
            session.forget_the_dead().await?;
            session.commit().await?;
            Ok(row::adopted(rows.into_iter()))
        })
        .await
    }

    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        self.bounded("read which folder a feed has", 1, async {
            let mut session = self.session().await?;
            let mut there = session.folder(site, feed).await?;
            if let (None, Some(seen)) = (there, seen) {
                let sql = "INSERT INTO folder (site, feed, id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                let told = query(sql).bind(text(site)).bind(feed.as_str()).bind(seen.uuid());
                told.execute(session.on()).await?;
                // A look of its own: somebody may have been quicker, whom the statement above waits for and doesn't see.
                there = session.folder(site, feed).await?;
            }
            session.done();
            Ok(there)
        })
        .await
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        const ATTEMPTED: &str = "claim feeds";
        self.bounded(ATTEMPTED, feeds.len(), async {
            let mut session = self.session().await?;
            let row = query(CLAIM).bind(node.id.0).bind(text(&node.site)).bind(names_of(feeds));
            let row = row.fetch_one(session.on()).await?;
            if !row.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            session.done();
            let ours: Vec<String> = row.try_get("ours")?;
            Ok(feeds
                .iter()
                .filter(|feed| ours.iter().any(|f| f == feed.as_str()))
                .cloned()
                .collect())
        })
        .await
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        const ATTEMPTED: &str = "accept arrivals";
        let fired = fire.map(|fire| fire.row.fired());
        let is_once = |arrival: &'_ Arrival| arrival.once && fired.is_some();
        // One of each, in the order of what makes them unique; ids rise in the order of the call.
        let mut new = BTreeMap::new();
        for arrival in arrivals {
            let job = || Job::accepted(self.ids.next(now), arrival, now).made_by(fired.clone());
            let candidate = || (arrival, job());
            new.entry((arrival_key(arrival), is_once(arrival))).or_insert_with(candidate);
        }
        let new: Vec<_> = new.into_values().collect();
        self.bounded(ATTEMPTED, arrivals.len(), async {
            let mut session = self.session().await?;
            // Without a fire a single statement is a transaction by itself.
            if let Some(fire) = &fire {
                session.begin().await?;
                if !session.begin_fire(node, fire, arrivals, ATTEMPTED).await? {
                    session.roll_back().await?;
                    return Ok(vec![Accepted::Over; arrivals.len()]);
                }
            }
            let row = rows::accepted(query(ACCEPT), node, &new, fired.as_ref()).bind(signed(ours));
            let row = row.fetch_one(session.on()).await?;
            if !row.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            let made = |column| -> Result<HashSet<Uuid>, sqlx::Error> {
                Ok(row.try_get::<Vec<_>, _>(column)?.into_iter().collect())
            };
            let (ours, free) = (made("ours")?, made("free")?);
            let is = |made: &HashSet<Uuid>, job: &Job| made.contains(&job.id().uuid());
            let (new, known): (Vec<_>, Vec<_>) =
                new.into_iter().partition(|(_, job)| is(&ours, job) || is(&free, job));
            let mut answers = HashMap::with_capacity(arrivals.len());
            if !known.is_empty() {
                let known = known.iter().map(|(arrival, _)| *arrival);
                let ids = rows::by_arrival(query(KNOWN), node, known.clone());
                let ids = ids.fetch_all(session.on()).await?;
                for (arrival, row) in known.zip(ids) {
                    let id: Uuid = row.try_get(0)?;
                    let key = (arrival_key(arrival), is_once(arrival));
                    answers.insert(key, Accepted::Known(JobId::new(id)));
                }
            }
            if let Some(fire) = &fire {
                session.move_fire(fire, new.iter().map(|(_, job)| job)).await?;
                session.commit().await?;
            } else {
                session.done();
            }
            for (arrival, job) in new {
                let accepted = if is(&ours, &job) { Accepted::New } else { Accepted::Free };
                answers.insert((arrival_key(arrival), is_once(arrival)), accepted(Box::new(job)));
            }
            let answer = |arrival| {
                let answer = answers.get_mut(&(arrival_key(arrival), is_once(arrival)))?;
                // Whoever comes second in one call finds the first one's job.
                let again = match answer {
                    Accepted::New(job) | Accepted::Free(job) => Accepted::Known(job.id()),
                    Accepted::Known(id) => Accepted::Known(*id),
                    Accepted::Over => Accepted::Over,
                };
                Some(std::mem::replace(answer, again))
            };
            Ok(arrivals.iter().filter_map(answer).collect())
        })
        .await
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        self.bounded("admit jobs", asks.len(), async {
            let mut session = self.session().await?;
            session.begin().await?;
            let (jobs, duplicates) = session.recognise(node, asks, now).await?;
            let admission = session.admit(node, endpoint, asks, &jobs, limit).await?;
            session.commit().await?;
            Ok(admission.answer(duplicates))
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
            match self.write(node, transitions, &rounds, &mut answers).await {
                Err(Failure::Sql(error)) if refusal(&error).is_some() => {}
                written => return written.map(|()| answers),
            }
            answers.fill(Committed::Stale);
            let mut session = Session::from(&self.writer).await?;
            for part in rounds.iter().flat_map(|round| round.chunks(STATEMENT_MAX)) {
                session.write_in_parts(node, transitions, part, &mut answers).await?;
            }
            session.done();
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

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        const ATTEMPTED: &str = "note what is wanted of a job";
        self.bounded(ATTEMPTED, 1, async {
            // Each time, it went from one table of jobs to the other meanwhile, or into another generation.
            for _ in 0..WISH_TRIES {
                let mut session = self.session().await?;
                let wished = session.wish(id, want, generation).await?;
                session.done();
                if let Some(wished) = wished {
                    return Ok(wished);
                }
            }
            let cause = "the job changes all the time".to_owned();
            Err(StoreError::Unavailable { attempted: ATTEMPTED, cause }.into())
        })
        .await
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        self.bounded("read what is wanted of jobs", 1, async {
            let sql = "SELECT id, revision, want FROM job \
                       WHERE node = $1 AND want IS NOT NULL ORDER BY id";
            let mut session = self.session().await?;
            let rows = query_as(sql).bind(node.id.0);
            let rows: Vec<(Uuid, i64, String)> = rows.fetch_all(session.on()).await?;
            session.done();
            let read = |(id, revision, want)| (JobId::new(id), revision, want);
            Ok(row::wishes(rows.into_iter().map(read)))
        })
        .await
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        self.bounded("read which jobs the node has", 1, async {
            let sql = "SELECT id, revision FROM job WHERE node = $1 ORDER BY id";
            let mut session = self.session().await?;
            let rows = query_as(sql).bind(node.id.0);
            let rows: Vec<(Uuid, i64)> = rows.fetch_all(session.on()).await?;
            session.done();
            let read = |(id, revision): (Uuid, i64)| (JobId::new(id), revision.cast_unsigned());
            Ok(rows.into_iter().map(read).collect())
        })
        .await
    }

    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        self.bounded("tell of a pause", 1, async {
            let mut session = self.session().await?;
            let told = query(PAUSE).bind(endpoint.as_str()).bind(row::millis(time));
            told.bind(PAUSES).bind(node.id.0).execute(session.on()).await?;
            session.done();
            Ok(())
        })
        .await
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        self.bounded("read pauses", 1, async {
            let sql =
                "SELECT serial, node, endpoint, millis FROM pause WHERE serial > $1 ORDER BY serial";
            let mut session = self.session().await?;
            let rows = query_as(sql).bind(i64::try_from(after).unwrap_or(i64::MAX));
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            Ok(row::pauses(rows))
        })
        .await
    }

    /// By the server's clock: the nodes' own differ.
    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        _now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        self.bounded("draw calls from a budget", 1, async {
            let mut session = self.session().await?;
            let drawn = session.draw(budget, limits, draw).await?;
            session.done();
            Ok(drawn)
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
            // An owner that can't be read is not nobody.
            let rows = rows.iter().map(|row| Ok((job(row), row.try_get("node")?)));
            Ok(row::in_order(ids, rows.collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter()))
        })
        .await
    }

    async fn list(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.page(wanted).await
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.bounded("read a job's history", 1, async {
            let sql = "SELECT revision, at, generation, from_phase, to_phase, outcome, detail \
                       FROM job_event WHERE job_id = $1 ORDER BY revision";
            let mut session = self.session().await?;
            let rows = query(sql).bind(id.uuid()).fetch_all(session.on()).await?;
            session.done();
            Ok(row::events(id, rows.iter().map(event)))
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

fn names_of(feeds: &[Name]) -> Vec<&str> {
    feeds.iter().map(Name::as_str).collect()
}

/// Less than any call's limit, so that the reason is known.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(4);
/// How long a beat may take, and a look at the others: there is another one in a moment.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);
/// How long a call may take that touches few rows, and how much more for each row.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const ROW_LIMIT: Duration = Duration::from_millis(1);
const MIGRATION_LIMIT: Duration = Duration::from_mins(10);
const RESERVE_TRIES: usize = 5;
const WISH_TRIES: usize = 5;
/// Jobs given back by one statement.
const RETIRE_BATCH: usize = 5000;
/// Transitions in one statement: its plan, made for any number of them, goes through all for each.
const STATEMENT_MAX: usize = 500;
