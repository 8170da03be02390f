//! The command line: what users type, and what they read.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 it failed, 2 usage, 69 a needed service can't
//! be reached, 75 try again later, 78 config.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
pub use clap_complete::Shell;

use crate::feed::Name;
use crate::job::{JobId, Phase, RemoteId, Want};
use crate::name::did_you_mean;
use crate::retry::Span;
use crate::sandbox::Fault;

pub mod audit;
pub mod bulk;
pub mod check;
mod client;
mod events;
pub mod execute;
pub mod feeds;
mod follow;
mod health;
pub mod init;
pub mod jobs;
pub mod screen;
mod submit;
pub mod table;

pub use client::{Client, ClientError};
pub use execute::ExecuteArgs;
pub use health::health;
pub use init::InitArgs;
pub use jobs::WatchArgs;
pub use screen::Color;
pub use submit::{SubmitArgs, submit};

/// What most commands take stands behind what a command is about.
const COMMON: &str = "Common options";

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "scoreline",
    version,
    about = "Carries files through a remote batch-scoring service: each one never lost, started at most once, delivered whole",
    after_help = "Begin with `scoreline demo`, then `scoreline init`. `scoreline COMMAND --help` has examples.",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// The config file.
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "SCORELINE_CONFIG",
        value_name = "FILE",
        default_value = "/etc/scoreline/scoreline.toml"
    )]
    pub config: PathBuf,
    /// Results, and what goes wrong, as JSON.
    #[arg(long, global = true, help_heading = COMMON)]
    pub json: bool,
    /// Colour: auto, always or never; auto is on a terminal, and goes by `NO_COLOR`, `CLICOLOR_FORCE` and `TERM`
    #[arg(long, global = true, help_heading = COMMON, value_enum, value_name = "WHEN", default_value_t, hide_possible_values = true)]
    pub color: Color,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sandbox and daemon in one process: drops sample files into a folder and shows them come back scored
    Demo(DemoArgs),
    /// Write the config of a first feed, by asking or from flags, and check it
    Init(InitArgs),
    /// Run the daemon
    Serve,
    /// Play the remote side on loopback: batch scoring, request/response, blob storage, API Management
    Sandbox(SandboxArgs),
    /// Check the config, all of it at once
    Check {
        /// Also look at the store, the storages, the endpoints and the folders
        #[arg(long)]
        online: bool,
    },
    /// Bring the store to this version
    Migrate,
    /// Copy the embedded store into a file, whole and as of one moment; works beside a running daemon
    Backup {
        /// The file to make; it must not be there yet
        file: PathBuf,
    },
    /// Check that folders and store tell the same story: every file has one job, every job its files and its history
    Audit(AuditArgs),
    /// Have files scored without the drop folder
    Submit(SubmitArgs),
    /// Ask a running daemon about its jobs
    Jobs {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// What about them.
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Ask a running daemon about its feeds, pause them, run them now; show what they would take, and when
    Feeds {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// What about them.
        #[command(subcommand)]
        command: FeedsCommand,
    },
    /// Ask a running daemon why a file is not (yet) picked up, or what became of it
    Explain {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// The file, or where it was
        path: PathBuf,
    },
    /// Ask a running daemon how the scoring services stand
    Endpoints {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// What about them.
        #[command(subcommand)]
        command: SidesCommand,
    },
    /// Ask a running daemon how the blob storages stand
    Storage {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// What about them.
        #[command(subcommand)]
        command: SidesCommand,
    },
    /// Ask a running daemon whether it is well: ends with 0 when it is, 1 when it is not, 69 when nobody answers
    Health {
        /// The daemon to ask.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// Ask whether it can be worked with, too: its store is there, and it isn't stopping
        #[arg(long)]
        ready: bool,
    },
    /// Score a small file now, without the daemon, and print what comes back (request/response scoring)
    Execute(ExecuteArgs),
    /// Print the requests that would be sent for a file, secrets masked; sends nothing
    DryRun(DryRunArgs),
    /// Show the config in force, or the schema of configs
    Config {
        /// What about it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print what completes commands and options in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What completes commands and options in a shell: a script for it.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "scoreline", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// `demo`
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  scoreline demo\n  scoreline demo --keep --dir ~/scoreline-demo"
)]
pub struct DemoArgs {
    /// How many sample files
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub files: u32,
    /// Where the folders go [default: a new folder in the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Stay up afterwards, with files that go on coming and a web page to watch; drop some of your own
    #[arg(long)]
    pub keep: bool,
}

/// `sandbox`
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  scoreline sandbox\n  scoreline sandbox --subscription-key k --calls-per-minute 20 --fault submit=503:0.1\n\n\
`scoreline init --sandbox` writes a config for it."
)]
pub struct SandboxArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9080")]
    pub listen: SocketAddr,
    /// How long a job runs
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span)]
    pub run_time: Duration,
    /// The service's key
    #[arg(long, value_name = "KEY", default_value = "sandbox-key")]
    pub api_key: String,
    /// Ask for this subscription key, as API Management does
    #[arg(long, value_name = "KEY")]
    pub subscription_key: Option<String>,
    /// Refuse more calls than this with 429, as API Management does
    #[arg(long, value_name = "N", requires = "subscription_key")]
    pub calls_per_minute: Option<u32>,
    /// Go wrong now and then, like submit=503:0.1 or start=lost:*2 (may be given several times)
    #[arg(long = "fault", value_name = "OP=KIND:PROBABILITY")]
    pub faults: Vec<Fault>,
}

/// `audit`
#[derive(Debug, Args)]
#[command(
    after_help = "Only reads, and works beside a running daemon. Ends with 0 when there is no difference, with 1 when there is one or when a \
folder can't be read, with 69 when the store can't be reached."
)]
pub struct AuditArgs {
    /// Only this feed's folders and jobs
    #[arg(long, value_name = "FEED", value_parser = feed_name)]
    pub feed: Option<Name>,
    /// Also read delivered outputs, and compare their content with what was delivered
    #[arg(long)]
    pub hash: bool,
}

/// `dry-run`
#[derive(Debug, Args)]
#[command(
    after_help = "Works by itself, from the config: no daemon, no store, no network, and the file stays where it is. The requests are made by the \
very code that sends them; what they say of answers (ids, results) stands for the real ones. Ends with 1 where the file itself would fail."
)]
pub struct DryRunArgs {
    /// The feed's name in the config
    #[arg(value_parser = feed_name)]
    pub feed: Name,
    /// The file that would be sent, wherever it lies
    pub file: PathBuf,
}

/// Which daemon to ask.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The daemon's address [default: from the config]
    #[arg(long, global = true, help_heading = COMMON, env = "SCORELINE_URL", value_name = "URL", value_parser = daemon_url)]
    pub url: Option<String>,
    /// The file with the token to show [default: from the config]
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The file with certificates to trust beside the system's, for a daemon that speaks TLS
    #[arg(long, global = true, help_heading = COMMON, env = "SCORELINE_CA", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// `jobs`
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    List(ListArgs),
    /// Show a job with its history
    Show {
        /// Its id, as `jobs list` shows it, or how it begins
        #[arg(value_parser = job_ref)]
        id: JobRef,
    },
    /// Follow jobs live until they have ended
    Watch(WatchArgs),
    /// Stop jobs, here and at the service
    Cancel(SelectArgs),
    /// Let jobs go on where they ended, or are held, or wait
    Retry(SelectArgs),
    /// End a hold by saying what became of the job's remote run
    Release(ReleaseArgs),
}

/// `jobs list`
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  scoreline jobs list --held\n  scoreline jobs list --feed churn --phase failed --since 2026-11-23T00:00:00Z\n  \
scoreline jobs list --json | jq -r '.jobs[].id'"
)]
pub struct ListArgs {
    /// Which.
    #[command(flatten)]
    pub filters: Filters,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// `jobs cancel` and `jobs retry`
#[derive(Debug, Args)]
#[command(
    after_long_help = "By filters, the jobs are only counted until --yes is added. Examples, the same for cancel and retry:\n  \
scoreline jobs retry 019ab5a8-9d0c-7000-a1b2-c3d4e5f60718\n  scoreline jobs retry --feed churn --phase failed --yes"
)]
pub struct SelectArgs {
    /// The jobs, by their ids; or else all that the filters find
    #[arg(value_name = "ID", value_parser = job_id, conflicts_with = "Filters")]
    pub ids: Vec<JobId>,
    /// Which.
    #[command(flatten)]
    pub filters: Filters,
    /// Do it to all that the filters find; without this, they are only counted
    #[arg(long)]
    pub yes: bool,
}

/// `jobs release`
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The held job's id
    #[arg(value_parser = job_id)]
    pub id: JobId,
    /// What became of it.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What became of a remote run.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RunArgs {
    /// This is its remote run: go on with it
    #[arg(long, value_name = "REMOTE_ID", value_parser = remote_id)]
    pub adopt: Option<RemoteId>,
    /// It has no remote run that started: begin a new one
    #[arg(long)]
    pub not_started: bool,
}

/// Which jobs.
#[derive(Debug, Args)]
pub struct Filters {
    /// Of this feed
    #[arg(long, value_name = "FEED", value_parser = feed_name)]
    pub feed: Option<Name>,
    /// In this phase
    #[arg(long, value_enum)]
    pub phase: Option<PhaseArg>,
    /// That wait for a person
    #[arg(long)]
    pub held: bool,
    /// Accepted since this time, like 2026-11-23T02:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// With this text in the file's name
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

/// `feeds`
#[derive(Debug, Subcommand)]
pub enum FeedsCommand {
    /// List them: what is in their folders, whether they are paused, when their schedules fire next
    List,
    /// Let a feed take nothing more until it is resumed; what it has taken goes on
    Pause(PauseArgs),
    /// End a feed's pause
    Resume {
        /// Its name in the config
        #[arg(value_parser = feed_name)]
        feed: Name,
    },
    /// Let a feed fire now
    Run {
        /// Its name in the config
        #[arg(value_parser = feed_name)]
        feed: Name,
        /// Asked for again with the same key it is the same fire
        #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
        key: Option<String>,
    },
    /// List a feed's fires, newest first, and what became of them
    Fires {
        /// Its name in the config
        #[arg(value_parser = feed_name)]
        feed: Name,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show the next fires of a feed's schedule, or what its folder would yield; from the config alone
    Preview(PreviewArgs),
}

/// `feeds pause`
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  scoreline feeds pause churn --why \"new model on Monday\" --until 2h"
)]
pub struct PauseArgs {
    /// Its name in the config
    #[arg(value_parser = feed_name)]
    pub feed: Name,
    /// What others are to read
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
    /// Until this time, like 2026-11-23T02:00:00Z, or for so long, like 2h [default: until it is resumed]
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub until: Option<Until>,
}

/// When something ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// At this time.
    At(DateTime<Utc>),
    /// So long from now.
    After(Duration),
}

/// `feeds preview`
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  scoreline feeds preview churn --count 30\n  scoreline feeds preview churn --files"
)]
pub struct PreviewArgs {
    /// Its name in the config
    #[arg(value_parser = feed_name)]
    pub feed: Name,
    /// So many
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// Those after this time, like 2026-11-23T02:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub after: Option<DateTime<Utc>>,
    /// Instead, the files that its folder would yield, in order, were they still for long enough; changes nothing there
    #[arg(long, conflicts_with = "after")]
    pub files: bool,
}

/// `endpoints` and `storage`
#[derive(Debug, Subcommand)]
pub enum SidesCommand {
    /// List them: what is under way, what is left of budgets, and since when and why nothing is sent to one
    List,
    /// Have one that is suspended, or in an outage, asked at once whether it is well again; ends a pause
    Resume {
        /// Its name in the config
        #[arg(value_parser = feed_name)]
        name: Name,
    },
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with the value in force, secrets masked; TOML, or JSON with --json
    Show,
    /// Print the JSON Schema of the config: editors complete keys with it, and tell mistakes as they are typed
    #[command(after_help = "Example:
  scoreline config schema > scoreline.schema.json

An editor that knows TOML (by Taplo, like Even Better TOML) goes by it where the config begins with
  #:schema ./scoreline.schema.json")]
    Schema,
}

/// A job, as people name it.
#[derive(Clone, Debug)]
pub enum JobRef {
    /// By its id.
    Id(JobId),
    /// By how its id begins.
    Begin(String),
}

/// A phase, by its name.
#[derive(Clone, Copy, Debug)]
pub struct PhaseArg(pub Phase);

impl ValueEnum for PhaseArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [PhaseArg; Phase::ALL.len()] = {
            let mut all = [PhaseArg(Phase::Queued); Phase::ALL.len()];
            let mut n = 0;
            while n < all.len() {
                all[n] = PhaseArg(Phase::ALL[n]);
                n += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

impl RunArgs {
    /// What is wanted.
    pub fn want(&self) -> Want {
        self.adopt.clone().map_or(Want::NotStarted, Want::Adopt)
    }
}

impl Filters {
    /// Whether they choose nothing: all jobs would be meant.
    pub fn is_empty(&self) -> bool {
        let Self { feed, phase, held, since, name } = self;
        feed.is_none() && phase.is_none() && !held && since.is_none() && name.is_none()
    }

    /// As the API wants it, for pages of at most `limit` jobs.
    pub fn params(&self, limit: u32) -> Vec<(&'static str, String)> {
        let mut params = vec![("limit", limit.to_string())];
        params.extend(self.feed.clone().map(|feed| ("feed", feed.into())));
        params.extend(self.phase.map(|phase| ("phase", phase.0.name().to_owned())));
        params.extend(self.held.then(|| ("held", "true".to_owned())));
        params.extend(
            self.since.map(|since| ("since", since.to_rfc3339_opts(SecondsFormat::Micros, true))),
        );
        params.extend(self.name.clone().map(|name| ("name", name)));
        params
    }
}

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// What was typed can't be done like this.
    Usage = 2,
    /// A needed service can't be reached.
    Unreachable = 69,
    /// Try again later.
    Later = 75,
    /// The config is wrong.
    Config = 78,
}

impl Exit {
    /// What programs are told of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Later => "later",
            Self::Config => "config",
        }
    }
}

/// The variables of the environment that are text.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Whether a path is the one that nobody named.
pub fn is_default_config(path: &Path) -> bool {
    path == Path::new("/etc/scoreline/scoreline.toml")
}

/// Results could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the result could not be written to stdout: {0}")]
pub struct TellError(std::io::Error);

impl TellError {
    /// Whether the reader went away, as in `… | head`.
    pub fn is_seen_enough(&self) -> bool {
        self.0.kind() == std::io::ErrorKind::BrokenPipe
    }
}

/// What was typed can't be done like this, and what can.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

impl Misuse {
    /// A name that nothing has, among those that there are.
    pub fn unknown<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Self {
        Self(format!("there is no {what} {name}: {}", did_you_mean(name, names)))
    }
}

/// Writes to stderr. There is nobody left to tell when that is closed.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a result for programs to stdout.
pub fn tell_json(result: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(tell(&(serde_json::to_string(result)? + "\n"))?)
}

/// Writes a result to stdout.
pub fn tell(text: &str) -> Result<(), TellError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(TellError)
}

fn span(text: &str) -> Result<Duration, String> {
    Span::try_from(text.to_owned()).map(|span| span.0)
}

fn job_id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).ok_or_else(|| "no job id: `scoreline jobs list` shows them".to_owned())
}

fn job_ref(text: &str) -> Result<JobRef, String> {
    let lower = text.to_ascii_lowercase();
    let is_begin = lower.len() >= 4 && lower.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    match JobId::parse(text) {
        Some(id) => Ok(JobRef::Id(id)),
        None if is_begin => Ok(JobRef::Begin(lower)),
        None => Err("no job id: `scoreline jobs list` shows them".to_owned()),
    }
}

fn remote_id(text: &str) -> Result<RemoteId, String> {
    RemoteId::parse(text).ok_or_else(|| "no id of a remote run: the service shows them".to_owned())
}

fn feed_name(text: &str) -> Result<Name, String> {
    Name::try_from(text.to_owned())
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.map_err(|_| "write it like 2026-11-23T02:00:00Z".to_owned())
}

fn idempotency_key(text: &str) -> Result<String, String> {
    // What a header can carry.
    let carried = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    let well = carried && !text.trim().is_empty() && text.len() <= 200;
    well.then(|| text.to_owned())
        .ok_or_else(|| "write up to 200 letters, digits and signs".to_owned())
}

fn until(text: &str) -> Result<Until, String> {
    let either = time(text).map(Until::At).or_else(|_| span(text).map(Until::After));
    either.map_err(|_| "write it like 2026-11-23T02:00:00Z, or like 2h".to_owned())
}

fn daemon_url(text: &str) -> Result<String, String> {
    match text.parse::<reqwest::Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        _ => Err("write it like http://127.0.0.1:8080".to_owned()),
    }
}
