//! The sandbox's blobs, in memory.
//!
//! A blob is an immutable snapshot behind an `Arc`, and its content a list of segments, one for each block: so a commit
//! of a block list copies no bytes, a reader needs no lock while it reads, and the one lock around everything is held
//! for a look-up.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};

/// All containers of the account.
#[derive(Default)]
pub(super) struct BlobStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    containers: HashMap<String, Container>,
    changes: u64,
    blocks_staged: u64,
    blobs_written: u64,
}

struct Container {
    etag: String,
    modified: DateTime<Utc>,
    blobs: BTreeMap<String, Arc<Blob>>,
    /// Uncommitted blocks by blob and id.
    staged: HashMap<String, BTreeMap<String, Bytes>>,
}

/// A committed blob.
pub(super) struct Blob {
    pub(super) etag: String,
    pub(super) modified: DateTime<Utc>,
    pub(super) properties: Properties,
    /// The committed blocks with their ids; a blob put in one piece has one segment without an id.
    pub(super) segments: Vec<(Option<String>, Bytes)>,
    pub(super) length: u64,
}

/// What is stored beside the content.
#[derive(Clone, Default)]
pub(super) struct Properties {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    /// Base64, as it was given or computed.
    pub(super) content_md5: Option<String>,
    /// Names without `x-ms-meta-`.
    pub(super) metadata: BTreeMap<String, String>,
}

/// What a write demands of what is there.
#[derive(Clone, Default)]
pub(super) struct Conditions {
    /// `If-None-Match: *`
    pub(super) absent: bool,
    /// `If-Match`: an etag, or `*` for any.
    pub(super) matches: Option<String>,
    /// The caller may not replace what exists.
    pub(super) create_only: bool,
}

/// Which list a block is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockSource {
    Committed,
    Uncommitted,
    /// Uncommitted, else committed.
    Latest,
}

/// Why the store refuses; the names are the service's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreError {
    ContainerAlreadyExists,
    ContainerNotFound,
    BlobNotFound,
    BlobAlreadyExists,
    ConditionNotMet,
    InvalidBlockList,
    InvalidBlobOrBlock,
    /// The credential does not let the caller replace a blob.
    MayNotReplace,
}

/// One page of a listing.
pub(super) struct Page {
    pub(super) blobs: Vec<(String, Arc<Blob>)>,
    /// The first name of the next page.
    pub(super) next: Option<String>,
}

/// A committed and an uncommitted list of blocks: id and size.
pub(super) struct Blocks {
    pub(super) blob: Option<Arc<Blob>>,
    pub(super) committed: Vec<(String, usize)>,
    pub(super) uncommitted: Vec<(String, usize)>,
}

impl BlobStore {
    pub(super) fn create_container(
        &self,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<String, StoreError> {
        let mut inner = self.lock();
        if inner.containers.contains_key(name) {
            return Err(StoreError::ContainerAlreadyExists);
        }
        let etag = inner.next_etag();
        let container = Container {
            etag: etag.clone(),
            modified: now,
            blobs: BTreeMap::new(),
            staged: HashMap::new(),
        };
        inner.containers.insert(name.into(), container);
        Ok(etag)
    }

    /// A container's etag and last change.
    pub(super) fn container(&self, name: &str) -> Result<(String, DateTime<Utc>), StoreError> {
        let mut inner = self.lock();
        let container = inner.container(name)?;
        Ok((container.etag.clone(), container.modified))
    }

    pub(super) fn delete_container(&self, name: &str) -> Result<(), StoreError> {
        self.lock().containers.remove(name).map(drop).ok_or(StoreError::ContainerNotFound)
    }

    pub(super) fn read(&self, container: &str, blob: &str) -> Result<Arc<Blob>, StoreError> {
        let mut inner = self.lock();
        inner.container(container)?.blobs.get(blob).cloned().ok_or(StoreError::BlobNotFound)
    }

    /// Put Blob: uncommitted blocks of that name are dropped, as the service does.
    pub(super) fn put(
        &self,
        container: &str,
        name: &str,
        content: Bytes,
        properties: Properties,
        conditions: &Conditions,
        now: DateTime<Utc>,
    ) -> Result<Arc<Blob>, StoreError> {
        self.lock().replace(container, name, vec![(None, content)], properties, conditions, now)
    }

    pub(super) fn stage(
        &self,
        container: &str,
        name: &str,
        id: String,
        content: Bytes,
    ) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let staged = inner.container(container)?.staged.entry(name.into()).or_default();
        // Base64 of the same length in bytes has the same length in characters, and padding tells the rest.
        let shape = |id: &str| (id.len(), id.trim_end_matches('=').len());
        if staged.keys().next().is_some_and(|other| shape(other) != shape(&id)) {
            return Err(StoreError::InvalidBlobOrBlock);
        }
        staged.insert(id, content);
        inner.blocks_staged += 1;
        Ok(())
    }

    /// How many blocks were staged and blobs written, ever.
    pub(super) fn writes(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.blocks_staged, inner.blobs_written)
    }

    /// Put Block List.
    pub(super) fn commit(
        &self,
        container: &str,
        name: &str,
        list: &[(BlockSource, String)],
        properties: Properties,
        conditions: &Conditions,
        now: DateTime<Utc>,
    ) -> Result<Arc<Blob>, StoreError> {
        let mut inner = self.lock();
        let home = inner.container(container)?;
        let existing = home.blobs.get(name).cloned();
        // Before the blocks are looked at: a repeated commit has none left, and must hear what is really there.
        conditions.check(existing.as_deref())?;
        let committed: HashMap<&str, &Bytes> = existing
            .iter()
            .flat_map(|blob| &blob.segments)
            .filter_map(|(id, bytes)| Some((id.as_deref()?, bytes)))
            .collect();
        let staged = home.staged.get(name);
        let uncommitted = |id: &String| staged.and_then(|staged| staged.get(id));
        let mut segments = Vec::with_capacity(list.len());
        for (source, id) in list {
            let bytes = match source {
                BlockSource::Committed => committed.get(id.as_str()).copied(),
                BlockSource::Uncommitted => uncommitted(id),
                BlockSource::Latest => {
                    uncommitted(id).or_else(|| committed.get(id.as_str()).copied())
                }
            };
            let bytes = bytes.ok_or(StoreError::InvalidBlockList)?;
            segments.push((Some(id.clone()), bytes.clone()));
        }
        inner.replace(container, name, segments, properties, conditions, now)
    }

    pub(super) fn blocks(&self, container: &str, name: &str) -> Result<Blocks, StoreError> {
        let mut inner = self.lock();
        let home = inner.container(container)?;
        let (blob, staged) = (home.blobs.get(name), home.staged.get(name));
        if blob.is_none() && staged.is_none() {
            return Err(StoreError::BlobNotFound);
        }
        let committed = blob
            .iter()
            .flat_map(|blob| &blob.segments)
            .filter_map(|(id, bytes)| Some((id.clone()?, bytes.len())))
            .collect();
        let uncommitted = staged
            .iter()
            .flat_map(|staged| staged.iter())
            .map(|(id, bytes)| (id.clone(), bytes.len()))
            .collect();
        Ok(Blocks { blob: blob.cloned(), committed, uncommitted })
    }

    pub(super) fn delete(
        &self,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let home = inner.container(container)?;
        let existing = home.blobs.get(name).ok_or(StoreError::BlobNotFound)?;
        conditions.check(Some(existing))?;
        home.blobs.remove(name);
        Ok(())
    }

    /// The blobs whose names begin with `prefix`, in order, from `marker` on.
    pub(super) fn list(
        &self,
        container: &str,
        prefix: &str,
        marker: &str,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut inner = self.lock();
        let home = inner.container(container)?;
        let first = Bound::Included(marker.max(prefix));
        let mut names = home
            .blobs
            .range::<str, _>((first, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix));
        let blobs =
            names.by_ref().take(limit).map(|(name, blob)| (name.clone(), blob.clone())).collect();
        Ok(Page { blobs, next: names.next().map(|(name, _)| name.clone()) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one insert or removal, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn container(&mut self, name: &str) -> Result<&mut Container, StoreError> {
        self.containers.get_mut(name).ok_or(StoreError::ContainerNotFound)
    }

    fn next_etag(&mut self) -> String {
        self.changes += 1;
        format!("\"0x8D{:013X}\"", self.changes)
    }

    fn replace(
        &mut self,
        container: &str,
        name: &str,
        segments: Vec<(Option<String>, Bytes)>,
        properties: Properties,
        conditions: &Conditions,
        now: DateTime<Utc>,
    ) -> Result<Arc<Blob>, StoreError> {
        let etag = self.next_etag();
        let home = self.container(container)?;
        conditions.check(home.blobs.get(name).map(Arc::as_ref))?;
        let length = segments.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let blob = Arc::new(Blob { etag, modified: now, properties, segments, length });
        home.blobs.insert(name.into(), blob.clone());
        home.staged.remove(name);
        self.blobs_written += 1;
        Ok(blob)
    }
}

impl Blob {
    /// The bytes from `start` up to, not including, `end`, still in segments.
    pub(super) fn slices(&self, start: u64, end: u64) -> Vec<Bytes> {
        let mut slices = Vec::new();
        let mut offset = 0_u64;
        for (_, bytes) in &self.segments {
            let next = offset + bytes.len() as u64;
            // Inside a segment that lies in memory, so both fit a usize.
            let within = |at: u64| usize::try_from(at.clamp(offset, next) - offset);
            if let (Ok(from), Ok(to)) = (within(start), within(end))
                && from < to
            {
                slices.push(bytes.slice(from..to));
            }
            offset = next;
        }
        slices
    }

    /// The whole content in one piece.
    pub(super) fn content(&self) -> Bytes {
        match self.segments.as_slice() {
            [(_, only)] => only.clone(),
            many => {
                let mut all = BytesMut::new();
                for (_, bytes) in many {
                    all.extend_from_slice(bytes);
                }
                all.freeze()
            }
        }
    }
}

impl Conditions {
    fn check(&self, existing: Option<&Blob>) -> Result<(), StoreError> {
        if existing.is_some() && self.absent {
            return Err(StoreError::BlobAlreadyExists);
        }
        if let Some(wanted) = &self.matches
            && !existing.is_some_and(|blob| wanted == "*" || *wanted == blob.etag)
        {
            return Err(StoreError::ConditionNotMet);
        }
        if existing.is_some() && self.create_only {
            return Err(StoreError::MayNotReplace);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> BlobStore {
        let store = BlobStore::default();
        store.create_container("c", DateTime::UNIX_EPOCH).unwrap();
        store
    }

    fn commit(store: &BlobStore, ids: &[(BlockSource, &str)]) -> Result<Arc<Blob>, StoreError> {
        let list: Vec<_> = ids.iter().map(|(source, id)| (*source, (*id).to_owned())).collect();
        let now = DateTime::UNIX_EPOCH;
        store.commit("c", "b", &list, Properties::default(), &Conditions::default(), now)
    }

    #[test]
    fn a_commit_takes_blocks_in_its_own_order_and_empties_the_stage() {
        let store = store();
        for (id, text) in [("MQ==", "one"), ("Mg==", "two"), ("Mw==", "three")] {
            store.stage("c", "b", id.into(), Bytes::from_static(text.as_bytes())).unwrap();
        }
        assert_eq!(
            store.read("c", "b").err(),
            Some(StoreError::BlobNotFound),
            "staged is not there yet"
        );
        let blob = commit(&store, &[(BlockSource::Latest, "Mg=="), (BlockSource::Latest, "MQ==")])
            .unwrap();
        assert_eq!(&blob.content()[..], b"twoone");
        assert_eq!(store.blocks("c", "b").unwrap().uncommitted.len(), 0);
        assert_eq!(
            commit(&store, &[(BlockSource::Uncommitted, "MQ==")]).err(),
            Some(StoreError::InvalidBlockList)
        );
        let again = commit(&store, &[(BlockSource::Committed, "MQ==")]).unwrap();
        assert_eq!(&again.content()[..], b"one");
        assert_ne!(again.etag, blob.etag);
    }

    #[test]
    fn block_ids_of_one_blob_have_one_length() {
        let store = store();
        store.stage("c", "b", "MQ==".into(), Bytes::new()).unwrap();
        for id in ["MTI=", "MTIz", "MTIzNA=="] {
            assert_eq!(
                store.stage("c", "b", id.into(), Bytes::new()),
                Err(StoreError::InvalidBlobOrBlock),
                "{id}"
            );
        }
    }

    #[test]
    fn a_range_crosses_blocks() {
        let blob = Blob {
            etag: String::new(),
            modified: DateTime::UNIX_EPOCH,
            properties: Properties::default(),
            segments: ["abc", "", "defg"]
                .map(|text| (None, Bytes::from_static(text.as_bytes())))
                .into(),
            length: 7,
        };
        for (start, end, expected) in [(0, 7, "abcdefg"), (2, 4, "cd"), (3, 7, "defg"), (1, 1, "")]
        {
            assert_eq!(blob.slices(start, end).concat(), expected.as_bytes(), "{start}..{end}");
        }
    }

    #[test]
    fn a_listing_goes_on_where_its_page_ended() {
        let store = store();
        for name in ["a/1", "a/2", "a/3", "b/1"] {
            let (properties, conditions) = (Properties::default(), Conditions::default());
            store
                .put("c", name, Bytes::new(), properties, &conditions, DateTime::UNIX_EPOCH)
                .unwrap();
        }
        let page = store.list("c", "a/", "", 2).unwrap();
        assert_eq!((page.blobs.len(), page.next.as_deref()), (2, Some("a/3")));
        let page = store.list("c", "a/", "a/3", 2).unwrap();
        assert_eq!((page.blobs.len(), page.next), (1, None));
    }
}
