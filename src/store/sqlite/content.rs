//! What was scored once.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{query, query_as};

use super::Failure;
use super::write::Write;
use crate::job::{JobId, Phase};
use crate::ports::{Ask, Earlier, Node};
use crate::store::duplicates::{Holder, Recognised, recognise};

impl Write<'_> {
    /// Tells duplicates from the others.
    pub(super) async fn recognise(
        &mut self,
        node: &Node,
        asks: &[Ask],
        now: DateTime<Utc>,
    ) -> Result<(Vec<JobId>, Vec<(JobId, Earlier)>), Failure> {
        let mut holders = HashMap::new();
        for digest in asks.iter().filter_map(|ask| Some(ask.same?.digest)) {
            let sql = "SELECT c.job_id, c.at, coalesce(j.phase, h.phase) FROM content c \
                       LEFT JOIN job j ON j.id = c.job_id LEFT JOIN job_history h ON h.id = c.job_id \
                       WHERE c.site = ?1 AND c.digest = ?2";
            let row = query_as(sql).bind(&node.site).bind(digest.to_string());
            let row: Option<(String, i64, Option<String>)> = row.fetch_optional(self.on()).await?;
            let Some((job, at, phase)) = row else { continue };
            if let (Some(job), Some(at)) = (JobId::parse(&job), DateTime::from_timestamp_micros(at))
            {
                let phase = phase.as_deref().and_then(Phase::parse);
                holders.insert(digest, Holder { job, phase, at });
            }
        }
        let Recognised { first, taken, duplicates } = recognise(asks, holders, now);
        for (digest, job) in taken {
            let sql =
                "INSERT OR REPLACE INTO content (site, digest, job_id, at) VALUES (?1, ?2, ?3, ?4)";
            let take = query(sql).bind(&node.site).bind(digest.to_string());
            let take = take.bind(job.to_string()).bind(now.timestamp_micros());
            take.execute(self.on()).await?;
        }
        Ok((first, duplicates))
    }
}
