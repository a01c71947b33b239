//! The choice, step by step: what it begins with, and what it makes of what comes back.

use super::*;
use crate::store::BucketInfo;

const MANY: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

fn chooser() -> Chooser {
    let bucket = BucketInfo { soft_delete: Some(Duration::ZERO), ..BucketInfo::default() };
    let mut chooser = Chooser::new(ChooserConfig {
        max_bytes: 32 * KIB,
        budget: 1 << 30,
        ahead: 65_536,
        share: 1.0,
        prices: Prices::of(&bucket),
        pay_for_speed: true,
    });
    chooser.began(Duration::ZERO, (false, false));
    chooser
}

fn ceilings(may_write: bool, waiting: usize) -> ServiceCeilings {
    let lane = |waiting| CallCeiling { at_once: 1_024, in_flight: 0, waiting, rate: None };
    ServiceCeilings { reads: lane(0), writes: lane(waiting), may_write }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Groups of 32 samples of a KiB until one is joined, or none is let through.
fn until_joined(chooser: &mut Chooser, left: u64, ceilings: &ServiceCeilings) -> (Vec<Admission>, Option<Admission>) {
    let mut alone = Vec::new();
    while alone.len() < 1_000 {
        match chooser.admit(Duration::ZERO, (32, 32 * KIB, 32 * KIB), left - 32 * alone.len() as u64, ceilings) {
            Some(turn) if turn.composed => return (alone, Some(turn)),
            Some(turn) => alone.push(turn),
            None => break,
        }
    }
    (alone, None)
}

/// One that began joined, and whose first compose came back after `took`; all reads before it wait for their calls.
fn after_the_first(took: Duration, left: u64) -> Chooser {
    let mut chooser = chooser();
    let (alone, joined) = until_joined(&mut chooser, left, &ceilings(true, 0));
    for turn in alone {
        (0..32).for_each(|_| chooser.begins(turn));
    }
    let turn = joined.unwrap();
    chooser.begins(turn);
    chooser.ended(took, turn, Some((32, took)));
    chooser
}

#[test]
fn small_objects_are_joined_behind_what_reads_bring_meanwhile() {
    let mut chooser = chooser();
    let (alone, joined) = until_joined(&mut chooser, MANY, &ceilings(true, 0));
    assert!(joined.is_some() && chooser.way == ReadMode::Mixed, "{chooser:?}");
    assert!((3_000..4_000).contains(&(32 * alone.len())), "{}", alone.len());
}

#[test]
fn until_a_compose_is_back_all_is_joined_but_for_what_reads_bring_meanwhile() {
    for (followed, most) in [(false, 24_000 - 3_750 - 5_000), (true, 24_000 - 3_750)] {
        let mut chooser = chooser();
        chooser.began(Duration::ZERO, (false, followed));
        let mut joined = 0;
        for left in (0..750).rev().map(|groups| groups * 32) {
            let turn = chooser.admit(Duration::ZERO, (32, 32 * KIB, 32 * KIB), left, &ceilings(true, 0)).unwrap();
            (0..if turn.composed { 1 } else { 32 }).for_each(|_| chooser.begins(turn));
            joined += if turn.composed { 32 } else { 0 };
            if !turn.composed {
                (0..32).for_each(|_| chooser.ended(millis(1), turn, Some((1, millis(1)))));
            }
        }
        assert!((most - 64..most + 64).contains(&joined), "{followed}: {joined}");
    }
}

#[test]
fn an_epoch_whose_end_is_not_known_goes_on_joining() {
    let mut chooser = chooser();
    for _ in 0..500 {
        let turn = chooser.admit(Duration::ZERO, (32, 32 * KIB, 32 * KIB), u64::MAX, &ceilings(true, 0)).unwrap();
        (0..if turn.composed { 1 } else { 32 }).for_each(|_| chooser.begins(turn));
    }
    assert_eq!(chooser.out[COMPOSED], 500 - 3_750_usize.div_ceil(32), "{chooser:?}");
}

#[test]
fn where_composing_is_unproven_or_nearly_all_is_refused_two_are_tried() {
    let slow =
        ServiceCeilings { writes: CallCeiling { rate: Some(50.0), ..ceilings(true, 0).writes }, ..ceilings(true, 0) };
    for ceilings in [ceilings(false, 0), slow] {
        let mut chooser = chooser();
        assert!(until_joined(&mut chooser, MANY, &ceilings).1.is_some());
        assert!(until_joined(&mut chooser, MANY, &ceilings).1.is_some());
        assert_eq!((until_joined(&mut chooser, MANY, &ceilings).1, chooser.way), (None, ReadMode::Direct));
    }
}

#[test]
fn first_composes_that_fail_are_the_last_for_now() {
    let mut chooser = chooser();
    let turn = until_joined(&mut chooser, MANY, &ceilings(true, 0)).1.unwrap();
    chooser.begins(turn);
    // Dropped with its epoch, which says nothing of composing.
    let mut dropped = chooser.clone();
    dropped.ended(millis(50), turn, None);
    assert_eq!(dropped.way, ReadMode::Mixed);
    chooser.failed(millis(50), turn);
    chooser.ended(millis(50), turn, None);
    assert_eq!(chooser.choice().to_string(), "direct: the first composes failed");
    // A failure later on is one of many reads.
    let mut chooser = self::chooser();
    let ceilings = ceilings(true, 0);
    let turns: Vec<_> = (0..2).filter_map(|_| until_joined(&mut chooser, MANY, &ceilings).1).collect();
    for turn in &turns {
        chooser.begins(*turn);
    }
    chooser.ended(millis(900), turns[0], Some((32, millis(900))));
    chooser.failed(millis(910), turns[1]);
    chooser.ended(millis(910), turns[1], None);
    assert_eq!(chooser.way, ReadMode::Mixed);
}

/// Two that failed were the last for as long as the loader lived.
#[test]
fn probes_that_failed_are_made_again_in_the_next_epoch() {
    let mut chooser = chooser();
    let joined = |chooser: &mut Chooser| {
        let (alone, joined) = until_joined(chooser, MANY, &ceilings(false, 0));
        for turn in alone {
            (0..32).for_each(|_| chooser.begins(turn));
            (0..32).for_each(|_| chooser.ended(millis(1), turn, Some((1, millis(1)))));
        }
        joined
    };
    let probes: Vec<_> = (0..2).filter_map(|_| joined(&mut chooser)).collect();
    assert_eq!(probes.len(), 2);
    chooser.began(millis(10), (true, true));
    assert_eq!(joined(&mut chooser), None, "they are under way");
    for turn in probes {
        chooser.begins(turn);
        chooser.failed(millis(50), turn);
        chooser.ended(millis(50), turn, None);
    }
    assert_eq!(joined(&mut chooser), None, "not in the same epoch");
    chooser.began(millis(100), (false, false));
    assert!(joined(&mut chooser).is_some());
}

#[test]
fn a_compose_that_takes_most_of_an_epoch_is_not_waited_for_in_the_next() {
    for (took, way) in [(900, ReadMode::Mixed), (2_400, ReadMode::Direct)] {
        let mut chooser = after_the_first(millis(took), 16_000);
        chooser.began(millis(4_000), (false, false));
        assert_eq!(chooser.way, way, "{took}");
    }
}

#[test]
fn a_busy_machine_is_no_reason_to_read_one_by_one() {
    let mut chooser = after_the_first(millis(900), MANY);
    // So many are let through that none has begun of.
    let admit = |chooser: &mut Chooser, waiting| {
        chooser.admit(millis(950), (32, 32 * KIB, 32 * KIB), MANY, &ceilings(true, waiting)).map(|turn| turn.composed)
    };
    let joined = (0..100).take_while(|_| admit(&mut chooser, 0) == Some(true)).count();
    assert_eq!(joined, FEW);
    assert_eq!(admit(&mut chooser, 0), None);
    // Those that wait for the service leave reads their share.
    assert_eq!(admit(&mut chooser, FEW), Some(false));
}

#[test]
fn an_epoch_goes_on_with_what_is_known_where_it_was_begun_ahead() {
    for (ahead, goes_on) in [(true, true), (false, false)] {
        let mut chooser = chooser();
        let turns: Vec<_> = (0..2).filter_map(|_| until_joined(&mut chooser, MANY, &ceilings(true, 0)).1).collect();
        for turn in &turns {
            chooser.begins(*turn);
        }
        chooser.ended(millis(900), turns[0], Some((32, millis(900))));
        chooser.began(millis(1_000), (ahead, false));
        assert_eq!(chooser.is_settled(), goes_on);
    }
}

#[test]
fn the_ends_of_an_epoch_are_read_one_by_one_where_a_loop_would_wait() {
    for (ahead, followed) in [(false, false), (true, false), (true, true)] {
        let mut chooser = after_the_first(millis(900), MANY);
        chooser.began(millis(1_000), (ahead, followed));
        let joins = |chooser: &mut Chooser, left| {
            let turn = chooser.admit(millis(1_000), (32, 32 * KIB, 32 * KIB), left, &ceilings(true, 0)).unwrap();
            (0..if turn.composed { 1 } else { 32 }).for_each(|_| chooser.begins(turn));
            turn.composed
        };
        assert_eq!((joins(&mut chooser, MANY), joins(&mut chooser, 320)), (ahead, followed));
    }
}

#[test]
fn a_loop_that_stops_for_long_undoes_no_trial() {
    let mut chooser = chooser();
    let ceilings = ceilings(true, 0);
    let mut turns = Vec::new();
    while turns.len() < 64 {
        let turn = chooser.admit(Duration::ZERO, (32, 32 * KIB, 32 * KIB), MANY, &ceilings).unwrap();
        if turn.composed {
            chooser.begins(turn);
            turns.push(turn);
        } else {
            (0..32).for_each(|_| chooser.begins(turn));
        }
    }
    for turn in turns {
        chooser.ended(millis(900), turn, Some((32, millis(900))));
    }
    // It compiles its kernels.
    _ = chooser.admit(Duration::from_secs(40), (32, 32 * KIB, 32 * KIB), MANY, &ceilings);
    assert_eq!(chooser.way, ReadMode::Mixed, "{chooser:?}");
}
