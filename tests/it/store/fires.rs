//! Schedules, their fires and the pauses of feeds.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::fire::{
    FeedPause, FeedState, FireId, FireKind, FireOutcome, FireRow, FireState, Fired, Reason,
    Timetable,
};
use scoreline::ports::{Firing, Schedules};

use super::*;

every_store! {
    a_time_has_one_fire_however_often_it_is_entered
    a_fire_is_kept_as_it_was_entered
    of_two_nodes_that_meet_one_time_one_makes_its_jobs
    a_fire_that_was_entered_before_a_crash_makes_its_jobs_once
    a_fire_that_ran_or_was_skipped_makes_no_jobs
    jobs_keep_the_fire_that_made_them
    a_fire_stays_open_while_more_is_to_come
    without_arrivals_only_the_row_moves
    a_fixed_input_is_taken_once_by_each_fire
    a_call_that_is_repeated_takes_no_fixed_input_again
    a_file_that_has_a_job_makes_none_for_a_fire
    a_node_that_is_fenced_off_moves_no_fire
    an_open_fire_is_closed_for_its_reason
    fires_that_a_pause_skipped_are_opened_again_and_no_others
    a_manual_fire_is_the_same_for_the_same_key
    a_manual_fire_moves_no_schedule
    new_rules_hold_from_now_on
    a_calendar_is_a_feeds_own
    a_calendar_shows_the_first_hundred_open_fires
    live_jobs_of_fires_are_counted_but_those_that_wait_for_a_person_without_a_run
    a_pause_keeps_who_and_why_and_until_when
    the_end_of_a_pause_is_there_until_it_is_answered
    a_pause_that_is_over_ends_by_itself
    who_pauses_again_takes_no_earlier_time_away
    feeds_are_told_of_that_have_something_to_tell
    outcomes_are_those_of_the_last_fires_with_jobs
    a_job_that_comes_back_makes_its_fire_run_again
    fires_are_listed_newest_first_in_pages
    the_databases_clock_goes_on
}

async fn a_time_has_one_fire_however_often_it_is_entered(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let catch_up = FireRow { kind: FireKind::CatchUp, ..due(0) };
    let rows = [due(0), due(60), due(0), catch_up.clone()];
    assert_eq!(enter(&store, &node, &rows).await, [true, true, false, false]);
    let strange = FireRow { id: FireId::new(uuid::Uuid::from_u128(9)), ..due(60) };
    let again = [due(60).skipped(Reason::Late), strange, due(120), catch_up];
    assert_eq!(enter(&store, &other, &again).await, [false, false, true, false]);
    assert_eq!(all_fires(&store).await, [due(120), due(60), due(0)]);
    // Other feeds and sites have their own.
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    let there = FireRow { id: FireId::of("elsewhere", &churn(), at(0)), ..due(0) };
    assert_eq!(enter(&store, &elsewhere, std::slice::from_ref(&there)).await, [true]);
    let of_other = FireRow { id: FireId::of("site", &name("other"), at(0)), ..due(0) };
    let entered = store.enter(&node, &name("other"), &[of_other]).await.unwrap();
    assert_eq!(entered, [true]);
    assert_eq!(store.fires("elsewhere", &churn(), None, 9).await.unwrap(), [there]);
    assert_eq!(all_fires(&store).await.len(), 3);
    assert!(enter(&store, &node, &[]).await.is_empty());
}

async fn a_fire_is_kept_as_it_was_entered(database: &impl Database) {
    let (store, node) = begin(database).await;
    let waits = |reason| FireRow { state: FireState::Open(Some(reason)), ..due(0) };
    let mut rows = vec![due(1)];
    for (n, reason) in (2..).zip(Reason::ALL) {
        rows.push(FireRow { missed: 3, ..due(n).skipped(reason) });
        let (nominal, id) = (at(n + 100), due(n + 100).id);
        rows.push(FireRow { nominal, id, kind: FireKind::CatchUp, ..waits(reason) });
    }
    let asked = FireRow { note: Some("ops: a 'note' of \u{1f600}".into()), ..due(500) };
    rows.push(FireRow { kind: FireKind::Manual, key: Some("k".into()), ..asked });
    assert_eq!(enter(&store, &node, &rows).await, vec![true; rows.len()]);
    rows.sort_by_key(|row| std::cmp::Reverse(row.nominal));
    assert_eq!(all_fires(&store).await, rows);
    drop(store);
    assert_eq!(all_fires(&database.open().await).await, rows);
}

async fn of_two_nodes_that_meet_one_time_one_makes_its_jobs(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    for n in 0..10 {
        let row = due(n);
        // Of each kind one: what stays the same, and what is dropped.
        let inputs = [fixed("model"), arrival(format!("{n}.csv"))];
        let fire = firing(&row, FireState::Ran);
        let answers = futures::future::join_all(
            [&a, &b].map(|node| store.accept(node, &inputs, 9, at(0), Some(fire))),
        );
        let answers: Vec<_> = answers.await.into_iter().map(Result::unwrap).collect();
        let new =
            |answers: &Vec<Accepted>| matches!(answers[..], [Accepted::New(_), Accepted::New(_)]);
        let over = vec![Accepted::Over; 2];
        assert_eq!(answers.iter().filter(|answers| new(answers)).count(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|answers| **answers == over).count(), 1, "{answers:?}");
    }
    assert_eq!(everything(&store).await.len(), 20);
    assert!(all_fires(&store).await.iter().all(|row| (row.state, row.jobs) == (FireState::Ran, 2)));
}

async fn a_fire_that_was_entered_before_a_crash_makes_its_jobs_once(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert_eq!(enter(&store, &node, &[due(0)]).await, [true]);
    drop(store);
    let store = database.open().await;
    fence(&store, &node).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(calendar(&store, &me).await.open, [due(0)]);
    let before = store.now().await.unwrap();
    let [accepted] = accept_for(&store, &me, &due(0), FireState::Ran, [fixed("a")]).await;
    let after = store.now().await.unwrap();
    assert_eq!(load(&store, id_of(accepted)).await.unwrap().1, Some(me.id));
    assert_eq!(calendar(&store, &me).await.open, []);
    let row = all_fires(&store).await.remove(0);
    let times = (row.started_at.unwrap(), row.ended_at.unwrap());
    assert!(before <= times.0 && times.0 <= times.1 && times.1 <= after, "{row:?}");
    let (started_at, ended_at) = (row.started_at, row.ended_at);
    assert_eq!(row, FireRow { jobs: 1, state: FireState::Ran, started_at, ended_at, ..due(0) });
    for again in [due(0), row] {
        let answers = accept_for(&store, &me, &again, FireState::Ran, [fixed("a"), arrival("b")]);
        assert_eq!(answers.await, [Accepted::Over, Accepted::Over]);
    }
    assert_eq!(everything(&store).await.len(), 1);
}

async fn a_fire_that_ran_or_was_skipped_makes_no_jobs(database: &impl Database) {
    let (store, node) = begin(database).await;
    let skipped = due(0).skipped(Reason::Overlap);
    enter(&store, &node, &[skipped.clone(), due(60)]).await;
    accept_for(&store, &node, &due(60), FireState::Ran, []).await;
    // One that has the time of another, and is none of them.
    let stranger = FireRow { id: FireId::new(uuid::Uuid::from_u128(9)), ..due(60) };
    let before = all_fires(&store).await;
    for row in [&skipped, &due(0), &due(60), &stranger] {
        for then in [FireState::Ran, FireState::Open(None)] {
            let answers = accept_for(&store, &node, row, then, [arrival("a"), fixed("b")]).await;
            assert_eq!(answers, [Accepted::Over, Accepted::Over], "{row:?}");
        }
    }
    // Nor does one of another feed or site.
    enter(&store, &node, &[due(120)]).await;
    let (row, other) = (due(120), name("other"));
    let of_other = Firing { feed: &other, ..firing(&row, FireState::Ran) };
    let answers = store.accept(&node, &[arrival("a")], 9, at(0), Some(of_other)).await.unwrap();
    assert_eq!(answers, [Accepted::Over]);
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    let answers = accept_for(&store, &elsewhere, &row, FireState::Ran, [arrival("a")]).await;
    assert_eq!(answers, [Accepted::Over]);
    assert_eq!(everything(&store).await, []);
    assert_eq!(all_fires(&store).await[1..], before[..]);
    // The files are still to be taken.
    assert!(matches!(accept(&store, &node, &[arrival("a")]).await, [Accepted::New(_)]));
}

async fn jobs_keep_the_fire_that_made_them(database: &impl Database) {
    let (store, node) = begin(database).await;
    let row = FireRow { kind: FireKind::CatchUp, ..due(0) };
    let more = FireState::Open(None);
    let fired = Fired {
        id: row.id,
        kind: FireKind::CatchUp,
        nominal: at(0),
        window_start: at(-60),
        window_end: at(0),
    };
    for (way, outcomes) in ways() {
        let [accepted] = accept_for(&store, &node, &row, more, [arrival(way)]).await;
        let Accepted::New(job) = accepted else { panic!("{accepted:?}") };
        assert_eq!(job.fire(), Some(&fired));
        let job = walk(&store, &node, &job, outcomes).await;
        assert_eq!(load(&store, job.id()).await.unwrap().0, job, "{way}");
        assert_eq!(job.fire(), Some(&fired), "{way}");
        if job.is_done() {
            // Back from the history, and to another owner.
            store.wish(job.id(), &Want::Retry, None).await.unwrap();
            let adopted = store.adopt(&node, &[churn()], 9).await.unwrap().jobs;
            assert_eq!(adopted[0].0.fire(), Some(&fired), "{way}");
        }
    }
    let page = store.list(&JobQuery { limit: 100, ..JobQuery::default() }).await.unwrap();
    assert!(page.jobs.iter().all(|job| job.fire() == Some(&fired)));
    assert_eq!(job(&store, &node, "dropped").await.fire(), None);
}

async fn a_fire_stays_open_while_more_is_to_come(database: &impl Database) {
    let (store, node) = begin(database).await;
    let waits = FireState::Open(Some(Reason::NoInput));
    accept_for(&store, &node, &due(0), FireState::Open(None), [arrival("a")]).await;
    let first = calendar(&store, &node).await.open.remove(0);
    assert!(first.started_at.is_some());
    let started_at = first.started_at;
    assert_eq!(first, FireRow { jobs: 1, started_at, ..due(0) });
    later_than(&store, started_at.unwrap()).await;
    accept_for(&store, &node, &first, waits, [arrival("b"), arrival("c")]).await;
    let second = calendar(&store, &node).await.open.remove(0);
    assert_eq!(second, FireRow { jobs: 3, state: waits, ..first });
    accept_for(&store, &node, &second, FireState::Ran, [arrival("d")]).await;
    let last = all_fires(&store).await.remove(0);
    assert!(last.ended_at > started_at);
    let ended_at = last.ended_at;
    assert_eq!(last, FireRow { jobs: 4, state: FireState::Ran, ended_at, ..second });
}

async fn without_arrivals_only_the_row_moves(database: &impl Database) {
    let (store, node) = begin(database).await;
    let waits = FireState::Open(Some(Reason::NoInput));
    assert_eq!(accept_for(&store, &node, &due(0), waits, []).await, []);
    let open = calendar(&store, &node).await.open.remove(0);
    let started_at = open.started_at;
    assert!(started_at.is_some());
    assert_eq!(open, FireRow { state: waits, started_at, ..due(0) });
    assert_eq!(accept_for(&store, &node, &open, FireState::Ran, []).await, []);
    let ran = all_fires(&store).await.remove(0);
    assert_eq!((ran.state, ran.jobs, ran.started_at), (FireState::Ran, 0, started_at));
    assert_eq!(store.outcomes("site", &churn(), 9).await.unwrap(), []);
    assert_eq!(everything(&store).await, []);
}

async fn a_fixed_input_is_taken_once_by_each_fire(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut ids = BTreeSet::new();
    for n in 0..3 {
        let inputs = [fixed("model"), fixed("model"), fixed("other")];
        let answers = accept_for(&store, &node, &due(n), FireState::Ran, inputs).await;
        let [Accepted::New(model), Accepted::Known(again), Accepted::New(other)] = &answers else {
            panic!("{answers:?}")
        };
        assert_eq!(*again, model.id());
        ids.extend([model.id(), other.id()]);
    }
    assert_eq!(ids.len(), 6);
    assert!(all_fires(&store).await.iter().all(|row| row.jobs == 2));
    // As a file of the folder it is still new, once; and without a fire nothing is fixed.
    let file = [Arrival { once: false, ..fixed("model") }];
    let [dropped] = accept(&store, &node, &file).await;
    let id = id_of(dropped);
    assert_eq!(accept(&store, &node, &file).await, [Accepted::Known(id)]);
    assert_eq!(accept(&store, &node, &[fixed("model")]).await, [Accepted::Known(id)]);
    let [file] = file;
    let both = accept_for(&store, &node, &due(9), FireState::Ran, [fixed("model"), file]).await;
    assert!(matches!(both, [Accepted::New(_), Accepted::Known(known)] if known == id), "{both:?}");
}

async fn a_call_that_is_repeated_takes_no_fixed_input_again(database: &impl Database) {
    let (store, node) = begin(database).await;
    let more = FireState::Open(None);
    let inputs = || [fixed("model"), arrival("a")];
    let first = accept_for(&store, &node, &due(0), more, inputs()).await.map(id_of);
    // Its answer was lost.
    let again = accept_for(&store, &node, &due(0), more, inputs()).await;
    assert_eq!(again, [Accepted::Over, Accepted::Over]);
    // What is dropped is known by itself.
    let again = accept_for(&store, &node, &due(0), more, [arrival("a")]).await;
    assert_eq!(again, [Accepted::Known(first[1])]);
    // Whoever has read the row since means another one.
    let row = calendar(&store, &node).await.open.remove(0);
    assert_eq!(row.jobs, 2);
    let next = accept_for(&store, &node, &row, FireState::Ran, [fixed("other")]).await;
    assert!(matches!(next, [Accepted::New(_)]), "{next:?}");
    assert_eq!(everything(&store).await.len(), 3);
}

async fn a_file_that_has_a_job_makes_none_for_a_fire(database: &impl Database) {
    let (store, node) = begin(database).await;
    let known = job(&store, &node, "a").await;
    let inputs = [arrival("a"), arrival("b"), arrival("c")];
    let row = due(0);
    let fire = Some(firing(&row, FireState::Ran));
    let answers = store.accept(&node, &inputs, 1, at(0), fire).await.unwrap();
    assert_eq!(answers[0], Accepted::Known(known.id()));
    assert!(matches!(answers[1..], [Accepted::New(_), Accepted::Free(_)]), "{answers:?}");
    assert_eq!(all_fires(&store).await[0].jobs, 2);
    assert_eq!(load(&store, known.id()).await.unwrap().0.fire(), None);
}

async fn a_node_that_is_fenced_off_moves_no_fire(database: &impl Database) {
    let (store, node) = begin(database).await;
    job(&store, &node, "a").await;
    let paused = due(60).skipped(Reason::Paused);
    enter(&store, &node, &[due(0), paused.clone()]).await;
    store.pause_feed("site", &churn(), &pause(at(0), None)).await.unwrap();
    store.resume_feed("site", &churn()).await.unwrap();
    fence(&store, &node).await;
    let (row, new) = (due(0), due(120));
    let fire = Some(firing(&row, FireState::Ran));
    let late = [
        store.enter(&node, &churn(), &[new]).await.map(drop),
        store.accept(&node, &[arrival("b")], 9, at(0), fire).await.map(drop),
        store.reopen(&node, &churn(), &[at(60)]).await.map(drop),
        store.schedule(&node, &churn(), "rules").await.map(drop),
        store.answer_resume(&node, &churn()).await,
    ];
    for late in late {
        let Err(error @ StoreError::Unavailable { .. }) = late else { panic!("{late:?}") };
        assert!(error.to_string().contains("new registration"), "{error}");
    }
    assert_eq!(all_fires(&store).await, [paused, due(0)]);
    assert_eq!(everything(&store).await.len(), 1);
    let feeds = store.feeds("site").await.unwrap();
    assert!(feeds[0].pause.is_some(), "{feeds:?}");
}

async fn an_open_fire_is_closed_for_its_reason(database: &impl Database) {
    let (store, node) = begin(database).await;
    enter(&store, &node, &[due(0), due(60), due(120)]).await;
    let other = store.register("x", "elsewhere", TERM).await.unwrap();
    accept_for(&store, &other, &due(0), FireState::Ran, []).await;
    assert_eq!(calendar(&store, &node).await.open.len(), 3, "they are of another site");
    let waits = FireState::Open(Some(Reason::Overlap));
    for (n, then) in
        [(0, FireState::Skipped(Reason::Superseded)), (60, FireState::Ran), (120, waits)]
    {
        accept_for(&store, &node, &due(n), then, []).await;
    }
    let rows = all_fires(&store).await;
    let states: Vec<_> = rows.iter().rev().map(|row| row.state).collect();
    assert_eq!(states, [FireState::Skipped(Reason::Superseded), FireState::Ran, waits]);
    let ended: Vec<_> = rows.iter().rev().map(|row| row.ended_at.is_some()).collect();
    assert_eq!(ended, [true, true, false]);
    // What is not open stays as it is.
    for (n, then) in [(0, FireState::Ran), (0, waits), (60, FireState::Skipped(Reason::Late))] {
        accept_for(&store, &node, &due(n), then, []).await;
    }
    assert_eq!(all_fires(&store).await, rows);
}

async fn fires_that_a_pause_skipped_are_opened_again_and_no_others(database: &impl Database) {
    let (store, node) = begin(database).await;
    let rows = [
        due(0).skipped(Reason::Paused),
        due(60).skipped(Reason::Paused),
        due(120).skipped(Reason::Late),
        due(180),
        due(240).skipped(Reason::Paused),
    ];
    enter(&store, &node, &rows).await;
    let nominals = [0, 60, 120, 180, 300].map(at);
    assert_eq!(store.reopen(&node, &name("other"), &nominals).await.unwrap(), 0);
    assert_eq!(store.reopen(&node, &churn(), &[]).await.unwrap(), 0);
    assert_eq!(store.reopen(&node, &churn(), &nominals).await.unwrap(), 2);
    assert_eq!(store.reopen(&node, &churn(), &nominals).await.unwrap(), 0);
    assert_eq!(calendar(&store, &node).await.open, [due(0), due(60), due(180)]);
    assert!(all_fires(&store).await.contains(&rows[4]));
    let answers = accept_for(&store, &node, &due(0), FireState::Ran, [arrival("a")]).await;
    assert!(matches!(answers, [Accepted::New(_)]), "{answers:?}");
}

async fn a_manual_fire_is_the_same_for_the_same_key(database: &impl Database) {
    let (store, node) = begin(database).await;
    let before = store.now().await.unwrap();
    let (row, new) = store.run_now("site", &churn(), Some("k"), "ops: again").await.unwrap();
    let after = store.now().await.unwrap();
    assert!(new && before <= row.nominal && row.nominal <= after, "{row:?}");
    assert_eq!(row, FireRow::manual(row.id, row.nominal, Some("k"), "ops: again"));
    accept_for(&store, &node, &row, FireState::Ran, [fixed("a")]).await;
    let (again, new) = store.run_now("site", &churn(), Some("k"), "other").await.unwrap();
    assert_eq!((again.id, again.state, again.jobs, new), (row.id, FireState::Ran, 1, false));
    // Any other is another one.
    let mut ids = BTreeSet::from([row.id]);
    for (site, feed, key) in [
        ("site", "churn", Some("l")),
        ("site", "other", Some("k")),
        ("elsewhere", "churn", Some("k")),
        ("site", "churn", None),
        ("site", "churn", None),
    ] {
        let (row, new) = store.run_now(site, &name(feed), key, "me").await.unwrap();
        assert!(new && ids.insert(row.id), "{row:?}");
    }
    assert_eq!(all_fires(&store).await.len(), 4);
    // Of those that ask at once one is first.
    let third = name("third");
    let asked = (0..4).map(|_| store.run_now("site", &third, Some("k"), "me"));
    let asked = futures::future::try_join_all(asked).await.unwrap();
    assert_eq!(asked.iter().filter(|(_, new)| *new).count(), 1);
    assert_eq!(asked.iter().map(|(row, _)| row.id).collect::<BTreeSet<_>>().len(), 1);
}

async fn a_manual_fire_moves_no_schedule(database: &impl Database) {
    let (store, node) = begin(database).await;
    let now = store.now().await.unwrap();
    let (row, _) = store.run_now("site", &churn(), None, "me").await.unwrap();
    let shown = calendar(&store, &node).await;
    assert_eq!((shown.last, shown.open), (None, vec![row.clone()]));
    // One of the schedule may have the very same time.
    let at_once = FireRow::due("site", &churn(), FireKind::Scheduled, row.nominal, now..now, now);
    assert_eq!(enter(&store, &node, &[due(-60), at_once]).await, [true, true]);
    assert_eq!(calendar(&store, &node).await.last, Some(row.nominal.max(at(-60))));
    let [accepted] = accept_for(&store, &node, &row, FireState::Ran, [fixed("a")]).await;
    let Accepted::New(job) = accepted else { panic!("{accepted:?}") };
    let fired = job.fire().unwrap();
    assert_eq!((fired.kind, fired.nominal), (FireKind::Manual, row.nominal));
}

async fn new_rules_hold_from_now_on(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let before = store.now().await.unwrap();
    let first = store.schedule(&node, &churn(), "0 2 * * *").await.unwrap();
    assert!(before <= first.since && first.since <= first.now, "{first:?}");
    assert_eq!(
        first,
        Timetable { last: None, pause: None, open: vec![], live: 0, ..first.clone() }
    );
    later_than(&store, first.since).await;
    for node in [&node, &other] {
        let same = store.schedule(node, &churn(), "0 2 * * *").await.unwrap();
        assert_eq!(same.since, first.since);
        assert!(same.now > first.now);
    }
    let changed = store.schedule(&other, &churn(), "0 3 * * *").await.unwrap();
    assert!(changed.since > first.since && changed.since <= changed.now, "{changed:?}");
    assert_eq!(store.schedule(&node, &churn(), "0 3 * * *").await.unwrap().since, changed.since);
    // Going back is a change as well.
    later_than(&store, changed.now).await;
    let back = store.schedule(&node, &churn(), "0 2 * * *").await.unwrap();
    assert!(back.since > changed.since);
    drop(store);
    let store = database.open().await;
    let node = store.register("c", "site", TERM).await.unwrap();
    assert_eq!(store.schedule(&node, &churn(), "0 2 * * *").await.unwrap().since, back.since);
}

async fn a_calendar_is_a_feeds_own(database: &impl Database) {
    let (store, node) = begin(database).await;
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    accept_for(&store, &node, &due(0), FireState::Ran, [fixed("a")]).await;
    enter(&store, &node, &[due(60), due(-60).skipped(Reason::Late)]).await;
    store.pause_feed("site", &churn(), &pause(at(0), None)).await.unwrap();
    let ours = calendar(&store, &node).await;
    let expected = (Some(at(60)), Some(pause(at(0), None)), vec![due(60)], 1);
    assert_eq!((ours.last, ours.pause, ours.open, ours.live), expected);
    let theirs = [
        store.schedule(&node, &name("other"), "rules").await.unwrap(),
        store.schedule(&elsewhere, &churn(), "rules").await.unwrap(),
    ];
    for other in theirs {
        assert_eq!((other.last, other.pause, other.open, other.live), (None, None, vec![], 0));
    }
}

async fn a_calendar_shows_the_first_hundred_open_fires(database: &impl Database) {
    let (store, node) = begin(database).await;
    let rows: Vec<_> = (0..120).map(|n| due(n * 7 % 120)).collect();
    assert_eq!(enter(&store, &node, &rows).await, vec![true; 120]);
    let shown = calendar(&store, &node).await;
    assert_eq!(shown.open, (0..100).map(due).collect::<Vec<_>>());
    assert_eq!(shown.last, Some(at(119)));
    assert_eq!(store.feeds("site").await.unwrap()[0].open_fires, 120);
}

async fn live_jobs_of_fires_are_counted_but_those_that_wait_for_a_person_without_a_run(
    database: &impl Database,
) {
    let (store, node) = begin(database).await;
    let live = async || calendar(&store, &node).await.live;
    job(&store, &node, "dropped").await;
    assert_eq!(live().await, 0);
    let inputs = ["a", "b", "c"].map(arrival);
    let accepted = accept_for(&store, &node, &due(0), FireState::Ran, inputs).await;
    let [a, b, c] = accepted.map(|accepted| match accepted {
        Accepted::New(job) => *job,
        other => panic!("{other:?}"),
    });
    assert_eq!(live().await, 3);
    // Held without a run.
    let a = walk(&store, &node, &a, [uploaded(), submitted(), Outcome::RemoteGone]).await;
    assert!(a.held().is_some());
    assert_eq!(live().await, 2);
    // Held, with a run that goes on for all anybody knows.
    let b = walk(&store, &node, &b, [uploaded(), submitted()]).await;
    let held = Transition { run: Some(name("e")), ..step(&b, Outcome::RemoteGone) };
    assert_eq!(store.commit(&node, &[held]).await.unwrap(), [Committed::Done]);
    assert_eq!(live().await, 2);
    // Failed, with a source that is still to be handled, for days perhaps; then done.
    let c = walk(&store, &node, &c, [permanent()]).await;
    assert_eq!(live().await, 1);
    walk(&store, &node, &c, [settled()]).await;
    assert_eq!(live().await, 1);
}

async fn a_pause_keeps_who_and_why_and_until_when(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert_eq!(calendar(&store, &node).await.pause, None);
    let far = store.now().await.unwrap() + Duration::from_hours(1);
    for until in [None, Some(far)] {
        let paused = FeedPause { by: "o'ps".into(), ..pause(at(0), until) };
        store.pause_feed("site", &churn(), &paused).await.unwrap();
        assert_eq!(calendar(&store, &node).await.pause, Some(paused));
        store.answer_resume(&node, &churn()).await.unwrap();
    }
    drop(store);
    let store = database.open().await;
    let feeds = store.feeds("site").await.unwrap();
    assert_eq!(feeds[0].pause.as_ref().unwrap().until, Some(far));
}

async fn the_end_of_a_pause_is_there_until_it_is_answered(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert!(!store.resume_feed("site", &churn()).await.unwrap());
    store.pause_feed("site", &churn(), &pause(at(0), None)).await.unwrap();
    // It goes on until somebody ends it.
    store.answer_resume(&node, &churn()).await.unwrap();
    assert!(!store.resume_feed("site", &name("other")).await.unwrap());
    assert!(!store.resume_feed("elsewhere", &churn()).await.unwrap());
    assert!(store.resume_feed("site", &churn()).await.unwrap());
    assert!(!store.resume_feed("site", &churn()).await.unwrap(), "it was not paused any more");
    let ended = FeedPause { ended: true, ..pause(at(0), None) };
    assert_eq!(calendar(&store, &node).await.pause, Some(ended));
    store.answer_resume(&node, &name("other")).await.unwrap();
    assert!(calendar(&store, &node).await.pause.is_some());
    store.answer_resume(&node, &churn()).await.unwrap();
    assert_eq!(calendar(&store, &node).await.pause, None);
    assert_eq!(store.feeds("site").await.unwrap(), []);
    assert!(!store.resume_feed("site", &churn()).await.unwrap());
}

async fn a_pause_that_is_over_ends_by_itself(database: &impl Database) {
    let (store, node) = begin(database).await;
    let now = store.now().await.unwrap();
    let over = pause(now - Duration::from_mins(2), Some(now - Duration::from_mins(1)));
    store.pause_feed("site", &churn(), &over).await.unwrap();
    let shown = calendar(&store, &node).await;
    assert_eq!(shown.pause, Some(over.clone()));
    assert!(!over.holds(shown.now));
    assert!(!store.resume_feed("site", &churn()).await.unwrap());
    store.answer_resume(&node, &churn()).await.unwrap();
    assert_eq!(calendar(&store, &node).await.pause, None);
}

async fn who_pauses_again_takes_no_earlier_time_away(database: &impl Database) {
    let (store, node) = begin(database).await;
    store.pause_feed("site", &churn(), &pause(at(0), None)).await.unwrap();
    store.resume_feed("site", &churn()).await.unwrap();
    // What the end of the first was to bring is not lost.
    let second = FeedPause { why: "still".into(), ..pause(at(60), Some(at(1_000_000_000))) };
    store.pause_feed("site", &churn(), &second).await.unwrap();
    let both = FeedPause { since: at(0), ..second };
    assert_eq!(calendar(&store, &node).await.pause, Some(both));
    store.resume_feed("site", &churn()).await.unwrap();
    store.answer_resume(&node, &churn()).await.unwrap();
    store.pause_feed("site", &churn(), &pause(at(60), None)).await.unwrap();
    assert_eq!(calendar(&store, &node).await.pause, Some(pause(at(60), None)));
}

async fn feeds_are_told_of_that_have_something_to_tell(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert_eq!(store.feeds("site").await.unwrap(), []);
    let paused = pause(at(0), None);
    for feed in ["both", "paused"] {
        store.pause_feed("site", &name(feed), &paused).await.unwrap();
    }
    store.pause_feed("elsewhere", &name("other"), &paused).await.unwrap();
    for (feed, n) in [("open", 3), ("both", 1), ("Both", 1)] {
        let rows: Vec<_> = (0..n).map(|n| due_in(&name(feed), n)).collect();
        store.enter(&node, &name(feed), &rows).await.unwrap();
    }
    store
        .enter(&node, &name("ran"), &[due_in(&name("ran"), 0).skipped(Reason::Late)])
        .await
        .unwrap();
    store.schedule(&node, &name("quiet"), "rules").await.unwrap();
    let told = |feed, pause: Option<&FeedPause>, open_fires| FeedState {
        feed: name(feed),
        pause: pause.cloned(),
        open_fires,
    };
    let mut expected = [
        told("Both", None, 1),
        told("both", Some(&paused), 1),
        told("open", None, 3),
        told("paused", Some(&paused), 0),
    ];
    expected.sort_by(|a, b| a.feed.cmp(&b.feed));
    assert_eq!(store.feeds("site").await.unwrap(), expected);
}

async fn outcomes_are_those_of_the_last_fires_with_jobs(database: &impl Database) {
    let (store, node) = begin(database).await;
    let outcomes = async |limit| store.outcomes("site", &churn(), limit).await.unwrap();
    assert_eq!(outcomes(9).await, []);
    // Others' jobs, between those of the fires.
    let fail = async |path: &str| {
        let job = job(&store, &node, path).await;
        walk(&store, &node, &job, [permanent(), settled()]).await
    };
    let succeed = [uploaded(), submitted(), Outcome::Started, finished(), delivered(), settled()];
    let cancel = [Outcome::Wished(Want::Cancel), settled()];
    let skip = [uploaded(), Outcome::Duplicate(id(1)), settled()];
    let running = vec![uploaded()];
    let ends: [Vec<Vec<Outcome>>; 7] = [
        vec![succeed.to_vec(), succeed.to_vec()],
        vec![succeed.to_vec(), vec![permanent(), settled()]],
        vec![skip.to_vec(), succeed.to_vec()],
        vec![cancel.to_vec()],
        vec![running.clone(), succeed.to_vec()],
        vec![running.clone(), vec![permanent(), settled()]],
        // It has failed, although its source is still there.
        vec![vec![permanent()], running],
    ];
    let mut expected = vec![];
    for (n, ways) in (0..).zip(ends) {
        fail(&format!("between {n}")).await;
        let inputs = (0..ways.len()).map(|i| arrival(format!("{n}/{i}")));
        let inputs: Vec<_> = inputs.collect();
        let mut row = due(n);
        for (input, way) in inputs.into_iter().zip(ways) {
            let [accepted] = accept_for(&store, &node, &row, FireState::Open(None), [input]).await;
            fail(&format!("among {n}{}", row.jobs)).await;
            row.jobs += 1;
            let Accepted::New(job) = accepted else { panic!("{accepted:?}") };
            walk(&store, &node, &job, way).await;
        }
        assert_eq!(outcomes(9).await, expected, "it is open");
        accept_for(&store, &node, &row, FireState::Ran, []).await;
        let outcome = match n {
            0 | 2 => FireOutcome::Succeeded,
            4 => FireOutcome::Running,
            _ => FireOutcome::Failed,
        };
        expected.insert(0, outcome);
        assert_eq!(outcomes(9).await, expected);
    }
    // Neither those that made none, nor those that were skipped, nor those of other feeds.
    accept_for(&store, &node, &due(100), FireState::Ran, []).await;
    enter(&store, &node, &[due(101).skipped(Reason::Paused), due(102)]).await;
    assert_eq!(outcomes(9).await, expected);
    assert_eq!(outcomes(3).await, expected[..3]);
    assert_eq!(outcomes(0).await, []);
    assert_eq!(store.outcomes("site", &name("other"), 9).await.unwrap(), []);
    assert_eq!(store.outcomes("elsewhere", &churn(), 9).await.unwrap(), []);
}

async fn a_job_that_comes_back_makes_its_fire_run_again(database: &impl Database) {
    let (store, node) = begin(database).await;
    let outcomes = async || store.outcomes("site", &churn(), 9).await.unwrap();
    let accepted = accept_for(&store, &node, &due(0), FireState::Ran, [arrival("a")]).await;
    let [Accepted::New(job)] = accepted else { panic!("{accepted:?}") };
    walk(&store, &node, &job, [permanent(), settled()]).await;
    assert_eq!(outcomes().await, [FireOutcome::Failed]);
    store.wish(job.id(), &Want::Retry, None).await.unwrap();
    let (job, _) = store.adopt(&node, &[churn()], 9).await.unwrap().jobs.remove(0);
    let again = Transition { answers: Some(Want::Retry), ..again(&job) };
    assert_eq!(store.commit(&node, &[again]).await.unwrap(), [Committed::Done]);
    assert_eq!(outcomes().await, [FireOutcome::Running]);
}

async fn fires_are_listed_newest_first_in_pages(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut rows: Vec<_> = (0..23).map(|n| due(n * 5 % 23)).collect();
    enter(&store, &node, &rows).await;
    let (manual, _) = store.run_now("site", &churn(), None, "me").await.unwrap();
    rows.push(manual);
    rows.sort_by_key(|row| std::cmp::Reverse((row.nominal, row.id)));
    for limit in [1, 7, 24, 25] {
        let (mut listed, mut before) = (vec![], None);
        loop {
            let page = store.fires("site", &churn(), before, limit).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            assert!(page.len() <= limit);
            listed.extend(page);
        }
        assert_eq!(listed, rows, "in pages of {limit}");
    }
    let nobody = FireId::new(uuid::Uuid::from_u128(9));
    assert_eq!(store.fires("site", &churn(), Some(nobody), 9).await.unwrap(), []);
    assert_eq!(store.fires("site", &name("other"), Some(rows[0].id), 9).await.unwrap(), []);
    assert_eq!(store.fires("site", &churn(), None, 0).await.unwrap(), []);
}

async fn the_databases_clock_goes_on(database: &impl Database) {
    let store = database.open().await;
    let first = store.now().await.unwrap();
    later_than(&store, first).await;
    assert!(store.now().await.unwrap() > first);
    assert_eq!(first.timestamp_subsec_nanos() % 1000, 0, "to the microsecond");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_and_2000_times_make_2000_fires_and_2000_jobs() {
    race(2_000).await;
}

/// Five nodes on one server meet the same times, in the same order, with clocks that differ by hours; one of them enters
/// a fire before it takes its input, as some that crash between, and all of them repeat calls.
pub(crate) async fn race(times: i64) {
    let database = crate::postgres::Database::fresh();
    let mut nodes = Vec::new();
    for n in 0..5 {
        let store = connect(&database).await;
        nodes.push(tokio::spawn(async move {
            let node = store.register("x", "site", TERM).await.unwrap();
            let mut made = 0;
            for time in 0..times {
                let row = due(time);
                if n == 0 && time % 3 == 0 {
                    enter(&store, &node, std::slice::from_ref(&row)).await;
                }
                let fire = Some(firing(&row, FireState::Ran));
                let clock = at(time + (n - 2) * 3_600);
                for _ in 0..=i64::from(time % 10 == n) {
                    let inputs = [fixed("model")];
                    let answers = store.accept(&node, &inputs, 1, clock, fire).await.unwrap();
                    match &answers[..] {
                        [Accepted::New(_)] => made += 1,
                        [Accepted::Over] => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            made
        }));
    }
    let mut made = BTreeMap::new();
    for (n, node) in nodes.into_iter().enumerate() {
        made.insert(n, node.await.unwrap());
    }
    println!("jobs by node: {made:?}");
    assert_eq!(made.values().sum::<i64>(), times);
    let store = connect(&database).await;
    let limit = usize::try_from(times + 1).unwrap();
    let fires = store.fires("site", &churn(), None, limit).await.unwrap();
    assert_eq!(fires.len() + 1, limit);
    assert!(fires.iter().all(|row| (row.state, row.jobs) == (FireState::Ran, 1)));
    let jobs = store.list(&JobQuery { limit, ..JobQuery::default() }).await.unwrap().jobs;
    assert_eq!(jobs.len() + 1, limit);
    let of: BTreeSet<_> = jobs.iter().map(|job| job.fire().unwrap().id).collect();
    assert_eq!(of, fires.iter().map(|row| row.id).collect());
}

/// A fire of the feed "churn" for a time, open, of the minute before it.
fn due(seconds: i64) -> FireRow {
    due_in(&churn(), seconds)
}

fn due_in(feed: &Name, seconds: i64) -> FireRow {
    let window = at(seconds - 60)..at(seconds);
    FireRow::due("site", feed, FireKind::Scheduled, at(seconds), window, at(seconds + 1))
}

/// A file that is there for every fire.
fn fixed(path: &str) -> Arrival {
    Arrival { once: true, ..arrival(path) }
}

fn pause(since: DateTime<Utc>, until: Option<DateTime<Utc>>) -> FeedPause {
    FeedPause { by: "ops".into(), why: "maintenance".into(), since, until, ended: false }
}

fn churn() -> Name {
    name("churn")
}

static CHURN: std::sync::LazyLock<Name> = std::sync::LazyLock::new(churn);

fn firing(row: &FireRow, then: FireState) -> Firing<'_> {
    Firing { feed: &CHURN, row, then }
}

async fn accept_for<const N: usize>(
    store: &impl Store,
    node: &Node,
    row: &FireRow,
    then: FireState,
    inputs: [Arrival; N],
) -> [Accepted; N] {
    let fire = Some(firing(row, then));
    let answers = store.accept(node, &inputs, usize::MAX, at(0), fire).await.unwrap();
    answers.try_into().unwrap()
}

async fn enter(store: &impl Store, node: &Node, rows: &[FireRow]) -> Vec<bool> {
    store.enter(node, &churn(), rows).await.unwrap()
}

async fn calendar(store: &impl Store, node: &Node) -> Timetable {
    store.schedule(node, &churn(), "rules").await.unwrap()
}

/// All fires of the feed "churn", newest first.
async fn all_fires(store: &impl Store) -> Vec<FireRow> {
    store.fires("site", &churn(), None, 1000).await.unwrap()
}

/// Until the database's clock shows a later time.
async fn later_than(store: &impl Store, time: DateTime<Utc>) {
    while store.now().await.unwrap() <= time {}
}
