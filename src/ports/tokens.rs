//! The part of the world that says who we are.

use std::fmt;

use futures::future::BoxFuture;
use secrecy::SecretString;

use crate::fault::{Fault, Origin};

/// Who we are, as a directory vouches for it: tokens that others take for a while.
///
/// It is asked for by whoever sends requests, at every one of them, so its answer comes from memory nearly always. A
/// trait object, unlike the other ports: which kind of identity opens a storage is the config's to say.
pub trait Tokens: fmt::Debug + Send + Sync + 'static {
    /// A token that is good for some minutes at least. Faults are of whatever the audience is asked for.
    fn token(&self, audience: Audience) -> BoxFuture<'_, Result<SecretString, Fault>>;

    /// A token was refused before its end: the next one asked for is another.
    fn refused(&self, audience: Audience, token: &SecretString);
}

/// Who a token is for: every service takes its own only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// Blob storage, in every cloud.
    Storage,
    /// The data plane of Azure Machine Learning.
    MachineLearning,
    /// Azure Resource Manager.
    Management,
}

impl Audience {
    /// Every audience there is.
    pub const ALL: [Self; 3] = [Self::Storage, Self::MachineLearning, Self::Management];

    /// What stands still without its tokens.
    pub fn origin(self) -> Origin {
        match self {
            Self::Storage => Origin::Storage,
            Self::MachineLearning | Self::Management => Origin::Endpoint,
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "blob storage",
            Self::MachineLearning => "machine learning",
            Self::Management => "resource management",
        })
    }
}
