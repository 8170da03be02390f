//! How many calls to one side may go on at once: as many as the config allows, or as few as the other side can take.
//!
//! Additive increase, multiplicative decrease, as TCP does it (RFC 5681), since it settles without knowing the other
//! side's limit, and several nodes that share one come to share it fairly. Pure: it is told what came back and when.

use std::time::Duration;

/// A number of calls that adapts.
#[derive(Debug)]
pub(super) struct Concurrency {
    max: usize,
    limit: usize,
    /// Since the limit last changed.
    successes: usize,
    /// Boot-clock time of the last decrease.
    cut_at: Option<Duration>,
}

impl Concurrency {
    /// Begins at its most, which is at least 1: most services take what the config says.
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, limit: max, successes: 0, cut_at: None }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// A call succeeded: one more for as many of these as there may be at once, which is one more a round trip.
    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= self.limit {
            self.successes = 0;
            self.limit = (self.limit + 1).min(self.max);
        }
    }

    /// A call that began at `began` (boot-clock time) was refused since there were too many.
    ///
    /// All that went out together are refused together, and say the same thing once. So only a call that began after
    /// the last decrease counts, and one a second.
    pub(super) fn refused(&mut self, began: Duration, now: Duration) {
        if self.cut_at.is_some_and(|cut| began <= cut || now < cut + CUT_EVERY) {
            return;
        }
        self.cut_at = Some(now);
        self.successes = 0;
        self.limit = (self.limit / 2).max(1);
    }
}

const CUT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_is_halved_at_each_refusal_and_never_below_one() {
        let mut calls = Concurrency::new(64);
        let mut limits = vec![calls.limit()];
        for n in 1..=8 {
            calls.refused(ms(n * 5000), ms(n * 5000 + 100));
            limits.push(calls.limit());
        }
        assert_eq!(limits, [64, 32, 16, 8, 4, 2, 1, 1, 1]);
    }

    #[test]
    fn calls_that_went_out_together_are_refused_once() {
        for (began, now, limit, why) in [
            (900, 1010, 32, "it went out before the decrease"),
            (1000, 9000, 32, "so did this one, however late its answer is"),
            (1001, 1999, 32, "a second is not over"),
            (1001, 2000, 16, "it is"),
        ] {
            let mut calls = Concurrency::new(64);
            calls.refused(ms(0), ms(1000));
            assert_eq!(calls.limit(), 32);
            calls.refused(ms(began), ms(now));
            assert_eq!(calls.limit(), limit, "{why}");
        }
    }

    #[test]
    fn as_many_successes_as_the_limit_add_one_and_the_most_is_never_passed() {
        let mut calls = Concurrency::new(4);
        calls.refused(ms(0), ms(0));
        calls.refused(ms(2000), ms(2000));
        assert_eq!(calls.limit(), 1);
        let limits: Vec<_> = (0..12)
            .map(|_| {
                calls.succeeded();
                calls.limit()
            })
            .collect();
        assert_eq!(limits, [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn a_refusal_takes_back_the_successes_before_it() {
        let mut calls = Concurrency::new(8);
        (0..7).for_each(|_| calls.succeeded());
        calls.refused(ms(0), ms(0));
        assert_eq!(calls.limit(), 4);
        (0..3).for_each(|_| calls.succeeded());
        assert_eq!(calls.limit(), 4);
        calls.succeeded();
        assert_eq!(calls.limit(), 5);
    }

    #[test]
    fn a_limit_of_nothing_is_one() {
        assert_eq!(Concurrency::new(0).limit(), 1);
    }
}
