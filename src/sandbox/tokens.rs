//! Tokens as Microsoft Entra ID gives them to applications: asked for with a client secret, good for one audience and for
//! a time.
//!
//! Both versions of its endpoint are there: `/{tenant}/oauth2/v2.0/token` with `scope`, `/{tenant}/oauth2/token` with
//! `resource`. Tokens look like the real ones (JSON Web Tokens), so that nobody takes them for something else, and only
//! the sandbox that gave one takes it.

use axum::Json;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Shared;
use super::blob_access::Query;

/// The path of a token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    tenant: String,
    is_v2: bool,
}

impl Route {
    pub(super) fn parse(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (tenant, is_v2) = match segments[..] {
            [tenant, "oauth2", "v2.0", "token"] => (tenant, true),
            [tenant, "oauth2", "token"] => (tenant, false),
            _ => return None,
        };
        (method == Method::POST).then(|| Self { tenant: tenant.into(), is_v2 })
    }
}

/// Answers a call for a token.
pub(super) fn answer(shared: &Shared, route: &Route, body: &Bytes) -> Response {
    let service = &shared.settings().batch;
    let refused = |status, error: &str, text: &str| {
        (status, Json(json!({ "error": error, "error_description": text }))).into_response()
    };
    if route.tenant != service.tenant {
        let text = format!("AADSTS90002: Tenant '{}' not found.", route.tenant);
        return refused(StatusCode::BAD_REQUEST, "invalid_request", &text);
    }
    let form = Query::parse(&String::from_utf8_lossy(body));
    if form.get("grant_type") != Some("client_credentials") {
        let text = "AADSTS70003: The app requested an unsupported grant type.";
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type", text);
    }
    if form.get("client_id") != Some(service.client_id.as_str()) {
        let text = "AADSTS700016: Application with this identifier was not found in the directory.";
        return refused(StatusCode::BAD_REQUEST, "unauthorized_client", text);
    }
    let secret = service.client_secret.expose_secret().as_bytes();
    let given = form.get("client_secret").unwrap_or_default();
    if !bool::from(given.as_bytes().ct_eq(secret)) {
        let text = "AADSTS7000215: Invalid client secret provided.";
        return refused(StatusCode::UNAUTHORIZED, "invalid_client", text);
    }
    let audience = if route.is_v2 {
        form.get("scope").and_then(|scope| scope.strip_suffix("/.default"))
    } else {
        form.get("resource").map(|resource| resource.trim_end_matches('/'))
    };
    let Some(audience) = audience.filter(|audience| AUDIENCES.contains(audience)) else {
        let text = "AADSTS500011: The resource principal was not found in the tenant.";
        return refused(StatusCode::BAD_REQUEST, "invalid_resource", text);
    };
    let life = service.token_life.as_secs();
    let token = token(shared, audience, life);
    Json(if route.is_v2 {
        json!({ "token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token })
    } else {
        json!({
            "token_type": "Bearer",
            "expires_in": life.to_string(),
            "resource": audience,
            "access_token": token,
        })
    })
    .into_response()
}

fn token(shared: &Shared, audience: &str, life_seconds: u64) -> String {
    let now = shared.clock.now().timestamp();
    let service = &shared.settings().batch;
    let expires = now.saturating_add_unsigned(life_seconds);
    let claims = json!({
        "aud": audience,
        "iss": format!("https://sts.windows.net/{}/", service.tenant),
        "appid": service.client_id,
        "nbf": now,
        "exp": expires,
        "uti": shared.fresh_id(),
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed =
        format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "HS256" })), encode(&claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature(shared, &signed)))
}

/// Lets in whoever has a token for the audience; the error is the service's sentence.
pub(super) fn admit(
    shared: &Shared,
    headers: &HeaderMap,
    audience: &str,
) -> Result<(), &'static str> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer ")).ok_or(NO_TOKEN)?;
    let (signed, sent) = token.rsplit_once('.').ok_or(NO_TOKEN)?;
    let sent = URL_SAFE_NO_PAD.decode(sent).map_err(|_| NO_TOKEN)?;
    if !bool::from(sent.ct_eq(&signature(shared, signed))) {
        return Err(NO_TOKEN);
    }
    let claims = signed.split_once('.').and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Value =
        claims.and_then(|claims| serde_json::from_slice(&claims).ok()).ok_or(NO_TOKEN)?;
    if claims["aud"] != audience {
        return Err("Audiences in JWT are not allowed");
    }
    let expires = claims["exp"].as_i64().unwrap_or_default();
    if expires <= shared.clock.now().timestamp() {
        return Err("IDX10223: Lifetime validation failed. The token is expired.");
    }
    Ok(())
}

fn signature(shared: &Shared, text: &str) -> Vec<u8> {
    let key = shared.ids.salt.as_bytes();
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Who the endpoint wants tokens to be for.
pub(super) const MACHINE_LEARNING: &str = "https://ml.azure.com";
/// And the management API.
pub(super) const MANAGEMENT: &str = "https://management.azure.com";
const AUDIENCES: [&str; 3] = [MACHINE_LEARNING, MANAGEMENT, "https://storage.azure.com"];
const NO_TOKEN: &str = "The bearer token is missing or not valid.";
