//! What a budget of calls has granted, and what it grants.
//!
//! A log of the last minute's calls and no bucket of tokens: a bucket that holds a minute's calls and is filled at their
//! rate grants nearly twice as many within some minute, and API Management's own window slides. What is granted is counted
//! where it is granted, but the gateway counts what arrives; one call may take longer on its way than the next. So
//! calls count for a moment longer than they do there.

use std::time::Duration;

use crate::ports::{CallLimits, Draw, Drawn};

/// What was granted out of one budget. Times are in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// The calls of the last minute, oldest first.
    pub(super) calls: Vec<i64>,
    /// When the first of the present seven days was granted.
    pub(super) week_began: Option<i64>,
    /// How many were granted since.
    pub(super) week_calls: u32,
}

impl Account {
    /// Grants what there is.
    pub(super) fn draw(&mut self, limits: CallLimits, draw: Draw, now: i64) -> Drawn {
        self.forget(now);
        let minute = limits.per_minute.map(|limit| limit.saturating_sub(count(&self.calls)));
        let week = limits.per_week.map(|limit| limit.saturating_sub(self.week_calls));
        let week = week.map(|left| left.saturating_sub(draw.keep));
        let free = minute.unwrap_or(draw.most).min(week.unwrap_or(draw.most)).min(draw.most);
        let granted = if free < draw.least { 0 } else { free };
        if granted > 0 {
            self.calls.extend((0..granted).map(|_| now));
            self.week_began.get_or_insert(now);
            self.week_calls = self.week_calls.saturating_add(granted);
        }
        self.answer(limits, draw, granted, now)
    }

    /// Forgets what is over. What lies ahead of a clock that was set back was granted now at the latest: it is over after
    /// a minute or a week, however far the clock was ahead.
    fn forget(&mut self, now: i64) {
        self.calls.retain(|at| *at > now - WINDOW_US);
        self.calls.iter_mut().for_each(|at| *at = now.min(*at));
        self.week_began = self.week_began.filter(|at| *at > now - WEEK_US).map(|at| at.min(now));
        if self.week_began.is_none() {
            self.week_calls = 0;
        }
    }

    /// What is left after a draw.
    pub(super) fn answer(&self, limits: CallLimits, draw: Draw, granted: u32, now: i64) -> Drawn {
        let until = |at: i64| Duration::from_micros(u64::try_from(at - now).unwrap_or_default());
        let left = limits.per_minute.map(|limit| limit.saturating_sub(count(&self.calls)));
        let week_left = limits.per_week.map(|limit| limit.saturating_sub(self.week_calls));
        let week_ends = until(self.week_began.unwrap_or(now) + WEEK_US);
        let wanted = draw.least.max(1);
        let mut again = Duration::ZERO;
        if let (Some(limit), Some(left)) = (limits.per_minute, left) {
            // Of those beyond what may be there beside the wanted ones, the last has to leave.
            let beyond = wanted.min(limit).saturating_sub(left);
            let last = beyond.checked_sub(1).and_then(|n| self.calls.get(n as usize));
            again = last.map_or(again, |at| until(at + WINDOW_US));
        }
        if let (Some(limit), Some(left)) = (limits.per_week, week_left)
            && left.saturating_sub(draw.keep) < wanted.min(limit)
        {
            again = again.max(week_ends);
        }
        Drawn { granted, again, minute_left: left, week_left, week_ends }
    }
}

fn count(calls: &[i64]) -> u32 {
    u32::try_from(calls.len()).unwrap_or(u32::MAX)
}

/// A minute, and how much longer a call may be on its way than those after it.
pub(super) const WINDOW_US: i64 = 63_000_000;
pub(super) const WEEK_US: i64 = 7 * 24 * 3600 * 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: CallLimits = CallLimits { per_minute: Some(5), per_week: None };

    fn secs(seconds: i64) -> i64 {
        seconds * 1_000_000
    }

    fn one() -> Draw {
        Draw { least: 1, most: 1, keep: 0 }
    }

    #[test]
    fn no_minute_has_more_calls_than_there_are_whenever_they_are_drawn() {
        for step in [1, 700, 7_000, 13_000] {
            let (mut account, mut granted) = (Account::default(), Vec::new());
            for now in (0..600_000_i64).step_by(usize::try_from(step).unwrap()).map(|ms| ms * 1000)
            {
                let most = u32::try_from(now / 1000 / step).unwrap() % 4;
                let drawn = account.draw(MINUTE, Draw { least: 1, most, keep: 0 }, now);
                granted.extend((0..drawn.granted).map(|_| now));
            }
            assert!(granted.len() >= 30, "{}", granted.len());
            let close = |calls: &[i64]| calls[5] - calls[0] < secs(60);
            assert!(!granted.windows(6).any(close), "every {step} ms");
        }
    }

    #[test]
    fn it_tells_when_to_come_again_and_then_there_is_some() {
        let mut account = Account::default();
        for n in 0..5 {
            assert_eq!(account.draw(MINUTE, one(), secs(n)).granted, 1);
        }
        let two = Draw { least: 2, most: 2, keep: 0 };
        for (draw, again) in [(one(), 58), (two, 59)] {
            let drawn = account.clone().draw(MINUTE, draw, secs(5));
            assert_eq!((drawn.granted, drawn.again), (0, Duration::from_secs(again)));
            let then = secs(5) + i64::try_from(drawn.again.as_micros()).unwrap();
            assert_eq!(account.clone().draw(MINUTE, draw, then - 1).granted, 0);
            assert_eq!(account.clone().draw(MINUTE, draw, then).granted, draw.least);
        }
    }

    #[test]
    fn less_than_is_of_use_is_not_granted_and_not_lost() {
        let mut account = Account::default();
        account.draw(MINUTE, Draw { least: 4, most: 4, keep: 0 }, 0);
        let two = Draw { least: 2, most: 3, keep: 0 };
        let drawn = account.draw(MINUTE, two, 1);
        assert_eq!((drawn.granted, drawn.minute_left), (0, Some(1)));
        assert_eq!(account.draw(MINUTE, one(), 2).granted, 1);
    }

    #[test]
    fn the_week_begins_with_its_first_call_and_some_of_it_may_be_kept() {
        let limits = CallLimits { per_minute: None, per_week: Some(10) };
        let (mut account, began) = (Account::default(), secs(1000));
        let keeping = Draw { least: 1, most: 20, keep: 3 };
        assert_eq!(account.draw(limits, Draw::default(), 0).week_left, Some(10));
        let drawn = account.draw(limits, keeping, began);
        assert_eq!((drawn.granted, drawn.week_left), (7, Some(3)));
        let drawn = account.draw(limits, keeping, began + secs(60));
        assert_eq!((drawn.granted, drawn.again), (0, drawn.week_ends));
        assert_eq!(drawn.week_ends, Duration::from_mins(7 * 24 * 60 - 1));
        assert_eq!(account.draw(limits, Draw { keep: 0, ..keeping }, began + secs(70)).granted, 3);
        assert_eq!(account.draw(limits, one(), began + WEEK_US - 1).granted, 0);
        let drawn = account.draw(limits, one(), began + WEEK_US + secs(9));
        assert_eq!((drawn.granted, drawn.week_left), (1, Some(9)));
        assert_eq!(drawn.week_ends, Duration::from_hours(7 * 24), "from its first call");
    }

    #[test]
    fn a_clock_that_jumps_back_blocks_for_no_longer_than_a_window() {
        let limits = CallLimits { per_minute: Some(2), per_week: Some(2) };
        let (mut account, far) = (Account::default(), secs(1_000_000_000));
        assert_eq!(account.draw(limits, Draw { least: 2, most: 2, keep: 0 }, far).granted, 2);
        let drawn = account.draw(limits, one(), 0);
        assert_eq!((drawn.granted, drawn.again), (0, Duration::from_hours(7 * 24)));
        let drawn = account.draw(CallLimits { per_week: None, ..limits }, one(), secs(1));
        assert_eq!(drawn.again, Duration::from_secs(62));
        assert_eq!(account.draw(limits, one(), WEEK_US).granted, 1);
    }

    #[test]
    fn a_limit_that_was_lowered_grants_nothing_until_there_is_room() {
        let mut account = Account::default();
        account.draw(MINUTE, Draw { least: 5, most: 5, keep: 0 }, 0);
        let lower = CallLimits { per_minute: Some(2), per_week: Some(3) };
        let drawn = account.draw(lower, one(), 1);
        assert_eq!((drawn.granted, drawn.minute_left, drawn.week_left), (0, Some(0), Some(0)));
    }
}
