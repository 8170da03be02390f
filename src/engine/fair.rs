//! Who is next, when many feeds wait for the same thing: each feed in its turn, and within a feed whoever came first.
//!
//! One line for all would let a folder with a million files keep every other feed's file waiting behind them.

use std::collections::{BTreeMap, VecDeque};

use crate::feed::Name;

/// Those who wait, by feed.
pub(super) struct Fair<T> {
    lines: BTreeMap<Name, VecDeque<T>>,
    /// Every feed of which somebody waits, once, the next one first.
    turns: VecDeque<Name>,
}

impl<T> Fair<T> {
    pub(super) fn new() -> Self {
        Self { lines: BTreeMap::new(), turns: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// At the end of its feed's line.
    pub(super) fn push(&mut self, feed: &Name, waiting: T) {
        if let Some(line) = self.lines.get_mut(feed) {
            line.push_back(waiting);
        } else {
            self.lines.insert(feed.clone(), VecDeque::from([waiting]));
            self.turns.push_back(feed.clone());
        }
    }

    /// The next one, with its feed.
    pub(super) fn pop(&mut self) -> Option<(Name, T)> {
        self.pop_of(|_| true)
    }

    /// The next one of those feeds that may; the others keep their turns.
    pub(super) fn pop_of(&mut self, may: impl Fn(&Name) -> bool) -> Option<(Name, T)> {
        let next = self.turns.iter().position(may)?;
        let feed = self.turns.remove(next)?;
        // A feed in `turns` has a line with somebody in it.
        let line = self.lines.get_mut(&feed)?;
        let first = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&feed);
        } else {
            self.turns.push_back(feed.clone());
        }
        Some((feed, first))
    }

    /// Puts back what was popped and is still not served, in the order it was popped: it is next again in that order.
    pub(super) fn unpop(&mut self, unserved: Vec<(Name, T)>) {
        let mut turns = VecDeque::new();
        for (feed, _) in &unserved {
            if !turns.contains(feed) {
                turns.push_back(feed.clone());
            }
        }
        turns.extend(self.turns.drain(..).filter(|feed| !turns.contains(feed)).collect::<Vec<_>>());
        self.turns = turns;
        for (feed, waiting) in unserved.into_iter().rev() {
            self.lines.entry(feed).or_default().push_front(waiting);
        }
    }

    /// The feeds of which somebody waits.
    pub(super) fn feeds(&self) -> impl Iterator<Item = &Name> {
        self.turns.iter()
    }

    /// Everybody, in no order that matters.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.lines.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::try_from(text.to_owned()).unwrap()
    }

    fn line_of(waiting: &[&str]) -> Fair<String> {
        let mut fair = Fair::new();
        for one in waiting {
            fair.push(&name(&one[..1]), (*one).to_owned());
        }
        fair
    }

    fn all(mut fair: Fair<String>) -> Vec<String> {
        std::iter::from_fn(|| fair.pop().map(|(_, one)| one)).collect()
    }

    #[test]
    fn a_feed_with_many_does_not_keep_another_feeds_first_waiting() {
        let fair = line_of(&["a1", "a2", "a3", "a4", "b1", "c1", "c2"]);
        assert_eq!(all(fair), ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]);
    }

    #[test]
    fn whoever_was_not_served_is_next_again() {
        let mut fair = line_of(&["a1", "a2", "a3", "b1", "b2", "c1"]);
        let mut popped: Vec<_> = std::iter::from_fn(|| fair.pop()).take(4).collect();
        assert_eq!(
            popped.iter().map(|(_, one)| one.as_str()).collect::<Vec<_>>(),
            ["a1", "b1", "c1", "a2"]
        );
        // Only the first was served.
        popped.remove(0);
        fair.unpop(popped);
        fair.push(&name("d"), "d1".into());
        assert_eq!(all(fair), ["b1", "c1", "a2", "d1", "b2", "a3"]);
    }

    #[test]
    fn a_feed_that_is_passed_over_is_next_once_it_may() {
        let mut fair = line_of(&["a1", "a2", "b1", "b2", "c1"]);
        let others = |feed: &Name| *feed != name("a");
        let popped: Vec<_> =
            std::iter::from_fn(|| fair.pop_of(others)).take(2).map(|(_, one)| one).collect();
        assert_eq!(popped, ["b1", "c1"]);
        assert_eq!(all(fair), ["a1", "b2", "a2"]);
    }

    #[test]
    fn a_feed_that_was_served_waits_for_the_others() {
        let mut fair = line_of(&["a1", "b1"]);
        assert_eq!(fair.pop().unwrap().1, "a1");
        fair.push(&name("a"), "a2".into());
        assert_eq!(all(fair), ["b1", "a2"]);
    }
}
