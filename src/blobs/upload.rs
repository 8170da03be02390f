//! Files on their way up.
//!
//! A file is read once, from its beginning to its end, and its blocks are sent while it is read, several at a time. Three
//! things make an upload one that can be repeated at any point:
//!
//! * A block's id is its place and its MD5, which the service has checked against the bytes: a block that is there under
//!   our id is ours, whoever sent it and when. So what an earlier try has sent is not sent again, and blocks of a file
//!   that changed meanwhile can't get among those of the new one.
//! * A blob is only ever created (`If-None-Match: *`): what was handed to the service once stays as it is, and a try that
//!   comes late writes nothing.
//! * A blob carries the SHA-256 of its content as metadata: a try whose answer was lost recognises its own blob. The name
//!   needs no identity beside it, since the blob is found under it; and the label would say the same of any content.
//!
//! Memory: blocks of 8 MiB. Each upload has one on its way and one being read, and all uploads of a storage share those
//! that may be on their way beyond that (see [`Settings::blocks_in_flight`](super::Settings)): with the default of 4, one
//! upload holds 40 MiB at most and sixteen hold 280. From 98 GiB on blocks grow, up to 64 MiB, and are sent one by one.
//!
//! Source: *Put Block*, *Put Block List*, *Get Block List* and *Put Blob* in Microsoft's REST reference.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use azure_storage_blob::BlobClient;
use azure_storage_blob::clients::BlockBlobClient;
use azure_storage_blob::models::{
    BlobClientGetPropertiesResultHeaders as _, BlockBlobClientCommitBlockListOptions,
    BlockBlobClientStageBlockOptions, BlockBlobClientUploadOptions, BlockListType, BlockLookupList,
};
use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use md5::{Digest as _, Md5};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::name::{content_type, encode_label};
use super::verdict::{Attempt, Call, answer};
use super::{AzureBlobs, Sums, code_of, content};
use crate::fault::{Fault, Origin};
use crate::job::Content;

impl AzureBlobs {
    pub(super) async fn send<R: AsyncRead + Unpin + Send>(
        &self,
        blob: &str,
        label: &str,
        from: &mut R,
    ) -> Result<Content, Fault> {
        let attempt = self.on_blob(Call::Upload, blob);
        let client = self.client(&self.writes, blob, &attempt)?;
        let target =
            Target { blobs: self, blob, label, attempt, client: client.block_blob_client() };
        let spare = Spare::default();
        let mut blocks = Blocks { from, sums: Sums::default(), read: 0, spare: &spare };
        let first = blocks.next(&target.attempt).await?;
        let second = if first.len() < BLOCK_BYTES {
            Bytes::new()
        } else {
            blocks.next(&target.attempt).await?
        };
        if second.is_empty() {
            target.put(first, blocks.sums).await
        } else {
            target.put_blocks(first, second, blocks).await
        }
    }
}

/// A name on its way to be a blob.
struct Target<'a> {
    blobs: &'a AzureBlobs,
    blob: &'a str,
    label: &'a str,
    attempt: Attempt,
    client: BlockBlobClient,
}

/// What a name holds before an upload.
enum Found {
    /// These blocks at most, which no blob is made of yet.
    Blocks(HashSet<Vec<u8>>),
    /// A blob.
    Blob,
}

impl Target<'_> {
    /// A small file, in one request.
    async fn put(&self, bytes: Bytes, sums: Sums) -> Result<Content, Fault> {
        let (whole, md5) = sums.finish();
        let put = || {
            let options = BlockBlobClientUploadOptions {
                blob_content_type: Some(content_type(self.blob).to_owned()),
                if_none_match: Some("*".into()),
                metadata: Some(self.metadata(whole)),
                // One request, whatever the client thinks of the size.
                partition_size: NonZero::new(BLOCK_BYTES as u64),
                ..BlockBlobClientUploadOptions::default()
            };
            self.client.upload(content(bytes.clone()), Some(options))
        };
        let mut put_once = put().await;
        if let Err(error) = &put_once
            && self.blobs.create
            && code_of(error).as_deref() == Some("ContainerNotFound")
        {
            self.blobs.make().await?;
            put_once = put().await;
        }
        match put_once {
            Err(error) if is_taken(&error) => self.recognise(whole, md5).await,
            put => put.map(|_| whole).map_err(|error| self.attempt.fault(&error)),
        }
    }

    /// A large file, block by block.
    async fn put_blocks<R: AsyncRead + Unpin + Send>(
        &self,
        first: Bytes,
        second: Bytes,
        mut blocks: Blocks<'_, R>,
    ) -> Result<Content, Fault> {
        let found = self.found().await?;
        let spare = blocks.spare;
        let mut ids = Vec::new();
        let mut sending = FuturesUnordered::new();
        let (mut block, mut next) = (first, second);
        while !block.is_empty() {
            if ids.len() == BLOCKS_MAX {
                return Err(self.attempt.impossible(
                    "too_large",
                    "the file has more than 50,000 blocks, which are 1.4 TiB",
                    "split it",
                ));
            }
            let md5: [u8; 16] = Md5::digest(&block).into();
            let id = block_id(ids.len(), md5);
            let there = match &found {
                Found::Blocks(sent) => sent.contains(&id),
                // Nothing is sent to a name that is taken: the file is read for its hash alone.
                Found::Blob => true,
            };
            if !there {
                let ahead = loop {
                    if sending.is_empty() {
                        break None;
                    }
                    let blocks = u32::try_from(block.len().div_ceil(BLOCK_BYTES));
                    match self.blobs.ahead.try_acquire_many(blocks.unwrap_or(u32::MAX)) {
                        Ok(ahead) => break Some(ahead),
                        Err(_) => sent(sending.next().await)?,
                    }
                };
                let bytes = std::mem::take(&mut block);
                let id = id.clone();
                sending.push(async move {
                    let sent = self.stage(&id, md5, bytes.clone()).await;
                    spare.give(bytes);
                    drop(ahead);
                    sent
                });
            }
            ids.push(id);
            let more = next.len() == block_bytes(ids.len());
            block = std::mem::take(&mut next);
            if more {
                next = while_sending(blocks.next(&self.attempt), &mut sending).await?;
            }
        }
        while !sending.is_empty() {
            sent(sending.next().await)?;
        }
        let (whole, md5) = blocks.sums.finish();
        match found {
            Found::Blob => self.recognise(whole, md5).await,
            Found::Blocks(_) => self.commit(ids, whole, md5).await,
        }
    }

    /// What is there already. The first call of a large upload: the one that finds out that the container is gone.
    async fn found(&self) -> Result<Found, Fault> {
        let client = self.blobs.client(&self.blobs.reads, self.blob, &self.attempt)?;
        let list = match client.block_blob_client().get_block_list(BlockListType::All, None).await {
            Ok(list) => list.into_model().map_err(|error| self.attempt.fault(&error))?,
            Err(error) => {
                return match (answer(&error), code_of(&error).as_deref()) {
                    (Some(_), Some("ContainerNotFound")) if self.blobs.create => {
                        self.blobs.make().await?;
                        Ok(Found::Blocks(HashSet::new()))
                    }
                    (Some(answer), code)
                        if answer.status == 404 && code != Some("ContainerNotFound") =>
                    {
                        Ok(Found::Blocks(HashSet::new()))
                    }
                    _ => Err(self.attempt.fault(&error)),
                };
            }
        };
        if list.committed_blocks.is_some_and(|blocks| !blocks.is_empty()) {
            return Ok(Found::Blob);
        }
        let blocks = list.uncommitted_blocks.unwrap_or_default();
        Ok(Found::Blocks(blocks.into_iter().filter_map(|block| block.name).collect()))
    }

    async fn stage(&self, id: &[u8], md5: [u8; 16], bytes: Bytes) -> Result<(), Fault> {
        let options = BlockBlobClientStageBlockOptions {
            transactional_content_md5: Some(md5.to_vec()),
            ..BlockBlobClientStageBlockOptions::default()
        };
        let length = bytes.len() as u64;
        let staged = self.client.stage_block(id, length, content(bytes), Some(options)).await;
        staged.map(drop).map_err(|error| self.attempt.fault(&error))
    }

    async fn commit(
        &self,
        ids: Vec<Vec<u8>>,
        whole: Content,
        md5: [u8; 16],
    ) -> Result<Content, Fault> {
        let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
        let options = BlockBlobClientCommitBlockListOptions {
            blob_content_md5: Some(md5.to_vec()),
            blob_content_type: Some(content_type(self.blob).to_owned()),
            if_none_match: Some("*".into()),
            metadata: Some(self.metadata(whole)),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let committed =
            async { self.client.commit_block_list(list.try_into()?, Some(options)).await }.await;
        match committed {
            Err(error) if is_taken(&error) => self.recognise(whole, md5).await,
            committed => committed.map(|_| whole).map_err(|error| self.attempt.fault(&error)),
        }
    }

    /// The name is taken. By our own blob, if an earlier try was heard and its answer lost; anything else stays as it is.
    async fn recognise(&self, ours: Content, md5: [u8; 16]) -> Result<Content, Fault> {
        let client: BlobClient = self.blobs.client(&self.blobs.reads, self.blob, &self.attempt)?;
        let failed = |error| self.attempt.fault(&error);
        let found = match client.get_properties(None).await {
            Ok(found) => found,
            Err(error) if answer(&error).is_some_and(|answer| answer.status == 404) => {
                return Err(self.attempt.taken("it was there a moment ago and is gone"));
            }
            Err(error) => return Err(failed(error)),
        };
        let size = found.content_length().map_err(failed)?;
        let sum = found.content_md5().map_err(failed)?;
        let metadata = found.metadata().map_err(failed)?;
        // Names of headers have no case.
        let sha256 = metadata.iter().find(|(name, _)| name.eq_ignore_ascii_case(SHA256));
        let is_ours = size == Some(ours.size_bytes)
            && sha256.is_some_and(|(_, sha256)| *sha256 == ours.sha256.to_string())
            && sum.is_none_or(|sum| sum == md5);
        if is_ours {
            return Ok(ours);
        }
        Err(self.attempt.taken(match sha256 {
            Some(_) => "an earlier try wrote it, from a file that has changed since",
            None => "somebody else wrote it",
        }))
    }

    fn metadata(&self, whole: Content) -> HashMap<String, String> {
        HashMap::from([
            (LABEL.to_owned(), encode_label(self.label)),
            (SHA256.to_owned(), whole.sha256.to_string()),
        ])
    }
}

/// A file, cut.
struct Blocks<'a, R> {
    from: &'a mut R,
    sums: Sums,
    read: usize,
    spare: &'a Spare,
}

/// Memory of blocks that were sent, for those to come: an allocator that gets it back in pieces of this size keeps several
/// times as much as is in use.
#[derive(Default)]
struct Spare(Mutex<Vec<BytesMut>>);

impl Spare {
    /// Takes a block back, unless somebody holds it still.
    fn give(&self, block: Bytes) {
        if let Ok(mut block) = block.try_into_mut() {
            block.clear();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }

    fn take(&self, size: usize) -> BytesMut {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare
            .filter(|block| block.capacity() >= size)
            .unwrap_or_else(|| BytesMut::with_capacity(size))
    }
}

impl<R: AsyncRead + Unpin + Send> Blocks<'_, R> {
    /// Reads up to a block; less only at the end.
    async fn next(&mut self, attempt: &Attempt) -> Result<Bytes, Fault> {
        let whole = block_bytes(self.read);
        let mut block = self.spare.take(whole);
        while block.len() < whole {
            let had = block.len();
            let mut rest = (&mut *self.from).take((whole - had) as u64);
            let read = rest.read_buf(&mut block).await.map_err(|error| {
                let place = &attempt.place;
                let message = format!(
                    "could not read the input for {place}: {error}; check the file, its rights and its disk"
                );
                Fault::transient(Origin::Inbox, "read_failed", message)
            })?;
            if read == 0 {
                break;
            }
            self.sums.update(&block[had..]);
        }
        self.read += 1;
        Ok(block.freeze())
    }
}

/// Reads while blocks are sent: the requests go on only while somebody asks for them.
async fn while_sending(
    reading: impl Future<Output = Result<Bytes, Fault>>,
    sending: &mut (impl Stream<Item = Result<(), Fault>> + Unpin),
) -> Result<Bytes, Fault> {
    let mut reading = std::pin::pin!(reading);
    loop {
        tokio::select! {
            read = &mut reading => return read,
            done = sending.next() => match done {
                Some(done) => done?,
                None => return reading.await,
            }
        }
    }
}

fn sent(done: Option<Result<(), Fault>>) -> Result<(), Fault> {
    done.unwrap_or(Ok(()))
}

/// How many bytes a block has, by its place. By the place alone, so that every reading cuts a file alike.
fn block_bytes(index: usize) -> usize {
    BLOCK_BYTES << (index / BLOCKS_OF_ONE_SIZE).min(3)
}

/// The ids of one blob have to have one length, 64 bytes at most.
fn block_id(index: usize, md5: [u8; 16]) -> Vec<u8> {
    format!("{index:05}-{:032x}", u128::from_be_bytes(md5)).into_bytes()
}

/// Somebody was there before us.
fn is_taken(error: &azure_core::Error) -> bool {
    matches!(code_of(error).as_deref(), Some("BlobAlreadyExists" | "ConditionNotMet"))
}

pub(super) const BLOCK_BYTES: usize = 8 << 20;
const BLOCKS_MAX: usize = 50_000;
const BLOCKS_OF_ONE_SIZE: usize = BLOCKS_MAX / 4;
const LABEL: &str = "label";
/// A name that C# would take, as the service demands: no hyphen.
const SHA256: &str = "sha256";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_so_that_50_000_of_them_are_enough() {
        let sizes = [0, 12_499, 12_500, 25_000, 37_500, 49_999].map(|n| block_bytes(n) >> 20);
        assert_eq!(sizes, [8, 8, 16, 32, 64, 64]);
        let all: usize = (0..BLOCKS_MAX).map(block_bytes).sum();
        assert_eq!(all >> 30, 1464);
    }

    #[test]
    fn the_id_of_a_block_tells_its_place_and_its_content() {
        let id = |index, bytes: &[u8]| block_id(index, Md5::digest(bytes).into());
        assert_eq!(id(7, b"hello"), b"00007-5d41402abc4b2a76b9719d911017c592");
        assert_ne!(id(7, b"hello"), id(8, b"hello"));
        assert_ne!(id(7, b"hello"), id(7, b"hallo"));
        assert_eq!(id(0, b"").len(), id(BLOCKS_MAX - 1, b"x").len());
        assert!(id(0, b"").len() <= 64);
    }
}
