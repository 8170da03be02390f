//! Many remote runs in flight in one process: what each takes in memory, how late it is looked at, what is written while
//! nothing changes, and how soon all are in hand again after a crash. And a daemon that has nothing to do at all.
//!
//! The jobs are one that the store's own calls made, repeated by SQL, with ids, paths and blob names as long as real ones.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::ports::{Clock as _, Store};
use scoreline::store::{Migrate, SqliteStore};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::figure::{Count, Section, Spread, per_second, since};
use crate::jobs::{Repeated, repeat_in_postgres, repeat_in_sqlite, run};
use crate::remote::{self, Double};
use crate::server::{Database, Server};
use crate::transitions::connect;
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let jobs = extent.of(100_000);
    let (mut counts, mut spreads) = (Vec::new(), Vec::new());
    let mut conditions = vec![
        format!(
            "{jobs} jobs whose remote runs go on for good, looked at every {} s, a fifth more or less; measured once",
            LOOKS.as_secs()
        ),
        "the remote double beside it on the same machine; lateness: the worst look of each second, by the daemon's own gauge"
            .to_owned(),
        "memory: resident, beyond the same process without a job; beside it what it may be".to_owned(),
    ];
    for database in [Some(Database::on(server)), None] {
        let flight = Flight::begin(database, jobs).await?;
        flight.measure(&mut counts, &mut spreads, &mut conditions).await?;
    }
    Ok(Section {
        title: "Remote jobs in flight".to_owned(),
        conditions,
        figures: Vec::new(),
        spreads,
        counts,
    })
}

/// A daemon, its store and its remote side.
struct Flight {
    jobs: usize,
    database: Option<Database>,
    double: Double,
    folder: TempDir,
    port: u16,
}

impl Flight {
    async fn begin(database: Option<Database>, jobs: usize) -> anyhow::Result<Self> {
        let double = Double::start(FOR_GOOD).await?;
        let folder = tempfile::tempdir()?;
        Ok(Self { jobs, database, double, folder, port: free_port()? })
    }

    async fn measure(
        &self,
        counts: &mut Vec<Count>,
        spreads: &mut Vec<Spread>,
        conditions: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let store = if self.database.is_some() { "PostgreSQL" } else { "SQLite" };
        let mut count = |what: &str, value: f64, unit, reach| {
            counts.push(Count::new(format!("{store}: {what}"), value, unit).at_most(reach));
        };
        // It makes the store, and shows what it takes without a job.
        let mut idle = self.serve()?;
        idle.until("it answers", Duration::from_mins(1), async || idle.metrics().await.is_ok())
            .await?;
        CLOCK.sleep(SETTLE).await;
        let empty = idle.resident()?;
        idle.stop().await?;

        self.fill().await?;
        let daemon = self.serve()?;
        let began = CLOCK.boot();
        daemon
            .until("all are looked at", Duration::from_mins(5), async || self.looked_at().await)
            .await?;
        eprintln!("all looked at after {:?}", since(began));
        // Until the looks are spread as they stay, and each has been looked at for the second time.
        CLOCK.sleep(LOOKS.mul_f64(1.3)).await;
        let resident = daemon.resident()?;
        count("memory a job", (resident - empty) / to_f64(self.jobs), "B", 1024.0);

        let (mut lateness, began) = (Vec::new(), CLOCK.boot());
        let (before, cpu) = (self.double.counts().await?.polls, daemon.cpu_seconds()?);
        let (written, position) = self.written().await?;
        while since(began) < WINDOW {
            CLOCK.sleep(Duration::from_secs(1)).await;
            lateness.push(daemon.metric("scoreline_poll_lateness_seconds").await? * 1000.0);
        }
        let (polls, time) = (self.double.counts().await?.polls - before, since(began));
        let (written_then, position_then) = self.written().await?;
        let polls = usize::try_from(polls)?;
        let cpu = (daemon.cpu_seconds()? - cpu) / to_f64(polls);
        spreads.push(Spread::of(format!("{store}: worst lateness of a second"), &lateness));
        let mut late = lateness;
        late.sort_by(f64::total_cmp);
        let p99 = late.get((late.len() * 99).div_ceil(100) - 1).copied().unwrap_or(f64::NAN);
        count("lateness, 99th percentile of the worst of a second", p99 / 1000.0, "s", 1.0);
        let of_jobs = written.iter().zip(&written_then).filter(|(before, _)| before.0 != "node");
        // Of a file it is known that it was written, not what.
        let most = if self.database.is_some() { i64::MAX } else { 1 };
        let rows: i64 = of_jobs.map(|(before, after)| (after.1 - before.1).min(most)).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts here are small")]
        count("rows written while nothing changed, beside beats", rows as f64, "", 0.0);
        let rate = per_second(polls, time);
        conditions.push(format!(
            "{store}: {rate:.0} looks a second, {:.0} µs of the daemon's processor time each",
            cpu * 1e6
        ));
        conditions.push(format!(
            "{store}: {:.0} MiB resident, {:.0} MiB without a job",
            resident / MIB,
            empty / MIB
        ));
        conditions.push(format!(
            "{store}: written in {:.0} s in which nothing changed: {}; {} bytes of log",
            time.as_secs_f64(),
            changes(&written, &written_then),
            position_then.saturating_sub(position)
        ));

        daemon.kill().await?;
        self.double.forget_polled().await?;
        let daemon = self.serve()?;
        let began = CLOCK.boot();
        daemon
            .until("all are owned", Duration::from_mins(2), async || {
                let adopted = daemon.metric("scoreline_jobs_adopted_total").await;
                adopted.is_ok_and(|adopted| adopted >= to_f64(self.jobs))
            })
            .await?;
        count("owned after kill -9", since(began).as_secs_f64(), "s", 5.0);
        daemon
            .until("all are looked at", Duration::from_mins(5), async || self.looked_at().await)
            .await?;
        count("looked at after kill -9", since(began).as_secs_f64(), "s", 60.0);
        conditions.push(format!(
            "{store}: the most memory that it had after that: {:.0} MiB",
            daemon.peak()? / MIB
        ));
        daemon.kill().await
    }

    async fn looked_at(&self) -> bool {
        self.double.counts().await.is_ok_and(|counts| counts.polled >= self.jobs as u64 - 1)
    }

    fn serve(&self) -> anyhow::Result<Daemon> {
        let folder = self.folder.path();
        let mut config: toml::Table = self.double.config().parse()?;
        let endpoint = config["endpoints"]["remote"].as_table_mut().context("a table")?;
        endpoint.insert("max_in_flight".into(), 1_000_000.into());
        let mut poll = toml::Table::new();
        let looks = format!("{}s", LOOKS.as_secs());
        poll.insert("first".into(), looks.clone().into());
        poll.insert("max".into(), looks.into());
        poll.insert("factor".into(), 1.0.into());
        endpoint.insert("poll".into(), poll.into());
        let text = common(folder, self.database.as_ref(), self.port)
            + &config.to_string()
            + &feed(folder, "churn")?;
        Daemon::start(folder, self.port, &text)
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let text = "customers_north-europe_2026-11-23T04-15-00Z_part";
        let id = "'01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0')";
        // Where their runs are known: each job is asked for there.
        let url = self.double.url();
        let service = format!("'{{\"endpoint\":\"remote\",\"url\":\"{url}\"}}'");
        if let Some(database) = &self.database {
            let store = connect(database).await?;
            let node = store.register("bench", "default", scoreline::engine::lease::TERM).await?;
            run(&store, &node, text).await?;
            store.close().await;
            let mut connection = database.connection().await;
            let (uuid, path) =
                (format!("({id})::uuid"), format!("'2026-11/{text}-' || n || '.csv'"));
            let bytes = format!("convert_to({path}, 'UTF8')");
            let blob = format!("'churn/' || {id} || '/1-1/{text}-' || n || '.csv'");
            let redirects = format!(
                "('[{{\"output\":\"output1\",\"blob\":\"churn/' || {id} || '/1-2/output1.csv\"}}]')::json"
            );
            let service = format!("({service})::json");
            let tables: [Repeated<'_>; 4] = [
                ("arrival", &[("job_id", &uuid), ("path", &bytes)]),
                (
                    "job",
                    &[
                        ("id", &uuid),
                        ("path", &bytes),
                        ("name", &path),
                        ("input_blob", &blob),
                        (
                            "remote_id",
                            &format!("'{}' || substr(md5(n::text), 9)", remote::FOR_GOOD),
                        ),
                        ("redirects", &redirects),
                        ("service", &service),
                    ],
                ),
                ("job_event", &[("job_id", &uuid)]),
                ("remote_run", &[("job_id", &uuid), ("endpoint", "'remote'")]),
            ];
            for repeated in tables {
                repeat_in_postgres(&mut connection, repeated, self.jobs - 1).await?;
            }
            connection.close().await?;
            crate::transitions::settle(database).await;
            return Ok(());
        }
        let state = self.folder.path().join("state");
        let store = SqliteStore::open(&state, Migrate::Yes, CLOCK).await?;
        let node = store.register("bench", "default", scoreline::engine::lease::TERM).await?;
        run(&store, &node, text).await?;
        store.close().await;
        let file = state.join("scoreline.db");
        let mut connection =
            SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
        sqlx::raw_sql("PRAGMA synchronous = OFF").execute(&mut connection).await?;
        let id = "printf('01800000-0000-7000-8000-%012x', n)";
        let path = format!("('2026-11/{text}-' || n || '.csv')");
        let bytes = format!("CAST({path} AS BLOB)");
        let blob = format!("('churn/' || {id} || '/1-1/{text}-' || n || '.csv')");
        let redirects = format!(
            "('[{{\"output\":\"output1\",\"blob\":\"churn/' || {id} || '/1-2/output1.csv\"}}]')"
        );
        let tables: [Repeated<'_>; 4] = [
            ("arrival", &[("job_id", id), ("path", &bytes)]),
            (
                "job",
                &[
                    ("id", id),
                    ("path", &bytes),
                    ("name", &path),
                    ("input_blob", &blob),
                    ("remote_id", &format!("printf('{}%024x', n * 7919)", remote::FOR_GOOD)),
                    ("redirects", &redirects),
                    ("service", &service),
                ],
            ),
            ("job_event", &[("job_id", id)]),
            ("remote_run", &[("job_id", id), ("endpoint", "'remote'")]),
        ];
        for repeated in tables {
            repeat_in_sqlite(&mut connection, repeated, 0..self.jobs - 1).await?;
        }
        sqlx::raw_sql(AssertSqlSafe("PRAGMA wal_checkpoint(TRUNCATE)"))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(())
    }

    /// How many rows of each table were ever written, and how far the log is.
    async fn written(&self) -> anyhow::Result<(Vec<(String, i64)>, u64)> {
        let Some(database) = &self.database else {
            let log = self.folder.path().join("state/scoreline.db-wal");
            let mut changes = Vec::new();
            // Both change with every commit.
            for file in ["scoreline.db-wal", "scoreline.db"] {
                let seen = std::fs::metadata(self.folder.path().join("state").join(file))?;
                let at = seen.modified()?.duration_since(std::time::UNIX_EPOCH)?;
                changes.push((file.to_owned(), i64::try_from(at.as_micros())?));
            }
            return Ok((changes, std::fs::metadata(log)?.len()));
        };
        // What a backend has counted is told after a second.
        CLOCK.sleep(Duration::from_secs(2)).await;
        let mut connection = database.connection().await;
        let sql = "SELECT relname::text, (n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables ORDER BY 1";
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let rows = rows.collect::<Result<_, sqlx::Error>>()?;
        let sql = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        let position: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok((rows, position.cast_unsigned()))
    }
}

fn changes(before: &[(String, i64)], after: &[(String, i64)]) -> String {
    let changed = before.iter().zip(after).filter(|(before, after)| before.1 != after.1);
    let changed: Vec<_> = changed
        .map(|(before, after)| match before.0.as_str() {
            "node" => format!("{} beats of the node", after.1 - before.1),
            table if table.starts_with("scoreline.db") => table.to_owned(),
            table => format!("{} rows of {table}", after.1 - before.1),
        })
        .collect();
    if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") }
}

/// Ten feeds, and nothing to do.
pub(crate) async fn idle(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let mut counts = Vec::new();
    let window = Duration::from_secs(extent.of(60) as u64);
    for database in [None, Some(Database::on(server))] {
        let store = if database.is_some() { "PostgreSQL" } else { "SQLite" };
        let (double, folder, port) =
            (Double::start(FOR_GOOD).await?, tempfile::tempdir()?, free_port()?);
        let mut text = common(folder.path(), database.as_ref(), port) + &double.config();
        for n in 0..10 {
            text += &feed(folder.path(), &format!("feed-{n}"))?;
        }
        let daemon = Daemon::start(folder.path(), port, &text)?;
        daemon
            .until("it answers", Duration::from_mins(1), async || daemon.metrics().await.is_ok())
            .await?;
        CLOCK.sleep(SETTLE).await;
        let (cpu, began) = (daemon.cpu_seconds()?, CLOCK.boot());
        CLOCK.sleep(window).await;
        let share = (daemon.cpu_seconds()? - cpu) / since(began).as_secs_f64() * 100.0;
        let mut count = |what: &str, value, unit, reach| {
            counts.push(Count::new(format!("{store}: {what}"), value, unit).at_most(reach));
        };
        count("share of a processor", share, "%", 0.5);
        count("resident memory", daemon.resident()? / 1e6, "MB", 30.0);
        count("most resident memory", daemon.peak()? / 1e6, "MB", 30.0);
        daemon.kill().await?;
    }
    let conditions = vec![
        format!("ten feeds of empty folders, over {} s", window.as_secs()),
        "resident memory has the pages of the program's file in it, as far as they were used"
            .to_owned(),
    ];
    Ok(Section {
        title: "Idle".to_owned(),
        conditions,
        figures: Vec::new(),
        spreads: Vec::new(),
        counts,
    })
}

/// `serve` as a process of its own.
struct Daemon {
    child: Child,
    id: u32,
    metrics: String,
    log: std::path::PathBuf,
    client: reqwest::Client,
}

impl Daemon {
    fn start(folder: &Path, port: u16, text: &str) -> anyhow::Result<Self> {
        let (config, log) = (folder.join("scoreline.toml"), folder.join("log"));
        std::fs::write(&config, text)?;
        let child = Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().context("it has just begun")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { child, id, metrics: format!("http://127.0.0.1:{port}/metrics"), log, client })
    }

    async fn until(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl AsyncFn() -> bool,
    ) -> anyhow::Result<()> {
        let began = CLOCK.boot();
        while !is_so().await {
            if since(began) > limit {
                let log = std::fs::read_to_string(&self.log)?;
                let end: Vec<_> = log.lines().rev().take(20).collect();
                anyhow::bail!(
                    "waited in vain until {what}; the end of the log, last line first: {}",
                    end.join("\n")
                );
            }
            CLOCK.sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.client.get(&self.metrics).send().await?.error_for_status()?.text().await?)
    }

    /// The sum over all labels.
    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let values =
            lines.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?));
        values.sum()
    }

    /// Bytes.
    fn resident(&self) -> anyhow::Result<f64> {
        self.memory("VmRSS:")
    }

    /// Bytes.
    fn peak(&self) -> anyhow::Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0)
    }

    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let fields: Vec<_> = fields.split(' ').collect();
        // After the name the fields begin with the third one: 14 and 15 are user and system time, in hundredths.
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.id)?;
        let id = rustix::process::Pid::from_raw(id).context("it has an id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        ensure!(self.child.wait().await?.success(), "it did not stop well");
        Ok(())
    }

    async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn common(folder: &Path, database: Option<&Database>, port: u16) -> String {
    let database = database.map_or(String::new(), |database| {
        format!("[database]\nurl = {:?}\n", database.url().expose_secret())
    });
    // A TOML basic string takes the escapes of Rust's.
    let state = folder.join("state").to_string_lossy().into_owned();
    format!("{database}[node]\nstate_dir = {state:?}\n[http]\nlisten = \"127.0.0.1:{port}\"\n")
}

fn feed(folder: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::create_dir_all(folder.join(name).join("in"))?;
    let of = |what: &str| folder.join(name).join(what).to_string_lossy().into_owned();
    Ok(format!(
        "[feeds.{name}]\nendpoint = \"remote\"\nstorage = \"remote\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
         watch.folder = {:?}\ndeliver.folder = {:?}\nsource.archive = {:?}\nsource.failed = {:?}\n",
        of("in"),
        of("out"),
        of("archive"),
        of("failed"),
    ))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[expect(clippy::cast_precision_loss, reason = "counts here are small")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

const MIB: f64 = 1024.0 * 1024.0;
/// Longer than anything here.
const FOR_GOOD: Duration = Duration::from_hours(1000);
/// With 100,000 jobs it is 2,000 looks a second.
const LOOKS: Duration = Duration::from_secs(50);
/// Until what a start needs alone is over.
const SETTLE: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(30);
