//! What lies in a container: the look at one blob, and lists of them.

use std::time::Duration;

use azure_core::time::OffsetDateTime;
use azure_storage_blob::models::{
    BlobClientGetPropertiesResultHeaders as _, BlobContainerClientListBlobsOptions,
    ListBlobsResponse,
};
use futures::TryStreamExt as _;

use super::verdict::{Call, answer};
use super::{AzureBlobs, Fault};
use crate::ports::{BlobPage, BlobSeen};

impl AzureBlobs {
    pub(super) async fn seen(&self, blob: &str) -> Result<Option<BlobSeen>, Fault> {
        let attempt = self.on_blob(Call::See, blob);
        let client = self.client(&self.reads, blob, &attempt)?;
        let found = match client.get_properties(None).await {
            Ok(found) => found,
            // That the container is missing is trouble of another kind.
            Err(error)
                if answer(&error).is_some_and(|answer| {
                    answer.status == 404 && answer.code.as_deref() != Some("ContainerNotFound")
                }) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(attempt.fault(&error)),
        };
        let failed = |error| attempt.fault(&error);
        let size_bytes = found.content_length().map_err(failed)?;
        let etag = found.etag().map_err(failed)?;
        let modified = found.last_modified().map_err(failed)?;
        let seconds = modified.map_or(0, OffsetDateTime::unix_timestamp);
        Ok(Some(BlobSeen {
            name: blob.to_owned(),
            size_bytes: size_bytes.ok_or_else(|| attempt.unknown_length())?,
            etag: etag.map_or(String::new(), |etag| bare(etag.as_ref())),
            modified: Duration::from_secs(seconds.try_into().unwrap_or_default()),
        }))
    }

    pub(super) async fn page(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<BlobPage, Fault> {
        let attempt = self.on_blob(Call::List, prefix);
        let failed = |error| attempt.fault(&error);
        let options = BlobContainerClientListBlobsOptions {
            prefix: Some(self.name(prefix)),
            marker: from.map(str::to_owned),
            maxresults: Some(limit.try_into().unwrap_or(i32::MAX)),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let client = self.container_client().map_err(failed)?;
        let mut pages = client.list_blobs(Some(options)).map_err(failed)?.into_pages();
        let Some(page) = pages.try_next().await.map_err(failed)? else {
            return Ok(BlobPage::default());
        };
        Ok(page_of(page.into_model().map_err(failed)?, &self.prefix))
    }
}

/// What a list says of the blobs under our prefix.
pub(super) fn page_of(page: ListBlobsResponse, ours: &str) -> BlobPage {
    let blobs = page.blob_items.into_iter().filter_map(|item| {
        let (name, properties) = (item.name?, item.properties?);
        let seconds = properties.last_modified.map_or(0, OffsetDateTime::unix_timestamp);
        Some(BlobSeen {
            name: name.strip_prefix(ours)?.to_owned(),
            size_bytes: properties.content_length?,
            etag: properties.etag.map_or(String::new(), |etag| bare(etag.as_ref())),
            modified: Duration::from_secs(seconds.try_into().unwrap_or_default()),
        })
    });
    let next = page.next_marker.filter(|marker| !marker.is_empty());
    BlobPage { blobs: blobs.collect(), next }
}

/// A header has it in quotes, a list without.
fn bare(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}
