//! Tests of the whole.
#![cfg(test)]

mod clock;
mod inbox;
mod outbox;
mod rights;
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod samples;
mod store;
