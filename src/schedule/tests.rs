use crate::fire::Reason;
use std::collections::BTreeSet;
use std::iter::successors;

use chrono::TimeZone;
use croner::{Cron, JobType};
use proptest::prelude::*;

use super::*;

const ZONES: [Tz; 6] = [
    Tz::America__New_York,
    Tz::Europe__Berlin,
    Tz::Australia__Sydney,
    // Half an hour.
    Tz::Australia__Lord_Howe,
    // Until 2018 its summer began with a day that had no midnight.
    Tz::America__Sao_Paulo,
    // So does that of Beirut, to this day.
    Tz::Asia__Beirut,
];

fn utc(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn schedule(cron: &str, timezone: Tz) -> Schedule {
    Schedule {
        feed: Name::try_from("churn".to_owned()).unwrap(),
        calendar: Calendar::new(cron, timezone, None, None).unwrap(),
        jitter: Duration::ZERO,
        missed: Missed::Last,
        catchup_window: Duration::from_hours(24),
        max_catchup: 10,
        on_resume: Missed::None,
        overlap: Overlap::QueueOne,
        max_queued: 10,
        pause_after_failures: None,
        expect_by: None,
    }
}

fn with_rules(cron: &str, timezone: Tz, gap: DstGap, repeat: DstRepeat) -> Schedule {
    let calendar = Calendar::new(cron, timezone, Some(gap), Some(repeat)).unwrap();
    Schedule { calendar, ..schedule(cron, timezone) }
}

fn nominal(schedule: &Schedule, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let fires = schedule.fires(from).map(|fire| fire.nominal);
    fires.take_while(|nominal| *nominal < until).collect()
}

/// The fires in local time, with the offset.
fn local(schedule: &Schedule, from: &str, until: &str) -> Vec<String> {
    let fires = nominal(schedule, utc(from), utc(until));
    let zone = schedule.calendar.timezone();
    fires.iter().map(|at| at.with_timezone(&zone).format("%d %H:%M%:::z").to_string()).collect()
}

/// What the library itself makes of a pattern in a zone.
///
/// Where it proves wrong it is not asked. In a repeated hour it tells the two copies of each time one after the other, so
/// its answers go back and forth, and `find_next_occurrence` from the second copy leads back into the first: its answers
/// are put in order. Its iterator leaves out every other second of a pattern that fires each second: none here does. It
/// makes up fires and stands still: see the two tests below.
fn by_the_library(
    cron: &str,
    zone: Tz,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Vec<DateTime<Utc>> {
    let cron: Cron = cron.parse().unwrap();
    let fires = cron.iter_after(from.with_timezone(&zone)).map(|at| at.to_utc());
    let fires: BTreeSet<_> = fires.take_while(|at| *at < until + TimeDelta::hours(3)).collect();
    let is_meant = |at: &DateTime<Utc>| {
        let local = at.with_timezone(&zone).naive_local().and_utc();
        let a_second_ago = (*at - TimeDelta::seconds(1)).with_timezone(&zone).naive_local();
        // From here to the fire there is no time, unless it comes after a gap.
        let nothing = a_second_ago.and_utc() + TimeDelta::seconds(1);
        cron.is_time_matching(&local).unwrap()
            || cron.find_next_occurrence(&nothing, true).unwrap() < local
    };
    fires.into_iter().filter(|at| *at < until && is_meant(at)).collect()
}

/// Its search for a fixed time walks by way of other times; where one of those does not exist, it takes it for the fixed
/// time and fires after the gap. This is a quarter past one, fired at three.
#[test]
fn the_library_makes_up_fires_after_a_gap() {
    let cron: Cron = "15 1 * * *".parse().unwrap();
    let from = utc("2021-03-14T06:15:00Z").with_timezone(&Tz::America__New_York);
    let library: Vec<_> = cron.iter_after(from).take(1).map(|at| at.to_string()).collect();
    let mended = "it is mended: `by_the_library` can do without `is_meant`";
    assert_eq!(library, ["2021-03-14 03:00:00 EDT"], "{mended}");
    let ours = schedule("15 1 * * *", Tz::America__New_York);
    assert_eq!(local(&ours, "2021-03-14T06:15:00Z", "2021-03-15T12:00:00Z"), ["15 01:15-04"]);
}

/// After the last second of a repeated hour it is back at the hour's begin, finds the same fire again, and so for ever.
#[test]
fn the_library_stands_still_at_the_end_of_a_repeated_hour() {
    let cron: Cron = "59 59 2 * * *".parse().unwrap();
    let from = utc("2027-10-30T12:00:00Z");
    let fires = cron.iter_after(from.with_timezone(&Tz::Europe__Berlin)).take(5);
    let library: BTreeSet<_> = fires.map(|at| at.to_utc()).collect();
    assert_eq!(library.len(), 1, "it is mended: let a pattern like this be compared");
    let ours = schedule("59 59 2 * * *", Tz::Europe__Berlin);
    let fires = local(&ours, "2027-10-30T12:00:00Z", "2027-11-02T00:00:00Z");
    assert_eq!(fires, ["31 02:59+02", "01 02:59+01"]);
}

fn january(year: i32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(year, 1, 1, 12, 0, 0).unwrap()
}

#[test]
fn without_rules_of_ones_own_a_calendar_is_the_librarys() {
    let cases = [
        "0 0 * * *",
        "30 0 * * *",
        "15 1 * * *",
        "30 1 * * SUN",
        "0 2 * * *",
        "15 2 * * *",
        "30 59 2 * * *",
        "0 3 * * *",
        "0 12 L * *",
        "0 9 15W * *",
        "*/20 * * * *",
        "5 * * * *",
        "0 1,2,3 * * SUN",
        "7,*/45 0-3 * * *",
        "*/30 */10 * * * *",
    ];
    let same = |cron, zone, from, until| {
        let (ours, library) =
            (nominal(&schedule(cron, zone), from, until), by_the_library(cron, zone, from, until));
        let differ = ours.iter().zip(&library).find(|(ours, library)| ours != library);
        assert_eq!((differ, ours.len()), (None, library.len()), "{cron} in {zone} from {from}");
    };
    for zone in ZONES {
        let every = schedule("* * * * *", zone);
        let changes = every.calendar.affected(january(2012), january(2022));
        assert!(changes.len() >= 12, "{zone}: {}", changes.len());
        let around =
            |cron, at| same(cron, zone, at - TimeDelta::hours(5), at + TimeDelta::hours(5));
        for change in &changes {
            for cron in cases {
                around(cron, change.at);
            }
        }
        // And between the changes.
        for cron in ["30 2 * * SUN", "0 0 1 * *", "30 2 * 3,10 SUN#2", "@yearly", "0 0 29 2 *"] {
            same(cron, zone, january(2012), january(2022));
        }
    }
}

fn field(max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..max).prop_map(|n| n.to_string()),
        1 => Just("*".to_owned()),
        1 => (2..max).prop_map(|n| format!("*/{n}")),
        1 => (0..max, 0..max).prop_map(|(a, b)| format!("{},{}", a.min(b), a.max(b))),
        1 => (0..max, 0..max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    let day = prop_oneof![4 => Just("*".to_owned()), 1 => (1..29_u32).prop_map(|n| n.to_string())];
    let weekday =
        prop_oneof![3 => Just("*"), 1 => Just("SUN"), 1 => Just("MON-FRI"), 1 => Just("0,3")];
    (field(60), field(24), day, weekday)
        .prop_map(|(m, h, day, weekday)| format!("{m} {h} {day} * {weekday}"))
}

fn any_zone() -> impl Strategy<Value = Tz> {
    (0..ZONES.len()).prop_map(|n| ZONES[n])
}

fn any_rules() -> impl Strategy<Value = (DstGap, DstRepeat)> {
    let gap = prop_oneof![Just(DstGap::RunAfter), Just(DstGap::Skip)];
    let repeat =
        prop_oneof![Just(DstRepeat::First), Just(DstRepeat::Second), Just(DstRepeat::Both)];
    (gap, repeat)
}

/// Around a change of the clocks: nothing happens elsewhere.
fn near_a_change(zone: Tz, pick: usize) -> DateTime<Utc> {
    let every = schedule("* * * * *", zone);
    let changes = every.calendar.affected(january(2012), january(2022));
    changes[pick % changes.len()].at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pattern_is_the_librarys_around_every_change(
        cron in pattern(), zone in any_zone(), pick in 0..100_usize,
    ) {
        let at = near_a_change(zone, pick);
        let (from, until) = (at - TimeDelta::hours(30), at + TimeDelta::hours(30));
        let ours = nominal(&schedule(&cron, zone), from, until);
        prop_assert_eq!(ours, by_the_library(&cron, zone, from, until));
    }

    /// By brute force: every minute of eight hours is asked whether the rules let it fire.
    #[test]
    fn with_any_rules_fires_are_what_the_rules_say_and_each_knows_the_one_before(
        cron in pattern(), zone in any_zone(), pick in 0..100_usize, (gap, repeat) in any_rules(),
    ) {
        let at = near_a_change(zone, pick);
        let (from, until) = (at - TimeDelta::hours(4), at + TimeDelta::hours(4));
        let schedule = with_rules(&cron, zone, gap, repeat);
        let parsed: Cron = cron.parse().unwrap();
        let matches = |local: chrono::NaiveDateTime| parsed.is_time_matching(&local.and_utc()).unwrap();
        let minutes = |from: DateTime<Utc>, until: DateTime<Utc>| {
            successors(Some(from), |at| Some(*at + TimeDelta::minutes(1))).take_while(move |at| *at < until)
        };
        let expected: Vec<_> = minutes(from + TimeDelta::minutes(1), until).filter(|at| {
            let local = at.with_timezone(&zone).naive_local();
            let before = (*at - TimeDelta::minutes(1)).with_timezone(&zone).naive_local();
            let gap_before = minutes(before.and_utc() + TimeDelta::minutes(1), local.and_utc());
            let from_gap = gap == DstGap::RunAfter && gap_before.into_iter().any(|at| matches(at.naive_utc()));
            let copy = match zone.from_local_datetime(&local) {
                chrono::LocalResult::Ambiguous(first, _) if repeat != DstRepeat::Both => {
                    (first == *at) == (repeat == DstRepeat::First)
                }
                _ => true,
            };
            from_gap || (matches(local) && copy)
        }).collect();
        let ours = nominal(&schedule, from, until);
        prop_assert_eq!(&ours, &expected);
        for pair in ours.windows(2) {
            prop_assert_eq!(schedule.window(pair[1]), (pair[0], pair[1]));
            let between = pair[0] + (pair[1] - pair[0]) / 2;
            prop_assert_eq!(schedule.calendar.next(between), Some(pair[1]));
            prop_assert_eq!(schedule.calendar.previous(between), Some(pair[0]));
        }
    }

    #[test]
    fn what_is_due_stays_in_order_and_before_the_next(
        cron in pattern(), zone in any_zone(), jitter_s in 0..200_000_u64, pick in 0..100_usize,
    ) {
        let schedule = Schedule { jitter: Duration::from_secs(jitter_s), ..schedule(&cron, zone) };
        let fires: Vec<_> = schedule.fires(near_a_change(zone, pick)).take(50).collect();
        for pair in fires.windows(2) {
            prop_assert!(pair[0].nominal <= pair[0].due && pair[0].due < pair[1].nominal);
            prop_assert!(pair[0].due - pair[0].nominal <= TimeDelta::seconds(jitter_s.try_into().unwrap()));
            prop_assert_eq!(schedule.fire(pair[0].nominal), pair[0], "the same by itself");
        }
    }

    #[test]
    fn no_text_brings_the_parser_down(text in "[0-9*,/LW#?+@A-Z -]{0,24}") {
        let _ = Calendar::new(&text, Tz::UTC, None, None);
    }
}

#[test]
fn the_rules_for_changes_of_the_clocks_are_kept() {
    let berlin = Tz::Europe__Berlin;
    let spring = ("2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z");
    let autumn = ("2027-10-30T12:00:00Z", "2027-10-31T12:00:00Z");
    let told = |cron, gap, repeat, (from, until): (&str, &str)| {
        local(&with_rules(cron, berlin, gap, repeat), from, until)
    };
    let daily = "30 2 * * *";
    let first = DstRepeat::First;
    assert_eq!(told(daily, DstGap::RunAfter, first, spring), ["28 03:00+02", "29 02:30+02"]);
    assert_eq!(told(daily, DstGap::Skip, first, spring), ["29 02:30+02"]);
    assert_eq!(told(daily, DstGap::Skip, first, autumn), ["31 02:30+02"]);
    assert_eq!(told(daily, DstGap::Skip, DstRepeat::Second, autumn), ["31 02:30+01"]);
    assert_eq!(told(daily, DstGap::Skip, DstRepeat::Both, autumn), ["31 02:30+02", "31 02:30+01"]);
    let often = "*/30 1-3 * * *";
    assert_eq!(
        told(often, DstGap::RunAfter, first, spring)[..5],
        ["28 01:00+01", "28 01:30+01", "28 03:00+02", "28 03:30+02", "29 01:00+02"],
        "what falls together fires once"
    );
    assert_eq!(
        told(often, DstGap::Skip, DstRepeat::Both, autumn),
        [
            "31 01:00+02",
            "31 01:30+02",
            "31 02:00+02",
            "31 02:30+02",
            "31 02:00+01",
            "31 02:30+01",
            "31 03:00+01",
            "31 03:30+01"
        ]
    );
}

/// Samoa had no 30 December 2011: the library gives up on so long a gap.
#[test]
fn a_day_that_a_zone_leaves_out_runs_after_it() {
    let schedule = schedule("0 12 30 12 *", Tz::Pacific__Apia);
    let fires = local(&schedule, "2011-12-01T00:00:00Z", "2012-12-31T12:00:00Z");
    assert_eq!(fires, ["31 00:00+14", "30 12:00+14"]);
}

#[test]
fn a_calendar_takes_what_is_a_cron_and_refuses_what_is_none() {
    for good in ["* * * * *", "0 0 2 * * *", "@daily", "@hourly", "0 0 * * SUN#1", "0 0 L * *"] {
        assert!(Calendar::new(good, Tz::UTC, None, None).is_ok(), "{good}");
    }
    for (wrong, why) in [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 2 * * * 2027", "six with seconds first"),
        ("", "five fields"),
        ("0 25 * * *", "no cron expression"),
        ("@reboot", "no cron expression"),
        ("at two", "no cron expression"),
    ] {
        let error = Calendar::new(wrong, Tz::UTC, None, None).unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
    let pause = |cron| Calendar::new(cron, Tz::UTC, None, None).unwrap().longest_pause_days();
    assert_eq!(pause("0 0 29 2 *"), 4 * 365 + 1);
    assert_eq!(pause("@yearly"), 366);
    assert_eq!(pause("* * * * *"), 0);
}

#[test]
fn a_zone_that_is_misspelt_is_told_with_the_right_word() {
    assert_eq!(timezone("Europe/Berlin"), Ok(Tz::Europe__Berlin));
    for (wrong, right) in [
        ("Europe/Berln", "Europe/Berlin?"),
        ("europe/berlin", "Europe/Berlin?"),
        ("America/New York", "America/New_York?"),
        ("Sydney", "Australia/Sydney?"),
        ("Middle-earth/Shire", "IANA"),
    ] {
        let error = timezone(wrong).unwrap_err();
        assert!(error.contains(right), "{wrong}: {error}");
    }
}

#[test]
fn a_jitter_is_the_same_for_ever_and_another_for_each_feed_and_fire() {
    let hourly = Schedule { jitter: Duration::from_mins(30), ..schedule("0 * * * *", Tz::UTC) };
    let due = |schedule: &Schedule| {
        let fires = schedule.fires(utc("2027-01-01T00:00:00Z")).take(3);
        fires.map(|fire| fire.due.format("%T%.3f").to_string()).collect::<Vec<_>>()
    };
    let frozen = due(&hourly);
    assert_eq!(
        frozen,
        ["01:02:43.283", "02:18:50.442", "03:15:27.135"],
        "what nodes of another version draw"
    );
    let other = Schedule { feed: Name::try_from("chura".to_owned()).unwrap(), ..hourly };
    assert_ne!(due(&other), frozen);
}

#[test]
fn a_preview_tells_what_a_change_of_the_clocks_does() {
    let berlin = Tz::Europe__Berlin;
    let daily = schedule("30 2 * * *", berlin);
    let notes = |schedule: &Schedule, after| {
        let shown = schedule.preview(6, utc(after)).into_iter();
        shown.filter_map(|shown| shown.note).collect::<Vec<_>>()
    };
    assert_eq!(
        notes(&daily, "2027-03-26T12:00:00Z"),
        ["02:30 does not exist that day: runs at 03:00"]
    );
    assert_eq!(notes(&daily, "2027-10-29T12:00:00Z"), ["02:30 comes twice: runs the first time"]);
    let both = with_rules("30 2 * * *", berlin, DstGap::Skip, DstRepeat::Both);
    assert_eq!(
        notes(&both, "2027-10-29T12:00:00Z"),
        ["02:30 comes twice: runs the first time", "02:30 comes twice: runs the second time"]
    );
    assert_eq!(notes(&both, "2027-03-26T12:00:00Z"), [""; 0]);
    let affected = |schedule: &Schedule| {
        let affected = schedule.affected(utc("2026-11-23T00:00:00Z"));
        affected.into_iter().map(|a| format!("{} {}", a.date, a.what)).collect::<Vec<_>>()
    };
    assert_eq!(
        affected(&both),
        [
            "2027-03-28 02:30 does not exist that day: skipped",
            "2027-10-31 02:30 comes twice: runs both times"
        ]
    );
    assert_eq!(
        affected(&schedule("*/5 * * * *", Tz::Australia__Lord_Howe)),
        [
            "2027-04-04 01:30 and others come twice: run both times",
            "2027-10-03 02:00 and others do not exist that day: skipped"
        ]
    );
    assert_eq!(affected(&schedule("0 12 * * *", berlin)), [""; 0]);
    assert_eq!(affected(&schedule("* * * * *", Tz::UTC)), [""; 0]);
}

#[test]
fn something_is_expected_by_a_time_of_the_day_or_so_long_after() {
    let nightly = schedule("0 22 * * *", Tz::Europe__Berlin);
    let by = |expect_by, nominal| {
        let schedule = Schedule { expect_by, ..nightly.clone() };
        schedule.expected_by(utc(nominal)).map(|at| at.to_rfc3339())
    };
    let at = |h, m| Some(ExpectBy::TimeOfDay(NaiveTime::from_hms_opt(h, m, 0).unwrap()));
    assert_eq!(by(at(6, 0), "2027-01-01T21:00:00Z").unwrap(), "2027-01-02T05:00:00+00:00");
    assert_eq!(by(at(22, 30), "2027-01-01T21:00:00Z").unwrap(), "2027-01-01T21:30:00+00:00");
    assert_eq!(by(at(22, 0), "2027-01-01T21:00:00Z").unwrap(), "2027-01-02T21:00:00+00:00");
    assert_eq!(by(at(2, 30), "2027-03-27T21:00:00Z").unwrap(), "2027-03-28T01:00:00+00:00");
    let hours = Some(ExpectBy::After(Duration::from_hours(4)));
    assert_eq!(by(hours, "2027-01-01T21:00:00Z").unwrap(), "2027-01-02T01:00:00+00:00");
    assert_eq!(by(None, "2027-01-01T21:00:00Z"), None);
}

/// Ten years of a clock that goes on by fits and starts bring what the preview showed before them.
#[test]
fn ten_years_bring_what_the_preview_showed() {
    let (begin, end) = (utc("2026-11-23T00:00:00Z"), utc("2036-11-23T00:00:00Z"));
    for zone in
        [Tz::America__New_York, Tz::Europe__Berlin, Tz::Australia__Sydney, Tz::Australia__Lord_Howe]
    {
        for (cron, jitter) in
            [("30 2 * * *", 0), ("30 2 * * *", 7200), ("15 1,2 * * *", 0), ("0 */6 * * *", 3600)]
        {
            let schedule = Schedule { jitter: Duration::from_secs(jitter), ..schedule(cron, zone) };
            let (mut now, mut last, mut seed) = (begin, begin, 1_u64);
            let mut happened = Vec::new();
            while now < end {
                // From a second to some days: what a busy, a suspended and a stopped machine does.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let step = [7, 61, 3_599, 40_000, 300_000][(seed >> 33) as usize % 5];
                now = end.min(now + TimeDelta::seconds(step));
                for fire in schedule.fires(last).take_while(|fire| fire.due <= now) {
                    happened.push(fire);
                    last = fire.nominal;
                }
            }
            let shown = schedule.preview(happened.len() + 1, begin);
            let shown: Vec<_> = shown.into_iter().map(|shown| shown.fire).collect();
            assert!(happened.len() > 3600, "{}", happened.len());
            assert_eq!(shown[..happened.len()], happened, "{cron} in {zone}");
            assert!(shown[happened.len()].due > end, "{cron} in {zone}: one did not happen");
        }
    }
}

fn ran(decided: &CatchUp) -> Vec<String> {
    let shown = |run: &Run| {
        let flag = if run.catch_up { " caught up" } else { "" };
        format!("{}{flag}", run.fire.nominal.format("%d %H:%M"))
    };
    decided.run.iter().map(shown).collect()
}

fn skipped(decided: &CatchUp) -> Vec<String> {
    let shown = |(fire, skip): &(Fire, Reason)| {
        format!("{} {}", fire.nominal.format("%d %H:%M"), skip.name())
    };
    decided.skipped.iter().map(shown).collect()
}

#[test]
fn missed_fires_run_as_the_policy_says() {
    let hourly = |missed| Schedule {
        missed,
        catchup_window: Duration::from_mins(150),
        max_catchup: 2,
        ..schedule("0 * * * *", Tz::UTC)
    };
    // Missed are those of 1 to 5 o'clock.
    let (last, now) = (utc("2027-01-01T00:00:00Z"), utc("2027-01-01T05:20:00Z"));
    let decided = |missed| hourly(missed).catch_up(last, Absence::Away, now);
    assert_eq!(ran(&decided(Missed::None)), [""; 0]);
    assert_eq!(skipped(&decided(Missed::None)).len(), 5);
    assert_eq!(ran(&decided(Missed::Last)), ["01 05:00 caught up"]);
    assert_eq!(
        skipped(&decided(Missed::Last)),
        ["01 01:00 late", "01 02:00 late", "01 03:00 superseded", "01 04:00 superseded"]
    );
    assert_eq!(ran(&decided(Missed::All)), ["01 04:00 caught up", "01 05:00 caught up"]);
    assert_eq!(
        skipped(&decided(Missed::All)),
        ["01 01:00 late", "01 02:00 late", "01 03:00 too_many"]
    );
    // What is due just now is not missed.
    let now = utc("2027-01-01T05:00:30Z");
    for (missed, runs) in [(Missed::None, 1), (Missed::Last, 1), (Missed::All, 2)] {
        let decided = hourly(missed).catch_up(last, Absence::Away, now);
        assert_eq!(decided.run.len(), runs, "{missed:?}");
        assert_eq!(ran(&decided).last().unwrap(), "01 05:00", "{missed:?}");
    }
    // Long ago is too late even for the last.
    let yearly = Schedule { missed: Missed::Last, ..schedule("@yearly", Tz::UTC) };
    let decided = yearly.catch_up(january(2025), Absence::Away, utc("2027-01-04T00:00:00Z"));
    assert_eq!((ran(&decided).len(), skipped(&decided).len()), (0, 2));
}

#[test]
fn the_end_of_a_pause_starts_nothing_unless_it_is_said_to() {
    let hourly = |on_resume| Schedule { on_resume, ..schedule("0 * * * *", Tz::UTC) };
    let (last, now) = (utc("2027-01-01T00:00:00Z"), utc("2027-01-01T03:00:10Z"));
    let decided = |on_resume| hourly(on_resume).catch_up(last, Absence::Paused, now);
    assert_eq!(ran(&decided(Missed::None)), [""; 0], "not even what is due just now");
    assert_eq!(skipped(&decided(Missed::None))[2], "01 03:00 paused");
    assert_eq!(ran(&decided(Missed::Last)), ["01 03:00 caught up"]);
    assert_eq!(ran(&decided(Missed::All)).len(), 3);
}

#[test]
fn no_fire_is_decided_about_twice_and_none_before_it_is_due() {
    for missed in [Missed::None, Missed::Last, Missed::All] {
        let schedule = Schedule {
            missed,
            jitter: Duration::from_mins(3),
            max_catchup: 1000,
            ..schedule("*/5 * * * *", Tz::Europe__Berlin)
        };
        let begin = utc("2027-03-27T22:00:00Z");
        let (mut last, mut now, mut seen) = (begin, begin, Vec::new());
        // A clock that is set back and forth.
        for step in [240, 1, 7200, -7200, 5000, 60, -3600, 3000, 9000, 0, 30] {
            now += TimeDelta::seconds(step);
            let decided = schedule.catch_up(last, Absence::Away, now);
            let fires = decided.run.iter().map(|run| run.fire);
            let mut fires: Vec<_> = fires.chain(decided.skipped.iter().map(|(f, _)| *f)).collect();
            fires.sort_unstable();
            assert!(fires.iter().all(|fire| fire.due <= now));
            last = fires.last().map_or(last, |fire| fire.nominal);
            seen.extend(fires);
        }
        let all: Vec<_> = schedule.fires(begin).take(seen.len()).collect();
        assert!(seen.len() > 40);
        assert_eq!(seen, all, "{missed:?}");
    }
}

/// A schedule of every second that nobody ran for a year: 31 million fires.
#[test]
fn a_year_of_missed_seconds_ends_in_a_few_runs_and_a_sum() {
    let (last, now) = (utc("2026-01-01T00:00:00Z"), utc("2027-01-01T00:00:00Z"));
    for missed in [Missed::None, Missed::Last, Missed::All] {
        let schedule = Schedule { missed, ..schedule("* * * * * *", Tz::America__New_York) };
        let decided = schedule.catch_up(last, Absence::Away, now);
        assert_eq!(decided.run.len(), if missed == Missed::All { 10 } else { 1 });
        assert_eq!(decided.run.last().unwrap().fire.nominal, now);
        assert_eq!(decided.skipped.len(), CatchUp::TOLD);
        let (first, end) = (decided.rest[0], *decided.rest.last().unwrap());
        assert_eq!(first.first, last + TimeDelta::seconds(1));
        assert_eq!(end.last, decided.skipped[0].0.nominal - TimeDelta::seconds(1));
        assert_eq!((first.count, first.reason), (None, Reason::Late));
        assert_eq!(decided.rest.len(), if missed == Missed::None { 1 } else { 2 });
        // And then it goes on.
        let after = schedule.catch_up(now, Absence::Away, now + TimeDelta::seconds(1));
        assert_eq!((after.run.len(), after.skipped.len(), after.rest.len()), (1, 0, 0));
    }
}

#[test]
fn a_sum_counts_what_can_be_counted_and_no_fire_twice() {
    let schedule = Schedule { missed: Missed::All, ..schedule("* * * * *", Tz::UTC) };
    let (last, now) = (utc("2027-01-01T00:00:00Z"), utc("2027-01-03T00:00:00Z"));
    let decided = schedule.catch_up(last, Absence::Away, now);
    let counts: Vec<_> = decided.rest.iter().map(|rest| (rest.count, rest.reason)).collect();
    assert_eq!(counts, [(Some(1439), Reason::Late), (Some(1441 - 1010), Reason::TooMany)]);
    assert_eq!(decided.rest[1].first, utc("2027-01-02T00:00:00Z"));
}

#[test]
fn the_library_sorts_patterns_as_the_calendars_rules_want_it() {
    let kind = |cron: &str| cron.parse::<Cron>().unwrap().determine_job_type();
    assert_eq!(kind("30 2 * * MON-FRI"), JobType::FixedTime);
    for often in ["* 2 * * *", "30 * * * *", "0 2,3 * * *", "*/60 2 * * *"] {
        assert_eq!(kind(often), JobType::IntervalWildcard, "{often}");
    }
}
