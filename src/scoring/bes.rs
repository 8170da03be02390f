//! Azure ML's classic Batch Execution Service, version 2.0, perhaps with API Management in front.
//!
//! Each call is one exchange: sent once, bounded in time and size, never redirected. When to try again is the engine's
//! to decide; what an answer means is the pure part's (`answer`). The two steps of the service, submit and start, stay
//! two calls here: between them the engine commits the id.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};

use super::answer::{self, Answer, Call, Operation};
use super::{ResultHosts, ServiceUrl};
use crate::fault::{Class, Fault, Origin};
use crate::feed::Name;
use crate::job::RemoteId;
use crate::metrics::Metrics;
use crate::ports::{Clock, RemoteStatus, Run, Scorer, StartAnswer, Submission, SubmitAnswer};
use crate::wire::{BlobReference, SubmitRequest};

/// A classic batch service, as the engine sees it.
pub struct Bes<C> {
    settings: Settings,
    client: Client,
    api_keys: Keys,
    subscription_keys: Option<Keys>,
    clock: C,
    metrics: Metrics,
}

/// What the config says of a classic batch service.
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
    /// Where links to results may lead.
    pub result_hosts: ResultHosts,
    /// Whether the service is to forget jobs whose outputs are in place.
    pub delete_jobs: bool,
    /// How long a call may take, until its whole answer is there; see [`CALL_LIMIT`].
    pub timeout: Duration,
}

/// How long a call may take by default.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);

impl<C: Clock> Bes<C> {
    /// Fails when a key can't be sent as a header, or this machine has no usable TLS.
    pub fn new(settings: Settings, clock: C, metrics: Metrics) -> Result<Self, String> {
        let name = &settings.name;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
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
        let mut client = Client::builder()
            .user_agent(concat!("scoreline/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // A redirect would take the keys to another address.
            .redirect(reqwest::redirect::Policy::none())
            // Retry lives in the engine alone.
            .retry(reqwest::retry::never())
            // Half the time, shared out over the host's addresses, so that a dead one leaves time for the next. The
            // whole is limited by the clock.
            .connect_timeout(settings.timeout / 2);
        if settings.url.is_loopback() {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|cause| format!("endpoints.{name}: no HTTP client could be made: {cause}"))?;
        Ok(Self { settings, client, api_keys, subscription_keys, clock, metrics })
    }

    fn asked(&self, operation: Operation) -> Call<'_> {
        Call { endpoint: &self.settings.name, operation, now: self.clock.now() }
    }

    /// Where a run is known: not where the config says now, if that was changed meanwhile.
    fn service(&self, run: Run<'_>) -> Cow<'_, ServiceUrl> {
        match run.url.map(ServiceUrl::parse) {
            Some(Ok(url)) if url != self.settings.url => Cow::Owned(url),
            _ => Cow::Borrowed(&self.settings.url),
        }
    }

    /// One exchange about a run, at the service that knows it. What is wrong with an address that is in the config no
    /// more says nothing about the one that is.
    async fn about<T>(
        &self,
        run: Run<'_>,
        operation: Operation,
        method: Method,
        url: impl Fn(&ServiceUrl, &RemoteId) -> Url,
        read: impl Fn(&Answer, &Call) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let service = self.service(run);
        let answered = match self.exchange(operation, method, url(&service, run.id), None).await {
            Ok(answer) => read(&answer, &self.asked(operation)),
            Err(fault) => Err(fault),
        };
        answered.map_err(|fault| {
            if *service == self.settings.url || fault.class != Class::Fatal {
                return fault;
            }
            let message = format!(
                "{}; the run is known at {service}, and the config names {} now: give the endpoint the old address \
                 again until its runs have ended, or release the job",
                fault.message, self.settings.url
            );
            Fault::transient(Origin::Endpoint, fault.code, message)
        })
    }

    /// One exchange: the answer, whatever it says, or what kept it away. A key that is refused is tried no more, if
    /// there is another one.
    async fn exchange(
        &self,
        operation: Operation,
        method: Method,
        url: Url,
        body: Option<&SubmitRequest>,
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
        body: Option<&SubmitRequest>,
        with: &Headers,
    ) -> Result<Answer, Fault> {
        let host = host_of(&url);
        let request = self.client.request(method, url).header(AUTHORIZATION, with.api.clone());
        let request = match &with.subscription {
            Some(key) => request.header(SUBSCRIPTION_KEY, key.clone()),
            None => request,
        };
        let request = match body {
            Some(body) => request.json(body),
            // Said aloud: some gateways answer 411 to a POST that leaves its length out.
            None if operation == Operation::Start => request.header(CONTENT_LENGTH, 0),
            None => request,
        };
        let began = self.clock.boot();
        let limit = self.settings.timeout;
        let outcome = self.clock.timeout(limit, receive(request)).await;
        let elapsed = self.clock.boot().saturating_sub(began);
        let call = self.asked(operation);
        let answer = match outcome {
            Some(Ok(answer)) => Ok(self.without_our_keys(answer)),
            Some(Err(error)) => Err(answer::unreachable(&error, &host, &call)),
            None => Err(answer::timed_out(&host, limit, &call)),
        };
        let status = match &answer {
            Ok(answer) => answer.status.to_string(),
            Err(fault) => match fault.code.as_str() {
                "timeout" => "timeout".into(),
                "connect" | "dns" | "tls" | "certificate" => "connect".into(),
                _ => "error".into(),
            },
        };
        let name = self.settings.name.as_str();
        let metrics = &self.metrics;
        metrics.remote_requests_total.with_label_values(&[name, operation.name(), &status]).inc();
        metrics
            .remote_request_duration_seconds
            .with_label_values(&[name, operation.name()])
            .observe(elapsed.as_secs_f64());
        tracing::debug!(endpoint = name, operation = operation.name(), status, ?elapsed, "called");
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

impl<C: Clock> Scorer for Bes<C> {
    fn kind(&self) -> &'static str {
        "bes"
    }

    fn url(&self) -> String {
        self.settings.url.to_string()
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        let operation = Operation::Submit;
        let url = self.settings.url.submit();
        let body = submit_request(submission);
        let answer = self.exchange(operation, Method::POST, url, Some(&body)).await?;
        answer::submitted(&answer, &self.asked(operation))
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        self.about(run, Operation::Start, Method::POST, ServiceUrl::start, answer::started).await
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        self.about(run, Operation::Status, Method::GET, ServiceUrl::status, answer::status).await
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        self.about(run, Operation::Cancel, Method::DELETE, ServiceUrl::cancel, answer::cancelled)
            .await
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        self.about(run, Operation::Status, Method::GET, ServiceUrl::status, answer::links).await
    }

    fn admit(&self, output: &str, link: &BlobReference) -> Result<(), Fault> {
        let Settings { result_hosts, name, url, .. } = &self.settings;
        result_hosts.admit(link, output, name, url.is_loopback())
    }

    fn deletes_jobs(&self) -> bool {
        self.settings.delete_jobs
    }

    async fn probe(&self) -> Result<(), Fault> {
        let operation = Operation::Probe;
        let url = self.settings.url.status(&RemoteId(NO_JOB.into()));
        let answer = self.exchange(operation, Method::GET, url, None).await?;
        answer::probed(&answer, &self.asked(operation))
    }
}

impl<C> fmt::Debug for Bes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bes")
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

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The body of a submit. A named input goes into `Inputs`, which every service takes; without a name it is `Input`,
/// which one with a single input takes. The service refuses a body that has both.
pub fn submit_request(submission: &Submission) -> SubmitRequest {
    let blob = submission.blob.clone();
    let (input, inputs) = match &submission.input {
        Some(name) => (None, Some(BTreeMap::from([(name.clone(), blob)]))),
        None => (Some(blob), None),
    };
    SubmitRequest {
        input,
        inputs,
        outputs: Some(submission.outputs.iter().cloned().collect()),
        global_parameters: Some(submission.parameters.iter().cloned().collect()),
    }
}

/// Sends a request and reads its answer, as much of it as is worth reading.
async fn receive(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        let room = ANSWER_MAX_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    let body = String::from_utf8_lossy(&body);
    Ok(Answer {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        body: body.trim_start_matches('\u{feff}').to_owned(),
    })
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
/// A thousand times what the service needs to say; a job's details are the longest of it.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// In the form of the service's ids, and none of them.
const NO_JOB: &str = "00000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(blob: &str) -> BlobReference {
        BlobReference {
            connection_string: Some(
                "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K".into(),
            ),
            relative_location: Some(blob.into()),
            ..BlobReference::default()
        }
    }

    fn signed(blob: &str) -> BlobReference {
        BlobReference {
            base_location: Some("https://acct.blob.core.windows.net/".into()),
            relative_location: Some(blob.into()),
            sas_blob_token: Some("?sv=2022-11-02&sp=r&sig=abc%3D".into()),
            ..BlobReference::default()
        }
    }

    fn json(submission: &Submission) -> String {
        serde_json::to_string_pretty(&submit_request(submission)).unwrap()
    }

    #[test]
    fn a_submit_is_the_guides_own() {
        let submission = Submission {
            key: "k".into(),
            input: None,
            blob: keyed("/container/mydatablob.csv"),
            outputs: vec![("output1".into(), keyed("/container/myresultsblob.csv"))],
            parameters: vec![],
        };
        insta::assert_snapshot!(json(&submission), @r#"
        {
          "Input": {
            "ConnectionString": "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K",
            "RelativeLocation": "/container/mydatablob.csv"
          },
          "Outputs": {
            "output1": {
              "ConnectionString": "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K",
              "RelativeLocation": "/container/myresultsblob.csv"
            }
          },
          "GlobalParameters": {}
        }
        "#);
    }

    #[test]
    fn a_named_input_and_signed_links_make_the_other_form() {
        let submission = Submission {
            key: "k".into(),
            input: Some("input1".into()),
            blob: signed("inbox/orders.csv"),
            outputs: vec![
                ("scores".into(), signed("outbox/scores.csv")),
                ("model".into(), signed("outbox/model.ilearner")),
            ],
            parameters: vec![("Seed".into(), "7".into()), ("Cutoff".into(), "0.35".into())],
        };
        insta::assert_snapshot!(json(&submission), @r#"
        {
          "Inputs": {
            "input1": {
              "RelativeLocation": "inbox/orders.csv",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            }
          },
          "Outputs": {
            "model": {
              "RelativeLocation": "outbox/model.ilearner",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            },
            "scores": {
              "RelativeLocation": "outbox/scores.csv",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            }
          },
          "GlobalParameters": {
            "Cutoff": "0.35",
            "Seed": "7"
          }
        }
        "#);
    }

    #[test]
    fn a_key_is_one_line_of_plain_characters() {
        assert_eq!(secret_header("Bearer ", &"abc==\r\n".into()).unwrap(), "Bearer abc==");
        assert!(secret_header("", &"abc".into()).unwrap().is_sensitive());
        for wrong in ["", " \n", "a\nb", "a\0b"] {
            assert!(secret_header("", &wrong.into()).is_err(), "{wrong:?}");
        }
    }
}
