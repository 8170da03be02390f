//! Services tried by hand, and what lies in a drop folder.

use reqwest::Method;
use serde_json::json;

use super::{ask_with, look};
use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_table_is_scored_while_the_caller_waits() {
    let rig = Rig::new().await.fast_endpoint("");
    let daemon = rig.start().await;
    let url =
        |name: &str, query: &str| format!("{}/api/v1/endpoints/{name}/execute{query}", daemon.url);
    let csv = [("content-type", "text/csv; charset=utf-8")];
    let table = "Col2\nThis is a good day\n";
    let answer = ask_with(Method::POST, &url("fast", "?input=input1"), &csv, table).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["outputs"][0]["output"], "output1");
    assert!(body["outputs"][0]["table"].as_str().unwrap().contains("HashingFeature_1"), "{body}");
    assert!(body["answer"]["Results"]["output1"].is_object(), "{body}");
    assert!(body["duration_ms"].is_u64());
    let tsv = [("content-type", "text/tab-separated-values")];
    let answer = ask_with(Method::POST, &url("fast", ""), &tsv, "a\tb\nx\ty\n").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for (name, query, kind, body, status, why) in [
        ("e", "", "text/csv", table, 409, "its kind is bes"),
        ("none", "", "text/csv", table, 404, "there is no endpoint none"),
        ("fast", "", "application/xml", table, 415, "text/csv"),
        ("fast", "?inputs=x", "text/csv", table, 400, "\"inputs\" is not asked for"),
        ("fast", "", "text/csv", "a\n\"b", 400, "can't be scored at once"),
        ("fast", "?input=other", "text/csv", table, 502, "other"),
        ("fast", "", "text/csv", &"x\n".repeat(600_000), 413, "1048576 bytes"),
    ] {
        let headers = [("content-type", kind)];
        let answer = ask_with(Method::POST, &url(name, query), &headers, body).await;
        let detail = answer.problem(status);
        assert!(detail.contains(why), "{name} {query}: {detail}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_a_drop_folder_is_listed_with_what_holds_it_back() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let files = |query: &str| look_at(format!("{}/api/v1/feeds/f/files{query}", daemon.url));
    assert_eq!(files("").await["files"], json!([]));
    for name in ["b.bak", "a.bak", ".hidden"] {
        rig.drop_file(name, "x");
    }
    let body = files("").await;
    assert!(body["seen_by"].is_string() && body["more"] == 0, "{body}");
    let mut told: Vec<_> = body["files"].as_array().unwrap().iter().collect();
    told.sort_by_key(|file| file["path"].as_str().unwrap());
    let paths: Vec<_> = told.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".hidden", "a.bak", "b.bak"]);
    assert!(told.iter().all(|file| file["state"] == "filtered_out" && file["size_bytes"] == 1));
    assert!(told[1]["text"].as_str().unwrap().contains("watch.include"), "{body}");
    let one = files("?limit=1").await;
    assert_eq!((one["files"].as_array().unwrap().len(), &one["more"]), (1, &json!(2)));
    let wrong = look(&format!("{}/api/v1/feeds/f/files?limit=0", daemon.url)).await;
    assert!(wrong.problem(400).contains("limit"));
    look(&format!("{}/api/v1/feeds/other/files", daemon.url)).await.problem(404);
    daemon.stop().await;
}

async fn look_at(url: String) -> serde_json::Value {
    let answer = look(&url).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}
