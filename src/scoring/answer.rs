//! What an answer of the service means: the pure half of the client.
//!
//! Three parties answer under one address: the service, the gateway in front of it, and whatever stands between
//! (proxies, load balancers, a captive portal). Only the service's own words decide about a job; what the others say
//! is about the way there. So an answer is first read for who speaks, then sorted by HTTP status, then refined by code.
//!
//! Sources: the error code table and the consumption guide in Microsoft's archived documentation; API Management's
//! quota and rate-limit policies. What no source tells (the answer about an unknown job) is taken in every likely form.

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use crate::fault::{Class, Fault, Origin, redact};
use crate::feed::Name;
use crate::job::{RemoteId, ResultPlace, RunResult};
use crate::ports::{RemoteStatus, StartAnswer, SubmitAnswer};
use crate::wire::{BlobReference, StatusAnswer, StatusCode};

mod any;
pub(super) mod said;
mod verdict;

pub(crate) use any::{any_answer, any_status, any_submit};
use said::{Said, Speaker, cut};
use verdict::sort;
pub(super) use verdict::{pause, timed_out, unreachable};

/// An answer as it came, its body cut to what is worth reading.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) read: Read,
}

/// How much of an answer's body is there. Of most answers a part is enough; results must be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All of it, as it was sent.
    Whole,
    /// So many bytes of more.
    Cut(usize),
    /// All of it, with marks in place of what was no UTF-8.
    Garbled,
}

/// What was asked, of whom and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Name,
    pub(super) operation: Operation,
    pub(super) now: DateTime<Utc>,
}

/// The calls that the service knows, and the probe, which is one of them with a purpose of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Submit,
    Start,
    Status,
    Cancel,
    Execute,
    Probe,
}

impl Operation {
    /// The label in metrics and logs, one of [`crate::metrics::OPERATIONS`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Start => "start",
            Self::Status => "status",
            Self::Cancel => "cancel",
            Self::Execute => "execute",
            Self::Probe => "probe",
        }
    }
}

/// The answer to a submit: one JSON string. Old clients read it unquoted, so that is taken too, if it can't be
/// anything else.
pub(super) fn submitted(answer: &Answer, call: &Call) -> Result<SubmitAnswer, Fault> {
    if answer.succeeded() {
        return remote_id(&answer.body)
            .map(SubmitAnswer::Known)
            .ok_or_else(|| unreadable(answer, call, "no job id"));
    }
    let fault = sort(answer, call);
    // The one fault about a submit that a fresh upload, or a fresh signature, may mend.
    if answer.said().lacks_input() {
        return Ok(SubmitAnswer::InputMissing(fault));
    }
    Err(fault)
}

/// The answer to a start. The body of a success has no meaning, and the status varied: any 2xx will do. A refusal
/// because the job "cannot be started because it is in … state" says that it was started before.
pub(super) fn started(answer: &Answer, call: &Call) -> Result<StartAnswer, Fault> {
    let said = answer.said();
    if answer.succeeded() && said.speaker != Speaker::Page {
        return Ok(StartAnswer::Started);
    }
    if answer.status == 400 && said.started_before() {
        return Ok(StartAnswer::Started);
    }
    if said.job_unknown(answer.status) {
        return Ok(StartAnswer::Unknown);
    }
    Err(sort(answer, call))
}

/// The answer to a look. Whatever isn't a readable 200 says nothing about the job's state.
pub(super) fn status(answer: &Answer, call: &Call) -> Result<RemoteStatus, Fault> {
    if !answer.succeeded() {
        return if answer.said().job_unknown(answer.status) {
            Ok(RemoteStatus::Unknown)
        } else {
            Err(sort(answer, call))
        };
    }
    let seen = status_answer(answer, call)?;
    Ok(match seen.status_code {
        StatusCode::NotStarted | StatusCode::Running => RemoteStatus::Pending,
        StatusCode::Failed => {
            RemoteStatus::Failed(words_of_failure(seen.details.as_deref().unwrap_or_default()))
        }
        StatusCode::Cancelled => RemoteStatus::Cancelled,
        StatusCode::Finished => RemoteStatus::Finished(
            seen.results
                .unwrap_or_default()
                .into_iter()
                .map(|(output, blob)| {
                    let path = blob.relative_location.unwrap_or_default();
                    let place = ResultPlace::Elsewhere(path.trim_start_matches('/').to_owned());
                    RunResult { output, place }
                })
                .collect(),
        ),
    })
}

/// The answer to a look, read for the links in it.
pub(super) fn links(answer: &Answer, call: &Call) -> Result<Vec<(String, BlobReference)>, Fault> {
    if !answer.succeeded() {
        return Err(sort(answer, call));
    }
    let seen = status_answer(answer, call)?;
    if seen.status_code != StatusCode::Finished {
        return Err(Fault::transient(
            Origin::Endpoint,
            "not_finished",
            format!(
                "{}: the service says {} of a job that had finished",
                call.attempted(),
                seen.status_code.name()
            ),
        ));
    }
    Ok(seen.results.unwrap_or_default().into_iter().collect())
}

/// The answer to a cancel: a job that isn't there needs no cancelling.
pub(super) fn cancelled(answer: &Answer, call: &Call) -> Result<(), Fault> {
    let said = answer.said();
    let gone = said.job_unknown(answer.status);
    if gone || (answer.succeeded() && said.speaker != Speaker::Page) {
        return Ok(());
    }
    Err(sort(answer, call))
}

/// The answer to request/response scoring: the text of its results, whole.
pub(super) fn executed<'a>(answer: &'a Answer, call: &Call) -> Result<&'a str, Fault> {
    if !answer.succeeded() {
        return Err(sort(answer, call));
    }
    match answer.read {
        Read::Whole => Ok(answer.body.trim()),
        Read::Cut(bound) => {
            let message = format!(
                "{}: the results are larger than {} MiB; split the file into smaller ones, or send it to an endpoint \
                 of kind \"bes\"",
                call.attempted(),
                bound >> 20
            );
            Err(Fault::permanent(Origin::Endpoint, "results_too_large", message))
        }
        Read::Garbled => Err(no_results(answer, call)),
    }
}

/// A success of request/response scoring without anything that could be its results.
pub(super) fn no_results(answer: &Answer, call: &Call) -> Fault {
    unreadable(answer, call, "no results")
}

/// Results that are there and can't be put into a file; the next ones would be the same.
pub(super) fn no_table(call: &Call, what: &str) -> Fault {
    let message = format!(
        "{}: the service answered with results that are no table: {}; an endpoint of kind \"bes\" delivers what the \
         service writes itself",
        call.attempted(),
        cut(what, 200)
    );
    Fault::permanent(Origin::Endpoint, "results_no_table", message)
}

/// The config names an output that the service doesn't have.
pub(super) fn no_output(call: &Call, missing: &str, there: &[&str]) -> Fault {
    let there = if there.is_empty() { "none".to_owned() } else { cut(&there.join(", "), 200) };
    let message = format!(
        "{}: the service answered without an output {missing}, it has {there}; the names in feeds.NAME.outputs must be \
         the service's output names, case matters",
        call.attempted()
    );
    Fault::permanent(Origin::Endpoint, "output_missing", message)
}

/// The answer to a call that can't be answered well (a look at a job that can't exist, an empty input): any word about
/// that shows that the service let us in.
pub(super) fn probed(answer: &Answer, call: &Call) -> Result<(), Fault> {
    let said = answer.said();
    if answer.succeeded() && said.speaker != Speaker::Page {
        return Ok(());
    }
    let fault = sort(answer, call);
    let about_the_job = matches!(answer.status, 400 | 404)
        && said.speaker == Speaker::Service
        && fault.class != Class::Fatal;
    if about_the_job { Ok(()) } else { Err(fault) }
}

impl Call<'_> {
    pub(super) fn attempted(&self) -> String {
        format!("{} to {}", self.operation.name(), self.endpoint)
    }
}

impl Answer {
    /// Whether one of the two keys is what keeps us out.
    pub(super) fn refuses_keys(&self) -> bool {
        self.status == 401
    }

    /// The service's own 401 speaks of no subscription; the gateway's always does.
    pub(super) fn speaks_of_subscription(&self) -> bool {
        self.said().mentions(&["subscription key"])
    }

    pub(super) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn said(&self) -> Said {
        Said::read(self)
    }

    fn is_labelled_html(&self) -> bool {
        self.header(CONTENT_TYPE.as_str())
            .and_then(|kind| kind.get(..9))
            .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
    }
}

/// A success that makes no sense. Nothing follows from it but to ask again.
fn unreadable(answer: &Answer, call: &Call, lacking: &str) -> Fault {
    let said = answer.said();
    let attempted = call.attempted();
    if said.speaker == Speaker::Page {
        let message = format!(
            "{attempted}: {}; something between here and the service answers in its place",
            said.shown(answer)
        );
        return Fault::unavailable(Origin::Endpoint, "html", redact(&message));
    }
    let shown = cut(&redact(answer.body.trim()), 200);
    let message = format!(
        "{attempted}: the service answered {} with {lacking} in it: {shown:?}",
        answer.status
    );
    Fault::transient(Origin::Endpoint, "unreadable_answer", redact(&message))
}

/// Reads a status, forgiving what doesn't matter: details that are no text, outputs that are null.
fn status_answer(answer: &Answer, call: &Call) -> Result<StatusAnswer, Fault> {
    let unreadable = || unreadable(answer, call, "no job status");
    let mut value: Value = serde_json::from_str(answer.body.trim()).map_err(|_| unreadable())?;
    let members = value.as_object_mut().ok_or_else(unreadable)?;
    if let Some(text) = ["StatusCode", "Status Code", "statusCode"]
        .iter()
        .find_map(|name| members.get(*name))
        .and_then(Value::as_str)
        .filter(|text| StatusCode::parse(text).is_none())
    {
        // Never taken for one of the ends: a new word may well mean that the job goes on.
        let message = format!(
            "{}: the service answered with a job status that is not known here: {:?}",
            call.attempted(),
            cut(text, 80)
        );
        return Err(Fault::transient(Origin::Endpoint, "unknown_status", redact(&message)));
    }
    if let Some(details) = members.get_mut("Details").filter(|d| !d.is_null() && !d.is_string()) {
        *details = Value::String(details.to_string());
    }
    if let Some(Value::Object(results)) = members.get_mut("Results") {
        results.retain(|_, blob| !blob.is_null());
    }
    serde_json::from_value(value).map_err(|_| unreadable())
}

/// A failed run's details, fit to be stored and shown: they may hold signed links, and be pages long.
pub(super) fn words_of_failure(details: &str) -> String {
    let details = redact(details.trim());
    if details.is_empty() {
        return "the service gave no details".into();
    }
    match details.char_indices().nth(DETAILS_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &details[..end]),
        None => details,
    }
}

/// The id that a submit answers, as JSON or, from a proxy that took the quotes away, as it is.
fn remote_id(body: &str) -> Option<RemoteId> {
    let body = body.trim();
    let id = match serde_json::from_str::<String>(body) {
        Ok(id) => id,
        // Unquoted, anything would do as an id; only what looks like one does.
        Err(_) if body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => body.to_owned(),
        Err(_) => return None,
    };
    let word = ["null", "true", "false", "ok", "undefined"];
    let absurd = word.iter().any(|word| id.eq_ignore_ascii_case(word));
    RemoteId::parse(&id).filter(|_| !absurd)
}

const DETAILS_MAX_CHARS: usize = 2000;

#[cfg(test)]
mod tests;
