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
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::net::TcpListener;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::{Access, Token};
use crate::engine::{Pulse, Setting, Stop};
use crate::intake::Reception;
use crate::ports::{Clock, World};

mod asked;
mod contents;
mod doing;
mod door;
mod explain;
mod failures;
mod feeds;
mod files;
mod gate;
mod headers;
mod health;
mod jobs;
mod live;
mod openapi;
mod overview;
mod problem;
mod requests;
mod send;
mod session;
mod sides;
mod trial;
mod ui;
mod wishes;

pub use contents::PreviewBody;
pub use doing::DoingBody;
pub use explain::ExplainBody;
pub use feeds::{
    FeedBody, FeedFireBody, FeedsBody, FiresBody, InboxBody, PauseBody, ScheduleBody, UpcomingBody,
};
pub use files::{FileBody, FilesBody};
pub use jobs::{CountBody, EventBody, EventsBody, FireBody, JobBody, JobsBody};
pub use live::TransitionBody;
pub use overview::{FeedSummaryBody, SummaryBody, ThroughputBody, ThroughputPointBody};
pub use requests::{RequestBody, RequestsBody};
pub use session::SessionBody;
pub use sides::{
    BudgetBody, EndpointBody, EndpointsBody, FaultBody, HealthBody, StorageBody, StoragesBody,
};
pub use trial::{TrialBody, TrialOutput};
pub use wishes::{RefusedBody, WishesBody};

use door::{Door, Peer};
use failures::Failures;
use problem::Problem;
use session::SignedOut;

/// The HTTP server.
pub struct Http<W: World> {
    door: Door<W::Clock>,
    api: Arc<Api<W>>,
}

struct Api<W: World> {
    /// Of the first setting: what is the same in all of them.
    world: Arc<W>,
    pulse: Arc<Pulse>,
    site: Site<W>,
    live: Arc<live::Live>,
    glance: overview::Glance,
    signed_out: SignedOut,
    failures: Failures,
}

/// Whom the server speaks for.
pub struct Site<W: World> {
    /// The nodes that see the same folders.
    pub name: String,
    /// The label of this one.
    pub node: String,
    /// How the server looks from outside.
    pub access: Access,
    /// The config in force.
    pub settings: watch::Receiver<Setting<W>>,
    /// Who may ask.
    pub tokens: watch::Receiver<Arc<[Token]>>,
    /// Where inputs are sent to.
    pub reception: Arc<Reception<W>>,
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
        let door = Door::new(listener, site.access.tls.as_ref(), world.clock().clone())?;
        let api = Api {
            world,
            pulse,
            site,
            live: Arc::default(),
            glance: overview::Glance::default(),
            signed_out: SignedOut::default(),
            failures: Failures::default(),
        };
        Ok(Self { door, api: Arc::new(api) })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, std::io::Error> {
        self.door.local_addr()
    }

    /// Serves until the hard stop: health can be asked for while the rest finishes.
    pub async fn run(self, stop: Stop) -> Result<(), std::io::Error> {
        let api = self.api;
        let clock = api.world.clock().clone();
        let router = router(&api);
        let following = live::run(api.clone(), stop.soft.clone());
        let hard = stop.hard.clone();
        let serving = axum::serve(self.door, router.into_make_service_with_connect_info::<Peer>())
            .with_graceful_shutdown(async move { hard.cancelled().await })
            .into_future();
        // Answers under way may be finished, but a caller that never ends its request must not keep us from ending.
        tokio::select! {
            served = serving => served,
            () = following => Ok(()),
            () = async { stop.hard.cancelled().await; clock.sleep(LAST_ANSWERS).await } => Ok(()),
        }
    }
}

/// Every route. Those of the API bring their entries in its document with them, so each `routes!` is all that one needs.
fn router<W: World>(api: &Arc<Api<W>>) -> Router {
    let (open, mut document) = OpenApiRouter::with_openapi(openapi::about())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(session::sign_in))
        .routes(routes!(session::sign_out))
        .split_for_parts();
    let (guarded, entries) = OpenApiRouter::<Arc<Api<W>>>::new()
        .routes(routes!(session::show))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::count))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::events))
        .routes(routes!(requests::requests))
        .routes(routes!(overview::summary))
        .routes(routes!(overview::throughput))
        .routes(routes!(live::events))
        .routes(routes!(contents::input))
        .routes(routes!(contents::output))
        .routes(routes!(wishes::cancel_many))
        .routes(routes!(wishes::retry_many))
        .routes(routes!(wishes::cancel))
        .routes(routes!(wishes::retry))
        .routes(routes!(wishes::release))
        .routes(routes!(feeds::feeds))
        .routes(routes!(send::send))
        .routes(routes!(feeds::pause))
        .routes(routes!(feeds::resume))
        .routes(routes!(feeds::run))
        .routes(routes!(feeds::fires))
        .routes(routes!(files::files))
        .routes(routes!(explain::explain))
        .routes(routes!(sides::endpoints))
        .routes(routes!(sides::resume_endpoint))
        .routes(routes!(trial::execute))
        .routes(routes!(sides::storages))
        .routes(routes!(sides::resume_storage))
        .split_for_parts();
    document.merge(entries);
    let guarded = guarded
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let text = format!("{} can't be asked with {method}", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .fallback(openapi::nothing)
        .layer(middleware::from_fn_with_state(api.clone(), gate::authorized::<W>));
    open.merge(openapi::routes(&openapi::completed(document)))
        .merge(ui::routes())
        .merge(guarded)
        .layer(middleware::from_fn_with_state(api.clone(), gate::same_site::<W>))
        .layer(middleware::from_fn_with_state(api.clone(), headers::strict::<W>))
        .with_state(api.clone())
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// How long answers may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
