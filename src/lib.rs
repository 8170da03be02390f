//! scoreline

pub mod clock;
pub mod ports;
pub mod wire;
