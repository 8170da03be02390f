//! Who may ask, and for what.
//!
//! Two doors in a row: whether a request can be of our own pages or of a program, by what browsers say of themselves; and
//! whether its caller has a token, or a session that a token began.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::door::Peer;
use super::session::{judged, role_of_session};
use super::{Api, Problem};
use crate::config::{Role, Token};
use crate::ports::World;

/// Turns away what comes from somebody else's web page.
pub(super) async fn same_site<W: World>(
    State(api): State<Arc<Api<W>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
    // Without tokens the address is the only lock, so the name must be one of loopback's own.
    let is_public = |host| api.site.access.public_url.as_ref().is_some_and(|url| url.is_host(host));
    let known = |host| is_loopback_name(host) || is_public(host);
    if api.site.tokens.borrow().is_empty() && !text(headers, "host").is_some_and(known) {
        return refused("the Host header must name this machine's loopback address");
    }
    if origin_is_ours(&api, headers) == Some(false) {
        return refused("requests from other origins are not answered");
    }
    let foreign = matches!(text(headers, "sec-fetch-site"), Some("cross-site" | "same-site"));
    if foreign && (!method.is_safe() || path.starts_with("/api/v1/")) {
        return refused("requests from other sites' pages are not answered");
    }
    let behind = api.site.access.public_url.is_some();
    let address = address_of(request.extensions(), request.headers(), behind);
    request.extensions_mut().insert(Caller(address));
    next.run(request).await
}

/// Whether the page that asks is ours; `None` if no page says that it asks.
fn origin_is_ours<W: World>(api: &Api<W>, headers: &HeaderMap) -> Option<bool> {
    let origin = headers.get(header::ORIGIN)?;
    let Ok(origin) = origin.to_str() else { return Some(false) };
    let named = origin.split_once("://").map(|(_, name)| name);
    let public = api.site.access.public_url.as_ref();
    Some(
        (named.is_some() && named == text(headers, "host"))
            || public.is_some_and(|url| url.is_origin(origin)),
    )
}

/// A browser sends a session's cookie by itself, so what changes anything must be known to come from our own page.
pub(super) fn from_our_page<W: World>(api: &Api<W>, headers: &HeaderMap) -> Result<(), Problem> {
    let ours = origin_is_ours(api, headers) == Some(true)
        || text(headers, "sec-fetch-site") == Some("same-origin");
    let why = "with a session's cookie a change must come from our own page, by its Origin";
    if ours { Ok(()) } else { Err(Problem::new(StatusCode::FORBIDDEN, why)) }
}

/// Lets through who has a token or a session, and says in the request what it may do.
pub(super) async fn authorized<W: World>(
    State(api): State<Arc<Api<W>>>,
    caller: Caller,
    mut request: Request,
    next: Next,
) -> Response {
    let (role, renewed) = match role(&api, caller, &request) {
        Ok(known) => known,
        Err(refused) => return refused.into_response(),
    };
    if role == Role::Read && !request.method().is_safe() {
        return refused("this token may only look: send one whose role is \"operate\"");
    }
    request.extensions_mut().insert(role);
    let answer = next.run(request).await;
    match renewed {
        Some(cookie) => (AppendHeaders([(header::SET_COOKIE, cookie)]), answer).into_response(),
        None => answer,
    }
}

/// What the caller may do, and the cookie that its session goes on with.
fn role<W: World>(
    api: &Api<W>,
    caller: Caller,
    request: &Request,
) -> Result<(Role, Option<String>), Refused> {
    let (tokens, headers) = (api.site.tokens.borrow().clone(), request.headers());
    if tokens.is_empty() {
        return Ok((Role::Operate, None));
    }
    if let Some(shown) = bearer(headers) {
        return judged(api, caller.0, &tokens, shown).map(|role| (role, None));
    }
    // A session that is over is no guess: nobody guesses 256 bits, and pages ask on when it is.
    let session = role_of_session(api, headers, &tokens);
    let cure = "send Authorization: Bearer TOKEN with one of http.tokens, or sign in";
    let known = session.ok_or(Refused::Unknown(cure))?;
    if !request.method().is_safe() {
        from_our_page(api, headers)?;
    }
    Ok(known)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, shown) = text(headers, "authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| shown.trim())
}

/// What the bearer may do; every token is compared, each in constant time.
pub(super) fn role_of(tokens: &[Token], shown: &str) -> Option<Role> {
    tokens
        .iter()
        .filter(|token| {
            let secret = token.secret.expose_secret().as_bytes();
            bool::from(secret.ct_eq(shown.as_bytes()))
        })
        .map(|token| token.role)
        .max()
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) IpAddr);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let nobody = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(nobody))
    }
}

/// Behind a proxy it is the last one that the proxy names: whatever stands before that, anybody can write.
fn address_of(extensions: &Extensions, headers: &HeaderMap, behind: bool) -> IpAddr {
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let last = forwarded.and_then(|all| all.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    let peer = extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(Peer(address))| *address);
    let peer = peer.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip);
    last.filter(|_| behind).unwrap_or(peer)
}

/// Why somebody isn't let in.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody that is known; the cure.
    Unknown(&'static str),
    /// Too many wrong tokens; how long to wait.
    TooMany(Duration),
    /// Anything else.
    Other(Problem),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown(cure) => {
                let problem = Problem::new(StatusCode::UNAUTHORIZED, cure);
                ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
            }
            Self::TooMany(wait) => {
                let wait = wait.as_millis().div_ceil(1000).max(1);
                let why =
                    format!("too many wrong tokens came from this address: try again in {wait} s");
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, why);
                ([(header::RETRY_AFTER, wait.to_string())], problem).into_response()
            }
            Self::Other(problem) => problem.into_response(),
        }
    }
}

fn refused(why: &str) -> Response {
    Problem::new(StatusCode::FORBIDDEN, why).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
            bearer(&headers).and_then(|shown| role_of(&tokens, shown))
        };
        assert_eq!(role("Bearer look"), Some(Role::Read));
        assert_eq!(role("bearer work"), Some(Role::Operate));
        for wrong in ["Bearer ", "Bearer loo", "Bearer lookx", "Basic look", "look"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
