//! scoreline

pub mod clock;
pub mod ports;
pub mod sandbox;
pub mod wire;
