//! The queue, the batches and the requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};
use prost::Message as _;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::job::JobId;
use crate::ports::Clock;
use crate::ports::trace::{Field, Span, Spans};
use crate::retry::unit;

/// An exporter of spans.
pub(super) struct Traces<C> {
    settings: Settings,
    client: Client,
    clock: C,
    queue: mpsc::Sender<Span>,
    /// The queue's other end, until somebody runs.
    queued: Mutex<Option<mpsc::Receiver<Span>>>,
    /// Lost since that was told last.
    dropped: AtomicU64,
}

/// Why a batch was not taken.
struct Refusal {
    words: String,
    /// The same may be taken later.
    passes: bool,
}

impl<C: Clock> Traces<C> {
    pub(super) fn new(settings: Settings, clock: C) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let wrong = || format!("the header {name} can't be sent");
            let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(parsed, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut client = Client::builder()
            // A redirect would take what lets us in to another address.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("scoreline/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers);
        if settings.url.host_str().is_some_and(is_loopback) {
            client = client.no_proxy();
        }
        let client =
            client.build().map_err(|cause| format!("no HTTP client could be made: {cause}"))?;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let queued = Mutex::new(Some(queued));
        Ok(Self { settings, client, clock, queue, queued, dropped: AtomicU64::new(0) })
    }

    async fn export(&self, mut queued: mpsc::Receiver<Span>, stop: CancellationToken) {
        let mut told = None;
        while let Some(batch) = self.gather(&mut queued, &stop).await {
            let count = batch.len() as u64;
            let trouble = self.send(encode(&self.settings, batch), &stop).await.err();
            if trouble.is_some() {
                self.dropped.fetch_add(count, Ordering::Relaxed);
            }
            self.tell_losses(trouble.as_ref(), &mut told);
            // A collector that is away keeps nobody from ending.
            if trouble.is_some() && stop.is_cancelled() {
                return;
            }
        }
    }

    /// The next batch; none when there is nothing left and nothing comes.
    async fn gather(
        &self,
        queued: &mut mpsc::Receiver<Span>,
        stop: &CancellationToken,
    ) -> Option<Vec<Span>> {
        let first = tokio::select! {
            biased;
            first = queued.recv() => first?,
            () = stop.cancelled() => return None,
        };
        let mut batch = vec![first];
        let mut linger = std::pin::pin!(self.clock.sleep(LINGER));
        while batch.len() < BATCH_MAX {
            tokio::select! {
                biased;
                Some(span) = queued.recv() => batch.push(span),
                () = stop.cancelled() => break,
                () = &mut linger => break,
            }
        }
        Some(batch)
    }

    /// Sends a batch, as often as it takes and makes sense; while this process ends, once.
    async fn send(&self, body: Bytes, stop: &CancellationToken) -> Result<(), Refusal> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.post(body.clone()).await {
                Err(refusal) if refusal.passes && !stop.is_cancelled() => {}
                done => return done,
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.clock.sleep(pause) => {}
            }
            pause *= 2;
        }
        self.post(body).await
    }

    async fn post(&self, body: Bytes) -> Result<(), Refusal> {
        let sent = async {
            let answer = self.client.post(self.settings.url.clone()).body(body).send().await?;
            // What it says of a success is short, and what it says of a failure is nobody's to read here.
            let status = answer.status();
            let said = if status.is_success() { answer.bytes().await? } else { Bytes::new() };
            Ok::<_, reqwest::Error>((status, said))
        };
        let passing = |words| Refusal { words, passes: true };
        let (status, said) = match self.clock.timeout(self.settings.timeout, sent).await {
            None => return Err(passing(format!("no answer in {:?}", self.settings.timeout))),
            Some(Err(error)) => {
                return Err(passing(crate::fault::causes(&error.without_url())));
            }
            Some(Ok(answered)) => answered,
        };
        if !status.is_success() {
            // Those that OTLP calls retryable.
            let passes = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            return Err(Refusal { words: format!("it answered {status}"), passes });
        }
        let partly = ExportTraceServiceResponse::decode(said).unwrap_or_default().partial_success;
        let rejected = partly.map_or(0, |partly| partly.rejected_spans);
        self.dropped.fetch_add(u64::try_from(rejected).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Now and then, not with every batch.
    fn tell_losses(&self, trouble: Option<&Refusal>, told: &mut Option<Duration>) {
        let now = self.clock.boot();
        if told.is_some_and(|told| now < told + TOLD_EVERY) {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped == 0 {
            return;
        }
        *told = Some(now);
        let (host, error) = (self.settings.url.host_str(), trouble.map(|t| t.words.as_str()));
        tracing::warn!(
            host,
            dropped,
            error,
            "spans were dropped, and jobs go on without: see to the collector of [traces], or lower traces.sample"
        );
    }
}

impl<C: Clock> Spans for Traces<C> {
    fn samples(&self, job: JobId) -> bool {
        self.settings.sample >= 1.0 || unit(job.seed()) < self.settings.sample
    }

    fn tell(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Some(queued) = queued {
                self.export(queued, stop).await;
            }
        }
        .boxed()
    }
}

/// A batch as one request. Fields take the program's name before theirs, but for an error's code, for which
/// OpenTelemetry has a name of its own.
fn encode(settings: &Settings, batch: Vec<Span>) -> Bytes {
    let resource = settings.resource.iter();
    let attributes =
        resource.map(|(name, value)| attribute(name.clone(), Value::StringValue(value.clone())));
    let resource = Resource { attributes: attributes.collect(), ..Resource::default() };
    let scope = InstrumentationScope {
        name: "scoreline".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = batch.into_iter().map(otlp).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let of_resource =
        ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }.encode_to_vec().into()
}

fn otlp(span: Span) -> OtlpSpan {
    let began = span.began.timestamp_nanos_opt().unwrap_or_default().cast_unsigned();
    let took = u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX);
    let attributes = span.fields.into_iter().map(|(name, value)| {
        let name = match name {
            "error_code" => "error.type".to_owned(),
            name => format!("scoreline.{name}"),
        };
        let value = match value {
            Field::Text(text) => Value::StringValue(text),
            Field::Number(number) => Value::IntValue(number),
        };
        attribute(name, value)
    });
    let kind = if span.is_call { SpanKind::Client } else { SpanKind::Internal };
    let status = span.error.map(|message| Status { message, code: StatusCode::Error.into() });
    OtlpSpan {
        trace_id: span.job.uuid().as_bytes().to_vec(),
        span_id: span.id.to_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(took),
        attributes: attributes.collect(),
        status,
        ..OtlpSpan::default()
    }
}

fn attribute(key: String, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key, value, ..KeyValue::default() }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Spans that wait: some megabytes, and a minute of a busy node.
const QUEUE_MAX: usize = 8192;
/// Spans in one request, as OpenTelemetry's own exporters have it.
const BATCH_MAX: usize = 512;
/// How long a span waits for company.
const LINGER: Duration = Duration::from_secs(1);
/// How often a batch is sent, at most, with pauses of 1, 2, 4 and 8 seconds.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
const TOLD_EVERY: Duration = Duration::from_mins(1);
