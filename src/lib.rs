//! scoreline

pub mod blobs;
pub mod clock;
pub mod fault;
pub mod feed;
pub mod job;
pub mod metrics;
pub mod ports;
pub mod retry;
pub mod wire;
