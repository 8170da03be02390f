//! Scoring services: what the engine's `Scorer` port means in the words of each kind of remote service.
//!
//! One module per kind. What they share is here: the choice between them, made once by the config.

use crate::fault::Fault;
use crate::ports::{
    Clock, Invoked, RemoteStatus, Run, Scorer, StartAnswer, Submission, SubmitAnswer, Way,
};
use crate::wire::BlobReference;

mod answer;
pub mod batch_endpoint;
pub mod bes;
mod service_url;

pub use batch_endpoint::BatchEndpoint;
pub use bes::Bes;
pub use service_url::ServiceUrl;

/// A scoring service of any kind.
#[derive(Debug)]
pub enum Scoring<C: Clock> {
    /// Azure ML's classic Batch Execution Service.
    Bes(Bes<C>),
    /// A batch endpoint of Azure ML v2.
    BatchEndpoint(BatchEndpoint<C>),
}

impl<C: Clock> Scorer for Scoring<C> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bes(bes) => bes.kind(),
            Self::BatchEndpoint(endpoint) => endpoint.kind(),
        }
    }

    fn way(&self) -> Way {
        match self {
            Self::Bes(bes) => bes.way(),
            Self::BatchEndpoint(endpoint) => endpoint.way(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Bes(bes) => bes.url(),
            Self::BatchEndpoint(endpoint) => endpoint.url(),
        }
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.submit(submission).await,
            Self::BatchEndpoint(endpoint) => endpoint.submit(submission).await,
        }
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.start(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.start(run).await,
        }
    }

    async fn invoke(&self, run: Run<'_>, submission: &Submission) -> Invoked {
        match self {
            Self::Bes(bes) => bes.invoke(run, submission).await,
            Self::BatchEndpoint(endpoint) => endpoint.invoke(run, submission).await,
        }
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        match self {
            Self::Bes(bes) => bes.status(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.status(run).await,
        }
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.cancel(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.cancel(run).await,
        }
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        match self {
            Self::Bes(bes) => bes.links(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.links(run).await,
        }
    }

    async fn probe(&self) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.probe().await,
            Self::BatchEndpoint(endpoint) => endpoint.probe().await,
        }
    }
}
