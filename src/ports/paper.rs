//! A remote side on paper: what is sent is noted and answered on the spot, and reaches nobody.

use std::fmt;

use bytes::Bytes;

/// Takes requests in the place of a network, at the very point where they would leave.
///
/// A trait object, unlike the other ports: adapters of all kinds share one, and none is built for it alone.
pub trait Paper: fmt::Debug + Send + Sync + 'static {
    /// Notes a request and answers what whoever it is for would.
    fn answer(&self, request: Noted) -> Answered;
}

/// A request, as it would have been sent.
#[derive(Clone, Debug)]
pub struct Noted {
    /// What it is for, by its label in metrics, where its adapter has such names.
    pub operation: Option<&'static str>,
    /// The method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// The headers, with the secrets in them, but for those that a connection adds (`host`).
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// An answer that nobody gave.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}
