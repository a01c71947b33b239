//! The figures of an epoch equal what the service counted, with and without faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dataflux::metrics::Counts;
use dataflux::plan::Prices;
use dataflux::read::Download;
use dataflux::store::{Client, Credentials, Fault as StoreFault, FaultStore, GcsConfig, GcsStore, StoreCall};
use dataflux::store::{MemoryStore, ObjectId, RetryPolicy};
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, EpochStats, Limits, OnError, Raw, Strategy};
use dataflux_emulator::{Call, Emulator, Fault, Faults, Stats};

use crate::support::{STRATEGIES, all_given_back, content, until, without_hanging};

/// Objects of different sizes, none of them empty.
fn filled(objects: usize) -> (Emulator, BTreeMap<String, u64>) {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    let sizes = (0..objects).map(|index| {
        let (name, size) = (format!("p/{index:04}"), 1 + (index * 7_919) % 3_000);
        emulator.put("data", &name, content(&name, size));
        (name, size as u64)
    });
    let sizes = sizes.collect();
    (emulator, sizes)
}

fn client(emulator: &Emulator) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let policy = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(10));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(policy)
}

fn loader(client: &Client, strategy: Strategy) -> DataLoaderBuilder<Raw> {
    let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
    DataLoader::builder(dataset).batch_size(64).strategy(strategy)
}

/// Runs an epoch to its end. Returns its statistics, and those of the emulator during the epoch.
fn epoch(emulator: &Emulator, loader: &DataLoader, number: u64) -> (EpochStats, Stats) {
    let before = emulator.stats();
    let mut batches = loader.epoch(number).unwrap();
    batches.by_ref().for_each(|batch| drop(batch.unwrap()));
    all_given_back(loader);
    (batches.stats(), difference(&emulator.stats(), &before))
}

fn difference(after: &Stats, before: &Stats) -> Stats {
    let mut since = after.clone();
    for (since, before) in [
        (&mut since.list, before.list),
        (&mut since.get_media, before.get_media),
        (&mut since.get_metadata, before.get_metadata),
        (&mut since.compose, before.compose),
        (&mut since.insert, before.insert),
        (&mut since.delete, before.delete),
        (&mut since.patch, before.patch),
        (&mut since.bucket_get, before.bucket_get),
        (&mut since.test_permissions, before.test_permissions),
        (&mut since.composed_bytes, before.composed_bytes),
    ] {
        *since -= before;
    }
    since
}

/// Checks that both sides count the same.
#[track_caller]
fn same(ops: &Counts, served: &Stats) {
    let told = [ops.list, ops.get, ops.compose, ops.delete, ops.put, ops.update, ops.stat, ops.bucket];
    let counted = [
        served.list,
        served.get_media,
        served.compose,
        served.delete,
        served.insert,
        served.patch,
        served.get_metadata,
        served.bucket_get + served.test_permissions,
    ];
    assert_eq!(told, counted, "{ops:?}\n{served:?}");
    assert_eq!(ops.bytes_composed, served.composed_bytes, "{ops:?}\n{served:?}");
}

/// `retries` was 0 after 68 objects had come damaged and had been read again.
#[test]
fn samples_that_came_damaged_and_were_read_again_are_retries() {
    without_hanging(|| {
        let (emulator, sizes) = filled(40);
        let client = client(&emulator);
        let loader = loader(&client, Strategy::Direct).build().unwrap();
        // Two faults an epoch, so that no object is damaged three times, which would be an error.
        for number in 0..34 {
            emulator.fault_next(Call::GetMedia, Fault::Flip, 2);
            let (stats, served) = epoch(&emulator, &loader, number);
            same(&stats.ops, &served);
            assert_eq!((stats.verified, stats.ops.get, stats.ops.retries), (40, 42, 2));
            assert_eq!(stats.bytes, sizes.values().sum::<u64>());
        }
        assert_eq!(client.metrics().snapshot().retries, 68);
    });
}

/// A large object with damaged bytes is read again in all its ranges.
#[test]
fn ranges_that_are_read_again_are_retries() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        emulator.put("data", "p/large", content("large", 33 << 20));
        let limits = Limits::default().min_part_size(4 << 20);
        let loader = loader(&client(&emulator), Strategy::Direct).limits(limits).build().unwrap();
        let (calm, _) = epoch(&emulator, &loader, 0);
        assert!(calm.ops.get > 1 && calm.ops.retries == 0 && calm.groups.ranged == 1, "{calm:?}");
        emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
        let (stats, served) = epoch(&emulator, &loader, 1);
        same(&stats.ops, &served);
        assert_eq!((stats.ops.get, stats.ops.retries), (2 * calm.ops.get, calm.ops.get));
    });
}

/// The same for a single download.
#[tokio::test]
async fn downloads_that_are_read_again_are_retries() {
    for (size, parts) in [(1_000, 1), (100_000, 4)] {
        let store = MemoryStore::new();
        let bytes = content("large", size);
        let version = store.insert("data", "large", bytes.clone());
        let client =
            Client::new(Arc::new(FaultStore::new(Arc::new(store)).fail(StoreCall::Get, 1, StoreFault::FlipAt(7))));
        let id = ObjectId::new("data", "large", version);
        let download = Download::of(&client, id, size as u64, Some(crc32c::crc32c(&bytes)));
        let (read, _) = download.min_part_size(25_000).max_streams(4).into_memory().await.unwrap();
        assert_eq!(read, bytes);
        let counts = client.metrics().snapshot();
        assert_eq!((counts.get, counts.retries), (2 * parts, parts), "{counts:?}");
    }
}

/// After one flipped bit in a composed object, each of its sources is read again, individually.
#[test]
fn a_joined_read_that_came_damaged_is_read_again_object_by_object() {
    without_hanging(|| {
        let (emulator, _) = filled(64);
        let loader = loader(&client(&emulator), Strategy::compose()).build().unwrap();
        emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
        let (stats, served) = epoch(&emulator, &loader, 0);
        same(&stats.ops, &served);
        assert_eq!((stats.groups.composed, stats.groups.direct), (2, 0));
        assert_eq!((stats.ops.get, stats.ops.retries), (2 + 32, 32), "{stats:?}");
        assert_eq!((stats.samples, stats.verified), (64, 64));
    });
}

/// The figures counted composed groups although nothing could be composed.
#[test]
fn what_could_not_be_joined_counts_as_read_object_by_object() {
    without_hanging(|| {
        let (emulator, _) = filled(64);
        let loader = loader(&client(&emulator), Strategy::compose()).build().unwrap();
        emulator.fault_next(Call::Compose, Fault::Status(400), 1);
        let (stats, served) = epoch(&emulator, &loader, 0);
        same(&stats.ops, &served);
        assert_eq!((stats.groups.composed, stats.groups.direct), (1, 32), "{stats:?}");
        assert_eq!((stats.ops.get, stats.ops.compose, stats.ops.retries), (1 + 32, 2, 0), "{stats:?}");
    });
}

/// Each attempt is counted by its kind and, except the first, as a retry; a composed object is counted whatever happens
/// to it.
#[test]
fn under_faults_every_figure_is_what_the_service_counted() {
    without_hanging(|| {
        let (emulator, sizes) = filled(300);
        // An empty object is never read and is in no group.
        emulator.put("data", "p/~empty", "");
        for strategy in STRATEGIES {
            let client = client(&emulator);
            let loader = loader(&client, strategy).shuffle(5).build().unwrap();
            // No answer is lost here: if a compose succeeds, its answer is lost and its retry is refused, no client can
            // know of the success.
            emulator.set_faults(
                "error=0.05,429=0.05,reset=0.03,short=0.03,cut=0.03,seed=3,only=get_media|compose|delete"
                    .parse()
                    .unwrap(),
            );
            for number in 0..3 {
                let (stats, served) = epoch(&emulator, &loader, number);
                same(&stats.ops, &served);
                assert_eq!((stats.batches, stats.samples, stats.verified), (5, 301, 301));
                assert_eq!((stats.bytes, stats.skipped, stats.substituted), (sizes.values().sum(), 0, 0));
                assert_eq!(stats.temporaries_left, 0);
                // A composed group is composed, read and deleted; any other is only read. Where composing a group of at
                // least two objects was given up, some of these calls were made before.
                let planned = 3 * stats.groups.composed + stats.groups.direct;
                let most_given_up = if stats.ops.compose > 0 { stats.groups.direct / 2 } else { 0 };
                let first_tries = stats.ops.get + stats.ops.compose + stats.ops.delete - stats.ops.retries;
                let expected = planned..=planned + 3 * most_given_up;
                assert!(expected.contains(&first_tries), "{first_tries} of {expected:?}, {strategy:?} {stats:?}");
                assert!(stats.ops.retries > 0);
                let bill = Prices::of(loader.dataset().bucket_info()).bill(&stats.ops);
                assert!((bill.total() - stats.bill.total()).abs() < 1e-12, "{bill:?} {:?}", stats.bill);
            }
            emulator.set_faults(Faults::none());
            assert!(emulator.names("data").iter().all(|name| name.starts_with("p/")));
        }
    });
}

/// Composes under way when the loop ended were not counted, though they succeed and are billed.
#[test]
fn of_an_epoch_that_is_left_early_all_that_was_composed_is_counted() {
    without_hanging(|| {
        let (emulator, _) = filled(2_000);
        emulator.set_profile("fast,compose_ms=50".parse().unwrap());
        let client = client(&emulator);
        let loader = loader(&client, Strategy::compose()).build().unwrap();
        let before = (client.metrics().snapshot(), emulator.stats());
        let mut batches = loader.epoch(0).unwrap();
        drop(batches.next().unwrap().unwrap());
        drop(batches);
        all_given_back(&loader);
        until("nothing is under way", || emulator.stats().in_flight == 0);
        let ops = client.metrics().snapshot().since(&before.0);
        let served = difference(&emulator.stats(), &before.1);
        assert_eq!((ops.compose, ops.delete), (served.compose, served.delete));
        assert_eq!(ops.bytes_composed, served.composed_bytes);
    });
}

#[test]
fn of_lost_samples_no_bytes_are_counted() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            let (emulator, sizes) = filled(100);
            let loader = loader(&client(&emulator), strategy).on_error(OnError::Skip { limit: 3 }).build().unwrap();
            for name in ["p/0003", "p/0004", "p/0099"] {
                emulator.put("data", name, "changed");
            }
            let (stats, served) = epoch(&emulator, &loader, 0);
            same(&stats.ops, &served);
            let lost = sizes["p/0003"] + sizes["p/0004"] + sizes["p/0099"];
            assert_eq!((stats.samples, stats.verified, stats.skipped), (97, 97, 3));
            assert_eq!(stats.bytes, sizes.values().sum::<u64>() - lost);
        }
    });
}
