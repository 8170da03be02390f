//! A storage account and what lets us in, whichever way the config names them.

use std::fmt;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::connection_string::{ConnectionString, ConnectionStringError, Parts};
use super::shared_key::AccountKey;
use crate::name::Name;

/// A storage account, and what lets us in.
#[derive(Clone)]
pub struct Account {
    endpoint: Url,
    credential: Credential,
    /// The connection string, when there is one.
    text: Option<SecretString>,
}

/// What lets us in.
#[derive(Clone)]
pub(super) enum Credential {
    /// The account's name and key: may do everything, and can sign for others.
    Key { account: String, key: AccountKey },
    /// A signature somebody else made, without its question mark.
    Sas(SecretString),
    /// Tokens of an identity, which a storage account takes in place of a key; it signs for others with keys of days.
    Identity { account: String, credential: Name },
}

/// What lets us in, as it is written.
#[derive(Clone, Copy)]
pub enum WayIn<'a> {
    /// The account's key, in base64.
    Key(&'a str),
    /// A shared access signature.
    Sas(&'a str),
    /// The name of an identity.
    Credential(&'a Name),
}

/// The part of an account that can't be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongPart {
    /// Its key in the config.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

impl Account {
    /// The account of a name, at `endpoint` (a whole address) or else in the cloud whose domain is `suffix`
    /// (`core.windows.net`).
    pub fn of(
        name: &str,
        endpoint: Option<&str>,
        suffix: &str,
        way: WayIn<'_>,
    ) -> Result<Self, WrongPart> {
        let wrong = |key, why| WrongPart { key, why };
        if name.is_empty() {
            return Err(wrong("account", "is empty: write the storage account's name"));
        }
        let endpoint =
            Parts::of_place(endpoint, suffix).endpoint(Some(name), false).map_err(|error| {
                match error {
                    ConnectionStringError::Wrong { part, why } => match part {
                        "AccountName" => wrong("account", why),
                        "BlobEndpoint" => wrong("endpoint", why),
                        _ => wrong("endpoint_suffix", why),
                    },
                    _ => wrong("account", "makes no address"),
                }
            })?;
        let account = name.to_owned();
        let credential = match way {
            WayIn::Key(text) => {
                let why = "isn't base64: copy it whole, with the = at its end";
                let key = AccountKey::decode(text).ok_or(wrong("account_key", why))?;
                Credential::Key { account, key }
            }
            WayIn::Sas(text) => {
                let why = "has no sig= part: copy the whole signature";
                Credential::sas(text).ok_or(wrong("sas", why))?
            }
            WayIn::Credential(name) => {
                if endpoint.scheme() != "https" {
                    let why = "is not encrypted, and tokens go there: write https://";
                    return Err(wrong("endpoint", why));
                }
                Credential::Identity { account, credential: name.clone() }
            }
        };
        Ok(Self { endpoint, credential, text: None })
    }

    /// Where the account's blobs are, with a slash at the end: `https://account.blob.core.windows.net/`.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }

    /// The name of the identity that lets us in, if one does.
    pub fn identity(&self) -> Option<&Name> {
        match &self.credential {
            Credential::Identity { credential, .. } => Some(credential),
            Credential::Key { .. } | Credential::Sas(_) => None,
        }
    }

    pub(super) fn host(&self) -> &str {
        // A parsed endpoint has one: `Parts::endpoint` refuses what hasn't.
        self.endpoint.host_str().unwrap_or_default()
    }

    pub(super) fn is_https(&self) -> bool {
        self.endpoint.scheme() == "https"
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The connection string as it was given, for those who are meant to have it.
    pub(super) fn connection_string(&self) -> Option<&str> {
        self.text.as_ref().map(ExposeSecret::expose_secret)
    }
}

impl Credential {
    /// A signature, with or without its question mark; `None` when it has no signature in it.
    pub(super) fn sas(text: &str) -> Option<Self> {
        let sas = text.trim_start_matches('?');
        let is_signed = sas.split('&').any(|pair| pair.starts_with("sig="));
        is_signed.then(|| Self::Sas(sas.into()))
    }
}

impl From<ConnectionString> for Account {
    fn from(ConnectionString { text, endpoint, credential }: ConnectionString) -> Self {
        Self { endpoint, credential, text: Some(text) }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { .. } => f.write_str("AccountKey=***"),
            Self::Sas(_) => f.write_str("SharedAccessSignature=***"),
            Self::Identity { credential, .. } => write!(f, "credential {credential}"),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("endpoint", &self.endpoint.as_str())
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        name: &str,
        endpoint: Option<&str>,
        suffix: &str,
        way: WayIn<'_>,
    ) -> Result<Account, WrongPart> {
        Account::of(name, endpoint, suffix, way)
    }

    #[test]
    fn every_cloud_and_every_address_is_found() {
        for (endpoint, suffix, expected) in [
            (None, "core.windows.net", "https://acct.blob.core.windows.net/"),
            (None, "core.chinacloudapi.cn", "https://acct.blob.core.chinacloudapi.cn/"),
            (None, ".core.usgovcloudapi.net", "https://acct.blob.core.usgovcloudapi.net/"),
            (
                Some("https://acct.privatelink.example/x"),
                "y",
                "https://acct.privatelink.example/x/",
            ),
        ] {
            let account = of("acct", endpoint, suffix, WayIn::Key("QUJD")).unwrap();
            assert_eq!(account.endpoint(), expected);
        }
    }

    #[test]
    fn a_part_that_is_wrong_is_named_by_its_key_and_not_shown() {
        let (suffix, entra) = ("core.windows.net", Name::try_from("entra".to_owned()).unwrap());
        let identity = WayIn::Credential(&entra);
        for (name, endpoint, suffix, way, key) in [
            ("", None, suffix, identity, "account"),
            ("a/secret", None, suffix, identity, "account"),
            ("a", None, "/secret", identity, "endpoint_suffix"),
            ("a", Some("secret"), suffix, identity, "endpoint"),
            ("a", Some("http://secret/"), suffix, identity, "endpoint"),
            ("a", Some("https://h/?sig=secret"), suffix, identity, "endpoint"),
            ("a", None, suffix, WayIn::Key("secret!"), "account_key"),
            ("a", None, suffix, WayIn::Sas("secret"), "sas"),
        ] {
            let wrong = of(name, endpoint, suffix, way).unwrap_err();
            assert_eq!(wrong.key, key, "{}", wrong.why);
            assert!(!wrong.why.contains("secret"));
        }
        let plain = Some("http://127.0.0.1:10000/a");
        assert!(of("a", plain, suffix, WayIn::Key("QUJD")).is_ok(), "a key itself is never sent");
    }
}
