//! An endpoint's runs, over all nodes.

use super::*;

every_store! {
    runs_never_exceed_the_limit_over_all_nodes
    each_endpoint_has_runs_of_its_own
    a_job_that_has_a_run_may_begin_at_once
    a_crash_between_admission_and_submit_leaks_no_run
    a_job_that_was_given_back_holds_no_run_that_it_has_not_begun
    a_run_ends_with_its_transition
    a_run_that_was_never_asked_for_is_counted_all_the_same
    a_run_goes_along_with_its_job
    a_run_moves_with_its_feed_to_another_endpoint
    a_job_that_is_not_the_nodes_gets_no_run
    a_limit_that_was_lowered_takes_no_run_away
    a_share_is_kept_for_who_waits
    who_has_not_asked_for_a_few_beats_waits_no_more
    the_dead_and_the_retired_wait_for_nothing
    a_node_that_is_fenced_off_begins_no_run
    a_feeds_own_limit_holds_over_all_nodes_of_its_site
    a_feed_that_has_all_its_runs_holds_up_no_other
    a_feeds_limit_counts_no_runs_of_others
}

async fn runs_never_exceed_the_limit_over_all_nodes(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "elsewhere", TERM).await.unwrap();
    let [a1, a2, a3] = jobs(&store, &a, ["1", "2", "3"]).await;
    let [b1, b2] = jobs(&store, &b, ["1", "2"]).await;
    assert_eq!(admit(&store, &a, &[&a1, &a2], 3).await, [a1.id(), a2.id()]);
    assert_eq!(admit(&store, &b, &[&b1, &b2], 3).await, [b1.id()], "the first one first");
    assert_eq!(admit(&store, &a, &[&a3], 3).await, []);
    commit(&store, &b, &b1, uploaded(), None).await;
    assert_eq!(admit(&store, &b, &[&b2], 3).await, [b2.id()]);
    assert_eq!(admit(&store, &a, &[], 3).await, []);
}

async fn each_endpoint_has_runs_of_its_own(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    assert_eq!(admit(&store, &node, &[&a], 1).await, [a.id()]);
    let other = admit_at(&store, &node, "other", &[&b], 1).await.unwrap();
    assert_eq!(other, [b.id()]);
    let full = admit_at(&store, &node, "other", &[&a], 1).await.unwrap();
    assert_eq!(full, [], "a run here is none there");
}

async fn a_job_that_has_a_run_may_begin_at_once(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    assert_eq!(admit(&store, &node, &[&b], 1).await, [b.id()]);
    for _ in 0..2 {
        assert_eq!(admit(&store, &node, &[&a, &b, &c], 1).await, [b.id()]);
    }
    assert_eq!(admit(&store, &node, &[&a, &b, &c], 2).await, [b.id(), a.id()]);
}

async fn a_crash_between_admission_and_submit_leaks_no_run(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    assert_eq!(admit(&store, &node, &[&a], 1).await, [a.id()]);
    fence(&store, &node).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    adopt(&store, &me, 10).await;
    // What may have been submitted was not started. And the other's turn may come long before this one's.
    assert_eq!(admit(&store, &me, &[&b], 1).await, [b.id()]);
    assert_eq!(admit(&store, &me, &[&a], 1).await, []);
    let (b, _) = load(&store, b.id()).await.unwrap();
    walk(&store, &me, &b, [permanent()]).await;
    assert_eq!(admit(&store, &me, &[&a], 1).await, [a.id()]);
}

async fn a_job_that_was_given_back_holds_no_run_that_it_has_not_begun(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let a = walk(&store, &node, &a, [uploaded()]).await;
    assert_eq!(admit(&store, &node, &[&a, &b], 2).await, [a.id(), b.id()]);
    let me = store.register("me", "site", TERM).await.unwrap();
    let mine = job(&store, &me, "mine").await;
    assert_eq!(admit(&store, &me, &[&mine], 2).await, []);
    store.retire(&node, &[]).await.unwrap();
    // Nobody has adopted them.
    assert_eq!(admit(&store, &me, &[&mine], 1).await, [mine.id()]);
}

async fn a_run_ends_with_its_transition(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    admit(&store, &node, &[&a], 1).await;
    let a = commit(&store, &node, &a, uploaded(), Some("e")).await;
    let a = commit(&store, &node, &a, submitted(), Some("e")).await;
    assert_eq!(admit(&store, &node, &[&b], 1).await, []);
    let a = commit(&store, &node, &a, Outcome::Started, None).await;
    assert_eq!(admit(&store, &node, &[&b], 1).await, [b.id()]);
    let b = commit(&store, &node, &b, permanent(), Some("e")).await;
    assert_eq!(admit(&store, &node, &[&a], 1).await, []);
    // Whatever is said of a job that is done: it holds none.
    let done = commit(&store, &node, &b, settled(), Some("e")).await;
    assert!(done.is_done());
    assert_eq!(admit(&store, &node, &[&a], 1).await, [a.id()]);
}

async fn a_run_that_was_never_asked_for_is_counted_all_the_same(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    admit(&store, &node, &[&a], 1).await;
    // Of a job that was submitted before runs were counted.
    commit(&store, &node, &b, uploaded(), Some("e")).await;
    assert_eq!(admit(&store, &node, &[&c], 2).await, []);
    assert_eq!(admit(&store, &node, &[&b, &c], 3).await, [b.id(), c.id()]);
}

async fn a_run_goes_along_with_its_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    admit(&store, &node, &[&a], 1).await;
    let a = commit(&store, &node, &a, uploaded(), Some("e")).await;
    let a = commit(&store, &node, &a, submitted(), Some("e")).await;
    for given_back in [true, false] {
        let owner = load(&store, a.id()).await.unwrap().1.unwrap();
        let owner = Node { id: owner, site: node.site.clone() };
        if given_back {
            store.retire(&owner, &[]).await.unwrap();
        } else {
            fence(&store, &owner).await;
        }
        let me = store.register("me", "site", TERM).await.unwrap();
        adopt(&store, &me, 10).await;
        assert_eq!(admit(&store, &me, &[&b], 1).await, []);
        assert_eq!(admit(&store, &me, &[&b, &a], 1).await, [a.id()]);
    }
}

async fn a_run_moves_with_its_feed_to_another_endpoint(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    admit(&store, &node, &[&a], 1).await;
    let there = async |job: &Job| admit_at(&store, &node, "there", &[job], 1).await.unwrap();
    assert_eq!(there(&b).await, [b.id()]);
    assert_eq!(there(&a).await, [], "a run here is none there");
    commit(&store, &node, &b, permanent(), None).await;
    assert_eq!(there(&a).await, [a.id()]);
    assert_eq!(admit(&store, &node, &[&c], 1).await, [c.id()]);
    commit(&store, &node, &a, uploaded(), Some("e")).await;
    assert_eq!(there(&c).await, [c.id()], "a transition says where it is");
    let [d] = jobs(&store, &node, ["d"]).await;
    assert_eq!(admit(&store, &node, &[&d], 1).await, []);
}

async fn a_job_that_is_not_the_nodes_gets_no_run(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let [done, mine] = jobs(&store, &node, ["done", "mine"]).await;
    let theirs = job(&store, &other, "theirs").await;
    walk(&store, &node, &done, [permanent(), settled()]).await;
    let nobodys = Job::accepted(id(u128::MAX >> 70), &arrival("x"), at(0));
    let all = [&theirs, &done, &nobodys, &mine];
    assert_eq!(admit(&store, &node, &all, 10).await, [mine.id()]);
    assert_eq!(admit(&store, &other, &all, 2).await, [theirs.id()]);
}

async fn a_limit_that_was_lowered_takes_no_run_away(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    assert_eq!(admit(&store, &node, &[&a, &b], 2).await, [a.id(), b.id()]);
    assert_eq!(admit(&store, &node, &[&a, &b, &c], 1).await, [a.id(), b.id()]);
    commit(&store, &node, &a, permanent(), None).await;
    assert_eq!(admit(&store, &node, &[&c], 1).await, []);
}

async fn a_share_is_kept_for_who_waits(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    let of_a = jobs(&store, &a, ["1", "2", "3", "4", "5", "6"]).await;
    let of_b = jobs(&store, &b, ["b1", "b2", "b3"]).await;
    let [a1, a2, a3, a4, a5, a6] = of_a.each_ref();
    let [b1, b2, b3] = of_b.each_ref();
    assert_eq!(admit(&store, &a, &[a1, a2, a3, a4, a5], 4).await.len(), 4, "alone it gets all");
    assert_eq!(admit(&store, &b, &[b1, b2, b3], 4).await, []);
    commit(&store, &a, a1, permanent(), None).await;
    assert_eq!(admit(&store, &a, &[a5], 4).await, [], "what it gives back goes to who waits");
    assert_eq!(admit(&store, &b, &[b1, b2, b3], 4).await, [b1.id()]);
    commit(&store, &a, a2, permanent(), None).await;
    commit(&store, &a, a3, permanent(), None).await;
    // Each waits for the other: half of them is each one's.
    assert_eq!(admit(&store, &a, &[a5, a6], 4).await, [a5.id()]);
    assert_eq!(admit(&store, &b, &[b2, b3], 4).await, [b2.id()]);
    commit(&store, &a, a4, permanent(), None).await;
    assert_eq!(admit(&store, &b, &[b3], 4).await, [], "it has its half");
    assert_eq!(admit(&store, &a, &[a6], 4).await, [a6.id()]);
    // Who got all it asked for doesn't wait.
    commit(&store, &a, a5, permanent(), None).await;
    assert_eq!(admit(&store, &b, &[b3], 4).await, [b3.id()]);
}

async fn who_has_not_asked_for_a_few_beats_waits_no_more(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    let [a1, a2] = jobs(&store, &a, ["1", "2"]).await;
    let b1 = job(&store, &b, "b1").await;
    admit(&store, &a, &[&a1], 1).await;
    for beats in 0..6 {
        // It waits, and then beats so often without asking again.
        assert_eq!(admit(&store, &b, &[&b1], 1).await, []);
        for _ in 0..beats {
            assert!(store.beat(&b).await.unwrap());
        }
        let granted = admit(&store, &a, &[&a2], 2).await.len();
        assert_eq!(granted, usize::from(beats >= 5), "after {beats} beats");
    }
}

async fn the_dead_and_the_retired_wait_for_nothing(database: &impl Database) {
    let (store, a) = begin(database).await;
    let [a1, a2, a3] = jobs(&store, &a, ["1", "2", "3"]).await;
    admit(&store, &a, &[&a1], 1).await;
    let waits = async |path: &str| {
        let node = store.register(path, "site", TERM).await.unwrap();
        let job = job(&store, &node, path).await;
        assert_eq!(admit(&store, &node, &[&job], 1).await, []);
        node
    };
    let (dead, retired) = (waits("dead").await, waits("retired").await);
    assert_eq!(admit(&store, &a, &[&a2], 3).await, [], "two wait for what is left");
    fence(&store, &dead).await;
    store.retire(&retired, &[]).await.unwrap();
    assert_eq!(admit(&store, &a, &[&a2, &a3], 3).await, [a2.id(), a3.id()]);
}

async fn a_node_that_is_fenced_off_begins_no_run(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    fence(&store, &node).await;
    let late = admit_at(&store, &node, "e", &[&job], 1).await;
    assert!(matches!(late, Err(StoreError::Unavailable { .. })), "{late:?}");
}

async fn a_feeds_own_limit_holds_over_all_nodes_of_its_site(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    let [a1, a2] = jobs(&store, &a, ["a1", "a2"]).await;
    let [b1, b2] = jobs(&store, &b, ["b1", "b2"]).await;
    assert_eq!(admit_within(&store, &a, &[&a1], 2).await, (vec![a1.id()], vec![]));
    let admitted = admit_within(&store, &b, &[&b1, &b2], 2).await;
    assert_eq!(admitted, (vec![b1.id()], vec![b2.id()]), "the first one first");
    assert_eq!(admit_within(&store, &a, &[&a1, &a2], 2).await, (vec![a1.id()], vec![a2.id()]));
    assert_eq!(admit_within(&store, &a, &[&a2], 1).await, (vec![], vec![a2.id()]), "lowered");
    commit(&store, &b, &b1, permanent(), None).await;
    assert_eq!(admit_within(&store, &b, &[&b2], 2).await, (vec![b2.id()], vec![]));
    // One that is dead has its runs until somebody takes them over.
    fence(&store, &b).await;
    assert_eq!(admit_within(&store, &a, &[&a2], 2).await, (vec![], vec![a2.id()]));
}

async fn a_feed_that_has_all_its_runs_holds_up_no_other(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    let others =
        [job_in(&store, &node, "other", "d").await, job_in(&store, &node, "other", "e").await];
    let limit = || Some(FeedLimit { feed: name("churn"), runs: 1 });
    let ask = |job: &Job| Ask { job: job.id(), same: None, feed: limit() };
    let free = |job: &Job| Ask { job: job.id(), same: None, feed: None };
    let asks = [ask(&a), ask(&b), ask(&c), free(&others[0]), free(&others[1])];
    let admitted = store.admit(&node, &name("e"), &asks, 3, at(0)).await.unwrap();
    assert_eq!(admitted.runs, [a.id(), others[0].id(), others[1].id()]);
    assert_eq!(admitted.full, [b.id(), c.id()]);
    // Nor does it wait for the endpoint: another node may have all that is free there.
    let other = store.register("other", "site", TERM).await.unwrap();
    let theirs = jobs(&store, &other, ["x", "y", "z"]).await;
    let granted = admit(&store, &other, &theirs.each_ref(), 6).await;
    assert_eq!(granted, theirs.map(|job| job.id()));
}

async fn a_feeds_limit_counts_no_runs_of_others(database: &impl Database) {
    let (store, node) = begin(database).await;
    let there = store.register("there", "elsewhere", TERM).await.unwrap();
    let [here, again] = jobs(&store, &node, ["a", "b"]).await;
    let elsewhere = job(&store, &there, "a").await;
    let other = job_in(&store, &node, "other", "a").await;
    admit(&store, &node, &[&other], 9).await;
    admit_at(&store, &node, "another", &[&again], 9).await.unwrap();
    assert_eq!(admit_within(&store, &there, &[&elsewhere], 1).await.0, [elsewhere.id()]);
    assert_eq!(admit_within(&store, &node, &[&here], 1).await.0, [here.id()]);
}

/// Asks for runs at the endpoint "e", of which the feed may have so many; answers those that may, and those whose feed
/// has all of them.
async fn admit_within(
    store: &impl Store,
    node: &Node,
    jobs: &[&Job],
    runs: usize,
) -> (Vec<JobId>, Vec<JobId>) {
    let feed = Some(FeedLimit { feed: name("churn"), runs });
    let ask = |job: &&Job| Ask { job: job.id(), same: None, feed: feed.clone() };
    let asks: Vec<_> = jobs.iter().map(ask).collect();
    let admitted = store.admit(node, &name("e"), &asks, 9, at(0)).await.unwrap();
    (admitted.runs, admitted.full)
}

/// A job of a feed.
async fn job_in(store: &impl Store, node: &Node, feed: &str, path: &str) -> Job {
    let arrivals = [arrival_in(feed, path)];
    let mut accepted = store.accept(node, &arrivals, 1, at(0), None).await.unwrap();
    let Some(Accepted::New(job)) = accepted.pop() else { panic!("{accepted:?}") };
    *job
}

/// Asks for runs, of jobs that are the same as no other.
pub(super) async fn admit_at(
    store: &impl Store,
    node: &Node,
    endpoint: &str,
    jobs: &[&Job],
    limit: usize,
) -> Result<Vec<JobId>, StoreError> {
    let asks: Vec<_> =
        jobs.iter().map(|job| Ask { job: job.id(), same: None, feed: None }).collect();
    let admitted = store.admit(node, &name(endpoint), &asks, limit, at(0)).await?;
    assert_eq!(admitted.duplicates, []);
    Ok(admitted.runs)
}

/// Asks for runs at the endpoint "e".
pub(super) async fn admit(
    store: &impl Store,
    node: &Node,
    jobs: &[&Job],
    limit: usize,
) -> Vec<JobId> {
    admit_at(store, node, "e", jobs, limit).await.unwrap()
}

/// Writes what follows from an outcome, with the run that the job holds from there on.
async fn commit(
    store: &impl Store,
    node: &Node,
    job: &Job,
    outcome: Outcome,
    run: Option<&str>,
) -> Job {
    let transition = Transition { run: run.map(name), ..step(job, outcome) };
    let committed = store.commit(node, std::slice::from_ref(&transition)).await.unwrap();
    assert_eq!(committed, [Committed::Done]);
    transition.job
}
