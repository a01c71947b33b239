//! Waiters of a throttle under shuttle: they come, look, are woken and give up in every order there is time for. Where
//! nobody keeps the clock for those that wait, all threads are blocked, which shuttle reports.

use futures_util::FutureExt;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{check_pct, check_random, future, thread};

use super::*;

/// Serves a waiter for each of `behind`, whether it is one behind, with no call under way when they come.
fn serve(behind: &[bool], most_behind: usize, gives_up: bool) {
    let pace = Pace::new(100, Duration::ZERO).start_with(100);
    let throttle = Throttle::new("reads", pace, (2_000.0, Some(2_000.0)), USUAL_READ, &Arc::default());
    throttle.state().most_behind = most_behind;
    // After this call the rate allows none for half a millisecond, and the next turn is not of one behind.
    assert!(matches!(Waiter::enter(&throttle, true, 0).look(Duration::ZERO), SlotDecision::Granted));
    drop(CallSlot::new(&throttle, true, 0));
    let clock = Arc::new(AtomicU64::new(0));
    let waiters = behind.iter().map(|&behind| {
        let (throttle, clock) = (Arc::clone(&throttle), Arc::clone(&clock));
        thread::spawn(move || wait(&throttle, &clock, behind, gives_up))
    });
    for waiter in waiters.collect::<Vec<_>>() {
        waiter.join().expect("it doesn't panic");
    }
    let end = throttle.snapshot();
    assert_eq!((end.in_flight, end.waiting, end.behind), (0, 0, 0));
}

/// Waits for a slot and leaves it, or gives up on the way.
fn wait(throttle: &Arc<Throttle>, clock: &AtomicU64, behind: bool, gives_up: bool) {
    let mut waiter = Waiter::enter(throttle, behind, u64::from(behind));
    loop {
        let look = waiter.look(Duration::from_nanos(clock.load(Ordering::SeqCst)));
        if matches!(look, SlotDecision::Wait(_)) && gives_up && thread_rng().gen_bool(0.2) {
            return;
        }
        match look {
            SlotDecision::Granted => return drop(CallSlot::new(throttle, behind, 0)),
            SlotDecision::Wait(None) => future::block_on(waiter.turn.notified()),
            SlotDecision::Wait(Some(until)) => {
                thread::yield_now();
                // Unless it is woken before, the clock reaches that moment.
                if waiter.turn.notified().now_or_never().is_none() {
                    clock.fetch_max(until.as_nanos() as u64, Ordering::SeqCst);
                }
            }
        }
    }
}

#[test]
fn somebody_keeps_the_clock_in_any_interleaving() {
    // Enough behind that they go first, and so many that they don't.
    for (behind, most_behind) in
        [(&[false, true, true, true][..], 2), (&[false, false, true, true, true], 2), (&[false, true, true], 5)]
    {
        for gives_up in [false, true] {
            check_random(move || serve(behind, most_behind, gives_up), 1_000);
            check_pct(move || serve(behind, most_behind, gives_up), 500, 3);
        }
    }
}
