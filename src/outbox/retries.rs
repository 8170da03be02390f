//! Wishes that people write into a folder of failed sources: `NAME.retry` beside `NAME` and its report.
//!
//! A wish is taken by a rename, which only one node can win, to a hidden name that says which job it is for, as that job
//! stood: whoever finds that name after a crash knows whether it was granted already.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::fault::{Fault, Origin};
use crate::folder::{Folder, RETRY, RETRY_REFUSED, report_name, reported_job};
use crate::job::JobId;
use crate::ports::{Permit, RetryAnswer, RetryWish, Whose};

/// The wishes in a folder and in those inside it, at most so many.
pub(super) fn wishes(folder: &Path, limit: usize) -> Result<Vec<RetryWish>, Fault> {
    let failed = |error| super::fault("look for wishes in", &folder.join("*.retry"), error);
    let top = match Folder::open(folder) {
        Ok(top) => top,
        // Nothing has failed yet.
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let (mut wishes, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(path) = folders.pop() {
        let inside = match top.inside(&path) {
            Ok(inside) => inside,
            // It went away, or is no folder of ours to look into.
            Err(_) if !path.as_os_str().is_empty() => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in inside.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let hidden = name.as_bytes().starts_with(b".");
            let kind = match entry.file_type() {
                FileType::Unknown => match inside.stamp(name).map_err(failed)? {
                    Some(stamp) => stamp.kind,
                    None => continue,
                },
                kind => kind,
            };
            match kind {
                FileType::Directory if !hidden => folders.push(path.join(name)),
                FileType::RegularFile => {
                    let whose = if hidden { whose_taken(name) } else { whose(&inside, name) };
                    if let Some(whose) = whose {
                        wishes.push(RetryWish { path: folder.join(&path).join(name), whose });
                    }
                }
                _ => {}
            }
            if wishes.len() >= limit {
                return Ok(wishes);
            }
        }
    }
    Ok(wishes)
}

/// Does with a wish what was decided; answers whether it was there still.
pub(super) fn answer<P: Permit>(
    wish: &Path,
    answer: RetryAnswer,
    permit: &P,
) -> Result<bool, Fault> {
    let failed = |error| super::fault("answer the wish", wish, error);
    let (folder, name) = Folder::of(wish).map_err(failed)?;
    permit.ensure(Origin::Outbox)?;
    let answered = match answer {
        RetryAnswer::Take { job, revision } => {
            folder.rename_over(name, &folder, format!(".{job}.{revision}{TAKEN}").as_ref())
        }
        RetryAnswer::Refuse => {
            let mut refused = name.as_bytes().strip_suffix(RETRY.as_bytes()).unwrap_or_default();
            if refused.is_empty() {
                refused = name.as_bytes();
            }
            let refused = [refused, RETRY_REFUSED.as_bytes()].concat();
            folder.rename_over(name, &folder, OsStr::from_bytes(&refused))
        }
        RetryAnswer::Remove => folder.remove(name),
        RetryAnswer::RemoveTaken { job, revision } => {
            folder.remove(format!(".{job}.{revision}{TAKEN}").as_ref())
        }
    };
    match answered {
        Ok(()) => folder.sync().map(|()| true).map_err(failed),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Of a file that is called like a wish; `None` when it is none, but a source that failed itself.
fn whose(folder: &Folder, name: &OsStr) -> Option<Whose> {
    let of = OsStr::from_bytes(name.as_bytes().strip_suffix(RETRY.as_bytes())?);
    if of.is_empty() || folder.stamp(&report_name(name)).ok()?.is_some() {
        return None;
    }
    let job = reported_job(folder, of).and_then(|job| JobId::parse(&job));
    Some(job.map_or(Whose::Nobodys, Whose::Asked))
}

/// Of one that was taken.
fn whose_taken(name: &OsStr) -> Option<Whose> {
    let (job, revision) = name.to_str()?.strip_prefix('.')?.strip_suffix(TAKEN)?.split_once('.')?;
    Some(Whose::Taken { job: JobId::parse(job)?, revision: revision.parse().ok()? })
}

const TAKEN: &str = ".scoreline-retry";
