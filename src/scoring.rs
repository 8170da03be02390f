//! Scoring services: what the engine's `Scorer` port means in the words of each kind of remote service.
//!
//! One module per kind. What they share is here: the choice between them, made once by the config; and in `service`, the
//! way to both kinds of classic ones.
//!
//! What can be promised differs. A batch run has an id that is committed before it is started, so it runs at most once.
//! A call of request/response scoring has no identity at all: one whose answer is lost is made again, and may score, and
//! cost, again. Each such call is counted (`remote_runs_started_total` has those that were answered,
//! `remote_requests_total{operation="execute"}` all), and outputs are delivered once whichever.

use std::sync::Arc;

use crate::fault::Fault;
use crate::ports::{
    Clock, Executed, Execution, Paper, RemoteStatus, Run, Scorer, StartAnswer, Submission,
    SubmitAnswer, Way,
};
use crate::wire::BlobReference;

mod answer;
pub mod bes;
mod results;
pub mod rrs;
mod service;
mod service_url;

pub use bes::Bes;
pub use rrs::Rrs;
pub use service::Settings;
pub use service_url::ServiceUrl;

/// A scoring service of any kind.
#[derive(Debug)]
pub enum Scoring<C: Clock> {
    /// Azure ML's classic Batch Execution Service.
    Bes(Bes<C>),
    /// Azure ML's classic request/response service.
    Rrs(Rrs<C>),
}

impl<C: Clock> Scoring<C> {
    /// The same service, to which nothing is sent: what would be is noted.
    #[must_use]
    pub fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        match self {
            Self::Bes(bes) => Self::Bes(bes.on_paper(paper)),
            Self::Rrs(rrs) => Self::Rrs(rrs.on_paper(paper)),
        }
    }
}

impl<C: Clock> Scorer for Scoring<C> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bes(bes) => bes.kind(),
            Self::Rrs(rrs) => rrs.kind(),
        }
    }

    fn way(&self) -> Way {
        match self {
            Self::Bes(bes) => bes.way(),
            Self::Rrs(rrs) => rrs.way(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Bes(bes) => bes.url(),
            Self::Rrs(rrs) => rrs.url(),
        }
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.submit(submission).await,
            Self::Rrs(rrs) => rrs.submit(submission).await,
        }
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.start(run).await,
            Self::Rrs(rrs) => rrs.start(run).await,
        }
    }

    async fn execute(&self, run: Run<'_>, execution: &Execution) -> Result<Vec<Executed>, Fault> {
        match self {
            Self::Bes(bes) => bes.execute(run, execution).await,
            Self::Rrs(rrs) => rrs.execute(run, execution).await,
        }
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        match self {
            Self::Bes(bes) => bes.status(run).await,
            Self::Rrs(rrs) => rrs.status(run).await,
        }
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.cancel(run).await,
            Self::Rrs(rrs) => rrs.cancel(run).await,
        }
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        match self {
            Self::Bes(bes) => bes.links(run).await,
            Self::Rrs(rrs) => rrs.links(run).await,
        }
    }

    async fn probe(&self) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.probe().await,
            Self::Rrs(rrs) => rrs.probe().await,
        }
    }
}
