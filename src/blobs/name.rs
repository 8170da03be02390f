//! Names: what a container, a prefix, a blob may be called, and what becomes of that in a URL and in a header.
//!
//! Source: *Naming and referencing containers, blobs, and metadata* in Microsoft's documentation.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;

use crate::wire::BlobReference;

/// The URL that a link's three parts make: joined by exactly one slash and one question mark.
///
/// The path may come encoded or plain: what is no URL's is encoded, an escape that is one already stays.
pub(super) fn link_url(link: &BlobReference) -> Option<Url> {
    let base = link.base_location.as_deref()?.trim_end_matches('/');
    let path = link.relative_location.as_deref()?.trim_start_matches('/');
    let token = link.sas_blob_token.as_deref().unwrap_or_default().trim_start_matches('?');
    let mut encoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        encoded.push_str(&encode(&rest[..at]));
        let is_escape = rest
            .as_bytes()
            .get(at + 1..at + 3)
            .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        let end = if is_escape { at + 3 } else { at + 1 };
        encoded.push_str(if is_escape { &rest[at..end] } else { "%25" });
        rest = &rest[end..];
    }
    encoded.push_str(&encode(rest));
    let question = if token.is_empty() { "" } else { "?" };
    let url = Url::parse(&format!("{base}/{encoded}{question}{token}")).ok()?;
    (["http", "https"].contains(&url.scheme()) && !path.is_empty()).then_some(url)
}

/// Percent-encodes the segments of a path, and leaves the slashes.
pub(super) fn encode(path: &str) -> String {
    path.split('/')
        .map(|segment| utf8_percent_encode(segment, UNRESERVED).to_string())
        .collect::<Vec<_>>()
        .join("/")
}

/// Metadata travels in headers, which are ASCII, and all of it has 8 KiB.
pub(super) fn encode_label(label: &str) -> String {
    let short: String = label.chars().take(LABEL_MAX_CHARS).collect();
    utf8_percent_encode(&short, UNRESERVED).to_string()
}

pub(super) fn content_type(blob: &str) -> &'static str {
    let extension = blob.rsplit_once('.').map(|(_, extension)| extension);
    if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        "text/csv"
    } else {
        "application/octet-stream"
    }
}

/// Checks a container's name.
pub fn check_container(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !(3..=63).contains(&name.len()) {
        return Err(format!("container {name:?} must have 3 to 63 characters"));
    }
    if !name.chars().all(|c| plain(c) || c == '-') {
        return Err(format!(
            "container {name:?} may have lower-case letters, digits and hyphens only"
        ));
    }
    if !name.starts_with(plain) || !name.ends_with(plain) || name.contains("--") {
        return Err(format!(
            "container {name:?} must begin and end with a letter or digit, and have single hyphens only"
        ));
    }
    Ok(())
}

/// Checks a prefix and gives it its slash. Whether the scoring service reads a location that comes with a signature as
/// a part of a URL or as a plain name is told nowhere, so only what is the same in both is taken, as in all else that
/// names our blobs.
pub fn check_prefix(prefix: &str) -> Result<String, String> {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    if bare.is_empty() && prefix.is_empty() {
        return Ok(String::new());
    }
    if bare.chars().count() > PREFIX_MAX_CHARS {
        return Err(format!("prefix has more than {PREFIX_MAX_CHARS} characters: shorten it"));
    }
    check_name(bare).map_err(|why| format!("prefix {prefix:?} can't be used: {why}"))?;
    if !bare.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~".contains(c)) {
        return Err(format!(
            "prefix {prefix:?} can't be used: write a-z, A-Z, 0-9, -, ., _, ~ and slashes only"
        ));
    }
    Ok(format!("{bare}/"))
}

/// What would be another path on its way, or on the other side.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.chars().count() > NAME_MAX_CHARS {
        return Err("it has more than 1024 characters");
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return Err("it has a control character or a backslash");
    }
    if name.split('/').any(|segment| ["", ".", ".."].contains(&segment)) {
        return Err("between its slashes there is nothing, or only dots");
    }
    Ok(())
}

/// Everything but letters, digits and `-._~`: what no part of a URL ever gives a meaning.
pub(super) const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const NAME_MAX_CHARS: usize = 1024;
/// Leaves as much again for the names in it.
const PREFIX_MAX_CHARS: usize = 512;
const LABEL_MAX_CHARS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(base: &str, path: &str, token: &str) -> BlobReference {
        BlobReference {
            base_location: Some(base.into()),
            relative_location: Some(path.into()),
            sas_blob_token: Some(token.into()),
            connection_string: None,
        }
    }

    #[test]
    fn a_link_is_joined_by_one_slash_and_one_question_mark() {
        for (base, path, token, url) in [
            ("https://h/", "/c/b.csv", "?sv=1&sig=a%2Fb", "https://h/c/b.csv?sv=1&sig=a%2Fb"),
            ("https://h", "c/b.csv", "sv=1", "https://h/c/b.csv?sv=1"),
            ("http://127.0.0.1:1/acct/", "c/b.csv", "", "http://127.0.0.1:1/acct/c/b.csv"),
            ("https://h/", "c/a b?#ü%20.csv", "?s", "https://h/c/a%20b%3F%23%C3%BC%20.csv?s"),
            ("https://h/", "c/100%.csv", "", "https://h/c/100%25.csv"),
            ("https://h/", "c/100%ü.csv", "", "https://h/c/100%25%C3%BC.csv"),
        ] {
            let joined = link_url(&reference(base, path, token)).unwrap();
            assert_eq!(joined.as_str(), url);
        }
        for link in [
            BlobReference::default(),
            reference("file:///etc/", "passwd", ""),
            reference("", "c/b.csv", ""),
            reference("https://h/", "", ""),
        ] {
            assert_eq!(link_url(&link), None, "{link:?}");
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["ab", "Scoring", "a_b", "-ab", "ab-", "a--b", "$web", &"a".repeat(64)] {
            assert!(check_container(name).is_err(), "{name}");
        }
        for name in ["abc", "a-b-c", "0x1", &"a".repeat(63)] {
            assert_eq!(check_container(name), Ok(()));
        }
        for (prefix, checked) in [
            ("", Some("")),
            ("a/b", Some("a/b/")),
            ("a/b/", Some("a/b/")),
            ("A-1._~", Some("A-1._~/")),
        ]
        .into_iter()
        .chain(["/", "/a", "a//b", "a//", "../a", "a/.", "a\\b", "a\n"].map(|p| (p, None)))
        .chain(["a b", "ü", "a%20b", "a+b", "a?b"].map(|p| (p, None)))
        {
            assert_eq!(check_prefix(prefix).ok().as_deref(), checked, "{prefix:?}");
        }
        assert!(check_prefix(&"a".repeat(513)).is_err());
        assert!(check_name(&"ü".repeat(1024)).is_ok() && check_name(&"ü".repeat(1025)).is_err());
    }

    #[test]
    fn a_label_is_safe_in_a_header_and_short() {
        assert_eq!(encode_label("ü \"x\"\r\n.csv"), "%C3%BC%20%22x%22%0D%0A.csv");
        assert_eq!(encode_label(&"ü".repeat(5000)).len(), LABEL_MAX_CHARS * 6);
    }

    #[test]
    fn the_content_type_follows_the_name() {
        for (blob, expected) in [
            ("a/b.csv", "text/csv"),
            ("a/b.CSV", "text/csv"),
            ("a.csv/b", "application/octet-stream"),
            ("csv", "application/octet-stream"),
        ] {
            assert_eq!(content_type(blob), expected, "{blob}");
        }
    }
}
