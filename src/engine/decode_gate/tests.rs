use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::collate::{BufferSource, CollateContext};

impl Cancellable for u32 {
    fn is_cancelled(&self) -> bool {
        *self == u32::MAX
    }
}

fn need(item: u64, copy: u64, scratch: u64) -> DecodeNeed {
    DecodeNeed { item, copy, batch: item, scratch, ..DecodeNeed::default() }
}

fn estimate(item: u64, copy: u64, scratch: u64) -> DecodeNeed {
    DecodeNeed { is_estimate: true, ..need(item, copy, scratch) }
}

fn gate(all: u64, ahead: u64) -> (Arc<DecodeGate<u32>>, crossbeam_channel::Receiver<u32>, Gauge) {
    let (jobs, granted) = crossbeam_channel::unbounded();
    let held = Gauge::default();
    (DecodeGate::new(DecodeLimits { all, behind_front: ahead, counts_bytes: true }, jobs, held.clone()), granted, held)
}

#[test]
fn a_batch_behind_leaves_room_for_the_front() {
    let (gate, granted, held) = gate(100, 20);
    let (first, second) = (gate.register(2), gate.register(2));
    gate.request(second.number, need(15, 0, 0), 3).unwrap();
    gate.request(second.number, need(15, 0, 0), 4).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [3], "two would be more than batches behind the front may hold");
    gate.request(first.number, need(40, 0, 5), 1).unwrap();
    gate.request(first.number, need(35, 0, 5), 2).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1, 2], "the front takes all that is free");
    assert_eq!(held.bytes(), 100);
}

#[test]
fn memory_is_kept_of_what_is_not_granted() {
    const BUFFER: u64 = 4 << 20;
    let (gate, _granted, held) = gate(3 * BUFFER, BUFFER);
    let buffers = BufferSource::new(Some(Arc::clone(&gate.buffers)));
    let context = CollateContext { buffers, ..CollateContext::default() };
    let use_three = || drop([(); 3].map(|()| context.buffer::<u8>(BUFFER as usize)));
    use_three();
    assert_eq!(gate.buffers.bytes(), 0, "no batch is under way");
    let batch = gate.register(2);
    use_three();
    assert_eq!(gate.buffers.bytes(), 3 * BUFFER);
    // The copy is the batch, which will be written into kept memory.
    gate.request(batch.number, need(0, BUFFER, 0), 0).unwrap();
    assert_eq!((gate.buffers.bytes(), held.bytes()), (3 * BUFFER, BUFFER));
    gate.update(|ledger| ledger.collated(batch.number));
    assert_eq!(gate.buffers.bytes(), 2 * BUFFER);
    gate.request(batch.number, need(1, 0, 0), 1).unwrap();
    assert_eq!((gate.buffers.bytes(), held.bytes()), (BUFFER, BUFFER + 1));
    use_three();
    assert_eq!(gate.buffers.bytes(), BUFFER);
    drop(batch);
    assert_eq!((gate.buffers.bytes(), held.bytes()), (0, 0));
}

/// Silence after short audio was not counted.
#[test]
fn each_sample_of_a_padded_batch_counts_as_the_largest() {
    let padded = |item| DecodeNeed { copy: item, is_padded: true, ..need(item, 0, 0) };
    for lengths in [[10, 2, 5], [2, 5, 10], [5, 10, 2]] {
        for are_estimates in [false, true] {
            let (gate, granted, held) = gate(1_000, 200);
            let batch = gate.register(3);
            for (job, length) in (0..).zip(lengths) {
                let need = DecodeNeed { is_estimate: are_estimates, ..padded(length) };
                gate.request(batch.number, need, job).unwrap();
                gate.update(|ledger| ledger.settle(batch.number, need, padded(length))).unwrap();
            }
            assert_eq!(granted.try_iter().count(), 3);
            assert_eq!(held.bytes(), 17 + 30, "{lengths:?}: items and batch");
            gate.update(|ledger| ledger.collated(batch.number));
            assert_eq!(held.bytes(), 30, "{lengths:?}: the batch");
            drop(batch);
            assert_eq!(held.bytes(), 0);
        }
    }

    let (gate, _granted, held) = gate(1_000, 200);
    let batch = gate.register(3);
    gate.request(batch.number, padded(10), 1).unwrap();
    gate.request(batch.number, padded(100), 2).unwrap();
    gate.update(|ledger| ledger.settle(batch.number, padded(100), DecodeNeed::default())).unwrap();
    assert_eq!(held.bytes(), 20 + 90, "a lost sample leaves its padding");
    // A header lied: two samples are padded to this one, the lost one among them.
    gate.update(|ledger| ledger.settle(batch.number, padded(10), padded(110))).unwrap();
    assert_eq!(held.bytes(), 220 + 90 + 20);
    let refused = gate.request(batch.number, padded(300), 3).unwrap_err();
    assert_eq!(refused.batch, 220 + 90 + 20 + 600 + 2 * 190);
}

#[test]
fn the_front_takes_what_is_free_and_then_moves_on() {
    let (gate, granted, held) = gate(100, 20);
    let (first, second) = (gate.register(2), gate.register(1));
    gate.request(first.number, need(30, 0, 20), 1).unwrap();
    gate.request(first.number, need(30, 0, 20), 2).unwrap();
    gate.request(second.number, need(30, 0, 0), 3).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1, 2]);
    gate.update(|ledger| ledger.settle(first.number, need(30, 0, 20), need(30, 0, 0))).unwrap();
    assert!(granted.try_iter().next().is_none(), "80 are held still");
    gate.update(|ledger| ledger.settle(first.number, need(30, 0, 20), need(30, 0, 0))).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [3]);
    drop(first);
    assert_eq!(held.bytes(), 30);
    drop(second);
    assert_eq!(held.bytes(), 0);
}

#[test]
fn what_collating_copied_is_given_back() {
    let (gate, granted, held) = gate(100, 20);
    let first = gate.register(1);
    gate.request(first.number, need(30, 30, 5), 1).unwrap();
    assert_eq!((granted.try_recv(), held.bytes()), (Ok(1), 65));
    gate.update(|ledger| ledger.settle(first.number, need(30, 30, 5), need(30, 30, 0))).unwrap();
    assert_eq!(held.bytes(), 60);
    gate.update(|ledger| ledger.collated(first.number));
    assert_eq!(held.bytes(), 30);
}

#[test]
fn a_batch_that_can_never_have_what_it_needs_is_refused_whatever_comes_first() {
    for order in [[(30, 0), (30, 0), (10, 21)], [(10, 21), (30, 0), (30, 0)]] {
        let (gate, _granted, _) = gate(100, 10);
        let first = gate.register(3);
        let requests = order.map(|(item, scratch)| gate.request(first.number, need(item, 0, scratch), 1));
        assert_eq!(requests, [Ok(()), Ok(()), Err(NeverFits { batch: 91 })]);
    }
}

/// Items of the second batch took eight times what was estimated, and the first batch waited for memory for ever.
#[test]
fn items_larger_than_estimated_do_not_keep_the_front_waiting() {
    let (gate, granted, held) = gate(100, 20);
    let (first, second) = (gate.register(1), gate.register(2));
    gate.request(second.number, estimate(5, 0, 0), 2).unwrap();
    gate.request(second.number, estimate(5, 0, 0), 3).unwrap();
    gate.update(|ledger| ledger.settle(second.number, estimate(5, 0, 0), need(40, 0, 0))).unwrap();
    gate.request(first.number, estimate(60, 0, 0), 1).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [2, 3], "one that is being decoded may give something back");
    gate.update(|ledger| ledger.settle(second.number, estimate(5, 0, 0), need(40, 0, 0))).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1]);
    drop((first, second));
    assert_eq!(held.bytes(), 0);
}

/// Compressed arrays without a stated size, and after them one whose size is known.
#[test]
fn items_larger_than_estimated_do_not_keep_a_front_of_known_size_waiting() {
    let (gate, granted, held) = gate(100, 20);
    let (first, second) = (gate.register(2), gate.register(2));
    gate.request(second.number, estimate(5, 0, 0), 2).unwrap();
    gate.request(second.number, need(5, 0, 3), 3).unwrap();
    gate.update(|ledger| ledger.settle(second.number, estimate(5, 0, 0), need(70, 0, 0))).unwrap();
    gate.request(first.number, need(60, 0, 0), 1).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [2, 3], "working memory will be given back");
    gate.update(|ledger| ledger.settle(second.number, need(5, 0, 3), need(5, 0, 0))).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1]);
    gate.request(first.number, need(20, 0, 0), 4).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [4]);
    drop((first, second));
    assert_eq!(held.bytes(), 0);
}

#[test]
fn a_batch_is_not_refused_for_an_estimate() {
    let (gate, _granted, _) = gate(110, 10);
    let first = gate.register(2);
    gate.request(first.number, estimate(50, 0, 0), 1).unwrap();
    gate.request(first.number, estimate(50, 0, 0), 2).unwrap();
    gate.update(|ledger| ledger.settle(first.number, estimate(50, 0, 0), need(60, 0, 0))).unwrap();
    gate.update(|ledger| ledger.settle(first.number, estimate(50, 0, 0), need(1, 0, 0))).unwrap();
    let second = gate.register(2);
    gate.request(second.number, estimate(50, 0, 0), 3).unwrap();
    assert_eq!(
        gate.update(|ledger| ledger.settle(second.number, estimate(50, 0, 0), need(101, 0, 0))),
        Err(NeverFits { batch: 101 })
    );
}

#[test]
fn a_sample_that_is_lost_or_replaced_does_not_hold_the_front() {
    let (gate, granted, _) = gate(100, 20);
    let (first, second) = (gate.register(2), gate.register(1));
    gate.request(first.number, need(40, 0, 0), 1).unwrap();
    gate.update(|ledger| ledger.skip(first.number));
    gate.request(second.number, need(50, 0, 0), 2).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1, 2]);
    // The one that was granted could not be decoded; its substitute comes when others hold nearly everything.
    gate.update(|ledger| ledger.settle(first.number, need(40, 0, 0), need(0, 0, 0))).unwrap();
    gate.update(|ledger| ledger.reopen(first.number));
    gate.request(first.number, need(60, 0, 0), 3).unwrap();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn jobs_that_are_cancelled_wait_for_nothing() {
    let (gate, granted, held) = gate(10, 1);
    let (first, second) = (gate.register(1), gate.register(1));
    gate.request(first.number, need(9, 0, 0), 1).unwrap();
    gate.request(second.number, need(9, 0, 0), u32::MAX).unwrap();
    gate.release_cancelled();
    assert_eq!(granted.try_iter().collect::<Vec<_>>(), [1, u32::MAX]);
    drop((first, second));
    assert_eq!(held.bytes(), 0);
}

#[test]
fn the_budget_that_is_asked_for_is_enough() {
    for batch in (0..10_000).chain([1 << 30, (1 << 40) + 7]) {
        let (_, limits) = DecodeLimits::of_budget(DecodeLimits::budget_for(batch));
        assert!(limits.batch() >= batch, "{batch}: {limits:?}");
    }
}

/// Samples of batches, as what each needs.
fn batches() -> impl Strategy<Value = Vec<Vec<(u64, u64, u64)>>> {
    let sample = (0..40_u64, 0..2_u64, 0..40_u64);
    proptest::collection::vec(proptest::collection::vec(sample, 0..6), 1..12)
}

proptest! {
    /// Samples arrive in any order, are decoded in any order, turn out smaller than they were taken for, or larger
    /// where that was an estimate, and batches are taken in order or as they are done: never does everything stand
    /// still, and never is more granted than the limit, unless items turn out larger.
    #[test]
    fn nothing_stands_still_and_the_limit_holds(
        batches in batches(),
        choices in proptest::collection::vec(any::<u16>(), 1..64),
        unordered in any::<bool>(),
        estimates in prop_oneof![Just(0), Just(1), Just(2)],
    ) {
        const ALL: u64 = 150;
        // None of them, all, or every other one.
        let is_estimate = |number: usize| estimates == 1 || estimates == 2 && number.is_multiple_of(2);
        let (gate, granted, held) = gate(ALL, 30);
        let mut choice = choices.iter().cycle().map(|choice| usize::from(*choice));
        let mut choose = |count: usize| choice.next().unwrap() % count;
        let mut shares: Vec<_> = batches.iter().map(|samples| Some(gate.register(samples.len()))).collect();
        let mut coming: Vec<(usize, DecodeNeed)> = Vec::new();
        for (index, samples) in batches.iter().enumerate() {
            for (item, copies, scratch) in samples {
                // So that a batch always fits: 6 * 12 + 6 * 2 + 20 < 120.
                let exact = need(item % 13, (item % 3) * copies, scratch % 21);
                coming.push((index, DecodeNeed { is_estimate: is_estimate(coming.len()), ..exact }));
            }
        }
        let mut jobs: Vec<(usize, DecodeNeed)> = Vec::new();
        let mut running: Vec<u32> = Vec::new();
        let mut missing: Vec<usize> = batches.iter().map(Vec::len).collect();
        let mut left: BTreeSet<usize> = (0..batches.len()).collect();
        let mut in_hand: Option<BatchMemory<u32>> = None;
        while !left.is_empty() {
            running.extend(granted.try_iter());
            prop_assert!(estimates > 0 || held.bytes() <= ALL, "{} are held", held.bytes());
            let done = left.iter().copied().find(|index| missing[*index] == 0);
            let done = done.filter(|index| unordered || left.first() == Some(index));
            // What can happen: an arrival, the end of a decode, the loop asks for a batch.
            let ways = [!coming.is_empty(), !running.is_empty(), done.is_some() || in_hand.is_some()];
            let ways: Vec<_> = (0..3).filter(|way| ways[*way]).collect();
            prop_assert!(!ways.is_empty(), "all stand still with {} batches to come", left.len());
            match ways[choose(ways.len())] {
                0 => {
                    let (index, need) = coming.swap_remove(choose(coming.len()));
                    jobs.push((index, need));
                    let number = shares[index].as_ref().unwrap().number;
                    gate.request(number, need, jobs.len() as u32 - 1).unwrap();
                }
                1 => {
                    let (index, granted) = jobs[running.swap_remove(choose(running.len())) as usize];
                    let number = shares[index].as_ref().unwrap().number;
                    // A batch never has over 6 * 18 + 6 * 2 bytes.
                    let grows = granted.is_estimate && choose(2) == 1;
                    let smaller = granted.item - granted.item / 3 * (choose(2) as u64);
                    let item = need(if grows { 18 } else { smaller }, granted.copy, 0);
                    gate.update(|ledger| ledger.settle(number, granted, item)).unwrap();
                    missing[index] -= 1;
                    if missing[index] == 0 {
                        gate.update(|ledger| ledger.collated(number));
                    }
                }
                _ => {
                    // Asking for the next batch gives back the one before.
                    drop(in_hand.take());
                    if let Some(index) = done {
                        left.remove(&index);
                        in_hand = shares[index].take();
                    }
                }
            }
        }
        drop(in_hand);
        prop_assert_eq!(held.bytes(), 0);
    }
}
