//! A whole daemon against a remote side on loopback, on days when all goes well: what comes in and what goes out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use scoreline::clock::SystemClock;
use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::ports::Store as _;
use scoreline::sandbox::{Gateway, Quota, Settings};
use scoreline::store::SqliteStore;
use secrecy::ExposeSecret as _;

use crate::azurite;
use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, drop_into, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stays_is_not_scored_again_when_its_content_is_no_longer_remembered() {
    let lines =
        "source.on_success = \"leave\"\nsource.on_failure = \"leave\"\nduplicates.within = \"1ms\"";
    let rig = Rig::new().await.feed(lines);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    daemon.until_ended(1).await;
    let looks = "scoreline_inbox_scan_duration_seconds_count{feed=\"f\"}";
    let before = daemon.metric(looks).await.unwrap();
    eventually("it was looked at again", || async {
        daemon.metric(looks).await.unwrap() > before + 3.0
    })
    .await;
    daemon.stop().await;
    // Another process remembers the folder by the store alone.
    let daemon = rig.start().await;
    eventually("it was looked at again", || async { daemon.metric(looks).await > Some(3.0) }).await;
    assert_eq!(daemon.jobs().await.len(), 1);
    rig.started_once_each(1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_row_comes_back_with_the_guides_scores() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("good day.csv", "Col2\nThis is a good day\n");
    daemon.until_ended(1).await;
    let out = rig.files("out");
    assert_eq!(out.keys().collect::<Vec<_>>(), ["good day.scores.csv"]);
    assert_eq!(out["good day.scores.csv"].lines().nth(1), Some("1,1,2,2,0,2,0,1"));
    assert_eq!(rig.files("archive").keys().collect::<Vec<_>>(), ["good day.csv"]);
    assert!(rig.files("in").is_empty());
    assert_eq!(rig.starts_of(""), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_files_of_every_name_come_back_exact_through_a_real_blob_server() {
    let rig = Rig::new().await.storage_at(&azurite::connection_string(), &azurite::container());
    let long = "x".repeat(196);
    let mut stems: Vec<&[u8]> = NAMES.iter().map(|name| name.as_bytes()).collect();
    stems.extend([long.as_bytes(), b"caf\xe9 of no encoding"]);
    let plain: Vec<_> = (stems.len()..200).map(|n| format!("file {n}")).collect();
    stems.extend(plain.iter().map(String::as_bytes));
    let (mut sources, mut outputs) = (BTreeMap::new(), BTreeMap::new());
    for (n, stem) in stems.iter().enumerate() {
        let text = format!("the {n}th file is like no other of {}", n * n);
        let rows = vec![text.as_str(); 1 + n % 3];
        let named = |end: &str| [stem, end.as_bytes()].concat();
        let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        drop_into(&rig.path("in"), OsStr::from_bytes(&named(".csv")), input_of(&rows).as_bytes());
        sources.insert(text_of(named(".csv")), input_of(&rows));
        outputs.insert(text_of(named(".scores.csv")), scores_of(&rows));
    }
    assert_eq!((sources.len(), outputs.len()), (200, 200));
    rig.drop_file("..csv", "Col2\nhidden files are somebody's own\n");
    let daemon = rig.start().await;
    let jobs = daemon.until_ended(200).await;
    let bad: Vec<_> = jobs.iter().filter(|job| job.phase != Phase::Succeeded).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(rig.files("archive"), sources);
    assert_eq!(rig.files("out"), outputs);
    assert_eq!(rig.files("in").into_keys().collect::<Vec<_>>(), ["..csv"]);
    assert!(rig.files("failed").is_empty());
    rig.started_once_each(200);
    daemon.stop().await;
}

/// Names without their `.csv`.
const NAMES: [&str; 34] = [
    "with space",
    " leading and trailing ",
    "Größe 日本語",
    "é composed",
    "e\u{301} decomposed",
    "emoji 🦀",
    "100%",
    "a%20b",
    "%2e%2e%2f",
    "%",
    "a+b",
    "quote'single",
    "quote\"double",
    "a.b.c",
    "a.",
    "a..",
    "a. ",
    "-leading dash",
    "--",
    "CAPS",
    "caps",
    "what?",
    "hash#",
    "amp&semi;eq=",
    "back\\slash",
    "c:\\windows",
    "{stem}",
    "[x]*",
    "<tag>|pipe",
    "tab\tbell\u{7}",
    "new\nline",
    "~tilde",
    "$HOME `id`",
    "sig=abc",
];

#[tokio::test(flavor = "multi_thread")]
async fn two_outputs_become_two_files_and_a_marker_comes_after_them() {
    let settings = with_outputs(["output1", "output2"]);
    let rig = Rig::with(settings)
        .await
        .feed("outputs.output2 = \"{stem}.rows.tsv\"")
        .feed("deliver.marker = true");
    let daemon = rig.start().await;
    rig.drop_file("two.csv", &input_of(&["one row", "another one"]));
    let jobs = daemon.until_ended(1).await;
    let out = rig.files("out");
    assert_eq!(out.len(), 3, "{out:?}");
    assert_eq!(out["two.scores.csv"], scores_of(&["one row", "another one"]));
    assert_eq!(out["two.rows.tsv"], "rows\r\n2\r\n");
    let mut named: Vec<_> = out["two.csv.done"].lines().collect();
    named.sort_unstable();
    let path = |name| rig.path("out").join(name).display().to_string();
    assert_eq!(named, [path("two.rows.tsv"), path("two.scores.csv")]);
    assert_eq!(jobs[0].outputs.len(), 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_not_redirected_comes_by_the_services_own_link() {
    for (outputs, first) in [("", "x.scores.csv"), ("outputs = {}", "x.output1.csv")] {
        let rig = Rig::with(with_outputs(["output1", "output2"])).await.feed(outputs);
        let daemon = rig.start().await;
        rig.drop_file("x.csv", &input_of(&["linked", "twice", "or more"]));
        daemon.until_ended(1).await;
        let expected = [
            (first.to_owned(), scores_of(&["linked", "twice", "or more"])),
            ("x.output2.csv".to_owned(), "rows\r\n3\r\n".to_owned()),
        ];
        assert_eq!(rig.files("out"), expected.into(), "{outputs}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_again_is_another_job_with_an_output_and_a_source_of_its_own() {
    let rig = Rig::new().await.feed("duplicates.then = \"rerun\"");
    let daemon = rig.start().await;
    for (n, text) in ["first", "second of them", "second of them"].iter().enumerate() {
        rig.drop_file("same.csv", &input_of(&[text]));
        daemon.until_ended(n + 1).await;
    }
    let numbered = |stem: &str, end: &str, content: fn(&[&str]) -> String| {
        BTreeMap::from([
            (format!("{stem}.{end}"), content(&["first"])),
            (format!("{stem}-1.{end}"), content(&["second of them"])),
            (format!("{stem}-2.{end}"), content(&["second of them"])),
        ])
    };
    assert_eq!(rig.files("out"), numbered("same.scores", "csv", scores_of));
    assert_eq!(rig.files("archive"), numbered("same", "csv", input_of));
    rig.started_once_each(3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_scored_before_is_skipped_and_tells_of_the_earlier_job() {
    for (by, skipped) in [
        ("path+content", ["a.csv same"].as_slice()),
        ("content", &["a.csv same", "b.csv same"]),
        ("path", &["a.csv same", "a.csv other"]),
        ("none", &[]),
    ] {
        let rig = Rig::new().await.feed(&format!("duplicates.by = {by:?}"));
        let daemon = rig.start().await;
        let drops = ["a.csv same", "a.csv same", "b.csv same", "a.csv other"];
        for (n, dropped) in drops.iter().enumerate() {
            let (name, text) = dropped.split_once(' ').unwrap();
            rig.drop_file(name, &input_of(&[text]));
            daemon.until_ended(n + 1).await;
        }
        // Newest first.
        let jobs = daemon.jobs().await;
        let mut told = Vec::new();
        for (job, dropped) in jobs.iter().rev().zip(drops) {
            if job.phase == Phase::Skipped {
                told.push(dropped);
                assert_eq!(job.duplicate_of, Some(jobs[3].id), "{by} {dropped}");
                let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", job.id)).await;
                assert!(
                    events.contains(&format!("the same content as job {}", jobs[3].id)),
                    "{events}"
                );
            } else {
                assert_eq!(job.phase, Phase::Succeeded, "{by} {dropped}");
            }
        }
        assert_eq!(told, skipped, "{by}");
        assert_eq!(rig.files("archive").len(), 4, "each source is where it belongs");
        assert_eq!(rig.files("out").len(), 4 - skipped.len());
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_keeps_nobody_from_scoring_the_same_again() {
    let rig = Rig::new().await.feed("duplicates.by = \"content\"\nretry.max_attempts = 1");
    rig.faults(&["run=fail:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["again"]));
    let failed = daemon.until_ended(1).await;
    assert_eq!(failed[0].phase, Phase::Failed);
    rig.faults(&[]);
    rig.drop_file("b.csv", &input_of(&["again"]));
    let jobs = daemon.until_ended(2).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{:?}", jobs[0].error);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fail_a_duplicate_fails_and_a_retry_scores_it_all_the_same() {
    let rig = Rig::new().await.feed("duplicates.then = \"fail\"");
    let daemon = rig.start().await;
    for n in 1..=2 {
        rig.drop_file("a.csv", &input_of(&["again"]));
        daemon.until_ended(n).await;
    }
    let jobs = daemon.jobs().await;
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "duplicate");
    assert!(rig.files("failed").contains_key("a.csv.error.json"));
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/retry", jobs[0].id)).await, 202);
    eventually("it is scored", || async { daemon.jobs().await[0].phase == Phase::Succeeded }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replace_the_newer_output_takes_the_name() {
    let rig = Rig::new().await.feed("deliver.on_conflict = \"replace\"");
    let daemon = rig.start().await;
    for (n, text) in ["older", "and newer"].iter().enumerate() {
        rig.drop_file("same.csv", &input_of(&[text]));
        daemon.until_ended(n + 1).await;
    }
    let newer = ("same.scores.csv".to_owned(), scores_of(&["and newer"]));
    assert_eq!(rig.files("out"), [newer].into());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fail_the_second_job_fails_and_the_first_output_stays() {
    let rig = Rig::new().await.feed("deliver.on_conflict = \"fail\"");
    let daemon = rig.start().await;
    for (n, text) in ["older", "and newer"].iter().enumerate() {
        rig.drop_file("same.csv", &input_of(&[text]));
        daemon.until_ended(n + 1).await;
    }
    let older = ("same.scores.csv".to_owned(), scores_of(&["older"]));
    assert_eq!(rig.files("out"), [older].into());
    let jobs = daemon.jobs().await;
    assert_eq!(
        jobs.iter().map(|job| job.phase).collect::<Vec<_>>(),
        [Phase::Failed, Phase::Succeeded]
    );
    let failed = rig.files("failed");
    assert_eq!(failed["same.csv"], input_of(&["and newer"]));
    let report: serde_json::Value = serde_json::from_str(&failed["same.csv.error.json"]).unwrap();
    assert_eq!(report["error"]["code"], "output_exists");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_answers_in_the_other_ways_works_as_well() {
    let rig = Rig::with(Settings {
        run_time: Duration::from_millis(50),
        numeric_status: true,
        start_answers_no_content: true,
        unknown_job_is_bad_request: true,
        input_checked_at_run: true,
        results_signed_once: true,
        ..with_outputs(["output1", "output2"])
    })
    .await;
    // A lost start is repeated, and the refusal of the second has to be understood.
    rig.faults(&["start=lost:*2"]);
    let daemon = rig.start().await;
    for n in 0..5 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&format!("number {n}")]));
    }
    let jobs = daemon.until_ended(5).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    assert_eq!(rig.files("out").len(), 10);
    rig.started_once_each(5);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beyond_its_deadline_is_stopped_remotely_and_its_job_fails() {
    for (no_content, unknown) in [(false, false), (true, true)] {
        let rig = Rig::with(Settings {
            run_time: Duration::from_mins(10),
            delete_answers_no_content: no_content,
            deleted_job_is_unknown: unknown,
            ..Settings::default()
        })
        .await;
        let mut config = rig.config();
        let feed = Arc::make_mut(config.feeds.values_mut().next().unwrap());
        feed.policy.deadline = Duration::from_millis(800);
        let daemon = rig.start_with(config).await;
        rig.drop_file("slow.csv", &input_of(&["slow"]));
        let jobs = daemon.until_ended(1).await;
        assert_eq!(jobs[0].phase, Phase::Failed);
        // A service that forgets the run says nothing of how it ended.
        let code = if unknown { "cancel_unconfirmed" } else { "deadline" };
        assert_eq!(jobs[0].error.as_ref().unwrap().code, code);
        assert!(rig.files("failed").contains_key("slow.csv"));
        assert_eq!(rig.sandbox.ledger().totals.cancelled, 1);
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_style_address_behind_a_gateway_with_a_subscription_key_works() {
    let gateway = Gateway { subscription_key: Some("sub-key-1".into()), ..Gateway::default() };
    let rig = Rig::with(Settings { gateway: Some(gateway), ..quick() }).await;
    let Settings { subscription, service, .. } = rig.sandbox.settings();
    let url = format!(
        "{}/azureml-demo/subscriptions/{subscription}/services/{service}/jobs?api-version=2.0",
        rig.sandbox.url()
    );
    let rig = rig.endpoint(&format!("url = {url:?}"));
    let daemon = rig.start().await;
    rig.drop_file("x.csv", &input_of(&["through the gate"]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    assert_eq!(rig.files("out")["x.scores.csv"], scores_of(&["through the gate"]));
    assert_eq!(rig.sandbox.ledger().totals.refused_by_gateway, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_is_waited_for_and_costs_no_job_an_attempt() {
    let quota = Quota { calls: 12, window: Duration::from_secs(1) };
    let gateway = Gateway { quota: Some(quota), ..Gateway::default() };
    let rig = Rig::with(Settings { gateway: Some(gateway), ..quick() }).await;
    let daemon = rig.start().await;
    for n in 0..8 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&["patience"]));
    }
    let jobs = daemon.until_ended(8).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded && job.error.is_none()));
    assert!(rig.sandbox.ledger().totals.refused_by_gateway > 0, "the quota was never met");
    for job in &jobs {
        let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", job.id)).await;
        assert!(!events.contains("\"fault\""), "a pause is no fault of a job: {events}");
    }
    rig.started_once_each(8);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rate_limit_nothing_is_sent_until_the_time_named() {
    let gateway = Gateway { calls_per_minute: Some(4), ..Gateway::default() };
    let rig = Rig::with(Settings { gateway: Some(gateway), ..quick() }).await;
    let daemon = rig.start().await;
    for n in 0..6 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&["patience"]));
    }
    daemon
        .until("all were uploaded", |jobs| {
            jobs.len() == 6 && jobs.iter().all(|job| job.phase != Phase::Queued)
        })
        .await;
    let refused = || rig.sandbox.ledger().totals.refused_by_gateway;
    eventually("the limit was met", || async { refused() > 0 }).await;
    // Whatever was on its way already may still be refused, and nothing else: six jobs have one call each at most.
    // Ten looks at the folder are far more than the waits between tries.
    for n in 0..10 {
        rig.drop_file(&format!("later {n}.csv"), &input_of(&["later"]));
        daemon
            .until("it was taken in and uploaded", |jobs| {
                jobs.iter().filter(|job| job.phase != Phase::Queued).count() == 7 + n
            })
            .await;
    }
    assert!(refused() <= 6, "{} calls were refused", refused());
    let jobs = daemon.jobs().await;
    let untouched = |job: &&JobBody| job.attempts == 0 && job.error.is_none();
    assert_eq!(jobs.iter().filter(untouched).count(), 16, "{jobs:#?}");
    daemon.stop().await;
    // The pause is not kept over a restart: with a larger limit all goes on at once.
    rig.sandbox.update(|settings| settings.gateway = Some(Gateway::default()));
    let daemon = rig.start().await;
    let jobs = daemon.until_ended(16).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded));
    rig.started_once_each(16);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_are_handed_over_in_every_form_that_services_take() {
    for hand_over in ["sas", "connection-string"] {
        for input in ["", "input = \"input1\""] {
            let rig = Rig::new()
                .await
                .storage_at(&azurite::connection_string(), &azurite::container())
                .storage(&format!("hand_over = {hand_over:?}\nprefix = \"in/put.1\""))
                .feed(input);
            let daemon = rig.start().await;
            rig.drop_file("50% of it.csv", &input_of(&["handed over"]));
            let jobs = daemon.until_ended(1).await;
            assert_eq!(jobs[0].phase, Phase::Succeeded, "{hand_over} {input} {jobs:#?}");
            let expected = ("50% of it.scores.csv".to_owned(), scores_of(&["handed over"]));
            assert_eq!(rig.files("out"), [expected].into(), "{hand_over} {input}");
            daemon.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_runs_are_in_flight_than_allowed_and_as_many_as_allowed_are() {
    let rig = Rig::with(Settings { run_time: Duration::from_millis(30), ..Settings::default() })
        .await
        .endpoint("max_in_flight = 2");
    let daemon = rig.start().await;
    for n in 0..20 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&["two by two"]));
    }
    let jobs = daemon.until_ended(20).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded));
    assert_eq!(rig.sandbox.ledger().totals.max_in_flight, 2);
    rig.started_once_each(20);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_has_no_more_runs_than_its_own_limit_and_as_many() {
    let rig = Rig::with(Settings { run_time: Duration::from_millis(30), ..Settings::default() })
        .await
        .feed("max_in_flight = 2");
    let daemon = rig.start().await;
    for n in 0..10 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&["two by two"]));
    }
    let jobs = daemon.until_ended(10).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded));
    assert_eq!(rig.sandbox.ledger().totals.max_in_flight, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_tells_what_it_is_doing_and_what_it_waits_for() {
    let rig = Rig::with(Settings { run_time: Duration::from_hours(1), ..Settings::default() })
        .await
        .endpoint("max_in_flight = 1\npoll = { first = \"30m\", factor = 1.5, max = \"30m\" }");
    let daemon = rig.start().await;
    rig.drop_file("first.csv", &input_of(&["it runs"]));
    let one = async |name: &str| {
        let jobs = daemon.jobs().await;
        jobs.into_iter().find(|job| job.name == name)
    };
    let doing = async |name: &str, wanted: &str| {
        one(name).await.and_then(|job| job.doing).is_some_and(|doing| doing.state == wanted)
    };
    eventually("the first one runs", || doing("first.csv", "time")).await;
    rig.drop_file("second.csv", &input_of(&["it waits"]));
    eventually("the second waits for a run", || doing("second.csv", "run")).await;
    let first = one("first.csv").await.unwrap();
    assert_eq!(first.doing.unwrap().action, "poll");
    let next = DateTime::parse_from_rfc3339(&first.next_action_at.unwrap()).unwrap().to_utc();
    let wait = next - DateTime::parse_from_rfc3339(&first.updated_at).unwrap().to_utc();
    assert!((20..40).contains(&wait.num_minutes()), "{wait}");
    let second = one("second.csv").await.unwrap();
    let doing = second.doing.unwrap();
    assert_eq!((doing.action.as_str(), doing.endpoint.as_deref()), ("submit", Some("e")));
    assert_eq!((second.next_action_at, doing.storage), (None, None));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_slowly_arrives_whole() {
    let both = "upload_bytes_per_second = \"64KiB\"\ndownload_bytes_per_second = \"64KiB\"";
    let rig = Rig::new().await.feed(both).storage(both);
    let daemon = rig.start().await;
    let lines: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    rig.drop_file("slow.csv", &input_of(&lines));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:?}");
    assert_eq!(rig.files("out"), [("slow.scores.csv".to_owned(), scores_of(&lines))].into());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_stay_are_not_run_again_by_the_next_daemon() {
    // Read in place, and moved out of sight for the time of the job.
    for on_failure in ["source.on_failure = \"leave\"", ""] {
        let rig = Rig::new().await.feed("source.on_success = \"leave\"").feed(on_failure);
        let daemon = rig.start().await;
        rig.drop_file("stays.csv", &input_of(&["stays"]));
        daemon.until_ended(1).await;
        daemon.stop().await;
        assert_eq!(rig.files("in").into_keys().collect::<Vec<_>>(), ["stays.csv"]);
        let daemon = rig.start().await;
        // A newer file that is through shows that the folder was looked at.
        rig.drop_file("newer.csv", &input_of(&["newer"]));
        daemon.until_ended(2).await;
        rig.drop_file("stays.csv", &input_of(&["stays, with news"]));
        let jobs = daemon.until_ended(3).await;
        let names: Vec<_> = jobs.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["stays.csv", "newer.csv", "stays.csv"], "{on_failure}");
        let in_place = rig.files("in");
        assert_eq!(in_place["stays.csv"], input_of(&["stays, with news"]));
        assert_eq!(rig.files("out").len(), 3);
        rig.started_once_each(3);
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_delete_nothing_is_left_of_a_source_that_succeeded() {
    let rig = Rig::new().await.feed("source.on_success = \"delete\"");
    let daemon = rig.start().await;
    rig.drop_file("goes.csv", &input_of(&["goes"]));
    rig.drop_file("fails.csv", &input_of(&["POISON"]));
    daemon.until_ended(2).await;
    assert!(rig.files("in").is_empty() && !rig.path("archive").exists());
    assert_eq!(std::fs::read_dir(rig.path("in/.scoreline/work")).unwrap().count(), 0);
    assert_eq!(rig.files("out").into_keys().collect::<Vec<_>>(), ["goes.scores.csv"]);
    assert!(rig.files("failed").contains_key("fails.csv"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_inside_the_drop_folder_are_kept_on_both_sides() {
    let rig = Rig::new()
        .await
        .feed("watch.recursive = true")
        .feed("outputs.output1 = \"{relpath}.scores.csv\"");
    let places = ["north/a.csv", "south/a.csv", "north/deep/er/a.csv", "a.csv"];
    for place in places {
        let path = rig.path("in").join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop_into(path.parent().unwrap(), "a.csv".as_ref(), input_of(&[place]).as_bytes());
    }
    let daemon = rig.start().await;
    daemon.until_ended(4).await;
    for place in places {
        let read = |folder: &str, end: &str| {
            std::fs::read_to_string(rig.path(folder).join(format!("{place}{end}"))).unwrap()
        };
        assert_eq!(read("out", ".scores.csv"), scores_of(&[place]));
        assert_eq!(read("archive", ""), input_of(&[place]));
        assert!(!rig.path("in").join(place).exists());
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_in_the_middle_gives_its_jobs_back_and_the_next_one_finishes_them() {
    let rig = Rig::with(Settings { run_time: Duration::from_millis(150), ..Settings::default() })
        .await
        .endpoint("max_in_flight = 4");
    let daemon = rig.start().await;
    for n in 0..20 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&format!("in the middle {n}")]));
    }
    let ended = |jobs: &[JobBody]| jobs.iter().filter(|job| job.phase == Phase::Succeeded).count();
    daemon.until("some have ended", |jobs| ended(jobs) >= 4).await;
    // However many have ended by now, these can't.
    rig.sandbox.update(|settings| settings.slots = 0);
    for n in 20..24 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&format!("in the middle {n}")]));
    }
    let jobs = daemon.until("all were seen", |jobs| jobs.len() == 24).await;
    daemon.stop().await;

    let store = SqliteStore::open_read_only(&rig.path("state"), SystemClock).await.unwrap();
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let rows = store.load(&ids).await.unwrap();
    let (left, done): (Vec<_>, Vec<_>) = rows.iter().partition(|(job, _)| !job.is_done());
    assert!(!left.is_empty() && !done.is_empty(), "{} are left of 24", left.len());
    assert!(left.iter().all(|(_, owner)| owner.is_none()), "a job was not given back");
    drop(store);

    let daemon = rig.start().await;
    let wanted = f64::from(u32::try_from(left.len()).unwrap());
    eventually("it has those that were left", || async {
        daemon.metric("scoreline_jobs_adopted_total{reason=\"free\"}").await == Some(wanted)
    })
    .await;
    rig.sandbox.update(|settings| settings.slots = 40);
    let jobs = daemon.until_ended(24).await;
    assert_eq!(ended(&jobs), 24);
    for n in 0..24 {
        let output = &rig.files("out")[&format!("{n}.scores.csv")];
        assert_eq!(*output, scores_of(&[&format!("in the middle {n}")]));
    }
    assert_eq!((rig.files("out").len(), rig.files("archive").len()), (24, 24));
    rig.started_once_each(24);
    daemon.stop().await;
}

fn quick() -> Settings {
    Settings { run_time: Duration::ZERO, ..Settings::default() }
}

fn with_outputs(names: [&str; 2]) -> Settings {
    Settings { outputs: names.map(str::to_owned).into(), ..quick() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_older_than_the_folders_scores_nothing_again_unasked() {
    let rig = Rig::new().await.endpoint("max_in_flight = 1");
    rig.sandbox.update(|settings| settings.slots = 0);
    let daemon = rig.start().await;
    rig.drop_file("first.csv", &input_of(&["it keeps the only run"]));
    daemon.until("it is submitted", |jobs| jobs.len() == 1 && jobs[0].remote_id.is_some()).await;
    rig.drop_file("a.csv", &input_of(&["it was scored in the meantime"]));
    let waits = |jobs: &[JobBody]| jobs.len() == 2 && jobs[0].phase == Phase::Uploaded;
    daemon.until("it waits", waits).await;
    let id = daemon.jobs().await[0].id;
    daemon.stop().await;
    // What the later life of the job did, of which the restored store knows nothing.
    std::fs::create_dir_all(rig.path("archive")).unwrap();
    let work = rig.path("in/.scoreline/work").join(id.to_string());
    std::fs::rename(work.join("a.csv"), rig.path("archive/a.csv")).unwrap();
    std::fs::remove_dir(work).unwrap();
    rig.sandbox.update(|settings| settings.slots = 40);
    let daemon = rig.start().await;
    daemon.until_ended(2).await;
    let jobs = daemon.jobs().await;
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "source_gone");
    assert_eq!(jobs[1].phase, Phase::Succeeded);
    rig.started_once_each(1);
    assert_eq!(rig.files("archive").len(), 2);
    // Somebody wants it.
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{id}/retry")).await, 202);
    eventually("it is scored", || async { daemon.jobs().await[0].phase == Phase::Succeeded }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_followed_where_it_was_begun_whatever_the_config_says_meanwhile() {
    let new = Rig::new().await;
    let key = new.sandbox.settings().api_key;
    let elsewhere = format!("url = {:?}", new.sandbox.bes_url());
    for edit in ["the endpoint's address", "the feed's endpoint"] {
        let rig = Rig::new().await;
        // Begun, and waiting for its turn there.
        rig.sandbox.update(|settings| settings.slots = 0);
        let daemon = rig.start().await;
        rig.drop_file("first.csv", &input_of(&["one"]));
        daemon
            .until("it is begun", |jobs| jobs.iter().any(|job| job.phase == Phase::Running))
            .await;
        daemon.stop().await;
        let rig = if edit == "the feed's endpoint" {
            let tables = format!(
                "[endpoints.e2]\nkind = \"bes\"\n{elsewhere}\napi_key = {:?}\n",
                key.expose_secret()
            );
            rig.tables(&tables).feed("endpoint = \"e2\"")
        } else {
            rig.endpoint(&elsewhere)
        };
        let daemon = rig.start().await;
        rig.sandbox.update(|settings| settings.slots = 40);
        let jobs = daemon.until_ended(1).await;
        assert_eq!(jobs[0].phase, Phase::Succeeded, "{edit}");
        let before = new.sandbox.ledger().totals.starts;
        rig.drop_file("second.csv", &input_of(&["two"]));
        daemon.until_ended(2).await;
        assert_eq!(
            new.sandbox.ledger().totals.starts,
            before + 1,
            "{edit}: what comes later goes there"
        );
        assert_eq!(rig.sandbox.ledger().totals.starts, 1, "{edit}");
        assert_eq!(rig.files("out").len(), 2, "{edit}");
        daemon.stop().await;
    }
}
