//! What operators want of jobs, and what endpoints want of all nodes.

use std::time::Duration;

use super::*;

every_store! {
    wishes_are_noted_found_and_answered
    a_wish_for_another_generation_is_refused
    a_wish_for_a_job_that_does_not_exist_is_refused
    a_newer_wish_survives_the_answer_to_an_older_one
    a_wish_changes_nothing_that_a_write_follows_on
    a_wish_goes_along_with_its_job
    a_done_job_comes_back_for_a_wish
    a_done_job_that_came_back_is_as_it_was
    a_job_that_is_done_with_a_wish_unanswered_stays_for_whoever_adopts_it
    a_node_knows_what_it_owns
    pauses_reach_every_node_once
}

async fn wishes_are_noted_found_and_answered(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    assert_eq!(all_wanted(&store, &node).await, []);
    let adopt = Want::Adopt(RemoteId("r 1".into()));
    for (job, want) in [(&b, &adopt), (&a, &Want::Retry)] {
        assert_eq!(store.wish(job.id(), want, None).await.unwrap(), Wished::Noted);
    }
    let wanted = [(a.id(), Want::Retry), (b.id(), adopt.clone())];
    for _ in 0..2 {
        assert_eq!(all_wanted(&store, &node).await, wanted, "until they are answered");
    }
    let answer = Transition { answers: Some(Want::Retry), ..step(&a, uploaded()) };
    let no_answer = step(&b, uploaded());
    let batch = [answer, no_answer, step(&c, uploaded())];
    for _ in 0..2 {
        assert_eq!(store.commit(&node, &batch).await.unwrap(), [const { Committed::Done }; 3]);
        assert_eq!(all_wanted(&store, &node).await, [(b.id(), adopt.clone())]);
    }
    // What was decided after it is written anew.
    assert_eq!(store.wish(b.id(), &Want::NotStarted, None).await.unwrap(), Wished::Noted);
    assert_eq!(all_wanted(&store, &node).await, [(b.id(), Want::NotStarted)]);
}

async fn a_wish_for_another_generation_is_refused(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [live, done] = jobs(&store, &node, ["live", "done"]).await;
    for job in [&live, &done] {
        assert_eq!(store.commit(&node, &[again(job)]).await.unwrap(), [Committed::Done]);
    }
    walk(&store, &node, &again(&done).job, [permanent(), settled()]).await;
    for job in [&live, &done] {
        for (wanted, wished) in [
            (Some(1), Wished::Generation(2)),
            (Some(3), Wished::Generation(2)),
            (Some(2), Wished::Noted),
            (None, Wished::Noted),
        ] {
            assert_eq!(store.wish(job.id(), &Want::Cancel, wanted).await.unwrap(), wished);
            let noted = all_wanted(&store, &node).await.iter().any(|(id, _)| *id == live.id());
            assert!(wished == Wished::Noted || job.id() == done.id() || !noted);
        }
    }
}

async fn a_wish_for_a_job_that_does_not_exist_is_refused(database: &impl Database) {
    let (store, _) = begin(database).await;
    for generation in [None, Some(1)] {
        let wished = store.wish(id(7), &Want::Cancel, generation).await.unwrap();
        assert_eq!(wished, Wished::Unknown);
    }
}

async fn a_newer_wish_survives_the_answer_to_an_older_one(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    for job in [&a, &b] {
        store.wish(job.id(), &Want::Retry, None).await.unwrap();
    }
    let ids = ["r1", "r2"].map(|id| Want::Adopt(RemoteId(id.into())));
    let late = |job, outcome| Transition { answers: Some(Want::Retry), ..step(job, outcome) };
    store.wish(a.id(), &ids[0], None).await.unwrap();
    let a = late(&a, uploaded());
    store.commit(&node, std::slice::from_ref(&a)).await.unwrap();
    assert_eq!(all_wanted(&store, &node).await[0], (a.job.id(), ids[0].clone()));
    // One of the same kind too.
    let a = Transition { answers: Some(ids[1].clone()), ..step(&a.job, submitted()) };
    store.commit(&node, std::slice::from_ref(&a)).await.unwrap();
    assert_eq!(all_wanted(&store, &node).await[0], (a.job.id(), ids[0].clone()));
    // What is stale answers nothing.
    let stale = Transition { answers: Some(ids[0].clone()), ..a.clone() };
    let other = store.register("b", "site", TERM).await.unwrap();
    assert_eq!(store.commit(&other, &[stale]).await.unwrap(), [Committed::Stale]);
    assert_eq!(all_wanted(&store, &node).await.len(), 2);
}

async fn a_wish_changes_nothing_that_a_write_follows_on(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    store.wish(job.id(), &Want::Cancel, None).await.unwrap();
    assert_eq!(load(&store, job.id()).await, Some((job.clone(), Some(node.id))));
    assert_eq!(store.events(job.id()).await.unwrap().len(), 1);
    walk(&store, &node, &job, [uploaded(), submitted()]).await;
    assert_eq!(all_wanted(&store, &node).await, [(job.id(), Want::Cancel)]);
}

async fn a_wish_goes_along_with_its_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    store.retire(&node, &[]).await.unwrap();
    store.wish(job.id(), &Want::Cancel, None).await.unwrap();
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(all_wanted(&store, &me).await, []);
    adopt(&store, &me, 1).await;
    assert_eq!(all_wanted(&store, &me).await, [(job.id(), Want::Cancel)]);
}

async fn a_done_job_comes_back_for_a_wish(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let done = walk(&store, &node, &job, [permanent(), settled()]).await;
    assert_eq!(store.unowned(&node, &[name("churn")]).await.unwrap(), Unowned::default());
    assert_eq!(store.wish(done.id(), &Want::Retry, Some(1)).await.unwrap(), Wished::Noted);
    let free = store.unowned(&node, &[name("churn")]).await.unwrap();
    assert_eq!(free, Unowned { all: 1, adoptable: 1 });
    let adopted = store.adopt(&node, &[name("churn")], 10).await.unwrap();
    let [(back, None)] = &adopted.jobs[..] else { panic!("{adopted:?}") };
    assert_eq!((back.is_done(), back.revision()), (true, done.revision() + 1));
    assert_eq!(all_wanted(&store, &node).await, [(done.id(), Want::Retry)]);
    // It is done for names, whoever has it.
    let wish = wish(back, "1", "/out/x");
    assert_eq!(store.reserve(&node, &[wish]).await.unwrap(), [Reserved::Lost]);
    let again = Transition { answers: Some(Want::Retry), ..again(back) };
    assert!(!again.job.is_done());
    assert_eq!(store.commit(&node, std::slice::from_ref(&again)).await.unwrap(), [Committed::Done]);
    assert_eq!(load(&store, done.id()).await, Some((again.job.clone(), Some(node.id))));
    assert_eq!(all_wanted(&store, &node).await, []);
    assert_eq!(everything(&store).await, std::slice::from_ref(&again.job), "it is there once");
}

async fn a_done_job_that_came_back_is_as_it_was(database: &impl Database) {
    let (store, node) = begin(database).await;
    for (way, outcomes) in ways() {
        let made = job(&store, &node, way).await;
        let end = walk(&store, &node, &made, outcomes).await;
        if !end.is_done() {
            continue;
        }
        let last = store.events(end.id()).await.unwrap();
        store.wish(end.id(), &Want::Cancel, None).await.unwrap();
        assert_eq!(load(&store, end.id()).await, Some((end.clone(), None)), "{way}");
        assert_eq!(store.events(end.id()).await.unwrap(), last, "{way}");
    }
}

async fn a_job_that_is_done_with_a_wish_unanswered_stays_for_whoever_adopts_it(
    database: &impl Database,
) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    store.reserve(&node, &[wish(&a, "1", "/out/x")]).await.unwrap();
    let a = walk(&store, &node, &a, [permanent()]).await;
    store.wish(a.id(), &Want::Cancel, None).await.unwrap();
    let end = step(&a, settled());
    for _ in 0..2 {
        let end = std::slice::from_ref(&end);
        assert_eq!(store.commit(&node, end).await.unwrap(), [Committed::Done]);
    }
    assert_eq!(load(&store, a.id()).await, Some((end.job.clone(), None)));
    assert_eq!(all_wanted(&store, &node).await, []);
    let x = [Reserved::Yours("/out/x".into())];
    assert_eq!(store.reserve(&node, &[wish(&b, "1", "/out/x")]).await.unwrap(), x);
    assert_eq!(adopt(&store, &node, 10).await, [a.id()]);
    assert_eq!(all_wanted(&store, &node).await, [(a.id(), Want::Cancel)]);
}

async fn a_node_knows_what_it_owns(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    assert_eq!(store.owned(&node).await.unwrap(), []);
    let [a, b, done] = jobs(&store, &node, ["a", "b", "done"]).await;
    job(&store, &other, "other").await;
    walk(&store, &node, &a, [uploaded()]).await;
    walk(&store, &node, &done, [permanent(), settled()]).await;
    assert_eq!(store.owned(&node).await.unwrap(), [(a.id(), 2), (b.id(), 1)]);
    fence(&store, &node).await;
    adopt(&store, &other, 1).await;
    assert_eq!(store.owned(&node).await.unwrap(), [(b.id(), 1)]);
}

async fn pauses_reach_every_node_once(database: &impl Database) {
    let (store, one) = begin(database).await;
    let two = store.register("b", "site", TERM).await.unwrap();
    assert_eq!(store.pauses(0).await.unwrap(), []);
    let [short, long] = [Duration::from_millis(1500), Duration::from_hours(1)];
    store.pause(&one, &name("a"), short).await.unwrap();
    store.pause(&two, &name("b"), short).await.unwrap();
    let told = store.pauses(0).await.unwrap();
    let shown = told.iter().map(|pause| (pause.node, pause.endpoint.as_str(), pause.time));
    assert_eq!(shown.collect::<Vec<_>>(), [(one.id, "a", short), (two.id, "b", short)]);
    let last = told[1].serial;
    assert!(told[0].serial > 0 && last > told[0].serial);
    assert_eq!(store.pauses(last).await.unwrap(), []);
    store.pause(&two, &name("a"), long).await.unwrap();
    let [again] = &store.pauses(last).await.unwrap()[..] else { panic!("one is new") };
    assert_eq!((again.node, again.endpoint.as_str(), again.time), (two.id, "a", long));
    assert!(again.serial > last);
    assert_eq!(store.pauses(again.serial).await.unwrap(), []);
    assert_eq!(store.pauses(u64::MAX).await.unwrap(), []);
    let endpoints = store.pauses(0).await.unwrap();
    let endpoints: Vec<_> = endpoints.iter().map(|pause| pause.endpoint.as_str()).collect();
    assert_eq!(endpoints, ["b", "a"], "each one's last");
}
