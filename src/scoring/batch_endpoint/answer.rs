//! What an answer of a batch endpoint means: the pure half of its client.
//!
//! About the call that makes a run, three things can be known: it runs, it doesn't, or nobody knows. Only what is certain
//! counts as one of the first two. A refusal (3xx, 4xx) is certain: the service, or whoever stands before it, did not take
//! the call. A 5xx is not: one client that repeated its call at every 500 had some fifty runs started
//! (azure-sdk-for-python#31166). Neither is a success whose answer names no run.
//!
//! Sources: Microsoft's guides to batch endpoints and their troubleshooting, and the enums and models of the Python SDK
//! for the statuses and for the members of a listed run. What no source tells (how a list looks that the endpoint itself
//! answers, how an unknown run is refused) is taken in every likely form.

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::request::Intent;
use crate::fault::{Fault, Origin, redact};
use crate::job::RemoteId;
use crate::ports::{Invoked, RemoteStatus};
use crate::scoring::answer::said::{Said, Speaker, cut};
use crate::scoring::answer::{Answer, Call, Operation, pause, words_of_failure};

/// One page of a list of runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// The run that was looked for.
    pub(super) found: Option<RemoteId>,
    /// Where the list goes on, as the service says it.
    pub(super) next: Option<String>,
}

/// The answer to the call that makes a run and starts it.
pub(super) fn invoked(answer: &Answer, call: &Call) -> Invoked {
    if answer.succeeded() {
        return match json(answer).as_ref().and_then(name_of) {
            Some(name) => Invoked::Started(name),
            None => Invoked::Unclear(unreadable(answer, call, "no name of a run")),
        };
    }
    let fault = sort(answer, call);
    match answer.status {
        // Somebody before the service may have grown tired of waiting for it.
        408 => Invoked::Unclear(fault),
        300..=499 => Invoked::NotStarted(fault),
        _ => Invoked::Unclear(fault),
    }
}

/// The answer to a look. Whatever isn't a readable 200 says nothing about the run's state.
pub(super) fn status(answer: &Answer, call: &Call) -> Result<RemoteStatus, Fault> {
    if !answer.succeeded() {
        return if run_unknown(answer) {
            Ok(RemoteStatus::Unknown)
        } else {
            Err(sort(answer, call))
        };
    }
    let run = json(answer).ok_or_else(|| unreadable(answer, call, "no status"))?;
    let properties = member(&run, "properties").unwrap_or(&run);
    let word = member(properties, "status")
        .or_else(|| member(&run, "status"))
        .and_then(Value::as_str)
        .ok_or_else(|| unreadable(answer, call, "no status"))?;
    let plain: String = word.chars().filter(char::is_ascii_alphabetic).collect();
    let is = |known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(&plain));
    if is(PENDING) {
        Ok(RemoteStatus::Pending)
    } else if is(&["Completed", "Succeeded"]) {
        // It wrote where it was asked to, and to nowhere else.
        Ok(RemoteStatus::Finished(Vec::new()))
    } else if is(&["Failed"]) {
        Ok(RemoteStatus::Failed(words_of_failure(&failure_of(&run))))
    } else if is(&["Canceled", "Cancelled"]) {
        Ok(RemoteStatus::Cancelled)
    } else {
        // Never taken for one of the ends: a new word may well mean that the run goes on.
        let message = format!(
            "{}: the service answered with a run status that is not known here: {:?}",
            call.attempted(),
            cut(word, 80)
        );
        Err(Fault::transient(Origin::Endpoint, "unknown_status", redact(&message)))
    }
}

/// The answer to a cancel: a run that isn't there needs none, and one that has ended is refused or passed over.
pub(super) fn cancelled(answer: &Answer, call: &Call) -> Result<(), Fault> {
    let page = answer.said().speaker == Speaker::Page;
    if run_unknown(answer) || (answer.succeeded() && !page) {
        return Ok(());
    }
    Err(sort(answer, call))
}

/// The answer to a look at a run that can't exist: any word about that run shows that the service let us in.
pub(super) fn probed(answer: &Answer, call: &Call) -> Result<(), Fault> {
    let page = answer.said().speaker == Speaker::Page;
    if run_unknown(answer) || (answer.succeeded() && !page) {
        return Ok(());
    }
    Err(sort(answer, call))
}

/// A page of a list. A list that the service doesn't have, or that can't be read, is a permanent fault: nothing is known
/// by it, however often it is asked for.
pub(super) fn page(answer: &Answer, call: &Call, intent: &Intent) -> Result<Page, Fault> {
    let nothing = |shown: String| {
        let message = format!(
            "looking for the run {intent} at {}: {shown}; this list can't tell whether the run was started",
            call.endpoint
        );
        Fault::permanent(Origin::Endpoint, "list_unusable", redact(&message))
    };
    let said = answer.said();
    if !answer.succeeded() {
        // A way that leads nowhere, or that we may not go, is no reason to suspend the endpoint.
        let refused = matches!(answer.status, 300..=399 | 400 | 403..=407 | 409..=428 | 501)
            && said.speaker != Speaker::Page;
        let fault = sort(answer, call);
        let is_pause = matches!(fault.class, crate::fault::Class::Throttled(_));
        return Err(if refused && !is_pause { nothing(shown(&said, answer)) } else { fault });
    }
    if said.speaker == Speaker::Page {
        return Err(unreadable(answer, call, "no list"));
    }
    let list = json(answer).ok_or_else(|| nothing("it is no JSON".into()))?;
    let members = ["value", "jobs", "items", "data"];
    let runs = list
        .as_array()
        .or_else(|| members.iter().find_map(|name| member(&list, name)?.as_array()))
        .ok_or_else(|| nothing("it has no list in it".into()))?;
    // The steps of a run are runs as well, and write where it does.
    let is_step = |run: &Value| {
        let properties = member(run, "properties").unwrap_or(run);
        member(properties, "parentJobName").is_some_and(Value::is_string)
    };
    let ours = runs.iter().filter(|run| !is_step(run) && intent.is_of(run));
    let found = ours.map(|run| name_of(run).ok_or_else(|| nothing("our run has no name".into())));
    let found = found.into_iter().next().transpose()?;
    let next = ["nextLink", "@odata.nextLink", "next"]
        .iter()
        .find_map(|name| member(&list, name)?.as_str())
        .filter(|next| !next.is_empty())
        .map(str::to_owned);
    Ok(Page { found, next })
}

/// Sorts an answer that is no success: by HTTP status, refined by what is said.
fn sort(answer: &Answer, call: &Call) -> Fault {
    let said = answer.said();
    let endpoint = call.endpoint;
    let pause = pause(answer, &said, call.now);
    let page = said.speaker == Speaker::Page;
    let code = said.code().unwrap_or_else(|| format!("http_{}", answer.status));
    let cure = match answer.status {
        300..=399 => {
            Some(format!("the URL redirects; paste the final one into endpoints.{endpoint}.url"))
        }
        _ if said.mentions(&["audiences in jwt are not allowed"]) => Some(format!(
            "the token is for another audience: check the credential of endpoints.{endpoint}, and that url is the \
             endpoint's own"
        )),
        401 => Some(format!("check the credential of endpoints.{endpoint}")),
        403 => Some(format!(
            "give the credential of endpoints.{endpoint} a role in the workspace that may invoke batch endpoints and \
             read their jobs, and see that no firewall keeps this machine out"
        )),
        _ if said.mentions(&["no valid deployments to route to"]) => Some(format!(
            "give the endpoint a default deployment, or name one in endpoints.{endpoint}.deployment"
        )),
        404 => Some(format!("check endpoints.{endpoint}.url and endpoints.{endpoint}.deployment")),
        _ if said.mentions(&["already exist"]) => Some(
            "outputs must not exist before; retry the job to have it write to a place of its own"
                .into(),
        ),
        _ if said.mentions(&["datastore"]) => Some(format!(
            "endpoints.{endpoint}.datastore must be a blob datastore of the workspace, for the container of the feed's \
             storage"
        )),
        _ => None,
    };
    let mut message = format!("{}: {}", call.attempted(), shown(&said, answer));
    if let Some(cure) = cure {
        message = format!("{message}; {cure}");
    }
    let message = redact(&message);
    let origin = Origin::Endpoint;
    match answer.status {
        300..=399 => Fault::fatal(origin, "redirect", message),
        403 if pause.is_some() || said.mentions(&["quota", "call volume"]) => {
            Fault::throttled(origin, pause, "quota", message)
        }
        // A proxy's page tells nothing about what was asked.
        400..=499 if page && answer.status != 429 => Fault::unavailable(origin, "html", message),
        401 | 403 | 404 => Fault::fatal(origin, code, message),
        408 => Fault::unavailable(origin, code, message),
        429 => Fault::throttled(origin, pause, "rate_limit", message),
        400..=499 if said.mentions(FOR_ALL) => Fault::fatal(origin, code, message),
        // About a run that may go on, only the service's own word is a verdict.
        400..=499
            if said.codes().next().is_none()
                && !matches!(call.operation, Operation::Start | Operation::Probe) =>
        {
            Fault::transient(origin, code, message)
        }
        400..=499 => Fault::permanent(origin, code, message),
        503 => match pause {
            Some(after) => Fault::throttled(origin, Some(after), code, message),
            None => Fault::overloaded(origin, code, message),
        },
        _ => Fault::unavailable(origin, code, message),
    }
}

/// What came back, for people: with the pairs that a validation has, and with what the support asks for.
fn shown(said: &Said, answer: &Answer) -> String {
    let mut shown = said.shown(answer);
    let Some(body) = json(answer) else { return shown };
    let mut words = Vec::new();
    collect(&body, &["errorMessage"], &mut words);
    if !words.is_empty() {
        shown = format!("{shown}: {}", cut(&redact(&words.join(" ")), 600));
    }
    let correlation = member(&body, "correlation");
    let id = ["request", "RequestId", "operation"]
        .iter()
        .find_map(|name| member(correlation?, name)?.as_str());
    match id.filter(|_| answer.header("x-ms-request-id").is_none()) {
        Some(id) => format!("{shown} [request {}]", cut(id, 80)),
        None => shown,
    }
}

/// A success that makes no sense. Nothing follows from it but to look again.
fn unreadable(answer: &Answer, call: &Call, lacking: &str) -> Fault {
    let said = answer.said();
    if said.speaker == Speaker::Page {
        let message = format!(
            "{}: {}; something between here and the service answers in its place",
            call.attempted(),
            said.shown(answer)
        );
        return Fault::unavailable(Origin::Endpoint, "html", redact(&message));
    }
    let kind = answer.header(CONTENT_TYPE.as_str()).unwrap_or("no content type");
    let message = format!(
        "{}: the service answered {} ({}) with {lacking} in it: {:?}",
        call.attempted(),
        answer.status,
        cut(kind, 80),
        cut(&redact(answer.body.trim()), 200)
    );
    Fault::transient(Origin::Endpoint, "unreadable_answer", redact(&message))
}

/// Whether the service has no such run. A 404 that speaks of the endpoint or its deployment is about the address.
fn run_unknown(answer: &Answer) -> bool {
    let said = answer.said();
    answer.status == 404
        && said.speaker == Speaker::Service
        && !said.mentions(&["endpoint", "deployment", "resource not found", "workspace"])
}

/// The service's name of a run: `name`, or the last part of an id like `azureml://locations/…/jobs/NAME`.
fn name_of(run: &Value) -> Option<RemoteId> {
    let text = |value: &Value, name: &str| Some(member(value, name)?.as_str()?.to_owned());
    let last = |id: String| id.rsplit('/').next().map(str::to_owned);
    let properties = member(run, "properties");
    let name = text(run, "name")
        .or_else(|| text(run, "id").and_then(last))
        .or_else(|| text(properties?, "name"));
    let id = RemoteId::parse(name?.trim())?;
    // One that reads as a name of ours would be looked for instead of looked at.
    id.as_intent().is_none().then_some(id)
}

/// Why a run failed, from wherever a run of whatever age says it.
fn failure_of(run: &Value) -> String {
    let properties = member(run, "properties").unwrap_or(run);
    let mut words = Vec::new();
    for place in [properties, run] {
        for name in ["error", "errors", "statusMessage", "failureReason"] {
            match member(place, name) {
                Some(Value::String(text)) => words.push(text.clone()),
                Some(error) => collect(error, &["code", "message", "messageFormat"], &mut words),
                None => {}
            }
        }
    }
    for name in ["properties", "tags"] {
        let Some(Value::Object(pairs)) = member(properties, name) else { continue };
        for (key, value) in pairs {
            let key = key.to_ascii_lowercase();
            if let Some(text) = value.as_str()
                && (key.contains("error") || key.contains("fail"))
            {
                words.push(text.to_owned());
            }
        }
    }
    words.retain(|word| !word.trim().is_empty());
    let mut seen = std::collections::BTreeSet::new();
    words.retain(|word| seen.insert(word.clone()));
    words.join(": ")
}

/// The texts of these members, however deep they are.
fn collect(value: &Value, names: &[&str], into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if names.iter().any(|n| n.eq_ignore_ascii_case(name)) => {
                        into.push(text.clone());
                    }
                    inner => collect(inner, names, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names, into)),
        _ => {}
    }
}

/// A member of an object, whatever the case of its name.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let found = value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value).filter(|value| !value.is_null())
}

fn json(answer: &Answer) -> Option<Value> {
    let value: Value = serde_json::from_str(answer.body.trim()).ok()?;
    (value.is_object() || value.is_array()).then_some(value)
}

/// Statuses of a run that goes on, or may: one that doesn't respond may go back to any earlier one.
const PENDING: &[&str] = &[
    "NotStarted",
    "Starting",
    "Provisioning",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
    "NotResponding",
    "Paused",
    "Unknown",
    "Scheduled",
];

/// What keeps every run from starting, not only this one.
const FOR_ALL: &[&str] = &["no valid deployments to route to", "audiences in jwt are not allowed"];

#[cfg(test)]
mod tests;
