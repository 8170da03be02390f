//! Each database and the model take the same walks and give the same answers.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

/// A call; jobs, nodes and texts are small numbers, so that calls meet.
#[derive(Clone, Debug)]
enum Call {
    Register,
    Retire(usize),
    Beat(usize),
    Adopt { node: usize, dead: usize, limit: usize },
    Accept { node: usize, paths: Vec<u8> },
    Commit { node: usize, steps: Vec<(usize, usize)> },
    CommitAgain { node: usize },
    Reserve { node: usize, job: usize, slot: u8, path: u8 },
}

fn call() -> impl Strategy<Value = Call> {
    let node = || 0..4_usize;
    prop_oneof![
        1 => Just(Call::Register),
        1 => node().prop_map(Call::Retire),
        1 => node().prop_map(Call::Beat),
        3 => (node(), node(), 0..4_usize)
            .prop_map(|(node, dead, limit)| Call::Adopt { node, dead, limit }),
        4 => (node(), prop::collection::vec(0..12_u8, 0..4))
            .prop_map(|(node, paths)| Call::Accept { node, paths }),
        16 => (node(), prop::collection::vec((0..8_usize, 0..9_usize), 1..4))
            .prop_map(|(node, steps)| Call::Commit { node, steps }),
        2 => node().prop_map(|node| Call::CommitAgain { node }),
        6 => (node(), 0..8_usize, 0..3_u8, 0..4_u8)
            .prop_map(|(node, job, slot, path)| Call::Reserve { node, job, slot, path }),
    ]
}

/// A store with what its callers remember of it.
struct Side<S> {
    store: S,
    nodes: Vec<Node>,
    /// In the order of their acceptance: the two sides give different ids.
    jobs: Vec<JobId>,
    last: Vec<Transition>,
}

impl<S: Store> Side<S> {
    async fn new(store: S) -> Self {
        let mut nodes = Vec::new();
        for label in ["a", "b"] {
            nodes.push(store.register(label, "site").await.unwrap());
        }
        Self { store, nodes, jobs: vec![], last: vec![] }
    }

    /// Makes the call and says in words what came of it.
    async fn perform(&mut self, call: &Call) -> String {
        let nodes = self.nodes.clone();
        let node = |n: &usize| &nodes[n % nodes.len()];
        match call {
            Call::Register => {
                let node = self.store.register("x", "site").await.unwrap();
                self.nodes.push(node.clone());
                format!("{node:?}")
            }
            Call::Retire(n) => format!("{:?}", self.store.retire(node(n)).await.unwrap()),
            Call::Beat(n) => format!("{:?}", self.store.beat(node(n)).await.unwrap()),
            Call::Adopt { node: n, dead, limit } => {
                let feeds = [name("churn")];
                let dead = [node(dead).id];
                match self.store.adopt(node(n), &feeds, &dead, *limit).await {
                    Ok(adopted) => self.show(&adopted.jobs),
                    Err(error) => error.to_string(),
                }
            }
            Call::Accept { node: n, paths } => {
                let arrivals: Vec<_> = paths.iter().map(|path| arrival([b'a' + path])).collect();
                let answers = match self.store.accept(node(n), &arrivals, at(0)).await {
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
                        Accepted::Known(id) => format!("known {:?}", self.index(id)),
                    });
                }
                shown.concat()
            }
            Call::Commit { node: n, steps } => {
                let mut steps = steps.clone();
                steps.dedup_by_key(|(job, _)| *job);
                self.last.clear();
                for (job, outcome) in steps {
                    self.last.extend(self.transition(job, outcome).await);
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
        }
    }

    async fn transition(&self, job: usize, outcome: usize) -> Option<Transition> {
        let (job, _) = load(&self.store, *self.jobs.get(job)?).await?;
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
        try_step(&job, outcomes[outcome].clone())
    }

    fn index(&self, id: JobId) -> Option<usize> {
        self.jobs.iter().position(|known| *known == id)
    }

    /// All but the ids and the time of the last write, which the stores choose.
    fn show(&self, jobs: &[Job]) -> String {
        let show = |job: &Job| {
            let mut record = job.record();
            (record.id, record.updated_at) = (self.jobs[0], at(0));
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
        }
        shown
    }
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
            let mut model = Side::new(ModelStore::new()).await;
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
