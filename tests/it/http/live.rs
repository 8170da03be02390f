//! A site at a glance, and what happens while it happens.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::Method;
use scoreline::clock::SystemClock;
use scoreline::config::{Role, Token};
use scoreline::ports::{Clock as _, Store as _};
use serde_json::{Value, json};

use super::{Desk, ask, held, look};
use crate::rig::{Rig, eventually, with_tls};
use crate::samples::{TERM, submitted, uploaded};

/// Somebody who listens.
struct Ear {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
    /// The last cursor that was told.
    cursor: String,
}

/// One event: its name and its data.
type Heard = (String, Value);

impl Ear {
    async fn listen(url: &str, query: &str, resume: Option<&str>) -> Self {
        with_tls();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("{url}/api/v1/events?{query}"));
        if let Some(cursor) = resume {
            request = request.header("last-event-id", cursor);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: Box::pin(answer.bytes_stream()), text: String::new(), cursor: String::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim().to_owned())
                };
                self.cursor = field("id:").unwrap_or(std::mem::take(&mut self.cursor));
                if let (Some(event), Some(data)) = (field("event:"), field("data:")) {
                    return Some((event, serde_json::from_str(&data).unwrap()));
                }
            }
            let more = SystemClock.timeout(Duration::from_mins(1), self.body.next()).await;
            let more = more.expect("something is told within a minute")?;
            self.text += std::str::from_utf8(&more.ok()?).unwrap();
        }
    }

    /// The next so many transitions: names and phases.
    async fn transitions(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            let (event, data) = self.next().await.unwrap();
            assert_eq!(event, "transition");
            all.push(format!(
                "{} {}",
                data["name"].as_str().unwrap(),
                data["to"].as_str().unwrap()
            ));
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_told_what_happens_as_it_happens() {
    let desk = Desk::open(&[]).await;
    desk.job("before", [uploaded()]).await;
    let mut ear = Ear::listen(&desk.url, "", None).await;
    let job = desk.job("a", [uploaded(), submitted()]).await;
    let (event, data) = ear.next().await.unwrap();
    assert_eq!(event, "transition");
    let id = job.id().to_string();
    let shown = look(&format!("{}/api/v1/jobs/{id}/events", desk.url)).await.json();
    let mut first = shown["events"][0].clone();
    first["job"] = json!(id);
    (first["feed"], first["name"]) = (json!("churn"), json!("a"));
    assert_eq!(data, first);
    assert_eq!(ear.transitions(2).await, ["a uploaded", "a submitted"]);
    desk.job("b", []).await;
    assert_eq!(ear.transitions(1).await, ["b queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_the_last_cursor_misses_nothing() {
    let desk = Desk::open(&[]).await;
    let mut ear = Ear::listen(&desk.url, "", None).await;
    desk.job("a", [uploaded()]).await;
    ear.transitions(2).await;
    let cursor = ear.cursor.clone();
    // With somebody else listening meanwhile, and with nobody.
    let other = Ear::listen(&desk.url, "", None).await;
    drop(ear);
    desk.job("b", []).await;
    let mut ear = Ear::listen(&desk.url, "", Some(&cursor)).await;
    assert_eq!(ear.transitions(1).await, ["b queued"]);
    let cursor = ear.cursor.clone();
    drop((ear, other));
    desk.job("c", [uploaded()]).await;
    let mut ear = Ear::listen(&desk.url, "", Some(&cursor)).await;
    assert_eq!(ear.transitions(2).await, ["c queued", "c uploaded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_too_old_or_no_ones_is_told_to_be_a_gap() {
    let desk = Desk::open(&[]).await;
    for cursor in ["nonsense", "99999999999999999", "-1", ""] {
        let mut ear = Ear::listen(&desk.url, "", Some(cursor)).await;
        // An empty store remembers all there ever was.
        let is_known = cursor != "99999999999999999";
        desk.job(&format!("after {cursor}"), []).await;
        let (event, _) = ear.next().await.unwrap();
        assert_eq!(event, if is_known { "transition" } else { "gap" }, "{cursor:?}");
        drop(ear);
        desk.store.register("again", "default", TERM).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_of_its_feed_and_of_its_job_alone() {
    let desk = Desk::open(&[]).await;
    let job = desk.job("a", []).await;
    let mut by_job = Ear::listen(&desk.url, &format!("job={}", job.id()), None).await;
    let mut by_feed = Ear::listen(&desk.url, "feed=churn", None).await;
    let mut elsewhere = Ear::listen(&desk.url, "feed=other&topics=transitions,summary", None).await;
    desk.job("b", [uploaded()]).await;
    desk.go_on(&job, [uploaded()]).await;
    assert_eq!(by_job.transitions(1).await, ["a uploaded"]);
    assert_eq!(by_feed.transitions(3).await, ["b queued", "b uploaded", "a uploaded"]);
    let (event, _) = elsewhere.next().await.unwrap();
    assert_eq!(event, "summary");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_told_at_once_and_again_when_they_changed() {
    let desk = Desk::open(&[]).await;
    let mut ear = Ear::listen(&desk.url, "topics=summary,feeds", None).await;
    let mut told = [ear.next().await.unwrap(), ear.next().await.unwrap()];
    told.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!((told[0].0.as_str(), told[1].0.as_str()), ("feeds", "summary"));
    assert_eq!(told[0].1, look(&format!("{}/api/v1/feeds", desk.url)).await.json());
    assert_eq!(told[1].1["feeds"], json!([]));
    desk.job("a", [uploaded()]).await;
    desk.put_the_clock_ahead(60);
    let (event, data) = ear.next().await.unwrap();
    assert_eq!((event.as_str(), &data["feeds"][0]["phases"]["uploaded"]), ("summary", &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_while_the_daemon_drains_is_let_go_at_once() {
    let desk = Desk::open(&[]).await;
    let mut ear = Ear::listen(&desk.url, "", None).await;
    desk.job("a", []).await;
    ear.transitions(1).await;
    desk.stop.soft.cancel();
    assert_eq!(ear.next().await, None);
    let problem = look(&format!("{}/api/v1/events", desk.url)).await.problem(503);
    assert!(problem.contains("stopping"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_too_slow_is_told_of_a_gap_and_keeps_nobody_from_hearing() {
    let desk = Desk::open(&[]).await;
    // It reads nothing, and what the system keeps for it is full at some time.
    let mut slow = Ear::listen(&desk.url, "", None).await;
    let mut quick = Ear::listen(&desk.url, "", None).await;
    let mut heard = 0;
    for round in 0..40 {
        let name = format!("{round:0200}");
        let arrivals: Vec<_> =
            (0..1000).map(|n| crate::samples::arrival(format!("{name}-{n}"))).collect();
        desk.store.accept(&desk.node, &arrivals, 0, crate::samples::at(0), None).await.unwrap();
        heard += quick.transitions(1000).await.len();
    }
    assert_eq!(heard, 40_000);
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    while !kinds.contains_key("gap") {
        *kinds.entry(slow.next().await.unwrap().0).or_default() += 1;
    }
    assert!(kinds["transition"] < 40_000);
    desk.job("after", []).await;
    assert_eq!(slow.transitions(1).await, ["after queued"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_listen_to_is_refused() {
    let desk = Desk::open(&[(Role::Read, "look")]).await;
    let events = format!("{}/api/v1/events", desk.url);
    assert_eq!(look(&events).await.status, 401);
    for query in ["topics=weather", "topics=", "job=x", "feed=no%20name", "other=1"] {
        let url = format!("{events}?{query}");
        let answer = ask(Method::GET, &url, &[("authorization", "Bearer look")]).await;
        answer.problem(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_counts_what_all_nodes_have_and_what_nobody_has() {
    let desk = Desk::open(&[]).await;
    desk.job("a", [uploaded()]).await;
    desk.job("b", held()).await;
    desk.store
        .accept(&desk.node, &[crate::samples::arrival("free")], 0, crate::samples::at(0), None)
        .await
        .unwrap();
    let body = look(&format!("{}/api/v1/summary", desk.url)).await.json();
    assert_eq!(body["unowned"], 1);
    let feed = &body["feeds"][0];
    assert_eq!(
        *feed,
        json!({
            "feed": "churn",
            "phases": {"queued": 1, "uploaded": 1, "submitted": 1, "running": 0, "cancelling": 0, "scored": 0, "delivered": 0},
            "held": 1,
            "finished_24h": {"succeeded": 0, "failed": 0, "cancelled": 0, "skipped": 0},
        })
    );
    // Whoever else looks in the same moment asks nobody.
    desk.job("c", []).await;
    let again = look(&format!("{}/api/v1/summary", desk.url)).await.json();
    assert_eq!(again, body);
    desk.put_the_clock_ahead(2);
    let later = look(&format!("{}/api/v1/summary", desk.url)).await.json();
    assert_eq!(later["feeds"][0]["phases"]["queued"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_in_the_summary_and_in_the_throughput() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    let ended = daemon.until_ended(1).await;
    let size = ended[0].size_bytes;
    eventually("it is counted", || async {
        let summary = look(&format!("{}/api/v1/summary", daemon.url)).await.json();
        summary["feeds"][0]["finished_24h"]["succeeded"] == 1
    })
    .await;
    let body = look(&format!("{}/api/v1/throughput", daemon.url)).await.json();
    assert_eq!(body["step_seconds"], 60);
    let points = body["points"].as_array().unwrap();
    assert_eq!(points.len(), 60);
    let sum = |points: &[Value], key: &str| points.iter().map(|p| p[key].as_u64().unwrap()).sum();
    let (done, bytes): (u64, u64) = (sum(points, "succeeded"), sum(points, "bytes"));
    assert_eq!((done, bytes), (1, size));
    for (query, count) in [("?feed=f&minutes=5", 1), ("?feed=other&minutes=1440", 0)] {
        let body = look(&format!("{}/api/v1/throughput{query}", daemon.url)).await.json();
        let done: u64 = sum(body["points"].as_array().unwrap(), "succeeded");
        assert_eq!(done, count, "{query}");
    }
    for query in ["?minutes=0", "?minutes=1441", "?minutes=x", "?feed=no%20name", "?x=1"] {
        look(&format!("{}/api/v1/throughput{query}", daemon.url)).await.problem(400);
    }
    let url = |query: &str| format!("{}/api/v1/jobs/count?{query}", daemon.url);
    let count = look(&url("phase=succeeded&phase=failed,queued&until=2999-01-01T00:00:00Z")).await;
    assert_eq!(count.json(), json!({"count": 1, "more": false}));
    assert_eq!(look(&url("phase=queued,failed")).await.json()["count"], 0);
    assert_eq!(look(&url("until=2001-01-01T00:00:00Z")).await.json()["count"], 0);
    for query in ["phase=queued,", "phase=", "phase=x&phase=queued", "name=a&name=b", "%ff=1"] {
        look(&url(query)).await.problem(400);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_of_other_machines_is_remembered_for_its_job() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    let job = daemon.until_ended(1).await.remove(0);
    let url = format!("{}/api/v1/jobs/{}/requests", daemon.url, job.id);
    let body = look(&url).await.json();
    assert_eq!(body["complete"], false);
    let requests = body["requests"].as_array().unwrap();
    let of = |operation: &str| {
        let found = requests.iter().find(|request| request["operation"] == operation);
        found.unwrap_or_else(|| panic!("no {operation}: {body:#}"))
    };
    let submit = of("submit");
    assert_eq!((&submit["method"], &submit["status"]), (&json!("POST"), &json!(200)));
    assert_eq!(submit["endpoint"], "e");
    let address = submit["url"].as_str().unwrap();
    assert!(address.ends_with("/jobs") && !address.contains('?'), "{address}");
    let start = of("start")["url"].as_str().unwrap();
    assert!(
        start.contains(job.remote_id.as_deref().unwrap()) && start.ends_with("/start"),
        "{start}"
    );
    of("status");
    let times: Vec<_> = requests.iter().map(|request| request["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let nobody = "01900000-0000-7000-8000-00000000ffff";
    look(&format!("{}/api/v1/jobs/{nobody}/requests", daemon.url)).await.problem(404);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_on_whose_token_is_gone() {
    let desk = Desk::open(&[]).await;
    let mut ear = Ear::listen(&desk.url, "topics=transitions", None).await;
    let token = Token { role: Role::Read, secret: "another".to_owned().into() };
    desk.tokens.send_replace([token].into());
    assert_eq!(ear.next().await, None);
}
