//! `[endpoints.NAME]` of kind `batch-endpoint`.

use std::collections::BTreeMap;

use super::endpoint::{EndpointConfig, ServiceConfig};
use super::reader::{Findings, Reader};
use crate::feed::{Feed, Fixed, FixedPlace, Name};
use crate::retry::Backoff;
use crate::scoring::batch_endpoint::{EndpointUrl, InputType, Workspace};

/// A batch endpoint of Azure ML v2.
#[derive(Clone, Debug)]
pub struct BatchEndpointConfig {
    /// Its scoring URI.
    pub url: EndpointUrl,
    /// Which of `[credentials]` gets its tokens.
    pub credential: Name,
    /// The deployment to use; `None` for the endpoint's default.
    pub deployment: Option<String>,
    /// The workspace's datastore that is registered for the feed's container.
    pub datastore: String,
    /// What the service gets as input.
    pub input_type: InputType,
    /// Where its runs can be stopped.
    pub workspace: Option<Workspace>,
}

pub(super) fn read(
    endpoint: &mut Reader<'_>,
    is_credential: impl Fn(&str) -> Result<Name, String>,
) -> Option<BatchEndpointConfig> {
    let hint = "paste the REST endpoint that Azure ML studio shows, https://NAME.REGION.inference.ml.azure.com/jobs";
    let url = endpoint.required("url", hint, EndpointUrl::parse);
    if let Some(url) = &url {
        endpoint.show("url", url.to_string());
    }
    let hint = "name one of [credentials]: a batch endpoint knows no keys, only tokens of Entra ID";
    let credential = endpoint.required("credential", hint, is_credential);
    let deployment = endpoint.parsed("deployment", resource_name);
    let hint = "name the workspace's datastore that is registered for the container of the feed's storage: outputs go \
                only to blob datastores of the workspace";
    let datastore = endpoint.required("datastore", hint, |text| {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !text.is_empty() && text.chars().all(legal) {
            return Ok(text.to_owned());
        }
        Err(format!("{text:?} is no name of a datastore: those have letters, digits and _"))
    });
    let input_type = endpoint.word_or(
        "input_type",
        ("file", InputType::File),
        &[("file", InputType::File), ("folder", InputType::Folder)],
    );
    let management = endpoint.text("management_url", "https://management.azure.com");
    let management = Workspace::management(&management)
        .map_err(|error| endpoint.error("management_url", error))
        .ok();
    let workspace = endpoint.parsed("workspace", |text| {
        // What is wrong with the other address is told there.
        management.as_ref().map(|url| Workspace::parse(text, url)).transpose()
    });
    Some(BatchEndpointConfig {
        url: url?,
        credential: credential?,
        deployment,
        datastore: datastore?,
        input_type,
        workspace: workspace.flatten(),
    })
}

/// What feeds want of a batch endpoint that it can't do.
pub(super) fn check<'a>(
    findings: &Findings,
    feeds: impl Iterator<Item = &'a Feed>,
    endpoints: &BTreeMap<Name, Option<(EndpointConfig, Backoff)>>,
) {
    let mut storages: BTreeMap<&Name, (&Name, &Name)> = BTreeMap::new();
    for feed in feeds {
        let service = endpoints.get(&feed.endpoint).and_then(Option::as_ref);
        let Some((EndpointConfig { service: ServiceConfig::BatchEndpoint(batch), .. }, _)) =
            service
        else {
            continue;
        };
        let (first, storage) =
            storages.entry(&feed.endpoint).or_insert((&feed.name, &feed.storage));
        if **storage != feed.storage {
            let (datastore, endpoint) = (&batch.datastore, &feed.endpoint);
            let message = format!(
                "endpoint {endpoint} reads and writes the datastore {datastore:?}, which is one container, and feed \
                 {first} has storage {storage}: give this feed an endpoint of its own in the config, with the datastore \
                 of its storage"
            );
            findings.error(&format!("feeds.{}.storage", feed.name), message);
        }
        let in_place = matches!(&feed.fixed, Some(Fixed { place: FixedPlace::Blobs(_), .. }));
        if in_place && batch.input_type == InputType::Folder {
            let message = "names blobs that stay where they are, in a folder that may hold others: set the endpoint's \
                           input_type to \"file\"";
            findings.error(&format!("feeds.{}.schedule.blobs", feed.name), message);
        }
    }
}

/// A name as Azure ML has them; it becomes a header.
fn resource_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no name of a deployment: those have letters, digits, - and _"))
}
