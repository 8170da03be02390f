//! Request/response scoring: what is really sent and what is read of the answer, against a server that says what it is
//! told to; and whole daemons whose endpoint, or whose fast lane, it is.

mod lane;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use scoreline::fault::{Class, Fault, Origin};
use scoreline::metrics::Metrics;
use scoreline::ports::{Executed, Execution, RemoteStatus, Scorer, SubmitAnswer, Way};
use scoreline::scoring::Scoring;
use scoreline::scoring::bes::Settings;
use scoreline::scoring::rrs::{CALL_LIMIT, Form, Rrs};

use crate::bes::{
    Answers, KEY, OTHER_KEY, SUBSCRIPTION, Scene, Standing, churn, has_count, here, job, refusing,
    settings, submission,
};

const ANSWER: &str = r#"{"Results":{"output1":{"type":"DataTable","value":{"ColumnNames":["id","Scored Labels"],"ColumnTypes":["String","Double"],"Values":[["007","1e5"],["","a,b"]]}}}}"#;
const REQUEST: &str = r#"{"Inputs":{"rows":{"ColumnNames":["id","x"],"Values":[["007","+1"],["",""]]}},"GlobalParameters":{"Cutoff":"0.35"}}"#;
const URI: &str = "/demo/workspaces/w/services/s/execute?api-version=2.0&details=true";

async fn scene(form: Form, answer: impl Fn() -> Response + Send + Sync + 'static) -> Scene {
    told(form, &Standing::default(), Box::new(move |_| answer())).await
}

async fn told(form: Form, clock: &Standing, answer: Answers) -> Scene {
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = |host: &str, clock: &Standing| {
        let metrics = Metrics::new(&[], &[churn()], &[]);
        let settings = Settings { timeout: CALL_LIMIT, ..settings(host) };
        let rrs = Rrs::new(settings, form, clock.clone(), metrics.clone()).unwrap();
        (Scoring::Rrs(rrs), metrics)
    };
    Scene::of(clock, answer, client).await
}

fn execution(file: &str) -> Execution {
    Execution {
        input: Some("rows".into()),
        table: file.to_owned().into(),
        name: "a.csv".into(),
        parameters: vec![("Cutoff".into(), "0.35".into())],
        outputs: vec![("output1".into(), "output1.csv".into())],
    }
}

async fn asked(scene: &Scene) -> Result<Vec<Executed>, Fault> {
    scene.scoring.execute(here(&job()), &execution("id,x\n007,+1\n,\n")).await
}

fn text(outputs: &[Executed]) -> &str {
    std::str::from_utf8(&outputs[0].table).unwrap()
}

#[tokio::test]
async fn a_file_is_sent_with_both_keys_and_asks_for_details() {
    let scene = scene(Form::Table, || ANSWER.into_response()).await;
    let outputs = asked(&scene).await.unwrap();
    assert_eq!((outputs.len(), outputs[0].output.as_str()), (1, "output1"));
    assert_eq!(text(&outputs), "id,Scored Labels\r\n007,1e5\r\n,\"a,b\"\r\n");
    let seen = scene.request();
    assert_eq!((seen.method, seen.uri.to_string().as_str()), (Method::POST, URI));
    assert_eq!(seen.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(seen.headers["ocp-apim-subscription-key"], SUBSCRIPTION);
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.body, REQUEST);
    assert!(has_count(&scene.metrics, "execute", "200"));
}

#[tokio::test]
async fn the_other_form_is_asked_for_and_keeps_the_order_of_columns() {
    let answer = r#"{"Results":{"output1":[{"z":"1","a":NaN},{"a":null,"z":2.50}]}}"#;
    let scene = scene(Form::Swagger, move || answer.into_response()).await;
    assert_eq!(text(&asked(&scene).await.unwrap()), "z,a\r\n1,NaN\r\n2.50,\r\n");
    let seen = scene.request();
    assert_eq!(seen.uri.to_string(), format!("{URI}&format=swagger"));
    let body = r#"{"Inputs":{"rows":[{"id":"007","x":"+1"},{"id":"","x":""}]},"GlobalParameters":{"Cutoff":"0.35"}}"#;
    assert_eq!(seen.body, body);
}

#[tokio::test]
async fn every_output_comes_back_in_the_format_of_its_file() {
    let answer = r#"{"Results":{"b":[{"x":"1,5","y":2}],"output1":[{"n":1}]}}"#;
    let scene = scene(Form::Swagger, move || answer.into_response()).await;
    let wanted = vec![("b".to_owned(), "out/b.tsv".to_owned())];
    let execution = Execution { outputs: wanted, ..execution("x\n1\n") };
    let outputs = scene.scoring.execute(here(&job()), &execution).await.unwrap();
    let files: Vec<_> = outputs.iter().map(|o| (o.output.as_str(), o.table.as_ref())).collect();
    assert_eq!(files, [("b", &b"x\ty\r\n1,5\t2\r\n"[..]), ("output1", b"n\r\n1\r\n")]);
}

#[tokio::test]
async fn an_output_that_the_service_lacks_is_told_with_those_that_it_has() {
    let scene = scene(Form::Table, || ANSWER.replace("output1", "scores").into_response()).await;
    let fault = asked(&scene).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "output_missing"));
    assert!(fault.message.contains("output output1, it has scores"), "{fault}");
}

#[tokio::test]
async fn a_file_that_is_no_table_is_refused_before_anything_is_sent() {
    let scene = scene(Form::Table, || ANSWER.into_response()).await;
    for (file, reason) in [
        ("", "a.csv can't be scored at once: there is no header row"),
        ("a,b\n1,2\n3\n", "line 3 has 1 value under 2 column names"),
        ("a,a\n1,2\n", "the column \"a\" is there twice"),
    ] {
        let fault = scene.scoring.execute(here(&job()), &execution(file)).await.unwrap_err();
        assert_eq!((fault.class, fault.origin), (Class::Permanent, Origin::Inbox), "{fault}");
        assert!(fault.message.contains(reason), "{fault}");
    }
    let latin = Execution { table: (&b"caf\xe9\n1\n"[..]).into(), ..execution("") };
    let fault = scene.scoring.execute(here(&job()), &latin).await.unwrap_err();
    assert!(fault.message.contains("line 1 is no UTF-8"), "{fault}");
    assert!(scene.stub.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn results_of_many_megabytes_are_read_whole_and_larger_ones_are_refused_with_a_cure() {
    let rows = |mib: usize| {
        let row = format!("{{\"x\":\"{}\"}}", "y".repeat((1 << 20) - 9));
        let all = vec![row; mib].join(",");
        format!("{{\"Results\":{{\"output1\":[{all}]}}}}")
    };
    let (three, more) = (rows(3), rows(65));
    let whole = scene(Form::Swagger, move || three.clone().into_response()).await;
    assert!(asked(&whole).await.unwrap()[0].table.len() > (3 << 20) - 64);
    let large = scene(Form::Swagger, move || more.clone().into_response()).await;
    let fault = asked(&large).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "results_too_large"));
    assert!(fault.message.contains("split the file"), "{fault}");
}

#[tokio::test]
async fn what_is_no_answer_of_the_service_scores_nothing() {
    for (body, code) in [
        ("<html><title>Sign in</title></html>", "html"),
        ("{\"Results\":{\"output1\":[{\"x\":", "unreadable_answer"),
        ("{}", "unreadable_answer"),
        ("{\"Results\":{\"output1\":5}}", "results_no_table"),
    ] {
        let scene = scene(Form::Table, move || body.into_response()).await;
        assert_eq!(asked(&scene).await.unwrap_err().code, code, "{body}");
        scene.request();
    }
    let garbled = scene(Form::Table, || {
        Body::from(&b"{\"Results\":{\"o\":[{\"x\":\"\xe9\"}]}}"[..]).into_response()
    })
    .await;
    assert_eq!(asked(&garbled).await.unwrap_err().code, "unreadable_answer");
}

#[tokio::test]
async fn a_busy_service_is_asked_once_and_says_that_it_is_busy() {
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        let scene = scene(Form::Table, move || status.into_response()).await;
        assert!(asked(&scene).await.unwrap_err().is_overload());
        scene.request();
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_a_fault_that_counts() {
    let clock = Standing::default();
    let over = clock.over.clone();
    let never: Answers = Box::new(move |_: &HeaderMap| {
        let over = over.clone();
        let begun = futures::stream::once(async move {
            over.notify_one();
            std::future::pending::<Result<String, std::io::Error>>().await
        });
        Body::from_stream(begun).into_response()
    });
    let scene = told(Form::Table, &clock, never).await;
    let fault = asked(&scene).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Transient, "timeout"));
    assert!(fault.message.contains("within 100 s"), "{fault}");
    assert!(!fault.is_overload() && fault.blame == scoreline::fault::Blame::Job, "{fault:?}");
    assert!(has_count(&scene.metrics, "execute", "timeout"));
}

#[tokio::test]
async fn a_refused_key_is_changed_for_the_other_one() {
    let refuse = refusing(&[KEY]);
    let answer: Answers = Box::new(move |headers| {
        let refused = refuse(headers);
        if refused.status() == StatusCode::UNAUTHORIZED { refused } else { ANSWER.into_response() }
    });
    let scene = told(Form::Table, &Standing::default(), answer).await;
    asked(&scene).await.unwrap();
    let seen = scene.stub.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].headers["authorization"], format!("Bearer {OTHER_KEY}"));
    assert_eq!(seen[1].body, REQUEST);
}

#[tokio::test]
async fn a_probe_sends_nothing_to_score_and_is_content_with_the_refusal() {
    let empty = r#"{"error":{"code":"BadArgument","message":"No.","details":[{"code":"RequestIsEmpty","message":"Empty."}]}}"#;
    let scene = scene(Form::Table, move || (StatusCode::BAD_REQUEST, empty).into_response()).await;
    scene.scoring.probe().await.unwrap();
    let seen = scene.request();
    assert_eq!((seen.method, seen.uri.to_string().as_str()), (Method::POST, URI));
    assert_eq!(seen.headers["content-length"], "0");
    assert!(seen.body.is_empty());
    assert!(has_count(&scene.metrics, "probe", "400"));
}

#[tokio::test]
async fn a_call_has_no_name_at_the_service_so_nothing_else_is_sent() {
    let scene = scene(Form::Table, || StatusCode::IM_A_TEAPOT.into_response()).await;
    let scoring = &scene.scoring;
    assert_eq!((scoring.way(), scoring.kind()), (Way::AtOnce, "rrs"));
    match scoring.submit(&submission()).await.unwrap() {
        SubmitAnswer::Known(id) => assert_eq!(id.0, "rrs-k-1"),
        other @ SubmitAnswer::InputMissing(_) => panic!("{other:?}"),
    }
    let id = job();
    assert_eq!(scoring.status(here(&id)).await.unwrap(), RemoteStatus::Finished(vec![]));
    scoring.cancel(here(&id)).await.unwrap();
    assert_eq!(scoring.links(here(&id)).await.unwrap(), []);
    assert!(scene.stub.seen.lock().unwrap().is_empty());
}
