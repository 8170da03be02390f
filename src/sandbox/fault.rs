//! Faults on demand: what may go wrong, how often, and the seeded dice that decide it.

use std::fmt;
use std::str::FromStr;

/// One rule: an operation, what befalls it, and how often.
///
/// Written `OPERATION=KIND:CHANCE`, as in `submit=503:0.1`, `start=lost:*2` or `any=reset:0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Whom it befalls.
    pub operation: Operation,
    /// What happens.
    pub kind: Kind,
    /// How often.
    pub chance: Chance,
}

/// The calls that can be made to fail, and the remote run itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Registering a job.
    Submit,
    /// Starting one; at the batch endpoint, the one call that makes a run and starts it.
    Start,
    /// Asking for its status.
    Status,
    /// Cancelling one.
    Delete,
    /// Listing the runs of the batch endpoint.
    List,
    /// Giving a token.
    Token,
    /// Request/response scoring.
    Execute,
    /// Every change in blob storage: blobs, blocks, block lists, containers, deletions.
    Put,
    /// Every reading call to blob storage.
    Get,
    /// The remote run, not a call.
    Run,
    /// Every call, but not the run.
    Any,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An error answer with this status (500, 502, 503, 504, 429 or 403) and the body that goes with it; not acted.
    Status(u16),
    /// No answer for a minute, then a dropped connection; not acted.
    Timeout,
    /// The connection is dropped before acting.
    Reset,
    /// Acted, and then the connection is dropped without an answer.
    Lost,
    /// A proxy's 502 with a page of HTML; not acted.
    Html,
    /// The remote run ends `Failed`.
    Fail,
    /// Acted, but late by `Settings::slow_by`.
    Slow,
    /// Request/response scoring answers zeros as NaN and ones as null, bare as the real service writes them.
    Nan,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chance {
    /// With this probability, 0 to 1, each time.
    Probability(f64),
    /// The next so many times, then never.
    Next(u32),
}

/// Why a text is no [`Fault`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading the fault {text:?}: {reason}; write OPERATION=KIND:CHANCE, as in submit=503:0.1 or start=lost:*2"
)]
pub struct FaultError {
    text: String,
    reason: String,
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let wrong = |reason: String| FaultError { text: text.into(), reason };
        let (operation, rest) =
            text.split_once('=').ok_or_else(|| wrong("there is no \"=\"".into()))?;
        let (kind, chance) = rest
            .split_once(':')
            .ok_or_else(|| wrong("there is no \":\" before the chance".into()))?;
        let operation = find(&OPERATIONS, operation).map_err(|known| {
            wrong(format!("unknown operation {operation:?}, expected one of {known}"))
        })?;
        let kind = find(&KINDS, kind)
            .map_err(|known| wrong(format!("unknown kind {kind:?}, expected one of {known}")))?;
        match (operation, kind) {
            (Operation::Run, Kind::Fail | Kind::Slow) => {}
            (Operation::Run, _) => {
                return Err(wrong(
                    "a run is no call, so it can only \"fail\" or be \"slow\"".into(),
                ));
            }
            (_, Kind::Fail) => return Err(wrong("only a run can \"fail\"".into())),
            (operation, Kind::Nan) if operation != Operation::Execute => {
                return Err(wrong("only \"execute\" can answer \"nan\"".into()));
            }
            _ => {}
        }
        let chance = match chance.strip_prefix('*') {
            Some(count) => Chance::Next(
                count.parse().map_err(|_| wrong(format!("{count:?} is not a number of times")))?,
            ),
            None => match chance.parse::<f64>() {
                Ok(probability) if (0.0..=1.0).contains(&probability) => {
                    Chance::Probability(probability)
                }
                _ => {
                    return Err(wrong(format!(
                        "the chance {chance:?} is neither a probability from 0 to 1 nor *N"
                    )));
                }
            },
        };
        Ok(Self { operation, kind, chance })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:", name(&OPERATIONS, self.operation), name(&KINDS, self.kind))?;
        match self.chance {
            Chance::Probability(probability) => write!(f, "{probability}"),
            Chance::Next(count) => write!(f, "*{count}"),
        }
    }
}

impl Operation {
    fn covers(self, other: Self) -> bool {
        self == other || (self == Self::Any && other != Self::Run)
    }
}

/// The rules in force and the dice. Rules are asked in order; the first that strikes wins.
pub(super) struct Faults {
    rules: Vec<Fault>,
    dice: Dice,
}

impl Faults {
    pub(super) fn new(rules: Vec<Fault>, seed: u64) -> Self {
        Self { rules, dice: Dice(seed) }
    }

    pub(super) fn set(&mut self, rules: Vec<Fault>) {
        self.rules = rules;
    }

    pub(super) fn strike(&mut self, operation: Operation) -> Option<Kind> {
        for rule in &mut self.rules {
            if !rule.operation.covers(operation) {
                continue;
            }
            let strikes = match &mut rule.chance {
                Chance::Probability(probability) => self.dice.roll() < *probability,
                Chance::Next(0) => false,
                Chance::Next(left) => {
                    *left -= 1;
                    true
                }
            };
            if strikes {
                return Some(rule.kind);
            }
        }
        None
    }
}

/// `SplitMix64`: repeatable from its seed, and good enough to decide what breaks.
struct Dice(u64);

impl Dice {
    /// A number from 0 up to, but never, 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 32 bits are exact in an f64, and finer than any probability that somebody types.
        let top = u32::try_from(mixed >> 32).unwrap_or_default();
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}

fn find<T: Copy>(table: &[(&str, T)], text: &str) -> Result<T, String> {
    table
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
}

fn name<T: Copy + PartialEq>(table: &[(&'static str, T)], wanted: T) -> &'static str {
    table.iter().find(|(_, value)| *value == wanted).map_or("?", |(name, _)| name)
}

const OPERATIONS: [(&str, Operation); 11] = [
    ("submit", Operation::Submit),
    ("start", Operation::Start),
    ("status", Operation::Status),
    ("delete", Operation::Delete),
    ("list", Operation::List),
    ("token", Operation::Token),
    ("execute", Operation::Execute),
    ("put", Operation::Put),
    ("get", Operation::Get),
    ("run", Operation::Run),
    ("any", Operation::Any),
];

const KINDS: [(&str, Kind); 13] = [
    ("500", Kind::Status(500)),
    ("502", Kind::Status(502)),
    ("503", Kind::Status(503)),
    ("504", Kind::Status(504)),
    ("429", Kind::Status(429)),
    ("403", Kind::Status(403)),
    ("timeout", Kind::Timeout),
    ("reset", Kind::Reset),
    ("lost", Kind::Lost),
    ("html", Kind::Html),
    ("fail", Kind::Fail),
    ("slow", Kind::Slow),
    ("nan", Kind::Nan),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_it_is_written() {
        for text in ["submit=503:0.25", "start=lost:*2", "any=reset:1", "run=fail:*1", "get=slow:0"]
        {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_fault_says_what_is_wrong_with_it() {
        for (text, reason) in [
            ("submit", "no \"=\""),
            ("submit=503", "no \":\""),
            ("launch=503:1", "unknown operation \"launch\", expected one of submit, start"),
            ("submit=418:1", "unknown kind \"418\""),
            ("submit=503:2", "neither a probability"),
            ("submit=503:NaN", "neither a probability"),
            ("submit=503:*x", "not a number of times"),
            ("submit=fail:1", "only a run"),
            ("submit=nan:1", "only \"execute\""),
            ("run=503:1", "a run is no call"),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_counted_fault_strikes_so_often_and_no_more() {
        let mut faults = Faults::new(vec!["submit=503:*2".parse().unwrap()], 1);
        assert_eq!(faults.strike(Operation::Start), None);
        assert_eq!(faults.strike(Operation::Submit), Some(Kind::Status(503)));
        assert_eq!(faults.strike(Operation::Submit), Some(Kind::Status(503)));
        assert_eq!(faults.strike(Operation::Submit), None);
    }

    #[test]
    fn any_covers_calls_but_not_the_run() {
        let mut faults = Faults::new(vec!["any=reset:1".parse().unwrap()], 1);
        assert_eq!(faults.strike(Operation::Get), Some(Kind::Reset));
        assert_eq!(faults.strike(Operation::Run), None);
    }

    #[test]
    fn one_seed_gives_one_course_near_its_probability() {
        let course = |seed| {
            let mut faults = Faults::new(vec!["status=500:0.3".parse().unwrap()], seed);
            (0..1000).map(|_| faults.strike(Operation::Status).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(course(7), course(7));
        assert_ne!(course(7), course(8));
        let hits = course(7).into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hits), "{hits}");
    }
}
