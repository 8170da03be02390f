//! The addresses of a batch endpoint and of the workspace that it belongs to.

use std::fmt;

use reqwest::Url;

use crate::scoring::service_url::{is_loopback, plain};

/// The address of a batch endpoint: its scoring URI, which ends in `/jobs`.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    /// Reads any address of the endpoint or of a call to it, with or without `/jobs`. The query is dropped.
    ///
    /// The error tells what is wrong, and where to find the right one; it never repeats a query or credentials.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut url = encrypted(text, WHERE_TO_LOOK)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if ["ml.azure.com", "portal.azure.com"].contains(&host.as_str()) {
            return Err(format!("{host} is the portal, not the endpoint; {WHERE_TO_LOOK}"));
        }
        if host.ends_with(".services.azureml.net") {
            return Err(format!("{host} is a classic web service: its kind is \"bes\""));
        }
        let segments: Vec<_> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        if segments.iter().any(|part| ["{", "%7B", "%3C"].iter().any(|mark| part.contains(mark))) {
            return Err("the path still has a placeholder in it: write the real names".into());
        }
        if segments.last() == Some(&"score") {
            return Err(format!(
                "this is an online endpoint, not a batch endpoint; {WHERE_TO_LOOK}"
            ));
        }
        let base = segments.iter().position(|part| part.eq_ignore_ascii_case("jobs"));
        let base = &segments[..base.unwrap_or(segments.len())];
        let path: String = base.iter().flat_map(|part| ["/", part]).chain(["/jobs"]).collect();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// `POST`: makes a run and starts it. `GET`: the list of runs.
    pub(super) fn jobs(&self) -> Url {
        self.0.clone()
    }

    /// `GET`: how a run stands.
    pub(super) fn job(&self, name: &str) -> Url {
        below(&self.0, &[name])
    }

    /// Whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.0)
    }
}

/// A workspace at Azure's management API: where runs are stopped, and listed once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace(Url);

impl Workspace {
    /// From the resource id of the workspace, as the portal shows it, and the address of the management API.
    pub fn parse(id: &str, management_url: &Url) -> Result<Self, String> {
        let parts: Vec<_> = id.trim().trim_matches('/').split('/').collect();
        let fits =
            |at: usize, name: &str| parts.get(at).is_some_and(|p| p.eq_ignore_ascii_case(name));
        let [_, subscription, _, group, _, _, _, workspace] = parts[..] else {
            return Err(WORKSPACE_FORM.into());
        };
        let named =
            [(0, "subscriptions"), (2, "resourceGroups"), (4, "providers"), (6, "workspaces")];
        if !named.iter().all(|(at, name)| fits(*at, name))
            || !fits(5, PROVIDER)
            || [subscription, group, workspace].iter().any(|part| part.is_empty())
        {
            return Err(WORKSPACE_FORM.into());
        }
        let path = ["subscriptions", subscription, "resourceGroups", group, "providers", PROVIDER];
        Ok(Self(below(&below(management_url, &path), &["workspaces", workspace])))
    }

    /// The address of the management API, from the config.
    pub fn management(text: &str) -> Result<Url, String> {
        encrypted(text, MANAGEMENT_FORM)
    }

    /// `POST`, without a body: stops a run.
    pub(super) fn cancel(&self, name: &str) -> Url {
        self.call(&["jobs", name, "cancel"])
    }

    /// `GET`: the list of all runs of the workspace.
    pub(super) fn jobs(&self) -> Url {
        self.call(&["jobs"])
    }

    fn call(&self, segments: &[&str]) -> Url {
        let mut url = below(&self.0, segments);
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }
}

/// An address without query and credentials, to which tokens may go.
fn encrypted(text: &str, where_to_look: &str) -> Result<Url, String> {
    let url = plain(text, where_to_look)?;
    if url.scheme() == "https" || is_loopback(&url) {
        return Ok(url);
    }
    Err("the URL is not encrypted, and tokens go there: write https://".into())
}

/// Each segment is escaped as one, so that a name can't reach another path.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

const PROVIDER: &str = "Microsoft.MachineLearningServices";
/// A version in which a job has `cancel` and a list with `nextLink`.
const API_VERSION: &str = "2023-10-01";
const WHERE_TO_LOOK: &str = "copy the REST endpoint of the batch endpoint from Azure ML studio, like \
                             https://NAME.REGION.inference.ml.azure.com/jobs";
const MANAGEMENT_FORM: &str = "write the cloud's own, like https://management.azure.com";
const WORKSPACE_FORM: &str = "is no resource id of a workspace: copy it from the portal's properties, like \
                              /subscriptions/ID/resourceGroups/GROUP/providers/\
                              Microsoft.MachineLearningServices/workspaces/NAME";

#[cfg(test)]
mod tests {
    use super::*;

    const SCORING_URI: &str = "https://churn.westeurope.inference.ml.azure.com/jobs";

    #[test]
    fn every_form_that_users_paste_is_the_same_endpoint() {
        for text in
            ["", "/", "/jobs", "/jobs/", "/jobs?x=y#z", "/jobs/9f1c2d", "//jobs \n", "/Jobs"]
        {
            let url = EndpointUrl::parse(&format!(
                "https://churn.westeurope.inference.ml.azure.com{text}"
            ));
            assert_eq!(url.unwrap().to_string(), SCORING_URI, "{text}");
        }
        let gateway = EndpointUrl::parse("http://127.0.0.1:80/batch/e/jobs").unwrap();
        assert_eq!(gateway.jobs().as_str(), "http://127.0.0.1/batch/e/jobs");
        assert_eq!(gateway.job("a/../b").as_str(), "http://127.0.0.1/batch/e/jobs/a%2F..%2Fb");
    }

    #[test]
    fn what_is_no_batch_endpoint_is_refused_with_the_reason() {
        for (text, reason) in [
            ("churn.westeurope.inference.ml.azure.com/jobs", "no scheme"),
            ("ftp://host/jobs", "scheme is ftp"),
            ("https://me:secret@host/jobs", "credentials"),
            ("https://ml.azure.com/endpoints/batch/x", "portal"),
            ("https://r.services.azureml.net/workspaces/w/services/s/jobs", "\"bes\""),
            ("https://churn.westeurope.inference.ml.azure.com/score", "online endpoint"),
            ("https://host/{endpoint}/jobs", "placeholder"),
        ] {
            let error = EndpointUrl::parse(text).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_workspace_is_its_resource_id() {
        let azure = Workspace::management("https://management.azure.com/").unwrap();
        let id = "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/w";
        let workspace = Workspace::parse(id, &azure).unwrap();
        let base = "https://management.azure.com/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";
        assert_eq!(
            workspace.cancel("9f?").as_str(),
            format!("{base}/jobs/9f%3F/cancel?api-version=2023-10-01")
        );
        assert_eq!(workspace.jobs().as_str(), format!("{base}/jobs?api-version=2023-10-01"));
        for wrong in ["", "w", "/subscriptions/s", &id.replace("/w", "/"), &format!("{id}/jobs")] {
            assert!(Workspace::parse(wrong, &azure).is_err(), "{wrong}");
        }
    }
}
