//! Waiters of a gate under shuttle: they arrive, look, are woken and give up in every order there is time for. If
//! nobody keeps the clock for those that wait, all threads are blocked, which shuttle reports.

use futures_util::FutureExt;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{check_pct, check_random, future, thread};

use super::*;

/// Serves one waiter for each of `background`, which is whether its call is a background call, with no call in flight
/// when they arrive. Waiters that were spawned later have smaller numbers, so that the first waiter changes.
fn serve(background: &[bool], gives_up: bool) {
    let concurrency = ConcurrencyLimit::new(100, Duration::ZERO).start_at(100);
    let rate = RateLimit::new(2_000.0, 2_000.0, Duration::ZERO, 0.0);
    let gate = CallGate::new("reads", concurrency, rate, Duration::from_millis(100), &Arc::default());
    // After this call the rate allows none for half a millisecond, and the next slot is for a foreground call.
    assert!(matches!(Waiter::enter(&gate, true, 0).look(Duration::ZERO), SlotDecision::Granted));
    drop(CallSlot::new(&gate, true, 0));

    let clock = Arc::new(AtomicU64::new(0));
    let waiters = background.iter().enumerate().map(|(index, &background)| {
        let (gate, clock) = (Arc::clone(&gate), Arc::clone(&clock));
        thread::spawn(move || wait(&gate, &clock, background, 10 - index as u64, gives_up))
    });
    for waiter in waiters.collect::<Vec<_>>() {
        waiter.join().expect("it doesn't panic");
    }
    let end = gate.snapshot();
    assert_eq!((end.in_flight, end.waiting, end.background_waiting), (0, 0, 0));
}

/// Waits for a slot and leaves it, or gives up on the way.
fn wait(gate: &Arc<CallGate>, clock: &AtomicU64, background: bool, number: u64, gives_up: bool) {
    let mut waiter = Waiter::enter(gate, background, number);
    loop {
        let look = waiter.look(Duration::from_nanos(clock.load(Ordering::SeqCst)));
        if matches!(look, SlotDecision::Wait(_)) && gives_up && thread_rng().gen_bool(0.2) {
            return;
        }
        match look {
            SlotDecision::Granted => return drop(CallSlot::new(gate, background, 0)),
            SlotDecision::Wait(None) => future::block_on(waiter.wake.notified()),
            SlotDecision::Wait(Some(until)) => {
                thread::yield_now();
                // Unless it is woken before, the clock reaches that moment.
                if waiter.wake.notified().now_or_never().is_none() {
                    clock.fetch_max(until.as_nanos() as u64, Ordering::SeqCst);
                }
            }
        }
    }
}

#[test]
fn somebody_keeps_the_clock_in_any_interleaving() {
    for background in [&[false, true, true, true][..], &[false, false, true, true, true], &[false, true, true]] {
        for gives_up in [false, true] {
            check_random(move || serve(background, gives_up), 1_000);
            check_pct(move || serve(background, gives_up), 500, 3);
        }
    }
}
