//! Who speaks in an answer, and what they say.

use serde_json::Value;

use super::Answer;
use crate::fault::redact;
use crate::wire::{ErrorBody, ErrorDetail};

/// The words of an error.
#[derive(Debug)]
pub(in crate::scoring) struct Said {
    pub(in crate::scoring) speaker: Speaker,
    error: ErrorBody,
}

/// Who speaks in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scoring) enum Speaker {
    /// The service; or somebody who says nothing that would give them away.
    Service,
    /// API Management itself.
    Gateway,
    /// Something that shows pages to people.
    Page,
}

impl Said {
    /// Reads the service's envelope (members in any case, each possibly null), the gateway's two forms, pages, and
    /// plain text.
    pub(in crate::scoring) fn read(answer: &Answer) -> Self {
        let body = answer.body.trim();
        let says = |speaker, message| {
            let error = ErrorBody { message, ..ErrorBody::default() };
            Self { speaker, error }
        };
        let value = match serde_json::from_str::<Value>(body) {
            Ok(value @ Value::Object(_)) => value,
            Ok(Value::String(text)) => return says(Speaker::Service, text),
            // Only what can't be read is a page: some hosts give every answer, an empty one too, the type of one.
            Err(_) if body.starts_with('<') || (!body.is_empty() && answer.is_labelled_html()) => {
                return says(Speaker::Page, title(body));
            }
            _ => return says(Speaker::Service, body.to_owned()),
        };
        let inner = member(&value, "error").filter(|inner| inner.is_object()).unwrap_or(&value);
        let gateway = member(inner, "statusCode").is_some_and(Value::is_u64)
            && member(inner, "code").is_none();
        let details = match member(inner, "details") {
            Some(Value::Array(details)) => details.as_slice(),
            Some(detail @ Value::Object(_)) => std::slice::from_ref(detail),
            _ => &[],
        };
        let detail =
            |value| ErrorDetail { code: text(value, "code"), message: text(value, "message") };
        Self {
            speaker: if gateway { Speaker::Gateway } else { Speaker::Service },
            error: ErrorBody {
                code: text(inner, "code"),
                message: text(inner, "message"),
                details: details.iter().map(detail).collect(),
            },
        }
    }

    /// The specific codes first, then the class.
    pub(in crate::scoring) fn codes(&self) -> impl Iterator<Item = &str> {
        self.error
            .details
            .iter()
            .map(|detail| detail.code.as_str())
            .chain([self.error.code.as_str()])
            .filter(|code| !code.is_empty())
    }

    pub(in crate::scoring) fn has(&self, codes: &[&str]) -> bool {
        self.codes().any(|code| codes.iter().any(|wanted| wanted.eq_ignore_ascii_case(code)))
    }

    pub(in crate::scoring) fn messages(&self) -> impl Iterator<Item = &str> {
        let details = self.error.details.iter().map(|detail| detail.message.as_str());
        [self.error.message.as_str()].into_iter().chain(details).filter(|text| !text.is_empty())
    }

    pub(in crate::scoring) fn mentions(&self, words: &[&str]) -> bool {
        self.messages().any(|text| {
            let text = text.to_ascii_lowercase();
            words.iter().any(|word| text.contains(word))
        })
    }

    /// Whether this says that the service has no such job. No source documents the answer for an id that it never
    /// gave: a 404 that isn't about the service, and the documented `MissingJobId`, are both taken for it. A gateway
    /// or a page that doesn't find something speaks of the address, never of the job.
    pub(in crate::scoring) fn job_unknown(&self, status: u16) -> bool {
        self.speaker == Speaker::Service
            && match status {
                404 => !self.has(NO_SUCH_SERVICE) && !self.mentions(&["resource not found"]),
                400 => self.has(&["MissingJobId"]),
                _ => false,
            }
    }

    /// The code, or the documented sentence of it where the details got lost on the way.
    pub(in crate::scoring) fn started_before(&self) -> bool {
        self.speaker == Speaker::Service
            && (self.has(&["CannotStartJob"])
                || self.mentions(&["cannot be started because it is in"]))
    }

    /// Whether a fresh upload of the input, or a fresh signature, may mend it.
    pub(in crate::scoring) fn lacks_input(&self) -> bool {
        self.speaker == Speaker::Service
            && (self.has(&["BlobNotFound", "ExpiryTimeInThePast"])
                || self.mentions(&["not valid in the specified time frame"]))
    }

    /// The specific code, if it looks like one: it becomes a word to search for, not a place for strangers' text.
    pub(in crate::scoring) fn code(&self) -> Option<String> {
        let sane = |code: &&str| {
            code.len() <= 80
                && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        self.codes().find(sane).map(str::to_owned)
    }

    /// What came back, for people.
    pub(in crate::scoring) fn shown(&self, answer: &Answer) -> String {
        let who = match self.speaker {
            Speaker::Service => "the service answered",
            Speaker::Gateway => "the gateway answered",
            Speaker::Page => "a web page came back, with status",
        };
        let mut shown = format!("{who} {}", answer.status);
        let class = self.error.code.trim();
        if !class.is_empty() {
            shown = format!("{shown} {}", cut(class, 80));
        }
        let causes: Vec<&str> = self.codes().filter(|code| *code != self.error.code).collect();
        if !causes.is_empty() {
            shown = format!("{shown} ({})", cut(&causes.join(", "), 200));
        }
        let words: Vec<&str> = self.messages().collect();
        if !words.is_empty() {
            // Hidden before it is cut: half a secret is not recognised any more.
            shown = format!("{shown}: {}", cut(&redact(&words.join(" ")), WORDS_MAX_CHARS));
        }
        if let Some(id) = answer.header("x-ms-request-id").filter(|id| !id.is_empty()) {
            shown = format!("{shown} [request {}]", cut(id, 80));
        }
        shown
    }
}

/// A member of an object, whatever the case of its name.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value
        .as_object()?
        .iter()
        .find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null())
        .map(|(_, value)| value)
}

fn text(value: &Value, name: &str) -> String {
    member(value, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The title of a page, which is all that is worth telling of it.
fn title(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    let found = lower.find("<title").and_then(|tag| {
        let from = tag + lower[tag..].find('>')? + 1;
        let length = lower[from..].find("</title")?;
        page.get(from..from + length)
    });
    found.unwrap_or_default().trim().to_owned()
}

/// Text on one line, at most so many characters of it.
pub(in crate::scoring) fn cut(text: &str, max_chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Codes of a 404 that is about the service.
const NO_SUCH_SERVICE: &[&str] = &[
    "ModelPackageNotFound",
    "WebServiceIdNotFoundInWorkspace",
    "WebServiceNotFound",
    "WorkspaceNotFound",
];

pub(in crate::scoring) const WORDS_MAX_CHARS: usize = 600;
