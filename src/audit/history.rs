//! Whether a job's history leads to its row.

use std::collections::BTreeSet;

use super::finding::Kind;
use crate::job::{Event, Job, Phase, Uploaded, replay};

/// What in a job's history contradicts itself, or the job; at most one of each kind.
pub(super) fn contradictions(job: &Job, events: &[Event]) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    match replay(events) {
        Err(what) => found.push((Kind::HistoryBroken, what)),
        Ok(there) => {
            let here = (job.phase(), job.generation(), job.revision());
            if here != there {
                let words = |(phase, generation, revision): (Phase, u32, u64)| {
                    format!("{} in generation {generation} at revision {revision}", phase.name())
                };
                let what = format!("the job is {}, its history says {}", words(here), words(there));
                found.push((Kind::RowDiffers, what));
            }
        }
    }
    let mut started = BTreeSet::new();
    let twice = events
        .iter()
        .find(|e| STARTED.contains(&e.outcome.as_str()) && !started.insert(e.generation));
    if let Some(event) = twice {
        let (generation, revision) = (event.generation, event.revision);
        let what = format!("generation {generation}, the second time at revision {revision}");
        found.push((Kind::StartedTwice, what));
    }
    found.extend(forgotten(job, events).map(|what| (Kind::RowDiffers, what)));
    found
}

/// What the job names and the last line about it doesn't. The lines are for people: that they hold the name is all
/// that is asked of them.
fn forgotten(job: &Job, events: &[Event]) -> Option<String> {
    let told = |outcomes: &[&str], name: &str| {
        let last = events.iter().rev().find(|event| outcomes.contains(&event.outcome.as_str()))?;
        let detail = last.detail.as_deref()?;
        (!detail.contains(name)).then(|| {
            format!(
                "the job names {name}, its history says {detail:?} (revision {})",
                last.revision
            )
        })
    };
    // What lay in the storage has no hash and is named in another line.
    let input = job.uploaded().and_then(Uploaded::sha256).map(|hash| hash.to_string());
    let remote = job.submitted().map(|run| run.remote_id().0.clone());
    let moved = job.source_moved_to().map(|path| path.display().to_string());
    let outputs =
        job.outputs().iter().map(|output| (&["delivered"][..], output.path.display().to_string()));
    let named = [(&["uploaded"][..], input), (&NAMED, remote), (&["settled"], moved)];
    let named = named.into_iter().filter_map(|(outcomes, name)| Some((outcomes, name?)));
    named.chain(outputs).find_map(|(outcomes, name)| told(outcomes, &name))
}

/// The outcomes that may each have begun the generation's run.
const STARTED: [&str; 4] = ["started", "invoked", "executed", "start_unclear"];
/// The outcomes whose lines name the run.
const NAMED: [&str; 3] = ["submitted", "invoked", "found"];

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::job::Phase;
    use crate::job::tests::queued;

    fn event(revision: u64, generation: u32, from: Phase, to: Phase, outcome: &str) -> Event {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        Event { at, revision, generation, from, to, outcome: outcome.into(), detail: None }
    }

    #[test]
    fn each_contradiction_is_named() {
        use Phase::{Queued, Running, Submitted, Uploaded};
        let job = queued("a.csv");
        let accepted = || event(1, 1, Queued, Queued, "accepted");
        let kinds = |events: &[Event]| {
            contradictions(&job, events).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&[accepted()]), []);
        assert_eq!(kinds(&[]), [Kind::HistoryBroken]);
        let ahead = [accepted(), event(2, 1, Queued, Uploaded, "uploaded")];
        assert_eq!(kinds(&ahead), [Kind::RowDiffers], "the row is behind");
        for (what, wrong) in [
            ("the first is gone", vec![event(2, 1, Queued, Queued, "fault")]),
            ("one is gone", vec![accepted(), event(3, 1, Queued, Queued, "fault")]),
            ("it jumps", vec![accepted(), event(2, 1, Running, Running, "recovered")]),
            ("back", vec![event(1, 2, Queued, Queued, "x"), event(2, 1, Queued, Queued, "y")]),
        ] {
            assert_eq!(kinds(&wrong)[0], Kind::HistoryBroken, "{what}");
        }
        let started =
            |revision, generation| event(revision, generation, Submitted, Running, "started");
        let twice = contradictions(&job, &[started(1, 1), started(2, 1)]);
        assert!(twice.iter().any(|(kind, _)| *kind == Kind::StartedTwice), "{twice:?}");
        let once_each = contradictions(&job, &[started(1, 1), started(2, 2)]);
        assert!(once_each.iter().all(|(kind, _)| *kind != Kind::StartedTwice), "{once_each:?}");
    }
}
