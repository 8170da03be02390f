//! Tests of the whole.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod architecture;
mod audit;
mod azurite;
mod bes;
mod blobs;
mod boundaries;
mod cli;
mod clock;
mod config;
mod daemon;
mod ends;
mod entra;
mod fuzz;
mod hashing;
mod heavy;
mod http;
mod inbox;
mod leaps;
mod log;
mod named;
mod nodes;
mod openapi;
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
mod transfers;
mod trouble;
mod upkeep;
