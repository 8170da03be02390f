//! Tests of the whole.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod architecture;
mod audit;
mod azurite;
mod batch_endpoint;
mod bes;
mod blobs;
mod boundaries;
mod cli;
mod clock;
mod config;
mod daemon;
mod ends;
mod hashing;
mod heavy;
mod http;
mod identity;
mod inbox;
mod leaps;
mod log;
mod named;
mod nodes;
mod outbox;
mod postgres;
mod rig;
mod rights;
mod samples;
mod sandbox;
mod schedules;
mod site;
mod soak;
mod store;
mod trouble;
