//! Wishes for many jobs at once.

use reqwest::Method;
use scoreline::http::WishesBody;
use scoreline::job::{JobId, Want};
use serde_json::{Value, json};

use super::{Answer, Desk, ask_with};
use crate::samples::{permanent, settled};

async fn wish(desk: &Desk, verb: &str, body: &Value) -> Answer {
    let url = format!("{}/api/v1/jobs/{verb}", desk.url);
    let json = [("content-type", "application/json")];
    ask_with(Method::POST, &url, &json, &body.to_string()).await
}

async fn noted(desk: &Desk, verb: &str, body: &Value) -> WishesBody {
    let answer = wish(desk, verb, body).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    serde_json::from_value(answer.json()).unwrap()
}

#[tokio::test]
async fn jobs_that_are_named_get_the_wish_that_they_can_have() {
    let desk = Desk::open(&[]).await;
    let queued = desk.job("a.csv", []).await;
    let failed = desk.job("b.csv", [permanent(), settled()]).await;
    let nobody = JobId::parse("019aa3c1-7d2e-7000-8000-000000000001").unwrap();
    let ids = json!({ "ids": [queued.id(), failed.id(), nobody] });
    let body = noted(&desk, "cancel", &ids).await;
    assert_eq!((body.noted, body.refused_count, body.next_cursor), (1, 2, None));
    let reason = |id| &body.refused.iter().find(|refused| refused.id == id).unwrap().reason;
    assert_eq!(reason(failed.id()), "it has failed already");
    assert_eq!(reason(nobody), "there is no such job");
    assert_eq!(desk.wishes().await, [(queued.id(), Want::Cancel)]);
}

#[tokio::test]
async fn a_generation_that_was_seen_must_be_the_one_there_is() {
    let desk = Desk::open(&[]).await;
    let job = desk.job("a.csv", []).await;
    let seen = |generation: u32| json!({ "ids": [{ "id": job.id(), "generation": generation }] });
    let body = noted(&desk, "cancel", &seen(2)).await;
    assert_eq!((body.noted, body.refused_count), (0, 1));
    assert!(body.refused[0].reason.contains("generation 1 by now"));
    assert_eq!(noted(&desk, "cancel", &seen(1)).await.noted, 1);
}

#[tokio::test]
async fn a_filter_finds_a_thousand_at_a_time_and_says_where_the_next_go_on() {
    let desk = Desk::open(&[]).await;
    for n in 0..1003 {
        desk.job(&format!("{n}.csv"), [permanent(), settled()]).await;
    }
    let done = desk.job("other.csv", []).await;
    let filter = json!({ "phase": "failed" });
    let body = noted(&desk, "retry", &json!({ "filter": filter })).await;
    assert_eq!((body.noted, body.refused_count), (1000, 0));
    let next = body.next_cursor.expect("there are more");
    let body = noted(&desk, "retry", &json!({ "filter": filter, "cursor": next })).await;
    assert_eq!((body.noted, body.refused_count, body.next_cursor), (3, 0, None));
    let wishes = desk.wishes().await;
    assert!(wishes.iter().all(|(id, want)| *id != done.id() && *want == Want::Retry));
    // Of many that can't be had a hundred are told.
    let body = noted(&desk, "cancel", &json!({ "filter": { "phase": "failed" } })).await;
    assert_eq!((body.noted, body.refused.len(), body.refused_count), (0, 100, 1000));
}

#[tokio::test]
async fn nobody_means_every_job_by_saying_nothing() {
    let desk = Desk::open(&[]).await;
    desk.job("a.csv", []).await;
    let many = vec![JobId::parse("019aa3c1-7d2e-7000-8000-000000000001").unwrap(); 1001];
    for wrong in [
        json!({}),
        json!({ "ids": [] }),
        json!({ "ids": many }),
        json!({ "ids": ["x"] }),
        json!({ "ids": [many[0]], "filter": {} }),
        json!({ "filter": { "phase": "sleeping" } }),
        json!({ "filter": { "limit": 3 } }),
        json!({ "filter": {}, "cursor": "x" }),
        json!({ "all": true }),
    ] {
        wish(&desk, "cancel", &wrong).await.problem(400);
    }
    assert!(desk.wishes().await.is_empty());
}
