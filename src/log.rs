//! What the log says, and the names that it says it by.
//!
//! Lines go to stderr, as JSON unless that is a terminal (`[log]` in the config): an object a line, with `timestamp`
//! (RFC 3339 in UTC), `level`, `target` (the module that speaks) and `message`, and beside them what the line is about.
//! A name means the same on every line and is on every line that is about such a thing; names are added, and never
//! change. There are no others than these:
//!
//! | name | what it is |
//! |---|---|
//! | `job` | the job's id |
//! | `trace_id` | the same as 32 hex digits: the job's trace, see [`crate::ports::trace`] |
//! | `feed` | the feed |
//! | `name` | the input's name in the feed's folder or container |
//! | `generation`, `revision` | how often it was begun anew, and the number of the write |
//! | `from`, `to` | the phases before and after a transition |
//! | `phase` | the phase that it is in |
//! | `outcome` | what brought a transition about: the word of the job's history |
//! | `detail` | the history's words for people |
//! | `attempts` | tries of this step that failed for a reason of the job's own |
//! | `error` | what went wrong, in words |
//! | `error_class`, `error_code` | the class (`transient`, `permanent`, …) and the code of what went wrong |
//! | `want` | what an operator wants of a job |
//! | `node` | a node's id |
//! | `label`, `site` | what the config calls this node, and the nodes that see the same folders |
//! | `listen` | where the HTTP server listens |
//! | `address` | where a caller of it is |
//! | `endpoint`, `storage`, `budget`, `credential` | one of these, by its name in the config |
//! | `operation`, `status` | a call to an endpoint, and how it was answered |
//! | `audience` | whom a token is for |
//! | `host` | a server |
//! | `seconds` | how long it took or lasted |
//! | `fire`, `nominal`, `kind` | a fire of a schedule: its id, the time it is for, and what made it |
//! | `reason` | why a fire was skipped |
//! | `expected_by`, `place` | when an input should have come, and where |
//! | `why`, `until` | why a feed is paused, and until when |
//! | `now`, `ends_at` | a time that is the matter of the line |
//! | `blob`, `folder`, `path` | where something is |
//! | `feeds`, `fires`, `jobs`, `history`, `events`, `arrivals`, `contents`, `rows`, `deleted`, `orphans`, `dropped` | how many |
//! | `seen`, `new`, `settling`, `denied`, `known`, `ignored`, `backlog` | how many files a look at a folder found |
//!
//! What happens to a job is one line each, [`transition`]: at level `info` with the target `scoreline::job`, so that
//! `[log] level = "warn,scoreline::job=info"` is these and whatever is wrong.

use crate::job::{Event, Job};
use crate::ports::NodeId;

/// One line for a transition that is in the store, with the job as it stands after it: the job's history as lines.
///
/// A line has `job`, `trace_id`, `feed`, `name`, `generation`, `revision`, `from`, `to`, `outcome`, `attempts` and
/// `node`, and where there is one the `detail`, and `error_class` and `error_code` of what the job stands with. Each is
/// written once, by the node that wrote the transition; only one that dies in between leaves a line out.
pub fn transition(job: &Job, event: &Event, node: NodeId) {
    let (error, outcome) = (job.error(), event.outcome.as_str());
    tracing::info!(
        target: "scoreline::job",
        job = %job.id(),
        trace_id = %job.id().trace_id(),
        feed = %job.feed(),
        name = %job.path(),
        generation = event.generation,
        revision = event.revision,
        from = event.from.name(),
        to = event.to.name(),
        outcome,
        detail = event.detail.as_deref(),
        error_class = error.map(|error| error.class.as_str()),
        error_code = error.map(|error| error.code.as_str()),
        attempts = job.attempts(),
        node = node.0,
        "{outcome}"
    );
}
