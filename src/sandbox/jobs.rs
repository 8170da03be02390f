//! The remote jobs: registered, queued, run once, and counted.
//!
//! A job that was submitted is only on the books. Starting it puts it in a queue, first in, first out, and it stays
//! `NotStarted` there until one of the slots is free, as the real service has it: so that state alone does not tell
//! whether a job was started, and a second start is refused all the same. Whoever takes a job from the queue under the
//! lock owns its run, the one place that reads the input and writes the outputs; hence one run per started job, however
//! many polls there are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::batch_endpoint::BatchRunRecord;
use super::blob_client::{Place, Unreachable};
use super::fault::{Kind, Operation};
use super::model::{ModuleError, Table};
use crate::wire::StatusCode;

/// What was asked of the sandbox and what it did, for tests to count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// In the order of their submits.
    pub jobs: Vec<JobRecord>,
    /// By input blob, over all jobs that name it.
    pub inputs: BTreeMap<String, InputRecord>,
    /// Over everything.
    pub totals: Totals,
    /// Runs of the batch endpoint, in the order in which they began; none of them is in the other numbers.
    #[serde(default)]
    pub batch_runs: Vec<BatchRunRecord>,
}

/// One remote job. Calls are counted when they are acted on, whether or not their answer was lost; a call that met a
/// fault before it acted is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The id that its submit answered.
    pub id: String,
    /// Address of the input blob, without credentials.
    pub input: String,
    /// Addresses of the output blobs by output name.
    pub outputs: BTreeMap<String, String>,
    /// As the status call tells it.
    pub state: StatusCode,
    /// Submits, over all jobs, that named the same input blob.
    pub submits: u64,
    /// Start calls, refused ones included.
    pub start_calls: u64,
    /// Start calls that were accepted: 0 or 1, if the sandbox keeps its promise.
    pub starts: u64,
    /// Runs that began: 0 or 1.
    pub runs: u64,
}

/// What was done with one input blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Jobs registered for it.
    pub submits: u64,
    /// Starts accepted.
    pub starts: u64,
    /// Runs that began.
    pub runs: u64,
}

/// Sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Jobs registered.
    pub submits: u64,
    /// Start calls, refused ones included.
    pub start_calls: u64,
    /// Starts accepted.
    pub starts: u64,
    /// Runs that began.
    pub runs: u64,
    /// Runs that ended `Finished`.
    pub finished: u64,
    /// Runs that ended `Failed`.
    pub failed: u64,
    /// Jobs that a DELETE cancelled before their end.
    pub cancelled: u64,
    /// Status calls.
    pub status_calls: u64,
    /// DELETE calls.
    pub delete_calls: u64,
    /// Calls of request/response scoring.
    pub executes: u64,
    /// Those of them that were scored.
    pub executed: u64,
    /// The most runs there ever were at once.
    pub max_in_flight: u64,
    /// Calls that the gateway refused: key, rate limit, quota.
    pub refused_by_gateway: u64,
    /// Blocks that were staged in blob storage, one that was there already too.
    pub blocks_staged: u64,
    /// Blobs that were written: put, or made of blocks.
    pub blobs_written: u64,
}

/// What a job reads and writes.
pub(super) struct Work {
    pub(super) input: Place,
    /// In the order of the service's outputs.
    pub(super) outputs: Vec<(String, Place)>,
}

/// A job as a status call sees it.
pub(super) struct View {
    pub(super) state: StatusCode,
    pub(super) details: Option<String>,
    pub(super) work: Arc<Work>,
    pub(super) created: DateTime<Utc>,
    pub(super) started: Option<DateTime<Utc>>,
    pub(super) ended: Option<DateTime<Utc>>,
}

/// Why a start is refused.
pub(super) enum StartRefused {
    Unknown,
    InState(StatusCode),
}

/// All jobs.
#[derive(Default)]
pub(super) struct Jobs {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    jobs: HashMap<String, Job>,
    order: Vec<String>,
    /// Started and waiting; a cancelled one stays until its turn and is passed over then.
    queue: VecDeque<String>,
    running: usize,
    inputs: BTreeMap<String, InputRecord>,
    totals: Totals,
}

struct Job {
    work: Arc<Work>,
    state: StatusCode,
    details: Option<String>,
    start_calls: u64,
    starts: u64,
    runs: u64,
    created: DateTime<Utc>,
    started: Option<DateTime<Utc>>,
    ended: Option<DateTime<Utc>>,
    /// Deleted, and the service was told to know deleted jobs no more.
    forgotten: bool,
    cancel: CancellationToken,
}

impl Jobs {
    pub(super) fn register(&self, id: String, work: Work, now: DateTime<Utc>) {
        let mut book = self.lock();
        book.totals.submits += 1;
        book.inputs.entry(work.input.location()).or_default().submits += 1;
        book.order.push(id.clone());
        let job = Job {
            work: Arc::new(work),
            state: StatusCode::NotStarted,
            details: None,
            start_calls: 0,
            starts: 0,
            runs: 0,
            created: now,
            started: None,
            ended: None,
            forgotten: false,
            cancel: CancellationToken::new(),
        };
        book.jobs.insert(id, job);
    }

    /// Queues a job that was never started.
    pub(super) fn start(&self, id: &str) -> Result<(), StartRefused> {
        let book = &mut *self.lock();
        let job =
            book.jobs.get_mut(id).filter(|job| !job.forgotten).ok_or(StartRefused::Unknown)?;
        book.totals.start_calls += 1;
        job.start_calls += 1;
        if job.starts > 0 || job.state != StatusCode::NotStarted {
            return Err(StartRefused::InState(job.state));
        }
        job.starts += 1;
        book.totals.starts += 1;
        book.inputs.entry(job.work.input.location()).or_default().starts += 1;
        book.queue.push_back(id.into());
        Ok(())
    }

    pub(super) fn view(&self, id: &str) -> Option<View> {
        let book = &mut *self.lock();
        let job = book.jobs.get(id).filter(|job| !job.forgotten)?;
        book.totals.status_calls += 1;
        Some(View {
            state: job.state,
            details: job.details.clone(),
            work: job.work.clone(),
            created: job.created,
            started: job.started,
            ended: job.ended,
        })
    }

    /// Cancels a job that has not ended; one that has keeps its end. `None`: no such job.
    pub(super) fn delete(&self, id: &str, forget: bool, now: DateTime<Utc>) -> Option<()> {
        let book = &mut *self.lock();
        let job = book.jobs.get_mut(id).filter(|job| !job.forgotten)?;
        book.totals.delete_calls += 1;
        job.forgotten = forget;
        if matches!(job.state, StatusCode::NotStarted | StatusCode::Running) {
            job.state = StatusCode::Cancelled;
            job.ended = Some(now);
            job.cancel.cancel();
            book.totals.cancelled += 1;
        }
        Some(())
    }

    pub(super) fn count_execute(&self) {
        self.lock().totals.executes += 1;
    }

    pub(super) fn count_executed(&self) {
        self.lock().totals.executed += 1;
    }

    pub(super) fn ledger(&self) -> Ledger {
        let book = self.lock();
        let record = |id: &String| {
            let job = book.jobs.get(id)?;
            let input = job.work.input.location();
            Some(JobRecord {
                id: id.clone(),
                submits: book.inputs.get(&input).map_or(0, |record| record.submits),
                input,
                outputs: job
                    .work
                    .outputs
                    .iter()
                    .map(|(name, place)| (name.clone(), place.location()))
                    .collect(),
                state: job.state,
                start_calls: job.start_calls,
                starts: job.starts,
                runs: job.runs,
            })
        };
        Ledger {
            jobs: book.order.iter().filter_map(record).collect(),
            inputs: book.inputs.clone(),
            totals: book.totals,
            batch_runs: Vec::new(),
        }
    }

    /// Takes the next job from the queue if a slot is free; its run now belongs to the caller.
    fn next(
        &self,
        slots: usize,
        now: DateTime<Utc>,
    ) -> Option<(String, Arc<Work>, CancellationToken)> {
        let book = &mut *self.lock();
        if book.running >= slots {
            return None;
        }
        loop {
            let id = book.queue.pop_front()?;
            let Some(job) = book.jobs.get_mut(&id) else { continue };
            if job.state != StatusCode::NotStarted {
                continue;
            }
            job.state = StatusCode::Running;
            job.started = Some(now);
            job.runs += 1;
            book.running += 1;
            book.totals.runs += 1;
            book.totals.max_in_flight = book.totals.max_in_flight.max(book.running as u64);
            book.inputs.entry(job.work.input.location()).or_default().runs += 1;
            return Some((id, job.work.clone(), job.cancel.clone()));
        }
    }

    /// Ends a run and frees its slot. A job that was cancelled meanwhile stays cancelled.
    fn end(&self, id: &str, end: Result<(), String>, now: DateTime<Utc>) {
        let book = &mut *self.lock();
        book.running -= 1;
        let Some(job) = book.jobs.get_mut(id) else { return };
        if job.state != StatusCode::Running {
            return;
        }
        job.ended = Some(now);
        match end {
            Ok(()) => {
                job.state = StatusCode::Finished;
                book.totals.finished += 1;
            }
            Err(details) => {
                job.state = StatusCode::Failed;
                job.details = Some(details);
                book.totals.failed += 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the free slots from the queue. To be called after anything that may have freed one or filled the queue.
pub(super) fn pump(shared: &Arc<Shared>) {
    let slots = shared.settings().slots;
    while let Some((id, work, cancel)) = shared.jobs.next(slots, shared.clock.now()) {
        let shared = shared.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                () = cancel.cancelled() => Err("cancelled".into()),
                end = run(&shared, &id, &work) => end,
            };
            shared.jobs.end(&id, end, shared.clock.now());
            pump(&shared);
        });
    }
}

/// One run, to its end or to the `Details` of its failure.
async fn run(shared: &Arc<Shared>, id: &str, work: &Arc<Work>) -> Result<(), String> {
    let settings = shared.settings();
    let fault = shared.strike(Operation::Run);
    let time = settings.run_time
        + if fault == Some(Kind::Slow) { settings.slow_by } else { std::time::Duration::ZERO };
    shared.clock.sleep_for(time).await;
    if fault == Some(Kind::Fail) {
        return Err(details(id, &ModuleError {
            id: "LibraryException",
            number: "1000",
            message: "the library of module \"Feature Hashing\" threw an exception: a fault was ordered".into(),
        }));
    }
    let blob = work
        .input
        .read(shared)
        .await
        .map_err(|error| lost_blob(id, "read", &work.input, &error))?;
    let (model, job, names) = (settings.model(), work.clone(), id.to_owned());
    // Large inputs take seconds, in which the other connections want to be served.
    let scored = tokio::task::spawn_blocking(move || {
        let failed = |error: ModuleError| details(&names, &error);
        let input = Table::read(&blob, job.input.name()).map_err(failed)?;
        let scored = model.score(&input).map_err(failed)?;
        let count = scored.count_of_rows();
        let table = |index: usize| if index == 0 { &scored } else { &count };
        let write =
            |(index, (_, place)): (usize, &(String, Place))| table(index).write(place.name());
        Ok::<Vec<String>, String>(job.outputs.iter().enumerate().map(write).collect())
    });
    let contents = scored.await.map_err(|error| format!("the model broke off: {error}"))??;
    for ((_, place), content) in work.outputs.iter().zip(contents) {
        place
            .write(shared, content)
            .await
            .map_err(|error| lost_blob(id, "written", place, &error))?;
    }
    Ok(())
}

/// `Details` as modules of the real service wrote it: a line of text with JSON in it.
fn details(id: &str, error: &ModuleError) -> String {
    let exception = json!({"Exception": {
        "ErrorId": error.id,
        "ErrorCode": error.number,
        "ExceptionType": "ModuleException",
        "Message": format!("Error {}: {}.", error.number, error.message),
    }});
    format!("requestId = {id} errorComponent=Module. taskStatusCode=400. {exception}")
}

fn lost_blob(id: &str, verb: &str, place: &Place, error: &Unreachable) -> String {
    format!(
        "requestId = {id} errorComponent=Storage. taskStatusCode=400. The blob {} could not be {verb}: {} {}",
        place.location(),
        error.code,
        error.detail
    )
}
