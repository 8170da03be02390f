//! What operators want of many jobs at once.

use super::Filters;
use super::client::{Client, ClientError};
use crate::http::{JobsBody, WishesBody};
use crate::job::{JobId, Want};

/// A job that something is wanted of.
#[derive(Clone, Debug)]
pub struct Found {
    /// The job.
    pub id: JobId,
    /// Its generation, as it was seen: of a later one nothing is wanted.
    pub generation: u32,
    /// Its input's name.
    pub name: String,
}

/// The jobs that the filters find and the wish is possible for.
pub async fn matching(
    client: &Client,
    filters: &Filters,
    want: &Want,
) -> Result<Vec<Found>, ClientError> {
    let mut found = Vec::new();
    let mut params = filters.params(PAGE);
    loop {
        let page: JobsBody = client.get("/api/v1/jobs", &params).await?;
        let possible = page
            .jobs
            .into_iter()
            .filter(|job| want.refusal(job.phase, job.held.is_some()).is_none());
        found.extend(possible.map(|job| Found {
            id: job.id,
            generation: job.generation,
            name: job.name,
        }));
        let Some(next) = page.next_cursor else { return Ok(found) };
        params.retain(|(key, _)| *key != "cursor");
        params.push(("cursor", next));
    }
}

/// Wants something of jobs, as many in a call as are told of one by one; answers why it was refused of each, if it was.
pub async fn wish(
    client: &Client,
    jobs: &[Found],
    want: &Want,
) -> Result<Vec<Option<String>>, ClientError> {
    let path = format!("/api/v1/jobs/{}", want.verb());
    let ids = |found: &Found| serde_json::json!({ "id": found.id, "generation": found.generation });
    let body = serde_json::json!({ "ids": jobs.iter().map(ids).collect::<Vec<_>>() });
    let mut answer: WishesBody = client.post(&path, &body, None).await?;
    let mut reason = |found: &Found| {
        let at = answer.refused.iter().position(|refused| refused.id == found.id)?;
        Some(answer.refused.swap_remove(at).reason)
    };
    Ok(jobs.iter().map(&mut reason).collect())
}

/// Jobs in one call to [`wish`].
pub const AT_ONCE: usize = 100;
/// Jobs in one page: as many as the API gives at once.
const PAGE: u32 = 1000;
