//! Tests of the whole.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod architecture;
mod audit;
mod azurite;
mod bes;
mod blobs;
mod clock;
mod config;
mod daemon;
mod hashing;
mod heavy;
mod postgres;
mod rig;
mod samples;
mod sandbox;
mod store;
mod trouble;
