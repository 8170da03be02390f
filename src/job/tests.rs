use uuid::Uuid;

use super::*;

pub(crate) fn queued(path: &str) -> Job {
    let arrival = Arrival {
        feed: Name::try_from("churn".to_owned()).unwrap(),
        path: SourcePath::new(std::path::Path::new(path)).unwrap(),
        file: FileIdentity { inode: 7, size_bytes: 3, mtime_ns: 5 },
        deadline_at: at(1_000_000),
    };
    Job::accepted(
        JobId::new(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001)),
        &arrival,
        at(0),
    )
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn turn() -> Turn {
    Turn { now: at(1), tries: 0, outage: false }
}

fn step(job: Job, outcome: Outcome) -> Step {
    apply(job, outcome, turn(), &Policy::default()).unwrap()
}

fn way(outcomes: Vec<Outcome>) -> Job {
    outcomes.into_iter().fold(queued("a.csv"), |job, outcome| step(job, outcome).job)
}

fn uploaded() -> Outcome {
    let content = Content { size_bytes: 3, sha256: Sha256([7; 32]) };
    Outcome::Uploaded { blob: "churn/1/in.csv".into(), content }
}

fn submitted() -> Outcome {
    let redirect = Redirect { output: "output1".into(), blob: "churn/1/out.csv".into() };
    Outcome::Submitted { remote_id: RemoteId("r1".into()), redirects: vec![redirect] }
}

fn finished() -> Outcome {
    let place = ResultPlace::Elsewhere("experimentoutput/x.ilearner".into());
    Outcome::Finished(vec![RunResult { output: "model".into(), place }])
}

fn delivered() -> Outcome {
    let content = Content { size_bytes: 9, sha256: Sha256([9; 32]) };
    let output = Output { name: "output1".into(), path: "/out/a.csv".into(), content };
    Outcome::Delivered(vec![output])
}

/// A job in every state, by a way that leads there.
fn every_state() -> Vec<(&'static str, Job)> {
    let permanent = || Outcome::Fault(Fault::permanent(Origin::Endpoint, "bad", "bad"));
    let to_running = || vec![uploaded(), submitted(), Outcome::Started];
    let with = |mut way: Vec<Outcome>, more: Vec<Outcome>| {
        way.extend(more);
        way
    };
    vec![
        ("queued", way(vec![])),
        ("uploaded", way(vec![uploaded()])),
        ("submitted", way(vec![uploaded(), submitted()])),
        ("running", way(to_running())),
        ("cancelling", way(with(to_running(), vec![Outcome::Wished(Want::Cancel)]))),
        ("cancelling (deadline)", way(with(to_running(), vec![Outcome::DeadlinePassed]))),
        ("scored", way(with(to_running(), vec![finished()]))),
        ("delivered", way(with(to_running(), vec![finished(), delivered()]))),
        (
            "succeeded",
            way(with(to_running(), vec![finished(), delivered(), Outcome::Settled(None)])),
        ),
        ("failed", way(vec![permanent()])),
        ("failed, settled", way(vec![permanent(), Outcome::Settled(Some("/failed/a.csv".into()))])),
        ("cancelled", way(vec![Outcome::Wished(Want::Cancel)])),
        ("skipped", way(vec![uploaded(), Outcome::Duplicate(queued("b").id())])),
    ]
}

fn every_outcome() -> Vec<(&'static str, Outcome)> {
    let fault = |class: fn(Origin, &'static str, &'static str) -> Fault| {
        Outcome::Fault(class(Origin::Endpoint, "code", "words"))
    };
    vec![
        ("uploaded", uploaded()),
        ("duplicate", Outcome::Duplicate(queued("b").id())),
        (
            "input missing",
            Outcome::InputMissing(Fault::transient(Origin::Endpoint, "BlobNotFound", "gone")),
        ),
        ("submitted", submitted()),
        ("started", Outcome::Started),
        ("remote gone", Outcome::RemoteGone),
        ("pending", Outcome::Pending),
        ("finished", finished()),
        ("remote failed", Outcome::RemoteFailed("poison".into())),
        ("remote cancelled", Outcome::RemoteCancelled),
        ("delivered", delivered()),
        ("settled", Outcome::Settled(None)),
        ("transient", fault(Fault::transient)),
        ("unavailable", fault(Fault::unavailable)),
        (
            "throttled",
            Outcome::Fault(Fault::throttled(
                Origin::Endpoint,
                Some(Duration::from_secs(9)),
                "429",
                "slow down",
            )),
        ),
        ("permanent", fault(Fault::permanent)),
        ("fatal", fault(Fault::fatal)),
        ("cancel requested", Outcome::Wished(Want::Cancel)),
        ("deadline passed", Outcome::DeadlinePassed),
    ]
}

#[test]
fn the_table_of_all_legal_moves() {
    use std::fmt::Write;

    let mut table = String::new();
    for (from, job) in every_state() {
        let action = next_action(&job).map_or("-", Action::name);
        writeln!(table, "{from}: {action}").unwrap();
        for (name, outcome) in every_outcome() {
            let Ok(step) = apply(job.clone(), outcome, turn(), &Policy::default()) else {
                continue;
            };
            let wait = match step.wait {
                Wait::Now => "now",
                Wait::After(_) => "later",
                Wait::Held => "held",
                Wait::Done => "done",
            };
            let written = if step.event.is_some() { "" } else { ", not written" };
            let attempts = match step.job.attempts() {
                0 => String::new(),
                n => format!(", attempts {n}"),
            };
            let to = step.job.phase().name();
            writeln!(table, "  {name:<17} {to} ({wait}{attempts}{written})").unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_state_survives_the_store() {
    for (name, job) in every_state() {
        assert_eq!(Job::restore(job.record()).unwrap(), job, "{name}");
    }
}

#[test]
fn a_row_that_makes_no_sense_is_refused() {
    type Spoil = fn(&mut Record);
    let spoils: [(&str, Spoil); 7] = [
        ("no input blob", |r| r.input_blob = None),
        ("no content", |r| r.content = None),
        ("no remote id", |r| r.remote_id = None),
        ("no redirects", |r| r.redirects = None),
        ("no results", |r| r.results = None),
        ("no outputs", |r| r.outputs = None),
        ("its end", |r| r.finished_at = None),
    ];
    let (_, job) = every_state().into_iter().find(|(name, _)| *name == "succeeded").unwrap();
    for (what, spoil) in spoils {
        let mut record = job.record();
        spoil(&mut record);
        let error = Job::restore(record).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_step_that_keeps_failing_by_itself_ends_the_job_at_its_limit() {
    for state in ["queued", "uploaded"] {
        let (_, mut job) = every_state().into_iter().find(|(name, _)| *name == state).unwrap();
        let mut last = Duration::ZERO;
        for tries in 1..=8 {
            let fault = Fault::transient(Origin::Endpoint, "500", "trouble");
            let turn = Turn { tries: tries - 1, ..turn() };
            let step = apply(job, Outcome::Fault(fault), turn, &Policy::default()).unwrap();
            job = step.job;
            assert_eq!(job.attempts(), tries, "{state}");
            if tries < 8 {
                let Wait::After(wait) = step.wait else { panic!("{:?}", step.wait) };
                assert!(wait > last.mul_f64(1.1), "waits grow: {last:?} then {wait:?}");
                last = wait;
            }
        }
        assert_eq!(job.phase(), Phase::Failed, "{state}");
        assert_eq!(job.error().unwrap().code, "500");
    }
}

#[test]
fn a_service_that_never_finds_the_input_ends_the_attempts() {
    let policy = Policy { max_attempts: 3, ..Policy::default() };
    let mut job = queued("a.csv");
    for uploads in 1..=3 {
        job = apply(job, uploaded(), turn(), &policy).unwrap().job;
        let missing = Fault::transient(Origin::Endpoint, "BlobNotFound", "gone");
        let step = apply(job, Outcome::InputMissing(missing), turn(), &policy).unwrap();
        job = step.job;
        assert_eq!(job.attempts(), uploads);
    }
    assert_eq!(job.phase(), Phase::Failed);
    assert_eq!(job.error().unwrap().code, "BlobNotFound");
}

#[test]
fn trouble_of_the_service_costs_no_attempt_however_long_it_lasts() {
    let mut job = way(vec![uploaded()]);
    for tries in 0..1000 {
        let outage = tries % 2 == 0;
        let make = if outage { Fault::transient } else { Fault::unavailable };
        let fault = make(Origin::Endpoint, "503".to_owned(), "away".to_owned());
        job =
            apply(job, Outcome::Fault(fault), Turn { tries, outage, ..turn() }, &Policy::default())
                .unwrap()
                .job;
    }
    assert_eq!((job.phase(), job.attempts()), (Phase::Uploaded, 0));
}

#[test]
fn throttling_waits_as_long_as_it_was_told_and_costs_nothing() {
    let job = way(vec![uploaded()]);
    let after = Duration::from_secs(504);
    let fault = Fault::throttled(Origin::Endpoint, Some(after), "429", "slow down");
    let step = step(job.clone(), Outcome::Fault(fault));
    assert_eq!((step.wait, step.job, step.event), (Wait::After(after), job, None));
}

#[test]
fn every_try_of_an_upload_that_may_have_left_a_blob_gets_a_revision_of_its_own() {
    let job = queued("a.csv");
    let fault = Fault::unavailable(Origin::Storage, "timeout", "no answer");
    let next = step(job.clone(), Outcome::Fault(fault)).job;
    assert!(next.revision() > job.revision());
}

#[test]
fn a_folder_that_cannot_be_read_is_written_down_once() {
    let denied = || Outcome::Fault(Fault::unavailable(Origin::Inbox, "inbox_denied", "denied"));
    let first = step(queued("a.csv"), denied());
    assert!(first.event.is_some());
    let again = step(first.job.clone(), denied());
    assert_eq!((again.event, again.job), (None, first.job));
}

#[test]
fn a_remote_failure_is_rerun_as_often_as_allowed_and_then_final() {
    let policy = Policy { reruns: 1, ..Policy::default() };
    let mut job = way(vec![uploaded(), submitted(), Outcome::Started]);
    job = apply(job, Outcome::RemoteFailed("x".into()), turn(), &policy).unwrap().job;
    assert_eq!((job.phase(), job.generation()), (Phase::Uploaded, 2));
    assert_eq!(job.submitted(), None, "the second generation has no remote id yet");
    job = step(step(job, submitted()).job, Outcome::Started).job;
    job = apply(job, Outcome::RemoteFailed("y".into()), turn(), &policy).unwrap().job;
    assert_eq!((job.phase(), job.generation()), (Phase::Failed, 2));
    assert_eq!(job.error().unwrap().message, "y");
}

#[test]
fn once_a_start_may_have_been_sent_an_unknown_job_is_held_and_not_submitted_again() {
    for way_there in
        [vec![uploaded(), submitted()], vec![uploaded(), submitted(), Outcome::Started]]
    {
        let job = step(way(way_there), Outcome::RemoteGone).job;
        assert_eq!(next_action(&job), None);
        assert_eq!(job.held().unwrap().code, "remote_job_unknown");
        assert_eq!(job.submitted().unwrap().remote_id(), &RemoteId("r1".into()));
    }
}

#[test]
fn results_that_went_elsewhere_join_those_directed_to_us() {
    let job = way(vec![uploaded(), submitted(), Outcome::Started, finished()]);
    let names: Vec<_> = job.results().iter().map(|r| (r.output.as_str(), r.place.blob())).collect();
    assert_eq!(names, [("model", "experimentoutput/x.ilearner"), ("output1", "churn/1/out.csv")]);
}

#[test]
fn phases_and_digests_are_read_back_from_their_names() {
    for phase in Phase::ALL {
        assert_eq!(Phase::parse(phase.name()), Some(phase));
    }
    let digest = Sha256(std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
    assert_eq!(Sha256::try_from(digest.to_string()), Ok(digest));
    assert!(Sha256::try_from("ü".repeat(32)).is_err());
}
