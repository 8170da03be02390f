//! Which folder a folder is.
//!
//! A path says little: a share that isn't mounted leaves an empty folder in its place, and two machines may each have a
//! folder of its own there. So the folder itself carries an id, in `.scoreline/folder`, and nothing is looked for, moved
//! or missed in a folder that has another one or none. The look at the marker goes through the same open folder as what
//! follows it, so that nothing can be mounted or unmounted in between.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use uuid::Uuid;

use crate::fault::{Fault, Origin};
use crate::feed::{Name, OWN_FOLDER};
use crate::folder::{Folder, errno, off_thread, user};
use crate::ports::FolderId;

/// The marker of one feed's folder.
pub(super) struct Marker {
    feed: Name,
    folder: PathBuf,
    /// What it has to say; `None`: whatever it says, or nothing.
    expected: Mutex<Option<FolderId>>,
    // On a share that doesn't answer one look hangs, not one more at each try.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl Marker {
    pub(super) fn new(feed: &Name, folder: &Path) -> Self {
        let (feed, folder) = (feed.clone(), folder.to_owned());
        Self { feed, folder, expected: Mutex::default(), looking: Arc::default() }
    }

    /// Does what blocks on the disk, one at a time.
    pub(super) async fn off_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let alone = Arc::clone(&self.looking).lock_owned().await;
        let marker = Arc::clone(self);
        off_thread(Origin::Inbox, move || {
            let _alone = alone;
            work(&marker)
        })
        .await
    }

    pub(super) fn open(&self) -> Result<Folder, Fault> {
        Folder::open(&self.folder).map_err(|error| self.unreadable(error))
    }

    /// What it says; `None` when there is none.
    pub(super) fn read(&self, root: &Folder) -> Result<Option<FolderId>, Fault> {
        let opened = root.inside(OWN_FOLDER.as_ref()).and_then(|own| own.read(NAME.as_ref()));
        let file = match opened {
            Ok((file, _)) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.unreadable(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| self.unreadable(errno(&error)))?;
        if let Some(id) = FolderId::parse(&String::from_utf8_lossy(&bytes)) {
            return Ok(Some(id));
        }
        let text = format!(
            "the marker {} of feed {} holds no id: if this is the feed's folder, remove the marker, and what is told \
             then says which id belongs there, if one does",
            self.path().display(),
            self.feed
        );
        Err(Fault::unavailable(Origin::Inbox, "marker_damaged", text))
    }

    /// Makes one, unless there is one; answers what it says, or `None` when the folder can't be written to.
    pub(super) fn make(&self, root: &Folder) -> Result<Option<FolderId>, Fault> {
        match write(root) {
            Ok(id) => Ok(Some(id)),
            // Somebody was quicker.
            Err(Errno::EXIST) => self.read(root),
            // The last one: it can neither rename without overwriting nor link, so that two nodes would make two.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => {
                let text = format!(
                    "could not write the marker {} of feed {}: {error}: it is tried again",
                    self.path().display(),
                    self.feed
                );
                Err(Fault::unavailable(Origin::Inbox, "marker_unwritable", text))
            }
        }
    }

    /// From here on it must say this.
    pub(super) fn expect(&self, id: FolderId) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// Refuses a folder that isn't the feed's.
    pub(super) fn check(&self, root: &Folder) -> Result<(), Fault> {
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(expected) = expected else { return Ok(()) };
        let found = self.read(root)?;
        if found == Some(expected) {
            return Ok(());
        }
        let has = found.map_or("no marker".to_owned(), |found| format!("the id {found}"));
        let text = format!(
            "{folder} is not the folder of feed {feed}, whose id is {expected}: it has {has}; mount the folder that the \
             other nodes see, or give this node a node.site of its own, or, if the folder was moved or replaced on \
             purpose, write {expected} into {marker}",
            folder = self.folder.display(),
            feed = self.feed,
            marker = self.path().display()
        );
        Err(Fault::unavailable(Origin::Inbox, "folder_gone", text))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(OWN_FOLDER).join(NAME)
    }

    fn unreadable(&self, error: Errno) -> Fault {
        let cure = match error {
            Errno::ACCESS | Errno::PERM => format!("let {} read it", user()),
            Errno::NOENT | Errno::NOTDIR => "make the folder, or mount it".to_owned(),
            _ => "it is tried again".to_owned(),
        };
        let (marker, feed) = (self.path(), &self.feed);
        let text = format!("could not read {} of feed {feed}: {error}: {cure}", marker.display());
        Fault::unavailable(Origin::Inbox, "marker_unreadable", text)
    }
}

/// Writes a new marker whole; `EXIST` when there is one.
fn write(root: &Folder) -> Result<FolderId, Errno> {
    let id = new_id();
    let own = root.ensure(OWN_FOLDER.as_ref())?;
    // Nobody else's: another node may be about to do the same.
    let temporary = format!(".{id}");
    let temporary = temporary.as_ref();
    let written = own
        .create(temporary)
        .and_then(|file| fill(file, id).map_err(|error| errno(&error)))
        .and_then(|()| own.rename_new(temporary, &own, NAME.as_ref()));
    if let Err(error) = written {
        let _ = own.remove(temporary);
        // Only if it is empty.
        let _ = root.remove_folder(OWN_FOLDER.as_ref());
        return Err(error);
    }
    own.sync().and_then(|()| root.sync())?;
    Ok(id)
}

fn fill(mut file: File, id: FolderId) -> std::io::Result<()> {
    // Nodes may run as different users; a file system without permissions has nothing to set.
    let _ = file.set_permissions(Permissions::from_mode(0o644));
    writeln!(file, "{id}")?;
    file.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "the one place where a folder gets an id")]
fn new_id() -> FolderId {
    FolderId::new(Uuid::new_v4())
}

/// In the program's own folder inside the drop folder.
const NAME: &str = "folder";
/// Several times what we write into one.
const MAX_BYTES: u64 = 256;
