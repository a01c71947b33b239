//! Batches of tuples: of samples of several parts, each of which is collated by its own collator.

use super::{Batch, Collate, CollateContext};

macro_rules! collate_tuples {
    ($($collate:ident $item:ident $number:tt),+) => {
        /// Makes a batch of each place of the tuples.
        impl<$($collate, $item),+> Collate<($($item,)+)> for ($($collate,)+)
        where
            $($collate: Collate<$item>, $item: 'static),+
        {
            type Output = ($($collate::Output,)+);

            fn collate(&self, samples: Vec<($($item,)+)>) -> anyhow::Result<Self::Output> {
                self.collate_with(samples, &CollateContext::default())
            }

            fn collate_with(
                &self,
                samples: Vec<($($item,)+)>,
                context: &CollateContext,
            ) -> anyhow::Result<Self::Output> {
                let mut columns = ($(Vec::<$item>::with_capacity(samples.len()),)+);
                for sample in samples {
                    $(columns.$number.push(sample.$number);)+
                }
                Ok(($(self.$number.collate_with(columns.$number, context)?,)+))
            }

            /// How a sample's bytes divide among the parts is unknown, so each collator is charged for the whole
            /// sample.
            fn copied_bytes(&self, item_bytes: u64) -> u64 {
                0_u64 $(.saturating_add(self.$number.copied_bytes(item_bytes)))+
            }

            fn batch_bytes(&self, item_bytes: u64) -> u64 {
                0_u64 $(.saturating_add(self.$number.batch_bytes(item_bytes)))+
            }

            /// If one part is padded, all count as padded.
            fn pads_to_largest(&self) -> bool {
                false $(|| self.$number.pads_to_largest())+
            }
        }
    };
}

collate_tuples!(A T 0, B U 1);
collate_tuples!(A T 0, B U 1, C V 2);

impl<A, B> Batch<(A, B)> {
    /// A batch of each part, with the same samples, for example to make tensors of one.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset, Parts, Raw, Text};
    /// # let store = MemoryStore::new();
    /// # for name in ["train/1.bin", "train/1.txt", "train/2.bin", "train/2.txt"] {
    /// #     store.insert("my-bucket", name, &name[6..7]);
    /// # }
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// let dataset = dataset.parts(Parts::by_stem(["bin", "txt"]))?.decode((Raw, Text::new()));
    /// let loader = DataLoader::builder(dataset).batch_size(2).build()?;
    /// for batch in loader.epoch(0)? {
    ///     let (bytes, texts) = batch?.unzip();
    ///     assert_eq!(bytes.into_ndarray()?.shape(), [2, 1]);
    ///     assert_eq!(*texts, ["1", "2"]);
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn unzip(self) -> (Batch<A>, Batch<B>) {
        let ((a, b), batch) = self.take_data();
        (batch.with(a), batch.with(b))
    }
}

impl<A, B, C> Batch<(A, B, C)> {
    /// A batch of each part, with the same samples.
    pub fn unzip(self) -> (Batch<A>, Batch<B>, Batch<C>) {
        let ((a, b, c), batch) = self.take_data();
        (batch.with(a), batch.with(b), batch.with(c))
    }
}

impl Batch<()> {
    /// The same samples with these data.
    fn with<T>(&self, data: T) -> Batch<T> {
        let Self { ids, manifest, names, positions, padding, lost, data: () } = self.clone();
        Batch { ids, manifest, names, positions, padding, lost, data }
    }
}
