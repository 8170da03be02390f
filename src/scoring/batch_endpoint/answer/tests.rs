//! Every status and every error, as tables.

use chrono::DateTime;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};

use super::*;
use crate::fault::{Blame, Class};
use crate::job::RemoteId;
use crate::name::Name;
use crate::ports::Submission;
use crate::scoring::answer::Read;
use crate::wire::BlobReference;

fn with_call<T>(operation: Operation, ask: impl FnOnce(&Call) -> T) -> T {
    let endpoint = Name::try_from("churn".to_owned()).unwrap();
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    ask(&Call { endpoint: &endpoint, operation, now })
}

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, headers: HeaderMap::new(), body: body.into(), read: Read::Whole }
}

fn error(code: &str, message: &str) -> String {
    serde_json::json!({
        "error": { "code": code, "message": message, "details": [] },
        "correlation": { "operation": "o1", "request": "r1" },
        "location": "westeurope",
    })
    .to_string()
}

fn invoke(status: u16, body: &str) -> Invoked {
    with_call(Operation::Start, |call| invoked(&answer(status, body), call))
}

fn look(status_word: &str) -> Result<RemoteStatus, Fault> {
    let body = serde_json::json!({ "name": "n", "properties": { "status": status_word } });
    with_call(Operation::Status, |call| status(&answer(200, &body.to_string()), call))
}

#[test]
fn every_status_has_its_meaning() {
    for (word, meaning) in [
        ("NotStarted", RemoteStatus::Pending),
        ("Starting", RemoteStatus::Pending),
        ("Provisioning", RemoteStatus::Pending),
        ("Preparing", RemoteStatus::Pending),
        ("Queued", RemoteStatus::Pending),
        ("Running", RemoteStatus::Pending),
        ("Finalizing", RemoteStatus::Pending),
        ("CancelRequested", RemoteStatus::Pending),
        ("NotResponding", RemoteStatus::Pending),
        ("Paused", RemoteStatus::Pending),
        ("Unknown", RemoteStatus::Pending),
        ("Scheduled", RemoteStatus::Pending),
        ("running", RemoteStatus::Pending),
        ("Completed", RemoteStatus::Finished(vec![])),
        ("Succeeded", RemoteStatus::Finished(vec![])),
        ("Canceled", RemoteStatus::Cancelled),
        ("Cancelled", RemoteStatus::Cancelled),
        ("Failed", RemoteStatus::Failed("the service gave no details".into())),
    ] {
        assert_eq!(look(word).unwrap(), meaning, "{word}");
    }
    for word in ["Done", "Finished", "", "Completed?!x"] {
        let fault = look(word).unwrap_err();
        assert_eq!(
            (fault.class, fault.code.as_str()),
            (Class::Transient, "unknown_status"),
            "{word}"
        );
    }
}

#[test]
fn a_status_is_read_from_every_likely_place_and_from_nowhere_else() {
    let read = |status_code, body: &str| {
        with_call(Operation::Status, |call| status(&answer(status_code, body), call))
    };
    assert_eq!(read(200, r#"{"Properties":{"Status":"Queued"}}"#).unwrap(), RemoteStatus::Pending);
    assert_eq!(read(200, r#"{"status":"Queued"}"#).unwrap(), RemoteStatus::Pending);
    for body in ["", "null", "[]", "{}", "\"Completed\"", r#"{"properties":{"status":4}}"#] {
        assert_eq!(read(200, body).unwrap_err().code, "unreadable_answer", "{body}");
    }
    assert_eq!(read(200, "<html><title>Sign in</title>").unwrap_err().code, "html");
    assert_eq!(
        read(404, &error("UserError", "Run n was not found")).unwrap(),
        RemoteStatus::Unknown
    );
    assert_eq!(read(404, "").unwrap(), RemoteStatus::Unknown);
    let no_endpoint = read(404, &error("UserError", "Endpoint churn was not found")).unwrap_err();
    assert_eq!(no_endpoint.class, Class::Fatal);
    assert_eq!(read(404, "<html>").unwrap_err().code, "html");
    for status in [408, 429, 500, 502, 503, 504] {
        let fault = read(status, "").unwrap_err();
        assert!(matches!(fault.class, Class::Transient | Class::Throttled(_)), "{status}: {fault}");
    }
}

#[test]
fn a_failure_tells_its_words_from_wherever_they_are_and_no_secret() {
    let failed = |body: &str| {
        let seen = with_call(Operation::Status, |call| status(&answer(200, body), call)).unwrap();
        let RemoteStatus::Failed(words) = seen else { panic!("{seen:?}") };
        words
    };
    for (body, words) in [
        (
            r#"{"properties":{"status":"Failed","error":{"code":"UserError","message":"no column","details":[{"message":"Col2"}]}}}"#,
            "UserError: Col2: no column",
        ),
        (r#"{"properties":{"status":"Failed"},"error":{"message":"mount"}}"#, "mount"),
        (r#"{"properties":{"status":"Failed","statusMessage":"quota"}}"#, "quota"),
        (
            r#"{"properties":{"status":"Failed","tags":{"x":"y","azureml.error":"at ?sig=abc&x"}}}"#,
            "at ?sig=***&x",
        ),
        (r#"{"properties":{"status":"Failed","properties":{"failure":"oom"}}}"#, "oom"),
    ] {
        let told = failed(body);
        let mut told: Vec<_> = told.split(": ").collect();
        let mut words: Vec<_> = words.split(": ").collect();
        told.sort_unstable();
        words.sort_unstable();
        assert_eq!(told, words, "{body}");
    }
}

#[test]
fn a_run_is_named_by_every_success_that_can_be_read() {
    for (code, body) in [
        (200, r#"{"id":"azureml://locations/w/workspaces/x/jobs/9f1c2d","name":"9f1c2d"}"#),
        (201, r#"{"Name":"9f1c2d","properties":{"status":"Preparing"}}"#),
        (202, r#"{"id":"/subscriptions/s/jobs/9f1c2d"}"#),
        (200, r#"{"properties":{"name":"9f1c2d"}}"#),
    ] {
        assert_eq!(invoke(code, body), Invoked::Started(RemoteId("9f1c2d".into())), "{body}");
    }
    for body in ["", "{}", "null", "<html>", "\"9f1c2d\"", r#"{"name":""}"#, r#"{"name":"a b"}"#] {
        assert!(matches!(invoke(200, body), Invoked::Unclear(_)), "{body}");
    }
    let ours = r#"{"name":"intent-7ad2a7a8-0000-4000-8000-000000000000.0"}"#;
    assert!(matches!(invoke(200, ours), Invoked::Unclear(_)), "a name that we would take for ours");
}

/// Class, blame and a part of the text of every refusal of the call that makes a run.
#[test]
fn a_refused_call_started_nothing_and_says_what_mends_it() {
    for (status, body, class, words) in [
        (302, String::new(), Class::Fatal, "redirects"),
        (
            400,
            error("UserError", "Audiences in JWT are not allowed"),
            Class::Fatal,
            "another audience",
        ),
        (401, error("UserError", "Audiences in JWT are not allowed"), Class::Fatal, "audience"),
        (401, String::new(), Class::Fatal, "credential of endpoints.churn"),
        (403, error("UserError", "does not have authorization"), Class::Fatal, "role"),
        (403, error("x", "Out of call volume quota"), Class::Throttled(None), "quota"),
        (404, error("UserError", "no such endpoint"), Class::Fatal, "endpoints.churn.url"),
        (
            400,
            error("UserError", "No valid deployments to route to. Please check"),
            Class::Fatal,
            "endpoints.churn.deployment",
        ),
        (
            404,
            error("UserError", "No valid deployments to route to."),
            Class::Fatal,
            "default deployment",
        ),
        (400, error("ValidationError", "Job output type must be 'uri_file'"), Class::Permanent, "r1"),
        (
            400,
            r#"{"statusCode":400,"message":"bad","errors":[{"PropertyName":"Uri","ErrorMessage":"Uri is empty"}]}"#
                .into(),
            Class::Permanent,
            "Uri is empty",
        ),
        (409, error("UserError", "The path already exists"), Class::Permanent, "must not exist"),
        (400, error("UserError", "Datastore x not found"), Class::Permanent, "churn.datastore"),
        (429, String::new(), Class::Throttled(None), "429"),
        (413, "<html>too large".into(), Class::Transient, "web page"),
    ] {
        let Invoked::NotStarted(fault) = invoke(status, &body) else { panic!("{status} {body}") };
        assert_eq!(fault.class, class, "{status} {body}");
        assert!(fault.message.contains(words), "{status}: {fault}");
        assert!(fault.message.starts_with("start to churn: "), "{fault}");
    }
}

#[test]
fn what_may_have_been_heard_is_unclear() {
    for status in [408, 500, 502, 503, 504, 507] {
        for body in [String::new(), error("ServiceError", "InternalServerError"), "<html>".into()] {
            let Invoked::Unclear(fault) = invoke(status, &body) else { panic!("{status}") };
            assert_ne!(fault.class, Class::Permanent, "{status}");
            assert_ne!(fault.blame, Blame::Job, "{status}: {fault}");
        }
    }
}

#[test]
fn a_pause_is_as_long_as_was_asked_for() {
    let mut asked = answer(429, "");
    asked.headers.insert(RETRY_AFTER, HeaderValue::from_static("17"));
    let refused = with_call(Operation::Start, |call| invoked(&asked, call));
    let Invoked::NotStarted(fault) = refused else { panic!("{refused:?}") };
    assert_eq!(fault.class, Class::Throttled(Some(std::time::Duration::from_secs(17))));
}

#[test]
fn a_cancel_is_asked_for_by_every_success_and_needless_for_what_is_not_there() {
    let cancel = |code, body: &str| {
        with_call(Operation::Cancel, |call| cancelled(&answer(code, body), call))
    };
    for code in [200, 202, 204] {
        cancel(code, "").unwrap();
    }
    cancel(404, &error("UserError", "Run not found")).unwrap();
    cancel(404, &error("ResourceNotFound", "The workspace was not found")).unwrap_err();
    cancel(200, "<html>").unwrap_err();
    assert_eq!(cancel(409, &error("UserError", "has ended")).unwrap_err().class, Class::Permanent);
    assert_eq!(cancel(500, "").unwrap_err().class, Class::Transient);
    assert_eq!(cancel(403, "").unwrap_err().class, Class::Fatal);
}

#[test]
fn a_probe_is_let_in_by_any_word_about_the_run() {
    let probe =
        |code, body: &str| with_call(Operation::Probe, |call| probed(&answer(code, body), call));
    probe(404, &error("UserError", "Run not found")).unwrap();
    probe(200, "{}").unwrap();
    for code in [401, 403, 429, 500, 302] {
        probe(code, "").unwrap_err();
    }
    probe(404, &error("UserError", "no such endpoint")).unwrap_err();
}

fn intent() -> Intent {
    let blob = |path: &str| BlobReference {
        relative_location: Some(path.into()),
        ..BlobReference::default()
    };
    let submission = Submission {
        key: "j-1".into(),
        input: None,
        blob: blob("/c/in.csv"),
        outputs: vec![("score".into(), blob("/c/f/j/1-1/out/score.csv"))],
        parameters: vec![],
    };
    Intent::of(&submission, "inbox").unwrap()
}

fn listed(code: u16, body: &str) -> Result<Page, Fault> {
    with_call(Operation::Status, |call| page(&answer(code, body), call, &intent()))
}

#[test]
fn a_run_is_found_in_every_likely_form_of_a_list() {
    let ours = r#"{"id":"/jobs/9f1c2d","name":"9f1c2d","properties":{"outputData":{"score":{"jobOutputType":"UriFile",
        "uri":"azureml://datastores/inbox/paths/f/j/1-1/out/score.csv"}}}}"#;
    let other = ours.replace("9f1c2d", "other").replace("/j/1-1/", "/k/1-1/");
    let step = ours
        .replace("9f1c2d", "step")
        .replace("\"outputData\"", "\"parentJobName\":\"9f1c2d\",\"outputData\"");
    for list in [
        format!("[{other},{step},{ours}]"),
        format!("{{\"value\":[{other},{ours}],\"nextLink\":\"x\"}}"),
        format!("{{\"Jobs\":[{step},{ours}]}}"),
        format!("{{\"items\":[{ours}]}}"),
    ] {
        assert_eq!(listed(200, &list).unwrap().found, Some(RemoteId("9f1c2d".into())), "{list}");
    }
    let more = listed(200, &format!("{{\"value\":[{other}],\"nextLink\":\"/jobs?$skip=1\"}}"));
    assert_eq!(more.unwrap(), Page { found: None, next: Some("/jobs?$skip=1".into()) });
    assert_eq!(listed(200, "{\"value\":[],\"nextLink\":\"\"}").unwrap(), Page::default());
}

#[test]
fn a_list_that_tells_nothing_is_not_an_empty_one() {
    for (code, body) in
        [(200, "{}"), (200, "x"), (200, ""), (404, ""), (405, ""), (403, ""), (501, "")]
    {
        let fault = listed(code, body).unwrap_err();
        assert_eq!(
            (fault.class, fault.code.as_str()),
            (Class::Permanent, "list_unusable"),
            "{code}"
        );
        assert!(fault.message.contains("can't tell"), "{fault}");
    }
    for code in [408, 429, 500, 503] {
        assert_ne!(listed(code, "").unwrap_err().class, Class::Permanent, "{code}");
    }
    assert_eq!(listed(401, "").unwrap_err().class, Class::Fatal);
    assert_eq!(listed(200, "<html>").unwrap_err().code, "html");
}
