//! What is to be done about an answer that is no success, and about none at all: the table of the service's and the
//! gateway's errors.

use std::error::Error;
use std::io;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::RETRY_AFTER;

use super::said::{Said, Speaker};
use super::{Answer, Call, Operation};
use crate::fault::{Fault, Origin, redact};

/// Sorts an answer that is no success: by HTTP status, refined by code.
pub(super) fn sort(answer: &Answer, call: &Call) -> Fault {
    let said = answer.said();
    let verdict = verdict(answer, call, &said);
    let mut message = format!("{}: {}", call.attempted(), said.shown(answer));
    if let Some(cure) = cure(&said, &verdict, call, answer.status) {
        message.push_str("; ");
        message.push_str(&cure);
    }
    let message = redact(&message);
    let code = verdict.code;
    match verdict.kind {
        Kind::Transient => Fault::transient(Origin::Endpoint, code, message),
        Kind::Unavailable => Fault::unavailable(Origin::Endpoint, code, message),
        Kind::Overloaded => Fault::overloaded(Origin::Endpoint, code, message),
        Kind::Throttled(after) => Fault::throttled(Origin::Endpoint, after, code, message),
        Kind::Permanent => Fault::permanent(Origin::Endpoint, code, message),
        Kind::Fatal => Fault::fatal(Origin::Endpoint, code, message),
    }
}

/// Sorts what kept an answer away.
pub(in crate::scoring) fn unreachable(
    error: &(dyn Error + 'static),
    host: &str,
    call: &Call,
) -> Fault {
    let cause = Cause::of(error);
    let fault = if cause.code == "certificate" { Fault::fatal } else { Fault::unavailable };
    let cure = match cause.code {
        "dns" => "check the host in `url`, and this machine's name server",
        "certificate" => {
            "check that `url` names the host that the certificate is for, and this machine's trusted certificates"
        }
        _ => "check that the host can be reached from here",
    };
    let message = format!("{}: {host} gave no answer: {}; {cure}", call.attempted(), cause.words);
    fault(Origin::Endpoint, cause.code, redact(&message))
}

/// The call took longer than it may.
pub(in crate::scoring) fn timed_out(host: &str, limit: Duration, call: &Call) -> Fault {
    let message =
        format!("{}: {host} gave no answer within {} s", call.attempted(), limit.as_secs_f64());
    if call.operation == Operation::Execute {
        // It may be this file's own: one with more rows than the service scores in its time never comes back.
        return Fault::transient(Origin::Endpoint, "timeout", format!("{message}; {TOO_SLOW}"));
    }
    Fault::unavailable(Origin::Endpoint, "timeout", message)
}

/// What is to be done about an answer.
struct Verdict {
    kind: Kind,
    code: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Transient,
    Unavailable,
    Overloaded,
    Throttled(Option<Duration>),
    Permanent,
    Fatal,
}

/// The table: by HTTP status, refined by code.
fn verdict(answer: &Answer, call: &Call, said: &Said) -> Verdict {
    let status = answer.status;
    let pause = || pause(answer, said, call.now);
    let page = said.speaker == Speaker::Page;
    let execute = call.operation == Operation::Execute;
    let (kind, name) = match status {
        300..=399 => (Kind::Fatal, Some("redirect")),
        // The service's own 401 speaks of no subscription; the gateway's always does.
        401 if said.mentions(&["subscription key"]) => (Kind::Fatal, Some("subscription_key")),
        // API Management answers a spent quota like a missing right, but says when it is replenished.
        403 if pause().is_some() || said.mentions(&["quota", "replenished", "call volume"]) => {
            (Kind::Throttled(pause()), Some("quota"))
        }
        // Once submitted, a job keeps its input: asking it again would change nothing.
        400 | 404 if call.operation == Operation::Submit && said.lacks_input() => {
            (Kind::Transient, None)
        }
        // The job, not the service, is what isn't there.
        404 if !matches!(call.operation, Operation::Submit | Operation::Execute)
            && said.job_unknown(status) =>
        {
            (Kind::Permanent, None)
        }
        401 | 403 | 404 => (Kind::Fatal, None),
        // The file may be what takes so long.
        408 | 504 if execute => (Kind::Transient, None),
        408 => (Kind::Unavailable, None),
        429 => (Kind::Throttled(pause()), Some("rate_limit")),
        // The address itself is wrong: a matter of the config, never of the job.
        400 if said.has(WRONG_ADDRESS) => (Kind::Fatal, None),
        // Whoever says it, the file is too large for somebody on the way.
        413 if execute => (Kind::Permanent, None),
        // A proxy's page tells nothing about what was asked, whatever status it comes with.
        200..=299 | 400..=499 if page => (Kind::Unavailable, Some("html")),
        // About a job that may be running, only the service's own word is a verdict.
        400..=499
            if said.codes().next().is_none()
                && !matches!(
                    call.operation,
                    Operation::Submit | Operation::Execute | Operation::Probe
                ) =>
        {
            (Kind::Transient, None)
        }
        400..=499 => (Kind::Permanent, None),
        503 if said.has(&["InitializingContainers"]) => {
            (Kind::Throttled(Some(pause().unwrap_or(COLD_START))), None)
        }
        // It doesn't say that the service never heard of the call; the service and the gateway do.
        503 if execute && page => (Kind::Unavailable, Some("html")),
        503 => match pause() {
            Some(after) => (Kind::Throttled(Some(after)), None),
            None => (Kind::Overloaded, None),
        },
        500 if said.speaker != Speaker::Service => (Kind::Unavailable, None),
        500 if said.has(BROKEN_SERVICE) => (Kind::Permanent, None),
        500 => (Kind::Transient, None),
        _ => (Kind::Unavailable, None),
    };
    let code =
        name.map(str::to_owned).or_else(|| said.code()).unwrap_or_else(|| format!("http_{status}"));
    Verdict { kind, code }
}

/// What would mend it.
fn cure(said: &Said, verdict: &Verdict, call: &Call, status: u16) -> Option<String> {
    let endpoint = call.endpoint;
    let known = || {
        said.codes()
            .find_map(|code| CURES.iter().find(|(codes, _)| codes.contains(&code)))
            .map(|(_, cure)| (*cure).to_owned())
    };
    if verdict.kind != Kind::Fatal {
        return known().or_else(|| match status {
            413 => Some(SPLIT.to_owned()),
            408 | 504 if call.operation == Operation::Execute => Some(TOO_SLOW.to_owned()),
            _ => None,
        });
    }
    Some(match (status, verdict.code.as_str()) {
        (300..=399, _) => {
            format!("the URL redirects; paste the final one into endpoints.{endpoint}.url")
        }
        (401, "subscription_key") => format!(
            "set endpoints.{endpoint}.subscription_key to the key of an active subscription"
        ),
        (401, _) => format!(
            "set endpoints.{endpoint}.api_key to the primary or secondary key of this service's endpoint"
        ),
        (403, _) => format!(
            "check that endpoints.{endpoint}.api_key and subscription_key may use this service, and that no firewall \
             keeps this machine out"
        ),
        _ => format!("check endpoints.{endpoint}.url"),
    })
}

/// How long the other side wants to be left alone: `Retry-After` in seconds or as a date, else what the gateway's
/// sentence says (`in 23 seconds`, `in 00:08:24`, `in 2.12 days`).
pub(in crate::scoring) fn pause(
    answer: &Answer,
    said: &Said,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let header = answer.header(RETRY_AFTER.as_str()).and_then(|text| {
        if let Ok(seconds) = text.parse::<f64>() {
            return spell(seconds);
        }
        let date = DateTime::parse_from_rfc2822(text).ok()?;
        let seconds = (date.to_utc() - now).num_seconds().max(0);
        spell(f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)))
    });
    header.or_else(|| said.messages().find_map(spoken_pause))
}

/// Reads the time out of a sentence.
pub(super) fn spoken_pause(sentence: &str) -> Option<Duration> {
    let sentence = sentence.to_ascii_lowercase();
    let rest = ["replenished in ", "again in ", "retry after ", "retry in "]
        .iter()
        .find_map(|lead| sentence.split_once(lead))?
        .1;
    let mut words = rest.split_whitespace();
    let number = words.next()?.trim_end_matches(['.', ',', ';']);
    if number.contains(':') {
        // .NET's time span: [days.]hours:minutes:seconds
        let (days, clock) = match number.split_once('.') {
            Some((days, clock)) if clock.contains(':') => (days.parse::<f64>().ok()?, clock),
            _ => (0.0, number),
        };
        let parts: Vec<f64> = clock.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [hours, minutes, seconds] = parts[..] else { return None };
        return spell(days * 86_400.0 + hours * 3600.0 + minutes * 60.0 + seconds);
    }
    let unit = words.next()?;
    let seconds = ["second", "minute", "hour", "day"]
        .iter()
        .zip([1.0, 60.0, 3600.0, 86_400.0])
        .find_map(|(name, seconds)| unit.starts_with(name).then_some(seconds))?;
    spell(number.parse::<f64>().ok()? * seconds)
}

/// A pause of a sensible length: never none, and never so long that nobody would look again.
fn spell(seconds: f64) -> Option<Duration> {
    let sensible = seconds.is_finite() && seconds >= 0.0;
    sensible.then(|| {
        Duration::from_secs_f64(seconds.min(LONGEST_PAUSE.as_secs_f64())).max(SHORTEST_PAUSE)
    })
}

/// What kept an answer away: a code, and the words of whoever knows most about it.
struct Cause {
    code: &'static str,
    words: String,
}

impl Cause {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut code = "reset";
        let mut words = error.to_string();
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            // The innermost error decides where it says something; these know the step that failed.
            code = match error {
                error if error.is_dns() => "dns",
                error if error.is_timeout() => "timeout",
                error if error.is_connect() => "connect",
                _ => "reset",
            };
        }
        let mut next = Some(error);
        while let Some(error) = next {
            if !error.is::<reqwest::Error>() {
                words = error.to_string();
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                let refused = matches!(error, rustls::Error::InvalidCertificate(_));
                return Self { code: if refused { "certificate" } else { "tls" }, words };
            }
            next = error.source();
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => code = "reset",
                    io::ErrorKind::TimedOut => code = "timeout",
                    _ => {}
                }
                // An io::Error that wraps another one is not its parent by `source`, but stands for it.
                if let Some(inner) = error.get_ref() {
                    next = Some(inner);
                }
            }
        }
        Self { code, words }
    }
}

/// Codes of a 400 that is about the address of the service.
const WRONG_ADDRESS: &[&str] = &[
    "BadSubscriptionId",
    "BadVersionCall",
    "InvalidQueryParameter",
    "MissingWebServiceGroupId",
    "MissingWebServiceId",
    "MissingWorkspaceId",
    "WebServiceIdInvalid",
];

/// Codes of a 500 that the same request meets again: the service can't run as it is.
const BROKEN_SERVICE: &[&str] = &[
    "InvalidMemoryConfiguration",
    "ModelPackageFormatError",
    "ModelPackageInvalid",
    "PortDataTypeNotSupported",
    "WebServicePackageInternalError",
    "WebServicePackageInvalid",
];

/// What would mend it, by code.
const CURES: &[(&[&str], &str)] = &[
    (
        &["InvalidInputNames"],
        "feeds.NAME.input must be one of the service's input names, case matters",
    ),
    (
        &["BatchJobInputsNotSpecified", "MissingRequestInput", "MissingInputBlobInformation"],
        "set feeds.NAME.input to the name of the service's input, case matters",
    ),
    (
        &[
            "BatchJobInputsTooManySpecified",
            "MultipleInputsNotAllowed",
            "DuplicateInputInBatchCall",
        ],
        "leave feeds.NAME.input out: the service takes its one input without a name, or none at all",
    ),
    (
        &["InvalidOutputOverrideName"],
        "the names in feeds.NAME.outputs must be the service's output names, case matters",
    ),
    (
        &["MissingRequiredOutputOverrides", "MissingOutputOverrideSpecification"],
        "name every output of the service in feeds.NAME.outputs",
    ),
    (
        &["InvalidBlobExtension"],
        "files in feeds.NAME.outputs must end in .csv, .tsv or .arff (a trained model's in .ilearner), and so must \
         the input",
    ),
    (
        &[
            "MissingRequiredGlobalParameters",
            "UnexpectedParameter",
            "UserParameterInvalid",
            "BadParameterValue",
        ],
        "feeds.NAME.parameters must be the service's web service parameters, case matters",
    ),
    (
        &[
            "InvalidBlob",
            "InvalidBlobConnectionString",
            "InputBlobRelativeLocationInvalid",
            "BlobNameTooLong",
            "ContainerSegmentInvalid",
            "ContainerIsEmpty",
            "ContainerValidationFailed",
        ],
        "check the feed's storage (container, prefix, hand_over): the service must be able to reach it",
    ),
    (
        &["BlobNotFound", "ExpiryTimeInThePast"],
        "check that the service can reach the feed's storage, and that nobody removes blobs from it",
    ),
    (
        &["InputMismatchError", "InputParseError", "DataTypeNotSupported"],
        "the file's columns are not what the service was made for: compare its header row with the service's example",
    ),
    (&["OutOfMemoryLimit", "MemoryQuotaViolation"], SPLIT),
];

const SPLIT: &str = "split the file into smaller ones";
const TOO_SLOW: &str = "the service gives up after about 90 s: split the file into smaller ones, or send it to an endpoint of \
                        kind \"bes\"";

/// The pause while the service warms up, which names none of its own.
const COLD_START: Duration = Duration::from_secs(30);
/// A pause of nothing would be none at all.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest common quota period; asking once a week costs nothing.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_hours(7 * 24);
