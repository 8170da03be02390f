//! What must hold of everything that comes from outside, however wrong it is: the properties that `make fuzz` looks for a
//! way around, and that the tests hold against the inputs kept from it.
//!
//! A target reads one input and tells what became of it, by which the search goes, or what doesn't hold. That none panics goes without saying. It is no part of what the
//! daemon does, but lies here since the parsers are nobody's but their modules'.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Config;
use crate::scoring::{ResultHosts, ServiceUrl};
use crate::{blobs, sandbox, scoring};

/// A property of all inputs; the error tells how one breaks it.
pub type Property = fn(&[u8]) -> Result<String, String>;

/// The targets by name, which is also that of their folder of inputs.
pub const TARGETS: [(&str, Property); 10] = [
    ("connection_string", connection_string),
    ("service_url", service_url),
    ("result_link", result_link),
    ("status", |data| scoring::any_status(&lossy(data))),
    ("submit", |data| scoring::any_submit(&lossy(data))),
    ("error", |data| scoring::any_answer(&lossy(data))),
    ("blob_error", |data| blobs::any_refusal(&lossy(data))),
    ("listing", blobs::any_listing),
    ("table", sandbox::any_table),
    ("config", config),
];

fn connection_string(data: &[u8]) -> Result<String, String> {
    let text = lossy(data);
    match blobs::ConnectionString::parse(&text) {
        Ok(read) => {
            let shown = format!("{read:?}");
            for secret in
                ["AccountKey", "SharedAccessSignature"].iter().filter_map(|k| value_of(&text, k))
            {
                hides(&shown, &secret)?;
            }
            let again = blobs::ConnectionString::parse(&format!(" {} ;", text.trim()));
            let again = again.map_err(|error| format!("refused the second time: {error}"))?;
            same(&shown, &format!("{again:?}"))?;
            Ok(format!("read {}", shown.contains("Sas")))
        }
        Err(error) => bounded(&error.to_string(), 400),
    }
}

fn service_url(data: &[u8]) -> Result<String, String> {
    let text = lossy(data);
    match ServiceUrl::parse(&text) {
        Ok(url) => {
            let again = ServiceUrl::parse(&url.to_string())
                .map_err(|error| format!("{url} is refused when it is read again: {error}"))?;
            same(&url.to_string(), &again.to_string())?;
            let shown = url.to_string();
            let user = shown.split('/').nth(2).is_some_and(|authority| authority.contains('@'));
            if user || shown.contains(['?', '#']) {
                return Err(format!("{shown} has more than an address"));
            }
            Ok(format!("read, {} parts", shown.split('/').count().min(12)))
        }
        Err(error) => {
            // An error that is the same without the query shows nothing of it, whatever the two have in common.
            if let Some((address, query)) = text.split_once('?')
                && ServiceUrl::parse(&format!("{address}?")).err().as_ref() != Some(&error)
            {
                hides(&error, query)?;
            }
            let kinds =
                ["no scheme", "no URL", "scheme is", "credentials", "portal", "v2", "placeholder"];
            Ok(kinds.iter().filter(|kind| error.contains(**kind)).copied().collect())
        }
    }
}

/// Three lines: base, path and token.
fn result_link(data: &[u8]) -> Result<String, String> {
    let text = lossy(data);
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().map(str::to_owned);
    let link = crate::wire::BlobReference {
        base_location: next(),
        relative_location: next(),
        sas_blob_token: next(),
        connection_string: None,
    };
    let token = link.sas_blob_token.clone().unwrap_or_default();
    let Some((scheme, host, has_user)) = blobs::opened(&link) else { return Ok("unusable".into()) };
    let admitted = scoring::any_link(&ResultHosts::default(), &link);
    match admitted {
        Ok(()) if has_user || scheme != "https" => {
            Err(format!("{scheme}, user {has_user}: admitted"))
        }
        Ok(()) => {
            let known = ResultHosts::DEFAULT
                .iter()
                .any(|known| host.ends_with(known.trim_start_matches('*')));
            if known { Ok("opened".into()) } else { Err(format!("{host} is opened")) }
        }
        Err(fault) => {
            hides(&fault, &token)?;
            bounded(&fault, 1000)?;
            let kinds = ["no address", "credentials", "own services", "scheme", "none of"];
            Ok(kinds.iter().filter(|kind| fault.contains(**kind)).copied().collect())
        }
    }
}

fn config(data: &[u8]) -> Result<String, String> {
    let text = lossy(data);
    // Secrets may be kept in any file of this machine, and some of those never end.
    if ["file", "/", "\\"].iter().filter(|part| text.contains(**part)).count() > 1 {
        return Ok("not read".into());
    }
    let secrets: Vec<_> = text.lines().filter_map(secret_in).collect();
    let told = match Config::parse(&text, Path::new("/nowhere/scoreline.toml"), &BTreeMap::new()) {
        Ok(config) => format!("{config:?}\n{}", config.effective),
        Err(errors) => errors.to_string(),
    };
    secrets.iter().try_for_each(|secret| hides(&told, secret))?;
    Ok(told
        .lines()
        .nth(1)
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .take(60)
        .collect())
}

/// The secret that a line of a config sets as it stands.
fn secret_in(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let known = ["api_key", "secondary_api_key", "subscription_key", "connection_string"];
    let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    let plain = value.len() >= 12
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=;".contains(&b));
    (known.contains(&key.trim()) && plain).then(|| value.to_owned())
}

fn value_of(text: &str, key: &str) -> Option<String> {
    let pairs = text.split(';').filter_map(|part| part.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(key));
    values.next().map(|(_, value)| value.trim().to_owned())
}

fn lossy(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// What is long enough to be a secret doesn't show.
fn hides(shown: &str, secret: &str) -> Result<(), String> {
    if secret.len() >= 12 && shown.contains(secret) {
        return Err(format!("{secret:?} shows in {shown:?}"));
    }
    Ok(())
}

fn bounded(text: &str, max_chars: usize) -> Result<String, String> {
    let chars = text.chars().count();
    if chars > max_chars {
        return Err(format!("{chars} characters, of {max_chars} allowed"));
    }
    Ok(text.chars().filter(|c| !c.is_ascii_digit()).take(80).collect())
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(one: &T, other: &T) -> Result<(), String> {
    if one == other { Ok(()) } else { Err(format!("{one:?} is not {other:?}")) }
}
