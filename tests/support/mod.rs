//! What several test programs share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod forwarding;
pub mod gated;
pub mod log;
#[cfg(target_os = "linux")]
pub mod process;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use dataflux::store::{Client, MemoryStore, RetryPolicy, Store};
use dataflux::{Batches, DataLoader, RawSample, Result, Strategy};

/// Longer than any wait here takes on a busy machine; only a hang lasts that long.
pub const HANG: Duration = Duration::from_secs(120);

/// How long a wait lasts until it fails and says what it waited for: less than [`HANG`], whose end says nothing.
const PATIENCE: Duration = Duration::from_secs(90);

/// The usual policy, with a deadline below [`PATIENCE`]: a call that is retried in vain then fails by its own error.
pub fn retries() -> RetryPolicy {
    RetryPolicy::default().deadline(Duration::from_secs(30))
}

/// Runs `body` on a thread of its own and fails if it hangs.
pub fn without_hanging<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    without_hanging_for(HANG, body)
}

/// Like [`without_hanging`], with a longer limit.
pub fn without_hanging_for<T: Send + 'static>(long: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let value = body();
        let _ = done.send(());
        value
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(long) {
        panic!("still running after {long:?}");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Bytes that show their object and offset: both are repeated throughout.
pub fn content(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + name.len() + 24);
    while bytes.len() < size {
        bytes.extend_from_slice(format!("{name}@{};", bytes.len()).as_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A client with short waits between attempts.
pub fn client(store: impl Store) -> Client {
    let policy = RetryPolicy::default()
        .initial(Duration::from_millis(1))
        .max(Duration::from_millis(10))
        .deadline(Duration::from_secs(20));
    Client::new(Arc::new(store)).with_retry(policy).with_stall_timeout(Duration::from_millis(500))
}

/// A bucket `data` of `count` objects below `p/`, of sizes from 0 to some thousand bytes.
pub fn bucket(count: usize) -> (MemoryStore, HashMap<String, Vec<u8>>) {
    let store = MemoryStore::new().with_bucket("data");
    let contents = (0..count).map(|index| {
        let name = format!("p/{}/{index:05}.bin", ["ant", "bee", "été", "😀"][index % 4]);
        let bytes = content(&name, (index * 7919) % 3_000);
        store.insert("data", &name, bytes.clone());
        (name, bytes)
    });
    let contents = contents.collect();
    (store, contents)
}

/// Reads all batches and checks that each sample has the right bytes and is verified. Returns the names in order.
pub fn names_of(batches: &mut Batches<Vec<RawSample>>, contents: &HashMap<String, Vec<u8>>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for batch in batches {
        let batch = batch?;
        assert_eq!(batch.names().collect::<Vec<_>>(), batch.iter().map(RawSample::name).collect::<Vec<_>>());
        for sample in batch.iter() {
            assert!(sample.verified());
            assert_eq!(sample.bytes(), &contents[sample.name()], "{}", sample.name());
            names.push(sample.name().to_owned());
        }
    }
    Ok(names)
}

/// What becomes of a last batch that isn't full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastBatch {
    Short,
    Drop,
    Pad,
}

/// All strategies.
pub const STRATEGIES: [Strategy; 4] =
    [Strategy::Direct, Strategy::compose(), Strategy::Compose { max_bytes: 5_000 }, Strategy::Auto];

/// Waits until this process has no temporary objects. If that takes too long, fails with the state of each.
pub fn no_temporaries() {
    let left = dataflux::wait_for_temporaries(PATIENCE);
    assert!(left.objects.is_empty(), "temporary objects are left: {left:#?}");
}

/// Waits until the budget has all its bytes again and this process has no temporary objects.
pub fn all_given_back<D: dataflux::Decode, B>(loader: &DataLoader<D, B>) {
    no_temporaries();
    until("the budget is given back", || loader.bytes_held() == 0);
}

/// Waits until `is` returns true.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let patience = PATIENCE.as_millis() / 5;
    for _ in 0..patience {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain until {what}");
}

/// A greyscale PNG.
pub fn png(height: u32, width: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::GrayImage::from_raw(width, height, pixels.to_vec()).unwrap();
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}
