//! The choice step by step: its first decisions, and its reactions to the reads that end.

use super::*;
use crate::pacing::estimates::MAX_WAITING_COMPOSES;
use crate::pacing::{CallCaps, Ceiling, ReadPrices};

/// Prices of a bucket of class Standard in one region, without soft delete.
const STANDARD: ReadPrices = ReadPrices { direct: 4e-7, composed: 5.4e-6, composed_byte: 0.0 };

const MANY: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

fn chooser() -> ReadModeChooser {
    chooser_with(CallCaps::default())
}

fn config(caps: CallCaps) -> ChooserConfig {
    ChooserConfig {
        max_composed_bytes: 32 * KIB,
        budget: 1 << 30,
        objects_per_sample: 1,
        max_ahead: 65_536,
        bucket_share: 1.0,
        caps,
        prices: STANDARD,
        pays_for_speed: true,
    }
}

fn chooser_with(caps: CallCaps) -> ReadModeChooser {
    let mut chooser = ReadModeChooser::new(config(caps));
    chooser.start_epoch(NeighbourEpochs::default());
    chooser
}

const GROUP: GroupSize = GroupSize { samples: 32, may_compose: true, bytes: 32 * KIB, held: 32 * KIB };

fn neighbours(has_previous: bool, has_next: bool) -> NeighbourEpochs {
    NeighbourEpochs { has_previous, has_next }
}

fn service(is_composing_proven: bool, waiting: usize) -> ServiceState {
    let ceiling = |waiting| Ceiling { at_once: 1_024, waiting, ..Ceiling::default() };
    ServiceState { ceilings: Ceilings { reads: ceiling(0), writes: ceiling(waiting) }, is_composing_proven }
}

fn success(samples: u64, took: Duration) -> ReadOutcome {
    ReadOutcome { samples, took }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Admits groups of 32 samples of a KiB until one is composed, or none is admitted.
fn until_composed(
    chooser: &mut ReadModeChooser,
    left: u64,
    service: &ServiceState,
) -> (Vec<Admission>, Option<Admission>) {
    let mut direct = Vec::new();
    while direct.len() < 1_000 {
        match chooser.admit(Duration::ZERO, GROUP, left - 32 * direct.len() as u64, service) {
            Some(admission) if admission.is_composed => return (direct, Some(admission)),
            Some(admission) => direct.push(admission),
            None => break,
        }
    }
    (direct, None)
}

/// A chooser that began to compose, and whose first compose took `took`. All reads before it wait for their calls.
fn after_the_first_compose(took: Duration, left: u64) -> ReadModeChooser {
    let mut chooser = chooser();
    let (direct, composed) = until_composed(&mut chooser, left, &service(true, 0));
    for admission in direct {
        (0..32).for_each(|_| chooser.begin_read(admission));
    }
    let admission = composed.unwrap();
    chooser.begin_read(admission);
    chooser.end_read(took, admission, Some(success(32, took)));
    chooser
}

#[test]
fn small_objects_are_composed_behind_what_reads_bring_meanwhile() {
    let mut chooser = chooser();
    let (direct, composed) = until_composed(&mut chooser, MANY, &service(true, 0));
    assert!(composed.is_some() && chooser.mode == ReadMode::Mixed, "{chooser:?}");
    assert!((3_000..4_000).contains(&(32 * direct.len())), "{}", direct.len());
}

#[test]
fn until_a_compose_is_back_all_is_composed_but_for_what_reads_bring_meanwhile() {
    for (followed, most) in [(false, 24_000 - 3_750 - 3_750), (true, 24_000 - 3_750)] {
        let mut chooser = chooser();
        chooser.start_epoch(neighbours(false, followed));
        let mut composed = 0;
        for left in (0..750).rev().map(|groups| groups * 32) {
            let admission = chooser.admit(Duration::ZERO, GROUP, left, &service(true, 0)).unwrap();
            (0..if admission.is_composed { 1 } else { 32 }).for_each(|_| chooser.begin_read(admission));
            composed += if admission.is_composed { 32 } else { 0 };
            if !admission.is_composed {
                (0..32).for_each(|_| chooser.end_read(millis(1), admission, Some(success(1, millis(1)))));
            }
        }
        assert!((most - 64..most + 64).contains(&composed), "{followed}: {composed}");
    }
}

#[test]
fn an_epoch_whose_end_is_not_known_keeps_composing() {
    let mut chooser = chooser();
    for _ in 0..500 {
        let admission = chooser.admit(Duration::ZERO, GROUP, u64::MAX, &service(true, 0)).unwrap();
        (0..if admission.is_composed { 1 } else { 32 }).for_each(|_| chooser.begin_read(admission));
    }
    assert_eq!(chooser.composed.admitted, 500 - 3_750_usize.div_ceil(32), "{chooser:?}");
}

#[test]
fn where_composing_is_unproven_or_nearly_all_is_refused_two_are_tried() {
    let mut slow = service(true, 0);
    slow.ceilings.writes.per_second = Some(50.0);
    for service in [service(false, 0), slow] {
        let mut chooser = chooser();
        assert!(until_composed(&mut chooser, MANY, &service).1.is_some());
        assert!(until_composed(&mut chooser, MANY, &service).1.is_some());
        assert_eq!((until_composed(&mut chooser, MANY, &service).1, chooser.mode), (None, ReadMode::Direct));
    }
}

/// The estimates took the documented rates for granted, whatever the user allowed.
#[test]
fn the_users_own_caps_are_seen() {
    let few_writes = CallCaps { writes_per_second: Some(50.0), ..CallCaps::default() };
    let mut chooser = chooser_with(few_writes);
    // Two are tried to see how long they take, as where the service takes so few.
    assert!(until_composed(&mut chooser, MANY, &service(true, 0)).1.is_some());
    assert!(until_composed(&mut chooser, MANY, &service(true, 0)).1.is_some());
    assert_eq!((until_composed(&mut chooser, MANY, &service(true, 0)).1, chooser.mode), (None, ReadMode::Direct));
    let caps = chooser.estimates.predict(ReadMode::Composed, 1.0, millis(1), &service(true, 0));
    assert!((caps - 25.0 * 32.0).abs() < 1.0, "{caps}");

    let few_reads = CallCaps { reads_per_second: Some(100.0), ..CallCaps::default() };
    let mut chooser = chooser_with(few_reads);
    let (direct, composed) = until_composed(&mut chooser, MANY, &service(true, 0));
    assert!(composed.is_some() && 32 * direct.len() < 200, "{} direct groups", direct.len());
}

#[test]
fn first_composes_that_fail_are_the_last_for_now() {
    let mut chooser = chooser();
    let admission = until_composed(&mut chooser, MANY, &service(true, 0)).1.unwrap();
    chooser.begin_read(admission);
    // Dropped with its epoch, which says nothing of composing.
    let mut dropped = chooser.clone();
    dropped.end_read(millis(50), admission, None);
    assert_eq!(dropped.mode, ReadMode::Mixed);
    // Given up while it was queued, which once counted as a failure.
    let mut queued = chooser.clone();
    queued.record_failed_compose(millis(50), admission, false);
    assert_eq!(queued.mode, ReadMode::Mixed);
    chooser.record_failed_compose(millis(50), admission, true);
    chooser.end_read(millis(50), admission, None);
    assert_eq!(chooser.choice().to_string(), "direct: the first composes failed");
    // A failure later on is one of many reads.
    let mut chooser = self::chooser();
    let service = self::service(true, 0);
    let admissions: Vec<_> = (0..2).filter_map(|_| until_composed(&mut chooser, MANY, &service).1).collect();
    for admission in &admissions {
        chooser.begin_read(*admission);
    }
    chooser.end_read(millis(900), admissions[0], Some(success(32, millis(900))));
    chooser.record_failed_compose(millis(910), admissions[1], true);
    chooser.end_read(millis(910), admissions[1], None);
    assert_eq!(chooser.mode, ReadMode::Mixed);
}

/// The trial went on, and could even be settled.
#[test]
fn a_trial_ends_where_the_mode_becomes_too_dear() {
    let mut chooser = ReadModeChooser::new(ChooserConfig { pays_for_speed: false, ..config(CallCaps::default()) });
    chooser.start_epoch(NeighbourEpochs::default());
    assert!(until_composed(&mut chooser, MANY, &service(true, 0)).1.is_some());
    assert_eq!(chooser.mode, ReadMode::Mixed);
    let large = GroupSize { samples: 2, may_compose: true, bytes: 32_000 * KIB, held: 32_000 * KIB };
    _ = chooser.admit(millis(10), large, MANY, &service(true, 0));
    assert_eq!(chooser.choice().to_string(), "direct: composing would cost more than direct reads");
}

/// The reason was set in the first epoch alone: "nothing was measured yet" stood beside the rate where that was short.
#[test]
fn the_reason_is_what_was_measured_last_until_a_mode_was_tried() {
    let mut chooser = chooser();
    let mut now = Duration::ZERO;
    for (groups, rate) in [(2, None), (40, Some(1_600.0)), (80, Some(1_600.0))] {
        chooser.start_epoch(neighbours(false, false));
        for _ in 0..groups {
            // Too few samples are left to try composing.
            let admission = chooser.admit(now, GROUP, 1_000, &service(false, 0)).unwrap();
            now += millis(20);
            for _ in 0..32 {
                chooser.begin_read(admission);
                chooser.end_read(now, admission, Some(success(1, millis(20))));
            }
        }
        let Choice { reason, direct, .. } = chooser.choice();
        assert_eq!(direct.is_some(), rate.is_some());
        let figures = direct.map_or("nothing was measured yet".to_owned(), |rate| format!("{rate:.0} samples/s"));
        assert_eq!(reason, figures);
        assert!(direct.zip(rate).is_none_or(|(direct, rate)| (direct / rate - 1.0).abs() < 0.1), "{direct:?}");
    }
}

/// Two that failed were the last for as long as the loader lived.
#[test]
fn probes_that_failed_are_made_again_in_the_next_epoch() {
    let mut chooser = chooser();
    let composed = |chooser: &mut ReadModeChooser| {
        let (direct, composed) = until_composed(chooser, MANY, &service(false, 0));
        for admission in direct {
            (0..32).for_each(|_| chooser.begin_read(admission));
            (0..32).for_each(|_| chooser.end_read(millis(1), admission, Some(success(1, millis(1)))));
        }
        composed
    };
    let probes: Vec<_> = (0..2).filter_map(|_| composed(&mut chooser)).collect();
    assert_eq!(probes.len(), 2);
    chooser.start_epoch(neighbours(true, true));
    assert_eq!(composed(&mut chooser), None, "they are under way");
    for admission in probes {
        chooser.begin_read(admission);
        chooser.record_failed_compose(millis(50), admission, true);
        chooser.end_read(millis(50), admission, None);
    }
    assert_eq!(composed(&mut chooser), None, "not in the same epoch");
    chooser.start_epoch(neighbours(false, false));
    assert!(composed(&mut chooser).is_some());
}

#[test]
fn a_compose_that_takes_most_of_an_epoch_is_not_waited_for_in_the_next() {
    for (took, mode) in [(900, ReadMode::Mixed), (2_400, ReadMode::Direct)] {
        let mut chooser = after_the_first_compose(millis(took), 16_000);
        chooser.start_epoch(neighbours(false, false));
        assert_eq!(chooser.mode, mode, "{took}");
    }
}

#[test]
fn a_busy_machine_is_no_reason_to_read_directly() {
    let mut chooser = after_the_first_compose(millis(900), MANY);
    // So many are let through that none has begun of.
    let admit = |chooser: &mut ReadModeChooser, waiting| {
        chooser.admit(millis(950), GROUP, MANY, &service(true, waiting)).map(|admission| admission.is_composed)
    };
    let composed = (0..100).take_while(|_| admit(&mut chooser, 0) == Some(true)).count();
    assert_eq!(composed, MAX_WAITING_COMPOSES);
    assert_eq!(admit(&mut chooser, 0), None);
    // Those that wait for the service leave reads their share.
    assert_eq!(admit(&mut chooser, MAX_WAITING_COMPOSES), Some(false));
}

#[test]
fn a_measurement_continues_where_an_epoch_was_begun_ahead() {
    for (ahead, continues) in [(true, true), (false, false)] {
        let mut chooser = chooser();
        let admissions: Vec<_> =
            (0..2).filter_map(|_| until_composed(&mut chooser, MANY, &service(true, 0)).1).collect();
        for admission in &admissions {
            chooser.begin_read(*admission);
        }
        chooser.end_read(millis(900), admissions[0], Some(success(32, millis(900))));
        chooser.start_epoch(neighbours(ahead, false));
        assert_eq!(chooser.is_measurable(), continues);
    }
}

#[test]
fn the_ends_of_an_epoch_are_read_directly_where_a_loop_would_wait() {
    for (ahead, followed) in [(false, false), (true, false), (true, true)] {
        let mut chooser = after_the_first_compose(millis(900), MANY);
        chooser.start_epoch(neighbours(ahead, followed));
        let composes = |chooser: &mut ReadModeChooser, left| {
            let admission = chooser.admit(millis(1_000), GROUP, left, &service(true, 0)).unwrap();
            (0..if admission.is_composed { 1 } else { 32 }).for_each(|_| chooser.begin_read(admission));
            admission.is_composed
        };
        assert_eq!((composes(&mut chooser, MANY), composes(&mut chooser, 320)), (ahead, followed));
    }
}

#[test]
fn a_loop_that_stops_for_long_undoes_no_trial() {
    let mut chooser = chooser();
    let service = self::service(true, 0);
    let mut admissions = Vec::new();
    while admissions.len() < 64 {
        let admission = chooser.admit(Duration::ZERO, GROUP, MANY, &service).unwrap();
        if admission.is_composed {
            chooser.begin_read(admission);
            admissions.push(admission);
        } else {
            (0..32).for_each(|_| chooser.begin_read(admission));
        }
    }
    for admission in admissions {
        chooser.end_read(millis(900), admission, Some(success(32, millis(900))));
    }
    // It compiles its kernels.
    _ = chooser.admit(Duration::from_secs(40), GROUP, MANY, &service);
    assert_eq!(chooser.mode, ReadMode::Mixed, "{chooser:?}");
}
