//! Requests with an identity's token.
//!
//! The official client has this too, for credentials of its own. Ours are asked for through a port, whose faults have to
//! come through as they are, and a token that is refused before its end is replaced once before anybody hears of it:
//! roles and secrets change while a token lives on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use secrecy::{ExposeSecret as _, SecretString};

use crate::ports::{Audience, Tokens};

/// Puts a token into every try of a request. Its account is an encrypted one: see [`super::Account::of`].
#[derive(Debug)]
pub(super) struct Bearer(pub(super) Arc<dyn Tokens>);

impl Bearer {
    async fn sign(&self, request: &mut Request) -> azure_core::Result<SecretString> {
        use azure_core::error::ErrorKind::Credential;
        let token = self.0.token(Audience::Storage).await;
        // The fault is what is told: see `Attempt::fault`.
        let token = token.map_err(|fault| azure_core::Error::new(Credential, fault))?;
        request.insert_header("authorization", format!("Bearer {}", token.expose_secret()));
        Ok(token)
    }
}

// What `#[async_trait]` would write, which the trait is made with.
impl Policy for Bearer {
    fn send<'a, 'b, 'c, 'd, 'f>(
        &'a self,
        ctx: &'b Context<'_>,
        request: &'c mut Request,
        next: &'d [Arc<dyn Policy>],
    ) -> Pin<Box<dyn Future<Output = PolicyResult> + Send + 'f>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let token = self.sign(request).await?;
            // The transport is always behind us.
            let response = next[0].send(ctx, request, &next[1..]).await?;
            let code = response.headers().get_optional_str(&"x-ms-error-code".into());
            let unknown =
                matches!(code, Some("AuthenticationFailed" | "InvalidAuthenticationInfo"));
            if u16::from(response.status()) != 401 && !unknown {
                return Ok(response);
            }
            self.0.refused(Audience::Storage, &token);
            let fresh = self.sign(request).await?;
            if fresh.expose_secret() == token.expose_secret() {
                return Ok(response);
            }
            request.body_mut().reset().await?;
            next[0].send(ctx, request, &next[1..]).await
        })
    }
}
