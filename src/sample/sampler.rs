//! What a sampler is, and the orders it gives.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::{SampleId, short, told, wrong};
use crate::error::panic_message;
use crate::manifest::{Facts, Known, Manifest};
use crate::{Error, ErrorKind, Result, Stage};

/// What an order may say in the place of a sample: that there is none, where the number that it was given can't be told.
pub(super) const NOWHERE: u64 = u64::MAX;

/// A way to order the samples of each epoch.
///
/// An order is a pure function of the data, the sampler's parameters, the epoch and the position, and can be asked at
/// any position: so it is the same on all ranks, however many, and a run goes on at any place as fast as at the first.
/// Built in are [`Sequential`](super::Sequential), [`Shuffle`](super::Shuffle),
/// [`BlockShuffle`](super::BlockShuffle), [`WindowShuffle`](super::WindowShuffle), [`Weighted`](super::Weighted),
/// [`Stratified`](super::Stratified), [`Mixture`](super::Mixture) and [`Subset`](super::Subset).
///
/// One that panics, or answers what can't be, is an error in the place of the first batch that it spoils; those before it
/// are delivered.
///
/// One of your own, which goes from the last sample to the first:
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::sample::{Orders, Sampler, Scope};
/// use dataflux::{DataLoader, DatafluxDataset};
///
/// #[derive(Debug)]
/// struct Backwards;
///
/// impl Sampler for Backwards {
///     fn identity(&self) -> String {
///         "backwards".to_owned()
///     }
///
///     fn orders(&self, scope: &Scope) -> dataflux::Result<Orders> {
///         let samples = scope.len();
///         Ok(Orders::new(samples, move |_epoch| move |position| samples - 1 - position))
///     }
/// }
/// # let store = MemoryStore::new();
/// # (0..3).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// let loader = DataLoader::builder(dataset).batch_size(2).sampler(Backwards).build()?;
/// let batch = loader.epoch(0)?.next().expect("a first batch")?;
/// assert_eq!(batch.names().collect::<Vec<_>>(), ["train/2.txt", "train/1.txt"]);
/// # Ok::<(), dataflux::Error>(())
/// ```
pub trait Sampler: fmt::Debug + Send + Sync + 'static {
    /// Names the sampler and its parameters, such as `backwards(step=2)`. A [`State`](super::State) holds this, and a
    /// loader with a sampler of another identity refuses it; so it must change with whatever changes the order, and
    /// with nothing else, ever. One of more than 96 bytes is cut there, and a hash of all of it is put in. Those of built-in
    /// samplers are taken.
    fn identity(&self) -> String;

    /// The orders over the samples of `scope`. Called once for a loader, when all are listed; where
    /// [`settled`](Self::settled) says more than 0, again and again for what is listed by then.
    ///
    /// # Errors
    /// Parameters that make no order, or none of these data.
    fn orders(&self, scope: &Scope) -> Result<Orders>;

    /// How many positions of every epoch stay as they are when more samples follow the first `listed`, in byte order of
    /// names: no more than the orders over these have. More than 0 lets an epoch begin while the data set is
    /// [still being listed](crate::DatasetBuilder::streaming).
    fn settled(&self, listed: u64) -> u64 {
        _ = listed;
        0
    }

    /// Whether it is one of this crate's that give each sample once in every epoch.
    #[doc(hidden)]
    fn takes_all(&self, _: Sealed) -> bool {
        false
    }
}

/// Nobody else can make one or name it, and so ask or answer what only this crate can know.
#[derive(Debug)]
pub struct Sealed(());

macro_rules! samplers_behind {
    ($($pointer:ident)+) => {$(
        impl<S: Sampler + ?Sized> Sampler for $pointer<S> {
            fn identity(&self) -> String {
                (**self).identity()
            }

            fn orders(&self, scope: &Scope) -> Result<Orders> {
                (**self).orders(scope)
            }

            fn settled(&self, listed: u64) -> u64 {
                (**self).settled(listed)
            }

            fn takes_all(&self, ours: Sealed) -> bool {
                (**self).takes_all(ours)
            }
        }
    )+};
}

samplers_behind!(Box Arc);

/// The samples that a [`Sampler`] orders, numbered from 0: those of a manifest, or of a [`Subset`](super::Subset) of it.
#[derive(Clone)]
pub struct Scope {
    manifest: Arc<Manifest>,
    samples: u64,
    /// From a number to an index in the manifest, where these aren't the same: the higher the one, the higher the other.
    place: Option<Arc<dyn Fn(u64) -> u64 + Send + Sync>>,
}

impl Scope {
    /// All samples of a manifest. Waits for the end of its listing.
    pub fn new(manifest: Arc<Manifest>) -> Self {
        let samples = manifest.len();
        Self::first(manifest, samples)
    }

    fn first(manifest: Arc<Manifest>, samples: u64) -> Self {
        Self { manifest, samples, place: None }
    }

    /// Some of these samples: `samples` of them, the first of which is number `place(0)` here, and each next a higher one.
    pub(super) fn some(&self, samples: u64, place: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        let place: Arc<dyn Fn(u64) -> u64 + Send + Sync> = match self.place.clone() {
            None => Arc::new(place),
            Some(outer) => Arc::new(move |number| outer(place(number))),
        };
        Self { manifest: Arc::clone(&self.manifest), samples, place: Some(place) }
    }

    /// How many samples there are to have indexes.
    pub(super) fn indexes(&self) -> u64 {
        if self.place.is_none() { self.samples } else { self.manifest.len() }
    }

    /// Whether a sample's number is its index in the manifest.
    pub(super) fn is_of_indexes(&self) -> bool {
        self.place.is_none()
    }

    /// The numbers of those samples whose indexes in the manifest are among these.
    pub(super) fn numbers(&self, indexes: Range<u64>) -> Range<u64> {
        let first_from = |index: u64| match &self.place {
            None => index.min(self.samples),
            Some(place) => {
                let (mut low, mut high) = (0, self.samples);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if place(middle) >= index { high = middle } else { low = middle + 1 }
                }
                low
            }
        };
        first_from(indexes.start)..first_from(indexes.end)
    }

    /// How many they are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a scope is never empty")]
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// Size, label and so on of a sample, by its number.
    ///
    /// # Errors
    /// No such sample; a manifest whose file was written to since it was opened.
    pub fn facts(&self, number: u64) -> Result<Facts> {
        if number >= self.samples {
            return Err(Error::new(ErrorKind::Config, "there is no sample of that number")
                .stage(Stage::Sample)
                .object(self.manifest.prefix())
                .mismatch(format_args!("a number below {}", self.samples), number));
        }
        self.manifest.facts_at(self.place.as_ref().map_or(number, |place| place(number)))
    }

    /// Where they are from. Its indexes are the samples' numbers only where the scope is all of it.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("manifest", &self.manifest)
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}

/// The orders of all epochs, as a [`Sampler`] gives them for its samples.
#[derive(Clone)]
pub struct Orders {
    len: u64,
    order: Arc<dyn Fn(u64) -> Box<dyn PositionMap> + Send + Sync>,
}

/// From positions to the numbers of samples.
pub(super) trait PositionMap: Send {
    fn at(&mut self, position: u64) -> u64;

    /// Appends those of positions in a row.
    fn many(&mut self, positions: Range<u64>, into: &mut Vec<SampleId>) {
        into.extend(positions.map(|position| SampleId(self.at(position))));
    }
}

struct EachPosition<G>(G);

impl<G: FnMut(u64) -> u64 + Send> PositionMap for EachPosition<G> {
    fn at(&mut self, position: u64) -> u64 {
        (self.0)(position)
    }
}

impl Orders {
    /// Epochs of `len` samples. `order` makes of an epoch's number, from 0, the function from a position, below `len`, to
    /// the number of a sample. That function must give the same whatever it was asked before; it may keep what saves it
    /// work. It is called on a thread of the epoch, from low positions to high ones, mostly.
    pub fn new<F, G>(len: u64, order: F) -> Self
    where
        F: Fn(u64) -> G + Send + Sync + 'static,
        G: FnMut(u64) -> u64 + Send + 'static,
    {
        Self::of(len, move |epoch| EachPosition(order(epoch)))
    }

    pub(super) fn of<P: PositionMap + 'static>(len: u64, order: impl Fn(u64) -> P + Send + Sync + 'static) -> Self {
        Self { len, order: Arc::new(move |epoch| Box::new(order(epoch))) }
    }

    /// Samples in an epoch.
    #[expect(clippy::len_without_is_empty, reason = "no loader takes an empty epoch")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The order of an epoch, counted from 0.
    pub fn order(&self, epoch: u64) -> Order {
        Order { len: self.len, place: (self.order)(epoch) }
    }
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The order of one epoch: from position to sample.
pub struct Order {
    len: u64,
    place: Box<dyn PositionMap>,
}

impl Order {
    /// The sample at `position`. Positions may be asked in any order; one after another is cheapest.
    ///
    /// # Panics
    /// When `position` isn't below the number of samples in the epoch.
    pub fn at(&mut self, position: u64) -> SampleId {
        // Beyond it the walk of a permutation might never end.
        assert!(position < self.len, "position {position} of {}", self.len);
        SampleId(self.place.at(position))
    }

    /// As [`ids`](Self::ids), at once.
    fn many(&mut self, positions: Range<u64>) -> Vec<SampleId> {
        assert!(positions.end <= self.len, "positions {positions:?} of {}", self.len);
        let mut ids = Vec::with_capacity((positions.end - positions.start) as usize);
        self.place.many(positions, &mut ids);
        ids
    }

    /// The samples at `positions`.
    ///
    /// # Panics
    /// As [`at`](Self::at).
    pub fn ids(&mut self, positions: Range<u64>) -> impl Iterator<Item = SampleId> {
        positions.map(|position| self.at(position))
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The identity of a sampler, as states hold it.
///
/// # Errors
/// It panics.
pub(crate) fn identity(sampler: &dyn Sampler) -> Result<String> {
    let identity = catch_unwind(AssertUnwindSafe(|| sampler.identity()));
    identity.map(|identity| short(&identity)).map_err(|panic| {
        wrong("Sampler::identity panicked")
            .mismatch("a name and parameters", panic_message(&*panic))
            .object("a sampler")
    })
}

/// A sampler and the data of a loader.
#[derive(Debug)]
pub(crate) struct Sampling {
    sampler: Box<dyn Sampler>,
    identity: String,
    manifest: Arc<Manifest>,
    /// Of all samples, once they are listed.
    whole: OnceLock<Result<Orders>>,
}

impl Sampling {
    /// # Errors
    /// A sampler of one's own with an identity that a state would take for a built-in one's.
    pub(crate) fn new(sampler: Box<dyn Sampler>, manifest: Arc<Manifest>) -> Result<Arc<Self>> {
        let identity = identity(&*sampler)?;
        if !sampler.takes_all(Sealed(())) && told(&identity).is_some() {
            return Err(wrong("a sampler of one's own has the identity of a built-in one")
                .mismatch("a name that nothing else has", identity)
                .hint("name it after itself in Sampler::identity, or a resume would take the other for it"));
        }
        Ok(Arc::new(Self { sampler, identity, manifest, whole: OnceLock::new() }))
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether each sample comes once in every epoch, for all that this crate knows.
    pub(crate) fn takes_all(&self) -> bool {
        self.sampler.takes_all(Sealed(()))
    }

    /// Finds what is wrong with the sampler before an epoch does, as far as can be told without a wait.
    pub(crate) fn check(&self) -> Result<()> {
        match self.manifest.known() {
            Known::All(_) => self.orders().map(drop),
            // Of no samples: what is wrong with these data is told when they are listed.
            Known::AtLeast(_) => Ok(()),
        }
    }

    /// The orders over all samples. Waits for the end of the listing.
    pub(crate) fn orders(&self) -> Result<&Orders> {
        self.manifest.complete()?;
        let made = self.whole.get_or_init(|| {
            let orders = self.answer(|| self.sampler.orders(&Scope::new(Arc::clone(&self.manifest))))?;
            if orders.len == 0 {
                return Err(self
                    .wrong("the sampler leaves an epoch without samples")
                    .mismatch("at least 1", 0)
                    .hint("look at what it makes of these data, and at how many samples it was told to take"));
            }
            Ok(orders)
        });
        made.as_ref().map_err(Error::clone)
    }

    pub(crate) fn walk(self: &Arc<Self>, epoch: u64) -> EpochOrder {
        EpochOrder { sampling: Arc::clone(self), epoch, order: None, settled: 0 }
    }

    /// What the sampler answers, or that it panicked.
    fn answer<T>(&self, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
            Err(self.wrong("the sampler panicked").mismatch("an answer", panic_message(&*panic)))
        })
    }

    fn settled_too_much(&self, len: u64, samples: u64, settled: u64) -> Error {
        self.wrong("the sampler settles positions that its order doesn't have")
            .mismatch(format_args!("at most {len}, as its order of {samples} samples has"), settled)
            .hint("let Sampler::settled say no more than Sampler::orders has for as many samples")
    }

    fn wrong(&self, message: &str) -> Error {
        wrong(message).object(format_args!("sampler {}", self.identity))
    }
}

/// The order of an epoch, as far as its samples are listed.
#[derive(Debug)]
pub(crate) struct EpochOrder {
    sampling: Arc<Sampling>,
    epoch: u64,
    /// With how many samples were listed when it was made.
    order: Option<(Known, Order)>,
    /// The most positions that were said to be settled.
    settled: u64,
}

impl EpochOrder {
    /// What it walks through, for others who do.
    pub(crate) fn course(&self) -> (Arc<Sampling>, u64) {
        (Arc::clone(&self.sampling), self.epoch)
    }

    /// Of how many positions the sample is settled, where this many samples are listed.
    ///
    /// # Errors
    /// The sampler can't order these data, or had settled more than there are.
    pub(crate) fn positions(&mut self, listed: Known) -> Result<Known> {
        let sampling = &self.sampling;
        Ok(match listed {
            Known::All(samples) => {
                let len = sampling.orders()?.len;
                if self.settled > len {
                    return Err(sampling.settled_too_much(len, samples, self.settled));
                }
                Known::All(len)
            }
            // There are no orders over nothing.
            Known::AtLeast(0) => listed,
            Known::AtLeast(listed) => {
                let settled = sampling.answer(|| Ok(sampling.sampler.settled(listed)))?;
                self.settled = self.settled.max(settled);
                Known::AtLeast(settled)
            }
        })
    }

    /// The samples at `positions`, which must be settled; those beyond the last begin again with the first.
    ///
    /// # Errors
    /// The sampler can't order these data, names a sample that isn't there, or panics.
    pub(crate) fn ids(&mut self, positions: Range<u64>, listed: Known) -> Result<Vec<SampleId>> {
        let sampling = Arc::clone(&self.sampling);
        let ids = sampling.answer(|| self.ask(positions, listed));
        if ids.is_err() {
            // What panicked half-way may say anything when it is asked again.
            self.order = None;
        }
        ids
    }

    fn ask(&mut self, positions: Range<u64>, listed: Known) -> Result<Vec<SampleId>> {
        let Self { sampling, epoch, order, .. } = self;
        let (Known::All(samples) | Known::AtLeast(samples)) = listed;
        if order.as_ref().is_none_or(|(of, _)| *of != listed) {
            let made = match listed {
                Known::All(_) => sampling.orders()?.order(*epoch),
                Known::AtLeast(_) => {
                    let scope = Scope::first(Arc::clone(&sampling.manifest), samples);
                    sampling.sampler.orders(&scope)?.order(*epoch)
                }
            };
            *order = Some((listed, made));
        }
        let (_, order) = order.as_mut().expect("it was just made");
        let len = order.len;
        if positions.end <= len {
            let ids = order.many(positions.clone());
            // Else one after the other, which finds out where.
            if ids.len() as u64 == positions.end - positions.start && ids.iter().all(|id| id.0 < samples) {
                return Ok(ids);
            }
        }
        let ids = positions.map(|position| {
            let place = match listed {
                _ if position < len => position,
                Known::All(_) => position % len,
                // What fills up a batch is told at the end alone.
                Known::AtLeast(_) => return Err(sampling.settled_too_much(len, samples, position + 1)),
            };
            let id = order.at(place);
            if id.0 >= samples {
                let error =
                    sampling.wrong(&format!("the sampler names a sample that isn't there, at position {position}"));
                return Err(match id.0 {
                    NOWHERE => error.mismatch("a sample of its subset", "one beyond it"),
                    id => error.mismatch(format_args!("a number below {samples}"), id),
                });
            }
            Ok(id)
        });
        ids.collect()
    }
}
