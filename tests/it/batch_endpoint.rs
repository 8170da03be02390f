//! The client of batch endpoints against a server that says what it is told to: what is really sent, how often, and what
//! is known afterwards.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use scoreline::clock::SystemClock;
use scoreline::fault::{Class, Fault, Origin};
use scoreline::feed::Name;
use scoreline::job::RemoteId;
use scoreline::metrics::Metrics;
use scoreline::ports::{
    Audience, Invoked, RemoteStatus, Run, Scorer, Submission, SubmitAnswer, Tokens, Way,
};
use scoreline::scoring::BatchEndpoint;
use scoreline::scoring::batch_endpoint::{EndpointUrl, InputType, Settings, Workspace};
use scoreline::scoring::bes::CALL_LIMIT;
use scoreline::wire::BlobReference;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;

mod daemon;
mod sandbox;

/// Numbers the tokens that it gives, and notes for whom.
#[derive(Debug, Default)]
struct Counting {
    asked: Mutex<Vec<Audience>>,
    refused: Mutex<Vec<String>>,
    gives_none: bool,
}

impl Tokens for Counting {
    fn token(&self, audience: Audience) -> BoxFuture<'_, Result<SecretString, Fault>> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(audience);
        let token = format!("token-{}\n", asked.len());
        let fault = Fault::fatal(Origin::Endpoint, "invalid_client", "the secret is wrong");
        let answer = if self.gives_none { Err(fault) } else { Ok(token.into()) };
        async move { answer }.boxed()
    }

    fn refused(&self, _: Audience, token: &SecretString) {
        self.refused.lock().unwrap().push(token.expose_secret().trim().to_owned());
    }
}

/// A request as it came.
struct Seen {
    line: String,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answers = Box<dyn Fn(&Uri, &HeaderMap, usize) -> Response + Send + Sync>;

struct Stub {
    seen: Mutex<Vec<Seen>>,
    answer: Answers,
}

/// What a test holds: the client, whom it asks for tokens, and what the server saw.
struct Scene {
    endpoint: BatchEndpoint<SystemClock>,
    identity: Arc<Counting>,
    stub: Arc<Stub>,
    host: String,
}

impl Scene {
    /// The server is told which request this is, from 0 on.
    async fn new(
        answer: impl Fn(&Uri, &HeaderMap, usize) -> Response + Send + Sync + 'static,
    ) -> Self {
        let stub = Arc::new(Stub { seen: Mutex::default(), answer: Box::new(answer) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(any(respond)).with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let identity = Arc::new(Counting::default());
        Self { endpoint: client(settings(&host), &identity), identity, stub, host }
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.stub.seen.lock().unwrap())
    }

    fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn respond(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_else(|_| Bytes::new());
    let n = {
        let mut seen = stub.seen.lock().unwrap();
        seen.push(Seen {
            line: format!("{} {}", head.method, head.uri),
            headers: head.headers.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        seen.len() - 1
    };
    (stub.answer)(&head.uri, &head.headers, n)
}

fn churn() -> Name {
    Name::try_from("churn".to_owned()).unwrap()
}

fn settings(host: &str) -> Settings {
    let management = Workspace::management(host).unwrap();
    Settings {
        name: churn(),
        url: EndpointUrl::parse(&format!("{host}/jobs")).unwrap(),
        deployment: Some("blue".into()),
        datastore: "inbox".into(),
        input_type: InputType::File,
        workspace: Some(Workspace::parse(WORKSPACE, &management).unwrap()),
        timeout: CALL_LIMIT,
    }
}

fn client(settings: Settings, identity: &Arc<Counting>) -> BatchEndpoint<SystemClock> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let metrics = Metrics::new(&[], &[churn()], &[]);
    BatchEndpoint::new(settings, identity.clone(), SystemClock, metrics).unwrap()
}

fn submission() -> Submission {
    let blob = |path: &str| BlobReference {
        relative_location: Some(path.into()),
        ..BlobReference::default()
    };
    Submission {
        key: "019ab5a8-1".into(),
        input: None,
        blob: blob("/scoring/f/j/1-1/a.csv"),
        outputs: vec![("score".into(), blob("/scoring/f/j/1-2/out/score.csv"))],
        parameters: vec![],
    }
}

async fn intent(endpoint: &BatchEndpoint<SystemClock>) -> RemoteId {
    let SubmitAnswer::Known(id) = endpoint.submit(&submission()).await.unwrap() else { panic!() };
    id
}

fn run(id: &RemoteId) -> Run<'_> {
    Run { id, url: None }
}

async fn invoke(endpoint: &BatchEndpoint<SystemClock>) -> Invoked {
    endpoint.invoke(run(&intent(endpoint).await), &submission()).await
}

fn named(name: &str) -> Response {
    (StatusCode::CREATED, axum::Json(serde_json::json!({ "name": name }))).into_response()
}

#[tokio::test]
async fn a_submit_sends_nothing_and_the_one_call_sends_it_all() {
    let scene = Scene::new(|_, _, _| named("9f1c2d")).await;
    assert_eq!(scene.endpoint.way(), Way::OneCall);
    let id = intent(&scene.endpoint).await;
    assert!(scene.seen().is_empty());
    assert_eq!(invoke(&scene.endpoint).await, Invoked::Started(RemoteId("9f1c2d".into())));
    assert_eq!(invoke(&scene.endpoint).await, Invoked::Started(RemoteId("9f1c2d".into())));
    let [first, second] = &scene.seen()[..] else { panic!() };
    assert_eq!(first.line, "POST /jobs");
    assert_eq!(first.header("authorization"), "Bearer token-1");
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("azureml-model-deployment"), "blue");
    let repeated = first.header("repeatability_request-id");
    assert!(id.0.contains(repeated) && repeated.len() == 36, "{repeated}");
    assert_eq!(second.header("repeatability_request-id"), repeated);
    assert_eq!(
        first.body,
        r#"{"properties":{"InputData":{"input":{"JobInputType":"UriFile","Uri":"azureml://datastores/inbox/paths/f/j/1-1/a.csv"}},"OutputData":{"score":{"JobOutputType":"UriFile","Uri":"azureml://datastores/inbox/paths/f/j/1-2/out/score.csv"}}}}"#
    );
    assert_eq!(*scene.identity.asked.lock().unwrap(), [Audience::MachineLearning; 2]);
    assert_eq!(scene.identity.refused.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_token_that_is_refused_is_asked_for_anew_once() {
    let scene = Scene::new(|_, headers, _| {
        if headers[header::AUTHORIZATION] == "Bearer token-2" {
            return named("9f1c2d");
        }
        StatusCode::UNAUTHORIZED.into_response()
    });
    let scene = scene.await;
    assert_eq!(invoke(&scene.endpoint).await, Invoked::Started(RemoteId("9f1c2d".into())));
    assert_eq!(*scene.identity.refused.lock().unwrap(), ["token-1"]);

    let scene = Scene::new(|_, _, _| {
        let text = "Audiences in JWT are not allowed: token-1 token-2";
        (StatusCode::UNAUTHORIZED, text).into_response()
    });
    let scene = scene.await;
    let Invoked::NotStarted(fault) = invoke(&scene.endpoint).await else { panic!() };
    assert_eq!(fault.class, Class::Fatal);
    assert!(fault.message.contains("credential") && !fault.message.contains("token-2"), "{fault}");
    assert_eq!(scene.seen().len(), 2);
}

#[tokio::test]
async fn without_a_token_or_a_connection_nothing_was_started() {
    let identity = Arc::new(Counting { gives_none: true, ..Counting::default() });
    let scene = Scene::new(|_, _, _| named("x")).await;
    let Invoked::NotStarted(fault) = invoke(&client(settings(&scene.host), &identity)).await else {
        panic!()
    };
    assert_eq!(fault.code, "invalid_client");
    assert!(scene.seen().is_empty());
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (host, code) in [(nobody.as_str(), "connect"), ("https://no-such-host.invalid", "dns")] {
        let outcome = invoke(&client(settings(host), &Arc::default())).await;
        let Invoked::NotStarted(fault) = outcome else { panic!("{host}: {outcome:?}") };
        assert!(fault.code == code || code == "dns", "{fault}");
        assert_eq!(fault.class, Class::Transient, "{fault}");
    }
}

#[tokio::test]
async fn a_call_that_broke_off_after_it_was_sent_may_have_started_a_run() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncReadExt as _;
            let mut some = [0; 4096];
            let _ = stream.read(&mut some).await;
        }
    });
    let outcome = invoke(&client(settings(&host), &Arc::default())).await;
    assert!(matches!(outcome, Invoked::Unclear(_)), "{outcome:?}");
    for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::OK] {
        let scene = Scene::new(move |_, _, _| status.into_response()).await;
        let outcome = invoke(&scene.endpoint).await;
        assert!(matches!(outcome, Invoked::Unclear(_)), "{outcome:?}");
        assert_eq!(scene.seen().len(), 1, "and it is not made again");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_to_nobody() {
    let scene = Scene::new(|_, _, _| {
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:1/jobs")])
            .into_response()
    });
    let scene = scene.await;
    let Invoked::NotStarted(fault) = invoke(&scene.endpoint).await else { panic!() };
    assert_eq!((fault.class, fault.code.as_str()), (Class::Fatal, "redirect"));
    assert_eq!(scene.seen().len(), 1);
}

#[tokio::test]
async fn a_run_is_looked_at_where_it_is_known() {
    let scene = Scene::new(|_, _, _| {
        axum::Json(serde_json::json!({ "properties": { "status": "Running" } })).into_response()
    });
    let scene = scene.await;
    let id = RemoteId("9f1c/2d".into());
    assert_eq!(scene.endpoint.status(run(&id)).await.unwrap(), RemoteStatus::Pending);
    let old = format!("{}/old/jobs", scene.host);
    let known = Run { id: &id, url: Some(&old) };
    assert_eq!(scene.endpoint.status(known).await.unwrap(), RemoteStatus::Pending);
    assert_eq!(scene.lines(), ["GET /jobs/9f1c%2F2d", "GET /old/jobs/9f1c%2F2d"]);
}

fn listed(uri: &str) -> serde_json::Value {
    serde_json::json!({ "name": "9f1c2d", "properties": { "outputData": { "score": { "uri": uri } } } })
}

const OURS: &str = "azureml://datastores/inbox/paths/f/j/1-2/out/score.csv";
const WORKSPACE: &str =
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";

#[tokio::test]
async fn a_run_is_looked_for_on_all_pages_of_the_endpoints_own_host() {
    let scene = Scene::new(|uri, headers, _| {
        let host = headers[header::HOST].to_str().unwrap();
        let page = match uri.query() {
            None => serde_json::json!({ "value": [listed("x")], "nextLink": "/jobs?$skip=1" }),
            Some("$skip=1") => serde_json::json!({
                "value": [],
                "nextLink": format!("http://{host}/jobs?$skip=2"),
            }),
            _ => serde_json::json!({ "value": [listed(OURS)] }),
        };
        axum::Json(page).into_response()
    });
    let scene = scene.await;
    let id = intent(&scene.endpoint).await;
    let found = scene.endpoint.status(run(&id)).await.unwrap();
    assert_eq!(found, RemoteStatus::Found(RemoteId("9f1c2d".into())));
    assert_eq!(scene.lines(), ["GET /jobs", "GET /jobs?$skip=1", "GET /jobs?$skip=2"]);

    let astray = Scene::new(|_, _, _| {
        let page = serde_json::json!({ "value": [], "nextLink": "http://127.0.0.2:1/jobs" });
        axum::Json(page).into_response()
    });
    let astray = astray.await;
    assert_eq!(astray.endpoint.status(run(&id)).await.unwrap(), RemoteStatus::NotListed);
    assert_eq!(astray.seen().len(), 2, "the endpoint's list and the workspace's");
}

#[tokio::test]
async fn where_the_endpoint_lists_nothing_the_workspace_is_asked_with_a_token_of_its_own() {
    let scene = Scene::new(|uri, _, _| {
        if uri.path() == "/jobs" {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        axum::Json(serde_json::json!({ "value": [listed(OURS)] })).into_response()
    });
    let scene = scene.await;
    let id = intent(&scene.endpoint).await;
    let found = scene.endpoint.status(run(&id)).await.unwrap();
    assert_eq!(found, RemoteStatus::Found(RemoteId("9f1c2d".into())));
    let list = format!("GET {WORKSPACE}/jobs?api-version=2023-10-01");
    assert_eq!(scene.lines(), ["GET /jobs".to_owned(), list]);
    let asked = [Audience::MachineLearning, Audience::Management];
    assert_eq!(*scene.identity.asked.lock().unwrap(), asked);
}

#[tokio::test]
async fn without_any_list_a_person_has_to_look() {
    let scene = Scene::new(|_, _, _| StatusCode::NOT_FOUND.into_response()).await;
    let id = intent(&scene.endpoint).await;
    let fault = scene.endpoint.status(run(&id)).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "start_unclear"));
    assert!(fault.message.contains("can't tell"), "{fault}");
    let away = Scene::new(|_, _, _| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let fault = away.endpoint.status(run(&id)).await.unwrap_err();
    assert_eq!(fault.class, Class::Transient, "it may come back: {fault}");
}

#[tokio::test]
async fn a_run_is_stopped_at_the_workspace_or_not_at_all() {
    let scene = Scene::new(|_, _, _| StatusCode::ACCEPTED.into_response()).await;
    let id = RemoteId("9f1c2d".into());
    scene.endpoint.cancel(run(&id)).await.unwrap();
    let [seen] = &scene.seen()[..] else { panic!() };
    assert_eq!(seen.line, format!("POST {WORKSPACE}/jobs/9f1c2d/cancel?api-version=2023-10-01"));
    assert_eq!(seen.header("content-length"), "0");
    assert_eq!(*scene.identity.asked.lock().unwrap(), [Audience::Management]);
    // One that has to be found first is not asked for by a name that nobody there knows.
    scene.endpoint.cancel(run(&intent(&scene.endpoint).await)).await.unwrap();
    let alone = client(Settings { workspace: None, ..settings(&scene.host) }, &Arc::default());
    let fault = alone.cancel(run(&id)).await.unwrap_err();
    assert_eq!(fault.class, Class::Permanent);
    assert!(fault.message.contains("endpoints.churn.workspace"), "{fault}");
    assert!(scene.seen().is_empty());
}
