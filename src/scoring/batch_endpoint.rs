//! Azure ML's batch endpoints (v2): one call makes a run and starts it.
//!
//! There is no moment between the two at which the run's name could be committed, so what is committed before is the
//! intent: a name of ours. It goes with the call, and when the call's answer is lost it is what the run is looked for by,
//! in the list of the endpoint's runs and, with a `workspace`, in that of the workspace. The call is never repeated
//! after an answer that doesn't say that it was refused.
//!
//! Each call is one exchange: sent once, bounded in time and size, never redirected; a token that is refused is asked
//! for anew once. When to try again is the engine's to decide; what an answer means is the pure part's (`answer`).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::answer::{self as classic, Answer, Call, Operation};
use super::service::{bound, client, count, host_of, known_at, noted, receive, traced};
use crate::fault::{Class, Fault, Origin};
use crate::job::RemoteId;
use crate::metrics::Metrics;
use crate::name::Name;
use crate::ports::{
    Audience, Clock, Invoked, Paper, RemoteStatus, Run, Scorer, StartAnswer, Submission,
    SubmitAnswer, Tokens, Way,
};
use crate::wire::BlobReference;

mod answer;
mod request;
mod url;

pub use request::InputType;
pub use url::{EndpointUrl, Workspace};

use request::Intent;

/// A batch endpoint, as the engine sees it.
pub struct BatchEndpoint<C> {
    settings: Settings,
    client: Client,
    tokens: Arc<dyn Tokens>,
    clock: C,
    metrics: Metrics,
    /// What takes requests in the place of the network.
    paper: Option<Arc<dyn Paper>>,
}

/// What the config says of a batch endpoint.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The endpoint's name in the config, a label in metrics.
    pub name: Name,
    /// Its scoring URI.
    pub url: EndpointUrl,
    /// The deployment to use; `None` for the endpoint's default.
    pub deployment: Option<String>,
    /// The workspace's datastore that is registered for the feed's container.
    pub datastore: String,
    /// What the service gets as input.
    pub input_type: InputType,
    /// Where runs can be stopped; without it they can't.
    pub workspace: Option<Workspace>,
    /// How long a call may take, until its whole answer is there.
    pub timeout: Duration,
}

/// Why there is no answer.
struct Silence {
    fault: Fault,
    /// Whether the service may have heard the call all the same.
    heard: bool,
}

/// What is asked, and whom the token is for: the endpoint refuses one for the management API with "Audiences in JWT are
/// not allowed", and the other way round.
struct Ask<'a> {
    operation: Operation,
    method: Method,
    url: Url,
    audience: Audience,
    /// The intent that the call begins, and its body.
    begins: Option<(&'a Intent, &'a Value)>,
}

impl Ask<'_> {
    /// About what is there.
    fn about(operation: Operation, method: Method, url: Url, audience: Audience) -> Self {
        Self { operation, method, url, audience, begins: None }
    }
}

impl<C: Clock> BatchEndpoint<C> {
    /// Fails when the deployment's name can't be sent as a header, or this machine has no usable TLS.
    pub fn new(
        settings: Settings,
        tokens: Arc<dyn Tokens>,
        clock: C,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let name = &settings.name;
        if let Some(deployment) = &settings.deployment {
            HeaderValue::from_str(deployment)
                .map_err(|_| format!("endpoints.{name}.deployment can't be sent as a header"))?;
        }
        let client = client(name, settings.timeout, settings.url.is_loopback())?;
        Ok(Self { settings, client, tokens, clock, metrics, paper: None })
    }

    /// The same, sending nothing.
    pub(super) fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        Self { paper: Some(paper), ..self }
    }

    fn asked(&self, operation: Operation) -> Call<'_> {
        Call { endpoint: &self.settings.name, operation, now: self.clock.now() }
    }

    /// Where a run is known: not where the config says now, if that was changed meanwhile.
    fn service(&self, run: Run<'_>) -> Cow<'_, EndpointUrl> {
        match run.url.map(EndpointUrl::parse) {
            Some(Ok(url)) if url != self.settings.url => Cow::Owned(url),
            _ => Cow::Borrowed(&self.settings.url),
        }
    }

    fn about(&self, run: Run<'_>, fault: Fault) -> Fault {
        known_at(&*self.service(run), &self.settings.url, fault)
    }

    /// Looks for a run that may have been started, wherever runs are listed. A list that can't be used is no reason to
    /// wait for it: without any that can, a person has to look.
    async fn look_up(&self, run: Run<'_>, intent: &Intent) -> Result<RemoteStatus, Fault> {
        let mut lists = vec![(self.service(run).jobs(), Audience::MachineLearning)];
        lists.extend(self.settings.workspace.as_ref().map(|at| (at.jobs(), Audience::Management)));
        let mut unusable: Vec<Fault> = Vec::new();
        let count = lists.len();
        for (list, audience) in lists {
            match self.search(list, audience, intent).await {
                Ok(Some(id)) => return Ok(RemoteStatus::Found(id)),
                Ok(None) => {}
                Err(fault) if fault.class == Class::Permanent => unusable.push(fault),
                Err(fault) => return Err(self.about(run, fault)),
            }
        }
        if unusable.len() < count {
            return Ok(RemoteStatus::NotListed);
        }
        let words: Vec<_> = unusable.iter().map(|fault| fault.message.as_str()).collect();
        Err(Fault::permanent(Origin::Endpoint, "start_unclear", words.join("; and ")))
    }

    /// Goes through a list of runs, newest first as it comes.
    async fn search(
        &self,
        list: Url,
        audience: Audience,
        intent: &Intent,
    ) -> Result<Option<RemoteId>, Fault> {
        let origin = list.origin();
        let mut next = Some(list);
        for _ in 0..PAGES_MAX {
            let Some(url) = next else { return Ok(None) };
            let operation = Operation::Status;
            let ask = Ask::about(operation, Method::GET, url.clone(), audience);
            let answer = self.exchange(ask).await.map_err(|silence| silence.fault)?;
            let page = answer::page(&answer, &self.asked(operation), intent)?;
            if page.found.is_some() {
                return Ok(page.found);
            }
            // Nobody else gets our token.
            let following = page.next.and_then(|link| url.join(&link).ok());
            next = following.filter(|link| link.origin() == origin && *link != url);
        }
        Ok(None)
    }

    /// One exchange: the answer, whatever it says, or what kept it away.
    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, Silence> {
        let mut refused = false;
        loop {
            let token = self.token(ask.audience).await?;
            let answer = self.send(&ask, &self.header(&token)?).await?;
            // What was refused for its token was not acted on.
            if answer.status != 401 {
                return Ok(answer);
            }
            self.tokens.refused(ask.audience, &token);
            if std::mem::replace(&mut refused, true) {
                return Ok(answer);
            }
        }
    }

    async fn token(&self, audience: Audience) -> Result<SecretString, Silence> {
        let limit = self.settings.timeout;
        let asked = self.clock.timeout(limit, self.tokens.token(audience)).await;
        let token = asked.unwrap_or_else(|| {
            let (name, limit) = (&self.settings.name, limit.as_secs_f64());
            let text = format!("getting a token for {name}: none came within {limit} s");
            Err(Fault::unavailable(Origin::Endpoint, "token_timeout", text))
        });
        token.map_err(|fault| Silence { fault, heard: false })
    }

    /// A header that libraries don't print.
    fn header(&self, token: &SecretString) -> Result<HeaderValue, Silence> {
        let text = format!("Bearer {}", token.expose_secret().trim());
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            let name = &self.settings.name;
            let text = format!("getting a token for {name}: what came can't be sent as a header");
            Silence { fault: Fault::fatal(Origin::Endpoint, "token_unusable", text), heard: false }
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Sends once.
    async fn send(&self, ask: &Ask<'_>, token: &HeaderValue) -> Result<Answer, Silence> {
        let Ask { operation, method, url, begins, .. } = ask;
        let host = host_of(url);
        let request =
            self.client.request(method.clone(), url.clone()).header(AUTHORIZATION, token.clone());
        let request = request
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("scoreline/", env!("CARGO_PKG_VERSION")));
        let request = match begins {
            Some((intent, body)) => {
                let request = match &self.settings.deployment {
                    Some(deployment) => request.header(DEPLOYMENT, deployment),
                    None => request,
                };
                request.header(REPEATABILITY, intent.id.to_string()).json(body)
            }
            None if *method == Method::POST => request.header(CONTENT_LENGTH, 0),
            None => request,
        };
        let request = traced(request);
        let began = self.clock.boot();
        let limit = self.settings.timeout;
        let received = async {
            match &self.paper {
                None => receive(request, bound(*operation)).await,
                Some(paper) => request.build().map(|request| noted(&**paper, *operation, &request)),
            }
        };
        let outcome = self.clock.timeout(limit, received).await;
        let elapsed = self.clock.boot().saturating_sub(began);
        let call = self.asked(*operation);
        let answer = match outcome {
            Some(Ok(answer)) => Ok(without(answer, token)),
            Some(Err(error)) => Err(Silence {
                // Without a connection, with TLS and all, no byte of the call was sent.
                heard: !(error.is_connect() || error.is_builder()),
                fault: classic::unreachable(&error, &host, &call),
            }),
            None => Err(Silence { heard: true, fault: classic::timed_out(&host, limit, &call) }),
        };
        let answered =
            answer.as_ref().map(|answer| answer.status).map_err(|silence| &silence.fault);
        count(&self.metrics, &call, (method, url), answered, elapsed);
        answer
    }
}

impl<C: Clock> Scorer for BatchEndpoint<C> {
    fn kind(&self) -> &'static str {
        "batch-endpoint"
    }

    fn way(&self) -> Way {
        Way::OneCall
    }

    fn url(&self) -> String {
        self.settings.url.to_string()
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        let intent = Intent::of(submission, &self.settings.datastore)?;
        Ok(SubmitAnswer::Known(intent.remote_id()))
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        let text = format!("starting {}: a batch endpoint starts what it makes", run.id.0);
        Err(Fault::permanent(Origin::Endpoint, "wrong_kind", text))
    }

    async fn invoke(&self, run: Run<'_>, submission: &Submission) -> Invoked {
        let Some(intent) = Intent::parse(run.id) else {
            let text = format!(
                "starting {}: this is no intent of ours but a run that the service knows",
                run.id.0
            );
            return Invoked::NotStarted(Fault::permanent(Origin::Endpoint, "wrong_kind", text));
        };
        let Settings { datastore, input_type, .. } = &self.settings;
        let body = match request::body(submission, datastore, *input_type) {
            Ok(body) => body,
            Err(fault) => return Invoked::NotStarted(fault),
        };
        let operation = Operation::Start;
        let url = self.service(run).jobs();
        let begins = Some((&intent, &body));
        let ask = Ask {
            operation,
            method: Method::POST,
            url,
            audience: Audience::MachineLearning,
            begins,
        };
        match self.exchange(ask).await {
            Ok(answer) => match answer::invoked(&answer, &self.asked(operation)) {
                Invoked::NotStarted(fault) => Invoked::NotStarted(self.about(run, fault)),
                known => known,
            },
            Err(Silence { fault, heard: true }) => Invoked::Unclear(fault),
            Err(Silence { fault, heard: false }) => Invoked::NotStarted(self.about(run, fault)),
        }
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        if let Some(intent) = Intent::parse(run.id) {
            return self.look_up(run, &intent).await;
        }
        let operation = Operation::Status;
        let url = self.service(run).job(&run.id.0);
        let ask = Ask::about(operation, Method::GET, url, Audience::MachineLearning);
        let answered = match self.exchange(ask).await {
            Ok(answer) => answer::status(&answer, &self.asked(operation)),
            Err(silence) => Err(silence.fault),
        };
        answered.map_err(|fault| self.about(run, fault))
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        // One that may not even be there has to be found first, which the look that follows does.
        if Intent::parse(run.id).is_some() {
            return Ok(());
        }
        let name = &self.settings.name;
        let Some(workspace) = &self.settings.workspace else {
            let text = format!(
                "cancel to {name}: the endpoint itself can't stop a run; set endpoints.{name}.workspace to the resource \
                 id of its workspace (/subscriptions/…/workspaces/NAME), or stop the run {} in Azure ML studio",
                run.id.0
            );
            return Err(Fault::permanent(Origin::Endpoint, "no_workspace", text));
        };
        let operation = Operation::Cancel;
        let url = workspace.cancel(&run.id.0);
        let ask = Ask::about(operation, Method::POST, url, Audience::Management);
        let answer = self.exchange(ask).await.map_err(|silence| silence.fault)?;
        answer::cancelled(&answer, &self.asked(operation))
    }

    /// All that a run writes is in our storage.
    async fn links(&self, _: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        Ok(Vec::new())
    }

    async fn probe(&self) -> Result<(), Fault> {
        let operation = Operation::Probe;
        let url = self.settings.url.job(NO_RUN);
        let ask = Ask::about(operation, Method::GET, url, Audience::MachineLearning);
        let answer = self.exchange(ask).await.map_err(|silence| silence.fault)?;
        answer::probed(&answer, &self.asked(operation))
    }
}

impl<C> fmt::Debug for BatchEndpoint<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchEndpoint")
            .field("name", &self.settings.name)
            .field("url", &self.settings.url)
            .finish_non_exhaustive()
    }
}

/// An error may repeat what was sent.
fn without(mut answer: Answer, token: &HeaderValue) -> Answer {
    let sent = token.to_str().unwrap_or_default();
    let token = sent.strip_prefix("Bearer ").unwrap_or_default();
    if !token.is_empty() && answer.body.contains(token) {
        answer.body = answer.body.replace(token, "***");
    }
    answer
}

const DEPLOYMENT: HeaderName = HeaderName::from_static("azureml-model-deployment");
/// With one underscore and one hyphen, as the Python SDK spells it (`constants/_endpoint.py`). The standard's own
/// spelling is left out: a service that goes by the standard refuses it without a second header, which nobody documents
/// for this one.
const REPEATABILITY: HeaderName = HeaderName::from_static("repeatability_request-id");
/// In the form of the service's names, and none of them.
const NO_RUN: &str = "00000000-0000-0000-0000-000000000000";
/// So much of a list is looked at. A run that may just have been started is among the newest.
const PAGES_MAX: usize = 40;
