//! A job while it waits, made small: thousands of them wait for a look at their remote runs at once.
//!
//! What all of them have in common is kept once, what hardly any has is kept elsewhere, and their texts lie behind one
//! another. Nothing is lost: the job that comes out is the one that was put in.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{
    CancelReason, FileIdentity, Hold, Job, JobId, Phase, Redirect, RemoteId, Sent, Service, Sha256,
    State, Submitted, Uploaded,
};
use crate::fault::FaultRecord;
use crate::fire::Fired;
use crate::name::{Name, SourcePath};

/// A job, small if it waits for its remote run.
#[derive(Clone, Debug)]
pub struct Packed(Form);

#[derive(Clone, Debug)]
enum Form {
    Small(Box<Small>),
    /// In another phase it doesn't stay for long.
    Whole(Box<Job>),
}

/// What jobs have in common, kept once for all that are packed with it.
#[derive(Debug, Default)]
pub struct Commons {
    feeds: Vec<Name>,
    services: Vec<Arc<Service>>,
}

#[derive(Clone, Debug)]
struct Small {
    id: JobId,
    feed: Name,
    file: FileIdentity,
    generation: u32,
    attempts: u32,
    revision: u64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    size_bytes: u64,
    sha256: Option<Sha256>,
    /// Why the run is to be stopped, if it is.
    cancel: Option<CancelReason>,
    service: Option<Arc<Service>>,
    /// Its path, its input's blob, the run's name, and of each output the name and the blob.
    texts: Texts,
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rare {
    fire: Option<Fired>,
    sent: Option<Sent>,
    held: Option<Hold>,
    error: Option<FaultRecord>,
    source_moved_to: Option<std::path::PathBuf>,
    finished_at: Option<DateTime<Utc>>,
}

impl Packed {
    /// Packs a job.
    pub fn new(job: Job, commons: &mut Commons) -> Self {
        let cancel = match &job.state {
            State::Running(_) => None,
            State::Cancelling(_, reason) => Some(*reason),
            _ => return Self(Form::Whole(Box::new(job))),
        };
        let Job { id, feed, path, file, generation, revision, attempts, .. } = job;
        let Job { fire, sent, held, error, source_moved_to, finished_at, .. } = job;
        let Job { created_at, updated_at, deadline_at, state, .. } = job;
        let (State::Running(run) | State::Cancelling(run, _)) = state else {
            unreachable!("others were told apart above")
        };
        let Submitted { input, remote_id, redirects, service } = run;
        let Uploaded { blob, size_bytes, sha256 } = input;
        let outputs = redirects
            .iter()
            .flat_map(|Redirect { output, blob }| [output.as_bytes(), blob.as_bytes()]);
        let texts = [path.as_bytes(), blob.as_bytes(), remote_id.0.as_bytes()].into_iter();
        let texts = Texts::new(texts.chain(outputs));
        let rare = Rare { fire, sent, held, error, source_moved_to, finished_at };
        let rare = (rare != Rare::NONE).then(|| Box::new(rare));
        let (feed, service) = (commons.feed(feed), service.map(|service| commons.service(service)));
        Self(Form::Small(Box::new(Small {
            id,
            feed,
            file,
            generation,
            attempts,
            revision,
            created_at,
            updated_at,
            deadline_at,
            size_bytes,
            sha256,
            cancel,
            service,
            texts,
            rare,
        })))
    }

    /// The job.
    pub fn job(&self) -> Cow<'_, Job> {
        match &self.0 {
            Form::Small(small) => Cow::Owned(small.job()),
            Form::Whole(job) => Cow::Borrowed(job),
        }
    }

    /// The job, packed no more.
    pub fn into_job(self) -> Job {
        match self.0 {
            Form::Small(small) => small.job(),
            Form::Whole(job) => *job,
        }
    }

    /// [`Job::id`].
    pub fn id(&self) -> JobId {
        match &self.0 {
            Form::Small(small) => small.id,
            Form::Whole(job) => job.id,
        }
    }

    /// [`Job::revision`].
    pub fn revision(&self) -> u64 {
        match &self.0 {
            Form::Small(small) => small.revision,
            Form::Whole(job) => job.revision,
        }
    }

    /// [`Job::phase`].
    pub fn phase(&self) -> Phase {
        match &self.0 {
            Form::Small(small) if small.cancel.is_some() => Phase::Cancelling,
            Form::Small(_) => Phase::Running,
            Form::Whole(job) => job.phase(),
        }
    }
}

impl Small {
    fn job(&self) -> Job {
        let mut texts = self.texts.iter();
        let path = texts.next().unwrap_or_default().to_vec();
        let mut text = || {
            let bytes = texts.next()?.to_vec();
            Some(String::from_utf8(bytes).expect("all but the path were strings"))
        };
        let (blob, remote_id) = (text().unwrap_or_default(), text().unwrap_or_default());
        let redirects =
            std::iter::from_fn(|| Some(Redirect { output: text()?, blob: text()? })).collect();
        let run = Submitted {
            input: Uploaded { blob, size_bytes: self.size_bytes, sha256: self.sha256 },
            remote_id: RemoteId(remote_id),
            redirects,
            service: self.service.as_deref().cloned(),
        };
        let rare = self.rare.as_deref().cloned().unwrap_or(Rare::NONE);
        let Rare { fire, sent, held, error, source_moved_to, finished_at } = rare;
        Job {
            id: self.id,
            feed: self.feed.clone(),
            path: SourcePath::from_bytes(path).expect("it was the bytes of one"),
            file: self.file,
            fire,
            sent,
            generation: self.generation,
            revision: self.revision,
            attempts: self.attempts,
            created_at: self.created_at,
            updated_at: self.updated_at,
            finished_at,
            deadline_at: self.deadline_at,
            held,
            error,
            source_moved_to,
            state: match self.cancel {
                None => State::Running(run),
                Some(reason) => State::Cancelling(run, reason),
            },
        }
    }
}

impl Rare {
    const NONE: Self = Self {
        fire: None,
        sent: None,
        held: None,
        error: None,
        source_moved_to: None,
        finished_at: None,
    };
}

impl Commons {
    fn feed(&mut self, feed: Name) -> Name {
        if let Some(known) = self.feeds.iter().find(|known| **known == feed) {
            return known.clone();
        }
        bound(&mut self.feeds);
        self.feeds.push(feed.clone());
        feed
    }

    fn service(&mut self, service: Service) -> Arc<Service> {
        if let Some(known) = self.services.iter().find(|known| ***known == service) {
            return known.clone();
        }
        bound(&mut self.services);
        let service = Arc::new(service);
        self.services.push(service.clone());
        service
    }
}

/// There are as many as the config names, and those that it named before; however many they are, the search is short.
fn bound<T>(known: &mut Vec<T>) {
    if known.len() == COMMON_MAX {
        known.clear();
    }
}

/// Texts behind one another, each after its length.
#[derive(Clone, Debug)]
struct Texts(Box<[u8]>);

impl Texts {
    fn new<'a>(texts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let length = texts.clone().map(|text| text.len() + LENGTH).sum();
        let mut bytes = Vec::with_capacity(length);
        for text in texts {
            let length = u32::try_from(text.len()).expect("no store has a text of 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(text);
        }
        Self(bytes.into_boxed_slice())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<LENGTH>()?;
            let text;
            (text, rest) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some(text)
        })
    }
}

const LENGTH: usize = size_of::<u32>();
const COMMON_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::super::tests::{every_state, queued};
    use super::*;

    #[test]
    fn the_job_that_comes_out_is_the_one_that_was_put_in() {
        let mut commons = Commons::default();
        for (name, job) in every_state() {
            let rare = Job { source_moved_to: Some("/archive/a.csv".into()), ..job.clone() };
            for job in [job, rare] {
                let packed = Packed::new(job.clone(), &mut commons);
                assert_eq!(*packed.job(), job, "{name}");
                assert_eq!((packed.id(), packed.revision()), (job.id, job.revision), "{name}");
                assert_eq!(packed.phase(), job.phase(), "{name}");
                assert_eq!(packed.into_job(), job, "{name}");
            }
        }
    }

    #[test]
    fn a_path_need_not_be_text() {
        let path = SourcePath::from_bytes(b"a\xff\xfe.csv".to_vec()).unwrap();
        let (_, running) = every_state().into_iter().find(|(name, _)| *name == "running").unwrap();
        let job = Job { path, ..running };
        assert_eq!(Packed::new(job.clone(), &mut Commons::default()).into_job(), job);
    }

    #[test]
    fn what_jobs_have_in_common_is_kept_once() {
        let (_, running) = every_state().into_iter().find(|(name, _)| *name == "running").unwrap();
        let mut commons = Commons::default();
        let packed = [(); 100].map(|()| Packed::new(running.clone(), &mut commons));
        assert_eq!(Arc::strong_count(&commons.services[0]), 101);
        let small = |packed: &Packed| match &packed.0 {
            Form::Small(small) => size_of_val(&**small) + small.texts.0.len(),
            Form::Whole(_) => usize::MAX,
        };
        // A hundred thousand of them wait at once. That they are packed is worth it:
        assert!(small(&packed[0]) < 256, "{} bytes", small(&packed[0]));
        assert!(matches!(Packed::new(queued("a"), &mut commons).0, Form::Whole(_)));
    }
}
