//! Who gets in: sessions, wrong tokens, other people's pages, and TLS.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Client, Method, Response};
use scoreline::config::Role;
use serde_json::json;

use super::{Desk, Own, ask, look, start};
use crate::rig::{Rig, with_tls};

const TOKENS: [(Role, &str); 2] = [(Role::Read, "looker"), (Role::Operate, "worker")];

fn client() -> Client {
    with_tls();
    Client::builder().no_proxy().build().unwrap()
}

async fn sign_in(url: &str, token: &str) -> Response {
    let body = json!({ "token": token });
    client().post(format!("{url}/api/v1/session")).json(&body).send().await.unwrap()
}

/// The cookie that a sign-in set, and how it is to be kept.
fn cookie(answer: &Response) -> (String, String) {
    let set = answer.headers()["set-cookie"].to_str().unwrap();
    let (pair, kept) = set.split_once("; ").unwrap();
    (pair.to_owned(), kept.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_for_a_cookie_that_ends_on_signing_out() {
    let desk = Desk::open(&TOKENS).await;
    let session = format!("{}/api/v1/session", desk.url);
    look(&session).await.problem(401);
    assert_eq!(sign_in(&desk.url, "wrong").await.status(), 401);
    let answer = sign_in(&desk.url, "worker").await;
    assert_eq!(answer.status(), 200);
    let (pair, kept) = cookie(&answer);
    assert_eq!(kept, "HttpOnly; SameSite=Strict; Path=/");
    assert!(!pair.contains("worker"), "{pair}");
    let shown = ("cookie", pair.as_str());
    let body = ask(Method::GET, &session, &[shown]).await.json();
    let version = env!("CARGO_PKG_VERSION");
    let wanted = json!({"role": "operate", "needs_token": true, "site": "default", "node": "n", "version": version});
    assert_eq!(body, wanted);
    assert_eq!(ask(Method::GET, &format!("{}/api/v1/jobs", desk.url), &[shown]).await.status, 200);
    ask(Method::DELETE, &session, &[shown]).await.problem(403);
    let own = ("origin", desk.url.as_str());
    assert_eq!(ask(Method::DELETE, &session, &[shown, own]).await.status, 204);
    ask(Method::GET, &session, &[shown]).await.problem(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_known_to_every_node_that_has_its_token() {
    let (one, other) = (Desk::open(&TOKENS).await, Desk::open(&TOKENS).await);
    let (pair, _) = cookie(&sign_in(&one.url, "worker").await);
    let shown = ("cookie", pair.as_str());
    let session = |desk: &Desk| format!("{}/api/v1/session", desk.url);
    assert_eq!(ask(Method::GET, &session(&other), &[shown]).await.json()["role"], "operate");
    let stranger = Desk::open(&[(Role::Operate, "another token")]).await;
    ask(Method::GET, &session(&stranger), &[shown]).await.problem(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_cookie_only_our_own_page_changes_anything() {
    let desk = Desk::open(&TOKENS).await;
    desk.engine();
    let url = format!("{}/api/v1/feeds/none/resume", desk.url);
    let (worker, _) = cookie(&sign_in(&desk.url, "worker").await);
    let (looker, _) = cookie(&sign_in(&desk.url, "looker").await);
    let own = desk.url.as_str();
    for (cookie, header, status) in [
        (&worker, ("origin", own), 404),
        (&worker, ("sec-fetch-site", "same-origin"), 404),
        (&worker, ("x-nothing", "x"), 403),
        (&worker, ("sec-fetch-site", "none"), 403),
        (&worker, ("sec-fetch-site", "same-site"), 403),
        (&worker, ("origin", "http://evil.example"), 403),
        (&looker, ("origin", own), 403),
    ] {
        let answer = ask(Method::POST, &url, &[("cookie", cookie.as_str()), header]).await;
        assert_eq!(answer.status, status, "{header:?} {}", answer.text);
    }
    // A token is in no browser's hands.
    let bearer = ("authorization", "Bearer worker");
    ask(Method::POST, &url, &[bearer]).await.problem(404);
    let foreign = ("sec-fetch-site", "cross-site");
    let jobs = format!("{}/api/v1/jobs", desk.url);
    ask(Method::GET, &jobs, &[bearer, foreign]).await.problem(403);
    assert_eq!(ask(Method::GET, &format!("{}/api/docs/", desk.url), &[foreign]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_everybody_on_this_machine_operates() {
    let desk = Desk::open(&[]).await;
    let body = look(&format!("{}/api/v1/session", desk.url)).await.json();
    assert_eq!((&body["role"], &body["needs_token"]), (&json!("operate"), &json!(false)));
    let answer = sign_in(&desk.url, "any").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_wrong_tokens_has_to_wait_however_it_shows_them() {
    let desk = Desk::open(&TOKENS).await;
    let jobs = format!("{}/api/v1/jobs", desk.url);
    for n in 0..10 {
        let status = if n % 2 == 0 {
            sign_in(&desk.url, "wrong").await.status().as_u16()
        } else {
            ask(Method::GET, &jobs, &[("authorization", "Bearer wrong")]).await.status
        };
        assert_eq!(status, 401, "{n}");
    }
    let answer = sign_in(&desk.url, "worker").await;
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    ask(Method::GET, &jobs, &[("authorization", "Bearer worker")]).await.problem(429);
    assert_eq!(look(&format!("{}/healthz", desk.url)).await.status, 200);
    desk.put_the_clock_ahead(60);
    assert_eq!(sign_in(&desk.url, "worker").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_strict_with_browsers() {
    let desk = Desk::open(&TOKENS).await;
    for (path, stored) in [
        ("/healthz", None),
        ("/nothing", None),
        ("/api/v1/jobs", Some("no-store")),
        ("/api/openapi.json", Some("no-store")),
        ("/api/docs/", Some("no-store")),
    ] {
        let answer = client().get(format!("{}{path}", desk.url)).send().await.unwrap();
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap());
        let policy = header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(header(name), Some(value), "{path}");
        }
        assert_eq!(header("cache-control"), stored, "{path}");
        assert_eq!(header("strict-transport-security"), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_its_name_is_ours_and_its_callers_are_told_apart() {
    let rig = Rig::new().await;
    let tokens = "public_url = \"https://Scores.example:443/\"\ntokens = [{ role = \"operate\", secret = \"worker\" }]\n";
    let daemon =
        start(&rig, &rig.config_text().replace("[http]\n", &format!("[http]\n{tokens}"))).await;
    let host = ("host", "inside:8080");
    let (jobs, bearer) =
        (format!("{}/api/v1/jobs", daemon.url), ("authorization", "Bearer worker"));
    let origin = ("origin", "https://scores.example");
    assert_eq!(ask(Method::GET, &jobs, &[bearer, host, origin]).await.status, 200);
    let other = ("origin", "http://scores.example");
    ask(Method::GET, &jobs, &[bearer, host, other]).await.problem(403);
    let guesser = ("x-forwarded-for", "192.0.2.1, 192.0.2.66");
    for _ in 0..10 {
        ask(Method::GET, &jobs, &[("authorization", "Bearer x"), guesser]).await.problem(401);
    }
    ask(Method::GET, &jobs, &[bearer, guesser]).await.problem(429);
    let somebody = ("x-forwarded-for", "192.0.2.66, 192.0.2.7");
    assert_eq!(ask(Method::GET, &jobs, &[bearer, somebody]).await.status, 200);
    daemon.stop.soft.cancel();
    daemon.ended.await.unwrap().unwrap();
}

/// An authority, in PEM, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate for loopback and its key.
    fn sign(&self, folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }

    fn client(&self) -> Client {
        with_tls();
        let root = reqwest::Certificate::from_pem(self.pem.as_bytes()).unwrap();
        Client::builder().no_proxy().tls_certs_only([root]).build().unwrap()
    }
}

async fn secured(rig: &Rig) -> Own {
    let keys = "[http]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n";
    let own = start(rig, &rig.config_text().replace("[http]\n", keys)).await;
    Own { url: own.url.replace("http://", "https://"), ..own }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_it_speaks_tls_and_a_handshake_that_hangs_holds_nobody_up() {
    let (rig, authority) = (Rig::new().await, Authority::new());
    authority.sign(&rig.path(""));
    let daemon = secured(&rig).await;
    let address = daemon.url.strip_prefix("https://").unwrap();
    let _silent: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let client = authority.client();
    let answer = client.get(format!("{}/healthz", daemon.url)).send().await.unwrap();
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    assert_eq!(answer.text().await.unwrap(), "ok\n");
    let stranger = Authority::new().client();
    assert!(stranger.get(format!("{}/healthz", daemon.url)).send().await.is_err());
    let ca = rig.path("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let health = |more: &'static [&'static str]| {
        let (url, ca) = (daemon.url.clone(), ca.clone());
        async move {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_scoreline"));
            command.env_clear().args(["health", "--url", &url]).args(more);
            if !more.is_empty() {
                command.arg(ca);
            }
            command.kill_on_drop(true).output().await.unwrap()
        }
    };
    let good = health(&["--ca-file"]).await;
    assert_eq!((good.status.code(), good.stdout.as_slice()), (Some(0), &b"ok\n"[..]), "{good:?}");
    assert_eq!(health(&[]).await.status.code(), Some(69));
    daemon.stop.soft.cancel();
    daemon.ended.await.unwrap().unwrap();
}

#[test]
fn what_cannot_be_a_certificate_is_told_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.sign(folder.path());
    authority.sign(other.path());
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    let place = |file: &str| folder.path().join(file);
    for (cert, key, wrong, why) in [
        (place("nothing.pem"), place("key.pem"), "http.tls.cert", "nothing.pem"),
        (place("empty.pem"), place("key.pem"), "http.tls.cert", "there is no certificate in it"),
        (place("cert.pem"), place("cert.pem"), "http.tls.key", "cert.pem"),
        (
            place("cert.pem"),
            other.path().join("key.pem"),
            "http.tls.key",
            "not the certificate's key",
        ),
    ] {
        let text = format!("[http]\ntls = {{ cert = {cert:?}, key = {key:?} }}\n");
        let errors = scoreline::config::Config::parse(&text, &place("c.toml"), &[].into());
        let mistakes = errors.unwrap_err().mistakes;
        let told = mistakes.iter().find(|mistake| mistake.path.starts_with("http.tls"));
        let told = told.unwrap_or_else(|| panic!("{cert:?} {key:?}: {mistakes:?}"));
        assert_eq!(told.path, wrong);
        assert!(told.message.contains(why), "{}", told.message);
    }
}
