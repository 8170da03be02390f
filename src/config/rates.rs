//! What the config says of how fast bytes may pass.

use std::num::NonZeroU64;

use super::reader::Reader;
use crate::feed::Rates;

/// Reads the limits of a storage or a feed.
pub(super) fn read(table: &mut Reader<'_>) -> Rates {
    Rates {
        upload: table.parsed("upload_bytes_per_second", parse),
        download: table.parsed("download_bytes_per_second", parse),
    }
}

fn parse(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(bytes(text)?).filter(|bytes| bytes.get() >= LEAST).ok_or_else(|| {
        format!("{text:?} is too slow for many transfers at once: write at least \"64KiB\"")
    })
}

/// A number of bytes, with or without a unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is no number of bytes: write one like \"512KiB\", \"10MiB\" or \"1GiB\"")
    })
}

/// Sixteen streams of less would all look stuck, to the storage and to the health check.
const LEAST: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_have_binary_units() {
        let bytes = |text| parse(text).map(NonZeroU64::get);
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("10 MiB"), Ok(10 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("100000"), Ok(100_000));
        for wrong in
            ["", "10MB", "MiB", "1.5MiB", "-1MiB", "99999999999GiB", "10MiB/s", "0", "63KiB"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
