//! Files that are ready, in the order in which they are to be taken.
//!
//! Whatever their number, the order is over all of them, and only the first ones are kept: the next look at the folder
//! brings the others.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use super::memory::Ticks;
use crate::feed::{Order, OrderBy, SourcePath};
use crate::folder::Stamp;

/// The first of the files that a look offers.
pub(super) struct First {
    order: Order,
    limit: usize,
    // The last one of them on top.
    kept: BinaryHeap<Ranked>,
    beyond: usize,
}

/// Files to be taken, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) files: VecDeque<SourcePath>,
    /// How many more there were.
    pub(super) beyond: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Ranked {
    number: i128,
    path: SourcePath,
    backwards: bool,
}

impl First {
    pub(super) fn new(order: Order, limit: usize) -> Self {
        Self { order, limit, kept: BinaryHeap::new(), beyond: 0 }
    }

    pub(super) fn offer(&mut self, path: SourcePath, stamp: &Stamp, seen_since: Ticks) {
        let number = match self.order.by {
            OrderBy::Arrival => i128::from(seen_since),
            OrderBy::Name => 0,
            OrderBy::Mtime => i128::from(stamp.mtime_ns),
            OrderBy::Size => i128::from(stamp.size_bytes),
        };
        let Order { by, descending } = self.order;
        let number = if descending { -number } else { number };
        let ranked = Ranked { number, path, backwards: descending && by == OrderBy::Name };
        if self.kept.len() < self.limit {
            self.kept.push(ranked);
            return;
        }
        self.beyond += 1;
        if let Some(mut last) = self.kept.peek_mut()
            && ranked < *last
        {
            *last = ranked;
        }
    }

    pub(super) fn in_order(self) -> Backlog {
        let files = self.kept.into_sorted_vec().into_iter().map(|ranked| ranked.path).collect();
        Backlog { files, beyond: self.beyond }
    }
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.files.len() + self.beyond
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let paths = self.path.cmp(&other.path);
        let paths = if self.backwards { paths.reverse() } else { paths };
        self.number.cmp(&other.number).then(paths)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::FileType;

    use super::*;

    #[test]
    fn the_first_of_all_are_kept_in_every_order() {
        // Path, time, size, when it was seen.
        let files = [("b", 1, 30, 7), ("a", 2, 30, 9), ("c", 3, 10, 8), ("d", 3, 20, 8)];
        for (order, first, last) in [
            ("mtime", "bac", "d"),
            ("-mtime", "cda", "b"),
            ("name", "abc", "d"),
            ("-name", "dcb", "a"),
            ("size", "cda", "b"),
            ("-size", "abd", "c"),
            ("arrival", "bcd", "a"),
            ("-arrival", "acd", "b"),
        ] {
            for start in 0..files.len() {
                let mut kept = First::new(Order::parse(order).unwrap(), 3);
                for (path, mtime_ns, size_bytes, seen) in files.iter().cycle().skip(start).take(4) {
                    let stamp = Stamp {
                        kind: FileType::RegularFile,
                        device: 1,
                        inode: 1,
                        size_bytes: *size_bytes,
                        mtime_ns: *mtime_ns,
                        ctime_ns: 0,
                        mode: 0,
                        owner: 0,
                        group: 0,
                    };
                    kept.offer(SourcePath::new(Path::new(path)).unwrap(), &stamp, *seen);
                }
                let backlog = kept.in_order();
                let found: String = backlog.files.iter().map(ToString::to_string).collect();
                assert_eq!((found.as_str(), backlog.beyond), (first, 1), "{order}, not {last}");
            }
        }
    }
}
