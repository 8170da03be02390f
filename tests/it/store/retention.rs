//! What has outlived its time, and what somebody relies on.

use chrono::Utc;
use scoreline::fire::{FeedPause, FireId, FireKind, FireRow, FireState, Reason};
use scoreline::ports::{Firing, Forgotten, OldArrival, Retention, Schedules, Walk, Walked};

use super::*;

every_store! {
    jobs_that_are_done_go_with_their_events_and_live_ones_never
    jobs_go_by_when_they_were_done
    a_job_that_somebody_wants_something_of_stays
    sites_forget_their_own
    a_call_looks_at_a_few_rows_and_says_where_the_next_goes_on
    of_two_that_forget_at_once_each_row_goes_once
    what_was_scored_is_remembered_without_its_job
    what_failed_and_is_forgotten_may_be_scored_again
    what_was_asked_for_goes_by_its_own_age
    a_feeds_last_fire_stays_and_so_does_what_is_due
    fires_that_are_open_or_may_be_opened_stay
    a_key_is_known_for_as_long_as_its_fire
    an_arrival_outlives_its_job
    arrivals_go_when_they_are_said_to_be_gone_and_their_jobs_are
    the_store_tells_how_much_there_is
}

const ALL: Walk = Walk { after: None, limit: 1000 };

async fn jobs_that_are_done_go_with_their_events_and_live_ones_never(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut events = 0;
    let (mut done, mut live) = (Vec::new(), Vec::new());
    for (name, way) in ways() {
        let job = job(&store, &node, name).await;
        let job = walk(&store, &node, &job, way).await;
        if job.is_done() {
            events += store.events(job.id()).await.unwrap().len() as u64;
            done.push(job.id());
        } else {
            live.push((job.id(), store.events(job.id()).await.unwrap()));
        }
    }
    assert!(done.len() > 5 && live.len() > 5);
    let Walked { gone, next } = store.forget_jobs("site", at(2), ALL).await.unwrap();
    let history = done.len() as u64;
    assert_eq!((gone, next), (Forgotten { history, events, ..Forgotten::default() }, None));
    for id in done {
        assert!(load(&store, id).await.is_none());
        assert_eq!(store.events(id).await.unwrap(), []);
    }
    for (id, events) in live {
        assert!(load(&store, id).await.is_some());
        assert_eq!(store.events(id).await.unwrap(), events);
    }
}

async fn jobs_go_by_when_they_were_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = done_job(&store, &node, "a").await;
    assert_eq!(job.finished_at(), Some(at(1)));
    assert_eq!(store.history_begins("site").await.unwrap(), None);
    let early = store.forget_jobs("site", at(1), ALL).await.unwrap();
    assert_eq!(early, Walked::default());
    assert_eq!(store.history_begins("site").await.unwrap(), None, "nothing is missing");
    assert_eq!(store.forget_jobs("site", at(2), ALL).await.unwrap().gone.history, 1);
    assert_eq!(store.history_begins("site").await.unwrap(), Some(at(2)));
    done_job(&store, &node, "b").await;
    assert_eq!(store.forget_jobs("site", at(9), ALL).await.unwrap().gone.history, 1);
    done_job(&store, &node, "c").await;
    assert_eq!(store.forget_jobs("site", at(5), ALL).await.unwrap().gone.history, 1);
    assert_eq!(store.history_begins("site").await.unwrap(), Some(at(9)), "it never goes back");
}

async fn a_job_that_somebody_wants_something_of_stays(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = walk(&store, &node, &job(&store, &node, "a").await, [permanent(), settled()]).await;
    let events = store.events(job.id()).await.unwrap();
    assert_eq!(store.wish(job.id(), &Want::Retry, None).await.unwrap(), Wished::Noted);
    assert_eq!(store.forget_jobs("site", at(2), ALL).await.unwrap(), Walked::default());
    assert_eq!(store.events(job.id()).await.unwrap(), events);
    assert_eq!(adopt(&store, &node, 9).await, [job.id()]);
}

async fn sites_forget_their_own(database: &impl Database) {
    let (store, node) = begin(database).await;
    let there = store.register("b", "elsewhere", TERM).await.unwrap();
    let ours = done_job(&store, &node, "a").await;
    let theirs = done_job(&store, &there, "a").await;
    assert_eq!(store.forget_jobs("site", at(2), ALL).await.unwrap().gone.history, 1);
    assert!(load(&store, ours.id()).await.is_none());
    assert!(load(&store, theirs.id()).await.is_some());
    assert_eq!(store.history_begins("elsewhere").await.unwrap(), None);
    let (old, _) = store.old_arrivals("elsewhere", &name("churn"), at(9), ALL).await.unwrap();
    assert_eq!(old, [], "its job is kept");
}

async fn a_call_looks_at_a_few_rows_and_says_where_the_next_goes_on(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "elsewhere", TERM).await.unwrap();
    for n in 0..5 {
        done_job(&store, &node, &format!("a{n}")).await;
        done_job(&store, &other, &format!("b{n}")).await;
    }
    let (mut after, mut gone) = (None, Vec::new());
    for _ in 0..9 {
        let walk = Walk { after, limit: 3 };
        let walked = store.forget_jobs("site", at(2), walk).await.unwrap();
        gone.push(walked.gone.history);
        after = walked.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(gone, [2, 1, 2, 0], "those of others are looked at, too, and stay");
}

async fn of_two_that_forget_at_once_each_row_goes_once(database: &impl Database) {
    let (store, node) = begin(database).await;
    for n in 0..20 {
        done_job(&store, &node, &format!("{n}")).await;
    }
    let forget = || store.forget_jobs("site", at(2), ALL);
    let (first, second, third) = tokio::join!(forget(), forget(), forget());
    let gone = [first, second, third].map(|walked| walked.unwrap().gone.history);
    assert_eq!(gone.iter().sum::<u64>(), 20, "{gone:?}");
    assert_eq!(everything(&store).await, []);
}

async fn what_was_scored_is_remembered_without_its_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let first = asked(&store, &node, "a").await;
    let end = [submitted(), Outcome::Started, finished(), delivered(), settled()];
    walk(&store, &node, &first, end).await;
    let gone = store.forget_jobs("site", at(2), ALL).await.unwrap().gone;
    assert_eq!((gone.history, gone.contents), (1, 0));
    let again = walk(&store, &node, &job(&store, &node, "b").await, [uploaded()]).await;
    let admitted = admit(&store, &node, &again).await;
    assert_eq!(admitted.runs, []);
    assert_eq!(admitted.duplicates, [(again.id(), Earlier::Scored(first.id()))]);
}

async fn what_failed_and_is_forgotten_may_be_scored_again(database: &impl Database) {
    let (store, node) = begin(database).await;
    let first = asked(&store, &node, "a").await;
    walk(&store, &node, &first, [permanent(), settled()]).await;
    let gone = store.forget_jobs("site", at(2), ALL).await.unwrap().gone;
    assert_eq!((gone.history, gone.contents), (1, 1));
    let again = walk(&store, &node, &job(&store, &node, "b").await, [uploaded()]).await;
    let admitted = admit(&store, &node, &again).await;
    assert_eq!((admitted.runs, admitted.duplicates), (vec![again.id()], vec![]));
}

async fn what_was_asked_for_goes_by_its_own_age(database: &impl Database) {
    let (store, node) = begin(database).await;
    asked(&store, &node, "a").await;
    let forget = |site, second| store.forget_contents(site, at(second), ALL);
    // It was asked for in second 5.
    for (site, second, contents) in [("site", 5, 0), ("elsewhere", 9, 0), ("site", 6, 1)] {
        let walked = forget(site, second).await.unwrap();
        assert_eq!(walked.gone, Forgotten { contents, ..Forgotten::default() }, "{site} {second}");
    }
    let again = walk(&store, &node, &job(&store, &node, "b").await, [uploaded()]).await;
    assert_eq!(admit(&store, &node, &again).await.runs, [again.id()]);
}

async fn a_feeds_last_fire_stays_and_so_does_what_is_due(database: &impl Database) {
    let (store, node) = begin(database).await;
    let (feed, other) = (name("churn"), name("other"));
    for feed in [&feed, &other] {
        let rows: Vec<_> = (0..5).map(|n| over(feed, n)).collect();
        store.enter(&node, feed, &rows).await.unwrap();
    }
    let before = store.schedule(&node, &feed, "rules").await.unwrap();
    let forgot = store.forget_fires("elsewhere", at(99), ALL).await.unwrap();
    assert_eq!(forgot.gone.fires, 0);
    assert_eq!(store.forget_fires("site", at(2), ALL).await.unwrap().gone.fires, 4);
    assert_eq!(store.forget_fires("site", at(99), ALL).await.unwrap().gone.fires, 4);
    assert_eq!(nominals(&store, &feed).await, [at(4)]);
    let after = store.schedule(&node, &feed, "rules").await.unwrap();
    assert_eq!((after.last, after.since), (before.last, before.since));
    assert_eq!(after.last, Some(at(4)), "nothing before it is made up for");
}

async fn fires_that_are_open_or_may_be_opened_stay(database: &impl Database) {
    let (store, node) = begin(database).await;
    let feed = name("churn");
    let rows = [over(&feed, 0), due(&feed, 1), over(&feed, 2), over(&feed, 3), over(&feed, 4)];
    store.enter(&node, &feed, &rows).await.unwrap();
    let (by, why) = ("me".to_owned(), "why".to_owned());
    let pause = FeedPause { by, why, since: at(3), until: None, ended: false };
    store.pause_feed("site", &feed, &pause).await.unwrap();
    assert_eq!(store.forget_fires("site", at(99), ALL).await.unwrap().gone.fires, 2);
    assert_eq!(nominals(&store, &feed).await, [at(4), at(3), at(1)]);
    assert_eq!(store.reopen(&node, &feed, &[at(3)]).await.unwrap(), 1);
}

async fn a_key_is_known_for_as_long_as_its_fire(database: &impl Database) {
    let (store, node) = begin(database).await;
    let feed = name("churn");
    let (row, _) = store.run_now("site", &feed, Some("key"), "me").await.unwrap();
    let nothing = Firing { feed: &feed, row: &row, then: FireState::Ran };
    assert_eq!(store.forget_fires("site", at(99), ALL).await.unwrap().gone.fires, 0, "it is open");
    store.accept(&node, &[], 0, at(0), Some(nothing)).await.unwrap();
    assert_eq!(store.run_now("site", &feed, Some("key"), "me").await.unwrap().0.id, row.id);
    let early = row.nominal - chrono::TimeDelta::seconds(1);
    assert_eq!(store.forget_fires("site", early, ALL).await.unwrap().gone.fires, 0);
    assert!(!store.run_now("site", &feed, Some("key"), "me").await.unwrap().1, "it is known");
    assert_eq!(store.forget_fires("site", at(99), ALL).await.unwrap().gone.fires, 1);
}

async fn an_arrival_outlives_its_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let done = done_job(&store, &node, "a").await;
    let file = (done.path().clone(), done.file());
    store.forget_jobs("site", at(2), ALL).await.unwrap();
    let again = accept(&store, &node, &[arrival("a")]).await;
    assert_eq!(
        again,
        [Accepted::Known(done.id())],
        "a file that lies in its folder is not scored again"
    );
    let unknown = (file.0.clone(), FileIdentity { mtime_ns: 6, ..file.1 });
    let files = [unknown, file];
    let arrived = store.arrived("site", &name("churn"), &files).await.unwrap();
    assert_eq!(arrived, [None, Some(done.id())]);
    for (site, feed) in [("elsewhere", "churn"), ("site", "other")] {
        assert_eq!(store.arrived(site, &name(feed), &files).await.unwrap(), [None, None]);
    }
}

async fn arrivals_go_when_they_are_said_to_be_gone_and_their_jobs_are(database: &impl Database) {
    let (store, node) = begin(database).await;
    let feed = name("churn");
    let live = job(&store, &node, "live").await;
    let done = done_job(&store, &node, "done").await;
    let old = done_job(&store, &node, "old").await;
    store.forget_jobs("site", at(2), ALL).await.unwrap();
    let kept = done_job(&store, &node, "kept").await;
    let old_ones = async |before: i64, limit: usize, after| {
        let walk = Walk { after, limit };
        store.old_arrivals("site", &feed, at(before), walk).await.unwrap()
    };
    let all = [&done, &old].map(|job| OldArrival {
        job: job.id(),
        path: job.path().clone(),
        file: job.file(),
    });
    assert_eq!(old_ones(2, 99, None).await, (all.to_vec(), None));
    assert_eq!(old_ones(0, 99, None).await, (vec![], None), "they came in second 0");
    let (first, next) = old_ones(2, 2, None).await;
    assert_eq!(first, all[..1], "the live one was looked at");
    assert_eq!(old_ones(2, 9, next).await, (all[1..].to_vec(), None));

    let said = [live.id(), kept.id(), old.id()];
    assert_eq!(store.forget_arrivals("elsewhere", &feed, &said).await.unwrap(), 0);
    assert_eq!(store.forget_arrivals("site", &name("other"), &said).await.unwrap(), 0);
    assert_eq!(store.forget_arrivals("site", &feed, &said).await.unwrap(), 1);
    let again = accept(&store, &node, &["live", "kept", "done", "old"].map(arrival)).await;
    let [a, b, c, d] = again;
    let known = [live.id(), kept.id(), done.id()].map(Accepted::Known);
    assert_eq!([a, b, c], known);
    assert!(matches!(d, Accepted::New(_)), "{d:?}");
}

async fn the_store_tells_how_much_there_is(database: &impl Database) {
    let (store, node) = begin(database).await;
    done_job(&store, &node, "a").await;
    asked(&store, &node, "b").await;
    let feed = name("churn");
    store.enter(&node, &feed, &[over(&feed, 0)]).await.unwrap();
    // What a session of a server counted shows ten seconds later, if it has nothing to do meanwhile; and a row that was
    // written again may count as two until the table is cleaned.
    let about = |(is, rows): (&u64, u64)| *is > 0 && is.abs_diff(rows) <= 1;
    for _ in 0..3000 {
        let size = store.size().await.unwrap();
        if size.rows.iter().zip([1, 1, 9, 2, 1, 1]).all(about) {
            return;
        }
        SystemClock.sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}", store.size().await.unwrap());
}

async fn done_job(store: &impl Store, node: &Node, path: &str) -> Job {
    let end = [uploaded(), submitted(), Outcome::Started, finished(), delivered()];
    let job = job(store, node, path).await;
    walk(store, node, &job, end.into_iter().chain([Outcome::Settled(None)])).await
}

/// A job that is uploaded and has the run that it asked for, in second 5.
async fn asked(store: &impl Store, node: &Node, path: &str) -> Job {
    let job = walk(store, node, &job(store, node, path).await, [uploaded()]).await;
    assert_eq!(admit(store, node, &job).await.runs, [job.id()]);
    job
}

async fn admit(store: &impl Store, node: &Node, job: &Job) -> Admitted {
    let same = Some(Same { digest: Sha256([1; 32]), since: at(0) });
    let asks = [Ask { job: job.id(), same, feed: None }];
    store.admit(node, &name("e"), &asks, 100, at(5)).await.unwrap()
}

/// A fire that is open, in that second.
fn due(feed: &Name, second: i64) -> FireRow {
    let time = at(second);
    FireRow::due("site", feed, FireKind::Scheduled, time, at(-1)..time, time)
}

/// One that was skipped.
fn over(feed: &Name, second: i64) -> FireRow {
    due(feed, second).skipped(Reason::Paused)
}

async fn nominals(store: &impl Store, feed: &Name) -> Vec<DateTime<Utc>> {
    let fires = store.fires("site", feed, None::<FireId>, 99).await.unwrap();
    fires.into_iter().map(|row| row.nominal).collect()
}
