//! Who may touch a blob: account keys, shared access signatures, connection strings.
//!
//! Sources: Azure Storage's REST reference, *Authorize with Shared Key* (2015-02-21 and later), *Create a service SAS*
//! (string-to-sign of 2018-11-09 and of 2020-12-06, which has one line more for the encryption scope) and *Configure
//! connection strings*. Both sides of shared-key signing are here, as the model signs its calls to foreign accounts.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A storage account with its key; not `Debug`, as it holds the key.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) key: Vec<u8>,
}

/// What a caller has shown to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// The account key.
    All,
    /// A signature with these permission letters.
    Letters(String),
}

/// Why a call is refused: HTTP status, the service's code, and a detail without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

/// What is being called, as far as authorization looks at it.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    /// Percent-encoded, as it came.
    pub(super) path: &'a str,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
    /// Decoded; what a signature names.
    pub(super) container: &'a str,
    /// Decoded; `None` for the container itself.
    pub(super) blob: Option<&'a str>,
}

/// Decoded query parameters in the order they came.
pub(super) struct Query(Vec<(String, String)>);

impl Grant {
    /// Whether any one of these letters was granted.
    pub(super) fn allows(&self, any_of: &str) -> bool {
        match self {
            Self::All => true,
            Self::Letters(letters) => any_of.chars().any(|letter| letters.contains(letter)),
        }
    }

    pub(super) fn require(&self, any_of: &str) -> Result<(), Denied> {
        if self.allows(any_of) {
            return Ok(());
        }
        Err(Denied {
            code: "AuthorizationPermissionMismatch",
            detail: format!("the signature lacks the permission {any_of:?}"),
        })
    }
}

impl Query {
    pub(super) fn parse(raw: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        Self(
            raw.trim_start_matches('?')
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn or_empty(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}

impl Account {
    /// Reads the key from its base64 form; `None` when it is none.
    pub(super) fn new(name: &str, key: &str) -> Option<Self> {
        Some(Self { name: name.into(), key: BASE64.decode(key).ok()? })
    }

    /// Checks whichever credential a call carries.
    pub(super) fn authorize(&self, call: &Call<'_>, now: DateTime<Utc>) -> Result<Grant, Denied> {
        if let Some(header) = call.headers.get("authorization") {
            let header = header.to_str().unwrap_or_default();
            return self.authorize_key(header, call, now);
        }
        if call.query.get("sig").is_some() {
            return self.authorize_sas(call.query, call.container, call.blob, now);
        }
        Err(failed("the call carries neither an Authorization header nor a signature".into()))
    }

    fn authorize_key(
        &self,
        header: &str,
        call: &Call<'_>,
        now: DateTime<Utc>,
    ) -> Result<Grant, Denied> {
        let Some((name, signature)) =
            header.strip_prefix("SharedKey ").and_then(|rest| rest.split_once(':'))
        else {
            return Err(failed(
                "the Authorization header is not SharedKey account:signature".into(),
            ));
        };
        if name != self.name {
            return Err(failed(format!("the account {name:?} is not served here")));
        }
        if !call.headers.contains_key("x-ms-version") {
            return Err(failed("x-ms-version is missing".into()));
        }
        let date = text(call.headers, "x-ms-date");
        let date = if date.is_empty() { text(call.headers, "date") } else { date };
        let date = DateTime::parse_from_rfc2822(date)
            .map_err(|_| failed(format!("the date {date:?} is missing or not RFC 1123")))?;
        if (now - date.to_utc()).abs() > TimeDelta::minutes(15) {
            return Err(failed(format!("the date {date} is more than 15 minutes from {now}")));
        }
        let expected =
            shared_key_string(call.method, call.headers, &self.name, call.path, call.query);
        if !same(&self.sign(&expected), signature) {
            // The real service prints its own view too, and it is what helps; it holds no secret.
            return Err(failed(format!(
                "the signature does not match; the string to sign is {expected:?}"
            )));
        }
        Ok(Grant::All)
    }

    /// Checks a service SAS for a blob or its container.
    pub(super) fn authorize_sas(
        &self,
        query: &Query,
        container: &str,
        blob: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Grant, Denied> {
        let version = query.or_empty("sv");
        if NaiveDate::parse_from_str(version, "%Y-%m-%d").is_err() || version < OLDEST_SAS {
            return Err(failed(format!("sv={version:?} is not a version since {OLDEST_SAS}")));
        }
        if query.get("ss").is_some() || query.get("skoid").is_some() {
            return Err(failed(
                "only service signatures made with the account key are known".into(),
            ));
        }
        for unsupported in ["si", "sip"] {
            if query.get(unsupported).is_some() {
                return Err(failed(format!("{unsupported} is not supported here")));
            }
        }
        let blob = match (query.or_empty("sr"), blob) {
            ("b", Some(blob)) => Some(blob),
            ("c", _) => None,
            (resource, _) => {
                return Err(failed(format!("sr={resource:?} does not cover what is asked for")));
            }
        };
        let expected = sas_string(query, &self.name, container, blob);
        if !same(&self.sign(&expected), query.or_empty("sig")) {
            return Err(failed(format!(
                "the signature does not match; the string to sign is {expected:?}"
            )));
        }
        let outside = |reason: String| {
            failed(format!("Signature not valid in the specified time frame: {reason}"))
        };
        let end = sas_time(query.or_empty("se"))
            .ok_or_else(|| failed("se is missing or not a time".into()))?;
        if end <= now {
            return Err(outside(format!("Expiry [{end}] - Current [{now}]")));
        }
        if let Some(start) = query.get("st") {
            let start = sas_time(start).ok_or_else(|| failed("st is not a time".into()))?;
            if start > now {
                return Err(outside(format!("Start [{start}] - Current [{now}]")));
            }
        }
        if query.get("spr").is_some_and(|protocols| !protocols.split(',').any(|p| p == "http")) {
            return Err(Denied {
                code: "AuthorizationProtocolMismatch",
                detail: "the signature is for https alone".into(),
            });
        }
        let letters = query.or_empty("sp");
        if letters.is_empty() {
            return Err(failed("sp is missing".into()));
        }
        Ok(Grant::Letters(letters.into()))
    }

    /// A read signature for one blob, with its leading question mark.
    pub(super) fn read_sas(
        &self,
        container: &str,
        blob: &str,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> String {
        let time = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut query = Query(
            [
                ("sv", ISSUED_SAS),
                ("sr", "b"),
                ("st", &time(start)),
                ("se", &time(end)),
                ("sp", "r"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        );
        let signature = self.sign(&sas_string(&query, &self.name, container, Some(blob)));
        query.0.push(("sig".into(), signature));
        let pairs: Vec<String> =
            query.0.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("?{}", pairs.join("&"))
    }

    /// The `Authorization` header of a call.
    pub(super) fn shared_key(
        &self,
        method: &str,
        headers: &HeaderMap,
        path: &str,
        query: &Query,
    ) -> String {
        let string = shared_key_string(method, headers, &self.name, path, query);
        format!("SharedKey {}:{}", self.name, self.sign(&string))
    }

    /// Whether `other` is the same account with the same key.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name == other.name && bool::from(self.key.ct_eq(&other.key))
    }

    fn sign(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .expect("HMAC takes a key of any length, by RFC 2104");
        mac.update(text.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }
}

/// Where a connection string points, and with what credential.
pub(super) struct ConnectionString {
    /// The blob service's address, without a slash at its end.
    pub(super) endpoint: String,
    pub(super) credential: Credential,
}

/// What opens a blob; not `Debug`, as it is a secret.
#[derive(Clone)]
pub(super) enum Credential {
    Key(Account),
    /// Without its question mark.
    Sas(String),
}

impl ConnectionString {
    /// Keys in any case and order, values split at the first `=`, a semicolon at the end allowed. The error never
    /// quotes a value.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut settings = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or("a part of it has no \"=\"".to_owned())?;
            if settings.insert(name.trim().to_ascii_lowercase(), value.trim()).is_some() {
                return Err(format!("{} is there twice", name.trim()));
            }
        }
        let setting = |name: &str| settings.get(name).copied().filter(|value| !value.is_empty());
        if setting("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            let account = Account::new(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY)
                .ok_or("the emulator's key is not base64".to_owned())?;
            return Ok(Self {
                endpoint: format!("http://127.0.0.1:10000/{DEVELOPMENT_ACCOUNT}"),
                credential: Credential::Key(account),
            });
        }
        let endpoint = match (setting("blobendpoint"), setting("accountname")) {
            (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
            (None, Some(name)) => format!(
                "{}://{name}.blob.{}",
                setting("defaultendpointsprotocol").unwrap_or("https"),
                setting("endpointsuffix").unwrap_or("core.windows.net")
            ),
            (None, None) => return Err("it has neither AccountName nor BlobEndpoint".into()),
        };
        let credential =
            match (setting("accountname"), setting("accountkey"), setting("sharedaccesssignature"))
            {
                (Some(name), Some(key), _) => Credential::Key(
                    Account::new(name, key).ok_or("AccountKey is not base64".to_owned())?,
                ),
                (_, None, Some(signature)) => {
                    Credential::Sas(signature.trim_start_matches('?').to_owned())
                }
                _ => return Err("it has neither AccountKey nor SharedAccessSignature".into()),
            };
        Ok(Self { endpoint, credential })
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A time as HTTP writes it.
pub(super) fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn shared_key_string(
    method: &str,
    headers: &HeaderMap,
    account: &str,
    path: &str,
    query: &Query,
) -> String {
    let mut lines = vec![method.to_owned()];
    for name in [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        let value = text(headers, name);
        let blank = (name == "content-length" && value == "0")
            || (name == "date" && headers.contains_key("x-ms-date"));
        lines.push(if blank { String::new() } else { value.to_owned() });
    }
    let mut own: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in headers {
        if name.as_str().starts_with("x-ms-") {
            own.entry(name.as_str()).or_default().push(value.to_str().unwrap_or_default().trim());
        }
    }
    lines.extend(own.iter().map(|(name, values)| format!("{name}:{}", values.join(","))));
    lines.push(format!("/{account}{path}"));
    let mut parameters: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in &query.0 {
        parameters.entry(name.to_lowercase()).or_default().push(value);
    }
    for (name, mut values) in parameters {
        values.sort_unstable();
        lines.push(format!("{name}:{}", values.join(",")));
    }
    lines.join("\n")
}

fn sas_string(query: &Query, account: &str, container: &str, blob: Option<&str>) -> String {
    let resource = match blob {
        Some(blob) => format!("/blob/{account}/{container}/{blob}"),
        None => format!("/blob/{account}/{container}"),
    };
    let mut lines =
        vec![query.or_empty("sp"), query.or_empty("st"), query.or_empty("se"), &resource];
    lines.extend(["si", "sip", "spr", "sv", "sr", "snapshot"].map(|name| query.or_empty(name)));
    if query.or_empty("sv") >= ENCRYPTION_SCOPE_SINCE {
        lines.push(query.or_empty("ses"));
    }
    lines.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(|name| query.or_empty(name)));
    lines.join("\n")
}

/// The three forms of ISO 8601 that a signature may use.
fn sas_time(value: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(value) {
        return Some(time.to_utc());
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(value, "%Y-%m-%dT%H:%MZ") {
        return Some(time.and_utc());
    }
    let day = NaiveDate::parse_from_str(value, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc())
}

fn same(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn failed(detail: String) -> Denied {
    Denied { code: "AuthenticationFailed", detail }
}

/// The account that Microsoft's emulators publish.
pub(super) const DEVELOPMENT_ACCOUNT: &str = "devstoreaccount1";

/// Its published key, the same on every machine and so no secret.
pub(super) const DEVELOPMENT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Earlier versions sign fewer lines.
const OLDEST_SAS: &str = "2018-11-09";

/// From this version on a line for the encryption scope is signed.
const ENCRYPTION_SCOPE_SINCE: &str = "2020-12-06";

/// The version of the signatures made here.
const ISSUED_SAS: &str = "2022-11-02";

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn the_shared_key_string_is_the_references_own_example() {
        // The example of "Authorize with Shared Key" for Get Container Metadata, and Put Blob's empty Content-Length.
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", "2015-02-21".parse().unwrap());
        headers.insert("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT".parse().unwrap());
        headers.insert("content-length", "0".parse().unwrap());
        let query = Query::parse("restype=container&comp=metadata&timeout=20");
        assert_eq!(
            shared_key_string("GET", &headers, "myaccount", "/mycontainer", &query),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n\
             x-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\n\
             restype:container\ntimeout:20"
        );
    }

    #[test]
    fn a_sas_string_has_one_line_more_since_the_encryption_scope() {
        let query = |version: &str| {
            Query::parse(&format!("?sp=r&st=S&se=E&sv={version}&sr=b&spr=https&rsct=t%2Fx"))
        };
        assert_eq!(
            sas_string(&query("2020-10-02"), "acct", "c", Some("a b/ü.csv")),
            "r\nS\nE\n/blob/acct/c/a b/ü.csv\n\n\nhttps\n2020-10-02\nb\n\n\n\n\n\nt/x"
        );
        assert_eq!(
            sas_string(&query("2022-11-02"), "acct", "c", None),
            "r\nS\nE\n/blob/acct/c\n\n\nhttps\n2022-11-02\nb\n\n\n\n\n\n\nt/x"
        );
    }

    #[test]
    fn a_signature_opens_its_blob_in_its_time_and_nothing_else() {
        let (start, end) = (at("2026-11-22T10:00:00Z"), at("2026-11-23T10:05:00Z"));
        let sas = account().read_sas("c", "dir/a b.csv", start, end);
        let query = Query::parse(&sas);
        let check = |container: &str, blob, now| {
            account().authorize_sas(&query, container, Some(blob), at(now))
        };
        let granted = check("c", "dir/a b.csv", "2026-11-22T10:00:00Z").unwrap();
        assert_eq!(granted, Grant::Letters("r".into()));
        assert!(granted.allows("r") && !granted.allows("wc"));
        for (container, blob, now, detail) in [
            ("c", "dir/a b.csv", "2026-11-22T09:59:59Z", "time frame"),
            ("c", "dir/a b.csv", "2026-11-23T10:05:00Z", "time frame"),
            ("c", "dir/a", "2026-11-22T11:00:00Z", "does not match"),
            ("d", "dir/a b.csv", "2026-11-22T11:00:00Z", "does not match"),
        ] {
            let denied = check(container, blob, now).unwrap_err();
            assert_eq!(denied.code, "AuthenticationFailed");
            assert!(denied.detail.contains(detail), "{}", denied.detail);
        }
        let forged = Query::parse(&sas.replace("sp=r", "sp=rw"));
        assert!(account().authorize_sas(&forged, "c", Some("dir/a b.csv"), start).is_err());
    }

    #[test]
    fn a_signature_for_https_does_not_open_http() {
        let mut query = Query::parse("sv=2020-10-02&sr=c&sp=rl&se=2026-11-23&spr=https");
        let signature = account().sign(&sas_string(&query, DEVELOPMENT_ACCOUNT, "c", None));
        query.0.push(("sig".into(), signature));
        let denied = account()
            .authorize_sas(&query, "c", Some("b"), at("2026-11-22T10:00:00Z"))
            .unwrap_err();
        assert_eq!(denied.code, "AuthorizationProtocolMismatch");
    }

    #[test]
    fn times_of_a_signature_come_in_three_forms() {
        for text in ["2026-11-22", "2026-11-22T00:00Z", "2026-11-22T00:00:00Z"] {
            assert_eq!(sas_time(text), Some(at("2026-11-22T00:00:00Z")), "{text}");
        }
        assert_eq!(sas_time("tomorrow"), None);
    }

    #[test]
    fn connection_strings_are_read_in_every_form() {
        for (text, endpoint) in [
            ("AccountKey=QUI=;accountname=a;", "https://a.blob.core.windows.net"),
            (
                "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=QUI=;EndpointSuffix=x.cn",
                "http://a.blob.x.cn",
            ),
            ("BlobEndpoint=http://h:1/a/;AccountName=a;AccountKey=QUI=", "http://h:1/a"),
            ("BlobEndpoint=http://h:1/a;SharedAccessSignature=sv=1&sig=b%3D", "http://h:1/a"),
            ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1"),
        ] {
            let parsed = ConnectionString::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.endpoint, endpoint);
        }
        for text in ["", "AccountName=a", "AccountKey=QUI=", "AccountName=a;AccountKey=?", "x"] {
            assert!(ConnectionString::parse(text).is_err(), "{text}");
        }
    }
}
