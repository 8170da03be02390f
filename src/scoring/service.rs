//! The way to a classic web service, perhaps with API Management in front: what all of its operations share.
//!
//! Each call is one exchange: sent once, bounded in time and size, never redirected. When to try again is the engine's
//! to decide; what an answer means is the pure part's (`answer`). Batch and request/response differ in what they send
//! and in what they read, and that is in a module of each; the keys, their fail-over, the limits and what is counted
//! are here. Whoever wants to see what would be sent has it noted at the last moment, in the place of the network.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};

use super::ServiceUrl;
use super::answer::{self, Answer, Call, Operation, Read};
use crate::fault::{Class, Fault, Origin};
use crate::feed::Name;
use crate::job::RemoteId;
use crate::metrics::Metrics;
use crate::ports::{Clock, Noted, Paper, RemoteCall, Run, place_of, trace};

/// A classic web service, and how it is reached.
pub(super) struct Service<C> {
    settings: Settings,
    client: Client,
    api_keys: Keys,
    subscription_keys: Option<Keys>,
    clock: C,
    metrics: Metrics,
    /// What takes requests in the place of the network.
    paper: Option<Arc<dyn Paper>>,
}

/// What the config says of a classic web service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The endpoint's name, a label in metrics.
    pub name: Name,
    /// Where it is.
    pub url: ServiceUrl,
    /// The primary or secondary key of the service's endpoint.
    pub api_key: SecretString,
    /// The other one, for when the first is refused: so keys are renewed without a pause.
    pub secondary_api_key: Option<SecretString>,
    /// The key of the subscription at API Management, if that is in front.
    pub subscription_key: Option<SecretString>,
    /// The subscription's other key.
    pub secondary_subscription_key: Option<SecretString>,
    /// How long a call may take, until its whole answer is there.
    pub timeout: Duration,
}

/// What a call carries.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Nothing, and nothing is said of it.
    None,
    /// Nothing, and said aloud: some gateways answer 411 to a POST that leaves its length out.
    Empty,
    Json(Bytes),
}

impl<C: Clock> Service<C> {
    /// Fails when a key can't be sent as a header, or this machine has no usable TLS.
    pub(super) fn new(settings: Settings, clock: C, metrics: Metrics) -> Result<Self, String> {
        let name = &settings.name;
        let header = |scheme, key: &SecretString, setting: &str| {
            secret_header(scheme, key)
                .map_err(|wrong| format!("endpoints.{name}.{setting} {wrong}"))
        };
        let other = |scheme, key: &Option<SecretString>, setting| {
            key.as_ref().map(|key| header(scheme, key, setting)).transpose()
        };
        let api_keys = Keys::new(
            header("Bearer ", &settings.api_key, "api_key")?,
            other("Bearer ", &settings.secondary_api_key, "secondary_api_key")?,
        );
        let subscription_keys = match &settings.subscription_key {
            Some(key) => Some(Keys::new(
                header("", key, "subscription_key")?,
                other("", &settings.secondary_subscription_key, "secondary_subscription_key")?,
            )),
            None => None,
        };
        let client = client(name, settings.timeout, settings.url.is_loopback())?;
        Ok(Self { settings, client, api_keys, subscription_keys, clock, metrics, paper: None })
    }

    /// The same, sending nothing.
    pub(super) fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        Self { paper: Some(paper), ..self }
    }

    pub(super) fn name(&self) -> &Name {
        &self.settings.name
    }

    pub(super) fn url(&self) -> &ServiceUrl {
        &self.settings.url
    }

    pub(super) fn asked(&self, operation: Operation) -> Call<'_> {
        Call { endpoint: &self.settings.name, operation, now: self.clock.now() }
    }

    /// Where a run is known: not where the config says now, if that was changed meanwhile.
    fn service(&self, run: Run<'_>) -> Cow<'_, ServiceUrl> {
        match run.url.map(ServiceUrl::parse) {
            Some(Ok(url)) if url != self.settings.url => Cow::Owned(url),
            _ => Cow::Borrowed(&self.settings.url),
        }
    }

    /// One exchange about a run, at the service that knows it.
    pub(super) async fn about<T>(
        &self,
        run: Run<'_>,
        operation: Operation,
        method: Method,
        url: impl Fn(&ServiceUrl, &RemoteId) -> Url,
        read: impl Fn(&Answer, &Call) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let service = self.service(run);
        let body = if operation == Operation::Start { Body::Empty } else { Body::None };
        let answered = match self.exchange(operation, method, url(&service, run.id), &body).await {
            Ok(answer) => read(&answer, &self.asked(operation)),
            Err(fault) => Err(fault),
        };
        answered.map_err(|fault| known_at(&*service, &self.settings.url, fault))
    }

    /// One exchange: the answer, whatever it says, or what kept it away. A key that is refused is tried no more, if
    /// there is another one.
    pub(super) async fn exchange(
        &self,
        operation: Operation,
        method: Method,
        url: Url,
        body: &Body,
    ) -> Result<Answer, Fault> {
        let mut turned = BTreeSet::new();
        loop {
            let with = self.keys();
            let answer = self.send(operation, method.clone(), url.clone(), body, &with).await?;
            if !answer.refuses_keys() {
                return Ok(answer);
            }
            let (setting, other) = if answer.speaks_of_subscription() {
                let keys = self.subscription_keys.as_ref().zip(with.subscription.as_ref());
                ("subscription_key", keys.is_some_and(|(keys, refused)| keys.turn(refused)))
            } else {
                ("api_key", self.api_keys.turn(&with.api))
            };
            if !other || !turned.insert(setting) {
                return Ok(answer);
            }
            let name = &self.settings.name;
            tracing::warn!(endpoint = %name, "{setting} was refused; the other one is tried");
        }
    }

    fn keys(&self) -> Headers {
        let subscription = self.subscription_keys.as_ref().map(Keys::current);
        Headers { api: self.api_keys.current(), subscription }
    }

    /// Sends once.
    async fn send(
        &self,
        operation: Operation,
        method: Method,
        url: Url,
        body: &Body,
        with: &Headers,
    ) -> Result<Answer, Fault> {
        let host = host_of(&url);
        let request = self
            .client
            .request(method.clone(), url.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(AUTHORIZATION, with.api.clone());
        let request = match &with.subscription {
            Some(key) => request.header(SUBSCRIPTION_KEY, key.clone()),
            None => request,
        };
        let request = match body {
            Body::Json(json) => request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(json.clone()),
            Body::Empty => request.header(CONTENT_LENGTH, 0),
            Body::None => request,
        };
        let request = traced(request);
        let began = self.clock.boot();
        let limit = self.settings.timeout;
        let received = async {
            match &self.paper {
                None => receive(request, bound(operation)).await,
                Some(paper) => request.build().map(|request| noted(&**paper, operation, &request)),
            }
        };
        let outcome = self.clock.timeout(limit, received).await;
        let elapsed = self.clock.boot().saturating_sub(began);
        let call = self.asked(operation);
        let answer = match outcome {
            Some(Ok(answer)) => Ok(self.without_our_keys(answer)),
            Some(Err(error)) => Err(answer::unreachable(&error, &host, &call)),
            None => Err(answer::timed_out(&host, limit, &call)),
        };
        let answered = answer.as_ref().map(|answer| answer.status);
        count(&self.metrics, &call, (&method, &url), answered, elapsed);
        answer
    }

    /// An error may repeat what was sent, and no pattern knows our keys as well as we do.
    fn without_our_keys(&self, mut answer: Answer) -> Answer {
        if (200..300).contains(&answer.status) {
            return answer;
        }
        let Settings { api_key, secondary_api_key, .. } = &self.settings;
        let Settings { subscription_key, secondary_subscription_key, .. } = &self.settings;
        let keys = [
            Some(api_key),
            secondary_api_key.as_ref(),
            subscription_key.as_ref(),
            secondary_subscription_key.as_ref(),
        ];
        for key in keys.into_iter().flatten().map(|key| key.expose_secret().trim()) {
            if answer.body.contains(key) {
                answer.body = answer.body.replace(key, "***");
            }
        }
        answer
    }
}

impl<C> fmt::Debug for Service<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.settings.name)
            .field("url", &self.settings.url)
            .finish_non_exhaustive()
    }
}

/// The keys that a call is sent with.
struct Headers {
    api: HeaderValue,
    subscription: Option<HeaderValue>,
}

/// A key and perhaps a second one, as headers: while one is being renewed the other is good.
struct Keys {
    first: HeaderValue,
    second: Option<HeaderValue>,
    /// The first was refused, and the second not since.
    turned: AtomicBool,
}

impl Keys {
    fn new(first: HeaderValue, second: Option<HeaderValue>) -> Self {
        Self { first, second, turned: AtomicBool::new(false) }
    }

    fn current(&self) -> HeaderValue {
        let turned = self.turned.load(Ordering::Relaxed);
        self.second.as_ref().filter(|_| turned).unwrap_or(&self.first).clone()
    }

    /// Goes on with the other key, unless some other call has done that already; answers whether there is one.
    fn turn(&self, refused: &HeaderValue) -> bool {
        let Some(second) = &self.second else { return false };
        self.turned.store(refused != second, Ordering::Relaxed);
        true
    }
}

/// The client of one endpoint.
pub(super) fn client(endpoint: &Name, timeout: Duration, is_local: bool) -> Result<Client, String> {
    let mut client = Client::builder()
        // A redirect would take what lets us in to another address.
        .redirect(reqwest::redirect::Policy::none())
        // Retry lives in the engine alone; and where a call makes a run, a second one could make another.
        .retry(reqwest::retry::never())
        // Half the time, shared out over the host's addresses, so that a dead one leaves time for the next. The whole is
        // limited by the clock.
        .connect_timeout((timeout / 2).min(CONNECT_MAX));
    if is_local {
        client = client.no_proxy();
    }
    client
        .build()
        .map_err(|cause| format!("endpoints.{endpoint}: no HTTP client could be made: {cause}"))
}

/// What is wrong with the address that knows a run, when that is in the config no more, says nothing about the one that is.
pub(super) fn known_at<U: PartialEq + fmt::Display>(known: &U, now: &U, fault: Fault) -> Fault {
    if known == now || fault.class != Class::Fatal {
        return fault;
    }
    let message = format!(
        "{}; the run is known at {known}, and the config names {now} now: give the endpoint the old address again until \
         its runs have ended, or release the job",
        fault.message
    );
    Fault::transient(Origin::Endpoint, fault.code, message)
}

pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Says which step of which job a call is part of. A probe is part of none.
pub(super) fn traced(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    match trace::current() {
        Some(step) => request.header(trace::TRACEPARENT, step.traceparent()),
        None => request,
    }
}

/// Sends a request and reads its answer, as much of it as is worth reading.
pub(super) async fn receive(
    request: reqwest::RequestBuilder,
    bound: usize,
) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    let mut read = Read::Whole;
    while let Some(chunk) = response.chunk().await? {
        let room = bound - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            read = Read::Cut(bound);
            break;
        }
    }
    let body = match String::from_utf8(body) {
        Ok(body) => body,
        Err(error) => {
            if read == Read::Whole {
                read = Read::Garbled;
            }
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }
    };
    Ok(Answer {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        body: without_mark(body),
        read,
    })
}

/// Counts a call by how it was answered, by a status, or by the kind of silence; and has it remembered.
pub(super) fn count(
    metrics: &Metrics,
    call: &Call<'_>,
    (method, url): (&Method, &Url),
    answered: Result<u16, &Fault>,
    elapsed: Duration,
) {
    let status = match &answered {
        Ok(status) => status.to_string(),
        Err(fault) => match fault.code.as_str() {
            "timeout" => "timeout".into(),
            "connect" | "dns" | "tls" | "certificate" => "connect".into(),
            _ => "error".into(),
        },
    };
    let (endpoint, operation) = (call.endpoint.as_str(), call.operation.name());
    metrics.remote_requests_total.with_label_values(&[endpoint, operation, &status]).inc();
    metrics
        .remote_request_duration_seconds
        .with_label_values(&[endpoint, operation])
        .observe(elapsed.as_secs_f64());
    trace::tell_call(|| RemoteCall {
        at: call.now - elapsed,
        operation,
        endpoint: endpoint.to_owned(),
        method: method.to_string(),
        url: place_of(url.as_str()),
        status: answered.ok(),
        took: elapsed,
        error: answered.err().map(|fault| fault.message.clone()),
    });
    tracing::debug!(endpoint, operation, status, seconds = elapsed.as_secs_f64(), "called");
}

/// Notes a request in the place of sending it.
pub(super) fn noted(paper: &dyn Paper, operation: Operation, request: &reqwest::Request) -> Answer {
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut headers: Vec<_> = request.headers().iter().map(shown).collect();
    if !body.is_empty() {
        // What the connection would say of it.
        headers.push((CONTENT_LENGTH.as_str().to_owned(), body.len().to_string()));
    }
    let answered = paper.answer(Noted {
        operation: Some(operation.name()),
        method: request.method().to_string(),
        url: request.url().to_string(),
        headers,
        body: Bytes::copy_from_slice(body),
    });
    let headers = answered.headers.into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    });
    Answer {
        status: answered.status,
        headers: headers.collect(),
        body: String::from_utf8_lossy(&answered.body).into_owned(),
        read: Read::Whole,
    }
}

/// A header that libraries don't print. Keys read from files end in a line break, which is not part of them.
fn secret_header(scheme: &str, key: &SecretString) -> Result<HeaderValue, &'static str> {
    let key = key.expose_secret().trim();
    if key.is_empty() {
        return Err("is empty");
    }
    let mut value = HeaderValue::from_str(&format!("{scheme}{key}"))
        .map_err(|_| "holds a character that can't be sent: it is one line of plain characters")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The header of a key for API Management; its query parameter of the same use ends up in logs.
const SUBSCRIPTION_KEY: HeaderName = HeaderName::from_static("ocp-apim-subscription-key");

const AGENT: &str = concat!("scoreline/", env!("CARGO_PKG_VERSION"));

/// How many bytes of an answer are read.
pub(super) fn bound(operation: Operation) -> usize {
    if operation == Operation::Execute { RESULTS_MAX_BYTES } else { ANSWER_MAX_BYTES }
}

fn without_mark(body: String) -> String {
    body.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(body)
}

/// A call may take minutes; to be let in takes none.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// A thousand times what the service needs to say; a job's details are the longest of it.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// Results are held in memory; an input that is scored at once has a fourth of this at most.
const RESULTS_MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_of_plain_characters() {
        assert_eq!(secret_header("Bearer ", &"abc==\r\n".into()).unwrap(), "Bearer abc==");
        assert!(secret_header("", &"abc".into()).unwrap().is_sensitive());
        for wrong in ["", " \n", "a\nb", "a\0b"] {
            assert!(secret_header("", &wrong.into()).is_err(), "{wrong:?}");
        }
    }
}
