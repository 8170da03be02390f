use uuid::Uuid;

use super::purse::{AGAIN_MAX, spacing};
use super::*;

const NOW: Duration = Duration::from_secs(1000);
const ALL: Reach<bool> = Reach { last: true, rest: true };

fn id(n: u128) -> JobId {
    JobId::new(Uuid::from_u128(n))
}

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

fn purse(per_minute: Option<u32>, per_week: Option<u32>) -> Purse {
    Purse::new(CallLimits { per_minute, per_week })
}

/// Jobs that wait, in this order: kind, feed and number.
fn line(waiting: &[(Kind, &str, u128)]) -> Purse {
    let mut purse = purse(Some(5), None);
    for (kind, feed, n) in waiting {
        let price = if *kind == Kind::Cancel { 2 } else { 1 };
        purse.wait(&name(feed), id(*n), calls_to(feed), (*kind, price), NOW);
    }
    purse
}

/// Where each feed has an endpoint of its name.
fn calls_to(feed: &str) -> Lane {
    Lane::Calls(name(feed))
}

fn number(served: &Served) -> u128 {
    match served {
        Served::Probe(_) => 0,
        Served::Job { ticket, .. } => ticket.job.uuid().as_u128(),
    }
}

fn serve(purse: &mut Purse, reach: Reach<bool>, now: Duration) -> Option<u128> {
    let served = purse.next(9, reach, now, |_| true, |_, _| There::Here)?;
    purse.paid(&served, now);
    Some(number(&served))
}

/// All who are served, one after the other.
fn all(mut purse: Purse) -> Vec<u128> {
    std::iter::from_fn(|| serve(&mut purse, ALL, NOW)).collect()
}

#[test]
fn what_ends_or_starts_a_run_comes_before_a_new_one_and_that_before_looks() {
    let order = line(&[
        (Kind::Poll, "f", 1),
        (Kind::Submit, "f", 2),
        (Kind::Deliver, "f", 3),
        (Kind::Start, "f", 4),
        (Kind::Cancel, "f", 5),
    ]);
    // The cancel costs two calls: then it is a look's turn.
    assert_eq!(all(order), [5, 1, 4, 3, 2]);
}

#[test]
fn one_call_in_three_is_a_looks_while_looks_wait_and_they_go_in_their_order() {
    let mut waiting = Vec::new();
    for n in 0..4 {
        waiting.extend([(Kind::Poll, "f", 10 + n), (Kind::Submit, "f", 20 + n)]);
        waiting.push((Kind::Start, "f", 30 + n));
    }
    assert_eq!(all(line(&waiting)), [30, 31, 10, 32, 33, 11, 20, 21, 12, 22, 23, 13]);
}

#[test]
fn each_feed_has_its_turn_within_a_kind() {
    let order = line(&[
        (Kind::Poll, "a", 1),
        (Kind::Poll, "a", 2),
        (Kind::Poll, "a", 3),
        (Kind::Poll, "b", 4),
    ]);
    assert_eq!(all(order), [1, 4, 2, 3]);
}

#[test]
fn whoever_comes_back_has_kept_the_place_and_whoever_wants_something_else_has_not() {
    let mut purse = line(&[(Kind::Poll, "f", 1), (Kind::Poll, "f", 2), (Kind::Poll, "f", 3)]);
    purse.wait(&name("f"), id(1), calls_to("f"), (Kind::Poll, 1), NOW * 2);
    assert_eq!(purse.waiting[&id(1)].since, NOW * 2);
    purse.wait(&name("f"), id(2), calls_to("f"), (Kind::Cancel, 2), NOW);
    let served: Vec<_> = std::iter::from_fn(|| serve(&mut purse, ALL, NOW)).collect();
    assert_eq!(served, [2, 1, 3], "each of them once");
    assert!(purse.waiting.is_empty());
}

#[test]
fn those_who_are_away_are_passed_over_and_those_who_are_gone_forgotten() {
    let mut purse = line(&[(Kind::Poll, "f", 1), (Kind::Poll, "f", 2), (Kind::Poll, "f", 3)]);
    let there = |job: JobId, _: &Waiting| match job.uuid().as_u128() {
        1 => There::Away,
        2 => There::Gone,
        _ => There::Here,
    };
    let served = purse.next(1, ALL, NOW, |_| true, there).unwrap();
    assert_eq!(number(&served), 3);
    purse.paid(&served, NOW);
    assert_eq!(all(purse), [1]);
}

#[test]
fn who_can_not_be_called_stands_in_nobodys_way() {
    let mut purse = line(&[(Kind::Start, "shut", 1), (Kind::Cancel, "f", 2), (Kind::Poll, "f", 3)]);
    // A job of the feed whose call goes to another endpoint, as an old run's does, waits for that one alone.
    purse.wait(&name("f"), id(4), calls_to("shut"), (Kind::Start, 1), NOW);
    purse.wait(&name("shut"), id(5), calls_to("f"), (Kind::Poll, 1), NOW);
    let there = |_, waiting: &Waiting| {
        if waiting.lane == calls_to("f") { There::Here } else { There::Away }
    };
    let next = |purse: &mut Purse| {
        let served = purse.next(1, ALL, NOW, |_| true, there);
        served.as_ref().map(|served| (purse.paid(served, NOW), number(served)).1)
    };
    assert_eq!(next(&mut purse), Some(3), "the cancel needs two");
    assert_eq!(next(&mut purse), Some(5));
    assert_eq!(next(&mut purse), None);
    assert_eq!(all(purse), [2, 1, 4]);
}

#[test]
fn those_who_were_only_seen_are_served_as_if_they_had_not_been() {
    let waiting: Vec<_> = (0..9).map(|n| (Kind::ALL[n % 5], "f", n as u128 + 1)).collect();
    let mut seen_before = line(&waiting);
    seen_before.probes.insert(name("e"));
    let seen = |purse: &mut Purse| {
        let next = || purse.next(9, ALL, NOW, |_| true, |_, _| There::Here);
        std::iter::from_fn(next).take(6).collect::<Vec<_>>()
    };
    let first = seen(&mut seen_before);
    seen_before.put_back(first.clone(), 0);
    assert_eq!(seen(&mut seen_before), first);
    assert_eq!(number(&first[0]), 0, "the probe");
}

#[test]
fn so_much_is_drawn_as_those_need_who_reach_equally_far() {
    let mut purse = line(&[(Kind::Cancel, "f", 1), (Kind::Start, "f", 2), (Kind::Submit, "f", 3)]);
    purse.limits.per_week = Some(100);
    let next = || purse.next(9, ALL, NOW, |_| true, |_, _| There::Here);
    let seen: Vec<_> = std::iter::from_fn(next).collect();
    assert_eq!(purse.draw_for(&seen), Draw { least: 2, most: 3, keep: 0 });
    assert_eq!(purse.draw_for(&seen[2..]), Draw { least: 1, most: 1, keep: 5 });
    assert_eq!(purse.draw_for(&[]), Draw::default(), "a look");
}

#[test]
fn a_last_share_of_the_week_is_for_runs_that_exist() {
    let mut purse = line(&[(Kind::Submit, "f", 1), (Kind::Poll, "f", 2), (Kind::Start, "f", 3)]);
    let draw = Draw { least: 1, most: 1, keep: 5 };
    let again = Duration::from_hours(99);
    purse.answered(draw, Drawn { again, ..Drawn::default() }, NOW);
    assert_eq!(purse.ask_at, Reach { last: Duration::ZERO, rest: NOW + AGAIN_MAX });
    let vital = Reach { last: true, rest: false };
    assert_eq!(serve(&mut purse, vital, NOW), Some(3));
    assert_eq!(serve(&mut purse, vital, NOW), None);
    purse.answered(Draw { keep: 0, ..draw }, Drawn { again, ..Drawn::default() }, NOW * 2);
    assert_eq!(purse.ask_at.last, NOW * 2 + AGAIN_MAX);
}

#[test]
fn single_calls_are_drawn_where_there_are_few_and_several_where_there_are_many() {
    for (per_minute, at_once) in
        [(Some(2), 1), (Some(5), 1), (Some(60), 3), (Some(600), 30), (Some(60_000), 30), (None, 10)]
    {
        assert_eq!(purse(per_minute, Some(9)).at_once(), at_once, "{per_minute:?} a minute");
    }
}

#[test]
fn looks_are_spaced_wider_as_the_week_runs_down() {
    let week = Duration::from_hours(7 * 24);
    let minutes = |left, ends| spacing(100, left, ends).as_secs() / 60;
    for (left, expected) in
        [(100, 0), (51, 0), (50, 0), (49, 4), (45, 22), (40, 50), (25, 201), (10, 806), (5, 1814)]
    {
        assert_eq!(minutes(left, week), expected, "{left} left");
    }
    assert_eq!(minutes(0, week), 10080, "until it ends");
    assert_eq!(minutes(10, week / 7), 115, "what is left has less time to last");
    assert_eq!(minutes(10, Duration::ZERO), 0);
    assert!(spacing(0, 0, week) <= week);
}

#[test]
fn a_look_waits_for_the_spacing_and_a_start_does_not() {
    let mut purse = line(&[(Kind::Poll, "f", 1), (Kind::Poll, "f", 2), (Kind::Start, "f", 3)]);
    purse.since_poll = 2;
    purse.limits.per_week = Some(100);
    purse.left = Drawn { week_left: Some(45), week_ends: Duration::from_hours(168), ..purse.left };
    assert_eq!(serve(&mut purse, ALL, NOW), Some(1));
    let soon = NOW + Duration::from_mins(22);
    assert_eq!(serve(&mut purse, ALL, soon), Some(3));
    assert_eq!(serve(&mut purse, ALL, soon), None);
    assert_eq!(serve(&mut purse, ALL, soon + Duration::from_mins(1)), Some(2));
}
