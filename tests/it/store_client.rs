//! The client over a store that fails by script, on virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dataflux::ErrorKind;
use dataflux::store::{
    BucketInfo, Client, ComposeRequest, CopyRequest, Fault, FaultStore, Hedge, ListRequest, MemoryStore, ObjectId,
    PutRequest, RetryPolicy, StoreCall, Version, WriteMode,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// Bytes that show their offset.
fn telling(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

fn faulty(store: &MemoryStore) -> (FaultStore, Client) {
    let faults = FaultStore::new(Arc::new(store.clone()));
    let client = Client::new(Arc::new(faults.clone()));
    (faults, client)
}

/// One object `o` of bucket `b`, of `len` bytes.
fn one(len: usize) -> (MemoryStore, ObjectId, FaultStore, Client) {
    let store = MemoryStore::new().with_chunk_size(7);
    let version = store.insert("b", "o", telling(len));
    let (faults, client) = faulty(&store);
    (store, ObjectId::new("b", "o", version), faults, client)
}

fn ranges(faults: &FaultStore) -> Vec<Option<std::ops::Range<u64>>> {
    faults.gets().into_iter().map(|get| get.range.bounds()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_counted() {
    let (_, _, faults, client) = one(1);
    for fault in [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::RateLimited] {
        faults.fail_next(StoreCall::List, Fault::Error(fault), 1);
        client.list(&ListRequest::new("b", "")).await.unwrap();
    }
    client.list(&ListRequest::new("b", "nothing")).await.unwrap();
    let counts = client.clone().metrics().snapshot();
    assert_eq!((counts.list, counts.empty_list, counts.retries), (7, 1, 3));
    assert_eq!(faults.calls(StoreCall::List), 7);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_tried_once() {
    let (_, _, faults, client) = one(1);
    for kind in [ErrorKind::PermissionDenied, ErrorKind::NotFound, ErrorKind::Protocol, ErrorKind::Precondition] {
        faults.fail_next(StoreCall::List, Fault::Error(kind), 1);
        let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.about(), Some("gs://b"), "the error names what it is about");
    }
    assert_eq!(faults.calls(StoreCall::List), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_gives_up_within_its_deadline() {
    let (_, id, faults, client) = one(1);
    faults.fail_next(StoreCall::Stat, Fault::Error(ErrorKind::Unavailable), 10_000);
    let start = Instant::now();
    let error = client.stat(&id).await.unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(300), "{:?}", start.elapsed());
    assert!(faults.calls(StoreCall::Stat) > 5, "{} tries", faults.calls(StoreCall::Stat));
    assert!(error.to_string().contains(" on try "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_ends_within_the_deadline() {
    let (_, id, faults, client) = one(1);
    for (call, fault) in
        [(StoreCall::Get, Fault::Stall), (StoreCall::Get, Fault::StallAt(0)), (StoreCall::Delete, Fault::Stall)]
    {
        faults.fail_next(call, fault, 10_000);
        let start = Instant::now();
        let error = match call {
            StoreCall::Get => client.read(&id, None, 1).await.unwrap_err(),
            _ => client.delete(&id).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Timeout, "{fault:?}: {error}");
        assert!(start.elapsed() <= Duration::from_secs(301), "{fault:?}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_ends_within_the_deadline() {
    // 72 chunks, each just before its timeout.
    let (_, id, faults, client) = one(500);
    faults.fail_next(StoreCall::Get, Fault::Drip(Duration::from_secs(29)), 10_000);
    let start = Instant::now();
    let error = client.read(&id, None, 500).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("after 300"), "{error}");
    assert!(start.elapsed() <= Duration::from_secs(301), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_retry_there_is_one_try() {
    // Large enough that its size would add seconds to a deadline.
    const SIZE: usize = 500_000;
    let (_, id, faults, client) = one(SIZE);
    let client = client.with_retry(RetryPolicy::never());
    faults.fail_next(StoreCall::Get, Fault::EndAt(1), 1);
    assert_eq!(client.read(&id, None, SIZE as u64).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(faults.calls(StoreCall::Get), 1);
    faults.fail_next(StoreCall::Get, Fault::Unauthenticated, 1);
    assert_eq!(client.read(&id, None, SIZE as u64).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(faults.calls(StoreCall::Get), 2);
    let payload = client.read(&id, None, SIZE as u64).await.unwrap();
    assert!(payload.bytes == telling(SIZE), "the one try has its time");

    let mut put = PutRequest::new("b", "p", telling(SIZE));
    put.mode = WriteMode::Create;
    faults.fail_next(StoreCall::Put, Fault::Error(ErrorKind::Unavailable), 1);
    assert_eq!(client.put(&put).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(faults.calls(StoreCall::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured() {
    let (_, id, faults, client) = one(1);
    faults.fail_next(StoreCall::Stat, Fault::RetryAfter(Duration::from_secs(77)), 1);
    let start = Instant::now();
    client.stat(&id).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(77));
    // The requested wait exceeds the deadline, so the call fails at once.
    faults.fail_next(StoreCall::Stat, Fault::RetryAfter(Duration::from_secs(301)), 1);
    let start = Instant::now();
    assert_eq!(client.stat(&id).await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once() {
    let (_, id, faults, client) = one(1);
    faults.fail_next(StoreCall::Stat, Fault::Unauthenticated, 1);
    client.stat(&id).await.unwrap();
    faults.fail_next(StoreCall::Stat, Fault::Unauthenticated, 2);
    assert_eq!(client.stat(&id).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    // The service did nothing, so this applies to calls that must not be repeated, too.
    faults.fail_next(StoreCall::Put, Fault::Unauthenticated, 1);
    client.put(&PutRequest::new("b", "p", "x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_is_resumed_from_the_bytes_received() {
    for fault in [Fault::BreakAt(20), Fault::EndAt(20), Fault::StallAt(20)] {
        let (_, id, faults, client) = one(50);
        faults.fail_next(StoreCall::Get, fault, 1);
        let payload = client.read(&id, None, 50).await.unwrap();
        assert_eq!(payload.bytes, telling(50), "{fault:?}");
        assert_eq!(ranges(&faults), [None, Some(20..50)], "{fault:?}");

        faults.fail_next(StoreCall::Get, fault, 1);
        let payload = client.read(&id, Some(10..45), 35).await.unwrap();
        assert_eq!(payload.bytes, telling(50)[10..45], "{fault:?}");
        assert_eq!(ranges(&faults)[2..], [Some(10..45), Some(30..45)], "{fault:?}");
        assert_eq!(client.metrics().snapshot().bytes_received, 85, "no byte twice: {fault:?}");
        assert_eq!(faults.faults_left(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_gets_on_is_not_given_up() {
    // More interruptions than the attempts of a back-off that never restarts.
    let (_, id, faults, client) = one(100);
    let client = client.with_retry(RetryPolicy::default().deadline(Duration::from_secs(120)));
    faults.fail_next(StoreCall::Get, Fault::BreakAt(1), 99);
    assert_eq!(client.read(&id, None, 100).await.unwrap().bytes, telling(100));
    assert_eq!(faults.calls(StoreCall::Get), 100);
}

#[tokio::test(start_paused = true)]
async fn any_mixture_of_faults_ends_in_the_right_bytes() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let len = random.random_range(1..60_000);
        let store = MemoryStore::new().with_chunk_size(random.random_range(1..20_000));
        let version = store.insert("b", "o", telling(len));
        let (faults, client) = faulty(&store);
        let mut script = faults.clone();
        for nth in 1..random.random_range(1..6) {
            let at = random.random_range(0..len as u64 + 10);
            let fault = [
                Fault::Error(ErrorKind::Unavailable),
                Fault::Stall,
                Fault::LostResponse(ErrorKind::Timeout),
                Fault::BreakAt(at),
                Fault::EndAt(at),
                Fault::StallAt(at),
            ][random.random_range(0..6)];
            script = script.fail(StoreCall::Get, nth, fault);
        }
        let start = random.random_range(0..len as u64);
        let range = random.random_bool(0.5).then(|| start..random.random_range(start..len as u64) + 1);
        let wanted = range.clone().map_or(0..len, |range| range.start as usize..range.end as usize);
        let payload = client
            .read(&ObjectId::new("b", "o", version), range.clone(), wanted.len() as u64)
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(payload.bytes == telling(len)[wanted], "seed {seed}: other bytes for {range:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_pins_the_generation() {
    let (store, id, faults, client) = one(50);
    faults.fail_next(StoreCall::Get, Fault::StallAt(20), 1);
    let live = ObjectId { version: Version::None, ..id.clone() };
    let reading = tokio::spawn(async move { client.read(&live, None, 50).await });
    while faults.calls(StoreCall::Get) == 0 {
        tokio::task::yield_now().await;
    }
    // Another writer overwrites the object while the body stalls: bytes of the two versions must not be mixed.
    let new = store.insert("b", "o", vec![0; 50]);
    let error = reading.await.unwrap().unwrap_err();
    assert!(error.is_changed(), "{error}");
    let text = error.to_string();
    assert!(text.contains(&id.version.to_string()) && text.contains(&new.to_string()), "{text}");
    assert_eq!(faults.gets()[1].id, id);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_generation_is_refused() {
    let (_, id, faults, client) = one(5);
    faults.fail_next(StoreCall::Get, Fault::Generation(7), 1);
    let error = client.read(&id, None, 5).await.unwrap_err();
    assert!(error.is_changed() && error.to_string().contains("got generation 7"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lying_not_found_is_not_called_a_change() {
    let (_, id, faults, client) = one(5);
    faults.fail_next(StoreCall::Get, Fault::Error(ErrorKind::NotFound), 1);
    assert!(client.read(&id, None, 5).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn surplus_bytes_are_refused() {
    let (_, id, faults, client) = one(5);
    faults.fail_next(StoreCall::Get, Fault::Surplus(3), 1);
    let error = client.read(&id, None, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains("gs://b/o#"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn objects_of_another_length_than_listed_are_refused() {
    let (_, id, _, client) = one(5);
    for (range, size) in [(None, 4), (None, 6), (None, u64::MAX), (Some(3..6), 3)] {
        let error = client.read(&id, range, size).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{size}: {error}");
    }
    for (range, size) in [(Some(2..2), 0), (Some(0..3), 4)] {
        assert_eq!(client.read(&id, range, size).await.unwrap_err().kind(), ErrorKind::Config);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_shows_in_the_crc() {
    let (_, id, faults, client) = one(50);
    faults.fail_next(StoreCall::Get, Fault::FlipAt(33), 1);
    let payload = client.read(&id, None, 50).await.unwrap();
    assert_ne!(crc32c::crc32c(&payload.bytes), payload.crc32c.unwrap());
    let payload = client.read(&id, None, 50).await.unwrap();
    assert_eq!(crc32c::crc32c(&payload.bytes), payload.crc32c.unwrap());
}

/// Makes as many reads as the client needs to learn that they are answered within 10 ms.
async fn learn(client: &Client, faults: &FaultStore, id: &ObjectId, size: u64) {
    for _ in 0..200 {
        faults.fail_next(StoreCall::Get, Fault::Drip(Duration::from_millis(10)), 1);
        client.read(id, None, size).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_cuts_the_tail_to_the_usual_wait() {
    for (fault, missing) in [
        (Fault::Stall, None),
        (Fault::StallAt(0), None),
        (Fault::StallAt(3), Some(3..7)),
        (Fault::Drip(Duration::from_secs(9)), None),
    ] {
        let (_, id, faults, client) = one(7);
        let client = client.with_hedge(Hedge::percentile(95.0));
        learn(&client, &faults, &id, 7).await;
        let (before, counts) = (faults.calls(StoreCall::Get), client.metrics().snapshot());
        faults.fail_next(StoreCall::Get, fault, 1);
        let start = Instant::now();
        let payload = client.read(&id, None, 7).await.unwrap();
        assert_eq!(payload.bytes, telling(7), "{fault:?}");
        assert_eq!(payload.computed, crc32c::crc32c(&telling(7)), "{fault:?}");
        assert!(start.elapsed() < Duration::from_millis(20), "{fault:?}: {:?}", start.elapsed());
        assert_eq!(ranges(&faults)[before as usize..], [None, missing], "{fault:?}");
        let counts = client.metrics().snapshot().since(&counts);
        assert_eq!((counts.get, counts.hedged, counts.hedges_won, counts.retries), (2, 1, 1, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_requests_the_first_to_bring_bytes_goes_on() {
    let (_, id, faults, client) = one(21);
    let client = client.with_hedge(Hedge::percentile(95.0));
    learn(&client, &faults, &id, 21).await;
    // The second request is slower than the first or fails, and then changes nothing.
    for second in [
        Fault::Drip(Duration::from_secs(5)),
        Fault::Stall,
        Fault::Error(ErrorKind::Unavailable),
        Fault::Generation(7),
        Fault::EndAt(0),
    ] {
        let counts = client.metrics().snapshot();
        let calls = faults.calls(StoreCall::Get);
        let _ = faults.clone().fail(StoreCall::Get, calls + 1, Fault::Drip(Duration::from_millis(500)));
        let _ = faults.clone().fail(StoreCall::Get, calls + 2, second);
        let payload = client.read(&id, None, 21).await.unwrap();
        assert_eq!(payload.bytes, telling(21), "{second:?}");
        let counts = client.metrics().snapshot().since(&counts);
        assert!(counts.hedged >= 1 && counts.retries == 0, "{second:?}: {counts:?}");
        learn(&client, &faults, &id, 21).await;
    }
    // The first request breaks during the second: there is no retry, and no byte comes twice.
    let counts = client.metrics().snapshot();
    faults.fail_next(StoreCall::Get, Fault::LostResponse(ErrorKind::Unavailable), 1);
    assert_eq!(client.read(&id, None, 21).await.unwrap().bytes, telling(21));
    assert_eq!(client.metrics().snapshot().since(&counts).bytes_received, 21);
}

#[tokio::test(start_paused = true)]
async fn the_share_of_hedges_holds_where_everything_is_slow() {
    let (_, id, faults, client) = one(7);
    let client = client.with_hedge(Hedge::percentile(50.0).max_share(0.02));
    learn(&client, &faults, &id, 7).await;
    let counts = client.metrics().snapshot();
    let mut waits = 0;
    for _ in 0..3_000u32 {
        // Each answer is slower than the one before.
        waits += 1;
        faults.fail_next(StoreCall::Get, Fault::Drip(Duration::from_millis(1_000 + waits)), 2);
        client.read(&id, None, 7).await.unwrap();
    }
    let counts = client.metrics().snapshot().since(&counts);
    assert!(counts.hedged <= 60, "{counts:?}");
    assert!(counts.hedged >= 50, "the share is used: {counts:?}");
    assert_eq!(counts.get, 3_000 + counts.hedged);
}

#[tokio::test(start_paused = true)]
async fn any_mixture_of_faults_under_hedges_ends_in_the_right_bytes() {
    let store = MemoryStore::new().with_chunk_size(700);
    let len = 5_000;
    let version = store.insert("b", "o", telling(len));
    let (faults, client) = faulty(&store);
    let client = client.with_hedge(Hedge::percentile(50.0).max_share(1.0));
    let id = ObjectId::new("b", "o", version);
    learn(&client, &faults, &id, len as u64).await;
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..300 {
        let calls = faults.calls(StoreCall::Get);
        for nth in 1..random.random_range(2..7) {
            let at = random.random_range(0..len as u64 + 10);
            let fault = [
                Fault::Error(ErrorKind::Unavailable),
                Fault::Stall,
                Fault::LostResponse(ErrorKind::Timeout),
                Fault::BreakAt(at),
                Fault::EndAt(at),
                Fault::StallAt(at),
                Fault::Drip(Duration::from_millis(at)),
            ][random.random_range(0..7)];
            let _ = faults.clone().fail(StoreCall::Get, calls + nth, fault);
        }
        let payload = client.read(&id, None, len as u64).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(payload.bytes == telling(len), "round {round}: other bytes");
        assert_eq!(payload.computed, payload.crc32c.unwrap(), "round {round}");
    }
    assert!(client.metrics().snapshot().hedges_won > 50);
}

#[tokio::test(start_paused = true)]
async fn a_service_slower_than_the_stall_timeout_is_waited_for_in_the_end() {
    let (_, id, faults, client) = one(7);
    let client = client.with_stall_timeout(Duration::from_secs(1));
    faults.fail_next(StoreCall::Get, Fault::Drip(Duration::from_secs(5)), 100);
    assert_eq!(client.read(&id, None, 7).await.unwrap().bytes, telling(7));
    assert_eq!(faults.calls(StoreCall::Get), 4, "of 1, 2, 4 and 8 s");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_one_chunk_is_not_copied_unless_small() {
    let store = MemoryStore::new();
    for (len, kept) in [(100_000, true), (100, false)] {
        let data = Bytes::from(telling(len));
        let version = store.insert("b", "o", data.clone());
        let client = Client::new(Arc::new(store.clone()));
        let payload = client.read(&ObjectId::new("b", "o", version), None, len as u64).await.unwrap();
        assert_eq!(payload.bytes, data);
        assert_eq!(payload.bytes.as_ptr() == data.as_ptr(), kept, "{len} bytes");
    }
}

fn compose(store: &MemoryStore) -> ComposeRequest {
    let sources = ["x", "y"].map(|name| (Arc::from(name), store.insert("b", name, name)));
    ComposeRequest::new("b".into(), "joined".into(), sources.into(), 2, crc32c::crc32c(b"xy"), SystemTime::now())
}

#[tokio::test(start_paused = true)]
async fn a_compose_whose_answer_was_lost_is_adopted() {
    let store = MemoryStore::new();
    let (faults, client) = faulty(&store);
    faults.fail_next(StoreCall::Compose, Fault::LostResponse(ErrorKind::Unavailable), 1);
    let meta = client.compose(&compose(&store)).await.unwrap();
    let payload = client.read(&ObjectId::new("b", "joined", meta.version), None, 2).await.unwrap();
    assert_eq!(&payload.bytes[..], b"xy");
    let counts = client.metrics().snapshot();
    assert_eq!((counts.compose, counts.stat, counts.retries), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_another_wrote_is_not_adopted() {
    for other in ["zz", "z"] {
        let store = MemoryStore::new();
        let (faults, client) = faulty(&store);
        let request = compose(&store);
        let theirs = store.insert("b", "joined", other);
        faults.fail_next(StoreCall::Compose, Fault::Error(ErrorKind::Unavailable), 1);
        let error = client.compose(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert_eq!(client.stat(&ObjectId::live("b", "joined")).await.unwrap().version, theirs);
        // On the first attempt there is nothing to adopt and nothing to look up.
        let stats = faults.calls(StoreCall::Stat);
        assert_eq!(client.compose(&request).await.unwrap_err().kind(), ErrorKind::Precondition);
        assert_eq!(faults.calls(StoreCall::Stat), stats);
    }
}

/// Two clients got the same lease, because the second attempt of one was taken for a retry of a lost one.
#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_same_bytes_are_another_writers() {
    let store = MemoryStore::new();
    let theirs = store.insert("b", "lock", "busy");
    let source = store.insert("b", "source", "busy");
    let (faults, client) = faulty(&store);
    let mut put = PutRequest::new("b", "lock", "busy");
    let mut copy = CopyRequest::new(ObjectId::new("b", "source", source), "b", "lock");
    let source = client.stat(&copy.source).await.unwrap();

    let refusals = [Fault::Error(ErrorKind::RateLimited), Fault::Unauthenticated];
    let modes = [WriteMode::Create, WriteMode::Update(1.into())];
    for (refusal, mode) in refusals.into_iter().flat_map(|refusal| modes.clone().map(|mode| (refusal, mode))) {
        (put.mode, copy.mode) = (mode.clone(), mode);
        let stats = faults.calls(StoreCall::Stat);
        for call in [StoreCall::Put, StoreCall::Copy] {
            let calls = faults.calls(call);
            faults.fail_next(call, refusal, 1);
            let outcome = match call {
                StoreCall::Put => client.put(&put).await,
                _ => client.copy(&copy, &source).await,
            };
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Precondition, "{call:?} after {refusal:?}");
            assert_eq!(faults.calls(call), calls + 2);
        }
        assert_eq!(faults.calls(StoreCall::Stat), stats, "there is nothing to look up");
    }
    assert_eq!(client.stat(&ObjectId::live("b", "lock")).await.unwrap().version, theirs);

    // One attempt that may have written is enough, whatever came between.
    put = PutRequest::new("b", "new", "busy");
    put.mode = WriteMode::Create;
    faults.fail_next(StoreCall::Put, Fault::LostResponse(ErrorKind::Unavailable), 1);
    let faults = faults.clone().fail(StoreCall::Put, faults.calls(StoreCall::Put) + 2, Fault::Unauthenticated);
    client.put(&put).await.unwrap();
    assert_eq!(faults.faults_left(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_caller_is_told_at_once() {
    let store = MemoryStore::new();
    let (faults, client) = faulty(&store);
    faults.fail_next(StoreCall::Compose, Fault::Error(ErrorKind::PermissionDenied), 1);
    assert!(client.compose(&compose(&store)).await.unwrap_err().is_permission());
    assert_eq!(faults.calls(StoreCall::Compose), 1);
}

/// Errors of the look-up for an adoption reported one attempt, as if nothing had happened before.
#[tokio::test(start_paused = true)]
async fn every_error_after_the_first_try_reports_how_many_there_were() {
    let store = MemoryStore::new();
    let version = store.insert("b", "o", "meow");
    let (faults, client) = faulty(&store);
    let (id, request) = (ObjectId::new("b", "o", version), compose(&store));
    let mut put = PutRequest::new("b", "p", "meow");
    put.mode = WriteMode::Create;
    let calls = [
        StoreCall::List,
        StoreCall::BucketInfo,
        StoreCall::TestPermissions,
        StoreCall::Stat,
        StoreCall::Get,
        StoreCall::Compose,
        StoreCall::Put,
        StoreCall::UpdateMetadata,
        StoreCall::Delete,
    ];
    for call in calls {
        for last in [ErrorKind::Protocol, ErrorKind::Unauthenticated] {
            faults.fail_next(call, Fault::Error(ErrorKind::Unavailable), 1);
            let faults = faults.clone().fail(call, faults.calls(call) + 2, Fault::Error(last));
            let error = match call {
                StoreCall::List => client.list(&ListRequest::new("b", "")).await.unwrap_err(),
                StoreCall::BucketInfo => client.bucket_info("b").await.unwrap_err(),
                StoreCall::TestPermissions => client.test_permissions("b", &[]).await.unwrap_err(),
                StoreCall::Stat => client.stat(&id).await.unwrap_err(),
                StoreCall::Get => client.read(&id, None, 4).await.unwrap_err(),
                StoreCall::Compose => client.compose(&request).await.unwrap_err(),
                StoreCall::Put => client.put(&put).await.unwrap_err(),
                StoreCall::UpdateMetadata => client.update_metadata(&id, &BTreeMap::new()).await.unwrap_err(),
                _ => client.delete(&id).await.unwrap_err(),
            };
            assert_eq!((error.kind(), faults.faults_left()), (last, 0), "{call:?}");
            assert!(error.to_string().contains(", on try 2 "), "{call:?}: {error}");
        }
    }
    // A caller who may not read, or whose object is deleted meanwhile, can't find out who wrote it.
    for (call, look_up) in
        [StoreCall::Compose, StoreCall::Put].into_iter().zip([ErrorKind::PermissionDenied, ErrorKind::NotFound])
    {
        faults.fail_next(call, Fault::LostResponse(ErrorKind::Unavailable), 1);
        faults.fail_next(StoreCall::Stat, Fault::Error(look_up), 1);
        let error = match call {
            StoreCall::Put => client.put(&put).await.unwrap_err(),
            _ => client.compose(&request).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.to_string().contains(", on try 2 "), "{call:?}: {error}");
        let cause = std::error::Error::source(&error).unwrap().downcast_ref::<dataflux::Error>().unwrap();
        assert_eq!(cause.kind(), look_up, "{cause}");
    }
    // A look-up also reveals that the object is gone.
    let gone = ObjectId::new("b", "o", 7);
    faults.fail_next(StoreCall::Get, Fault::Error(ErrorKind::Unavailable), 1);
    let error = client.read(&gone, None, 4).await.unwrap_err();
    assert!(error.is_changed() && error.to_string().contains(", on try 2 "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_put_is_made_again_only_with_a_precondition() {
    let store = MemoryStore::new().with_bucket("b");
    let (faults, client) = faulty(&store);
    let mut put = PutRequest::new("b", "o", "meow");
    faults.fail_next(StoreCall::Put, Fault::Error(ErrorKind::Unavailable), 1);
    assert_eq!(client.put(&put).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(faults.calls(StoreCall::Put), 1);

    put.mode = WriteMode::Create;
    faults.fail_next(StoreCall::Put, Fault::LostResponse(ErrorKind::Timeout), 1);
    let meta = client.put(&put).await.unwrap();
    assert_eq!(meta.version, client.stat(&ObjectId::live("b", "o")).await.unwrap().version);
    assert_eq!(client.put(&put).await.unwrap_err().kind(), ErrorKind::Precondition);
    assert_eq!(client.metrics().snapshot().bytes_sent, 16);
}

#[tokio::test(start_paused = true)]
async fn a_delete_whose_answer_was_lost_is_done() {
    let (store, id, faults, client) = one(1);
    faults.fail_next(StoreCall::Delete, Fault::LostResponse(ErrorKind::Unavailable), 1);
    client.delete(&id).await.unwrap();
    assert!(!store.contains("b", "o"));
    assert!(client.delete(&id).await.unwrap_err().is_not_found(), "on the first try it says so");
}

#[tokio::test(start_paused = true)]
async fn facts_that_may_not_be_seen_are_unknown() {
    let (_, _, faults, client) = one(1);
    faults.fail_next(StoreCall::BucketInfo, Fault::Error(ErrorKind::PermissionDenied), 1);
    assert_eq!(client.bucket_info("b").await.unwrap(), BucketInfo::default());
    assert!(client.bucket_info("none").await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn entity_tags_pin_reads_and_writes_as_generations_do() {
    let store = MemoryStore::new().with_etags();
    let old = store.insert("cats", "o", telling(50));
    let (faults, client) = faulty(&store);
    faults.fail_next(StoreCall::Get, Fault::EndAt(20), 1);
    let payload = client.read(&ObjectId::live("cats", "o"), None, 50).await.unwrap();
    assert_eq!((&payload.version, payload.bytes), (&old, telling(50).into()));
    assert_eq!(
        faults.gets()[1].id,
        ObjectId::new("cats", "o", &old),
        "a body is resumed from the version of its beginning"
    );

    let mut put = PutRequest::new("cats", "o", "meow");
    put.mode = WriteMode::Update(old.clone());
    let new = client.put(&put).await.unwrap().version;
    assert_eq!(client.put(&put).await.unwrap_err().kind(), ErrorKind::Precondition);
    let error = client.read(&ObjectId::new("cats", "o", &old), None, 50).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_changed() && text.contains(&format!("wanted {old}, got {new}")), "{text}");

    // A manifest that dropped the tags would let other bytes through.
    let page = client.list(&ListRequest::new("cats", "")).await.unwrap();
    let error = dataflux::Manifest::new("gs://cats/".parse().unwrap(), &page.objects).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("ETags"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn objects_without_versions_are_read_as_they_are() {
    let store = MemoryStore::new().without_versions();
    assert_eq!(store.insert("cats", "o", telling(50)), Version::None);
    let (_, client) = faulty(&store);
    assert!(!client.capabilities().versions);
    let page = client.list(&ListRequest::new("cats", "")).await.unwrap();
    let manifest = dataflux::Manifest::new("gs://cats/".parse().unwrap(), &page.objects).unwrap();
    let id = ObjectId::new("cats", "o", &manifest.get(0).unwrap().version);
    assert_eq!(id.to_string(), "gs://cats/o");
    assert_eq!(client.read(&id, None, 50).await.unwrap().bytes, telling(50));

    let mut put = PutRequest::new("cats", "o", "meow");
    for version in [Version::None, 0.into()] {
        put.mode = WriteMode::Update(version);
        assert_eq!(client.put(&put).await.unwrap_err().kind(), ErrorKind::Config);
    }
}

/// The beginning of one object was joined with the end of the one that replaced it.
#[tokio::test(start_paused = true)]
async fn a_body_without_a_version_is_not_resumed_from_another_object() {
    let store = MemoryStore::new().with_chunk_size(10).without_versions();
    let (id, old, new) = (ObjectId::live("cats", "o"), vec![1; 50], vec![2; 50]);
    for range in [None, Some(0..50)] {
        store.insert("cats", "o", old.clone());
        let (faults, client) = faulty(&store);
        faults.fail_next(StoreCall::Get, Fault::StallAt(20), 1);
        let read = client.read(&id, range, 50);
        let overwrite = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.insert("cats", "o", new.clone());
        };
        let (payload, ()) = tokio::join!(read, overwrite);
        assert_eq!((payload.unwrap().bytes, faults.calls(StoreCall::Get)), (new.clone().into(), 2));
    }
}
