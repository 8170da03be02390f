//! The remote side: notes what it is asked, and answers as a storage and a service do when all is well.
//!
//! Answers are what the adapters read of them and no more. It keeps no blob: before the delivery whatever is read is the
//! input, and from then on an output.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::TimeDelta;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::shown::{Entry, text};
use crate::clock::SystemClock;
use crate::fault::Fault;
use crate::feed::Feed;
use crate::identity;
use crate::ports::{Answered, Audience, Clock as _, Noted, Paper, Tokens};

/// What would have been sent, in order.
#[derive(Debug)]
pub(super) struct Notebook {
    file: PathBuf,
    /// The service's outputs that the feed directs to its own storage.
    outputs: Vec<String>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    step: &'static str,
    entries: Vec<Entry>,
    /// What is to be said of the next request.
    notes: Vec<String>,
}

impl Notebook {
    pub(super) fn new(file: &Path, feed: &Feed) -> Self {
        let outputs = feed.outputs.iter().map(|(output, _)| output.clone()).collect();
        Self { file: file.to_owned(), outputs, pages: Mutex::default() }
    }

    /// What follows is of this step.
    pub(super) fn turn_to(&self, step: &'static str) {
        let mut pages = self.pages();
        pages.step = step;
        pages.notes.clear();
        if step == "poll" {
            pages.notes.push("asked again, less and less often, until the run has ended".into());
        }
    }

    /// The last step.
    pub(super) fn step(&self) -> &'static str {
        self.pages().step
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        text(&self.pages().entries)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        self.pages().entries.iter().map(Entry::json).collect()
    }

    /// Tokens of a credential that is not asked.
    pub(super) fn tokens(self: &Arc<Self>, credential: &identity::Settings) -> Arc<dyn Tokens> {
        let what = format!("credential {} ({})", credential.name, credential.proof.kind());
        Arc::new(NoTokens { notebook: self.clone(), credential: what })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a scoring service answers to an operation. Those of every kind are told here, by their labels in metrics.
    fn of_service(&self, operation: &str) -> Answered {
        let body = match operation {
            "submit" => json!(RUN),
            // In the words of each kind, which reads its own.
            "start" => json!({ "name": RUN }),
            "status" => json!({
                "StatusCode": "Finished", "Results": self.results(),
                "properties": { "status": "Completed" },
            }),
            "execute" => json!({ "Results": self.tables() }),
            _ => Value::Null,
        };
        let headers = vec![("content-type", "application/json".to_owned())];
        Answered { status: 200, headers, body: body.to_string().into() }
    }

    /// Where the service has written what was not directed anywhere.
    fn results(&self) -> Value {
        if !self.outputs.is_empty() {
            return Value::Null;
        }
        json!({ SOME_OUTPUT: {
            "BaseLocation": "https://storage-of-the-workspace.blob.core.windows.net/",
            "RelativeLocation": format!("experimentoutput/{RUN}/{SOME_OUTPUT}.csv"),
            "SasBlobToken": "?sp=r&sig=from-the-answer",
        }})
    }

    fn tables(&self) -> Value {
        let table = json!({ "type": "table", "value": {
            "ColumnNames": ["Scored Labels"], "ColumnTypes": ["String"], "Values": [["0"]],
        }});
        let some = vec![SOME_OUTPUT.to_owned()];
        let names = if self.outputs.is_empty() { &some } else { &self.outputs };
        names.iter().map(|name| (name.clone(), table.clone())).collect()
    }

    fn of_storage(&self, step: &str, request: &Noted) -> Answered {
        let now = SystemClock.now();
        let mut headers = vec![
            ("etag", "\"0x1\"".to_owned()),
            ("last-modified", now.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        ];
        let empty = |status, headers| Answered { status, headers, body: Bytes::new() };
        match request.method.as_str() {
            "GET" if asks(request, "comp=blocklist") => {
                empty(404, vec![("x-ms-error-code", "BlobNotFound".to_owned())])
            }
            "GET" => {
                let body = match step {
                    "deliver" => Bytes::from_static(SCORES),
                    // It was looked at a moment ago; if it is gone, it is as empty as any other.
                    _ => std::fs::read(&self.file).unwrap_or_default().into(),
                };
                let length = body.len();
                headers.push(("content-length", length.to_string()));
                let asks_for_part =
                    |(name, _): &(String, String)| name == "x-ms-range" || name == "range";
                let status = if request.headers.iter().any(asks_for_part) && length > 0 {
                    let part = format!("bytes 0-{}/{length}", length - 1);
                    headers.push(("content-range", part));
                    206
                } else {
                    200
                };
                Answered { status, headers, body }
            }
            "POST" if asks(request, "comp=userdelegationkey") => {
                let time = |hours| {
                    let time = now + TimeDelta::hours(hours);
                    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
                };
                let xml = format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey><SignedOid>{NOBODY}</SignedOid>\
                     <SignedTid>{NOBODY}</SignedTid><SignedStart>{}</SignedStart><SignedExpiry>{}</SignedExpiry>\
                     <SignedService>b</SignedService><SignedVersion>2022-11-02</SignedVersion><Value>AAAA</Value>\
                     </UserDelegationKey>",
                    time(-2),
                    time(7 * 24 - 2)
                );
                headers.push(("content-type", "application/xml".to_owned()));
                Answered { status: 200, headers, body: xml.into() }
            }
            "PUT" => empty(201, headers),
            "DELETE" => empty(202, headers),
            _ => empty(200, headers),
        }
    }
}

impl Paper for Notebook {
    fn answer(&self, request: Noted) -> Answered {
        let mut pages = self.pages();
        let step = pages.step;
        let is_block = asks(&request, "comp=block");
        match pages.entries.last_mut() {
            Some(last) if is_block && last.step == step && last.is_of_blocks() => {
                last.one_more_block(request.body.len());
            }
            _ => {
                let notes = std::mem::take(&mut pages.notes);
                pages.entries.push(Entry::new(step, notes, &request, is_block));
            }
        }
        drop(pages);
        match request.operation {
            Some(operation) => self.of_service(operation),
            None => self.of_storage(step, &request),
        }
    }
}

/// A credential that is never asked.
#[derive(Debug)]
struct NoTokens {
    notebook: Arc<Notebook>,
    credential: String,
}

impl Tokens for NoTokens {
    fn token(&self, audience: Audience) -> BoxFuture<'_, Result<SecretString, Fault>> {
        let note = format!("{} would be asked for a token for {audience}", self.credential);
        let mut pages = self.notebook.pages();
        if !pages.notes.contains(&note) {
            pages.notes.push(note);
        }
        Box::pin(async { Ok("placeholder".into()) })
    }

    fn refused(&self, _: Audience, _: &SecretString) {}
}

/// Whether the query has this part.
fn asks(request: &Noted, part: &str) -> bool {
    let query = request.url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|there| there == part)
}

/// In the form of the service's own.
const RUN: &str = "0123456789abcdef0123456789abcdef";
const SOME_OUTPUT: &str = "output1";
const SCORES: &[u8] = b"Scored Labels\r\n0\r\n";
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
