//! What a failed call means: every refusal and every broken connection is sorted here, once.
//!
//! Sources: *Blob Storage error codes* and *Common REST API error codes* in Microsoft's documentation. A code counts
//! before the status it came with, since gateways and proxies on the way make up statuses of their own.

use std::error::Error as StdError;
use std::time::Duration;

use azure_core::error::ErrorKind;

use crate::fault::{Fault, Origin, causes, redact};

/// A call that may fail, in the words of its fault.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) call: Call,
    /// `container`, `container/blob` or the path of a link.
    pub(super) place: String,
    pub(super) host: String,
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Look,
    Make,
    /// For a key to sign with in an identity's name.
    Delegate,
    Upload,
    Download,
    /// A link of the scoring service: another account, so that whatever it says is not about our storage.
    Follow,
    See,
    List,
    Delete,
}

impl Attempt {
    /// The fault that an error of the official client is.
    pub(super) fn fault(&self, error: &azure_core::Error) -> Fault {
        // Without a token nothing was called, and the fault of asking for one says all.
        token_fault(error).unwrap_or_else(|| classify(self, &Failure::of(error)))
    }

    /// The fault that an error of plain HTTP is.
    pub(super) fn http_fault(&self, error: &reqwest::Error) -> Fault {
        classify(self, &Failure::of_http(error))
    }

    /// The body ended before, or went on after, what was announced.
    pub(super) fn wrong_length(&self, size: u64, received: u64) -> Fault {
        let cause = format!("the answer was to have {size} bytes and had {received}");
        Fault::unavailable(self.origin(), "wrong_length", self.message(&cause, AGAIN))
    }

    /// The body isn't what its hash says.
    pub(super) fn wrong_hash(&self, which: &str) -> Fault {
        let cause = format!("the bytes received don't have the blob's {which}");
        Fault::transient(self.origin(), "wrong_hash", self.message(&cause, AGAIN))
    }

    /// Nothing says how long the body is, so that a cut one would look whole.
    pub(super) fn unknown_length(&self) -> Fault {
        let cause = "the answer doesn't say how long it is, so a cut one would look whole";
        let cure = "a proxy on the way may take Content-Length off: let it pass";
        Fault::transient(self.origin(), "unknown_length", self.message(cause, cure))
    }

    /// The answer is another part of the blob than was asked for.
    pub(super) fn wrong_part(&self) -> Fault {
        let cause = "the answer is another part of the blob than was asked for";
        let cure = "a proxy or cache on the way may keep parts: take it off";
        Fault::transient(self.origin(), "wrong_part", self.message(cause, cure))
    }

    /// The blob is another one than when it was begun.
    pub(super) fn changed(&self) -> Fault {
        let cause = "it was replaced while it was read";
        Fault::transient(self.origin(), "blob_changed", self.message(cause, AGAIN))
    }

    /// There is another blob under the name. It counts as an attempt, which gives the next one another name.
    pub(super) fn taken(&self, cause: &str) -> Fault {
        let cause = format!("another blob has the name: {cause}; it is left as it is");
        let cure = "it is tried again under another name";
        Fault::transient(self.origin(), "blob_taken", self.message(&cause, cure))
    }

    /// There is no calling it, whatever the other side says.
    pub(super) fn impossible(&self, code: &str, cause: &str, cure: &str) -> Fault {
        Fault::permanent(self.origin(), code, self.message(cause, cure))
    }

    fn origin(&self) -> Origin {
        match self.call {
            Call::Follow => Origin::Endpoint,
            _ => Origin::Storage,
        }
    }

    fn message(&self, cause: &str, cure: &str) -> String {
        let Self { call, place, host } = self;
        let what = match call {
            Call::Look => "look at container",
            Call::Make => "make container",
            Call::Delegate => "get a user delegation key, which signs what is handed over, for",
            Call::Upload => "upload blob",
            Call::Download => "download blob",
            Call::Follow => "download from the scoring service's link",
            Call::See => "look at blob",
            Call::List => "list blobs under",
            Call::Delete => "delete blob",
        };
        redact(&format!("could not {what} {place} at {host}: {cause}; {cure}"))
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// An answer that says no.
    Answer(Answer),
    /// No connection.
    Connect(String),
    /// A connection that went silent.
    Timeout(String),
    /// A connection that broke.
    Broken(String),
    /// An answer that makes no sense.
    Senseless(String),
}

/// An answer that says no.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `x-ms-error-code`, or the one in the body.
    pub(super) code: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) retry_after: Option<Duration>,
    pub(super) words: String,
}

impl Answer {
    /// Reads an answer by its headers and its body (XML, if it is the blob service's own).
    pub(super) fn read<'a>(
        status: u16,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
    ) -> Self {
        let body = String::from_utf8_lossy(body);
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            let line = text.trim().lines().next().unwrap_or_default();
            Some(
                line.replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&quot;", "\"")
                    .replace("&apos;", "'")
                    .replace("&amp;", "&"),
            )
        };
        let millis = |name| header(name)?.trim().parse().ok().map(Duration::from_millis);
        let seconds = |name| header(name)?.trim().parse().ok().map(Duration::from_secs);
        let mut words = element("Message").unwrap_or_default();
        // The message of a failed authentication is the same for a wrong key and a wrong clock: this tells which.
        if let Some(detail) = element("AuthenticationErrorDetail") {
            words = format!("{words} ({})", detail.chars().take(200).collect::<String>());
        }
        Self {
            status,
            code: header("x-ms-error-code")
                .map(str::to_owned)
                .or_else(|| element("Code"))
                // A word to search for, not a place for strangers' text.
                .filter(|code| is_code(code)),
            request_id: header("x-ms-request-id").map(str::to_owned),
            retry_after: millis("x-ms-retry-after-ms")
                .or_else(|| millis("retry-after-ms"))
                .or_else(|| seconds("retry-after")),
            // Its first lines alone are for people, and what comes can be endless.
            words: words.chars().take(WORDS_MAX_CHARS).collect(),
        }
    }
}

impl Failure {
    pub(super) fn of(error: &azure_core::Error) -> Self {
        if let Some(answer) = answer(error) {
            return Self::Answer(answer);
        }
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(http) = cause.downcast_ref::<reqwest::Error>() {
                return Self::of_http(http);
            }
            source = cause.source();
        }
        match error.kind() {
            ErrorKind::Connection => Self::Connect(causes(error)),
            ErrorKind::Io => Self::Broken(causes(error)),
            _ => Self::Senseless(causes(error)),
        }
    }

    pub(super) fn of_http(error: &reqwest::Error) -> Self {
        // The error itself repeats the address, which the message has already and which may carry a signature.
        let cause = error.source().map_or_else(|| error.to_string(), causes);
        if error.is_connect() {
            Self::Connect(cause)
        } else if error.is_timeout() {
            Self::Timeout(cause)
        } else {
            Self::Broken(cause)
        }
    }
}

fn is_code(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=80).contains(&text.len()) && text.bytes().all(plain)
}

/// The answer behind an error of the official client, if there was one.
pub(super) fn answer(error: &azure_core::Error) -> Option<Answer> {
    let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() else {
        return None;
    };
    let status = u16::from(*status);
    let Some(raw) = raw_response else {
        let code = error_code.clone().filter(|code| is_code(code));
        return Some(Answer { status, code, ..Answer::default() });
    };
    Some(Answer::read(status, |name| raw.headers().get_optional_str(&name.into()), raw.body()))
}

/// The fault of asking for a token, if that is what went wrong.
fn token_fault(error: &azure_core::Error) -> Option<Fault> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return Some(fault.clone());
        }
        source = cause.source();
    }
    None
}

/// The sorting itself.
pub(super) fn classify(attempt: &Attempt, failure: &Failure) -> Fault {
    let origin = attempt.origin();
    let unavailable = |code: &str, cause: &str, cure: &str| {
        Fault::unavailable(origin, code, attempt.message(cause, cure))
    };
    let answer = match failure {
        Failure::Answer(answer) => answer,
        Failure::Connect(cause) if cause.contains("certificate") => {
            return unavailable(
                "certificate",
                &format!("no connection: {cause}"),
                "have the certificate trusted: name its authority's file with ca_file, or with SSL_CERT_FILE for all",
            );
        }
        Failure::Connect(cause) => {
            return unavailable(
                "connect",
                &format!("no connection: {cause}"),
                "check the address, the network and the proxy; it is tried again",
            );
        }
        Failure::Timeout(cause) => {
            return unavailable("timeout", &format!("no answer in time: {cause}"), AGAIN);
        }
        Failure::Broken(cause) => {
            return unavailable("broken", &format!("the connection broke: {cause}"), AGAIN);
        }
        Failure::Senseless(cause) => {
            let cause = format!("the answer makes no sense: {cause}");
            return Fault::transient(origin, "senseless", attempt.message(&cause, AGAIN));
        }
    };
    let code = answer.code.as_deref().unwrap_or_default();
    let own = if code.is_empty() { format!("http_{}", answer.status) } else { code.to_owned() };
    let mut cause = answer.status.to_string();
    for part in [code, &answer.words] {
        if !part.is_empty() {
            cause = format!("{cause} {part}");
        }
    }
    if let Some(id) = &answer.request_id {
        cause = format!("{cause} (request {id})");
    }
    let message = |cure: &str| attempt.message(&cause, cure);
    let follow = attempt.call == Call::Follow;
    match (answer.status, code) {
        (429, _) | (_, "ServerBusy") => Fault::throttled(
            origin,
            answer.retry_after,
            own,
            message("the account is over its limit: it is tried again after a pause"),
        ),
        (503, _) if answer.retry_after.is_some() => {
            Fault::throttled(origin, answer.retry_after, own, message(AGAIN))
        }
        (408 | 500.., _) => unavailable(&own, &cause, AGAIN),
        (_, "Md5Mismatch" | "Crc64Mismatch") => {
            Fault::transient(origin, own, message("bytes were damaged on the way: sent again"))
        }
        // The blocks of an upload are gone when the container was remade meanwhile; the next attempt sends them anew.
        // So are those of somebody else's that don't go together with ours, or are too many: it gets another name.
        (
            _,
            "InvalidBlockList"
            | "InvalidBlobOrBlock"
            | "BlockCountExceedsLimit"
            | "RequestEntityTooLargeBlockCountExceedsLimit",
        ) => Fault::transient(origin, own, message(AGAIN)),
        (412 | 416, "ConditionNotMet" | "InvalidRange" | "")
            if matches!(attempt.call, Call::Download | Call::Follow) =>
        {
            attempt.changed()
        }
        (_, "ContainerBeingDeleted" | "AccountBeingCreated") => {
            unavailable(&own, &cause, "it can take half a minute; it is tried again")
        }
        (401 | 403, _) if follow => Fault::transient(
            origin,
            "link_expired",
            message("links live for a while only: a fresh one is asked for"),
        ),
        (404 | 410, _) if follow => Fault::permanent(
            origin,
            "output_missing",
            message("the service says that the job finished, but the output isn't there"),
        ),
        (404, "BlobNotFound" | "") if attempt.call == Call::Download => Fault::permanent(
            origin,
            "output_missing",
            message("it was never written, or somebody deleted it"),
        ),
        (_, "AuthorizationPermissionMismatch") if attempt.call == Call::Delegate => {
            Fault::fatal(origin, own, message(DELEGATOR))
        }
        // None of these can be about one job.
        (401 | 403 | 404, _)
        | (
            _,
            "PublicAccessNotPermitted"
            | "InvalidAuthenticationInfo"
            | "InvalidHeaderValue"
            | "MissingRequiredHeader",
        ) if !follow => Fault::fatal(origin, own, message(cure(code))),
        (400..=499, _) if matches!(attempt.call, Call::Look | Call::Make | Call::Delegate) => {
            Fault::fatal(origin, own, message(cure(code)))
        }
        (400..=499, _) => Fault::permanent(
            origin,
            own,
            message("the request itself is refused: look at the code"),
        ),
        // No blob service redirects: something on the way answered.
        _ => unavailable(
            &own,
            &cause,
            "this is no answer of a blob service: check the address and the proxy",
        ),
    }
}

/// What would mend a storage that refuses us.
fn cure(code: &str) -> &'static str {
    match code {
        "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
            "check the key or the signature (of an identity: that its tenant is the account's), and this machine's clock \
             (15 minutes at most)"
        }
        "AuthorizationFailure" => {
            "let this machine through the account's firewall; emulators say the same to a wrong key"
        }
        "AuthorizationPermissionMismatch" => {
            "give the identity the role Storage Blob Data Contributor on the account or the container (it takes minutes to \
             work); a shared access signature needs the rights read, create, write and delete"
        }
        "AuthorizationServiceMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationProtocolMismatch"
        | "InsufficientAccountPermissions" => {
            "the shared access signature lacks a right: it needs read, create, write and delete"
        }
        "KeyBasedAuthenticationNotPermitted" => {
            "the account forbids its keys: use an identity (credential = \"NAME\"), or have keys allowed"
        }
        "AccountIsDisabled" => "the account is disabled: enable its subscription",
        "ContainerNotFound" => "make the container, or set create = true for this storage",
        "InvalidHeaderValue" => "the service doesn't speak this version of the protocol: update it",
        _ => "check the account, what lets us in, the container and the rights on it",
    }
}

const WORDS_MAX_CHARS: usize = 4000;
const AGAIN: &str = "it is tried again";
const DELEGATOR: &str = "give the identity the role Storage Blob Delegator on the storage account itself (Storage Blob Data \
     Contributor there has it in it; on a container it is not enough)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Blame, Class};

    fn attempt(call: Call) -> Attempt {
        Attempt {
            call,
            place: "scoring/in/a.csv".into(),
            host: "acct.blob.core.windows.net".into(),
        }
    }

    #[test]
    fn every_answer_has_its_verdict() {
        use Call::{Delete, Download, Follow, Look, Make, Upload};
        let storage = Origin::Storage;
        let throttled = |seconds: Option<u64>| Class::Throttled(seconds.map(Duration::from_secs));
        for (call, status, code, retry_after, class, own, origin) in [
            (Look, 403, "AuthenticationFailed", "", Class::Fatal, "AuthenticationFailed", storage),
            (
                Upload,
                403,
                "AuthorizationFailure",
                "",
                Class::Fatal,
                "AuthorizationFailure",
                storage,
            ),
            (Upload, 403, "AccountIsDisabled", "", Class::Fatal, "AccountIsDisabled", storage),
            (Delete, 401, "", "", Class::Fatal, "http_401", storage),
            (Upload, 404, "ContainerNotFound", "", Class::Fatal, "ContainerNotFound", storage),
            (Download, 404, "ContainerNotFound", "", Class::Fatal, "ContainerNotFound", storage),
            (Look, 404, "ResourceNotFound", "", Class::Fatal, "ResourceNotFound", storage),
            (Download, 404, "BlobNotFound", "", Class::Permanent, "output_missing", storage),
            (Upload, 503, "ServerBusy", "3", throttled(Some(3)), "ServerBusy", storage),
            (Upload, 503, "ServerBusy", "", throttled(None), "ServerBusy", storage),
            (Upload, 429, "", "soon", throttled(None), "http_429", storage),
            (Upload, 503, "", "7", throttled(Some(7)), "http_503", storage),
            (Upload, 503, "", "", Class::Transient, "http_503", storage),
            (Upload, 500, "OperationTimedOut", "", Class::Transient, "OperationTimedOut", storage),
            (Upload, 502, "", "", Class::Transient, "http_502", storage),
            (Download, 504, "", "", Class::Transient, "http_504", storage),
            (Upload, 400, "Md5Mismatch", "", Class::Transient, "Md5Mismatch", storage),
            (Upload, 400, "InvalidBlockList", "", Class::Transient, "InvalidBlockList", storage),
            (
                Make,
                409,
                "ContainerBeingDeleted",
                "",
                Class::Transient,
                "ContainerBeingDeleted",
                storage,
            ),
            (
                Upload,
                413,
                "RequestBodyTooLarge",
                "",
                Class::Permanent,
                "RequestBodyTooLarge",
                storage,
            ),
            (Upload, 400, "OutOfRangeInput", "", Class::Permanent, "OutOfRangeInput", storage),
            (Upload, 412, "LeaseIdMissing", "", Class::Permanent, "LeaseIdMissing", storage),
            (
                Upload,
                409,
                "PublicAccessNotPermitted",
                "",
                Class::Fatal,
                "PublicAccessNotPermitted",
                storage,
            ),
            (Look, 400, "", "", Class::Fatal, "http_400", storage),
            (Make, 400, "InvalidResourceName", "", Class::Fatal, "InvalidResourceName", storage),
            (Upload, 302, "", "", Class::Transient, "http_302", storage),
            (
                Follow,
                403,
                "AuthenticationFailed",
                "",
                Class::Transient,
                "link_expired",
                Origin::Endpoint,
            ),
            (
                Follow,
                404,
                "ContainerNotFound",
                "",
                Class::Permanent,
                "output_missing",
                Origin::Endpoint,
            ),
            (Follow, 503, "ServerBusy", "1", throttled(Some(1)), "ServerBusy", Origin::Endpoint),
            (
                Follow,
                400,
                "InvalidHeaderValue",
                "",
                Class::Permanent,
                "InvalidHeaderValue",
                Origin::Endpoint,
            ),
        ] {
            let answer = Answer::read(
                status,
                |name| match name {
                    "x-ms-error-code" => Some(code).filter(|code| !code.is_empty()),
                    "retry-after" => Some(retry_after).filter(|value| !value.is_empty()),
                    "x-ms-request-id" => Some("id-1"),
                    _ => None,
                },
                b"",
            );
            let fault = classify(&attempt(call), &Failure::Answer(answer));
            assert_eq!(
                (fault.class, fault.code.as_str(), fault.origin),
                (class, own, origin),
                "{call:?} {status} {code}"
            );
            for part in ["scoring/in/a.csv", "acct.blob", "id-1"] {
                assert!(fault.message.contains(part), "{}", fault.message);
            }
        }
    }

    #[test]
    fn what_is_the_other_sides_trouble_costs_no_job_an_attempt() {
        for failure in [
            Failure::Connect("refused".into()),
            Failure::Timeout("silent".into()),
            Failure::Broken("reset".into()),
            Failure::Answer(Answer { status: 502, ..Answer::default() }),
        ] {
            let fault = classify(&attempt(Call::Upload), &failure);
            assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Service), "{fault}");
        }
    }

    #[test]
    fn the_body_of_an_answer_is_read_for_its_words_and_its_code() {
        let body = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>AuthenticationFailed</Code>\
                    <Message>Make sure &amp; check.\nRequestId:1\nTime:2</Message>\
                    <AuthenticationErrorDetail>Request date header too old\nmore</AuthenticationErrorDetail></Error>";
        let answer = Answer::read(403, |_| None, body.as_bytes());
        assert_eq!(answer.code.as_deref(), Some("AuthenticationFailed"));
        assert_eq!(answer.words, "Make sure & check. (Request date header too old)");
        assert!(Answer::read(502, |_| None, b"<html>Bad gateway").code.is_none());
    }

    #[test]
    fn a_message_names_the_key_and_the_clock_and_shows_no_signature() {
        let failure = Failure::Answer(Answer {
            status: 403,
            code: Some("AuthenticationFailed".into()),
            words: "https://a/b?sv=1&sig=secret was refused".into(),
            ..Answer::default()
        });
        let message = classify(&attempt(Call::Upload), &failure).message;
        assert!(message.contains("key") && message.contains("clock"), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}
