//! Samples of arbitrary bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Once};

use dataflux::store::{Client, MemoryStore};
use dataflux::{Collate, DatafluxDataset, Decode, RawSample};

use crate::LIMIT;
use crate::memory::{SLACK, measured};

/// The objects of [`dataset`], whose names decide how their bytes are decoded.
const NAMES: &[&str] = &[
    "p/cat/array.npy",
    "p/cat/arrays.npz",
    "p/cat/image.jpg",
    "p/cat/image.png",
    "p/cat/image.webp",
    "p/cat/page.txt",
    "p/cat/table.csv",
    "p/cat/tensors.safetensors",
    "p/cat/tone.flac",
    "p/cat/tone.wav",
    "p/cat/value.json",
];

/// A data set with an object of each kind.
pub fn dataset() -> &'static DatafluxDataset {
    static DATASET: LazyLock<DatafluxDataset> = LazyLock::new(|| {
        let store = MemoryStore::new().with_bucket("data");
        for name in NAMES {
            store.insert("data", name, "meow");
        }
        DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://data/p/").expect("a data set")
    });
    &DATASET
}

/// Lets panics of dependencies unwind, since the library catches these and returns errors. Any other panic fails at
/// once, as with libFuzzer's own hook: the library would hide it in an error, too.
pub(crate) fn let_dependencies_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let fail = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|location| location.file().contains("/registry/src/")) {
                fail(panic);
            }
        }));
    });
}

fn sample(name: &str, data: &[u8]) -> RawSample {
    static SAMPLES: LazyLock<BTreeMap<String, RawSample>> = LazyLock::new(|| {
        let samples = (0..dataset().len()).map(|index| dataset().get(index).expect("a sample"));
        samples.map(|sample| (sample.name().to_owned(), sample)).collect()
    });
    SAMPLES[name].clone().with_bytes(data.to_vec().into())
}

/// Decodes and collates one sample of these bytes. Checks that decoding takes no more memory than the decoder said.
pub(crate) fn decoded<D: Decode>(decoder: &D, name: &str, data: &[u8]) -> Option<D::Item>
where
    D::Item: Clone,
{
    decoded_with_slack(decoder, name, data, SLACK)
}

/// The same, where decoding may take this many bytes more than the decoder said.
pub(crate) fn decoded_with_slack<D: Decode>(decoder: &D, name: &str, data: &[u8], slack: u64) -> Option<D::Item>
where
    D::Item: Clone,
{
    let_dependencies_panic();
    let sample = sample(name, data);
    let (stated, peak) = measured(|| decoder.decode_memory(&sample));
    assert!(peak <= SLACK + 64 * data.len() as u64, "reading the headers of {} bytes took {peak}", data.len());
    let (item, peak) = measured(|| decoder.decode(sample));
    let allowed = match stated {
        Some(memory) if !memory.is_estimate => memory.item.saturating_add(memory.scratch),
        // A decoder without a statement takes what its input takes, at most some times over; and so does one that
        // estimates, up to its limit.
        _ => LIMIT + 64 * data.len() as u64,
    };
    assert!(peak <= allowed.saturating_add(slack), "decoding took {peak} bytes, and {allowed} were stated: {stated:?}");
    let item = item.ok()?;
    let _ = decoder.collate().collate(vec![item.clone()]);
    Some(item)
}
