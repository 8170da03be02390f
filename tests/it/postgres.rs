//! A real PostgreSQL server: a private one for all tests of the process, a database for each test.

use std::collections::BTreeMap;
use std::path::Path;

use scoreline::clock::SystemClock;
use scoreline::config::Config;
use scoreline::ports::{Accepted, Store as _};
use scoreline::store::Migrate;
use secrecy::ExposeSecret as _;

use crate::rig::Rig;
use crate::samples::{TERM, arrival_in, at};

mod server;

pub(crate) use server::{Database, Server, Shutdown, as_server_user, programs};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_works_with_a_server_and_leaves_the_jobs_of_others_alone() {
    let database = Database::fresh();
    let rig = Rig::new().await;
    let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
    let here = rig.config().store;
    let mut there = here.clone();
    there.state_dir = rig.path("state of another host");
    // Two daemons that were killed, one in our state folder.
    let mut owners = Vec::new();
    for (settings, path) in [(&here, "ours"), (&there, "theirs")] {
        let store = settings.open(SystemClock).await.unwrap();
        let node = store.register("x", "default", TERM).await.unwrap();
        store.gone(&node).await.unwrap();
        let accepted = store.accept(&node, &[arrival_in("f", path)], 1, at(0), None).await.unwrap();
        let [Accepted::New(job)] = &accepted[..] else { panic!("{accepted:?}") };
        owners.push((job.id(), node.id));
    }
    let daemon = rig.start().await;
    rig.drop_file("good day.csv", "Col2\nThis is a good day\n");
    // The file, and the job that was taken over: it fails, for its source was never there.
    daemon.until_ended(2).await;
    assert_eq!(rig.files("out").keys().collect::<Vec<_>>(), ["good day.scores.csv"]);
    let store = daemon.world.clone();
    let owner_of = async |n: usize| {
        let loaded = scoreline::ports::World::store(&*store).load(&[owners[n].0]).await.unwrap();
        loaded[0].1
    };
    assert_ne!(owner_of(0).await, Some(owners[0].1), "ours was taken over");
    assert_eq!(owner_of(1).await, Some(owners[1].1), "theirs may be alive");
    daemon.stop().await;
    assert_eq!(owner_of(1).await, Some(owners[1].1));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_come_together_are_written_together() {
    const FILES: u64 = 200;
    let database = Database::fresh();
    let rig = Rig::new().await;
    let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
    let daemon = rig.start().await;
    // What only reads has no number.
    let written = async || -> i64 {
        let mut connection = database.connection().await;
        let sql = "SELECT txid_current()";
        let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
        number
    };
    rig.drop_file("first.csv", "Col2\nThis is a good day\n");
    daemon.until_ended(1).await;
    let before = written().await;
    for n in 0..FILES {
        rig.drop_file(&format!("{n}.csv"), &format!("Col2\nThis is good day {n}\n"));
    }
    daemon.until_ended(201).await;
    let commits = u64::try_from(written().await - before).unwrap();
    daemon.stop().await;
    // A job has eight steps that are written and two names that are reserved: one by one that were 2000.
    assert!(commits < 3 * FILES / 2, "{commits} commits for {FILES} jobs");
}

#[test]
fn a_config_names_a_server_without_showing_its_password() {
    let parse = |database: &str| {
        let env = BTreeMap::from([("DB".to_owned(), "postgres://u:s3cret@h/db".to_owned())]);
        Config::parse(&format!("[database]\n{database}"), Path::new("x.toml"), &env)
    };
    let config = parse("url = { env = 'DB' }\nmax_connections = 7\nmigrate = false").unwrap();
    let server = config.store.server.as_ref().unwrap();
    assert_eq!(server.url.expose_secret(), "postgres://u:s3cret@h/db");
    assert_eq!((server.max_connections, config.store.migrate), (7, Migrate::Check));
    let shown = format!("{config:?} {} {}", config.store, config.effective);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(parse("").unwrap().store.server.is_none());

    let wrong = parse("url = 'mysql://u:s3cret@h/db'\nmax_connections = 1").unwrap_err();
    let paths: Vec<_> = wrong.mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(paths, ["database.url", "database.max_connections"]);
    assert!(!wrong.to_string().contains("s3cret"), "{wrong}");
}
