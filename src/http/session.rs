//! Who is signed in: `GET`, `POST` and `DELETE /api/v1/session`.
//!
//! A browser shows its token once, for a cookie that its scripts can't read. Sessions live in memory alone, under a hash
//! of what the cookie says; a restart ends them, and so does the removal of the token that began one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
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

/// Those who are signed in, by the boot clock.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Hash, Session>>);

type Hash = [u8; 32];

#[derive(Debug)]
struct Session {
    token: Hash,
    born: Duration,
    seen: Duration,
}

impl Sessions {
    /// Begins one; answers what the cookie is to say.
    fn begin(&self, token: &str, now: Duration) -> Option<String> {
        let random = rustls::crypto::ring::default_provider().secure_random;
        let mut halves = [[0; 16]; 2];
        for half in &mut halves {
            random.fill(half).ok()?;
        }
        let [a, b] = halves.map(u128::from_be_bytes);
        let text = format!("{a:032x}{b:032x}");
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, session| session.lives(now));
        if held.len() >= SESSIONS
            && let Some(oldest) = held.iter().min_by_key(|(_, session)| session.seen)
        {
            let oldest = *oldest.0;
            held.remove(&oldest);
        }
        held.insert(hash(&text), Session { token: hash(token), born: now, seen: now });
        Some(text)
    }

    /// What a session may do: what its token may, as long as there is that token.
    pub(super) fn role(&self, cookie: &str, tokens: &[Token], now: Duration) -> Option<Role> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let session = held.get_mut(&hash(cookie)).filter(|session| session.lives(now))?;
        session.seen = now;
        let is_its = |token: &&Token| hash(token.secret.expose_secret()) == session.token;
        tokens.iter().filter(is_its).map(|token| token.role).max()
    }

    fn end(&self, cookie: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash(cookie));
    }
}

impl Session {
    fn lives(&self, now: Duration) -> bool {
        now.saturating_sub(self.seen) < IDLE && now.saturating_sub(self.born) < LIFE
    }
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text).into()
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
    let Some(id) = api.sessions.begin(&asked.token, api.world.clock().boot()) else {
        let text = "there is no randomness to make a session of; try again later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).into());
    };
    let secure = if is_secure(&api, &headers) { "; Secure" } else { "" };
    let set = format!("{SESSION_COOKIE}={id}; HttpOnly; SameSite=Strict; Path=/{secure}");
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
        api.sessions.end(cookie);
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

const SESSIONS: usize = 1000;
/// How long a session lives that nobody uses, and how long any does.
const IDLE: Duration = Duration::from_hours(12);
const LIFE: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: Role, text: &str) -> Token {
        Token { role, secret: text.to_owned().into() }
    }

    #[test]
    fn a_session_lives_while_it_is_used_and_a_week_at_most() {
        let (sessions, tokens) = (Sessions::default(), [token(Role::Read, "t")]);
        let hours = |n| Duration::from_hours(n);
        let id = sessions.begin("t", hours(0)).unwrap();
        for hour in (10..160).step_by(10) {
            assert_eq!(sessions.role(&id, &tokens, hours(hour)), Some(Role::Read), "{hour}");
        }
        assert_eq!(sessions.role(&id, &tokens, hours(168)), None);
        let idle = sessions.begin("t", hours(200)).unwrap();
        assert_eq!(sessions.role(&idle, &tokens, hours(212)), None);
    }

    #[test]
    fn a_session_ends_with_its_token_and_has_the_role_that_it_has_now() {
        let sessions = Sessions::default();
        let id = sessions.begin("t", Duration::ZERO).unwrap();
        let role = |tokens: &[Token]| sessions.role(&id, tokens, Duration::ZERO);
        assert_eq!(role(&[token(Role::Read, "t")]), Some(Role::Read));
        assert_eq!(role(&[token(Role::Operate, "t")]), Some(Role::Operate));
        assert_eq!(role(&[token(Role::Operate, "other")]), None);
    }

    #[test]
    fn nobody_fills_memory_by_signing_in() {
        let sessions = Sessions::default();
        let first = sessions.begin("t", Duration::ZERO).unwrap();
        for n in 0..SESSIONS as u64 {
            sessions.begin("t", Duration::from_secs(1 + n)).unwrap();
        }
        assert_eq!(sessions.0.lock().unwrap().len(), SESSIONS);
        assert_eq!(sessions.role(&first, &[token(Role::Read, "t")], Duration::ZERO), None);
    }
}
