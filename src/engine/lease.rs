//! A node's right to act: how long it lasts, and who holds it.
//!
//! Others may take a node's jobs over when they have seen it silent for the whole term, each by its own clock. The node
//! itself stops earlier: its term counts from before its last answered beat was sent, and is shorter by a margin for
//! clocks that don't run alike. Past that it begins nothing, until a beat is answered again: then nobody has fenced it
//! off, since that and a beat exclude each other in the store, and it simply goes on. A node that was fenced off goes
//! on under a new id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::ports::{Clock, Node, Permit};

/// A node's place among the others: its id, and for how long it may act under it.
#[derive(Clone, Debug)]
pub struct Tenure<C> {
    /// Who it is.
    pub node: Node,
    /// For how long.
    pub lease: Lease<C>,
}

/// For how long a node may act. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease<C> {
    clock: C,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    term: Duration,
    /// Boot-clock time in nanoseconds.
    until: AtomicU64,
    /// Nodes that live, this one among them.
    living: AtomicUsize,
}

impl<C: Clock> Lease<C> {
    /// One that never ends, for a store that is this process's alone.
    pub fn forever(clock: C) -> Self {
        Self::ending(clock, TERM, u64::MAX)
    }

    /// One of `term` that counts from a call to the store that was sent at `sent` (boot-clock time) and answered.
    pub fn since(clock: C, sent: Duration, term: Duration) -> Self {
        Self::ending(clock, term, nanos(sent + ours(term)))
    }

    fn ending(clock: C, term: Duration, until: u64) -> Self {
        let shared = Shared { term, until: AtomicU64::new(until), living: AtomicUsize::new(1) };
        Self { clock, shared: Arc::new(shared) }
    }

    /// A beat that was sent at `sent` (boot-clock time) has been answered.
    pub fn renew(&self, sent: Duration) {
        let term = self.shared.term;
        self.shared.until.fetch_max(nanos(sent + ours(term)), Ordering::AcqRel);
    }

    /// How long a node must be silent before others take its jobs over.
    pub fn term(&self) -> Duration {
        self.shared.term
    }

    /// Between beats, and between looks at the others.
    pub fn beat(&self) -> Duration {
        self.shared.term * 2 / 15
    }

    /// How much of it is left.
    pub fn remaining(&self) -> Duration {
        let until = Duration::from_nanos(self.shared.until.load(Ordering::Acquire));
        until.saturating_sub(self.clock.boot())
    }

    /// How many nodes of the site live, this one among them, as far as it knows.
    pub fn living(&self) -> usize {
        self.shared.living.load(Ordering::Relaxed)
    }

    /// Notes how many live.
    pub fn note_living(&self, nodes: usize) {
        self.shared.living.store(nodes.max(1), Ordering::Relaxed);
    }
}

impl<C: Clock> Permit for Lease<C> {
    fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }
}

/// The part of the term in which a node may act itself.
fn ours(term: Duration) -> Duration {
    term.saturating_sub(term / MARGIN)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The term, unless the config says otherwise. A node that dies is replaced after this, one beat that it may have been
/// seen late, and one until the next look.
pub const TERM: Duration = Duration::from_secs(15);
/// A node stops this part of its term earlier than others could take over.
const MARGIN: u32 = 10;
