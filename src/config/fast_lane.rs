//! `[feeds.NAME] fast_lane`: small inputs take another endpoint, which scores them at once.

use std::collections::BTreeMap;

use super::reader::Reader;
use super::{EndpointConfig, ServiceConfig, named, rates};
use crate::feed::{FastLane, Name, Template};
use crate::retry::Backoff;

type Endpoints = BTreeMap<Name, Option<(EndpointConfig, Backoff)>>;

pub(super) fn read(
    feed: &mut Reader<'_>,
    ordinary: Option<&Name>,
    endpoints: &Endpoints,
) -> Option<FastLane> {
    let mut table = feed.table_if("fast_lane")?;
    if let Some(ordinary) = ordinary
        && is_at_once(ordinary, endpoints) == Some(true)
    {
        feed.error(
            "fast_lane",
            format!(
                "is of no use: {ordinary} is of kind \"rrs\" itself, and scores every file at once"
            ),
        );
    }
    let endpoint = table.required("endpoint", "name one of [endpoints], of kind \"rrs\"", |text| {
        let name = named(text, "endpoints", endpoints)?;
        if is_at_once(&name, endpoints) == Some(false) {
            return Err(format!("{name} does not score at once: name an endpoint of kind \"rrs\""));
        }
        Ok(name)
    });
    let max_rows = table.number("max_rows", MAX_ROWS, 1);
    if !table.has("max_bytes") {
        table.show("max_bytes", "1MiB");
    }
    let max_bytes = table.parsed("max_bytes", |text| match rates::bytes(text)? {
        bytes @ 1..=MOST_BYTES => Ok(bytes),
        _ => Err(format!("{text:?} is out of range: write \"1\" to \"16MiB\"")),
    });
    let shown = table.finish();
    feed.include("fast_lane", shown);
    let max_rows = usize::try_from(max_rows).unwrap_or(usize::MAX);
    Some(FastLane { endpoint: endpoint?, max_rows, max_bytes: max_bytes.unwrap_or(MAX_BYTES) })
}

/// Whether an endpoint's calls are its runs, if what the config says of it is good.
pub(super) fn is_at_once(endpoint: &Name, endpoints: &Endpoints) -> Option<bool> {
    let (endpoint, _) = endpoints.get(endpoint)?.as_ref()?;
    Some(matches!(endpoint.service, ServiceConfig::Rrs(..)))
}

/// What comes back at once is rows, which go into files of two formats.
pub(super) fn check_outputs(feed: &Reader<'_>, outputs: &[(String, Template)]) {
    for (output, template) in outputs {
        let extension = template.extension().unwrap_or_default();
        if ["arff", "ilearner"].iter().any(|other| extension.eq_ignore_ascii_case(other)) {
            feed.error(
                &format!("outputs.{output}"),
                format!("can't be .{extension}: what is scored at once is written as .csv or .tsv"),
            );
        }
    }
}

const MAX_ROWS: u32 = 100;
const MAX_BYTES: u64 = 1 << 20;
/// The engine holds no more of an input in memory.
const MOST_BYTES: u64 = 16 << 20;
