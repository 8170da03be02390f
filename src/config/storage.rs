//! `[storage.NAME]`: a container in a storage account.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::reader::{Findings, Reader};
use super::{EndpointConfig, ServiceConfig, named};
use crate::blobs::{self, Account, BLOCKS_IN_FLIGHT, ConnectionString, HandOver, WayIn};
use crate::feed::Feed;
use crate::name::Name;
use crate::retry::Backoff;

pub(super) fn read<T>(
    storage: &mut Reader<'_>,
    credentials: &BTreeMap<Name, T>,
) -> Option<blobs::Settings> {
    let has_text = storage.has("connection_string");
    let account = read_account(storage, credentials);
    let container = storage.required("container", "name the blob container", |text| {
        blobs::check_container(text).map(|()| text.to_owned())
    });
    let prefix = storage.text("prefix", "");
    if let Err(message) = blobs::check_prefix(&prefix) {
        storage.error("prefix", message);
    }
    let create = storage.flag("create", true);
    let hand_over = match storage.text("hand_over", "sas").as_str() {
        "sas" => HandOver::Sas,
        "connection-string" => {
            if !has_text {
                storage.error(
                    "hand_over",
                    "there is no connection_string to hand over: write \"sas\", or a connection_string in the place of account",
                );
            }
            HandOver::ConnectionString
        }
        other => {
            storage.error(
                "hand_over",
                format!("{other:?} is no way to hand over: write \"sas\" or \"connection-string\""),
            );
            HandOver::Sas
        }
    };
    let blocks_in_flight = storage.number("blocks_in_flight", BLOCKS_IN_FLIGHT.get(), 1);
    if blocks_in_flight > BLOCKS_MAX {
        storage.error(
            "blocks_in_flight",
            format!("{blocks_in_flight} blocks of 8 MiB are too much memory: write a number from 1 to {BLOCKS_MAX}"),
        );
    }
    let blocks_in_flight = NonZero::new(blocks_in_flight).unwrap_or(BLOCKS_IN_FLIGHT);
    let ca = super::read_ca(storage);
    Some(blobs::Settings {
        account: account?,
        container: container?,
        prefix,
        create,
        hand_over,
        blocks_in_flight,
        ca,
    })
}

/// A service that goes by a right of its own is given no signature. So none need be possible where only such are asked:
/// an identity may lack the role for it.
pub(super) fn sign_for_those_who_need_it(
    storages: &mut BTreeMap<Name, Option<blobs::Settings>>,
    feeds: &BTreeMap<Name, Arc<Feed>>,
    endpoints: &BTreeMap<Name, Option<(EndpointConfig, Backoff)>>,
) {
    let needs = |feed: &Arc<Feed>| match endpoints.get(&feed.endpoint) {
        Some(Some((endpoint, _))) => matches!(endpoint.service, ServiceConfig::Bes(..)),
        _ => true,
    };
    for (name, storage) in storages {
        let mut users = feeds.values().filter(|feed| feed.storage == *name).peekable();
        if let Some(storage) = storage
            && users.peek().is_some()
            && !users.any(needs)
        {
            storage.hand_over = HandOver::Nothing;
        }
    }
}

/// An identity signs with keys of seven days.
pub(super) fn warn_of_short_signatures(
    findings: &Findings,
    feeds: &BTreeMap<Name, Arc<Feed>>,
    storages: &BTreeMap<Name, Option<blobs::Settings>>,
) {
    for (name, feed) in feeds {
        let storage = storages.get(&feed.storage).and_then(Option::as_ref);
        let by_identity = storage.is_some_and(|storage| {
            storage.account.identity().is_some() && storage.hand_over == HandOver::Sas
        });
        if by_identity && feed.policy.deadline > DELEGATED_MAX {
            findings.warn(
                &format!("feeds.{name}.retry.deadline"),
                "is longer than what an identity signs is good for, 7 days: a run that is still queued then can't reach \
                 its blobs; shorten it, or open the storage with account_key",
            );
        }
    }
}

fn read_account<T>(storage: &mut Reader<'_>, credentials: &BTreeMap<Name, T>) -> Option<Account> {
    let parts: Vec<_> = PARTS.into_iter().filter(|part| storage.has(part)).collect();
    let ways: Vec<_> = WAYS.into_iter().filter(|way| storage.has(way)).collect();
    let has_text = storage.has("connection_string");
    if has_text {
        for part in &parts {
            storage.error(part, "is in connection_string already: remove one of them");
        }
    } else if parts.is_empty() {
        storage.demand(
            "connection_string",
            "write { env = \"AZURE_STORAGE_CONNECTION_STRING\" }, or account and credential in its place",
        );
    } else {
        storage.demand("account", "name the storage account");
        match ways.as_slice() {
            [] => storage.error(
                "account",
                "has no way in: add credential = \"NAME\" of one of [credentials], account_key or sas",
            ),
            [_] => {}
            [first, others @ ..] => {
                for other in others {
                    storage.error(other, format!("is there beside {first}: remove one of them"));
                }
            }
        }
        if storage.has("endpoint") && storage.has("endpoint_suffix") {
            storage.error("endpoint_suffix", "is there beside endpoint, which says all: remove it");
        }
    }
    let text = storage.secret("connection_string");
    let name = storage.parsed("account", |text| Ok(text.to_owned()));
    let endpoint = storage.parsed("endpoint", |text| Ok(text.to_owned()));
    let suffix = if has_text || parts.is_empty() || endpoint.is_some() {
        storage.parsed("endpoint_suffix", |text| Ok(text.to_owned())).unwrap_or_default()
    } else {
        storage.text("endpoint_suffix", "core.windows.net")
    };
    let key = storage.secret("account_key");
    let sas = storage.secret("sas");
    let credential = storage.parsed("credential", |text| named(text, "credentials", credentials));
    if let Some(text) = text {
        return ConnectionString::parse(text.expose_secret())
            .map_err(|error| storage.error("connection_string", error.to_string()))
            .ok()
            .map(Account::from);
    }
    let way = match (&key, &sas, &credential) {
        (Some(key), None, None) => WayIn::Key(key.expose_secret()),
        (None, Some(sas), None) => WayIn::Sas(sas.expose_secret()),
        (None, None, Some(credential)) => WayIn::Credential(credential),
        _ => return None,
    };
    Account::of(&name?, endpoint.as_deref(), &suffix, way)
        .map_err(|wrong| storage.error(wrong.key, wrong.why))
        .ok()
}

/// The keys that lead to an account without a connection string.
const PARTS: [&str; 6] =
    ["account", "endpoint", "endpoint_suffix", "account_key", "sas", "credential"];
/// The ways in, of which there is exactly one.
const WAYS: [&str; 3] = ["account_key", "sas", "credential"];
/// 2 GiB.
const BLOCKS_MAX: u32 = 256;
const DELEGATED_MAX: Duration = Duration::from_hours(7 * 24);
