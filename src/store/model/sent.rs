//! What was sent.

use chrono::{DateTime, Utc};

use super::{ModelStore, Row, counted_id};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Accepted, Node, Sending, Sendings, StoreError};
use crate::store::overview::as_told;

impl Sendings for ModelStore {
    fn draw_id(&self, _now: DateTime<Utc>) -> JobId {
        let mut tables = self.tables();
        tables.last_job += 1;
        counted_id(tables.last_job)
    }

    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        let key = (site.to_owned(), feed.clone(), key.to_owned());
        Ok(self.tables().sent_keys.get(&key).copied())
    }

    async fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "accept what was sent")?;
        tables.told = tables.told.max(now);
        let key = (node.site.clone(), sending.feed.clone(), sending.key.clone());
        if let Some(known) = tables.sent_keys.get(&key) {
            return Ok(Accepted::Known(*known));
        }
        tables.sent_keys.insert(key, sending.id);
        let job = sending.job(now);
        tables.events.insert(job.id(), vec![(node.id, job.accepted_event())]);
        tables.recent.add([(node.site.clone(), as_told(&job, &job.accepted_event()))]);
        let (site, node) = (node.site.clone(), Some(node.id));
        let row = Row { job: job.clone(), site, node, want: None, history: false };
        tables.jobs.insert(job.id(), row);
        Ok(Accepted::New(Box::new(job)))
    }
}
