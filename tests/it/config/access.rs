//! The ways into a storage, and those of who we are.

use scoreline::identity::Proof;

use super::*;

const TEXT: &str = "connection_string = { env = \"STORAGE\" }";
const TENANT: &str = "tenant = \"t.example.com\"\n";
const CLIENT: &str = "client_id = \"c-1\"\n";

/// [`GOOD`] with these lines in place of the connection string, and these of a credential.
fn opened(lines: &str, credential: &str) -> String {
    let text = with(TEXT, lines);
    if credential.is_empty() { text } else { format!("{text}[credentials.me]\n{credential}") }
}

#[test]
fn every_mistake_about_the_way_in_has_its_words() {
    let developer = "kind = \"developer\"\n";
    let by_me = "account = \"acct\"\ncredential = \"me\"";
    let secret = "kind = \"client-secret\"\ntenant = \"t\"\nclient_id = \"c\"\nclient_secret = { env = \"KEY\" }\n";
    let cases = [
        (String::new(), String::new()),
        ("account = \"acct\"".into(), String::new()),
        ("credential = \"me\"".into(), developer.into()),
        ("account = \"acct\"\ncredential = \"you\"".into(), developer.into()),
        ("account = \"acct\"\ncredential = \"you\"".into(), String::new()),
        (format!("{TEXT}\n{by_me}"), developer.into()),
        (format!("{by_me}\naccount_key = {{ env = \"KEY\" }}"), developer.into()),
        (
            format!("{by_me}\nendpoint = \"https://h\"\nendpoint_suffix = \"core.windows.net\""),
            developer.into(),
        ),
        (format!("{by_me}\nendpoint = \"http://h\""), developer.into()),
        (format!("{by_me}\nendpoint_suffix = \"core/windows\""), developer.into()),
        ("account = \"ac/ct\"\ncredential = \"me\"".into(), developer.into()),
        (format!("{by_me}\nhand_over = \"connection-string\""), developer.into()),
        (format!("{by_me}\nca_file = \"missing.pem\""), developer.into()),
        (format!("{by_me}\nca_file = \"/dev/null\""), developer.into()),
        ("account = \"acct\"\naccount_key = \"c2VjcmV0!\"".into(), String::new()),
        ("account = \"acct\"\nsas = \"c2VjcmV0\"".into(), String::new()),
        (by_me.into(), "colour = \"red\"\n".into()),
        (by_me.into(), "kind = \"certificate\"\n".into()),
        (by_me.into(), "kind = \"client-secret\"\n".into()),
        (by_me.into(), "kind = \"workload-identity\"\n".into()),
        (by_me.into(), format!("kind = \"managed-identity\"\n{TENANT}{CLIENT}")),
        (by_me.into(), format!("{developer}client_secret = {{ env = \"KEY\" }}\n")),
        (by_me.into(), secret.replace("\"t\"", "\"t/x\"").replace("\"c\"", "\"\"")),
        (by_me.into(), format!("{secret}authority = \"login.microsoftonline.us\"\n")),
        (by_me.into(), format!("{secret}authority = \"http://login.microsoftonline.us\"\n")),
        (
            by_me.into(),
            format!("{secret}authority = \"https://login.microsoftonline.us/tenant\"\n"),
        ),
        (by_me.into(), format!("{secret}[feeds.churn.retry]\ndeadline = \"8d\"\n")),
    ];
    let mut all = String::new();
    for (lines, credential) in cases {
        let told = told(&opened(&lines, &credential), &[]);
        assert!(!told.contains("c2Vj"), "no secret is shown: {told}");
        let _ = writeln!(all, "{lines}\n{credential}=> {told}");
    }
    insta::assert_snapshot!("ways_in", all);
}

#[test]
fn a_pod_needs_nothing_but_its_kind() {
    let text = opened("account = \"acct\"\ncredential = \"me\"", "kind = \"workload-identity\"\n");
    let injected = [
        ("AZURE_TENANT_ID", "t-1"),
        ("AZURE_CLIENT_ID", "c-1"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/"),
    ];
    let config = good(&text, &injected);
    let credential = config.credentials.values().next().unwrap();
    assert_eq!(credential.authority.to_string(), "https://login.microsoftonline.us");
    let Proof::WorkloadIdentity { tenant, client_id, token_file } = &credential.proof else {
        panic!("{credential:?}")
    };
    assert_eq!((tenant.as_str(), client_id.as_str()), ("t-1", "c-1"));
    assert_eq!(token_file, Path::new("/var/run/token"));
    // What stands in the file counts before what is in the pod.
    let config = good(&format!("{text}{TENANT}authority = \"https://own\"\n"), &injected);
    let shown = &config.effective["credentials"]["me"];
    assert_eq!(shown["tenant"].as_str(), Some("t.example.com"));
    assert_eq!(shown["client_id"].as_str(), Some("c-1"));
    assert_eq!(shown["authority"].as_str(), Some("https://own"));
    // Nobody else is meant by the variables.
    let other = opened(
        "account = \"acct\"\ncredential = \"me\"",
        "kind = \"client-secret\"\nclient_secret = { env = \"KEY\" }\n",
    );
    assert!(parse(&other, &injected).unwrap_err().to_string().contains("credentials.me.tenant"));
}

#[test]
fn every_cloud_has_its_address() {
    for (lines, endpoint) in [
        ("", "https://acct.blob.core.windows.net/"),
        ("endpoint_suffix = \"core.chinacloudapi.cn\"", "https://acct.blob.core.chinacloudapi.cn/"),
        (
            "endpoint_suffix = \"core.usgovcloudapi.net\"",
            "https://acct.blob.core.usgovcloudapi.net/",
        ),
        ("endpoint = \"https://acct.files.example.com\"", "https://acct.files.example.com/"),
    ] {
        for way in
            ["account_key = { env = \"KEY\" }", "sas = { env = \"SAS\" }", "credential = \"me\""]
        {
            let text =
                opened(&format!("account = \"acct\"\n{way}\n{lines}"), "kind = \"developer\"\n");
            let config = good(&text, &[("SAS", "?sv=1&sig=c2VjcmV0")]);
            let account = &config.storages.values().next().unwrap().account;
            assert_eq!(account.endpoint(), endpoint);
            assert_eq!(account.identity().is_some(), way.contains("credential"));
            let again = toml::to_string(&config.effective).unwrap();
            assert_eq!(good(&again, &[("SAS", "?sv=1&sig=c2VjcmV0")]).effective, config.effective);
        }
    }
}

#[test]
fn a_client_secret_is_shown_nowhere() {
    let secret = format!("kind = \"client-secret\"\n{TENANT}{CLIENT}client_secret = {SECRET:?}\n");
    let config = good(&opened("account = \"acct\"\ncredential = \"me\"", &secret), &[]);
    for shown in [toml::to_string(&config.effective).unwrap(), format!("{config:?}")] {
        assert!(!shown.contains("c2Vj"), "{shown}");
    }
    assert_eq!(config.effective["credentials"]["me"]["client_secret"].as_str(), Some("***"));
    assert!(
        config.warnings.iter().any(|warning| warning.starts_with("credentials.me.client_secret"))
    );
}
