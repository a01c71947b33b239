//! Several loaders as one, batch by batch: data sets in any buckets, each with a decoder of its own.
//!
//! The batches of an epoch are woven as the samples of a [`Mixture`](crate::sample::Mixture) are, and with the same random
//! access: how many each part gave before a position is a few divisions. So a state is a position, and each part begins
//! where it stands and ends with the last batch that is wanted of it: nothing is read in vain.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::batches::Batches;
use super::cost::EpochSpending;
use super::data_loader::{DataLoader, before_state};
use super::epochs::{Epochs, PartialEpoch};
use super::running_epoch::with_digest;
use crate::collate::{Batch, Collate};
use crate::decode::Decode;
use crate::engine::shutdown::Closed;
use crate::metrics::{Counts, Metrics};
use crate::plan::Bill;
use crate::sample::{EpochLength, Interleave, MixtureUnit, State, keys, shares};
use crate::{Error, ErrorKind, Result, Stage};

/// Loaders of several data sets whose batches come by turns, by weights: of each stretch of an epoch every part has its
/// share, but for six batches at most. Each batch is of one part; for samples of several folders of one bucket in one batch
/// see [`Mixture`](crate::sample::Mixture).
///
/// The parts may be in different buckets, with decoders, batch sizes, caches and strategies of their own, as long as
/// they collate into the same type. All ranks take batches of the same part at the same step, and equally many.
///
/// Each part goes on where it stood at the end of the epoch before, and begins its next epoch when it is through, in
/// another order if it is shuffled. So nothing of a part comes twice before all of it came once.
///
/// **Each part has its own**: memory budget, threads that decode, and limit of [`OnError`](crate::OnError), which counts anew with
/// each epoch of the mixture and with each of the part. An epoch begins with nothing ahead, as one of [`DataLoader::epoch`]: where that takes
/// a second, as with joined reads, epochs should be long beside that ([`until_all`](MixedLoaderBuilder::until_all)).
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
/// // Until the books are through.
/// assert_eq!((of_books, mixed.batches_per_epoch()), (10, 33));
/// # Ok::<(), dataflux::Error>(())
/// ```
pub struct MixedLoader<B> {
    seed: u64,
    parts: Vec<Box<dyn MixedPart<B>>>,
    /// Batches of each in an epoch.
    counts: Vec<u64>,
    woven: Arc<Interleave>,
    resumed: Option<MixedState>,
}

/// Makes a [`MixedLoader`].
#[must_use = "a builder does nothing until it is built"]
pub struct MixedLoaderBuilder<B> {
    seed: u64,
    parts: Vec<(Box<dyn MixedPart<B>>, f64)>,
    length: EpochLength,
}

/// Where a run over a [`MixedLoader`] stands: what the training loop has been *given*. Some 100 bytes of JSON, and what the
/// [`State`] of each part takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MixedState {
    /// Of this format.
    pub version: u32,
    /// That of [`MixedLoader::builder`].
    pub seed: u64,
    /// The epoch this is in.
    pub epoch: u64,
    /// Batches of this epoch that each rank was given.
    pub position: u64,
    /// Batches of each part in an epoch.
    pub batches: Vec<u64>,
    /// Where each part stands in an epoch of its own.
    pub parts: Vec<State>,
}

impl MixedState {
    /// The version this crate writes.
    pub const VERSION: u32 = 1;
}

/// A loader, whatever its decoder is.
trait MixedPart<B>: Send + Sync {
    fn object(&self) -> String;
    /// Why it can't be a part.
    fn refused(&self) -> Option<(&'static str, &'static str)>;
    fn batches_per_epoch(&self) -> Result<u64>;
    /// The state at the beginning of its epoch 0, and how many samples a step takes over all ranks.
    fn beginning(&self) -> (State, u64);
    fn check(&self, state: &State) -> Result<()>;
    /// So many batches from one on, counted through all its epochs.
    fn stretch(&self, first: u128, batches: u64) -> Result<PartBatches<B>>;
    fn rank(&self) -> (u64, u64);
    /// What its epochs asked for, with the counts of all that its client was asked for.
    fn spent(&self) -> (EpochSpending, Arc<Metrics>);
    /// Ends its epochs, wherever they are.
    fn end(&self);
    fn close(self: Box<Self>, within: Duration) -> Closed;
}

/// The batches of a part that an epoch takes.
struct PartBatches<B> {
    epochs: Option<Epochs<B>>,
    current: Option<Batches<B>>,
}

/// The epoch and the batch there of a batch that is counted through all epochs.
fn place(batch: u128, per_epoch: u64) -> (u64, u64) {
    let (epoch, batch) = (batch / u128::from(per_epoch), batch % u128::from(per_epoch));
    (u64::try_from(epoch).unwrap_or(u64::MAX), batch as u64)
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Sample)
}

impl<D: Decode, C: Collate<D::Item>> MixedPart<C::Output> for DataLoader<D, C> {
    fn object(&self) -> String {
        self.dataset().manifest().prefix().to_string()
    }

    fn refused(&self) -> Option<(&'static str, &'static str)> {
        if self.core.resumed.is_some() {
            Some((
                "one that was built",
                "one that goes on from a state: give MixedLoaderBuilder::resume the state of the mixture",
            ))
        } else if self.core.settings.unordered {
            Some(("batches in order", "unordered ones, of which a position says nothing: leave unordered out"))
        } else {
            None
        }
    }

    fn batches_per_epoch(&self) -> Result<u64> {
        DataLoader::batches_per_epoch(self)
    }

    fn beginning(&self) -> (State, u64) {
        (with_digest(&self.core.series().state(0, None), self.dataset().manifest()), self.core.sharding.step())
    }

    fn check(&self, state: &State) -> Result<()> {
        state.check(self.dataset().manifest().digest())?;
        let told = |state: &State| format!("order {}, last batch {:?}", state.identity(), state.last_batch());
        let (there, here) = (told(state), told(&self.beginning().0));
        if there != here {
            return Err(wrong("the state was taken with other settings")
                .mismatch(there, here)
                .hint("build the part as it was"));
        }
        Ok(())
    }

    fn stretch(&self, first: u128, batches: u64) -> Result<PartBatches<C::Output>> {
        let Some(last) = batches.checked_sub(1).map(|more| first + u128::from(more)) else {
            return Ok(PartBatches { epochs: None, current: None });
        };
        let per_epoch = DataLoader::batches_per_epoch(self)?;
        let ((epoch, batch), (last, end)) = (place(first, per_epoch), place(last, per_epoch));
        let mut series = self.core.series();
        series.resumed = Some(State { position: batch * self.core.sharding.step(), ..series.state(epoch, None) });
        let batches = if last == epoch { end + 1 - batch } else { end + 1 };
        series.last = Some(PartialEpoch { epoch: last, batches });
        Ok(PartBatches { epochs: Some(series.start(epoch..last + 1)?), current: None })
    }

    fn rank(&self) -> (u64, u64) {
        (self.core.sharding.rank(), self.core.sharding.world_size())
    }

    fn spent(&self) -> (EpochSpending, Arc<Metrics>) {
        (self.core.spending(), Arc::clone(self.dataset().client().metrics()))
    }

    fn end(&self) {
        self.core.live.cancel();
    }

    fn close(self: Box<Self>, within: Duration) -> Closed {
        DataLoader::close(*self, within)
    }
}

impl<B: 'static> PartBatches<B> {
    /// The batch that was given last is done with, though others come before the next of this part.
    fn let_go(&mut self) {
        if let Some(current) = &mut self.current {
            current.release_batch();
        }
    }

    /// The next batch; nothing at the end.
    fn next(&mut self) -> Option<Result<Batch<B>>> {
        loop {
            if let Some(batch) = self.current.as_mut().and_then(Iterator::next) {
                return Some(batch);
            }
            // Before the next is asked for, which waits for nothing of this one.
            self.current = None;
            match self.epochs.as_mut()?.next()? {
                Ok(batches) => self.current = Some(batches),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<B: 'static> MixedLoaderBuilder<B> {
    /// With `loader` for a share of `weight`, from 1e-290 to 1e290, out of the sum of all weights.
    pub fn add<D, C>(mut self, loader: DataLoader<D, C>, weight: f64) -> Self
    where
        D: Decode,
        C: Collate<D::Item, Output = B>,
    {
        self.parts.push((Box::new(loader), weight));
        self
    }

    /// With epochs in which every part comes once; smaller ones begin anew meanwhile. By default an epoch has as many
    /// batches as it takes for the first part to be through.
    pub fn until_all(mut self) -> Self {
        self.length = EpochLength::UntilAll;
        self
    }

    /// With epochs of so many batches, at least 1.
    pub fn batches_per_epoch(mut self, batches: u64) -> Self {
        self.length = EpochLength::Samples(batches);
        self
    }

    /// Builds the loader. Waits for the end of all listings.
    ///
    /// # Errors
    /// No parts; a weight that is none; a part without a batch, [resumed](crate::DataLoaderBuilder::resume) or
    /// [unordered](crate::DataLoaderBuilder::unordered), or whose share of an epoch is nothing; a listing that failed.
    pub fn build(self) -> Result<MixedLoader<B>> {
        let Self { seed, parts, length } = self;
        let mut batches = Vec::with_capacity(parts.len());
        for (number, (part, _)) in parts.iter().enumerate() {
            if let Some((wanted, got)) = part.refused() {
                return Err(wrong("this loader can't be a part of a mixture")
                    .object(named(number, &**part))
                    .mismatch(wanted, got));
            }
            let ((rank, world), (first, of)) = (part.rank(), parts[0].0.rank());
            if (rank, world) != (first, of) {
                return Err(wrong("the parts of a mixture are of different ranks")
                    .object(named(number, &**part))
                    .mismatch(format_args!("rank {first} of {of}, as part 0"), format_args!("rank {rank} of {world}"))
                    .hint("give all parts the same .shard(rank, world_size)"));
            }
            batches.push(part.batches_per_epoch().map_err(|error| error.object(named(number, &**part)))?);
        }
        let (parts, weights): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let counts = shares(&batches, &weights, length, MixtureUnit::Batches)?;
        let woven = Arc::new(Interleave::new(&counts));
        Ok(MixedLoader { seed, parts, counts, woven, resumed: None })
    }

    /// Builds a loader that goes on where `state` was taken: its epoch begins with the first batch not delivered then. The
    /// parts are to be built as they were, by `build` and not by `resume`. Strategies, caches, budgets and threads may be
    /// others; so may rank and world size where each part has a
    /// [`global_batch_size`](crate::DataLoaderBuilder::global_batch_size), since a step then is what it was.
    ///
    /// # Errors
    /// A state of other data, of another seed, or of parts that had another order or other numbers of batches; all that
    /// [`build`](Self::build) refuses.
    pub fn resume(self, state: MixedState) -> Result<MixedLoader<B>> {
        let mut mixed = self.build()?;
        let MixedState { version, seed, epoch, position, batches, parts } = &state;
        if *version != MixedState::VERSION {
            return Err(wrong("this state was saved by another version of the crate")
                .mismatch(format_args!("version {}", MixedState::VERSION), format_args!("version {version}"))
                .hint("resume with the version that saved it"));
        }
        if *seed != mixed.seed || parts.len() != mixed.parts.len() {
            let told = |seed, parts| format!("seed {seed} and {parts} parts");
            return Err(wrong("this state is of another mixture")
                .mismatch(told(*seed, parts.len()), told(mixed.seed, mixed.parts.len()))
                .hint("build the mixture as it was"));
        }
        for (number, (part, state)) in mixed.parts.iter().zip(parts).enumerate() {
            part.check(state).map_err(|error| error.object(named(number, &**part)))?;
        }
        if *batches != mixed.counts {
            return Err(wrong("the parts of this state had other numbers of batches in an epoch")
                .mismatch(format_args!("{batches:?}"), format_args!("{:?}", mixed.counts))
                .hint("build the mixture with the weights and batch sizes it had; for another world size begin, and go on, with global_batch_size"));
        }
        if *position > mixed.batches_per_epoch() {
            return Err(wrong("this state is beyond the end of its epoch")
                .mismatch(format_args!("a position of at most {}", mixed.batches_per_epoch()), position)
                .hint("the state is damaged; take an earlier one"));
        }
        let here = mixed.progress(*epoch, *position)?;
        for (number, (there, here)) in parts.iter().zip(&here).enumerate() {
            let here = here.state();
            let told = |state: &State| format!("sample {} of epoch {}", state.position, state.epoch);
            if told(there) != told(&here) {
                return Err(wrong("a part of this state stands where it can't")
                    .object(named(number, &*mixed.parts[number]))
                    .mismatch(told(&here), told(there))
                    .hint(
                        "build the mixture with the batch sizes it had; else the state is damaged: take an earlier one",
                    ));
            }
        }
        mixed.resumed = Some(state);
        Ok(mixed)
    }
}

fn named<B>(number: usize, part: &dyn MixedPart<B>) -> String {
    format!("part {number}, {}", part.object())
}

impl<B: 'static> MixedLoader<B> {
    /// Of no parts yet. The seed decides where in the mixture each part begins; parts have their own for their orders.
    pub fn builder(seed: u64) -> MixedLoaderBuilder<B> {
        MixedLoaderBuilder { seed, parts: Vec::new(), length: EpochLength::default() }
    }

    /// Starts `epoch`, counted from 0: its order depends on the data, the samplers, the weights, the seed and this number
    /// alone. All parts begin to be read at once, each as far ahead as it is built to, and no further than this epoch takes.
    ///
    /// # Errors
    /// An epoch before that of the state which the mixture was resumed from; a thread that the system refuses; an epoch
    /// so late that parts can't count theirs.
    pub fn epoch(&self, epoch: u64) -> Result<MixedBatches<B>> {
        if let Some(state) = self.resumed.as_ref().filter(|state| epoch < state.epoch) {
            return Err(before_state(format_args!("epoch {epoch}"), state.epoch));
        }
        let start = self.resumed.as_ref().filter(|state| state.epoch == epoch).map_or(0, |state| state.position);
        let progress = self.progress(epoch, start)?;
        let stretches = self.parts.iter().zip(&progress).map(|(part, stands)| part.stretch(stands.next, stands.left));
        let parts = stretches.collect::<Result<_>>()?;
        let state = MixedState {
            version: MixedState::VERSION,
            seed: self.seed,
            epoch,
            position: start,
            batches: self.counts.clone(),
            parts: Vec::new(),
        };
        let woven = (self.key(epoch), Arc::clone(&self.woven));
        Ok(MixedBatches { parts, progress, woven, end: self.batches_per_epoch(), state, last: None })
    }

    fn key(&self, epoch: u64) -> u64 {
        let [key] = keys(&[b"dataflux mixed loader 1"], self.seed, epoch);
        key
    }

    /// Where the parts stand when so many batches of an epoch were delivered.
    fn progress(&self, epoch: u64, position: u64) -> Result<Vec<PartProgress>> {
        let given = self.woven.before(self.key(epoch), position, self.parts.len());
        let parts = self.parts.iter().zip(&self.counts).zip(given);
        let progress = parts.map(|((part, &count), given)| {
            let (beginning, step) = part.beginning();
            let (next, left) = (u128::from(epoch) * u128::from(count) + u128::from(given), count - given);
            let per_epoch = part.batches_per_epoch()?;
            // Of where this epoch ends, too.
            if place(next + u128::from(left), per_epoch).0 == u64::MAX {
                return Err(wrong("an epoch of a mixture is so late that a part can't count its own")
                    .object(part.object())
                    .mismatch(
                        format_args!("an epoch that ends before the part's epoch {}", u64::MAX),
                        format_args!("epoch {epoch}"),
                    )
                    .hint("count epochs from 0"));
            }
            Ok(PartProgress { beginning, step, per_epoch, next, left })
        });
        progress.collect()
    }

    /// Batches that a whole epoch has, equally on every rank.
    pub fn batches_per_epoch(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The first epoch of which something is left; as [`DataLoader::first_epoch`].
    pub fn first_epoch(&self) -> u64 {
        let left = |state: &MixedState| u64::from(state.position >= self.batches_per_epoch());
        self.resumed.as_ref().map_or(0, |state| state.epoch + left(state))
    }

    /// What all calls made so far through the clients of the parts cost, each client counted once; see [`DataLoader::bill`].
    pub fn bill(&self) -> Bill {
        let parts: Vec<_> = self.parts.iter().map(|part| part.spent()).collect();
        let mut bill: Bill = parts.iter().map(|(spent, _)| spent.bill()).sum();
        for (number, (spent, client)) in parts.iter().enumerate() {
            let of_client = |(_, other): &&(EpochSpending, Arc<Metrics>)| Arc::ptr_eq(other, client);
            if parts.iter().position(|part| of_client(&part)) == Some(number) {
                let of_epochs =
                    parts.iter().filter(of_client).fold(Counts::default(), |sum, (spent, _)| sum.plus(&spent.ops()));
                bill = bill + spent.prices.bill(&client.snapshot().since(&of_epochs));
            }
        }
        bill
    }

    /// Closes all parts; see [`DataLoader::close`]. Blocks for `within` at most.
    pub fn close(self, within: Duration) -> Closed {
        // All of them, before any is waited for.
        self.parts.iter().for_each(|part| part.end());
        let began = Instant::now();
        let parts = self.parts.into_iter().map(|part| part.close(within.saturating_sub(began.elapsed())));
        parts.fold(Closed::default(), Closed::plus)
    }
}

/// Where a part stands.
struct PartProgress {
    beginning: State,
    /// Samples of a batch over all ranks.
    step: u64,
    per_epoch: u64,
    /// Its next batch, counted through all its epochs.
    next: u128,
    /// Batches of it that this epoch of the mixture is still to have.
    left: u64,
}

impl PartProgress {
    fn state(&self) -> State {
        let (epoch, batch) = place(self.next, self.per_epoch);
        State { epoch, position: batch * self.step, ..self.beginning.clone() }
    }
}

/// The batches of an epoch of a [`MixedLoader`], each with the number of its part. An error ends it; dropping it, wherever it is,
/// returns at once.
#[must_use = "nothing is delivered unless it is iterated"]
pub struct MixedBatches<B> {
    parts: Vec<PartBatches<B>>,
    progress: Vec<PartProgress>,
    /// With the key of this epoch.
    woven: (u64, Arc<Interleave>),
    end: u64,
    /// Without the parts.
    state: MixedState,
    /// The part whose batch the loop has.
    last: Option<usize>,
}

impl<B: 'static> MixedBatches<B> {
    /// Where to go on after what was delivered so far, also after an error or the end; see [`MixedLoaderBuilder::resume`].
    pub fn state(&self) -> MixedState {
        MixedState { parts: self.progress.iter().map(PartProgress::state).collect(), ..self.state.clone() }
    }

    /// All batches were delivered: lets the parts do what the end of an epoch takes.
    fn end(&mut self) -> Option<Result<(usize, Batch<B>)>> {
        let mut parts = std::mem::take(&mut self.parts).into_iter().enumerate();
        parts.find_map(|(number, mut part)| match part.next()? {
            Err(error) => Some(Err(error)),
            Ok(_) => Some(Err(broken(number, "goes on after its last batch"))),
        })
    }
}

fn broken(part: usize, what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("a part of a mixture {what}"))
        .stage(Stage::Deliver)
        .object(format_args!("part {part}"))
        .hint("please report it")
}

impl<B: 'static> Iterator for MixedBatches<B> {
    type Item = Result<(usize, Batch<B>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(part) = self.last.take().and_then(|last| self.parts.get_mut(last)) {
            part.let_go();
        }
        if self.state.position >= self.end {
            return self.end();
        }
        let (key, woven) = &self.woven;
        let (part, _) = woven.at(*key, self.state.position);
        let batch = self.parts[part].next().unwrap_or_else(|| Err(broken(part, "ended before its last batch")));
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
        // An error ends it early.
        (0, left.ok())
    }
}

impl<B: 'static> FusedIterator for MixedBatches<B> {}

impl<B> fmt::Debug for MixedLoader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|part| part.object()).collect();
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
