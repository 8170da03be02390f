//! Calls that all nodes share.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use scoreline::ports::{CallLimits, Draw, Drawn};

use super::*;

every_store! {
    nodes_that_draw_at_once_are_granted_no_more_than_there_is
    what_is_granted_survives_whoever_it_was_granted_to
    each_budget_has_calls_of_its_own
    less_than_is_of_use_is_left_to_others
    a_share_of_the_week_is_kept_for_whoever_may_have_it
    a_look_takes_nothing
}

const MINUTE: CallLimits = CallLimits { per_minute: Some(5), per_week: None };

async fn draw(store: &impl Store, budget: &str, limits: CallLimits, draw: Draw) -> Drawn {
    store.draw(&name(budget), limits, draw, SystemClock.now()).await.unwrap()
}

fn up_to(most: u32) -> Draw {
    Draw { least: 1, most, keep: 0 }
}

async fn nodes_that_draw_at_once_are_granted_no_more_than_there_is(database: &impl Database) {
    let store = database.open().await;
    let limits = CallLimits { per_minute: Some(7), per_week: Some(100) };
    let draws = (0..20).map(|n| draw(&store, "b", limits, up_to(1 + n % 3)));
    let answers = futures::future::join_all(draws).await;
    assert_eq!(answers.iter().map(|answers| answers.granted).sum::<u32>(), 7);
    let last = draw(&store, "b", limits, up_to(1)).await;
    assert_eq!((last.granted, last.minute_left, last.week_left), (0, Some(0), Some(93)));
    let range = Duration::from_secs(30)..=Duration::from_secs(63);
    assert!(range.contains(&last.again), "{last:?}");
    let week = Duration::from_hours(7 * 24);
    let last_minute = week.saturating_sub(Duration::from_mins(1));
    assert!(last.week_ends <= week && last.week_ends > last_minute, "{last:?}");
}

async fn what_is_granted_survives_whoever_it_was_granted_to(database: &impl Database) {
    let store = database.open().await;
    let node = store.register("a", "site", TERM).await.unwrap();
    assert_eq!(draw(&store, "b", MINUTE, up_to(4)).await.granted, 4);
    store.retire(&node, &[]).await.unwrap();
    drop(store);
    let store = database.open().await;
    assert_eq!(draw(&store, "b", MINUTE, up_to(4)).await.granted, 1);
}

async fn each_budget_has_calls_of_its_own(database: &impl Database) {
    let store = database.open().await;
    for budget in ["a", "b"] {
        assert_eq!(draw(&store, budget, MINUTE, up_to(9)).await.granted, 5);
    }
    let wider = CallLimits { per_minute: Some(6), ..MINUTE };
    assert_eq!(draw(&store, "a", wider, up_to(9)).await.granted, 1, "it was raised");
}

async fn less_than_is_of_use_is_left_to_others(database: &impl Database) {
    let store = database.open().await;
    assert_eq!(draw(&store, "b", MINUTE, up_to(4)).await.granted, 4);
    let two = draw(&store, "b", MINUTE, Draw { least: 2, most: 2, keep: 0 }).await;
    assert_eq!((two.granted, two.minute_left), (0, Some(1)));
    assert!(two.again > Duration::ZERO);
    assert_eq!(draw(&store, "b", MINUTE, up_to(2)).await.granted, 1);
}

async fn a_share_of_the_week_is_kept_for_whoever_may_have_it(database: &impl Database) {
    let store = database.open().await;
    let week = CallLimits { per_minute: None, per_week: Some(10) };
    let keeping = Draw { least: 1, most: 20, keep: 3 };
    assert_eq!(draw(&store, "b", week, keeping).await.granted, 7);
    let drawn = draw(&store, "b", week, keeping).await;
    assert_eq!((drawn.granted, drawn.week_left, drawn.minute_left), (0, Some(3), None));
    assert_eq!(drawn.again, drawn.week_ends);
    assert_eq!(draw(&store, "b", week, up_to(20)).await.granted, 3);
    assert_eq!(draw(&store, "b", week, up_to(20)).await.granted, 0);
}

async fn a_look_takes_nothing(database: &impl Database) {
    let store = database.open().await;
    let limits = CallLimits { per_minute: Some(5), per_week: Some(50) };
    for (drawn_before, look) in [(0, Draw::default()), (2, Draw::default())] {
        draw(&store, "b", limits, up_to(drawn_before)).await;
        let seen = draw(&store, "b", limits, look).await;
        assert_eq!(seen.minute_left, Some(5 - drawn_before));
        assert_eq!((seen.granted, seen.week_left), (0, Some(50 - drawn_before)));
        assert_eq!(seen.again, Duration::ZERO);
    }
}

/// By the caller's clock on the two that have none of their own; it may be set back.
#[tokio::test]
async fn the_minute_slides_and_a_clock_that_was_set_back_blocks_for_one_window() {
    async fn slides(database: &impl Database) {
        let store = database.open().await;
        let at = async |seconds: i64| {
            let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds);
            store.draw(&name("b"), MINUTE, up_to(1), now).await.unwrap().granted
        };
        for (now, granted) in [
            (0, 1),
            (10, 1),
            (20, 1),
            (30, 1),
            (40, 1),
            (50, 0),
            (62, 0),
            (63, 1),
            (64, 0),
            (73, 1),
            (74, 0),
            (-5000, 0),
            (-4938, 0),
            (-4937, 1),
        ] {
            assert_eq!(at(now).await, granted, "at {now}");
        }
    }
    slides(&Memory::fresh()).await;
    slides(&Sqlite::fresh()).await;
}

#[tokio::test]
async fn on_a_server_its_own_clock_counts_and_not_the_nodes() {
    let database = Postgres::fresh();
    let store = database.open().await;
    let limits = CallLimits { per_minute: Some(2), per_week: Some(3) };
    let at = async |hours: i64| {
        let now = SystemClock.now() + TimeDelta::hours(hours);
        let drawn = store.draw(&name("b"), limits, up_to(1), now).await.unwrap();
        (drawn.granted, drawn.minute_left.unwrap(), drawn.week_left.unwrap())
    };
    let ages = async |time: &str| {
        let calls = format!("ARRAY(SELECT t - interval '{time}' FROM unnest(calls) AS t)");
        let sql = format!(
            "UPDATE scoreline.budget SET calls = {calls}, week_began = week_began - interval '{time}'"
        );
        database.0.by_hand(&sql).await;
    };
    assert_eq!(at(0).await, (1, 1, 2));
    assert_eq!(at(9999).await, (1, 0, 1));
    assert_eq!(at(-9999).await, (0, 0, 1));
    ages("62 s").await;
    assert_eq!(at(0).await, (0, 0, 1));
    ages("1 s").await;
    assert_eq!(at(0).await, (1, 1, 0));
    ages("1 hour").await;
    assert_eq!(at(0).await, (0, 2, 0));
    ages("7 days").await;
    assert_eq!(at(0).await, (1, 1, 2));
    // Its own clock was set back.
    ages("-99 days").await;
    assert_eq!(at(0).await, (1, 0, 1));
    ages("63 s").await;
    assert_eq!(at(0).await, (1, 1, 0));
    ages("7 days").await;
    assert_eq!(at(0).await, (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_server_share_what_there_is() {
    let database = Postgres::fresh();
    let (a, b) = tokio::join!(database.open(), database.open());
    let limits = CallLimits { per_minute: Some(50), per_week: None };
    let draws = |store| async move {
        let draws = (0..40).map(|n| draw(store, "b", limits, up_to(1 + n % 3)));
        let answers = futures::future::join_all(draws).await;
        answers.iter().map(|answers| answers.granted).sum::<u32>()
    };
    let (a, b) = tokio::join!(draws(&a), draws(&b));
    assert_eq!(a + b, 50, "{a} and {b}");
}
