//! A remote side that lies: whatever one of its answers is made into, the fault has its class, the daemon lives, and the job
//! is neither lost nor run twice once answers are right again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use scoreline::sandbox::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::log::Log;

#[test]
fn whatever_a_service_answers_its_jobs_come_through_once() {
    let log = Log::default();
    log.clone().on_all_threads(async {
        let (rig, line) = rig().await;
        let daemon = rig.start().await;
        let elsewhere = listener().await;
        let redirect = format!("http://{}/", elsewhere.address);
        let cases = cases(&redirect);
        let mut wrong = Vec::new();
        for (n, Case { what, call, acts, answer, code }) in cases.iter().enumerate() {
            let before = log.text().len();
            line.spoil(call, 2, *acts, answer.clone());
            rig.drop_file(&format!("{n}.csv"), &input_of(&[&text(n)]));
            ended(&daemon, n + 1).await;
            line.right();
            let log = &log.text()[before..];
            let job = daemon.jobs().await[0].id;
            let (_, events) = daemon.get(&format!("/api/v1/jobs/{job}/events")).await;
            let told = [format!("error_code={code}"), format!("error_code={code:?}")];
            if !told.iter().any(|told| log.contains(told)) && !events.contains(&format!("{code:?}"))
            {
                let codes = log.split("error_code=").skip(1).map(|l| l.split(' ').next());
                wrong.push(format!(
                    "{call}, {what}: no {code}, but {:?}",
                    codes.collect::<Vec<_>>()
                ));
            }
            assert!(!log.contains("panicked"), "{call}, {what}");
            let ours = log.lines().filter(|line| line.contains(" scoreline::"));
            let longest = ours.map(str::len).max().unwrap();
            assert!(longest < 20_000, "{call}, {what}: a line of {longest} bytes");
            assert!(events.len() < 60_000, "{call}, {what}: {} bytes of history", events.len());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        all_came_through(&rig, &daemon, cases.len()).await;
        assert_eq!(elsewhere.calls.load(Ordering::Relaxed), 0, "a redirect was followed");
        daemon.stop().await;
    });
}

#[test]
fn whatever_a_storage_answers_its_jobs_come_through_once() {
    let log = Log::default();
    log.clone().on_all_threads(async {
        let (rig, line) = rig().await;
        let daemon = rig.start().await;
        let cases = [
            ("put", "a page", http("200 OK", "Content-Type: text/html", PAGE)),
            ("put", "nothing", Vec::new()),
            (
                "put",
                "a long error",
                http("500 Oops", "x-ms-error-code: InternalError", &"e".repeat(10 << 20)),
            ),
            (
                "put",
                "odd XML",
                http("503 Busy", "Content-Type: application/xml", "<Error><Code>Ser"),
            ),
            ("get", "a page in an error's place", http("502 Bad", "Content-Type: text/html", PAGE)),
            ("get", "a wrong length", http_raw("200 OK", "Content-Length: 100000", "short")),
            (
                "get",
                "a wrong hash",
                http("200 OK", "Content-MD5: XUFAKrxLKna5cZ2REBfFkg==", "short"),
            ),
            ("get", "a redirect", http("302 Found", "Location: http://127.0.0.1:9/", "")),
            ("get", "no HTTP", b"\xff\xfe\x00 what?\r\n\r\n".to_vec()),
            ("get", "an absurd pause", http("503 Busy", "Retry-After: -1", "")),
        ];
        for (n, (call, what, answer)) in cases.iter().enumerate() {
            let before = log.text().len();
            line.spoil(
                call,
                2,
                false,
                Arc::new({
                    let answer = answer.clone();
                    move |_| answer.clone()
                }),
            );
            rig.drop_file(&format!("{n}.csv"), &input_of(&[&text(n)]));
            ended(&daemon, n + 1).await;
            line.right();
            assert!(!log.text()[before..].contains("panicked"), "{call}, {what}");
        }
        all_came_through(&rig, &daemon, cases.len()).await;
        daemon.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_link_to_another_host_is_refused_until_that_is_allowed() {
    let elsewhere = listener().await;
    let (rig, line) = rig().await;
    let rig = rig.feed("outputs = {}");
    let evil = format!("http://results.example:{}", elsewhere.address.port());
    for (n, (base, code)) in [
        (evil.as_str(), "result_link"),
        ("https://results.example", "result_host"),
        ("https://acct.blob.core.windows.net@results.example", "result_link"),
        ("http://169.254.169.254/metadata", "result_link"),
        ("file:///etc", "result_link"),
    ]
    .into_iter()
    .enumerate()
    {
        let daemon = rig.start().await;
        let ours = format!("http://{}/devstoreaccount1/", line.address);
        let theirs = format!("{base}/");
        line.spoil("status", u32::MAX, true, replacing(&ours, &theirs));
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&text(n)]));
        let jobs = daemon
            .until("it has failed", |jobs| {
                jobs.first().is_some_and(|job| job.phase == Phase::Failed)
            })
            .await;
        let error = jobs[0].error.as_ref().unwrap();
        assert_eq!(
            (error.class.as_str(), error.code.as_str()),
            ("permanent", code),
            "{base}: {error:?}"
        );
        if code == "result_host" {
            assert!(error.message.contains("endpoints.e.result_hosts"), "{error:?}");
            assert!(error.message.contains("results.example"), "{error:?}");
        }
        assert!(!error.message.contains("sig=") || error.message.contains("sig=***"), "{error:?}");
        line.right();
        assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/retry", jobs[0].id)).await, 202);
        daemon.until("it succeeds", |jobs| jobs[0].phase == Phase::Succeeded).await;
        daemon.stop().await;
    }
    assert_eq!(elsewhere.calls.load(Ordering::Relaxed), 0, "something was sent there");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_null_or_more_than_asked_for_change_nothing_for_redirected_outputs() {
    let (rig, line) = rig().await;
    let daemon = rig.start().await;
    for (n, results) in [
        "null".to_owned(),
        "{}".to_owned(),
        r#"{"output1":null}"#.to_owned(),
        r#"{"output1":{"BaseLocation":"https://results.example/","RelativeLocation":"c/b","New":[1]}}"#.to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        line.spoil("status", u32::MAX, true, if_finished(move |_| {
            format!(r#"{{"StatusCode":"Finished","More":[1e300,{{}}],"Results":{results}}}"#)
        }));
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&text(n)]));
        daemon.until_ended(n + 1).await;
    }
    all_came_through(&rig, &daemon, 4).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_after_its_end_is_delivered_when_it_ends_again() {
    let (rig, line) = rig().await;
    let rig = rig.feed("outputs = {}");
    let daemon = rig.start().await;
    let looks = AtomicU64::new(0);
    line.spoil(
        "status",
        u32::MAX,
        true,
        if_finished(move |body| {
            let back = (1..3).contains(&looks.fetch_add(1, Ordering::Relaxed));
            if back { r#"{"StatusCode":"Running"}"#.into() } else { body.to_owned() }
        }),
    );
    rig.drop_file("0.csv", &input_of(&[&text(0)]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:#?}");
    let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", jobs[0].id)).await;
    assert!(events.contains("says Running of a job that had finished"), "{events}");
    assert_eq!(rig.files("out").into_values().collect::<Vec<_>>(), [scores_of(&[&text(0)])]);
    rig.started_once_each(1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_has_expired_is_asked_for_again() {
    let (rig, line) = rig().await;
    let rig = rig.feed("outputs = {}");
    let daemon = rig.start().await;
    // What is signed now is no longer good: its five minutes lie behind it.
    rig.sandbox.update(|settings| settings.result_life = chrono::TimeDelta::seconds(1));
    rig.drop_file("0.csv", &input_of(&[&text(0)]));
    let jobs = daemon
        .until("the link is refused", |jobs| jobs.len() == 1 && jobs[0].error.is_some())
        .await;
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "link_expired", "{jobs:#?}");
    rig.sandbox.update(|settings| settings.result_life = chrono::TimeDelta::hours(1));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    assert_eq!(rig.files("out").into_values().collect::<Vec<_>>(), [scores_of(&[&text(0)])]);
    rig.started_once_each(1);
    drop(line);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trained_model_comes_with_its_own_extension_beside_other_outputs() {
    let rig = || async {
        Rig::with(Settings {
            run_time: Duration::ZERO,
            outputs: vec!["scores".into(), "model".into()],
            model_outputs: vec!["model".into()],
            ..Settings::default()
        })
        .await
    };
    let ours = "outputs = { scores = \"{stem}.scores.tsv\", model = \"{stem}.model.ilearner\" }";
    for (lines, names) in [
        ("outputs = {}", ["x.model.ilearner", "x.scores.csv"]),
        (ours, ["x.model.ilearner", "x.scores.tsv"]),
    ] {
        let rig = rig().await.feed(lines);
        let daemon = rig.start().await;
        rig.drop_file("x.csv", &input_of(&["a", "b"]));
        daemon.until_ended(1).await;
        let out = rig.files("out");
        assert_eq!(out.keys().collect::<Vec<_>>(), names, "{lines}");
        assert_eq!(out["x.model.ilearner"], "ILEARNER\u{0}1\u{0}1");
        daemon.stop().await;
    }
    let rig =
        rig().await.feed("outputs = { scores = \"{stem}.csv\", model = \"{stem}.model.csv\" }");
    let daemon = rig.start().await;
    rig.drop_file("x.csv", &input_of(&["a"]));
    let jobs = daemon.until_ended(1).await;
    let error = jobs[0].error.as_ref().unwrap();
    assert_eq!((jobs[0].phase, error.code.as_str()), (Phase::Failed, "InvalidBlobExtension"));
    assert!(error.message.contains(".ilearner"), "{error:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_outputs_are_in_place_is_forgotten_where_that_is_wished() {
    for (lines, deletes) in [("", 0), ("delete_jobs = true", 2)] {
        let rig = Rig::new().await.endpoint(lines);
        let daemon = rig.start().await;
        drop_many(&rig, 0..2);
        rig.drop_file("poisoned.csv", &input_of(&["POISON"]));
        daemon.until_ended(3).await;
        let totals = rig.sandbox.ledger().totals;
        assert_eq!((totals.delete_calls, totals.cancelled), (deletes, 0), "{lines}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_forgets_nothing_holds_no_source_up() {
    let rig = Rig::new().await.endpoint("delete_jobs = true");
    rig.faults(&["delete=500:1"]);
    let daemon = rig.start().await;
    drop_many(&rig, 0..3);
    all_came_through(&rig, &daemon, 3).await;
    assert!(daemon.jobs().await.iter().all(|job| job.error.is_none()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_forgotten_by_calls_to_spare_alone() {
    let gateway = Gateway { calls_per_minute: Some(7), ..Gateway::default() };
    let rig = Rig::with(Settings {
        gateway: Some(gateway),
        run_time: Duration::ZERO,
        ..Settings::default()
    })
    .await
    .endpoint("delete_jobs = true\nbudget = \"apim\"")
    .tables("[budgets.apim]\ncalls_per_minute = 7");
    let daemon = rig.start().await;
    drop_many(&rig, 0..2);
    all_came_through(&rig, &daemon, 2).await;
    let totals = rig.sandbox.ledger().totals;
    let calls = totals.submits + totals.start_calls + totals.status_calls + totals.delete_calls;
    assert!(calls <= 7 && totals.refused_by_gateway == 0, "{totals:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_good_suspends_the_endpoint_and_tells_the_cure() {
    let expired = || {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        params
    };
    for (what, params) in [
        ("self-signed", CertificateParams::new(["127.0.0.1".to_owned()]).unwrap()),
        ("of another host", CertificateParams::new(["elsewhere.example".to_owned()]).unwrap()),
        ("expired", expired()),
    ] {
        let address = secured(&params);
        let rig = Rig::new()
            .await
            .endpoint(&format!("url = \"https://{address}/workspaces/w/services/s/jobs\""));
        let daemon = rig.start().await;
        rig.drop_file("x.csv", &input_of(&["x"]));
        eventually("it is suspended", || async {
            daemon.metric("scoreline_endpoint_suspended{endpoint=\"e\"}").await == Some(1.0)
        })
        .await;
        let (_, told) = daemon.get("/api/v1/endpoints").await;
        assert!(
            told.contains("\"certificate\"") && told.contains("trusted certificates"),
            "{what}: {told}"
        );
        assert!(daemon.jobs().await[0].attempts == 0, "{what}");
        daemon.stop().await;
    }
}

struct Case {
    what: &'static str,
    call: &'static str,
    /// Whether the call does what it should before its answer is spoilt.
    acts: bool,
    answer: Spoil,
    code: &'static str,
}

type Spoil = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

fn cases(elsewhere: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |what, call, acts, answer: Vec<u8>, code| {
        let answer: Spoil = Arc::new(move |_| answer.clone());
        cases.push(Case { what, call, acts, answer, code });
    };
    let json = |body: &str| http("200 OK", "Content-Type: application/json", body);
    for (call, acts) in [("submit", false), ("submit", true), ("status", true)] {
        case("nothing", call, acts, json(""), "unreadable_answer");
        case("truncated JSON", call, acts, json("{\"StatusCode\":\"Fini"), "unreadable_answer");
        case("a page", call, acts, http("200 OK", "Content-Type: text/html", PAGE), "html");
    }
    case("a page", "start", true, http("200 OK", "Content-Type: text/html", PAGE), "html");
    case("a page", "start", false, http("200 OK", "Content-Type: text/html", PAGE), "html");
    case("deep JSON", "status", true, json(&"[".repeat(100_000)), "unreadable_answer");
    case("deep JSON", "submit", true, json(&"{\"a\":".repeat(100_000)), "unreadable_answer");
    case(
        "an unknown word",
        "status",
        true,
        json(r#"{"StatusCode":"Succeeded"}"#),
        "unknown_status",
    );
    case("number 9", "status", true, json(r#"{"StatusCode":9}"#), "unreadable_answer");
    case("no status", "status", true, json(r#"{"Results":{}}"#), "unreadable_answer");
    case(
        "a number of many digits",
        "status",
        true,
        json(&format!("{{\"StatusCode\":{}}}", "9".repeat(5000))),
        "unreadable_answer",
    );
    case(
        "text that is no UTF-8",
        "status",
        true,
        http_bytes(b"{\"StatusCode\":\"\xff\xfe\"}"),
        "unknown_status",
    );
    case(
        "gzip that is none",
        "status",
        true,
        http("200 OK", "Content-Encoding: gzip", "\u{1f}\u{8b}no"),
        "unreadable_answer",
    );
    case(
        "10 MB of an error",
        "status",
        false,
        http("500 Oops", "", &"e".repeat(10 << 20)),
        "http_500",
    );
    case(
        "10 MB of an envelope",
        "submit",
        false,
        http(
            "500 Oops",
            "",
            &format!(
                "{{\"error\":{{\"code\":\"InternalError\",\"message\":\"{}\"}}}}",
                "m".repeat(10 << 20)
            ),
        ),
        "http_500",
    );
    case(
        "a redirect",
        "status",
        false,
        http("302 Found", &format!("Location: {elsewhere}"), ""),
        "redirect",
    );
    case("a loop of redirects", "submit", false, http("307 Again", "Location: ", ""), "redirect");
    case(
        "a length that is too long",
        "status",
        true,
        http_raw("200 OK", "Content-Length: 100000", "{\"StatusCode\":4"),
        "reset",
    );
    case("a connection that is cut", "start", true, Vec::new(), "reset");
    case("no HTTP", "submit", false, b"\xff\xfe\x00 what?\r\n\r\n".to_vec(), "reset");
    case(
        "a negative pause",
        "status",
        false,
        http("429 Too Many", "Retry-After: -5", ""),
        "rate_limit",
    );
    case(
        "a pause that is over",
        "status",
        false,
        http("503 Busy", "Retry-After: Sun, 22 Nov 1999 10:00:00 GMT", ""),
        "http_503",
    );
    cases
}

/// The head of an answer is left as it is, and its length set right.
fn replacing(from: &str, to: &str) -> Spoil {
    let (from, to) = (from.to_owned(), to.to_owned());
    Arc::new(move |answer| {
        let text = String::from_utf8(answer).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        http("200 OK", "Content-Type: application/json", &body.replace(&from, &to))
    })
}

/// Spoils what is told of a run that has finished.
fn if_finished(spoil: impl Fn(&str) -> String + Send + Sync + 'static) -> Spoil {
    Arc::new(move |answer| {
        let text = String::from_utf8(answer.clone()).unwrap();
        match text.split_once("\r\n\r\n").filter(|(_, body)| body.contains("\"Finished\"")) {
            Some((_, body)) => http("200 OK", "Content-Type: application/json", &spoil(body)),
            None => answer,
        }
    })
}

fn http(status: &str, header: &str, body: &str) -> Vec<u8> {
    let header = if header.is_empty() { "X-Nothing: 1" } else { header };
    http_raw(status, &format!("{header}\r\nContent-Length: {}", body.len()), body)
}

fn http_raw(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n\r\n{body}").into_bytes()
}

fn http_bytes(body: &[u8]) -> Vec<u8> {
    let mut answer = http_raw("200 OK", &format!("Content-Length: {}", body.len()), "");
    answer.extend_from_slice(body);
    answer
}

/// A daemon whose remote side is reached by a line that spoils answers.
async fn rig() -> (Rig, Arc<Line>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::with(Settings {
        advertise: Some(address.to_string()),
        run_time: Duration::ZERO,
        ..Settings::default()
    })
    .await;
    let line = Arc::new(Line { address, server: rig.sandbox.addr, plan: Mutex::default() });
    let shared = line.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let line = shared.clone();
            tokio::spawn(async move { line.pass(client).await });
        }
    });
    (rig, line)
}

/// Waits until so many jobs are done, and has whatever is suspended looked at again at once.
async fn ended(daemon: &Running, count: usize) {
    for n in 0..3000 {
        let jobs = daemon.jobs().await;
        if jobs.iter().filter(|job| job.phase == Phase::Succeeded).count() >= count {
            return;
        }
        assert!(jobs.iter().all(|job| job.phase != Phase::Failed), "{jobs:#?}");
        if n % 10 == 9 {
            daemon.post("/api/v1/endpoints/e/resume").await;
            daemon.post("/api/v1/storages/s/resume").await;
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {count}: {:#?}", daemon.jobs().await);
}

/// A way to a server, one request a connection.
struct Line {
    address: SocketAddr,
    server: SocketAddr,
    plan: Mutex<Option<(String, u32, bool, Spoil)>>,
}

impl Line {
    fn spoil(&self, call: &str, times: u32, acts: bool, answer: Spoil) {
        *self.plan.lock().unwrap() = Some((call.to_owned(), times, acts, answer));
    }

    fn right(&self) {
        *self.plan.lock().unwrap() = None;
    }

    /// How the answer to a request is spoilt, if it is.
    fn planned(&self, head: &str) -> Option<(bool, Spoil)> {
        let line = head.lines().next().unwrap_or_default();
        let mut plan = self.plan.lock().unwrap();
        let (call, left, acts, spoil) = plan.as_mut()?;
        let meant = match call.as_str() {
            "submit" => line.starts_with("POST") && line.contains("/jobs?"),
            "start" => line.contains("/start?"),
            // A probe asks for a job that is none.
            "status" => {
                line.starts_with("GET") && line.contains("/jobs/") && !line.contains("/000000")
            }
            "put" => line.starts_with("PUT /devstoreaccount1/") && !line.contains("restype"),
            _ => line.starts_with("GET /devstoreaccount1/") && !line.contains("restype"),
        };
        if !meant || *left == 0 {
            return None;
        }
        *left -= 1;
        Some((*acts, spoil.clone()))
    }

    async fn pass(&self, mut client: TcpStream) {
        let mut request = Vec::new();
        let head_end = loop {
            if let Some(at) = request.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if !client.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                return;
            }
        };
        let head = String::from_utf8(request[..head_end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        while request.len() < head_end + length.unwrap_or(0) {
            if !client.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        let planned = self.planned(&head);
        let mut answer = Vec::new();
        if planned.as_ref().is_none_or(|(acts, _)| *acts) {
            let Ok(mut server) = TcpStream::connect(self.server).await else { return };
            let (first, rest) = head.split_once("\r\n").unwrap();
            let head = format!("{first}\r\nConnection: close\r\n{rest}");
            server.write_all(head.as_bytes()).await.unwrap();
            server.write_all(&request[head_end..]).await.unwrap();
            let _ = server.read_to_end(&mut answer).await;
        }
        if let Some((_, spoil)) = planned {
            answer = spoil(answer);
        }
        let _ = client.write_all(&answer).await;
        let _ = client.shutdown().await;
    }
}

/// Somebody who counts who comes.
struct Elsewhere {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
}

async fn listener() -> Elsewhere {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let count = calls.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Elsewhere { address, calls }
}

/// A server that shows a certificate which it has signed itself; nobody gets further than that.
fn secured(params: &CertificateParams) -> SocketAddr {
    crate::rig::with_tls();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            while session.is_handshaking() {
                if session.complete_io(&mut stream).is_err() {
                    break;
                }
            }
        }
    });
    address
}

const PAGE: &str = "<html><head><title>Sign in</title></head><body>gateway</body></html>";
