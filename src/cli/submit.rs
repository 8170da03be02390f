//! `submit`: jobs without a drop folder.
//!
//! The key under which a file is sent is made of its name and content, so the command can be run again after anything that
//! went wrong: what the daemon has already is not sent, let alone scored, a second time.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal as _, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use futures::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::io::ReaderStream;

use super::follow::{Follow, Followed, Shown, why};
use super::jobs::check_feed;
use super::screen::{Screen, style_of};
use super::table::printable;
use super::{
    Client, ClientError, DaemonArgs, Exit, Misuse, complain, feed_name, idempotency_key, tell,
};
use crate::clock::SystemClock;
use crate::http::JobBody;
use crate::name::Name;
use crate::ports::Clock as _;

/// `submit`
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 when all were accepted (with --wait: when all succeeded), 1 when one was refused or failed, 75 when the daemon asks to \
be tried later, 69 when it can't be reached. Run again after any of these, it sends only what is not there yet.",
    after_long_help = "Examples:
  scoreline submit churn a.csv b.csv
  scoreline submit churn *.csv --wait
  generate-rows | scoreline submit churn - --name rows.csv --wait

Ends with 0 when all were accepted (with --wait: when all succeeded), 1 when one was refused or failed, 75 when the daemon asks to be tried
later, 69 when it can't be reached. Run again after any of these, it sends only what is not there yet: a file counts as the same while its
name and its content are. The files stay where they are."
)]
pub struct SubmitArgs {
    /// The daemon to ask.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// The feed's name in the config
    #[arg(value_parser = feed_name)]
    pub feed: Name,
    /// The files; - reads one from stdin, which needs --name
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Stay until each job has ended, and print where its outputs are
    #[arg(long)]
    pub wait: bool,
    /// What the file is called, in place of its own name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Sent again under the same key it is the same job [default: made of its name and content]
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub key: Option<String>,
    /// Score files that were sent before once more, whatever the feed says of duplicates
    #[arg(long, conflicts_with = "key")]
    pub again: bool,
}

/// Sends the files, and waits for their jobs if that is wanted.
pub async fn submit(client: &Client, args: &SubmitArgs, as_json: bool) -> anyhow::Result<Exit> {
    let inputs = inputs(args)?;
    // A body that is refused may be cut off before its refusal can be read: what is plainly wrong is better asked first.
    check_feed(client, Some(&args.feed)).await?;
    let (mut jobs, mut refused, mut broken) = (Vec::new(), Vec::new(), None);
    for input in inputs {
        match send(client, args, &input, as_json).await {
            Ok((is_new, job)) => {
                if !as_json {
                    tell(&accepted(&input, is_new, &job))?;
                }
                jobs.push((input.name, is_new, job));
            }
            // What is said of this file says nothing of the next one.
            Err(SendError::Client(ClientError::Refused {
                status: status @ (400 | 409 | 411..=417 | 422),
                detail,
                ..
            })) => {
                if !as_json {
                    complain(&format!("{}: refused ({status}): {detail}", printable(&input.name)));
                }
                refused.push(json!({ "file": input.name, "status": status, "detail": detail }));
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let mut exit = if refused.is_empty() { Exit::Done } else { Exit::Failed };
    if args.wait && broken.is_none() && !jobs.is_empty() {
        let ids = jobs.iter().map(|(_, _, job)| job.id).collect();
        let shown = if as_json { Shown::Nothing } else { Shown::suited(false) };
        let mut follow = Follow::new(client, Followed::Jobs(ids), shown);
        follow.run(true).await?;
        if follow.exit() != Exit::Done {
            exit = Exit::Failed;
        }
        for (_, _, job) in &mut jobs {
            if let Some(ended) = follow.jobs().find(|ended| ended.id == job.id) {
                *job = ended.clone();
            }
        }
        if !as_json {
            for (_, _, job) in &jobs {
                tell(&ended(job))?;
            }
        }
    }
    if as_json {
        let jobs: Vec<_> = jobs
            .iter()
            .map(|(file, is_new, job)| json!({ "file": file, "new": is_new, "job": job }))
            .collect();
        tell(&(json!({ "jobs": jobs, "refused": refused }).to_string() + "\n"))?;
    } else if !args.wait && broken.is_none() && !jobs.is_empty() {
        let ids: Vec<_> = jobs.iter().map(|(_, _, job)| job.id.to_string()).collect();
        complain(&format!("follow with `scoreline jobs watch {} --until-done`", ids.join(" ")));
    }
    match broken {
        None => Ok(exit),
        Some(error) => Err(error
            .into_cause()
            .context("not all was sent; run the same command again, it goes on where this ended")),
    }
}

/// A file that can be sent.
struct Input {
    name: String,
    file: File,
    size_bytes: u64,
    sha256: String,
    key: String,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "{0} was written to while it was sent: what the daemon has is not what was read before; send it once it is whole"
    )]
    Changed(String),
    #[error("{0}")]
    File(#[from] std::io::Error),
}

impl SendError {
    /// How a command ends goes by the client's own error.
    fn into_cause(self) -> anyhow::Error {
        match self {
            Self::Client(error) => error.into(),
            other => other.into(),
        }
    }
}

/// All of the files, read once, before anything is sent: a mistake in the last one's name is better told now.
fn inputs(args: &SubmitArgs) -> anyhow::Result<Vec<Input>> {
    if args.files.len() > 1 {
        for (flag, is_there) in [("--name", args.name.is_some()), ("--key", args.key.is_some())] {
            if is_there {
                let message = format!("{flag} is for one file, and there are {}", args.files.len());
                return Err(Misuse(message).into());
            }
        }
    }
    args.files.iter().map(|path| input(args, path)).collect()
}

fn input(args: &SubmitArgs, path: &Path) -> anyhow::Result<Input> {
    let is_stdin = path == Path::new("-");
    let own = path.file_name().filter(|_| !is_stdin).and_then(|name| name.to_str());
    let name = args.name.as_deref().or(own).ok_or_else(|| {
        let what = if is_stdin { "stdin has no name" } else { "its name is no UTF-8 text" };
        Misuse(format!("{}: {what}: say with --name what the input is called", path.display()))
    })?;
    let read = || format!("{} could not be read", path.display());
    let mut file = if is_stdin {
        spooled().context("stdin could not be read")?
    } else {
        let file = File::open(path).with_context(read)?;
        if !file.metadata().with_context(read)?.is_file() {
            return Err(Misuse(format!("{} is no file", path.display())).into());
        }
        file
    };
    let (mut digest, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).with_context(read)?;
        if read == 0 {
            break;
        }
        size_bytes += read as u64;
        digest.update(&buffer[..read]);
    }
    file.seek(SeekFrom::Start(0)).with_context(read)?;
    let sha256 = hex(&digest.finalize());
    let key = match &args.key {
        Some(key) => key.clone(),
        None if args.again => format!("again-{}-{sha256}", moment()),
        None => {
            let whole = format!("{name}\0{sha256}");
            format!("submit-{}", hex(&Sha256::digest(whole.as_bytes())))
        }
    };
    Ok(Input { name: name.to_owned(), file, size_bytes, sha256, key })
}

/// Stdin, in a file that has no name any more: it can be read twice, once for its key and once to be sent.
fn spooled() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!("scoreline-stdin-{}", moment()));
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file)?;
    file.flush()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

async fn send(
    client: &Client,
    args: &SubmitArgs,
    input: &Input,
    as_json: bool,
) -> Result<(bool, JobBody), SendError> {
    let bar = if !as_json && std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(input.size_bytes);
        let template = "{prefix}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(printable(&input.name));
        bar
    } else {
        ProgressBar::hidden()
    };
    let file = tokio::fs::File::from_std(input.file.try_clone()?);
    let file = tokio::io::AsyncReadExt::take(file, input.size_bytes);
    let counted = bar.clone();
    let stream = ReaderStream::with_capacity(file, 1 << 16)
        .inspect_ok(move |bytes| counted.inc(bytes.len() as u64));
    let body = reqwest::Body::wrap_stream(stream);
    let path = format!("/api/v1/feeds/{}/jobs", args.feed);
    let mut params = vec![("name", input.name.clone())];
    params.extend(args.again.then(|| ("again", true.to_string())));
    let sent = client.send::<JobBody>(&path, &params, &input.key, input.size_bytes, body).await;
    bar.finish_and_clear();
    let (is_new, job) = sent?;
    if is_new && job.sha256.as_ref().is_some_and(|sha256| *sha256 != input.sha256) {
        return Err(SendError::Changed(input.name.clone()));
    }
    Ok((is_new, job))
}

fn accepted(input: &Input, is_new: bool, job: &JobBody) -> String {
    let name = printable(&input.name);
    if is_new {
        return format!("{name}: job {}\n", job.id);
    }
    let again = if job.phase.is_final() { " (--again scores it once more)" } else { "" };
    format!("{name}: was sent before: job {}, {}{again}\n", job.id, job.phase.name())
}

/// How a job ended, and where its outputs are.
fn ended(job: &JobBody) -> String {
    let phase = Screen::stdout().paint(style_of(job.phase.name()), job.phase.name());
    let why = why(job).map_or(String::new(), |why| format!(": {}", printable(&why)));
    let mut text = format!("{}: {phase}{why}\n", printable(&job.name));
    for output in &job.outputs {
        text += "  ";
        text += &printable(&output.path.display().to_string());
        text.push('\n');
    }
    text
}

/// What no other call has: of two at the same microsecond each is a process of its own.
fn moment() -> String {
    format!("{}-{}", SystemClock.now().timestamp_micros(), std::process::id())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
