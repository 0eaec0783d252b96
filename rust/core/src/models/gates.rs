//! The gate in front of each value that Python may look at.

use loom::sync::Arc;
use loom::thread;

use super::gate::Gated;
use super::{Payload, model};

#[test]
fn who_looks_sees_all_of_a_change() {
    model(|| {
        let gate = Arc::new(Gated::new(Payload::new()));
        let theirs = Arc::clone(&gate);
        let other = thread::spawn(move || {
            let inside = theirs.enter().expect("nobody takes it");
            inside.read();
        });
        // Or it is refused, while the other looks.
        let _ = gate.alter(|value| value.write());
        other.join().unwrap();
        gate.take().expect("nobody is inside").write();
    });
}

#[test]
fn every_look_is_over_before_the_value_is_taken() {
    model(|| {
        let gate = Arc::new(Gated::new(Payload::new()));
        let theirs = Arc::clone(&gate);
        let other = thread::spawn(move || {
            if let Ok(inside) = theirs.enter() {
                inside.read();
            }
        });
        if let Ok(value) = gate.take() {
            value.write();
        }
        other.join().unwrap();
    });
}
