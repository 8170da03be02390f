//! The sandbox's batch endpoint by itself: it is as strict as the real one, and counts what it does.

use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use scoreline::sandbox::{BatchService, RunningSandbox, Sandbox, Settings};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

struct Desk {
    sandbox: RunningSandbox,
    http: reqwest::Client,
}

impl Desk {
    async fn new() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let settings = Settings { run_time: Duration::ZERO, ..Settings::default() };
        let sandbox = Sandbox::start(settings, SystemClock).await.unwrap();
        Self { sandbox, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn ask_for_token(&self, url: &str, secret: &str, what: (&str, &str)) -> (u16, Value) {
        let client = BatchService::default().client_id;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &client),
            ("client_secret", secret),
            what,
        ];
        let answer = self.http.post(url).form(&form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn token(&self, audience: &str) -> String {
        let secret = BatchService::default().client_secret;
        let scope = format!("{audience}/.default");
        let url = self.sandbox.token_url();
        let (_, body) = self.ask_for_token(&url, secret.expose_secret(), ("scope", &scope)).await;
        body["access_token"].as_str().unwrap().to_owned()
    }

    async fn invoke(&self, token: &str, id: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(self.sandbox.batch_url()).bearer_auth(token).json(body);
        let answer = request.header("repeatability_request-id", id).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn ended(&self, token: &str, name: &Value) -> Value {
        let url = format!("{}/{}", self.sandbox.batch_url(), name.as_str().unwrap());
        for _ in 0..1000 {
            let answer = self.http.get(&url).bearer_auth(token).send().await.unwrap();
            let run: Value = answer.json().await.unwrap();
            if ["Completed", "Failed"].contains(&run["properties"]["status"].as_str().unwrap()) {
                return run;
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} does not end");
    }
}

fn body(output: &str) -> Value {
    let uri = |path: &str| format!("azureml://datastores/scoring/paths/{path}");
    json!({ "properties": {
        "inputData": { "rows": { "jobInputType": "uriFile", "uri": uri("no-such.csv") } },
        "OutputData": { "score": { "JobOutputType": "UriFile", "Uri": uri(output) } },
    } })
}

const MACHINE_LEARNING: &str = "https://ml.azure.com";

#[tokio::test]
async fn a_token_is_given_for_the_right_secret_and_good_for_one_audience() {
    let desk = Desk::new().await;
    let (url, secret) = (desk.sandbox.token_url(), BatchService::default().client_secret);
    let secret = secret.expose_secret();
    let v1 = url.replace("/v2.0", "");
    let (status, first) = desk.ask_for_token(&v1, secret, ("resource", MACHINE_LEARNING)).await;
    assert_eq!((status, first["expires_in"].as_str()), (200, Some("3600")));
    let scope = "https://ml.azure.com/.default";
    for (url, secret, what, code) in [
        (url.as_str(), "wrong", ("scope", scope), "invalid_client"),
        (&url, secret, ("scope", "https://elsewhere/.default"), "invalid_resource"),
        (&url, secret, ("scope", MACHINE_LEARNING), "invalid_resource"),
        (&url.replace("9d0e", "0000"), secret, ("scope", scope), "invalid_request"),
    ] {
        let (status, refused) = desk.ask_for_token(url, secret, what).await;
        assert!(status >= 400 && refused["error"] == code, "{status} {refused}");
    }
    let (status, _) =
        desk.invoke(first["access_token"].as_str().unwrap(), "1", &body("a.csv")).await;
    assert_eq!(status, 200);
    let management = desk.token("https://management.azure.com").await;
    let (status, refused) = desk.invoke(&management, "2", &body("b.csv")).await;
    assert_eq!(
        (status, &refused["error"]["message"]),
        (401, &json!("Audiences in JWT are not allowed"))
    );
    desk.sandbox.update(|settings| settings.batch.token_life = Duration::ZERO);
    let expired = desk.token(MACHINE_LEARNING).await;
    for token in [expired.as_str(), "x.y.z", &format!("{expired}x")] {
        assert_eq!(desk.invoke(token, "3", &body("c.csv")).await.0, 401, "{token}");
    }
    assert_eq!(desk.sandbox.ledger().batch_runs.len(), 1);
}

#[tokio::test]
async fn a_repeated_call_makes_a_second_run_unless_the_service_knows_its_id() {
    let desk = Desk::new().await;
    let token = desk.token(MACHINE_LEARNING).await;
    let (_, first) = desk.invoke(&token, "id-1", &body("a.csv")).await;
    let (_, again) = desk.invoke(&token, "id-1", &body("a.csv")).await;
    assert_eq!(first["name"], again["name"]);
    desk.sandbox.update(|settings| settings.batch.honours_repeatability = false);
    let (_, another) = desk.invoke(&token, "id-1", &body("a.csv")).await;
    assert_ne!(first["name"], another["name"]);
    let runs = desk.sandbox.ledger().batch_runs;
    assert!(runs.len() == 2 && runs.iter().all(|run| run.intent.as_deref() == Some("id-1")));
}

#[tokio::test]
async fn what_can_not_run_is_refused_or_fails_with_its_reason() {
    let desk = Desk::new().await;
    let token = desk.token(MACHINE_LEARNING).await;
    let (_, run) = desk.invoke(&token, "1", &body("a.csv")).await;
    let failed = desk.ended(&token, &run["name"]).await;
    let words = failed["properties"]["error"]["message"].as_str().unwrap();
    assert!(words.contains("NotFound"), "{words}");
    let mut folder = body("a.csv");
    folder["properties"]["OutputData"]["score"]["JobOutputType"] = "UriFolder".into();
    let mut elsewhere = body("a.csv");
    elsewhere["properties"]["OutputData"]["score"]["Uri"] = "https://h/c/a.csv".into();
    let mut unknown = body("a.csv");
    unknown["properties"]["inputData"]["rows"]["uri"] = "azureml://datastores/x/paths/a".into();
    for (wrong, words) in [
        (folder, "Job output type must be 'uri_file'"),
        (elsewhere, "blob datastores"),
        (unknown, "Datastore x was not found"),
        (json!({}), "properties is missing"),
    ] {
        let (status, refused) = desk.invoke(&token, "2", &wrong).await;
        assert_eq!(status, 400);
        assert!(refused["error"]["message"].as_str().unwrap().contains(words), "{refused}");
    }
    desk.sandbox.update(|settings| settings.batch.has_default_deployment = false);
    let (_, refused) = desk.invoke(&token, "3", &body("a.csv")).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("No valid deployments"));
}
