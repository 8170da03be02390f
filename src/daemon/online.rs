//! `check --online`: looks at everything that the config names, with the rights of whoever asks, and starts nothing.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::{blobs, identities, looking_inbox, scorers};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::fault::Fault;
use crate::feed::{Feed, SourceEnd};
use crate::metrics::Metrics;
use crate::ports::{Audience, Blobs, Inbox, Scorer};

/// One thing that `check --online` looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What is wrong with it, if anything is, and what mends it.
    pub trouble: Option<String>,
}

/// Looks at everything that the config names: the store, each credential by
/// itself, each storage (its container is made when it is missing and
/// `create` allows it), each endpoint, each folder.
pub async fn check_online(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut add = |what: String, trouble: Option<String>| findings.push(Finding { what, trouble });
    let state_dir = &config.node.state_dir;
    let state = Place { path: state_dir.clone(), needs: READ | WRITE, is_made: true };
    let state = state.trouble().await;
    if config.store.server.is_some() {
        add(format!("state in {}", state_dir.display()), state.clone());
    }
    let store = config.store.check(SystemClock).await.err().map(|error| error.to_string());
    // A store in the state folder can't be better than the folder.
    let folder = state.filter(|_| config.store.server.is_none());
    add(config.store.to_string(), folder.or(store));
    let identities = identities(config)?;
    for (name, identity) in &identities {
        let kind = config.credentials[name].proof.kind();
        let trouble = identity.token(Audience::Storage).await.err();
        add(format!("credential {name} ({kind})"), trouble.map(|fault| fault.to_string()));
    }
    for (name, blobs) in blobs(config, &identities)? {
        let trouble = blobs.ready().await.err().map(|fault| fault.to_string());
        let by = config.storages[&name].account.identity();
        let by = by.map_or(String::new(), |credential| format!(" with credential {credential}"));
        add(format!("storage {name}{by}"), trouble);
    }
    let metrics = Metrics::new(&[], &[], &[]);
    for (name, scorer) in scorers(config, &metrics, &identities)? {
        add(format!("endpoint {name}"), scorer.probe().await.err().map(|fault| fault.to_string()));
    }
    for (name, feed) in &config.feeds {
        for (what, place) in places(feed) {
            let mut trouble = place.trouble().await;
            if let Some(trouble) = &mut trouble
                && what == DROP_FOLDER
                && feed.moves_sources()
                && trouble.contains("write")
            {
                trouble.push_str(", or set source.on_success and source.on_failure to \"leave\"");
            }
            add(format!("feed {name}: {what} {}", place.path.display()), trouble);
        }
        if feed.fixed.is_some() {
            // One that is to come is no trouble, but a name that is misspelt looks the same.
            let (yet, trouble) = match look_at_fixed(config, feed).await? {
                Ok(true) => ("", None),
                Ok(false) => (", where nothing is yet", None),
                Err(fault) => ("", Some(fault.to_string())),
            };
            add(format!("feed {name}: takes {}{yet}", feed.takes_from()), trouble);
        }
    }
    Ok(findings)
}

/// Whether there is anything of the input that a schedule names.
async fn look_at_fixed(config: &Config, feed: &Feed) -> anyhow::Result<Result<bool, Fault>> {
    let inbox = looking_inbox(config, feed)?;
    let looked = async {
        inbox.scan().await?;
        inbox.more(1).await
    };
    Ok(looked.await.map(|scan| !scan.ready.is_empty()))
}

/// The folders of a feed.
fn places(feed: &Feed) -> Vec<(&'static str, Place)> {
    let mut places = Vec::new();
    if let Some(watch) = &feed.watch {
        // Sources wait for their end in a folder inside it.
        let needs = if feed.moves_sources() { READ | WRITE } else { READ };
        places.push((DROP_FOLDER, Place { path: watch.folder.clone(), needs, is_made: false }));
    }
    let made = |folder: &PathBuf| Place { path: folder.clone(), needs: WRITE, is_made: true };
    places.push(("outputs to", made(&feed.deliver.folder)));
    for (what, end) in
        [("archive", &feed.source.on_success), ("failed to", &feed.source.on_failure)]
    {
        if let SourceEnd::Move(folder) = end {
            places.push((what, made(folder)));
        }
    }
    places
}

/// A folder, and what must be allowed in it.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    needs: Access,
    /// The daemon makes it when it is missing.
    is_made: bool,
}

impl Place {
    async fn trouble(&self) -> Option<String> {
        let place = self.clone();
        // A share that is away keeps its callers waiting.
        let looked = tokio::task::spawn_blocking(move || place.look()).await;
        looked.unwrap_or_else(|error| Some(error.to_string()))
    }

    fn look(&self) -> Option<String> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        let missing = |error: &std::io::Error| matches!(error.kind(), NotFound | NotADirectory);
        match std::fs::metadata(&self.path) {
            Ok(there) if !there.is_dir() => {
                Some("this is no folder: name another one, or move the file away".to_owned())
            }
            Ok(_) => denied(&self.path, self.needs),
            Err(error) if missing(&error) && self.is_made => {
                let parent = self.path.ancestors().skip(1).find(|folder| folder.exists())?;
                if !parent.is_dir() {
                    return Some(format!("can't be made: {} is no folder", parent.display()));
                }
                denied(parent, WRITE)
                    .map(|denied| format!("can't be made: {denied}, or make it yourself"))
            }
            Err(error) if missing(&error) => {
                Some("is not there: make it, or name another one".to_owned())
            }
            Err(error) => Some(format!("{error}; name a folder that this user can reach")),
        }
    }
}

/// What this process may not do in a folder.
fn denied(folder: &Path, needs: Access) -> Option<String> {
    let (mut missing, mut last) = (Vec::new(), Errno::ACCESS);
    for (right, what) in [(READ, "read"), (WRITE, "write")] {
        // The rights of the effective user: those are the ones that will count.
        if needs.contains(right)
            && let Err(error) = accessat(CWD, folder, right | Access::EXEC_OK, AtFlags::EACCESS)
        {
            missing.push(what);
            last = error;
        }
    }
    if missing.is_empty() {
        return None;
    }
    let missing = missing.join(" and ");
    let folder = folder.display();
    Some(format!("this user may not {missing} in {folder}: {last}; give it the right to"))
}

const DROP_FOLDER: &str = "drop folder";
const READ: Access = Access::READ_OK;
const WRITE: Access = Access::WRITE_OK;
