//! How soon a single file is on its way, while there is nothing else to do: from its rename into the drop folder to the
//! answers of the service. By the times that the job's history tells, on the same machine and so by the same clock.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use scoreline::ports::{Clock as _, JobQuery, Store};
use scoreline::store::{self, Migrate, Settings};
use secrecy::ExposeSecret as _;

use crate::figure::{Section, Spread};
use crate::files::Remote;
use crate::server::{Database, Server};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let mut spreads = Vec::new();
    for (rule, feed, settle, files) in [
        ("rename_only", "watch.ready = [\"rename_only\"]\n", 0, extent.of(1000)),
        ("settle = 200ms, no_writer", "watch.settle = \"200ms\"\n", 200, extent.of(200)),
    ] {
        for store in ["SQLite", "PostgreSQL"] {
            let database = (store == "PostgreSQL").then(|| Database::on(server));
            let times = times(files, feed, database.as_ref()).await?;
            for (step, name) in STEPS.into_iter().enumerate() {
                let beyond = times.iter().map(|times| times[step] - f64::from(settle));
                let what = format!("{store}, {rule}: {name}");
                let spread = Spread::of(what, &beyond.collect::<Vec<_>>());
                spreads.push(if name == "started" { spread.at_most(50.0) } else { spread });
            }
            let ends = times.iter().map(|times| times[ENDS]);
            let what = format!("{store}, {rule}: remote finish seen to output in place");
            spreads.push(Spread::of(what, &ends.collect::<Vec<_>>()).at_most(50.0));
        }
    }
    let build = if cfg!(debug_assertions) { "an unoptimised build" } else { "a release" };
    let conditions = vec![
        format!("{build}; files of 1 KiB, renamed into the drop folder one at a time"),
        "the next one some 50 ms after the output of the last one is there: the daemon is idle"
            .to_owned(),
        "beyond the time of settling; `serve` and the remote side as processes of their own"
            .to_owned(),
    ];
    Ok(Section {
        title: "From the rename of a single file".to_owned(),
        conditions,
        figures: Vec::new(),
        spreads,
        counts: Vec::new(),
    })
}

/// Milliseconds from each file's rename to each of [`STEPS`], and at [`ENDS`] those that delivery takes.
async fn times(
    files: usize,
    feed: &str,
    database: Option<&Database>,
) -> anyhow::Result<Vec<[f64; ENDS + 1]>> {
    let remote = Remote::start().await?;
    let folder = remote.folder.path();
    let text = database.map_or(String::new(), |database| {
        format!("[database]\nurl = {:?}\n", database.url().expose_secret())
    });
    let mut daemon = remote.serve(&text, feed)?;
    // The first one warms up, and shows that it is there.
    remote.stage(1)?;
    remote.rename_all(1)?;
    remote.until_archived(1).await?;
    remote.stage(files)?;
    let mut renamed = Vec::new();
    for n in 0..files {
        // Not in step with anything that the daemon does at its own times.
        CLOCK.sleep(Duration::from_millis(30 + n as u64 * 7 % 41)).await;
        let name = format!("{n:04}.csv");
        renamed.push(CLOCK.now());
        std::fs::rename(remote.staged(n), folder.join("in").join(&name))?;
        for turn in 0.. {
            if folder.join("archive").join(&name).exists() {
                break;
            }
            ensure!(turn < 15_000, "{name} is not archived after half a minute");
            CLOCK.sleep(Duration::from_millis(2)).await;
        }
    }
    let server = database.map(|database| store::Server { url: database.url(), max_connections: 4 });
    let settings = Settings { state_dir: folder.join("state"), server, migrate: Migrate::Check };
    let store = settings.open_read_only(CLOCK).await?;
    let all = JobQuery { limit: files + 1, ..JobQuery::default() };
    let mut times = Vec::new();
    for job in store.list(&all).await?.jobs {
        let name = job.path().to_string();
        let Some(began) =
            name.strip_suffix(".csv").and_then(|n| renamed.get(n.parse::<usize>().ok()?))
        else {
            continue;
        };
        let mut steps = [milliseconds(job.created_at() - *began); ENDS + 1];
        let events = store.events(job.id()).await?;
        let at = |step: &str| -> anyhow::Result<DateTime<Utc>> {
            let event = events.iter().find(|event| event.outcome == step);
            Ok(event.with_context(|| format!("{name} was never {step}"))?.at)
        };
        for (step, outcome) in STEPS.into_iter().zip(&mut steps).skip(1) {
            *outcome = milliseconds(at(step)? - *began);
        }
        steps[ENDS] = milliseconds(at("delivered")? - at("finished")?);
        times.push(steps);
    }
    ensure!(times.len() == files, "{} jobs of {files} files", times.len());
    daemon.kill().await?;
    Ok(times)
}

fn milliseconds(time: TimeDelta) -> f64 {
    time.as_seconds_f64() * 1000.0
}

/// What is told of each file, as the outcomes in its history are called.
/// The last is when the run's start was answered.
const STEPS: [&str; 4] = ["accepted", "uploaded", "submitted", "started"];
/// From the answer that says that the run has finished to the output under its name, durably.
const ENDS: usize = STEPS.len();
