//! The [`Sampler`] trait, and the orders that samplers make.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::SampleId;
use crate::manifest::{Facts, Manifest};
use crate::{Error, ErrorKind, Result, Stage};

/// What an order returns for a position whose sample doesn't exist and has no number of its own.
pub(super) const NOWHERE: u64 = u64::MAX;

/// Orders the samples of each epoch.
///
/// An order is a pure function of the data, the sampler's parameters, the epoch and the position, and can be asked for
/// any position. So it is the same on all ranks, however many there are, and a run resumes at any position as fast as
/// at the first. Built in are [`Sequential`](super::Sequential), [`Shuffle`](super::Shuffle),
/// [`BlockShuffle`](super::BlockShuffle), [`WindowShuffle`](super::WindowShuffle), [`Weighted`](super::Weighted),
/// [`Stratified`](super::Stratified), [`Mixture`](super::Mixture) and [`Subset`](super::Subset).
///
/// If a sampler panics or returns an impossible answer, the first affected batch is an error. Batches before it are
/// delivered.
///
/// A custom sampler that goes from the last sample to the first:
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
    /// Names the sampler and its parameters, for example `backwards(step=2)`. A [`State`](super::State) holds the
    /// identity, and a loader whose sampler has another identity refuses the state. So the identity must change with
    /// everything that changes the order, and with nothing else, ever. States shorten an identity of more than 96 bytes
    /// and append a hash of the whole. The identities of `Sequential`, `Shuffle` and `WindowShuffle` are reserved:
    /// these samplers are rebuilt from them.
    fn identity(&self) -> String;

    /// The orders over the samples of `scope`. A loader calls this once, when all samples are listed. Where
    /// [`settled`](Self::settled) returns more than 0, it also calls this for the samples listed so far, each time that
    /// more are listed.
    ///
    /// # Errors
    /// Parameters that make no order, or none of these data.
    fn orders(&self, scope: &Scope) -> Result<Orders>;

    /// How many positions of every epoch keep their sample when more samples follow the first `listed`, in byte order
    /// of names. It must not be more than the orders over the first `listed` samples have. A result above 0 lets an
    /// epoch begin while the data set is [still being listed](crate::DatasetBuilder::streaming).
    fn settled(&self, listed: u64) -> u64 {
        _ = listed;
        0
    }

    /// Whether this is a sampler of this crate that gives each sample once in every epoch.
    #[doc(hidden)]
    fn takes_all(&self, _: Sealed) -> bool {
        false
    }
}

/// An argument that only this crate can make, so that only its samplers can override [`Sampler::takes_all`].
#[derive(Debug)]
pub struct Sealed(pub(super) ());

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

/// The samples that a [`Sampler`] orders, numbered from 0: those of a manifest, or of a [`Subset`](super::Subset) of
/// it.
#[derive(Clone)]
pub struct Scope {
    manifest: Arc<Manifest>,
    samples: u64,
    /// Maps a number to an index in the manifest, in increasing order; `None` where they are the same.
    index_of: Option<Arc<dyn Fn(u64) -> u64 + Send + Sync>>,
}

impl Scope {
    /// All samples of a manifest. Waits for the end of its listing.
    pub fn new(manifest: Arc<Manifest>) -> Self {
        let samples = manifest.len();
        Self::first(manifest, samples)
    }

    /// The first `samples` samples of a manifest.
    pub(super) fn first(manifest: Arc<Manifest>, samples: u64) -> Self {
        Self { manifest, samples, index_of: None }
    }

    /// A scope of `samples` of these samples. `number_of` maps their numbers in the new scope to those here, in
    /// increasing order.
    pub(super) fn narrow(&self, samples: u64, number_of: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        let index_of: Arc<dyn Fn(u64) -> u64 + Send + Sync> = match self.index_of.clone() {
            None => Arc::new(number_of),
            Some(outer) => Arc::new(move |number| outer(number_of(number))),
        };
        Self { manifest: Arc::clone(&self.manifest), samples, index_of: Some(index_of) }
    }

    /// How many indexes the manifest has, as far as this scope knows.
    pub(super) fn indexes(&self) -> u64 {
        if self.index_of.is_none() { self.samples } else { self.manifest.len() }
    }

    /// Whether a sample's number is its index in the manifest.
    pub(super) fn is_numbered_by_index(&self) -> bool {
        self.index_of.is_none()
    }

    /// The numbers of the samples whose indexes in the manifest are in this range.
    pub(super) fn numbers(&self, indexes: Range<u64>) -> Range<u64> {
        let first_from = |index: u64| match &self.index_of {
            None => index.min(self.samples),
            Some(index_of) => {
                let (mut low, mut high) = (0, self.samples);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if index_of(middle) >= index { high = middle } else { low = middle + 1 }
                }
                low
            }
        };
        first_from(indexes.start)..first_from(indexes.end)
    }

    /// Number of samples, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a scope is never empty")]
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// Size, label and other properties of a sample, by its number.
    ///
    /// # Errors
    /// No sample has this number; the manifest's file was written to since it was opened.
    pub fn facts(&self, number: u64) -> Result<Facts> {
        if number >= self.samples {
            return Err(Error::new(ErrorKind::Config, "there is no sample of that number")
                .stage(Stage::Sample)
                .object(self.manifest.prefix())
                .mismatch(format_args!("a number below {}", self.samples), number));
        }
        self.manifest.facts_at(self.index_of.as_ref().map_or(number, |index_of| index_of(number)))
    }

    /// The manifest that holds the samples. Its indexes are the samples' numbers only where the scope is the whole
    /// manifest.
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

/// The orders of all epochs, as a [`Sampler`] makes them for its samples.
#[derive(Clone)]
pub struct Orders {
    len: u64,
    order: Arc<dyn Fn(u64) -> Box<dyn PositionMap> + Send + Sync>,
}

/// Maps positions to the numbers of samples.
pub(super) trait PositionMap: Send {
    fn at(&mut self, position: u64) -> u64;

    /// Appends the numbers at a range of positions.
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
    /// Orders of epochs of `len` samples. Given the number of an epoch, counted from 0, `order` returns a function from
    /// a position, below `len`, to the number of a sample. The function must be pure, though it may cache intermediate
    /// results. A thread of the epoch calls it, mostly from low positions to high ones.
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
        Order { len: self.len, map: (self.order)(epoch) }
    }
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The order of one epoch, which maps positions to samples.
pub struct Order {
    len: u64,
    map: Box<dyn PositionMap>,
}

impl Order {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The sample at `position`. Positions may be asked for in any order; increasing order is cheapest.
    ///
    /// # Panics
    /// When `position` isn't below the number of samples in the epoch.
    pub fn at(&mut self, position: u64) -> SampleId {
        // A permutation's loop might never end for a position that it doesn't have.
        assert!(position < self.len, "position {position} of {}", self.len);
        SampleId(self.map.at(position))
    }

    /// As [`ids`](Self::ids), all at once.
    pub(super) fn many(&mut self, positions: Range<u64>) -> Vec<SampleId> {
        assert!(positions.end <= self.len, "positions {positions:?} of {}", self.len);
        let mut ids = Vec::with_capacity((positions.end - positions.start) as usize);
        self.map.many(positions, &mut ids);
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
