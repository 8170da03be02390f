//! Transitions committed per second, beside the same work by hand and pgbench.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::clock::SystemClock;
use scoreline::ports::{Clock as _, Store};
use scoreline::store::{Migrate, PostgresStore, SqliteStore};
use sqlx::Connection as _;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::figure::{Figure, Section, per_second, since};
use crate::jobs::{STEPS, accept, commit, commits, repeat_in_postgres};
use crate::server::{Database, Server, programs};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let mut figures = Vec::new();
    // With several clients the embedded store has nothing to show: it has one writer.
    for (batch, clients) in [(1, 1), (100, 1), (500, 1), (1, 4), (100, 4)] {
        let jobs = extent.of(if batch == 1 { 400 } else { 6000 }).next_multiple_of(batch * clients);
        let plural = if clients == 1 { "" } else { "s" };
        let beside = format!("pgbench, {clients} client{plural}");
        let mut postgres = Figure::new(format!("PostgreSQL, {batch} a commit"), beside.clone())
            .at_least(1.0 / 3.0);
        let mut sqlite = Figure::new(format!("SQLite, {batch} a commit"), beside);
        for turn in 0..extent.turns {
            let work = Work { jobs, batch, clients };
            let mut sides = [Side::Pgbench, Side::Postgres, Side::Sqlite];
            sides.rotate_left(turn % 3);
            let mut rates = [0.0; 3];
            for side in sides {
                rates[side as usize] = match side {
                    Side::Pgbench => work.by_pgbench(server).await?,
                    Side::Postgres => work.on_postgres(server).await?,
                    Side::Sqlite if clients > 1 => continue,
                    Side::Sqlite => work.on_sqlite().await?,
                };
            }
            let [by_pgbench, on_postgres, on_sqlite] = rates;
            postgres.add(on_postgres, by_pgbench);
            if clients == 1 {
                sqlite.add(on_sqlite, by_pgbench);
            }
        }
        figures.push(postgres);
        if clients == 1 {
            figures.push(sqlite);
        }
    }
    let conditions = vec![
        "6 transitions a job, from its acceptance to the history, each with its event; a new database each time".to_owned(),
        "pgbench -M prepared with benches/transitions.sql: the same tables, rows and commits, written by hand".to_owned(),
    ];
    Ok(Section {
        title: "Transitions committed".to_owned(),
        conditions,
        figures,
        spreads: Vec::new(),
        counts: Vec::new(),
    })
}

#[derive(Clone, Copy)]
enum Side {
    Pgbench,
    Postgres,
    Sqlite,
}

#[derive(Clone, Copy)]
struct Work {
    jobs: usize,
    /// Transitions in one commit.
    batch: usize,
    clients: usize,
}

impl Work {
    fn rate(self, time: Duration) -> f64 {
        per_second(self.jobs * STEPS, time)
    }

    async fn on_sqlite(self) -> anyhow::Result<f64> {
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(folder.path(), Migrate::Yes, CLOCK).await?;
        let node = store.register("bench", "site", scoreline::engine::lease::TERM).await?;
        let (jobs, _) = accept(&store, &node, "f", self.jobs).await?;
        Ok(self.rate(commit(&store, &node, &commits(&jobs, self.batch)?).await?))
    }

    async fn on_postgres(self, server: &Server) -> anyhow::Result<f64> {
        let database = Database::on(server);
        let mut clients = Vec::new();
        for client in 0..self.clients {
            let store = connect(&database).await?;
            let node = store.register("bench", "site", scoreline::engine::lease::TERM).await?;
            let share = self.jobs / self.clients;
            let (jobs, _) = accept(&store, &node, &client.to_string(), share).await?;
            clients.push((store, node, commits(&jobs, self.batch)?));
        }
        settle(&database).await;
        let mut tasks = JoinSet::new();
        let began = CLOCK.boot();
        for (store, node, commits) in clients {
            tasks.spawn(async move { commit(&store, &node, &commits).await });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(self.rate(since(began)))
    }

    async fn by_pgbench(self, server: &Server) -> anyhow::Result<f64> {
        let database = Database::on(server);
        let store = connect(&database).await?;
        let node = store.register("bench", "site", scoreline::engine::lease::TERM).await?;
        accept(&store, &node, "f", 1).await?;
        store.close().await;
        database.by_hand(BENCH_ID).await;
        let mut connection = database.connection().await;
        for repeated in [
            ("arrival", &[("path", PATH), ("job_id", "bench_id(n)")][..]),
            ("job", &[("path", PATH), ("id", "bench_id(n)")]),
            ("job_event", &[("job_id", "bench_id(n)")]),
        ] {
            repeat_in_postgres(&mut connection, repeated, self.jobs).await?;
        }
        settle(&database).await;
        let (share, clients) = (self.jobs / self.clients, self.clients.to_string());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/transitions.sql");
        let output = Command::new(programs().join("pgbench"))
            .arg("-h")
            .arg(&database.socket)
            .args(["-U", "scoreline", "-n", "-M", "prepared", "-c", &clients, "-j", &clients])
            .args(["-t", &(share / self.batch).to_string(), "-f", script, "-D", "next=0"])
            .args(["-D", &format!("batch={}", self.batch), "-D", &format!("share={share}")])
            .arg(database.name())
            .env("PGOPTIONS", "-c search_path=scoreline -c synchronous_commit=on -c jit=off")
            .output()
            .await
            .context("pgbench, which comes with PostgreSQL, can't be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM job_history")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        let all = usize::try_from(done)? == self.jobs;
        ensure!(
            output.status.success() && all,
            "pgbench: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
        let rate: f64 = rate.context("pgbench says no rate")?.parse()?;
        // One run of the script takes one batch all of its way.
        Ok(rate * per_second(self.batch * STEPS, Duration::from_secs(1)))
    }
}

pub(crate) async fn connect(database: &Database) -> anyhow::Result<PostgresStore<SystemClock>> {
    Ok(PostgresStore::connect(database.url(), 10, Migrate::Yes, CLOCK).await?)
}

/// Leaves nothing to be done later, in the other side's turn, and tells the planner what there is.
pub(crate) async fn settle(database: &Database) {
    database.by_hand("VACUUM ANALYZE").await;
    database.by_hand("CHECKPOINT").await;
}

/// Keys that the script can name.
const BENCH_ID: &str = "CREATE FUNCTION bench_id(n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS \
     $$ SELECT ('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$";
const PATH: &str = "convert_to('n/' || n || '.csv', 'UTF8')";
