//! A whole daemon when things go wrong: bad input, and a remote side, a storage or a disk that is away for a while.
//! Whatever happens, nothing is lost, nothing is run twice, and no job pays for a trouble that isn't its own.

use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::sandbox::Settings;
use secrecy::ExposeSecret as _;

use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running, eventually, files_in};
use crate::{azurite, blobs};

mod input;
mod outages;
mod remote;
mod secrets;
mod store;

/// Drops files `0.csv` and so on, each with a text of its own.
fn drop_many(rig: &Rig, numbers: Range<usize>) {
    for n in numbers {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&text(n)]));
    }
}

/// Every one of [`drop_many`]'s files was scored once and delivered, and nothing else was.
async fn all_came_through(rig: &Rig, daemon: &Running, count: usize) {
    let jobs = daemon.until_ended(count).await;
    let bad: Vec<_> = jobs.iter().filter(|job| job.phase != Phase::Succeeded).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let outputs = (0..count).map(|n| (format!("{n}.scores.csv"), scores_of(&[&text(n)])));
    assert_eq!(rig.files("out"), outputs.collect());
    let sources = (0..count).map(|n| (format!("{n}.csv"), input_of(&[&text(n)])));
    assert_eq!(rig.files("archive"), sources.collect());
    assert!(rig.files("in").is_empty() && rig.files("failed").is_empty());
    rig.started_once_each(count);
}

/// No job ever had an attempt counted.
async fn no_attempt_was_counted(daemon: &Running) {
    for job in daemon.jobs().await {
        assert_eq!(job.attempts, 0, "{job:#?}");
        // Attempts are forgotten with the next phase; the history would tell of one that was the last.
        let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", job.id)).await;
        assert!(!events.contains("gave up"), "{events}");
    }
}

fn text(n: usize) -> String {
    format!("the {n}th trouble of {}", n * n + 7)
}

fn one(jobs: &[JobBody], phase: Phase) -> bool {
    jobs.len() == 1 && jobs[0].phase == phase
}
