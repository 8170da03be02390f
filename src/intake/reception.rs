//! Inputs that are sent, and not dropped.
//!
//! What comes is put into blob storage as it comes, under the id of the job that it is to become, and only then is there
//! a row: so a crash in between, or a sender who goes away, leaves a blob that no job has, and nothing else. Whoever
//! sends the same again under the same key gets the one job that there is.
//!
//! The rules of files hold, as far as there is something that they can be about: nothing is taken for a feed that is
//! paused, or that has as many jobs waiting as it may. There is nobody to wait for here, so these are refusals.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::engine::health::Trouble;
use crate::engine::{Incoming, Pulse, Setting, Tenure};
use crate::fault::{Class, Fault, Origin};
use crate::feed::{Feed, Name, SourcePath, Watch};
use crate::fire::FeedPause;
use crate::job::{Content, Job, JobId, Sent, Sha256};
use crate::log;
use crate::ports::{
    Accepted, Blobs, Clock, Permit, Schedules, Sending, Sendings, Store, StoreError, World,
};

/// Where inputs are sent to.
pub struct Reception<W: World> {
    site: String,
    settings: watch::Receiver<Setting<W>>,
    pulse: Arc<Pulse>,
    most_bytes: Option<u64>,
    desk: Mutex<Option<Desk<W::Clock>>>,
    /// Each takes some memory, however long its input is.
    senders: Semaphore,
}

/// Under which id the node works at the moment, and who begins what it takes in.
struct Desk<C> {
    tenure: Tenure<C>,
    /// Weak: the engine ends when nobody is left who could tell it something.
    engine: mpsc::WeakSender<Incoming>,
}

/// What somebody wants to send.
#[derive(Clone, Debug)]
pub struct Offer {
    /// To which feed.
    pub feed: Name,
    /// Under which name.
    pub path: SourcePath,
    /// What makes it the same when it is sent again, if the sender says so.
    pub key: Option<String>,
    /// How long it is, if the sender says so.
    pub size_bytes: Option<u64>,
    /// Its hash, if the sender says so.
    pub sha256: Option<Sha256>,
    /// It is to be scored, whether it was scored before or not.
    pub again: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A new job.
    New(Box<Job>),
    /// It was sent before under the same key, and became this job.
    Known(Box<Job>),
}

/// Why nothing was taken. There is no job then, unless the store lost its answer: whoever comes again under the same key
/// finds out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No such feed.
    #[error("there is no feed {0} in the config")]
    UnknownFeed(Name),
    /// Another input has the key.
    #[error(
        "Idempotency-Key {0:?} was used before, for another name or another content, by job {1}: choose another key"
    )]
    KeyUsed(String, JobId),
    /// The daemon doesn't work at the moment.
    #[error("the daemon takes nothing at the moment: {0}")]
    Away(&'static str),
    /// The feed is paused.
    #[error("feed {feed} is paused by {} ({}): `scoreline feeds resume {feed}` ends that", pause.by, pause.why)]
    Paused {
        /// The feed.
        feed: Name,
        /// Its pause.
        pause: FeedPause,
        /// How much of it is left, if it ends by itself.
        left: Option<Duration>,
    },
    /// Nothing is sent to the feed's storage.
    #[error("storage {storage} takes nothing at the moment: {why}")]
    StorageAway {
        /// The storage.
        storage: Name,
        /// Why.
        why: String,
        /// How long still, if that is known.
        left: Option<Duration>,
    },
    /// As many wait as may.
    #[error(
        "{waiting} jobs of feed {feed} wait already, and watch.max_waiting is {most}: send it later"
    )]
    Full {
        /// The feed.
        feed: Name,
        /// Its jobs that wait.
        waiting: u64,
        /// How many may.
        most: u64,
    },
    /// It is longer than may be sent.
    #[error("the input is longer than {0} bytes, which is as long as http.max_upload allows")]
    TooLong(u64),
    /// It didn't come to its end.
    #[error("the input did not arrive whole: {0}; nothing was taken, send it again")]
    CutShort(String),
    /// It came whole and is longer or shorter than it was said to be.
    #[error("the input has {came} bytes and was said to have {said}; nothing was taken")]
    OtherSize {
        /// What came.
        came: u64,
        /// What was said.
        said: u64,
    },
    /// It came whole and is not what it was said to be.
    #[error(
        "the input has the sha256 {came} and was said to have {said}: it was changed on its way; nothing was taken"
    )]
    OtherDigest {
        /// What came.
        came: Sha256,
        /// What was said.
        said: Sha256,
    },
    /// There is nothing in it.
    #[error("{0} is empty: an input needs a header row and data")]
    Empty(SourcePath),
    /// The storage didn't take it.
    #[error("the input could not be put into blob storage: {0}")]
    Storage(Fault),
    /// The store didn't take it, or nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<W: World> Reception<W> {
    /// That of a site, under the config in force; it takes something once there is an engine.
    pub fn new(site: String, settings: watch::Receiver<Setting<W>>, pulse: Arc<Pulse>) -> Self {
        let senders = Semaphore::new(SENDERS);
        Self { site, settings, pulse, most_bytes: None, desk: Mutex::default(), senders }
    }

    /// The same, for inputs of so many bytes at most.
    #[must_use]
    pub fn up_to(self, most_bytes: Option<u64>) -> Self {
        Self { most_bytes, ..self }
    }

    /// From here on the node works under this id.
    pub fn open(&self, tenure: Tenure<W::Clock>, engine: &mpsc::Sender<Incoming>) {
        *self.desk() = Some(Desk { tenure, engine: engine.downgrade() });
    }

    /// From here on it doesn't.
    pub fn close(&self) {
        *self.desk() = None;
    }

    /// Takes in what is sent. It takes as long as the sender does, and holds nobody up meanwhile.
    pub async fn receive<R: AsyncRead + Unpin + Send>(
        &self,
        offer: Offer,
        from: R,
    ) -> Result<Received, Refused> {
        let Setting { world, rules } = self.settings.borrow().clone();
        let unknown = || Refused::UnknownFeed(offer.feed.clone());
        let feed = rules.feeds.get(&offer.feed).ok_or_else(unknown)?;
        let store = world.store();
        if let Some(key) = &offer.key
            && let Some(id) = store.sent(&self.site, &feed.name, key).await?
        {
            return known(&*world, id, &offer, None).await;
        }
        if let Some(most) = self.most_bytes
            && offer.size_bytes.is_some_and(|size| size > most)
        {
            return Err(Refused::TooLong(most));
        }
        // Nothing is read from whoever waits, so that it costs nothing but its connection.
        let turn = world.clock().timeout(TURN_MAX, self.senders.acquire()).await;
        let _turn = turn.ok_or(Refused::Away("as many send as may at once"))?;
        self.may_begin(&*world, feed).await?;
        let id = store.draw_id(world.clock().now());
        let blobs = world.blobs(&feed.storage).ok_or_else(|| Refused::StorageAway {
            storage: feed.storage.clone(),
            why: "the config doesn't name it".to_owned(),
            left: None,
        })?;
        let blob = feed.sent_blob(id, &offer.path);
        let mut body = Body { from, left: self.most_bytes, cut: None };
        let uploaded = blobs.upload(&blob, &offer.path.to_string(), &mut body).await;
        let content = match (body.cut, uploaded) {
            (Some(_), _) if body.left == Some(0) => {
                return Err(Refused::TooLong(self.most_bytes.unwrap_or_default()));
            }
            (Some(cut), _) => return Err(Refused::CutShort(cut)),
            (None, Err(fault)) => return Err(Refused::Storage(fault)),
            (None, Ok(content)) => content,
        };
        world
            .metrics()
            .uploaded_bytes_total
            .with_label_values(&[feed.name.as_str()])
            .inc_by(content.size_bytes);
        if let Err(refused) = is_as_said(&offer, feed, content) {
            clear(blobs, &blob).await;
            return Err(refused);
        }
        let sent = Sent { blob: blob.clone(), content, again: offer.again };
        match self.accept(&*world, feed, id, &offer, sent).await? {
            Accepted::New(job) | Accepted::Free(job) => Ok(Received::New(job)),
            // The row is there, and its first answer was lost.
            Accepted::Known(there) if there == id => {
                let found = store.load(&[id]).await?.pop();
                let (job, _) = found.ok_or(Refused::Away(FORGOTTEN))?;
                Ok(Received::New(Box::new(job)))
            }
            Accepted::Known(twin) => {
                clear(blobs, &blob).await;
                known(&*world, twin, &offer, Some(content)).await
            }
            Accepted::Over => Err(Refused::Away(FORGOTTEN)),
        }
    }

    /// Whether anything may be sent to a feed now: asked before its first byte is read.
    async fn may_begin(&self, world: &W, feed: &Feed) -> Result<(), Refused> {
        if self.pulse.draining() {
            return Err(Refused::Away("it is stopping"));
        }
        if !self.pulse.at_work() {
            return Err(Refused::Away("it waits to join the other nodes again"));
        }
        let store = world.store();
        let states = store.feeds(&self.site).await?;
        let pause = states.into_iter().find(|state| state.feed == feed.name).and_then(|s| s.pause);
        if let Some(pause) = pause {
            let now = store.now().await?;
            if pause.holds(now) {
                let left = pause.until.map(|until| (until - now).to_std().unwrap_or_default());
                return Err(Refused::Paused { feed: feed.name.clone(), pause, left });
            }
        }
        let storages = self.pulse.picture().map(|picture| picture.storages).unwrap_or_default();
        let seen = storages.into_iter().find(|seen| seen.name == feed.storage);
        let boot = world.clock().boot();
        let closed = match seen.and_then(|seen| seen.trouble) {
            Some(Trouble::Closed(closed)) => {
                let why = format!("{}: {}", closed.why.code, closed.why.message);
                Some((why, closed.next_probe().unwrap_or(boot)))
            }
            // One that is over means nothing any more.
            Some(Trouble::Pause { until }) if until > boot => {
                Some(("it asked to be left alone for a while".to_owned(), until))
            }
            Some(Trouble::Pause { .. }) | None => None,
        };
        if let Some((why, until)) = closed {
            let (storage, left) = (feed.storage.clone(), until.saturating_sub(boot).max(SOON));
            return Err(Refused::StorageAway { storage, why, left: Some(left) });
        }
        let Some(node) = self.desk().as_ref().map(|desk| desk.tenure.node.clone()) else {
            return Err(Refused::Away("it waits to join the other nodes again"));
        };
        let most = feed.watch.as_ref().map_or(Watch::MAX_WAITING, |watch| watch.max_waiting);
        let waiting = store.waiting(&node, &feed.name).await?;
        if waiting >= most {
            return Err(Refused::Full { feed: feed.name.clone(), waiting, most });
        }
        Ok(())
    }

    async fn accept(
        &self,
        world: &W,
        feed: &Feed,
        id: JobId,
        offer: &Offer,
        sent: Sent,
    ) -> Result<Accepted, Refused> {
        // As they are now: the upload may have taken hours.
        let desk = self.desk().as_ref().map(|desk| (desk.tenure.clone(), desk.engine.clone()));
        let (tenure, engine) =
            desk.ok_or(Refused::Away("it waits to join the other nodes again"))?;
        let now = world.clock().now();
        let sending = Sending {
            id,
            feed: feed.name.clone(),
            path: offer.path.clone(),
            key: offer.key.clone().unwrap_or_else(|| id.to_string()),
            sent,
            deadline_at: now + feed.policy.deadline,
        };
        tenure.lease.ensure(Origin::Storage).map_err(|_| Refused::Away("its lease has run out"))?;
        let accepted = world.store().accept_sent(&tenure.node, &sending, now).await?;
        let news = match &accepted {
            Accepted::New(job) => {
                log::transition(job, &job.accepted_event(), tenure.node.id);
                world
                    .metrics()
                    .job_transitions_total
                    .with_label_values(&[feed.name.as_str(), job.phase().name()])
                    .inc();
                Incoming::Jobs(vec![Job::clone(job)])
            }
            Accepted::Known(id) => Incoming::Known(vec![*id]),
            Accepted::Free(_) | Accepted::Over => return Ok(accepted),
        };
        // An engine that is gone has left its jobs in the store, and this one with them.
        if let Some(engine) = engine.upgrade() {
            let _ = engine.send(news).await;
        }
        Ok(accepted)
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Option<Desk<W::Clock>>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: World> fmt::Debug for Reception<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reception").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Refused {
    /// When it may go better, if it may without anybody's doing.
    pub fn again_after(&self) -> Option<Duration> {
        match self {
            Self::Away(_) | Self::Full { .. } | Self::Store(_) => Some(SOON),
            Self::Paused { left, .. } | Self::StorageAway { left, .. } => {
                Some(left.unwrap_or(LATER))
            }
            Self::Storage(fault) => (fault.class != Class::Permanent).then_some(SOON),
            Self::UnknownFeed(_)
            | Self::KeyUsed(..)
            | Self::TooLong(_)
            | Self::CutShort(_)
            | Self::OtherSize { .. }
            | Self::OtherDigest { .. }
            | Self::Empty(_) => None,
        }
    }
}

/// What has the key, if it can be the same.
async fn known<W: World>(
    world: &W,
    id: JobId,
    offer: &Offer,
    content: Option<Content>,
) -> Result<Received, Refused> {
    let found = world.store().load(&[id]).await?.pop();
    let (job, _) = found.ok_or(Refused::Away(FORGOTTEN))?;
    let there = job.sent().map(|sent| sent.content);
    let differs = |there: Content| {
        content.is_some_and(|content| content != there)
            || offer.size_bytes.is_some_and(|size| size != there.size_bytes)
            || offer.sha256.is_some_and(|sha256| sha256 != there.sha256)
    };
    if *job.path() != offer.path || there.is_some_and(differs) {
        return Err(Refused::KeyUsed(offer.key.clone().unwrap_or_default(), id));
    }
    Ok(Received::Known(Box::new(job)))
}

/// Whether what came is what was said to come, and something at all.
fn is_as_said(offer: &Offer, feed: &Feed, content: Content) -> Result<(), Refused> {
    let Content { size_bytes: came, sha256 } = content;
    if let Some(said) = offer.size_bytes.filter(|said| *said != came) {
        return Err(Refused::OtherSize { came, said });
    }
    if let Some(said) = offer.sha256.filter(|said| *said != sha256) {
        return Err(Refused::OtherDigest { came: sha256, said });
    }
    if came == 0 && !feed.takes_empty() {
        return Err(Refused::Empty(offer.path.clone()));
    }
    Ok(())
}

/// Takes away what nothing became of. One that stays is told of as a blob that no job has.
async fn clear<B: Blobs>(blobs: &B, blob: &str) {
    if let Err(fault) = blobs.delete(blob).await {
        tracing::debug!(%blob, error = %fault, "a blob that was sent for nothing is still there");
    }
}

/// What is being sent, and how it broke off.
struct Body<R> {
    from: R,
    /// How many more bytes may come, if there is a limit.
    left: Option<u64>,
    cut: Option<String>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Body<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let mut read = Pin::new(&mut self.from).poll_read(cx, into);
        let came = (into.filled().len() - before) as u64;
        if let Some(left) = self.left {
            if came > left {
                read = Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into()));
            }
            self.left = Some(left.saturating_sub(came));
        }
        if let Poll::Ready(Err(error)) = &read {
            self.cut = Some(error.to_string());
        }
        read
    }
}

/// How many send at once, at most: each has a block of its own in memory. And how long another one waits for its turn.
const SENDERS: usize = 100;
const TURN_MAX: Duration = Duration::from_secs(30);
const FORGOTTEN: &str = "the job of it was forgotten just now; send it again";
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_mins(1);
