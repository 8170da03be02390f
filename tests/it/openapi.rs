//! The document that API Management imports (`deploy/apim/openapi.yaml`), held against the guide, the client and, by
//! Schemathesis, which thinks up calls from it, the sandbox: whatever is asked, the answer is one of those that the
//! document names, and nothing that is not valid gets through.
//!
//! The document is of any web service. Where calls shall get further than the names of inputs, it is narrowed to the
//! one service that the sandbox plays; then what is valid must be accepted, too.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method, Url};
use scoreline::blobs::{AzureBlobs, BLOCKS_IN_FLIGHT, ConnectionString, HandOver};
use scoreline::clock::SystemClock;
use scoreline::job::RemoteId;
use scoreline::ports::{Access, Blobs as _, Clock as _};
use scoreline::sandbox::{Gateway, Quota, RunningSandbox, Sandbox, Settings, Totals};
use scoreline::scoring::ServiceUrl;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::rig::with_tls;

#[tokio::test]
async fn the_document_is_valid() {
    let checked = tool("openapi-spec-validator").arg(path()).output().await.unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
}

#[tokio::test]
async fn the_document_has_the_five_operations_of_the_guide() {
    const JOBS: &str = "/workspaces/{workspace}/services/{service}/jobs";
    let document = document().await;
    let version = "?api-version={apiversion}";
    let guide = [
        ("BES Delete", "DELETE", format!("{JOBS}/{{jobid}}{version}")),
        ("BES Start", "POST", format!("{JOBS}/{{jobid}}/start{version}")),
        ("BES Status", "GET", format!("{JOBS}/{{jobid}}{version}")),
        ("BES Submit", "POST", format!("{JOBS}{version}")),
        (
            "RRS Execute",
            "POST",
            format!(
                "/workspaces/{{workspace}}/services/{{service}}/execute{version}&details={{details}}"
            ),
        ),
    ];
    let mut found: Vec<_> = operations(&document)
        .into_iter()
        .map(|operation| {
            let summary = operation.body["summary"].as_str().unwrap().to_owned();
            (summary, operation.verb, operation.template)
        })
        .collect();
    found.sort();
    let guide = guide.map(|(name, verb, template)| (name.to_owned(), verb.to_owned(), template));
    assert_eq!(found, guide);
}

#[tokio::test]
async fn the_client_calls_what_the_document_offers() {
    let document = document().await;
    let service = ServiceUrl::parse(
        "https://x.azure-api.net/azureml-demo/workspaces/w1/services/s1/jobs?api-version=2.0",
    )
    .unwrap();
    let id = RemoteId::parse("539d0bc2fde945b6ac986b851d0000f0").unwrap();
    for (operation, verb, called) in [
        ("bes-submit", "POST", service.submit()),
        ("bes-start", "POST", service.start(&id)),
        ("bes-status", "GET", service.status(&id)),
        ("bes-delete", "DELETE", service.cancel(&id)),
    ] {
        let offered = operations(&document)
            .into_iter()
            .find(|offered| offered.body["operationId"] == operation)
            .unwrap_or_else(|| panic!("{operation} is not there"));
        let address = offered
            .template
            .replace("{workspace}", "w1")
            .replace("{service}", "s1")
            .replace("{jobid}", &id.0)
            .replace("{apiversion}", "2.0");
        let called = called.to_string();
        assert_eq!(called.strip_prefix("https://x.azure-api.net/azureml-demo"), Some(&*address));
        assert_eq!(offered.verb, verb);
    }
}

#[tokio::test]
async fn the_guides_sample_is_answered_as_the_document_shows_it() {
    let document = document().await;
    let post = "/paths/~1workspaces~1{workspace}~1services~1{service}~1execute/post";
    let example = |inside: &str| {
        let pointer = format!("{post}/{inside}/content/application~1json/examples/guide/value");
        document.pointer(&pointer).unwrap_or_else(|| panic!("no {pointer}")).clone()
    };
    let place = Place::of(Settings::default()).await;
    let url = place.sandbox.bes_url().replace("/jobs?", "/execute?") + "&details=true";
    let answer = Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .request(Method::POST, url)
        .header("Ocp-Apim-Subscription-Key", SUBSCRIPTION)
        .bearer_auth(place.sandbox.settings().api_key.expose_secret())
        .json(&example("requestBody"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap(), example("responses/200"));
}

#[tokio::test]
async fn no_call_is_answered_in_a_way_that_the_document_does_not_name() {
    // Whatever blob is made up, nobody is asked for it: a test does not leave this machine.
    let settings = Settings { slots: 0, input_checked_at_run: true, ..Settings::default() };
    let place = Place::of(settings).await;
    place.holds(&document().await, REFUSING, 15).await;
    let totals = place.sandbox.ledger().totals;
    assert!(totals.executes > 0 && totals.refused_by_gateway > 0, "{totals:?}");
    assert_eq!(totals.runs, 0);
}

#[tokio::test]
async fn what_is_valid_for_the_service_is_accepted_and_what_is_not_is_refused() {
    let place = Place::of(Settings::default()).await;
    let narrowed = place.narrowed(document().await, Form::Table);
    place.holds(&narrowed, &format!("{DELETED_JOBS_ANSWER}{ACCEPTING}"), 25).await;
    place.went_all_the_way();
}

#[tokio::test]
async fn the_services_other_habits_are_named_too() {
    let place = Place::of(Settings {
        start_answers_no_content: true,
        delete_answers_no_content: true,
        numeric_status: true,
        unknown_job_is_bad_request: true,
        deleted_job_is_unknown: true,
        results_signed_once: true,
        ..Settings::default()
    })
    .await;
    let narrowed = place.narrowed(document().await, Form::Swagger);
    place.holds(&narrowed, &format!("{ACCEPTING}{WIDER_ROWS}"), 15).await;
    place.went_all_the_way();
}

#[tokio::test]
async fn faults_and_refusals_are_named_too() {
    let faults = ["429", "403", "500", "502", "503", "504", "html"];
    let faults = faults.map(|kind| format!("any={kind}:0.12").parse().unwrap());
    let place = Place::of(Settings { faults: faults.into(), ..Settings::default() }).await;
    let narrowed = place.narrowed(document().await, Form::Table);
    place.holds(&narrowed, CONFORMING, 10).await;
}

#[tokio::test]
async fn a_gateway_that_lets_nobody_in_says_so_as_documented() {
    let quota = Some(Quota { calls: 0, window: Duration::from_hours(1) });
    for (gateway, status) in [
        (Gateway { calls_per_minute: Some(0), ..gateway() }, 429),
        (Gateway { quota, ..gateway() }, 403),
    ] {
        let place = Place::of(Settings { gateway: Some(gateway), ..Settings::default() }).await;
        // That everything is refused is no fault of what is valid.
        place.holds(&document().await, CONFORMING, 1).await;
        let refused = place.sandbox.ledger().totals.refused_by_gateway;
        assert!(refused >= 5, "{refused} were refused with {status}");
    }
}

#[tokio::test]
async fn what_the_policy_names_is_set_up_on_every_way_of_importing_it() {
    const READ: &str = "import sys, xml.etree.ElementTree as tree; tree.parse(sys.argv[1])";
    let folder = path().parent().unwrap().to_owned();
    let read = tool("python").args(["-c", READ]).arg(folder.join("policy.xml")).output();
    let read = read.await.unwrap();
    assert!(read.status.success(), "{}", said(&read));
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (policy, terraform, readme) =
        (text("policy.xml"), text("terraform/main.tf"), text("README.md"));
    let named: Vec<_> =
        policy.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()).collect();
    assert_eq!(named.len(), 3);
    for name in named {
        assert!(terraform.contains(&format!("    {name} ")), "{name}");
        assert!(readme.contains(&format!("`{name}` (")), "{name}");
        assert!(readme.contains(&format!("--named-value-id {name} ")), "{name}");
    }
    assert!(policy.contains("backend-id=\"azureml\"") && readme.contains("--backend-id azureml "));
    assert!(terraform.contains(
        "\"azurerm_api_management_backend\" \"azureml\" {\n  name                = \"azureml\""
    ));
}

/// A sandbox behind a gateway with a subscription key, and the folder that Schemathesis works in.
struct Place {
    sandbox: RunningSandbox,
    folder: tempfile::TempDir,
    /// A blob to read and one to write, by key and by signature; and one that no run can read.
    input: [Value; 3],
    output: [Value; 2],
}

impl Place {
    async fn of(settings: Settings) -> Self {
        with_tls();
        let settings = Settings { run_time: Duration::ZERO, ..settings };
        let settings =
            Settings { gateway: settings.gateway.or_else(|| Some(gateway())), ..settings };
        // The blobs are put before anything goes wrong.
        let faults = settings.faults.clone();
        let sandbox =
            Sandbox::start(Settings { faults: Vec::new(), ..settings }, SystemClock).await.unwrap();
        let blobs = |hand_over| {
            let connection = ConnectionString::parse(&sandbox.connection_string()).unwrap();
            let settings = scoreline::blobs::Settings {
                account: connection.into(),
                container: "box".into(),
                prefix: String::new(),
                create: true,
                hand_over,
                blocks_in_flight: BLOCKS_IN_FLIGHT,
                ca: None,
            };
            AzureBlobs::new(settings, None, SystemClock).unwrap()
        };
        let (by_key, by_sas) = (blobs(HandOver::ConnectionString), blobs(HandOver::Sas));
        by_key.ready().await.unwrap();
        by_key
            .upload("in.csv", "in.csv", &mut &b"Col2\r\nThis is a good day\r\n"[..])
            .await
            .unwrap();
        by_key.upload("bad.csv", "bad.csv", &mut &b"a\n\"b"[..]).await.unwrap();
        let reference = async |blobs: &AzureBlobs, blob, access| {
            let life = Duration::from_hours(1);
            let reference = blobs.hand_over(blob, access, SystemClock.now(), life).await.unwrap();
            serde_json::to_value(reference).unwrap()
        };
        let input = [
            reference(&by_key, "in.csv", Access::Read).await,
            reference(&by_sas, "in.csv", Access::Read).await,
            reference(&by_key, "bad.csv", Access::Read).await,
        ];
        let output = [
            reference(&by_key, "out.csv", Access::Write).await,
            reference(&by_sas, "out.tsv", Access::Write).await,
        ];
        sandbox.set_faults(faults);
        Self { sandbox, folder: tempfile::tempdir().unwrap(), input, output }
    }

    /// The document as it would be for the one service that the sandbox plays: its ids, its input, its output, and
    /// blobs that are there.
    fn narrowed(&self, mut document: Value, form: Form) -> Value {
        let settings = self.sandbox.settings();
        let mut set = |pointer: &str, value: Value| {
            let at = document.pointer_mut(pointer);
            *at.unwrap_or_else(|| panic!("the document has no {pointer}")) = value;
        };
        let text = |text: &str| json!({"type": "string", "enum": [text]});
        set("/components/parameters/Workspace/schema", text(&settings.workspace));
        set("/components/parameters/Service/schema", text(&settings.service));
        set("/components/parameters/Workspace/example", json!(settings.workspace));
        set("/components/parameters/Service/example", json!(settings.service));

        // One form of the input each: that the other may be null, but not there, is more than can be narrowed.
        let (form_used, other, input) = match form {
            Form::Table => ("Inputs", "Input", only("input1", &one_of(&self.input))),
            Form::Swagger => ("Input", "Inputs", one_of(&self.input)),
        };
        let submit = "/components/schemas/SubmitRequest";
        set(&format!("{submit}/properties/{form_used}"), input);
        let outputs = json!({
            "type": "object",
            "nullable": true,
            "properties": {"output1": one_of(&self.output)},
            "additionalProperties": false
        });
        set(&format!("{submit}/properties/Outputs"), outputs);
        let submit = document.pointer_mut(submit).unwrap().as_object_mut().unwrap();
        submit["properties"].as_object_mut().unwrap().remove(other);
        submit.insert("required".into(), json!([form_used]));
        let post = |path: &str| {
            format!("/paths/~1workspaces~1{{workspace}}~1services~1{{service}}~1{path}/post")
        };
        let jobs = format!("{}/requestBody/content/application~1json/examples", post("jobs"));
        *document.pointer_mut(&jobs).unwrap() = json!({"one": {"value": {
            form_used: match form {
                Form::Table => json!({"input1": self.input[1]}),
                Form::Swagger => self.input[1].clone(),
            },
            "Outputs": {"output1": self.output[1]}
        }}});

        let cell = json!({"$ref": "#/components/schemas/Cell"});
        let rows = match form {
            // Rows that are as wide as the names can't be demanded by a schema, so there is one column.
            Form::Table => json!({
                "type": "object",
                "required": ["ColumnNames", "Values"],
                "properties": {
                    "ColumnNames": {
                        "type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string"}
                    },
                    "Values": {
                        "type": "array",
                        "items": {"type": "array", "minItems": 1, "maxItems": 1, "items": cell}
                    }
                }
            }),
            Form::Swagger => json!({"type": "array", "minItems": 1, "items": only("Col2", &cell)}),
        };
        *document.pointer_mut("/components/schemas/ExecuteRequest/properties/Inputs").unwrap() =
            only("input1", &rows);
        let execute = post("execute");
        let parameters = document.pointer_mut(&format!("{execute}/parameters")).unwrap();
        let parameters = parameters.as_array_mut().unwrap();
        assert_eq!(parameters.pop().unwrap()["$ref"], "#/components/parameters/Format");
        if let Form::Swagger = form {
            let mut format = document.pointer("/components/parameters/Format").unwrap().clone();
            format["required"] = json!(true);
            let parameters = document.pointer_mut(&format!("{execute}/parameters")).unwrap();
            parameters.as_array_mut().unwrap().push(format);
            let examples =
                document.pointer_mut(&format!("{execute}/requestBody/content/application~1json"));
            examples.unwrap().as_object_mut().unwrap().remove("examples");
        }
        document
    }

    /// Has Schemathesis think up `examples` calls for each operation and phase, and fails with what it found.
    async fn holds(&self, document: &Value, checks: &str, examples: u32) {
        let file = self.folder.path().join("openapi.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let given = |name, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
        let (seed, examples) = (given("OPENAPI_SEED", SEED), examples * given("OPENAPI_TIMES", 1));
        let base = Url::parse(&self.sandbox.bes_url()).unwrap();
        let suffix = base.path().split('/').nth(1).unwrap();
        let config = format!(
            "base-url = \"{}/{suffix}\"\nseed = {seed}\n{CONFIG}generation.max-examples = {examples}\n\
             auth.openapi.subscriptionKey.api_key = \"{SUBSCRIPTION}\"\n\
             auth.openapi.apiKey.bearer = \"{}\"\n{checks}",
            self.sandbox.url(),
            self.sandbox.settings().api_key.expose_secret(),
        );
        std::fs::write(self.folder.path().join("schemathesis.toml"), config).unwrap();
        let done = tool("schemathesis")
            .arg("run")
            .arg(&file)
            .current_dir(self.folder.path())
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }

    /// Calls were not only refused: jobs ran, ended well and ill, were deleted, and rows were scored.
    fn went_all_the_way(&self) {
        let totals = self.sandbox.ledger().totals;
        let Totals { submits, finished, failed, cancelled, executes, .. } = totals;
        let least = [submits, finished, failed, cancelled, executes].into_iter().min();
        assert!(least > Some(0), "{totals:?}");
    }
}

/// How rows are written.
#[derive(Clone, Copy)]
enum Form {
    Table,
    Swagger,
}

struct Operation<'a> {
    verb: String,
    /// As the guide writes it: the path with the query that is demanded.
    template: String,
    body: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, body) in item.as_object().unwrap() {
            if verb == "parameters" {
                continue;
            }
            let query: Vec<String> = body["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|parameter| {
                    let pointer = parameter["$ref"].as_str().unwrap().trim_start_matches('#');
                    document.pointer(pointer).unwrap()
                })
                .filter(|parameter| parameter["in"] == "query" && parameter["required"] == true)
                .map(|parameter| {
                    let name = parameter["name"].as_str().unwrap();
                    format!("{name}={{{}}}", name.replace('-', ""))
                })
                .collect();
            let template = format!("{path}?{}", query.join("&"));
            found.push(Operation { verb: verb.to_uppercase(), template, body });
        }
    }
    found
}

/// An object with this member and no other.
fn only(name: &str, schema: &Value) -> Value {
    json!({
        "type": "object",
        "required": [name],
        "properties": {name: schema},
        "additionalProperties": false
    })
}

/// One of these objects; said member by member, so that each can be got wrong.
fn one_of(objects: &[Value]) -> Value {
    let exactly = |object: &Value| {
        let members = object.as_object().unwrap();
        let properties: serde_json::Map<_, _> = members
            .iter()
            .map(|(name, value)| (name.clone(), json!({"type": "string", "enum": [value]})))
            .collect();
        let names: Vec<_> = members.keys().collect();
        json!({"type": "object", "required": names, "properties": properties})
    };
    json!({"anyOf": objects.iter().map(exactly).collect::<Vec<_>>()})
}

fn gateway() -> Gateway {
    Gateway { subscription_key: Some(SUBSCRIPTION.into()), ..Gateway::default() }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/apim/openapi.yaml")
}

/// The document as JSON, by the parser that Schemathesis reads it with.
async fn document() -> Value {
    const READ: &str =
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let read = tool("python").args(["-c", READ]).arg(path()).output().await.unwrap();
    assert!(read.status.success(), "{}", said(&read));
    serde_json::from_slice(&read.stdout).unwrap()
}

/// A program of the environment that Schemathesis is installed into. It leaves nothing there and asks no proxy.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(bin().join(name));
    command
        .stdin(Stdio::null())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUTF8", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .kill_on_drop(true);
    command
}

fn bin() -> PathBuf {
    if let Some(given) = std::env::var_os("SCHEMATHESIS") {
        return Path::new(&given).parent().expect("SCHEMATHESIS names a file").to_owned();
    }
    let in_tools = |target: &Path| target.join("tools/openapi/bin");
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .map(in_tools)
        .into_iter()
        .chain([in_tools(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))])
        .find(|candidate| candidate.join("schemathesis").is_file())
        .unwrap_or_else(|| {
            panic!(
                "these tests need Schemathesis; `make tools` installs it into target/tools, or SCHEMATHESIS names the \
                 executable in a Python environment with tests/it/openapi/requirements.txt"
            )
        })
}

pub(crate) fn said(output: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

const SUBSCRIPTION: &str = "subscription-of-the-tests";

/// The year of the guide. Another one is another set of calls: `OPENAPI_SEED`, and `OPENAPI_TIMES` more of them, search
/// further.
const SEED: u32 = 2016;

const CONFIG: &str = "workers = 1
color = false
warnings = false
cache.enabled = false
generation.database = \"none\"
";

/// All checks are made but these: API Management answers 404 where others say 405, as a verb is part of what it looks
/// up; a job that was deleted may answer `Cancelled`; and what is valid for some web service may still name an input that this one has not.
const REFUSING: &str = "checks.unsupported_method.enabled = false
checks.use_after_free.enabled = false
checks.positive_data_acceptance.enabled = false
";

/// What is valid is accepted; only that a job may have been started before, or be unknown.
const ACCEPTING: &str = "checks.unsupported_method.enabled = false
checks.positive_data_acceptance.expected-statuses = [200]
[[operations]]
include-operation-id = [\"bes-start\", \"bes-status\", \"bes-delete\"]
checks.positive_data_acceptance.expected-statuses = [200, 204, 400, 404]
";

const DELETED_JOBS_ANSWER: &str = "checks.use_after_free.enabled = false
";

/// Rows of objects may have more columns than the narrowed document says, so that is not to be refused.
const WIDER_ROWS: &str = "[[operations]]
include-operation-id = \"rrs-execute\"
checks.negative_data_rejection.enabled = false
";

/// Where anything may fail, the form of what is answered is all that holds.
const CONFORMING: &str = "checks.enabled = false
checks.status_code_conformance.enabled = true
checks.content_type_conformance.enabled = true
checks.response_headers_conformance.enabled = true
checks.response_schema_conformance.enabled = true
";
