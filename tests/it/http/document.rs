//! The API's document: whole, in order, and shown without anybody's help.

use std::collections::BTreeSet;
use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use super::{Desk, ask, look};
use scoreline::config::Role;

/// Files of the HTTP edge whose routes are pages for people and no part of the API.
const PAGES: [&str; 2] = ["openapi.rs", "ui.rs"];

struct Operation {
    path: String,
    verb: String,
    body: Value,
}

async fn document(desk: &Desk) -> Value {
    let answer = look(&format!("{}/api/openapi.json", desk.url)).await;
    assert_eq!((answer.status, answer.kind.as_str()), (200, "application/json"));
    answer.json()
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, body) in item.as_object().unwrap() {
            let (path, verb) = (path.clone(), verb.to_uppercase());
            found.push(Operation { path, verb, body: body.clone() });
        }
    }
    assert!(found.len() > 15, "the operations were found");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_document_has_a_route() {
    let desk = Desk::open(&[(Role::Operate, "t")]).await;
    let operations = operations(&document(&desk).await);
    // What has no end of its own ends with the work.
    desk.stop.soft.cancel();
    for Operation { path, verb, .. } in operations {
        let method = Method::from_bytes(verb.as_bytes()).unwrap();
        let id = "0199f7e4-0000-7000-8000-000000000000";
        let filled: Vec<_> = path
            .split('/')
            .map(|part| match part {
                "{id}" => id,
                part if part.starts_with('{') => "x",
                part => part,
            })
            .collect();
        let url = format!("{}{}", desk.url, filled.join("/"));
        let answer = ask(method, &url, &[("authorization", "Bearer t")]).await;
        assert_ne!(answer.status, 405, "{verb} {path}");
        assert!(!answer.text.contains("there is nothing at"), "{verb} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_document() {
    let desk = Desk::open(&[]).await;
    let told = operations(&document(&desk).await).len();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|kind| kind == "rs"));
    let (mut described, mut routed) = (0, 0);
    for file in files.chain([folder.with_extension("rs")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        described += text.matches("#[utoipa::path(").count();
        routed += text.matches("routes!(").count();
        let pages = PAGES.iter().any(|pages| file.ends_with(pages));
        let bare = [".route(", ".nest(", "_service("].iter().any(|call| text.contains(call));
        assert!(pages || !bare, "{} has a route that the document can't know of", file.display());
    }
    assert_eq!((described, routed), (told, told), "described, routed and told of");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_one_of_openapi_3_1_and_complete() {
    let desk = Desk::open(&[]).await;
    let document = document(&desk).await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for Operation { path, verb, body } in operations(&document) {
        let place = format!("{verb} {path}");
        assert!(ids.insert(body["operationId"].as_str().unwrap().to_owned()), "{place}");
        assert!(body["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{place}");
        assert_eq!(body["tags"].as_array().unwrap().len(), 1, "{place}");
        let open = body["security"] == serde_json::json!([{}]);
        let signs = path == "/api/v1/session" && verb != "GET";
        assert_eq!(open, !path.starts_with("/api/") || signs, "{place}");
        let empty = Vec::new();
        let parameters = body["parameters"].as_array().unwrap_or(&empty);
        let named: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let demanded: BTreeSet<_> =
            path.split(['{', '}']).skip(1).step_by(2).map(|name| name.trim_matches('*')).collect();
        assert_eq!(named, demanded, "{place}");
        for (status, answer) in body["responses"].as_object().unwrap() {
            let kinds: Vec<_> =
                answer["content"].as_object().into_iter().flat_map(|kinds| kinds.keys()).collect();
            let problem = kinds == ["application/problem+json"];
            let failed = status.starts_with('4') || status.starts_with('5');
            assert!(problem == failed || !path.starts_with("/api/"), "{place} {status}: {kinds:?}");
        }
    }
    let tags: BTreeSet<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut used = BTreeSet::new();
    for operation in document["paths"].as_object().unwrap().values() {
        used.extend(
            operation.as_object().unwrap().values().map(|body| body["tags"][0].as_str().unwrap()),
        );
    }
    assert_eq!(tags, used);
    every_reference_leads_somewhere(&document, &document);
}

fn every_reference_leads_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            for member in members.values() {
                every_reference_leads_somewhere(document, member);
            }
        }
        Value::Array(items) => {
            for item in items {
                every_reference_leads_somewhere(document, item);
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_64_bits_and_ids_are_told_as_what_they_are() {
    let desk = Desk::open(&[]).await;
    let schemas = &document(&desk).await["components"]["schemas"];
    let job = &schemas["JobBody"]["properties"];
    assert_eq!(schemas["JobId"]["format"], "uuid");
    assert_eq!(job["id"]["$ref"], "#/components/schemas/JobId");
    assert_eq!(
        (&job["size_bytes"]["type"], &job["size_bytes"]["format"]),
        (&"integer".into(), &"int64".into())
    );
    assert_eq!(job["created_at"]["format"], "date-time");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_pages_come_from_the_daemon_alone_and_need_no_token() {
    let desk = Desk::open(&[(Role::Read, "t")]).await;
    let page = look(&format!("{}/api/docs", desk.url)).await;
    assert_eq!((page.status, page.kind.as_str()), (200, "text/html"));
    assert!(!page.text.contains("://"), "{}", page.text);
    assert!(!page.text.contains("<style") && !page.text.contains("<script>"), "{}", page.text);
    for part in page.text.split('"').filter_map(|text| text.strip_prefix("./")) {
        let answer = ask(Method::HEAD, &format!("{}/api/docs/{part}", desk.url), &[]).await;
        assert_eq!(answer.status, 200, "{part}");
    }
    let start = look(&format!("{}/api/docs/swagger-initializer.js", desk.url)).await;
    assert!(start.text.contains("\"/api/openapi.json\""), "{}", start.text);
    let nothing = look(&format!("{}/api/docs/other.js", desk.url)).await;
    assert_eq!(nothing.problem(404), "there is nothing at /api/docs/other.js");
}
