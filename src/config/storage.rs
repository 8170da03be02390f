//! `[storage.NAME]`: a container in a storage account.

use std::num::NonZero;

use secrecy::ExposeSecret as _;

use super::reader::Reader;
use crate::blobs::{self, BLOCKS_IN_FLIGHT, ConnectionString, HandOver};

pub(super) fn read(storage: &mut Reader<'_>) -> Option<blobs::Settings> {
    storage.demand("connection_string", "write { env = \"AZURE_STORAGE_CONNECTION_STRING\" }");
    let connection = storage.secret("connection_string").and_then(|text| {
        ConnectionString::parse(text.expose_secret())
            .map_err(|error| storage.error("connection_string", error.to_string()))
            .ok()
    });
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
        "connection-string" => HandOver::ConnectionString,
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
    Some(blobs::Settings {
        connection: connection?,
        container: container?,
        prefix,
        create,
        hand_over,
        blocks_in_flight,
    })
}

/// 2 GiB.
const BLOCKS_MAX: u32 = 256;
