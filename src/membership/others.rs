//! The other nodes: who lives, and who has been silent for too long.
//!
//! Silence is measured on our own boot clock, from when a changed beat was seen, to a look that was begun later by the
//! whole term of the silent one, which may have another config than we. No clock of another machine counts, and a beat
//! that comes between the look and the fence wins.
//!
//! Only who could look may call others silent. While the store is away nobody's beat is counted, and the first to look
//! when it is back would find all others as they were before: their terms begin anew then.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::Notify;

use super::rest;
use crate::engine::Tenure;
use crate::ports::{Clock, NodeId, Peer, Store, StoreError, World};

/// The other nodes, as they were seen.
#[derive(Debug, Default)]
pub(super) struct Others {
    seen: BTreeMap<NodeId, Seen>,
    /// When the last look was begun that was answered.
    looked: Option<Duration>,
    /// One that was begun since then was not.
    missed: bool,
}

/// Another node's beats, and since when they are known to be so many.
#[derive(Clone, Copy, Debug)]
struct Seen {
    beats: u64,
    at: Duration,
}

impl Others {
    /// Fences off whoever is silent, for ever; tells through `fenced` when somebody was.
    pub(super) async fn watch<W: World>(
        &mut self,
        world: &W,
        tenure: &Tenure<W::Clock>,
        fenced: &Notify,
    ) {
        if !world.store().is_shared() {
            return std::future::pending().await;
        }
        loop {
            let began = world.clock().boot();
            match self.fence_the_silent(world, tenure).await {
                Ok(0) => {}
                Ok(_) => fenced.notify_one(),
                Err(error) => tracing::debug!(%error, "could not look for the other nodes"),
            }
            rest(world.clock(), &tenure.lease, began).await;
        }
    }

    /// Whoever hasn't beaten for the whole of its own term, whatever ours is, is fenced off. Answers how many were.
    async fn fence_the_silent<W: World>(
        &mut self,
        world: &W,
        tenure: &Tenure<W::Clock>,
    ) -> Result<usize, StoreError> {
        let (store, clock) = (world.store(), world.clock());
        let asked = clock.boot();
        // Until it is answered.
        let missed = std::mem::replace(&mut self.missed, true);
        let peers = store.others(&tenure.node).await?;
        self.missed = missed;
        let mut fenced = 0;
        for (peer, silent) in self.saw(&peers, asked, clock.boot(), tenure.lease.term()) {
            if store.fence(peer.id, Some(peer.beats)).await? {
                let seconds = silent.as_secs_f64();
                tracing::warn!(
                    node = peer.id.0,
                    seconds,
                    "a node is silent: its jobs are taken over"
                );
                self.seen.remove(&peer.id);
                fenced += 1;
            }
        }
        tenure.lease.note_living(self.seen.len() + 1);
        Ok(fenced)
    }

    /// Takes note of what a look showed. Answers who was silent for the whole of its term, and for how long.
    fn saw(
        &mut self,
        peers: &[Peer],
        asked: Duration,
        answered: Duration,
        own_term: Duration,
    ) -> Vec<(Peer, Duration)> {
        let gap = asked.saturating_sub(self.looked.replace(asked).unwrap_or(asked));
        let missed = std::mem::take(&mut self.missed);
        self.seen.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        let mut silent = Vec::new();
        for peer in peers {
            let now = Seen { beats: peer.beats, at: answered };
            let seen = self.seen.entry(peer.id).or_insert(now);
            // Without a look that failed it was this machine that stood still, or all of them did.
            let blind = gap > own_term / 2 || missed && gap > peer.term / 2;
            if seen.beats != peer.beats || blind {
                *seen = now;
            } else if asked >= seen.at + peer.term {
                silent.push((*peer, asked.saturating_sub(seen.at)));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn peer(beats: u64) -> Peer {
        Peer { id: NodeId(2), beats, term: at(15) }
    }

    /// Looks every two seconds until this time, all of them answered at once; answers whether the peer was silent.
    fn looks(others: &mut Others, seconds: std::ops::RangeInclusive<u64>, beats: u64) -> bool {
        seconds.step_by(2).any(|now| {
            let silent = others.saw(&[peer(beats)], at(now), at(now), at(15));
            !silent.is_empty()
        })
    }

    #[test]
    fn who_has_not_beaten_for_its_whole_term_is_silent() {
        let mut others = Others::default();
        assert!(!looks(&mut others, 0..=14, 7));
        assert_eq!(others.saw(&[peer(7)], at(15), at(15), at(15)), [(peer(7), at(15))]);
        assert!(!looks(&mut others, 16..=30, 8), "it has beaten");
        assert!(looks(&mut others, 32..=32, 8));
    }

    #[test]
    fn who_could_not_look_calls_nobody_silent() {
        let mut others = Others::default();
        assert!(!looks(&mut others, 0..=10, 7));
        // The store is away for a minute, and nobody's beat is counted.
        others.missed = true;
        assert!(!looks(&mut others, 70..=84, 7), "it has no whole term yet");
        assert!(looks(&mut others, 86..=86, 7), "it is dead all the same");
    }

    #[test]
    fn a_short_term_begins_anew_when_a_look_with_long_gaps_is_missed() {
        let mut others = Others::default();
        let of_a_long_term = |others: &mut Others, now| {
            !others.saw(&[peer(7)], at(now), at(now), at(600)).is_empty()
        };
        assert!(!of_a_long_term(&mut others, 0));
        others.missed = true;
        assert!(!of_a_long_term(&mut others, 80));
        assert!(of_a_long_term(&mut others, 160), "each look was answered, however rare they are");
    }

    #[test]
    fn one_look_that_is_missed_keeps_no_dead_node_alive() {
        let mut others = Others::default();
        for round in 0..8 {
            others.missed = round % 2 == 1;
            assert!(!looks(&mut others, round * 2..=round * 2, 7));
        }
        assert!(looks(&mut others, 16..=16, 7));
    }
}
