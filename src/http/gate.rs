//! Who may ask, and for what.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::{Api, Problem};
use crate::config::{Role, Token};
use crate::ports::World;

/// Turns away what comes from somebody else's web page.
pub(super) async fn same_site<W: World>(
    State(api): State<Arc<Api<W>>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // Without tokens the address is the only lock, so the name must be one of loopback's own.
    if api.site.tokens.borrow().is_empty() && !host.is_some_and(is_loopback_name) {
        let text = "the Host header must name this machine's loopback address";
        return Problem::new(StatusCode::FORBIDDEN, text).into_response();
    }
    let origin = request.headers().get(header::ORIGIN);
    let own = |origin: &str| origin.split_once("://").map(|(_, name)| name) == host;
    if origin.is_some_and(|origin| !origin.to_str().is_ok_and(own)) {
        let text = "requests from other origins are not answered";
        return Problem::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

pub(super) async fn authorized<W: World>(
    State(api): State<Arc<Api<W>>>,
    request: Request,
    next: Next,
) -> Response {
    let tokens = api.site.tokens.borrow().clone();
    let role =
        if tokens.is_empty() { Some(Role::Operate) } else { role_of(&tokens, request.headers()) };
    match role {
        Some(Role::Read) if !request.method().is_safe() => {
            let text = "this token may only look: send one whose role is \"operate\"";
            return Problem::new(StatusCode::FORBIDDEN, text).into_response();
        }
        Some(Role::Read | Role::Operate) => return next.run(request).await,
        None => {}
    }
    let text = "send Authorization: Bearer TOKEN with one of http.tokens";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, text).into_response();
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

/// What the bearer may do; every token is compared, each in constant time.
fn role_of(tokens: &[Token], headers: &HeaderMap) -> Option<Role> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = shown.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    tokens
        .iter()
        .filter(|token| {
            let secret = token.secret.expose_secret().as_bytes();
            bool::from(secret.ct_eq(shown.trim().as_bytes()))
        })
        .map(|token| token.role)
        .max()
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_pass_without_a_token() {
        for (host, passes) in [
            ("localhost", true),
            ("localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("192.168.1.2", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_name(host), passes, "{host}");
        }
    }

    #[test]
    fn a_token_gives_its_role_and_nothing_else_does() {
        let token = |role, text: &str| Token { role, secret: text.to_owned().into() };
        let tokens = [token(Role::Read, "look"), token(Role::Operate, "work")];
        let role = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            role_of(&tokens, &headers)
        };
        assert_eq!(role("Bearer look"), Some(Role::Read));
        assert_eq!(role("bearer work"), Some(Role::Operate));
        for wrong in ["Bearer ", "Bearer loo", "Bearer lookx", "Basic look", "look"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
        assert_eq!(role_of(&tokens, &HeaderMap::new()), None);
    }
}
