//! Signing requests with an account key, which the official client leaves to its users.
//!
//! Source: *Authorize with Shared Key* in Microsoft's documentation, the form of version 2015-02-21 and later.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use azure_core::http::{Body, Request, Url};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

use crate::ports::Clock;

/// Signs requests, each with the time of its own: one that waited for long would be refused.
pub(super) struct SharedKey<C> {
    account: String,
    key: AccountKey,
    clock: C,
}

impl<C: Clock> SharedKey<C> {
    pub(super) fn new(account: String, key: AccountKey, clock: C) -> Self {
        Self { account, key, clock }
    }

    pub(super) fn sign(&self, request: &mut Request) {
        let date = self.clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        request.insert_header("x-ms-date", date);
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().to_owned()))
            .collect();
        let length = match request.body() {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::SeekableStream(stream) => stream.len().unwrap_or_default(),
        };
        let text = string_to_sign(
            request.method().as_ref(),
            request.url(),
            &headers,
            length,
            &self.account,
        );
        let signature = self.key.sign(&text);
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
    }
}

/// An account's key.
#[derive(Clone)]
pub(super) struct AccountKey(SecretSlice<u8>);

impl AccountKey {
    /// Reads the key as the portal shows it; `None` when it isn't base64, or empty.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok().filter(|bytes| !bytes.is_empty())?;
        Some(Self(bytes.into()))
    }

    /// A key that came as its bytes.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// HMAC-SHA256 of the text, in base64.
    pub(super) fn sign(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret())
            .expect("HMAC takes a key of any length");
        mac.update(text.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }
}

/// The text that is signed; `headers` by their names in lower case.
fn string_to_sign(
    method: &str,
    url: &Url,
    headers: &BTreeMap<String, String>,
    content_length: u64,
    account: &str,
) -> String {
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    let length = if content_length == 0 { String::new() } else { content_length.to_string() };
    let mut text = [
        method,
        header("content-encoding"),
        header("content-language"),
        &length,
        header("content-md5"),
        header("content-type"),
        "", // the date: x-ms-date stands for it
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ]
    .join("\n");
    text.push('\n');
    for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        _ = writeln!(text, "{name}:{value}"); // writing to a string can't fail
    }
    // With path-style addresses the account is in the path as well, so it stands here twice, as the emulator wants it.
    _ = write!(text, "/{account}{}", url.path());
    let mut query = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in url.query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort_unstable();
        _ = write!(text, "\n{name}:{}", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_documented_example_is_signed_as_documented() {
        let text = string_to_sign(
            "GET",
            &"https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20"
                .parse()
                .unwrap(),
            &headers(&[
                ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"),
                ("x-ms-version", "2015-02-21"),
                ("user-agent", "not signed"),
            ]),
            0,
            "myaccount",
        );
        assert_eq!(
            text,
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }

    #[test]
    fn values_of_one_name_are_sorted_and_joined() {
        let text = string_to_sign(
            "GET",
            &"https://myaccount.blob.core.windows.net/mycontainer?restype=container&Comp=list\
              &include=snapshots&include=metadata&include=uncommittedblobs"
                .parse()
                .unwrap(),
            &headers(&[]),
            0,
            "myaccount",
        );
        assert!(
            text.ends_with(
                "/myaccount/mycontainer\ncomp:list\n\
                 include:metadata,snapshots,uncommittedblobs\nrestype:container"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_path_style_account_stands_twice_and_everything_sent_is_signed() {
        let text = string_to_sign(
            "PUT",
            &"http://127.0.0.1:10000/devstoreaccount1/c/a%20b.csv?comp=block&blockid=MDAwMDAx%2B"
                .parse()
                .unwrap(),
            &headers(&[
                ("content-length", "11"),
                ("content-md5", "bWQ1"),
                ("content-type", "text/csv"),
                ("if-match", "\"e\""),
                ("range", "bytes=0-9"),
                ("x-ms-version", "2020-10-02"),
                ("x-ms-blob-type", " Block  Blob "),
            ]),
            11,
            "devstoreaccount1",
        );
        assert_eq!(
            text,
            "PUT\n\n\n11\nbWQ1\ntext/csv\n\n\n\"e\"\n\n\nbytes=0-9\nx-ms-blob-type:Block Blob\nx-ms-version:2020-10-02\n\
             /devstoreaccount1/devstoreaccount1/c/a%20b.csv\nblockid:MDAwMDAx+\ncomp:block"
        );
    }

    #[test]
    fn a_signature_is_the_one_openssl_makes() {
        // printf 'GET\nü' | openssl dgst -sha256 -mac HMAC -macopt key:secret -binary | base64
        let key = AccountKey::decode("c2VjcmV0").unwrap();
        assert_eq!(key.sign("GET\nü"), "tOD/+IRdXQBYp0+pbVhf9jgn51HpM/I2LoKJxnAy3Ko=");
        assert!(AccountKey::decode("").is_none() && AccountKey::decode("no!").is_none());
    }
}
