//! Keys that sign in an identity's name, where there is no account's key: asked for, kept, and replaced.
//!
//! Source: *Get User Delegation Key* in Microsoft's documentation. The service makes one for seven days at most, and no
//! signature outlives its key. So each is asked for with the longest life there is, and kept for as long as what is signed
//! with it lives about as long as with a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azure_core::time::OffsetDateTime;
use azure_storage_blob::models::KeyInfo;
use azure_storage_blob::{BlobServiceClient, BlobServiceClientOptions};
use chrono::{DateTime, TimeDelta, Utc};

use super::account::Credential;
use super::sas::{DelegationKey, end_of};
use super::shared_key::AccountKey;
use super::verdict::Call;
use super::{AzureBlobs, HandOver};
use crate::fault::{Fault, Origin};

/// The key at hand.
#[derive(Default)]
pub(super) struct Delegations {
    kept: Mutex<Option<Arc<DelegationKey>>>,
    warned: AtomicBool,
}

impl AzureBlobs {
    /// A key for signatures that live from `now` on for `life`, or as long as one can.
    pub(super) async fn delegation_key(
        &self,
        now: DateTime<Utc>,
        life: Duration,
    ) -> Result<Arc<DelegationKey>, Fault> {
        let wanted = end_of(now, life).min(now + LIFE - SLACK);
        let kept = self.delegations.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kept) = kept
            && kept.end >= wanted
            && kept.start <= now
        {
            return Ok(kept);
        }
        // Several may ask at once, which costs a call each; the lock is never held over one.
        let key = Arc::new(self.new_delegation_key(now).await?);
        if end_of(now, life) > key.end + WORTH_A_WARNING
            && !self.delegations.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(host = self.account.host(), ends_at = %key.end,
                "what an identity signs is good for 7 days at most: a run that is still queued then can't reach its blobs; \
                 shorten retry.deadline, or open the storage with the account's key");
        }
        *self.delegations.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(key)
    }

    /// Whether what is handed over can be signed; nothing to ask unless an identity signs.
    pub(super) async fn ready_to_hand_over(&self) -> Result<(), Fault> {
        let identity = matches!(self.account.credential(), Credential::Identity { .. });
        if identity && self.hand_over == HandOver::Sas {
            // As long as any: then the probe finds out what a submission would.
            self.delegation_key((self.now)(), Duration::MAX).await?;
        }
        Ok(())
    }

    async fn new_delegation_key(&self, now: DateTime<Utc>) -> Result<DelegationKey, Fault> {
        // It begins well before now, since clocks differ, and ends seven days later: whichever way the service counts them,
        // they are not exceeded, even by a clock that is ahead.
        let start = now - BACK;
        let info = KeyInfo {
            start: Some(offset(start)),
            expiry: Some(offset(start + LONGEST)),
            ..KeyInfo::default()
        };
        let attempt = self.attempt(Call::Delegate, self.container.clone());
        let asked = async {
            let options = BlobServiceClientOptions {
                client_options: self.reads.clone(),
                ..BlobServiceClientOptions::default()
            };
            let endpoint = self.account.endpoint().parse()?;
            let client = BlobServiceClient::new(endpoint, None, Some(options))?;
            client.get_user_delegation_key(info.try_into()?, None).await?.into_model()
        };
        let found = asked.await.map_err(|error| attempt.fault(&error))?;
        let time =
            |time: Option<OffsetDateTime>| DateTime::from_timestamp(time?.unix_timestamp(), 0);
        let key = || {
            Some(DelegationKey {
                object: found.signed_oid?,
                tenant: found.signed_tid?,
                start: time(found.signed_start)?,
                end: time(found.signed_expiry)?,
                service: found.signed_service?,
                version: found.signed_version?,
                key: AccountKey::from_bytes(found.value?),
            })
        };
        key().ok_or_else(|| {
            let text = "the service's user delegation key lacks a part; it is tried again";
            Fault::transient(Origin::Storage, "senseless", text)
        })
    }
}

fn offset(time: DateTime<Utc>) -> OffsetDateTime {
    // A time of our clock is one of this era.
    OffsetDateTime::from_unix_timestamp(time.timestamp()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The longest life that the service gives.
const LONGEST: TimeDelta = TimeDelta::days(7);
const BACK: TimeDelta = TimeDelta::hours(2);
/// What is left of it from now on.
const LIFE: TimeDelta = TimeDelta::hours(7 * 24 - 2);
/// How much shorter than that a signature may be, so that not each of them needs a key of its own.
const SLACK: TimeDelta = TimeDelta::hours(1);
/// What is handed over is asked to live for a day beyond the job's deadline. A deadline of seven days, the default, is then
/// cut by hours, which is not worth a warning.
const WORTH_A_WARNING: TimeDelta = TimeDelta::hours(24 + 4);
