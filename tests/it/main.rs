//! Tests of the whole.

mod azurite;
mod blobs;
