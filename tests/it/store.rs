//! What every store promises, said once and asked of each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use scoreline::clock::SystemClock;
use scoreline::feed::Name;
use scoreline::job::{
    Arrival, Content, FileIdentity, Job, JobId, Outcome, Phase, RemoteId, Sha256, Want,
};
use scoreline::ports::{
    Accepted, Admitted, Ask, Clock, Committed, Counted, Earlier, FeedLimit, JobQuery, Node, NodeId,
    Overview, Reservation, Reserved, Same, Store, StoreError, Transition, Unowned, Wished,
};
use scoreline::store::{Migrate, ModelStore, PostgresStore, Settings, SqliteStore};

use crate::samples::{
    TERM, again, arrival, arrival_in, at, delivered, finished, name, permanent, settled, step,
    submitted, try_step, uploaded, ways,
};

/// All there are.
pub(crate) const MIGRATIONS: [&str; 11] = [
    "0001 jobs",
    "0002 nodes",
    "0003 folders",
    "0004 pauses",
    "0005 schedules",
    "0006 content",
    "0007 services",
    "0008 budgets",
    "0009 retention",
    "0010 sent",
    "0011 overview",
];

/// Asks the tests of each store.
macro_rules! every_store {
    ($($test:ident)*) => {
        mod memory {
            use super::{Database, Memory};
            $(#[tokio::test] async fn $test() { super::$test(&Memory::fresh()).await; })*
        }
        mod sqlite {
            use super::{Database, Sqlite};
            $(#[tokio::test] async fn $test() { super::$test(&Sqlite::fresh()).await; })*
        }
        mod postgres {
            use super::{Database, Postgres};
            $(#[tokio::test] async fn $test() { super::$test(&Postgres::fresh()).await; })*
        }
        // A node that is not updated yet, or had to go back, beside one of a later version.
        mod sqlite_of_a_later_version {
            use super::Sqlite;
            $(#[tokio::test] async fn $test() { super::$test(&Sqlite::widened()).await; })*
        }
        mod postgres_of_a_later_version {
            use super::Postgres;
            $(#[tokio::test] async fn $test() { super::$test(&Postgres::widened()).await; })*
        }
    };
}

mod against_the_model;
mod budgets;
mod costs;
mod duplicates;
pub(crate) mod fires;
mod long_history;
mod nodes;
mod overview;
mod postgres_alone;
mod postgres_nodes;
mod retention;
mod runs;
mod sent;
mod sqlite_alone;
mod upgrades;
mod wishes;

/// A database that can be opened again as another process would, once the one before it is gone.
trait Database {
    type Store: Store;

    fn fresh() -> Self;
    async fn open(&self) -> Self::Store;
}

struct Memory(ModelStore);

impl Database for Memory {
    type Store = ModelStore;

    fn fresh() -> Self {
        Self(ModelStore::with_clock(|| SystemClock.now()))
    }

    async fn open(&self) -> ModelStore {
        self.0.clone()
    }
}

/// With `true` a later version has added to it.
struct Sqlite(tempfile::TempDir, bool);

impl Database for Sqlite {
    type Store = SqliteStore<SystemClock>;

    fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap(), false)
    }

    async fn open(&self) -> Self::Store {
        let store = open(self.0.path()).await.unwrap();
        if !self.1 {
            return store;
        }
        upgrades::widen(self).await;
        store
    }
}

/// With `true` a later version has added to it.
struct Postgres(crate::postgres::Database, bool);

impl Database for Postgres {
    type Store = PostgresStore<SystemClock>;

    fn fresh() -> Self {
        Self(crate::postgres::Database::fresh(), false)
    }

    async fn open(&self) -> Self::Store {
        let store = connect(&self.0).await;
        if self.1 {
            upgrades::widen(self).await;
            // What it has prepared is as old as it is.
            return connect(&self.0).await;
        }
        store
    }
}

every_store! {
    an_arrival_becomes_one_job_however_often_it_is_accepted
    an_arrival_is_known_after_its_job_is_done
    a_file_that_differs_in_anything_is_another_arrival
    the_same_file_in_another_site_is_another_arrival
    jobs_of_one_call_have_rising_ids_and_the_answers_their_order
    ids_rise_although_the_clock_goes_back
    every_state_survives
    those_count_as_waiting_that_are_queued_or_uploaded_and_not_held
    every_write_leaves_its_event_in_order
    a_write_on_an_old_revision_changes_nothing
    a_write_by_another_node_changes_nothing
    a_write_that_is_repeated_after_a_lost_answer_is_done
    a_repeated_write_is_stale_once_the_job_went_on
    a_different_write_of_the_same_revision_is_no_repetition
    one_stale_write_does_not_keep_others_from_being_done
    writes_of_one_job_in_one_call_follow_each_other
    a_name_belongs_to_one_slot
    a_slot_keeps_its_first_name
    reservations_end_with_their_job
    who_lost_a_job_gets_no_name_for_it
    pages_together_are_the_whole_list
    lists_are_filtered
    what_does_not_exist_is_left_out
    names_that_are_no_text_survive
    a_large_batch_is_written_whole
    nothing_to_do_is_done
    what_was_written_is_there_for_the_next_process
}

/// What is wanted of the node's jobs, whatever revision they are at.
async fn all_wanted(store: &impl Store, node: &Node) -> Vec<(JobId, Want)> {
    let wishes = store.wishes(node).await.unwrap();
    wishes.into_iter().map(|(id, _, want)| (id, want)).collect()
}

async fn an_arrival_becomes_one_job_however_often_it_is_accepted(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [first, again] = accept(&store, &node, &[arrival("a"), arrival("a")]).await;
    let Accepted::New(job) = first else { panic!("{first:?}") };
    assert_eq!(again, Accepted::Known(job.id()));
    let [later] = accept(&store, &node, &[arrival("a")]).await;
    assert_eq!(later, Accepted::Known(job.id()));
    let other = store.register("b", "site", TERM).await.unwrap();
    let [elsewhere] = accept(&store, &other, &[arrival("a")]).await;
    assert_eq!(elsewhere, Accepted::Known(job.id()));
    assert_eq!(*job, Job::accepted(job.id(), &arrival("a"), at(0)));
    assert_eq!(everything(&store).await, [*job]);
}

async fn an_arrival_is_known_after_its_job_is_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    walk(&store, &node, &job, [permanent(), settled()]).await;
    assert_eq!(accept(&store, &node, &[arrival("a")]).await, [Accepted::Known(job.id())]);
}

async fn a_file_that_differs_in_anything_is_another_arrival(database: &impl Database) {
    let (store, node) = begin(database).await;
    let with = |file: FileIdentity| Arrival { file, ..arrival("a") };
    let file = arrival("a").file;
    let arrivals = [
        with(file),
        with(FileIdentity { inode: u64::MAX, ..file }),
        with(FileIdentity { size_bytes: 4, ..file }),
        with(FileIdentity { mtime_ns: -6, ..file }),
        arrival("b"),
        arrival_in("other", "a"),
    ];
    let answers = accept(&store, &node, &arrivals).await;
    assert!(answers.iter().all(|answer| matches!(answer, Accepted::New(_))), "{answers:?}");
}

async fn the_same_file_in_another_site_is_another_arrival(database: &impl Database) {
    let (store, node) = begin(database).await;
    let first = job(&store, &node, "a").await;
    let elsewhere = store.register("b", "elsewhere", TERM).await.unwrap();
    assert_ne!(job(&store, &elsewhere, "a").await.id(), first.id());
}

async fn jobs_of_one_call_have_rising_ids_and_the_answers_their_order(database: &impl Database) {
    let (store, node) = begin(database).await;
    let known = job(&store, &node, "5").await;
    let arrivals: Vec<_> = (0..10).map(|n| arrival(n.to_string())).collect();
    let answers = store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    assert_eq!(answers[5], Accepted::Known(known.id()));
    let mut last = known.id();
    for (arrival, answer) in arrivals.iter().zip(&answers) {
        let Accepted::New(job) = answer else { continue };
        assert_eq!(job.path(), &arrival.path);
        assert!(job.id() > last, "{:?} after {last:?}", job.id());
        last = job.id();
    }
}

async fn ids_rise_although_the_clock_goes_back(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut last = None;
    for (n, seconds) in [0, 10, -1000, 10, 11].into_iter().enumerate() {
        let arrivals = [arrival(n.to_string())];
        let answers = store.accept(&node, &arrivals, usize::MAX, at(seconds), None).await.unwrap();
        let [Accepted::New(job)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(job.created_at(), at(seconds));
        assert!(Some(job.id()) > last);
        last = Some(job.id());
    }
}

async fn every_state_survives(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut seen = BTreeSet::new();
    for (way, outcomes) in ways() {
        let mut job = job(&store, &node, way).await;
        assert_eq!(load(&store, job.id()).await, Some((job.clone(), Some(node.id))), "{way}");
        for outcome in outcomes {
            job = walk(&store, &node, &job, [outcome]).await;
            let owner = (!job.is_done()).then_some(node.id);
            assert_eq!(load(&store, job.id()).await, Some((job.clone(), owner)), "{way}");
        }
        seen.insert(job.phase());
        let page = store.list(&JobQuery { limit: 1, ..JobQuery::default() }).await.unwrap();
        assert_eq!(page.jobs, [job], "{way}");
    }
    assert_eq!(seen, BTreeSet::from(Phase::ALL));
}

async fn those_count_as_waiting_that_are_queued_or_uploaded_and_not_held(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let elsewhere = store.register("c", "elsewhere", TERM).await.unwrap();
    let waiting = async |node: &Node| store.waiting(node, &name("churn")).await.unwrap();
    assert_eq!(waiting(&node).await, 0);
    let mut expected = 0;
    for (way, outcomes) in ways() {
        let new = job(&store, &node, way).await;
        let job = walk(&store, &node, &new, outcomes).await;
        let waits = matches!(job.phase(), Phase::Queued | Phase::Uploaded) && job.held().is_none();
        expected += u64::from(waits);
        assert_eq!(waiting(&node).await, expected, "{way}");
    }
    assert!(expected > 1);
    job(&store, &elsewhere, "in another site").await;
    accept(&store, &node, &[arrival_in("other", "of another feed")]).await;
    assert_eq!((waiting(&other).await, waiting(&elsewhere).await), (expected, 1));
    store.retire(&node, &[]).await.unwrap();
    assert_eq!(waiting(&other).await, expected, "whoever has them");
}

async fn every_write_leaves_its_event_in_order(database: &impl Database) {
    let (store, node) = begin(database).await;
    for (way, outcomes) in ways() {
        let mut job = job(&store, &node, way).await;
        let mut events = vec![job.accepted_event()];
        for outcome in outcomes {
            let transition = step(&job, outcome);
            events.push(transition.event.clone());
            job = transition.job.clone();
            let committed = store.commit(&node, &[transition]).await.unwrap();
            assert_eq!(committed, [Committed::Done], "{way}");
        }
        assert_eq!(store.events(job.id()).await.unwrap(), events, "{way}");
    }
}

async fn a_write_on_an_old_revision_changes_nothing(database: &impl Database) {
    let (store, node) = begin(database).await;
    let old = job(&store, &node, "a").await;
    let new = walk(&store, &node, &old, [uploaded()]).await;
    let events = store.events(old.id()).await.unwrap();
    let answer = store.commit(&node, &[step(&old, permanent())]).await.unwrap();
    assert_eq!(answer, [Committed::Stale]);
    let ahead = step(&step(&new, submitted()).job, Outcome::Started);
    assert_eq!(store.commit(&node, &[ahead]).await.unwrap(), [Committed::Stale]);
    assert_eq!(load(&store, new.id()).await, Some((new, Some(node.id))));
    assert_eq!(store.events(old.id()).await.unwrap(), events);
}

async fn a_write_by_another_node_changes_nothing(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let other = store.register("b", "site", TERM).await.unwrap();
    let transition = step(&job, uploaded());
    assert_eq!(store.commit(&other, &[transition]).await.unwrap(), [Committed::Stale]);
    assert_eq!(load(&store, job.id()).await, Some((job.clone(), Some(node.id))));
    assert_eq!(store.events(job.id()).await.unwrap(), [job.accepted_event()]);
}

async fn a_write_that_is_repeated_after_a_lost_answer_is_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    for (way, outcomes) in ways() {
        let mut job = job(&store, &node, way).await;
        for outcome in outcomes {
            let transition = step(&job, outcome);
            job = transition.job.clone();
            for _ in 0..2 {
                let again = std::slice::from_ref(&transition);
                assert_eq!(store.commit(&node, again).await.unwrap(), [Committed::Done], "{way}");
            }
        }
        let owner = (!job.is_done()).then_some(node.id);
        let revision = job.revision();
        assert_eq!(load(&store, job.id()).await, Some((job.clone(), owner)), "{way}");
        let events = store.events(job.id()).await.unwrap().len() as u64;
        assert_eq!(events, revision, "{way}: one event a revision");
    }
}

async fn a_repeated_write_is_stale_once_the_job_went_on(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let first = step(&job, uploaded());
    let second = step(&first.job, submitted());
    store.commit(&node, std::slice::from_ref(&first)).await.unwrap();
    store.commit(&node, &[second]).await.unwrap();
    assert_eq!(store.commit(&node, &[first]).await.unwrap(), [Committed::Stale]);
}

async fn a_different_write_of_the_same_revision_is_no_repetition(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let written = walk(&store, &node, &job, [uploaded()]).await;
    let content = Content { size_bytes: 4, sha256: Sha256([4; 32]) };
    let other = Outcome::Uploaded { blob: "churn/1/in.csv".into(), content };
    for outcome in [permanent(), Outcome::Wished(Want::Cancel), other] {
        let answer = store.commit(&node, &[step(&job, outcome)]).await.unwrap();
        assert_eq!(answer, [Committed::Stale]);
    }
    assert_eq!(load(&store, job.id()).await, Some((written, Some(node.id))));
}

async fn one_stale_write_does_not_keep_others_from_being_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b, c] = jobs(&store, &node, ["a", "b", "c"]).await;
    let moved = walk(&store, &node, &b, [uploaded()]).await;
    let batch = [step(&a, uploaded()), step(&b, permanent()), step(&c, permanent())];
    let answers = store.commit(&node, &batch).await.unwrap();
    assert_eq!(answers, [Committed::Done, Committed::Stale, Committed::Done]);
    let phases: Vec<_> = everything(&store).await.iter().map(Job::phase).collect();
    assert_eq!(phases, [Phase::Failed, Phase::Uploaded, Phase::Uploaded]);
    assert_eq!(load(&store, b.id()).await, Some((moved, Some(node.id))));
}

async fn one_refused_write_does_not_keep_others_from_being_done(
    store: &impl Store,
    by_hand: impl AsyncFn(&str),
) {
    let node = store.register("a", "site", TERM).await.unwrap();
    let [earlier, a, b, c, d] = jobs(store, &node, ["0", "a", "b", "c", "d"]).await;
    walk(store, &node, &earlier, [permanent(), settled()]).await;
    let c = walk(store, &node, &c, [permanent()]).await;
    // The place in the history that the job will want is taken.
    let (taken, wanted) = (earlier.id(), c.id());
    by_hand(&format!("UPDATE job_history SET id = '{wanted}' WHERE id = '{taken}'")).await;

    let done = step(&c, settled());
    let first = step(&d, uploaded());
    let second = step(&first.job, submitted());
    for batch in [
        vec![step(&a, uploaded()), done.clone(), step(&b, permanent())],
        // Once more, as after a lost answer, in rounds.
        vec![step(&a, uploaded()), first, done, step(&b, permanent()), second.clone()],
    ] {
        let answers = store.commit(&node, &batch).await.unwrap();
        for (transition, answer) in batch.iter().zip(&answers) {
            match answer {
                Committed::Refused(why) if transition.job.id() == c.id() => {
                    assert!(why.contains("job_history"), "{why}");
                }
                Committed::Done if transition.job.id() != c.id() => {}
                other => panic!("{other:?} for {transition:?}"),
            }
        }
    }
    let owned: BTreeMap<_, _> = store.owned(&node).await.unwrap().into_iter().collect();
    let revisions = [(a.id(), 2), (b.id(), 2), (c.id(), c.revision()), (d.id(), 3)];
    assert_eq!(owned, BTreeMap::from(revisions));
    assert_eq!(store.events(c.id()).await.unwrap().len(), 2, "nothing of it is left behind");
    assert_eq!(load(store, d.id()).await.unwrap().0, second.job);
}

async fn an_event_that_is_there_already_keeps_no_write_from_being_done(
    store: &impl Store,
    by_hand: impl AsyncFn(&str),
) {
    let node = store.register("a", "site", TERM).await.unwrap();
    let [a, b] = jobs(store, &node, ["a", "b"]).await;
    by_hand(&format!(
        "INSERT INTO job_event SELECT job_id, 2, at, node, 1, 'queued', 'queued', 'by hand', NULL FROM job_event \
         WHERE job_id = '{}'",
        a.id()
    ))
    .await;
    let batch = [step(&a, uploaded()), step(&b, uploaded())];
    let answers = store.commit(&node, &batch).await.unwrap();
    assert_eq!(answers, [const { Committed::Done }; 2]);
    for transition in batch {
        assert_eq!(load(store, transition.job.id()).await.unwrap().0, transition.job);
    }
    assert_eq!(store.events(a.id()).await.unwrap()[1].outcome, "by hand");
}

async fn writes_of_one_job_in_one_call_follow_each_other(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let first = step(&a, permanent());
    let last = step(&first.job, settled());
    let batch =
        [first.clone(), step(&a, uploaded()), step(&b, uploaded()), last.clone(), first, last];
    let answers = store.commit(&node, &batch).await.unwrap();
    let done = answers.iter().map(|answer| *answer == Committed::Done);
    assert_eq!(done.collect::<Vec<_>>(), [true, false, true, true, false, true]);
    assert_eq!(load(&store, a.id()).await, Some((batch[3].job.clone(), None)));
    assert_eq!(load(&store, b.id()).await, Some((batch[2].job.clone(), Some(node.id))));
    assert_eq!(store.events(a.id()).await.unwrap().len(), 3);
}

async fn a_name_belongs_to_one_slot(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let wishes = [
        wish(&a, "out1", "/out/x"),
        wish(&b, "out1", "/out/x"),
        wish(&a, "out2", "/out/x"),
        wish(&b, "out1", "/out/x-1"),
        wish(&a, "out1", "/out/x"),
    ];
    let answers = store.reserve(&node, &wishes).await.unwrap();
    let [x, x1] = ["/out/x", "/out/x-1"].map(|path| Reserved::Yours(path.into()));
    assert_eq!(answers, [x.clone(), Reserved::Taken, Reserved::Taken, x1.clone(), x.clone()]);
    let again = store.reserve(&node, &wishes).await.unwrap();
    assert_eq!(again, [x.clone(), x1.clone(), Reserved::Taken, x1, x]);
}

async fn a_slot_keeps_its_first_name(database: &impl Database) {
    let (store, node) = begin(database).await;
    let job = job(&store, &node, "a").await;
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"/out/caf\xe9"));
    let first = Reservation { path: odd.to_owned(), ..wish(&job, "out", "") };
    let yours = [Reserved::Yours(odd.to_owned())];
    assert_eq!(store.reserve(&node, &[first]).await.unwrap(), yours);
    assert_eq!(store.reserve(&node, &[wish(&job, "out", "/out/other")]).await.unwrap(), yours);
}

async fn reservations_end_with_their_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    store.reserve(&node, &[wish(&a, "1", "/out/x"), wish(&a, "2", "/out/y")]).await.unwrap();
    let failed = walk(&store, &node, &a, [permanent()]).await;
    let wishes = [wish(&b, "1", "/out/x"), wish(&b, "2", "/out/y")];
    assert_eq!(store.reserve(&node, &wishes).await.unwrap(), [Reserved::Taken, Reserved::Taken]);
    walk(&store, &node, &failed, [settled()]).await;
    let yours = ["/out/x", "/out/y"].map(|path| Reserved::Yours(path.into()));
    assert_eq!(store.reserve(&node, &wishes).await.unwrap(), yours);
}

async fn who_lost_a_job_gets_no_name_for_it(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [done, moved, other] = jobs(&store, &node, ["a", "b", "c"]).await;
    let lost = [Reserved::Lost];
    // Done.
    walk(&store, &node, &done, [permanent(), settled()]).await;
    assert_eq!(store.reserve(&node, &[wish(&done, "1", "/out/x")]).await.unwrap(), lost);
    // Another node's by now, even if the name was reserved before.
    let yours = [Reserved::Yours("/out/y".into())];
    assert_eq!(store.reserve(&node, &[wish(&moved, "1", "/out/y")]).await.unwrap(), yours);
    let heir = store.register("heir", &node.site, TERM).await.unwrap();
    fence(&store, &node).await;
    adopt(&store, &heir, 10).await;
    assert_eq!(store.reserve(&node, &[wish(&moved, "1", "/out/y")]).await.unwrap(), lost);
    assert_eq!(store.reserve(&heir, &[wish(&moved, "1", "/out/z")]).await.unwrap(), yours);
    // Nothing was kept of what was refused.
    let x = [Reserved::Yours("/out/x".into())];
    assert_eq!(store.reserve(&heir, &[wish(&other, "1", "/out/x")]).await.unwrap(), x);
}

/// Jobs at the ends of all ways, of two feeds, with names of all kinds, accepted a second apart.
async fn a_mixed_lot<S: Store>(store: &S, node: &Node) -> Vec<Job> {
    let mut lot = Vec::new();
    for (n, (way, outcomes)) in (0..).zip(ways()) {
        let feed = if n % 3 == 0 { "other" } else { "churn" };
        let path = ["dir_%/A_b%", "50%/Ünit", "x_/ünit.a_B", "plain"][n % 4];
        let arrival = arrival_in(feed, format!("{path}{way}"));
        let now = at(i64::try_from(n).unwrap());
        let answers = store.accept(node, &[arrival], usize::MAX, now, None).await.unwrap();
        let [Accepted::New(job)] = &answers[..] else { panic!("{answers:?}") };
        lot.push(walk(store, node, job, outcomes).await);
    }
    lot.reverse();
    lot
}

async fn pages_together_are_the_whole_list(database: &impl Database) {
    let (store, node) = begin(database).await;
    let lot = a_mixed_lot(&store, &node).await;
    for limit in 1..=lot.len() + 1 {
        let mut query = JobQuery { limit, ..JobQuery::default() };
        let mut jobs = Vec::new();
        loop {
            let page = store.list(&query).await.unwrap();
            assert!(page.jobs.len() <= limit);
            jobs.extend(page.jobs);
            let Some(next) = page.next else { break };
            assert_eq!(Some(next), jobs.last().map(Job::id));
            query.before = Some(next);
        }
        assert_eq!(jobs, lot, "in pages of {limit}");
    }
    let empty = store.list(&JobQuery::default()).await.unwrap();
    assert_eq!((empty.jobs, empty.next), (vec![], None));
}

async fn lists_are_filtered(database: &impl Database) {
    let (store, node) = begin(database).await;
    let lot = a_mixed_lot(&store, &node).await;
    let mut queries = vec![];
    for feed in [None, Some(name("other")), Some(name("nobody"))] {
        for phase in [None, Some(Phase::Queued), Some(Phase::Failed), Some(Phase::Running)] {
            for held in [None, Some(true), Some(false)] {
                let phases = phase.into_iter().collect();
                queries.push(JobQuery { feed: feed.clone(), phases, held, ..JobQuery::default() });
            }
        }
    }
    for text in ["", "a_b", "A_B", "b%", "%", "_", "\\", "nit", "Ü", "ü", "dir", "x%", "\0", "'"]
    {
        queries.push(JobQuery { name: Some(text.into()), ..JobQuery::default() });
    }
    for since in [-5, 0, 7, 23, 24] {
        queries.push(JobQuery { since: Some(at(since)), ..JobQuery::default() });
    }
    for until in [-5, 0, 7, 23, 24] {
        let until = Some(at(until));
        queries.push(JobQuery { until, ..JobQuery::default() });
        queries.push(JobQuery { since: Some(at(3)), until, ..JobQuery::default() });
    }
    for phases in [
        vec![Phase::Failed, Phase::Skipped],
        vec![Phase::Failed, Phase::Queued, Phase::Failed],
        vec![Phase::Succeeded, Phase::Failed, Phase::Running],
        vec![Phase::Queued, Phase::Uploaded],
    ] {
        for feed in [None, Some(name("other"))] {
            queries.push(JobQuery { feed, phases: phases.clone(), ..JobQuery::default() });
        }
        queries.push(JobQuery { phases, name: Some("a".into()), ..JobQuery::default() });
    }
    let half = DateTime::from_timestamp_micros(at(7).timestamp_micros() + 1);
    queries.push(JobQuery { since: half, name: Some("a".into()), ..JobQuery::default() });
    let mut lengths = BTreeSet::new();
    for mut query in queries {
        query.limit = lot.len();
        let fits = |job: &&Job| {
            let file = job.path().file_name().to_str().unwrap().to_ascii_lowercase();
            query.feed.as_ref().is_none_or(|feed| job.feed() == feed)
                && (query.phases.is_empty() || query.phases.contains(&job.phase()))
                && query.held.is_none_or(|held| job.held().is_some() == held)
                && query.since.is_none_or(|since| job.created_at() >= since)
                && query.until.is_none_or(|until| job.created_at() < until)
                && query.name.as_ref().is_none_or(|n| file.contains(&n.to_ascii_lowercase()))
        };
        let expected: Vec<Job> = lot.iter().filter(fits).cloned().collect();
        lengths.insert(expected.len());
        let page = store.list(&query).await.unwrap();
        let count = expected.len() as u64;
        assert_eq!((page.jobs, page.next), (expected, None), "{query:?}");
        let counted = store.count(&query).await.unwrap();
        assert_eq!(counted, Counted { count, more: false }, "{query:?}");
    }
    assert!(lengths.len() > 5, "the filters tell jobs apart: {lengths:?}");
}

async fn what_does_not_exist_is_left_out(database: &impl Database) {
    let (store, node) = begin(database).await;
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let nobody = JobId::parse("01900000-0000-7000-8000-00000000ffff").unwrap();
    let found = store.load(&[b.id(), nobody, a.id()]).await.unwrap();
    assert_eq!(found, [(b, Some(node.id)), (a.clone(), Some(node.id))]);
    assert_eq!(store.events(nobody).await.unwrap(), []);
    let ghost =
        Transition { job: Job::accepted(nobody, &arrival("g"), at(0)), ..step(&a, uploaded()) };
    assert_eq!(store.commit(&node, &[ghost]).await.unwrap(), [Committed::Stale]);
}

async fn names_that_are_no_text_survive(database: &impl Database) {
    let (store, node) = begin(database).await;
    let paths: [&[u8]; 4] =
        [b"caf\xe9/\xff\n'\".csv", b"caf\xe8/\xff\n'\".csv", b"\\", "ü".as_bytes()];
    let file = FileIdentity { inode: u64::MAX, size_bytes: u64::MAX, mtime_ns: i64::MIN };
    let arrivals = paths.map(|path| Arrival { file, ..arrival(path) });
    let made = accept(&store, &node, &arrivals).await.map(id_of);
    for (id, arrival) in made.into_iter().zip(&arrivals) {
        let job = load(&store, id).await.unwrap().0;
        assert_eq!((job.path(), job.file()), (&arrival.path, file));
    }
    assert_eq!(accept(&store, &node, &arrivals).await, made.map(Accepted::Known));
}

async fn a_large_batch_is_written_whole(database: &impl Database) {
    const ROWS: usize = 10_000;
    let (store, node) = begin(database).await;
    let arrivals: Vec<_> = (0..ROWS).map(|n| arrival(n.to_string())).collect();
    let jobs = store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    let transitions: Vec<_> = jobs
        .iter()
        .map(|accepted| match accepted {
            Accepted::New(job) => step(job, uploaded()),
            known @ (Accepted::Free(_) | Accepted::Known(_) | Accepted::Over) => {
                panic!("{known:?} is ours and new")
            }
        })
        .collect();
    let committed = store.commit(&node, &transitions).await.unwrap();
    assert_eq!(committed, vec![Committed::Done; ROWS]);
    let uploaded = JobQuery { phases: vec![Phase::Uploaded], limit: ROWS, ..JobQuery::default() };
    let page = store.list(&uploaded).await.unwrap();
    assert!(page.jobs.iter().rev().eq(transitions.iter().map(|transition| &transition.job)));
    assert_eq!((page.jobs.len(), page.next), (ROWS, None));
}

async fn nothing_to_do_is_done(database: &impl Database) {
    let (store, node) = begin(database).await;
    store.ping().await.unwrap();
    assert_eq!(store.accept(&node, &[], usize::MAX, at(0), None).await.unwrap(), []);
    assert_eq!(store.commit(&node, &[]).await.unwrap(), []);
    assert_eq!(store.reserve(&node, &[]).await.unwrap(), []);
    assert_eq!(store.load(&[]).await.unwrap(), []);
    assert_eq!(everything(&store).await, []);
}

async fn what_was_written_is_there_for_the_next_process(database: &impl Database) {
    let (lot, node) = {
        let store = database.open().await;
        let node = store.register("a", "site", TERM).await.unwrap();
        (a_mixed_lot(&store, &node).await, node)
    };
    let store = database.open().await;
    assert_eq!(everything(&store).await, lot);
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(others(&store, &me).await, [(node.id, 0)]);
    fence(&store, &node).await;
    let feeds = [name("churn"), name("other")];
    let adopted = store.adopt(&me, &feeds, 100).await.unwrap().jobs.len();
    assert_eq!(adopted, lot.iter().filter(|job| !job.is_done()).count());
}

async fn begin<D: Database>(database: &D) -> (D::Store, Node) {
    let store = database.open().await;
    let node = store.register("a", "site", TERM).await.unwrap();
    (store, node)
}

/// The other nodes with their beats.
async fn others(store: &impl Store, node: &Node) -> Vec<(NodeId, u64)> {
    let others = store.others(node).await.unwrap();
    others.into_iter().map(|peer| (peer.id, peer.beats)).collect()
}

async fn open(dir: &Path) -> Result<SqliteStore<SystemClock>, StoreError> {
    SqliteStore::open(dir, Migrate::Yes, SystemClock).await
}

async fn connect(database: &crate::postgres::Database) -> PostgresStore<SystemClock> {
    PostgresStore::connect(database.url(), 5, Migrate::Yes, SystemClock).await.unwrap()
}

async fn accept<const N: usize>(
    store: &impl Store,
    node: &Node,
    arrivals: &[Arrival; N],
) -> [Accepted; N] {
    store.accept(node, arrivals, usize::MAX, at(0), None).await.unwrap().try_into().unwrap()
}

async fn jobs<const N: usize>(store: &impl Store, node: &Node, paths: [&str; N]) -> [Job; N] {
    accept(store, node, &paths.map(arrival)).await.map(|accepted| match accepted {
        Accepted::New(job) => *job,
        known @ (Accepted::Free(_) | Accepted::Known(_) | Accepted::Over) => {
            panic!("{known:?} is ours and new")
        }
    })
}

async fn job(store: &impl Store, node: &Node, path: &str) -> Job {
    let [job] = jobs(store, node, [path]).await;
    job
}

async fn walk(
    store: &impl Store,
    node: &Node,
    job: &Job,
    outcomes: impl IntoIterator<Item = Outcome>,
) -> Job {
    let mut job = job.clone();
    for outcome in outcomes {
        let transition = step(&job, outcome);
        job = transition.job.clone();
        assert_eq!(store.commit(node, &[transition]).await.unwrap(), [Committed::Done]);
    }
    job
}

/// Adopts of the feed "churn".
async fn adopt(store: &impl Store, node: &Node, limit: usize) -> Vec<JobId> {
    let adopted = store.adopt(node, &[name("churn")], limit).await.unwrap();
    assert!(adopted.corrupt.is_empty(), "{:?}", adopted.corrupt);
    adopted.jobs.iter().map(|(job, _)| job.id()).collect()
}

/// Fences a node off, whatever its beats say.
async fn fence(store: &impl Store, node: &Node) {
    assert!(store.fence(node.id, None).await.unwrap());
}

async fn load(store: &impl Store, id: JobId) -> Option<(Job, Option<NodeId>)> {
    store.load(&[id]).await.unwrap().pop()
}

/// All jobs, newest first.
async fn everything(store: &impl Store) -> Vec<Job> {
    store.list(&JobQuery { limit: 1000, ..JobQuery::default() }).await.unwrap().jobs
}

fn id_of(accepted: Accepted) -> JobId {
    match accepted {
        Accepted::New(job) | Accepted::Free(job) => job.id(),
        known @ (Accepted::Known(_) | Accepted::Over) => panic!("{known:?} is new"),
    }
}

fn wish(job: &Job, slot: &str, path: &str) -> Reservation {
    Reservation { job: job.id(), slot: slot.into(), path: PathBuf::from(path) }
}

fn id(n: u128) -> JobId {
    JobId::new(uuid::Uuid::from_u128(n))
}
