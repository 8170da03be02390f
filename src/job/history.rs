//! A job's history: one event a write, and what they lead to when they are read again.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Phase;

/// One line of a job's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: DateTime<Utc>,
    /// The job's revision after it: the history's order.
    pub revision: u64,
    /// The generation it belongs to.
    pub generation: u32,
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The outcome's name.
    pub outcome: String,
    /// What a person wants to know about it.
    pub detail: Option<String>,
}

/// What a whole history, oldest event first, leads to: phase, generation and revision. Every write of a job has its
/// event, so a gap, a step that doesn't begin where the last one ended and a generation that falls are refused, with
/// words that name the event.
pub fn replay(events: &[Event]) -> Result<(Phase, u32, u64), String> {
    if events.is_empty() {
        return Err("there are no events".into());
    }
    let mut at = (Phase::Queued, 1, 0);
    for event in events {
        let (phase, generation, revision) = at;
        let refused = |what: String| Err(format!("event {} {what}", event.revision));
        if event.revision != revision + 1 {
            return refused(format!("follows on revision {revision}"));
        }
        if event.from != phase {
            let (from, phase) = (event.from.name(), phase.name());
            return refused(format!("begins at {from}, and the one before ended at {phase}"));
        }
        if event.generation < generation {
            let now = event.generation;
            return refused(format!("is of generation {now}, and the one before of {generation}"));
        }
        at = (event.to, event.generation, event.revision);
    }
    Ok(at)
}

/// A time as people say it: its two greatest units.
pub(super) fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m")];
    let units = units.into_iter().chain([(seconds % 60, "s")]);
    let said: Vec<_> = units
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if said.is_empty() { "less than 1s".into() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_its_two_greatest_units() {
        for (seconds, said) in [
            (0, "less than 1s"),
            (9, "9s"),
            (60, "1m"),
            (61, "1m 1s"),
            (11_520, "3h 12m"),
            (3601, "1h"),
            (90_000, "1d 1h"),
            (8_640_000, "100d"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), said);
        }
    }
}
