use std::io;
use std::time::Duration;

use proptest::prelude::*;
use reqwest::header::{HeaderName, HeaderValue};

use super::said::WORDS_MAX_CHARS;
use super::verdict::{LONGEST_PAUSE, SHORTEST_PAUSE, spoken_pause};
use super::*;
use crate::fault::Blame;

fn churn() -> Name {
    Name::try_from("churn".to_owned()).unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-22T10:00:00Z").unwrap().to_utc()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    Answer { status, headers, body: body.to_owned(), read: Read::Whole }
}

fn asked<T>(operation: Operation, ask: impl FnOnce(&Call) -> T) -> T {
    ask(&Call { endpoint: &churn(), operation, now: now() })
}

fn envelope(class: &str, details: &[&str]) -> String {
    let details: Vec<_> = details
        .iter()
        .map(|code| serde_json::json!({ "code": code, "message": format!("About {code}.") }))
        .collect();
    serde_json::json!({ "error": { "code": class, "message": "A sentence.", "details": details } })
        .to_string()
}

fn gateway(status: u16, message: &str) -> String {
    serde_json::json!({ "statusCode": status, "message": message }).to_string()
}

fn submit_fault(status: u16, headers: &[(&str, &str)], body: &str) -> Fault {
    asked(Operation::Submit, |call| sort(&answer(status, headers, body), call))
}

/// `class` or `class/blame`, as short as a table wants it.
fn verdict_of(fault: &Fault) -> String {
    match (fault.class, fault.blame) {
        (Class::Transient, Blame::Service) => "unavailable".into(),
        (Class::Transient, Blame::Load) => "overloaded".into(),
        (Class::Throttled(Some(after)), _) => format!("throttled {}", after.as_secs()),
        (class, _) => class.name().into(),
    }
}

const PAGE: &str = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>";

#[test]
fn every_class_of_the_service_has_its_verdict() {
    for (status, class, details, verdict) in [
        (400, "BadArgument", &["BadParameterValue"][..], "permanent"),
        (400, "BadArgument", &["InvalidInputNames"], "permanent"),
        (400, "BadArgument", &["InvalidOutputOverrideName"], "permanent"),
        (400, "BadArgument", &["InvalidBlobExtension"], "permanent"),
        (400, "BadArgument", &["InvalidBlob"], "permanent"),
        (400, "BadArgument", &["InvalidBlobConnectionString"], "permanent"),
        (400, "BadArgument", &["UnknownError"], "permanent"),
        (400, "BadArgument", &["SomethingNew"], "permanent"),
        (400, "BadArgument", &["BlobNotFound"], "transient"),
        (400, "BadArgument", &["ExpiryTimeInThePast"], "transient"),
        (400, "BadArgument", &["BadVersionCall"], "fatal"),
        (400, "BadArgument", &["WebServiceIdInvalid"], "fatal"),
        (400, "BadUserArgument", &["InputParseError"], "permanent"),
        (400, "InvalidOperation", &["MultipleInputsNotAllowed"], "permanent"),
        (400, "LibraryExecutionError", &[], "permanent"),
        (400, "ModuleExecutionError", &[], "permanent"),
        (400, "WebServicePackageError", &["FormatError"], "permanent"),
        (401, "Unauthorized", &["ScoreRequestUnauthorized"], "fatal"),
        (403, "Forbidden", &[], "fatal"),
        (404, "NotFound", &["WebServiceNotFound"], "fatal"),
        (404, "NotFound", &["WorkspaceNotFound"], "fatal"),
        (404, "NotFound", &[], "fatal"),
        (408, "RequestTimeout", &["ScoreRequestTimeout"], "unavailable"),
        (409, "Conflict", &["ModelOutputMetadataMismatch"], "permanent"),
        (413, "MemoryQuotaViolation", &["OutOfMemoryLimit"], "permanent"),
        (418, "Teapot", &[], "permanent"),
        (500, "InternalError", &["WorkerUnreachable"], "transient"),
        (500, "InternalError", &["UnknownError"], "transient"),
        (500, "InternalErrorSystemLowOnMemory", &[], "transient"),
        (500, "InternalError", &["PortDataTypeNotSupported"], "permanent"),
        (500, "InternalError", &["WebServicePackageInvalid"], "permanent"),
        (500, "InternalError", &["ModelPackageInvalid"], "permanent"),
        (500, "InternalError", &["InvalidMemoryConfiguration"], "permanent"),
        (500, "ModelPackageFormatError", &["ModuleError"], "permanent"),
        (500, "WebServicePackageInternalError", &["ModuleError"], "permanent"),
        (503, "InitializingContainers", &[], "throttled 30"),
        (503, "ServiceUnavailable", &["TooManyConcurrentRequests"], "overloaded"),
        (503, "ServiceUnavailable", &["RequestThrottled"], "overloaded"),
        (504, "GatewayTimeout", &["BackendScoreTimeout"], "unavailable"),
        (502, "Whatever", &[], "unavailable"),
        (599, "Whatever", &[], "unavailable"),
    ] {
        let fault = submit_fault(status, &[], &envelope(class, details));
        let code = details.first().unwrap_or(&class);
        assert_eq!(verdict_of(&fault), verdict, "{status} {class} {details:?}: {fault}");
        assert_eq!((fault.code.as_str(), fault.origin), (*code, Origin::Endpoint), "{fault}");
        for part in ["submit to churn", &status.to_string(), class, "A sentence."] {
            assert!(fault.message.contains(part), "{part}: {fault}");
        }
    }
}

/// The whole of the service's published table, each code under its class and status.
#[test]
fn every_code_of_the_published_table_has_its_verdict() {
    let mut count = 0;
    for (status, class, codes, verdict) in [
        (
            400,
            "BadArgument",
            "BadParameterValue BatchJobInputsNotSpecified BatchJobInputsTooManySpecified BlobNameTooLong ContainerIsEmpty ContainerSegmentInvalid ContainerValidationFailed DataTypeNotSupported DuplicateInputInBatchCall IncompleteSettings InputBlobRelativeLocationInvalid InvalidBlob InvalidBlobConnectionString InvalidBlobExtension InvalidInputNames InvalidOutputOverrideName MissingInputBlobInformation MissingJobId MissingKeys MissingModelPackage MissingOutputOverrideSpecification MissingRequestInput MissingRequiredGlobalParameters MissingRequiredOutputOverrides MissingWebServicePackage ModelConfigurationInvalid ModelPackageIdInvalid RequestBodyInvalid RequestIsEmpty UnexpectedParameter UnknownError UserParameterInvalid WebServiceConcurrentRequestRequirementInvalid WebServiceTooManyConcurrentRequestRequirement WebServiceTypeInvalid",
            "permanent",
        ),
        (
            400,
            "BadArgument",
            "BadSubscriptionId BadVersionCall InvalidQueryParameter MissingWebServiceGroupId MissingWebServiceId MissingWorkspaceId WebServiceIdInvalid",
            "fatal",
        ),
        (400, "BadArgument", "BlobNotFound ExpiryTimeInThePast", "transient"),
        (
            400,
            "BadUserArgument",
            "InputMismatchError InputParseError MissingRequiredGlobalParameters UnexpectedParameter UserParameterInvalid",
            "permanent",
        ),
        (
            400,
            "InvalidOperation",
            "CannotStartJob IncompatibleModel MultipleInputsNotAllowed",
            "permanent",
        ),
        (400, "LibraryExecutionError", "", "permanent"),
        (400, "ModuleExecutionError", "", "permanent"),
        (400, "WebServicePackageError", "FormatError RuntimesError ValidationError", "permanent"),
        (
            401,
            "Unauthorized",
            "AdminRequestUnauthorized ManagementRequestUnauthorized ScoreRequestUnauthorized",
            "fatal",
        ),
        (
            404,
            "NotFound",
            "ModelPackageNotFound WebServiceIdNotFoundInWorkspace WebServiceNotFound WorkspaceNotFound",
            "fatal",
        ),
        (408, "RequestTimeout", "RequestCanceled ScoreRequestTimeout", "unavailable"),
        (409, "Conflict", "ModelOutputMetadataMismatch", "permanent"),
        (413, "MemoryQuotaViolation", "OutOfMemoryLimit", "permanent"),
        (
            500,
            "InternalError",
            "AdminAuthenticationFailed BackendArgumentError BackendBadRequest ClusterConfigBlobMisconfigured ContainerProcessTerminatedWithSystemError ContainerProcessTerminatedWithUnknownError ContainerValidationFailed DeleteWebServiceResourceFailed ExceptionDeserializationError FailedGettingApiDocument FailedStoringWebService InvalidResourceCacheConfiguration InvalidResourceDownloadConfiguration InvalidWebServiceResources MissingTaskInstance ModuleExecutionFailed ModuleLoadFailed ModuleObjectCloneFailed OutputConversionFailed ResourceDownload ResourceLoadFailed ServiceUrisNotFound SwaggerGeneration UnexpectedScoreStatus UnknownBackendErrorResponse UnknownError UnknownJobStatusCode UnknownModuleError UpdateWebServiceResourceFailed WebServiceGroupNotFound WorkerAuthorizationFailed WorkerUnreachable",
            "transient",
        ),
        (
            500,
            "InternalError",
            "InvalidMemoryConfiguration ModelPackageInvalid PortDataTypeNotSupported WebServicePackageInvalid",
            "permanent",
        ),
        (500, "InternalErrorSystemLowOnMemory", "", "transient"),
        (500, "ModelPackageFormatError", "ModuleError", "permanent"),
        (500, "WebServicePackageInternalError", "ModuleError", "permanent"),
        (503, "InitializingContainers", "", "throttled 30"),
        (
            503,
            "ServiceUnavailable",
            "NoMoreResources RequestThrottled TooManyConcurrentRequests TooManyHostsBeingInitialized TooManyHostsBeingInitializedPerModel",
            "overloaded",
        ),
        (504, "GatewayTimeout", "BackendInitializationTimeout BackendScoreTimeout", "unavailable"),
    ] {
        for code in codes.split(' ') {
            let details = if code.is_empty() { vec![] } else { vec![code] };
            let fault = submit_fault(status, &[], &envelope(class, &details));
            assert_eq!(verdict_of(&fault), verdict, "{status} {class} {code}: {fault}");
            assert_eq!(fault.code, if code.is_empty() { class } else { code }, "{fault}");
            count += 1;
        }
    }
    assert_eq!(count, 115, "codes in the table");
}

#[test]
fn a_call_that_is_its_run_has_verdicts_of_its_own() {
    let throttled = envelope("ServiceUnavailable", &["RequestThrottled"]);
    for (status, headers, body, verdict) in [
        // The file may be what takes so long, so it is not tried for ever.
        (408, &[][..], envelope("RequestTimeout", &["ScoreRequestTimeout"]), "transient"),
        (504, &[], envelope("GatewayTimeout", &["BackendScoreTimeout"]), "transient"),
        (504, &[], PAGE.into(), "transient"),
        (413, &[], envelope("MemoryQuotaViolation", &["OutOfMemoryLimit"]), "permanent"),
        (413, &[], PAGE.into(), "permanent"),
        (400, &[], "no rows".into(), "permanent"),
        (400, &[], PAGE.into(), "unavailable"),
        (404, &[], envelope("NotFound", &[]), "fatal"),
        (404, &[], gateway(404, "Resource not found"), "fatal"),
        (
            429,
            &[],
            gateway(429, "Rate limit is exceeded. Try again in 23 seconds."),
            "throttled 23",
        ),
        (503, &[], throttled.clone(), "overloaded"),
        (503, &[("retry-after", "7")], throttled, "throttled 7"),
        (503, &[], envelope("InitializingContainers", &[]), "throttled 30"),
        // Nobody knows what stood behind that page.
        (503, &[], PAGE.into(), "unavailable"),
        (502, &[], PAGE.into(), "unavailable"),
    ] {
        let fault = asked(Operation::Execute, |call| sort(&answer(status, headers, &body), call));
        assert_eq!(verdict_of(&fault), verdict, "{status} {body}: {fault}");
    }
    let late = |operation| asked(operation, |call| timed_out("h", Duration::from_secs(9), call));
    let fault = late(Operation::Execute);
    assert_eq!((verdict_of(&fault).as_str(), fault.code.as_str()), ("transient", "timeout"));
    assert!(fault.message.contains("split the file"), "{fault}");
    assert_eq!(verdict_of(&late(Operation::Submit)), "unavailable");
}

#[test]
fn results_are_taken_whole_or_not_at_all() {
    let read = |read| {
        let answer = Answer { read, ..answer(200, &[], " {} ") };
        asked(Operation::Execute, |call| executed(&answer, call).map(str::to_owned))
    };
    assert_eq!(read(Read::Whole).as_deref(), Ok("{}"));
    let cut = read(Read::Cut(64 << 20)).unwrap_err();
    assert_eq!((cut.class, cut.code.as_str()), (Class::Permanent, "results_too_large"));
    assert!(cut.message.contains("64 MiB"), "{cut}");
    assert_eq!(read(Read::Garbled).unwrap_err().code, "unreadable_answer");
}

#[test]
fn an_empty_input_shows_whether_we_are_let_in() {
    let probed = |status, body: &str| {
        let answer = answer(status, &[], body);
        asked(Operation::Probe, |call| probed(&answer, call)).map_err(|fault| verdict_of(&fault))
    };
    assert_eq!(probed(400, &envelope("BadArgument", &["RequestIsEmpty"])), Ok(()));
    assert_eq!(probed(400, &envelope("BadArgument", &["BadVersionCall"])), Err("fatal".into()));
    assert_eq!(probed(401, &envelope("Unauthorized", &[])), Err("fatal".into()));
    assert_eq!(probed(404, &gateway(404, "Resource not found")), Err("fatal".into()));
}

#[test]
fn what_stands_before_the_service_has_verdicts_of_its_own() {
    let missing = "Access denied due to missing subscription key. Make sure to include it.";
    let spent = "Out of call volume quota. Quota will be replenished in 00:08:24.";
    let nested = r#"{"error":{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 2.12 days."}}"#;
    for (status, headers, body, verdict, code) in [
        (401, &[][..], gateway(401, missing), "fatal", "subscription_key"),
        (401, &[], gateway(401, "Unauthorized"), "fatal", "http_401"),
        (403, &[], gateway(403, spent), "throttled 504", "quota"),
        (403, &[("retry-after", "604")], gateway(403, spent), "throttled 604", "quota"),
        (403, &[], nested.into(), "throttled 183168", "quota"),
        (403, &[], gateway(403, "Out of call volume quota."), "throttled", "quota"),
        (403, &[("Retry-After", "9")], String::new(), "throttled 9", "quota"),
        (403, &[], gateway(403, "Forbidden"), "fatal", "http_403"),
        (403, &[], PAGE.into(), "fatal", "http_403"),
        (404, &[], gateway(404, "Resource not found"), "fatal", "http_404"),
        (404, &[], PAGE.into(), "fatal", "http_404"),
        (
            429,
            &[],
            gateway(429, "Rate limit is exceeded. Try again in 23 seconds."),
            "throttled 23",
            "rate_limit",
        ),
        (429, &[("retry-after", "7")], String::new(), "throttled 7", "rate_limit"),
        (429, &[], String::new(), "throttled", "rate_limit"),
        (500, &[], gateway(500, "Internal server error"), "unavailable", "http_500"),
        (500, &[], PAGE.into(), "unavailable", "http_500"),
        (500, &[], String::new(), "transient", "http_500"),
        (502, &[], PAGE.into(), "unavailable", "http_502"),
        (503, &[], PAGE.into(), "overloaded", "http_503"),
        (503, &[("retry-after", "12")], String::new(), "throttled 12", "http_503"),
        (504, &[], String::new(), "unavailable", "http_504"),
        (400, &[], PAGE.into(), "unavailable", "html"),
        (400, &[("content-type", "Text/HTML; charset=x")], "oops".into(), "unavailable", "html"),
        (418, &[], "short and stout".into(), "permanent", "http_418"),
        (301, &[("location", "https://b/")], String::new(), "fatal", "redirect"),
        (307, &[], PAGE.into(), "fatal", "redirect"),
    ] {
        let fault = submit_fault(status, headers, &body);
        assert_eq!(verdict_of(&fault), verdict, "{status} {body}");
        assert_eq!(fault.code, code, "{status} {body}");
    }
}

#[test]
fn a_warm_up_that_names_its_time_is_believed() {
    let body = envelope("InitializingContainers", &[]);
    let fault = submit_fault(503, &[("retry-after", "90")], &body);
    assert_eq!(verdict_of(&fault), "throttled 90");
}

#[test]
fn a_pause_is_read_from_every_form_and_kept_sensible() {
    for (text, seconds) in [
        ("5", Some(5)),
        (" 5 ", Some(5)),
        ("0", Some(1)),
        ("Sun, 22 Nov 2026 10:00:30 GMT", Some(30)),
        ("Sun, 22 Nov 2026 09:00:00 GMT", Some(1)),
        ("Sun, 22 Nov 2099 10:00:00 GMT", Some(604_800)),
        ("99999999999999999999999", Some(604_800)),
        ("-5", None),
        ("NaN", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ] {
        let fault = submit_fault(429, &[("retry-after", text)], "");
        assert_eq!(
            fault.class,
            Class::Throttled(seconds.map(Duration::from_secs)),
            "Retry-After: {text}"
        );
    }
    for (sentence, seconds) in [
        ("Try again in 23 seconds.", Some(23)),
        ("Please retry after 1 minute.", Some(60)),
        ("Quota will be replenished in 00:08:24.", Some(504)),
        ("Quota will be replenished in 1.02:00:00.", Some(93_600)),
        ("Quota will be replenished in 2.12 days.", Some(183_168)),
        ("replenished in 3 fortnights", None),
        ("replenished in 1:2", None),
        ("replenished in :::", None),
        ("replenished in ", None),
        ("replenished soon", None),
    ] {
        assert_eq!(spoken_pause(sentence), seconds.map(Duration::from_secs), "{sentence}");
    }
}

#[test]
fn an_error_names_the_cure_and_the_request() {
    for (status, body, cure) in [
        (400, envelope("BadArgument", &["InvalidInputNames"]), "feeds.NAME.input must be one of"),
        (
            400,
            envelope("BadArgument", &["InvalidOutputOverrideName"]),
            "feeds.NAME.outputs must be the service's output names",
        ),
        (400, envelope("BadArgument", &["InvalidBlobExtension"]), ".csv, .tsv or .arff"),
        (401, envelope("Unauthorized", &["ScoreRequestUnauthorized"]), "endpoints.churn.api_key"),
        (
            401,
            gateway(401, "Access denied due to invalid subscription key."),
            "endpoints.churn.subscription_key",
        ),
        (403, String::new(), "endpoints.churn.api_key and subscription_key"),
        (404, envelope("NotFound", &["WebServiceNotFound"]), "check endpoints.churn.url"),
        (302, String::new(), "paste the final one into endpoints.churn.url"),
    ] {
        let fault = submit_fault(status, &[("x-ms-request-id", "abc-123")], &body);
        assert!(fault.message.contains(cure), "{fault}");
        assert!(fault.message.contains("[request abc-123]"), "{fault}");
    }
}

#[test]
fn an_error_reads_as_one_sentence() {
    let body = r#"{"error":{"code":"BadArgument","message":"Invalid argument provided.","details":[{"code":"InvalidInputNames","message":"Invalid service input name(s): Input1."}]}}"#;
    insta::assert_snapshot!(
        submit_fault(400, &[("x-ms-request-id", "7d1c")], body),
        @"submit to churn: the service answered 400 BadArgument (InvalidInputNames): Invalid argument provided. Invalid service input name(s): Input1. [request 7d1c]; feeds.NAME.input must be one of the service's input names, case matters"
    );
    insta::assert_snapshot!(
        submit_fault(502, &[], PAGE),
        @"submit to churn: a web page came back, with status 502: 502 Bad Gateway"
    );
}

#[test]
fn an_envelope_is_read_in_every_spelling() {
    for body in [
        r#"{"error":{"code":"BadArgument","message":"m","details":[{"code":"InvalidBlob","message":"d"}]}}"#,
        r#"{"Error":{"Code":"BadArgument","Message":"m","Details":[{"Code":"InvalidBlob","Message":"d"}]}}"#,
        r#"{"error":{"code":"BadArgument","message":null,"details":{"code":"InvalidBlob"},"new":1}}"#,
        r#"{"code":"BadArgument","details":[{"code":"InvalidBlob"}]}"#,
        r#"{"error":{"code":"InvalidBlob","message":"m","details":null}}"#,
    ] {
        assert_eq!(submit_fault(400, &[], body).code, "InvalidBlob", "{body}");
    }
}

#[test]
fn secrets_and_strange_codes_never_reach_a_message() {
    let body = r#"{"error":{"code":"a b\u0007 sig=hidden1&","message":"https://a/b?sig=hidden2 AccountKey=hidden3;","details":[{"code":"<script>","message":"Bearer hidden4"}]}}"#;
    let fault = submit_fault(400, &[("x-ms-request-id", "sig=hidden5")], body);
    assert_eq!(fault.code, "http_400");
    assert!(!fault.message.contains("hidden"), "{fault}");
    assert!(!fault.message.contains('\u{7}'), "{fault}");
    let long = format!("{} sig=hidden", "x".repeat(WORDS_MAX_CHARS - 6));
    let fault = submit_fault(400, &[], &envelope(&long, &[]));
    assert!(!fault.message.contains("hidden"), "{fault}");
}

#[test]
fn an_id_is_taken_quoted_or_not_and_nothing_else_is() {
    let hex = "539d0bc2fde945b6ac986b851d0000f0";
    let digits = "53900002000945060098608510000000";
    let quoted = |text: &str| format!("\"{text}\"");
    let long = "a".repeat(256);
    for (body, id) in [
        (quoted(hex), hex),
        (hex.to_owned(), hex),
        (digits.to_owned(), digits),
        (format!(" \r\n{}\n", quoted(hex)), hex),
        (format!("{hex}\r\n"), hex),
        (quoted(&long), long.as_str()),
        (quoted("batch:1.2_3"), "batch:1.2_3"),
    ] {
        let known =
            asked(Operation::Submit, |call| submitted(&answer(200, &[], &body), call)).unwrap();
        assert_eq!(known, SubmitAnswer::Known(RemoteId(id.into())), "{body}");
    }
    for body in [
        String::new(),
        " ".into(),
        quoted(""),
        quoted(" "),
        quoted("a b"),
        quoted("a\\n"),
        quoted("a/../b"),
        quoted("a\\\\b"),
        quoted("."),
        quoted(".."),
        quoted("ä"),
        quoted(&"a".repeat(257)),
        "a".repeat(257),
        "null".into(),
        "true".into(),
        "OK".into(),
        "{}".into(),
        format!("{{\"id\":\"{hex}\"}}"),
        format!("[\"{hex}\"]"),
        format!("\"{hex}"),
        PAGE.into(),
    ] {
        let fault =
            asked(Operation::Submit, |call| submitted(&answer(200, &[], &body), call)).unwrap_err();
        assert_eq!(fault.class, Class::Transient, "{body}");
    }
}

#[test]
fn only_a_missing_input_asks_for_a_new_upload() {
    let ask = |status, body: &str| {
        asked(Operation::Submit, |call| submitted(&answer(status, &[], body), call))
    };
    for body in [
        envelope("BadArgument", &["BlobNotFound"]),
        envelope("BadArgument", &["ExpiryTimeInThePast"]),
        r#"{"error":{"code":"BadArgument","message":"Signature not valid in the specified time frame"}}"#.into(),
    ] {
        let Ok(SubmitAnswer::InputMissing(fault)) = ask(400, &body) else { panic!("{body}") };
        assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Job));
    }
    for code in ["InvalidBlob", "InvalidBlobExtension", "InvalidBlobConnectionString"] {
        let fault = ask(400, &envelope("BadArgument", &[code])).unwrap_err();
        assert_eq!(fault.class, Class::Permanent, "{code}");
    }
}

#[test]
fn a_start_counts_when_the_service_took_it_now_or_before() {
    let ask = |status, body: &str| {
        asked(Operation::Start, |call| started(&answer(status, &[], body), call))
    };
    for status in [200, 201, 202, 204] {
        assert_eq!(ask(status, "").unwrap(), StartAnswer::Started);
    }
    assert_eq!(ask(200, "not { json").unwrap(), StartAnswer::Started);
    let again = envelope("InvalidOperation", &["CannotStartJob"]);
    assert_eq!(ask(400, &again).unwrap(), StartAnswer::Started);

    let sentence = r#"{"error":{"code":"InvalidOperation","message":"The job cannot be started because it is in Running state."}}"#;
    assert_eq!(ask(400, sentence).unwrap(), StartAnswer::Started);

    let typed = answer(200, &[("content-type", "text/html")], "");
    assert_eq!(asked(Operation::Start, |call| started(&typed, call)), Ok(StartAnswer::Started));

    // The same words under another status, and other refusals, are no start.
    for (status, body) in [
        (200, PAGE.to_owned()),
        (500, again),
        (400, envelope("InvalidOperation", &["IncompatibleModel"])),
        (400, envelope("InvalidOperation", &[])),
        (400, String::new()),
        (503, String::new()),
        (302, String::new()),
    ] {
        assert!(ask(status, &body).is_err(), "{status} {body}");
    }
}

#[test]
fn only_the_services_own_word_fails_a_job_that_may_be_running() {
    for operation in [Operation::Start, Operation::Status, Operation::Cancel] {
        for body in ["", "bad request", "{}", &gateway(400, "Bad request")] {
            let fault = asked(operation, |call| sort(&answer(400, &[], body), call));
            assert_eq!(fault.class, Class::Transient, "{operation:?} {body}");
        }
    }
}

#[test]
fn a_start_that_lacks_its_input_is_not_asked_again() {
    let body = envelope("BadArgument", &["BlobNotFound"]);
    let fault =
        asked(Operation::Start, |call| started(&answer(400, &[], &body), call)).unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "BlobNotFound"));
}

#[test]
fn a_probe_is_content_with_any_word_about_the_job() {
    let ask = |status, body: &str| {
        asked(Operation::Probe, |call| probed(&answer(status, &[], body), call))
    };
    for (status, body) in [
        (200, r#"{"StatusCode":0}"#.to_owned()),
        (400, envelope("BadArgument", &["SomethingAboutTheId"])),
        (400, String::new()),
        (404, String::new()),
    ] {
        assert_eq!(ask(status, &body), Ok(()), "{status} {body}");
    }
    for (status, body, verdict) in [
        (200, PAGE.to_owned(), "unavailable"),
        (401, envelope("Unauthorized", &[]), "fatal"),
        (403, String::new(), "fatal"),
        (404, gateway(404, "Resource not found"), "fatal"),
        (400, envelope("BadArgument", &["BadVersionCall"]), "fatal"),
        (400, PAGE.to_owned(), "unavailable"),
        (429, String::new(), "throttled"),
        (500, String::new(), "transient"),
        (503, String::new(), "overloaded"),
    ] {
        let fault = ask(status, &body).unwrap_err();
        assert_eq!(verdict_of(&fault), verdict, "{status} {body}");
    }
}

#[test]
fn a_broken_connection_is_the_other_sides_and_a_bad_certificate_is_ours_to_mend() {
    let tls = |error| -> io::Error {
        io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
    for (error, code, class) in [
        (tls(expired), "certificate", Class::Fatal),
        (tls(rustls::Error::HandshakeNotComplete), "tls", Class::Transient),
        (io::ErrorKind::ConnectionReset.into(), "reset", Class::Transient),
        (io::ErrorKind::UnexpectedEof.into(), "reset", Class::Transient),
        (io::ErrorKind::TimedOut.into(), "timeout", Class::Transient),
    ] {
        let fault = asked(Operation::Submit, |call| unreachable(&error, "host:81", call));
        assert_eq!((fault.code.as_str(), fault.class), (code, class), "{fault}");
        assert_eq!(fault.blame, Blame::Service);
        assert!(fault.message.starts_with("submit to churn: host:81 gave no answer: "), "{fault}");
    }
}

/// Bodies that are likely to be taken for something, beside arbitrary ones.
fn bodies() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("StatusCode"),
        Just("Finished"),
        Just("Failed"),
        Just("4"),
        Just("{"),
        Just("}"),
        Just("\""),
        Just(":"),
        Just(","),
        Just("error"),
        Just("code"),
        Just("details"),
        Just("CannotStartJob"),
        Just("<title>"),
        Just("again in "),
        Just("9e99"),
        Just("1:1:1"),
        Just("sig="),
        Just("ü"),
        Just(" "),
    ];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        prop::collection::vec(word, 0..30).prop_map(|words| words.concat()),
    ]
}

proptest! {
    // The same bodies at every run: a failure is one that the next run shows again.
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_body_makes_up_an_end_or_an_id(status in 100u16..700, body in bodies()) {
        let success = (200..300).contains(&status);
        let answer = answer(status, &[], &body);
        let seen = asked(Operation::Status, |call| super::status(&answer, call));
        if matches!(
            seen,
            Ok(RemoteStatus::Finished(_) | RemoteStatus::Failed(_) | RemoteStatus::Cancelled)
        ) {
            prop_assert!(success);
            let value: Value = serde_json::from_str(body.trim()).unwrap();
            prop_assert!(value.get("StatusCode").is_some());
        }
        let known = asked(Operation::Submit, |call| submitted(&answer, call));
        if let Ok(SubmitAnswer::Known(RemoteId(id))) = known {
            prop_assert!(success && !id.is_empty() && id.len() <= 256);
            prop_assert!(id.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
            prop_assert!(body.trim() == id || serde_json::from_str::<String>(body.trim()).is_ok());
        }
        let start = asked(Operation::Start, |call| started(&answer, call));
        if start == Ok(StartAnswer::Started) {
            let lower = body.to_lowercase();
            let refused = lower.contains("cannotstartjob") || lower.contains("cannot be started");
            prop_assert!(success || (status == 400 && refused));
        }
        for operation in [Operation::Cancel, Operation::Probe] {
            let _ = asked(operation, |call| cancelled(&answer, call));
            let _ = asked(operation, |call| probed(&answer, call));
        }
        let _ = asked(Operation::Status, |call| links(&answer, call));
    }

    #[test]
    fn any_sentence_about_a_pause_is_survived(sentence in "(again in |replenished in )?[0-9.:e+-]{0,30}( days| seconds)?") {
        if let Some(pause) = spoken_pause(&sentence) {
            prop_assert!((SHORTEST_PAUSE..=LONGEST_PAUSE).contains(&pause));
        }
    }
}

mod status;
