//! Waiters of a gate, on virtual time.

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::store::{self, Client, Fault, FaultStore, MemoryStore, ObjectId, RetryPolicy};

fn gate(at_once: usize, per_second: f64) -> Arc<CallGate> {
    let concurrency = ConcurrencyLimit::new(at_once, Duration::ZERO).start_at(at_once);
    let rate = RateLimit::new(per_second, per_second, Duration::ZERO, 0.0);
    CallGate::new("reads", concurrency, rate, Duration::from_millis(100), &Arc::default())
}

#[tokio::test(start_paused = true)]
async fn the_smallest_number_is_served_first_whenever_it_came() {
    let gate = gate(1, 1e6);
    let first = gate.acquire(9).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiters: Vec<_> = [5, 7, 3, 7, 1]
        .map(|number| {
            let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
            tokio::spawn(async move {
                let slot = gate.acquire(number).await;
                order.lock().unwrap().push(number);
                sleep(Duration::from_millis(1)).await;
                slot.finish(1);
            })
        })
        .into();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(gate.snapshot().waiting, 5);
    drop(first);
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [1, 3, 5, 7, 7]);
    let end = gate.snapshot();
    assert_eq!((end.in_flight, end.waiting, end.refused, end.per_second), (0, 0, 0, None));
}

/// Ranks of large jobs have a rate far below one call a second, and their deletions lasted for half a minute.
#[tokio::test(start_paused = true)]
async fn too_many_background_calls_go_first() {
    let gate = gate(1, 1_000.0);
    let first = gate.acquire(0).await;
    let mut background: Vec<_> = (0..810).map(|_| Box::pin(gate.acquire_background(0))).collect();
    for waiter in &mut background {
        assert!(waiter.now_or_never().is_none());
    }
    let mut foreground = Box::pin(gate.acquire(1));
    assert!((&mut foreground).now_or_never().is_none());

    advance(Duration::from_secs(1)).await;
    first.finish(0);
    let mut slots = 0;
    while (&mut foreground).now_or_never().is_none() {
        let slot = background[slots].as_mut().now_or_never().unwrap();
        slots += 1;
        advance(Duration::from_secs(1)).await;
        slot.finish(0);
    }
    // Ten too many, and the slot that background calls have anyway.
    assert!((10..=11).contains(&slots), "{slots}");
}

#[tokio::test(start_paused = true)]
async fn background_calls_have_every_other_slot_and_what_nobody_else_wants() {
    let gate = gate(1, 1e6);
    let first = gate.acquire(0).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for (background, number) in [(true, 1), (true, 2), (true, 3), (true, 4), (false, 12), (false, 11), (false, 13)] {
        let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let slot = gate.acquire_slot(background, number).await;
            order.lock().unwrap().push(number);
            slot.finish(0);
        }));
    }
    sleep(Duration::from_millis(1)).await;
    let state = gate.snapshot();
    assert_eq!((state.waiting, state.background_waiting), (3, 4));
    first.finish(0);
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [1, 11, 2, 12, 3, 13, 4]);
    let state = gate.snapshot();
    assert_eq!((state.waiting, state.background_waiting, state.in_flight), (0, 0, 0));
}

/// A waiter that lost the first place to new arrivals while it waited for the rate woke nobody. With no call in flight
/// nobody was ever served again.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_no_longer_first_passes_the_clock_on() {
    let gate = gate(2_000, 2.0);
    // The rate allows the next call in half a second, and no call is in flight that would serve others when it ends.
    gate.acquire_background(0).await.finish(0);
    let enter = |background, number| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.acquire_slot(background, number).await.finish(0) })
    };
    let mut calls = vec![enter(false, 1_000)];
    tokio::task::yield_now().await;
    calls.extend((0..700).rev().map(|number| enter(number % 2 == 0, number)));
    tokio::time::timeout(Duration::from_secs(600), async {
        for call in calls {
            call.await.unwrap();
        }
    })
    .await
    .expect("nobody keeps the clock");
    let end = gate.snapshot();
    assert_eq!((end.in_flight, end.waiting, end.background_waiting), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_keep_to_the_rate() {
    let gate = gate(1_000, 100.0);
    let began = Instant::now();
    let calls = (0..300).map(|number| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.acquire(number).await.finish(0) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    assert!((2.9..3.1).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_leaves_no_hole_and_keeps_no_slot() {
    for (at_once, per_second) in [(2, 1e6), (1_000, 50.0)] {
        let gate = gate(at_once, per_second);
        let waiters: Vec<_> = (0..200u64)
            .map(|number| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let slot = gate.acquire(number).await;
                    sleep(Duration::from_millis(3)).await;
                    drop(slot);
                })
            })
            .collect();
        sleep(Duration::from_millis(10)).await;
        // The timekeeper gives up, too.
        waiters.iter().enumerate().filter(|(n, _)| n % 3 != 1).for_each(|(_, waiter)| waiter.abort());
        let all = async {
            for waiter in waiters {
                let _ = waiter.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        let end = gate.snapshot();
        assert_eq!((end.in_flight, end.waiting), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_granted_to_a_waiter_that_gave_up_goes_to_the_next() {
    let gate = gate(1, 1e6);
    let held = gate.acquire(0).await;
    let mut second = Box::pin(gate.acquire(1));
    let mut third = Box::pin(gate.acquire(2));
    assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
    advance(Duration::from_millis(1)).await;
    drop(held);
    assert_eq!(gate.snapshot().in_flight, 1, "it belongs to the second waiter, which doesn't know yet");
    drop(second);
    advance(Duration::from_millis(1)).await;
    assert!(third.now_or_never().is_some());
    assert_eq!(gate.snapshot().in_flight, 0);
}

/// It kept its slot, so that refused composes kept deletions out, and went out at no rate.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_made_again_waits_for_its_turn_as_the_first_time() {
    let gate = gate(1, 10.0);
    let slot = gate.acquire(3).await;
    let mut again = slot.pacer().again(Duration::from_secs(1));
    assert!((&mut again).now_or_never().is_none());
    assert_eq!(gate.snapshot().in_flight, 0, "others may be made meanwhile");
    let other = gate.acquire(9).await;
    sleep(Duration::from_secs(2)).await;
    let mut later = Box::pin(gate.acquire(9));
    assert!((&mut later).now_or_never().is_none() && (&mut again).now_or_never().is_none());
    let queued = Instant::now();
    drop(other);
    again.await;
    assert!(queued.elapsed() <= Duration::from_millis(110), "before the one that is needed later");
    assert_eq!((gate.snapshot().in_flight, gate.snapshot().waiting), (1, 1));
    drop((slot, later));
    assert_eq!((gate.snapshot().in_flight, gate.snapshot().waiting), (0, 0));
}

/// All time in the queue was given back to the call, and the queue is long where a service is down: what was to be
/// an error after 300 s was one after tens of minutes.
#[tokio::test(start_paused = true)]
async fn a_service_that_stays_down_becomes_an_error_however_long_the_queue() {
    let faults = FaultStore::new(Arc::new(MemoryStore::new().with_bucket("bucket")));
    faults.fail_next(store::StoreCall::Delete, Fault::RetryAfter(Duration::ZERO), 1_000);
    let policy = RetryPolicy::default();
    let gate = gate(1, 0.01);
    let slot = gate.acquire(0).await;
    let client = Client::new(Arc::new(faults.clone())).with_retry(policy).with_pacer(slot.pacer());
    let began = Instant::now();
    client.delete(&ObjectId::new("bucket", "temporary", 1)).await.unwrap_err();
    // The last try may wait for its turn, which comes once in 100 s.
    let longest = 2 * policy.deadline + Duration::from_secs(100);
    assert!(began.elapsed() > policy.deadline && began.elapsed() <= longest, "{:?}", began.elapsed());
    assert!(faults.calls(store::StoreCall::Delete) > 3);
    drop(slot);
    assert_eq!((gate.snapshot().in_flight, gate.snapshot().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_while_it_waits_to_be_made_again_keeps_nothing() {
    let gate = gate(1, 1e6);
    for wait in [0, 5] {
        let slot = gate.acquire(0).await;
        let mut again = slot.pacer().again(Duration::from_secs(wait));
        assert!((&mut again).now_or_never().is_none() || wait == 0);
        drop((again, slot));
        assert_eq!((gate.snapshot().in_flight, gate.snapshot().waiting), (0, 0));
    }
}

/// Deletions were averaged in: after a run of them the usual time of a compose was that of a deletion.
#[tokio::test(start_paused = true)]
async fn background_calls_do_not_change_the_typical_latency() {
    let gate = gate(10, 1e6);
    for (background, millis) in [(false, 1_000), (true, 50)] {
        for _ in 0..200 {
            let slot = gate.acquire_slot(background, 0).await;
            slot.pacer().answered(Duration::from_millis(millis));
            slot.finish(0);
        }
    }
    assert_eq!(gate.typical_latency().as_millis().next_multiple_of(10), 1_000);
}

#[tokio::test(start_paused = true)]
async fn refusals_teach_a_ceiling() {
    let gate = gate(1_000, 1_000.0);
    for number in 0..2_000 {
        let slot = gate.acquire(number).await;
        if number % 2 == 0 {
            slot.pacer().refused(true);
        }
        drop(slot);
    }
    let ceiling = gate.snapshot();
    assert_eq!(ceiling.refused, 1_000);
    assert!(ceiling.per_second.is_some_and(|rate| rate < 600.0), "{ceiling:?}");
}
