//! Tests of the whole.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod samples;
mod store;
