//! The address of a classic web service, from whatever form of it a user has at hand.
//!
//! The portal, the generated samples, Data Factory and API Management each show another one: the bare service, its
//! `/jobs`, its `/execute?…`, a call to a job. All of them hold the same base, `…/workspaces/W/services/S` or
//! `…/subscriptions/S/services/S`, after whatever path a gateway puts before it.

use std::fmt;

use reqwest::Url;

use crate::job::RemoteId;
use crate::wire::API_VERSION;

/// The address of a classic web service; every call's address is made from it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl(Url);

impl ServiceUrl {
    /// Reads any address of the service or of a call to it. The query is dropped: the version that we speak is ours
    /// to say, and a key doesn't belong there.
    ///
    /// The error tells what is wrong, and where to find the right one; it never repeats a query or credentials.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut url = plain(text, WHERE_TO_LOOK)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if PORTALS.contains(&host.as_str()) {
            return Err(format!("{host} is the portal, not the service; {WHERE_TO_LOOK}"));
        }
        if host.ends_with(".inference.ml.azure.com") {
            return Err(format!(
                "{host} is an endpoint of Azure ML v2, which is not of kind \"bes\" or \"rrs\""
            ));
        }
        let path = url.path().to_owned();
        // What `{workspace}` looks like once the parser has escaped it.
        if ["{", "}", "%7B", "%7D", "%3C", "%3E"].iter().any(|brace| path.contains(brace)) {
            return Err(format!("{path} still has a placeholder in it: write the real ids"));
        }
        let base = base_of(&path).ok_or_else(|| {
            format!(
                "{host}{path} has no /workspaces/ID/services/ID or /subscriptions/ID/services/ID; {WHERE_TO_LOOK}"
            )
        })?;
        url.set_path(&base);
        Ok(Self(url))
    }

    /// `POST`: makes a job.
    pub fn submit(&self) -> Url {
        self.call(&["jobs"])
    }

    /// `POST`, without a body: starts it.
    pub fn start(&self, id: &RemoteId) -> Url {
        self.call(&["jobs", &id.0, "start"])
    }

    /// `GET`: how it stands.
    pub fn status(&self, id: &RemoteId) -> Url {
        self.call(&["jobs", &id.0])
    }

    /// `DELETE`: stops it.
    pub fn cancel(&self, id: &RemoteId) -> Url {
        self.call(&["jobs", &id.0])
    }

    /// `POST`: scores what is in the body. API Management finds the operation by its parameters, so `details` is always
    /// there.
    pub fn execute(&self, swagger: bool) -> Url {
        let mut url = self.call(&["execute"]);
        url.query_pairs_mut().append_pair("details", "true");
        if swagger {
            url.query_pairs_mut().append_pair("format", "swagger");
        }
        url
    }

    /// Host and port, for messages.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    fn call(&self, segments: &[&str]) -> Url {
        let mut url = self.0.clone();
        // Each is escaped as one segment, so an id can't reach another path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceUrl({})", self.0)
    }
}

/// An address without query and credentials; the error says where to look for the right one.
pub(super) fn plain(text: &str, where_to_look: &str) -> Result<Url, String> {
    let text = text.trim();
    if !text.contains("://") {
        return Err(format!("the URL has no scheme: it begins with https://; {where_to_look}"));
    }
    let mut url =
        Url::parse(text).map_err(|cause| format!("this is no URL ({cause}); {where_to_look}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("the URL's scheme is {}: it must be https (or http)", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the URL holds credentials: leave them out: what lets us in has keys of its own in the config".into()
        );
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Whether an address is on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// The path of the service itself: up to its id, and on to the first segment that names one of its calls.
fn base_of(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let named = |at: usize, names: &[&str]| {
        segments
            .get(at)
            .is_some_and(|segment| names.iter().any(|name| segment.eq_ignore_ascii_case(name)))
    };
    let start = (0..segments.len()).find(|&at| {
        named(at, &["workspaces", "subscriptions"])
            && named(at + 2, &["services"])
            && segments.len() > at + 3
            && !named(at + 3, &CALLS)
    })?;
    let end = (start + 4..segments.len()).find(|&at| named(at, &CALLS)).unwrap_or(segments.len());
    Some(format!("/{}", segments[..end].join("/")))
}

/// The first segments of the service's calls.
const CALLS: [&str; 4] = ["jobs", "execute", "swagger.json", "help"];

const PORTALS: [&str; 4] =
    ["studio.azureml.net", "services.azureml.net", "portal.azure.com", "ml.azure.com"];

const WHERE_TO_LOOK: &str = "copy the request URI from the API help page of the service, like \
                             https://REGION.services.azureml.net/workspaces/ID/services/ID/jobs";

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSIC: &str = "https://ussouthcentral.services.azureml.net/workspaces/w1/services/s1";

    #[test]
    fn every_form_that_users_paste_is_the_same_service() {
        for text in [
            "",
            "/",
            "//",
            "/jobs",
            "/jobs/",
            "/jobs?api-version=2.0",
            "/jobs?api-version=1.0&subscription-key=abc#top",
            "/jobs/0123abcd",
            "/jobs/0123abcd?api-version=2.0",
            "/jobs/0123abcd/start?api-version=2.0",
            "/execute?api-version=2.0&details=true",
            "/execute?api-version=2.0&format=swagger",
            "/swagger.json",
            "/jobs \r\n",
        ] {
            let url = ServiceUrl::parse(&format!("{CLASSIC}{text}"));
            assert_eq!(url.map(|url| url.to_string()).as_deref(), Ok(CLASSIC), "{text}");
        }
    }

    #[test]
    fn hosts_and_paths_of_every_kind_are_kept() {
        for (text, base) in [
            (
                "HTTPS://USSouthCentral.Services.AzureML.net/workspaces/W/services/S/jobs",
                "https://ussouthcentral.services.azureml.net/workspaces/W/services/S",
            ),
            (
                "https://europewest.services.azureml.net/subscriptions/a/services/b/execute?x=1",
                "https://europewest.services.azureml.net/subscriptions/a/services/b",
            ),
            (
                "https://demo.azure-api.net/azureml-demo/workspaces/w/services/s/jobs?api-version=2.0",
                "https://demo.azure-api.net/azureml-demo/workspaces/w/services/s",
            ),
            (
                "https://demo.azure-api.net/a/b//workspaces/w/services/s/",
                "https://demo.azure-api.net/a/b/workspaces/w/services/s",
            ),
            // A gateway's prefix may use our words.
            (
                "https://demo.azure-api.net/jobs/workspaces/w/services/s/jobs",
                "https://demo.azure-api.net/jobs/workspaces/w/services/s",
            ),
            (
                "https://demo.azure-api.net/workspaces/w/services/s/v2/jobs",
                "https://demo.azure-api.net/workspaces/w/services/s/v2",
            ),
            (
                " http://127.0.0.1:8080/workspaces/w/services/s\n",
                "http://127.0.0.1:8080/workspaces/w/services/s",
            ),
            (
                "http://[::1]:8080/Workspaces/w/Services/s/Jobs",
                "http://[::1]:8080/Workspaces/w/Services/s",
            ),
        ] {
            let url = ServiceUrl::parse(text);
            assert_eq!(url.map(|url| url.to_string()).as_deref(), Ok(base), "{text}");
        }
    }

    #[test]
    fn what_is_no_service_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "no scheme"),
            ("ussouthcentral.services.azureml.net/workspaces/w/services/s", "no scheme"),
            ("https://", "no URL"),
            ("ftp://host/workspaces/w/services/s", "scheme is ftp"),
            ("https://me:secret@host/workspaces/w/services/s", "credentials"),
            ("https://host/workspaces/w/jobs", "no /workspaces/ID/services/ID"),
            ("https://host/workspaces/w/services/", "no /workspaces/ID/services/ID"),
            ("https://host/workspaces/w/services/jobs", "no /workspaces/ID/services/ID"),
            ("https://host/services/s/jobs?sig=secret", "no /workspaces/ID/services/ID"),
            ("https://studio.azureml.net/apihelp/workspaces/w/webservices/s", "portal"),
            ("https://services.azureml.net/workspaces/w/services/s", "portal"),
            ("https://portal.azure.com/#view/secret", "portal"),
            ("https://x.westeurope.inference.ml.azure.com/jobs", "v2"),
            ("https://host/workspaces/{workspace}/services/{service}/jobs", "placeholder"),
            ("https://host/workspaces/<w>/services/<s>", "placeholder"),
        ] {
            let error = ServiceUrl::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn calls_carry_the_version_and_the_id_as_one_segment() {
        let url = ServiceUrl::parse(CLASSIC).unwrap();
        let id = RemoteId("a/../b?c#d%20 e".into());
        let escaped = "a%2F..%2Fb%3Fc%23d%2520%20e";
        assert_eq!(url.submit().as_str(), format!("{CLASSIC}/jobs?api-version=2.0"));
        assert_eq!(
            url.start(&id).as_str(),
            format!("{CLASSIC}/jobs/{escaped}/start?api-version=2.0")
        );
        assert_eq!(url.status(&id).as_str(), format!("{CLASSIC}/jobs/{escaped}?api-version=2.0"));
        assert_eq!(url.cancel(&id), url.status(&id));
        let execute = format!("{CLASSIC}/execute?api-version=2.0&details=true");
        assert_eq!(url.execute(false).as_str(), execute);
        assert_eq!(url.execute(true).as_str(), format!("{execute}&format=swagger"));
    }

    #[test]
    fn a_host_is_shown_with_its_port() {
        let host = |text| ServiceUrl::parse(text).unwrap().host();
        assert_eq!(host(CLASSIC), "ussouthcentral.services.azureml.net");
        assert_eq!(host("http://127.0.0.1:81/workspaces/w/services/s"), "127.0.0.1:81");
    }
}
