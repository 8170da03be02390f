//! Shared access signatures for one blob: what the scoring service gets instead of the account's key.
//!
//! Source: *Create a service SAS* in Microsoft's documentation, the form of version 2020-12-06 and later. The path in
//! the signed text is the decoded one, and the account stands in it once, whatever the address looks like.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use percent_encoding::utf8_percent_encode;

use super::name::UNRESERVED;
use super::shared_key::AccountKey;
use crate::ports::Access;

/// What a signature is for.
pub(super) struct Grant<'a> {
    pub(super) account: &'a str,
    pub(super) container: &'a str,
    /// The blob's whole name, as it is.
    pub(super) blob: &'a str,
    pub(super) access: Access,
    /// Whether it is good on encrypted connections only.
    pub(super) https_only: bool,
}

impl Grant<'_> {
    /// Signs it: the query that goes behind the blob's address, without a question mark.
    pub(super) fn sign(&self, key: &AccountKey, now: DateTime<Utc>, life: Duration) -> String {
        let permissions = match self.access {
            Access::Read => "r",
            Access::Write => "cw",
        };
        // Clocks differ: a signature that begins now is refused by a server that is a second behind.
        let start = stamp(now - BACK);
        let expiry = stamp(now + TimeDelta::from_std(life).unwrap_or(LONGEST).min(LONGEST));
        let protocol = if self.https_only { "https" } else { "" };
        let text = [
            permissions,
            &start,
            &expiry,
            &format!("/blob/{}/{}/{}", self.account, self.container, self.blob),
            "", // a stored policy
            "", // a range of addresses
            protocol,
            VERSION,
            "b", // one blob
            "",  // a snapshot
            "",  // an encryption scope
            "",  // cache-control
            "",  // content-disposition
            "",  // content-encoding
            "",  // content-language
            "",  // content-type
        ]
        .join("\n");
        [
            ("sv", VERSION),
            ("st", &start),
            ("se", &expiry),
            ("sr", "b"),
            ("sp", permissions),
            ("spr", protocol),
            ("sig", &key.sign(&text)),
        ]
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, UNRESERVED)))
        .collect::<Vec<_>>()
        .join("&")
    }
}

fn stamp(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

const VERSION: &str = "2022-11-02";
const BACK: TimeDelta = TimeDelta::minutes(15);
/// Longer than anybody means, and still a date of four digits.
const LONGEST: TimeDelta = TimeDelta::days(3650);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_computed_by_hand() {
        // The 16 lines of the signed text put through openssl dgst -sha256 -mac HMAC -macopt key:secret.
        let grant = Grant {
            account: "acct",
            container: "scoring",
            blob: "in/a b+ü.csv",
            access: Access::Read,
            https_only: true,
        };
        let key = AccountKey::decode("c2VjcmV0").unwrap();
        let now = "2026-03-01T00:10:00.5Z".parse().unwrap();
        assert_eq!(
            grant.sign(&key, now, Duration::from_hours(24)),
            "sv=2022-11-02&st=2026-02-28T23%3A55%3A00Z&se=2026-03-02T00%3A10%3A00Z&sr=b&sp=r&spr=https&sig=H0EVTz9qhk8RSGjWYz30KhG2tmlvBtGLkWt2Boe3QFw%3D"
        );
        let write = Grant { access: Access::Write, https_only: false, ..grant };
        assert_eq!(
            write.sign(&key, now, Duration::MAX),
            "sv=2022-11-02&st=2026-02-28T23%3A55%3A00Z&se=2036-02-27T00%3A10%3A00Z&sr=b&sp=cw&sig=UlEmVMCESEhXsDTn2jAcx%2BhxRMeA0jd8paZf3cOXu8Q%3D"
        );
    }
}
