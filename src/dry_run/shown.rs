//! Requests as they are shown: every secret masked before anything is kept.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::fault::redact;
use crate::job::Sha256;
use crate::ports::Noted;

/// A request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) step: &'static str,
    notes: Vec<String>,
    method: String,
    url: String,
    headers: BTreeMap<String, String>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Nothing,
    Json(Json),
    Bytes {
        size: usize,
        sha256: Sha256,
    },
    /// One request for each.
    Blocks {
        count: usize,
        size: usize,
    },
}

impl Entry {
    pub(super) fn new(
        step: &'static str,
        notes: Vec<String>,
        request: &Noted,
        is_block: bool,
    ) -> Self {
        let headers = request.headers.iter();
        let headers =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), masked(name, value))).collect();
        let size = request.body.len();
        // An input may look like JSON and is still none of ours to read.
        let is_json = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("content-type") && value.starts_with("application/json")
        };
        let json = request.headers.iter().any(is_json);
        let json = json.then(|| serde_json::from_slice(&request.body).ok()).flatten();
        let body = match json {
            _ if is_block => Body::Blocks { count: 1, size },
            _ if size == 0 => Body::Nothing,
            Some(json) => Body::Json(json),
            None => {
                let sha256 = Sha256(sha2::Sha256::digest(&request.body).into());
                Body::Bytes { size, sha256 }
            }
        };
        let (method, url) = (request.method.clone(), redact(&request.url));
        Self { step, notes, method, url, headers, body }
    }

    pub(super) fn is_of_blocks(&self) -> bool {
        matches!(self.body, Body::Blocks { .. })
    }

    pub(super) fn one_more_block(&mut self, more: usize) {
        if let Body::Blocks { count, size } = &mut self.body {
            *count += 1;
            *size += more;
        }
    }

    pub(super) fn json(&self) -> Value {
        let body = match &self.body {
            Body::Nothing => Value::Null,
            // Maps of text and lists are always JSON.
            Body::Json(json) => serde_json::to_value(json).unwrap_or_default(),
            other => other.to_string().into(),
        };
        let Self { step, notes, method, url, headers, .. } = self;
        json!({
            "step": step, "notes": notes, "method": method, "url": url, "headers": headers, "body": body,
        })
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Json(json) => json.write(f, 0),
            Self::Bytes { size, sha256 } => write!(f, "<{size} bytes, sha256 {sha256}>"),
            Self::Blocks { count, size } => {
                write!(f, "<{count} such requests, one for each block, {size} bytes in all>")
            }
        }
    }
}

/// All requests, for people.
pub(super) fn text(entries: &[Entry]) -> String {
    let mut text = String::new();
    for (n, entry) in entries.iter().enumerate() {
        let Entry { step, notes, method, url, headers, body } = entry;
        let _ = writeln!(text, "\n{}. {step}", n + 1);
        for note in notes {
            let _ = writeln!(text, "   ({note})");
        }
        let _ = writeln!(text, "{method} {url}");
        for (name, value) in headers {
            let _ = writeln!(text, "{name}: {value}");
        }
        if !matches!(body, Body::Nothing) {
            let _ = writeln!(text, "\n{body}");
        }
    }
    text
}

/// A header's value without what must not be read.
fn masked(name: &str, value: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.ends_with("authorization") {
        // The scheme, and of the account's own the account.
        return match value.split_once(' ') {
            Some(("SharedKey", rest)) => {
                format!("SharedKey {}:***", rest.split(':').next().unwrap_or_default())
            }
            Some((scheme, _)) => format!("{scheme} ***"),
            None => "***".to_owned(),
        };
    }
    let tells = ["key", "secret", "token", "signature", "cookie"];
    if tells.iter().any(|word| name.contains(word)) { "***".to_owned() } else { redact(value) }
}

/// JSON in the order it was written, since rows have one; long lists are cut.
#[derive(Debug)]
enum Json {
    One(Value),
    List(Vec<Json>),
    Members(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let inner = "  ".repeat(depth + 1);
        let outer = "  ".repeat(depth);
        match self {
            Self::One(value) => write!(f, "{value}"),
            Self::List(list) if list.iter().all(|item| matches!(item, Self::One(_))) => {
                f.write_str("[")?;
                for (n, item) in list.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { ", " })?;
                    item.write(f, depth)?;
                }
                f.write_str("]")
            }
            Self::List(list) => {
                f.write_str("[")?;
                for (n, item) in list.iter().enumerate() {
                    write!(f, "{}\n{inner}", if n == 0 { "" } else { "," })?;
                    item.write(f, depth + 1)?;
                }
                write!(f, "\n{outer}]")
            }
            Self::Members(members) if members.is_empty() => f.write_str("{}"),
            Self::Members(members) => {
                f.write_str("{")?;
                for (n, (name, member)) in members.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma}\n{inner}{}: ", Value::from(name.as_str()))?;
                    member.write(f, depth + 1)?;
                }
                write!(f, "\n{outer}}}")
            }
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(value) => value.serialize(serializer),
            Self::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|item| seq.serialize_element(item))?;
                seq.end()
            }
            Self::Members(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, member)| map.serialize_entry(name, member))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::One(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::One(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::One(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::One(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::One(Value::Null))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::One(redact(value).into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let (mut list, mut more) = (Vec::new(), 0_usize);
        while let Some(item) = seq.next_element::<Json>()? {
            let most = if matches!(item, Json::One(_)) { CELLS_SHOWN } else { ROWS_SHOWN };
            if list.len() < most {
                list.push(item);
            } else {
                more += 1;
            }
        }
        if more > 0 {
            list.push(Json::One(format!("… and {more} more").into()));
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Members(members))
    }
}

const ROWS_SHOWN: usize = 5;
const CELLS_SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_let_somebody_in_are_masked() {
        for (name, value, shown) in [
            ("Authorization", "Bearer abc", "Bearer ***"),
            ("authorization", "SharedKey acct:c2ln", "SharedKey acct:***"),
            ("authorization", "abc", "***"),
            ("Ocp-Apim-Subscription-Key", "abc", "***"),
            ("x-ms-copy-source", "https://h/b?sv=1&sig=abc", "https://h/b?sv=1&sig=***"),
            ("content-type", "text/csv", "text/csv"),
        ] {
            assert_eq!(masked(name, value), shown);
        }
    }

    #[test]
    fn rows_keep_their_order_and_are_cut() {
        let rows: Vec<_> = (0..7).map(|n| format!("[\"{n}\",\"x\"]")).collect();
        let text = format!("{{\"z\":[{}],\"a\":{{}},\"s\":\"?sig=abc\"}}", rows.join(","));
        let json: Json = serde_json::from_str(&text).unwrap();
        insta::assert_snapshot!(Body::Json(json), @r#"
        {
          "z": [
            ["0", "x"],
            ["1", "x"],
            ["2", "x"],
            ["3", "x"],
            ["4", "x"],
            "… and 2 more"
          ],
          "a": {},
          "s": "?sig=***"
        }
        "#);
    }
}
