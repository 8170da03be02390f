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
//! Hashing costs more than sending, so all of it is done on other threads, and no byte is hashed more often than it takes:
//! SHA-256 of the whole, which is what the content is known by, and MD5 of each block, which is what the service checks.
//! The blob of a large file has no MD5 of its own: the service stores one without a look at it, nothing else of ours needs
//! it, and it can be computed only one byte after the other, three times as slowly as the SHA-256 that says more.
//!
//! Memory: blocks of 8 MiB. Each upload has one on its way and one being read. All uploads of a storage share those that
//! may be on their way beyond that (see [`Settings::blocks_in_flight`](super::Settings)), and the three that may be read
//! beyond that, to be hashed side by side: with the default of 4, one upload holds 64 MiB and sixteen hold 304. A block
//! whose sending was quicker than its SHA-256 is held a little longer, at most four of each upload. From 98 GiB on blocks
//! grow, up to 64 MiB, and are sent one by one.
//!
//! Source: *Put Block*, *Put Block List*, *Get Block List* and *Put Blob* in Microsoft's REST reference.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::Arc;

use azure_core::http::{ClientMethodOptions, Context};
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

use super::md5_lanes::{LANES, md5_each};
use super::name::{content_type, encode_label};
use super::sums::{Spare, Sums, WORTH_A_THREAD};
use super::verdict::{Attempt, Call, answer};
use super::{AzureBlobs, BodyMd5, code_of, content};
use crate::fault::{Fault, Origin};
use crate::folder::off_thread;
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
        let spare = Arc::new(Spare::default());
        let sums = sums(false, &spare);
        let mut blocks = Blocks { from, sums, read: 0, ended: false, spare };
        let first = blocks.next(&target.attempt).await?;
        let second = blocks.next(&target.attempt).await?;
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
        let (whole, _) = sums.finish().await?;
        let mut method_options = ClientMethodOptions::default();
        if bytes.len() >= WORTH_A_THREAD {
            let md5 = BodyMd5(md5_of(&bytes).await?);
            method_options.context = Context::new().with_value(md5);
        }
        let put = || {
            let options = BlockBlobClientUploadOptions {
                blob_content_type: Some(content_type(self.blob).to_owned()),
                if_none_match: Some("*".into()),
                metadata: Some(self.metadata(whole)),
                // One request, whatever the client thinks of the size.
                partition_size: NonZero::new(BLOCK_BYTES as u64),
                method_options: method_options.clone(),
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
            Err(error) if is_taken(&error) => {
                self.recognise(whole, Some(md5_of(&bytes).await?)).await
            }
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
        let there = match self.found().await? {
            Found::Blocks(there) => there,
            Found::Blob => return self.reread([first, second], blocks).await,
        };
        let spare = Arc::clone(&blocks.spare);
        let mut ids = Vec::new();
        let mut sending = FuturesUnordered::new();
        // Nothing else of this upload is in memory yet, so these two need nobody's leave.
        let mut some = vec![(first, None), (second, None)];
        loop {
            // Several, to be hashed side by side.
            while some.len() < LANES {
                let units = blocks.next_bytes() / BLOCK_BYTES;
                let aside =
                    self.blobs.aside.try_acquire_many(u32::try_from(units).unwrap_or(u32::MAX));
                if aside.is_err() && !some.is_empty() {
                    break;
                }
                let block = while_sending(blocks.next(&self.attempt), &mut sending).await?;
                if block.is_empty() {
                    break;
                }
                some.push((block, aside.ok()));
            }
            if some.is_empty() {
                break;
            }
            if ids.len() + some.len() > BLOCKS_MAX {
                return Err(self.attempt.impossible(
                    "too_large",
                    "the file has more than 50,000 blocks, which are 1.4 TiB",
                    "split it",
                ));
            }
            let hashed: Vec<_> = some.iter().map(|(block, _)| block.clone()).collect();
            let hashing = off_thread(Origin::Storage, move || Ok(md5_each(&hashed)));
            let md5s = while_sending(hashing, &mut sending).await?;
            for ((block, aside), md5) in some.drain(..).zip(md5s) {
                let id = block_id(ids.len(), md5);
                ids.push(id.clone());
                if there.contains(&id) {
                    spare.give(block);
                    continue;
                }
                let ahead = loop {
                    if sending.is_empty() {
                        break None;
                    }
                    let units = u32::try_from(block.len().div_ceil(BLOCK_BYTES));
                    match self.blobs.ahead.try_acquire_many(units.unwrap_or(u32::MAX)) {
                        Ok(ahead) => break Some(ahead),
                        Err(_) => sent(sending.next().await)?,
                    }
                };
                drop(aside);
                let spare = &spare;
                sending.push(async move {
                    let sent = self.stage(&id, md5, block.clone()).await;
                    spare.give(block);
                    drop(ahead);
                    sent
                });
            }
            // What is read next may be in memory beside what is sent, but not beside what was sent before.
            while_sending(blocks.sums.catch_up(), &mut sending).await?;
        }
        while !sending.is_empty() {
            sent(sending.next().await)?;
        }
        let (whole, _) = blocks.sums.finish().await?;
        self.commit(ids, whole).await
    }

    /// Nothing is sent to a name that is taken: the file is read for its hashes alone.
    async fn reread<R: AsyncRead + Unpin + Send>(
        &self,
        begun: [Bytes; 2],
        mut blocks: Blocks<'_, R>,
    ) -> Result<Content, Fault> {
        blocks.sums = sums(true, &blocks.spare);
        for block in begun {
            blocks.sums.add(block).await?;
        }
        while !blocks.next(&self.attempt).await?.is_empty() {
            blocks.sums.catch_up().await?;
        }
        let (whole, md5) = blocks.sums.finish().await?;
        self.recognise(whole, md5).await
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

    async fn commit(&self, ids: Vec<Vec<u8>>, whole: Content) -> Result<Content, Fault> {
        let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
        let options = BlockBlobClientCommitBlockListOptions {
            blob_content_type: Some(content_type(self.blob).to_owned()),
            if_none_match: Some("*".into()),
            metadata: Some(self.metadata(whole)),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let committed =
            async { self.client.commit_block_list(list.try_into()?, Some(options)).await }.await;
        match committed {
            Err(error) if is_taken(&error) => self.recognise(whole, None).await,
            committed => committed.map(|_| whole).map_err(|error| self.attempt.fault(&error)),
        }
    }

    /// The name is taken. By our own blob, if an earlier try was heard and its answer lost; anything else stays as it is.
    async fn recognise(&self, ours: Content, md5: Option<[u8; 16]>) -> Result<Content, Fault> {
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
            && sum.zip(md5).is_none_or(|(sum, md5)| sum == md5);
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
    ended: bool,
    spare: Arc<Spare>,
}

impl<R: AsyncRead + Unpin + Send> Blocks<'_, R> {
    /// How large the next one is, unless it is the last.
    fn next_bytes(&self) -> usize {
        block_bytes(self.read)
    }

    /// Reads up to a block; less only at the end, and then nothing.
    async fn next(&mut self, attempt: &Attempt) -> Result<Bytes, Fault> {
        if self.ended {
            return Ok(Bytes::new());
        }
        let whole = self.next_bytes();
        // Most files are small, and need no block's memory.
        let mut block = match self.read {
            0 => BytesMut::with_capacity(SMALL_BYTES),
            _ => self.spare.take(whole),
        };
        while block.len() < whole {
            if block.len() == block.capacity() {
                let small = std::mem::replace(&mut block, self.spare.take(whole));
                block.extend_from_slice(&small);
            }
            let room = block.capacity().min(whole) - block.len();
            let mut rest = (&mut *self.from).take(room as u64);
            let read = rest.read_buf(&mut block).await.map_err(|error| {
                let place = &attempt.place;
                let message = format!(
                    "could not read the input for {place}: {error}; check the file, its rights and its disk"
                );
                Fault::transient(Origin::Inbox, "read_failed", message)
            })?;
            if read == 0 {
                self.ended = true;
                break;
            }
        }
        self.read += 1;
        let block = block.freeze();
        if !block.is_empty() {
            self.sums.add(block.clone()).await?;
        }
        Ok(block)
    }
}

/// Of a file that is cut, whose blocks' memory is used again.
fn sums(with_md5: bool, spare: &Arc<Spare>) -> Sums {
    Sums::new(with_md5, LANES * BLOCK_BYTES, Some(Arc::clone(spare)))
}

/// The MD5 of a file that is no more than a block.
async fn md5_of(bytes: &Bytes) -> Result<[u8; 16], Fault> {
    let bytes = bytes.clone();
    off_thread(Origin::Storage, move || Ok(Md5::digest(&bytes).into())).await
}

/// Reads or hashes while blocks are sent: the requests go on only while somebody asks for them.
async fn while_sending<T>(
    reading: impl Future<Output = Result<T, Fault>>,
    sending: &mut (impl Stream<Item = Result<(), Fault>> + Unpin),
) -> Result<T, Fault> {
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
/// What most files are smaller than.
const SMALL_BYTES: usize = 64 << 10;
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
