//! Temporary objects that can't be read: composing is given up soon, with one warning.
//!
//! A program of its own, because it collects the log of the whole process.

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dataflux::store::{Attempt, Body, BucketInfo, ByteRange, Client, MemoryStore, ObjectId, Store};
use dataflux::{DataLoader, DatafluxDataset, Error, ErrorKind, Result, Strategy};
use futures_util::StreamExt;
use support::forwarding::{Forward, Forwarding};
use support::log::Log;

/// The result of reading a temporary object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Refused,
    Damaged,
}

/// A store whose temporary objects can be created and deleted, but not read.
#[derive(Debug)]
struct Unreadable {
    inner: MemoryStore,
    harm: Harm,
}

#[async_trait]
impl Forward for Unreadable {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        let is_temporary = id.name.starts_with("dataflux-composed-objects/");
        let mut body = self.inner.get(id, range, attempt).await?;
        match self.harm {
            Harm::Refused if is_temporary => {
                return Err(Error::new(ErrorKind::PermissionDenied, "storage.objects.get is not granted"));
            }
            Harm::Damaged if is_temporary => {
                let damaged = |chunk: Result<Bytes>| {
                    let mut bytes = BytesMut::from(&chunk?[..]);
                    bytes.iter_mut().for_each(|byte| *byte ^= 1);
                    Ok(bytes.freeze())
                };
                body.chunks = body.chunks.map(damaged).boxed();
            }
            _ => {}
        }
        Ok(body)
    }
}

/// The compose alone counted as a success, so that each epoch created one useless object for each group.
#[test]
fn composed_reads_that_always_fail_are_given_up_with_one_warning() {
    const SAMPLES: usize = 6_400;
    let log = Log::of_process();
    support::without_hanging(move || {
        for (warnings, harm) in (1..).zip([Harm::Refused, Harm::Damaged]) {
            let mut info = BucketInfo::default();
            info.retention = Some(Duration::ZERO);
            let inner = MemoryStore::new().with_bucket_info("data", info);
            for index in 0..SAMPLES {
                let name = format!("p/{index:04}");
                inner.insert("data", &name, support::content(&name, 100));
            }
            let client = Client::new(Arc::new(Forwarding(Unreadable { inner: inner.clone(), harm })));
            let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
            let builder = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose());
            let loader = builder.prefetch(2).build().unwrap();
            let composes = || loader.dataset().client().metrics().snapshot().compose;
            let mut after = Vec::new();
            for epoch in 0..3 {
                let mut seen = 0;
                for batch in loader.epoch(epoch).unwrap() {
                    for sample in batch.unwrap().iter() {
                        assert_eq!(sample.bytes(), &support::content(sample.name(), 100));
                        seen += 1;
                    }
                }
                assert_eq!(seen, SAMPLES);
                after.push(composes());
            }
            // This many may fail in a row, and a few more have begun by then; an epoch has 200 groups.
            assert!(after[0] < 64, "{harm:?}: {after:?} composes");
            assert_eq!(after[0], after[2], "{harm:?}: {after:?} composes");
            support::no_temporaries();
            assert_eq!(inner.names("data").len(), SAMPLES);
            assert_eq!(log.warnings().len(), warnings, "{harm:?}: {:#?}", log.warnings());
        }
    });
}
