use uuid::Uuid;

use super::*;
use crate::fault::Origin;

pub(crate) fn queued(path: &str) -> Job {
    let arrival = Arrival {
        feed: Name::try_from("churn".to_owned()).unwrap(),
        path: SourcePath::new(std::path::Path::new(path)).unwrap(),
        file: FileIdentity { inode: 7, size_bytes: 3, mtime_ns: 5 },
        deadline_at: at(1_000_000),
        once: false,
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
    Outcome::Submitted {
        remote_id: RemoteId("r1".into()),
        redirects: vec![redirect],
        service: Some(service()),
    }
}

fn service() -> Service {
    Service { endpoint: Name::try_from("churn".to_owned()).unwrap(), url: "https://h/s".into() }
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

fn permanent() -> Outcome {
    Outcome::Fault(Fault::permanent(Origin::Endpoint, "bad", "bad"))
}

fn settled() -> Outcome {
    Outcome::Settled(Some("/failed/a.csv".into()))
}

fn cancel() -> Outcome {
    Outcome::Wished(Want::Cancel)
}

fn retry() -> Outcome {
    Outcome::Wished(Want::Retry)
}

fn adopt(id: &str) -> Outcome {
    Outcome::Wished(Want::Adopt(RemoteId(id.into())))
}

fn not_started() -> Outcome {
    Outcome::Wished(Want::NotStarted)
}

fn unclear() -> Outcome {
    Outcome::StartUnclear(Fault::unavailable(Origin::Endpoint, "timeout", "no answer"))
}

fn skip() -> Outcome {
    Outcome::Duplicate(queued("b").id())
}

/// A way to a running job, and on from there.
fn running(more: impl IntoIterator<Item = Outcome>) -> Vec<Outcome> {
    [uploaded(), submitted(), Outcome::Started].into_iter().chain(more).collect()
}

/// A job in every state, by a way that leads there.
pub(super) fn every_state() -> Vec<(&'static str, Job)> {
    vec![
        ("queued", way(vec![])),
        ("uploaded", way(vec![uploaded()])),
        ("submitted", way(vec![uploaded(), submitted()])),
        ("submitted, held", way(vec![uploaded(), submitted(), Outcome::RemoteGone])),
        ("running", way(running([]))),
        ("running, held", way(running([permanent()]))),
        ("running, unclear", way(vec![uploaded(), submitted(), unclear()])),
        ("cancelling", way(running([cancel()]))),
        ("cancelling, held", way(running([cancel(), permanent()]))),
        ("cancelling (deadline)", way(running([Outcome::DeadlinePassed]))),
        ("scored", way(running([finished()]))),
        ("delivered", way(running([finished(), delivered()]))),
        ("succeeded", way(running([finished(), delivered(), Outcome::Settled(None)]))),
        ("failed when queued", way(vec![permanent()])),
        ("failed when queued, settled", way(vec![permanent(), settled()])),
        ("failed when uploaded", way(vec![uploaded(), permanent()])),
        ("failed when running", way(running([Outcome::RemoteFailed("poison".into()), settled()]))),
        ("failed when scored", way(running([finished(), permanent(), settled()]))),
        (
            "failed when cancelling (deadline)",
            way(running([Outcome::DeadlinePassed, Outcome::RemoteCancelled, settled()])),
        ),
        ("cancelled when queued", way(vec![cancel()])),
        ("cancelled when running", way(running([cancel(), Outcome::RemoteCancelled, settled()]))),
        (
            "cancelled when running, unconfirmed",
            way(running([cancel(), Outcome::RemoteGone, settled()])),
        ),
        ("skipped", way(vec![uploaded(), skip()])),
        ("skipped, settled", way(vec![uploaded(), skip(), settled()])),
    ]
}

/// A job that is done, for each way of ending, and some that are not.
pub(crate) fn ended_jobs() -> Vec<(&'static str, Job)> {
    [
        ("succeeded", "succeeded"),
        ("skipped, settled", "skipped"),
        ("failed when queued, settled", "failed"),
        ("cancelled when running", "cancelled"),
        ("skipped", "skipped, not settled"),
        ("failed when uploaded", "failed, not settled"),
        ("running", "running"),
        ("delivered", "delivered"),
    ]
    .map(|(state_name, name)| (name, state(state_name)))
    .into()
}

fn state(name: &str) -> Job {
    every_state().into_iter().find(|(known, _)| *known == name).unwrap().1
}

fn every_outcome() -> Vec<(&'static str, Outcome)> {
    let fault = |class: fn(Origin, &'static str, &'static str) -> Fault| {
        Outcome::Fault(class(Origin::Endpoint, "code", "words"))
    };
    vec![
        ("uploaded", uploaded()),
        ("duplicate", skip()),
        (
            "input missing",
            Outcome::InputMissing(Fault::transient(Origin::Endpoint, "BlobNotFound", "gone")),
        ),
        ("submitted", submitted()),
        ("started", Outcome::Started),
        ("invoked", Outcome::Invoked(RemoteId("r9".into()))),
        ("executed", Outcome::Executed(vec![])),
        ("not started", Outcome::NotStarted(Fault::transient(Origin::Endpoint, "503", "busy"))),
        ("not started, bad", Outcome::NotStarted(Fault::permanent(Origin::Endpoint, "400", "bad"))),
        ("start unclear", unclear()),
        ("found", Outcome::Found(RemoteId("r9".into()))),
        ("not listed", Outcome::NotListed),
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
        ("deadline passed", Outcome::DeadlinePassed),
        ("waited", Outcome::Waited(Duration::from_mins(192))),
        ("cancel", cancel()),
        ("retry", retry()),
        ("adopt", adopt("r2")),
        ("declared not started", not_started()),
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
            let mut notes = vec![match step.wait {
                Wait::Now => "now".to_owned(),
                Wait::After(_) => "later".into(),
                Wait::Held => "held".into(),
                Wait::Done => "done".into(),
            }];
            if step.job.attempts() > 0 {
                notes.push(format!("attempts {}", step.job.attempts()));
            }
            if step.job.generation() > 1 {
                notes.push(format!("generation {}", step.job.generation()));
            }
            match &step.event {
                None => notes.push("not written".into()),
                Some(event) if event.outcome == "refused" => {
                    notes.push(event.detail.clone().unwrap());
                }
                Some(_) => {}
            }
            let to = step.job.phase().name();
            writeln!(table, "  {name:<20} {to} ({})", notes.join(", ")).unwrap();
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
        ("no length of its input", |r| r.input_bytes = None),
        ("no remote id", |r| r.remote_id = None),
        ("no redirects", |r| r.redirects = None),
        ("no results", |r| r.results = None),
        ("no outputs", |r| r.outputs = None),
        ("its end", |r| r.finished_at = None),
    ];
    let job = state("succeeded");
    for (what, spoil) in spoils {
        let mut record = job.record();
        spoil(&mut record);
        let error = Job::restore(record).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_step_that_keeps_failing_by_itself_ends_the_job_at_its_limit() {
    for name in ["queued", "uploaded"] {
        let mut job = state(name);
        let mut last = Duration::ZERO;
        for tries in 1..=8 {
            let fault = Fault::transient(Origin::Endpoint, "500", "trouble");
            let turn = Turn { tries: tries - 1, ..turn() };
            let step = apply(job, Outcome::Fault(fault), turn, &Policy::default()).unwrap();
            job = step.job;
            assert_eq!(job.attempts(), tries, "{name}");
            if tries < 8 {
                let Wait::After(wait) = step.wait else { panic!("{:?}", step.wait) };
                assert!(wait > last.mul_f64(1.1), "waits grow: {last:?} then {wait:?}");
                last = wait;
            }
        }
        assert_eq!(job.phase(), Phase::Failed, "{name}");
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
fn every_try_of_an_upload_that_the_storage_cut_short_is_written_down() {
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

#[test]
fn every_wish_is_answered_by_a_written_step_and_one_that_is_refused_changes_nothing() {
    for (name, job) in every_state() {
        for want in wants() {
            let step = step(job.clone(), Outcome::Wished(want.clone()));
            let event = step.event.unwrap_or_else(|| panic!("{want:?} of {name} is not written"));
            assert_eq!(event.revision, job.revision() + 1);
            match job.refusal(&want) {
                None => assert_eq!(event.outcome, want.name(), "{name}"),
                Some(reason) => {
                    let told = (event.outcome.as_str(), event.detail.as_deref().unwrap());
                    assert_eq!(told, ("refused", &*format!("{}: {reason}", want.verb())), "{name}");
                    let mut before = job.record();
                    before.revision += 1;
                    before.updated_at = turn().now;
                    assert_eq!(step.job.record(), before, "{want:?} of {name}");
                }
            }
        }
    }
}

fn wants() -> [Want; 4] {
    [Want::Cancel, Want::Retry, Want::Adopt(RemoteId("r2".into())), Want::NotStarted]
}

#[test]
fn wishes_are_read_back_from_what_a_store_kept() {
    for want in wants() {
        assert_eq!(Want::parse(&want.to_text()), Some(want));
    }
    assert_eq!(Want::parse("dance"), None);
}

#[test]
fn a_retry_resumes_where_the_job_ended() {
    for (name, phase, generation) in [
        ("failed when queued", Phase::Queued, 1),
        ("failed when queued, settled", Phase::Queued, 1),
        ("failed when uploaded", Phase::Uploaded, 1),
        ("failed when running", Phase::Uploaded, 2),
        ("failed when scored", Phase::Scored, 1),
        ("failed when cancelling (deadline)", Phase::Uploaded, 2),
        ("cancelled when queued", Phase::Queued, 1),
        ("cancelled when running", Phase::Uploaded, 2),
        ("skipped, settled", Phase::Uploaded, 2),
    ] {
        let step = step(state(name), retry());
        let job = &step.job;
        assert_eq!((job.phase(), job.generation(), step.wait), (phase, generation, Wait::Now));
        let cleared = (job.attempts(), job.error(), job.held(), job.finished_at());
        assert_eq!(cleared, (0, None, None, None), "{name}");
        assert_eq!(job.deadline_at(), turn().now + Policy::default().deadline, "{name}");
        assert!(next_action(job).is_some(), "{name}");
    }
}

#[test]
fn a_retried_job_has_a_source_to_settle_again_and_still_knows_where_it_is() {
    let mut job = step(state("failed when queued, settled"), retry()).job;
    assert_eq!(job.source_moved_to(), Some(&"/failed/a.csv".into()));
    job = step(job, permanent()).job;
    assert_eq!((job.is_done(), next_action(&job)), (false, Some(Action::Settle)));
    assert!(job.finished_at().is_some());
}

#[test]
fn a_second_run_is_never_begun_beside_one_that_may_exist() {
    for name in every_state().into_iter().map(|(name, _)| name) {
        let job = state(name);
        let Some(run) = job.submitted().cloned() else { continue };
        let after = step(job, retry()).job;
        let ended = ["failed when running", "failed when cancelling (deadline)"].contains(&name)
            || name == "cancelled when running";
        assert_eq!(after.submitted().is_none(), ended, "{name}");
        assert_eq!(after.generation(), if ended { 2 } else { 1 }, "{name}");
        assert!(ended || after.submitted() == Some(&run), "{name}");
    }
}

#[test]
fn an_end_that_was_never_confirmed_is_told_and_its_retry_asks_a_person() {
    let refused = running([cancel(), permanent(), cancel()]);
    for (way_there, phase) in [
        (running([cancel(), Outcome::RemoteGone]), Phase::Cancelled),
        (running([Outcome::DeadlinePassed, Outcome::RemoteGone]), Phase::Failed),
        (refused, Phase::Cancelled),
    ] {
        let job = way(way_there);
        assert_eq!(
            (job.phase(), job.error().unwrap().code.as_str()),
            (phase, "cancel_unconfirmed")
        );
        // It says so for as long as it has ended, whatever goes wrong with its source.
        let job = Job::restore(step(job, permanent()).job.record()).unwrap();
        let step_ = step(step(job, settled()).job, retry());
        let job = step_.job;
        assert_eq!((job.phase(), job.generation(), step_.wait), (Phase::Running, 1, Wait::Held));
        assert_eq!(job.held().unwrap().code, "remote_run_unconfirmed");
        assert_eq!(next_action(&job), None);
        let released = step(job.clone(), not_started()).job;
        assert_eq!((released.phase(), released.generation()), (Phase::Uploaded, 2));
        let adopted = step(job, adopt("r1")).job;
        assert_eq!((adopted.phase(), adopted.generation()), (Phase::Running, 1));
    }
}

#[test]
fn a_release_says_which_run_is_the_jobs() {
    for name in ["submitted, held", "running, held", "cancelling, held"] {
        let same = step(state(name), adopt("r1"));
        assert_eq!((same.job.phase(), same.wait), (Phase::Running, Wait::Now), "{name}");
        assert_eq!(same.job.submitted().unwrap().redirects().len(), 1, "{name}");
        let other = step(state(name), adopt("r2")).job;
        let run = other.submitted().unwrap();
        assert_eq!(run.remote_id(), &RemoteId("r2".into()), "{name}");
        // Its outputs are where the service says, since we did not ask for them.
        let scored = step(other, finished()).job;
        let places: Vec<_> = scored.results().iter().map(|result| result.place.blob()).collect();
        assert_eq!(places, ["experimentoutput/x.ilearner"], "{name}");
        let again = step(state(name), not_started()).job;
        assert_eq!((again.phase(), again.generation()), (Phase::Uploaded, 2), "{name}");
        assert_eq!(again.submitted(), None, "{name}");
    }
}

#[test]
fn a_job_that_a_person_lets_go_on_has_time_to() {
    let late = Turn { now: at(2_000_000), ..turn() };
    for want in [Want::Retry, Want::Adopt(RemoteId("r1".into())), Want::NotStarted] {
        let job = state("running, held");
        assert!(job.deadline_at() < late.now);
        let step = apply(job, Outcome::Wished(want), late, &Policy::default()).unwrap();
        assert_eq!(step.job.deadline_at(), late.now + Policy::default().deadline);
    }
    let waiting = state("uploaded");
    let deadline = waiting.deadline_at();
    assert_eq!(step(waiting, retry()).job.deadline_at(), deadline, "it only is tried at once");
}

#[test]
fn a_held_job_waits_for_its_person_beyond_any_deadline() {
    let job = state("submitted, held");
    let step = step(job.clone(), Outcome::DeadlinePassed);
    assert_eq!((step.job, step.wait, step.event), (job, Wait::Held, None));
}

#[test]
fn a_cancel_lifts_a_hold_and_ends_what_has_no_run_at_once() {
    for name in ["submitted, held", "running, held"] {
        let step = step(state(name), cancel());
        assert_eq!((step.job.phase(), step.wait), (Phase::Cancelling, Wait::Now), "{name}");
        assert_eq!(step.job.held(), None);
    }
    for name in ["queued", "uploaded", "scored"] {
        assert_eq!(step(state(name), cancel()).job.phase(), Phase::Cancelled, "{name}");
    }
}

#[test]
fn a_start_that_is_refused_is_held_since_an_earlier_one_may_have_been_heard() {
    for tries in [0, 3] {
        let turn = Turn { tries, ..turn() };
        let step = apply(state("submitted"), permanent(), turn, &Policy::default()).unwrap();
        assert_eq!((step.job.phase(), step.wait), (Phase::Submitted, Wait::Held));
        let hold = step.job.held().unwrap();
        assert_eq!(hold.code, "start_refused");
        assert!(hold.message.contains("bad") && hold.message.contains("--not-started"));
        let again = self::step(step.job, retry()).job;
        assert_eq!(next_action(&again), Some(Action::Start), "on the same id");
        assert_eq!(again.submitted().unwrap().remote_id(), &RemoteId("r1".into()));
    }
}

#[test]
fn time_that_was_not_the_jobs_own_moves_its_deadline() {
    let three_hours = Duration::from_mins(192);
    for (name, job) in every_state() {
        let Ok(step) = apply(job.clone(), Outcome::Waited(three_hours), turn(), &Policy::default())
        else {
            assert!(job.phase().is_final(), "{name}");
            continue;
        };
        assert_eq!(step.job.deadline_at(), job.deadline_at() + three_hours, "{name}");
        assert_eq!((step.job.state(), step.job.held()), (job.state(), job.held()), "{name}");
        let event = step.event.unwrap();
        assert_eq!(event.detail.unwrap(), "3h 12m; the deadline moved as much");
    }
}

/// The events of a way, the acceptance first.
fn history(outcomes: Vec<Outcome>) -> (Job, Vec<Event>) {
    let job = queued("a.csv");
    let mut events = vec![job.accepted_event()];
    let job = outcomes.into_iter().fold(job, |job, outcome| {
        let step = step(job, outcome);
        events.extend(step.event);
        step.job
    });
    (job, events)
}

#[test]
fn a_history_replays_to_its_job() {
    let to_the_end = [finished(), delivered(), Outcome::Settled(None)];
    let twice = [uploaded(), submitted(), Outcome::Started].into_iter().chain(to_the_end);
    let failed = vec![permanent(), settled(), retry()];
    for outcomes in [
        vec![],
        running([Outcome::Pending, permanent(), not_started(), cancel(), settled(), retry()]),
        failed.into_iter().chain(twice).chain([retry()]).collect(),
    ] {
        let (job, events) = history(outcomes);
        assert_eq!(replay(&events), Ok((job.phase(), job.generation(), job.revision())));
    }
}

#[test]
fn a_history_with_a_gap_a_jump_or_a_falling_generation_is_refused() {
    type Spoil = fn(&mut Vec<Event>);
    let (_, events) = history(running([Outcome::RemoteFailed("x".into()), retry(), submitted()]));
    let spoils: [(&str, Spoil); 7] = [
        ("no events", Vec::clear),
        ("event 2 follows on revision 0", |e| drop(e.remove(0))),
        ("event 4 follows on revision 2", |e| drop(e.remove(2))),
        ("event 2 follows on revision 2", |e| e.insert(1, e[1].clone())),
        ("event 3 begins at scored, and the one before ended at uploaded", |e| {
            e[2].from = Phase::Scored;
        }),
        ("event 1 begins at uploaded", |e| e[0].from = Phase::Uploaded),
        ("event 7 is of generation 1, and the one before of 2", |e| e[6].generation = 1),
    ];
    replay(&events).unwrap();
    for (told, spoil) in spoils {
        let mut events = events.clone();
        spoil(&mut events);
        let refused = replay(&events).unwrap_err();
        assert!(refused.contains(told), "{told}: {refused}");
    }
}

#[test]
fn a_run_that_a_call_may_have_started_is_looked_for_and_never_called_again() {
    let job = state("running, unclear");
    assert_eq!(next_action(&job), Some(Action::Poll));
    let looked = |tries| {
        let turn = Turn { tries, ..turn() };
        apply(job.clone(), Outcome::NotListed, turn, &Policy::default()).unwrap()
    };
    for tries in 0..6 {
        assert!(matches!(looked(tries).wait, Wait::After(_)), "{tries}");
        assert_eq!(looked(tries).event, None);
    }
    let held = looked(6).job;
    assert_eq!(held.held().unwrap().code, "start_unclear");
    let found = step(job.clone(), Outcome::Found(RemoteId("r9".into()))).job;
    assert_eq!(
        (found.phase(), found.submitted().unwrap().remote_id().0.as_str()),
        (Phase::Running, "r9")
    );
    let released = step(held, not_started()).job;
    assert_eq!((released.phase(), released.generation()), (Phase::Uploaded, 2));
}

#[test]
fn a_person_who_names_an_intents_run_doesnt_lose_sight_of_its_outputs() {
    for (id, kept) in [(RemoteId::intent("7"), true), (RemoteId("r1".into()), false)] {
        let redirect = Redirect { output: "score".into(), blob: "f/out/score.csv".into() };
        let submitted =
            Outcome::Submitted { remote_id: id, redirects: vec![redirect], service: None };
        let looked_for = [uploaded(), submitted, unclear()];
        let job = looked_for.into_iter().fold(queued("a"), |job, outcome| step(job, outcome).job);
        let turn = Turn { tries: 6, ..turn() };
        let held = apply(job, Outcome::NotListed, turn, &Policy::default()).unwrap().job;
        let finished = step(step(held, adopt("r9")).job, Outcome::Finished(vec![])).job;
        assert_eq!(!finished.results().is_empty(), kept);
    }
}

#[test]
fn a_call_that_started_nothing_is_made_again_as_often_as_a_submit() {
    let policy = Policy { max_attempts: 3, ..Policy::default() };
    let busy = || Outcome::NotStarted(Fault::transient(Origin::Endpoint, "500", "busy"));
    let mut job = state("submitted");
    for attempts in 1..3 {
        job = apply(job, busy(), turn(), &policy).unwrap().job;
        assert_eq!((job.phase(), job.attempts()), (Phase::Submitted, attempts));
    }
    job = apply(job, busy(), turn(), &policy).unwrap().job;
    assert_eq!(job.phase(), Phase::Failed);
    let again = step(step(job, settled()).job, retry()).job;
    assert_eq!((again.phase(), next_action(&again)), (Phase::Submitted, Some(Action::Start)));
}

#[test]
fn another_service_may_have_what_was_not_started_at_the_first() {
    let job = step(state("submitted"), submitted()).job;
    assert_eq!(job.phase(), Phase::Submitted);
    assert!(apply(state("running"), submitted(), turn(), &Policy::default()).is_err());
}
