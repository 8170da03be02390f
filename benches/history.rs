//! Live work with many finished jobs in the store, beside the same work with none: through the store, and through a
//! daemon's API, which is started with them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::ports::{Clock as _, JobQuery, Node, Store};
use scoreline::store::{Migrate, SqliteStore};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tokio::process::{Child, Command};

use crate::figure::{Figure, Section, Spread, per_second, since};
use crate::jobs::{STEPS, accept, commit, commits, fill_postgres, repeat_in_sqlite};
use crate::server::{Database, Server};
use crate::transitions::{connect, settle};
use crate::{CLOCK, Extent, SERVER};

pub(crate) async fn section(extent: &Extent, jobs: usize) -> anyhow::Result<Section> {
    let history = History::of(extent.of(jobs));
    let History { jobs, with_events, .. } = history;
    let mut figures = Vec::new();
    let mut spreads = Vec::new();
    let mut conditions = vec![
        format!("evenly over the last {DAYS} days, with their arrivals, the newest {with_events} with their 7 events each"),
        "transitions and acceptances: 100 jobs a call; a page is the first 50 of the list; each beside a store of the same \
         server, or disk, that has one job"
            .to_owned(),
        "start-up: from the start of `serve` to the first good answer of /readyz".to_owned(),
    ];
    // SQLite's is filled row by row.
    let sqlite = History::of(jobs.min(SQLITE_MOST));
    if sqlite.jobs < jobs {
        conditions.push(format!("SQLite with {} of them", sqlite.jobs));
    }
    // A server of its own: a history leaves nothing in the log, which would be as large again.
    let server = Server::start_with(&format!("{SERVER}\n{FILLING}"));
    for measured in
        [in_postgres(extent, &server, &history).await?, in_sqlite(extent, &sqlite).await?]
    {
        figures.extend(measured.figures);
        spreads.extend(measured.spreads);
        conditions.push(measured.size);
    }
    let title = format!("Live work with {jobs} finished jobs");
    Ok(Section { title, conditions, figures, spreads, counts: Vec::new() })
}

/// The finished jobs of [`DAYS`], evenly.
struct History {
    jobs: usize,
    /// The newest ones alone have events, where those of all would fill a disk: nobody looks at two jobs' at once.
    with_events: usize,
    /// When the first one began, and how far apart they are, in milliseconds.
    first_ms: i64,
    apart_ms: f64,
}

impl History {
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52")]
    fn of(jobs: usize) -> Self {
        let time = Duration::from_hours(24 * DAYS);
        let first_ms = (CLOCK.now() - time).timestamp_millis();
        let apart_ms = time.as_secs_f64() * 1000.0 / jobs as f64;
        Self { jobs, with_events: jobs.min(EVENTS_MOST), first_ms, apart_ms }
    }

    /// When job `n` began, in milliseconds.
    fn ms(&self) -> String {
        format!("CAST({} + floor(n * {:.3}) AS bigint)", self.first_ms, self.apart_ms)
    }
}

/// What was measured of one store.
struct Measured {
    figures: Vec<Figure>,
    spreads: Vec<Spread>,
    size: String,
}

async fn in_sqlite(extent: &Extent, history: &History) -> anyhow::Result<Measured> {
    let (empty, full) = (tempfile::tempdir()?, tempfile::tempdir()?);
    // One job more, with which everything begins: on both sides.
    for folder in [&empty, &full] {
        let store = SqliteStore::open(folder.path(), Migrate::Yes, CLOCK).await?;
        begin(&store).await?;
        store.close().await;
    }
    fill_sqlite(full.path(), history).await?;
    let bytes = std::fs::metadata(full.path().join("scoreline.db"))?.len();
    let (empty_store, full_store) = (
        SqliteStore::open(empty.path(), Migrate::Yes, CLOCK).await?,
        SqliteStore::open(full.path(), Migrate::Yes, CLOCK).await?,
    );
    let mut figures = compare("SQLite", extent, &full_store, &empty_store).await?;
    empty_store.close().await;
    full_store.close().await;
    let sides = [Daemon::new(full.path(), None)?, Daemon::new(empty.path(), None)?];
    let (pages, spreads) = serve("SQLite", extent, &sides).await?;
    figures.push(pages);
    let size = format!("SQLite: {}", size(bytes, history.jobs));
    Ok(Measured { figures, spreads, size })
}

async fn in_postgres(
    extent: &Extent,
    server: &Server,
    history: &History,
) -> anyhow::Result<Measured> {
    let (empty, full) = (Database::on(server), Database::on(server));
    for database in [&empty, &full] {
        let store = connect(database).await?;
        begin(&store).await?;
        store.close().await;
    }
    let began = CLOCK.boot();
    let mut connection = full.connection().await;
    let ms = history.ms();
    let at = format!("to_timestamp({ms} / 1000.0)");
    let id =
        format!("(lpad(to_hex({ms}), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid");
    // Of lengths that differ, as they do in life. If all rows were alike, so would be what they leave of each page: room
    // for one event of an acceptance, which each would then look for on another old page. SQLite appends by key.
    let path = ("path", "convert_to('n/' || lpad(n::text, 9, '0') || repeat('x', n % 61), 'UTF8')");
    let detail = ("detail", "concat(t.detail, repeat('x', n % 61))");
    let (all, newest) = (0..history.jobs, history.jobs - history.with_events..history.jobs);
    for (table, id_column, numbers, padded, times) in [
        ("arrival", "job_id", all.clone(), path, &[][..]),
        ("job_history", "id", all, path, &["created_at", "updated_at", "finished_at"]),
        ("job_event", "job_id", newest, detail, &["at"]),
    ] {
        let mut differing = vec![(id_column, &*id), padded];
        differing.extend(times.iter().map(|column| (*column, &*at)));
        fill_postgres(&mut connection, (table, &differing), numbers).await?;
    }
    let bytes: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    for database in [&empty, &full] {
        settle(database).await;
    }
    eprintln!("  filled in {:.0} s", since(began).as_secs_f64());
    let (empty_store, full_store) = (connect(&empty).await?, connect(&full).await?);
    let mut figures = compare("PostgreSQL", extent, &full_store, &empty_store).await?;
    empty_store.close().await;
    full_store.close().await;
    let folders = (tempfile::tempdir()?, tempfile::tempdir()?);
    let sides =
        [Daemon::new(folders.0.path(), Some(&full))?, Daemon::new(folders.1.path(), Some(&empty))?];
    let (pages, spreads) = serve("PostgreSQL", extent, &sides).await?;
    figures.push(pages);
    let size = format!("PostgreSQL: {}", size(bytes.cast_unsigned(), history.jobs));
    Ok(Measured { figures, spreads, size })
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn size(bytes: u64, jobs: usize) -> String {
    format!("{:.2} GB, {:.0} bytes a job", bytes as f64 / 1e9, bytes as f64 / jobs as f64)
}

async fn begin(store: &impl Store) -> anyhow::Result<()> {
    let node = store.register("bench", "site", scoreline::engine::lease::TERM).await?;
    let (jobs, _) = accept(store, &node, "first", 1).await?;
    commit(store, &node, &commits(&jobs, 1)?).await?;
    Ok(())
}

async fn fill_sqlite(folder: &Path, history: &History) -> anyhow::Result<()> {
    let file = folder.join("scoreline.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
    // Nothing is lost if this breaks off.
    sqlx::raw_sql("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")
        .execute(&mut connection)
        .await?;
    let ms = format!("({} + CAST(n * {:.3} AS INTEGER))", history.first_ms, history.apart_ms);
    let at = format!("{ms} * 1000");
    let id = format!("printf('%08x-%04x-7000-8000-%012x', {ms} >> 16, {ms} & 65535, n)");
    let path = ("path", "CAST(printf('n/%09d', n) AS BLOB)");
    let (all, newest) = (0..history.jobs, history.jobs - history.with_events..history.jobs);
    for (table, id_column, numbers, more) in [
        ("arrival", "job_id", all.clone(), &[path][..]),
        (
            "job_history",
            "id",
            all,
            &[path, ("created_at", &at), ("updated_at", &at), ("finished_at", &at)],
        ),
        ("job_event", "job_id", newest, &[("at", &at)]),
    ] {
        let differing = [&[(id_column, &*id)], more].concat();
        repeat_in_sqlite(&mut connection, (table, &differing), numbers).await?;
    }
    sqlx::raw_sql(AssertSqlSafe("PRAGMA wal_checkpoint(TRUNCATE)"))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    std::fs::File::open(file)?.sync_all()?;
    Ok(())
}

async fn compare(
    name: &str,
    extent: &Extent,
    full: &impl Store,
    empty: &impl Store,
) -> anyhow::Result<Vec<Figure>> {
    let figure = |what| Figure::new(format!("{name}: {what}"), "with none").at_least(0.9);
    let mut figures = [figure("jobs accepted"), figure("transitions"), figure("pages of the list")];
    let full_node = full.register("bench", "site", scoreline::engine::lease::TERM).await?;
    let empty_node = empty.register("bench", "site", scoreline::engine::lease::TERM).await?;
    // What is touched for the first time since it was made is no part of any turn.
    rates(extent, full, &full_node, "before").await?;
    rates(extent, empty, &empty_node, "before").await?;
    for turn in 0..extent.turns {
        let (with, without);
        if turn % 2 == 0 {
            with = rates(extent, full, &full_node, &turn.to_string()).await?;
            without = rates(extent, empty, &empty_node, &turn.to_string()).await?;
        } else {
            without = rates(extent, empty, &empty_node, &turn.to_string()).await?;
            with = rates(extent, full, &full_node, &turn.to_string()).await?;
        }
        for ((figure, with), without) in figures.iter_mut().zip(with).zip(without) {
            figure.add(with, without);
        }
    }
    Ok(figures.into())
}

/// Accepts, drives, lists: per second.
async fn rates(
    extent: &Extent,
    store: &impl Store,
    node: &Node,
    turn: &str,
) -> anyhow::Result<[f64; 3]> {
    let (count, pages) = (extent.of(6000), extent.of(500));
    let (jobs, accepted) = accept(store, node, turn, count).await?;
    let driven = commit(store, node, &commits(&jobs, 100)?).await?;
    let began = CLOCK.boot();
    for _ in 0..pages {
        let page = store.list(&JobQuery { limit: 50, ..Default::default() }).await?;
        ensure!(page.jobs.len() == 50 && page.next.is_some(), "a page is not full");
    }
    let listed = since(began);
    Ok([per_second(count, accepted), per_second(count * STEPS, driven), per_second(pages, listed)])
}

/// Starts daemons with each of two stores, and asks for pages.
async fn serve(
    name: &str,
    extent: &Extent,
    sides: &[Daemon; 2],
) -> anyhow::Result<(Figure, Vec<Spread>)> {
    let mut pages = Figure::new(format!("{name}: pages by HTTP"), "with none");
    let mut starts = [Vec::new(), Vec::new()];
    for turn in 0..extent.turns {
        let mut rates = [0.0; 2];
        for n in [turn % 2, 1 - turn % 2] {
            let (start, rate) = sides[n].turn(extent.of(500)).await?;
            starts[n].push(start.as_secs_f64() * 1000.0);
            rates[n] = rate;
        }
        pages.add(rates[0], rates[1]);
    }
    let [with, without] = starts;
    let spreads = vec![
        Spread::of(format!("{name}: start-up"), &with),
        Spread::of(format!("{name}: start-up with none"), &without),
    ];
    Ok((pages, spreads))
}

/// `serve`, as users start it, with no feeds.
struct Daemon {
    config: std::path::PathBuf,
    url: String,
}

impl Daemon {
    fn new(folder: &Path, database: Option<&Database>) -> anyhow::Result<Self> {
        // Free a moment ago; nobody else here asks for one by its number.
        let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let database = database.map_or(String::new(), |database| {
            format!("[database]\nurl = {:?}\n", database.url().expose_secret())
        });
        let config = folder.join("scoreline.toml");
        let state_dir = folder.to_string_lossy();
        let text =
            format!("{database}[node]\nstate_dir = {state_dir:?}\n[http]\nlisten = \"{listen}\"\n");
        std::fs::write(&config, text)?;
        Ok(Self { config, url: format!("http://{listen}") })
    }

    /// How long it took to be ready, and pages per second.
    async fn turn(&self, pages: usize) -> anyhow::Result<(Duration, f64)> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let began = CLOCK.boot();
        let mut daemon = self.start()?;
        let ready = self.url.clone() + "/readyz";
        while !client.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            ensure!(since(began) < Duration::from_mins(1), "serve is not ready after a minute");
            ensure!(daemon.try_wait()?.is_none(), "serve ended at once");
            CLOCK.sleep(Duration::from_millis(2)).await;
        }
        let started = since(began);
        let page = self.url.clone() + "/api/v1/jobs?limit=50";
        let began = CLOCK.boot();
        for _ in 0..pages {
            let answer = client.get(&page).send().await?.error_for_status()?.text().await?;
            ensure!(answer.contains("\"next_cursor\":\""), "a page is not full: {answer}");
        }
        let rate = per_second(pages, since(began));
        daemon.kill().await?;
        Ok((started, rate))
    }

    fn start(&self) -> anyhow::Result<Child> {
        Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .arg("--config")
            .arg(&self.config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("serve can't be started")
    }
}

/// Less than the history is kept for, or it would be forgotten meanwhile.
const DAYS: u64 = 80;
const EVENTS_MOST: usize = 1_000_000;
const SQLITE_MOST: usize = 1_000_000;

/// What is written to a table that was emptied in the same transaction is not logged.
const FILLING: &str =
    "wal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = 2GB\nmaintenance_work_mem = 512MB";
