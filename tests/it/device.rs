//! Batches that a thread of the loader moves to a device: the same batches in the same order, one ahead of the training
//! loop and no more, whatever ends them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dataflux::store::MemoryStore;
use dataflux::{
    Batch, DataLoader, DataLoaderBuilder, DatafluxDataset, Error, ErrorKind, Event, EventKind, MixedLoader, Raw,
    RawSample, Result, Stage, State, TensorDevice, ToDevice,
};
use futures_util::{FutureExt, StreamExt};

use crate::support::{all_given_back, bucket, client, until, without_hanging};

/// A device that the test watches and holds up. Clones are the same device.
#[derive(Clone, Default)]
struct Watched(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_host: bool,
    converted: AtomicUsize,
    /// The number of the batch, counted by conversions from 0, that fails or panics.
    fails: Option<(usize, Failure)>,
    is_shut: Mutex<bool>,
    opened: Condvar,
    is_waiting: AtomicBool,
}

#[derive(Clone, Copy)]
enum Failure {
    Error,
    Panic,
}

/// What a batch becomes: the names of its samples.
type Names = Vec<String>;

impl Watched {
    fn new(is_host: bool, fails: Option<(usize, Failure)>) -> Self {
        Self(Arc::new(Inner { is_host, fails, ..Inner::default() }))
    }

    fn converted(&self) -> usize {
        self.0.converted.load(Ordering::SeqCst)
    }

    /// Holds up conversions, or lets them go on.
    fn shut(&self, is_shut: bool) {
        *self.0.is_shut.lock().unwrap() = is_shut;
        self.0.opened.notify_all();
    }

    /// Waits until this many batches are converted, and checks that no other follows.
    fn stays_at(&self, converted: usize) {
        until("batches are converted", || self.converted() == converted);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(self.converted(), converted, "the thread is more than one batch ahead");
    }
}

impl TensorDevice for Watched {
    fn is_host(&self) -> bool {
        self.0.is_host
    }
}

impl ToDevice<Watched> for Vec<RawSample> {
    type Tensors = Names;

    fn to_device(self, device: &Watched, _: &Batch<()>) -> anyhow::Result<Names> {
        let inner = &device.0;
        let mut is_shut = inner.is_shut.lock().unwrap();
        while *is_shut {
            inner.is_waiting.store(true, Ordering::SeqCst);
            is_shut = inner.opened.wait(is_shut).unwrap();
        }
        drop(is_shut);
        let number = inner.converted.fetch_add(1, Ordering::SeqCst);
        match inner.fails {
            Some((failing, Failure::Error)) if failing == number => Err(no_memory().into()),
            Some((failing, Failure::Panic)) if failing == number => panic!("the driver is gone"),
            _ => Ok(self.iter().map(|sample| sample.name().to_owned()).collect()),
        }
    }
}

/// Some error.
fn no_memory() -> Error {
    let store = MemoryStore::new();
    DatafluxDataset::open_with(client(store), "gs://no-such-bucket/").unwrap_err()
}

fn dataset(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

fn builder(store: &MemoryStore) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset(store)).batch_size(8).shuffle(5).decode_threads(2)
}

#[test]
fn batches_are_those_without_a_device() {
    without_hanging(|| {
        let (store, _) = bucket(50);
        for is_host in [true, false] {
            let device = Watched::new(is_host, None);
            let plain = builder(&store).build().unwrap();
            let moved = builder(&store).device(device.clone()).build().unwrap();
            let epochs = plain.epochs(0..3).unwrap().zip(moved.epochs(0..3).unwrap());
            for (epoch, (plain, moved)) in epochs.enumerate() {
                let (mut plain, mut moved) = (plain.unwrap(), moved.unwrap());
                assert_eq!((moved.epoch(), moved.state()), (epoch as u64, plain.state()));
                while let Some(wanted) = plain.next() {
                    let (wanted, batch) = (wanted.unwrap(), moved.next().unwrap().unwrap());
                    assert_eq!(batch.ids(), wanted.ids());
                    assert_eq!(batch.positions(), wanted.positions());
                    assert_eq!(batch.names().collect::<Vec<_>>(), wanted.names().collect::<Vec<_>>());
                    assert_eq!(*batch, batch.names().collect::<Vec<_>>(), "the tensors are of this batch");
                    assert_eq!(moved.state(), plain.state());
                    assert_eq!(moved.stats().samples, plain.stats().samples);
                }
                assert!(moved.next().is_none() && moved.next().is_none());
                assert_eq!((moved.state(), moved.stats().batches), (plain.state(), 7));
            }
            assert_eq!(device.converted(), 21);
            all_given_back(&moved);
        }
    });
}

#[test]
fn one_batch_is_ahead_and_a_state_does_not_count_it() {
    without_hanging(|| {
        let (store, _) = bucket(80);
        let all: Vec<Names> =
            builder(&store).device(Watched::default()).build().unwrap().epoch(0).unwrap().map(names).collect();
        for taken in [0, 1, 4, 9, 10] {
            let device = Watched::default();
            let loader = builder(&store).device(device.clone()).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            let mut delivered: Vec<Names> = (&mut batches).take(taken).map(names).collect();
            device.stays_at((taken + 1).min(10));
            let (state, samples) = (batches.state(), batches.stats().samples);
            assert_eq!((state.position, samples), (taken as u64 * 8, taken as u64 * 8));
            drop(batches);
            all_given_back(&loader);
            assert!(device.converted() <= taken + 2);

            let resumed = builder(&store).device(Watched::default()).resume(state).build().unwrap();
            if resumed.first_epoch() == 0 {
                delivered.extend(resumed.epoch(0).unwrap().map(names));
            }
            assert_eq!(delivered, all, "{taken} batches before the resume");
        }
    });
}

fn names(batch: Result<Batch<Names>>) -> Names {
    batch.unwrap().into_inner()
}

#[test]
fn a_failed_conversion_takes_the_place_of_its_batch_and_is_not_counted() {
    without_hanging(|| {
        let (store, _) = bucket(40);
        for (failure, text) in [(Failure::Error, "no-such-bucket"), (Failure::Panic, "the driver is gone")] {
            for failing in [0, 3, 4] {
                let loader = builder(&store).device(Watched::new(false, Some((failing, failure)))).build().unwrap();
                let mut batches = loader.epoch(0).unwrap();
                for _ in 0..failing {
                    assert_eq!(batches.next().unwrap().unwrap().len(), 8);
                }
                let error = batches.next().unwrap().unwrap_err();
                assert!(error.to_string().contains(text), "{error}");
                if matches!(failure, Failure::Panic) {
                    assert_eq!((error.kind(), error.at_stage()), (ErrorKind::Collate, Some(Stage::Tensor)), "{error}");
                }
                assert!(batches.next().is_none(), "after an error the epoch is over");
                let State { position, .. } = batches.state();
                let (wanted, stats) = (failing as u64, batches.stats());
                assert_eq!((position, stats.samples, stats.batches), (wanted * 8, wanted * 8, wanted));
                drop(batches);
                all_given_back(&loader);
            }
        }
    });
}

/// The waiting times were those of the thread, and left out conversions.
#[test]
fn a_conversion_is_a_wait_once_the_loop_asks_for_its_batch() {
    const HELD_UP: Duration = Duration::from_millis(20);
    without_hanging(|| {
        let (store, _) = bucket(16);
        for asks in [true, false] {
            let device = Watched::default();
            let loader = builder(&store).device(device.clone()).build().unwrap();
            // A stream returns where it would have to wait, so that the test knows when the loop has asked.
            let mut batches = loader.stream(0).unwrap();
            until("the first batch is converted", || device.converted() == 1);
            device.shut(true);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut next = || runtime.block_on(batches.next());
            assert_eq!(next().unwrap().unwrap().len(), 8);
            until("the second batch is being converted", || device.0.is_waiting.load(Ordering::SeqCst));
            if asks {
                assert!(batches.next().now_or_never().is_none(), "the second batch is held up");
            }
            std::thread::sleep(HELD_UP);
            device.shut(false);
            if !asks {
                until("the second batch has left the host", || loader.bytes_held() == 0);
            }
            let mut next = || runtime.block_on(batches.next());
            assert_eq!(next().unwrap().unwrap().len(), 8);
            assert!(next().is_none());

            let stats = batches.stats();
            assert_eq!((stats.batches, stats.stalls), (2, 0));
            if asks {
                let shortest = stats.waited.min(stats.waited_for.convert).min(stats.running);
                assert!(shortest >= HELD_UP && stats.wait_fraction() > 0.0, "{stats:?}");
            } else {
                assert_eq!(stats.waited_for.convert, Duration::ZERO, "the loop was busy meanwhile");
            }
            assert!(stats.wait_fraction() <= 1.0, "{stats:?}");
            assert!(stats.waited_for.total() <= stats.first_batch + stats.waited, "{stats:?}");
        }
    });
}

/// What a device with memory of its own has takes none of the budget.
#[test]
fn bytes_count_while_they_are_on_the_host() {
    without_hanging(|| {
        let (store, _) = bucket(8);
        for is_host in [true, false] {
            let device = Watched::new(is_host, None);
            let loader = builder(&store).device(device.clone()).build().unwrap();
            device.shut(true);
            let mut batches = loader.epoch(0).unwrap();
            until("a batch is being converted", || device.0.is_waiting.load(Ordering::SeqCst));
            assert!(loader.bytes_held() > 0, "the batch is still on the host");
            device.shut(false);
            batches.next().unwrap().unwrap();
            if is_host {
                std::thread::sleep(Duration::from_millis(30));
                assert!(loader.bytes_held() > 0, "the batch counts until the next is asked for");
            } else {
                all_given_back(&loader);
            }
            assert!(batches.next().is_none());
            all_given_back(&loader);
        }
    });
}

/// Dropping doesn't wait for the device, and nothing is left once that has answered.
#[test]
fn an_epoch_ends_anywhere() {
    without_hanging(|| {
        let (store, _) = bucket(200);
        for taken in [0, 2, 24] {
            let device = Watched::default();
            let loader = builder(&store).device(device.clone()).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            (&mut batches).take(taken).for_each(|batch| _ = batch.unwrap());
            device.stays_at(taken + 1);
            device.shut(true);
            batches.next().unwrap().unwrap();
            drop(batches);
            device.shut(false);
            all_given_back(&loader);

            let mut batches = loader.epoch(1).unwrap();
            batches.next().unwrap().unwrap();
            let closed = batches.close(Duration::from_secs(30));
            assert!(closed.is_clean() && closed.threads_joined >= 1, "{closed:?}");

            let mut batches = loader.epoch(2).unwrap();
            let closed = loader.close(Duration::from_secs(30));
            assert!(closed.is_clean(), "{closed:?}");
            let ended: Vec<_> = (&mut batches).map(|batch| batch.map_err(|error| error.kind())).collect();
            assert!(matches!(ended.last(), Some(Err(ErrorKind::Cancelled))) && ended.len() <= 2, "{ended:?}");
        }
    });
}

/// The thread has read all batches of the epoch, but the training loop hasn't.
#[test]
fn an_epoch_is_under_way_until_its_last_batch_is_taken() {
    without_hanging(|| {
        let (store, _) = bucket(16);
        let device = Watched::default();
        let loader = builder(&store).device(device.clone()).build().unwrap();
        let mut epochs = loader.epochs(0..2).unwrap();
        let mut first = epochs.next().unwrap().unwrap();
        first.next().unwrap().unwrap();
        device.stays_at(2);
        assert_eq!(epochs.next().unwrap().unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(first.by_ref().count(), 1);
        assert_eq!(epochs.next().unwrap().unwrap().count(), 2);
        assert!(epochs.next().is_none());
    });
}

#[test]
fn streams_mixtures_and_observers_get_what_was_delivered() {
    without_hanging(|| {
        let (store, _) = bucket(40);
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&seen);
        let count = move |event: &Event| {
            assert!(matches!(event, Event::BatchDelivered { .. }));
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let device = Watched::default();
        let observed = builder(&store).observe([EventKind::BatchDelivered], count);
        let loader = observed.device(device.clone()).build().unwrap();
        let wanted: Vec<Names> =
            builder(&store).device(Watched::default()).build().unwrap().epoch(0).unwrap().map(names).collect();

        let streamed: Vec<Names> = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(loader.stream(0).unwrap().take(3).map(names).collect());
        assert_eq!(streamed, wanted[..3]);
        loader.close(Duration::from_secs(30));
        assert_eq!(seen.load(Ordering::SeqCst), 3);

        let part = || builder(&store).device(Watched::default()).build().unwrap();
        let mixed = MixedLoader::builder(3).add(part(), 0.5).add(part(), 0.5).build().unwrap();
        let batches: Vec<_> = mixed.epoch(0).unwrap().map(Result::unwrap).collect();
        for part in 0..2 {
            let of_part = batches.iter().filter(|(number, _)| *number == part).map(|(_, batch)| (**batch).clone());
            let of_part: Vec<Names> = of_part.collect();
            assert!(of_part.len() >= 4 && wanted.starts_with(&of_part), "{of_part:?}");
        }
    });
}

/// A blocking loop within a task of tokio uses up what the task may poll before it yields.
#[tokio::test]
async fn a_loop_within_asynchronous_code_ends() {
    let (store, _) = bucket(600);
    let loader = builder(&store).batch_size(1).device(Watched::default()).build().unwrap();
    assert_eq!(loader.epoch(0).unwrap().map(Result::unwrap).count(), 600);
}

#[test]
fn batches_of_candle() {
    use candle_core::{DType, Device};

    let (store, contents) = bucket(4);
    let equal = |sample: RawSample| -> anyhow::Result<Vec<f32>> { Ok(vec![sample.bytes().len() as f32; 3]) };
    let stack = |samples: Vec<Vec<f32>>| -> anyhow::Result<ndarray::ArrayD<f32>> {
        Ok(ndarray::Array2::from_shape_vec((samples.len(), 3), samples.concat())?.into_dyn())
    };
    let dataset = dataset(&store).decode(equal).collate(stack);
    let loader = DataLoader::builder(dataset).batch_size(4).device(Device::Cpu).build().unwrap();
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    let wanted: Vec<f32> = batch.names().map(|name| contents[name].len() as f32).collect();
    let tensor = batch.into_inner();
    assert_eq!((tensor.dims(), tensor.dtype()), (&[4, 3][..], DType::F32));
    assert_eq!(tensor.to_vec2::<f32>().unwrap(), wanted.iter().map(|length| vec![*length; 3]).collect::<Vec<_>>());
}
