//! Who we are, and a storage that is opened by it: against a directory of the test's own and a real blob server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so may what it is made of")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use scoreline::blobs::{Account, AzureBlobs, BLOCKS_IN_FLIGHT, HandOver, Settings, WayIn};
use scoreline::clock::SystemClock;
use scoreline::config::Config;
use scoreline::daemon::check_online;
use scoreline::fault::{Blame, Class, Fault, Origin};
use scoreline::feed::Name;
use scoreline::identity::{Authority, Identity, Proof, Settings as IdentitySettings};
use scoreline::ports::{Access, Audience, BlobPlace, Blobs as _, Clock, Tokens};
use scoreline::wire::BlobReference;
use secrecy::ExposeSecret as _;

use self::directory::{Server, jwt, pki, refusal, token, write_pki};
use crate::azurite;

pub(crate) mod directory;

const HOUR: Duration = Duration::from_hours(1);
pub(crate) const SECRET: &str = "Zm9yLXRoZS1kaXJlY3Rvcnk~only.8Q";
const ASSERTION: &str = "header.assertion-of-the-pod.signature";

/// Real time, and a boot clock that is moved by hand.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Ahead {
    fn forward(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now()
    }
    fn boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending::<()>().await;
    }
}

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

fn client_secret() -> Proof {
    let (tenant, client_id) = ("tid-1".to_owned(), "c-1".to_owned());
    Proof::ClientSecret { tenant, client_id, client_secret: SECRET.into() }
}

fn identity_by<C: Clock>(proof: Proof, authority: &str, clock: C) -> Identity<C> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let authority = Authority::parse(authority).unwrap();
    let ca = Some(pki().ca.clone().into_bytes());
    Identity::new(IdentitySettings { name: name("me"), proof, authority, ca }, clock).unwrap()
}

fn identity(directory: &Server) -> Identity<SystemClock> {
    identity_by(client_secret(), &directory.url(), SystemClock)
}

/// A directory that gives one good token after the other.
fn directory() -> Server {
    let mut count = 0;
    Server::start(move |_| {
        count += 1;
        token(&format!("t-{count}"), 3600, 3600)
    })
}

/// The real blob server, for tokens.
fn azurite() -> &'static str {
    static ENDPOINT: OnceLock<String> = OnceLock::new();
    ENDPOINT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write_pki(folder.path());
        azurite::secure_endpoint(
            &folder.path().join("server.pem"),
            &folder.path().join("server.key"),
        )
    })
}

fn storage(endpoint: &str, tokens: impl Tokens) -> AzureBlobs {
    let way = WayIn::Credential(&name("me"));
    let account = Account::of(azurite::ACCOUNT, Some(endpoint), "", way);
    let settings = Settings {
        account: account.map_err(|wrong| wrong.why).unwrap(),
        container: azurite::container(),
        prefix: "in/put".into(),
        create: true,
        hand_over: HandOver::Sas,
        blocks_in_flight: BLOCKS_IN_FLIGHT,
        ca: Some(pki().ca.clone().into_bytes()),
    };
    AzureBlobs::new(settings, Some(Arc::new(tokens)), SystemClock).unwrap()
}

async fn link(blobs: &AzureBlobs, blob: &str, access: Access, life: Duration) -> BlobReference {
    blobs.hand_over(blob, access, SystemClock.now(), life).await.unwrap()
}

fn url(reference: &BlobReference) -> String {
    [&reference.base_location, &reference.relative_location, &reference.sas_blob_token]
        .map(|part| part.as_deref().unwrap())
        .concat()
}

/// Somebody else, without a token.
fn stranger() -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(pki().ca.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_merge([ca]).build().unwrap()
}

async fn got(blobs: &AzureBlobs, from: BlobPlace<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    blobs.download(from, &mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn an_identity_uploads_lists_downloads_and_deletes() {
    let directory = directory();
    let blobs = storage(azurite(), identity(&directory));
    blobs.ready().await.unwrap();
    let bytes = vec![7; 9 << 20];
    for (name, bytes) in [("a b.csv", &bytes[..]), ("b.csv", b"small")] {
        blobs.upload(name, name, &mut &*bytes).await.unwrap();
        assert!(got(&blobs, BlobPlace::Ours(name)).await == bytes, "{name}");
    }
    let page = blobs.list("", None, 10).await.unwrap();
    assert_eq!(page.blobs.iter().map(|blob| &*blob.name).collect::<Vec<_>>(), ["a b.csv", "b.csv"]);
    blobs.delete("b.csv").await.unwrap();
    assert_eq!(blobs.look("b.csv").await, Ok(None));
    let asked = directory.asked();
    assert_eq!(asked.len(), 1, "one token was enough: {asked:#?}");
    assert!(asked[0].starts_with("POST /tid-1/oauth2/v2.0/token "), "{}", asked[0]);
    assert!(asked[0].contains("scope=https%3A%2F%2Fstorage.azure.com%2F.default"), "{}", asked[0]);
}

#[tokio::test]
async fn what_an_identity_signs_opens_one_blob_for_one_purpose() {
    let blobs = storage(azurite(), identity(&directory()));
    blobs.ready().await.unwrap();
    for name in ["in.csv", "a b+ü (1).csv"] {
        blobs.upload(name, name, &mut &b"before"[..]).await.unwrap();
        let reading = link(&blobs, name, Access::Read, HOUR).await;
        assert_eq!(got(&blobs, BlobPlace::Link(&reading)).await, b"before", "{name}");
        let get = stranger().get(url(&reading)).send().await.unwrap();
        assert_eq!(get.text().await.unwrap(), "before", "{name}");
        let put = |url: String| {
            stranger().put(url).header("x-ms-blob-type", "BlockBlob").body("after").send()
        };
        assert_eq!(put(url(&reading)).await.unwrap().status(), 403);
        let other = url(&reading).replace(".csv", ".txt");
        assert_eq!(stranger().get(other).send().await.unwrap().status(), 403);
        let writing = url(&link(&blobs, name, Access::Write, HOUR).await);
        assert_eq!(put(writing.clone()).await.unwrap().status(), 201);
        assert_eq!(stranger().get(writing).send().await.unwrap().status(), 403);
        assert_eq!(got(&blobs, BlobPlace::Ours(name)).await, b"after");
    }
}

#[tokio::test]
async fn no_signature_outlives_the_key_it_was_made_with() {
    let blobs = storage(azurite(), identity(&directory()));
    let parameter = |reference: &BlobReference, key: &str| {
        let url: reqwest::Url = url(reference).parse().unwrap();
        let found = url.query_pairs().find(|(name, _)| name == key);
        found.map(|(_, value)| value.parse::<DateTime<Utc>>().unwrap())
    };
    let now = SystemClock.now();
    let long = link(&blobs, "a.csv", Access::Read, HOUR * 24 * 30).await;
    let (end, key_end) = (parameter(&long, "se").unwrap(), parameter(&long, "ske").unwrap());
    assert_eq!(end, key_end);
    assert!(end > now + TimeDelta::hours(6 * 24) && end <= now + TimeDelta::hours(7 * 24), "{end}");
    let key_start = parameter(&long, "skt").unwrap();
    assert!(
        key_start <= now - TimeDelta::hours(1),
        "a clock that is ahead does no harm: {key_start}"
    );
    assert!(key_end - key_start <= TimeDelta::hours(7 * 24));
    assert_eq!(parameter(&long, "st"), None);
    let short = link(&blobs, "a.csv", Access::Read, HOUR).await;
    assert_eq!(parameter(&short, "ske"), Some(key_end), "the key is kept");
    assert!(parameter(&short, "se").unwrap() < now + TimeDelta::hours(2));
    // What is signed days later needs a key of its own, and so do long lives from then on.
    let later = now + TimeDelta::hours(48);
    let later = blobs.hand_over("a.csv", Access::Read, later, HOUR * 24 * 6).await.unwrap();
    assert!(parameter(&later, "ske").unwrap() > key_end);
}

#[tokio::test]
async fn a_token_is_asked_for_once_however_many_need_it() {
    let directory = directory();
    let identity = identity(&directory);
    let all = (0..20).map(|_| identity.token(Audience::Storage));
    let all: Vec<_> =
        futures::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert!(all.iter().all(|token| token.expose_secret() == all[0].expose_secret()));
    assert_eq!(directory.asked().len(), 1);
    // One for somebody else is another.
    identity.token(Audience::MachineLearning).await.unwrap();
    assert!(directory.asked()[1].contains("scope=https%3A%2F%2Fml.azure.com%2F.default"));
}

#[tokio::test]
async fn a_question_that_fails_fails_for_all_who_wait_for_it() {
    let directory = Server::start(|_| (503, "busy".into()));
    let identity = identity(&directory);
    let all = futures::future::join_all((0..20).map(|_| identity.token(Audience::Storage))).await;
    assert!(all.iter().all(|answer| answer.as_ref().unwrap_err().blame == Blame::Service));
    assert_eq!(directory.asked().len(), 1);
    assert!(identity.token(Audience::Storage).await.is_err());
    assert_eq!(directory.asked().len(), 2, "who comes later asks again");
}

#[tokio::test]
async fn a_token_is_replaced_ahead_of_its_end_and_kept_while_no_other_can_be_had() {
    let directory = directory();
    let clock = Ahead::default();
    let identity = identity_by(client_secret(), &directory.url(), clock.clone());
    let ask =
        || async { identity.token(Audience::Storage).await.map(|t| t.expose_secret().to_owned()) };
    let first = ask().await.unwrap();
    clock.forward(Duration::from_mins(49));
    assert_eq!(ask().await.unwrap(), first);
    clock.forward(Duration::from_mins(2));
    let second = ask().await.unwrap();
    assert_ne!(second, first, "ten minutes before its end it is replaced");
    directory.answer(|_| (503, String::new()));
    clock.forward(Duration::from_mins(55));
    let asked = directory.asked().len();
    assert_eq!(ask().await.unwrap(), second, "it is still good");
    assert_eq!(ask().await.unwrap(), second);
    assert_eq!(directory.asked().len(), asked + 1, "nobody is asked at every step");
    clock.forward(Duration::from_mins(5));
    let fault = ask().await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Transient, "senseless"), "{fault}");
    directory.answer(|_| token("back", 3600, 3600));
    assert_ne!(ask().await.unwrap(), second);
}

#[tokio::test]
async fn a_token_that_is_refused_before_its_end_is_replaced_at_once() {
    let directory = directory();
    directory.answer(|_| token("stale", -60, 3600));
    let blobs = storage(azurite(), identity(&directory));
    let fault = blobs.ready().await.unwrap_err();
    assert_eq!(
        (fault.class, fault.code.as_str()),
        (Class::Fatal, "AuthenticationFailed"),
        "{fault}"
    );
    assert_eq!(directory.asked().len(), 2, "one more, not one after the other");
    let mut count = 0;
    directory.answer(move |_| {
        count += 1;
        token(&format!("t-{count}"), 3600, 3600)
    });
    blobs.ready().await.unwrap();
    blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap();
    assert_eq!(directory.asked().len(), 3);
}

#[tokio::test]
async fn a_refusal_says_what_would_mend_it_and_shows_no_secret() {
    let directory = directory();
    let invalid = "Invalid client secret provided. Ensure it is the value.";
    for (answer, class, code, cure) in [
        (
            refusal(401, 7_000_215, "invalid_client", invalid),
            Class::Fatal,
            "AADSTS7000215",
            "not its id",
        ),
        (refusal(401, 7_000_215, "invalid_client", SECRET), Class::Fatal, "AADSTS7000215", "***"),
        (refusal(401, 7_000_222, "invalid_client", "x"), Class::Fatal, "AADSTS7000222", "expired"),
        (refusal(400, 90_002, "invalid_request", "x"), Class::Fatal, "AADSTS90002", "check tenant"),
        (
            refusal(400, 700_016, "unauthorized_client", "x"),
            Class::Fatal,
            "AADSTS700016",
            "client_id",
        ),
        (refusal(400, 1, "strange", "x"), Class::Fatal, "AADSTS1", "client_id"),
        (refusal(429, 90_055, "x", "x"), Class::Throttled(None), "AADSTS90055", "pause"),
        (
            refusal(503, 90_033, "temporarily_unavailable", "x"),
            Class::Transient,
            "AADSTS90033",
            "again",
        ),
        ((502, "<html>".into()), Class::Transient, "senseless", "proxy"),
        ((200, "<html>".into()), Class::Transient, "senseless", "proxy"),
        ((200, "{\"access_token\": 5}".into()), Class::Transient, "senseless", "proxy"),
    ] {
        directory.answer({
            let answer = answer.clone();
            move |_| answer.clone()
        });
        // A fault of the token is the fault of whatever needed it.
        let blobs = storage("https://127.0.0.1:1/acct", identity(&directory));
        let fault = blobs.delete("a.csv").await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (class, code), "{answer:?} {fault}");
        assert_eq!(fault.origin, Origin::Storage);
        for part in [cure, "credential me (client-secret)", &directory.url()] {
            assert!(fault.message.contains(part), "{part}: {fault}");
        }
        assert!(!fault.message.contains(SECRET) && !fault.message.contains("Trace"), "{fault}");
    }
}

#[tokio::test]
async fn a_directory_that_is_away_or_not_trusted_is_nobodys_fault() {
    let gone = identity_by(client_secret(), "https://127.0.0.1:1", SystemClock);
    let fault = gone.token(Audience::Management).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.blame, fault.origin),
        (Class::Transient, Blame::Service, Origin::Endpoint)
    );
    assert_eq!(fault.code, "connect", "{fault}");
    let directory = directory();
    let settings = IdentitySettings {
        name: name("me"),
        proof: client_secret(),
        authority: Authority::parse(&directory.url()).unwrap(),
        ca: None,
    };
    let fault =
        Identity::new(settings, SystemClock).unwrap().token(Audience::Storage).await.unwrap_err();
    assert_eq!(fault.code, "certificate", "{fault}");
    assert!(
        fault.message.contains("ca_file") && fault.message.contains("SSL_CERT_FILE"),
        "{fault}"
    );
    assert!(directory.asked().is_empty(), "no secret was sent");
}

#[tokio::test]
async fn a_pod_is_known_by_the_file_as_it_is_at_the_moment() {
    let directory = directory();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let proof = Proof::WorkloadIdentity {
        tenant: "tid-1".into(),
        client_id: "c-1".into(),
        token_file: file.clone(),
    };
    let clock = Ahead::default();
    let identity = identity_by(proof, &directory.url(), clock.clone());
    let fault = identity.token(Audience::Storage).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Fatal, "no_token_file"), "{fault}");
    assert!(fault.message.contains(file.to_str().unwrap()), "{fault}");
    for assertion in [ASSERTION, "another"] {
        std::fs::write(&file, assertion).unwrap();
        identity.token(Audience::Storage).await.unwrap();
        let asked = directory.asked().pop().unwrap();
        assert!(asked.contains(&format!("client_assertion={assertion}&")), "{asked}");
        clock.forward(HOUR);
    }
    directory
        .answer(|_| refusal(400, 700_213, "invalid_request", "No matching federated identity"));
    let fault = identity.token(Audience::Storage).await.unwrap_err();
    assert!(fault.message.contains("service account"), "{fault}");
}

/// A storage that knows no blob and lets nobody do `what`.
fn refusing(what: &'static str) -> Server {
    Server::start(move |request| {
        let line = request.lines().next().unwrap();
        if line.starts_with(what) {
            return (403, "x-ms-error-code: AuthorizationPermissionMismatch\n\n".into());
        }
        (404, "x-ms-error-code: BlobNotFound\n\n".into())
    })
}

#[tokio::test]
async fn a_role_that_is_missing_is_named() {
    for (what, role) in
        [("HEAD", "role Storage Blob Data Contributor"), ("POST", "role Storage Blob Delegator")]
    {
        let server = refusing(what);
        let blobs = storage(&format!("{}/acct", server.url()), identity(&directory()));
        let fault = blobs.ready().await.unwrap_err();
        assert_eq!(
            (fault.class, fault.code.as_str()),
            (Class::Fatal, "AuthorizationPermissionMismatch")
        );
        assert!(fault.message.contains(role), "{fault}");
        let sent = server.asked();
        assert!(sent.iter().all(|request| request.contains("x-ms-version: ")), "{sent:#?}");
        assert!(sent.iter().all(|request| request.contains("authorization: Bearer ")), "{sent:#?}");
    }
}

/// A config whose storage is opened by an identity.
fn config(folder: &Path, directory: &Server, endpoint: &str) -> Config {
    write_pki(folder);
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let authority = directory.url();
    let text = format!(
        r#"
[node]
state_dir = "state"
[credentials.me]
kind = "client-secret"
tenant = "tid-1"
client_id = "c-1"
client_secret = {SECRET:?}
authority = {authority:?}
ca_file = "ca.pem"
[storage.main]
account = {account:?}
endpoint = {endpoint:?}
credential = "me"
container = {container:?}
ca_file = "ca.pem"
[endpoints.e]
kind = "bes"
url = "http://127.0.0.1:1/workspaces/w/services/s/jobs"
api_key = "key"
[feeds.f]
endpoint = "e"
storage = "main"
watch.folder = "in"
deliver.folder = "out"
source = {{ on_success = "leave", on_failure = "leave" }}
"#,
        account = azurite::ACCOUNT,
        container = azurite::container(),
    );
    Config::parse(&text, &folder.join("scoreline.toml"), &BTreeMap::new())
        .unwrap_or_else(|errors| panic!("{errors}"))
}

#[tokio::test]
async fn check_tells_of_the_credential_by_itself_and_in_its_storage() {
    let folder = tempfile::tempdir().unwrap();
    let directory = directory();
    let told = async |endpoint: &str| {
        let findings = check_online(&config(folder.path(), &directory, endpoint)).await.unwrap();
        let trouble = |what: &str| {
            let found = findings.iter().find(|finding| finding.what == what);
            found.unwrap_or_else(|| panic!("{what}: {findings:#?}")).trouble.clone()
        };
        (trouble("credential me (client-secret)"), trouble("storage main with credential me"))
    };
    assert_eq!(told(azurite()).await, (None, None));
    let (by_itself, in_storage) = told(&format!("{}/acct", refusing("POST").url())).await;
    assert_eq!(by_itself, None);
    assert!(in_storage.unwrap().contains("Storage Blob Delegator"));
    directory.answer(|_| refusal(401, 7_000_222, "invalid_client", "The secret is expired."));
    let (by_itself, in_storage) = told(azurite()).await;
    assert!(by_itself.unwrap().contains("make a new one"));
    assert!(in_storage.unwrap().contains("make a new one"));
}

/// Everything that can go wrong with an identity goes wrong; what was told, and what must be in none of it.
pub(crate) async fn a_bad_day() -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let directory = directory();
    let config = config(folder.path(), &directory, azurite());
    let mut told = vec![
        format!("{config:?}"),
        config.effective.to_string(),
        format!("{:?}", identity(&directory)),
    ];
    let stale = jwt("stale", -60);
    for answer in [
        token("fresh", 3600, 3600),
        token("stale", -60, 3600),
        refusal(401, 7_000_215, "invalid_client", &format!("{SECRET} is wrong")),
        (500, format!("echo {SECRET}")),
        (200, format!("{{\"access_token\": {stale:?}}}")),
        (200, stale),
    ] {
        directory.answer(move |_| answer.clone());
        let findings = check_online(&config).await.unwrap();
        told.extend(findings.iter().map(|finding| format!("{finding:?}")));
        let blobs = storage(azurite(), identity(&directory));
        let mut faults: Vec<Fault> = Vec::new();
        faults.extend(blobs.ready().await.err());
        faults.extend(blobs.upload("a.csv", "a", &mut &b"x"[..]).await.err());
        match blobs.hand_over("a.csv", Access::Read, SystemClock.now(), HOUR).await {
            Ok(given) => {
                let mut bytes = Vec::new();
                faults.extend(blobs.download(BlobPlace::Link(&given), &mut bytes).await.err());
            }
            Err(fault) => faults.push(fault),
        }
        told.extend(faults.iter().map(|fault| format!("{fault:?}")));
    }
    let told = told.into_iter().map(|text| ("what was told".to_owned(), text.into_bytes()));
    (told.collect(), [SECRET, directory::SIGNATURE].map(str::to_owned).to_vec())
}
