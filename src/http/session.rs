//! Who is signed in: `GET`, `POST` and `DELETE /api/v1/session`.
//!
//! A browser shows its token once, for a cookie that its scripts can't read. Nothing is kept of a session: the cookie says
//! when it began and when it was last used, under a code that only the token's secret makes. So every node of a site knows
//! it, whoever stands before them, a restart doesn't end it, and the removal of its token does. Which cookies were signed
//! out a node knows for itself, and until it ends: whoever needs more removes the token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;

use super::asked::Asked;
use super::gate::{Caller, Refused, from_our_page, role_of};
use super::openapi::SESSION_COOKIE;
use super::problem::{
    BadRequest, ContentTooLarge, TooManyRequests, Unauthorized, UnsupportedMediaType,
};
use super::{Api, Problem};
use crate::config::{Role, Token};
use crate::ports::{Clock, World};

/// A session, as its cookie tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    /// Tells it from all others.
    id: u128,
    born: DateTime<Utc>,
    seen: DateTime<Utc>,
}

impl Session {
    fn begin(now: DateTime<Utc>) -> Option<Self> {
        let mut id = [0; 16];
        rustls::crypto::ring::default_provider().secure_random.fill(&mut id).ok()?;
        Some(Self { id: u128::from_be_bytes(id), born: now, seen: now })
    }

    /// What the cookie says, for the bearer of a token.
    fn cookie(self, token: &str) -> String {
        let said = format!("{:032x}.{}.{}", self.id, self.born.timestamp(), self.seen.timestamp());
        let code = code(&said, token).finalize().into_bytes();
        code.iter().fold(said + ".", |text, byte| text + &format!("{byte:02x}"))
    }

    /// The session that a cookie tells of, if one of the tokens made it.
    fn of<'a>(cookie: &str, tokens: &'a [Token]) -> Option<(Self, &'a Token)> {
        let (said, shown) = cookie.rsplit_once('.')?;
        if shown.len() != 64 || !shown.is_ascii() {
            return None;
        }
        let shown: Result<Vec<_>, _> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&shown[at..at + 2], 16)).collect();
        let shown = shown.ok()?;
        let is_its =
            |token: &&Token| code(said, token.secret.expose_secret()).verify_slice(&shown).is_ok();
        let token = tokens.iter().filter(is_its).max_by_key(|token| token.role)?;
        let mut parts = said.split('.');
        let id = u128::from_str_radix(parts.next()?, 16).ok()?;
        let mut time = || DateTime::from_timestamp(parts.next()?.parse().ok()?, 0);
        Some((Self { id, born: time()?, seen: time()? }, token))
    }

    /// A clock that another node, or another day, had a little further on ends nothing.
    fn lives(self, now: DateTime<Utc>) -> bool {
        now - self.seen < IDLE && now - self.born < LIFE && self.seen - now < SKEW
    }
}

/// What only who has the token can make of a text.
fn code(said: &str, token: &str) -> Hmac<Sha256> {
    let code = Hmac::<Sha256>::new_from_slice(token.as_bytes());
    let code = code.expect("a code takes a key of any length");
    code.chain_update("scoreline session ").chain_update(said)
}

/// Sessions that were signed out, and when they began: what has outlived its time is forgotten.
#[derive(Debug, Default)]
pub(super) struct SignedOut(Mutex<HashMap<u128, DateTime<Utc>>>);

impl SignedOut {
    fn add(&self, session: Session, now: DateTime<Utc>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, born| now - *born < LIFE);
        // Only who has a token can begin sessions, and so fill this.
        if held.len() >= SIGNED_OUT
            && let Some(oldest) = held.iter().min_by_key(|(_, born)| **born).map(|(id, _)| *id)
        {
            held.remove(&oldest);
        }
        held.insert(session.id, session.born);
    }

    fn has(&self, session: Session) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&session.id)
    }
}

/// What a session may do: what its token may, as long as there is that token. With it comes the cookie anew, if it is
/// time for that: a session that is used goes on.
pub(super) fn role_of_session<W: World>(
    api: &Api<W>,
    headers: &HeaderMap,
    tokens: &[Token],
) -> Option<(Role, Option<String>)> {
    let now = api.world.clock().now();
    let (session, token) = Session::of(cookie(headers)?, tokens)?;
    if !session.lives(now) || api.signed_out.has(session) {
        return None;
    }
    let renewed = (now - session.seen > RENEWED).then(|| {
        let renewed = Session { seen: now, ..session };
        set_cookie(api, headers, &renewed.cookie(token.secret.expose_secret()))
    });
    Some((token.role, renewed))
}

fn set_cookie<W: World>(api: &Api<W>, headers: &HeaderMap, cookie: &str) -> String {
    let secure = if is_secure(api, headers) { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/{secure}")
}

/// The session that a request belongs to.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim() == SESSION_COOKIE).map(|(_, value)| value.trim())
}

/// Who asks, and whom.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionBody {
    /// What the caller may do: `read` or `operate`.
    pub role: String,
    /// Whether one has to sign in here.
    pub needs_token: bool,
    /// The nodes that see the same folders.
    pub site: String,
    /// The node that was asked, by its label.
    pub node: String,
    /// Of the program.
    pub version: String,
}

/// A token to sign in with; it has no `Debug`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// One of http.tokens.
    #[schema(format = Password)]
    token: String,
}

/// Whether one is signed in, and as what.
#[utoipa::path(get, path = "/api/v1/session", operation_id = "show_session", tag = "session",
    responses((status = OK, description = "What the caller may do", body = SessionBody)))]
pub(super) async fn show<W: World>(
    State(api): State<Arc<Api<W>>>,
    Extension(role): Extension<Role>,
) -> Response {
    axum::Json(body(&api, role)).into_response()
}

/// Signs in with a token, for a cookie.
#[utoipa::path(post, path = "/api/v1/session", operation_id = "sign_in", tag = "session", security(()),
    request_body = SignIn,
    responses((status = OK, description = "One is signed in; the cookie is in `Set-Cookie`", body = SessionBody),
        BadRequest, Unauthorized, ContentTooLarge, UnsupportedMediaType, TooManyRequests))]
pub(super) async fn sign_in<W: World>(
    State(api): State<Arc<Api<W>>>,
    caller: Caller,
    headers: HeaderMap,
    Asked(asked): Asked<SignIn>,
) -> Result<Response, Refused> {
    let tokens = api.site.tokens.borrow().clone();
    if tokens.is_empty() {
        return Ok(axum::Json(body(&api, Role::Operate)).into_response());
    }
    let role = judged(&api, caller.0, &tokens, &asked.token)?;
    let Some(session) = Session::begin(api.world.clock().now()) else {
        let text = "there is no randomness to make a session of; try again later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).into());
    };
    let set = set_cookie(&api, &headers, &session.cookie(&asked.token));
    Ok((AppendHeaders([(header::SET_COOKIE, set)]), axum::Json(body(&api, role))).into_response())
}

/// Signs out.
#[utoipa::path(delete, path = "/api/v1/session", operation_id = "sign_out", tag = "session", security(()),
    responses((status = NO_CONTENT, description = "One is signed out")))]
pub(super) async fn sign_out<W: World>(
    State(api): State<Arc<Api<W>>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(cookie) = cookie(&headers) {
        from_our_page(&api, &headers)?;
        if let Some((session, _)) = Session::of(cookie, &api.site.tokens.borrow()) {
            api.signed_out.add(session, api.world.clock().now());
        }
    }
    let gone = format!("{SESSION_COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, gone)])).into_response())
}

/// What a token that was shown may do; the answer to whoever shows a wrong one, or has shown too many.
pub(super) fn judged<W: World>(
    api: &Api<W>,
    address: IpAddr,
    tokens: &[Token],
    shown: &str,
) -> Result<Role, Refused> {
    let now = api.world.clock().boot();
    if let Some(wait) = api.failures.wait(address, now) {
        return Err(Refused::TooMany(wait));
    }
    role_of(tokens, shown).ok_or_else(|| {
        api.failures.failed(address, now);
        tracing::warn!(%address, "a wrong token was shown");
        Refused::Unknown("this is none of http.tokens")
    })
}

fn body<W: World>(api: &Api<W>, role: Role) -> SessionBody {
    let role = match role {
        Role::Read => "read",
        Role::Operate => "operate",
    };
    SessionBody {
        role: role.to_owned(),
        needs_token: !api.site.tokens.borrow().is_empty(),
        site: api.site.name.clone(),
        node: api.site.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Whether the browser came by TLS, to us or to whoever stands before us.
fn is_secure<W: World>(api: &Api<W>, headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    api.site.access.tls.is_some() || origin.is_some_and(|origin| origin.starts_with("https://"))
}

/// How long a session lives that nobody uses, and how long any does.
const IDLE: TimeDelta = TimeDelta::hours(12);
const LIFE: TimeDelta = TimeDelta::days(7);
/// How old the last use is that a cookie may tell of while the session is used.
const RENEWED: TimeDelta = TimeDelta::minutes(10);
/// How far the clocks of a site's nodes may be apart.
const SKEW: TimeDelta = TimeDelta::minutes(10);
const SIGNED_OUT: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: Role, text: &str) -> Token {
        Token { role, secret: text.to_owned().into() }
    }

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    #[test]
    fn a_session_lives_while_it_is_used_and_a_week_at_most() {
        let begun = Session::begin(at(0)).unwrap();
        assert!(begun.lives(at(11)) && !begun.lives(at(12)));
        let used = |hours| Session { seen: at(hours), ..begun };
        assert!(used(160).lives(at(167)) && !used(160).lives(at(168)));
        assert!(!used(24).lives(at(23)), "nobody is seen tomorrow");
    }

    #[test]
    fn a_session_ends_with_its_token_and_has_the_role_that_it_has_now() {
        let session = Session::begin(at(0)).unwrap();
        let cookie = session.cookie("t");
        let role = |tokens: &[Token]| {
            Session::of(&cookie, tokens).map(|(told, token)| (told == session, token.role))
        };
        assert_eq!(role(&[token(Role::Read, "t")]), Some((true, Role::Read)));
        let both = [token(Role::Operate, "t"), token(Role::Read, "other")];
        assert_eq!(role(&both), Some((true, Role::Operate)));
        assert_eq!(role(&[token(Role::Operate, "other")]), None);
    }

    #[test]
    fn no_letter_of_a_cookie_can_be_changed() {
        let tokens = [token(Role::Read, "t")];
        let cookie = Session::begin(at(0)).unwrap().cookie("t");
        assert!(Session::of(&cookie, &tokens).is_some());
        for n in 0..cookie.len() {
            let mut other = cookie.clone().into_bytes();
            other[n] = if other[n] == b'1' { b'2' } else { b'1' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(Session::of(&other, &tokens).map(|(told, _)| told), None, "{other}");
        }
        for wrong in ["", ".", "a.b", &"ä".repeat(32), &format!("x.{}", "0".repeat(64))] {
            assert!(Session::of(wrong, &tokens).is_none(), "{wrong}");
        }
    }

    #[test]
    fn nobody_fills_memory_by_signing_out() {
        let out = SignedOut::default();
        let first = Session::begin(at(0)).unwrap();
        out.add(first, at(0));
        assert!(out.has(first));
        for _ in 0..SIGNED_OUT {
            out.add(Session::begin(at(1)).unwrap(), at(1));
        }
        assert_eq!(out.0.lock().unwrap().len(), SIGNED_OUT);
        assert!(!out.has(first));
    }
}
