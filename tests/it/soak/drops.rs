//! What senders drop, and what must become of each file.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::dice::Dice;
use super::{FEEDS, Feed};
use crate::hashing::{input_of, scores_of};

/// A file that was dropped.
pub(crate) struct Dropped {
    pub(crate) feed: Feed,
    pub(crate) name: String,
    pub(crate) inode: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) content: String,
    pub(crate) fate: Fate,
}

/// What must become of a file.
pub(crate) enum Fate {
    /// Scored, with this output.
    Scored(String),
    /// No run of it succeeds.
    Poisoned,
    /// Refused before anything leaves the machine.
    Refused,
}

/// Drops files of all kinds.
pub(crate) struct Senders {
    home: PathBuf,
    dice: Dice,
    pub(crate) dropped: Vec<Dropped>,
}

impl Senders {
    pub(crate) fn new(home: &Path, seed: u64) -> Self {
        for feed in FEEDS {
            std::fs::create_dir(home.join(feed.folder())).unwrap();
        }
        Self { home: home.to_owned(), dice: Dice::new(seed), dropped: Vec::new() }
    }

    /// Drops so many files.
    pub(crate) fn burst(&mut self, files: usize) {
        for _ in 0..files {
            self.one();
        }
    }

    fn one(&mut self) {
        let number = self.dropped.len();
        let feed = if self.dice.chance(0.3) { Feed::Narrow } else { Feed::Wide };
        let (kind, content, fate) = match self.dice.below(100) {
            0..2 => ("empty", String::new(), Fate::Refused),
            2..5 => {
                let rows = self.rows(number, "a row with POISON in it");
                ("poison", input_of(&rows.each_ref().map(String::as_str)), Fate::Poisoned)
            }
            _ => {
                let rows = self.rows(number, "a harmless row");
                let rows = rows.each_ref().map(String::as_str);
                ("file", input_of(&rows), Fate::Scored(scores_of(&rows)))
            }
        };
        let folder = self.home.join(feed.folder());
        let hidden = folder.join(format!(".{number}.part"));
        let mut file = File::create(&hidden).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let seen = file.metadata().unwrap();
        // Both feeds deliver into the same folders, and a name comes again while the job of the first is anywhere.
        let again = format!("again {}.csv", self.dice.below(40));
        let wished = if self.dice.chance(0.2) { again } else { format!("{kind} {number}.csv") };
        // What lies in the folder under that name is not ours to overwrite.
        let name = [wished, format!("{kind} {number}.csv")].into_iter().find(|name| {
            renameat_with(CWD, &hidden, CWD, folder.join(name), RenameFlags::NOREPLACE).is_ok()
        });
        self.dropped.push(Dropped {
            feed,
            name: name.expect("a number is used once"),
            inode: seen.ino(),
            mtime_ns: seen.mtime() * 1_000_000_000 + seen.mtime_nsec(),
            content,
            fate,
        });
    }

    /// Rows whose scores no other file has, as far as chance goes.
    fn rows(&mut self, number: usize, last: &str) -> [String; 4] {
        let mut row = || {
            let words: Vec<_> = (0..16).map(|_| format!("w{}", self.dice.below(100_000))).collect();
            words.join(" ")
        };
        [format!("file number {number}"), row(), row(), last.to_owned()]
    }
}
