//! Memory for decoding. Samples that wait for it are served in the order of delivery.
//!
//! The decoded size of an image is known only after its bytes have been read. So the memory budget of a loader with
//! such a decoder has two parts. The planner reserves the first, in the order of delivery, for bytes that are being
//! read. The gate grants the second for items, the copies of them in a batch, and the decoder's working memory: a
//! sample that was read waits in the gate until these are granted, and only then goes to a decode thread. Of items
//! whose size nobody can tell, the gate counts samples instead, and the budget is not divided.
//!
//! **Why this cannot deadlock.** The *front* is the first batch, in the order of delivery, that still lacks a grant.
//! Grants to batches behind it never exceed `DecodeLimits::behind_front` together. Grants to the front itself may take
//! all that is free, and [`GrantLedger::request`] refuses a batch that needs more than `all - behind_front`. Batches
//! before the front have all their grants: they need nothing more to be decoded, collated and delivered, and then give
//! everything back. Working memory is given back when its sample is decoded. So what a sample of the front waits for is
//! always given back, provided that the training loop takes batches; and bytes that are being read come out of the
//! other part, so no read is in the way. Items whose size is only estimated may turn out larger than their grants, and
//! so may items whose headers lie. Batches behind the front may then hold what the front needs, whether the size of its
//! own samples is known or not. So once every sample with a grant is decoded and no batch before the front is left,
//! nothing more would be given back, and the front's samples are let through beyond the limit: those of estimated
//! size, and all of them if the batches behind hold more than they may. Where all sizes are known and true, neither
//! happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::budget::Gauge;
use crate::collate::KeptBuffers;
use crate::lock::lock;

/// Reads get `1 / READ_PARTS` of the memory budget. A decoded image of `f32` values is about ten times as large as its
/// PNG file and a hundred times as large as its JPEG file, so reading needs the smaller part. With half of this share,
/// the budget would limit how many large photos are read at once, and not the network.
const READ_PARTS: u64 = 8;

/// Batches behind the front may hold `1 / AHEAD_PARTS` of the memory budget together. With less, decode threads would
/// have nothing to do when one read is late; with more, a batch could take less of the budget. What both shares leave
/// to one batch, three quarters, is also in the error for a batch that is too large and in the documentation of
/// `memory_budget`.
const AHEAD_PARTS: u64 = 8;

/// Upper limits for outstanding grants. The unit is bytes, or samples where nobody can tell the size of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeLimits {
    pub(crate) all: u64,
    /// Maximum for all batches behind the front together.
    pub(crate) behind_front: u64,
    /// Whether the unit is bytes.
    pub(crate) counts_bytes: bool,
}

impl DecodeLimits {
    /// Divides a memory budget: the bytes for reading, and the limits for decoding.
    pub(crate) fn of_budget(bytes: u64) -> (u64, Self) {
        let reading = (bytes / READ_PARTS).max(1);
        (reading, Self { all: bytes - reading.min(bytes), behind_front: bytes / AHEAD_PARTS, counts_bytes: true })
    }

    /// The memory budget that leaves `batch` bytes for one batch.
    pub(crate) fn budget_for(batch: u64) -> u64 {
        let parts = READ_PARTS * AHEAD_PARTS;
        // A byte more for each of the divisions that round down.
        batch.saturating_mul(parts).div_ceil(parts - READ_PARTS - AHEAD_PARTS).saturating_add(2)
    }

    /// Limits in samples: about four batches may be decoded, including the one that the training loop has. Those behind
    /// the front may hold one batch, or two samples for each decode thread if that is more, so that all have work.
    pub(crate) fn of_samples(batch_size: u64, threads: u64) -> Self {
        let ahead = batch_size.max(2 * threads);
        Self { all: ahead + 3 * batch_size, behind_front: ahead, counts_bytes: false }
    }

    /// What one batch may have.
    pub(crate) fn batch(self) -> u64 {
        self.all.saturating_sub(self.behind_front)
    }
}

/// What one sample needs to be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DecodeNeed {
    /// The item, until the batch is collated.
    pub(crate) item: u64,
    /// What collating takes beside the items while both exist.
    pub(crate) copy: u64,
    /// The sample's part of the collated batch, until the training loop asks for the next one. The gate gives back what
    /// item and copy took beyond that once the batch is collated and the items are dropped.
    pub(crate) batch: u64,
    /// The decoder's working memory, until the sample is decoded.
    pub(crate) scratch: u64,
    /// What the batch grows beyond its samples because this one is longer or shorter than others, as long as
    /// [`batch`](Self::batch). The ledger sets it, since it depends on the samples that came before.
    pub(crate) padding: u64,
    /// Whether the batch is [padded](crate::Collate::pads_to_largest): each sample takes as much of it as the
    /// largest.
    pub(crate) is_padded: bool,
    /// Whether item and copy are estimated from items decoded earlier, so that they may turn out larger.
    pub(crate) is_estimate: bool,
}

impl DecodeNeed {
    /// What is held once the sample is decoded, until the batch is collated.
    pub(crate) fn lasting(self) -> u64 {
        self.item.saturating_add(self.copy)
    }

    pub(crate) fn total(self) -> u64 {
        self.lasting().saturating_add(self.padding).saturating_add(self.scratch)
    }

    /// The need once the sample is decoded, if the item is as large as was granted.
    pub(crate) fn decoded(self) -> Self {
        Self { scratch: 0, is_estimate: false, ..self }
    }

    /// Whether decoding the sample changes what it holds.
    fn changes(self) -> bool {
        self.is_estimate || self.scratch > 0
    }
}

/// Error for a batch whose samples need more memory than the limit for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeverFits {
    /// The need of the batch so far, or of a sample that alone is too large.
    pub(crate) batch: u64,
}

/// Accounting of grants, and the jobs that wait for one.
pub(crate) struct GrantLedger<J> {
    limits: DecodeLimits,
    used: u64,
    /// The part of `used` that batches behind the front hold.
    behind_front: u64,
    /// Number of the first batch with a sample that lacks a grant, or `next` if there is none. Substitutes that earlier
    /// batches still lack don't count.
    front: u64,
    /// Number of the batch that is registered next.
    next: u64,
    /// Samples with a grant that are not decoded yet and will then give something back, or take more.
    unsettled: usize,
    open: BTreeMap<u64, OpenBatch>,
    /// Jobs that wait, by the number of their batch and in the order in which they came.
    waiting: BTreeMap<(u64, u64), (DecodeNeed, J)>,
    arrivals: u64,
}

/// A batch from its registration until its memory is given back.
#[derive(Default)]
struct OpenBatch {
    /// Samples without a grant.
    ungranted: usize,
    held: u64,
    /// Samples with a grant that are not decoded yet and will then give something back, or take more.
    unsettled: usize,
    /// Bytes of items and their copies, including those of samples that still wait for a grant; where these are
    /// estimated, only those of samples that are decoded.
    lasting: u64,
    /// What the items and copies of decoded samples take beyond [`DecodeNeed::batch`]; given back once the batch is
    /// collated.
    surplus: u64,
    largest_scratch: u64,
    /// Bytes that are granted for the batch and that nobody has allocated, since it isn't collated yet.
    uncollated: u64,
    /// In a padded batch: the part of the batch that the largest sample takes, and the number of samples so far.
    largest_part: u64,
    parts: u64,
}

impl<J: Cancellable> GrantLedger<J> {
    /// A batch of so many samples, behind all others; returns its number.
    fn register(&mut self, samples: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, OpenBatch { ungranted: samples, ..OpenBatch::default() });
        self.move_front();
        number
    }

    /// Adds a sample's need to its batch's total, and returns it with the padding that it causes. To be called once for
    /// each sample, before the grant.
    fn request(&mut self, number: u64, mut need: DecodeNeed) -> Result<DecodeNeed, NeverFits> {
        let most = self.limits.batch();
        let Some(batch) = self.open.get_mut(&number) else { return Ok(need) };
        // A batch is refused for what is known, and never for an estimate. An estimate is the largest of other samples,
        // so it needs no padding.
        if !need.is_estimate {
            need.padding = batch.pad(need, true);
            batch.lasting = batch.lasting.saturating_add(need.lasting()).saturating_add(need.padding);
        }
        batch.largest_scratch = batch.largest_scratch.max(need.scratch);
        batch.check(most)?;
        Ok(need)
    }

    fn fits(&self, number: u64, need: DecodeNeed) -> bool {
        // A batch before the front already has all its grants, so this request is for a substitute of a sample that
        // failed to decode. It is granted at once, because later batches may hold all memory and it could wait for
        // ever.
        if number < self.front || !self.open.contains_key(&number) {
            return true;
        }
        let is_front = number == self.front;
        let has_room = |held: u64, limit: u64| held.checked_add(need.total()).is_some_and(|sum| sum <= limit);
        if has_room(self.used, self.limits.all) && (is_front || has_room(self.behind_front, self.limits.behind_front)) {
            return true;
        }
        // Where no outstanding grant will be given back, items outgrew their grants, and the front exceeds the limit.
        // Either they are items of batches behind the front; or those of the front itself, which is refused for what is
        // known, but not for estimates.
        let has_outgrown = need.is_estimate || self.behind_front > self.limits.behind_front;
        let none_before_front = self.open.range(..self.front).next().is_none();
        has_outgrown && is_front && none_before_front && self.unsettled == 0
    }

    fn grant(&mut self, number: u64, need: DecodeNeed) {
        self.adjust(number, need.total(), 0);
        if let Some(batch) = self.open.get_mut(&number) {
            batch.ungranted = batch.ungranted.saturating_sub(1);
            batch.uncollated = batch.uncollated.saturating_add(need.copy);
            batch.unsettled += usize::from(need.changes());
            self.unsettled += usize::from(need.changes());
        }
        self.move_front();
    }

    /// Replaces a decoded sample's grant with the memory that its item really takes: none if it was refused. The padding
    /// that it caused stays, since other samples may be as long.
    pub(crate) fn settle(&mut self, number: u64, granted: DecodeNeed, item: DecodeNeed) -> Result<(), NeverFits> {
        let padding = self.open.get_mut(&number).map_or(0, |batch| batch.pad(item, granted.is_estimate));
        self.adjust(number, item.lasting().saturating_add(padding), granted.total());
        let most = self.limits.batch();
        let Some(batch) = self.open.get_mut(&number) else { return Ok(()) };
        batch.uncollated = batch.uncollated.saturating_add(item.copy).saturating_sub(granted.copy);
        if granted.changes() {
            batch.unsettled = batch.unsettled.saturating_sub(1);
            self.unsettled = self.unsettled.saturating_sub(1);
        }
        if !granted.is_estimate {
            batch.lasting = batch.lasting.saturating_sub(granted.lasting());
        }
        batch.lasting = batch.lasting.saturating_add(item.lasting()).saturating_add(padding);
        batch.surplus += item.lasting().saturating_sub(item.batch);
        batch.check(most)
    }

    /// A batch goes without one of its samples.
    pub(crate) fn skip(&mut self, number: u64) {
        if let Some(batch) = self.open.get_mut(&number) {
            batch.ungranted = batch.ungranted.saturating_sub(1);
        }
        self.move_front();
    }

    /// Expects one more grant, because a sample that had its grant could not be decoded and a substitute follows.
    /// Batches before the front stay as they are: their substitutes are granted regardless of the limits.
    pub(crate) fn reopen(&mut self, number: u64) {
        if let Some(batch) = self.open.get_mut(&number)
            && number >= self.front
        {
            batch.ungranted += 1;
        }
    }

    /// A batch is collated: gives back what its items and their copies took beyond the batch.
    pub(crate) fn collated(&mut self, number: u64) {
        let Some(batch) = self.open.get_mut(&number) else { return };
        batch.uncollated = 0;
        let surplus = std::mem::take(&mut batch.surplus);
        self.adjust(number, 0, surplus);
    }

    /// All that a batch holds is given back.
    fn close(&mut self, number: u64) {
        if let Some(&OpenBatch { held, unsettled, .. }) = self.open.get(&number) {
            self.unsettled -= unsettled;
            self.adjust(number, 0, held);
            self.open.remove(&number);
        }
        self.move_front();
    }

    /// What may be kept for later batches while there are any: bytes that aren't granted, and those that are granted
    /// for batches which will be written into kept memory. Nothing between epochs.
    ///
    /// For the milliseconds in which a batch is collated, its bytes are counted here and have been allocated.
    fn room(&self) -> u64 {
        if self.open.is_empty() {
            return 0;
        }
        let uncollated = self.open.values().fold(0_u64, |sum, batch| sum.saturating_add(batch.uncollated));
        self.limits.all.saturating_sub(self.used).saturating_add(uncollated).min(self.limits.all)
    }

    fn adjust(&mut self, number: u64, more: u64, less: u64) {
        let Some(batch) = self.open.get_mut(&number) else { return };
        let change = |held: &mut u64| *held = held.saturating_add(more).saturating_sub(less);
        change(&mut batch.held);
        change(&mut self.used);
        if number > self.front {
            change(&mut self.behind_front);
        }
    }

    fn move_front(&mut self) {
        while self.front < self.next && self.open.get(&self.front).is_none_or(|batch| batch.ungranted == 0) {
            self.front += 1;
            self.behind_front -= self.open.get(&self.front).map_or(0, |batch| batch.held);
        }
    }

    /// Grants their memory to waiting jobs, in order, up to the first for which there is none. Returns these and the
    /// cancelled ones among them.
    fn take_ready(&mut self) -> Vec<J> {
        let mut ready = Vec::new();
        while let Some((&(batch, _), &(need, ref job))) = self.waiting.first_key_value() {
            if !job.is_cancelled() {
                if !self.fits(batch, need) {
                    break;
                }
                self.grant(batch, need);
            }
            ready.extend(self.waiting.pop_first().map(|(_, (_, job))| job));
        }
        ready
    }
}

impl OpenBatch {
    /// What the batch grows beyond its samples' own parts by this one, which `is_new` or was counted before with a
    /// smaller part. Samples that are lost later still count.
    fn pad(&mut self, need: DecodeNeed, is_new: bool) -> u64 {
        if !need.is_padded {
            return 0;
        }
        let longer = need.batch.saturating_sub(self.largest_part);
        let shorter = if is_new { self.largest_part.saturating_sub(need.batch) } else { 0 };
        let padding = longer.saturating_mul(self.parts).saturating_add(shorter);
        self.largest_part += longer;
        self.parts += u64::from(is_new);
        padding
    }

    fn check(&self, most: u64) -> Result<(), NeverFits> {
        let batch = self.lasting.saturating_add(self.largest_scratch);
        if batch <= most { Ok(()) } else { Err(NeverFits { batch }) }
    }
}

/// A job whose epoch may be cancelled while the job waits.
pub(crate) trait Cancellable {
    fn is_cancelled(&self) -> bool;
}

/// Lets jobs through to the decode threads once there is memory for what they make.
pub(crate) struct DecodeGate<J> {
    pub(crate) limits: DecodeLimits,
    ledger: Mutex<GrantLedger<J>>,
    jobs: Sender<J>,
    /// Gauge of granted bytes; `None` if the limits count samples.
    held: Option<Gauge>,
    /// Memory of batches that are gone, which has the bytes that nothing was granted.
    pub(crate) buffers: Arc<KeptBuffers>,
}

impl<J: Cancellable> DecodeGate<J> {
    pub(crate) fn new(limits: DecodeLimits, jobs: Sender<J>, held: Gauge) -> Arc<Self> {
        let ledger = GrantLedger {
            limits,
            used: 0,
            behind_front: 0,
            front: 0,
            next: 0,
            unsettled: 0,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
        };
        let held = limits.counts_bytes.then_some(held);
        Arc::new(Self { limits, ledger: Mutex::new(ledger), jobs, held, buffers: Arc::default() })
    }

    /// Registers a batch of so many samples behind all others, so it is called in the order of delivery.
    pub(crate) fn register(self: &Arc<Self>, samples: usize) -> BatchMemory<J> {
        BatchMemory { number: self.update(|ledger| ledger.register(samples)), gate: Arc::clone(self) }
    }

    /// Sends a sample's job to the decode threads once its memory is granted.
    ///
    /// # Errors
    /// Its batch can never have what it needs.
    pub(crate) fn request(&self, batch: u64, need: DecodeNeed, job: J) -> Result<(), NeverFits> {
        // A job that is refused is dropped after the lock is released.
        let mut job = Some(job);
        self.update(|ledger| {
            let need = ledger.request(batch, need)?;
            if ledger.waiting.is_empty() && ledger.fits(batch, need) {
                ledger.grant(batch, need);
            } else if let Some(job) = job.take() {
                ledger.arrivals += 1;
                ledger.waiting.insert((batch, ledger.arrivals), (need, job));
            }
            Ok(())
        })?;
        self.pass_on(job);
        Ok(())
    }

    /// Removes cancelled jobs and sends them to the decode threads, which drop them without decoding.
    pub(crate) fn release_cancelled(&self) {
        let released: Vec<_> = self.update(|ledger| {
            let cancelled = ledger.waiting.iter().filter(|(_, (_, job))| job.is_cancelled());
            let places: Vec<_> = cancelled.map(|(place, _)| *place).collect();
            places.iter().filter_map(|place| ledger.waiting.remove(place)).map(|(_, job)| job).collect()
        });
        self.pass_on(released);
    }

    /// Applies `change`, then sends every job that is granted by now to the decode threads.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut GrantLedger<J>) -> R) -> R {
        let mut ledger = lock(&self.ledger);
        let before = ledger.used;
        let result = change(&mut ledger);
        let ready = ledger.take_ready();
        let mut excess = Vec::new();
        if let Some(held) = &self.held {
            held.replace(before, ledger.used);
            excess = self.buffers.set_room(ledger.room());
        }
        drop(ledger);
        // After the lock, since that may take milliseconds.
        drop(excess);
        self.pass_on(ready);
        result
    }

    fn pass_on(&self, jobs: impl IntoIterator<Item = J>) {
        for job in jobs {
            // If the decode threads have ended, dropping the job closes the channel of its batch, which the iterator
            // reports.
            let _ = self.jobs.send(job);
        }
    }
}

/// What a batch holds; dropping it gives everything back.
pub(crate) struct BatchMemory<J: Cancellable> {
    gate: Arc<DecodeGate<J>>,
    /// The batch's number at the gate.
    pub(crate) number: u64,
}

impl<J: Cancellable> Drop for BatchMemory<J> {
    fn drop(&mut self) {
        self.gate.update(|ledger| ledger.close(self.number));
    }
}

#[cfg(test)]
mod tests {
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
        (
            DecodeGate::new(DecodeLimits { all, behind_front: ahead, counts_bytes: true }, jobs, held.clone()),
            granted,
            held,
        )
    }

    #[test]
    fn a_batch_behind_leaves_room_for_the_front() {
        let (gate, granted, held) = gate(100, 20);
        let (first, second) = (gate.register(2), gate.register(2));
        gate.request(second.number, need(15, 0, 0), 3).unwrap();
        gate.request(second.number, need(15, 0, 0), 4).unwrap();
        assert_eq!(
            granted.try_iter().collect::<Vec<_>>(),
            [3],
            "two would be more than batches behind the front may hold"
        );
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
}
