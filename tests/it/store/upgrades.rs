//! Stores of other versions: those that an earlier one filled, and those that a later one has added to.

use std::fmt::Write as _;

use scoreline::fire::{FeedPause, FireKind, FireRow, FireState, Reason};
use scoreline::job::{Event, Sha256};
use scoreline::ports::{Firing, FolderId, Schedules as _};
use sqlx::{AssertSqlSafe, Connection as _, raw_sql};

use super::*;
use crate::upgrades::{
    Migration, migrations, postgres_as_of, postgres_columns, sqlite, sqlite_as_of, sqlite_columns,
};

/// What a test does as an operator with a database tool would.
pub(super) trait ByHand {
    /// Table and column names.
    async fn columns(&self) -> Vec<(String, String)>;
    async fn by_hand(&self, sql: &str);
}

impl Sqlite {
    pub(super) fn widened() -> Self {
        Self(tempfile::tempdir().unwrap(), true)
    }
}

impl Postgres {
    pub(super) fn widened() -> Self {
        Self(crate::postgres::Database::fresh(), true)
    }
}

/// Adds to a database what a later version may: a column to every table, under whatever names other tables have for
/// theirs, a table, and the note of its migration.
pub(super) async fn widen(database: &impl ByHand) {
    let columns = database.columns().await;
    if columns.iter().all(|(table, _)| table != "later") {
        database.by_hand(&widening(&columns)).await;
    }
}

/// Many names, but those alone that statements might mean another table's by.
fn widening(columns: &[(String, String)]) -> String {
    let tables: BTreeSet<_> = columns.iter().map(|(table, _)| table).collect();
    let names: BTreeSet<_> = columns.iter().map(|(_, column)| column.as_str()).collect();
    let mut sql = String::from("BEGIN; CREATE TABLE later (id bigint); ");
    for table in tables {
        for name in names.iter().copied().chain(["later"]) {
            if columns.iter().all(|(t, column)| t != table || column != name) {
                let _ = write!(sql, "ALTER TABLE {table} ADD COLUMN \"{name}\" text; ");
            }
        }
    }
    sql + "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
           VALUES (99, 'later', true, '', 0); COMMIT"
}

impl ByHand for Sqlite {
    async fn columns(&self) -> Vec<(String, String)> {
        sqlite_columns(&mut sqlite(self.0.path()).await).await
    }

    async fn by_hand(&self, sql: &str) {
        let mut database = sqlite(self.0.path()).await;
        raw_sql(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    }
}

impl ByHand for Postgres {
    async fn columns(&self) -> Vec<(String, String)> {
        postgres_columns(&mut self.0.connection().await).await
    }

    async fn by_hand(&self, sql: &str) {
        self.0.by_hand(sql).await;
    }
}

#[tokio::test]
async fn what_an_earlier_version_filled_is_there_after_the_upgrade_in_sqlite() {
    for version in 1..=migrations("sqlite").len() {
        let filled = Sqlite::fresh();
        let lot = fill(&filled).await;
        let earlier = Sqlite::fresh();
        sqlite_as_of(version, filled.0.path(), earlier.0.path()).await;
        let dir = earlier.0.path();
        let checked = SqliteStore::open(dir, Migrate::Check, SystemClock).await;
        let is_old = version < migrations("sqlite").len();
        assert_eq!(checked.is_err(), is_old, "version {version}");
        drop(checked);
        let ran = SqliteStore::migrate(dir).await.unwrap();
        assert_eq!(
            ran,
            migrations("sqlite")[version..].iter().map(Migration::title).collect::<Vec<_>>()
        );
        lot.is_in(&earlier.open().await, version).await;
    }
}

#[tokio::test]
async fn what_an_earlier_version_filled_is_there_after_the_upgrade_in_postgres() {
    for version in 1..=migrations("postgres").len() {
        let database = Postgres::fresh();
        let lot = fill(&database).await;
        postgres_as_of(version, &database.0).await;
        let url = database.0.url();
        let ran = PostgresStore::migrate(&url, SystemClock).await.unwrap();
        assert_eq!(
            ran,
            migrations("postgres")[version..].iter().map(Migration::title).collect::<Vec<_>>()
        );
        lot.is_in(&database.open().await, version).await;
    }
}

/// What was written: jobs on every way, with what else a store keeps of them.
struct Lot {
    node: Node,
    jobs: Vec<Job>,
    histories: Vec<Vec<Event>>,
    arrivals: Vec<Arrival>,
    scored: Job,
    fires: Vec<FireRow>,
    pause: FeedPause,
    folder: FolderId,
}

async fn fill(database: &impl Database) -> Lot {
    let (store, node) = begin(database).await;
    let churn = name("churn");
    let window = at(0)..at(60);
    let row = FireRow::due("site", &churn, FireKind::Scheduled, at(60), window, at(61));
    let fire = Firing { feed: &churn, row: &row, then: FireState::Ran };
    let mut arrivals = vec![arrival("fired")];
    store.accept(&node, &arrivals, 9, at(0), Some(fire)).await.unwrap();
    let late = FireRow::due("site", &churn, FireKind::Scheduled, at(120), at(60)..at(120), at(121));
    store.enter(&node, &churn, &[late.skipped(Reason::Late)]).await.unwrap();
    let pause = FeedPause {
        by: "ops".into(),
        why: "maintenance".into(),
        since: at(5),
        until: None,
        ended: false,
    };
    store.pause_feed("site", &churn, &pause).await.unwrap();
    let folder = FolderId::new(uuid::Uuid::from_u128(7));
    store.folder_in_force("site", &churn, Some(folder)).await.unwrap();
    for (way, outcomes) in ways() {
        arrivals.push(arrival(way));
        let new = job(&store, &node, way).await;
        walk(&store, &node, &new, outcomes).await;
    }
    arrivals.push(arrival("asked for a run"));
    let scored = job(&store, &node, "asked for a run").await;
    let scored = walk(&store, &node, &scored, [uploaded()]).await;
    let runs = store.admit(&node, &name("e"), &[ask(&scored)], 1, at(0)).await.unwrap().runs;
    assert_eq!(runs, [scored.id()]);
    let jobs = everything(&store).await;
    let mut histories = Vec::new();
    for job in &jobs {
        histories.push(store.events(job.id()).await.unwrap());
    }
    let fires = store.fires("site", &churn, None, 9).await.unwrap();
    assert_eq!(fires.len(), 2);
    Lot { node, jobs, histories, arrivals, scored, fires, pause, folder }
}

fn ask(job: &Job) -> Ask {
    let same = Same { digest: Sha256([7; 32]), since: at(-1000) };
    Ask { job: job.id(), same: Some(same), feed: None }
}

impl Lot {
    /// As far as that version could write it.
    async fn is_in(&self, store: &impl Store, version: usize) {
        let churn = name("churn");
        let expected = |job: &Job| {
            let mut record = job.record();
            if version < 5 {
                record.fire = None;
            }
            if version < 7 {
                record.service = None;
            }
            Job::restore(record).unwrap()
        };
        let expected: Vec<_> = self.jobs.iter().map(expected).collect();
        assert_eq!(everything(store).await, expected, "version {version}");
        for (job, history) in self.jobs.iter().zip(&self.histories) {
            assert_eq!(store.events(job.id()).await.unwrap(), *history);
        }
        let me = store.register("me", "site", TERM).await.unwrap();
        assert!(me.id > self.node.id, "an id is never given again");
        let known = store.accept(&me, &self.arrivals, 9, at(0), None).await.unwrap();
        assert!(known.iter().all(|answer| matches!(answer, Accepted::Known(_))), "{known:?}");
        let fires = store.fires("site", &churn, None, 9).await.unwrap();
        assert_eq!(fires, if version < 5 { Vec::new() } else { self.fires.clone() });
        let states = store.feeds("site").await.unwrap();
        let pause = states.into_iter().find_map(|state| state.pause);
        assert_eq!(pause, (version >= 5).then(|| self.pause.clone()));
        let folder = store.folder_in_force("site", &churn, None).await.unwrap();
        assert_eq!(folder, (version >= 3).then_some(self.folder));
        fence(store, &self.node).await;
        let live: BTreeSet<_> =
            self.jobs.iter().filter(|job| !job.is_done()).map(Job::id).collect();
        let adopted = adopt(store, &me, 100).await;
        assert_eq!(adopted.into_iter().collect::<BTreeSet<_>>(), live, "version {version}");
        let again = job(store, &me, "the same again").await;
        let again = walk(store, &me, &again, [uploaded()]).await;
        let admitted = store.admit(&me, &name("e"), &[ask(&again)], 9, at(0)).await.unwrap();
        let duplicates = [(again.id(), Earlier::UnderWay(self.scored.id()))];
        assert_eq!(admitted.duplicates, &duplicates[..usize::from(version >= 6)]);
    }
}
