//! Where a service that knows no static keys gets its tokens from.

use futures::future::BoxFuture;
use secrecy::SecretString;

use crate::fault::Fault;

/// Who gives tokens of Microsoft Entra ID for an audience.
pub trait Bearer: Send + Sync + 'static {
    /// A token for `audience` (`https://ml.azure.com`, without `/.default`), without the word `Bearer`. With `fresh` the
    /// one that was given last is not good any more: the service refused it.
    fn token<'a>(
        &'a self,
        audience: &'a str,
        fresh: bool,
    ) -> BoxFuture<'a, Result<SecretString, Fault>>;
}
