//! Tests of the whole.
#![cfg(test)]

mod clock;
mod inbox;
mod outbox;
mod rights;
