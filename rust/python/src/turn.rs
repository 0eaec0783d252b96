//! Whose turn it is to receive or send on a ring: one thread's at a time, in each process.

// The core's models run this file too (`models/turns.rs`).
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// The right to receive or send; ends when dropped.
pub(crate) struct Turn<'a> {
    busy: &'a AtomicU64,
    process: u64,
}

impl<'a> Turn<'a> {
    /// `None` while another thread of this `process` has it. `busy` is the process whose turn it
    /// is: if another one, a fork left its thread behind.
    pub(crate) fn take(busy: &'a AtomicU64, process: u64) -> Option<Self> {
        let mut now = busy.load(Ordering::Relaxed);
        while now != process {
            // Acquire: partner of the Release in `Turn::drop`.
            match busy.compare_exchange(now, process, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Self { busy, process }),
                Err(found) => now = found,
            }
        }
        None
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Release: partner of the Acquire in `take`. A fork by a signal handler of ours
        // may have given the turn to another thread of the child: then it is not ours to end.
        let _ = self
            .busy
            .compare_exchange(self.process, 0, Ordering::Release, Ordering::Relaxed);
    }
}
