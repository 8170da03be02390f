//! The HTTP edge: health, metrics and the API. It translates and has no rules of its own.
//!
//! `gate` decides who may ask, `problem` is what else is answered, `asked` reads what requests say; every other file is a
//! group of routes with the bodies of their answers, and adds a line each to the router below.
//!
//! Whoever can reach it must show a token, unless it listens on loopback alone. Even there a web page in somebody's
//! browser could reach it, under a name that resolves to loopback or from another origin, so `Host` and `Origin` are
//! checked always. What changes anything needs the role *operate*, whatever it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Token;
use crate::engine::{Pulse, Setting, Stop};
use crate::ports::{Clock, World};

mod asked;
mod explain;
mod feeds;
mod gate;
mod health;
mod jobs;
mod problem;
mod sides;
mod wishes;

pub use explain::ExplainBody;
pub use feeds::{
    FeedBody, FeedFireBody, FeedsBody, FiresBody, InboxBody, PauseBody, ScheduleBody, UpcomingBody,
};
pub use jobs::{EventBody, FireBody, JobBody, JobsBody};
pub use sides::{BudgetBody, EndpointBody, EndpointsBody, HealthBody, StorageBody, StoragesBody};

use problem::Problem;

/// The HTTP server.
pub struct Http<W: World> {
    listener: TcpListener,
    api: Arc<Api<W>>,
}

struct Api<W: World> {
    /// Of the first setting: what is the same in all of them.
    world: Arc<W>,
    pulse: Arc<Pulse>,
    site: Site<W>,
}

/// Whom the server speaks for.
pub struct Site<W> {
    /// The nodes that see the same folders.
    pub name: String,
    /// The config in force.
    pub settings: watch::Receiver<Setting<W>>,
    /// Who may ask.
    pub tokens: watch::Receiver<Arc<[Token]>>,
}

impl<W: World> Api<W> {
    /// The config in force.
    fn setting(&self) -> Setting<W> {
        self.site.settings.borrow().clone()
    }
}

impl<W: World> Http<W> {
    /// Listens; the error names the address.
    pub async fn bind(
        listen: SocketAddr,
        pulse: Arc<Pulse>,
        site: Site<W>,
    ) -> Result<Self, std::io::Error> {
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let told = format!("could not listen on {listen}: {error}; choose another http.listen");
            std::io::Error::new(error.kind(), told)
        })?;
        let world = site.settings.borrow().world.clone();
        Ok(Self { listener, api: Arc::new(Api { world, pulse, site }) })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, std::io::Error> {
        self.listener.local_addr()
    }

    /// Serves until the hard stop: health can be asked for while the rest finishes.
    pub async fn run(self, stop: Stop) -> Result<(), std::io::Error> {
        let api = self.api;
        let clock = api.world.clock().clone();
        let guarded = Router::new()
            .route("/api/v1/jobs", get(jobs::list::<W>))
            .route("/api/v1/jobs/{id}", get(jobs::show::<W>))
            .route("/api/v1/jobs/{id}/events", get(jobs::events::<W>))
            .route("/api/v1/jobs/{id}/cancel", post(wishes::cancel::<W>))
            .route("/api/v1/jobs/{id}/retry", post(wishes::retry::<W>))
            .route("/api/v1/jobs/{id}/release", post(wishes::release::<W>))
            .route("/api/v1/feeds", get(feeds::feeds::<W>))
            .route("/api/v1/feeds/{feed}/pause", post(feeds::pause::<W>))
            .route("/api/v1/feeds/{feed}/resume", post(feeds::resume::<W>))
            .route("/api/v1/feeds/{feed}/run", post(feeds::run::<W>))
            .route("/api/v1/feeds/{feed}/fires", get(feeds::fires::<W>))
            .route("/api/v1/explain", get(explain::explain::<W>))
            .route("/api/v1/endpoints", get(sides::endpoints::<W>))
            .route("/api/v1/endpoints/{name}/resume", post(sides::resume_endpoint::<W>))
            .route("/api/v1/storages", get(sides::storages::<W>))
            .route("/api/v1/storages/{name}/resume", post(sides::resume_storage::<W>))
            .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
                let text = format!("{} can't be asked with {method}", uri.path());
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
            })
            .fallback(|uri: Uri| async move {
                Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            })
            .layer(middleware::from_fn_with_state(api.clone(), gate::authorized::<W>));
        let router = Router::new()
            .route("/healthz", get(health::healthz::<W>))
            .route("/readyz", get(health::readyz::<W>))
            .route("/metrics", get(health::metrics::<W>))
            .merge(guarded)
            .layer(middleware::from_fn_with_state(api.clone(), gate::same_site::<W>))
            .with_state(api);
        let hard = stop.hard.clone();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { hard.cancelled().await })
            .into_future();
        // Answers under way may be finished, but a caller that never ends its request must not keep us from ending.
        tokio::select! {
            served = serving => served,
            () = async { stop.hard.cancelled().await; clock.sleep(LAST_ANSWERS).await } => Ok(()),
        }
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// How long answers may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
