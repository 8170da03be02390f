//! What is read of a look at a job.

use super::*;

#[test]
fn a_job_is_unknown_only_when_the_service_says_so() {
    let ask = |status, body: &str| {
        let answer = answer(status, &[], body);
        (
            asked(Operation::Start, |call| started(&answer, call)),
            asked(Operation::Status, |call| super::status(&answer, call)),
            asked(Operation::Cancel, |call| cancelled(&answer, call)),
            asked(Operation::Probe, |call| probed(&answer, call)),
        )
    };
    for (status, body) in [
        (404, String::new()),
        (404, "job not found".into()),
        (404, envelope("NotFound", &[])),
        (404, envelope("NotFound", &["JobNotFound"])),
        (400, envelope("BadArgument", &["MissingJobId"])),
    ] {
        let (start, look, cancel, probe) = ask(status, &body);
        assert_eq!(start, Ok(StartAnswer::Unknown), "{body}");
        assert_eq!(look, Ok(RemoteStatus::Unknown), "{body}");
        assert_eq!((cancel, probe), (Ok(()), Ok(())), "{body}");
    }
    for body in [
        envelope("NotFound", &["WebServiceNotFound"]),
        envelope("NotFound", &["WorkspaceNotFound"]),
        envelope("NotFound", &["WebServiceIdNotFoundInWorkspace"]),
        envelope("NotFound", &["ModelPackageNotFound"]),
        gateway(404, "Resource not found"),
        r#"{"message":"Resource not found"}"#.into(),
        PAGE.into(),
    ] {
        let (start, look, cancel, probe) = ask(404, &body);
        for class in [
            start.unwrap_err().class,
            look.unwrap_err().class,
            cancel.unwrap_err().class,
            probe.unwrap_err().class,
        ] {
            assert_eq!(class, Class::Fatal, "{body}");
        }
    }
}

fn look(body: &str) -> Result<RemoteStatus, Fault> {
    asked(Operation::Status, |call| status(&answer(200, &[], body), call))
}

#[test]
fn a_status_is_read_as_number_and_as_name() {
    for (number, name, seen) in [
        (0, "NotStarted", RemoteStatus::Pending),
        (1, "Running", RemoteStatus::Pending),
        (2, "Failed", RemoteStatus::Failed("the service gave no details".into())),
        (3, "Cancelled", RemoteStatus::Cancelled),
        (4, "Finished", RemoteStatus::Finished(vec![])),
    ] {
        for code in [format!("{number}"), format!("\"{number}\""), format!("\"{name}\"")] {
            for body in [
                format!(r#"{{"StatusCode":{code},"Results":null,"Details":null}}"#),
                format!(r#"{{"Status Code":{code},"Results":{{}},"Details":" "}}"#),
                format!(r#"{{"StatusCode":{code},"CreatedAt":"0001-01-01T00:00:00"}}"#),
            ] {
                assert_eq!(look(&body).as_ref(), Ok(&seen), "{body}");
            }
        }
    }
}

#[test]
fn all_results_are_kept_without_their_links() {
    let body = r#"{"StatusCode":"Finished","Results":{
        "model":{"RelativeLocation":"/experimentoutput/a/a.ilearner","BaseLocation":"https://x/","SasBlobToken":"?sig=s"},
        "none":null,
        "scores":{"ConnectionString":null,"RelativeLocation":"out/scores.csv","BaseLocation":"https://x/","SasBlobToken":"?sig=t"}},"Details":null}"#;
    let result = |output: &str, path: &str| RunResult {
        output: output.into(),
        place: ResultPlace::Elsewhere(path.into()),
    };
    assert_eq!(
        look(body),
        Ok(RemoteStatus::Finished(vec![
            result("model", "experimentoutput/a/a.ilearner"),
            result("scores", "out/scores.csv"),
        ]))
    );
    let links = asked(Operation::Status, |call| links(&answer(200, &[], body), call)).unwrap();
    let (output, link) = &links[1];
    assert_eq!((output.as_str(), links.len()), ("scores", 2));
    assert_eq!(link.base_location.as_deref(), Some("https://x/"));
    assert_eq!(link.relative_location.as_deref(), Some("out/scores.csv"));
    assert_eq!(link.sas_blob_token.as_deref(), Some("?sig=t"));
}

#[test]
fn links_are_those_of_a_finished_job() {
    let ask = |status, body: &str| {
        asked(Operation::Status, |call| links(&answer(status, &[], body), call))
    };
    assert_eq!(ask(200, r#"{"StatusCode":4}"#).unwrap(), vec![]);
    assert_eq!(ask(200, r#"{"StatusCode":1}"#).unwrap_err().code, "not_finished");
    assert_eq!(ask(404, "").unwrap_err().class, Class::Permanent);
    assert_eq!(ask(503, "").unwrap_err().class, Class::Transient);
}

#[test]
fn the_words_of_a_failure_are_kept_without_secrets_and_within_bounds() {
    let failed = |details: &Value| {
        let body = serde_json::json!({ "StatusCode": "Failed", "Details": details });
        match look(&body.to_string()) {
            Ok(RemoteStatus::Failed(details)) => details,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed(&"row 7: bad https://x/y?sig=abc".into()), "row 7: bad https://x/y?sig=***");
    assert_eq!(failed(&serde_json::json!({ "Error": 7 })), r#"{"Error":7}"#);
    assert_eq!(failed(&"ü".repeat(5000).into()).chars().count(), DETAILS_MAX_CHARS + 1);
}

#[test]
fn what_is_no_status_says_nothing_about_the_job() {
    for (body, code) in [
        (r#"{"StatusCode":"Canceled"}"#, "unknown_status"),
        (r#"{"StatusCode":"Completed"}"#, "unknown_status"),
        (r#"{"StatusCode":""}"#, "unknown_status"),
        (r#"{"StatusCode":5}"#, "unreadable_answer"),
        (r#"{"StatusCode":null}"#, "unreadable_answer"),
        (r#"{"Results":{}}"#, "unreadable_answer"),
        (r#"{"StatusCode":4"#, "unreadable_answer"),
        ("\"Finished\"", "unreadable_answer"),
        ("4", "unreadable_answer"),
        ("", "unreadable_answer"),
        (PAGE, "html"),
    ] {
        let fault = look(body).unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (Class::Transient, code), "{body}");
    }
}

#[test]
fn an_error_during_a_look_is_never_a_state_of_the_job() {
    let finished = r#"{"StatusCode":"Finished","Results":{}}"#;
    for status in (300..600).filter(|status| *status != 404) {
        let seen =
            asked(Operation::Status, |call| super::status(&answer(status, &[], finished), call));
        assert!(seen.is_err(), "{status}: {seen:?}");
    }
}
