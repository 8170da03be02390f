//! `scoreline demo`: the whole way of a file, on this machine, in seconds.
//!
//! Nothing is staged: a sandbox plays the remote side on loopback, and the daemon that runs against it is the one that
//! `serve` runs, from a config like anybody's, on an embedded store, over real HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::SecondsFormat;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{Client, DemoArgs, Exit, table, tell};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::daemon::{Daemon, RealWorld, Settings};
use crate::engine::Stop;
use crate::http::JobsBody;
use crate::job::Phase;
use crate::ports::Clock;
use crate::sandbox::{self, Sandbox};

/// Runs the demo until it is done, or until `stop` with `--keep`.
pub async fn demo(args: &DemoArgs, json: bool, stop: Stop) -> anyhow::Result<Exit> {
    let home = Home::make(args.dir.as_deref())?;
    // To be watched, things must not be over at once.
    let run_time = if args.keep { Duration::from_secs(4) } else { Duration::from_millis(700) };
    let sandbox_settings = sandbox::Settings { run_time, ..Default::default() };
    let sandbox = Sandbox::start(sandbox_settings, SystemClock).await?;
    let file = home.root.join("scoreline.toml");
    write_config(&file, &home, &sandbox.config_snippet(), args.keep)?;
    let config = Config::load(&file, &BTreeMap::new())?;

    // A folder may hold the jobs of an earlier demo.
    let since = SystemClock.now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let samples = home.drop_samples(args.files)?;
    let world = Arc::new(RealWorld::build(&config).await?);
    let daemon = Daemon::start(world, Settings::from(&config)).await?;
    let url = format!("http://{}", daemon.address()?);
    let running = tokio::spawn(daemon.run(stop.clone()));

    let jobs = watch(&url, samples.len(), &since, &stop).await?;
    let failed = jobs.jobs.iter().filter(|job| job.phase != Phase::Succeeded).count();
    let complete = jobs.jobs.len() >= samples.len() && failed == 0;
    if json {
        tell(&(serde_json::to_string(&jobs)? + "\n"))?;
    } else {
        tell(&report(&jobs, &home, &url, args.keep))?;
    }
    if args.keep && !stop.soft.is_cancelled() {
        tokio::select! {
            broken = home.trickle(args.files, &SystemClock) => broken?,
            () = stop.soft.cancelled() => {}
        }
    }
    stop.soft.cancel();
    running.await.context("the daemon broke off")??;
    sandbox.stop().await?;
    Ok(if complete { Exit::Done } else { Exit::Failed })
}

/// The folders of a demo.
struct Home {
    root: PathBuf,
    inbox: PathBuf,
}

impl Home {
    fn make(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let root = match wanted {
            Some(dir) => std::path::absolute(dir)?,
            None => new_folder()?,
        };
        let inbox = root.join("in");
        for folder in [&inbox, &root.join("minutely"), &root.join("out")] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("could not make {}", folder.display()))?;
        }
        Ok(Self { root, inbox })
    }

    /// Samples get their names only when they are whole, as a careful sender does it.
    fn drop_samples(&self, count: u32) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for n in 0..count {
            let (name, text) = sample(n);
            drop_into(&self.inbox, &name, text)?;
            names.push(name);
        }
        Ok(names)
    }

    /// Life for those who look: a file every few seconds, now and then one that fails, and some for the schedule. Never
    /// ends, unless a folder is gone.
    async fn trickle(&self, first: u32, clock: &impl Clock) -> anyhow::Result<()> {
        for n in first.. {
            clock.sleep(TRICKLE).await;
            match n % 8 {
                3 => drop_into(&self.inbox, &format!("fails on purpose {n}.csv"), POISON)?,
                5 => {
                    let (name, text) = sample(n);
                    drop_into(&self.root.join("minutely"), &name, text)?;
                }
                _ => {
                    let (name, text) = sample(n);
                    drop_into(&self.inbox, &name, text)?;
                }
            }
        }
        Ok(())
    }
}

fn drop_into(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let unfinished = folder.join(format!(".{name}.part"));
    let quoted = text.replace('"', "\"\"");
    let whole = folder.join(name);
    std::fs::write(&unfinished, format!("Col2\n\"{quoted}\"\n"))
        .and_then(|()| std::fs::rename(&unfinished, &whole))
        .with_context(|| format!("could not write {}", whole.display()))
}

/// A folder that nobody has yet.
fn new_folder() -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for n in 1..10_000 {
        let folder = base.join(format!("scoreline-demo-{n}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("could not make {}; name a folder with --dir", folder.display())
                });
            }
        }
    }
    anyhow::bail!("{} is full of demos; name a folder with --dir", base.display())
}

fn sample(n: u32) -> (String, &'static str) {
    const TEXTS: [(&str, &str); 8] = [
        ("good day", "This is a good day"),
        ("book", "A wonderful book, I could not put it down"),
        ("dull", "Dull, long and full of itself"),
        ("gift", "Bought it as a gift and kept it"),
        ("again", "I will read it again and again"),
        ("half", "The first half is better than the second"),
        ("größe", "Über die Größe lässt sich streiten"),
        ("quote", "\"Not bad\", said my neighbour"),
    ];
    let (name, text) = TEXTS[n as usize % TEXTS.len()];
    (if n < 8 { format!("{name}.csv") } else { format!("{name} {n}.csv") }, text)
}

fn write_config(file: &Path, home: &Home, remote: &str, keep: bool) -> anyhow::Result<()> {
    let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let root = &home.root;
    let scheduled = if keep {
        format!(
            "\n[feeds.minutely]\nendpoint = \"sandbox\"\nstorage = \"sandbox\"\n\
             outputs = {{ output1 = \"{{stem}}.scores.csv\" }}\n\
             schedule = {{ cron = \"* * * * *\", timezone = \"UTC\" }}\n\
             watch = {{ folder = {inbox}, settle = \"500ms\" }}\nduplicates.then = \"rerun\"\n\
             deliver.folder = {out}\nsource = {{ archive = {archive}, failed = {failed} }}\n",
            inbox = quoted(&root.join("minutely")),
            out = quoted(&root.join("out/minutely")),
            archive = quoted(&root.join("archive/minutely")),
            failed = quoted(&root.join("failed/minutely")),
        )
    } else {
        String::new()
    };
    let text = format!(
        "{WRITTEN_BY}.\n\
         [node]\nstate_dir = {state}\n\n\
         [http]\nlisten = \"127.0.0.1:0\"\n\n\
         {remote}poll = {{ first = \"300ms\", factor = 1.2, max = \"2s\" }}\n\n\
         [feeds.demo]\nendpoint = \"sandbox\"\nstorage = \"sandbox\"\n\
         outputs = {{ output1 = \"{{stem}}.scores.csv\" }}\n\n\
         [feeds.demo.watch]\nfolder = {inbox}\nsettle = \"500ms\"\n\n\
         [feeds.demo.duplicates]\nthen = \"rerun\"\n\n\
         [feeds.demo.deliver]\nfolder = {out}\n\n\
         [feeds.demo.source]\narchive = {archive}\nfailed = {failed}\n{scheduled}",
        state = quoted(&root.join("state")),
        inbox = quoted(&home.inbox),
        out = quoted(&root.join("out")),
        archive = quoted(&root.join("archive")),
        failed = quoted(&root.join("failed")),
    );
    let foreign = std::fs::read_to_string(file).is_ok_and(|there| !there.starts_with(WRITTEN_BY));
    anyhow::ensure!(
        !foreign,
        "{} is not from a demo and is left as it is; name another folder with --dir",
        file.display()
    );
    std::fs::write(file, text).with_context(|| format!("could not write {}", file.display()))
}

/// Follows the jobs until all have ended, over HTTP as anybody would.
async fn watch(url: &str, count: usize, since: &str, stop: &Stop) -> anyhow::Result<JobsBody> {
    let client = Client::new(url, None)?;
    let bar = ProgressBar::new(count as u64);
    if std::io::stderr().is_terminal() {
        let style = "{bar:30} {pos}/{len} scored  {msg}";
        bar.set_style(ProgressStyle::with_template(style).context("a legal template")?);
    } else {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    loop {
        let params = [("limit", count.to_string()), ("since", since.to_owned())];
        let jobs: JobsBody = client.get("/api/v1/jobs", &params).await?;
        let ended = jobs.jobs.iter().filter(|job| job.phase.is_final()).count();
        bar.set_position(ended as u64);
        bar.set_message(phases(&jobs));
        if ended >= count || stop.soft.is_cancelled() {
            bar.finish_and_clear();
            return Ok(jobs);
        }
        SystemClock.sleep(Duration::from_millis(100)).await;
    }
}

/// `2 queued, 3 running`
fn phases(jobs: &JobsBody) -> String {
    let mut counts = BTreeMap::new();
    for job in jobs.jobs.iter().filter(|job| !job.phase.is_final()) {
        *counts.entry(job.phase).or_insert(0) += 1;
    }
    let parts: Vec<_> =
        counts.into_iter().map(|(phase, n)| format!("{n} {}", phase.name())).collect();
    parts.join(", ")
}

fn report(jobs: &JobsBody, home: &Home, url: &str, keep: bool) -> String {
    let (mut rows, mut errors) = (Vec::new(), String::new());
    for job in jobs.jobs.iter().rev() {
        let source = job.source_moved_to.as_ref().map(Path::new);
        let (scores, output) = match job.outputs.first() {
            Some(output) => {
                (first_row(&output.path).replace(',', " "), output.path.display().to_string())
            }
            None => ("-".to_owned(), job.phase.name().to_owned()),
        };
        rows.push(vec![
            job.name.clone(),
            source.map(first_row).unwrap_or_default(),
            scores,
            output,
        ]);
        if let Some(error) = &job.error {
            let _ = writeln!(errors, "\n{}: {}", job.name, error.message);
        }
    }
    let mut text = table::table(&["INPUT", "TEXT", "SCORES", "OUTPUT"], &rows) + &errors;
    let root = home.root.display();
    let config = home.root.join("scoreline.toml");
    let _ = write!(
        text,
        "\nEach file went: folder → blob storage → submit → start → poll → output file.\n\
         Inputs are in {root}/archive now, the config is {}.\n",
        config.display()
    );
    if keep {
        let _ = write!(
            text,
            "\nThe daemon stays up. See it at\n  {url}/\n\
             Files go on coming, one every {} s; every eighth fails on purpose, and some wait for a schedule that fires each \
             minute.\nDrop a CSV file of your own with a text column into\n  {}\nor send it:\n  \
             scoreline submit demo FILE --wait --url {url}\nCtrl-C stops it.\n",
            TRICKLE.as_secs(),
            home.inbox.display()
        );
    } else {
        text.push_str(
            "\nNext: `scoreline demo --keep` stays up, with a web page to watch; \
             `scoreline init` writes a config for a service of your own.\n",
        );
    }
    text
}

/// The first row under a file's head, without quotes around it.
fn first_row(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let row = text.lines().nth(1).unwrap_or_default();
    let quoted = row.strip_prefix('"').and_then(|row| row.strip_suffix('"'));
    quoted.unwrap_or(row).replace("\"\"", "\"")
}

/// How often another file comes.
const TRICKLE: Duration = Duration::from_secs(3);
/// What the sandbox's model refuses.
const POISON: &str = "POISON";
const WRITTEN_BY: &str = "# Written by `scoreline demo`";
