//! Sample arrivals and jobs. Jobs walk their way by the state machine alone: there is no other.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::fault::{Fault, Origin};
use scoreline::feed::{Name, SourcePath};
use scoreline::job::{
    Arrival, Content, Event, FileIdentity, Job, JobId, Outcome, Output, Redirect, RemoteId,
    ResultPlace, RunResult, Service, Sha256, Turn, Want, apply,
};
use scoreline::ports::Transition;
use scoreline::retry::Policy;
use uuid::Uuid;

/// A node's, where it doesn't matter.
pub(crate) const TERM: Duration = Duration::from_secs(15);

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

/// An arrival in the feed "churn".
pub(crate) fn arrival(path: impl AsRef<[u8]>) -> Arrival {
    arrival_in("churn", path)
}

pub(crate) fn arrival_in(feed: &str, path: impl AsRef<[u8]>) -> Arrival {
    Arrival {
        feed: name(feed),
        path: SourcePath::new(Path::new(OsStr::from_bytes(path.as_ref()))).unwrap(),
        file: FileIdentity { inode: 7, size_bytes: 3, mtime_ns: 5 },
        deadline_at: at(1_000_000),
        once: false,
    }
}

/// The transition that follows from an outcome.
pub(crate) fn step(job: &Job, outcome: Outcome) -> Transition {
    try_step(job, outcome).expect("an outcome that can follow and is worth a write")
}

/// The transition that follows from an outcome, if it can follow and is worth a write. It holds no run and answers no
/// wish.
pub(crate) fn try_step(job: &Job, outcome: Outcome) -> Option<Transition> {
    let turn = Turn { now: at(1), tries: 0, outage: false };
    let step = apply(job.clone(), outcome, turn, &Policy::default()).ok()?;
    Some(Transition { job: step.job, event: step.event?, run: None, answers: None })
}

/// The transition that takes a job back to the queue, in its next generation: a retry, from wherever it stands.
pub(crate) fn again(job: &Job) -> Transition {
    let record = Job::accepted(job.id(), &arrival_of(job), job.created_at());
    let mut record = record.made_by(job.fire().cloned()).record();
    record.generation = job.generation() + 1;
    record.revision = job.revision() + 1;
    let again = Job::restore(record).expect("a queued job makes sense");
    let event = Event {
        revision: again.revision(),
        generation: again.generation(),
        from: job.phase(),
        outcome: "retry_requested".into(),
        ..again.accepted_event()
    };
    Transition { job: again, event, run: None, answers: None }
}

fn arrival_of(job: &Job) -> Arrival {
    Arrival {
        feed: job.feed().clone(),
        path: job.path().clone(),
        file: job.file(),
        deadline_at: job.deadline_at(),
        once: false,
    }
}

pub(crate) fn uploaded() -> Outcome {
    let content = Content { size_bytes: u64::MAX, sha256: Sha256([0xa7; 32]) };
    Outcome::Uploaded { blob: "churn/1/in.csv".into(), content }
}

pub(crate) fn submitted() -> Outcome {
    let redirect = Redirect { output: "output1".into(), blob: "churn/1/out.csv".into() };
    Outcome::Submitted {
        remote_id: RemoteId("r1".into()),
        redirects: vec![redirect],
        service: Some(service()),
    }
}

fn service() -> Service {
    Service { endpoint: Name::try_from("churn".to_owned()).unwrap(), url: "https://h/s".into() }
}

pub(crate) fn finished() -> Outcome {
    let place = ResultPlace::Elsewhere("experimentoutput/x.ilearner".into());
    Outcome::Finished(vec![RunResult { output: "model".into(), place }])
}

pub(crate) fn delivered() -> Outcome {
    let content = Content { size_bytes: 9, sha256: Sha256([9; 32]) };
    let output = |path: &[u8]| Output { name: "o".into(), path: path_of(path), content };
    Outcome::Delivered(vec![
        output(b"/out/a.csv"),
        output(b"/out/\xff\\caf\xe9\\\\x41\\.csv"),
        output("/out/ü\"\n".as_bytes()),
    ])
}

pub(crate) fn settled() -> Outcome {
    Outcome::Settled(Some(path_of(b"/done/caf\xe9.csv")))
}

pub(crate) fn permanent() -> Outcome {
    Outcome::Fault(Fault::permanent(Origin::Endpoint, "bad", "bad"))
}

/// A way to every phase, and to what may lie beside it: a hold, a fault, a generation, a settled source.
pub(crate) fn ways() -> Vec<(&'static str, Vec<Outcome>)> {
    let running = [uploaded(), submitted(), Outcome::Started];
    let beyond = |more: Vec<Outcome>| running.iter().cloned().chain(more).collect::<Vec<_>>();
    let earlier = JobId::new(Uuid::from_u128(0x0180_0000_0000_7000_8000_0000_0000_0001));
    let transient = || Outcome::Fault(Fault::transient(Origin::Storage, "500", "trouble"));
    vec![
        ("queued", vec![]),
        ("queued, after a fault", vec![transient()]),
        ("uploaded", vec![uploaded()]),
        ("uploaded, the second generation", beyond(vec![Outcome::RemoteFailed("x".into())])),
        ("queued again", vec![uploaded(), input_missing()]),
        ("submitted", vec![uploaded(), submitted()]),
        ("submitted, held", vec![uploaded(), submitted(), Outcome::RemoteGone]),
        ("running", beyond(vec![])),
        ("running, held", beyond(vec![permanent()])),
        ("cancelling", beyond(vec![Outcome::Wished(Want::Cancel)])),
        ("cancelling by the deadline", beyond(vec![Outcome::DeadlinePassed])),
        ("scored", beyond(vec![finished()])),
        ("delivered", beyond(vec![finished(), delivered()])),
        ("succeeded", beyond(vec![finished(), delivered(), settled()])),
        ("succeeded in place", beyond(vec![finished(), delivered(), Outcome::Settled(None)])),
        ("failed", vec![permanent()]),
        ("failed, settled", vec![permanent(), settled()]),
        ("failed when scored", beyond(vec![finished(), permanent(), settled()])),
        ("cancelled", vec![Outcome::Wished(Want::Cancel)]),
        ("cancelled, settled", vec![Outcome::Wished(Want::Cancel), settled()]),
        (
            "cancelled when running",
            beyond(vec![Outcome::Wished(Want::Cancel), Outcome::RemoteCancelled, settled()]),
        ),
        (
            "failed by the deadline",
            beyond(vec![Outcome::DeadlinePassed, Outcome::RemoteCancelled, settled()]),
        ),
        ("skipped", vec![uploaded(), Outcome::Duplicate(earlier)]),
        ("skipped, settled", vec![uploaded(), Outcome::Duplicate(earlier), settled()]),
    ]
}

fn input_missing() -> Outcome {
    Outcome::InputMissing(Fault::transient(Origin::Endpoint, "BlobNotFound", "gone"))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
