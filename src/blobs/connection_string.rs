//! The one text that names a storage account and lets us in.
//!
//! Read by our own parser: people paste it from the portal, from an emulator's manual and from each other, so it has
//! to take every form that Microsoft's own clients take, and to say what is wrong without showing what is there.
//! Source of the grammar: *Configure Azure Storage connection strings* in Microsoft's documentation.

use std::fmt;

use reqwest::Url;
use secrecy::SecretString;

use super::account::Credential;
use super::shared_key::AccountKey;

/// A storage account, and what lets us in.
#[derive(Clone)]
pub struct ConnectionString {
    pub(super) text: SecretString,
    pub(super) endpoint: Url,
    pub(super) credential: Credential,
}

impl ConnectionString {
    /// Reads a connection string: pairs of any order and case, split at semicolons, a pair at its first `=` (keys and
    /// signatures hold more of them). What isn't about blobs is ignored.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let parts = Parts::parse(text)?;
        let development = match parts.development {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(_) => return Err(wrong("UseDevelopmentStorage", "it can only be \"true\"")),
        };
        let account = parts.account.or(development.then_some(EMULATOR_ACCOUNT));
        let key = parts.key.or((development && parts.sas.is_none()).then_some(EMULATOR_KEY));
        let credential = match (key, parts.sas) {
            (Some(_), Some(_)) => {
                return Err(wrong(
                    "SharedAccessSignature",
                    "there is an AccountKey as well, and only one of them can be meant: remove one",
                ));
            }
            (None, None) => return Err(ConnectionStringError::Missing("AccountKey")),
            (Some(key), None) => Credential::Key {
                account: account.ok_or(ConnectionStringError::Missing("AccountName"))?.to_owned(),
                key: AccountKey::decode(key).ok_or_else(|| {
                    wrong("AccountKey", "it isn't base64: copy it whole, with the = at its end")
                })?,
            },
            (None, Some(sas)) => Credential::sas(sas)
                .ok_or_else(|| wrong("SharedAccessSignature", "it has no sig= part"))?,
        };
        let endpoint = parts.endpoint(account, development)?;
        Ok(Self { text: text.trim().into(), endpoint, credential })
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("endpoint", &self.endpoint.as_str())
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

/// A text that isn't a connection string. Never shows the text, nor a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionStringError {
    /// A part without `=`.
    #[error(
        "part {0} of the connection string isn't Key=Value: copy it whole, with a semicolon between the parts"
    )]
    NotAPair(usize),
    /// A part that is there twice.
    #[error("the connection string has {0} twice: remove one")]
    Twice(&'static str),
    /// A part that is not there, or empty.
    #[error(
        "the connection string lacks {0}: it needs AccountName and AccountKey, or BlobEndpoint and \
         SharedAccessSignature, or UseDevelopmentStorage=true"
    )]
    Missing(&'static str),
    /// A part that can't be right.
    #[error("{part} in the connection string is wrong: {why}")]
    Wrong {
        /// The part.
        part: &'static str,
        /// What is wrong with it, and what would be right.
        why: &'static str,
    },
}

/// The parts that are about blobs, as they stand in the text.
#[derive(Default)]
pub(super) struct Parts<'a> {
    protocol: Option<&'a str>,
    account: Option<&'a str>,
    key: Option<&'a str>,
    suffix: Option<&'a str>,
    blob_endpoint: Option<&'a str>,
    sas: Option<&'a str>,
    development: Option<&'a str>,
    development_proxy: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Those that say where an account is.
    pub(super) fn of_place(endpoint: Option<&'a str>, suffix: &'a str) -> Self {
        Self { suffix: Some(suffix), blob_endpoint: endpoint, ..Self::default() }
    }

    fn parse(text: &'a str) -> Result<Self, ConnectionStringError> {
        let mut parts = Self::default();
        for (index, part) in text.split(';').map(str::trim).enumerate() {
            if part.is_empty() {
                continue;
            }
            let (key, value) =
                part.split_once('=').ok_or(ConnectionStringError::NotAPair(index + 1))?;
            let (key, value) = (key.trim(), value.trim());
            let Some((name, place)) = parts.place(key) else { continue };
            if place.is_some() {
                return Err(ConnectionStringError::Twice(name));
            }
            *place = Some(value).filter(|value| !value.is_empty());
        }
        Ok(parts)
    }

    /// Where a part is kept, and how its name is written; `None` for those that are not about blobs.
    fn place(&mut self, key: &str) -> Option<(&'static str, &mut Option<&'a str>)> {
        [
            ("DefaultEndpointsProtocol", &mut self.protocol),
            ("AccountName", &mut self.account),
            ("AccountKey", &mut self.key),
            ("EndpointSuffix", &mut self.suffix),
            ("BlobEndpoint", &mut self.blob_endpoint),
            ("SharedAccessSignature", &mut self.sas),
            ("UseDevelopmentStorage", &mut self.development),
            ("DevelopmentStorageProxyUri", &mut self.development_proxy),
        ]
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
    }

    /// Where the account's blobs are, with a slash at the end.
    pub(super) fn endpoint(
        &self,
        account: Option<&str>,
        development: bool,
    ) -> Result<Url, ConnectionStringError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if account.is_some_and(|account| !account.chars().all(plain)) {
            return Err(wrong("AccountName", "it is made of letters and digits only"));
        }
        let (part, text) = if let Some(endpoint) = self.blob_endpoint {
            ("BlobEndpoint", endpoint.to_owned())
        } else if development {
            let proxy = self.development_proxy.unwrap_or("http://127.0.0.1");
            let proxy = proxy.trim_end_matches('/');
            ("DevelopmentStorageProxyUri", format!("{proxy}:{EMULATOR_PORT}/{EMULATOR_ACCOUNT}"))
        } else {
            let account = account.ok_or(ConnectionStringError::Missing("AccountName"))?;
            let protocol = self.protocol.unwrap_or("https");
            if !["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
                return Err(wrong("DefaultEndpointsProtocol", "it can be https or http"));
            }
            let suffix = self.suffix.unwrap_or("core.windows.net").trim_start_matches('.');
            if suffix.is_empty() || !suffix.chars().all(|c| plain(c) || c == '.') {
                return Err(wrong("EndpointSuffix", "it is a domain, like core.windows.net"));
            }
            ("EndpointSuffix", format!("{protocol}://{account}.blob.{suffix}"))
        };
        let not_a_url = || wrong(part, "it doesn't make an address, like https://host/path");
        let mut url = Url::parse(&text).map_err(|_| not_a_url())?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(not_a_url());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                part,
                "it has more than an address: a signature belongs into SharedAccessSignature",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(part, "it has a user name in it"));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(url)
    }
}

fn wrong(part: &'static str, why: &'static str) -> ConnectionStringError {
    ConnectionStringError::Wrong { part, why }
}

// The emulator's account: published, the same everywhere (*Use the Azurite emulator* in Microsoft's documentation).
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_PORT: u16 = 10000;

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn every_form_leads_to_its_endpoint() {
        for (text, endpoint) in [
            (
                "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=QUJD;EndpointSuffix=core.windows.net",
                "https://acct.blob.core.windows.net/",
            ),
            ("accountkey=QUJD==;ACCOUNTNAME=acct", "!AccountKey"),
            ("accountkey=QUI=;ACCOUNTNAME=acct;", "https://acct.blob.core.windows.net/"),
            (
                " AccountName = acct ;\n AccountKey=QUJD;EndpointSuffix=core.chinacloudapi.cn;;",
                "https://acct.blob.core.chinacloudapi.cn/",
            ),
            (
                "AccountName=acct;AccountKey=QUJD;EndpointSuffix=core.usgovcloudapi.net",
                "https://acct.blob.core.usgovcloudapi.net/",
            ),
            (
                "DefaultEndpointsProtocol=HTTP;AccountName=a;AccountKey=QUJD",
                "http://a.blob.core.windows.net/",
            ),
            (
                "AccountName=devstoreaccount1;AccountKey=QUJD;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;\
                 QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;TableEndpoint=x",
                "http://127.0.0.1:10000/devstoreaccount1/",
            ),
            (
                "BlobEndpoint=https://files.example.com/;SharedAccessSignature=?sv=1&sig=a%3D",
                "https://files.example.com/",
            ),
            (
                "AccountName=acct;SharedAccessSignature=sv=1&sig=a=",
                "https://acct.blob.core.windows.net/",
            ),
            ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1/"),
            (
                "UseDevelopmentStorage=TRUE;DevelopmentStorageProxyUri=http://emulator/",
                "http://emulator:10000/devstoreaccount1/",
            ),
            (
                "UseDevelopmentStorage=true;BlobEndpoint=http://azurite:1/devstoreaccount1/",
                "http://azurite:1/devstoreaccount1/",
            ),
        ] {
            let parsed = ConnectionString::parse(text);
            match endpoint.strip_prefix('!') {
                None => assert_eq!(parsed.unwrap().endpoint.as_str(), endpoint, "{text}"),
                Some(part) => assert!(parsed.unwrap_err().to_string().contains(part), "{text}"),
            }
        }
    }

    #[test]
    fn a_wrong_text_is_named_by_its_part() {
        for (text, part) in [
            ("", "AccountKey"),
            ("AccountName=secret", "lacks AccountKey"),
            ("AccountKey=c2VjcmV0", "lacks AccountName"),
            ("AccountName=a;AccountKey=", "lacks AccountKey"),
            ("AccountName=a;AccountKey=secret!", "AccountKey in"),
            ("AccountName=a;c2VjcmV0c2VjcmV0", "part 2"),
            ("AccountName=a;AccountName=secret;AccountKey=QUJD", "AccountName twice"),
            ("AccountName=sec ret/;AccountKey=QUJD", "AccountName in"),
            (
                "AccountName=a;AccountKey=QUJD;DefaultEndpointsProtocol=secret",
                "DefaultEndpointsProtocol",
            ),
            ("AccountName=a;AccountKey=QUJD;BlobEndpoint=secret", "BlobEndpoint"),
            ("AccountName=a;AccountKey=QUJD;BlobEndpoint=ftp://secret/", "BlobEndpoint"),
            (
                "AccountName=a;AccountKey=QUJD;BlobEndpoint=https://h/?sv=1&sig=secret",
                "BlobEndpoint",
            ),
            ("AccountName=a;AccountKey=QUJD;EndpointSuffix=/ secret", "EndpointSuffix"),
            ("SharedAccessSignature=sig=secret", "lacks AccountName"),
            (
                "AccountName=a;AccountKey=QUJD;SharedAccessSignature=sig=secret",
                "SharedAccessSignature",
            ),
            ("AccountName=a;SharedAccessSignature=secret", "SharedAccessSignature"),
            ("UseDevelopmentStorage=secret", "UseDevelopmentStorage"),
        ] {
            let error = ConnectionString::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
    }

    #[test]
    fn the_text_is_kept_and_never_shown() {
        for text in [
            "AccountName=acct;AccountKey=c2VjcmV0;",
            "AccountName=acct;SharedAccessSignature=sv=1&sig=c2VjcmV0",
        ] {
            let parsed = ConnectionString::parse(text).unwrap();
            assert_eq!(parsed.text.expose_secret(), text);
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("c2VjcmV0") && shown.contains("acct"), "{shown}");
        }
    }
}
