//! Inputs that are sent, and what keeps them from being lost, doubled or halved.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use scoreline::job::Phase;
use scoreline::ports::{BlobPage, Blobs as _, Schedules as _, World as _};
use serde_json::Value;
use sha2::Digest as _;

use super::{Answer, ask, ask_with};
use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running, eventually};
use crate::samples::name;

async fn send(daemon: &Running, file: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = format!("{}/api/v1/feeds/f/jobs?name={file}", daemon.url);
    ask_with(Method::POST, &url, headers, body).await
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The names of the feed's blobs.
async fn blobs(daemon: &Running) -> Vec<String> {
    let storage = daemon.world.blobs(&name("s")).unwrap();
    let BlobPage { blobs, .. } = storage.list("f/", None, 100).await.unwrap();
    blobs.into_iter().map(|blob| blob.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_feed_without_a_folder_is_scored_and_delivered() {
    let rig = Rig::new().await.named("outputs.output1 = \"{relpath}.scores\"");
    let daemon = rig.start().await;
    let input = input_of(&["This is a good day"]);
    let answer = send(&daemon, "deep/good%20day.csv", &[], &input).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let job = answer.json();
    assert_eq!((&job["name"], &job["phase"]), (&"deep/good day.csv".into(), &"queued".into()));
    assert_eq!((&job["origin"], &job["size_bytes"]), (&"api".into(), &input.len().into()));
    let jobs = daemon.until_ended(1).await;
    assert_eq!((jobs.len(), jobs[0].phase), (1, Phase::Succeeded));
    assert_eq!(jobs[0].source_moved_to, None);
    let there = std::fs::read_to_string(rig.path("out/deep/good day.csv.scores")).unwrap();
    assert_eq!(there, scores_of(&["This is a good day"]));
    rig.started_once_each(1);
    let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", id(&answer))).await;
    let events: Value = serde_json::from_str(&events).unwrap();
    assert!(events["events"][0]["detail"].as_str().unwrap().starts_with("sent: "));
    let (_, feeds) = daemon.get("/api/v1/feeds").await;
    assert!(feeds.contains("\"takes\":\"what is sent to it\""), "{feeds}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_feed_with_a_folder_leaves_the_folder_alone() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["dropped"]));
    daemon.until_ended(1).await;
    let before = rig.files("archive");
    assert_eq!(send(&daemon, "a.csv", &[], &input_of(&["sent"])).await.status, 202);
    assert_eq!(send(&daemon, "bad.csv", &[], &input_of(&["POISON"])).await.status, 202);
    daemon.until_ended(3).await;
    assert_eq!(rig.files("archive"), before);
    assert!(rig.files("failed").is_empty() && rig.files("in").is_empty());
    assert_eq!(rig.files("out")["a.scores-1.csv"], scores_of(&["sent"]));
    daemon.stop().await;
    let findings = crate::audit::found(&crate::audit::audited(&rig).await, &rig);
    assert!(findings.is_empty(), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_job_and_for_something_else_it_is_refused() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let input = input_of(&["once"]);
    let key = [("idempotency-key", "k 1")];
    let first = send(&daemon, "a.csv", &key, &input).await;
    assert_eq!(first.status, 202);
    let again = send(&daemon, "a.csv", &key, &input).await;
    assert_eq!((again.status, id(&again)), (200, id(&first)));
    let other = send(&daemon, "b.csv", &key, &input).await.problem(422);
    assert!(other.contains("\"k 1\"") && other.contains(&id(&first)), "{other}");
    send(&daemon, "a.csv", &key, "Col2\nlonger than it was before\n").await.problem(422);
    let fresh = send(&daemon, "a.csv", &[("idempotency-key", "k 2")], &input).await;
    assert_eq!(fresh.status, 202, "by its content it is a duplicate, and says so itself");
    let jobs = daemon.until_ended(2).await;
    assert_eq!(jobs.iter().filter(|job| job.phase == Phase::Skipped).count(), 1);
    let again = send(&daemon, "a.csv", &key, &input).await;
    assert_eq!((again.status, id(&again)), (200, id(&first)), "whatever has become of it");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twins_that_are_sent_at_once_one_becomes_the_job_of_both() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let input = input_of(&["twins"]);
    let twin = || send(&daemon, "a.csv", &[("idempotency-key", "k")], &input);
    let answers = futures::future::join_all((0..6).map(|_| twin())).await;
    let new: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert_eq!(new.len(), 1);
    assert!(answers.iter().all(|answer| id(answer) == id(new[0]) && answer.status < 300));
    daemon.until_ended(1).await;
    rig.started_once_each(1);
    let inputs = blobs(&daemon).await.into_iter().filter(|blob| blob.contains("/0-sent/")).count();
    assert_eq!(inputs, 1, "those of the others are gone");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_an_input_becomes_nothing() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let address = daemon.url.strip_prefix("http://").unwrap().to_owned();
    for (length, body) in [
        ("Content-Length: 100", "Col2\nhalf of it"),
        ("Transfer-Encoding: chunked", "5\r\nCol2\n\r\n20\r\nhalf of a chunk"),
    ] {
        let address = address.clone();
        let sent = tokio::task::spawn_blocking(move || {
            let mut line = TcpStream::connect(&address).unwrap();
            let head = format!(
                "POST /api/v1/feeds/f/jobs?name=a.csv HTTP/1.1\r\nHost: {address}\r\n{length}\r\n\r\n"
            );
            line.write_all((head + body).as_bytes()).unwrap();
            line.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            // There may be none: nobody listens who ends in the middle.
            let _ = line.read_to_string(&mut answer);
            answer
        });
        let answer = sent.await.unwrap();
        assert!(!answer.contains(" 202 ") && !answer.contains(" 200 "), "{answer}");
    }
    let whole =
        send(&daemon, "a.csv", &[("transfer-encoding", "chunked")], &input_of(&["x"])).await;
    assert_eq!(whole.status, 202, "{}", whole.text);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(blobs(&daemon).await.iter().filter(|blob| blob.contains("0-sent")).count(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_held_against_what_came() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let input = input_of(&["digest"]);
    let digest = |text: &str| format!("sha-256=:{}:", BASE64.encode(sha2::Sha256::digest(text)));
    let (right, wrong) = (digest(&input), digest("something else"));
    for header in ["content-digest", "repr-digest"] {
        let said = send(&daemon, "a.csv", &[(header, &wrong)], &input).await.problem(400);
        assert!(said.contains("sha256"), "{said}");
    }
    send(&daemon, "a.csv", &[("content-digest", "sha-256=:what:")], &input).await.problem(400);
    assert!(daemon.jobs().await.is_empty() && blobs(&daemon).await.is_empty());
    assert_eq!(send(&daemon, "a.csv", &[("repr-digest", &right)], &input).await.status, 202);
    daemon.until_ended(1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_become_no_job_is_refused_with_words() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    for file in ["../a.csv", "%2Fetc%2Fpasswd", ".a.csv", "a%2F.b%2Fc.csv", "", "a%00b.csv"] {
        send(&daemon, file, &[], "x").await.problem(400);
    }
    let said = send(&daemon, "a.csv", &[], "").await.problem(422);
    assert!(said.contains("a.csv is empty"), "{said}");
    send(&daemon, "a.csv", &[("content-encoding", "gzip")], "x").await.problem(415);
    let url = format!("{}/api/v1/feeds", daemon.url);
    ask(Method::POST, &format!("{url}/f/jobs"), &[]).await.problem(400);
    ask(Method::POST, &format!("{url}/nobody/jobs?name=a.csv"), &[]).await.problem(404);
    ask(Method::GET, &format!("{url}/f/jobs?name=a.csv"), &[]).await.problem(405);
    assert!(daemon.jobs().await.is_empty() && blobs(&daemon).await.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_too_long_is_refused_whether_it_says_so_or_not() {
    let rig = Rig::new().await.named("");
    let text = rig.config_text().replace("[http]", "[http]\nmax_upload = \"20\"");
    let (daemon, _reloader) = rig.start_reloading(&text).await;
    let long = "Col2\n0123456789012345\n";
    assert_eq!(long.len(), 22);
    let said = send(&daemon, "a.csv", &[], long).await.problem(413);
    assert!(said.contains("20 bytes") && said.contains("http.max_upload"), "{said}");
    let url = format!("{}/api/v1/feeds/f/jobs?name=a.csv", daemon.url);
    let parts = [Ok::<_, std::io::Error>("Col2\n"), Ok(&long[5..])];
    let body = reqwest::Body::wrap_stream(futures::stream::iter(parts));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = http.post(url).body(body).send().await.unwrap().status().as_u16();
    assert_eq!(status, 413, "nobody said how long it is");
    assert!(daemon.jobs().await.is_empty());
    let whole = send(&daemon, "a.csv", &[], &long[..20]).await;
    assert_eq!(whole.status, 202, "{}", whole.text);
    daemon.until_ended(1).await;
    let inputs = blobs(&daemon).await.into_iter().filter(|blob| blob.contains("/0-sent/")).count();
    assert_eq!(inputs, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_paused_takes_nothing_until_it_is_resumed() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    assert_eq!(daemon.post("/api/v1/feeds/f/pause").await, 202);
    let refused = send(&daemon, "a.csv", &[], &input_of(&["x"])).await;
    let again_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(again_after > 0);
    let said = refused.problem(503);
    assert!(said.contains("paused") && said.contains("feeds resume f"), "{said}");
    assert_eq!(daemon.post("/api/v1/feeds/f/resume").await, 202);
    let store = daemon.world.store();
    eventually("the pause is over", || async {
        let now = store.now().await.unwrap();
        let feeds = store.feeds("default").await.unwrap();
        !feeds.iter().any(|feed| feed.pause.as_ref().is_some_and(|pause| pause.holds(now)))
    })
    .await;
    assert_eq!(send(&daemon, "a.csv", &[], &input_of(&["x"])).await.status, 202);
    daemon.until_ended(1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_on_from_the_blob_and_says_when_it_is_gone() {
    let rig = Rig::new().await.named("");
    rig.faults(&["run=fail:*1"]);
    let daemon = rig.start().await;
    let sent = send(&daemon, "a.csv", &[], &input_of(&["again"])).await;
    let job = id(&sent);
    let failed = daemon.until_ended(1).await;
    assert_eq!(failed[0].phase, Phase::Failed);
    let retry = format!("/api/v1/jobs/{job}/retry");
    assert_eq!(daemon.post(&retry).await, 202);
    let jobs =
        daemon.until("it is scored", |jobs| jobs[0].phase.is_final() && jobs[0].generation == 2);
    assert_eq!(jobs.await[0].phase, Phase::Succeeded);

    rig.faults(&["run=fail:*1"]);
    let sent = send(&daemon, "b.csv", &[], &input_of(&["gone"])).await;
    let job = id(&sent);
    daemon.until_ended(2).await;
    let blob = blobs(&daemon).await.into_iter().find(|blob| blob.contains("0-sent/b.csv"));
    daemon.world.blobs(&name("s")).unwrap().delete(&blob.unwrap()).await.unwrap();
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{job}/retry")).await, 202);
    let gone = |jobs: &[scoreline::http::JobBody]| {
        jobs[0].error.as_ref().is_some_and(|error| error.code == "input_gone")
    };
    let jobs = daemon.until("it is told that it is gone", gone).await;
    assert!(jobs[0].error.as_ref().unwrap().message.contains("send it again"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_takes_his_time_holds_nobody_up() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let address = daemon.url.strip_prefix("http://").unwrap().to_owned();
    let head = "HTTP/1.1\r\nContent-Length: 100\r\nHost:";
    let slow: Vec<_> = (0..40)
        .map(|n| {
            let mut line = TcpStream::connect(&address).unwrap();
            write!(
                line,
                "POST /api/v1/feeds/f/jobs?name=slow{n}.csv {head} {address}\r\n\r\nCol2\n"
            )
            .unwrap();
            line
        })
        .collect();
    assert_eq!(send(&daemon, "quick.csv", &[], &input_of(&["quick"])).await.status, 202);
    assert_eq!(daemon.until_ended(1).await[0].phase, Phase::Succeeded);
    for mut line in slow.into_iter().take(2) {
        line.write_all(&[b'x'; 95]).unwrap();
        let mut answer = [0; 12];
        tokio::task::spawn_blocking(move || {
            line.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 202");
        })
        .await
        .unwrap();
    }
    daemon.until_ended(3).await;
    daemon.stop().await;
}
