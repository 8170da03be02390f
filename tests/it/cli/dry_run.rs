//! `scoreline dry-run`, started as users start it: what it prints, and whether that is what is really sent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use scoreline::fault::redact;
use scoreline::job::Sha256;
use scoreline::sandbox::{Gateway, Settings};
use serde_json::Value;
use sha2::Digest as _;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{Ended, ROW, run};
use crate::rig::Rig;

/// Every secret of the config below, in each form in which it could be shown.
const SECRETS: [&str; 7] = [
    "c2VjcmV0LWFjY291bnQta2V5",
    "U0FTU0lHTkFUVVJF",
    "API-KEY-ONE",
    "API-KEY-TWO",
    "SUBSCRIPTION-KEY-ONE",
    "SUBSCRIPTION-KEY-TWO",
    "CLIENT-SECRET",
];

const CONFIG: &str = r#"
[node]
state_dir = "state"
[credentials.me]
kind = "client-secret"
tenant = "contoso.com"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret = "CLIENT-SECRET"
[storage.key]
connection_string = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0LWFjY291bnQta2V5"
container = "container"
hand_over = "connection-string"
[storage.signing]
connection_string = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0LWFjY291bnQta2V5"
container = "container"
[storage.signed]
connection_string = "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=2022-11-02&ss=b&srt=co&sp=rwlc&sig=U0FTU0lHTkFUVVJF"
container = "container"
hand_over = "connection-string"
[storage.me]
account = "acct"
credential = "me"
container = "container"
[endpoints.bes]
kind = "bes"
url = "https://ussouthcentral.services.azureml.net/workspaces/W/services/S/jobs?api-version=2.0"
api_key = "API-KEY-ONE"
secondary_api_key = "API-KEY-TWO"
[endpoints.apim]
kind = "bes"
url = "https://demo.azure-api.net/aml/workspaces/W/services/S/jobs"
api_key = "API-KEY-ONE"
subscription_key = "SUBSCRIPTION-KEY-ONE"
secondary_subscription_key = "SUBSCRIPTION-KEY-TWO"
[endpoints.one_call]
kind = "batch-endpoint"
url = "https://fraud.westeurope.inference.ml.azure.com"
credential = "me"
deployment = "blue"
datastore = "scoring"
[endpoints.rrs]
kind = "rrs"
url = "https://demo.azure-api.net/aml/workspaces/W/services/S/execute"
api_key = "API-KEY-ONE"
subscription_key = "SUBSCRIPTION-KEY-ONE"
"#;

/// Each feed by the rest of its table.
const FEEDS: [(&str, &str); 7] = [
    (
        "guide",
        "endpoint = \"bes\"\nstorage = \"key\"\noutputs = { output1 = \"{stem}.scores.csv\" }",
    ),
    (
        "gateway",
        "endpoint = \"apim\"\nstorage = \"signing\"\ninput = \"input1\"\nparameters = { Cutoff = \"0.35\" }\n\
         outputs = { output1 = \"{stem}.scores.csv\" }",
    ),
    ("signed", "endpoint = \"bes\"\nstorage = \"signed\""),
    (
        "at_once",
        "endpoint = \"rrs\"\nstorage = \"me\"\noutputs = { output1 = \"{stem}.scores.csv\" }",
    ),
    (
        "one_call",
        "endpoint = \"one_call\"\nstorage = \"me\"\nparameters = { mode = \"append\" }\n\
         outputs = { score = \"{stem}.scores.csv\" }",
    ),
    ("own", "endpoint = \"bes\"\nstorage = \"me\""),
    (
        "lane",
        "endpoint = \"apim\"\nstorage = \"key\"\nfast_lane = { endpoint = \"rrs\", max_rows = 2 }",
    ),
];

/// A folder with the config, the guide's sentence, and nothing else.
fn desk() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let feed = |(name, rest): &(&str, &str)| {
        let ends = format!("{{ archive = \"{name}/archive\", failed = \"{name}/failed\" }}");
        format!(
            "[feeds.{name}]\n{rest}\nwatch.folder = \"{name}/in\"\ndeliver.folder = \"out\"\nsource = {ends}\n"
        )
    };
    let feeds = FEEDS.iter().map(feed).collect::<Vec<_>>().concat();
    std::fs::write(dir.path().join("scoreline.toml"), format!("{CONFIG}{feeds}{BLOBS}")).unwrap();
    std::fs::write(dir.path().join("row.csv"), ROW).unwrap();
    dir
}

/// A feed whose schedule names blobs.
const BLOBS: &str = r#"
[feeds.blobs]
endpoint = "bes"
storage = "key"
deliver.folder = "out"
schedule = { cron = "0 2 * * *", timezone = "UTC", blobs = "nightly/" }
"#;

async fn dry_run(config: &Path, feed: &str, file: &Path, more: &[&str]) -> Ended {
    let words = ["dry-run", "--config", config.to_str().unwrap(), feed, file.to_str().unwrap()];
    run(&[&words, more].concat()).await
}

async fn of(desk: &TempDir, feed: &str, file: &str) -> Ended {
    dry_run(&desk.path().join("scoreline.toml"), feed, &desk.path().join(file), &[]).await
}

/// Without what differs from one run to the next.
fn steady(desk: &TempDir, text: &str) -> String {
    let folder = desk.path().display().to_string();
    let lines = text.lines().map(|line| match line.split_once(": ") {
        // A signature is longer or shorter by what is escaped in it, and so is the body that holds it.
        Some((
            name @ ("x-ms-date" | "x-ms-client-request-id" | "user-agent" | "content-length"),
            _,
        )) => format!("{name}: …"),
        _ => line.replace(&folder, "DIR"),
    });
    let text: String = lines.map(|line| line + "\n").collect();
    // The file's number and time are in the blob's name, and the end of what is signed is in the signature.
    let text = after(&after(&text, "/1.0-", 12), "&se=", 24);
    // What a key to sign with is asked for says from when to when.
    after(&text, "<129 bytes, sha256 ", 64)
}

/// With as many letters after each `mark` made unknown.
fn after(text: &str, mark: &str, letters: usize) -> String {
    let mut parts = text.split(mark);
    let mut steady = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        steady += mark;
        steady += "…";
        steady.extend(part.chars().skip(letters));
    }
    steady
}

/// Every file and folder below, with what is in it.
fn everything(folder: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        found.insert(path.display().to_string(), std::fs::read(&path).ok());
    }
    found
}

#[tokio::test]
async fn each_kind_of_way_is_shown_whole() {
    let desk = desk();
    for feed in ["guide", "gateway", "signed", "at_once", "one_call"] {
        let ended = of(&desk, feed, "row.csv").await;
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{feed}");
        insta::assert_snapshot!(format!("dry_run_{feed}"), steady(&desk, &ended.out));
    }
}

#[tokio::test]
async fn no_secret_is_shown_and_nothing_on_the_disk_changes() {
    let desk = desk();
    let before = everything(desk.path());
    let config = desk.path().join("scoreline.toml");
    let feeds = FEEDS.iter().map(|(name, _)| *name).chain(["blobs"]);
    for feed in feeds {
        for more in [&[][..], &["--json"]] {
            let ended = dry_run(&config, feed, &desk.path().join("row.csv"), more).await;
            assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{feed}");
            for secret in SECRETS {
                assert!(!ended.out.contains(secret), "{feed} shows {secret}: {}", ended.out);
            }
            assert!(ended.out.contains("***"), "{feed}: {}", ended.out);
        }
    }
    assert_eq!(everything(desk.path()), before);
}

#[tokio::test]
async fn a_program_reads_the_same_requests() {
    let desk = desk();
    let config = desk.path().join("scoreline.toml");
    let ended = dry_run(&config, "lane", &desk.path().join("row.csv"), &["--json"]).await;
    let requests: Vec<Value> = serde_json::from_str(&ended.out).unwrap();
    let steps: Vec<_> = requests
        .iter()
        .map(|one| (one["step"].as_str().unwrap(), one["method"].as_str().unwrap()))
        .collect();
    let lane = [
        ("upload", "PUT"),
        // Whether it is small enough is read from it.
        ("submit", "GET"),
        ("execute", "GET"),
        ("execute", "POST"),
        ("execute", "PUT"),
        ("deliver", "GET"),
    ];
    assert_eq!(steps, lane);
    let execute = &requests[3];
    assert_eq!(execute["body"]["Inputs"]["input1"]["Values"][0][0], "This is a good day");
    assert_eq!(execute["headers"]["ocp-apim-subscription-key"], "***");
    assert!(execute["url"].as_str().unwrap().ends_with("/execute?api-version=2.0&details=true"));
}

#[tokio::test]
async fn an_input_is_never_shown_itself_whatever_it_looks_like() {
    let desk = desk();
    std::fs::write(desk.path().join("row.json"), "{\"name\": \"Mary\"}").unwrap();
    let ended = of(&desk, "guide", "row.json").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("<16 bytes, sha256 "), "{}", ended.out);
    assert!(!ended.out.contains("Mary"), "{}", ended.out);
}

#[tokio::test]
async fn a_large_file_shows_its_blocks_in_one_line() {
    let desk = desk();
    std::fs::write(desk.path().join("large.csv"), vec![b'x'; 20 << 20]).unwrap();
    let ended = of(&desk, "guide", "large.csv").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let blocks = "<3 such requests, one for each block, 20971520 bytes in all>";
    assert_eq!(ended.out.matches("comp=block\n").count(), 1, "{}", ended.out);
    assert!(ended.out.contains(blocks), "{}", ended.out);
}

#[tokio::test]
async fn blobs_that_are_there_already_are_not_uploaded() {
    let desk = desk();
    let ended = of(&desk, "blobs", "row.csv").await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let said = "nothing is uploaded: the input is blob nightly/row.csv already";
    assert!(ended.out.contains(said), "{}", ended.out);
    assert!(!ended.out.contains("PUT "), "{}", ended.out);
    assert!(ended.out.contains("\"/container/nightly/row.csv\""), "{}", ended.out);
}

#[tokio::test]
async fn what_keeps_it_from_ending_well_is_told_with_its_code() {
    let desk = desk();
    std::fs::write(desk.path().join("empty.csv"), "").unwrap();
    std::fs::write(desk.path().join("ragged.csv"), "a,b\n1\n").unwrap();
    for (feed, file, code, said) in [
        (
            "nobody",
            "row.csv",
            2,
            "there is no feed nobody: there is at_once, blobs, gateway, guide",
        ),
        ("guide", "nothing.csv", 1, "nothing.csv could not be read: No such file"),
        ("guide", "", 1, "is no file: name the one to send"),
        ("guide", "empty.csv", 1, "would end with its upload: empty.csv is empty"),
        ("at_once", "ragged.csv", 1, "would end with its execute: ragged.csv can't be scored"),
    ] {
        let ended = of(&desk, feed, file).await;
        assert_eq!(ended.code, code, "{feed} {file}: {}", ended.err);
        assert!(ended.err.contains(said), "{feed} {file}: {}", ended.err);
    }
    let none = dry_run(Path::new("/nowhere.toml"), "guide", Path::new("row.csv"), &[]).await;
    assert_eq!(none.code, 78, "{}", none.err);
}

/// A request, as far as it must be the same whoever describes it.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    method: String,
    path: String,
    headers: BTreeSet<String>,
    told: BTreeMap<String, String>,
    body: Value,
}

impl Shape {
    fn new(
        method: &str,
        path: &str,
        headers: impl Iterator<Item = (String, String)>,
        body: &Value,
        ids: &[(&str, &str)],
    ) -> Self {
        let same = |text: &str| {
            let text = ids.iter().fold(text.to_owned(), |text, (id, is)| text.replace(id, is));
            // What the service answers is in the name of what is uploaded of it.
            after(&after(&text, "&se=", 24), "/out/output1-", 16)
        };
        let path = same(path);
        let headers: BTreeMap<_, _> = headers.filter(|(name, _)| name != "host").collect();
        let is_output = path.contains("/out/output1-…");
        // What is escaped in a signature makes it longer.
        let signed = body.to_string().contains("sig=");
        let is_told = |name: &&&str| !(signed && **name == "content-length");
        let told = TOLD.iter().filter(is_told).filter_map(|name| {
            Some(((*name).to_owned(), same(headers.get(*name).filter(|_| !is_output)?)))
        });
        let told = told.collect();
        let body = if is_output { Value::Null } else { strings(body, &|text| redact(&same(text))) };
        Self { method: method.to_owned(), path, headers: headers.into_keys().collect(), told, body }
    }
}

/// Headers whose values must be the same too.
const TOLD: [&str; 11] = [
    "accept",
    "content-length",
    "content-md5",
    "content-type",
    "if-none-match",
    "range",
    "user-agent",
    "x-ms-blob-content-type",
    "x-ms-blob-type",
    "x-ms-meta-label",
    "x-ms-meta-sha256",
];

fn strings(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => change(text).into(),
        Value::Array(list) => list.iter().map(|item| strings(item, change)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| (name.clone(), strings(member, change)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Method, path, headers, body.
type Seen = (String, String, Vec<(String, String)>, Vec<u8>);

/// Stands before the remote side, and notes what it gets.
#[derive(Default)]
struct Doorkeeper {
    behind: OnceLock<String>,
    seen: Mutex<Vec<Seen>>,
}

async fn pass(State(door): State<Arc<Doorkeeper>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    let seen = (head.method.to_string(), head.uri.to_string(), headers.collect(), body.to_vec());
    door.seen.lock().unwrap().push(seen);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{}", door.behind.get().unwrap(), head.uri);
    let answer = client.request(head.method, url).headers(head.headers).body(body).send();
    let answer = answer.await.unwrap();
    let mut response = Response::builder().status(answer.status());
    *response.headers_mut().unwrap() = answer.headers().clone();
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}

/// A rig whose remote side has a doorkeeper.
async fn guarded(settings: Settings) -> (Rig, Arc<Doorkeeper>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = Some(listener.local_addr().unwrap().to_string());
    let door = Arc::new(Doorkeeper::default());
    let router = Router::new().fallback(any(pass)).with_state(door.clone());
    let rig = Rig::with(Settings { advertise, run_time: Duration::ZERO, ..settings }).await;
    door.behind.set(rig.sandbox.addr.to_string()).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (rig, door)
}

fn behind_a_gateway() -> Settings {
    let gateway = Gateway { subscription_key: Some("sub-key-1".into()), ..Gateway::default() };
    Settings { gateway: Some(gateway), ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_shows_is_what_the_remote_side_gets() {
    let outputs = "outputs = { output1 = \"{stem}.scores.csv\" }";
    let named = format!("input = \"input1\"\nparameters = {{ Cutoff = \"0.35\" }}\n{outputs}");
    for (what, endpoint, storage, feed, gateway) in [
        ("the guide's form", "", "hand_over = \"connection-string\"", outputs, false),
        ("the form with signatures", "", "", named.as_str(), true),
        ("rrs", "kind = \"rrs\"", "", outputs, true),
        ("rrs in its other form", "kind = \"rrs\"\nform = \"swagger\"", "", outputs, true),
    ] {
        let settings = if gateway { behind_a_gateway() } else { Settings::default() };
        let (rig, door) = guarded(settings).await;
        let rig = rig.endpoint(endpoint).storage(storage).feed(feed);
        std::fs::write(rig.path("scoreline.toml"), rig.config_text()).unwrap();
        let daemon = rig.start().await;
        // The first one meets a storage without its container.
        rig.drop_file("first.csv", ROW);
        daemon.until_ended(1).await;
        door.seen.lock().unwrap().clear();
        // Under another name, so that the feed does not know it; dropped, it is the very file that was shown.
        std::fs::create_dir(rig.path("aside")).unwrap();
        let aside = rig.path("aside").join("row.csv");
        std::fs::write(&aside, "Col2\nThis is a bad day\n").unwrap();
        let shown = dry_run(&rig.path("scoreline.toml"), "f", &aside, &["--json"]).await;
        assert_eq!((shown.code, shown.err.as_str()), (0, ""), "{what}");
        assert!(door.seen.lock().unwrap().is_empty(), "{what}: nothing is sent");
        std::fs::rename(&aside, rig.path("in").join("row.csv")).unwrap();
        let jobs = daemon.until_ended(2).await;
        let job = jobs.iter().find(|job| job.name == "row.csv").unwrap();
        daemon.stop().await;

        let (id, run) = (job.id.to_string(), job.remote_id.clone().unwrap());
        let real_ids = [(run.as_str(), "RUN"), (id.as_str(), "JOB")];
        let shown_ids = [
            ("0123456789abcdef0123456789abcdef", "RUN"),
            ("01900000-0000-7000-8000-000000000001", "JOB"),
        ];
        let host = format!("http://{}", rig.sandbox.settings().advertise.unwrap());
        let requests: Vec<Value> = serde_json::from_str(&shown.out).unwrap();
        let shown: Vec<_> = requests
            .iter()
            .map(|one| {
                let headers = one["headers"].as_object().unwrap().iter();
                let headers =
                    headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
                let path = one["url"].as_str().unwrap().strip_prefix(&host).unwrap();
                let method = one["method"].as_str().unwrap();
                Shape::new(method, path, headers, &one["body"], &shown_ids)
            })
            .collect();
        let mut real: Vec<_> = door
            .seen
            .lock()
            .unwrap()
            .iter()
            // The service reads and writes blobs too, and the clean-up of blobs looks for some.
            .filter(|(_, path, headers, _)| {
                let ours = ["scoreline/", "azsdk-rust"];
                let agent = headers.iter().find(|(name, _)| name == "user-agent");
                agent.is_some_and(|(_, agent)| ours.iter().any(|our| agent.starts_with(our)))
                    && !path.contains("comp=list")
                    && !path.contains("first.csv")
            })
            .map(|(method, path, headers, body)| {
                let size = body.len();
                let body = match serde_json::from_slice::<Value>(body) {
                    Ok(json) => json,
                    Err(_) if size == 0 => Value::Null,
                    Err(_) => {
                        let hex = Sha256(sha2::Sha256::digest(body).into());
                        format!("<{size} bytes, sha256 {hex}>").into()
                    }
                };
                Shape::new(method, path, headers.iter().cloned(), &body, &real_ids)
            })
            .collect();
        // However often it was asked.
        real.dedup();
        assert_eq!(shown, real, "{what}");
        assert!(real.len() >= 4, "{what}: {real:?}");
    }
}
