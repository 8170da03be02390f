//! The API against calls that a program thinks up from its own document: nothing is a 5xx that isn't promised, and
//! nothing is answered that isn't documented. Routes that are added are tried by themselves.

use std::time::Duration;

use reqwest::Method;
use scoreline::sandbox;
use serde_json::{Value, json};

use super::{Own, ask, look, start};
use crate::openapi::{said, tool};
use crate::rig::Rig;

const TOKENS: &str = "tokens = [{ role = \"read\", secret = \"looker\" }, { role = \"operate\", secret = \"worker\" }]\n";

struct Place {
    rig: Rig,
    daemon: Own,
    document: Value,
}

impl Place {
    /// A daemon that has done some jobs well and some ill.
    async fn open() -> Self {
        let rig = Rig::with(sandbox::Settings {
            run_time: Duration::ZERO,
            faults: vec!["run=fail:*1".parse().unwrap()],
            ..Default::default()
        })
        .await
        .fast_endpoint("");
        let config = rig.config_text().replace("[http]\n", &format!("[http]\n{TOKENS}"));
        let daemon = start(&rig, &config).await;
        for n in 0..3 {
            rig.drop_file(&format!("{n}.csv"), "Col2\nThis is a good day\n");
        }
        let bearer = [("authorization", "Bearer looker")];
        crate::rig::eventually("the jobs have ended", || async {
            let ended = |phase| format!("{}/api/v1/jobs?phase={phase}", daemon.url);
            let mut count = 0;
            for phase in ["succeeded", "failed"] {
                let page = ask(Method::GET, &ended(phase), &bearer).await.json();
                count += page["jobs"].as_array().unwrap().len();
            }
            count == 3
        })
        .await;
        let page = ask(Method::GET, &format!("{}/api/v1/jobs", daemon.url), &bearer).await.json();
        let ids: Vec<_> =
            page["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect();
        let mut document = look(&format!("{}/api/openapi.json", daemon.url)).await.json();
        narrow(&mut document, &ids);
        Self { rig, daemon, document }
    }

    /// Has Schemathesis call the operations that this holds of.
    async fn holds(
        &self,
        which: impl Fn(&Value) -> bool,
        token: &str,
        checks: &str,
        examples: u32,
    ) {
        let mut document = self.document.clone();
        for item in document["paths"].as_object_mut().unwrap().values_mut() {
            item.as_object_mut().unwrap().retain(|_, operation| which(operation));
        }
        document["paths"].as_object_mut().unwrap().retain(|_, item| item != &json!({}));
        let given = |name, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
        let (seed, examples) = (given("OPENAPI_SEED", 2026), examples * given("OPENAPI_TIMES", 1));
        let folder = self.rig.path(&format!("calls-{token}"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("openapi.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let config = format!(
            "base-url = {:?}\nseed = {seed}\nworkers = 1\ncolor = false\nwarnings = false\ncache.enabled = false\n\
             generation.database = \"none\"\ngeneration.max-examples = {examples}\n\
             auth.openapi.bearer.bearer = {token:?}\n{checks}",
            self.daemon.url
        );
        std::fs::write(folder.join("schemathesis.toml"), config).unwrap();
        let run = tool("schemathesis").arg("run").arg(&file).current_dir(&folder).output().await;
        let run = run.unwrap();
        assert!(run.status.success(), "{}", said(&run));
    }

    async fn close(self) {
        self.daemon.stop.soft.cancel();
        self.daemon.ended.await.unwrap().unwrap();
    }
}

/// What is there gets called by its name half of the time; and what never ends is left out.
fn narrow(document: &mut Value, ids: &[Value]) {
    for item in document["paths"].as_object_mut().unwrap().values_mut() {
        let item = item.as_object_mut().unwrap();
        item.retain(|_, body| !body["responses"].to_string().contains("text/event-stream"));
        for operation in item.values_mut() {
            for parameter in
                operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten()
            {
                if parameter["in"] != "path" {
                    continue;
                }
                let there = match parameter["name"].as_str().unwrap() {
                    "id" => json!(ids),
                    "feed" => json!(["f"]),
                    "name" => json!(["e", "s", "fast"]),
                    _ => continue,
                };
                let schema = parameter["schema"].take();
                parameter["schema"] = json!({"anyOf": [{"type": "string", "enum": there}, schema]});
            }
        }
    }
}

fn is(operation: &Value, ids: &[&str]) -> bool {
    ids.iter().any(|id| operation["operationId"] == *id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_valid_and_nothing_is_answered_that_it_does_not_tell() {
    const VALID: &str = "import json, sys; from openapi_spec_validator import validate; \
                         validate(json.load(open(sys.argv[1])))";
    let place = Place::open().await;
    let file = place.rig.path("openapi.json");
    let whole = look(&format!("{}/api/openapi.json", place.daemon.url)).await.text;
    std::fs::write(&file, whole).unwrap();
    let valid = tool("python").args(["-c", VALID]).arg(&file).output().await.unwrap();
    assert!(valid.status.success(), "{}", said(&valid));
    // Wrong tokens would soon have everybody wait.
    let signs_in = ["sign_in", "sign_out", "show_session"];
    place.holds(|operation| !is(operation, &signs_in), "worker", ALL, 25).await;
    place.holds(|operation| !is(operation, &signs_in), "looker", CONFORMING, 5).await;
    place.holds(|operation| is(operation, &signs_in), "none", CONFORMING, 25).await;
    let health = look(&format!("{}/healthz", place.daemon.url)).await;
    assert_eq!(health.status, 200, "{}", health.text);
    place.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_open_is_closed_to_those_without_a_token() {
    let place = Place::open().await;
    let mut closed = 0;
    for (path, item) in place.document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            if operation["security"] == json!([{}]) {
                continue;
            }
            let path: Vec<_> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "f" } else { part })
                .collect();
            let url = format!("{}{}", place.daemon.url, path.join("/"));
            let method = Method::from_bytes(verb.to_uppercase().as_bytes()).unwrap();
            ask(method.clone(), &url, &[]).await.problem(401);
            if !method.is_safe() {
                let looker = [("authorization", "Bearer looker")];
                ask(method, &url, &looker).await.problem(403);
            }
            closed += 1;
        }
    }
    assert!(closed > 15, "{closed}");
    place.close().await;
}

/// All checks but two: that a token is needed is looked at above, without showing wrong ones; and what is valid may still
/// not be possible as things stand, or break a rule that no schema can tell, where an operation has one. A service that is
/// asked by hand, and a store that is away, are 5xx that are promised.
const ALL: &str = "checks.ignored_auth.enabled = false
checks.not_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"502\", \"503\"]
checks.positive_data_acceptance.expected-statuses = [\"2xx\", \"404\", \"409\", \"410\", \"412\", \"422\", \"502\", \"503\"]
[[operations]]
include-operation-id = [\"explain\", \"execute\", \"pause_feed\", \"release_job\", \"send_input\", \"cancel_jobs\", \"retry_jobs\"]
checks.positive_data_acceptance.expected-statuses = [\"2xx\", \"400\", \"404\", \"409\", \"412\", \"422\", \"502\", \"503\"]
";

/// Where most is refused, the form of what is answered is all that holds.
const CONFORMING: &str = "checks.enabled = false
checks.status_code_conformance.enabled = true
checks.content_type_conformance.enabled = true
checks.response_headers_conformance.enabled = true
checks.response_schema_conformance.enabled = true
";
