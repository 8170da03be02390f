//! What holds one file back: a look at that one path, without a look at its folder.
//!
//! It asks what a look at the whole folder would ask, by the same rules; what needs memory (since when a file is still)
//! it has from the last look.

use std::path::{Component, Path};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::lease;
use super::memory::Key;
use super::ready::{Hold, hold};
use super::scan::{Scanner, facts, has_marker, parent};
use super::writers::Writers;
use crate::fault::Fault;
use crate::feed::{OWN_FOLDER, SourcePath};
use crate::job::{FileIdentity, JobId};
use crate::ports::{Clock, FilteredOut, Why};

impl<C: Clock> Scanner<C> {
    /// What holds this file back.
    pub(super) fn why(&self, path: &SourcePath) -> Result<Why, Fault> {
        let watch = &self.watch;
        let root = self.root()?;
        if let Some(why) = own(path) {
            return Ok(why);
        }
        let opened = root.inside(parent(path));
        let folder = match opened {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(Why::NotThere),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Ok(Why::FilteredOut(FilteredOut::BehindLink));
            }
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Why::Denied(None)),
            Err(error) => return Err(self.unreadable(error)),
        };
        let stamp = match folder.stamp(path.file_name()) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => return Ok(Why::NotThere),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Why::Denied(None)),
            Err(error) => return Err(self.unreadable(error)),
        };
        if !stamp.is_file() {
            return Ok(Why::FilteredOut(FilteredOut::NoFile(kind(stamp.kind))));
        }
        if let Some(refusal) = watch.filter.refusal(path) {
            return Ok(Why::FilteredOut(FilteredOut::Name(refusal)));
        }
        let marker = watch.ready.done_marker.as_ref();
        if marker.is_some_and(|marker| marker.is(path.file_name())) {
            return Ok(Why::FilteredOut(FilteredOut::Marker));
        }
        if !watch.recursive && parent(path) != Path::new("") {
            return Ok(Why::FilteredOut(FilteredOut::TooDeep));
        }
        let now = self.clock.boot();
        let met = self.memory().recall(Key::of(path), &stamp, now);
        // It came, or changed, since the last look.
        let Some(met) = met else { return Ok(Why::Settling(watch.settle)) };
        if met.has_job {
            return Ok(Why::HasJob);
        }
        let has_marker = || marker.is_some_and(|m| has_marker(&folder, m, path, &stamp));
        let writer = || Writers::look().of(path.file_name(), &stamp);
        Ok(match hold(watch, &facts(&met, &stamp), has_marker, writer) {
            Some(Hold::Settling(left)) => Why::Settling(left),
            Some(Hold::ZeroGrace(left)) => Why::ZeroGrace(left),
            Some(Hold::Zero) => Why::FilteredOut(FilteredOut::Empty),
            Some(Hold::NoMarker) => {
                let name = marker.map(|marker| marker.of(path.file_name())).unwrap_or_default();
                Why::NoDoneMarker(name)
            }
            Some(Hold::Writer(process)) => Why::OpenForWriting(Some(process)),
            None => match folder.read(path.file_name()) {
                Err(Errno::ACCESS | Errno::PERM) => Why::Denied(Some((stamp.owner, stamp.mode))),
                Ok((file, _)) if watch.ready.no_writer && lease::is_written(&file) == Ok(true) => {
                    Why::OpenForWriting(None)
                }
                _ => Why::Waiting,
            },
        })
    }
}

impl<C: Clock> Scanner<C> {
    /// Which of these files may still be there, as they were: all that can't be looked at count, and nothing is told of
    /// a folder that isn't the feed's, at the end neither.
    pub(super) fn holds(&self, files: &[(SourcePath, FileIdentity)]) -> Result<Vec<bool>, Fault> {
        let root = self.root()?;
        let there = files.iter().map(|(path, file)| {
            let found = root.inside(parent(path)).and_then(|it| it.stamp(path.file_name()));
            match found {
                Ok(Some(stamp)) => stamp.identity() == *file,
                Ok(None) | Err(Errno::NOENT | Errno::NOTDIR) => false,
                Err(_) => true,
            }
        });
        let there = there.collect();
        self.root()?;
        Ok(there)
    }
}

/// What is in our own folder, by its path alone.
fn own(path: &SourcePath) -> Option<Why> {
    let mut parts = path.as_path().components();
    let mut next = || match parts.next()? {
        Component::Normal(part) => part.to_str(),
        _ => None,
    };
    if next()? != OWN_FOLDER {
        return None;
    }
    let job = (next() == Some("work")).then(|| JobId::parse(next()?)).flatten();
    Some(job.map_or(Why::FilteredOut(FilteredOut::OwnFolder), Why::Taken))
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "something else",
    }
}
