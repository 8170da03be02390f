//! How fast bytes may pass.
//!
//! A limit is a line at which bytes are paid for after they have passed: each piece takes its place at the end, and whoever
//! moved it waits until its turn is over. So streams that share a limit go round by pieces of the same size, however many
//! there are and however fast each could be, and nothing has to run beside them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Rules;
use crate::feed::{Feed, Name, Rates};
use crate::job::Action;

/// A limit that streams share.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: NonZeroU64,
    /// Until when everything that has passed is paid for (boot-clock time).
    paid_until: Mutex<Duration>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid_until: Mutex::default() }
    }

    /// Bytes have passed. Answers when they are paid for (boot-clock time).
    pub(super) fn pay(&self, bytes: u64, now: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Nobody leaves a number half written, even one who panics.
        let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        // A sleep that took too long, or a line that was empty for a moment, is made up for.
        *paid = (*paid).max(now.saturating_sub(CATCH_UP)).saturating_add(time);
        *paid
    }

    /// How many bytes pass at once: little enough that many streams all move within seconds, as their watchers expect.
    pub(super) fn piece(&self) -> usize {
        let part = usize::try_from(self.bytes_per_second.get() / 16).unwrap_or(usize::MAX);
        part.clamp(PIECE_MIN, PIECE_MAX)
    }
}

/// The limits of storages and feeds, by direction.
#[derive(Debug)]
pub(super) struct Limits {
    storages: BTreeMap<Name, [Option<Arc<Rate>>; 2]>,
    feeds: BTreeMap<Name, [Option<Arc<Rate>>; 2]>,
}

impl Limits {
    pub(super) fn new(rules: &Rules) -> Self {
        let rate = |limit: Option<NonZeroU64>| limit.map(|limit| Arc::new(Rate::new(limit)));
        let both = |rates: &Rates| [rate(rates.upload), rate(rates.download)];
        let feeds = rules.feeds.iter().map(|(name, feed)| (name.clone(), both(&feed.rates)));
        let storages = rules.storages.iter().map(|(name, rates)| (name.clone(), both(rates)));
        Self { storages: storages.collect(), feeds: feeds.collect() }
    }

    /// What an action of a feed's goes by.
    pub(super) fn of(&self, action: Action, feed: &Feed) -> Vec<Arc<Rate>> {
        let direction = match action {
            Action::Upload => 0,
            Action::Deliver => 1,
            Action::Submit | Action::Start | Action::Poll | Action::Cancel | Action::Settle => {
                return Vec::new();
            }
        };
        let both = [self.feeds.get(&feed.name), self.storages.get(&feed.storage)];
        both.into_iter().filter_map(|rates| rates?[direction].clone()).collect()
    }
}

/// For so long a line that was empty is made up for.
const CATCH_UP: Duration = Duration::from_millis(100);
const PIECE_MIN: usize = 4 << 10;
const PIECE_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bytes_per_second: u64) -> Rate {
        Rate::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    #[test]
    fn bytes_are_paid_for_one_after_the_other() {
        let (rate, now) = (rate(1000), Duration::from_secs(100));
        let times: Vec<_> = [500, 500, 1000].map(|bytes| rate.pay(bytes, now)).into();
        let after = |millis| now.saturating_sub(CATCH_UP) + Duration::from_millis(millis);
        assert_eq!(times, [after(500), after(1000), after(2000)]);
    }

    #[test]
    fn time_in_which_nothing_passed_is_not_saved_up() {
        let rate = rate(1000);
        rate.pay(1000, Duration::from_secs(100));
        let later = Duration::from_secs(5000);
        assert_eq!(rate.pay(1000, later), later.saturating_sub(CATCH_UP) + Duration::from_secs(1));
    }

    #[test]
    fn pieces_are_small_enough_for_slow_limits_and_large_enough_for_fast_ones() {
        assert_eq!(
            [1, 64 << 10, 160 << 10, 1 << 40].map(|n| rate(n).piece()),
            [PIECE_MIN, PIECE_MIN, 10 << 10, PIECE_MAX]
        );
    }
}
