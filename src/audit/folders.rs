//! What is on the disk: the folders as a whole, and the places that a job names.
//!
//! Everything here only looks, and blocks on the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;
use sha2::Digest;

use crate::feed::{Feed, Name, SourceEnd, SourcePath, Watch};
use crate::folder::{
    Folder, MARKER, RETRY, RETRY_REFUSED, Stamp, UNFINISHED, errno, reported_job, source_of_report,
    user,
};
use crate::job::{Job, JobId, Sha256};

/// A folder that is gone through as a whole.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) use_of_it: Use,
    /// Those whose it is, by name.
    pub(super) feeds: Vec<Arc<Feed>>,
}

/// What a folder is for.
#[derive(Clone, Debug)]
pub(super) enum Use {
    Inbox(Watch),
    Work,
    /// Where things end up; one folder may serve for several.
    Ends {
        archive: bool,
        failed: bool,
        outputs: bool,
    },
}

/// A file that was met in a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The folder's place in the list of roots.
    pub(super) root: usize,
    pub(super) stamp: Stamp,
}

/// What going through the folders showed. A file costs about 200 bytes: its path and its stamp.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) files: HashMap<PathBuf, Found>,
    /// Unfinished files of ours.
    pub(super) unfinished: Vec<(PathBuf, Found)>,
    /// Why folders could not be looked into.
    pub(super) denied: Vec<String>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    File(Stamp),
    /// A folder, a link, a pipe.
    Other,
    Gone,
    /// It could not be asked.
    Unseen,
}

/// What is in the places that a job names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) dropped: Sight,
    pub(super) work: Sight,
    /// Where the source was moved to at the end.
    pub(super) moved: Sight,
    /// In the order of the job's outputs; with the content's hash, if that was asked for.
    pub(super) outputs: Vec<(Sight, Option<Sha256>)>,
}

impl Sight {
    /// The file's device and inode, if it is one.
    pub(super) fn file(&self) -> Option<(u64, u64)> {
        match self {
            Self::File(stamp) => Some((stamp.device, stamp.inode)),
            Self::Other | Self::Gone | Self::Unseen => None,
        }
    }
}

/// The folders of feeds; one that serves for several is named once.
pub(super) fn roots(feeds: &BTreeMap<Name, Arc<Feed>>) -> Vec<Root> {
    let mut roots = Vec::new();
    let mut ends: BTreeMap<&Path, Root> = BTreeMap::new();
    for feed in feeds.values() {
        if let Some(watch) = &feed.watch {
            let whose = || vec![Arc::clone(feed)];
            let inbox = Use::Inbox(watch.clone());
            roots.push(Root { path: watch.folder.clone(), use_of_it: inbox, feeds: whose() });
            let work = Feed::work_folder(watch);
            roots.push(Root { path: work, use_of_it: Use::Work, feeds: whose() });
        }
        let mut end = |folder, [is_archive, is_failed, is_outputs]: [bool; 3]| {
            let root = ends.entry(folder).or_insert_with(|| Root {
                path: folder.to_owned(),
                use_of_it: Use::Ends { archive: false, failed: false, outputs: false },
                feeds: Vec::new(),
            });
            if let Use::Ends { archive, failed, outputs } = &mut root.use_of_it {
                *archive |= is_archive;
                *failed |= is_failed;
                *outputs |= is_outputs;
            }
            if root.feeds.iter().all(|known| known.name != feed.name) {
                root.feeds.push(Arc::clone(feed));
            }
        };
        end(&feed.deliver.folder, [false, false, true]);
        if let SourceEnd::Move(folder) = &feed.source.on_success {
            end(folder, [true, false, false]);
        }
        if let SourceEnd::Move(folder) = &feed.source.on_failure {
            end(folder, [false, true, false]);
        }
    }
    roots.extend(ends.into_values());
    roots
}

/// Goes through the folders.
pub(super) fn walk(roots: &[Root]) -> Walked {
    let mut walked = Walked::default();
    // A folder inside another one, or under two names, is gone through once, as what it is itself.
    let opened: Vec<_> = roots.iter().map(|root| Folder::open(&root.path)).collect();
    let stamps = opened.iter().map(|folder| folder.as_ref().ok()?.own_stamp().ok());
    let stamps: Vec<_> = stamps.collect();
    let own: HashSet<_> =
        stamps.iter().flatten().map(|stamp| (stamp.device, stamp.inode)).collect();
    let mut done = HashSet::new();
    for (n, (root, folder)) in roots.iter().zip(opened).enumerate() {
        let folder = match folder {
            Ok(folder) => folder,
            // All others are made when they are needed.
            Err(Errno::NOENT) if !matches!(root.use_of_it, Use::Inbox(_)) => continue,
            Err(error) => {
                walked.denied.push(denied(&root.path, error));
                continue;
            }
        };
        if !stamps[n].is_none_or(|stamp| done.insert((stamp.device, stamp.inode))) {
            continue;
        }
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            match walked.list(n, root, &folder, &path, &own, &mut folders) {
                Ok(()) => {}
                // It went away, or something else took its name.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !path.as_os_str().is_empty() => {
                }
                // Folders of others among the outputs are theirs: only leftovers are looked for there.
                Err(_) if root.is_for_outputs_alone() && !path.as_os_str().is_empty() => {}
                Err(error) => walked.denied.push(denied(&root.path.join(path), error)),
            }
        }
    }
    walked
}

impl Root {
    pub(super) fn is_for_outputs_alone(&self) -> bool {
        matches!(self.use_of_it, Use::Ends { archive: false, failed: false, .. })
    }

    /// The feed to name, if it is one's alone.
    pub(super) fn feed(&self) -> Option<Name> {
        match &self.feeds[..] {
            [feed] => Some(feed.name.clone()),
            _ => None,
        }
    }
}

impl Walked {
    fn list(
        &mut self,
        n: usize,
        root: &Root,
        top: &Folder,
        path: &Path,
        own: &HashSet<(u64, u64)>,
        folders: &mut Vec<PathBuf>,
    ) -> Result<(), Errno> {
        let folder = top.inside(path)?;
        for entry in folder.entries()? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let hidden = name.as_bytes().starts_with(b".");
            let unfinished = hidden && name.as_bytes().ends_with(UNFINISHED.as_bytes());
            let mut kind = entry.file_type();
            let mut stamp = None;
            let counts = !root.is_for_outputs_alone() || unfinished;
            if kind == FileType::Unknown || (kind != FileType::Directory && counts) {
                // One that is gone just now is no finding.
                let Some(found) = folder.stamp(name)? else { continue };
                kind = found.kind;
                stamp = Some(found);
            }
            let path = path.join(name);
            if kind == FileType::Directory {
                let is_own = |stamp: Stamp| own.contains(&(stamp.device, stamp.inode));
                let goes_on = match &root.use_of_it {
                    Use::Inbox(watch) => watch.recursive && !hidden,
                    Use::Work => true,
                    Use::Ends { .. } => !hidden,
                };
                if goes_on && !folder.stamp(name)?.is_some_and(is_own) {
                    folders.push(path);
                }
                continue;
            }
            let Some(stamp) = stamp else { continue };
            let found = Found { root: n, stamp };
            let full = root.path.join(&path);
            match &root.use_of_it {
                Use::Inbox(watch) => {
                    let wanted = SourcePath::new(&path).is_some_and(|p| watch.filter.takes(&p));
                    if stamp.is_file() && wanted {
                        self.files.insert(full, found);
                    }
                }
                Use::Ends { .. } if unfinished => self.unfinished.push((full, found)),
                Use::Work => {
                    self.files.insert(full, found);
                }
                // The markers of deliveries lie beside the outputs.
                Use::Ends { outputs: true, .. }
                    if path.as_os_str().as_bytes().ends_with(MARKER.as_bytes()) => {}
                // Wishes of people.
                Use::Ends { failed: true, .. }
                    if [RETRY, RETRY_REFUSED]
                        .iter()
                        .any(|end| name.as_bytes().ends_with(end.as_bytes())) => {}
                Use::Ends { .. } => {
                    // Hidden files are other programs' notes: a source never has such a name.
                    if stamp.is_file() && !hidden && !root.is_for_outputs_alone() {
                        self.files.insert(full, found);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks at the places that a job names; with `hash`, at the content of its outputs too.
pub(super) fn places(job: &Job, feed: Option<&Feed>, hash: bool) -> Places {
    let watch = feed.and_then(|feed| feed.watch.as_ref());
    let moved = job.source_moved_to();
    Places {
        dropped: watch.map_or(Sight::Gone, |watch| sight(&watch.folder.join(job.path().as_path()))),
        work: watch.map_or(Sight::Gone, |watch| {
            sight(&Feed::work_path(watch, job.id(), job.path()))
        }),
        moved: moved.map_or(Sight::Gone, |path| sight(path)),
        outputs: job
            .outputs()
            .iter()
            .map(|output| {
                let seen = sight(&output.path);
                let right_size = matches!(seen, Sight::File(stamp) if stamp.size_bytes == output.content.size_bytes);
                if !(hash && right_size) {
                    return (seen, None);
                }
                // Without its content we can't say that it is the one.
                digest(&output.path).map_or((Sight::Unseen, None), |digest| (seen, Some(digest)))
            })
            .collect(),
    }
}

pub(super) fn sight(path: &Path) -> Sight {
    match Folder::of(path).and_then(|(folder, name)| folder.stamp(name)) {
        Ok(Some(stamp)) if stamp.is_file() => Sight::File(stamp),
        Ok(Some(_)) => Sight::Other,
        Ok(None) | Err(Errno::NOENT | Errno::NOTDIR) => Sight::Gone,
        Err(_) => Sight::Unseen,
    }
}

/// The job that a report is about, by its own words.
pub(super) fn job_in_report(path: &Path) -> Option<JobId> {
    let (folder, name) = Folder::of(path).ok()?;
    JobId::parse(&reported_job(&folder, source_of_report(name)?)?)
}

/// The job that an unfinished output is for: `.JOB.N.NODE.scoreline-part`.
pub(super) fn job_of_unfinished(path: &Path) -> Option<JobId> {
    let name = path.file_name()?.to_str()?.strip_prefix('.')?;
    JobId::parse(name.split('.').next()?)
}

fn digest(path: &Path) -> Result<Sha256, Errno> {
    let (folder, name) = Folder::of(path)?;
    let (mut file, _) = folder.read(name)?;
    let mut hash = sha2::Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(|error| errno(&error))?;
    Ok(Sha256(hash.finalize().into()))
}

fn denied(path: &Path, error: Errno) -> String {
    let cure = match error {
        Errno::ACCESS | Errno::PERM => format!("let {} read and enter it", user()),
        Errno::NOENT | Errno::NOTDIR => "make it, or mount it".to_owned(),
        _ => "try again when it can be read".to_owned(),
    };
    format!("could not look into {}: {error}: {cure}", path.display())
}
