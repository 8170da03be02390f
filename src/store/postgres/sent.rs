//! What was sent.

use chrono::{DateTime, Utc};
use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::rows::{owned, text};
use super::{Failure, PostgresStore};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Accepted, Clock, Node, Sending, Sendings, StoreError};
use crate::store::row::json;

impl<C: Clock> Sendings for PostgresStore<C> {
    fn draw_id(&self, now: DateTime<Utc>) -> JobId {
        self.ids.next(now)
    }

    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        self.bounded("look for what was sent", 1, async {
            let mut session = self.session().await?;
            let id = query_scalar(SENT).bind(text(site)).bind(feed.as_str()).bind(text(key));
            let id: Option<Uuid> = id.fetch_optional(session.on()).await?;
            session.done();
            Ok(id.map(JobId::new))
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
        let job = sending.job(now);
        let (record, event) = (job.record(), job.accepted_event());
        self.bounded(ATTEMPTED, 1, async {
            let mut session = self.session().await?;
            let row = query(ACCEPT)
                .bind(node.id.0)
                .bind(owned(&node.site))
                .bind(record.feed.as_str())
                .bind(owned(&sending.key))
                .bind(record.id.uuid())
                .bind(record.path.as_bytes())
                .bind(record.file.inode.cast_signed())
                .bind(record.file.size_bytes.cast_signed())
                .bind(record.file.mtime_ns)
                .bind(owned(&record.path.file_name().to_string_lossy()))
                .bind(record.phase.name())
                .bind(i64::from(record.generation))
                .bind(record.revision.cast_signed())
                .bind(i64::from(record.attempts))
                .bind(record.created_at)
                .bind(record.deadline_at)
                .bind(record.sent.as_ref().map(json))
                .bind(owned(&event.outcome))
                .bind(event.detail.as_deref().map(owned));
            let row = row.fetch_one(session.on()).await?;
            if !row.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            if row.try_get("made")? {
                session.done();
                return Ok(Accepted::New(Box::new(job)));
            }
            // A look of its own: whoever was quicker the statement above waited for and doesn't see.
            let known = query_scalar(SENT).bind(text(&node.site)).bind(record.feed.as_str());
            let known = known.bind(text(&sending.key)).fetch_optional(session.on()).await?;
            session.done();
            known.map(|id| Accepted::Known(JobId::new(id))).ok_or_else(|| {
                let cause = "the job that has the key was forgotten just now".to_owned();
                Failure::Refused(StoreError::Unavailable { attempted: ATTEMPTED, cause })
            })
        })
        .await
    }
}

/// $1 is the site, $2 the feed, $3 the key.
const SENT: &str = "SELECT job_id FROM sent_key WHERE site = $1 AND feed = $2 AND key = $3";

/// Makes a job of the node $1, which must not be fenced off meanwhile, of what was sent under the key $4, if it is the
/// first; answers whether the node is known, and whether it did.
const ACCEPT: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), new AS ( \
       INSERT INTO sent_key (site, feed, key, job_id) SELECT $2, $3, $4, $5 WHERE EXISTS (SELECT FROM me) \
       ON CONFLICT DO NOTHING RETURNING job_id \
     ), made AS ( \
       INSERT INTO job (site, feed, id, path, inode, size_bytes, mtime_ns, name, phase, generation, revision, attempts, \
         created_at, updated_at, deadline_at, sent, node) \
       SELECT $2, $3, job_id, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, $17::json, $1 FROM new \
       RETURNING id \
     ), noted AS ( \
       INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome, detail) \
       SELECT job_id, $13, $15, $1, $12, $11, $11, $18, $19 FROM new \
     ) SELECT EXISTS (SELECT FROM me) AS known, EXISTS (SELECT FROM made) AS made";
