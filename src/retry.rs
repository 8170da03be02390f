//! How long to wait before the next try, and when to stop trying.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wait that grows by a factor from try to try, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// Each further wait is the last one times this; at least 1.
    pub factor: f64,
    /// No wait is longer.
    pub max: Duration,
}

impl Backoff {
    /// The wait before try `n` (0 is the first repetition), spread by up to a fifth either way.
    ///
    /// The spread is drawn from `seed` and `n` alone, so that jobs that failed together don't come back together, and
    /// a run can be repeated exactly.
    pub fn wait(&self, n: u32, seed: u64) -> Duration {
        let exponent = i32::try_from(n).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let seconds = seconds.min(self.max.as_secs_f64());
        let spread = 0.8 + 0.4 * unit(seed ^ u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Duration::from_secs_f64(seconds * spread)
    }
}

/// The rules of one feed about trying again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Tries of upload and submit, together, that fail for a reason that may be the job's own. At least 1.
    pub max_attempts: u32,
    /// The wait between tries.
    pub backoff: Backoff,
    /// New generations after the remote run itself failed.
    pub reruns: u32,
    /// Over the whole job; then it is cancelled remotely and failed.
    pub deadline: Duration,
    /// The wait between looks at a remote run, growing from its start.
    pub poll: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 8,
            backoff: Backoff {
                first: Duration::from_secs(1),
                factor: 2.0,
                max: Duration::from_mins(5),
            },
            reruns: 0,
            deadline: Duration::from_hours(7 * 24),
            poll: Backoff {
                first: Duration::from_secs(2),
                factor: 1.5,
                max: Duration::from_mins(1),
            },
        }
    }
}

/// A span of time as users write it: `"250ms"`, `"5s"`, `"10m"`, `"2h"`, `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not a duration: write a number and ms, s, m, h or d, like \"5s\"")
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit_ms: u64 = match &text[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        // A thousand years is more than any wait and far from where sums overflow.
        number
            .checked_mul(unit_ms)
            .filter(|ms| *ms <= 365_000 * 86_400_000)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(wrong)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let ms = span.0.as_millis();
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
            .map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
    }
}

/// A number in 0..1 from a seed.
pub fn unit(seed: u64) -> f64 {
    // 32 bits are exact in an f64, and enough to spread waits.
    f64::from(u32::try_from(mix(seed) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// The last step of `SplitMix64`: each bit of the number has a say in each bit of the answer.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_to_its_limit_and_stays_within_a_fifth() {
        let backoff = Policy::default().backoff;
        for n in 0..2000 {
            let plain = 2_f64.powi(i32::try_from(n.min(20)).unwrap()).min(300.0);
            for seed in [0, 1, u64::MAX] {
                let wait = backoff.wait(n, seed).as_secs_f64();
                assert!((plain * 0.8..=plain * 1.2).contains(&wait), "{n} {seed} {wait}");
            }
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|s| backoff.wait(3, s)).collect();
        assert!(waits.len() > 90, "jobs that failed together come back apart");
    }

    #[test]
    fn durations_are_read_and_written_as_users_write_them() {
        for text in ["250ms", "5s", "90s", "10m", "2h", "7d", "0ms"] {
            let span = Span::try_from(text.to_owned()).unwrap();
            let again = Span::try_from(String::from(span)).unwrap();
            assert_eq!(span, again, "{text}");
        }
        assert_eq!(String::from(Span(Duration::from_mins(90))), "90m");
        for wrong in ["", "5", "s", "-1s", "1.5h", "5 s", "99999999999999999999d", "999999999d"] {
            assert!(Span::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
