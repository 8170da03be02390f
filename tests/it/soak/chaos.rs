//! What befalls the daemons and everything around them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::cluster::{Access, Cluster};
use super::dice::Dice;
use super::node::{Node, Order};
use super::proxy::{Mode, Proxy};
use super::{FEEDS, Feed, LEASE};
use crate::postgres::Shutdown;

/// One thing that befalls somebody.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Node(usize, Order),
    Restart(Shutdown, Duration),
    TerminateBackends,
    CutDatabase,
    /// So many answers of the database are lost.
    LoseDatabaseAnswers(u32),
    DatabaseSilent(Duration),
    Away(Feed, Duration),
    Silent(Feed, Duration),
    /// Of all pieces of answers, this part is lost for a time.
    LoseAnswers(Feed, f64, Duration),
}

/// Whom it befalls: nobody suffers two things at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Node(usize),
    Server,
    DatabaseWire,
    Wire(Feed),
}

/// Everybody whom something can befall.
pub(crate) struct Victims {
    pub(crate) nodes: Vec<Node>,
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    pub(crate) access: Access,
    pub(crate) database: Proxy,
    pub(crate) wires: BTreeMap<Feed, Proxy>,
}

/// What befell whom.
#[derive(Default)]
pub(crate) struct Chaos {
    under_way: JoinSet<Victim>,
    suffering: Vec<Victim>,
    pub(crate) counts: BTreeMap<&'static str, usize>,
    /// The nodes that were killed, by name, and when.
    pub(crate) kills: Vec<(String, DateTime<Utc>)>,
}

impl Event {
    /// What every run must see once, the longest first.
    pub(crate) fn musts(nodes: usize, patroni: bool) -> Vec<Self> {
        let beyond_the_lease = LEASE + Duration::from_secs(4);
        let mut musts = vec![
            Self::Restart(Shutdown::Immediate, Duration::ZERO),
            Self::LoseDatabaseAnswers(3),
            Self::Node(0, Order::Pause(beyond_the_lease)),
            Self::LoseAnswers(Feed::Wide, 0.2, Duration::from_secs(5)),
            Self::Away(Feed::Narrow, Duration::from_secs(6)),
            Self::TerminateBackends,
            Self::Silent(Feed::Wide, Duration::from_secs(5)),
            Self::CutDatabase,
            Self::Restart(Shutdown::Immediate, Duration::ZERO),
            Self::Restart(Shutdown::Immediate, Duration::from_secs(2)),
        ];
        if nodes > 1 {
            musts.insert(1, Self::Node(1, Order::Kill(beyond_the_lease)));
        } else {
            musts.push(Self::Node(0, Order::Kill(Duration::ZERO)));
        }
        if patroni {
            musts.push(Self::Restart(Shutdown::Immediate, Duration::from_secs(5)));
        }
        musts
    }

    pub(crate) fn draw(dice: &mut Dice, nodes: usize) -> Self {
        let node = dice.below(nodes);
        let feed = *dice.pick(&FEEDS);
        match dice.below(100) {
            0..34 => {
                let down = match dice.below(10) {
                    0..5 => Duration::ZERO,
                    5..8 => dice.millis(500, 5000),
                    _ => dice.millis(16_000, 30_000),
                };
                Self::Node(node, Order::Kill(down))
            }
            34..50 => Self::Node(node, Order::Pause(dice.millis(1000, 25_000))),
            50..60 => Self::Node(node, Order::Terminate(dice.millis(0, 5000))),
            60..63 => {
                let shutdown = *dice.pick(&[Shutdown::Immediate, Shutdown::Fast]);
                Self::Restart(shutdown, dice.millis(0, 4000))
            }
            63..70 => Self::TerminateBackends,
            70..77 => Self::CutDatabase,
            77..86 => Self::LoseDatabaseAnswers(u32::try_from(dice.below(4)).unwrap() + 1),
            86..88 => Self::DatabaseSilent(dice.millis(500, 6000)),
            88..92 => Self::Away(feed, dice.millis(1000, 20_000)),
            92..95 => Self::Silent(feed, dice.millis(1000, 8000)),
            _ => Self::LoseAnswers(
                feed,
                0.05 + 0.05 * f64::from(u8::try_from(dice.below(6)).unwrap()),
                dice.millis(2000, 10_000),
            ),
        }
    }

    fn victim(self) -> Victim {
        match self {
            Self::Node(node, _) => Victim::Node(node),
            Self::Restart(..) | Self::TerminateBackends => Victim::Server,
            Self::CutDatabase | Self::LoseDatabaseAnswers(_) | Self::DatabaseSilent(_) => {
                Victim::DatabaseWire
            }
            Self::Away(feed, _) | Self::Silent(feed, _) | Self::LoseAnswers(feed, ..) => {
                Victim::Wire(feed)
            }
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Node(_, Order::Kill(_)) => "kills",
            Self::Node(_, Order::Pause(time)) if time > LEASE => "pauses beyond the lease",
            Self::Node(_, Order::Pause(_)) => "pauses",
            Self::Node(_, Order::Terminate(_) | Order::Leave) => "stops",
            Self::Restart(Shutdown::Immediate, _) => "crashes of the database server",
            Self::Restart(Shutdown::Fast, _) => "restarts of the database server",
            Self::TerminateBackends => "ends of all database sessions",
            Self::CutDatabase => "cuts of the database wire",
            Self::LoseDatabaseAnswers(_) => "losses of database answers",
            Self::DatabaseSilent(_) => "silences of the database",
            Self::Away(..) => "absences of the remote side",
            Self::Silent(..) => "silences of the remote side",
            Self::LoseAnswers(..) => "losses of the remote side's answers",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node, order) => write!(f, "node-{node}: {order:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Chaos {
    /// Whether something can befall somebody now: not while something else does, and not the last node that is well.
    pub(crate) fn may(&mut self, event: Event, victims: &Victims) -> bool {
        while let Some(over) = self.under_way.try_join_next() {
            let over = over.expect("what befalls somebody doesn't fail");
            self.suffering.retain(|victim| *victim != over);
        }
        let victim = event.victim();
        let is_node = |victim: &&Victim| matches!(victim, Victim::Node(_));
        let suffering = self.suffering.iter().filter(is_node).count();
        // Somebody must be there to take over.
        let is_last =
            is_node(&&victim) && victims.nodes.len() > 1 && suffering + 1 >= victims.nodes.len();
        !self.suffering.contains(&victim) && !is_last
    }

    /// Lets it.
    pub(crate) fn strike(&mut self, event: Event, victims: &Victims) {
        *self.counts.entry(event.kind()).or_default() += 1;
        if let Event::Node(node, Order::Kill(_)) = event {
            self.kills.push((victims.nodes[node].name.clone(), SystemClock.now()));
        }
        let victim = event.victim();
        self.suffering.push(victim);
        let act = act(event, victims);
        self.under_way.spawn(async move {
            act.await;
            victim
        });
    }

    /// Waits until everybody is over it.
    pub(crate) async fn end(&mut self) {
        while let Some(over) = self.under_way.join_next().await {
            over.expect("what befalls somebody doesn't fail");
        }
        self.suffering.clear();
    }
}

fn act(event: Event, victims: &Victims) -> impl Future<Output = ()> + Send + use<> {
    let order = match event {
        Event::Node(node, order) => Some(victims.nodes[node].order(order)),
        _ => None,
    };
    let (cluster, access) = (victims.cluster.clone(), victims.access.clone());
    let database = victims.database.clone();
    let wires = victims.wires.clone();
    async move {
        match event {
            Event::Node(..) => {
                if let Some(order) = order {
                    order.await;
                }
            }
            Event::Restart(shutdown, down) => cluster.lock().await.restart(shutdown, down).await,
            Event::TerminateBackends => access.terminate_backends().await,
            Event::CutDatabase => database.cut(),
            Event::LoseDatabaseAnswers(answers) => database.lose_next(answers),
            Event::DatabaseSilent(time) => {
                database.set(Mode::Silent);
                SystemClock.sleep(time).await;
                database.set(Mode::Open);
            }
            Event::Away(feed, time) => {
                wires[&feed].set(Mode::Away);
                SystemClock.sleep(time).await;
                wires[&feed].set(Mode::Open);
            }
            Event::Silent(feed, time) => {
                wires[&feed].set(Mode::Silent);
                SystemClock.sleep(time).await;
                wires[&feed].set(Mode::Open);
            }
            Event::LoseAnswers(feed, chance, time) => {
                wires[&feed].lose(chance);
                SystemClock.sleep(time).await;
                wires[&feed].lose(ALWAYS_LOST);
            }
        }
    }
}

/// The part of the remote side's answers that is lost all the time.
pub(crate) const ALWAYS_LOST: f64 = 0.002;
