//! The gate in front of each value that Python may look at (`gate.rs` of the binding), by threads
//! that run at once. In the module only an interpreter without a global lock has such threads.

#[allow(dead_code, reason = "the binding uses the rest")]
#[path = "../../rust/python/src/gate.rs"]
mod gate;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use gate::{Gated, Inside, Refusal};

const CHANGES: u64 = 100;

/// Goes in to look. Whoever is inside is counted: one who is not has got past somebody who alters,
/// and stays, since nobody expects it to leave. So a gate that lets two in is found by the first who
/// is not counted, and leaves nobody waiting for a word that never comes.
fn look<T>(gate: &Gated<T>) -> Result<Inside<'_, T>, Refusal> {
    let inside = gate.enter()?;
    if gate.inside() == 0 {
        inside.stay();
        panic!("inside, and not counted");
    }
    Ok(inside)
}

/// Tells others that it is over, also when it ends in a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_looks_waits_for_who_alters() {
    let gate = Gated::new([0, 0]);
    let done = AtomicBool::new(false);
    let looks = AtomicUsize::new(0);
    let changes = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let seen = look(&gate).map(|value| *value).expect("nobody takes it");
                assert_eq!(seen[0], seen[1], "in the middle of a change");
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let over = Over(&done);
        let mut changes = 0;
        // Until the other has come to look, however late it starts.
        let enough = |changes| changes >= CHANGES && looks.load(Ordering::Relaxed) > 0;
        while !enough(changes) && !looking.is_finished() {
            let change = |value: &mut [u64; 2]| {
                value[0] += 1;
                // Here, if ever, the other gets in.
                thread::yield_now();
                value[1] += 1;
            };
            match gate.alter(change) {
                Ok(()) => changes += 1,
                Err(refusal) => assert_eq!(refusal, Refusal::Occupied(1)),
            }
        }
        drop(over);
        looking.join().expect("it saw whole values only");
        changes
    });
    assert_eq!(gate.inside(), 0, "all have left");
    assert_eq!(gate.take(), Ok([changes; 2]));
}

#[test]
fn of_many_who_take_one_gets_it_and_nobody_looks_afterwards() {
    for _ in 0..50 {
        let gate = Gated::new(String::from("the value"));
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        match gate.take() {
                            Ok(value) => {
                                assert_eq!(value, "the value");
                                taken.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(Refusal::Occupied(_)) => continue,
                            Err(Refusal::Shut) => {}
                        }
                        break;
                    }
                });
            }
            while let Ok(value) = look(&gate) {
                assert_eq!(*value, "the value");
            }
        });
        assert_eq!(taken.into_inner(), 1);
        assert_eq!(gate.enter().err(), Some(Refusal::Shut));
    }
}

#[test]
fn while_somebody_stays_inside_nothing_changes() {
    let gate = Gated::new(7);
    gate.enter().unwrap().stay();
    assert_eq!(gate.alter(|value| *value += 1), Err(Refusal::Occupied(1)));
    assert_eq!(gate.take(), Err(Refusal::Occupied(1)));
    // SAFETY: the one call for the `stay` above.
    unsafe { gate.leave() };
    assert_eq!(gate.take_if(|_| false), Ok(None), "it stays open");
    assert_eq!(gate.take(), Ok(7));
}
