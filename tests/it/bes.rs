//! The client of the batch service against a server that says what it is told to: what is really sent, and what
//! becomes of answers that no table holds, because they break off, never come or never end.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use scoreline::fault::{Blame, Class, Fault};
use scoreline::feed::Name;
use scoreline::job::RemoteId;
use scoreline::metrics::Metrics;
use scoreline::ports::{Clock, RemoteStatus, Run, Scorer, StartAnswer, Submission, SubmitAnswer};
use scoreline::scoring::bes::{Bes, CALL_LIMIT, Ends, Settings};
use scoreline::scoring::{Scoring, ServiceUrl};
use scoreline::wire::BlobReference;
use tokio::net::TcpListener;
use tokio::sync::Notify;

pub(crate) const KEY: &str = "api-key-of-the-tests==";
pub(crate) const SUBSCRIPTION: &str = "subscription-of-the-tests";
pub(crate) const OTHER_KEY: &str = "other-api-key-of-the-tests==";
const OTHER_SUBSCRIPTION: &str = "other-subscription-of-the-tests";
const JOB: &str = "539d0bc2fde945b6ac986b851d0000f0";

/// A clock that stands until a test lets every wait end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) over: Arc<Notify>,
}

impl Clock for Standing {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn sleep(&self, _: Duration) -> impl Future<Output = ()> + Send {
        let over = Arc::clone(&self.over);
        async move { over.notified().await }
    }
}

/// A request as it came.
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Answers every request by its headers and remembers it.
pub(crate) struct Stub {
    pub(crate) seen: Mutex<Vec<Seen>>,
    answer: Answers,
}

/// What a test holds: the client, and what the server saw.
pub(crate) struct Scene {
    pub(crate) scoring: Scoring<Standing>,
    pub(crate) metrics: Metrics,
    pub(crate) stub: Arc<Stub>,
}

pub(crate) type Answers = Box<dyn Fn(&HeaderMap) -> Response + Send + Sync>;

impl Scene {
    async fn new(answer: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        Self::with(Standing::default(), answer).await
    }

    async fn with(clock: Standing, answer: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        Self::made(clock, Box::new(move |_| answer())).await
    }

    async fn told(answer: impl Fn(&HeaderMap) -> Response + Send + Sync + 'static) -> Self {
        Self::made(Standing::default(), Box::new(answer)).await
    }

    async fn made(clock: Standing, answer: Answers) -> Self {
        Self::of(&clock, answer, client).await
    }

    /// With a client of any kind.
    pub(crate) async fn of(
        clock: &Standing,
        answer: Answers,
        client: impl FnOnce(&str, &Standing) -> (Scoring<Standing>, Metrics),
    ) -> Self {
        let stub = Arc::new(Stub { seen: Mutex::default(), answer });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(any(respond)).with_state(Arc::clone(&stub));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let (scoring, metrics) = client(&format!("http://{address}"), clock);
        Self { scoring, metrics, stub }
    }

    /// The only request.
    pub(crate) fn request(&self) -> Seen {
        let mut seen = self.stub.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "one call is one request");
        seen.remove(0)
    }
}

async fn respond(State(stub): State<Arc<Stub>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let answer = (stub.answer)(&head.headers);
    stub.seen.lock().unwrap().push(Seen {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body,
    });
    answer
}

pub(crate) fn churn() -> Name {
    Name::try_from("churn".to_owned()).unwrap()
}

pub(crate) fn settings(host: &str) -> Settings {
    Settings {
        name: churn(),
        url: ServiceUrl::parse(&format!("{host}/demo/workspaces/w/services/s/jobs")).unwrap(),
        api_key: format!("{KEY}\n").into(),
        secondary_api_key: Some(OTHER_KEY.into()),
        subscription_key: Some(SUBSCRIPTION.into()),
        secondary_subscription_key: Some(OTHER_SUBSCRIPTION.into()),
        timeout: CALL_LIMIT,
    }
}

fn client(host: &str, clock: &Standing) -> (Scoring<Standing>, Metrics) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let metrics = Metrics::new(&[], &[churn()], &[]);
    let bes = Bes::new(settings(host), Ends::default(), clock.clone(), metrics.clone()).unwrap();
    (Scoring::Bes(bes), metrics)
}

pub(crate) fn submission() -> Submission {
    let blob = |path: &str| BlobReference {
        base_location: Some("https://acct.blob.core.windows.net/".into()),
        relative_location: Some(path.into()),
        sas_blob_token: Some("?sig=abc".into()),
        connection_string: None,
    };
    Submission {
        key: "k-1".into(),
        input: Some("input1".into()),
        blob: blob("in/a.csv"),
        outputs: vec![("output1".into(), blob("out/a.csv"))],
        parameters: vec![("Cutoff".into(), "0.35".into())],
    }
}

pub(crate) fn job() -> RemoteId {
    RemoteId(JOB.into())
}

/// A run that is known at the address in the config.
pub(crate) fn here(id: &RemoteId) -> Run<'_> {
    Run { id, url: None }
}

pub(crate) fn has_count(metrics: &Metrics, operation: &str, status: &str) -> bool {
    metrics.text().contains(&format!(
        r#"scoreline_remote_requests_total{{endpoint="churn",operation="{operation}",status="{status}"}} 1"#
    ))
}

fn is_unavailable(fault: &Fault) -> bool {
    (fault.class, fault.blame) == (Class::Transient, Blame::Service)
}

#[tokio::test]
async fn a_submit_sends_its_body_with_both_keys() {
    let scene = Scene::new(|| Json(JOB).into_response()).await;
    let answer = scene.scoring.submit(&submission()).await.unwrap();
    assert_eq!(answer, SubmitAnswer::Known(job()));
    let seen = scene.request();
    assert_eq!(seen.method, Method::POST);
    assert_eq!(seen.uri, "/demo/workspaces/w/services/s/jobs?api-version=2.0");
    assert_eq!(seen.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(seen.headers["ocp-apim-subscription-key"], SUBSCRIPTION);
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["user-agent"], concat!("scoreline/", env!("CARGO_PKG_VERSION")));
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["Inputs"]["input1"]["RelativeLocation"], "in/a.csv");
    assert_eq!(body["GlobalParameters"]["Cutoff"], "0.35");
    assert!(has_count(&scene.metrics, "submit", "200"));
}

#[tokio::test]
async fn a_start_says_that_its_body_is_empty() {
    let scene = Scene::new(|| StatusCode::NO_CONTENT.into_response()).await;
    assert_eq!(scene.scoring.start(here(&job())).await.unwrap(), StartAnswer::Started);
    let seen = scene.request();
    assert_eq!(seen.method, Method::POST);
    assert_eq!(
        seen.uri,
        format!("/demo/workspaces/w/services/s/jobs/{JOB}/start?api-version=2.0").as_str()
    );
    let lengths: Vec<_> = seen.headers.get_all("content-length").iter().collect();
    assert_eq!(lengths, ["0"]);
    assert!(!seen.headers.contains_key("transfer-encoding"));
    assert!(seen.body.is_empty());
    assert!(has_count(&scene.metrics, "start", "204"));
}

#[tokio::test]
async fn status_cancel_and_probe_ask_for_one_job() {
    let scene = Scene::new(|| {
        r#"{"StatusCode":4,"Results":{"o":{"RelativeLocation":"/c/b"}}}"#.into_response()
    })
    .await;
    let seen = scene.scoring.status(here(&RemoteId("a/b".into()))).await.unwrap();
    assert!(matches!(seen, RemoteStatus::Finished(results) if results[0].place.blob() == "c/b"));
    let request = scene.stub.seen.lock().unwrap().remove(0);
    assert_eq!(request.method, Method::GET);
    assert_eq!(request.uri, "/demo/workspaces/w/services/s/jobs/a%2Fb?api-version=2.0");

    assert_eq!(scene.scoring.links(here(&job())).await.unwrap().len(), 1);
    scene.stub.seen.lock().unwrap().clear();

    scene.scoring.cancel(here(&job())).await.unwrap();
    let request = scene.stub.seen.lock().unwrap().remove(0);
    assert_eq!(request.method, Method::DELETE);

    scene.scoring.probe().await.unwrap();
    let request = scene.request();
    assert_eq!(request.method, Method::GET);
    assert_eq!(
        request.uri,
        "/demo/workspaces/w/services/s/jobs/00000000000000000000000000000000?api-version=2.0"
    );
    assert!(has_count(&scene.metrics, "probe", "200"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let scene = Scene::new(|| {
        (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response()
    })
    .await;
    let fault = scene.scoring.submit(&submission()).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Fatal, "redirect"));
    scene.request();
    assert!(has_count(&scene.metrics, "submit", "307"));
}

#[tokio::test]
async fn a_busy_service_is_asked_once() {
    let scene = Scene::new(|| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let fault = scene.scoring.start(here(&job())).await.unwrap_err();
    assert!(fault.class == Class::Transient && fault.is_overload(), "{fault:?}");
    scene.request();
}

#[tokio::test]
async fn an_answer_is_read_up_to_a_bound() {
    // Readable, if one reads on for long enough.
    let scene = Scene::new(|| {
        let late = " ".repeat(4 << 20) + r#"{"StatusCode":1}"#;
        late.into_response()
    })
    .await;
    let fault = scene.scoring.status(here(&job())).await.unwrap_err();
    assert_eq!(fault.code, "unreadable_answer");
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_an_answer() {
    let scene = Scene::new(|| format!("\u{feff}\"{JOB}\"\r\n").into_response()).await;
    let answer = scene.scoring.submit(&submission()).await.unwrap();
    assert_eq!(answer, SubmitAnswer::Known(job()));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let broken = || {
        let chunks = [Ok("\"539d"), Err(std::io::Error::other("cut"))];
        Body::from_stream(futures::stream::iter(chunks)).into_response()
    };
    let scene = Scene::new(broken).await;
    let fault = scene.scoring.submit(&submission()).await.unwrap_err();
    assert!(is_unavailable(&fault), "{fault:?}");
    assert_eq!(fault.code, "reset");
    assert!(has_count(&scene.metrics, "submit", "error"));
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_with_the_time_limit() {
    // Accepts connections, and that is all it does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clock = Standing::default();
    let (scoring, metrics) = client(&format!("http://{address}"), &clock);
    let id = job();
    let asking = scoring.status(here(&id));
    let passing = async {
        let connection = listener.accept().await.unwrap();
        clock.over.notify_one();
        connection
    };
    let (fault, _connection) = tokio::join!(asking, passing);
    let fault = fault.unwrap_err();
    assert!(is_unavailable(&fault), "{fault:?}");
    assert_eq!(fault.code, "timeout");
    assert!(fault.message.contains("within 15 s"), "{fault}");
    assert!(has_count(&metrics, "status", "timeout"));
}

#[tokio::test]
async fn the_time_limit_counts_the_whole_answer() {
    let clock = Standing::default();
    let over = Arc::clone(&clock.over);
    let scene = Scene::with(clock, move || {
        let begun = futures::stream::iter([Ok::<_, std::io::Error>("\"539d")]);
        let over = Arc::clone(&over);
        let never = futures::stream::once(async move {
            over.notify_one();
            std::future::pending().await
        });
        Body::from_stream(futures::StreamExt::chain(begun, never)).into_response()
    })
    .await;
    let fault = scene.scoring.submit(&submission()).await.unwrap_err();
    assert_eq!(fault.code, "timeout");
}

#[tokio::test]
async fn a_refused_connection_is_the_services_trouble() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (scoring, metrics) = client(&format!("http://{address}"), &Standing::default());
    let fault = scoring.probe().await.unwrap_err();
    assert!(is_unavailable(&fault), "{fault:?}");
    assert_eq!(fault.code, "connect");
    assert!(fault.message.contains(&address.to_string()), "{fault}");
    assert!(has_count(&metrics, "probe", "connect"));
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let (scoring, _) = client(&format!("https://{address}"), &Standing::default());
    let fault = scoring.probe().await.unwrap_err();
    assert!(is_unavailable(&fault), "{fault:?}");
    assert_eq!(fault.code, "tls", "{fault}");
}

#[tokio::test]
async fn keys_are_shown_nowhere() {
    let echo = format!("no access for {KEY} with {SUBSCRIPTION}");
    let scene = Scene::new(move || (StatusCode::FORBIDDEN, echo.clone()).into_response()).await;
    let fault = scene.scoring.probe().await.unwrap_err();
    for shown in [
        format!("{fault:?}"),
        format!("{:?}", scene.scoring),
        format!("{:?}", settings("http://127.0.0.1:1")),
    ] {
        assert!(!shown.contains(KEY) && !shown.contains(SUBSCRIPTION), "{shown}");
    }
}

#[test]
fn a_key_that_cannot_be_sent_is_refused_without_showing_it() {
    rustls::crypto::ring::default_provider().install_default().ok();
    for (wrong, field) in [
        (Settings { api_key: "secret\u{1}key".into(), ..settings("http://h") }, "api_key"),
        (
            Settings { subscription_key: Some(" ".into()), ..settings("http://h") },
            "subscription_key",
        ),
    ] {
        let metrics = Metrics::new(&[], &[], &[]);
        let error = Bes::new(wrong, Ends::default(), Standing::default(), metrics).unwrap_err();
        assert!(error.contains(&format!("endpoints.churn.{field}")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

/// Refuses every key but those given, as the service does and as the gateway does.
pub(crate) fn refusing(refused: &'static [&'static str]) -> impl Fn(&HeaderMap) -> Response {
    move |headers| {
        let sent = |name: &str| headers[name].to_str().unwrap().replace("Bearer ", "");
        let (key, subscription) = (sent("authorization"), sent("ocp-apim-subscription-key"));
        let is_refused = |key: &str| refused.contains(&key);
        if is_refused(&subscription) {
            let message = "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription.";
            let body = serde_json::json!({ "statusCode": 401, "message": message });
            return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
        }
        if is_refused(&key) {
            let body = serde_json::json!({ "error": { "code": "Unauthorized", "message": "no",
                "details": [{ "code": "ScoreRequestUnauthorized", "message": "no" }] } });
            return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
        }
        Json(JOB).into_response()
    }
}

#[tokio::test]
async fn while_a_key_is_being_renewed_the_other_one_is_used() {
    let scene = Scene::told(refusing(&[KEY, SUBSCRIPTION])).await;
    let sent = |seen: &Seen| {
        let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
        (header("authorization"), header("ocp-apim-subscription-key"))
    };
    assert_eq!(scene.scoring.submit(&submission()).await.unwrap(), SubmitAnswer::Known(job()));
    assert_eq!(scene.stub.seen.lock().unwrap().drain(..).count(), 3, "each is refused once");
    assert_eq!(scene.scoring.submit(&submission()).await.unwrap(), SubmitAnswer::Known(job()));
    let good = (format!("Bearer {OTHER_KEY}"), OTHER_SUBSCRIPTION.to_owned());
    assert_eq!(sent(&scene.request()), good, "what was good is used at once the next time");
}

#[tokio::test]
async fn a_service_that_refuses_both_keys_is_asked_with_each_once() {
    let scene = Scene::told(refusing(&[KEY, OTHER_KEY])).await;
    let fault = scene.scoring.submit(&submission()).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Fatal, "ScoreRequestUnauthorized"));
    assert_eq!(scene.stub.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_run_is_asked_about_where_it_is_known() {
    let scene = Scene::new(|| r#"{"StatusCode":1}"#.into_response()).await;
    let elsewhere = scene.scoring.url().replace("/workspaces/w/", "/workspaces/old/");
    let id = job();
    let run = Run { id: &id, url: Some(&elsewhere) };
    assert_eq!(scene.scoring.status(run).await.unwrap(), RemoteStatus::Pending);
    assert_eq!(scene.request().uri.path(), format!("/demo/workspaces/old/services/s/jobs/{JOB}"));
}

#[tokio::test]
async fn an_address_that_the_config_no_longer_has_is_no_trouble_of_the_one_that_it_has() {
    let scene = Scene::new(|| StatusCode::UNAUTHORIZED.into_response()).await;
    let elsewhere = scene.scoring.url().replace("/workspaces/w/", "/workspaces/old/");
    let id = job();
    let fault = scene.scoring.status(Run { id: &id, url: Some(&elsewhere) }).await.unwrap_err();
    assert_eq!(fault.class, Class::Transient, "{fault}");
    assert!(
        fault.message.contains("/workspaces/old/") && fault.message.contains("release"),
        "{fault}"
    );
    let fault = scene.scoring.status(here(&id)).await.unwrap_err();
    assert_eq!(fault.class, Class::Fatal, "{fault}");
}
