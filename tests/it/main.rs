//! Tests of the whole.

#[cfg(test)]
mod bes;
