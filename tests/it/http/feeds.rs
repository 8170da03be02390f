//! Feeds over HTTP: how they stand, their pauses and fires, and what is with a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use scoreline::clock::SystemClock;
use scoreline::config::{Config, Role};
use scoreline::feed::Feed;
use scoreline::fire::{FireKind, FireRow, FireState, Reason};
use scoreline::inbox::FolderInbox;
use scoreline::job::{Job, Outcome};
use scoreline::ports::{Accepted, Clock, Committed, Firing, Inbox, Schedules, Store, World};
use scoreline::sandbox;
use serde_json::{Value, json};

use super::{Answer, Desk, ask, ask_with, held, look};
use crate::rig::Rig;
use crate::samples::{arrival, arrival_in, at, name, permanent, settled, step, uploaded};

/// A desk over two feeds: "churn", which has a schedule and is looked at as if all files were still for long enough, and
/// "later", whose files have to be still for an hour.
struct Feeds {
    rig: Rig,
    desk: Desk,
}

impl Feeds {
    async fn open(tokens: &[(Role, &str)]) -> Self {
        Self::with(tokens, "schedule.cron = \"0 2 * * *\"\nschedule.timezone = \"Europe/Berlin\"")
            .await
    }

    async fn with(tokens: &[(Role, &str)], keys: &str) -> Self {
        let rig = Rig::new().await;
        std::fs::create_dir(rig.path("later")).unwrap();
        let text = rig.config_text();
        let (head, feed) = text.split_once("[feeds.f]\n").unwrap();
        let place = |folder: &str| rig.path(folder).display().to_string();
        let later = feed
            .replace(&place("in"), &place("later"))
            .replace("watch.settle = \"20ms\"", "watch.settle = \"1h\"");
        let text = format!("{head}[feeds.churn]\n{feed}{keys}\n[feeds.later]\n{later}");
        let config = Config::parse(&text, &rig.path("c.toml"), &BTreeMap::new());
        let feeds = config.unwrap_or_else(|errors| panic!("{errors}")).rules().feeds;
        let inbox = |feed: &Arc<Feed>| {
            let watch = feed.watch.clone().unwrap();
            if feed.name == name("churn") {
                FolderInbox::read_only(feed.name.clone(), watch, SystemClock)
            } else {
                FolderInbox::new(feed.name.clone(), watch, true, SystemClock)
            }
        };
        let inboxes = feeds.values().map(|feed| (feed.name.clone(), inbox(feed))).collect();
        let desk = Desk::with(tokens, feeds, inboxes).await;
        Self { rig, desk }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.desk.url)
    }

    async fn feed(&self, feed: &str) -> Value {
        let all = look(&self.url("feeds")).await.json();
        let mut all = all["feeds"].as_array().unwrap().iter();
        all.find(|one| one["name"] == feed).unwrap().clone()
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        ask_with(Method::POST, &self.url(&format!("feeds/{path}")), &headers, body).await
    }

    async fn run(&self, key: &str) -> Answer {
        let url = self.url("feeds/churn/run");
        ask(Method::POST, &url, &[("idempotency-key", key)]).await
    }

    fn drop_file(&self, folder: &str, name: &str) -> String {
        std::fs::write(self.rig.path(folder).join(name), "Col2\nx\n").unwrap();
        self.rig.path(folder).join(name).display().to_string()
    }

    async fn scan(&self, feed: &str) {
        self.desk.world.inbox(&name(feed)).unwrap().scan().await.unwrap();
    }

    async fn explain(&self, path: &str) -> Value {
        explain(&self.desk.url, Path::new(path)).await
    }
}

async fn explain(url: &str, path: &Path) -> Value {
    let url = format!("{url}/api/v1/explain");
    let url = reqwest::Url::parse_with_params(&url, [("path", path.to_str().unwrap())]).unwrap();
    let answer = look(url.as_str()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn feeds_are_shown_with_their_folders_schedules_and_fires() {
    let feeds = Feeds::with(
        &[],
        "schedule.cron = \"0 2 * * *\"\nschedule.timezone = \"Europe/Berlin\"\nschedule.expect_by = \"4h\"",
    )
    .await;
    let metrics = feeds.desk.world.metrics();
    metrics.inbox_files.with_label_values(&["churn", "ready"]).set(7);
    metrics.inbox_files.with_label_values(&["churn", "settling"]).set(2);
    metrics.inbox_oldest_file_age_seconds.with_label_values(&["churn"]).set(61.5);
    let all = look(&feeds.url("feeds")).await.json();
    let names: Vec<_> = all["feeds"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
    assert_eq!(names, ["churn", "later"]);
    let churn = feeds.feed("churn").await;
    assert_eq!((&churn["endpoint"], &churn["storage"]), (&json!("e"), &json!("s")));
    assert_eq!(churn["folder"], feeds.rig.path("in").display().to_string());
    assert_eq!(
        churn["inbox"],
        json!({ "ready": 7, "settling": 2, "denied": 0, "ignored": 0, "oldest_seconds": 61,
            "noticed_by": "events", "notes": [] })
    );
    let schedule = &churn["schedule"];
    assert_eq!(
        (&schedule["cron"], &schedule["timezone"]),
        (&json!("0 2 * * *"), &json!("Europe/Berlin"))
    );
    let next = schedule["next"].as_array().unwrap();
    assert_eq!(next.len(), 3);
    assert!(time(&next[0]["nominal"]) > SystemClock.now() - TimeDelta::minutes(5));
    assert!(time(&next[0]["nominal"]) < time(&next[1]["nominal"]));
    let expected = time(&schedule["expect_by"]);
    let after_next = time(&next[0]["nominal"]) + TimeDelta::hours(4);
    assert!(expected <= after_next && expected > SystemClock.now() - TimeDelta::minutes(5));
    assert_eq!(
        (&churn["open_fires"], &churn["last_fire"], &churn["paused"]),
        (&json!(0), &Value::Null, &Value::Null)
    );
    assert!(feeds.feed("later").await["schedule"].is_null());

    assert_eq!(feeds.post("churn/run", "").await.status, 202);
    let churn = feeds.feed("churn").await;
    assert_eq!((&churn["open_fires"], &churn["last_fire"]["kind"]), (&json!(1), &json!("manual")));
}

#[tokio::test]
async fn a_feed_is_paused_and_resumed() {
    let feeds = Feeds::open(&[]).await;
    let before = SystemClock.now();
    let answer = feeds.post("churn/pause", "{\"why\": \"the source is being mended\"}").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let paused = answer.json()["paused"].clone();
    assert_eq!(
        (&paused["by"], &paused["why"]),
        (&json!("operator"), &json!("the source is being mended"))
    );
    assert!(
        paused["until"].is_null() && time(&paused["since"]) >= before - TimeDelta::milliseconds(1)
    );
    assert_eq!(feeds.feed("churn").await["paused"], paused);
    assert!(feeds.feed("later").await["paused"].is_null(), "another feed");
    // Again, with an end: since when stays.
    let body = "{\"until\": \"2999-01-01T00:00:00+01:00\"}";
    let again = feeds.post("churn/pause", body).await.json()["paused"].clone();
    assert_eq!(
        (&again["until"], &again["since"]),
        (&json!("2998-12-31T23:00:00.000Z"), &paused["since"])
    );

    let resumed = feeds.post("churn/resume", "").await;
    assert_eq!((resumed.status, &resumed.json()["paused"]), (202, &Value::Null));
    assert!(feeds.feed("churn").await["paused"].is_null());
    assert_eq!(feeds.post("churn/resume", "").await.status, 200, "there was nothing to resume");
}

#[tokio::test]
async fn what_cannot_be_asked_of_a_feed_is_told() {
    let feeds = Feeds::open(&[]).await;
    let long = format!("{{\"why\": \"{}\"}}", "x".repeat(201));
    for (path, body, status, reason) in [
        (
            "churn/pause",
            "{\"until\": \"2001-01-01T00:00:00Z\"}",
            400,
            "until is over: by the database's clock",
        ),
        ("churn/pause", "{\"until\": \"tomorrow\"}", 400, "like 2026"),
        ("churn/pause", "{\"why\": \"a\\nb\"}", 400, "why must be one line"),
        ("churn/pause", long.as_str(), 400, "200 characters"),
        ("churn/pause", "{\"reason\": \"x\"}", 400, "unknown field `reason`"),
        ("nobody/pause", "", 404, "there is no feed nobody in the config: there is churn, later"),
        ("nobody/resume", "", 404, "churn, later"),
        ("nobody/run", "", 404, "churn, later"),
        ("a%2Fb/run", "", 400, "not a name"),
        ("churn/run", "{\"key\": \"x\"}", 400, "unknown field `key`"),
    ] {
        let detail = feeds.post(path, body).await.problem(status);
        assert!(detail.contains(reason), "{path} {body}: {detail}");
    }
    for (path, status, reason) in [
        ("feeds/nobody/fires", 404, "churn, later"),
        ("feeds/churn/fires?cursor=5", 400, "no cursor"),
        ("feeds/churn/fires?limit=0", 400, "from 1 to 1000"),
        ("feeds/churn/fires?colour=red", 400, "colour"),
        ("feeds/churn/run", 405, "GET"),
        ("explain", 400, "path"),
        ("explain?path=in/a.csv", 400, "absolute"),
        ("explain?path=/in/../a.csv", 400, "without \"..\""),
    ] {
        let detail = look(&feeds.url(path)).await.problem(status);
        assert!(detail.contains(reason), "{path}: {detail}");
    }
    assert!(feeds.feed("churn").await["paused"].is_null());
    assert!(feeds.feed("churn").await["last_fire"].is_null());
}

#[tokio::test]
async fn whoever_may_only_look_sees_feeds_and_moves_none() {
    let feeds = Feeds::open(&[(Role::Read, "looker"), (Role::Operate, "worker")]).await;
    let (read, operate) =
        ([("authorization", "Bearer looker")], [("authorization", "Bearer worker")]);
    for path in ["feeds", "feeds/churn/fires", "explain?path=/a"] {
        look(&feeds.url(path)).await.problem(401);
        assert_eq!(ask(Method::GET, &feeds.url(path), &read).await.status, 200, "{path}");
    }
    for what in ["pause", "resume", "run"] {
        let url = feeds.url(&format!("feeds/churn/{what}"));
        let detail = ask(Method::POST, &url, &read).await.problem(403);
        assert!(detail.contains("operate"), "{detail}");
    }
    let answer = ask(Method::POST, &feeds.url("feeds/churn/run"), &operate).await;
    assert_eq!(answer.status, 202);
    let fires = ask(Method::GET, &feeds.url("feeds/churn/fires"), &read).await.json();
    assert_eq!(fires["fires"].as_array().unwrap().len(), 1, "of the one who may");
}

#[tokio::test]
async fn a_run_that_is_asked_for_again_with_its_key_is_the_same_fire() {
    let feeds = Feeds::open(&[]).await;
    let first = feeds.run("night 1").await;
    let fire = first.json();
    assert_eq!(
        (first.status, &fire["state"], &fire["kind"]),
        (202, &json!("open"), &json!("manual"))
    );
    assert_eq!((&fire["key"], &fire["note"]), (&json!("night 1"), &json!("operator")));
    let again = feeds.run("night 1").await;
    assert_eq!((again.status, again.json()), (200, fire.clone()));
    let other = feeds.run("night 2").await;
    assert_eq!(other.status, 202);
    assert_ne!(other.json()["id"], fire["id"]);
    for _ in 0..2 {
        assert_eq!(
            feeds.post("churn/run", "").await.status,
            202,
            "without a key each is one of its own"
        );
    }
    assert!(feeds.run("").await.problem(400).contains("must say something"));
    let fires = look(&feeds.url("feeds/churn/fires")).await.json();
    assert_eq!(fires["fires"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn fires_are_listed_newest_first_and_in_pages() {
    let feeds = Feeds::open(&[]).await;
    let (desk, feed) = (&feeds.desk, name("churn"));
    let now = SystemClock.now();
    let rows: Vec<_> = (0..5)
        .map(|n| {
            let nominal = now + TimeDelta::minutes(n);
            let window = nominal - TimeDelta::minutes(1)..nominal;
            let row = FireRow::due("default", &feed, FireKind::Scheduled, nominal, window, now);
            if n == 3 { row.skipped(Reason::Overlap) } else { row }
        })
        .collect();
    desk.store.enter(&desk.node, &feed, &rows).await.unwrap();
    let (mut ids, mut sizes, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let url = feeds.url(&format!("feeds/churn/fires?limit=2{cursor}"));
        let page = look(&url).await.json();
        let fires = page["fires"].as_array().unwrap();
        sizes.push(fires.len());
        ids.extend(fires.iter().map(|fire| fire["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let newest_first: Vec<_> = rows.iter().rev().map(|row| row.id.to_string()).collect();
    assert_eq!((ids, sizes), (newest_first, vec![2, 2, 1]));
    let all = look(&feeds.url("feeds/churn/fires")).await.json();
    let skipped = &all["fires"][1];
    assert_eq!((&skipped["state"], &skipped["reason"]), (&json!("skipped"), &json!("overlap")));
    assert!(all["next_cursor"].is_null());
}

#[tokio::test]
async fn a_job_is_shown_with_the_fire_that_made_it() {
    let desk = Desk::open(&[]).await;
    let feed = arrival("a").feed;
    let row = FireRow::due("default", &feed, FireKind::CatchUp, at(60), at(0)..at(60), at(61));
    let fire = Some(Firing { feed: &feed, row: &row, then: FireState::Ran });
    let accepted = desk.store.accept(&desk.node, &[arrival("a")], 1, at(62), fire).await.unwrap();
    let [Accepted::New(job)] = &accepted[..] else { panic!("{accepted:?}") };
    let shown = look(&format!("{}/api/v1/jobs/{}", desk.url, job.id())).await.json();
    let expected = json!({
        "id": row.id.to_string(),
        "kind": "catch_up",
        "nominal": "2027-01-15T08:01:00.000Z",
        "window_start": "2027-01-15T08:00:00.000Z",
        "window_end": "2027-01-15T08:01:00.000Z",
    });
    assert_eq!(shown["fire"], expected);
}

#[tokio::test]
async fn what_holds_a_file_back_is_told_with_how_long() {
    let feeds = Feeds::open(&[]).await;
    let path = |folder: &str| feeds.rig.path(folder).display().to_string();
    for (asked, feed, state, text) in [
        ("/nowhere/a.csv".to_owned(), Value::Null, "elsewhere", "(the drop folder of feed churn)"),
        (path("in"), json!("churn"), "folder", "this is the drop folder of feed churn"),
        (path("in/x.csv"), json!("churn"), "not_there", "no job had it"),
        (feeds.drop_file("in", ".a.csv"), json!("churn"), "filtered_out", "begins with a dot"),
        (path("in/.scoreline/folder"), json!("churn"), "filtered_out", "own folder"),
        (path("archive/a.csv"), json!("churn"), "unknown", "no job is known"),
        (feeds.drop_file("later", "a.csv"), json!("later"), "settling", "still for 3600 s more"),
    ] {
        let told = feeds.explain(&asked).await;
        assert_eq!((&told["feed"], &told["state"]), (&feed, &json!(state)), "{told}");
        assert!(told["text"].as_str().unwrap().contains(text), "{told}");
        assert_eq!((&told["path"], &told["job"]), (&json!(asked), &Value::Null));
        let left = if state == "settling" { json!(3600) } else { Value::Null };
        assert_eq!(told["until_seconds"], left, "{told}");
    }
    std::fs::remove_dir_all(feeds.rig.path("later")).unwrap();
    let gone = feeds.explain(&path("later/a.csv")).await;
    assert_eq!(gone["state"], "folder_trouble", "{gone}");
}

#[tokio::test]
async fn a_file_that_is_ready_is_told_what_its_feed_waits_for() {
    let feeds = Feeds::with(
        &[],
        "schedule.cron = \"0 2 * * *\"\nschedule.timezone = \"Europe/Berlin\"\nwatch.max_waiting = 1",
    )
    .await;
    let file = feeds.drop_file("in", "a.csv");
    feeds.scan("churn").await;
    let told = feeds.explain(&file).await;
    assert_eq!(told["state"], "scheduled", "{told}");
    let left = told["until_seconds"].as_u64().unwrap();
    assert!(left <= 25 * 3600, "{told}");
    // Its fire is there.
    feeds.run("k").await;
    assert_eq!(feeds.explain(&file).await["state"], "waiting");
    let before = feeds.desk.job("b.csv", []).await;
    let told = feeds.explain(&file).await;
    assert_eq!(told["state"], "queue_full", "{told}");
    assert!(told["text"].as_str().unwrap().contains("watch.max_waiting is 1"), "{told}");
    assert_eq!(before.feed(), &name("churn"));
    let until = (SystemClock.now() + TimeDelta::hours(1)).to_rfc3339();
    let body = json!({ "why": "new model", "until": until }).to_string();
    for feed in ["churn", "later"] {
        assert_eq!(feeds.post(&format!("{feed}/pause"), &body).await.status, 202);
    }
    for file in [file, feeds.drop_file("later", "never looked at.csv")] {
        let told = feeds.explain(&file).await;
        assert_eq!(told["state"], "paused", "{told}");
        assert!(
            told["text"].as_str().unwrap().contains("by operator (new model), until 20"),
            "{told}"
        );
        assert!((3500..=3600).contains(&told["until_seconds"].as_u64().unwrap()), "{told}");
    }
}

#[tokio::test]
async fn a_file_that_has_a_job_is_told_its_newest_one() {
    let feeds = Feeds::open(&[]).await;
    let path = |file: &str| feeds.rig.path("in").join(file).display().to_string();
    let _other = feeds.desk.job("data.csv", []).await;
    let job = feeds.desk.job("a.csv", held()).await;
    let told = feeds.explain(&path("a.csv").replace("/in/", "/in//./")).await;
    assert_eq!((&told["state"], &told["job"]), (&json!("taken"), &json!(job.id())), "{told}");
    assert!(
        told["text"].as_str().unwrap().contains("which is submitted and waits for a person"),
        "{told}"
    );
    let work = |job: &Job| path(&format!(".scoreline/work/{}/x.csv", job.id()));
    let job = feeds.desk.job("x.csv", [uploaded()]).await;
    let told = feeds.explain(&work(&job)).await;
    assert_eq!((&told["state"], &told["job"]), (&json!("taken"), &json!(job.id())), "{told}");
}

#[tokio::test]
async fn in_a_folder_that_feeds_share_a_file_leads_to_the_job_that_put_it_there() {
    let feeds = Feeds::open(&[]).await;
    let desk = &feeds.desk;
    let failed = feeds.rig.path("failed/x-1.csv");
    feeds.desk.job("x.csv", [permanent(), settled()]).await;
    let arrivals = [arrival_in("later", "x.csv")];
    let accepted =
        desk.store.accept(&desk.node, &arrivals, 1, at(0), None).await.unwrap().remove(0);
    let Accepted::New(mut job) = accepted else { panic!("{accepted:?}") };
    for outcome in [permanent(), Outcome::Settled(Some(failed.clone()))] {
        let transition = step(&job, outcome);
        *job = transition.job.clone();
        let committed = desk.store.commit(&desk.node, &[transition]).await.unwrap();
        assert_eq!(committed, [Committed::Done]);
    }
    let told = feeds.explain(failed.to_str().unwrap()).await;
    assert_eq!((&told["feed"], &told["state"]), (&json!("later"), &json!("failed")), "{told}");
    assert_eq!(told["job"], json!(job.id()), "{told}");
    assert!(told["text"].as_str().unwrap().contains("which is failed (bad: bad)"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_called_after_its_job_leads_to_it() {
    let rig = Rig::new().await.feed("outputs.output1 = \"{job}.csv\"");
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nx\n");
    let job = daemon.until_ended(1).await.remove(0);
    let told = explain(&daemon.url, &job.outputs[0].path).await;
    assert_eq!((&told["state"], &told["job"]), (&json!("output"), &json!(job.id)), "{told}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_left_anywhere_leads_to_it() {
    let rig = Rig::with(sandbox::Settings {
        run_time: std::time::Duration::ZERO,
        faults: vec!["run=fail:*1".parse().unwrap()],
        ..Default::default()
    })
    .await;
    let daemon = rig.start().await;
    rig.drop_file("bad.csv", "Col2\nx\n");
    let bad = daemon.until_ended(1).await[0].id;
    rig.drop_file("good.csv", "Col2\nx\n");
    let good = daemon.until_ended(2).await[0].id;
    for (file, state, job) in [
        ("in/good.csv", "taken", good),
        ("archive/good.csv", "archived", good),
        ("out/good.scores.csv", "output", good),
        ("failed/bad.csv", "failed", bad),
        ("failed/bad.csv.error.json", "report", bad),
    ] {
        let told = explain(&daemon.url, &rig.path(file)).await;
        assert_eq!((&told["feed"], &told["state"]), (&json!("f"), &json!(state)), "{told}");
        assert_eq!(told["job"], json!(job), "{told}");
    }
    daemon.stop().await;
}
