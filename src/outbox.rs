//! The folders that things end up in: outputs, and sources when their job is over.
//!
//! Nobody who looks into such a folder ever sees half a file: a file is written under a hidden name beside the place
//! it will have, made durable, and renamed. The rename is where a crash is decided: before it there is a leftover that
//! the next try replaces, after it the next try finds its own content in place. And nothing is overwritten unless the
//! config says so, by the file system's own promise and not by a look beforehand.
//!
//! Trouble here is a disk that is full, a permission, a share that went away: a person mends it, and the job waits.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use sha2::Digest;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::fault::{Fault, Origin};
use crate::feed::candidate;
use crate::folder::{
    Carried, Folder, Stamp, UNFINISHED, carry_over, errno, has_content, off_thread, open_or_make,
    report_name, reported_job, user,
};
use crate::job::{Content, Sha256};
use crate::ports::{
    Outbox, Part, Permit, Placed, Processed, RetryAnswer, RetryWish, Settled, Settlement,
    SourcePlace,
};

mod retries;

/// The folders of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderOutbox;

impl FolderOutbox {
    /// It holds nothing: every call names its paths.
    pub fn new() -> Self {
        Self
    }
}

impl Outbox for FolderOutbox {
    type Staged = StagedFile;

    async fn stage(&self, target: &Path, of: Part, handed_on: bool) -> Result<StagedFile, Fault> {
        let target = target.to_owned();
        off_thread(Origin::Outbox, move || {
            let (folder, _) = made(&target)?;
            let name = part_name(of);
            let path = target.with_file_name(&name);
            let failed = |error| fault("begin", &path, error);
            // Whoever had it may have had it from another one, and so on: all of them may have left something.
            if handed_on {
                for left in parts_beside(&folder, of).map_err(failed)? {
                    match folder.remove(&left) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
            let (file, temporary) = Temporary::create(folder, name).map_err(failed)?;
            let written = file.try_clone().map_err(|error| failed(errno(&error)))?;
            let file = tokio::fs::File::from_std(file);
            Ok(StagedFile {
                file,
                written: Arc::new(written),
                temporary: Some(Arc::new(temporary)),
                path,
            })
        })
        .await
    }

    async fn exists(&self, path: &Path) -> Result<bool, Fault> {
        let path = path.to_owned();
        off_thread(Origin::Outbox, move || {
            let found = Folder::of(&path).and_then(|(folder, name)| folder.stamp(name));
            match found {
                Ok(found) => Ok(found.is_some()),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                Err(error) => Err(fault("look for", &path, error)),
            }
        })
        .await
    }

    async fn place<P: Permit>(
        &self,
        staged: &mut StagedFile,
        content: Content,
        target: &Path,
        replace: bool,
        permit: &P,
    ) -> Result<Placed, Fault> {
        let Some(temporary) = staged.temporary.clone() else { return Ok(Placed::InPlace) };
        let path = staged.path.clone();
        let failed = |error: io::Error| fault("finish", &path, errno(&error));
        // Writes go on in the background, and a disk that is full may say so only now.
        staged.file.flush().await.map_err(failed)?;
        let (written, target, permit) = (staged.written.clone(), target.to_owned(), permit.clone());
        let placed = off_thread(Origin::Outbox, move || {
            let failed = |error: io::Error| fault("finish", &path, errno(&error));
            written.sync_all().map_err(failed)?;
            let size_bytes = written.metadata().map_err(failed)?.len();
            if size_bytes != content.size_bytes {
                return Err(Fault::unavailable(
                    Origin::Outbox,
                    "staged_incomplete",
                    format!(
                        "{} has {size_bytes} bytes on disk where {} were written: the output is fetched again",
                        path.display(),
                        content.size_bytes
                    ),
                ));
            }
            place(&temporary, content, &target, replace, &permit)
        })
        .await?;
        if placed == Placed::InPlace {
            staged.temporary = None;
        }
        Ok(placed)
    }

    async fn write<P: Permit>(&self, path: &Path, text: &str, permit: &P) -> Result<(), Fault> {
        let (path, text, permit) = (path.to_owned(), text.to_owned(), permit.clone());
        off_thread(Origin::Outbox, move || {
            let (folder, name) = made(&path)?;
            let failed = |error| fault("write", &path, error);
            permit.ensure(Origin::Outbox)?;
            // The name itself may leave no room for more.
            let (mut file, temporary) =
                Temporary::create(folder, unfinished_name(name)).map_err(failed)?;
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            let placed = written.map_err(|error| failed(errno(&error))).and_then(|()| {
                temporary.ensure_ours(&path)?;
                permit.ensure(Origin::Outbox)?;
                let Temporary { folder, name: hidden, .. } = &temporary;
                let renamed = folder.rename_over(hidden, folder, name);
                renamed.and_then(|()| folder.sync()).map_err(failed)
            });
            if placed.is_err() {
                temporary.discard();
            }
            placed
        })
        .await
    }

    async fn read(&self, path: &Path) -> Result<Option<String>, Fault> {
        let path = path.to_owned();
        off_thread(Origin::Outbox, move || {
            let opened = Folder::of(&path).and_then(|(folder, name)| folder.read(name));
            let mut bytes = Vec::new();
            let read = match opened {
                Ok((file, _)) => file.take(NOTE_BYTES).read_to_end(&mut bytes),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(error) => return Err(fault("read", &path, error)),
            };
            read.map_err(|error| fault("read", &path, errno(&error)))?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        })
        .await
    }

    async fn settle<P: Permit>(
        &self,
        source: &SourcePlace,
        end: &Settlement,
        permit: &P,
    ) -> Result<Settled, Fault> {
        let (source, end, permit) = (source.clone(), end.clone(), permit.clone());
        off_thread(Origin::Outbox, move || {
            permit.ensure(Origin::Outbox)?;
            if let Some(now) = &source.now
                && was_settled(&source)
                && end != Settlement::Move(now.clone())
            {
                remove_report(now)?;
            }
            let settled = match &source.now {
                None => Settled::Done,
                Some(now) => match end {
                    Settlement::Move(target) => move_file(now, &target, &permit)?,
                    Settlement::Delete(processed) => {
                        delete(now, &source.dropped, processed, &permit)?
                    }
                    Settlement::Leave if *now == source.dropped => Settled::Done,
                    Settlement::Leave => match give_back(now, &source.dropped, &permit)? {
                        Some(_) => Settled::Done,
                        None => Settled::Taken,
                    },
                },
            };
            if settled != Settled::Taken
                && let Some(directory) = &source.work_directory
                && let Ok((work, name)) = Folder::of(directory)
            {
                // Only an empty one goes; one that is left over, or comes back with a crash, is tidied away at the next
                // start. So this is not made durable, which would cost as much as the move itself.
                let _ = work.remove_folder(name);
            }
            Ok(settled)
        })
        .await
    }

    async fn retry_wishes(&self, folder: &Path, limit: usize) -> Result<Vec<RetryWish>, Fault> {
        let folder = folder.to_owned();
        off_thread(Origin::Outbox, move || retries::wishes(&folder, limit)).await
    }

    async fn answer_retry<P: Permit>(
        &self,
        wish: &Path,
        answer: RetryAnswer,
        permit: &P,
    ) -> Result<bool, Fault> {
        let (wish, permit) = (wish.to_owned(), permit.clone());
        off_thread(Origin::Outbox, move || retries::answer(&wish, answer, &permit)).await
    }
}

/// A file that is being written. Dropping it before it was placed removes it.
#[derive(Debug)]
pub struct StagedFile {
    file: tokio::fs::File,
    /// The same file, for what is done to it in one go once all of it is written: each trip to another thread costs
    /// more than a small file's content.
    written: Arc<File>,
    // `None` once it has its name.
    temporary: Option<Arc<Temporary>>,
    path: PathBuf,
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            temporary.discard();
        }
    }
}

impl AsyncWrite for StagedFile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.file).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}

/// The hidden name of a file that is being written.
#[derive(Debug)]
struct Temporary {
    folder: Folder,
    name: OsString,
    stamp: Stamp,
}

impl Temporary {
    fn create(folder: Folder, name: OsString) -> Result<(File, Self), Errno> {
        let file = folder.create(&name)?;
        let stamp = Stamp::of(&file.metadata().map_err(|error| errno(&error))?);
        Ok((file, Self { folder, name, stamp }))
    }

    /// What stays behind is hidden, and replaced at the next try.
    fn discard(&self) {
        if self.is_ours() {
            let _ = self.folder.remove(&self.name);
        }
    }

    fn ensure_ours(&self, target: &Path) -> Result<(), Fault> {
        if self.is_ours() {
            return Ok(());
        }
        Err(Fault::unavailable(
            Origin::Outbox,
            "staged_lost",
            format!(
                "the unfinished file of {} was removed or replaced by another try: it is made again",
                target.display()
            ),
        ))
    }

    /// Whether the name still is our file's: another try of the same output takes the name over.
    fn is_ours(&self) -> bool {
        self.folder
            .stamp(&self.name)
            .is_ok_and(|found| found.is_some_and(|found| found.is_same_file(&self.stamp)))
    }
}

/// What other nodes left of the same output in the folder. A walk through the whole of it: only for jobs whose last owner
/// died.
fn parts_beside(folder: &Folder, of: Part) -> Result<Vec<OsString>, Errno> {
    let (own, begin) = (part_name(of), format!(".{}.{}.", of.job, of.output));
    let mut left = Vec::new();
    for entry in folder.entries()? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        let part = bytes.starts_with(begin.as_bytes()) && bytes.ends_with(UNFINISHED.as_bytes());
        if part && bytes != own.as_bytes() {
            left.push(OsStr::from_bytes(bytes).to_owned());
        }
    }
    Ok(left)
}

fn part_name(of: Part) -> OsString {
    format!(".{}.{}.{}{UNFINISHED}", of.job, of.output, of.node.0).into()
}

fn place<P: Permit>(
    temporary: &Temporary,
    content: Content,
    target: &Path,
    replace: bool,
    permit: &P,
) -> Result<Placed, Fault> {
    let (folder, name) = made(target)?;
    let failed = |error| fault("give an output its name", target, error);
    temporary.ensure_ours(target)?;
    permit.ensure(Origin::Outbox)?;
    let renamed = if replace {
        temporary.folder.rename_over(&temporary.name, &folder, name)
    } else {
        temporary.folder.rename_new(&temporary.name, &folder, name)
    };
    match renamed {
        Ok(()) => {}
        Err(Errno::EXIST) if !replace => {
            if !has_content(&folder, name, content).map_err(failed)? {
                return Ok(Placed::Taken);
            }
            temporary.folder.remove(&temporary.name).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    folder.sync().map_err(failed)?;
    Ok(Placed::InPlace)
}

/// Gives a source its last place, without overwriting.
fn move_file<P: Permit>(from: &Path, to: &Path, permit: &P) -> Result<Settled, Fault> {
    let failed = |error| fault("move a source to", to, error);
    let Some((source, name, stamp)) = found(from)? else { return Ok(Settled::Done) };
    let (folder, new) = made(to)?;
    permit.ensure(Origin::Outbox)?;
    match source.rename_new(name, &folder, new) {
        Ok(()) => {}
        // Somebody removed it just now.
        Err(Errno::NOENT) => return Ok(Settled::Done),
        Err(Errno::EXIST) => match folder.stamp(new).map_err(failed)? {
            Some(there) if there.is_same_file(&stamp) => {
                // Two names of one file: a crash came between the steps of a move. But when both names are one, by
                // whatever ways they lead there, the file is in its place.
                if !is_one_name(&source, name, &folder, new).map_err(failed)? {
                    source.remove(name).map_err(failed)?;
                }
            }
            _ => return Ok(Settled::Taken),
        },
        Err(Errno::XDEV) => {
            let temporary = unfinished_name(from.as_os_str());
            let carried =
                carry_over((&source, name), (&folder, new), &temporary, || permit.holds());
            match carried.map_err(failed)? {
                Carried::Done => {}
                Carried::Taken => return Ok(Settled::Taken),
                Carried::Stopped => {
                    permit.ensure(Origin::Outbox)?;
                    return Err(failed(Errno::CANCELED));
                }
                Carried::Differs => {
                    return Err(Fault::unavailable(
                        Origin::Outbox,
                        "copy_differs",
                        format!(
                            "the copy of {} at {} differs from it, so both stay: somebody writes to it, or a disk is failing; it is tried again",
                            from.display(),
                            to.display()
                        ),
                    ));
                }
            }
        }
        Err(error) => return Err(failed(error)),
    }
    folder.sync().map_err(failed)?;
    source.sync().map_err(failed)?;
    Ok(Settled::Done)
}

/// Whether the source lies where an earlier end of its job put it: the job was retried and went on without it.
fn was_settled(source: &SourcePlace) -> bool {
    source.now.as_ref().is_some_and(|now| {
        *now != source.dropped && now.parent() != source.work_directory.as_deref()
    })
}

/// Removes what was written beside a source when its job failed. It goes before its source does, so that no crash
/// leaves a report without one.
fn remove_report(of: &Path) -> Result<(), Fault> {
    let Some((folder, name, _)) = found(of)? else { return Ok(()) };
    // Only one of ours; a file of that name may be anybody's.
    if reported_job(&folder, name).is_none() {
        return Ok(());
    }
    let report = report_name(name);
    match folder.remove(&report) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(fault("remove the report", &of.with_file_name(report), error)),
    }
}

/// Deletes what was scored and nothing else. Its writer may have it open still, and has written on since it was uploaded:
/// what came then was never scored, so the whole file is given back.
fn delete<P: Permit>(
    path: &Path,
    dropped: &Path,
    processed: Processed,
    permit: &P,
) -> Result<Settled, Fault> {
    let Some((folder, name, stamp)) = found(path)? else { return Ok(Settled::Done) };
    if !is_whole(&folder, name, &stamp, processed).map_err(|error| fault("read", path, error))? {
        if path == dropped {
            return Ok(Settled::GivenBack(dropped.to_owned()));
        }
        let back = give_back(path, dropped, permit)?;
        return Ok(back.map_or(Settled::Taken, Settled::GivenBack));
    }
    permit.ensure(Origin::Outbox)?;
    match folder.remove(name) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(fault("delete", path, error)),
    }
    folder.sync().map_err(|error| fault("delete", path, error))?;
    Ok(Settled::Done)
}

/// Whether nothing is lost with a file: it is as it was accepted, or it holds what was uploaded, byte for byte.
fn is_whole(
    folder: &Folder,
    name: &OsStr,
    stamp: &Stamp,
    processed: Processed,
) -> Result<bool, Errno> {
    let Processed { file, content } = processed;
    // What was uploaded may be more than what was accepted.
    let size_bytes = content.map_or(file.size_bytes, |content| content.size_bytes);
    if !stamp.is_file() || stamp.size_bytes != size_bytes {
        return Ok(false);
    }
    if (stamp.size_bytes, stamp.mtime_ns) == (file.size_bytes, file.mtime_ns) {
        return Ok(true);
    }
    content.map_or(Ok(false), |content| {
        // Nor may it change while it is read.
        Ok(has_content(folder, name, content)? && folder.stamp(name)? == Some(*stamp))
    })
}

/// Moves a source back to where it was dropped; when the name is in use again, beside it. Answers where it is then, if
/// there was a name for it.
fn give_back<P: Permit>(now: &Path, dropped: &Path, permit: &P) -> Result<Option<PathBuf>, Fault> {
    for n in 0..CANDIDATES {
        let back = candidate(dropped, n);
        if move_file(now, &back, permit)? == Settled::Done {
            return Ok(Some(back));
        }
    }
    Ok(None)
}

/// A file, in the folder that it is in; `None` when one of them is gone.
fn found(path: &Path) -> Result<Option<(Folder, &OsStr, Stamp)>, Fault> {
    let found = Folder::of(path)
        .and_then(|(folder, name)| Ok(folder.stamp(name)?.map(|stamp| (folder, name, stamp))));
    match found {
        Err(Errno::NOENT) => Ok(None),
        other => other.map_err(|error| fault("find", path, error)),
    }
}

/// The folder that a path is in, made if it is missing, and the path's last part.
fn made(path: &Path) -> Result<(Folder, &OsStr), Fault> {
    let name = path.file_name().ok_or_else(|| fault("write to", path, Errno::ISDIR))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let folder =
        open_or_make(parent).map_err(|(at, error)| fault("open or make the folder", &at, error))?;
    Ok((folder, name))
}

fn is_one_name(a: &Folder, a_name: &OsStr, b: &Folder, b_name: &OsStr) -> Result<bool, Errno> {
    Ok(a_name == b_name && a.own_stamp()?.is_same_file(&b.own_stamp()?))
}

/// A hidden name that is short, and the same at the next try.
fn unfinished_name(of: &OsStr) -> OsString {
    let hash = Sha256(sha2::Sha256::digest(of.as_encoded_bytes()).into()).to_string();
    format!(".{}{UNFINISHED}", &hash[..16]).into()
}

fn fault(attempted: &str, path: &Path, error: Errno) -> Fault {
    let shown = path.display();
    let folder = path.parent().unwrap_or(path).display();
    let text = |cure: String| format!("could not {attempted} {shown}: {error}: {cure}");
    let waits = |code, cure| Fault::unavailable(Origin::Outbox, code, text(cure));
    match error {
        Errno::NOSPC | Errno::DQUOT => {
            waits("disk_full", format!("free space in {folder}; it is tried again"))
        }
        Errno::ACCESS | Errno::PERM => {
            waits("outbox_denied", format!("let {} write to {folder}", user()))
        }
        Errno::ROFS => waits(
            "outbox_denied",
            format!("{folder} is read-only: mount it so that {} can write to it", user()),
        ),
        Errno::ISDIR => Fault::permanent(
            Origin::Outbox,
            "output_is_directory",
            text("remove the directory that has the name, or name outputs otherwise".to_owned()),
        ),
        Errno::NAMETOOLONG => Fault::permanent(
            Origin::Outbox,
            "name_too_long",
            text("shorten the file's name or the template in `outputs`".to_owned()),
        ),
        Errno::OPNOTSUPP => waits(
            "outbox_unfit",
            "this file system can neither rename without overwriting nor link: choose another folder"
                .to_owned(),
        ),
        _ => waits("outbox_failed", "it is tried again".to_owned()),
    }
}

const CANDIDATES: u32 = 1000;
const NOTE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Class;

    #[test]
    fn a_fault_says_what_would_mend_it() {
        for (error, code, class, cure) in [
            (Errno::NOSPC, "disk_full", "transient", "free space in /out"),
            (Errno::DQUOT, "disk_full", "transient", "free space in /out"),
            (Errno::ACCESS, "outbox_denied", "transient", "let user id"),
            (Errno::ROFS, "outbox_denied", "transient", "/out is read-only"),
            (Errno::IO, "outbox_failed", "transient", "tried again"),
            (Errno::ISDIR, "output_is_directory", "permanent", "remove the directory"),
            (Errno::NAMETOOLONG, "name_too_long", "permanent", "shorten"),
        ] {
            let fault = fault("write", Path::new("/out/a.csv"), error);
            assert_eq!((fault.code.as_str(), fault.class.name()), (code, class));
            assert!(fault.message.contains("/out/a.csv"), "{fault}");
            assert!(fault.message.contains(cure), "{fault}");
            let free = fault.blame == crate::fault::Blame::Service;
            assert_eq!(free, fault.class == Class::Transient, "waiting costs no attempt");
        }
    }

    #[test]
    fn a_hidden_name_is_short_and_stays_the_same() {
        let name = unfinished_name(OsStr::new(&"x".repeat(255)));
        assert_eq!(name, unfinished_name(OsStr::new(&"x".repeat(255))));
        assert_ne!(name, unfinished_name(OsStr::new("y")));
        assert!(name.len() < 64 && name.as_encoded_bytes().starts_with(b"."));
    }
}
