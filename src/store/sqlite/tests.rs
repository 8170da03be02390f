use super::*;
use crate::clock::SystemClock;
use crate::feed::SourcePath;
use crate::job::tests::queued;

async fn open(dir: &Path) -> (SqliteStore<SystemClock>, Node) {
    let store = SqliteStore::open(dir, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", Duration::from_secs(15)).await.unwrap();
    (store, node)
}

fn arrivals(prefix: &str, count: usize) -> Vec<Arrival> {
    let sample = queued("a");
    let path = |n: usize| SourcePath::new(Path::new(&format!("{prefix}{n}"))).unwrap();
    let arrival = |n| Arrival {
        feed: sample.feed().clone(),
        path: path(n),
        file: sample.file(),
        deadline_at: sample.deadline_at(),
        once: false,
    };
    (0..count).map(arrival).collect()
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_writes_nothing_by_halves() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, node) = open(dir.path()).await;
    let now = queued("a").created_at();
    let before =
        store.accept(&node, &arrivals("before", 3), usize::MAX, now, None).await.unwrap().len();
    // The disk fills up: the file may not grow, whichever connection writes.
    let full = |store: &mut SqliteStore<_>, pages: &str| {
        let options = writable(dir.path()).pragma("max_page_count", pages.to_owned());
        store.writable = Some(options);
        *store.writer.get_mut() = None;
    };
    full(&mut store, "1");
    for _ in 0..3 {
        let error =
            store.accept(&node, &arrivals("during", 500), usize::MAX, now, None).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("accept arrivals") && text.contains("full"), "{text}");
        let all = JobQuery { limit: 1000, ..JobQuery::default() };
        assert_eq!(store.list(&all).await.unwrap().jobs.len(), before);
    }
    full(&mut store, "1000000");
    let after = store.accept(&node, &arrivals("during", 500), usize::MAX, now, None).await.unwrap();
    assert!(after.iter().all(|accepted| matches!(accepted, Accepted::New(_))));
}

#[tokio::test]
async fn a_write_whose_caller_goes_away_is_undone_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let (store, node) = open(dir.path()).await;
    let mut write = store.begin().await.ok().unwrap();
    query("DELETE FROM node").execute(write.on()).await.unwrap();
    drop(write);
    assert!(store.beat(&node).await.unwrap());
}

#[tokio::test]
async fn a_database_that_somebody_else_keeps_locked_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, node) = open(dir.path()).await;
    store.writable = Some(writable(dir.path()).busy_timeout(Duration::ZERO));
    *store.writer.get_mut() = None;
    let mut other = options(dir.path()).connect().await.unwrap();
    query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.beat(&node).await.unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    query("ROLLBACK").execute(&mut other).await.unwrap();
    assert!(store.beat(&node).await.unwrap());
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up() {
    #[derive(Clone)]
    struct Impatient;
    impl Clock for Impatient {
        fn now(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            Duration::ZERO
        }
        async fn sleep(&self, _: Duration) {}
    }
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path(), Migrate::Yes, Impatient).await.unwrap();
    let _held_up = store.writer.lock().await;
    let error = store.register("a", "site", Duration::from_secs(15)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("register the node"), "{error}");
}
