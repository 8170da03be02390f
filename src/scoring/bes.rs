//! Azure ML's classic Batch Execution Service, version 2.0, perhaps with API Management in front.
//!
//! The two steps of the service, submit and start, stay two calls here: between them the engine commits the id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;

use super::answer::{self, Operation};
use super::service::{Body, Service};
use super::{ResultHosts, ServiceUrl};
use crate::fault::Fault;
use crate::job::RemoteId;
use crate::metrics::Metrics;
use crate::ports::{
    Clock, Paper, RemoteStatus, Run, Scorer, StartAnswer, Submission, SubmitAnswer,
};
use crate::wire::{BlobReference, SubmitRequest};

pub use super::service::Settings;

/// A classic batch service, as the engine sees it.
pub struct Bes<C> {
    service: Service<C>,
    ends: Ends,
}

/// What becomes of jobs that have finished.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Where links to results may lead.
    pub result_hosts: ResultHosts,
    /// Whether the service is to forget jobs whose outputs are in place.
    pub delete_jobs: bool,
}

/// How long a call may take by default.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);

impl<C: Clock> Bes<C> {
    /// Fails when a key can't be sent as a header, or this machine has no usable TLS.
    pub fn new(settings: Settings, ends: Ends, clock: C, metrics: Metrics) -> Result<Self, String> {
        let service = Service::new(settings, clock, metrics)?;
        Ok(Self { service, ends })
    }

    /// The same, sending nothing.
    #[must_use]
    pub fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        Self { service: self.service.on_paper(paper), ..self }
    }
}

impl<C: Clock> Scorer for Bes<C> {
    fn kind(&self) -> &'static str {
        "bes"
    }

    fn url(&self) -> String {
        self.service.url().to_string()
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        let operation = Operation::Submit;
        let url = self.service.url().submit();
        let body = serde_json::to_vec(&submit_request(submission))
            .expect("text, and maps of text by text, are always JSON");
        let body = Body::Json(body.into());
        let answer = self.service.exchange(operation, Method::POST, url, &body).await?;
        answer::submitted(&answer, &self.service.asked(operation))
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        self.service
            .about(run, Operation::Start, Method::POST, ServiceUrl::start, answer::started)
            .await
    }

    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        self.service
            .about(run, Operation::Status, Method::GET, ServiceUrl::status, answer::status)
            .await
    }

    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        self.service
            .about(run, Operation::Cancel, Method::DELETE, ServiceUrl::cancel, answer::cancelled)
            .await
    }

    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        self.service
            .about(run, Operation::Status, Method::GET, ServiceUrl::status, answer::links)
            .await
    }

    fn admit(&self, output: &str, link: &BlobReference) -> Result<(), Fault> {
        let url = self.service.url();
        self.ends.result_hosts.admit(link, output, self.service.name(), url.is_loopback())
    }

    fn deletes_jobs(&self) -> bool {
        self.ends.delete_jobs
    }

    async fn probe(&self) -> Result<(), Fault> {
        let operation = Operation::Probe;
        let url = self.service.url().status(&RemoteId(NO_JOB.into()));
        let answer = self.service.exchange(operation, Method::GET, url, &Body::None).await?;
        answer::probed(&answer, &self.service.asked(operation))
    }
}

impl<C> fmt::Debug for Bes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bes").field("service", &self.service).field("ends", &self.ends).finish()
    }
}

/// The body of a submit. A named input goes into `Inputs`, which every service takes; without a name it is `Input`,
/// which one with a single input takes. The service refuses a body that has both.
pub fn submit_request(submission: &Submission) -> SubmitRequest {
    let blob = submission.blob.clone();
    let (input, inputs) = match &submission.input {
        Some(name) => (None, Some(BTreeMap::from([(name.clone(), blob)]))),
        None => (Some(blob), None),
    };
    SubmitRequest {
        input,
        inputs,
        outputs: Some(submission.outputs.iter().cloned().collect()),
        global_parameters: Some(submission.parameters.iter().cloned().collect()),
    }
}

/// In the form of the service's ids, and none of them.
const NO_JOB: &str = "00000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(blob: &str) -> BlobReference {
        BlobReference {
            connection_string: Some(
                "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K".into(),
            ),
            relative_location: Some(blob.into()),
            ..BlobReference::default()
        }
    }

    fn signed(blob: &str) -> BlobReference {
        BlobReference {
            base_location: Some("https://acct.blob.core.windows.net/".into()),
            relative_location: Some(blob.into()),
            sas_blob_token: Some("?sv=2022-11-02&sp=r&sig=abc%3D".into()),
            ..BlobReference::default()
        }
    }

    fn json(submission: &Submission) -> String {
        serde_json::to_string_pretty(&submit_request(submission)).unwrap()
    }

    #[test]
    fn a_submit_is_the_guides_own() {
        let submission = Submission {
            key: "k".into(),
            input: None,
            blob: keyed("/container/mydatablob.csv"),
            outputs: vec![("output1".into(), keyed("/container/myresultsblob.csv"))],
            parameters: vec![],
        };
        insta::assert_snapshot!(json(&submission), @r#"
        {
          "Input": {
            "ConnectionString": "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K",
            "RelativeLocation": "/container/mydatablob.csv"
          },
          "Outputs": {
            "output1": {
              "ConnectionString": "DefaultEndpointsProtocol=https;AccountName=A;AccountKey=K",
              "RelativeLocation": "/container/myresultsblob.csv"
            }
          },
          "GlobalParameters": {}
        }
        "#);
    }

    #[test]
    fn a_named_input_and_signed_links_make_the_other_form() {
        let submission = Submission {
            key: "k".into(),
            input: Some("input1".into()),
            blob: signed("inbox/orders.csv"),
            outputs: vec![
                ("scores".into(), signed("outbox/scores.csv")),
                ("model".into(), signed("outbox/model.ilearner")),
            ],
            parameters: vec![("Seed".into(), "7".into()), ("Cutoff".into(), "0.35".into())],
        };
        insta::assert_snapshot!(json(&submission), @r#"
        {
          "Inputs": {
            "input1": {
              "RelativeLocation": "inbox/orders.csv",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            }
          },
          "Outputs": {
            "model": {
              "RelativeLocation": "outbox/model.ilearner",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            },
            "scores": {
              "RelativeLocation": "outbox/scores.csv",
              "BaseLocation": "https://acct.blob.core.windows.net/",
              "SasBlobToken": "?sv=2022-11-02&sp=r&sig=abc%3D"
            }
          },
          "GlobalParameters": {
            "Cutoff": "0.35",
            "Seed": "7"
          }
        }
        "#);
    }
}
