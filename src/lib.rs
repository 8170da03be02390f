//! scoreline

pub mod clock;
pub mod fault;
pub mod feed;
mod folder;
pub mod inbox;
pub mod job;
pub mod metrics;
pub mod outbox;
pub mod ports;
pub mod retry;
pub mod wire;
