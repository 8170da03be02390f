//! Each database and the model take the same walks and give the same answers.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use scoreline::fire::{FeedPause, FireId, FireKind, FireRow, FireState, Reason};
use scoreline::ports::{Firing, FolderId, Walk};

use super::*;

/// A call; jobs, nodes and texts are small numbers, so that calls meet.
#[derive(Clone, Debug)]
enum Call {
    Register,
    Retire(usize),
    Beat(usize),
    Fence {
        node: usize,
        beats: Option<u64>,
    },
    Adopt {
        node: usize,
        limit: usize,
    },
    Claim {
        node: usize,
        feeds: Vec<u8>,
    },
    Accept {
        node: usize,
        paths: Vec<u8>,
        ours: usize,
    },
    Admit {
        node: usize,
        endpoint: u8,
        jobs: Vec<usize>,
        same: Option<u8>,
        narrow: Option<usize>,
        limit: usize,
    },
    Commit {
        node: usize,
        steps: Vec<Write>,
    },
    CommitAgain {
        node: usize,
    },
    Reserve {
        node: usize,
        job: usize,
        slot: u8,
        path: u8,
    },
    Wish {
        job: usize,
        want: usize,
        generation: Option<u32>,
    },
    Pause {
        endpoint: u8,
    },
    Folder {
        feed: u8,
        seen: Option<u8>,
    },
    Enter {
        node: usize,
        fires: Vec<usize>,
        skipped: Option<usize>,
    },
    AcceptFor {
        node: usize,
        fire: usize,
        read: bool,
        inputs: Vec<(u8, bool)>,
        then: usize,
    },
    Reopen {
        node: usize,
        times: Vec<i64>,
    },
    RunNow {
        key: Option<u8>,
    },
    PauseFeed {
        until: Option<bool>,
    },
    ResumeFeed,
    AnswerResume(usize),
    Schedule {
        node: usize,
        rules: u8,
    },
    /// Jobs, contents, fires, or arrivals that are gone.
    Forget {
        what: u8,
        before: i64,
        limit: usize,
    },
}

#[derive(Clone, Debug)]
struct Write {
    job: usize,
    outcome: usize,
    run: Option<u8>,
    answers: Option<usize>,
}

fn call() -> impl Strategy<Value = Call> {
    use prop::collection::vec;
    use prop::option::of;
    let node = || 0..5_usize;
    let job = || 0..8_usize;
    let fire = || 0..8_usize;
    let inputs = || vec((0..12_u8, any::<bool>()), 0..3);
    let run = prop_oneof![3 => Just(None), 2 => (0..2_u8).prop_map(Some)];
    let write = (job(), 0..10_usize, run, of(0..3_usize))
        .prop_map(|(job, outcome, run, answers)| Write { job, outcome, run, answers });
    prop_oneof![
        2 => Just(Call::Register),
        1 => node().prop_map(Call::Retire),
        2 => node().prop_map(Call::Beat),
        2 => (node(), of(0..3_u64)).prop_map(|(node, beats)| Call::Fence { node, beats }),
        4 => (node(), 0..4_usize).prop_map(|(node, limit)| Call::Adopt { node, limit }),
        2 => (node(), vec(0..3_u8, 0..3)).prop_map(|(node, feeds)| Call::Claim { node, feeds }),
        4 => (node(), vec(0..12_u8, 0..4), 0..4_usize)
            .prop_map(|(node, paths, ours)| Call::Accept { node, paths, ours }),
        6 => (node(), 0..2_u8, prop::sample::subsequence((0..8).collect::<Vec<_>>(), 0..5), of(0..3_u8),
            of(1..4_usize), 0..4_usize)
            .prop_map(|(node, endpoint, jobs, same, narrow, limit)| {
                Call::Admit { node, endpoint, jobs, same, narrow, limit }
            }),
        20 => (node(), vec(write, 1..4)).prop_map(|(node, steps)| Call::Commit { node, steps }),
        2 => node().prop_map(|node| Call::CommitAgain { node }),
        6 => (node(), job(), 0..3_u8, 0..4_u8)
            .prop_map(|(node, job, slot, path)| Call::Reserve { node, job, slot, path }),
        4 => (job(), 0..3_usize, of(1..3_u32))
            .prop_map(|(job, want, generation)| Call::Wish { job, want, generation }),
        1 => (0..3_u8).prop_map(|endpoint| Call::Pause { endpoint }),
        1 => (0..2_u8, of(0..3_u8)).prop_map(|(feed, seen)| Call::Folder { feed, seen }),
        2 => (node(), vec(fire(), 0..3), of(0..7_usize))
            .prop_map(|(node, fires, skipped)| Call::Enter { node, fires, skipped }),
        6 => (node(), fire(), any::<bool>(), inputs(), 0..4_usize).prop_map(
            |(node, fire, read, inputs, then)| Call::AcceptFor { node, fire, read, inputs, then }
        ),
        1 => (node(), vec(0..6_i64, 0..4)).prop_map(|(node, times)| Call::Reopen { node, times }),
        2 => of(0..2_u8).prop_map(|key| Call::RunNow { key }),
        1 => of(any::<bool>()).prop_map(|until| Call::PauseFeed { until }),
        1 => Just(Call::ResumeFeed),
        1 => node().prop_map(Call::AnswerResume),
        1 => (node(), 0..2_u8).prop_map(|(node, rules)| Call::Schedule { node, rules }),
        6 => (0..4_u8, 1..6_i64, 1..6_usize)
            .prop_map(|(what, before, limit)| Call::Forget { what, before, limit }),
    ]
}

/// A store with what its callers remember of it.
struct Side<S> {
    store: S,
    nodes: Vec<Node>,
    /// In the order of their acceptance: the two sides give different ids.
    jobs: Vec<JobId>,
    last: Vec<Transition>,
    /// In the order in which they were asked for.
    manual: Vec<FireRow>,
}

impl<S: Store> Side<S> {
    async fn new(store: S) -> Self {
        let mut nodes = Vec::new();
        for label in ["a", "b"] {
            nodes.push(store.register(label, "site", TERM).await.unwrap());
        }
        Self { store, nodes, jobs: vec![], last: vec![], manual: vec![] }
    }

    /// Makes the call and says in words what came of it.
    async fn perform(&mut self, call: &Call) -> String {
        let nodes = self.nodes.clone();
        let node = |n: &usize| &nodes[n % nodes.len()];
        match call {
            Call::Register => {
                let node = self.store.register("x", "site", TERM).await.unwrap();
                self.nodes.push(node.clone());
                format!("{node:?}")
            }
            Call::Retire(n) => format!("{:?}", self.store.retire(node(n), &[]).await.unwrap()),
            Call::Beat(n) => format!("{:?}", self.store.beat(node(n)).await.unwrap()),
            Call::Fence { node: n, beats } => {
                format!("{:?}", self.store.fence(node(n).id, *beats).await.unwrap())
            }
            Call::Adopt { node: n, limit } => {
                match self.store.adopt(node(n), &[name("churn")], *limit).await {
                    Ok(adopted) => {
                        let (jobs, last): (Vec<_>, Vec<_>) = adopted.jobs.into_iter().unzip();
                        format!("{} {last:?}", self.show(&jobs))
                    }
                    Err(error) => error.to_string(),
                }
            }
            Call::Claim { node: n, feeds } => {
                let mut feeds: Vec<_> = feeds.iter().map(|n| name(&format!("f{n}"))).collect();
                feeds.dedup();
                self.store.claim(node(n), &feeds).await.map_or_else(
                    |error| error.to_string(),
                    |ours| ours.iter().map(Name::as_str).collect(),
                )
            }
            Call::Accept { node: n, paths, ours } => {
                let arrivals: Vec<_> = paths.iter().map(|path| arrival([b'a' + path])).collect();
                let answers = self.store.accept(node(n), &arrivals, *ours, at(0), None).await;
                self.accepted(answers)
            }
            Call::Enter { node: n, fires, skipped } => {
                let mut rows: Vec<_> = fires.iter().map(|fire| self.due(*fire)).collect();
                if let Some(reason) = skipped {
                    rows = rows.into_iter().map(|row| row.skipped(Reason::ALL[*reason])).collect();
                }
                told(self.store.enter(node(n), &name("churn"), &rows).await)
            }
            Call::AcceptFor { node: n, fire, read, inputs, then } => {
                let mut row = self.due(*fire);
                if *read {
                    let all = self.store.fires("site", &name("churn"), None, 99).await.unwrap();
                    row = all.into_iter().find(|there| there.id == row.id).unwrap_or(row);
                }
                let input =
                    |(path, once): &(u8, bool)| Arrival { once: *once, ..arrival([b'a' + path]) };
                let inputs: Vec<_> = inputs.iter().map(input).collect();
                let (feed, then) = (name("churn"), then_of(*then));
                let fire = Some(Firing { feed: &feed, row: &row, then });
                let answers = self.store.accept(node(n), &inputs, 9, at(0), fire).await;
                self.accepted(answers)
            }
            Call::Reopen { node: n, times } => {
                let times: Vec<_> = times.iter().copied().map(at).collect();
                told(self.store.reopen(node(n), &name("churn"), &times).await)
            }
            Call::RunNow { key } => {
                let key = key.map(|key| key.to_string());
                let feed = name("churn");
                let asked = self.store.run_now("site", &feed, key.as_deref(), "me");
                let (row, new) = asked.await.unwrap();
                if new {
                    self.manual.push(row.clone());
                }
                format!("{} {new}", self.show_fire(&row))
            }
            Call::PauseFeed { until } => {
                // Long ago, or not for long.
                let until = until.map(|over| at(if over { -900_000_000 } else { 900_000_000 }));
                let (by, why) = ("me".to_owned(), "why".to_owned());
                let pause = FeedPause { by, why, since: at(0), until, ended: false };
                told(self.store.pause_feed("site", &name("churn"), &pause).await)
            }
            Call::ResumeFeed => told(self.store.resume_feed("site", &name("churn")).await),
            Call::AnswerResume(n) => told(self.store.answer_resume(node(n), &name("churn")).await),
            Call::Forget { what, before, limit } => {
                let (store, walk) = (&self.store, Walk { after: None, limit: *limit });
                let (before, feed) = (at(*before), name("churn"));
                let walked = match what {
                    0 => store.forget_jobs("site", before, walk).await,
                    1 => store.forget_contents("site", before, walk).await,
                    2 => store.forget_fires("site", before, walk).await,
                    _ => {
                        let old = store.old_arrivals("site", &feed, before, walk).await;
                        let jobs: Vec<_> = old.unwrap().0.iter().map(|old| old.job).collect();
                        return told(store.forget_arrivals("site", &feed, &jobs).await);
                    }
                };
                let walked = walked.unwrap();
                let begins = store.history_begins("site").await.unwrap();
                format!("{:?} {} {begins:?}", walked.gone, walked.next.is_some())
            }
            Call::Schedule { node: n, rules } => {
                let rules = rules.to_string();
                let shown = match self.store.schedule(node(n), &name("churn"), &rules).await {
                    Ok(shown) => shown,
                    Err(error) => return error.to_string(),
                };
                let open: String = shown.open.iter().map(|row| self.show_fire(row)).collect();
                let now = if shown.since == shown.now { "new" } else { "held" };
                format!("{now} {:?} {:?} {} {open}", shown.last, shown.pause, shown.live)
            }
            Call::Admit { node: n, endpoint, jobs, same, narrow, limit } => {
                let jobs = jobs.iter().filter_map(|n| self.jobs.get(*n).copied());
                let of_number = |n: u8| Same { digest: Sha256([n; 32]), since: at(0) };
                let limit_of = |runs| FeedLimit { feed: name("churn"), runs };
                let ask = |job| Ask { job, same: same.map(of_number), feed: narrow.map(limit_of) };
                let asks: Vec<_> = jobs.map(ask).collect();
                let endpoint = endpoint_of(*endpoint);
                match self.store.admit(node(n), &endpoint, &asks, *limit, at(0)).await {
                    Ok(Admitted { runs, duplicates, full }) => {
                        let runs: Vec<_> = runs.into_iter().map(|id| self.index(id)).collect();
                        let earlier = duplicates.into_iter().map(|(id, earlier)| match earlier {
                            Earlier::Scored(of) => (self.index(id), "scored", self.index(of)),
                            Earlier::UnderWay(of) => (self.index(id), "under way", self.index(of)),
                        });
                        let full: Vec<_> = full.into_iter().map(|id| self.index(id)).collect();
                        format!("{runs:?} {:?} {full:?}", earlier.collect::<Vec<_>>())
                    }
                    Err(error) => error.to_string(),
                }
            }
            Call::Commit { node: n, steps } => {
                let mut steps = steps.clone();
                steps.dedup_by_key(|write| write.job);
                self.last.clear();
                for write in steps {
                    self.last.extend(self.transition(&write).await);
                }
                format!("{:?}", self.store.commit(node(n), &self.last).await.unwrap())
            }
            Call::CommitAgain { node: n } => {
                format!("{:?}", self.store.commit(node(n), &self.last).await.unwrap())
            }
            Call::Reserve { node: n, job, slot, path } => {
                let Some(&job) = self.jobs.get(*job) else { return String::new() };
                let (slot, path) = (slot.to_string(), PathBuf::from(format!("/out/{path}")));
                let wish = Reservation { job, slot, path };
                format!("{:?}", self.store.reserve(node(n), &[wish]).await.unwrap())
            }
            Call::Wish { job, want, generation } => {
                let Some(&job) = self.jobs.get(*job) else { return String::new() };
                format!("{:?}", self.store.wish(job, &want_of(*want), *generation).await.unwrap())
            }
            Call::Folder { feed, seen } => {
                let seen = seen.map(|n| FolderId::new(uuid::Uuid::from_u128(n.into())));
                let feed = name(&format!("f{feed}"));
                format!("{:?}", self.store.folder_in_force("site", &feed, seen).await.unwrap())
            }
            Call::Pause { endpoint } => {
                let time = Duration::from_millis(250 * u64::from(*endpoint));
                self.store
                    .pause(node(&usize::from(*endpoint)), &endpoint_of(*endpoint), time)
                    .await
                    .unwrap();
                String::new()
            }
        }
    }

    /// A fire of the schedule, or one that was asked for.
    fn due(&self, n: usize) -> FireRow {
        if let Some(row) = n.checked_sub(6).and_then(|n| self.manual.get(n)) {
            return row.clone();
        }
        let time = at(i64::try_from(n).unwrap());
        FireRow::due("site", &name("churn"), FireKind::Scheduled, time, at(-1)..time, time)
    }

    fn accepted(&mut self, answers: Result<Vec<Accepted>, StoreError>) -> String {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => return error.to_string(),
        };
        let mut shown = Vec::new();
        for answer in answers {
            shown.push(match answer {
                Accepted::New(job) => {
                    self.jobs.push(job.id());
                    self.show(&[*job])
                }
                Accepted::Free(job) => {
                    self.jobs.push(job.id());
                    format!("free {}", self.show(&[*job]))
                }
                Accepted::Known(id) => format!("known {:?}", self.index(id)),
                Accepted::Over => "over".to_owned(),
            });
        }
        shown.concat()
    }

    /// All but what the stores choose.
    fn show_fire(&self, row: &FireRow) -> String {
        let at_all = (row.started_at.is_some(), row.ended_at.is_some());
        let mut row = FireRow { started_at: None, ended_at: None, ..row.clone() };
        if let Some(n) = self.manual.iter().position(|there| there.id == row.id) {
            row = FireRow { id: no_fire(), window: at(0)..at(0), ..row };
            (row.nominal, row.created_at) = (at(i64::try_from(n).unwrap()), at(0));
        }
        format!("{row:?} {at_all:?}\n")
    }

    async fn transition(&self, write: &Write) -> Option<Transition> {
        let (job, _) = load(&self.store, *self.jobs.get(write.job)?).await?;
        let outcomes = [
            uploaded(),
            submitted(),
            Outcome::Started,
            finished(),
            delivered(),
            settled(),
            permanent(),
            Outcome::RemoteFailed("x".into()),
            Outcome::Wished(Want::Cancel),
        ];
        let transition = match outcomes.get(write.outcome) {
            Some(outcome) => try_step(&job, outcome.clone())?,
            None => again(&job),
        };
        let (run, answers) = (write.run.map(endpoint_of), write.answers.map(want_of));
        Some(Transition { run, answers, ..transition })
    }

    fn index(&self, id: JobId) -> Option<usize> {
        self.jobs.iter().position(|known| *known == id)
    }

    /// All but the ids and the time of the last write, which the stores choose.
    fn show(&self, jobs: &[Job]) -> String {
        let show = |job: &Job| {
            let mut record = job.record();
            (record.id, record.updated_at) = (self.jobs[0], at(0));
            if let Some(fire) = record.fire.as_mut().filter(|fire| fire.kind == FireKind::Manual) {
                fire.id = no_fire();
                (fire.nominal, fire.window_start, fire.window_end) = (at(0), at(0), at(0));
            }
            format!("{:?} {record:?}\n", self.index(job.id()))
                .replace(&self.jobs[0].to_string(), "")
        };
        jobs.iter().map(show).collect()
    }

    /// All that can be read.
    async fn all(&self) -> Vec<String> {
        let mut shown = vec![self.show(&everything(&self.store).await)];
        for (job, owner) in self.store.load(&self.jobs).await.unwrap() {
            let mut events = self.store.events(job.id()).await.unwrap();
            for event in &mut events {
                event.at = at(0);
            }
            shown.push(format!("{} {owner:?} {events:?}", self.show(&[job])));
        }
        for node in &self.nodes {
            shown.push(format!("{:?}", self.store.others(node).await.unwrap()));
            let owned = self.store.owned(node).await.unwrap();
            let owned = owned.into_iter().map(|(id, revision)| (self.index(id), revision));
            shown.push(format!("{:?}", owned.collect::<Vec<_>>()));
            let wishes = self.store.wishes(node).await.unwrap();
            let wishes = wishes.into_iter().map(|(id, at, want)| (self.index(id), at, want));
            shown.push(format!("{:?}", wishes.collect::<Vec<_>>()));
        }
        let fires = self.store.fires("site", &name("churn"), None, 99).await.unwrap();
        shown.extend(fires.iter().map(|row| self.show_fire(row)));
        let outcomes = self.store.outcomes("site", &name("churn"), 99).await.unwrap();
        shown.push(format!("{outcomes:?} {:?}", self.store.feeds("site").await.unwrap()));
        let unowned = self.store.unowned(&self.nodes[0], &[name("churn")]).await.unwrap();
        shown.push(format!("{unowned:?}"));
        let waiting = self.store.waiting(&self.nodes[0], &name("churn")).await.unwrap();
        shown.push(format!("{waiting} wait"));
        let pauses = self.store.pauses(0).await.unwrap();
        let pauses = pauses.iter().map(|pause| (pause.node, pause.endpoint.as_str(), pause.time));
        shown.push(format!("{:?}", pauses.collect::<Vec<_>>()));
        shown
    }
}

fn then_of(n: usize) -> FireState {
    let waits = FireState::Open(Some(Reason::NoInput));
    [FireState::Ran, FireState::Open(None), waits, FireState::Skipped(Reason::Paused)][n]
}

fn no_fire() -> FireId {
    FireId::new(uuid::Uuid::nil())
}

/// What came of a call, in words.
fn told<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    result.map_or_else(|error| error.to_string(), |told| format!("{told:?}"))
}

fn endpoint_of(n: u8) -> Name {
    name(&format!("e{n}"))
}

fn want_of(n: usize) -> Want {
    [Want::Cancel, Want::Retry, Want::Adopt(RemoteId("r".into()))][n].clone()
}

/// Takes random walks, each on a database of its own.
fn walk_beside_the_model<D: Database>(cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let calls = prop::collection::vec(call(), 1..120);
    let walk = |calls: Vec<Call>| {
        runtime.block_on(async {
            let database = D::fresh();
            let mut side = Side::new(database.open().await).await;
            let mut model = Side::new(ModelStore::with_clock(|| SystemClock.now())).await;
            for call in calls {
                let (theirs, ours) = (model.perform(&call).await, side.perform(&call).await);
                prop_assert_eq!(theirs, ours, "{:?}", call);
            }
            prop_assert_eq!(model.all().await, side.all().await);
            Ok(())
        })
    };
    TestRunner::new_with_rng(config, rng).run(&calls, walk).unwrap();
}

#[test]
fn sqlite_answers_every_walk_as_the_model_does() {
    walk_beside_the_model::<Sqlite>(24);
}

#[test]
fn postgres_answers_every_walk_as_the_model_does() {
    walk_beside_the_model::<Postgres>(24);
}
