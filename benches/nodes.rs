//! Several nodes on one PostgreSQL server, and what they cost it: small files end to end, in four feeds that the nodes share
//! out, beside one node with all of them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::ports::Clock as _;
use secrecy::ExposeSecret as _;
use tokio::process::Child;

use crate::figure::{Figure, Section, median, per_second, since};
use crate::files::program;
use crate::remote::Double;
use crate::server::{Database, Server};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let files = extent.of(2000).next_multiple_of(FEEDS);
    let mut figures = [2, 4].map(|nodes| Figure::new(format!("{nodes} nodes: files"), "1 node"));
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for turn in 0..extent.turns {
        let mut sides = [0, 1, 2];
        sides.rotate_left(turn % 3);
        let mut rates = [0.0; 3];
        for side in sides {
            let cost = run(files, NODES[side], server).await?;
            rates[side] = per_second(files, cost.time);
            costs[side].push(cost);
        }
        for (figure, rate) in figures.iter_mut().zip(&rates[1..]) {
            figure.add(*rate, rates[0]);
        }
    }
    let mut conditions = vec![
        format!(
            "{files} files of 1 KiB in {FEEDS} feeds, each node has its share of these; remote runs take no time"
        ),
        "all processes on the same machine; settle 20 ms, first poll after 20 ms, each other key as it is by default"
            .to_owned(),
    ];
    conditions.extend(NODES.iter().zip(&costs).map(|(nodes, costs)| tell(*nodes, files, costs)));
    Ok(Section {
        title: "Nodes on one PostgreSQL".to_owned(),
        conditions,
        figures: figures.into(),
        spreads: Vec::new(),
        counts: Vec::new(),
    })
}

/// What all of the files together took.
#[derive(Debug, Default)]
struct Cost {
    time: Duration,
    /// Seconds of processors: of the database server, of the nodes, and of the remote side.
    database: f64,
    nodes: f64,
    remote: f64,
    commits: i64,
    wal_bytes: i64,
    requests: u64,
}

/// A line of medians a file, and who is short of what.
#[expect(clippy::cast_precision_loss, reason = "counts here are small")]
fn tell(nodes: usize, files: usize, costs: &[Cost]) -> String {
    let a_file = |of: &dyn Fn(&Cost) -> f64| {
        median(&costs.iter().map(|cost| of(cost) / files as f64).collect::<Vec<_>>())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy: Vec<_> = costs
        .iter()
        .map(|c| (c.database + c.nodes + c.remote) / c.time.as_secs_f64() / cores)
        .collect();
    format!(
        "{nodes} nodes, a file: {:.2} ms of a processor in the database, {:.2} in the nodes, {:.2} at the remote side, \
         which keep {:.0} % of the processors busy; {:.1} commits, {:.0} bytes of WAL, {:.1} requests",
        a_file(&|cost| cost.database * 1e3),
        a_file(&|cost| cost.nodes * 1e3),
        a_file(&|cost| cost.remote * 1e3),
        median(&busy) * 100.0,
        a_file(&|cost| cost.commits as f64),
        a_file(&|cost| cost.wal_bytes as f64),
        a_file(&|cost| cost.requests as f64),
    )
}

async fn run(files: usize, nodes: usize, server: &Server) -> anyhow::Result<Cost> {
    let double = Double::start(Duration::ZERO).await?;
    let database = Database::on(server);
    let site = tempfile::tempdir()?;
    let folder = site.path();
    let mut daemons = Vec::new();
    for node in 0..nodes {
        let feeds = (node..FEEDS).step_by(nodes);
        daemons.push(serve(folder, node, feeds, &double, &database)?);
        // One after the other: the first one makes the tables.
        drop_files(folder, "warm", node..=node, 1)?;
        until_done(folder, node + 1, &mut daemons).await?;
    }
    let mut connection = database.connection().await;
    let mut before = Cost::default();
    let postmaster = postmaster(server)?;
    measure(&mut before, &mut connection, &double, postmaster, &daemons).await?;
    let began = CLOCK.boot();
    drop_files(folder, "n", 0..=FEEDS - 1, files / FEEDS)?;
    until_done(folder, nodes + files, &mut daemons).await?;
    let mut cost = Cost { time: since(began), ..Cost::default() };
    measure(&mut cost, &mut connection, &double, postmaster, &daemons).await?;
    for mut daemon in daemons {
        daemon.kill().await?;
    }
    let counts = double.counts().await?;
    ensure!(counts.violations == 0 && counts.second_starts == 0, "{counts:?}");
    Ok(Cost {
        time: cost.time,
        database: cost.database - before.database,
        nodes: cost.nodes - before.nodes,
        remote: cost.remote - before.remote,
        commits: cost.commits - before.commits,
        wal_bytes: cost.wal_bytes - before.wal_bytes,
        requests: cost.requests - before.requests,
    })
}

async fn measure(
    cost: &mut Cost,
    connection: &mut sqlx::PgConnection,
    double: &Double,
    postmaster: u32,
    daemons: &[Child],
) -> anyhow::Result<()> {
    cost.database = seconds(|pid, parent| pid == postmaster || parent == postmaster)?;
    let daemons: Vec<_> = daemons.iter().filter_map(Child::id).collect();
    cost.nodes = seconds(|pid, _| daemons.contains(&pid))?;
    let remote = double.id();
    cost.remote = seconds(|pid, _| Some(pid) == remote)?;
    let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    cost.wal_bytes = sqlx::query_scalar(wal).fetch_one(&mut *connection).await?;
    cost.requests = double.counts().await?.requests();
    // A session tells of its commits once a second, and when it is idle.
    CLOCK.sleep(Duration::from_millis(1200)).await;
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    cost.commits = sqlx::query_scalar(commits).fetch_one(connection).await?;
    Ok(())
}

/// The server's first process, whose children are all others.
fn postmaster(server: &Server) -> anyhow::Result<u32> {
    let socket = server.socket();
    let folder = socket.parent().context("a socket is in a folder")?;
    let text = std::fs::read_to_string(folder.join("data/postmaster.pid"))?;
    Ok(text.lines().next().context("it begins with the process's id")?.parse()?)
}

/// Processors' time of the processes that this holds of, by their ids and their parents', and of their children that ended.
fn seconds(of: impl Fn(u32, u32) -> bool) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Ok(text) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // PID (NAME) STATE PPID …: the name may have anything in it. See proc(5).
        let Some((pid, rest)) = text.split_once(' ') else { continue };
        let rest: Vec<_> =
            rest.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        let [Ok(pid), Ok(parent)] = [pid, rest.get(1).unwrap_or(&"")].map(str::parse) else {
            continue;
        };
        if of(pid, parent) {
            let times = rest.get(11..15).context("/proc/PID/stat has its times")?;
            ticks += times.iter().filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>();
        }
    }
    Ok(f64::from(ticks) / TICKS)
}

fn serve(
    folder: &Path,
    node: usize,
    feeds: impl Iterator<Item = usize>,
    double: &Double,
    database: &Database,
) -> anyhow::Result<Child> {
    // A TOML basic string takes the escapes of Rust's.
    let path = |name: &str| format!("{:?}", folder.join(name).to_string_lossy());
    let mut text = format!(
        "[database]\nurl = {:?}\n[node]\nname = \"node{node}\"\nstate_dir = {}\n[http]\nlisten = \"127.0.0.1:0\"\n{}\
         poll = {{ first = \"20ms\", factor = 1.5, max = \"1s\" }}\n",
        database.url().expose_secret(),
        path(&format!("state{node}")),
        double.config(),
    );
    for feed in feeds {
        std::fs::create_dir_all(folder.join(format!("in{feed}")))?;
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "[feeds.f{feed}]\nendpoint = \"remote\"\nstorage = \"remote\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
             watch.folder = {}\nwatch.settle = \"20ms\"\ndeliver.folder = {}\nsource.archive = {}\nsource.failed = {}\n",
            path(&format!("in{feed}")),
            path(&format!("out{feed}")),
            path(&format!("archive{feed}")),
            path("failed"),
        );
    }
    let config = folder.join(format!("node{node}.toml"));
    std::fs::write(&config, text)?;
    let daemon = program()
        .arg("--config")
        .arg(&config)
        .arg("serve")
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(folder.join(format!("log{node}")))?)
        .spawn()?;
    Ok(daemon)
}

/// Renames so many files into each of the folders.
fn drop_files(
    folder: &Path,
    name: &str,
    feeds: std::ops::RangeInclusive<usize>,
    files: usize,
) -> anyhow::Result<()> {
    let staged = folder.join("staged");
    for n in 0..files {
        for feed in feeds.clone() {
            let row = format!("this is good day {n} of {feed}, {name}\n");
            std::fs::write(&staged, "Col2\n".to_owned() + &row.repeat(1024 / row.len()))?;
            std::fs::rename(&staged, folder.join(format!("in{feed}/{name}{n}.csv")))?;
        }
    }
    Ok(())
}

/// Waits until so many sources are archived, in all feeds.
async fn until_done(folder: &Path, files: usize, daemons: &mut [Child]) -> anyhow::Result<()> {
    for _ in 0..20_000 {
        let archived = |feed| {
            std::fs::read_dir(folder.join(format!("archive{feed}"))).map_or(0, Iterator::count)
        };
        if (0..FEEDS).map(archived).sum::<usize>() >= files {
            return Ok(());
        }
        ensure!(!folder.join("failed").exists(), "a file failed");
        for (node, daemon) in daemons.iter_mut().enumerate() {
            if daemon.try_wait()?.is_some() {
                anyhow::bail!(std::fs::read_to_string(folder.join(format!("log{node}")))?);
            }
        }
        CLOCK.sleep(Duration::from_millis(5)).await;
    }
    let log = std::fs::read_to_string(folder.join("log0"))?;
    anyhow::bail!("not all of {files} files are archived; the first node's log: {log}")
}

const NODES: [usize; 3] = [1, 2, 4];
const FEEDS: usize = 4;
/// What /proc counts in: a hundredth of a second, wherever Linux runs.
const TICKS: f64 = 100.0;
