//! How often wrong tokens may be shown: so often that nobody who mistypes is bothered, so seldom that nobody guesses.
//!
//! Each address has a bucket of its own, so that a right token is never locked out by what comes from elsewhere; a bucket
//! for all makes the many addresses of one guesser no better than a few. A bucket is one instant, the one at which it will
//! be full again (the generic cell rate algorithm), so an address costs some bytes, and none once it has calmed down.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Who failed lately, by the boot clock.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    all: Duration,
    of: HashMap<IpAddr, Duration>,
}

impl Failures {
    /// How long this address has to wait before a token of its is looked at.
    pub(super) fn wait(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = tally.of.get(&network(address)).copied().filter(|full| *full > now)?;
        // Only who has failed itself pays for the failures of all.
        ADDRESS.wait(full, now).max(ALL.wait(tally.all, now))
    }

    /// A wrong token came from this address.
    pub(super) fn failed(&self, address: IpAddr, now: Duration) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.all = ALL.drawn(tally.all, now);
        let network = network(address);
        if tally.of.len() >= ADDRESSES && !tally.of.contains_key(&network) {
            tally.of.retain(|_, full| *full > now);
            let soonest = tally.of.iter().min_by_key(|(_, full)| **full).map(|(ip, _)| *ip);
            if let Some(soonest) = soonest.filter(|_| tally.of.len() >= ADDRESSES) {
                tally.of.remove(&soonest);
            }
        }
        let full = tally.of.entry(network).or_default();
        *full = ADDRESS.drawn(*full, now);
    }
}

/// So many at once, then one in each interval.
struct Bucket {
    burst: u32,
    interval: Duration,
}

impl Bucket {
    fn drawn(&self, full: Duration, now: Duration) -> Duration {
        // Never further away than a whole bucket.
        (full.max(now) + self.interval).min(now + self.interval * self.burst)
    }

    fn wait(&self, full: Duration, now: Duration) -> Option<Duration> {
        full.checked_sub(now + self.interval * (self.burst - 1)).filter(|wait| !wait.is_zero())
    }
}

/// Whoever has an address of IPv6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

const ADDRESS: Bucket = Bucket { burst: 10, interval: Duration::from_secs(6) };
const ALL: Bucket = Bucket { burst: 100, interval: Duration::from_secs(1) };
const ADDRESSES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn ten_failures_are_free_and_then_one_in_six_seconds() {
        let failures = Failures::default();
        for n in 0..10 {
            assert_eq!(failures.wait(ip(1), START), None, "after {n}");
            failures.failed(ip(1), START);
        }
        assert_eq!(failures.wait(ip(1), START), Some(Duration::from_secs(6)));
        let later = START + Duration::from_secs(6);
        assert_eq!(failures.wait(ip(1), later), None);
        failures.failed(ip(1), later);
        assert_eq!(failures.wait(ip(1), later), Some(Duration::from_secs(6)));
        assert_eq!(failures.wait(ip(1), later + Duration::from_mins(2)), None);
    }

    #[test]
    fn who_has_not_failed_is_locked_out_by_nobody() {
        let failures = Failures::default();
        for n in 0..1000 {
            failures.failed(ip(n), START);
        }
        assert!(failures.wait(ip(5), START).is_some(), "all have failed too often");
        assert_eq!(failures.wait(ip(5000), START), None);
    }

    #[test]
    fn the_addresses_of_one_network_are_one_and_few_are_remembered() {
        let failures = Failures::default();
        for n in 0..10 {
            failures.failed(format!("2001:db8::{n}").parse().unwrap(), START);
        }
        assert!(failures.wait("2001:db8::ffff".parse().unwrap(), START).is_some());
        assert!(failures.wait("2001:db8:0:1::1".parse().unwrap(), START).is_none());
        for n in 0..20_000 {
            failures.failed(ip(n), START);
        }
        assert!(failures.0.lock().unwrap().of.len() <= ADDRESSES);
    }
}
