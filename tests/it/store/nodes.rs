//! Who lives, and what is whose.

use std::time::Duration;

use scoreline::ports::{FolderId, Peer};

use super::*;

every_store! {
    adoption_takes_what_is_free_or_of_the_dead
    adoption_takes_only_given_feeds_and_its_own_site
    adoption_takes_the_oldest_first_up_to_its_limit
    adoption_leaves_what_is_done
    two_nodes_never_adopt_the_same_job
    adoption_fences_the_last_owner
    adoption_is_written_down
    a_retired_node_gives_its_jobs_back
    a_forgotten_node_gets_no_jobs
    a_nodes_id_is_never_used_again
    beats_are_counted_for_others_to_see
    each_node_is_shown_with_its_own_term
    a_fenced_node_neither_beats_nor_accepts_nor_adopts
    a_fence_fails_if_the_node_has_beaten_since
    a_node_that_is_gone_is_fenced_off
    a_fenced_node_is_nobodys_other
    a_fenced_nodes_jobs_are_adopted_with_its_name
    what_a_fenced_node_wrote_before_adoption_counts
    a_fenced_node_may_still_retire
    what_a_node_took_over_and_never_heard_of_stays_as_unclear_as_it_was
    jobs_without_a_living_owner_are_counted
    the_rest_of_a_call_is_free_for_others
    one_node_scans_a_feed_at_a_time
    a_feeds_folder_is_the_first_that_was_told
    of_two_nodes_that_tell_a_folder_at_once_one_is_heard
    scans_pass_on_when_a_node_is_fenced_or_retires
}

async fn adoption_takes_what_is_free_or_of_the_dead(database: &impl Database) {
    let (store, gone) = begin(database).await;
    let dead = store.register("dead", "site", TERM).await.unwrap();
    let alive = store.register("alive", "site", TERM).await.unwrap();
    let free = job(&store, &gone, "free").await;
    let of_dead = job(&store, &dead, "dead").await;
    let of_alive = job(&store, &alive, "alive").await;
    store.retire(&gone, &[]).await.unwrap();

    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &me, 10).await, [free.id()]);
    fence(&store, &dead).await;
    assert_eq!(adopt(&store, &me, 10).await, [of_dead.id()]);
    assert_eq!(adopt(&store, &me, 10).await, []);
    for (id, owner) in [(free.id(), me.id), (of_dead.id(), me.id), (of_alive.id(), alive.id)] {
        assert_eq!(load(&store, id).await.unwrap().1, Some(owner));
    }
}

async fn adoption_takes_only_given_feeds_and_its_own_site(database: &impl Database) {
    let (store, node) = begin(database).await;
    let arrivals = [arrival_in("churn", "a"), arrival_in("other", "a"), arrival_in("third", "a")];
    let [a, _, c] = accept(&store, &node, &arrivals).await.map(id_of);
    store.retire(&node, &[]).await.unwrap();
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    assert_eq!(adopt(&store, &elsewhere, 10).await, []);
    let me = store.register("me", "site", TERM).await.unwrap();
    assert!(store.adopt(&me, &[], 10).await.unwrap().jobs.is_empty());
    let feeds = [name("third"), name("churn")];
    let adopted = store.adopt(&me, &feeds, 10).await.unwrap();
    assert_eq!(adopted.jobs.iter().map(|(job, _)| job.id()).collect::<Vec<_>>(), [a, c]);
}

async fn adoption_takes_the_oldest_first_up_to_its_limit(database: &impl Database) {
    let (store, dead) = begin(database).await;
    let gone = store.register("gone", "site", TERM).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..9 {
        let owner = if n % 2 == 0 { &dead } else { &gone };
        ids.push(job(&store, owner, &n.to_string()).await.id());
    }
    store.retire(&gone, &[]).await.unwrap();
    fence(&store, &dead).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &me, 0).await, []);
    for part in ids.chunks(4) {
        assert_eq!(adopt(&store, &me, 4).await, part);
    }
    assert_eq!(adopt(&store, &me, 4).await, []);
}

async fn adoption_leaves_what_is_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [done, unsettled] = jobs(&store, &node, ["done", "unsettled"]).await;
    walk(&store, &node, &done, [permanent(), settled()]).await;
    walk(&store, &node, &unsettled, [permanent()]).await;
    assert_eq!(store.retire(&node, &[]).await.unwrap(), 1);
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &me, 10).await, [unsettled.id()]);
}

async fn two_nodes_never_adopt_the_same_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let arrivals: Vec<_> = (0..40).map(|n| arrival(n.to_string())).collect();
    store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    let (a, b) = (store.register("a", "site", TERM).await, store.register("b", "site", TERM).await);
    let (a, b) = (a.unwrap(), b.unwrap());
    fence(&store, &node).await;
    let mut owners = BTreeMap::new();
    for _ in 0..7 {
        let adopted = tokio::join!(adopt(&store, &a, 3), adopt(&store, &b, 3));
        for (owner, ids) in [(a.id, adopted.0), (b.id, adopted.1)] {
            for id in ids {
                assert_eq!(owners.insert(id, owner), None, "{id:?} was adopted twice");
            }
        }
    }
    assert_eq!(owners.len(), 40);
    for (id, owner) in owners {
        assert_eq!(load(&store, id).await.unwrap().1, Some(owner));
    }
}

async fn adoption_fences_the_last_owner(database: &impl Database) {
    let (store, late) = begin(database).await;
    let old = job(&store, &late, "a").await;
    let me = store.register("me", "site", TERM).await.unwrap();
    fence(&store, &late).await;
    let adopted = store.adopt(&me, &[name("churn")], 1).await.unwrap().jobs;
    assert_eq!(adopted[0].0.revision(), old.revision() + 1);
    assert_eq!(store.commit(&late, &[step(&old, uploaded())]).await.unwrap(), [Committed::Stale]);
}

async fn adoption_is_written_down(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let job = walk(&store, &node, &job, [uploaded()]).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    fence(&store, &node).await;
    let (adopted, _) = store.adopt(&me, &[name("churn")], 1).await.unwrap().jobs.remove(0);
    let event = store.events(job.id()).await.unwrap().pop().unwrap();
    assert_eq!((event.from, event.to), (Phase::Uploaded, Phase::Uploaded));
    assert_eq!((event.outcome.as_str(), event.revision), ("adopted", adopted.revision()));
    assert_eq!(event.at, adopted.updated_at());
    // It is the job that it was, but for the write itself.
    let mut record = adopted.record();
    (record.revision, record.updated_at) = (job.revision(), job.updated_at());
    assert_eq!(record, job.record());
    assert_eq!(load(&store, job.id()).await, Some((adopted, Some(me.id))));
}

async fn a_retired_node_gives_its_jobs_back(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    assert_eq!(store.retire(&node, &[]).await.unwrap(), 2);
    assert_eq!(store.retire(&node, &[]).await.unwrap(), 0);
    assert!(!store.beat(&node).await.unwrap());
    assert_eq!(load(&store, a.id()).await, Some((a.clone(), None)));
    assert_eq!(store.commit(&node, &[step(&a, uploaded())]).await.unwrap(), [Committed::Stale]);
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &me, 10).await, [a.id(), b.id()]);
    assert_eq!(others(&store, &me).await, []);
}

async fn a_forgotten_node_gets_no_jobs(database: &impl Database) {
    let (store, node) = begin(database).await;
    let free = job(&store, &node, "a").await;
    store.retire(&node, &[]).await.unwrap();
    let late = store.accept(&node, &[arrival("b")], 1, at(0), None).await;
    assert!(matches!(late, Err(StoreError::Unavailable { .. })), "{late:?}");
    let late = store.adopt(&node, &[name("churn")], 1).await;
    assert!(matches!(late, Err(StoreError::Unavailable { .. })), "{late:?}");
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &me, 10).await, [free.id()]);
    assert!(matches!(accept(&store, &me, &[arrival("b")]).await, [Accepted::New(_)]));
}

async fn a_nodes_id_is_never_used_again(database: &impl Database) {
    let mut used = BTreeSet::new();
    for _ in 0..3 {
        let store = database.open().await;
        for _ in 0..3 {
            let node = store.register("host", "site", TERM).await.unwrap();
            assert!(used.insert(node.id), "{:?} was given twice", node.id);
            store.retire(&node, &[]).await.unwrap();
        }
    }
}

async fn beats_are_counted_for_others_to_see(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    store.register("c", "elsewhere", TERM).await.unwrap();
    assert_eq!(others(&store, &a).await, [(b.id, 0)]);
    for _ in 0..3 {
        assert!(store.beat(&b).await.unwrap());
    }
    assert!(store.beat(&a).await.unwrap());
    assert_eq!(others(&store, &a).await, [(b.id, 3)]);
    assert_eq!(others(&store, &b).await, [(a.id, 1)]);
}

async fn each_node_is_shown_with_its_own_term(database: &impl Database) {
    let (store, me) = begin(database).await;
    let terms = [5_000, 600_000].map(Duration::from_millis);
    let mut nodes = Vec::new();
    for term in terms {
        nodes.push(store.register("x", "site", term).await.unwrap());
    }
    let shown = store.others(&me).await.unwrap();
    let expected = [0, 1].map(|n: usize| Peer { id: nodes[n].id, beats: 0, term: terms[n] });
    assert_eq!(shown, expected);
    drop(store);
    assert_eq!(database.open().await.others(&me).await.unwrap(), expected);
}

async fn a_fenced_node_neither_beats_nor_accepts_nor_adopts(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let [old] = jobs(&store, &node, ["old"]).await;
    job(&store, &other, "free").await;
    store.retire(&other, &[]).await.unwrap();
    for _ in 0..2 {
        assert!(store.fence(node.id, None).await.unwrap());
    }
    assert!(!store.beat(&node).await.unwrap());
    let feeds = [name("churn")];
    let late = [
        store.accept(&node, &[arrival("new")], 1, at(0), None).await.map(|_| ()),
        store.adopt(&node, &feeds, 10).await.map(|_| ()),
        store.claim(&node, &feeds).await.map(|_| ()),
    ];
    for late in late {
        let Err(error @ StoreError::Unavailable { .. }) = late else { panic!("{late:?}") };
        assert!(error.to_string().contains("new registration"), "{error}");
    }
    assert_eq!(everything(&store).await.len(), 2);
    // Nobody has adopted its own yet.
    assert_eq!(store.owned(&node).await.unwrap(), [(old.id(), 1)]);
}

async fn a_fence_fails_if_the_node_has_beaten_since(database: &impl Database) {
    let (store, me) = begin(database).await;
    let node = store.register("b", "site", TERM).await.unwrap();
    job(&store, &node, "a").await;
    for beats in 0..3 {
        assert_eq!(others(&store, &me).await, [(node.id, beats)]);
        assert!(store.beat(&node).await.unwrap());
        for other in [beats, beats + 2, u64::MAX] {
            assert!(!store.fence(node.id, Some(other)).await.unwrap());
        }
    }
    assert!(store.fence(node.id, Some(3)).await.unwrap());
    assert!(!store.beat(&node).await.unwrap());
    // It is so, whatever is said of its beats.
    assert!(store.fence(node.id, Some(9)).await.unwrap());
}

async fn a_node_that_is_gone_is_fenced_off(database: &impl Database) {
    let (store, node) = begin(database).await;
    store.retire(&node, &[]).await.unwrap();
    assert!(store.fence(node.id, Some(0)).await.unwrap());
    assert!(store.fence(NodeId(999), None).await.unwrap());
}

async fn a_fenced_node_is_nobodys_other(database: &impl Database) {
    let (store, me) = begin(database).await;
    let [dead, idle] =
        [store.register("b", "site", TERM).await, store.register("c", "site", TERM).await];
    let [dead, idle] = [dead.unwrap(), idle.unwrap()];
    job(&store, &dead, "a").await;
    for node in [&dead, &idle] {
        fence(&store, node).await;
    }
    assert_eq!(others(&store, &me).await, []);
}

async fn a_fenced_nodes_jobs_are_adopted_with_its_name(database: &impl Database) {
    let (store, dead) = begin(database).await;
    let gone = store.register("gone", "site", TERM).await.unwrap();
    let [a, b] = jobs(&store, &dead, ["a", "b"]).await;
    let c = job(&store, &gone, "c").await;
    store.retire(&gone, &[]).await.unwrap();
    fence(&store, &dead).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    let mut last = Vec::new();
    for _ in 0..2 {
        let adopted = store.adopt(&me, &[name("churn")], 2).await.unwrap();
        last.extend(adopted.jobs.into_iter().map(|(job, left_by)| (job.id(), left_by)));
    }
    let dead = Some(dead.id);
    assert_eq!(last, [(a.id(), dead), (b.id(), dead), (c.id(), None)]);
    // Whoever is fenced off after that is named in turn.
    fence(&store, &me).await;
    let next = store.register("next", "site", TERM).await.unwrap();
    let adopted = store.adopt(&next, &[name("churn")], 9).await.unwrap();
    assert!(adopted.jobs.iter().all(|(_, left_by)| *left_by == Some(me.id)), "{adopted:?}");
}

async fn what_a_fenced_node_wrote_before_adoption_counts(database: &impl Database) {
    let (store, late) = begin(database).await;
    let [a, b] = jobs(&store, &late, ["a", "b"]).await;
    fence(&store, &late).await;
    let a = walk(&store, &late, &a, [uploaded()]).await;
    walk(&store, &late, &b, [permanent(), settled()]).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    let adopted = store.adopt(&me, &[name("churn")], 9).await.unwrap().jobs;
    let [(job, _)] = &adopted[..] else { panic!("{adopted:?}") };
    assert_eq!((job.id(), job.phase(), job.revision()), (a.id(), Phase::Uploaded, 3));
    let late = store.commit(&late, &[step(&a, submitted())]).await.unwrap();
    assert_eq!(late, [Committed::Stale]);
}

async fn a_fenced_node_may_still_retire(database: &impl Database) {
    let (store, node) = begin(database).await;
    jobs(&store, &node, ["a", "b"]).await;
    fence(&store, &node).await;
    assert_eq!(store.retire(&node, &[]).await.unwrap(), 2);
    let me = store.register("me", "site", TERM).await.unwrap();
    let adopted = store.adopt(&me, &[name("churn")], 9).await.unwrap().jobs;
    let last: Vec<_> = adopted.iter().map(|(_, left_by)| *left_by).collect();
    assert_eq!(last, [None, None], "it gave them back");
}

async fn what_a_node_took_over_and_never_heard_of_stays_as_unclear_as_it_was(
    database: &impl Database,
) {
    let (store, dead) = begin(database).await;
    let [a, b] = jobs(&store, &dead, ["a", "b"]).await;
    let a = walk(&store, &dead, &a, [uploaded(), submitted()]).await;
    let b = walk(&store, &dead, &b, [uploaded(), submitted()]).await;
    fence(&store, &dead).await;
    let node = store.register("node", "site", TERM).await.unwrap();
    let feeds = [name("churn")];
    assert_eq!(store.adopt(&node, &feeds, 9).await.unwrap().jobs.len(), 2);
    // The answer about the second was lost.
    assert_eq!(store.retire(&node, &[a.id()]).await.unwrap(), 1);
    let late = store.commit(&node, &[step(&b, Outcome::Started)]).await;
    assert!(late.is_err() || late.unwrap() == [Committed::Stale], "it works no more");
    let next = store.register("next", "site", TERM).await.unwrap();
    let adopted = store.adopt(&next, &feeds, 9).await.unwrap().jobs;
    let left_by: BTreeMap<_, _> =
        adopted.iter().map(|(job, left_by)| (job.id(), *left_by)).collect();
    assert_eq!(left_by, [(a.id(), None), (b.id(), Some(node.id))].into());
    assert_eq!(store.retire(&next, &[a.id(), b.id()]).await.unwrap(), 2);
}

async fn jobs_without_a_living_owner_are_counted(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [dead, gone] =
        [store.register("b", "site", TERM).await, store.register("c", "site", TERM).await];
    let [dead, gone] = [dead.unwrap(), gone.unwrap()];
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    for owner in [&node, &dead, &gone, &elsewhere] {
        let path = |feed| arrival_in(feed, owner.id.0.to_string());
        accept(&store, owner, &[path("churn"), path("other"), path("third")]).await;
    }
    let unowned = async |feeds: &[&str]| {
        let feeds: Vec<_> = feeds.iter().map(|feed| name(feed)).collect();
        let unowned = store.unowned(&node, &feeds).await.unwrap();
        (unowned.all, unowned.adoptable)
    };
    assert_eq!(unowned(&["churn"]).await, (0, 0));
    fence(&store, &dead).await;
    fence(&store, &elsewhere).await;
    assert_eq!(unowned(&["churn", "other"]).await, (3, 2));
    store.retire(&gone, &[]).await.unwrap();
    assert_eq!(unowned(&["churn", "other", "nobody"]).await, (6, 4));
    assert_eq!(unowned(&[]).await, (6, 0));
    assert_eq!(adopt(&store, &node, 1).await.len(), 1);
    assert_eq!(unowned(&["churn", "other"]).await, (5, 3));
}

async fn the_rest_of_a_call_is_free_for_others(database: &impl Database) {
    let (store, node) = begin(database).await;
    let known = job(&store, &node, "known").await;
    // In another order than their names.
    let paths = ["e", "known", "d", "c", "d", "b", "a"].map(arrival);
    let answers = store.accept(&node, &paths, 2, at(0), None).await.unwrap();
    let kinds = answers.iter().map(|answer| match answer {
        Accepted::New(_) => "ours",
        Accepted::Free(_) => "free",
        Accepted::Known(_) => "known",
        Accepted::Over => "over",
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["ours", "known", "ours", "free", "known", "free", "free"]);
    let ids = answers.iter().map(|answer| match answer {
        Accepted::New(job) | Accepted::Free(job) => job.id(),
        Accepted::Known(id) => *id,
        Accepted::Over => unreachable!("there is no fire"),
    });
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids[4], ids[2], "whoever comes second in one call finds the first one's job");
    let ours = [known.id(), ids[0], ids[2]].map(|id| (id, 1));
    assert_eq!(store.owned(&node).await.unwrap(), ours);
    let Accepted::Free(free) = &answers[3] else { unreachable!() };
    assert_eq!(load(&store, ids[3]).await, Some(((**free).clone(), None)));
    assert_eq!(store.events(ids[3]).await.unwrap(), [free.accepted_event()]);
    let other = store.register("b", "site", TERM).await.unwrap();
    assert_eq!(adopt(&store, &other, 2).await, [ids[3], ids[5]]);
    assert_eq!(adopt(&store, &node, 2).await, [ids[6]]);
    let all = store.accept(&node, &[arrival("z")], 0, at(0), None).await.unwrap();
    assert!(matches!(all[..], [Accepted::Free(_)]), "{all:?}");
}

async fn one_node_scans_a_feed_at_a_time(database: &impl Database) {
    let (store, a) = begin(database).await;
    let b = store.register("b", "site", TERM).await.unwrap();
    let elsewhere = store.register("x", "elsewhere", TERM).await.unwrap();
    let [one, two, three] = ["one", "two", "three"].map(name);
    assert_eq!(claim(&store, &a, &[&two, &one]).await, [two.clone(), one.clone()]);
    assert_eq!(claim(&store, &b, &[&one, &three, &two]).await, std::slice::from_ref(&three));
    for _ in 0..2 {
        assert_eq!(claim(&store, &a, &[&one, &two, &three]).await, [one.clone(), two.clone()]);
    }
    assert_eq!(claim(&store, &b, &[&two]).await, []);
    // One that it doesn't ask for any more is for others.
    assert_eq!(claim(&store, &a, &[&one]).await, std::slice::from_ref(&one));
    assert_eq!(claim(&store, &b, &[&one, &two]).await, std::slice::from_ref(&two));
    assert_eq!(claim(&store, &a, &[]).await, []);
    assert_eq!(claim(&store, &b, &[&one, &two]).await, [one.clone(), two.clone()]);
    assert_eq!(claim(&store, &elsewhere, &[&one]).await, [one]);
}

async fn scans_pass_on_when_a_node_is_fenced_or_retires(database: &impl Database) {
    let (store, me) = begin(database).await;
    let [one, two, three] = ["one", "two", "three"].map(name);
    let mut nodes = Vec::new();
    for feed in [&one, &two, &three] {
        let node = store.register("x", "site", TERM).await.unwrap();
        assert_eq!(claim(&store, &node, &[feed]).await, std::slice::from_ref(feed));
        nodes.push(node);
    }
    // With a job the fenced one is still known, without one it is not.
    job(&store, &nodes[0], "a").await;
    let all = [&one, &two, &three];
    assert_eq!(claim(&store, &me, &all).await, []);
    fence(&store, &nodes[0]).await;
    assert_eq!(claim(&store, &me, &all).await, std::slice::from_ref(&one));
    fence(&store, &nodes[1]).await;
    assert_eq!(claim(&store, &me, &all).await, [one.clone(), two.clone()]);
    store.retire(&nodes[2], &[]).await.unwrap();
    assert_eq!(claim(&store, &me, &all).await, [one.clone(), two.clone(), three.clone()]);
}

async fn a_feeds_folder_is_the_first_that_was_told<D: Database>(database: &D) {
    let store = database.open().await;
    let [first, second] = [1, u128::MAX].map(|n| FolderId::new(uuid::Uuid::from_u128(n)));
    let [one, two] = ["one", "two"].map(name);
    let in_force = async |store: &D::Store, site, feed, seen| {
        store.folder_in_force(site, feed, seen).await.unwrap()
    };
    assert_eq!(in_force(&store, "site", &one, None).await, None);
    assert_eq!(in_force(&store, "site", &one, Some(first)).await, Some(first));
    for seen in [None, Some(second), Some(first)] {
        assert_eq!(in_force(&store, "site", &one, seen).await, Some(first));
    }
    for (site, feed) in [("site", &two), ("elsewhere", &one)] {
        assert_eq!(in_force(&store, site, feed, None).await, None);
        assert_eq!(in_force(&store, site, feed, Some(second)).await, Some(second));
    }
    drop(store);
    let store = database.open().await;
    assert_eq!(in_force(&store, "site", &one, None).await, Some(first));
}

async fn of_two_nodes_that_tell_a_folder_at_once_one_is_heard(database: &impl Database) {
    let (store, feed) = (database.open().await, name("f"));
    for n in 0..20_u128 {
        let site = n.to_string();
        let ids = [1, 2].map(|half| FolderId::new(uuid::Uuid::from_u128(half << 64 | n)));
        let told = ids.map(|id| store.folder_in_force(&site, &feed, Some(id)));
        let told = futures::future::try_join_all(told).await.unwrap();
        assert_eq!(told[0], told[1]);
        assert!(ids.map(Some).contains(&told[0]));
    }
}

async fn claim(store: &impl Store, node: &Node, feeds: &[&Name]) -> Vec<Name> {
    let feeds: Vec<_> = feeds.iter().map(|feed| (*feed).clone()).collect();
    store.claim(node, &feeds).await.unwrap()
}
