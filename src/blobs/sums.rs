//! What is counted over all bytes on their way: off the way.
//!
//! Hashing takes longer than sending. So bytes are handed to a thread that hashes them, in order, while the next are read
//! or sent; who brings them waits only when too many lie there. A few bytes are hashed where they are, since a small file's
//! hash takes less than the way to another thread.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use md5::Md5;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::fault::{Fault, Origin};
use crate::folder::joined;
use crate::job::{Content, Sha256 as Sha256Digest};

/// The hashes of a content that comes piece by piece.
pub(super) struct Sums {
    size_bytes: u64,
    hashes: Hashes,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// How many bytes may wait while others are hashed.
    room: usize,
    /// Where the memory of what was hashed goes.
    spare: Option<Arc<Spare>>,
}

enum Hashes {
    Here(Box<Running>),
    /// A thread has them.
    Away(JoinHandle<Box<Running>>),
}

impl Default for Hashes {
    fn default() -> Self {
        Self::Here(Box::default())
    }
}

#[derive(Default)]
struct Running {
    sha256: Sha256,
    md5: Option<Md5>,
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }
}

impl Sums {
    /// Of nothing yet. MD5 takes three times as long as SHA-256 where the processor has instructions for that, so only who
    /// compares it asks for it.
    pub(super) fn new(with_md5: bool, room: usize, spare: Option<Arc<Spare>>) -> Self {
        let running = Running { sha256: Sha256::new(), md5: with_md5.then(Md5::new) };
        let hashes = Hashes::Here(Box::new(running));
        Self { size_bytes: 0, hashes, waiting: Vec::new(), waiting_bytes: 0, room, spare }
    }

    /// The bytes that came.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Takes what comes next.
    pub(super) async fn add(&mut self, bytes: Bytes) -> Result<(), Fault> {
        self.size_bytes += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        let idle = match &self.hashes {
            Hashes::Here(_) => true,
            Hashes::Away(thread) => thread.is_finished(),
        };
        if self.waiting_bytes >= if idle { WORTH_A_THREAD } else { self.room } {
            self.catch_up().await?;
        }
        Ok(())
    }

    /// Waits until nothing waits any more: what came last is being hashed.
    pub(super) async fn catch_up(&mut self) -> Result<(), Fault> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if let Hashes::Away(thread) = &mut self.hashes {
            self.hashes = Hashes::Here(joined(Origin::Storage, thread).await?);
        }
        if let Hashes::Here(mut running) = std::mem::take(&mut self.hashes) {
            let (waiting, spare) = (std::mem::take(&mut self.waiting), self.spare.clone());
            self.waiting_bytes = 0;
            self.hashes = Hashes::Away(tokio::task::spawn_blocking(move || {
                for bytes in waiting {
                    running.update(&bytes);
                    if let Some(spare) = &spare {
                        spare.give(bytes);
                    }
                }
                running
            }));
        }
        Ok(())
    }

    /// What came, and its MD5 if that was asked for.
    pub(super) async fn finish(mut self) -> Result<(Content, Option<[u8; 16]>), Fault> {
        if self.waiting_bytes >= WORTH_A_THREAD {
            self.catch_up().await?;
        }
        let mut running = match self.hashes {
            Hashes::Here(running) => running,
            Hashes::Away(mut thread) => joined(Origin::Storage, &mut thread).await?,
        };
        for bytes in self.waiting {
            running.update(&bytes);
        }
        let sha256 = Sha256Digest(running.sha256.finalize().into());
        let content = Content { size_bytes: self.size_bytes, sha256 };
        Ok((content, running.md5.map(|md5| md5.finalize().into())))
    }
}

/// Memory of blocks that were sent, for those to come: an allocator that gets it back in pieces of this size keeps several
/// times as much as is in use.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<BytesMut>>);

impl Spare {
    /// Takes a block back, unless somebody holds it still: whoever is the last gives it.
    pub(super) fn give(&self, block: Bytes) {
        if let Ok(mut block) = block.try_into_mut() {
            block.clear();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }

    /// Room for so many bytes.
    pub(super) fn take(&self, size: usize) -> BytesMut {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare
            .filter(|block| block.capacity() >= size)
            .unwrap_or_else(|| BytesMut::with_capacity(size))
    }
}

/// From how many bytes on another thread hashes them: 64 KiB take 30 µs.
pub(super) const WORTH_A_THREAD: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sums_are_those_of_the_whole_however_it_came() {
        let whole: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let (whole, none) = (Bytes::from(whole), Bytes::new());
        for (all, piece) in [(&none, 1), (&whole, 5_000), (&whole, 700_000), (&whole, 9_000_000)] {
            for (with_md5, room) in [(true, 1 << 20), (false, 0)] {
                let mut sums = Sums::new(with_md5, room, None);
                let mut left = all.clone();
                while !left.is_empty() {
                    sums.add(left.split_to(piece.min(left.len()))).await.unwrap();
                }
                let (content, md5) = sums.finish().await.unwrap();
                assert_eq!(content.size_bytes, all.len() as u64);
                assert_eq!(content.sha256.0[..], Sha256::digest(all)[..], "in pieces of {piece}");
                assert_eq!(md5, with_md5.then(|| Md5::digest(all).into()));
            }
        }
    }

    #[tokio::test]
    async fn what_waits_never_exceeds_its_room_and_its_memory_comes_back() {
        let spare = Arc::new(Spare::default());
        let mut sums = Sums::new(false, 2 * WORTH_A_THREAD, Some(spare.clone()));
        for _ in 0..20 {
            let mut piece = spare.take(WORTH_A_THREAD);
            piece.resize(WORTH_A_THREAD, 7);
            sums.add(piece.freeze()).await.unwrap();
            assert!(sums.waiting_bytes < 2 * WORTH_A_THREAD, "{}", sums.waiting_bytes);
        }
        sums.finish().await.unwrap();
        let kept = spare.0.lock().unwrap().len();
        assert!((1..=4).contains(&kept), "{kept} pieces of memory for 20");
    }

    #[tokio::test]
    async fn a_small_content_is_hashed_where_it_is() {
        let mut sums = Sums::new(true, 1 << 20, None);
        sums.add(Bytes::from_static(&[1; 1024])).await.unwrap();
        assert!(matches!(sums.hashes, Hashes::Here(_)) && sums.waiting_bytes == 1024);
        sums.add(vec![1; WORTH_A_THREAD].into()).await.unwrap();
        assert!(matches!(sums.hashes, Hashes::Away(_)) && sums.waiting_bytes == 0);
    }
}
