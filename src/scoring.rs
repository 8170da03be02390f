//! Scoring services: what the engine's `Scorer` port means in the words of each kind of remote service.
//!
//! One module per kind. What they share is here: the choice between them, made once by the config.

use crate::fault::Fault;
use crate::ports::{Clock, RemoteStatus, Run, Scorer, StartAnswer, Submission, SubmitAnswer};
use crate::wire::BlobReference;

mod answer;
pub(crate) use answer::{any_answer, any_status, any_submit};
pub mod bes;
mod result_hosts;
mod service_url;

pub use bes::Bes;
pub use result_hosts::ResultHosts;
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
}

impl<C: Clock> Scorer for Scoring<C> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bes(bes) => bes.kind(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Bes(bes) => bes.url(),
        }
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.submit(submission).await,
        }
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        match self {
            Self::Bes(bes) => bes.start(run).await,
        }
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        match self {
            Self::Bes(bes) => bes.status(run).await,
        }
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.cancel(run).await,
        }
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        match self {
            Self::Bes(bes) => bes.links(run).await,
        }
    }

    fn admit(&self, output: &str, link: &BlobReference) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.admit(output, link),
        }
    }

    fn deletes_jobs(&self) -> bool {
        match self {
            Self::Bes(bes) => bes.deletes_jobs(),
        }
    }

    async fn probe(&self) -> Result<(), Fault> {
        match self {
            Self::Bes(bes) => bes.probe().await,
        }
    }
}
