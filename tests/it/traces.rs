//! A job as a trace: what remote services are told, and what a collector gets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use scoreline::config::Config;
use scoreline::http::JobBody;

use crate::hashing::input_of;
use crate::rig::{Rig, Running};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_for_a_job_names_its_trace_although_nobody_gathers_any() {
    let rig = Rig::new().await;
    let proxy = Proxy::before(&rig).await;
    let daemon = rig.start_with(proxy.config(&rig)).await;
    let job = scored(&rig, &daemon, "a.csv").await;
    daemon.stop().await;
    let seen = proxy.seen();
    for call in CALLS {
        let told = |seen: &&Seen| seen.is(call) && seen.traceparent.is_some();
        assert!(seen.iter().any(|seen| told(&seen)), "{call:?} says nothing: {seen:#?}");
    }
    for seen in &seen {
        let Some(told) = &seen.traceparent else {
            // The sandbox reads and writes blobs itself.
            assert!(!seen.path.contains("/jobs"), "{seen:?} says nothing");
            continue;
        };
        assert_eq!(told.len(), 55, "{told}");
        assert!(told.starts_with(&format!("00-{}-", job.trace_id)), "{seen:?}");
        assert!(told.ends_with("-00"), "{told}");
    }
    let steps: BTreeSet<_> = seen.iter().filter_map(Seen::span).collect();
    assert!(steps.len() >= 5, "each step has an id of its own: {steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_part_of_no_trace() {
    let rig = Rig::new().await;
    let proxy = Proxy::before(&rig).await;
    let config = proxy.config(&rig);
    scoreline::daemon::check_online(&config).await.unwrap();
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.traceparent.is_none()), "{seen:?}");
}

/// A method and the end of a path, of calls that every job makes.
const CALLS: [(&str, &str); 5] = [
    ("PUT", "a.csv"),
    ("POST", "/jobs"),
    ("POST", "/start"),
    ("GET", "/jobs/"),
    ("GET", "output1.csv"),
];

async fn scored(rig: &Rig, daemon: &Running, name: &str) -> JobBody {
    rig.drop_file(name, &input_of(&["all is well"]));
    daemon.until_ended(1).await.into_iter().find(|job| job.name == name).unwrap()
}

/// Stands before the sandbox and looks at what passes.
struct Proxy {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    traceparent: Option<String>,
}

impl Seen {
    fn is(&self, (method, end): (&str, &str)) -> bool {
        let fits =
            if end.ends_with('/') { self.path.contains(end) } else { self.path.ends_with(end) };
        self.method == *method && fits
    }

    fn span(&self) -> Option<String> {
        Some(self.traceparent.as_ref()?.split('-').nth(2)?.to_owned())
    }
}

struct Door {
    target: String,
    client: reqwest::Client,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    async fn before(rig: &Rig) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let door = Door {
            target: rig.sandbox.addr.to_string(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            seen: seen.clone(),
        };
        let router = Router::new().fallback(pass).with_state(Arc::new(door));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, seen }
    }

    /// The rig's config, with everything at the proxy.
    fn config(&self, rig: &Rig) -> Config {
        let text = rig.config_text().replace(&rig.sandbox.addr.to_string(), &self.address);
        Config::parse(&text, &rig.path("scoreline.toml"), &[].into()).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn pass(
    State(door): State<Arc<Door>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let traceparent = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
    let path = uri.path().to_owned();
    door.seen.lock().unwrap().push(Seen { method: method.clone(), path, traceparent });
    let url = format!("http://{}{uri}", door.target);
    let answer = door.client.request(method, url).headers(headers).body(body).send().await;
    let Ok(answer) = answer else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.bytes().await.unwrap()).into_response()
}

#[cfg(feature = "otlp")]
mod exported {
    use std::collections::BTreeMap;

    use axum::routing::post;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
    use prost::Message as _;
    use scoreline::clock::SystemClock;
    use scoreline::job::Phase;
    use scoreline::ports::Clock as _;

    use super::*;
    use crate::rig::eventually;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_gets_each_step_of_a_job_and_the_job_as_the_whole_of_them() {
        let collector = Collector::start().await;
        let rig = Rig::new().await.tables(&collector.table());
        let proxy = Proxy::before(&rig).await;
        let daemon = rig.start_with(proxy.config(&rig)).await;
        rig.faults(&["submit=500:*1"]);
        let good = scored(&rig, &daemon, "a.csv").await;
        rig.drop_file("bad.csv", &input_of(&["POISON"]));
        daemon.until_ended(2).await;
        let jobs = daemon.jobs().await;
        let bad = jobs.into_iter().find(|job| job.name == "bad.csv").unwrap();
        assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/retry", bad.id)).await, 202);
        daemon
            .until("it failed again", |jobs| {
                jobs.iter().any(|job| (job.phase, job.generation) == (Phase::Failed, 2))
            })
            .await;
        daemon.until_ended(2).await;
        // The last ones come with the end.
        daemon.stop().await;

        let spans = collector.spans();
        let of = |job: &JobBody| -> Vec<&Span> {
            spans.iter().filter(|span| hex(&span.trace_id) == job.trace_id).collect()
        };
        assert_eq!(of(&good).len() + of(&bad).len(), spans.len(), "there are no other traces");
        let ids: BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
        assert_eq!(ids.len(), spans.len(), "an id is given once");

        let told = of(&good);
        let steps = ["upload", "submit", "submit", "start", "poll", "deliver", "settle"];
        let names: Vec<_> = in_order(&told).into_iter().map(|span| &*span.name).collect();
        assert_eq!(names[1..], steps, "and looks that found nothing are not there");
        let whole = told.iter().find(|span| span.name == "job").unwrap();
        assert!(whole.parent_span_id.is_empty());
        for step in told.iter().filter(|span| span.name != "job") {
            assert_eq!(step.parent_span_id, whole.span_id, "{step:#?}");
            assert!(whole.start_time_unix_nano <= step.start_time_unix_nano, "{step:#?}");
            assert!(step.start_time_unix_nano <= step.end_time_unix_nano, "{step:#?}");
            assert_eq!(text(step, "scoreline.job"), good.id.to_string());
            assert_eq!(text(step, "scoreline.feed"), "f");
        }
        let failed: Vec<_> = in_order(&told).into_iter().filter(|span| is_error(span)).collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!((&*failed[0].name, &*text(failed[0], "error.type")), ("submit", "UnknownError"));
        assert_eq!(text(failed[0], "scoreline.error_class"), "transient");
        assert_eq!(text(failed[0], "scoreline.endpoint"), "e");

        let wholes: BTreeMap<_, _> = of(&bad)
            .into_iter()
            .filter(|span| span.name == "job")
            .map(|span| (number(span, "scoreline.generation"), span))
            .collect();
        assert_eq!(wholes.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert!(wholes.values().all(|whole| is_error(whole)), "{wholes:#?}");
        assert_eq!(text(wholes[&1], "error.type"), "remote_failed");
        assert_eq!(wholes[&2].parent_span_id, wholes[&1].span_id);
        for step in of(&bad).into_iter().filter(|span| span.name != "job") {
            let generation = number(step, "scoreline.generation");
            assert_eq!(step.parent_span_id, wholes[&generation].span_id, "{step:#?}");
        }

        // What the remote side was told is where it is found.
        let starts: BTreeSet<_> = proxy
            .seen()
            .iter()
            .filter(|seen| seen.is(("POST", "/start")))
            .filter_map(Seen::span)
            .collect();
        let told = spans.iter().filter(|span| span.name == "start").map(|span| hex(&span.span_id));
        assert_eq!(starts, told.collect());
        let seen = proxy.seen();
        let mut headers = seen.iter().filter_map(|seen| seen.traceparent.as_ref());
        assert!(headers.all(|header| header.ends_with("-01")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_sampled_is_told_to_nobody() {
        let collector = Collector::start().await;
        let rig = Rig::new().await.tables(&(collector.table() + "sample = 0"));
        let proxy = Proxy::before(&rig).await;
        let daemon = rig.start_with(proxy.config(&rig)).await;
        scored(&rig, &daemon, "a.csv").await;
        daemon.stop().await;
        assert!(collector.spans().is_empty());
        let seen = proxy.seen();
        assert!(
            seen.iter().filter_map(|seen| seen.traceparent.as_ref()).all(|t| t.ends_with("-00"))
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_away_for_a_while_gets_what_it_missed() {
        let collector = Collector::start().await;
        collector.refuse(2);
        let rig = Rig::new().await.tables(&collector.table());
        let daemon = rig.start().await;
        let job = scored(&rig, &daemon, "a.csv").await;
        eventually("it has the job", || async {
            collector.spans().iter().any(|s| s.name == "job" && hex(&s.trace_id) == job.trace_id)
        })
        .await;
        daemon.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_never_answers_holds_up_neither_jobs_nor_the_end() {
        // It is connected to, and that is all.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let table = format!(
            "[traces]\notlp_endpoint = \"http://{}\"\ntimeout = \"1h\"",
            silent.local_addr().unwrap()
        );
        let rig = Rig::new().await.tables(&table);
        let daemon = rig.start().await;
        scored(&rig, &daemon, "a.csv").await;
        let ended = SystemClock.timeout(std::time::Duration::from_mins(5), daemon.stop()).await;
        assert!(ended.is_some(), "it waits for the collector");
    }

    /// A collector that keeps what it gets.
    struct Collector {
        address: String,
        kept: Arc<Kept>,
    }

    #[derive(Default)]
    struct Kept {
        spans: Mutex<Vec<Span>>,
        /// So many requests are refused.
        refused: Mutex<u32>,
    }

    impl Collector {
        async fn start() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let kept = Arc::<Kept>::default();
            let router = Router::new().route("/v1/traces", post(keep)).with_state(kept.clone());
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { address, kept }
        }

        fn table(&self) -> String {
            format!(
                "[traces]\notlp_endpoint = \"http://{}\"\nheaders = {{ x-key = \"let-me-in\" }}\n",
                self.address
            )
        }

        fn refuse(&self, times: u32) {
            *self.kept.refused.lock().unwrap() = times;
        }

        fn spans(&self) -> Vec<Span> {
            self.kept.spans.lock().unwrap().clone()
        }
    }

    async fn keep(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> StatusCode {
        let mut refused = kept.refused.lock().unwrap();
        if *refused > 0 {
            *refused -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        assert_eq!(headers["x-key"], "let-me-in");
        assert_eq!(headers["content-type"], "application/x-protobuf");
        for of_resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
            let attributes = of_resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let name = name.value.clone().unwrap().value.unwrap();
            assert_eq!(name, Value::StringValue("scoreline".into()));
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.spans.lock().unwrap().extend(spans);
        }
        StatusCode::OK
    }

    fn in_order<'a>(spans: &[&'a Span]) -> Vec<&'a Span> {
        let mut spans = spans.to_vec();
        spans.sort_by_key(|span| (span.start_time_unix_nano, span.name != "job"));
        spans
    }

    fn is_error(span: &Span) -> bool {
        span.status.as_ref().is_some_and(|status| status.code() == Code::Error)
    }

    fn value(span: &Span, key: &str) -> Value {
        let found = span.attributes.iter().find(|attribute| attribute.key == key);
        let found = found.unwrap_or_else(|| panic!("there is no {key}: {span:#?}"));
        found.value.clone().unwrap().value.unwrap()
    }

    fn text(span: &Span, key: &str) -> String {
        let Value::StringValue(text) = value(span, key) else { panic!("{key}: {span:#?}") };
        text
    }

    fn number(span: &Span, key: &str) -> i64 {
        let Value::IntValue(number) = value(span, key) else { panic!("{key}: {span:#?}") };
        number
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }
}
