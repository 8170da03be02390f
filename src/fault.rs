//! What can go wrong outside, sorted by what can be done about it.
//!
//! An adapter sorts a fault once, where it saw it; above it nobody looks at status codes or error kinds again. A fault
//! is not an error of ours: the engine takes it as one of the outcomes of an action.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something outside said no, or said nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What can be done about it.
    pub class: Class,
    /// Where it happened: what is suspended by a fatal one.
    pub origin: Origin,
    /// Whose trouble it is, as far as one answer can tell.
    pub blame: Blame,
    /// A short name to search for, the remote's own where it gave one (`InvalidInputNames`, `connect`).
    pub code: String,
    /// What was attempted, what came back, what would mend it. Never holds a secret.
    pub message: String,
}

/// What can be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Try again, after a growing wait; counts against the job's attempts.
    Transient,
    /// The other side asked for a pause, of this length if it named one; everything that goes there waits; free.
    Throttled(Option<Duration>),
    /// This job can't succeed as it is; others can.
    Permanent,
    /// Nothing that goes there can succeed until somebody mends it; everything that goes there waits, untouched.
    Fatal,
}

impl Class {
    /// The name in metrics, logs and the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled(_) => "throttled",
            Self::Permanent => "permanent",
            Self::Fatal => "fatal",
        }
    }

    /// The names of all classes.
    pub const NAMES: [&'static str; 4] = ["transient", "throttled", "permanent", "fatal"];
}

/// The place where a fault happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The folder that inputs come from.
    Inbox,
    /// The blob storage.
    Storage,
    /// The scoring service, or the gateway in front of it.
    Endpoint,
    /// The folders that outputs and finished sources go to.
    Outbox,
}

/// Whose trouble a fault is, as far as one answer can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Perhaps this job's own: another one may well succeed.
    Job,
    /// The other side's: refused or broken connections, time-outs, 502, 504. Never costs a job an attempt.
    Service,
    /// Everybody's together: the other side has more to do than it can (503, 429). Never costs a job an attempt, and
    /// fewer calls at once are what helps.
    Load,
}

impl Fault {
    /// A fault that may pass, and may be this job's own.
    pub fn transient(origin: Origin, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Transient, origin, Blame::Job, code, message)
    }

    /// A fault that may pass, and is the other side's.
    pub fn unavailable(
        origin: Origin,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Class::Transient, origin, Blame::Service, code, message)
    }

    /// A fault that may pass, since the other side has too much to do at the moment.
    pub fn overloaded(origin: Origin, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Transient, origin, Blame::Load, code, message)
    }

    /// The other side asked for a pause. One that makes no sense is brought to one that does: none at all would have
    /// us ask without end, and no clock holds a million years.
    pub fn throttled(
        origin: Origin,
        after: Option<Duration>,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let after = after.map(|after| after.clamp(PAUSE_MIN, PAUSE_MAX));
        Self::new(Class::Throttled(after), origin, Blame::Load, code, message)
    }

    /// This job can't succeed as it is.
    pub fn permanent(origin: Origin, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Permanent, origin, Blame::Job, code, message)
    }

    /// Nothing that goes there can succeed until somebody mends it.
    pub fn fatal(origin: Origin, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Fatal, origin, Blame::Service, code, message)
    }

    fn new(
        class: Class,
        origin: Origin,
        blame: Blame,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let mut message: String = message.into();
        // The remote's words can be pages long; what is kept is what a person reads.
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX_CHARS) {
            message.truncate(end);
            message.push('…');
        }
        Self { class, origin, blame, code: code.into(), message }
    }

    /// Whether fewer calls at once would help.
    pub fn is_overload(&self) -> bool {
        self.blame == Blame::Load
    }

    /// The part that is kept with the job.
    pub fn record(&self) -> FaultRecord {
        FaultRecord {
            class: self.class.name().to_owned(),
            code: self.code.clone(),
            message: self.message.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbox => "inbox",
            Self::Storage => "storage",
            Self::Endpoint => "endpoint",
            Self::Outbox => "outbox",
        })
    }
}

/// A job's last fault, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FaultRecord {
    /// What follows from it, in a word.
    pub class: String,
    /// A short name to search for; the remote's own where it gave one.
    pub code: String,
    /// What happened, in the remote's own words where it said something.
    pub message: String,
}

/// An error with its causes, those that it doesn't name itself.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Hides what must not be read from text that came from outside: the signature of a shared access token, an account
/// key, a bearer token, a subscription key.
pub fn redact(text: &str) -> String {
    const SECRETS: [&str; 7] = [
        "sig=",
        "accountkey=",
        "sharedaccesssignature=",
        "bearer ",
        "sharedkey ",
        "subscription-key=",
        "subscription-key: ",
    ];
    // Lower-casing ASCII alone keeps every byte where it is, so positions hold in both texts.
    let lower = text.to_ascii_lowercase();
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    while let Some((start, secret)) = SECRETS
        .iter()
        .filter_map(|secret| lower[at..].find(secret).map(|found| (at + found, secret)))
        .min()
    {
        let from = start + secret.len();
        shown.push_str(&text[at..from]);
        shown.push_str("***");
        let ends = |c: char| c.is_whitespace() || "&;\"'<>,})]".contains(c);
        at = text[from..].find(ends).map_or(text.len(), |length| from + length);
    }
    shown.push_str(&text[at..]);
    shown
}

const MESSAGE_MAX_CHARS: usize = 2000;
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest common quota period; asking once a week costs nothing.
const PAUSE_MAX: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        for (text, shown) in [
            ("nothing here", "nothing here"),
            ("https://a/b?sv=1&sig=abc%3D&se=2 gone", "https://a/b?sv=1&sig=***&se=2 gone"),
            ("AccountName=a;AccountKey=Zm9v==;X=1", "AccountName=a;AccountKey=***;X=1"),
            ("Authorization: Bearer abc.def\nnext", "Authorization: Bearer ***\nnext"),
            ("{\"t\":\"?sig=q\"} ü sig=z", "{\"t\":\"?sig=***\"} ü sig=***"),
            ("sig=", "sig=***"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn a_pause_that_makes_no_sense_is_brought_to_one_that_does() {
        let pause = |after| Fault::throttled(Origin::Storage, after, "429", "slow down").class;
        assert_eq!(pause(Some(Duration::ZERO)), Class::Throttled(Some(PAUSE_MIN)));
        assert_eq!(pause(Some(Duration::MAX)), Class::Throttled(Some(PAUSE_MAX)));
        assert_eq!(pause(None), Class::Throttled(None));
    }

    #[test]
    fn a_message_of_pages_is_cut() {
        let fault = Fault::permanent(Origin::Endpoint, "x", "ü".repeat(3000));
        assert_eq!(fault.message.chars().count(), MESSAGE_MAX_CHARS + 1);
    }
}
