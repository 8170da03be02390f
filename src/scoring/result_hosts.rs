//! Where the service's links to results may lead.
//!
//! A link comes from outside and is opened from inside: whoever can answer in the service's place could have this daemon
//! call whatever its machine can reach, and store the answer as a result. So a link is opened only where results lie: at
//! the hosts of Azure's blob storage, or at those that the config names.

use std::net::{IpAddr, Ipv4Addr};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use reqwest::Url;

use crate::fault::{Fault, Origin, redact};
use crate::feed::Name;
use crate::wire::BlobReference;

/// The hosts that links to results may name.
#[derive(Clone, Debug)]
pub struct ResultHosts(GlobSet);

impl ResultHosts {
    /// The hosts of blob storage in all of Azure's clouds, public and sovereign.
    pub const DEFAULT: [&str; 4] = [
        "*.blob.core.windows.net",
        "*.blob.core.chinacloudapi.cn",
        "*.blob.core.usgovcloudapi.net",
        "*.blob.storage.azure.net",
    ];

    /// Reads patterns of hosts, in which `*` stands for any text. The error names the pattern, and what would be right.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, String> {
        let mut globs = GlobSetBuilder::new();
        for pattern in patterns.iter().map(AsRef::as_ref) {
            let wrong = |why: &str| {
                format!("{pattern:?} is no host: {why}, like \"*.blob.core.windows.net\"")
            };
            if pattern.is_empty() || pattern.contains(['/', ':', '@', '?', ' ']) {
                return Err(wrong("write its name alone, without scheme, port and path"));
            }
            let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
            globs.add(glob.map_err(|error| wrong(&error.kind().to_string()))?);
        }
        globs.build().map(Self).map_err(|error| error.to_string())
    }

    /// Refuses a link that may not be opened. A service on this machine may have its results there too, in the clear.
    pub(super) fn admit(
        &self,
        link: &BlobReference,
        output: &str,
        endpoint: &Name,
        service_is_local: bool,
    ) -> Result<(), Fault> {
        let refused = |code: &str, why: &str| {
            let text = format!(
                "the service's link to its output {output:?} is not opened, and nothing was sent there: {why}"
            );
            Err(Fault::permanent(Origin::Endpoint, code, redact(&text)))
        };
        // As it is joined when it is opened: what follows a slash is no part of the host.
        let base = link.base_location.as_deref().unwrap_or_default().trim_end_matches('/');
        let Ok(url) = Url::parse(&format!("{base}/")) else {
            return refused(
                "result_link",
                "it has no address; have the output redirected to our own storage",
            );
        };
        // A long name is nobody's to read.
        let host: String =
            url.host_str().unwrap_or_default().chars().take(HOST_MAX_CHARS).collect();
        if !url.username().is_empty() || url.password().is_some() {
            return refused("result_link", &format!("it has credentials before its host {host}"));
        }
        let address =
            host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if address.is_some_and(is_of_the_machine) {
            return refused(
                "result_link",
                &format!("{host} is the address of a cloud machine's own services"),
            );
        }
        let is_local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if service_is_local && is_local && ["http", "https"].contains(&url.scheme()) {
            return Ok(());
        }
        if url.scheme() != "https" {
            return refused(
                "result_link",
                &format!("its scheme is {}, and only https is safe", url.scheme()),
            );
        }
        if self.0.is_match(&host) {
            return Ok(());
        }
        let cure = format!(
            "its host {host} is none of endpoints.{endpoint}.result_hosts; if the results are to be there, add \
             {host:?} to that list and retry the job"
        );
        refused("result_host", &cure)
    }
}

impl Default for ResultHosts {
    fn default() -> Self {
        // No pattern of ours is a wrong one; if it were, no host would be right.
        Self::parse(&Self::DEFAULT).unwrap_or_else(|_| Self(GlobSet::empty()))
    }
}

/// Whether somebody answers there who tells a machine its own secrets: whatever the config says, results are not there.
/// Sources: the address of the Instance Metadata Service, and that of Azure's platform, in Microsoft's documentation.
fn is_of_the_machine(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == PLATFORM || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

const PLATFORM: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const HOST_MAX_CHARS: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(hosts: &ResultHosts, base: &str, local: bool) -> Result<(), (String, String)> {
        let link = BlobReference {
            base_location: Some(base.into()),
            relative_location: Some("/c/b.csv".into()),
            sas_blob_token: Some("?sig=hidden".into()),
            connection_string: None,
        };
        let endpoint = Name::try_from("churn".to_owned()).unwrap();
        let told = hosts.admit(&link, "scores", &endpoint, local);
        told.map_err(|fault| {
            assert_eq!(fault.class, crate::fault::Class::Permanent);
            assert!(!fault.message.contains("hidden"), "{fault}");
            (fault.code, fault.message)
        })
    }

    #[test]
    fn results_lie_in_azures_blob_storage_and_nowhere_else() {
        let hosts = ResultHosts::default();
        for base in [
            "https://acct.blob.core.windows.net/",
            "https://ACCT.blob.core.windows.net",
            "https://acct.blob.core.windows.net:443//",
            "https://acct.blob.core.chinacloudapi.cn/",
            "https://acct.blob.core.usgovcloudapi.net/",
            "https://acct.z12.blob.storage.azure.net/",
        ] {
            assert_eq!(verdict(&hosts, base, false), Ok(()), "{base}");
        }
        for (base, code, host) in [
            ("https://evil.example/", "result_host", "evil.example"),
            (
                "https://acct.blob.core.windows.net.evil.example/",
                "result_host",
                "windows.net.evil.example",
            ),
            ("https://evil.example/#.blob.core.windows.net", "result_host", "host evil.example is"),
            ("https://evil.example?.blob.core.windows.net", "result_host", "host evil.example is"),
            ("https://evil.example\\.blob.core.windows.net", "result_host", "host evil.example is"),
            ("https://blob.core.windows.net/", "result_host", "blob.core.windows.net"),
            ("https://acct.blob.core.windows.net@evil.example/", "result_link", "evil.example"),
            ("https://u:hidden@acct.blob.core.windows.net/", "result_link", "credentials"),
            ("http://acct.blob.core.windows.net/", "result_link", "only https"),
            ("file:///etc/", "result_link", "file"),
            ("ftp://acct.blob.core.windows.net/", "result_link", "ftp"),
            ("https://127.0.0.1:10000/acct/", "result_host", "127.0.0.1"),
            ("http://localhost/", "result_link", "only https"),
            ("https:", "result_link", "no address"),
            ("", "result_link", "no address"),
        ] {
            let (told, message) = verdict(&hosts, base, false).unwrap_err();
            assert_eq!(told, code, "{base}: {message}");
            assert!(message.contains(host), "{base}: {message}");
        }
    }

    #[test]
    fn a_service_on_this_machine_may_have_its_results_there() {
        let hosts = ResultHosts::default();
        for base in [
            "http://127.0.0.1:10000/acct",
            "http://localhost:1/",
            "http://[::1]/",
            "https://127.1/",
        ] {
            assert_eq!(verdict(&hosts, base, true), Ok(()), "{base}");
        }
        assert!(verdict(&hosts, "http://10.0.0.1/", true).is_err());
        assert!(verdict(&hosts, "http://localhost.evil.example/", true).is_err());
    }

    #[test]
    fn a_machines_own_services_are_refused_whatever_is_allowed() {
        let hosts = ResultHosts::parse(&["*"]).unwrap();
        assert_eq!(verdict(&hosts, "https://evil.example/", false), Ok(()));
        for base in [
            "https://169.254.169.254/metadata/",
            "https://0xa9fea9fe/",
            "https://2852039166/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fe80::1]/",
            "https://168.63.129.16/",
            "https://0.0.0.0/",
        ] {
            for local in [false, true] {
                assert_eq!(verdict(&hosts, base, local).unwrap_err().0, "result_link", "{base}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_host_and_the_key_to_add() {
        let (_, message) =
            verdict(&ResultHosts::default(), "https://results.example/x", false).unwrap_err();
        insta::assert_snapshot!(message, @r#"the service's link to its output "scores" is not opened, and nothing was sent there: its host results.example is none of endpoints.churn.result_hosts; if the results are to be there, add "results.example" to that list and retry the job"#);
        let allowed = ResultHosts::parse(&["results.example"]).unwrap();
        assert_eq!(verdict(&allowed, "https://results.example/x", false), Ok(()));
    }

    #[test]
    fn a_pattern_is_a_host_alone() {
        for wrong in ["", "https://a", "a/b", "a:443", "u@a", "a b", "a[", "{a"] {
            assert!(ResultHosts::parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
