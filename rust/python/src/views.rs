//! How many look at a value that lies behind a lock of its own, for longer than they hold the lock.
//!
//! Who begins to look holds the lock, who ends does not. So one who holds the lock and finds that
//! nobody looks is alone with the value: nobody begins meanwhile, and of those who have looked
//! everything is over.

// The core's models run this file too (`models/exports.rs`).
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of views.
#[derive(Debug)]
pub(crate) struct Views(AtomicUsize);

impl Views {
    /// Nobody looks.
    pub(crate) fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// One more looks at `_locked`, which the lock has lent: it stays as it is until the `end`.
    pub(crate) fn begin<T: ?Sized>(&self, _locked: &mut T) {
        // Relaxed: the lock hands it to whoever asks next.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less looks, on any thread; once for each `begin`.
    pub(crate) fn end(&self) {
        // Release, partner `over`: all that was done through the view.
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Has everybody who looked at `_locked`, which the lock has lent, come to an end? If not, how
    /// many look.
    pub(crate) fn over<T>(&self, _locked: &T) -> Result<(), usize> {
        // Acquire, partner `end`: what was written through the views is in the value.
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            views => Err(views),
        }
    }

    /// How many look, to be printed.
    pub(crate) fn number(&self) -> usize {
        // Relaxed: nothing is read because of it.
        self.0.load(Ordering::Relaxed)
    }
}
