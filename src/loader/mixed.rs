//! Several loaders combined into one that delivers whole batches of each in turn: data sets in any buckets, each with
//! its own decoder.
//!
//! The batches of an epoch are interleaved like the samples of a [`Mixture`](crate::sample::Mixture), with the same
//! random access: how many batches each part has before a position takes a few divisions. Therefore the state is a
//! position, and each part starts at its own place and ends with its last batch that is wanted, so nothing is read in
//! vain.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cost::EpochSpending;
use super::data_loader::{DataLoader, before_state};
use super::mixed_part::{MixedPart, PartBatches, PartPosition, config_error};
use crate::collate::Batch;
use crate::decode::Decode;
use crate::engine::shutdown::Closed;
use crate::metrics::Counts;
use crate::plan::Bill;
use crate::sample::{EpochLength, Interleave, MixtureUnit, State, keys, part_lengths};
use crate::{Error, ErrorKind, Result, Stage};

/// Loaders of several data sets that deliver their batches in turn, by weights. Within any stretch of an epoch, the
/// number of batches of each part differs from its share by at most six. Each batch comes from one part; to combine
/// samples of several folders of one bucket in one batch, use [`Mixture`](crate::sample::Mixture).
///
/// The parts may be in different buckets, with their own decoders, batch sizes, caches and strategies, as long as they
/// collate into the same type. At each step all ranks take a batch of the same part, and all ranks take equally many.
///
/// Each part continues where it stood at the end of the epoch before, and starts its next epoch when it is through, in
/// another order if it is shuffled. So no sample of a part comes twice before all of them came once.
///
/// **Each part has its own** memory budget, decode threads, and limit of [`OnError`](crate::OnError), which is counted
/// anew in each epoch of the mixture and of the part. An epoch starts with nothing read ahead, as one of
/// [`DataLoader::epoch`] does. If the start takes a second, as with composed reads, make epochs much longer than that
/// ([`until_all`](MixedLoaderBuilder::until_all)).
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{DataLoader, DatafluxDataset, MixedLoader};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("books", &format!("{n}.txt"), "a page"));
/// # (0..900).for_each(|n| _ = store.insert("web", &format!("{n}.txt"), "a page"));
/// # let client = Client::new(Arc::new(store));
/// # let open = |uri| DatafluxDataset::open_with(client.clone(), uri);
///
/// let books = DataLoader::builder(open("gs://books/")?).batch_size(10).shuffle(1).build()?;
/// let web = DataLoader::builder(open("gs://web/")?).batch_size(10).shuffle(2).build()?;
/// let mixed = MixedLoader::builder(42).add(books, 0.3).add(web, 0.7).build()?;
/// let mut of_books = 0;
/// for batch in mixed.epoch(0)? {
///     let (part, batch) = batch?;
///     assert_eq!(batch.len(), 10);
///     of_books += usize::from(part == 0);
/// }
/// // The epoch ends when the books are through.
/// assert_eq!((of_books, mixed.batches_per_epoch()), (10, 33));
/// # Ok::<(), dataflux::Error>(())
/// ```
pub struct MixedLoader<B> {
    seed: u64,
    parts: Vec<MixedPart>,
    /// Batches of each part in an epoch.
    counts: Vec<u64>,
    interleave: Arc<Interleave>,
    resumed: Option<MixedState>,
    data: PhantomData<fn() -> B>,
}

/// Settings of a [`MixedLoader`].
#[must_use = "a builder does nothing until it is built"]
pub struct MixedLoaderBuilder<B> {
    seed: u64,
    parts: Vec<(MixedPart, f64)>,
    length: EpochLength,
    resume: Option<MixedState>,
    data: PhantomData<fn() -> B>,
}

/// Where a run over a [`MixedLoader`] stands, counted by the batches that the training loop has *received*. It takes
/// some 100 bytes of JSON, and those of the [`State`] of each part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MixedState {
    /// Version of this format.
    pub version: u32,
    /// Seed given to [`MixedLoader::builder`].
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Batches of this epoch that each rank has received.
    pub position: u64,
    /// Batches of each part in an epoch.
    pub batches: Vec<u64>,
    /// Where each part stands in its own epoch.
    pub parts: Vec<State>,
}

impl MixedState {
    /// The version this crate writes.
    pub const VERSION: u32 = 1;
}

impl<B: 'static> MixedLoaderBuilder<B> {
    /// Adds `loader`. Its share is `weight`, from 1e-290 to 1e290, divided by the sum of all weights.
    pub fn add<D: Decode>(mut self, loader: DataLoader<D, B>, weight: f64) -> Self {
        self.parts.push((MixedPart::new(loader), weight));
        self
    }

    /// Makes an epoch long enough that every part comes at least once in full; smaller parts start again meanwhile. By
    /// default an epoch ends when the first part is through.
    pub fn until_all(mut self) -> Self {
        self.length = EpochLength::UntilAll;
        self
    }

    /// Sets how many batches an epoch has, at least 1.
    pub fn batches_per_epoch(mut self, batches: u64) -> Self {
        self.length = EpochLength::Samples(batches);
        self
    }

    /// Resumes from `state`: the loader's first epoch starts with the first batch that was not delivered then. Give it
    /// the same parts, which themselves don't resume. Their strategies, caches, budgets and threads may differ. Rank
    /// and world size may differ if each part has a
    /// [`global_batch_size`](crate::DataLoaderBuilder::global_batch_size), so that a step is the same.
    ///
    /// [`build`](Self::build) fails if the state is of other data or of another seed, or if its parts had another order
    /// or other numbers of batches.
    pub fn resume(mut self, state: MixedState) -> Self {
        self.resume = Some(state);
        self
    }

    /// Builds the loader. Waits for the end of all listings.
    ///
    /// # Errors
    /// There are no parts; a weight is out of range; a part has no batch, is
    /// [resumed](crate::DataLoaderBuilder::resume) or [unordered](crate::DataLoaderBuilder::unordered), or has no batch
    /// in an epoch of the mixture; a listing failed; the state can't be [resumed](Self::resume) from.
    pub fn build(self) -> Result<MixedLoader<B>> {
        let Self { seed, parts, length, resume, data } = self;
        let mut batches = Vec::with_capacity(parts.len());
        for (number, (part, _)) in parts.iter().enumerate() {
            let object = part_name(number, part);
            let per_epoch = part.checked_length().map_err(|error| error.object(&object))?;
            let [rank, first_rank] = [part, &parts[0].0].map(|part| {
                let sharding = part.core.series.sharding;
                format!("rank {} of {}", sharding.rank(), sharding.world_size())
            });
            if rank != first_rank {
                return Err(config_error("the parts of a mixture are of different ranks")
                    .object(object)
                    .mismatch(format_args!("{first_rank}, as part 0"), rank)
                    .hint("give all parts the same .shard(rank, world_size)"));
            }
            batches.push(per_epoch);
        }
        let (parts, weights): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let counts = part_lengths(&batches, &weights, length, MixtureUnit::Batches)?;
        let interleave = Arc::new(Interleave::new(&counts));
        let mixed = MixedLoader { seed, parts, counts, interleave, resumed: None, data };
        match resume {
            Some(state) => mixed.resumed_from(state),
            None => Ok(mixed),
        }
    }
}

/// The name of a part in errors.
fn part_name(number: usize, part: &MixedPart) -> String {
    format!("part {number}, {}", part.object())
}

impl<B: 'static> MixedLoader<B> {
    /// A builder without parts. The seed decides where in the mixture each part begins; the order within a part depends
    /// on the part's own seed.
    pub fn builder(seed: u64) -> MixedLoaderBuilder<B> {
        MixedLoaderBuilder { seed, parts: Vec::new(), length: EpochLength::default(), resume: None, data: PhantomData }
    }

    /// The same loader, resumed from `state`.
    ///
    /// # Errors
    /// The state is of another mixture, or damaged.
    fn resumed_from(self, state: MixedState) -> Result<Self> {
        let MixedState { version, seed, epoch, position, batches, parts } = &state;
        if *version != MixedState::VERSION {
            return Err(config_error("this state was saved by another version of the crate")
                .mismatch(format_args!("version {}", MixedState::VERSION), format_args!("version {version}"))
                .hint("resume with the version that saved it"));
        }
        if *seed != self.seed || parts.len() != self.parts.len() {
            let describe = |seed, parts| format!("seed {seed} and {parts} parts");
            return Err(config_error("this state is of another mixture")
                .mismatch(describe(*seed, parts.len()), describe(self.seed, self.parts.len()))
                .hint("build the mixture as it was"));
        }
        for (number, (part, state)) in self.parts.iter().zip(parts).enumerate() {
            part.check(state).map_err(|error| error.object(part_name(number, part)))?;
        }
        if *batches != self.counts {
            return Err(config_error("the parts of this state had other numbers of batches in an epoch")
                .mismatch(format_args!("{batches:?}"), format_args!("{:?}", self.counts))
                .hint(
                    "build the mixture with the weights and batch sizes it had; to resume on another number of ranks, use \
                     global_batch_size from the start",
                ));
        }
        if *position > self.batches_per_epoch() {
            return Err(config_error("this state is beyond the end of its epoch")
                .mismatch(format_args!("a position of at most {}", self.batches_per_epoch()), position)
                .hint("the state is damaged; take an earlier one"));
        }

        let progress = self.progress(*epoch, *position)?;
        for (number, (saved, progress)) in parts.iter().zip(&progress).enumerate() {
            let describe = |state: &State| format!("sample {} of epoch {}", state.position, state.epoch);
            let (saved, wanted) = (describe(saved), describe(&progress.state()));
            if saved != wanted {
                return Err(config_error("a part of this state stands where it can't")
                    .object(part_name(number, &self.parts[number]))
                    .mismatch(wanted, saved)
                    .hint(
                        "build the mixture with the batch sizes it had; else the state is damaged: take an earlier one",
                    ));
            }
        }
        Ok(Self { resumed: Some(state), ..self })
    }

    /// Starts `epoch`, counted from 0. Its order depends only on the data, the samplers, the weights, the seed and this
    /// number. All parts start to read at once, each as far ahead as it is built to, but not past what this epoch
    /// takes.
    ///
    /// # Errors
    /// The mixture was resumed from a later epoch; the system refuses a thread; the epoch is so late that parts can't
    /// count theirs.
    pub fn epoch(&self, epoch: u64) -> Result<MixedBatches<B>> {
        if let Some(state) = self.resumed.as_ref().filter(|state| epoch < state.epoch) {
            return Err(before_state(format_args!("epoch {epoch}"), state.epoch));
        }
        let start = self.resumed.as_ref().filter(|state| state.epoch == epoch).map_or(0, |state| state.position);
        let progress = self.progress(epoch, start)?;
        let parts = self.parts.iter().zip(&progress).map(|(part, progress)| part.start(progress.next, progress.left));
        let parts = parts.collect::<Result<_>>()?;
        let state = MixedState {
            version: MixedState::VERSION,
            seed: self.seed,
            epoch,
            position: start,
            batches: self.counts.clone(),
            parts: Vec::new(),
        };
        let (key, interleave) = (self.key(epoch), Arc::clone(&self.interleave));
        Ok(MixedBatches { parts, progress, key, interleave, end: self.batches_per_epoch(), state, last: None })
    }

    /// The key that decides the interleaving of an epoch.
    fn key(&self, epoch: u64) -> u64 {
        let [key] = keys(&[b"dataflux mixed loader 1"], self.seed, epoch);
        key
    }

    /// Where the parts stand when `position` batches of an epoch were delivered.
    fn progress(&self, epoch: u64, position: u64) -> Result<Vec<PartProgress>> {
        let delivered = self.interleave.before(self.key(epoch), position, self.parts.len());
        let parts = self.parts.iter().zip(&self.counts).zip(delivered);
        let progress = parts.map(|((part, &count), delivered)| {
            let next = u128::from(epoch) * u128::from(count) + u128::from(delivered);
            let left = count - delivered;
            let per_epoch = part.core.batches_per_epoch()?;
            // The end of this epoch must be countable, too.
            if PartPosition::new(next + u128::from(left), per_epoch).epoch == u64::MAX {
                return Err(config_error("an epoch of a mixture is so late that a part can't count its own")
                    .object(part.object())
                    .mismatch(
                        format_args!("an epoch that ends before the part's epoch {}", u64::MAX),
                        format_args!("epoch {epoch}"),
                    )
                    .hint("count epochs from 0"));
            }
            Ok(PartProgress {
                initial: part.initial_state(),
                step_samples: part.core.series.sharding.global_batch_size(),
                per_epoch,
                next,
                left,
            })
        });
        progress.collect()
    }

    /// Number of batches in a whole epoch, the same on every rank.
    pub fn batches_per_epoch(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The first epoch that is not fully delivered; as [`DataLoader::first_epoch`].
    pub fn first_epoch(&self) -> u64 {
        let is_finished = |state: &MixedState| u64::from(state.position >= self.batches_per_epoch());
        self.resumed.as_ref().map_or(0, |state| state.epoch + is_finished(state))
    }

    /// The cost of all calls so far through the clients of the parts. A client that several parts share is counted
    /// once. See [`DataLoader::bill`].
    pub fn bill(&self) -> Bill {
        let spending: Vec<_> = self.parts.iter().map(|part| part.core.spending()).collect();
        let clients: Vec<_> = self.parts.iter().map(|part| &part.client_metrics).collect();
        let mut bill: Bill = spending.iter().map(EpochSpending::bill).sum();
        for (number, client) in clients.iter().enumerate() {
            let uses_client = |part: usize| Arc::ptr_eq(clients[part], client);
            // At the first part that uses the client, the calls outside of epochs are added.
            if (0..number).any(uses_client) {
                continue;
            }
            let in_epochs = (0..clients.len()).filter(|part| uses_client(*part));
            let in_epochs = in_epochs.fold(Counts::default(), |sum, part| sum.plus(&spending[part].ops()));
            bill = bill + spending[number].prices.bill(&client.snapshot().since(&in_epochs));
        }
        bill
    }

    /// Closes all parts; see [`DataLoader::close`]. Blocks for no longer than `within`.
    pub fn close(self, within: Duration) -> Closed {
        // All parts are ended before the first is waited for.
        self.parts.iter().for_each(|part| part.core.series.live.cancel());
        let started = Instant::now();
        let parts = self.parts.into_iter().map(|part| part.core.close(within.saturating_sub(started.elapsed())));
        parts.fold(Closed::default(), Closed::plus)
    }
}

/// Where a part of a mixture stands.
struct PartProgress {
    /// The state at the start of the part's epoch 0.
    initial: State,
    /// Samples of a batch over all ranks.
    step_samples: u64,
    /// Batches of an epoch of the part.
    per_epoch: u64,
    /// The next batch, counted through all epochs of the part.
    next: u128,
    /// Batches that this epoch of the mixture still takes.
    left: u64,
}

impl PartProgress {
    fn state(&self) -> State {
        let next = PartPosition::new(self.next, self.per_epoch);
        State { epoch: next.epoch, position: next.batch * self.step_samples, ..self.initial.clone() }
    }
}

/// The batches of an epoch of a [`MixedLoader`], each with the number of its part. An error ends the iteration.
/// Dropping the iterator returns at once, wherever it stands.
#[must_use = "nothing is delivered unless it is iterated"]
pub struct MixedBatches<B> {
    parts: Vec<PartBatches<B>>,
    progress: Vec<PartProgress>,
    /// Decides the interleaving of this epoch.
    key: u64,
    interleave: Arc<Interleave>,
    /// Batches of the epoch; 0 after an error.
    end: u64,
    /// The state without its parts.
    state: MixedState,
    /// The part of the batch that was delivered last.
    last: Option<usize>,
}

impl<B: 'static> MixedBatches<B> {
    /// The state after the batches delivered so far, also after an error or the end; see
    /// [`MixedLoaderBuilder::resume`].
    pub fn state(&self) -> MixedState {
        MixedState { parts: self.progress.iter().map(PartProgress::state).collect(), ..self.state.clone() }
    }

    /// Lets each part finish its epoch once all batches were delivered.
    fn end(&mut self) -> Option<Result<(usize, Batch<B>)>> {
        let mut parts = std::mem::take(&mut self.parts).into_iter().enumerate();
        parts.find_map(|(number, mut part)| match part.next()? {
            Err(error) => Some(Err(error)),
            Ok(_) => Some(Err(internal_error(number, "continues after its last batch"))),
        })
    }
}

fn internal_error(part: usize, what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("a part of a mixture {what}"))
        .stage(Stage::Deliver)
        .object(format_args!("part {part}"))
        .hint("please report it")
}

impl<B: 'static> Iterator for MixedBatches<B> {
    type Item = Result<(usize, Batch<B>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(part) = self.last.take().and_then(|last| self.parts.get_mut(last)) {
            part.release_batch();
        }
        if self.state.position >= self.end {
            return self.end();
        }
        let (part, _) = self.interleave.at(self.key, self.state.position);
        let next = self.parts[part].next();
        let batch = next.unwrap_or_else(|| Err(internal_error(part, "ended before its last batch")));
        match batch {
            Ok(batch) => {
                self.state.position += 1;
                self.progress[part].next += 1;
                self.progress[part].left -= 1;
                self.last = Some(part);
                Some(Ok((part, batch)))
            }
            Err(error) => {
                self.end = 0;
                self.parts.clear();
                Some(Err(error))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end.saturating_sub(self.state.position));
        // An error may end the iteration early, so the lower bound is 0.
        (0, left.ok())
    }
}

impl<B: 'static> FusedIterator for MixedBatches<B> {}

impl<B> fmt::Debug for MixedLoader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(MixedPart::object).collect();
        f.debug_struct("MixedLoader")
            .field("seed", &self.seed)
            .field("parts", &parts)
            .field("batches", &self.counts)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for MixedLoaderBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|(part, weight)| (part.object(), weight)).collect();
        f.debug_struct("MixedLoaderBuilder").field("seed", &self.seed).field("parts", &parts).finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for MixedBatches<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MixedBatches").field("state", &self.state).field("end", &self.end).finish_non_exhaustive()
    }
}
