//! The audit, held against real folders and real stores: silent when all is well, and never about what isn't.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::audit::{Audit, AuditError, Kind, Report};
use scoreline::cli::audit::{json, shown};
use scoreline::clock::SystemClock;
use scoreline::ports::Clock;
use secrecy::ExposeSecret as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::postgres::Database;
use crate::rig::{Rig, eventually};
use crate::samples::name;

/// A clock that waits for nothing, and may be ahead.
#[derive(Clone, Copy, Default)]
struct Impatient {
    ahead: Duration,
}

impl Clock for Impatient {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + self.ahead
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + self.ahead
    }

    async fn sleep(&self, _: Duration) {
        tokio::task::yield_now().await;
    }
}

async fn try_audit<C: Clock>(rig: &Rig, clock: C, hash: bool) -> Result<Report, AuditError> {
    let config = rig.config();
    let store = config.store.open_read_only(SystemClock).await.unwrap();
    Audit::new(&store, &config.feeds, clock).with_hashes(hash).run().await
}

pub(crate) async fn audited(rig: &Rig) -> Report {
    try_audit(rig, Impatient::default(), false).await.unwrap()
}

/// What was found, with the places that it names: of paths what is inside the rig, without the ids of jobs.
pub(crate) fn found(report: &Report, rig: &Rig) -> BTreeSet<String> {
    let inside = |path: &Path| {
        let path = path.strip_prefix(rig.path("")).unwrap_or(path).display().to_string();
        let parts = path.split('/').filter(|part| part.len() != 36);
        parts.collect::<Vec<_>>().join("/")
    };
    let findings = report.groups().flat_map(|(_, group)| &group.first);
    findings
        .map(|finding| {
            let place = finding.path.as_deref().map_or_else(String::new, inside);
            format!("{} {place}", finding.kind.name()).trim_end().to_owned()
        })
        .collect()
}

/// A daemon that scored, failed, and found names in use, and stopped.
async fn after_a_real_run() -> Rig {
    let rig = Rig::new().await.feed("outputs.output1 = \"{stem}.scores.csv\"");
    let daemon = rig.start().await;
    rig.drop_file("first.csv", "Col2\nThis is the first\n");
    daemon.until_ended(1).await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    daemon.until_ended(2).await;
    // Both of its names are in use, in the archive and among the outputs.
    rig.drop_file("a.csv", "Col2\nThis is another good day\n");
    rig.drop_file("empty.csv", "");
    daemon.until_ended(4).await;
    daemon.stop().await;
    assert_eq!(rig.files("archive").keys().collect::<Vec<_>>(), ["a-1.csv", "a.csv", "first.csv"]);
    assert_eq!(
        rig.files("failed").keys().collect::<Vec<_>>(),
        ["empty.csv", "empty.csv.error.json"]
    );
    rig
}

async fn by_hand(rig: &Rig, sql: &str) {
    let options = SqliteConnectOptions::new().filename(rig.path("state/scoreline.db"));
    let mut connection = options.foreign_keys(false).connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// All folders as they are.
struct Saved {
    copy: tempfile::TempDir,
}

const FOLDERS: [&str; 5] = ["in", "out", "archive", "failed", "state"];

impl Saved {
    fn of(rig: &Rig) -> Self {
        let saved = Self { copy: tempfile::tempdir().unwrap() };
        for folder in FOLDERS {
            copy(&rig.path(folder), &saved.copy.path().join(folder));
        }
        saved
    }

    fn restore(&self, rig: &Rig) {
        for folder in FOLDERS {
            std::fs::remove_dir_all(rig.path(folder)).unwrap();
            copy(&self.copy.path().join(folder), &rig.path(folder));
        }
    }
}

/// With times, as `cp -a` does.
fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_real_run_there_is_no_difference() {
    let rig = after_a_real_run().await;
    let report = try_audit(&rig, Impatient::default(), true).await.unwrap();
    assert_eq!(found(&report, &rig), BTreeSet::new());
    // Three archived, one failed with its report, three outputs.
    assert_eq!((report.jobs, report.files), (4, 8), "{report:?}");
    // Seven for each that succeeded, three for the one that failed at once.
    assert!(report.events >= 24, "{report:?}");

    // Nor on a disk that was copied, where all inodes are new.
    Saved::of(&rig).restore(&rig);
    assert_eq!(found(&audited(&rig).await, &rig), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_difference_is_found_and_named() {
    // However long a case takes, a file that comes into the drop folder is not overdue.
    let rig = after_a_real_run().await.feed("watch.rescan = \"1h\"");
    let saved = Saved::of(&rig);
    let history = |name: &str, set: &str| {
        format!(
            "UPDATE job_history SET {set} WHERE id IN (SELECT id FROM job_history WHERE path = CAST('{name}' AS BLOB) LIMIT 1)"
        )
    };
    let events = |what: &str, and: &str| {
        format!("{what} WHERE {and} AND job_id = (SELECT min(id) FROM job_history)")
    };
    let revive = |phase: &str, more: &str| {
        format!(
            "INSERT INTO job SELECT * FROM job_history WHERE path = CAST('first.csv' AS BLOB); \
             DELETE FROM job_history WHERE path = CAST('first.csv' AS BLOB); \
             DELETE FROM job_event WHERE job_id IN (SELECT id FROM job) AND revision > \
               (SELECT max(revision) FROM job_event WHERE job_id IN (SELECT id FROM job) AND to_phase = '{phase}'); \
             UPDATE job SET node = NULL, phase = '{phase}', finished_at = NULL, source_moved_to = NULL, {more}, revision = \
               (SELECT max(revision) FROM job_event WHERE job_id = job.id)"
        )
    };
    let until_queued = "input_blob = NULL, input_bytes = NULL, sha256 = NULL, remote_id = NULL, redirects = NULL, \
                        results = NULL, outputs = NULL";
    let work = "in/.scoreline/work";
    let somebody = "018f3c00-0000-7000-8000-000000000001";
    // What is done by hand (to the store, then to the files: a move, or a new file), and what is found.
    let cases: Vec<Case> = vec![
        (String::new(), vec![["+", "archive/stray.csv"]], vec!["unknown_in_archive archive/stray.csv"]),
        (String::new(), vec![["+", "failed/stray.csv"]], vec!["unknown_in_failed failed/stray.csv"]),
        (
            String::new(),
            vec![["+", "failed/stray.csv.error.json"]],
            vec!["unknown_in_failed failed/stray.csv.error.json"],
        ),
        (String::new(), vec![["+", "in/.scoreline/work/x.csv"]], vec!["unknown_in_work in/.scoreline/work/x.csv"]),
        (
            String::new(),
            vec![["+", "in/.scoreline/work/{somebody}/x.csv"]],
            vec!["unknown_in_work in/.scoreline/work/x.csv"],
        ),
        (
            String::new(),
            vec![["+", "in/.scoreline/work/{first}/first.csv"]],
            vec!["left_in_work in/.scoreline/work/first.csv"],
        ),
        (
            String::new(),
            vec![["+", "out/.{first}.0.scoreline-part"], ["+", "archive/.0123.scoreline-part"]],
            vec!["leftover out/.{first}.0.scoreline-part"],
        ),
        (String::new(), vec![["+", "out/a.scores.csv"]], vec!["output_differs out/a.scores.csv"]),
        (String::new(), vec![["out/a.scores.csv", "gone"]], vec!["output_gone out/a.scores.csv"]),
        (String::new(), vec![["archive/a.csv", "gone"]], vec!["archive_gone archive/a.csv"]),
        (String::new(), vec![["+", "archive/a.csv"]], vec!["archive_changed archive/a.csv"]),
        (
            String::new(),
            vec![["archive/a.csv", "in/a.csv"]],
            vec!["archive_gone archive/a.csv", "settling in/a.csv"],
        ),
        // The files were restored just now, so this one looks younger than the history.
        (
            "DELETE FROM job_history WHERE path = CAST('first.csv' AS BLOB)".to_owned(),
            vec![],
            vec!["unknown_in_archive archive/first.csv"],
        ),
        (events("DELETE FROM job_event", "revision = 1"), vec![], vec!["history_broken"]),
        (events("DELETE FROM job_event", "to_phase = 'running'"), vec![], vec!["history_broken"]),
        (events("DELETE FROM job_event", "true"), vec![], vec!["history_broken"]),
        (
            events("DELETE FROM job_event", "to_phase = 'succeeded'"),
            vec![],
            vec!["row_differs"],
        ),
        (events("UPDATE job_event SET from_phase = 'queued'", "to_phase = 'scored'"), vec![], vec!["history_broken"]),
        (
            events("UPDATE job_event SET outcome = 'started'", "to_phase = 'scored'"),
            vec![],
            vec!["started_twice"],
        ),
        (history("first.csv", "revision = revision + 1"), vec![], vec!["row_differs"]),
        (history("first.csv", "generation = 2"), vec![], vec!["row_differs"]),
        (history("first.csv", "remote_id = 'another'"), vec![], vec!["row_differs"]),
        (
            history("first.csv", "source_moved_to = CAST('/else/first.csv' AS BLOB)"),
            vec![],
            vec!["archive_gone /else/first.csv", "row_differs", "unknown_in_archive archive/first.csv"],
        ),
        (history("first.csv", "outputs = 'no list'"), vec![], vec!["row_unreadable", "unknown_in_archive archive/first.csv"]),
        (
            "UPDATE job_history SET outputs = 'no list'".to_owned(),
            vec![],
            vec![
                "row_unreadable",
                "past_history archive/a-1.csv",
                "past_history archive/a.csv",
                "past_history archive/first.csv",
                "past_history failed/empty.csv",
                "past_history failed/empty.csv.error.json",
            ],
        ),
        (
            "UPDATE job_history SET id = 'no id' WHERE path = CAST('first.csv' AS BLOB)".to_owned(),
            vec![],
            vec!["row_unreadable", "unknown_in_archive archive/first.csv"],
        ),
        // The later one names what the earlier one has.
        (
            "UPDATE job_history SET source_moved_to = (SELECT min(source_moved_to) FROM job_history \
             WHERE path = CAST('first.csv' AS BLOB)) WHERE path = CAST('empty.csv' AS BLOB)"
                .to_owned(),
            vec![],
            vec!["unknown_in_failed failed/empty.csv", "claimed_twice archive/first.csv", "row_differs"],
        ),
        (
            "INSERT INTO job_history SELECT '018f3c00-0000-7000-8000-000000000001', site, feed, path, name, inode, size_bytes, \
             mtime_ns, node, want, phase, generation, revision, attempts, created_at, updated_at, finished_at, deadline_at, \
             held_code, held_message, error_class, error_code, error_message, input_blob, input_bytes, sha256, remote_id, \
             redirects, results, outputs, cancel_reason, ended_at, source_settled, NULL, duplicate_of, fire, service, sent \
             FROM job_history WHERE path = CAST('empty.csv' AS BLOB)"
                .to_owned(),
            vec![],
            vec!["accepted_twice empty.csv", "history_broken"],
        ),
        // Once more, by a fire.
        (
            "INSERT INTO job_history SELECT '018f3c00-0000-7000-8000-000000000001', site, feed, path, name, inode, size_bytes, \
             mtime_ns, node, want, phase, generation, revision, attempts, created_at, updated_at, finished_at, deadline_at, \
             held_code, held_message, error_class, error_code, error_message, input_blob, input_bytes, sha256, remote_id, \
             redirects, results, outputs, cancel_reason, ended_at, source_settled, NULL, duplicate_of, \
             '{\"id\": \"018f3c00-0000-7000-8000-00000000000f\", \"kind\": \"scheduled\", \"nominal\": \"2026-01-01T00:00:00Z\", \
             \"window_start\": \"2026-01-01T00:00:00Z\", \"window_end\": \"2026-01-01T00:00:00Z\"}', service, sent \
             FROM job_history WHERE path = CAST('empty.csv' AS BLOB)"
                .to_owned(),
            vec![],
            vec!["history_broken"],
        ),
        // Live jobs, as a daemon that was killed leaves them.
        (revive("queued", until_queued), vec![["archive/first.csv", "{work}/first.csv"]], vec![]),
        (revive("queued", until_queued), vec![["archive/first.csv", "gone"]], vec!["source_lost in/first.csv"]),
        (
            revive("queued", until_queued),
            vec![["archive/first.csv", "{work}/first.csv"], ["+", "{work}/second.csv"]],
            vec!["extra_in_work in/.scoreline/work/second.csv"],
        ),
        (
            revive("queued", until_queued),
            vec![["archive/first.csv", "gone"], ["+", "{work}/first.csv"]],
            vec!["source_lost in/first.csv", "unknown_in_work in/.scoreline/work/first.csv"],
        ),
        (revive("scored", "outputs = NULL"), vec![["archive/first.csv", "gone"]], vec!["source_gone in/first.csv"]),
        // Between the move and the row that tells of it.
        (revive("delivered", "want = NULL"), vec![], vec![]),
    ];
    for (sql, moves, expected) in cases {
        let first = first_job(&rig).await;
        let path = |text: &str| {
            let text = text.replace("{work}", &format!("{work}/{first}"));
            rig.path(&text.replace("{somebody}", somebody).replace("{first}", &first))
        };
        by_hand(&rig, &sql).await;
        for [from, to] in &moves {
            let to = path(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            if *from == "+" {
                // Not first removed: the file system might give the new one the same inode.
                let new = rig.path("new");
                std::fs::write(&new, "somebody's").unwrap();
                std::fs::rename(new, to).unwrap();
            } else {
                std::fs::rename(path(from), to).unwrap();
            }
        }
        let report = audited(&rig).await;
        let expected = expected.into_iter().map(|text| text.replace("{first}", &first)).collect();
        assert_eq!(found(&report, &rig), expected, "{sql} {moves:?}\n{}", shown(&report));
        let _ = std::fs::remove_file(rig.path("gone"));
        saved.restore(&rig);
    }
}

/// SQL, moves of files, findings.
type Case = (String, Vec<[&'static str; 2]>, Vec<&'static str>);

/// The id of the first job.
async fn first_job(rig: &Rig) -> String {
    let options = SqliteConnectOptions::new().filename(rig.path("state/scoreline.db"));
    let mut connection = options.connect().await.unwrap();
    let first = sqlx::query_scalar("SELECT min(id) FROM job_history").fetch_one(&mut connection);
    let first: String = first.await.unwrap();
    connection.close().await.unwrap();
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_in_an_output_is_found_by_its_hash_alone() {
    let rig = after_a_real_run().await;
    let output = rig.path("out/a.scores.csv");
    let text = std::fs::read_to_string(&output).unwrap();
    std::fs::write(&output, text.replace('1', "7")).unwrap();
    assert_eq!(found(&audited(&rig).await, &rig), BTreeSet::new());
    let report = try_audit(&rig, Impatient::default(), true).await.unwrap();
    let expected = BTreeSet::from(["output_differs out/a.scores.csv".to_owned()]);
    assert_eq!(found(&report, &rig), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_taken_in_is_a_difference_once_it_was_still_for_long_enough() {
    let rig = after_a_real_run().await.feed("watch.include = [\"*.csv\"]");
    rig.drop_file("new.csv", "Col2\nNobody looks\n");
    rig.drop_file("readme.txt", "not for this feed");
    let only = |kind: &str| BTreeSet::from([format!("{kind} in/new.csv")]);
    let slow = "watch.rescan = \"1h\"";
    let rig = rig.feed(slow);
    assert_eq!(found(&audited(&rig).await, &rig), only("settling"));
    let later = Impatient { ahead: Duration::from_hours(2) };
    assert_eq!(found(&try_audit(&rig, later, false).await.unwrap(), &rig), only("not_taken_in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_do_is_only_noted() {
    let rig = after_a_real_run().await;
    // Consumers take outputs away, archivists empty the archive, and somebody hopes to have a file scored once more.
    std::fs::remove_dir_all(rig.path("out")).unwrap();
    std::fs::rename(rig.path("archive/first.csv"), rig.path("in/first.csv")).unwrap();
    for file in ["a.csv", "a-1.csv"] {
        std::fs::remove_file(rig.path("archive").join(file)).unwrap();
    }
    std::fs::write(rig.path("archive/.DS_Store"), "").unwrap();
    let report = audited(&rig).await;
    assert_eq!(report.differences(), 0, "{}", shown(&report));
    let counts: BTreeMap<_, _> = report.groups().map(|(kind, group)| (kind, group.count)).collect();
    let expected = [(Kind::PutBack, 1), (Kind::ArchiveGone, 3), (Kind::OutputGone, 3)];
    assert_eq!(counts, BTreeMap::from(expected), "{}", shown(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_taken_away_may_be_used_again() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    for day in 1..=3 {
        rig.drop_file("daily.csv", &format!("Col2\nday {day} {}\n", "more ".repeat(day)));
        daemon.until_ended(day).await;
        std::fs::remove_file(rig.path("archive/daily.csv")).unwrap();
        if day < 3 {
            std::fs::remove_file(rig.path("out/daily.scores.csv")).unwrap();
        }
    }
    daemon.stop().await;
    let report = try_audit(&rig, Impatient::default(), true).await.unwrap();
    assert_eq!(report.differences(), 0, "{}", shown(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_outputs_that_replace_each_other_one_must_be_there() {
    let rig = Rig::new().await.feed("deliver.on_conflict = \"replace\"");
    let daemon = rig.start().await;
    for (day, text) in ["one", "two words", "now three words"].into_iter().enumerate() {
        rig.drop_file("daily.csv", &format!("Col2\n{text}\n"));
        daemon.until_ended(day + 1).await;
    }
    daemon.stop().await;
    let hashed = async || try_audit(&rig, Impatient::default(), true).await.unwrap();
    assert_eq!(found(&hashed().await, &rig), BTreeSet::new());
    std::fs::write(rig.path("out/daily.scores.csv"), "somebody's").unwrap();
    let expected = BTreeSet::from(["output_differs out/daily.scores.csv".to_owned()]);
    assert_eq!(found(&hashed().await, &rig), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_older_than_the_history_is_noted() {
    let rig = after_a_real_run().await;
    by_hand(&rig, "DELETE FROM job_history WHERE path = CAST('first.csv' AS BLOB)").await;
    let report = audited(&rig).await;
    assert_eq!(found(&report, &rig), BTreeSet::from(["past_history archive/first.csv".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_daemon_under_load_shows_no_difference() {
    // Long enough for any machine to take in what it was told of.
    let rig = Rig::new().await.feed("watch.rescan = \"20s\"");
    let daemon = rig.start().await;
    let load = async {
        for n in 0..300 {
            let words = if n % 10 == 0 { String::new() } else { format!("Col2\nload {n}\n") };
            // Names are used again and again, each once it is free: no file is lost to the next one.
            let name = format!("{}.csv", n % 70);
            let path = rig.path("in").join(&name);
            eventually("its name is free", async || !path.exists()).await;
            rig.drop_file(&name, &words);
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    let audits = async {
        let mut jobs = 0;
        while jobs < 200 {
            let report = try_audit(&rig, SystemClock, true).await.unwrap();
            assert_eq!(report.differences(), 0, "{}", shown(&report));
            jobs = report.jobs;
        }
    };
    tokio::join!(load, audits);
    daemon.stop().await;
    let report = audited(&rig).await;
    assert_eq!(report.differences(), 0, "{}", shown(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_on_a_server_is_audited_beside_it() {
    let database = Database::fresh();
    let rig = Rig::new().await;
    let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    rig.drop_file("empty.csv", "");
    daemon.until_ended(2).await;
    let report = audited(&rig).await;
    assert_eq!((found(&report, &rig), report.jobs), (BTreeSet::new(), 2));
    database.by_hand("UPDATE job_history SET revision = 99 WHERE phase = 'failed'").await;
    assert_eq!(found(&audited(&rig).await, &rig), BTreeSet::from(["row_differs".to_owned()]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_read_is_named() {
    let rig = after_a_real_run().await;
    std::fs::remove_dir_all(rig.path("in")).unwrap();
    std::fs::remove_dir_all(rig.path("failed")).unwrap();
    std::fs::write(rig.path("failed"), "").unwrap();
    let refused = try_audit(&rig, Impatient::default(), false).await.unwrap_err().to_string();
    for folder in ["in", "failed"] {
        let named = format!("could not look into {}: ", rig.path(folder).display());
        assert!(refused.contains(&named), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_one_feed_leaves_the_others_alone() {
    let rig = after_a_real_run().await;
    std::fs::write(rig.path("archive/stray.csv"), "").unwrap();
    let other = rig.config_text().replace("feeds.f", "feeds.g");
    let other = &other[other.find("[feeds.g]").unwrap()..];
    let other = other.replace("/in\"", "/in2\"").replace("/failed\"", "/failed2\"");
    std::fs::create_dir(rig.path("in2")).unwrap();
    std::fs::write(rig.path("in2/old.csv"), "").unwrap();
    let text = rig.config_text() + &other;
    let file = rig.path("scoreline.toml");
    let config = scoreline::config::Config::parse(&text, &file, &BTreeMap::new()).unwrap();
    let later = Impatient { ahead: Duration::from_hours(1) };
    let store = config.store.open_read_only(SystemClock).await.unwrap();
    let audit = async |feed| Audit::new(&store, &config.feeds, later).only(feed).run().await;
    // Both feeds archive into one folder.
    let report = audit(None).await.unwrap();
    let expected = ["not_taken_in in2/old.csv", "unknown_in_archive archive/stray.csv"];
    assert_eq!(found(&report, &rig), expected.map(ToOwned::to_owned).into());
    let report = audit(Some(name("f"))).await.unwrap();
    let stray = BTreeSet::from(["unknown_in_archive archive/stray.csv".to_owned()]);
    assert_eq!((found(&report, &rig), report.jobs), (stray.clone(), 4));
    let report = audit(Some(name("g"))).await.unwrap();
    assert!(found(&report, &rig).is_superset(&stray) && report.jobs == 0, "{}", shown(&report));
    let refused = audit(Some(name("h"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no feed h in the config: it has f, g");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_it_means_and_what_to_do() {
    let rig = after_a_real_run().await;
    std::fs::write(rig.path("archive/stray.csv"), "").unwrap();
    std::fs::remove_file(rig.path("out/first.scores.csv")).unwrap();
    let report = audited(&rig).await;
    let text = shown(&report);
    assert!(
        text.starts_with("DIFFERENCE  unknown_in_archive (1): a file in the archive"),
        "{text}"
    );
    assert!(text.contains("\n  to do: if somebody put it there"), "{text}");
    assert!(text.contains(&rig.path("archive/stray.csv").display().to_string()), "{text}");
    assert!(text.contains("\nnote  output_gone (1): "), "{text}");
    let sum =
        format!("\nchecked 4 jobs, 8 files, {} events: 1 difference, 1 note\n", report.events);
    assert!(text.ends_with(&sum), "{text}");
    let value = json(&report);
    assert_eq!((&value["differences"], &value["notes"]), (&1.into(), &1.into()));
    assert_eq!(value["counts"]["output_gone"], 1);
    assert_eq!(value["findings"][0]["kind"], "unknown_in_archive");
    assert_eq!(value["findings"][0]["level"], "difference");
    assert_eq!(value["findings"][1]["job"], first_job(&rig).await);
}

/// The program, with its exit code and what it said.
async fn run(args: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_scoreline"));
    let output = command.args(args).kill_on_drop(true).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ends_as_its_findings_are() {
    let rig = after_a_real_run().await;
    let file = rig.path("scoreline.toml");
    let config = file.to_str().unwrap();
    std::fs::write(&file, rig.config_text()).unwrap();
    let (code, out, err) = run(&["audit", "--config", config]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("checked 4 jobs, 8 files, "), "{out}");

    // An oldest job that can't be read is named on stderr, and its file is nobody's.
    by_hand(&rig, "UPDATE job_history SET outputs = 'no list' WHERE path = CAST('a.csv' AS BLOB)")
        .await;
    let (code, out, err) =
        run(&["audit", "--json", "--hash", "--feed", "f", "--config", config]).await;
    assert_eq!(code, 1, "{out}{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["counts"]["row_unreadable"], 1, "{report}");
    assert!(err.contains("its outputs can't be read"), "{err}");

    for (change, args, expected, told) in [
        ("", &["--feed", "g"][..], 2, "there is no feed g: did you mean f? there is f"),
        ("", &["--feed", "a/b"], 2, "a-z"),
        ("[nodes]\n", &[], 78, "unknown key"),
        (
            "[database]\nurl = 'postgres://u@127.0.0.1:1/db'\n",
            &[],
            69,
            "the store could not be opened",
        ),
    ] {
        std::fs::write(&file, format!("{change}{}", rig.config_text())).unwrap();
        let (code, out, err) = run(&[&["audit", "--config", config], args].concat()).await;
        assert_eq!((code, out.as_str()), (expected, ""), "{change}{args:?}: {err}");
        assert!(err.contains(told), "{change}{args:?}: {err}");
    }
    std::fs::write(&file, rig.config_text()).unwrap();
    std::fs::remove_dir_all(rig.path("state")).unwrap();
    let (code, _, err) = run(&["audit", "--config", config]).await;
    assert!(code == 1 && err.contains("node.state_dir"), "{code} {err}");
    assert!(!rig.path("state").exists(), "looking makes nothing");
}
