//! API Management in front of the web service: subscription key, rate limit, quota.
//!
//! Its errors have a body of their own, unlike the service's. Source of the texts: Microsoft's support article on
//! unauthorized errors of API Management, and answers that users have published for the other two.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::wire::GatewayError;

/// What the gateway demands.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Expected in `Ocp-Apim-Subscription-Key` or the query's `subscription-key`; `None` lets everybody in.
    pub subscription_key: Option<SecretString>,
    /// Calls in any 60 seconds; refused calls don't count.
    pub calls_per_minute: Option<u32>,
    /// Calls in a fixed window.
    pub quota: Option<Quota>,
    /// First segment of the paths it offers: `azureml-demo`.
    pub suffix: String,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            subscription_key: None,
            calls_per_minute: None,
            quota: None,
            suffix: "azureml-demo".into(),
        }
    }
}

/// So many calls, then none until the window ends; windows follow each other from the first call on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls in a window; those that the service refuses count too.
    pub calls: u32,
    /// Its length, at least a second.
    pub window: Duration,
}

/// The calls so far. It is a part of its own so that simulations have the same judge as the sandbox.
#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Times of the admitted calls of the last minute, oldest first.
    recent: VecDeque<Duration>,
    window_start: Option<Duration>,
    in_window: u32,
    refused: u64,
}

/// A refusal of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl Meter {
    /// Admits a call, or says why not. `now` is the boot-time clock.
    pub fn admit(
        &self,
        gateway: &Gateway,
        key: Option<&str>,
        now: Duration,
    ) -> Result<(), Refusal> {
        let mut counts = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = counts.judge(gateway, key, now);
        if verdict.is_err() {
            counts.refused += 1;
        }
        verdict
    }

    /// How many calls were refused, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

impl Counts {
    fn judge(
        &mut self,
        gateway: &Gateway,
        key: Option<&str>,
        now: Duration,
    ) -> Result<(), Refusal> {
        if let Some(expected) = &gateway.subscription_key {
            let expected = expected.expose_secret().as_bytes();
            let message = match key {
                Some(key) if key.as_bytes().ct_eq(expected).into() => None,
                Some(_) => Some(INVALID_KEY),
                None => Some(MISSING_KEY),
            };
            if let Some(message) = message {
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, message.into(), None));
            }
        }
        if let Some(limit) = gateway.calls_per_minute {
            while self.recent.front().is_some_and(|at| now.saturating_sub(*at) >= MINUTE) {
                self.recent.pop_front();
            }
            if self.recent.len() as u64 >= u64::from(limit) {
                let oldest = self.recent.front().copied().unwrap_or(now);
                let wait = whole_seconds((oldest + MINUTE).saturating_sub(now));
                let message = format!("Rate limit is exceeded. Try again in {wait} seconds.");
                return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, message, Some(wait)));
            }
        }
        if let Some(quota) = gateway.quota {
            let start = *self.window_start.get_or_insert(now);
            if now.saturating_sub(start) >= quota.window {
                self.window_start = Some(now);
                self.in_window = 0;
            }
            if self.in_window >= quota.calls {
                let end = self.window_start.unwrap_or(now) + quota.window;
                let wait = whole_seconds(end.saturating_sub(now));
                let message = format!(
                    "Out of call volume quota. Quota will be replenished in {:02}:{:02}:{:02}.",
                    wait / 3600,
                    wait / 60 % 60,
                    wait % 60
                );
                return Err(Refusal::new(StatusCode::FORBIDDEN, message, Some(wait)));
            }
            self.in_window += 1;
        }
        if gateway.calls_per_minute.is_some() {
            self.recent.push_back(now);
        }
        Ok(())
    }
}

impl Refusal {
    /// After how many seconds it may be tried again, if it says so.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    fn new(status: StatusCode, message: String, retry_after: Option<u64>) -> Self {
        Self { status, message, retry_after }
    }

    /// What the gateway says of a path, or a path without its query parameters, that no operation offers.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Resource not found".into(), None)
    }

    /// What it says when a fault with this status was ordered; `None` for those the service says itself.
    pub(super) fn ordered(status: u16) -> Option<Self> {
        match status {
            429 => Some(Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "Rate limit is exceeded. Try again in 1 seconds.".into(),
                Some(1),
            )),
            403 => Some(Self::new(StatusCode::FORBIDDEN, "Forbidden".into(), None)),
            _ => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = GatewayError { status_code: self.status.as_u16(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }
}

/// Rounded up: whoever waits as long as told has waited long enough.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

const MINUTE: Duration = Duration::from_mins(1);

const MISSING_KEY: &str = "Access denied due to missing subscription key. Make sure to include subscription key when \
                           making requests to an API.";

const INVALID_KEY: &str = "Access denied due to invalid subscription key. Make sure to provide a valid key for an \
                           active subscription.";

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_minute_slides_and_tells_how_long_to_wait() {
        let gateway = Gateway { calls_per_minute: Some(2), ..Gateway::default() };
        let meter = Meter::default();
        assert_eq!(meter.admit(&gateway, None, at(100)), Ok(()));
        assert_eq!(meter.admit(&gateway, None, at(110)), Ok(()));
        let refusal = meter.admit(&gateway, None, Duration::from_millis(120_500)).unwrap_err();
        assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refusal.retry_after, Some(40));
        assert_eq!(refusal.message, "Rate limit is exceeded. Try again in 40 seconds.");
        assert_eq!(
            meter.admit(&gateway, None, at(160)),
            Ok(()),
            "the first call has left the minute"
        );
        assert!(meter.admit(&gateway, None, at(161)).is_err());
    }

    #[test]
    fn the_quota_comes_back_with_the_next_window() {
        let quota = Quota { calls: 1, window: at(3600) };
        let gateway = Gateway { quota: Some(quota), ..Gateway::default() };
        let meter = Meter::default();
        assert_eq!(meter.admit(&gateway, None, at(0)), Ok(()));
        let refusal = meter.admit(&gateway, None, at(3096)).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(refusal.retry_after, Some(504));
        assert_eq!(
            refusal.message,
            "Out of call volume quota. Quota will be replenished in 00:08:24."
        );
        assert_eq!(meter.admit(&gateway, None, at(3600)), Ok(()));
        assert_eq!(meter.refused(), 1);
    }

    #[test]
    fn a_missing_and_a_wrong_key_are_told_apart() {
        let gateway = Gateway { subscription_key: Some("k".into()), ..Gateway::default() };
        let meter = Meter::default();
        assert_eq!(meter.admit(&gateway, None, at(0)).unwrap_err().message, MISSING_KEY);
        assert_eq!(meter.admit(&gateway, Some("x"), at(0)).unwrap_err().message, INVALID_KEY);
        assert_eq!(meter.admit(&gateway, Some("k"), at(0)), Ok(()));
    }
}
