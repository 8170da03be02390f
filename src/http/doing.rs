//! What jobs are doing at the moment, as the node that was asked knows it: of another node's jobs nothing is told.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, JobBody, rfc3339};
use crate::engine::{Doing, Side, Standing};
use crate::job::JobId;
use crate::ports::{Clock, World};

/// What a job is doing at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoingBody {
    /// What is done for it, or is to be done next: `upload`, `submit`, `start`, `poll`, `cancel`, `deliver` or `settle`.
    pub action: String,
    /// `acting`; `writing` down what came of it; or what it waits for: its `time`, a `run` (as many as may be at its
    /// endpoint are), its `turn` (as much as may be done at once is), its `side` (the endpoint or the storage is in
    /// trouble).
    pub state: String,
    /// The endpoint that the action needs.
    pub endpoint: Option<String>,
    /// The storage that the action needs.
    pub storage: Option<String>,
}

impl From<&Standing> for DoingBody {
    fn from(standing: &Standing) -> Self {
        let state = match standing.doing {
            Doing::Waits(_) => "time",
            Doing::AwaitsRun => "run",
            Doing::AwaitsTurn => "turn",
            Doing::AwaitsSide => "side",
            Doing::Acts => "acting",
            Doing::Commits => "writing",
        };
        let side = standing.side.as_ref();
        Self {
            action: standing.action.name().to_owned(),
            state: state.to_owned(),
            endpoint: side.and_then(Side::endpoint).map(str::to_owned),
            storage: side.and_then(Side::storage).map(str::to_owned),
        }
    }
}

/// Adds to jobs what their engine knows of them.
pub(super) async fn tell_doing<W: World>(api: &Api<W>, jobs: &mut [JobBody]) {
    let clock = api.world.clock();
    let live: Vec<JobId> =
        jobs.iter().filter(|job| job.finished_at.is_none()).map(|job| job.id).collect();
    if live.is_empty() {
        return;
    }
    let standings: HashMap<_, _> = api.pulse.standings(clock, &live).await.into_iter().collect();
    let (now, boot) = (clock.now(), clock.boot());
    for job in jobs {
        let Some(standing) = standings.get(&job.id) else { continue };
        job.doing = Some(DoingBody::from(standing));
        if let Doing::Waits(until) = standing.doing {
            let left: Duration = until.saturating_sub(boot);
            job.next_action_at = Some(rfc3339(now + left));
        }
    }
}
