//! `[credentials.NAME]`: who we are, for a storage that takes tokens in place of a key.

use std::path::PathBuf;

use super::reader::Reader;
use crate::identity::{Authority, Proof, Settings};
use crate::name::Name;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    ClientSecret,
    WorkloadIdentity,
    ManagedIdentity,
    Developer,
}

impl Kind {
    fn name(self) -> &'static str {
        WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::ClientSecret => &["tenant", "client_id", "client_secret"],
            Self::WorkloadIdentity => &["tenant", "client_id", "token_file"],
            Self::ManagedIdentity => &["client_id"],
            Self::Developer => &[],
        }
    }
}

pub(super) fn read(credential: &mut Reader<'_>, name: &Name) -> Option<Settings> {
    credential.demand(
        "kind",
        "write \"client-secret\", \"workload-identity\", \"managed-identity\" or \"developer\"",
    );
    let kind = credential.word("kind", &WORDS);
    if let Some(kind) = kind {
        for key in KEYS.into_iter().filter(|key| !kind.keys().contains(key)) {
            if credential.has(key) {
                let name = kind.name();
                credential.error(
                    key,
                    format!(
                        "is not for a credential of kind {name:?}: remove it, or write another kind"
                    ),
                );
            }
        }
    }
    // What Kubernetes' webhook for workload identities puts into every pod that it is asked to.
    let injected =
        |variable: &'static str| (kind == Some(Kind::WorkloadIdentity)).then_some(variable);
    let tenant = text(credential, "tenant", kind, injected("AZURE_TENANT_ID"), |text| {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let cure = "write the directory's id, or a domain of it like \"example.onmicrosoft.com\"";
        if text.chars().all(legal) { Ok(()) } else { Err(format!("{text:?} is no tenant: {cure}")) }
    });
    let client_id = text(credential, "client_id", kind, injected("AZURE_CLIENT_ID"), |text| {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let cure = "write the Application (client) ID as the portal shows it";
        if text.chars().all(legal) {
            Ok(())
        } else {
            Err(format!("{text:?} is no client id: {cure}"))
        }
    });
    if kind == Some(Kind::ClientSecret) {
        credential.demand(
            "client_secret",
            "write { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
        );
    }
    let client_secret = credential.secret("client_secret");
    let token_file = token_file(credential, injected("AZURE_FEDERATED_TOKEN_FILE"));
    let authority = authority(credential, injected("AZURE_AUTHORITY_HOST"));
    let ca = super::read_ca(credential);
    let proof = match kind? {
        Kind::ClientSecret => Proof::ClientSecret {
            tenant: tenant?,
            client_id: client_id?,
            client_secret: client_secret?,
        },
        Kind::WorkloadIdentity => Proof::WorkloadIdentity {
            tenant: tenant?,
            client_id: client_id?,
            token_file: token_file?,
        },
        Kind::ManagedIdentity => Proof::ManagedIdentity { client_id },
        Kind::Developer => Proof::Developer,
    };
    Some(Settings { name: name.clone(), proof, authority: authority?, ca })
}

/// A key that a kind may need, or the variable in its place.
fn text(
    credential: &mut Reader<'_>,
    key: &'static str,
    kind: Option<Kind>,
    injected: Option<&'static str>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Option<String> {
    let parse = |text: &str| {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        check(text).map(|()| text.to_owned())
    };
    if credential.has(key) {
        return credential.parsed(key, parse);
    }
    let found = injected.and_then(|variable| Some((variable, credential.variable(variable)?)));
    if let Some((variable, text)) = found {
        credential.show(key, text.clone());
        return match parse(&text) {
            Ok(text) => Some(text),
            Err(message) => {
                credential.error(key, format!("{message} (set by {variable})"));
                None
            }
        };
    }
    let is_needed = matches!(kind, Some(Kind::ClientSecret | Kind::WorkloadIdentity));
    if is_needed {
        let or = injected.map_or(String::new(), |v| format!(", or run where Kubernetes sets {v}"));
        let what = if key == "tenant" {
            "write the directory's id"
        } else {
            "write the Application (client) ID"
        };
        credential.demand(key, &format!("{what}{or}"));
    }
    credential.parsed(key, parse)
}

fn token_file(credential: &mut Reader<'_>, injected: Option<&'static str>) -> Option<PathBuf> {
    if !credential.has("token_file")
        && let Some(variable) = injected
    {
        if let Some(path) = credential.variable(variable) {
            credential.show("token_file", path.clone());
            return Some(path.into());
        }
        let hint = format!("name the pod's token file, or run where Kubernetes sets {variable}");
        credential.demand("token_file", &hint);
    }
    credential.path("token_file")
}

fn authority(credential: &mut Reader<'_>, injected: Option<&'static str>) -> Option<Authority> {
    if credential.has("authority") {
        return credential.parsed("authority", Authority::parse);
    }
    let found = injected.and_then(|variable| Some((variable, credential.variable(variable)?)));
    let authority = match found.map(|(variable, text)| (variable, Authority::parse(&text))) {
        None => Authority::default(),
        Some((_, Ok(authority))) => authority,
        Some((variable, Err(message))) => {
            credential.error("authority", format!("{message} (set by {variable})"));
            return None;
        }
    };
    // Asked for all the same, so that it is known.
    let asked = credential.parsed("authority", Authority::parse);
    credential.show("authority", authority.to_string());
    Some(asked.unwrap_or(authority))
}

/// The keys that only some kinds have.
const KEYS: [&str; 4] = ["tenant", "client_id", "client_secret", "token_file"];

const WORDS: [(&str, Kind); 4] = [
    ("client-secret", Kind::ClientSecret),
    ("workload-identity", Kind::WorkloadIdentity),
    ("managed-identity", Kind::ManagedIdentity),
    ("developer", Kind::Developer),
];
