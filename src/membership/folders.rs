//! Whose folders this node sees: those of its site, or others at the same paths.
//!
//! A node works on a feed while the folder that it sees is the one in force, by the marker in it. The first node to see
//! a folder for a feed writes the marker and then tells the store: after a crash in between the next one finds a marker
//! that nobody told, and tells it. A node that comes second with another folder is refused, and says so, and looks again
//! in every round: a share that comes back is taken up by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;

use super::rest;
use crate::engine::{Lease, Setting, witness};
use crate::feed::{Feed, Name};
use crate::ports::{Clock, Inbox, Store, StoreError, World};

/// The feeds, each with how its folder was found.
#[derive(Debug)]
pub struct Folders {
    site: String,
    feeds: BTreeMap<Name, Seen>,
}

/// How a feed's folder was found, and when, by the boot clock.
#[derive(Debug)]
struct Seen {
    feed: Arc<Feed>,
    /// The store has been held against what is noted beside the outputs.
    compared: bool,
    found: Option<Found>,
    looked: Duration,
    told: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It is the feed's; so is one that nobody watches.
    Right,
    /// It can't be marked, and no node has marked another one.
    Unmarked,
    /// It isn't the feed's, or can't be looked at.
    Wrong(String),
}

impl Folders {
    pub(super) fn new(site: &str, feeds: &BTreeMap<Name, Arc<Feed>>) -> Self {
        let unseen = |feed: &Arc<Feed>| Seen::not_yet(feed.clone());
        let feeds = feeds.iter().map(|(name, feed)| (name.clone(), unseen(feed))).collect();
        Self { site: site.to_owned(), feeds }
    }

    /// The feeds to work on.
    pub(super) fn right(&self) -> Vec<Name> {
        let right = |seen: &Seen| matches!(seen.found, Some(Found::Right | Found::Unmarked));
        self.feeds.iter().filter(|(_, seen)| right(seen)).map(|(feed, _)| feed.clone()).collect()
    }

    /// Looks for ever, and tells which of the feeds in force to work on.
    pub(super) async fn watch<W: World>(
        &mut self,
        settings: &mut watch::Receiver<Setting<W>>,
        lease: &Lease<W::Clock>,
        tell: &watch::Sender<Vec<Name>>,
    ) {
        let clock = settings.borrow().world.clock().clone();
        loop {
            let began = clock.boot();
            let changed = tokio::select! {
                biased;
                Ok(()) = settings.changed() => true,
                () = rest(&clock, lease, began) => false,
            };
            let setting = settings.borrow_and_update().clone();
            if changed {
                self.work_on(&setting.rules.feeds);
            }
            if let Err(error) = self.look(&*setting.world).await {
                tracing::debug!(%error, "could not look which folders are the site's");
            }
            let right = self.right();
            tell.send_if_modified(|told| {
                *told != right && {
                    *told = right;
                    true
                }
            });
        }
    }

    /// The feeds are these from here on. A folder may be another one under the same name.
    fn work_on(&mut self, feeds: &BTreeMap<Name, Arc<Feed>>) {
        let mut before = std::mem::take(&mut self.feeds);
        let again = |(name, feed): (&Name, &Arc<Feed>)| {
            let seen = before.remove(name).map_or_else(
                || Seen::not_yet(feed.clone()),
                |seen| Seen {
                    compared: seen.compared && seen.feed.deliver.folder == feed.deliver.folder,
                    feed: feed.clone(),
                    looked: Duration::ZERO,
                    ..seen
                },
            );
            (name.clone(), seen)
        };
        self.feeds = feeds.iter().map(again).collect();
    }

    /// Looks at those folders that it is time for. After an error nothing has changed.
    pub(super) async fn look<W: World>(&mut self, world: &W) -> Result<(), StoreError> {
        let now = world.clock().boot();
        let due = self.feeds.iter().filter(|(_, seen)| seen.is_due(now));
        let site = &self.site;
        let found = due.map(async |(name, seen)| {
            let mut found = look_at(world, site, name).await?;
            let right = matches!(found, Found::Right | Found::Unmarked);
            if right
                && !seen.compared
                && let Err(why) = witness::compare(world, site, &seen.feed).await?
            {
                found = Found::Wrong(why);
            }
            Ok((name.clone(), found))
        });
        let found: Result<Vec<_>, StoreError> = join_all(found).await.into_iter().collect();
        for (feed, found) in found? {
            if let Some(seen) = self.feeds.get_mut(&feed) {
                seen.note(&feed, found, now);
            }
        }
        Ok(())
    }
}

impl Seen {
    fn not_yet(feed: Arc<Feed>) -> Self {
        Self { feed, compared: false, found: None, looked: Duration::ZERO, told: None }
    }

    fn is_due(&self, now: Duration) -> bool {
        match self.found {
            Some(Found::Right | Found::Unmarked) => now >= self.looked + RIGHT_EVERY,
            Some(Found::Wrong(_)) | None => true,
        }
    }

    /// Takes note, and tells what a person should know: once, and then now and then.
    fn note(&mut self, feed: &Name, found: Found, now: Duration) {
        self.compared |= matches!(found, Found::Right | Found::Unmarked);
        match &found {
            Found::Right => {
                if self.told.take().is_some() {
                    tracing::info!(%feed, "the feed's folder is there, and this node works on it");
                }
            }
            Found::Unmarked => {
                if self.found != Some(Found::Unmarked) {
                    self.told = None;
                    tracing::warn!(%feed, "the drop folder can't be written to, so it has no marker: nothing tells \
                        whether this is the folder that other nodes see, or whether its share is mounted");
                }
            }
            Found::Wrong(why) => {
                if self.told.is_none_or(|told| now >= told + REMINDER) {
                    self.told = Some(now);
                    tracing::error!(%feed, "this node keeps out of the feed: {why}");
                }
            }
        }
        (self.found, self.looked) = (Some(found), now);
    }
}

/// Looks at the folder of one feed.
async fn look_at<W: World>(world: &W, site: &str, feed: &Name) -> Result<Found, StoreError> {
    let (store, clock) = (world.store(), world.clock());
    let Some(inbox) = world.inbox(feed).filter(|inbox| inbox.has_marker()) else {
        return Ok(Found::Right);
    };
    let silent = || {
        let seconds = ANSWER_LIMIT.as_secs();
        Found::Wrong(format!("its folder does not answer within {seconds} s; it is tried again"))
    };
    let wrong = |fault: crate::fault::Fault| Found::Wrong(fault.to_string());
    let marker = match clock.timeout(ANSWER_LIMIT, inbox.marker()).await {
        Some(Ok(marker)) => marker,
        Some(Err(fault)) => return Ok(wrong(fault)),
        None => return Ok(silent()),
    };
    let mut in_force = store.folder_in_force(site, feed, marker).await?;
    if in_force.is_none() {
        in_force = match clock.timeout(ANSWER_LIMIT, inbox.mark()).await {
            Some(Ok(None)) => return Ok(Found::Unmarked),
            Some(Ok(made)) => store.folder_in_force(site, feed, made).await?,
            Some(Err(fault)) => return Ok(wrong(fault)),
            None => return Ok(silent()),
        };
    }
    let Some(in_force) = in_force else { return Ok(Found::Unmarked) };
    Ok(match clock.timeout(ANSWER_LIMIT, inbox.expect(in_force)).await {
        Some(Ok(())) => Found::Right,
        Some(Err(fault)) => wrong(fault),
        None => silent(),
    })
}

/// How often folders are looked at that were right.
const RIGHT_EVERY: Duration = Duration::from_mins(1);
/// A share that went away may never answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const REMINDER: Duration = Duration::from_mins(10);
