//! Shared access signatures for one blob: what the scoring service gets instead of what lets us in.
//!
//! Sources: *Create a service SAS* and *Create a user delegation SAS* in Microsoft's documentation, the forms of version
//! 2020-12-06 and later (which a user delegation's keep until 2025-07-05). The path in the signed text is the decoded
//! one, and the account stands in it once, whatever the address looks like.
//!
//! None has a beginning (`st`), which would only do harm: a machine whose clock is ahead would sign what begins in the
//! future, and the service takes a signature without one at once.

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
    /// Until when it is good.
    pub(super) expiry: DateTime<Utc>,
}

/// A key that the service made for an identity, to sign with in its name.
pub(super) struct DelegationKey {
    /// The identity, and its tenant.
    pub(super) object: String,
    pub(super) tenant: String,
    /// From and until when the key is good: no signature outlives it.
    pub(super) start: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
    /// The service that it is for, and its version then.
    pub(super) service: String,
    pub(super) version: String,
    pub(super) key: AccountKey,
}

impl Grant<'_> {
    /// Signs it with the account's key: the query that goes behind the blob's address, without a question mark.
    pub(super) fn sign(&self, key: &AccountKey) -> String {
        // In the place of a stored policy: none.
        self.signed(key, &[""], &[])
    }

    /// Signs it in the name of an identity.
    pub(super) fn sign_for(&self, delegation: &DelegationKey) -> String {
        let DelegationKey { object, tenant, start, end, service, version, key } = delegation;
        let (start, end) = (stamp(*start), stamp(*end));
        let told = [
            ("skoid", object.as_str()),
            ("sktid", tenant),
            ("skt", &start),
            ("ske", &end),
            ("sks", service),
            ("skv", version),
        ];
        let mut lines = told.map(|(_, value)| value).to_vec();
        lines.extend([
            "", // a user whom the service need not check
            "", // a user whom the service is to check
            "", // an id for audits
        ]);
        self.signed(key, &lines, &told)
    }

    /// `signer` are the lines of the signed text that say who signs, `told` is what the query says of it.
    fn signed(&self, key: &AccountKey, signer: &[&str], told: &[(&str, &str)]) -> String {
        let permissions = match self.access {
            Access::Read => "r",
            Access::Write => "cw",
        };
        let expiry = stamp(self.expiry);
        let protocol = if self.https_only { "https" } else { "" };
        let path = format!("/blob/{}/{}/{}", self.account, self.container, self.blob);
        let mut lines = vec![permissions, "", &expiry, &path];
        lines.extend(signer);
        lines.extend([
            "", // a range of addresses
            protocol, VERSION, "b", // one blob
            "",  // a snapshot
            "",  // an encryption scope
            "",  // cache-control
            "",  // content-disposition
            "",  // content-encoding
            "",  // content-language
            "",  // content-type
        ]);
        let signature = key.sign(&lines.join("\n"));
        let mut query = vec![("sv", VERSION), ("se", expiry.as_str()), ("sr", "b")];
        query.extend([("sp", permissions), ("spr", protocol)]);
        query.extend(told);
        query.push(("sig", &signature));
        query
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, UNRESERVED)))
            .collect::<Vec<_>>()
            .join("&")
    }
}

/// The end of a life that begins now; longer than anybody means is still a date of four digits.
pub(super) fn end_of(now: DateTime<Utc>, life: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(life).unwrap_or(LONGEST).min(LONGEST)
}

/// A time as signatures have it: whole seconds.
fn stamp(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

const VERSION: &str = "2022-11-02";
/// Longer than anybody means, and still a date of four digits.
const LONGEST: TimeDelta = TimeDelta::days(3650);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-01T00:10:00.5Z";

    fn grant(life: Duration) -> Grant<'static> {
        Grant {
            account: "acct",
            container: "scoring",
            blob: "in/a b+ü.csv",
            access: Access::Read,
            https_only: true,
            expiry: end_of(NOW.parse().unwrap(), life),
        }
    }

    #[test]
    fn a_signature_is_the_one_computed_by_hand() {
        // The 16 lines of the signed text put through openssl dgst -sha256 -mac HMAC -macopt key:secret.
        let key = AccountKey::decode("c2VjcmV0").unwrap();
        assert_eq!(
            grant(Duration::from_hours(24)).sign(&key),
            "sv=2022-11-02&se=2026-03-02T00%3A10%3A00Z&sr=b&sp=r&spr=https&sig=GtAIvsfOROAmafc1TzohusRsgjm04pnxG2B8RGBl%2F%2B4%3D"
        );
        let write = Grant { access: Access::Write, https_only: false, ..grant(Duration::MAX) };
        assert_eq!(
            write.sign(&key),
            "sv=2022-11-02&se=2036-02-27T00%3A10%3A00Z&sr=b&sp=cw&sig=FoZ7BzcDqARXhPmNxCTOXG%2B45N%2BHP%2Bi5DQgQn%2FZYcAU%3D"
        );
    }

    #[test]
    fn a_signature_in_an_identitys_name_is_the_one_computed_by_hand() {
        // The 24 lines of the signed text put through openssl as above.
        let delegation = DelegationKey {
            object: "oid-1".into(),
            tenant: "tid-1".into(),
            start: "2026-02-28T22:10:00Z".parse().unwrap(),
            end: "2026-03-07T22:10:00Z".parse().unwrap(),
            service: "b".into(),
            version: "2022-11-02".into(),
            key: AccountKey::decode("c2VjcmV0").unwrap(),
        };
        assert_eq!(
            grant(Duration::from_hours(24)).sign_for(&delegation),
            "sv=2022-11-02&se=2026-03-02T00%3A10%3A00Z&sr=b&sp=r&spr=https&skoid=oid-1&sktid=tid-1\
             &skt=2026-02-28T22%3A10%3A00Z&ske=2026-03-07T22%3A10%3A00Z&sks=b&skv=2022-11-02&sig=NQKceS4%2BnjduddEtU0rt5U4OMh%2BA566XZRzknmqoiAU%3D"
        );
    }
}
