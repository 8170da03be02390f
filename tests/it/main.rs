//! Tests of the whole.

mod sandbox;
