//! A copy of the database, made beside a daemon that is using it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, query, query_scalar};

use super::{close, connect, failed, read_only};
use crate::ports::StoreError;

/// Copies the database in the state folder into a new file, as it is at one moment; answers the copy's length in bytes. It
/// gets its name when it is complete and was checked. `VACUUM INTO` reads in one transaction, which keeps no writer
/// waiting: <https://www.sqlite.org/lang_vacuum.html>.
pub(super) async fn back_up(state_dir: &Path, to: &Path) -> Result<u64, StoreError> {
    let refused = |what: String| StoreError::Unusable(format!("{} {what}", to.display()));
    let unwritable = |error: std::io::Error| refused(format!("can't be written: {error}"));
    if to.exists() {
        return Err(refused("is there already: name a file that is not, or remove it".to_owned()));
    }
    let part = PathBuf::from({
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        part
    });
    remove(&part).map_err(unwritable)?;
    let made = async {
        let name =
            part.to_str().ok_or_else(|| refused("is no UTF-8: name another file".to_owned()))?;
        let mut store = connect(&read_only(state_dir), state_dir).await?;
        let copied = query("VACUUM INTO ?1").bind(name).execute(&mut store).await;
        copied.map_err(|error| failed("be copied", &error))?;
        close(store).await;
        let options = SqliteConnectOptions::new().filename(&part).read_only(true);
        let check = async {
            let mut copy = options.connect().await?;
            query_scalar::<_, String>("PRAGMA quick_check").fetch_one(&mut copy).await
        };
        let checked = check.await.map_err(|error| failed("be read from its copy", &error))?;
        if checked != "ok" {
            return Err(refused(format!("would be damaged ({checked}): check the disks")));
        }
        // SQLite does not sync what it writes there.
        let file = File::open(&part).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)?;
        // A second name never overwrites.
        std::fs::hard_link(&part, to).map_err(unwritable)?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(unwritable)?;
        Ok(file.metadata().map_err(unwritable)?.len())
    };
    let made = made.await;
    let removed = remove(&part).map_err(unwritable);
    made.and_then(|bytes| removed.map(|()| bytes))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
