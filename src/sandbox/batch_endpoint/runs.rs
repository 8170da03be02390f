//! The runs of the batch endpoint: begun by the call that makes them, run once, and counted by the intent that came with
//! the call.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::blob_client::Place;
use super::super::fault::{Kind, Operation};
use super::super::model::Table;

/// One run of the batch endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRunRecord {
    /// The service's name of it.
    pub name: String,
    /// The `repeatability_request-id` of the call that made it.
    pub intent: Option<String>,
    /// The URI of the input.
    pub input: String,
    /// The URIs of the outputs, by name.
    pub outputs: BTreeMap<String, String>,
    /// Its status, in the service's words.
    pub status: String,
}

/// What a run is to read and write.
pub(super) struct Plan {
    pub(super) input: Input,
    /// Name, URI and place.
    pub(super) outputs: Vec<(String, String, Place)>,
}

/// The one data input.
pub(super) struct Input {
    pub(super) uri: String,
    pub(super) place: Place,
    pub(super) is_folder: bool,
}

/// A run as it is shown.
#[derive(Clone)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) status: &'static str,
    pub(super) outputs: Vec<(String, String)>,
    pub(super) failure: Option<String>,
    pub(super) created: DateTime<Utc>,
}

impl View {
    pub(super) fn is_over(&self) -> bool {
        ENDS.contains(&self.status)
    }
}

/// All runs.
#[derive(Default)]
pub(in crate::sandbox) struct BatchRuns {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    runs: HashMap<String, Run>,
    order: Vec<String>,
}

struct Run {
    view: View,
    intent: Option<String>,
    input: String,
    began: Duration,
    cancel: CancellationToken,
}

impl BatchRuns {
    pub(super) fn view(&self, name: &str) -> Option<View> {
        self.lock().runs.get(name).map(|run| run.view.clone())
    }

    /// The run that a call with this id made.
    pub(super) fn of_intent(&self, intent: &str) -> Option<View> {
        let book = self.lock();
        let run = book.runs.values().find(|run| run.intent.as_deref() == Some(intent))?;
        Some(run.view.clone())
    }

    /// Newest first, those that are old enough.
    pub(super) fn listed(&self, now: Duration, lag: Duration) -> Vec<View> {
        let book = self.lock();
        let runs = book.order.iter().rev().filter_map(|name| book.runs.get(name));
        let old = runs.filter(|run| now.saturating_sub(run.began) >= lag);
        old.map(|run| run.view.clone()).collect()
    }

    /// Whether it is stopped by this; it isn't if it has ended. `None`: no such run.
    pub(super) fn cancel(&self, name: &str) -> Option<bool> {
        let book = &mut *self.lock();
        let run = book.runs.get_mut(name)?;
        if run.view.is_over() {
            return Some(false);
        }
        run.view.status = "Canceled";
        run.cancel.cancel();
        Some(true)
    }

    /// In the order in which they began.
    pub(in crate::sandbox) fn records(&self) -> Vec<BatchRunRecord> {
        let book = self.lock();
        let runs = book.order.iter().filter_map(|name| book.runs.get(name));
        let record = |run: &Run| BatchRunRecord {
            name: run.view.name.clone(),
            intent: run.intent.clone(),
            input: run.input.clone(),
            outputs: run.view.outputs.iter().cloned().collect(),
            status: run.view.status.into(),
        };
        runs.map(record).collect()
    }

    /// Goes on to a status, unless the run has ended meanwhile.
    fn becomes(&self, name: &str, status: &'static str, failure: Option<String>) {
        if let Some(run) = self.lock().runs.get_mut(name)
            && !run.view.is_over()
        {
            run.view.status = status;
            run.view.failure = failure;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a run and lets it go.
pub(super) fn begin(shared: &Arc<Shared>, plan: Plan, intent: Option<String>) -> View {
    let id = shared.fresh_id();
    let name = format!("batchjob-{id}");
    let cancel = CancellationToken::new();
    let view = View {
        name: name.clone(),
        status: "Preparing",
        outputs: plan.outputs.iter().map(|(name, uri, _)| (name.clone(), uri.clone())).collect(),
        failure: None,
        created: shared.clock.now(),
    };
    let run = Run {
        view: view.clone(),
        intent,
        input: plan.input.uri.clone(),
        began: shared.clock.boot(),
        cancel: cancel.clone(),
    };
    {
        let book = &mut *shared.batch_runs.lock();
        book.order.push(name.clone());
        book.runs.insert(name.clone(), run);
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        let ended = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = cancel.cancelled() => return,
            ended = run_to_its_end(&shared, &name, &plan) => ended,
        };
        match ended {
            Ok(()) => shared.batch_runs.becomes(&name, "Completed", None),
            Err(failure) => shared.batch_runs.becomes(&name, "Failed", Some(failure)),
        }
    });
    view
}

/// The end is an error with the service's words.
async fn run_to_its_end(shared: &Arc<Shared>, name: &str, plan: &Plan) -> Result<(), String> {
    let settings = shared.settings();
    let fault = shared.strike(Operation::Run);
    let slow = if fault == Some(Kind::Slow) { settings.slow_by } else { Duration::ZERO };
    let step = (settings.run_time + slow) / 4;
    for status in ["Queued", "Running"] {
        shared.clock.sleep_for(step).await;
        shared.batch_runs.becomes(name, status, None);
    }
    if fault == Some(Kind::Fail) {
        return Err("The scoring script failed: a fault was ordered.".into());
    }
    let (blob, file) = read(shared, &plan.input).await?;
    let model = settings.model();
    // Large inputs take seconds, in which the other connections want to be served.
    let scored = tokio::task::spawn_blocking(move || {
        let table = Table::read(&blob, &file).map_err(|error| error.message)?;
        model.score(&table).map_err(|error| error.message)
    });
    let scored = scored.await.map_err(|error| format!("the model broke off: {error}"))??;
    shared.clock.sleep_for(step).await;
    shared.batch_runs.becomes(name, "Finalizing", None);
    shared.clock.sleep_for(step).await;
    for (index, (_, uri, place)) in plan.outputs.iter().enumerate() {
        if place.exists(shared).await.is_ok() {
            return Err(format!("The path already exists: {uri}"));
        }
        let count = scored.count_of_rows();
        let table = if index == 0 { &scored } else { &count };
        let written = place.write(shared, table.write(place.name())).await;
        written.map_err(|error| format!("Writing {uri}: {} {}", error.code, error.detail))?;
    }
    Ok(())
}

/// The content and the name of the input: of a folder, the one file in it. Folders inside are not explored.
async fn read(shared: &Shared, input: &Input) -> Result<(bytes::Bytes, String), String> {
    let lost = |code: &str| format!("Reading {}: {code}", input.uri);
    if !input.is_folder {
        let blob = input.place.read(shared).await.map_err(|error| lost(&error.code))?;
        return Ok((blob, input.place.name().to_owned()));
    }
    let (container, folder) = input.place.name().split_once('/').unwrap_or_default();
    let prefix = format!("{}/", folder.trim_end_matches('/'));
    let listed = shared.blobs.list(container, &prefix, "", usize::MAX);
    let page = listed.map_err(|error| lost(&format!("{error:?}")))?;
    let mut files = page.blobs.iter().filter(|(name, _)| !name[prefix.len()..].contains('/'));
    match (files.next(), files.next()) {
        (Some((name, blob)), None) => Ok((blob.content(), name.clone())),
        (None, _) => Err(lost("there is no file in the folder")),
        (Some(_), Some(_)) => Err(lost("there is more than one file in the folder")),
    }
}

const ENDS: [&str; 3] = ["Completed", "Failed", "Canceled"];
