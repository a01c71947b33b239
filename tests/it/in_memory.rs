//! Samples of a store in memory: what an epoch delivers and counts is the same through a store that forwards every
//! call, and in a later epoch of the same loader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use dataflux::plan::Groups;
use dataflux::store::{Attempt, Capabilities, Client, FaultStore, MemoryStore, ObjectId, ObjectRef, Objects, Store};
use dataflux::{Collate, DataLoader, DatafluxDataset, Decode, Manifest, OnError, RawSample, Strategy};

use crate::support::log::Log;
use crate::support::{self, bucket, client, content, until, without_hanging};

/// Hands out samples, but for those that it refuses.
#[derive(Clone, Copy)]
struct Picky {
    is_light: bool,
    /// Each so-and-so-many-th.
    refuses: Option<u64>,
    /// Whether items are counted beside the bytes they are made of.
    is_counted: bool,
}

const LIGHT: Picky = Picky { is_light: true, refuses: None, is_counted: false };

struct Together;

impl Collate<RawSample> for Together {
    type Output = Vec<RawSample>;

    fn collate(&self, samples: Vec<RawSample>) -> anyhow::Result<Vec<RawSample>> {
        Ok(samples)
    }

    fn copied_bytes(&self, _: u64) -> u64 {
        0
    }
}

impl Decode for Picky {
    type Item = RawSample;
    type Collate = Together;

    fn decode(&self, sample: RawSample) -> anyhow::Result<RawSample> {
        anyhow::ensure!(self.refuses.is_none_or(|nth| sample.id().0 % nth != 3), "refused");
        Ok(sample)
    }

    fn collate(&self) -> Together {
        Together
    }

    fn item_bytes(&self, size: u64) -> Option<u64> {
        self.is_counted.then_some(size)
    }

    fn is_light(&self) -> bool {
        self.is_light
    }
}

/// All that is told of an epoch.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Id, name, bytes and whether they were proved.
    samples: Vec<(u64, String, Bytes, bool)>,
    batches: Vec<(std::ops::Range<u64>, usize, usize)>,
    /// Id, position, substitute, error.
    lost: Vec<(u64, u64, Option<u64>, String)>,
    error: Option<String>,
    /// Samples, bytes, proved ones, skipped ones, substituted ones.
    stats: [u64; 5],
    groups: Option<Groups>,
    /// Reads, and bytes received.
    asked: [u64; 2],
}

fn dataset(client: Client, manifest: &Arc<Manifest>) -> DatafluxDataset {
    DatafluxDataset::builder().client(client).from_manifest(Arc::clone(manifest)).unwrap()
}

fn run(
    store: impl Store,
    manifest: &Arc<Manifest>,
    decode: Picky,
    on_error: OnError,
    (batch, threads, budget): (usize, usize, u64),
    epochs_before: u64,
) -> Told {
    let loader = DataLoader::builder(dataset(client(store), manifest).decode(decode))
        .batch_size(batch)
        .shuffle(5)
        .strategy(Strategy::Direct)
        .decode_threads(threads)
        .memory_budget(budget)
        .pad_last(true)
        .on_error(on_error)
        .build()
        .unwrap();
    for epoch in 0..epochs_before {
        // Where one of them fails, some samples are proved and some are not.
        loader.epoch(epoch).unwrap().for_each(drop);
    }
    let (mut told, mut batches) = (Told::default(), loader.epoch(2).unwrap());
    for batch in &mut batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                told.error = Some(error.to_string());
                break;
            }
        };
        assert!(loader.bytes_held() <= budget, "{} bytes are held", loader.bytes_held());
        assert!(batch.ids().iter().eq(batch.iter().map(RawSample::id).collect::<Vec<_>>().iter()));
        for (sample, name) in batch.iter().zip(batch.names()) {
            assert_eq!((sample.name(), sample.entry().size), (name, sample.bytes().len() as u64));
            told.samples.push((sample.id().0, name.to_owned(), sample.bytes().clone(), sample.verified()));
        }
        told.batches.push((batch.positions(), batch.len(), batch.padding()));
        for lost in batch.skipped().iter().chain(batch.substituted()) {
            let substitute = lost.substitute.map(|id| id.0);
            told.lost.push((lost.id.0, lost.position, substitute, lost.error.to_string()));
        }
    }
    let stats = batches.stats();
    told.stats = [stats.samples, stats.bytes, stats.verified, stats.skipped, stats.substituted];
    if told.error.is_none() {
        // Before an error it hangs on threads how far others are.
        (told.groups, told.asked) = (Some(stats.groups), [stats.ops.get, stats.ops.bytes_received]);
    }
    drop(batches);
    until("the budget is given back", || loader.bytes_held() == 0);
    told
}

fn both_ways(
    store: &MemoryStore,
    manifest: &Arc<Manifest>,
    decode: Picky,
    on_error: OnError,
    course: (usize, usize, u64),
) -> Told {
    let ordinary = run(FaultStore::new(Arc::new(store.clone())), manifest, decode, on_error, course, 0);
    assert_eq!(run(store.clone(), manifest, decode, on_error, course, 0), ordinary);
    assert_eq!(run(store.clone(), manifest, decode, on_error, course, 2), ordinary, "an epoch later");
    ordinary
}

fn listed(store: &MemoryStore) -> Arc<Manifest> {
    let dataset = DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap();
    Arc::clone(dataset.manifest())
}

const DECODERS: [Picky; 3] =
    [LIGHT, Picky { is_light: false, ..LIGHT }, Picky { is_light: false, is_counted: true, ..LIGHT }];

#[test]
fn the_same_as_over_any_other_store() {
    without_hanging(|| {
        // Empty ones, too, and one of more bytes than are brought at a time.
        let (store, contents) = bucket(300);
        store.insert("data", "p/large", content("p/large", 3 << 20));
        let manifest = listed(&store);
        for decode in DECODERS {
            for (batch, threads) in [(1, 2), (64, 1), (100, 4)] {
                let told = both_ways(&store, &manifest, decode, OnError::Fail, (batch, threads, 1 << 30));
                assert_eq!(told.error, None);
                let right = |(_, name, bytes, proved): &(u64, String, Bytes, bool)| {
                    *proved && contents.get(name).is_none_or(|wanted| bytes == wanted)
                };
                assert!(told.samples.len() >= 301 && told.samples.iter().all(right));
                assert_eq!(told.stats[2], told.samples.len() as u64);
                assert!(told.groups.is_some_and(|groups| groups.direct > 250));
            }
        }
    });
}

/// By turns another version, none, bytes that are not those that were listed, and ones that the decoder refuses.
#[test]
fn what_is_wrong_with_a_sample_is_told_and_treated_as_ever() {
    without_hanging(|| {
        let (store, _) = bucket(200);
        let before = listed(&store);
        let bad_crc = |index: u64| index % 50 == 20;
        let entries: Vec<_> = (0..200).map(|index| before.get(index).unwrap()).collect();
        let objects = (0..).zip(&entries).map(|(index, entry)| ObjectRef {
            name: &entry.name,
            size: entry.size,
            version: entry.version.as_deref(),
            crc32c: entry.crc32c.map(|crc| if bad_crc(index) { !crc } else { crc }),
            storage_class: entry.storage_class,
            ..ObjectRef::default()
        });
        let objects: Objects = objects.collect();
        let manifest = Arc::new(Manifest::new("gs://data/p/".parse().unwrap(), &objects).unwrap());
        for entry in entries.iter().skip(7).step_by(40) {
            store.insert("data", &entry.name, vec![7; entry.size as usize]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for entry in entries.iter().skip(11).step_by(60) {
            let id = ObjectId::live("data", entry.name.clone());
            runtime.block_on(store.delete(&id, &Attempt::first())).unwrap();
        }
        let (skip, substitute) = (OnError::Skip { limit: 1_000 }, OnError::Substitute { limit: 1_000 });
        for decode in DECODERS {
            for refuses in [None, Some(19)] {
                for on_error in [OnError::Fail, skip, substitute] {
                    // The first batch has one bad sample, so that there is one error that it can end with.
                    let told = both_ways(&store, &manifest, Picky { refuses, ..decode }, on_error, (8, 2, 1 << 30));
                    assert_eq!(told.error.is_some(), on_error == OnError::Fail);
                    assert!(on_error == OnError::Fail || told.lost.len() >= 12, "{:?}", told.lost);
                }
            }
        }
    });
}

#[test]
fn an_object_that_was_replaced_or_deleted_is_missed_by_the_next_epoch() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        let name = |index: u64| format!("p/{index:02}");
        (0..64).for_each(|index| _ = store.insert("data", &name(index), content(&name(index), 100)));
        let manifest = listed(&store);
        let loader = |on_error| {
            let builder = DataLoader::builder(dataset(client(store.clone()), &manifest)).batch_size(8);
            builder.strategy(Strategy::Direct).on_error(on_error).build().unwrap()
        };
        let (skipping, failing) = (loader(OnError::Skip { limit: 10 }), loader(OnError::Fail));
        let samples = |epoch| -> Vec<RawSample> {
            let batches = skipping.epoch(epoch).unwrap().map(Result::unwrap);
            batches.flat_map(dataflux::Batch::into_inner).collect()
        };
        let first = samples(0);
        assert_eq!((first.len(), failing.epoch(0).unwrap().flatten().count()), (64, 8));
        store.insert("data", "p/later", "x");
        assert_eq!(samples(1).len(), 64, "another object changes nothing");

        store.insert("data", &name(3), "another");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let gone = ObjectId::live("data", name(50));
        runtime.block_on(store.delete(&gone, &Attempt::first())).unwrap();
        let told = |loader: &DataLoader, epoch| loader.epoch(epoch).unwrap().find_map(Result::err).unwrap().to_string();
        assert_eq!(told(&failing, 1), told(&loader(OnError::Fail), 1), "as told by a loader that never saw it before");
        assert!(told(&failing, 2).contains(&name(3)));
        assert_eq!(samples(2).len(), 62);
        assert!(first.iter().all(|sample| *sample.bytes() == content(sample.name(), 100)), "whoever has it keeps it");
    });
}

#[test]
fn an_object_that_goes_while_an_epoch_goes_by_what_was_proved_is_missed_by_it() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        (0..64).for_each(|index| _ = store.insert("data", &format!("p/{index:02}"), vec![index; 100]));
        let dataset = dataset(client(store.clone()), &listed(&store));
        let loader = DataLoader::builder(dataset).prefetch(1).strategy(Strategy::Direct).build().unwrap();
        assert_eq!(loader.epoch(0).unwrap().flatten().count(), 64);
        let mut batches = loader.epoch(1).unwrap();
        assert!(batches.next().unwrap().is_ok());
        store.insert("data", "p/63", "another");
        let rest: Vec<_> = batches.collect();
        assert_eq!(rest.iter().filter(|batch| batch.is_ok()).count(), 62);
        assert!(rest.last().unwrap().as_ref().is_err_and(|error| error.to_string().contains("p/63")));
    });
}

/// Together they are too much where what is read is counted beside what is made of it, one by one they aren't.
#[test]
fn a_budget_that_one_at_a_time_fits_into_is_enough() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..40 {
            store.insert("data", &format!("p/{index:02}"), vec![index; 64 << 10]);
        }
        let manifest = listed(&store);
        for decode in DECODERS {
            let told = both_ways(&store, &manifest, decode, OnError::Fail, (4, 2, 5 * (64 << 10)));
            assert_eq!((told.error, told.stats[0]), (None, 40));
        }
        let decode = Picky { is_light: false, is_counted: true, refuses: None };
        let told = both_ways(&store, &manifest, decode, OnError::Fail, (4, 2, 4 * (64 << 10)));
        assert!(told.error.is_some_and(|said| said.contains("over the memory budget")));
    });
}

/// Light, and held up by whoever has the other ends, at the first sample.
struct HeldUp {
    began: Mutex<mpsc::Sender<()>>,
    go_on: Arc<AtomicBool>,
}

impl Decode for HeldUp {
    type Item = RawSample;
    type Collate = Together;

    fn decode(&self, sample: RawSample) -> anyhow::Result<RawSample> {
        let _ = self.began.lock().unwrap().send(());
        while !self.go_on.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(sample)
    }

    fn collate(&self) -> Together {
        Together
    }

    fn is_light(&self) -> bool {
        true
    }
}

/// Samples of batches that nobody wants any more were looked at again and again, for ever.
#[test]
fn an_epoch_that_is_dropped_while_several_batches_of_a_group_are_decoded_ends() {
    without_hanging(|| {
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let store = MemoryStore::new().with_bucket("data");
            for index in 0..64 {
                store.insert("data", &format!("p/{index:02}"), vec![index; 100]);
            }
            let (sender, began) = mpsc::channel();
            let go_on = Arc::new(AtomicBool::new(false));
            let decode = HeldUp { began: Mutex::new(sender), go_on: Arc::clone(&go_on) };
            let dataset = dataset(client(store.clone()), &listed(&store)).decode(decode);
            let loader = DataLoader::builder(dataset).batch_size(8).strategy(strategy).build().unwrap();
            let batches = loader.epoch(0).unwrap();
            began.recv().unwrap();
            drop(batches);
            go_on.store(true, Ordering::SeqCst);
            until("the budget is given back", || loader.bytes_held() == 0);
            let closed = loader.close(support::HANG);
            assert_eq!(closed.threads_left, 0, "{closed:?}");
        }
    });
}

/// Composing was suspended as if a right were missing, with advice to grant it, and tried again every five minutes.
#[test]
fn a_store_that_can_do_little_is_read_directly_and_what_it_lacks_is_reported() {
    without_hanging(|| {
        for strategy in [Strategy::compose(), Strategy::Auto] {
            let (log, _listening) = Log::of_thread();
            let (store, contents) = bucket(100);
            let client = client(store.with_capabilities(Capabilities::default()));
            let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
            let loader = DataLoader::builder(dataset).batch_size(10).strategy(strategy).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            let mut samples = 0;
            for batch in &mut batches {
                for sample in batch.unwrap().iter() {
                    assert_eq!(sample.bytes(), &contents[sample.name()], "{}", sample.name());
                    assert!(!sample.verified());
                    samples += 1;
                }
            }
            assert_eq!((samples, batches.stats().verified, client.metrics().snapshot().compose), (100, 0, 0));

            let warnings = log.warnings().join("\n");
            assert!(warnings.contains("checksums") && warnings.contains("versions"), "{warnings}");
            assert_eq!(warnings.contains("can't compose"), strategy == Strategy::compose(), "{warnings}");
            assert!(!warnings.contains("grant"), "{warnings}");
        }
    });
}
