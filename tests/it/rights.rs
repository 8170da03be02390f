//! What root may do, and what others may not, in one test process.

use std::future::Future;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Runs blocking work without root's right to read and write everything.
pub(crate) fn without_roots_rights<F: Future>(test: F) -> F::Output {
    without(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH, test)
}

/// Runs blocking work without some of root's rights. Rights belong to a thread, so nothing else in this process loses any.
pub(crate) fn without<F: Future>(rights: CapabilitySet, test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= rights;
            set_capabilities(None, sets).unwrap();
        })
        .build()
        .unwrap();
    runtime.block_on(test)
}
