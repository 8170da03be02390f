//! Secrets that the service manager hands over.

use super::*;

/// [`GOOD`] with the endpoint's key in a credential of this name.
fn kept_in(name: &str) -> String {
    with("api_key = { env = \"KEY\" }", &format!("api_key = {{ credential = {name:?} }}"))
}

fn key_of(config: &Config) -> &str {
    let endpoint = config.endpoints.values().next().unwrap();
    let ServiceConfig::Bes(classic, _) = &endpoint.service else { panic!("{endpoint:?}") };
    classic.api_key.expose_secret()
}

#[test]
fn a_credential_is_read_alone_or_out_of_the_folder_of_secrets_and_shown_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let handed_over = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    // What LoadCredential=secrets:/etc/scoreline/secrets makes of a file churn-key in there.
    std::fs::write(folder.path().join("secrets_churn-key"), "one-of-many\n").unwrap();
    let config = good(&kept_in("churn-key"), &handed_over);
    assert_eq!(key_of(&config), "one-of-many", "the line's end is cut");
    std::fs::write(folder.path().join("churn-key"), SECRET).unwrap();
    let config = good(&kept_in("churn-key"), &handed_over);
    assert_eq!(key_of(&config), SECRET, "what the unit itself names goes first");
    assert_eq!(config.warnings, [""; 0]);
    let place = &config.effective["endpoints"]["churn"]["api_key"]["credential"];
    assert_eq!(place.as_str(), Some("churn-key"));
    let shown = toml::to_string(&config.effective).unwrap();
    assert!(!shown.contains(SECRET) && !format!("{config:?}").contains(SECRET));
    assert_eq!(good(&shown, &handed_over).effective, config.effective);
}

#[test]
fn a_credential_that_is_not_there_is_told_with_what_would_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let handed_over = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    let missing = told(&kept_in("churn-key"), &handed_over);
    assert!(missing.starts_with("endpoints.churn.api_key: there is no credential churn-key in "));
    assert!(missing.contains("/etc/scoreline/secrets"), "{missing}");
    let nowhere = told(&kept_in("churn-key"), &[]);
    assert!(nowhere.contains("CREDENTIALS_DIRECTORY is not set"), "{nowhere}");
    let unreadable = told(&kept_in("folder"), &handed_over);
    assert!(unreadable.contains("could not be read"), "{unreadable}");
    // A path leads out of the folder; and what looks like a secret in the wrong place isn't repeated.
    for name in ["", "..", ".hidden", "../churn-key", "/etc/passwd", "c2VjcmV0LXR3bw=="] {
        let wrong = told(&kept_in(name), &handed_over);
        assert!(wrong.contains("credential must be the name of a credential"), "{name}: {wrong}");
        assert!(!wrong.contains("c2Vj"), "{wrong}");
    }
    for two in ["credential = \"a\", env = \"KEY\"", "credential = 5", "creds = \"a\""] {
        let text = with("api_key = { env = \"KEY\" }", &format!("api_key = {{ {two} }}"));
        assert!(told(&text, &handed_over).contains("or { credential = \"NAME\" }"), "{two}");
    }
}
