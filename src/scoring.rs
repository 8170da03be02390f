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
    Clock, Executed, Execution, Invoked, Paper, RemoteStatus, Reply, Run, Scorer, StartAnswer,
    Submission, SubmitAnswer, Way,
};
use crate::wire::BlobReference;

mod answer;
pub mod batch_endpoint;
pub mod bes;
mod result_hosts;
mod results;
pub mod rrs;
mod service;
mod service_url;

pub(crate) use answer::{any_answer, any_status, any_submit};
pub use batch_endpoint::BatchEndpoint;
pub use bes::Bes;
pub use result_hosts::ResultHosts;
pub use rrs::Rrs;
pub use service::Settings;
pub use service_url::ServiceUrl;

/// Whether a link may be opened, for [`crate::fuzz`].
pub(crate) fn any_link(hosts: &ResultHosts, link: &BlobReference) -> Result<(), String> {
    let endpoint = "churn".to_owned().try_into()?;
    hosts.admit(link, "output1", &endpoint, false).map_err(|fault| fault.message)
}

/// A scoring service of any kind.
#[derive(Debug)]
pub enum Scoring<C: Clock> {
    /// Azure ML's classic Batch Execution Service.
    Bes(Bes<C>),
    /// Azure ML's classic request/response service.
    Rrs(Rrs<C>),
    /// A batch endpoint of Azure ML v2.
    BatchEndpoint(BatchEndpoint<C>),
}

impl<C: Clock> Scoring<C> {
    /// The same service, to which nothing is sent: what would be is noted.
    #[must_use]
    pub fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        match self {
            Self::Bes(bes) => Self::Bes(bes.on_paper(paper)),
            Self::Rrs(rrs) => Self::Rrs(rrs.on_paper(paper)),
            Self::BatchEndpoint(endpoint) => Self::BatchEndpoint(endpoint.on_paper(paper)),
        }
    }
}

impl<C: Clock> Scorer for Scoring<C> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bes(bes) => bes.kind(),
            Self::Rrs(rrs) => rrs.kind(),
            Self::BatchEndpoint(endpoint) => endpoint.kind(),
        }
    }

    fn way(&self) -> Way {
        match self {
            Self::Bes(bes) => bes.way(),
            Self::Rrs(rrs) => rrs.way(),
            Self::BatchEndpoint(endpoint) => endpoint.way(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Bes(bes) => bes.url(),
            Self::Rrs(rrs) => rrs.url(),
            Self::BatchEndpoint(endpoint) => endpoint.url(),
        }
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.submit(submission).await,
            Self::Rrs(rrs) => rrs.submit(submission).await,
            Self::BatchEndpoint(endpoint) => endpoint.submit(submission).await,
        }
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.start(run).await,
            Self::Rrs(rrs) => rrs.start(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.start(run).await,
        }
    }

    async fn execute(&self, run: Run<'_>, execution: &Execution) -> Result<Vec<Executed>, Fault> {
        match self {
            Self::Bes(bes) => bes.execute(run, execution).await,
            Self::Rrs(rrs) => rrs.execute(run, execution).await,
            Self::BatchEndpoint(endpoint) => endpoint.execute(run, execution).await,
        }
    }

    async fn tried(&self, execution: &Execution) -> Result<Option<Reply>, Fault> {
        match self {
            Self::Bes(bes) => bes.tried(execution).await,
            Self::Rrs(rrs) => rrs.tried(execution).await,
            Self::BatchEndpoint(endpoint) => endpoint.tried(execution).await,
        }
    }

    async fn invoke(&self, run: Run<'_>, submission: &Submission) -> Invoked {
        match self {
            Self::Bes(bes) => bes.invoke(run, submission).await,
            Self::Rrs(rrs) => rrs.invoke(run, submission).await,
            Self::BatchEndpoint(endpoint) => endpoint.invoke(run, submission).await,
        }
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        match self {
            Self::Bes(bes) => bes.status(run).await,
            Self::Rrs(rrs) => rrs.status(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.status(run).await,
        }
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.cancel(run).await,
            Self::Rrs(rrs) => rrs.cancel(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.cancel(run).await,
        }
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        match self {
            Self::Bes(bes) => bes.links(run).await,
            Self::Rrs(rrs) => rrs.links(run).await,
            Self::BatchEndpoint(endpoint) => endpoint.links(run).await,
        }
    }

    fn admit(&self, output: &str, link: &BlobReference) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.admit(output, link),
            Self::Rrs(rrs) => rrs.admit(output, link),
            Self::BatchEndpoint(endpoint) => endpoint.admit(output, link),
        }
    }

    fn deletes_jobs(&self) -> bool {
        match self {
            Self::Bes(bes) => bes.deletes_jobs(),
            Self::Rrs(rrs) => rrs.deletes_jobs(),
            Self::BatchEndpoint(endpoint) => endpoint.deletes_jobs(),
        }
    }

    async fn probe(&self) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.probe().await,
            Self::Rrs(rrs) => rrs.probe().await,
            Self::BatchEndpoint(endpoint) => endpoint.probe().await,
        }
    }
}
