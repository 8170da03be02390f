//! What holds of everything that a blob service may answer, for the fuzzing of it.

use azure_storage_blob::models::ListBlobsResponse;

use super::listing::page_of;
use super::name::link_url;
use super::verdict::{Answer, Attempt, Call, Failure, classify};
use crate::fault::redact;
use crate::wire::BlobReference;

/// The scheme and host that a link is opened by, and whether it names a user.
pub(crate) fn opened(link: &BlobReference) -> Option<(String, String, bool)> {
    let url = link_url(link)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let has_user = !url.username().is_empty() || url.password().is_some();
    Some((url.scheme().to_owned(), host, has_user))
}

/// Of a refusal: a status, and a body after the first line.
pub(crate) fn any_refusal(text: &str) -> Result<String, String> {
    let mut seen = String::new();
    let (status, body) = text.split_once('\n').unwrap_or((text, ""));
    let status = status.trim().parse().unwrap_or(400);
    for call in [Call::Look, Call::Upload, Call::Download, Call::Follow, Call::List, Call::Delete] {
        let attempt = Attempt { call, place: "c/b.csv".into(), host: "h".into() };
        let answer = Answer::read(status, |_| None, body.as_bytes());
        let fault = classify(&attempt, &Failure::Answer(answer));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if fault.code.len() > 80 || !fault.code.bytes().all(plain) {
            return Err(format!("the code {:?}", fault.code));
        }
        if fault.message.chars().count() > 2001 {
            return Err("a message of pages".into());
        }
        let tail = ['…', '*'];
        let again = redact(&fault.message);
        if again.trim_end_matches(tail) != fault.message.trim_end_matches(tail) {
            return Err(format!("{:?} shows what {again:?} hides", fault.message));
        }
        seen = format!("{seen} {}", fault.class.name());
    }
    Ok(seen)
}

/// Of a list of blobs: whatever it names is under the prefix that was asked for.
pub(crate) fn any_listing(data: &[u8]) -> Result<String, String> {
    let Ok(list) = azure_core::xml::from_xml::<_, ListBlobsResponse>(data) else {
        return Ok("no list".into());
    };
    let page = page_of(list, "a/");
    if page.blobs.len() > data.len() || page.next.as_deref() == Some("") {
        return Err("made up".into());
    }
    Ok(format!("{} blobs, next {}", page.blobs.len(), page.next.is_some()))
}
