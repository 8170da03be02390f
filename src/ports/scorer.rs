//! The part of the world that scores.

use std::future::Future;

use bytes::Bytes;

use crate::fault::{Fault, Origin};
use crate::job::{RemoteId, RunResult};
use crate::wire::BlobReference;

/// A scoring service.
pub trait Scorer: Send + Sync + 'static {
    /// The kind, by its name in the config.
    fn kind(&self) -> &'static str;

    /// How its runs come to be.
    fn way(&self) -> Way {
        Way::TwoSteps
    }

    /// Its address, without keys: kept with every run that it knows.
    fn url(&self) -> String;

    /// Makes the service know a job; it doesn't run yet. With one call or at once that is a name of ours, made of the
    /// submission's key: nothing is sent.
    fn submit(
        &self,
        submission: &Submission,
    ) -> impl Future<Output = Result<SubmitAnswer, Fault>> + Send;

    /// Starts a job that the service knows.
    fn start(&self, run: Run<'_>) -> impl Future<Output = Result<StartAnswer, Fault>> + Send;

    /// Makes a run and starts it, in the one call that the service has for both; asked for once in a run's life, unless
    /// it was answered that nothing was started.
    fn invoke(
        &self,
        run: Run<'_>,
        _submission: &Submission,
    ) -> impl Future<Output = Invoked> + Send {
        std::future::ready(Invoked::NotStarted(unfit(run, "be invoked")))
    }

    /// Scores an input while we wait. It has no name at the service, and a call that is repeated scores once more.
    fn execute(
        &self,
        run: Run<'_>,
        _execution: &Execution,
    ) -> impl Future<Output = Result<Vec<Executed>, Fault>> + Send {
        std::future::ready(Err(unfit(run, "score while somebody waits")))
    }

    /// The same for somebody who tries the service by hand, with its whole answer; `None` where the kind has no such call.
    fn tried(
        &self,
        _execution: &Execution,
    ) -> impl Future<Output = Result<Option<Reply>, Fault>> + Send {
        std::future::ready(Ok(None))
    }

    /// Looks at a job.
    fn status(&self, run: Run<'_>) -> impl Future<Output = Result<RemoteStatus, Fault>> + Send;

    /// Asks for a job to be stopped.
    fn cancel(&self, run: Run<'_>) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Makes fresh links to the outputs of a finished job that are not in our storage, by output.
    fn links(
        &self,
        run: Run<'_>,
    ) -> impl Future<Output = Result<Vec<(String, BlobReference)>, Fault>> + Send;

    /// Whether a link to an output may be opened; a link that may not has a fault that no repetition mends.
    fn admit(&self, _output: &str, _link: &BlobReference) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether the service is to forget a job, by [`cancel`](Self::cancel), once its outputs are in place.
    fn deletes_jobs(&self) -> bool {
        false
    }

    /// Whether the service can be reached and knows us: the probe of a suspended endpoint. Starts nothing.
    fn probe(&self) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// How the runs of a service come to be, and so what can be promised of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A submit makes the service know the job, a start runs it: the id is committed between them, and a start may be
    /// repeated.
    TwoSteps,
    /// One call does both, and the service tells the id in its answer: the intent is committed before, and when the
    /// answer is lost the run is looked for.
    OneCall,
    /// The call is the run.
    AtOnce,
}

/// A remote run, as a service is asked about it.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Its name.
    pub id: &'a RemoteId,
    /// The address of the service that gave it, which may not be the one in the config any more.
    pub url: Option<&'a str>,
}

fn unfit(run: Run<'_>, what: &str) -> Fault {
    let text = format!("the endpoint that has run {} can't {what}: its kind was changed", run.id.0);
    Fault::permanent(Origin::Endpoint, "wrong_kind", text)
}

/// An answer to the one call that makes a run and starts it.
#[derive(Clone, Debug, PartialEq)]
pub enum Invoked {
    /// The run goes on, under this name.
    Started(RemoteId),
    /// Nothing was started: the service said so, or was never reached.
    NotStarted(Fault),
    /// It may have been heard.
    Unclear(Fault),
}

/// An input that is scored at once.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The service's name of the input; `None` for the service's only one.
    pub input: Option<String>,
    /// The file, whole.
    pub table: Bytes,
    /// Its name, whose extension tells the format.
    pub name: String,
    /// Parameters of the web service.
    pub parameters: Vec<(String, String)>,
    /// The outputs that must be there, by the service's names, each with the name of its file, whose extension tells the
    /// format.
    pub outputs: Vec<(String, String)>,
}

/// What came back to somebody who asked by hand.
#[derive(Clone, Debug)]
pub struct Reply {
    /// As the service wrote it: JSON, but for NaN and the infinities.
    pub answer: String,
    /// Its outputs, in its order.
    pub outputs: Vec<Executed>,
}

/// An output of what was scored at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The service's name of the output.
    pub output: String,
    /// The file.
    pub table: Bytes,
}

/// What a job asks of the service.
#[derive(Clone, Debug)]
pub struct Submission {
    /// What tells this run from all others, whoever asks for it and however often: the job and its generation.
    pub key: String,
    /// The service's name of the input; `None` for the single-input form.
    pub input: Option<String>,
    /// The input.
    pub blob: BlobReference,
    /// Where outputs go, by the service's names.
    pub outputs: Vec<(String, BlobReference)>,
    /// Parameters of the web service.
    pub parameters: Vec<(String, String)>,
}

/// An answer to a submit.
#[derive(Clone, Debug, PartialEq)]
pub enum SubmitAnswer {
    /// The service knows the job by this name.
    Known(RemoteId),
    /// The service doesn't find the input.
    InputMissing(Fault),
}

/// An answer to a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAnswer {
    /// The job is started, now or before: the service refuses a second start, and that refusal says as much.
    Started,
    /// The service doesn't know the job.
    Unknown,
}

/// An answer to a look.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoteStatus {
    /// It waits or runs.
    Pending,
    /// It has finished, with these outputs.
    Finished(Vec<RunResult>),
    /// It failed, with the service's words.
    Failed(String),
    /// It was cancelled.
    Cancelled,
    /// The service doesn't know the job.
    Unknown,
    /// What was asked about by a name of ours is there, and the service calls it this.
    Found(RemoteId),
    /// What was asked about by a name of ours is not in the service's list.
    NotListed,
}
