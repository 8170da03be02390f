//! When a file is ready: the rules of the config, held against what is known of it.

use std::time::Duration;

use crate::feed::{Watch, Zero};

/// What is known of a file.
pub(super) struct Facts {
    /// For how long nothing about it has changed.
    pub(super) still_for: Duration,
    /// An event told that its writer closed it, or that it came by a rename, and nothing about it has changed since.
    pub(super) closed: bool,
    pub(super) size_bytes: u64,
}

/// What holds a file back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has to be still for so much longer.
    Settling(Duration),
    /// It has so much longer to get some content.
    ZeroGrace(Duration),
    /// It has no content, and such files are left alone.
    Zero,
    /// Its marker isn't there, or is older.
    NoMarker,
    /// It is open for writing, by this process.
    Writer(u32),
}

/// The first rule that holds a file back. What costs a look at the disk is asked last.
pub(super) fn hold(
    watch: &Watch,
    facts: &Facts,
    has_marker: impl FnOnce() -> bool,
    writer: impl FnOnce() -> Option<u32>,
) -> Option<Hold> {
    let settles = watch.ready.settle || (watch.ready.close_write && !facts.closed);
    let left = |time: Duration| Some(time.saturating_sub(facts.still_for)).filter(|t| !t.is_zero());
    if facts.size_bytes == 0 {
        if let Some(left) = left(watch.zero_grace) {
            return Some(Hold::ZeroGrace(left));
        }
        if watch.zero == Zero::Ignore {
            return Some(Hold::Zero);
        }
    }
    if let Some(left) = left(watch.settle).filter(|_| settles) {
        return Some(Hold::Settling(left));
    }
    if watch.ready.done_marker.is_some() && !has_marker() {
        return Some(Hold::NoMarker);
    }
    if watch.ready.no_writer { writer().map(Hold::Writer) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{DoneMarker, Ready};

    fn watch(rules: &[&str]) -> Watch {
        let rules: Vec<_> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        let ready = Ready::new(&rules, &DoneMarker::parse("{name}.done").unwrap()).unwrap();
        Watch { ready, ..Watch::new("/in".into()) }
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn each_rule_holds_back_by_itself_and_all_must_be_kept() {
        let all = ["settle", "no_writer", "close_write", "done_marker"];
        // Still for, closed, marker, writer.
        for (rules, still, closed, marker, writer, held) in [
            (&["settle"][..], 4, true, true, None, Some(Hold::Settling(second(1)))),
            (&["settle"], 5, false, false, Some(7), None),
            (&["no_writer"], 0, false, false, Some(7), Some(Hold::Writer(7))),
            (&["no_writer"], 0, false, false, None, None),
            (&["close_write"], 0, true, false, Some(7), None),
            (&["close_write"], 1, false, true, None, Some(Hold::Settling(second(4)))),
            (&["close_write"], 5, false, false, None, None),
            (&["done_marker"], 0, false, true, Some(7), None),
            (&["done_marker"], 999, true, false, None, Some(Hold::NoMarker)),
            (&["rename_only"], 0, false, false, Some(7), None),
            (&["rename_only", "done_marker"], 0, false, false, None, Some(Hold::NoMarker)),
            (&all, 5, true, true, None, None),
            (&all, 4, true, true, None, Some(Hold::Settling(second(1)))),
            (&all, 5, true, false, None, Some(Hold::NoMarker)),
            (&all, 5, true, true, Some(7), Some(Hold::Writer(7))),
        ] {
            let facts = Facts { still_for: second(still), closed, size_bytes: 1 };
            let found = hold(&watch(rules), &facts, || marker, || writer);
            assert_eq!(found, held, "{rules:?} {still} {closed} {marker} {writer:?}");
        }
    }

    #[test]
    fn a_file_without_content_waits_for_some_and_then_goes_by_its_own_rule() {
        let empty = |still| Facts { still_for: second(still), closed: true, size_bytes: 0 };
        for (zero, after) in [(Zero::Reject, None), (Zero::Ignore, Some(Hold::Zero))] {
            let watch = Watch { zero, ..watch(&["rename_only"]) };
            let found = |still| hold(&watch, &empty(still), || true, || None);
            assert_eq!(found(10), Some(Hold::ZeroGrace(second(50))));
            assert_eq!(found(60), after);
        }
    }
}
