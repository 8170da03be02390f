//! scoreline

pub mod clock;
pub mod engine;
pub mod fault;
pub mod feed;
pub mod intake;
mod folder;
pub mod inbox;
pub mod job;
pub mod metrics;
pub mod outbox;
pub mod ports;
pub mod retry;
pub mod sandbox;
pub mod store;
pub mod wire;
