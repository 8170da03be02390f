//! What is scored once only.

use super::*;

every_store! {
    of_two_jobs_that_are_the_same_the_first_gets_the_run
    a_bad_end_leaves_the_run_to_the_next
    one_that_succeeded_is_told_of_for_as_long_as_it_is_remembered
    a_job_that_asks_again_is_no_duplicate_of_itself
    sites_know_nothing_of_each_other
    nobody_gets_a_run_by_what_another_node_asked_first
}

async fn of_two_jobs_that_are_the_same_the_first_gets_the_run(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = uploaded_jobs(&store, &node).await;
    let asks = [ask(&a, 1), ask(&b, 1), ask(&c, 2)];
    let admitted = admit(&store, &node, &asks, 0).await;
    assert_eq!(admitted.runs, [a.id(), c.id()], "in one call");
    assert_eq!(admitted.duplicates, [(b.id(), Earlier::UnderWay(a.id()))]);
    let later = admit(&store, &node, &[ask(&b, 1)], 0).await;
    assert_eq!(later.runs, []);
    assert_eq!(later.duplicates, [(b.id(), Earlier::UnderWay(a.id()))]);
}

async fn a_bad_end_leaves_the_run_to_the_next(database: &impl Database) {
    let (store, first) = begin(database).await;
    let second = store.register("b", "elsewhere", TERM).await.unwrap();
    for (node, done) in [(first, false), (second, true)] {
        let [a, b, c] = uploaded_jobs(&store, &node).await;
        admit(&store, &node, &[ask(&a, 1)], 0).await;
        let ends = [permanent(), settled()];
        walk(&store, &node, &a, ends.into_iter().take(1 + usize::from(done))).await;
        let admitted = admit(&store, &node, &[ask(&b, 1), ask(&c, 1)], 0).await;
        assert_eq!(admitted.runs, [b.id()]);
        assert_eq!(admitted.duplicates, [(c.id(), Earlier::UnderWay(b.id()))]);
    }
}

async fn one_that_succeeded_is_told_of_for_as_long_as_it_is_remembered(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, _] = uploaded_jobs(&store, &node).await;
    admit(&store, &node, &[ask(&a, 1)], 100).await;
    let end = [submitted(), Outcome::Started, finished(), delivered(), settled()];
    walk(&store, &node, &a, end).await;
    let mut asks = ask(&b, 1);
    asks.same = Some(Same { since: at(100), ..asks.same.unwrap() });
    let admitted = admit(&store, &node, &[asks.clone()], 200).await;
    assert_eq!(admitted.duplicates, [(b.id(), Earlier::Scored(a.id()))]);
    asks.same = Some(Same { since: at(101), ..asks.same.unwrap() });
    let admitted = admit(&store, &node, &[asks], 200).await;
    assert_eq!((admitted.runs, admitted.duplicates), (vec![b.id()], vec![]), "it is too long ago");
}

async fn a_job_that_asks_again_is_no_duplicate_of_itself(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, ..] = uploaded_jobs(&store, &node).await;
    for _ in 0..2 {
        let admitted = admit(&store, &node, &[ask(&a, 1)], 0).await;
        assert_eq!((admitted.runs, admitted.duplicates), (vec![a.id()], vec![]));
    }
}

async fn sites_know_nothing_of_each_other(database: &impl Database) {
    let (store, here) = begin(database).await;
    let there = store.register("b", "elsewhere", TERM).await.unwrap();
    for node in [here, there] {
        let [a, ..] = uploaded_jobs(&store, &node).await;
        let admitted = admit(&store, &node, &[ask(&a, 1)], 0).await;
        assert_eq!((admitted.runs, admitted.duplicates), (vec![a.id()], vec![]));
    }
}

async fn nobody_gets_a_run_by_what_another_node_asked_first(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    for n in 0..20_u8 {
        let paths = [format!("a{n}"), format!("b{n}")];
        let [of_a] = jobs(&store, &a, [&paths[0]]).await;
        let [of_b] = jobs(&store, &b, [&paths[1]]).await;
        let asks = [[ask(&of_a, n)], [ask(&of_b, n)]];
        let (first, second) =
            tokio::join!(admit(&store, &a, &asks[0], 0), admit(&store, &b, &asks[1], 0));
        assert_eq!(first.runs.len() + second.runs.len(), 1, "{first:?} {second:?}");
    }
}

async fn uploaded_jobs(store: &impl Store, node: &Node) -> [Job; 3] {
    let mut uploaded_jobs = Vec::new();
    for job in jobs(store, node, ["a", "b", "c"]).await {
        uploaded_jobs.push(walk(store, node, &job, [uploaded()]).await);
    }
    uploaded_jobs.try_into().unwrap()
}

fn ask(job: &Job, same: u8) -> Ask {
    Ask { job: job.id(), same: Some(Same { digest: Sha256([same; 32]), since: at(0) }), feed: None }
}

async fn admit(store: &impl Store, node: &Node, asks: &[Ask], second: i64) -> Admitted {
    store.admit(node, &name("e"), asks, 100, at(second)).await.unwrap()
}
