//! What batches were granted, what waits for a grant, and which comes next. Pure.

use std::collections::BTreeMap;

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

/// A job whose epoch may be cancelled while the job waits.
pub(crate) trait Cancellable {
    fn is_cancelled(&self) -> bool;
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
    pub(super) fn new(limits: DecodeLimits) -> Self {
        Self {
            limits,
            used: 0,
            behind_front: 0,
            front: 0,
            next: 0,
            unsettled: 0,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// Bytes or samples that are granted.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// A batch of so many samples, behind all others; returns its number.
    pub(super) fn register(&mut self, samples: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, OpenBatch { ungranted: samples, ..OpenBatch::default() });
        self.move_front();
        number
    }

    /// Grants a sample its memory, or lets its job wait for that. To be called once for each sample. Takes the job
    /// unless it has its memory or is refused.
    ///
    /// # Errors
    /// Its batch can never have what it needs.
    pub(super) fn request(&mut self, number: u64, need: DecodeNeed, job: &mut Option<J>) -> Result<(), NeverFits> {
        let need = self.add_need(number, need)?;
        if self.waiting.is_empty() && self.fits(number, need) {
            self.grant(number, need);
        } else if let Some(job) = job.take() {
            self.arrivals += 1;
            self.waiting.insert((number, self.arrivals), (need, job));
        }
        Ok(())
    }

    /// Adds a sample's need to its batch's total, and returns it with the padding that it causes.
    fn add_need(&mut self, number: u64, mut need: DecodeNeed) -> Result<DecodeNeed, NeverFits> {
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
    pub(super) fn close(&mut self, number: u64) {
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
    pub(super) fn keepable(&self) -> u64 {
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

    /// Takes out the waiting jobs whose epoch is cancelled.
    pub(super) fn take_cancelled(&mut self) -> Vec<J> {
        let cancelled = self.waiting.iter().filter(|(_, (_, job))| job.is_cancelled());
        let places: Vec<_> = cancelled.map(|(place, _)| *place).collect();
        places.iter().filter_map(|place| self.waiting.remove(place)).map(|(_, job)| job).collect()
    }

    /// Grants their memory to waiting jobs, in order, up to the first for which there is none. Returns these and the
    /// cancelled ones among them.
    pub(super) fn take_ready(&mut self) -> Vec<J> {
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
