//! A daemon's stream of transitions (server-sent events), which goes on where it broke off.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use crate::clock::SystemClock;
use crate::job::{JobId, Phase};
use crate::ports::Clock as _;

/// A transition of a job.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Transition {
    pub(super) at: String,
    pub(super) job: JobId,
    pub(super) feed: String,
    pub(super) name: String,
    /// `None` where a job is told of as it stands.
    pub(super) from: Option<Phase>,
    pub(super) to: Phase,
    pub(super) outcome: Option<String>,
    pub(super) detail: Option<String>,
}

/// What was heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// From here on nothing is missed: what was there before can be asked for now.
    Begun,
    /// A job went on.
    Transition(Box<Transition>),
    /// The connection is gone, for this reason; it is tried again.
    Lost(String),
}

/// The stream.
pub(super) struct Events<'a> {
    client: &'a Client,
    params: Vec<(&'static str, String)>,
    answer: Option<reqwest::Response>,
    parser: Parser,
    heard: VecDeque<Heard>,
    last: Option<String>,
    has_begun: bool,
    /// A daemon of an older version has no such stream, and is asked again and again.
    asks: bool,
    losses: u32,
}

impl<'a> Events<'a> {
    /// Of the daemon; the parameters narrow it.
    pub(super) fn of(client: &'a Client, params: Vec<(&'static str, String)>) -> Self {
        Self {
            client,
            params,
            answer: None,
            parser: Parser::default(),
            heard: VecDeque::new(),
            last: None,
            has_begun: false,
            asks: false,
            losses: 0,
        }
    }

    /// The next one. The error is of a daemon that can't be reached to begin with, or not any more for minutes.
    pub(super) async fn next(&mut self) -> Result<Heard, ClientError> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            let Some(answer) = &mut self.answer else {
                if self.asks {
                    SystemClock.sleep(PAUSE).await;
                    return Ok(Heard::Begun);
                }
                self.connect().await?;
                continue;
            };
            let lost = match SystemClock.timeout(SILENCE, answer.chunk()).await {
                Some(Ok(Some(bytes))) => {
                    self.losses = 0;
                    for message in self.parser.read(&bytes) {
                        self.take(message);
                    }
                    continue;
                }
                Some(Ok(None)) => "the daemon ended the stream".to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "the daemon says nothing".to_owned(),
            };
            self.answer = None;
            self.parser = Parser::default();
            return Ok(Heard::Lost(lost));
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        loop {
            let wait = Duration::from_secs(1 << self.losses.min(4));
            if self.losses > 0 {
                SystemClock.sleep(wait).await;
            }
            match self.client.listen("/api/v1/events", &self.params, self.last.as_deref()).await {
                Ok(answer) => {
                    self.answer = Some(answer);
                    // Without a place to go on from, anything may have been missed.
                    if !self.has_begun || self.last.is_none() {
                        self.heard.push_back(Heard::Begun);
                    }
                    self.has_begun = true;
                    self.losses += 1;
                    return Ok(());
                }
                Err(ClientError::Refused { status: 404, .. }) => {
                    self.asks = true;
                    self.heard.push_back(Heard::Begun);
                    return Ok(());
                }
                Err(error) => {
                    let passes = matches!(
                        error,
                        ClientError::Unreachable { .. } | ClientError::Refused { status: 503, .. }
                    );
                    if !self.has_begun || !passes || self.losses >= LOSSES_MAX {
                        return Err(error);
                    }
                    self.losses += 1;
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        self.last = message.id.or(self.last.take());
        match message.event.as_str() {
            "gap" => self.heard.push_back(Heard::Begun),
            "transition" => {
                // What a newer daemon tells in another way is asked for at its next transition.
                if let Ok(transition) = serde_json::from_str(&message.data) {
                    self.heard.push_back(Heard::Transition(Box::new(transition)));
                }
            }
            _ => {}
        }
    }
}

/// One message, by <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.
#[derive(Debug, Default, PartialEq)]
struct Message {
    event: String,
    data: String,
    id: Option<String>,
}

/// Makes messages of bytes, however they are cut.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    message: Message,
}

impl Parser {
    fn read(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    messages.push(message);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.message.event),
                "id" => self.message.id = Some(value.to_owned()),
                "data" => {
                    if !self.message.data.is_empty() {
                        self.message.data.push('\n');
                    }
                    self.message.data += value;
                }
                // A comment (`: ping`), or what nobody here goes by.
                _ => {}
            }
        }
        messages
    }
}

/// Between two looks at a daemon that has no stream.
const PAUSE: Duration = Duration::from_millis(500);
/// Three of the pings that a daemon sends every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// About three minutes: long enough for a daemon to be restarted.
const LOSSES_MAX: u32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_however_the_bytes_are_cut() {
        let text = ": ping\n\nevent: transition\r\nid: 7\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nevent: gap\ndata: {}\n\n";
        let whole = Parser::default().read(text.as_bytes());
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].event, "transition");
        assert_eq!(whole[0].id.as_deref(), Some("7"));
        assert_eq!(whole[0].data, "{\"a\":\n1}");
        assert_eq!(whole[1], Message { event: "gap".into(), data: "{}".into(), id: None });
        let mut parser = Parser::default();
        let pieces: Vec<_> =
            text.as_bytes().chunks(3).flat_map(|piece| parser.read(piece)).collect();
        assert_eq!(pieces, whole);
    }
}
