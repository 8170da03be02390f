//! Schedules, their fires and the pauses of feeds.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{ModelStore, Row, Tables};
use crate::feed::Name;
use crate::fire::{
    FeedPause, FeedState, FireId, FireKind, FireOutcome, FireRow, FireState, Reason, Timetable,
};
use crate::job::{Arrival, Job, Phase};
use crate::ports::{Firing, Node, Schedules, StoreError};
use crate::store::OPEN_MAX;

/// A fire with whose it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) site: String,
    pub(super) feed: Name,
    pub(super) row: FireRow,
}

impl ModelStore {
    pub(super) fn now_in(&self, tables: &Tables) -> DateTime<Utc> {
        self.clock.as_ref().map_or(tables.told, |now| now())
    }
}

impl Schedules for ModelStore {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.now_in(&self.tables()))
    }

    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "read a schedule")?;
        let now = self.now_in(&tables);
        let key = (node.site.clone(), feed.clone());
        let held = tables.schedules.entry(key.clone()).or_insert_with(|| (rules.to_owned(), now));
        if held.0 != rules {
            *held = (rules.to_owned(), now);
        }
        let since = held.1;
        let of_feed = tables.of_feed(&node.site, feed);
        let nominals = of_feed.iter().filter(|row| row.kind != FireKind::Manual);
        let last = nominals.map(|row| row.nominal).max();
        let open = of_feed.iter().filter(|row| row.state.is_open()).take(OPEN_MAX);
        let live = |row: &&Row| {
            let job = &row.job;
            !row.history
                && (&row.site, job.feed()) == (&node.site, feed)
                && job.fire().is_some()
                && !job.phase().is_final()
                && job.phase() != Phase::Delivered
                && (job.held().is_none() || tables.runs.contains_key(&job.id()))
        };
        Ok(Timetable {
            now,
            since,
            last,
            pause: tables.feed_pauses.get(&key).cloned(),
            open: open.map(|row| (*row).clone()).collect(),
            live: tables.jobs.values().filter(live).count() as u64,
        })
    }

    async fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> Result<Vec<bool>, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "enter fires")?;
        Ok(rows.iter().map(|row| tables.enter(&node.site, feed, row)).collect())
    }

    async fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "open fires again")?;
        let mut reopened = 0;
        for Entry { site, feed: of, row } in tables.fires.values_mut() {
            if (&*site, &*of) == (&node.site, feed)
                && nominals.contains(&row.nominal)
                && row.state == FireState::Skipped(Reason::Paused)
            {
                (row.state, row.ended_at) = (FireState::Open(None), None);
                reopened += 1;
            }
        }
        Ok(reopened)
    }

    async fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> Result<Vec<FireOutcome>, StoreError> {
        let tables = self.tables();
        let ran = |row: &&&FireRow| row.state == FireState::Ran && row.jobs > 0;
        let fires = tables.of_feed(site, feed);
        let fires = fires.iter().rev().filter(ran).take(limit);
        let outcome = |row: &&FireRow| {
            let of_fire = |of: &&Row| of.job.fire().is_some_and(|fire| fire.id == row.id);
            let mut jobs = tables.jobs.values().filter(of_fire);
            let bad = |job: &Job| matches!(job.phase(), Phase::Failed | Phase::Cancelled);
            if jobs.clone().any(|row| bad(&row.job)) {
                FireOutcome::Failed
            } else if jobs.any(|row| !row.history) {
                FireOutcome::Running
            } else {
                FireOutcome::Succeeded
            }
        };
        Ok(fires.map(outcome).collect())
    }

    async fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> Result<(FireRow, bool), StoreError> {
        let mut tables = self.tables();
        let keyed = |row: &&&FireRow| key.is_some() && row.key.as_deref() == key;
        if let Some(known) = tables.of_feed(site, feed).iter().find(keyed) {
            return Ok(((*known).clone(), false));
        }
        tables.last_fire += 1;
        let id = 0x0190_0000_0000_7000_9000_0000_0000_0000 + u128::from(tables.last_fire);
        let id = FireId::new(Uuid::from_u128(id));
        let row = FireRow::manual(id, self.now_in(&tables), key, by);
        tables.enter(site, feed, &row);
        Ok((row, true))
    }

    async fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let key = (site.to_owned(), feed.clone());
        let earlier = tables.feed_pauses.get(&key).map_or(pause.since, |there| there.since);
        let since = earlier.min(pause.since);
        tables.feed_pauses.insert(key, FeedPause { since, ended: false, ..pause.clone() });
        Ok(())
    }

    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let now = self.now_in(&tables);
        let pause = tables.feed_pauses.get_mut(&(site.to_owned(), feed.clone()));
        let Some(pause) = pause.filter(|pause| pause.holds(now)) else { return Ok(false) };
        pause.ended = true;
        Ok(true)
    }

    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.require(node, "answer the end of a pause")?;
        let now = self.now_in(&tables);
        let of_feed = |(site, of): &(String, Name)| (site, of) == (&node.site, feed);
        tables.feed_pauses.retain(|key, pause| !of_feed(key) || pause.holds(now));
        Ok(())
    }

    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        let tables = self.tables();
        let paused = tables.feed_pauses.keys().filter(|(of, _)| of == site).map(|(_, feed)| feed);
        let open = tables.fires.values().filter(|fire| fire.site == site);
        let open = open.filter(|fire| fire.row.state.is_open()).map(|fire| &fire.feed);
        let open_of = |feed: &Name| open.clone().filter(|of| *of == feed).count() as u64;
        let feeds: BTreeSet<_> = paused.chain(open.clone()).collect();
        let state = |feed: &Name| FeedState {
            feed: feed.clone(),
            pause: tables.feed_pauses.get(&(site.to_owned(), feed.clone())).cloned(),
            open_fires: open_of(feed),
        };
        Ok(feeds.into_iter().map(state).collect())
    }

    async fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> Result<Vec<FireRow>, StoreError> {
        let tables = self.tables();
        let fires = tables.of_feed(site, feed);
        let end = match before {
            Some(id) => fires.iter().position(|row| row.id == id).unwrap_or_default(),
            None => fires.len(),
        };
        Ok(fires[..end].iter().rev().take(limit).map(|row| (*row).clone()).collect())
    }
}

impl Tables {
    /// A feed's fires by their nominal times.
    pub(super) fn of_feed(&self, site: &str, feed: &Name) -> Vec<&FireRow> {
        let of_feed = |entry: &&Entry| entry.site == site && entry.feed == *feed;
        let mut rows: Vec<_> =
            self.fires.values().filter(of_feed).map(|entry| &entry.row).collect();
        rows.sort_by_key(|row| (row.nominal, row.id));
        rows
    }

    /// Whether it is new.
    fn enter(&mut self, site: &str, feed: &Name, row: &FireRow) -> bool {
        let manual = |row: &FireRow| row.kind == FireKind::Manual;
        let same = |there: &&FireRow| {
            let time = there.nominal == row.nominal && !manual(there) && !manual(row);
            time || (row.key.is_some() && there.key == row.key)
        };
        if self.fires.contains_key(&row.id) || self.of_feed(site, feed).iter().any(same) {
            return false;
        }
        let row = FireRow { jobs: 0, started_at: None, ..row.clone() };
        self.fires.insert(row.id, Entry { site: site.to_owned(), feed: feed.clone(), row });
        true
    }

    /// Whether the fire may make jobs of the arrivals; it is entered then.
    pub(super) fn begin_fire(
        &mut self,
        node: &Node,
        fire: &Firing<'_>,
        arrivals: &[Arrival],
    ) -> bool {
        let new = FireRow { state: FireState::Open(None), ended_at: None, ..fire.row.clone() };
        self.enter(&node.site, fire.feed, &new);
        let Some(Entry { site, feed, row }) = self.fires.get(&fire.row.id) else { return false };
        let once = arrivals.iter().any(|arrival| arrival.once);
        (site, feed) == (&node.site, fire.feed)
            && row.state.is_open()
            && (!once || row.jobs == fire.row.jobs)
    }

    /// After the fire made jobs.
    pub(super) fn move_fire(&mut self, fire: &Firing<'_>, made: u64, now: DateTime<Utc>) {
        let Some(Entry { row, .. }) = self.fires.get_mut(&fire.row.id) else { return };
        row.state = fire.then;
        row.jobs += made;
        row.started_at.get_or_insert(now);
        row.ended_at = (!fire.then.is_open()).then_some(now);
    }
}
