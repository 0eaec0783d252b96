//! Threads that receive or send on one ring: one at a time, and the next sees what the last did.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::turn::Turn;
use super::{Payload, model};

struct Ring {
    busy: AtomicU64,
    core: Payload,
}

impl Ring {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            busy: AtomicU64::new(0),
            core: Payload::new(),
        })
    }

    /// Receives, if nobody else does.
    fn receive(&self) -> bool {
        let turn = Turn::take(&self.busy, 1);
        if turn.is_some() {
            self.core.write();
        }
        turn.is_some()
    }
}

#[test]
fn two_threads_receive_on_one_ring() {
    model(|| {
        let ring = Ring::new();
        let theirs = Arc::clone(&ring);
        let other = thread::spawn(move || theirs.receive());
        let mine = ring.receive();
        assert!(mine || other.join().unwrap(), "nobody was first");
    });
}

#[test]
fn a_turn_that_is_over_is_over() {
    model(|| {
        let ring = Ring::new();
        let theirs = Arc::clone(&ring);
        let other = thread::spawn(move || theirs.receive());
        ring.receive();
        other.join().unwrap();
        assert!(ring.receive(), "one of them has kept it");
    });
}
