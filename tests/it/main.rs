//! Tests of the whole.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod architecture;
mod azurite;
mod bes;
mod blobs;
mod boundaries;
mod clock;
mod daemon;
mod heavy;
mod inbox;
mod outbox;
mod postgres;
mod rig;
mod rights;
mod samples;
mod sandbox;
mod store;
