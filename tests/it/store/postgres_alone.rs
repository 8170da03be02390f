//! What is Postgres' own: its server, its sessions, its schema, its plans.

use std::time::Duration;

use scoreline::fire::{FeedPause, FireKind, FireRow, FireState, Reason};
use scoreline::job::Event;
use scoreline::ports::{Clock, Firing, Schedules};
use scoreline::store::{Server as ServerSettings, Settings};
use secrecy::ExposeSecret as _;
use sqlx::{Row as _, query_scalar};

use super::*;
use crate::postgres::{Database, Server};
use crate::rig::eventually;

#[tokio::test]
async fn a_fresh_database_is_migrated_once_however_many_nodes_begin() {
    let database = Database::fresh();
    let url = database.url();
    let begin = || PostgresStore::migrate(&url, SystemClock);
    let ran = tokio::join!(begin(), begin(), begin(), begin(), begin());
    let ran = [ran.0, ran.1, ran.2, ran.3, ran.4].map(Result::unwrap);
    assert_eq!(ran.concat(), MIGRATIONS);
    let (a, b) = tokio::join!(connect(&database), connect(&database));
    let (a, b) = tokio::join!(a.register("a", "site", TERM), b.register("b", "site", TERM));
    assert_ne!(a.unwrap().id, b.unwrap().id);
}

#[tokio::test]
async fn a_schema_that_is_missing_is_refused_when_asked_to_check() {
    let database = Database::fresh();
    let refused = PostgresStore::connect(database.url(), 1, Migrate::Check, SystemClock).await;
    assert!(unusable(refused).contains("scoreline migrate"));
    let url = database.url();
    let check = |migrate| PostgresStore::check(&url, migrate, SystemClock);
    assert!(unusable(check(Migrate::Check).await).contains("scoreline migrate"));
    check(Migrate::Yes).await.unwrap();
    PostgresStore::migrate(&database.url(), SystemClock).await.unwrap();
    check(Migrate::Check).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_a_later_version_added_to_is_worked_with_and_one_that_it_broke_is_refused() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let later = async |version: u32, name: &str| {
        let sql = format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES ({version}, '{name}', true, '', 0)"
        );
        database.by_hand(&sql).await;
    };
    later(98, "later").await;
    store.ping().await.unwrap();
    for migrate in [Migrate::Yes, Migrate::Check] {
        PostgresStore::connect(database.url(), 1, migrate, SystemClock).await.unwrap();
        PostgresStore::check(&database.url(), migrate, SystemClock).await.unwrap();
    }
    later(99, "breaking_jobs").await;
    let refused =
        |text: String| assert!(text.contains("has 0099 breaking_jobs, with which"), "{text}");
    refused(unusable(store.ping().await));
    for migrate in [Migrate::Yes, Migrate::Check] {
        let store = PostgresStore::connect(database.url(), 1, migrate, SystemClock).await;
        refused(unusable(store));
        refused(unusable(PostgresStore::check(&database.url(), migrate, SystemClock).await));
    }
}

#[tokio::test]
async fn a_migration_keeps_nobody_waiting_behind_a_backup() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    database
        .by_hand(
            "DELETE FROM _sqlx_migrations WHERE version = 7; ALTER TABLE job DROP COLUMN service; \
             ALTER TABLE job_history DROP COLUMN service",
        )
        .await;
    let mut backup = database.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE job IN ACCESS SHARE MODE").execute(&mut backup).await.unwrap();
    let url = database.url();
    let migrating = PostgresStore::migrate(&url, SystemClock);
    let meanwhile = async {
        eventually("it wants the table", || async {
            let sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
            sqlx::query(sql)
                .fetch_optional(&mut database.connection().await)
                .await
                .unwrap()
                .is_some()
        })
        .await;
        // It stands behind the migration, which gives way before this gives up.
        store.waiting(&node, &name("churn")).await.unwrap();
        sqlx::raw_sql("COMMIT").execute(&mut backup).await.unwrap();
    };
    let (ran, ()) = tokio::join!(migrating, meanwhile);
    assert_eq!(ran.unwrap(), ["0007 services"]);
}

#[tokio::test]
async fn a_user_who_may_not_log_in_is_refused_without_telling_the_password() {
    let database = Database::fresh();
    database.by_hand("CREATE ROLE keyed LOGIN PASSWORD 'right'").await;
    let connect = |user| {
        let url = database.url_as(user, "");
        PostgresStore::connect(url, 1, Migrate::Yes, SystemClock)
    };
    let text = unusable(connect("keyed:wr0ng%2Fs3cret").await);
    assert!(text.contains("database.url") && text.contains("keyed"), "{text}");
    assert!(!text.contains("wr0ng") && !text.contains("s3cret"), "{text}");
    // One who may log in and make nothing.
    let text = unusable(connect("keyed:right").await);
    assert!(text.contains("permission denied") && text.contains("CREATE"), "{text}");
    // To whom somebody gave just this.
    database.by_hand("CREATE SCHEMA IF NOT EXISTS scoreline AUTHORIZATION keyed").await;
    connect("keyed:right").await.unwrap().register("a", "site", TERM).await.unwrap();
    database.by_hand("DROP OWNED BY keyed CASCADE; DROP ROLE keyed").await;
}

#[tokio::test]
async fn a_database_that_we_cannot_work_with_is_refused() {
    let database = Database::fresh();
    let elsewhere = database.url().expose_secret().replace("/test_", "/nobodys_");
    let refused = PostgresStore::connect(elsewhere.into(), 1, Migrate::Yes, SystemClock).await;
    let text = unusable(refused);
    assert!(text.contains("nobodys_") && text.contains("make the database"), "{text}");
    let ascii = Database::fresh_with("--encoding=SQL_ASCII");
    let refused = PostgresStore::connect(ascii.url(), 1, Migrate::Yes, SystemClock).await;
    assert!(unusable(refused).contains("SQL_ASCII"));
}

#[tokio::test]
async fn a_url_that_makes_no_sense_is_refused_without_telling_it() {
    for url in [
        "mysql://u:s3cret@host/db",
        "s3cret",
        "postgres://u:s3cret@host:port/db",
        "postgres://u:a/s3cret@host/db",
        "postgres://u@host/db?pasword=s3cret",
        "postgres://u@host/db?sslmode=require&s3cret",
    ] {
        let refused = PostgresStore::connect(url.into(), 1, Migrate::Yes, SystemClock).await;
        let text = unusable(refused);
        assert!(text.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let debug = format!("{:?}", connect(&Database::fresh()).await);
    assert!(!debug.contains("host="), "{debug}");
}

#[tokio::test]
async fn sessions_are_durable_bounded_and_named_whatever_the_server_says() {
    const SETTINGS: [(&str, &str); 7] = [
        ("synchronous_commit", "on"),
        ("search_path", "scoreline,pg_temp"),
        ("application_name", "scoreline"),
        ("statement_timeout", "8s"),
        ("lock_timeout", "4s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("client_encoding", "UTF8"),
    ];
    let database = Database::fresh();
    let url = database
        .url_as("scoreline", "&options=-c%20synchronous_commit%3Doff%20-c%20search_path%3Dpublic");
    let store = PostgresStore::connect(url, 1, Migrate::Yes, SystemClock).await.unwrap();
    let values = SETTINGS.map(|(name, _)| format!("current_setting('{name}')")).join(", ");
    database
        .by_hand(&format!(
            "CREATE TABLE seen (settings text[]);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO scoreline.seen VALUES (ARRAY[{values}]); RETURN NEW; END $$;
             CREATE TRIGGER seen AFTER INSERT OR UPDATE ON node FOR EACH ROW EXECUTE FUNCTION see();"
        ))
        .await;
    let mut connection = database.connection().await;
    let default: String =
        query_scalar("SHOW synchronous_commit").fetch_one(&mut connection).await.unwrap();
    assert_eq!(default, "off", "or this test shows nothing");
    let node = store.register("a", "site", TERM).await.unwrap();
    assert!(store.beat(&node).await.unwrap());
    let seen: Vec<Vec<String>> =
        query_scalar("SELECT settings FROM seen").fetch_all(&mut connection).await.unwrap();
    let call = SETTINGS.map(|(_, value)| value);
    // A beat is given up after five seconds: the server must say before that why there was none.
    let beat = call.map(|value| {
        if value == "8s" {
            "4s"
        } else if value == "4s" {
            "3s"
        } else {
            value
        }
    });
    assert_eq!(seen, [call, beat]);
}

#[tokio::test]
async fn connections_that_were_cut_are_made_again() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    for n in 0..3 {
        // Several, for the pool to hold.
        let (a, b, c) = tokio::join!(store.beat(&node), store.beat(&node), store.ping());
        assert!(a.unwrap() && b.unwrap() && c.is_ok());
        database
            .by_hand(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        job(&store, &node, &n.to_string()).await;
    }
}

#[tokio::test]
async fn a_server_that_is_stopped_is_unavailable_until_it_is_back() {
    let mut server = Server::start();
    let database = Database::on(&server);
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let before = job(&store, &node, "a").await;
    server.stop();
    unavailable(store.accept(&node, &[arrival("b")], usize::MAX, at(0), None).await);
    unavailable(store.ping().await);
    let refused = PostgresStore::connect(database.url(), 1, Migrate::Yes, SystemClock).await;
    unavailable(refused);
    server.start_again();
    assert_eq!(load(&store, before.id()).await, Some((before, Some(node.id))));
    job(&store, &node, "b").await;
}

#[tokio::test]
async fn a_call_that_is_kept_waiting_is_unavailable() {
    let database = Database::fresh();
    let url = database.url_as("scoreline", "&options=-c%20lock_timeout%3D50ms");
    let store = PostgresStore::connect(url, 2, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let job = job(&store, &node, "a").await;
    let mut other = database.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE job").execute(&mut other).await.unwrap();
    let transition = step(&job, uploaded());
    let text = unavailable(store.commit(&node, std::slice::from_ref(&transition)).await);
    assert!(text.contains("write transitions") && text.contains("locked"), "{text}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.commit(&node, &[transition]).await.unwrap(), [Committed::Done]);
}

#[tokio::test]
async fn a_call_that_failed_in_the_middle_leaves_nothing_half_done_to_the_next() {
    let database = Database::fresh();
    let url = database.url_as("scoreline", "&options=-c%20lock_timeout%3D50ms");
    let store = PostgresStore::connect(url, 1, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let mut other = database.connection().await;
    // Nobody knows yet whether it will be taken.
    let take = format!("BEGIN; INSERT INTO reservation VALUES ('/out/x', '{}', '9')", b.id());
    sqlx::raw_sql(sqlx::AssertSqlSafe(take)).execute(&mut other).await.unwrap();
    // It has begun a transaction and holds the job.
    unavailable(store.reserve(&node, &[wish(&a, "1", "/out/x")]).await);
    walk(&store, &node, &a, [permanent()]).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let yours = [Reserved::Yours("/out/x".into())];
    assert_eq!(store.reserve(&node, &[wish(&b, "1", "/out/x")]).await.unwrap(), yours);
    let elsewhere = connect(&database).await;
    assert_eq!(load(&elsewhere, a.id()).await.unwrap().0.phase(), Phase::Failed);
}

#[tokio::test]
async fn adoption_passes_over_what_somebody_else_has_locked() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let dead = store.register("dead", "site", TERM).await.unwrap();
    let [a, b, c] = jobs(&store, &dead, ["a", "b", "c"]).await.map(|job| job.id());
    let mut other = database.connection().await;
    let lock = format!("BEGIN; SELECT FROM job WHERE id = '{a}' FOR UPDATE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut other).await.unwrap();
    let me = store.register("me", "site", TERM).await.unwrap();
    fence(&store, &dead).await;
    assert_eq!(adopt(&store, &me, 2).await, [b, c]);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(adopt(&store, &me, 2).await, [a]);
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_given_up() {
    #[derive(Clone)]
    struct Impatient;
    impl Clock for Impatient {
        fn now(&self) -> DateTime<chrono::Utc> {
            DateTime::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            Duration::ZERO
        }
        async fn sleep(&self, _: Duration) {}
    }
    let database = Database::fresh();
    let refused = PostgresStore::connect(database.url(), 1, Migrate::Yes, Impatient).await;
    assert!(unavailable(refused).contains("no answer within"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_adopt_the_same_job() {
    const JOBS: usize = 500;
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let dead = one.register("dead", "site", TERM).await.unwrap();
    let free = one.register("free", "site", TERM).await.unwrap();
    for (n, owner) in [&dead, &free].into_iter().enumerate() {
        let arrivals: Vec<_> = (0..JOBS / 2).map(|i| arrival(format!("{n}-{i}"))).collect();
        one.accept(owner, &arrivals, usize::MAX, at(0), None).await.unwrap();
    }
    one.retire(&free, &[]).await.unwrap();
    fence(&one, &dead).await;
    let me = one.register("me", "site", TERM).await.unwrap();
    let too = two.register("too", "site", TERM).await.unwrap();
    // Each has some, however late the other one comes.
    let (mine, theirs) = tokio::join!(adopt(&one, &me, 7), adopt(&two, &too, 7));
    assert!(!mine.is_empty() && !theirs.is_empty(), "they worked side by side");
    let everything = |store: PostgresStore<SystemClock>, me: Node, mut mine: Vec<_>| async move {
        loop {
            let some = adopt(&store, &me, 7).await;
            if some.is_empty() {
                return mine;
            }
            mine.extend(some);
        }
    };
    let a = tokio::spawn(everything(one, me, mine));
    let b = tokio::spawn(everything(two, too, theirs));
    let (mut a, b) = (a.await.unwrap(), b.await.unwrap());
    a.extend(b);
    assert_eq!(a.len(), JOBS);
    assert_eq!(a.into_iter().collect::<BTreeSet<_>>().len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_adoption_and_a_late_write_at_once_one_wins() {
    const JOBS: usize = 50;
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let (mut late, mut fenced) = (0, 0);
    for round in 0..20 {
        let node = one.register("a", "site", TERM).await.unwrap();
        let me = two.register("me", "site", TERM).await.unwrap();
        let arrivals: Vec<_> = (0..JOBS).map(|n| arrival(format!("{round}-{n}"))).collect();
        let mut transitions = Vec::new();
        for answer in one.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap() {
            let Accepted::New(job) = answer else { panic!("{answer:?}") };
            transitions.push(step(&job, uploaded()));
        }
        transitions.rotate_left(round);
        fence(&two, &node).await;
        let (committed, adopted) =
            tokio::join!(one.commit(&node, &transitions), adopt(&two, &me, JOBS));
        for (transition, committed) in transitions.iter().zip(committed.unwrap()) {
            let id = transition.job.id();
            let (job, owner) = load(&one, id).await.unwrap();
            let events = one.events(id).await.unwrap().len() as u64;
            assert_eq!(events, job.revision(), "one event a revision");
            let is_adopted = adopted.contains(&id);
            assert_eq!(owner, Some(if is_adopted { me.id } else { node.id }));
            match committed {
                Committed::Done => {
                    late += 1;
                    assert_eq!(job.phase(), Phase::Uploaded);
                    assert_eq!(job.revision(), 2 + u64::from(is_adopted));
                }
                Committed::Stale => {
                    fenced += 1;
                    assert!(is_adopted);
                    assert_eq!((job.phase(), job.revision()), (Phase::Queued, 2));
                }
                Committed::Refused(why) => panic!("{why}"),
            }
        }
    }
    println!("{late} writes came first, {fenced} were fenced off");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_processes_accept_at_once_becomes_one_job_each() {
    const FILES: usize = 200;
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let mut jobs = BTreeMap::new();
    for round in 0..5 {
        let arrivals: Vec<_> = (0..FILES).map(|n| arrival(format!("{round}-{n}"))).collect();
        let (mut forth, mut back) = (arrivals.clone(), arrivals);
        forth.rotate_left(round * 7);
        back.reverse();
        let node = one.register("x", "site", TERM).await.unwrap();
        let (a, b) = tokio::join!(
            async { one.accept(&node, &forth, usize::MAX, at(0), None).await.unwrap() },
            async { two.accept(&node, &back, usize::MAX, at(0), None).await.unwrap() },
        );
        let mut new = 0;
        for (arrival, answer) in forth.iter().zip(&a).chain(back.iter().zip(&b)) {
            let id = match answer {
                Accepted::New(job) => {
                    new += 1;
                    job.id()
                }
                Accepted::Known(id) => *id,
                Accepted::Free(_) | Accepted::Over => panic!("{answer:?}"),
            };
            assert_eq!(*jobs.entry(arrival.path.clone()).or_insert(id), id);
        }
        assert_eq!(new, FILES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_two_processes_want_is_given_once() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let node = one.register("a", "site", TERM).await.unwrap();
    let [a, b] = jobs(&one, &node, ["a", "b"]).await;
    for n in 0..50 {
        let wishes = |job: &Job| {
            [
                wish(job, &format!("x{n}"), &format!("/out/x{n}")),
                wish(job, &format!("y{n}"), &format!("/out/y{n}")),
            ]
        };
        let (to_a, mut to_b) = (wishes(&a), wishes(&b));
        to_b.reverse();
        let (a, b) = tokio::join!(one.reserve(&node, &to_a), two.reserve(&node, &to_b));
        let mut answers = [a.unwrap(), b.unwrap()].concat();
        answers.sort_by_key(|answer| format!("{answer:?}"));
        let [Reserved::Taken, Reserved::Taken, Reserved::Yours(x), Reserved::Yours(y)] =
            &answers[..]
        else {
            panic!("{answers:?}");
        };
        assert_ne!(x, y);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_while_its_node_retires_is_lost_to_nobody() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    for round in 0..20 {
        let node = one.register("a", "site", TERM).await.unwrap();
        let arrivals: Vec<_> = (0..20).map(|n| arrival(format!("{round}-{n}"))).collect();
        let (accepted, retired) = tokio::join!(
            one.accept(&node, &arrivals, usize::MAX, at(0), None),
            two.retire(&node, &[])
        );
        retired.unwrap();
        match accepted {
            Ok(accepted) => {
                for id in accepted.into_iter().map(id_of) {
                    assert_eq!(load(&one, id).await.unwrap().1, None);
                }
            }
            Err(error) => assert!(error.to_string().contains("new registration"), "{error}"),
        }
    }
}

#[tokio::test]
async fn characters_that_postgres_cannot_hold_stop_nothing() {
    use scoreline::fault::{Fault, Origin};
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let [a, b] = jobs(&store, &node, ["a", "b"]).await;
    let fault = Fault::permanent(Origin::Endpoint, "bad\0", "it said \0");
    let with_nul = step(&a, Outcome::Fault(fault));
    let b = walk(&store, &node, &b, [uploaded(), submitted(), Outcome::Started]).await;
    let results = vec![scoreline::job::RunResult {
        output: "\0".into(),
        place: scoreline::job::ResultPlace::Elsewhere("x\0y".into()),
    }];
    let in_json = step(&b, Outcome::Finished(results));
    let batch = [with_nul, in_json];
    for _ in 0..2 {
        assert_eq!(store.commit(&node, &batch).await.unwrap(), [const { Committed::Done }; 2]);
    }
    let (a, _) = load(&store, a.id()).await.unwrap();
    assert_eq!(a.error().unwrap().message, "it said \u{fffd}");
    let events: Vec<Event> = store.events(a.id()).await.unwrap();
    assert!(!format!("{events:?}").contains("\\0"), "{events:?}");
    assert_eq!(load(&store, b.id()).await.unwrap().0, batch[1].job);
    for new in [true, false] {
        let asked = store.run_now("site", &name("churn"), Some("k\0"), "me\0").await.unwrap();
        assert_eq!((asked.0.note.as_deref(), asked.1), (Some("me\u{fffd}"), new));
    }
    store.schedule(&node, &name("churn"), "\0").await.unwrap();
    let since = at(0);
    let pause = FeedPause { by: "\0".into(), why: "\0".into(), since, until: None, ended: false };
    store.pause_feed("site", &name("churn"), &pause).await.unwrap();
}

#[tokio::test]
async fn a_row_that_makes_no_sense_keeps_no_other_from_being_read_or_adopted() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let lot = jobs(&store, &node, ["a", "b", "c", "d"]).await;
    let ids = lot.clone().map(|job| job.id());
    let [good, phase, json, event] = ids;
    database
        .by_hand(&format!(
            "DO $$ DECLARE c name; BEGIN
               FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'job'::regclass AND contype = 'c'
               LOOP EXECUTE format('ALTER TABLE job DROP CONSTRAINT %I', c); END LOOP;
             END $$;
             UPDATE job SET phase = 'running' WHERE id = '{phase}';
             UPDATE job SET redirects = '7' WHERE id = '{json}';
             INSERT INTO job_event SELECT job_id, 2, at, node, 1, 'x', 'y', 'z', NULL FROM job_event
             WHERE job_id = '{event}';"
        ))
        .await;
    assert_eq!(everything(&store).await, [lot[3].clone(), lot[0].clone()]);
    let found = store.load(&ids).await.unwrap();
    assert_eq!(found.iter().map(|(job, _)| job.id()).collect::<Vec<_>>(), [good, event]);
    assert_eq!(store.events(event).await.unwrap().len(), 1);

    let me = store.register("me", "site", TERM).await.unwrap();
    fence(&store, &node).await;
    let adopted = store.adopt(&me, &[name("churn")], 10).await.unwrap();
    assert_eq!(adopted.jobs.iter().map(|(job, _)| job.id()).collect::<Vec<_>>(), [good, event]);
    assert_eq!(adopted.corrupt.iter().map(|row| row.id).collect::<Vec<_>>(), [phase, json]);
    let again = store.adopt(&me, &[name("churn")], 10).await.unwrap();
    assert!(again.jobs.is_empty() && again.corrupt.is_empty(), "{again:?}");
}

#[tokio::test]
async fn one_refused_write_does_not_keep_others_from_being_done() {
    let database = Database::fresh();
    let store = connect(&database).await;
    super::one_refused_write_does_not_keep_others_from_being_done(&store, async |sql| {
        database.by_hand(sql).await;
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_there_already_keeps_no_write_from_being_done() {
    let database = Database::fresh();
    let store = connect(&database).await;
    super::an_event_that_is_there_already_keeps_no_write_from_being_done(&store, async |sql| {
        database.by_hand(sql).await;
    })
    .await;
}

#[tokio::test]
async fn the_schema_refuses_a_job_that_skips_what_its_phase_needs() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let made = job(&store, &node, "a").await;
    walk(&store, &node, &made, [uploaded(), submitted(), Outcome::Started, finished()]).await;
    let mut connection = database.connection().await;
    for change in [
        "remote_id = NULL",
        "phase = 'delivered'",
        "phase = 'failed'",
        "phase = 'succeeded', outputs = '[]'",
        "input_blob = NULL",
        "sha256 = NULL",
        "results = NULL",
        "cancel_reason = 'operator'",
        "held_code = 'x'",
        "node = 77",
    ] {
        let sql = sqlx::AssertSqlSafe(format!("UPDATE job SET {change}"));
        let refused = sqlx::query(sql).execute(&mut connection).await.unwrap_err().to_string();
        assert!(refused.contains("constraint"), "{change}: {refused}");
    }
}

#[tokio::test]
async fn the_schema_explains_every_column_that_people_query() {
    let database = Database::fresh();
    connect(&database).await;
    let silent: Vec<String> = query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.oid IN ('job'::regclass, 'job_history'::regclass, 'job_event'::regclass, 'fire'::regclass, \
           'schedule'::regclass, 'feed_pause'::regclass) \
           AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL",
    )
    .fetch_all(&mut database.connection().await)
    .await
    .unwrap();
    assert_eq!(silent, Vec::<String>::new());
}

#[tokio::test]
async fn no_index_on_live_jobs_names_what_transitions_change() {
    let database = Database::fresh();
    connect(&database).await;
    let sql = "SELECT indexdef FROM pg_indexes WHERE tablename = 'job'";
    let indexes: Vec<String> =
        query_scalar(sql).fetch_all(&mut database.connection().await).await.unwrap();
    assert!(!indexes.is_empty());
    for index in indexes {
        assert!(!index.contains("phase") && !index.contains("_at"), "{index}");
    }
}

#[tokio::test]
async fn transitions_need_no_index_entries() {
    const JOBS: usize = 2000;
    // One of its own: while anybody anywhere on a server is in a long transaction, no free space is won back.
    let server = Server::start();
    let database = Database::on(&server);
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let arrivals: Vec<_> = (0..JOBS).map(|n| arrival(n.to_string())).collect();
    let accepted = store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    let mut jobs: Vec<Job> = Vec::new();
    for answer in accepted {
        let Accepted::New(job) = answer else { panic!("{answer:?}") };
        jobs.push(*job);
    }
    for outcome in [uploaded(), submitted(), Outcome::Started, finished(), delivered()] {
        let run = matches!(outcome, Outcome::Submitted { .. } | Outcome::Started);
        // In batches of jobs that lie apart, as they come due.
        for part in 0..JOBS / 100 {
            let some = jobs.iter_mut().skip(part).step_by(JOBS / 100);
            let batch: Vec<_> = some
                .map(|job| {
                    let run = run.then(|| name("e"));
                    let answers = Some(Want::Cancel);
                    let transition = Transition { run, answers, ..step(job, outcome.clone()) };
                    *job = transition.job.clone();
                    transition
                })
                .collect();
            let committed = store.commit(&node, &batch).await.unwrap();
            assert_eq!(committed, vec![Committed::Done; batch.len()]);
        }
    }
    store.close().await;
    let mut connection = alone_in(&database).await;
    let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'job'";
    let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
    let (all, hot): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(usize::try_from(all).unwrap(), JOBS * 5);
    assert!(hot * 10 >= all * 9, "{hot} of {all} updates were heap-only");
}

#[tokio::test]
async fn a_long_history_is_never_walked_through() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let done = job(&store, &node, "done").await;
    walk(&store, &node, &done, [permanent(), settled()]).await;
    let churn = name("churn");
    let due = |n| FireRow::due("site", &churn, FireKind::Scheduled, at(n), at(n)..at(n), at(n));
    store.enter(&node, &churn, &[due(-1).skipped(Reason::Paused)]).await.unwrap();
    database
        .by_hand(
            "CREATE TEMP TABLE many AS SELECT h.* FROM job_history h, generate_series(1, 200000);
             UPDATE many SET id = gen_random_uuid();
             INSERT INTO job_history SELECT * FROM many;
             INSERT INTO job_event SELECT id, 1, created_at, 1, 1, 'queued', 'queued', 'accepted' FROM many;
             INSERT INTO arrival SELECT site, feed, path, -row_number() OVER (), size_bytes, mtime_ns, id FROM many;
             CREATE TEMP TABLE fires AS SELECT f.*, n FROM fire f, generate_series(1, 200000) AS n;
             UPDATE fires SET id = gen_random_uuid(), nominal = nominal - n * interval '1 minute';
             ALTER TABLE fires DROP COLUMN n;
             INSERT INTO fire SELECT * FROM fires;
             ANALYZE;",
        )
        .await;
    store.close().await;
    let mut connection = alone_in(&database).await;
    let sql = "SELECT relname || ': ' || seq_scan FROM pg_stat_user_tables \
               WHERE relname IN ('job_history', 'job_event', 'arrival', 'fire') ORDER BY 1";
    let before: Vec<String> = query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert_eq!(before.len(), 4);
    let store = connect(&database).await;

    // One by one and many together, new and known, on the way, done, and repeated; often enough for generic plans.
    for (round, size) in [1, 1, 500, 1, 500, 1, 1, 500, 500, 500, 500, 5000].into_iter().enumerate()
    {
        let arrivals: Vec<_> = (0..size).map(|n| arrival(format!("{round}-{n}"))).collect();
        let accepted = store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
        assert!(accepted.iter().all(|a| matches!(a, Accepted::New(_))));
        let known = store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
        assert!(known.iter().all(|a| matches!(a, Accepted::Known(_))));
        let mut transitions: Vec<Transition> = Vec::new();
        for answer in accepted {
            let Accepted::New(job) = answer else { unreachable!() };
            transitions.push(step(&job, permanent()));
        }
        for outcome in [settled(), settled()] {
            for _ in 0..2 {
                let committed = store.commit(&node, &transitions).await.unwrap();
                assert_eq!(committed, vec![Committed::Done; size]);
            }
            let ids: Vec<_> = transitions.iter().map(|t| t.job.id()).take(500).collect();
            assert_eq!(store.load(&ids).await.unwrap().len(), ids.len());
            let next = |t: &Transition| try_step(&t.job, outcome.clone());
            transitions = transitions.iter().filter_map(next).collect();
            if transitions.is_empty() {
                break;
            }
        }
        let other = store.register("b", "site", TERM).await.unwrap();
        adopt(&store, &other, 1000).await;
        store.retire(&other, &[]).await.unwrap();
        store.events(done.id()).await.unwrap();
        // A schedule with as long a past.
        let row = due(i64::try_from(round).unwrap());
        let input = [Arrival { once: true, ..arrival("model") }];
        let fire = Some(Firing { feed: &churn, row: &row, then: FireState::Ran });
        let answers = store.accept(&node, &input, 1, at(0), fire).await.unwrap();
        let [Accepted::New(job)] = &answers[..] else { panic!("{answers:?}") };
        walk(&store, &node, job, [permanent(), settled()]).await;
        store.reopen(&node, &churn, &[at(-1)]).await.unwrap();
        store.schedule(&node, &churn, "rules").await.unwrap();
        store.run_now("site", &churn, Some("k"), "me").await.unwrap();
        store.feeds("site").await.unwrap();
        let outcomes = store.outcomes("site", &churn, 5).await.unwrap();
        assert_eq!(outcomes.len(), (round + 1).min(5));
        for before in [None, Some(row.id)] {
            store.fires("site", &churn, before, 50).await.unwrap();
        }
        for feed in [None, Some(name("churn"))] {
            store.list(&JobQuery { feed, limit: 50, ..JobQuery::default() }).await.unwrap();
        }
    }
    store.close().await;
    let mut connection = alone_in(&database).await;
    let after: Vec<String> = query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_restored_store_that_gives_ids_once_more_takes_no_living_node_for_a_dead_one() {
    let database = Database::fresh();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = async |dir: &tempfile::TempDir| {
        let server = Some(ServerSettings { url: database.url(), max_connections: 2 });
        let state_dir = dir.path().to_owned();
        Settings { state_dir, server, migrate: Migrate::Yes }.open(SystemClock).await.unwrap()
    };
    let store = open(&here).await;
    let before = store.register("here", "site", TERM).await.unwrap();
    store.gone(&before).await.unwrap();
    drop(store);
    // The backup was made before.
    database.by_hand("DELETE FROM node; ALTER TABLE node ALTER id RESTART").await;
    let elsewhere = open(&there).await;
    let other = elsewhere.register("there", "site", TERM).await.unwrap();
    assert_eq!(other.id, before.id);
    let store = open(&here).await;
    let node = store.register("here", "site", TERM).await.unwrap();
    assert_eq!(store.gone(&node).await.unwrap(), [], "it lives");
}

#[tokio::test]
async fn of_a_servers_nodes_those_of_our_state_folder_are_gone_and_no_others() {
    let database = Database::fresh();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = |database: &Database, dir: &tempfile::TempDir| Settings {
        state_dir: dir.path().to_owned(),
        server: Some(ServerSettings { url: database.url(), max_connections: 2 }),
        migrate: Migrate::Yes,
    };
    let ours = settings(&database, &here);
    let elsewhere = settings(&database, &there).open(SystemClock).await.unwrap();
    let other = elsewhere.register("other", "site", TERM).await.unwrap();
    assert_eq!(elsewhere.gone(&other).await.unwrap(), []);
    let mut earlier = Vec::new();
    for _ in 0..3 {
        let store = ours.open(SystemClock).await.unwrap();
        let text = unusable(ours.open(SystemClock).await);
        assert!(text.contains("another scoreline"), "{text}");
        let node = store.register("a", "site", TERM).await.unwrap();
        assert_eq!(store.gone(&node).await.unwrap(), earlier);
        earlier.push(node.id);
    }
    let store = ours.open(SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    // One that somebody fenced off is still known while it owns something.
    let fenced = Node { id: earlier[1], site: "site".into() };
    job(&store, &fenced, "a").await;
    fence(&store, &fenced).await;
    store.retire(&Node { id: earlier.remove(0), site: "site".into() }, &[]).await.unwrap();
    assert_eq!(store.gone(&node).await.unwrap(), earlier);
    drop(store);
    // The same numbers in another database are somebody else's.
    let second = Database::fresh();
    let store = settings(&second, &here).open(SystemClock).await.unwrap();
    for _ in 0..5 {
        store.register("x", "site", TERM).await.unwrap();
    }
    let node = store.register("a", "site", TERM).await.unwrap();
    assert_eq!(store.gone(&node).await.unwrap(), []);
}

/// A connection to the database after all others have ended: what they counted is counted then.
pub(super) async fn alone_in(database: &Database) -> sqlx::PgConnection {
    eventually("the store's connections have ended", || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND pid <> pg_backend_pid() AND application_name = 'scoreline'";
        let busy: i64 =
            query_scalar(sql).fetch_one(&mut database.connection().await).await.unwrap();
        busy == 0
    })
    .await;
    database.connection().await
}

fn unusable<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unusable(_)) => error.to_string(),
        Err(error) => panic!("it should be unusable, not: {error}"),
        Ok(_) => panic!("it should be refused"),
    }
}

fn unavailable<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unavailable { .. }) => error.to_string(),
        Err(error) => panic!("it should be unavailable, not: {error}"),
        Ok(_) => panic!("it should come to nothing"),
    }
}
