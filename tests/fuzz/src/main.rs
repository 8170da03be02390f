//! One process for each target: `FUZZ_TARGET=status fuzz FOLDER…`; libFuzzer's own options follow.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use scoreline::fuzz::{Property, TARGETS};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let names: Vec<_> = TARGETS.iter().map(|(target, _)| *target).collect();
    target.map_or_else(|| panic!("FUZZ_TARGET must be one of {names:?}"), |(_, property)| *property)
});

fuzz_target!(|data: &[u8]| {
    if let Err(broken) = (*PROPERTY)(data) {
        panic!("{broken}");
    }
});
