//! What was sent.

use chrono::{DateTime, Utc};
use sqlx::{query, query_scalar};

use super::write::Write;
use super::{Failure, SqliteStore};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Accepted, Clock, Node, Sending, Sendings, StoreError};
use crate::store::row::json;

impl<C: Clock> Sendings for SqliteStore<C> {
    fn draw_id(&self, now: DateTime<Utc>) -> JobId {
        self.ids.next(now)
    }

    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        self.bounded("look for what was sent", 1, async {
            let id = query_scalar(SENT).bind(site).bind(feed.as_str()).bind(key);
            let id: Option<String> = id.fetch_optional(&self.readers).await?;
            Ok(id.and_then(|id| JobId::parse(&id)))
        })
        .await
    }

    async fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, StoreError> {
        const ATTEMPTED: &str = "accept what was sent";
        self.bounded(ATTEMPTED, 1, async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let accepted = write.accept_sent(node, sending, now).await?;
            write.commit().await?;
            Ok(accepted)
        })
        .await
    }
}

impl Write<'_> {
    async fn accept_sent(
        &mut self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, Failure> {
        let (site, feed) = (&node.site, sending.feed.as_str());
        let sql = "INSERT INTO sent_key (site, feed, key, job_id) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let new = query(sql).bind(site).bind(feed).bind(&sending.key).bind(sending.id.to_string());
        if new.execute(self.on()).await?.rows_affected() == 0 {
            let known = query_scalar(SENT).bind(site).bind(feed).bind(&sending.key);
            let known: String = known.fetch_one(self.on()).await?;
            let known = JobId::parse(&known).ok_or_else(|| {
                let text = format!("what was sent names the job {known:?}, which is no id");
                Failure::Refused(StoreError::Unusable(text))
            })?;
            return Ok(Accepted::Known(known));
        }
        let job = sending.job(now);
        let record = job.record();
        let sql = "INSERT INTO job (site, feed, path, inode, size_bytes, mtime_ns, id, name, node, phase, generation, \
                   revision, attempts, created_at, updated_at, deadline_at, sent) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
        query(sql)
            .bind(site)
            .bind(feed)
            .bind(record.path.as_bytes())
            .bind(record.file.inode.cast_signed())
            .bind(record.file.size_bytes.cast_signed())
            .bind(record.file.mtime_ns)
            .bind(record.id.to_string())
            .bind(record.path.file_name().to_string_lossy().into_owned())
            .bind(node.id.0)
            .bind(record.phase.name())
            .bind(record.generation)
            .bind(record.revision.cast_signed())
            .bind(record.attempts)
            .bind(record.created_at.timestamp_micros())
            .bind(record.updated_at.timestamp_micros())
            .bind(record.deadline_at.timestamp_micros())
            .bind(record.sent.as_ref().map(json))
            .execute(self.on())
            .await?;
        self.note(node, &[(&job, &job.accepted_event())]).await?;
        Ok(Accepted::New(Box::new(job)))
    }
}

/// ?1 is the site, ?2 the feed, ?3 the key.
const SENT: &str = "SELECT job_id FROM sent_key WHERE site = ?1 AND feed = ?2 AND key = ?3";
