//! A batch that is being assembled: its samples are decoded in any order and by any thread, and the last one completes
//! it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use super::decode_gate::{BatchMemory, Cancellable, DecodeGate, DecodeLimits, DecodeNeed, NeverFits};
use super::loss::{in_vain, is_of_one_sample};
use super::sample_code::{BatchItems, DecodedSample, RefusedSample, SampleCode, refused};
use super::shutdown::{EpochSignal, EpochTask};
use super::stages::{SampleStage, WindowStages};
use super::ticket::{BatchSender, FinishedBatch, HeldBytes};
use crate::budget::Permit;
use crate::collate::{Batch, BufferSource, CollateContext, LostSample};
use crate::lock::lock;
use crate::manifest::Manifest;
use crate::observe::{Event, EventKind, Events};
use crate::read::RawSample;
use crate::sample::{EpochPlace, SampleId};
use crate::{Error, ErrorKind, Stage};

/// A job for the decode threads.
pub(crate) enum DecodeJob {
    /// Decode a sample, and collate its batch if it is the last one.
    Decode {
        assembly: Arc<BatchAssembly>,
        slot: usize,
        sample: RawSample,
        /// Bytes of the payload that the sample is part of, unless they are held until delivery.
        until_decoded: Option<Arc<Permit>>,
        /// Memory that was granted for the sample, if it had to wait for that.
        granted: Option<DecodeNeed>,
    },
    /// Collate a batch whose samples are all decoded.
    Collate(Arc<BatchAssembly>),
    /// Drop what nobody needs any more. It may be many batches, whose memory takes long to free.
    Discard(Box<dyn Send>),
    /// End the thread that receives this.
    End,
}

impl Cancellable for DecodeJob {
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Decode { assembly, .. } if assembly.is_cancelled())
    }
}

/// What all batches of an epoch share.
pub(crate) struct BatchContext {
    pub(crate) epoch: u64,
    pub(crate) events: Events,
    pub(crate) code: Arc<dyn SampleCode>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) cancel: EpochSignal,
    pub(crate) loss_policy: LossPolicy,
    /// Where samples wait for memory before they are decoded. `None` if the sizes of items are known before reading:
    /// the planner has then taken their memory.
    pub(crate) gate: Option<Arc<DecodeGate<DecodeJob>>>,
    pub(crate) jobs: Sender<DecodeJob>,
    pub(crate) memory_budget: u64,
    /// The first place of the epoch, from which samples get theirs.
    pub(crate) first_place: EpochPlace,
}

/// What happens when a sample can't be read or decoded.
pub(crate) enum LossPolicy {
    /// The batch fails.
    Fail,
    /// The batch is delivered without the sample.
    Skip,
    /// Another sample replaces it. The function may be called from any thread; it brings a sample or reports another
    /// loss.
    Substitute(Box<dyn Fn(SubstituteRequest) + Send + Sync>),
}

/// A slot of a batch that needs a substitute.
pub(crate) struct SubstituteRequest {
    pub(crate) assembly: Arc<BatchAssembly>,
    pub(crate) slot: usize,
    /// The sample that was planned for the slot.
    pub(crate) planned: SampleId,
    /// Counted from 1.
    pub(crate) attempt: usize,
}

/// The place of a batch in its epoch and in its window.
pub(crate) struct BatchPlace {
    /// Index of the batch in its epoch.
    pub(crate) number: u64,
    /// Its slots: the indices of its samples in the window.
    pub(crate) slots: Range<usize>,
    /// The positions of its samples in the order of the epoch.
    pub(crate) positions: Vec<Range<u64>>,
    /// Positions of the global batch, of all ranks, in the order of the epoch.
    pub(crate) global_positions: Range<u64>,
    /// Number of samples at the end that only fill the batch up.
    pub(crate) padding: usize,
    /// Number of the last read that was started before the batch's window. Reads of substitutes have this number, so
    /// they go before the reads of their own window.
    pub(crate) read_number: u64,
}

/// A batch that is being assembled.
pub(crate) struct BatchAssembly {
    context: Arc<BatchContext>,
    pub(crate) place: BatchPlace,
    pub(crate) stages: Arc<WindowStages>,
    parts: Mutex<AssemblyParts>,
    sender: BatchSender,
    /// The batch's number at the gate, if there is a gate.
    gate_number: Option<u64>,
}

struct AssemblyParts {
    items: Option<BatchItems>,
    /// The decoded sample of each index in the batch; empty until a sample is decoded.
    decoded: Vec<Option<SampleId>>,
    /// Lost samples in the order in which they were lost.
    lost: Vec<LostInSlot>,
    /// Samples that are not decoded yet.
    undecoded: usize,
    /// Bytes of the decoded samples, as they are stored.
    bytes: u64,
    /// Decoded samples whose bytes were verified.
    verified: u64,
    held: Vec<HeldBytes>,
    /// The largest sample of a padded batch so far, for errors.
    largest: Option<(SampleId, DecodeNeed)>,
    /// The batch's memory for decoding. The finished batch takes it over.
    memory: Option<BatchMemory<DecodeJob>>,
    /// Counts the batch as unfinished.
    task: Option<EpochTask>,
}

struct LostInSlot {
    slot: usize,
    lost: LostSample,
}

impl BatchAssembly {
    pub(crate) fn new(
        context: &Arc<BatchContext>,
        place: BatchPlace,
        stages: Arc<WindowStages>,
        sender: BatchSender,
    ) -> Arc<Self> {
        let samples = place.slots.len();
        let memory = context.gate.as_ref().map(|gate| gate.register(samples));
        let gate_number = memory.as_ref().map(|memory| memory.number);
        let parts = AssemblyParts {
            items: Some(context.code.new_items()),
            decoded: Vec::new(),
            lost: Vec::new(),
            undecoded: samples,
            bytes: 0,
            verified: 0,
            held: Vec::new(),
            largest: None,
            memory,
            task: Some(context.cancel.track_task()),
        };
        Arc::new(Self { context: Arc::clone(context), place, stages, parts: Mutex::new(parts), sender, gate_number })
    }

    /// The gate, and the batch's number there.
    fn gate(&self) -> Option<(&DecodeGate<DecodeJob>, u64)> {
        self.context.gate.as_deref().zip(self.gate_number)
    }

    /// The position in the order of the epoch at which the sample of a slot is due.
    pub(crate) fn position(&self, slot: usize) -> u64 {
        let mut positions = self.place.positions.iter().cloned().flatten();
        positions.nth(slot - self.place.slots.start).expect("a slot of the batch")
    }

    /// Number of samples that the batch is planned to have.
    fn samples(&self) -> usize {
        self.place.slots.len()
    }

    /// Holds bytes until the batch is delivered.
    pub(crate) fn hold(&self, permit: HeldBytes) {
        lock(&self.parts).held.push(permit);
    }

    fn is_cancelled(&self) -> bool {
        self.context.cancel.is_cancelled()
    }

    /// Sends a job of this batch to the decode threads.
    fn send(&self, job: DecodeJob) {
        if self.context.jobs.send(job).is_err() {
            self.fail(Error::new(ErrorKind::Internal, "the decode threads are gone"));
        }
    }

    /// Has the decode threads collate the batch.
    pub(crate) fn queue_collate(self: &Arc<Self>) {
        self.send(DecodeJob::Collate(Arc::clone(self)));
    }

    /// Decodes samples of the batch that were read, or has the decode threads do it.
    ///
    /// A light decoder runs right here, on all of them at once: two threads that wake each other for each sample took a
    /// fifth of the CPU time of 4 KiB samples. Only the collating of a complete batch is handed over. There is no gate
    /// for a light decoder: the planner has taken the memory of its items.
    pub(crate) fn receive(self: &Arc<Self>, mut samples: Vec<(usize, RawSample)>, until_decoded: Option<&Arc<Permit>>) {
        for (slot, sample) in &mut samples {
            sample.set_place(self.context.first_place.at(self.position(*slot)));
        }
        if !self.context.code.is_light() {
            for (slot, sample) in samples {
                self.queue_decode(slot, sample, until_decoded.cloned());
            }
        } else if self.decode(samples, None) {
            self.queue_collate();
        }
    }

    /// Has the decode threads decode a sample, once there is memory for what decoding makes.
    fn queue_decode(self: &Arc<Self>, slot: usize, sample: RawSample, until_decoded: Option<Arc<Permit>>) {
        let job =
            |sample, granted| DecodeJob::Decode { assembly: Arc::clone(self), slot, sample, until_decoded, granted };
        let Some((gate, number)) = self.gate() else {
            return self.send(job(sample, None));
        };
        let id = sample.id();
        let need = match self.context.code.decode_need(&sample, self.samples(), gate.limits) {
            Ok(need) => need,
            Err(panicked) => return self.refuse(slot, id, &panicked, false),
        };
        if let Some(never) = self.never_fits(need) {
            drop(sample);
            // This sample alone is too large, and others may not be.
            self.go_without(slot, id, self.too_large(id, never, need), false);
            return;
        }
        if !need.is_estimate {
            self.largest(id, need);
        }
        if let Err(never) = gate.request(number, need, job(sample, Some(need))) {
            self.fail_too_large(id, never, need);
        }
    }

    /// Ends the batch because it doesn't fit into the memory for decoding once it has this sample. If the batch is
    /// padded, the error is about its largest sample, to which all others are padded.
    fn fail_too_large(&self, id: SampleId, never: NeverFits, need: DecodeNeed) {
        let (id, need) = self.largest(id, need);
        self.fail(self.too_large(id, never, need));
    }

    /// The largest sample so far of a padded batch, to which this one belongs; this one if the batch isn't padded.
    fn largest(&self, id: SampleId, need: DecodeNeed) -> (SampleId, DecodeNeed) {
        if !need.is_padded {
            return (id, need);
        }
        let mut parts = lock(&self.parts);
        let before = parts.largest.filter(|(_, largest)| largest.batch >= need.batch);
        *parts.largest.insert(before.unwrap_or((id, need)))
    }

    /// Whether this sample alone is too large for any batch.
    fn never_fits(&self, need: DecodeNeed) -> Option<NeverFits> {
        let (gate, _) = self.gate()?;
        (need.total() > gate.limits.batch()).then_some(NeverFits { batch: need.total() })
    }

    /// The error for a sample that does not fit into the memory for decoding, alone or with its batch.
    fn too_large(&self, id: SampleId, never: NeverFits, need: DecodeNeed) -> Error {
        let samples = self.samples();
        let DecodeNeed { item, copy, scratch, .. } = need;
        let together = need.lasting().saturating_mul(samples as u64).saturating_add(scratch);
        let mut wanted = format!("a memory_budget of at least {} bytes", DecodeLimits::budget_for(never.batch));
        if together > never.batch {
            let all = DecodeLimits::budget_for(together);
            wanted = format!("{wanted}, or {all} if all samples of the batch are as large");
        }
        let copied = if copy == 0 { String::new() } else { format!(", {copy} bytes in the batch") };
        let (others, smaller) = if need.is_padded {
            (", to which the others are padded,", "clip long audio with .length(frames)")
        } else {
            ("", "make images smaller with .resize(height, width)")
        };
        let error = Error::new(
            ErrorKind::Config,
            format!(
                "a batch of {samples} samples is over the memory budget once it is decoded: this sample takes {item} bytes\
                 {copied}{others} and {scratch} bytes of working memory, and one batch may have three quarters of the \
                 budget"
            ),
        )
        .stage(Stage::Decode)
        .mismatch(wanted, self.context.memory_budget)
        .hint(format!("raise .memory_budget(bytes) or lower .batch_size(n), or {smaller}"));
        match self.context.manifest.location(id) {
            Ok(location) => error.object(self.context.manifest.id(&location.object)),
            Err(damaged) => damaged,
        }
    }

    /// Replaces the grant of a decoded sample with the memory that its item takes.
    fn settle(&self, id: SampleId, granted: DecodeNeed, item: DecodeNeed) {
        let Some((gate, number)) = self.gate() else { return };
        // What collating frees is noted even if the item takes just what was granted: the gate gives it back then.
        if item != granted || item.lasting() > item.batch {
            self.largest(id, item);
            if let Err(never) = gate.update(|ledger| ledger.settle(number, granted, item)) {
                self.fail_too_large(id, never, item);
            }
        }
    }

    /// Ends the batch with an error. Only the first one counts.
    pub(crate) fn fail(&self, error: Error) {
        self.sender.send(Err(error));
    }

    /// Decodes samples of the batch. A sample for which memory was `granted` comes alone. Returns whether the batch is
    /// now complete and is to be collated by the caller.
    pub(crate) fn decode(self: &Arc<Self>, samples: Vec<(usize, RawSample)>, granted: Option<DecodeNeed>) -> bool {
        if self.is_cancelled() {
            return false;
        }
        let first = samples.first().map(|(slot, sample)| (*slot, sample.id()));
        let mut samples = self.context.code.decode(samples, granted);
        if let (Some((slot, id)), Some(granted), Some(item)) = (first, granted, samples.memory) {
            if let Some(never) = self.never_fits(item) {
                drop(samples);
                self.settle(id, granted, DecodeNeed::default());
                self.go_without(slot, id, self.too_large(id, never, item), true);
                return false;
            }
            self.settle(id, granted, item);
        }

        let lost = std::mem::take(&mut samples.refused);
        let mut is_complete = false;
        if !samples.decoded.is_empty() {
            self.report_decoded(&samples.decoded);
            self.stages.set(samples.decoded.iter().map(|sample| sample.slot), SampleStage::Decoded);
            let mut parts = lock(&self.parts);
            let AssemblyParts { items, decoded, undecoded, bytes, verified, .. } = &mut *parts;
            decoded.resize(self.samples(), None);
            *undecoded -= samples.decoded.len();
            for sample in &samples.decoded {
                decoded[sample.slot - self.place.slots.start] = Some(sample.id);
            }
            *bytes += samples.bytes;
            *verified += samples.verified;
            if let Some(items) = items {
                self.context.code.fill(items, self.place.slots.start, self.samples(), samples);
            }
            is_complete = *undecoded == 0;
        }

        for RefusedSample { slot, id, cause } in lost {
            self.refuse(slot, id, &cause, granted.is_some());
        }
        is_complete
    }

    /// Applies the loss policy to a sample that the user's code refuses.
    fn refuse(self: &Arc<Self>, slot: usize, id: SampleId, cause: &str, was_granted: bool) {
        match self.context.manifest.location(id) {
            Ok(location) => {
                let error = refused(self.context.manifest.id(&location.object), cause);
                self.go_without(slot, id, error, was_granted);
            }
            Err(damaged) => self.fail(damaged),
        }
    }

    fn report_decoded(&self, samples: &[DecodedSample]) {
        let BatchContext { epoch, events, .. } = &*self.context;
        if events.wants(EventKind::SampleDecoded) {
            for DecodedSample { id, .. } in samples {
                let event = || Event::SampleDecoded { sample: id.0, epoch: *epoch, batch: self.place.number };
                events.send(EventKind::SampleDecoded, event);
            }
        }
    }

    /// Applies the loss policy to a sample that can't be read. Returns whether the batch fails by that.
    pub(crate) fn lose(self: &Arc<Self>, slot: usize, id: SampleId, error: Error) -> bool {
        if is_of_one_sample(&error) {
            return self.go_without(slot, id, error, false);
        }
        self.fail(error);
        true
    }

    /// Skips a sample or requests a substitute, if the loss policy allows that. If the batch is complete without the
    /// sample, the decode threads collate it. `was_granted` says whether the gate had granted the sample's memory.
    /// Returns whether the batch fails.
    fn go_without(self: &Arc<Self>, slot: usize, id: SampleId, error: Error, was_granted: bool) -> bool {
        if matches!(self.context.loss_policy, LossPolicy::Fail) {
            self.fail(error);
            return true;
        }
        let name = match self.context.manifest.location(id) {
            Ok(location) => location.object.name,
            Err(damaged) => {
                self.fail(damaged);
                return true;
            }
        };
        let lost = LostSample { id, name, position: self.position(slot), error, substitute: None };
        let mut parts = lock(&self.parts);
        parts.lost.push(LostInSlot { slot, lost });
        if let LossPolicy::Substitute(request) = &self.context.loss_policy {
            let mut of_slot = parts.lost.iter().filter(|other| other.slot == slot).map(|other| other.lost.id);
            let attempt = of_slot.clone().count();
            let planned = of_slot.next().unwrap_or(id);
            drop(parts);
            if let Some((gate, number)) = self.gate().filter(|_| was_granted) {
                gate.update(|ledger| ledger.reopen(number));
            }
            request(SubstituteRequest { assembly: Arc::clone(self), slot, planned, attempt });
            return false;
        }

        if let Some((gate, number)) = self.gate().filter(|_| !was_granted) {
            gate.update(|ledger| ledger.skip(number));
        }
        self.stages.set([slot], SampleStage::Decoded);
        parts.undecoded -= 1;
        if parts.undecoded == 0 {
            self.queue_collate();
        }
        false
    }

    /// Ends the batch with an error, because no substitute is left for this slot.
    pub(crate) fn give_up(&self, slot: usize) {
        let parts = lock(&self.parts);
        let of_slot: Vec<_> = parts.lost.iter().filter(|lost| lost.slot == slot).collect();
        if let Some(last) = of_slot.last() {
            self.fail(in_vain(&last.lost, of_slot.len()));
        }
    }

    /// Makes the batch of the samples that are decoded, and sends it.
    pub(crate) fn collate(&self) {
        let mut parts = lock(&self.parts);
        let Some(items) = parts.items.take() else { return };
        let decoded = std::mem::take(&mut parts.decoded);
        let mut lost = std::mem::take(&mut parts.lost);
        let mut held = std::mem::take(&mut parts.held);
        let (bytes, verified, _task) = (parts.bytes, parts.verified, parts.task.take());
        if let Some(memory) = parts.memory.take() {
            held.push(Arc::new(memory));
        }
        drop(parts);

        let in_slot = |slot: usize| decoded.get(slot - self.place.slots.start).copied().flatten();
        // The sort is stable: the samples of one slot stay in the order in which they were tried.
        lost.sort_by_key(|lost| lost.slot);
        let lost = lost.into_iter().map(|LostInSlot { slot, lost }| LostSample { substitute: in_slot(slot), ..lost });
        let lost = lost.collect();
        let end = self.place.slots.end;
        let padding = (end - self.place.padding..end).filter(|slot| in_slot(*slot).is_some()).count();
        let ids = decoded.iter().flatten().copied().collect();

        let own = &self.place.positions;
        let positions = own.first().map_or(0, |range| range.start)..own.last().map_or(0, |range| range.end);
        let BatchContext { epoch, first_place, .. } = *self.context;
        let seed = first_place.at(positions.start).batch_seed();
        let buffers = BufferSource::new(self.context.gate.as_ref().map(|gate| Arc::clone(&gate.buffers)));
        let context = CollateContext { epoch, positions, seed, buffers };
        match self.context.code.collate(items, &context) {
            Ok(data) => {
                if let Some((gate, number)) = self.gate() {
                    gate.update(|ledger| ledger.collated(number));
                }
                let manifest = Arc::clone(&self.context.manifest);
                let batch = Batch::new(ids, manifest, context.positions, padding, lost, data);
                let BatchPlace { number, global_positions, .. } = &self.place;
                let positions = global_positions.clone();
                self.sender.send(Ok(FinishedBatch { batch, number: *number, positions, bytes, verified, held }));
            }
            Err(cause) => self.fail(
                Error::new(ErrorKind::Collate, format!("the samples make no batch: {cause}")).stage(Stage::Collate),
            ),
        }
    }
}
