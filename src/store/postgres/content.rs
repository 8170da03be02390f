//! What was scored once.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::Failure;
use super::session::Session;
use crate::job::{JobId, Phase, Sha256};
use crate::ports::{Ask, Earlier, Node};
use crate::store::duplicates::{Holder, Recognised, recognise};

impl Session {
    /// Tells duplicates from the others, in the transaction that is begun.
    pub(super) async fn recognise(
        &mut self,
        node: &Node,
        asks: &[Ask],
        now: DateTime<Utc>,
    ) -> Result<(Vec<JobId>, Vec<(JobId, Earlier)>), Failure> {
        let digests: Vec<_> =
            asks.iter().filter_map(|ask| Some(ask.same?.digest.0.to_vec())).collect();
        let mut holders = HashMap::new();
        if !digests.is_empty() {
            let rows = query(HOLDERS).bind(&node.site).bind(digests).fetch_all(self.on()).await?;
            for row in rows {
                let digest: Vec<u8> = row.try_get("digest")?;
                let Ok(digest) = digest.try_into() else { continue };
                let phase: Option<String> = row.try_get("phase")?;
                let job = JobId::new(row.try_get("job_id")?);
                let phase = phase.as_deref().and_then(Phase::parse);
                holders.insert(Sha256(digest), Holder { job, phase, at: row.try_get("at")? });
            }
        }
        let known = holders.clone();
        let Recognised { mut first, mut taken, duplicates } = recognise(asks, holders, now);
        if taken.is_empty() {
            return Ok((first, duplicates));
        }
        // In one order, whoever asks: none waits for another that waits for it.
        taken.sort_unstable_by_key(|(digest, _)| digest.0);
        let digests: Vec<_> = taken.iter().map(|(digest, _)| digest.0.to_vec()).collect();
        let jobs: Vec<_> = taken.iter().map(|(_, job)| job.uuid()).collect();
        let before: Vec<_> = taken
            .iter()
            .map(|(digest, _)| known.get(digest).map(|holder| holder.job.uuid()))
            .collect();
        let got =
            query_scalar(TAKE).bind(&node.site).bind(digests).bind(jobs).bind(before).bind(now);
        let got: HashSet<Uuid> = got.fetch_all(self.on()).await?.into_iter().collect();
        // Another node was quicker: who asks again is told of its job.
        let lost = |id: &JobId| taken.iter().any(|(_, job)| job == id) && !got.contains(&id.uuid());
        first.retain(|id| !lost(id));
        Ok((first, duplicates))
    }
}

/// Who has a digest. $1 is the site, $2 the digests.
const HOLDERS: &str = "SELECT c.digest, c.job_id, c.at, coalesce(j.phase, h.phase) AS phase FROM content c \
     LEFT JOIN job j ON j.id = c.job_id LEFT JOIN job_history h ON h.id = c.job_id \
     WHERE c.site = $1 AND c.digest = ANY($2)";

/// Gives digests to jobs, unless somebody else's job has got one meanwhile, and answers the jobs. $1 is the site, $2 the
/// digests, $3 the jobs, $4 who had them, $5 the time.
const TAKE: &str = "WITH wanted AS ( \
       SELECT * FROM unnest($2::bytea[], $3::uuid[], $4::uuid[]) AS w (digest, job_id, before) ORDER BY digest \
     ), new AS ( \
       INSERT INTO content (site, digest, job_id, at) SELECT $1, digest, job_id, $5 FROM wanted WHERE before IS NULL \
       ON CONFLICT DO NOTHING RETURNING job_id \
     ), over AS ( \
       UPDATE content c SET job_id = w.job_id, at = $5 FROM wanted w \
       WHERE c.site = $1 AND c.digest = w.digest AND c.job_id = w.before RETURNING c.job_id \
     ) SELECT job_id FROM new UNION ALL SELECT job_id FROM over";
