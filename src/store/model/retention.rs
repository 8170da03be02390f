//! Rows that have outlived their time.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{ModelStore, Row, Tables};
use crate::feed::{Name, SourcePath};
use crate::fire::FireKind;
use crate::job::{FileIdentity, JobId, Phase};
use crate::ports::{Forgotten, OldArrival, Retention, StoreError, StoreSize, Walk, Walked};
use crate::store::retention::next;

impl Retention for ModelStore {
    async fn forget_jobs(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let mut tables = self.tables();
        let history = tables.jobs.values().filter(|row| row.history);
        let rows = history.filter(|row| row.job.created_at() < before);
        let old =
            |row: &Row| row.site == site && row.job.finished_at().is_some_and(|done| done < before);
        let rows = rows.map(|row| (row.job.id(), old(row)));
        let (old, next) = walked(walk, rows.map(|(id, old)| (id.uuid(), old)));
        let mut gone = Forgotten::default();
        for id in old.into_iter().map(JobId::new) {
            let row = tables.jobs.remove(&id);
            gone.history += 1;
            gone.events += tables.events.remove(&id).map_or(0, |events| events.len() as u64);
            tables.sent_keys.retain(|_, job| *job != id);
            if row.is_some_and(|row| row.job.phase() != Phase::Succeeded) {
                let there = tables.contents.len();
                tables.contents.retain(|_, (job, _)| *job != id);
                gone.contents += (there - tables.contents.len()) as u64;
            }
            let begins = tables.history_begins.entry(site.to_owned()).or_insert(before);
            *begins = before.max(*begins);
        }
        Ok(Walked { gone, next })
    }

    async fn forget_contents(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let mut tables = self.tables();
        let rows = tables.contents.iter();
        let mut rows: Vec<_> =
            rows.map(|((of, _), (job, at))| (job.uuid(), of == site && *at < before)).collect();
        rows.sort_unstable();
        let (old, next) = walked(walk, rows.into_iter());
        let there = tables.contents.len();
        tables.contents.retain(|(of, _), (job, at)| {
            !(old.contains(&job.uuid()) && of == site && *at < before)
        });
        let contents = (there - tables.contents.len()) as u64;
        Ok(Walked { gone: Forgotten { contents, ..Forgotten::default() }, next })
    }

    async fn forget_fires(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let mut tables = self.tables();
        let rows = tables.fires.iter().filter(|(_, fire)| fire.row.nominal < before);
        let old = |fire: &super::Entry| {
            let row = &fire.row;
            let of_feed = tables.of_feed(&fire.site, &fire.feed);
            let mut of_schedule = of_feed.iter().filter(|row| row.kind != FireKind::Manual);
            let has_later = of_schedule.any(|later| later.nominal > row.nominal);
            let pause = tables.feed_pauses.get(&(fire.site.clone(), fire.feed.clone()));
            fire.site == site
                && row.ended_at.is_some_and(|ended| ended < before)
                && (row.kind == FireKind::Manual || has_later)
                && pause.is_none_or(|pause| row.nominal < pause.since)
        };
        let (old, next) = walked(walk, rows.map(|(id, fire)| (id.uuid(), old(fire))));
        let fires = old.len() as u64;
        tables.fires.retain(|id, _| !old.contains(&id.uuid()));
        Ok(Walked { gone: Forgotten { fires, ..Forgotten::default() }, next })
    }

    async fn old_arrivals(
        &self,
        site: &str,
        feed: &Name,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<(Vec<OldArrival>, Option<Uuid>), StoreError> {
        let tables = self.tables();
        let mut rows: Vec<OldArrival> = Vec::new();
        for ((of, its_feed, path, inode, size_bytes, mtime_ns), (job, at)) in &tables.arrivals {
            if (&**of, its_feed) == (site, feed) && *at < before {
                let file =
                    FileIdentity { inode: *inode, size_bytes: *size_bytes, mtime_ns: *mtime_ns };
                rows.push(OldArrival { job: *job, path: path.clone(), file });
            }
        }
        rows.sort_unstable_by_key(|row| row.job);
        let ids = rows.iter().map(|row| (row.job.uuid(), !tables.jobs.contains_key(&row.job)));
        let (old, next) = walked(walk, ids);
        rows.retain(|row| old.contains(&row.job.uuid()));
        Ok((rows, next))
    }

    async fn forget_arrivals(
        &self,
        site: &str,
        feed: &Name,
        jobs: &[JobId],
    ) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        let Tables { arrivals, jobs: there, .. } = &mut *tables;
        let before = arrivals.len();
        arrivals.retain(|key, (job, _)| {
            (&*key.0, &key.1) != (site, feed) || !jobs.contains(job) || there.contains_key(job)
        });
        Ok((before - arrivals.len()) as u64)
    }

    async fn arrived(
        &self,
        site: &str,
        feed: &Name,
        files: &[(SourcePath, FileIdentity)],
    ) -> Result<Vec<Option<JobId>>, StoreError> {
        let tables = self.tables();
        let job = |(path, file): &(SourcePath, FileIdentity)| {
            let FileIdentity { inode, size_bytes, mtime_ns } = *file;
            let key = (site.to_owned(), feed.clone(), path.clone(), inode, size_bytes, mtime_ns);
            tables.arrivals.get(&key).map(|(job, _)| *job)
        };
        Ok(files.iter().map(job).collect())
    }

    async fn history_begins(&self, site: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(self.tables().history_begins.get(site).copied())
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        let tables = self.tables();
        let history = tables.jobs.values().filter(|row| row.history).count();
        let events = tables.events.values().map(Vec::len).sum();
        let live = tables.jobs.len() - history;
        let (arrivals, contents) = (tables.arrivals.len(), tables.contents.len());
        let rows = [live, history, events, arrivals, contents, tables.fires.len()];
        Ok(StoreSize { bytes: 0, rows: rows.map(|rows| rows as u64) })
    }
}

/// Of rows in the order of their ids, each with whether it may go: those of the walk that may, and where it goes on.
fn walked(walk: Walk, rows: impl Iterator<Item = (Uuid, bool)>) -> (Vec<Uuid>, Option<Uuid>) {
    let rows = rows.filter(|(id, _)| walk.after.is_none_or(|after| *id > after));
    let rows: Vec<_> = rows.take(walk.limit).collect();
    let next = next(walk, rows.len(), rows.last().map(|(id, _)| *id));
    (rows.into_iter().filter(|(_, old)| *old).map(|(id, _)| id).collect(), next)
}
