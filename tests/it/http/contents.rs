//! Inputs and outputs, as bytes.

use std::os::unix::fs::symlink;

use reqwest::Method;
use scoreline::http::PreviewBody;
use scoreline::job::Phase;
use scoreline::ports::{Blobs as _, World as _};

use super::{Answer, ask, ask_with};
use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running};
use crate::samples::name;

async fn get(daemon: &Running, path: &str) -> Answer {
    ask(Method::GET, &format!("{}/api/v1/jobs/{path}", daemon.url), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_took_in_and_gave_out_is_served_as_files_to_be_saved() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let input = input_of(&["This is a good day"]);
    rig.drop_file("good \"day\" ü.csv", &input);
    let job = daemon.until_ended(1).await.remove(0).id;
    let answer = get(&daemon, &format!("{job}/input")).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, input.as_str()));
    assert_eq!(answer.header("content-length").unwrap(), input.len().to_string());
    assert_eq!(answer.header("x-content-type-options").unwrap(), "nosniff");
    let saved = answer.header("content-disposition").unwrap();
    assert!(saved.starts_with("attachment; ") && saved.contains("good%20%22day%22%20%C3%BC.csv"));
    let path = format!("{job}/outputs/output1");
    let answer = get(&daemon, &path).await;
    assert_eq!((answer.status, answer.text), (200, scores_of(&["This is a good day"])));
    let head = ask(Method::HEAD, &format!("{}/api/v1/jobs/{path}", daemon.url), &[]).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert!(head.header("content-length").is_some_and(|length| length != "0"));

    let preview = get(&daemon, &format!("{path}?preview=10")).await.json();
    let preview: PreviewBody = serde_json::from_value(preview).unwrap();
    let whole = scores_of(&["This is a good day"]);
    assert_eq!((preview.text.as_str(), preview.truncated), (&whole[..10], true));
    assert_eq!((preview.size_bytes, preview.binary), (whole.len() as u64, false));
    let all = get(&daemon, &format!("{job}/input?preview=262144")).await.json();
    assert_eq!((&all["text"], &all["truncated"]), (&input.into(), &false.into()));
    for wrong in ["preview=0", "preview=262145", "preview=x", "other=1"] {
        get(&daemon, &format!("{path}?{wrong}")).await.problem(400);
    }
    let said = get(&daemon, &format!("{job}/outputs/nobody")).await.problem(404);
    assert!(said.contains("output1"), "{said}");
    get(&daemon, "019aa3c1-7d2e-7000-8000-000000000001/input").await.problem(404);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_blob_an_input_comes_from_the_archive_and_without_that_it_is_gone() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let input = input_of(&["one"]);
    rig.drop_file("a.csv", &input);
    let job = daemon.until_ended(1).await.remove(0).id;
    let storage = daemon.world.blobs(&name("s")).unwrap();
    for blob in storage.list(&format!("f/{job}/1.0-"), None, 9).await.unwrap().blobs {
        storage.delete(&blob.name).await.unwrap();
    }
    let path = format!("{job}/input");
    assert_eq!(get(&daemon, &path).await.text, input);
    std::fs::write(rig.path("archive/a.csv"), "something else").unwrap();
    let said = get(&daemon, &path).await.problem(410);
    assert!(said.contains("archive/a.csv"), "{said}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_through_a_link_or_that_is_not_the_jobs() {
    let rig = Rig::new().await.feed("outputs.output1 = \"sub/{stem}.csv\"");
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    let (path, whole) = (format!("{}/outputs/output1", jobs[0].id), scores_of(&["one"]));
    let place = rig.path("out/sub/a.csv");
    assert_eq!(get(&daemon, &path).await.text, whole);
    // Something as long that is none of the job's business.
    std::fs::create_dir(rig.path("secret")).unwrap();
    std::fs::write(rig.path("secret/a.csv"), "s".repeat(whole.len())).unwrap();
    let gone = async |what: &str| {
        let said = get(&daemon, &path).await.problem(410);
        assert!(said.contains("out/sub/a.csv"), "{what}: {said}");
    };
    std::fs::remove_file(&place).unwrap();
    gone("it was taken away").await;
    symlink(rig.path("secret/a.csv"), &place).unwrap();
    gone("a link is in its place").await;
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    gone("a folder is in its place").await;
    std::fs::remove_dir_all(rig.path("out/sub")).unwrap();
    symlink(rig.path("secret"), rig.path("out/sub")).unwrap();
    gone("its folder is a link").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_served_for_as_long_as_its_blob_is_there() {
    let rig = Rig::new().await.named("");
    let daemon = rig.start().await;
    let mut input = input_of(&["one"]);
    input.push_str(&"\"a longer row than most\"\n".repeat(20_000));
    let url = format!("{}/api/v1/feeds/f/jobs?name=a.csv", daemon.url);
    let sent = ask_with(Method::POST, &url, &[], &input).await;
    let job = sent.json()["id"].as_str().unwrap().to_owned();
    assert!(get(&daemon, &format!("{job}/input")).await.text == input, "at once");
    daemon.until_ended(1).await;
    let beginning = get(&daemon, &format!("{job}/input?preview=4")).await.json();
    assert_eq!((&beginning["text"], &beginning["truncated"]), (&"Col2".into(), &true.into()));
    let storage = daemon.world.blobs(&name("s")).unwrap();
    storage.delete(&format!("f/{job}/0-sent/a.csv")).await.unwrap();
    let said = get(&daemon, &format!("{job}/input")).await.problem(410);
    assert!(said.contains("0-sent/a.csv"), "{said}");
    daemon.stop().await;
}
