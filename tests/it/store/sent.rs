//! What was sent.

use scoreline::job::Sent;
use scoreline::ports::{Retention, Sending, Sendings, Walk};

use super::*;

every_store! {
    what_is_sent_becomes_one_job_of_the_node_for_each_key
    a_call_whose_answer_was_lost_makes_no_second_job
    a_key_is_one_feeds_and_one_sites
    of_many_that_send_the_same_at_once_one_makes_the_job
    what_was_sent_is_kept_through_all_that_becomes_of_the_job
    a_key_is_known_for_as_long_as_its_job
    a_node_that_is_fenced_off_takes_nothing_in
    the_same_name_may_be_dropped_beside_it
}

const ALL: Walk = Walk { after: None, limit: 1000 };

fn sending(store: &impl Store, key: &str) -> Sending {
    let id = store.draw_id(at(0));
    let content = Content { size_bytes: 3, sha256: Sha256([7; 32]) };
    Sending {
        id,
        feed: name("f"),
        path: arrival("a/x.csv").path,
        key: key.to_owned(),
        sent: Sent { blob: format!("f/{id}/0-sent/x.csv"), content, again: true },
        deadline_at: at(1000),
    }
}

async fn send(store: &impl Store, node: &Node, sending: &Sending) -> Accepted {
    store.accept_sent(node, sending, at(0)).await.unwrap()
}

async fn what_is_sent_becomes_one_job_of_the_node_for_each_key(database: &impl Database) {
    let (store, node) = begin(database).await;
    let first = sending(&store, "k");
    assert_eq!(store.sent("site", &name("f"), "k").await.unwrap(), None);
    let Accepted::New(job) = send(&store, &node, &first).await else { panic!("it is new") };
    assert_eq!((job.id(), job.phase(), job.revision()), (first.id, Phase::Queued, 1));
    assert_eq!(job.sent(), Some(&first.sent));
    assert_eq!(load(&store, job.id()).await, Some((*job.clone(), Some(node.id))));
    let events = store.events(job.id()).await.unwrap();
    assert_eq!(events, [job.accepted_event()]);
    assert!(events[0].detail.as_deref().unwrap().contains("3 bytes"));
    let again = sending(&store, "k");
    assert_ne!(again.id, first.id);
    assert_eq!(send(&store, &node, &again).await, Accepted::Known(first.id));
    assert_eq!(store.sent("site", &name("f"), "k").await.unwrap(), Some(first.id));
    assert!(load(&store, again.id).await.is_none());
    assert!(matches!(send(&store, &node, &sending(&store, "l")).await, Accepted::New(_)));
}

async fn a_call_whose_answer_was_lost_makes_no_second_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let once = sending(&store, "k");
    assert!(matches!(send(&store, &node, &once).await, Accepted::New(_)));
    assert_eq!(send(&store, &node, &once).await, Accepted::Known(once.id));
    assert_eq!(store.events(once.id).await.unwrap().len(), 1);
}

async fn a_key_is_one_feeds_and_one_sites(database: &impl Database) {
    let (store, node) = begin(database).await;
    let there = store.register("b", "elsewhere", TERM).await.unwrap();
    assert!(matches!(send(&store, &node, &sending(&store, "k")).await, Accepted::New(_)));
    assert!(matches!(send(&store, &there, &sending(&store, "k")).await, Accepted::New(_)));
    let other = Sending { feed: name("g"), ..sending(&store, "k") };
    assert!(matches!(send(&store, &node, &other).await, Accepted::New(_)));
}

async fn of_many_that_send_the_same_at_once_one_makes_the_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let sendings: Vec<_> = (0..8).map(|_| sending(&store, "k")).collect();
    let answers = sendings.iter().map(|sending| send(&store, &node, sending));
    let answers = futures::future::join_all(answers).await;
    let new: Vec<_> = answers
        .iter()
        .filter_map(|answer| if let Accepted::New(job) = answer { Some(job.id()) } else { None })
        .collect();
    let [new] = new[..] else { panic!("{new:?}") };
    let known = answers.iter().filter(|answer| **answer == Accepted::Known(new)).count();
    assert_eq!(known, 7);
}

async fn what_was_sent_is_kept_through_all_that_becomes_of_the_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let sent = sending(&store, "k");
    let Accepted::New(job) = send(&store, &node, &sent).await else { panic!("it is new") };
    let job = walk(&store, &node, &job, [permanent(), settled()]).await;
    assert!(job.is_done());
    assert_eq!(load(&store, job.id()).await.unwrap().0.sent(), Some(&sent.sent), "in the history");
    assert_eq!(store.wish(job.id(), &Want::Retry, None).await.unwrap(), Wished::Noted);
    assert_eq!(load(&store, job.id()).await.unwrap().0.sent(), Some(&sent.sent), "and back again");
    assert_eq!(
        store.list(&JobQuery { limit: 9, ..JobQuery::default() }).await.unwrap().jobs,
        [job]
    );
}

async fn a_key_is_known_for_as_long_as_its_job(database: &impl Database) {
    let (store, node) = begin(database).await;
    let sent = sending(&store, "k");
    let Accepted::New(job) = send(&store, &node, &sent).await else { panic!("it is new") };
    walk(&store, &node, &job, [permanent(), settled()]).await;
    store.forget_jobs("elsewhere", at(9), ALL).await.unwrap();
    assert_eq!(send(&store, &node, &sending(&store, "k")).await, Accepted::Known(sent.id));
    // By its id a job that is sent now is of now.
    assert_eq!(store.forget_jobs("site", at(9), ALL).await.unwrap().gone.history, 1);
    assert_eq!(store.sent("site", &name("f"), "k").await.unwrap(), None);
    assert!(matches!(send(&store, &node, &sending(&store, "k")).await, Accepted::New(_)));
}

async fn a_node_that_is_fenced_off_takes_nothing_in(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert!(store.fence(node.id, None).await.unwrap());
    let sending = sending(&store, "k");
    let refused = store.accept_sent(&node, &sending, at(0)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(store.sent("site", &name("f"), "k").await.unwrap(), None);
    assert!(load(&store, sending.id).await.is_none());
}

async fn the_same_name_may_be_dropped_beside_it(database: &impl Database) {
    let (store, node) = begin(database).await;
    assert!(matches!(send(&store, &node, &sending(&store, "k")).await, Accepted::New(_)));
    let dropped = store.accept(&node, &[arrival("a/x.csv")], 1, at(0), None).await.unwrap();
    assert!(matches!(dropped[..], [Accepted::New(_)]));
}
