//! No secret is where people, backups or log collectors can find it, whatever goes wrong.

use std::collections::BTreeMap;
use std::path::Path;

use scoreline::config::Config;
use scoreline::sandbox::Gateway;

use super::*;
use crate::entra;
use crate::log::Log;

#[test]
fn no_secret_shows_when_signatures_are_handed_over() {
    nothing_shows(|| async { a_bad_day(rig().await.storage("hand_over = \"sas\"")).await });
}

#[test]
fn no_secret_shows_when_the_connection_string_is_handed_over() {
    nothing_shows(|| async {
        a_bad_day(rig().await.storage("hand_over = \"connection-string\"")).await
    });
}

#[test]
fn no_secret_shows_when_the_storage_itself_is_opened_by_a_signature() {
    nothing_shows(|| async {
        let container = azurite::container();
        blobs::make(&container).await;
        let signed = blobs::signed_for(&container);
        let rig = rig().await.storage_at(&signed, &container).storage("create = false");
        a_bad_day(rig).await
    });
}

#[test]
fn no_secret_shows_when_an_identity_opens_the_storage() {
    let log = Log::default();
    let (mut found, secrets) = log.clone().on_all_threads(entra::a_bad_day());
    let log = log.text();
    for shown in [" TRACE ", "got a token"] {
        assert!(log.contains(shown), "{shown:?} is not in the log");
    }
    found.push(("the log".to_owned(), log.into_bytes()));
    let secrets: Vec<_> = secrets.iter().map(String::as_str).collect();
    nothing_of(&secrets, found);
}

/// Has a bad day, and searches what it left.
fn nothing_shows<F: Future<Output = Vec<(String, Vec<u8>)>>>(day: impl FnOnce() -> F) {
    let log = Log::default();
    let found = log.clone().on_all_threads(async { day().await });
    let log = log.text();
    for shown in ["suspended", " TRACE ", "called endpoint=\"e\""] {
        assert!(log.contains(shown), "{shown:?} is not in the log: it is not the daemon's");
    }
    let log = [("the log".to_owned(), log.into_bytes())];
    nothing_of(&SECRETS, found.into_iter().chain(log));
}

/// Searches for secrets, and for signatures of whatever.
fn nothing_of(secrets: &[&str], found: impl IntoIterator<Item = (String, Vec<u8>)>) {
    for (place, bytes) in found {
        let text = String::from_utf8_lossy(&bytes);
        for secret in secrets {
            let encoded = secret.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            for form in [*secret, &encoded, &secret[..20]] {
                let at = text.find(form);
                assert!(at.is_none(), "{place} shows {secret}: {}", around(&text, at.unwrap()));
            }
        }
        for (at, sign) in text.match_indices("sig=") {
            let value = &text[at + sign.len()..];
            let hidden = ["***", "REDACTED"].iter().any(|mask| value.starts_with(mask));
            assert!(hidden, "{place} shows a signature: {}", around(&text, at));
        }
    }
}

async fn rig() -> Rig {
    Rig::with(Settings {
        account: "acctdemo".into(),
        account_key: ACCOUNT_KEY.into(),
        api_key: API_KEY.into(),
        gateway: Some(gateway(SUBSCRIPTION_KEY)),
        outputs: vec!["output1".into(), "output2".into()],
        run_time: Duration::ZERO,
        ..Settings::default()
    })
    .await
    .endpoint("timeout = \"1s\"")
}

fn gateway(key: &str) -> Gateway {
    Gateway { subscription_key: Some(key.into()), ..Gateway::default() }
}

/// Everything that can be refused is refused, with secrets on the way in every direction. Answers what could be read of
/// it afterwards.
async fn a_bad_day(rig: Rig) -> Vec<(String, Vec<u8>)> {
    let config = rig.config();
    let mut found = vec![
        ("the config's Debug".to_owned(), format!("{config:?}").into_bytes()),
        ("the config in force".to_owned(), config.effective.to_string().into_bytes()),
    ];
    let daemon = rig.start().await;
    rig.drop_file("poisoned.csv", &input_of(&["POISON"]));
    rig.drop_file("good.csv", &input_of(&["good"]));
    daemon.until_ended(2).await;

    rig.sandbox.set_api_key("rotated");
    rig.drop_file("unauthorized.csv", &input_of(&["unauthorized"]));
    eventually("the key is refused", || async {
        daemon.metric("scoreline_endpoint_suspended{endpoint=\"e\"}").await == Some(1.0)
    })
    .await;
    found.extend(told_by(&daemon).await);
    rig.sandbox.update(|settings| {
        settings.api_key = API_KEY.into();
        settings.gateway = Some(gateway("rotated"));
    });
    eventually("the gateway refuses", || async {
        rig.sandbox.ledger().totals.refused_by_gateway > 0
    })
    .await;
    rig.sandbox.update(|settings| settings.gateway = Some(gateway(SUBSCRIPTION_KEY)));
    daemon.until_ended(3).await;

    for (n, faults) in [
        ["submit=lost:*1", "start=html:*1", "status=reset:*1", "put=500:*1", "get=lost:*1"],
        ["submit=500:*1", "start=lost:*1", "status=html:*1", "put=403:*1", "get=html:*1"],
    ]
    .iter()
    .enumerate()
    {
        rig.faults(faults);
        rig.drop_file(&format!("late {n}.csv"), &input_of(&["late"]));
        daemon.until_ended(4 + n).await;
    }
    found.extend(told_by(&daemon).await);
    daemon.stop().await;

    let daemon = rig.start_with(with_a_wrong_key(&rig)).await;
    rig.drop_file("locked.csv", &input_of(&["locked out"]));
    eventually("the storage refuses", || async {
        daemon.metric("scoreline_storage_suspended{storage=\"s\"}").await == Some(1.0)
    })
    .await;
    found.extend(told_by(&daemon).await);
    daemon.stop().await;

    for folder in ["state", "failed", "out", "archive"] {
        let files = all_files(&rig.path(folder));
        assert!(files.iter().any(|(_, content)| !content.is_empty()), "{folder} holds nothing");
        found.extend(files);
    }
    found
}

/// The rig's config, but for a key or a signature that opens no storage.
fn with_a_wrong_key(rig: &Rig) -> Config {
    let text = rig.config_text();
    let wrong = text.replace(ACCOUNT_KEY, WRONG_KEY).replace("sp=rcwd&sig=", "sp=rcwd&sig=wrong");
    assert_ne!(wrong, text);
    Config::parse(&wrong, &rig.path("scoreline.toml"), &BTreeMap::new()).unwrap()
}

/// All that the daemon says to whoever asks.
async fn told_by(daemon: &Running) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<_> =
        ["/metrics", "/healthz", "/readyz", "/api/v1/jobs?limit=1000"].map(str::to_owned).into();
    for job in daemon.jobs().await {
        paths.push(format!("/api/v1/jobs/{}", job.id));
        paths.push(format!("/api/v1/jobs/{}/events", job.id));
    }
    let mut told = Vec::new();
    for path in paths {
        let (_, text) = daemon.get(&path).await;
        told.push((path, text.into_bytes()));
    }
    told
}

fn all_files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(all_files(&path));
        } else {
            // The store's own helper files go away some time after its last connection was closed.
            let Ok(content) = std::fs::read(&path) else { continue };
            files.push((path.display().to_string(), content));
        }
    }
    files
}

fn around(text: &str, at: usize) -> String {
    let mut from = at.saturating_sub(600);
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    text[from..].chars().take(900).collect()
}

const ACCOUNT_KEY: &str = "YWNjb3VudCtrZXkvdGhhdCBtdXN0IG5vdCBiZSBzaG93biE+Pz8+";
const WRONG_KEY: &str = "d3Jvbmcra2V5L3RoYXQgbXVzdCBub3QgYmUgc2hvd24gZWl0aGVyIQ==";
const API_KEY: &str = "YXBpK2tleS90aGF0IG11c3Qgbm90IGJlIHNob3du+/9kZQ==";
const SUBSCRIPTION_KEY: &str = "5ub5cr1pt10nk3ym5tn0tb3sh0wn";
const SECRETS: [&str; 4] = [ACCOUNT_KEY, WRONG_KEY, API_KEY, SUBSCRIPTION_KEY];
