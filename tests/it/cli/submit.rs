//! `submit` and `jobs watch`: with the real daemon, and with one of its words alone where it has to say what it seldom says.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{NOBODY, Running, ended, rig, rig_with, run, scoreline};

const ROW: &str = "Col2\nThis is a good day\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_sent_comes_back_scored_and_is_not_scored_twice() {
    let rig = rig().await;
    let daemon = Running::serve(&rig, "serve").await;
    let file = rig.path("mine.csv");
    std::fs::write(&file, ROW).unwrap();
    let (file, url) = (file.to_str().unwrap(), daemon.url());
    let submit = |more: &'static [&'static str]| {
        let (file, url) = (file.to_owned(), url.clone());
        async move { run(&[&["submit", "f", &file, "--url", &url][..], more].concat()).await }
    };

    let sent = submit(&["--wait"]).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let output = rig.path("out/mine.scores.csv");
    assert!(
        sent.out.contains(&format!("mine.csv: succeeded\n  {}\n", output.display())),
        "{sent:?}"
    );
    assert!(output.exists() && std::fs::exists(file).unwrap(), "the file stays where it is");

    let again = submit(&["--wait"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.out.contains("was sent before: job "), "{again:?}");
    assert!(again.out.contains("(--again scores it once more)"), "{again:?}");
    assert_eq!(rig.sandbox.ledger().totals.starts, 1, "nothing runs twice unasked");

    // Asked for, it is another job, whatever the feed says of duplicates.
    let anew = submit(&["--wait", "--again", "--json"]).await;
    let anew: Value = serde_json::from_str(&anew.out).unwrap();
    assert_eq!(anew["jobs"][0]["new"], true, "{anew}");
    assert_eq!(anew["jobs"][0]["job"]["phase"], "succeeded", "{anew}");
    assert_eq!(rig.sandbox.ledger().totals.starts, 2, "asked for, it runs again");
    // What is sent twice is no file that was taken in twice.
    let config = rig.path("scoreline.toml");
    let audit = run(&["--config", config.to_str().unwrap(), "audit"]).await;
    assert_eq!(audit.code, 0, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_with_its_reason_and_one_failure_is_a_failure() {
    let rig = rig().await;
    let daemon = Running::serve(&rig, "serve").await;
    let file = rig.path("good.csv");
    std::fs::write(&file, ROW).unwrap();
    let url = daemon.url();
    let mut from_stdin =
        scoreline(&["submit", "f", "-", "--name", "bad.csv", "--wait", "--url", &url]);
    let input = rig.path("input");
    std::fs::write(&input, "Col2\nPOISON\n").unwrap();
    from_stdin.stdin(std::fs::File::open(input).unwrap());
    let bad = ended(from_stdin).await;
    assert_eq!(bad.code, 1, "{bad:?}");
    assert!(bad.out.contains("bad.csv: failed: ") && bad.out.contains("POISON"), "{bad:?}");

    let good = run(&["submit", "f", file.to_str().unwrap(), "--url", &url, "--json"]).await;
    assert_eq!((good.code, good.err.as_str()), (0, ""), "{good:?}");
    let good: Value = serde_json::from_str(&good.out).unwrap();
    let id = good["jobs"][0]["job"]["id"].as_str().unwrap().to_owned();
    let watched = run(&["jobs", "watch", &id, "--until-done", "--url", &url, "--json"]).await;
    assert_eq!(watched.code, 0, "{watched:?}");
    let lines: Vec<Value> =
        watched.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["to"], "succeeded", "{watched:?}");
    assert!(lines.iter().all(|line| line["job"] == id.as_str()), "{watched:?}");

    // By how its id begins.
    let begin = &id[..23];
    let shown = run(&["jobs", "show", begin, "--url", &url]).await;
    assert!(shown.out.contains(&id), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_is_told_which_right_is_missing() {
    let rig = rig_with(|text| {
        text.replace("[http]\n", "[http]\ntokens = [{ role = \"read\", secret = \"look\" }]\n")
    })
    .await;
    let daemon = Running::serve(&rig, "serve").await;
    let token = rig.path("token");
    std::fs::write(&token, "look").unwrap();
    let file = rig.path("a.csv");
    std::fs::write(&file, ROW).unwrap();
    let (file, token, url) = (file.to_str().unwrap(), token.to_str().unwrap(), daemon.url());
    let told = run(&["submit", "f", file, "--url", &url, "--token-file", token]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("operate") && told.err.contains("--token-file"), "{told:?}");
}

/// What a daemon was asked, and how it answers.
#[derive(Default)]
struct Fake {
    /// Status of each submission.
    statuses: Vec<u16>,
    /// What was sent: name, key, body.
    sent: Vec<(String, String, Bytes)>,
    /// What each stream of events says before it ends.
    streams: Vec<String>,
    /// After which event each stream was to begin.
    last_ids: Vec<Option<String>>,
    /// In which phase the job is.
    phase: &'static str,
}

type Shared = State<Arc<Mutex<Fake>>>;

impl Fake {
    async fn start(self) -> (String, Arc<Mutex<Self>>) {
        let fake = Arc::new(Mutex::new(self));
        let router = Router::new()
            .route(
                "/api/v1/feeds",
                get(|| async { axum::Json(json!({ "feeds": [{ "name": "f" }] })) }),
            )
            .route("/api/v1/feeds/{feed}/jobs", post(Self::submit))
            .route("/api/v1/jobs/{id}", get(Self::job))
            .route("/api/v1/events", get(Self::events))
            .with_state(fake.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, fake)
    }

    async fn submit(
        State(fake): Shared,
        Path(_): Path<String>,
        Query(name): Query<std::collections::BTreeMap<String, String>>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let mut fake = fake.lock().await;
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        fake.sent.push((name["name"].clone(), key, body));
        let status = fake.statuses.remove(0);
        let status = StatusCode::from_u16(status).unwrap();
        if status.is_success() {
            (status, axum::Json(job("queued"))).into_response()
        } else {
            (status, axum::Json(json!({ "detail": "storage s is away" }))).into_response()
        }
    }

    async fn job(State(fake): Shared, Path(_): Path<String>) -> Response {
        axum::Json(job(fake.lock().await.phase)).into_response()
    }

    async fn events(State(fake): Shared, headers: HeaderMap) -> Response {
        let mut fake = fake.lock().await;
        let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
        fake.last_ids.push(last);
        if fake.streams.len() == 1 {
            fake.phase = "succeeded";
        }
        let text = fake.streams.remove(0);
        ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
    }
}

fn job(phase: &str) -> Value {
    json!({
        "id": NOBODY, "trace_id": "", "feed": "f", "name": "a.csv", "phase": phase, "generation": 1, "attempts": 0,
        "size_bytes": 1, "sha256": null, "remote_id": null, "created_at": "2026-11-23T02:00:00Z",
        "updated_at": "2026-11-23T02:00:00Z", "finished_at": null, "deadline_at": "2026-11-30T02:00:00Z", "fire": null,
        "held": null, "error": null, "source_moved_to": null, "duplicate_of": null, "outputs": [], "origin": "api",
    })
}

fn transition(id: u32, from: &str, to: &str) -> String {
    let data = json!({
        "job": NOBODY, "feed": "f", "name": "a.csv", "from": from, "to": to, "outcome": "x", "detail": null,
        "generation": 1, "revision": id, "at": "2026-11-23T02:00:01Z",
    });
    format!("event: transition\nid: {id}\ndata: {data}\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn adaemon_that_asks_to_be_tried_later_is_and_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a.csv", "b.csv", "c.csv"].map(|name| {
        let file = folder.path().join(name);
        std::fs::write(&file, name).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let statuses = vec![202, 503, 200, 422, 202];
    let (url, fake) = Fake { statuses, ..Default::default() }.start().await;
    let args = ["submit", "f", &files[0], &files[1], &files[2], "--url", &url];
    let later = run(&args).await;
    assert_eq!(later.code, 75, "{later:?}");
    assert!(later.err.contains("run the same command again"), "{later:?}");
    assert!(later.err.contains("storage s is away"), "{later:?}");
    let again = run(&args).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.out.contains("a.csv: was sent before"), "{again:?}");
    assert!(again.err.contains("b.csv: refused (422)"), "the others go on: {again:?}");
    let fake = fake.lock().await;
    let names: Vec<_> = fake.sent.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a.csv", "b.csv", "a.csv", "b.csv", "c.csv"]);
    assert_eq!(fake.sent[0].1, fake.sent[2].1, "the same file has the same key");
    assert_ne!(fake.sent[0].1, fake.sent[1].1);
    assert_eq!(&fake.sent[0].2[..], b"a.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_goes_on_after_its_last_event() {
    let streams = vec![
        transition(7, "queued", "running") + ": ping\n\n",
        transition(8, "running", "scored"),
        "event: gap\ndata: {}\n\n".to_owned(),
    ];
    let (url, fake) = Fake { streams, phase: "queued", ..Default::default() }.start().await;
    let told = run(&["jobs", "watch", NOBODY, "--until-done", "--url", &url]).await;
    assert_eq!(told.code, 0, "{told:?}");
    let ways: Vec<_> = told.out.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(ways, ["queued", "queued → running", "running → scored", "succeeded"]);
    assert!(told.err.contains("trying again"), "{told:?}");
    let last: Vec<_> = fake.lock().await.last_ids.clone();
    assert_eq!(last, [None, Some("7".to_owned()), Some("8".to_owned())]);
}
