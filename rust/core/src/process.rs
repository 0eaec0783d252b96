//! What each process has for itself: a child of a fork begins anew.
//!
//! A thread that a fork leaves behind may have been in the middle of something, and a lock that
//! it held is never opened in the child. So the child makes a value of its own when it first asks,
//! and its parent's stays where it is: nobody can say who was in it.

use std::ptr;

use crate::sync::{AtomicPtr, Lifetime, Ordering};

/// A value for each process that asks for one, made when it first does and never freed.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    /// Of whoever was the last to ask for the first time: this process, or a parent of it.
    newest: AtomicPtr<Made<T>>,
}

#[derive(Debug)]
struct Made<T> {
    process: u64,
    value: T,
    lifetime: Lifetime,
}

impl<T> PerProcess<T> {
    /// None yet.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// See the other form: an atomic of loom's is made while its model runs.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

impl<T: Default + Send + Sync> PerProcess<T> {
    /// The value of `process`, which is the calling one: by a number that no parent of it has.
    pub(crate) fn of(&self, process: u64) -> &T {
        // Acquire, partner the exchange below: the value as it was made.
        let mut found = self.newest.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or made below and never freed.
            if let Some(made) = unsafe { found.as_ref() }
                && made.process == process
            {
                made.lifetime.used();
                return &made.value;
            }
            let new = Box::into_raw(Box::new(Made {
                process,
                value: T::default(),
                lifetime: Lifetime::new(),
            }));
            // Release, partner the load above and, on failure, Acquire here: the value.
            let placed =
                self.newest
                    .compare_exchange(found, new, Ordering::Release, Ordering::Acquire);
            match placed {
                Ok(_) => found = new,
                Err(other) => {
                    // SAFETY: made above, seen by nobody.
                    drop(unsafe { Box::from_raw(new) });
                    found = other;
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::{Mutex, OnceLock};

    #[test]
    fn a_child_has_its_own_and_a_lock_of_its_parent_bars_nobody() {
        static NUMBER: PerProcess<Mutex<u32>> = PerProcess::new();
        // Nobody frees it: it stays where who looks for leaks can see it.
        static PARENTS: OnceLock<&Mutex<u32>> = OnceLock::new();
        let held = PARENTS.get_or_init(|| NUMBER.of(1)).lock().unwrap();
        assert_eq!(*NUMBER.of(2).try_lock().unwrap(), 0);
        *NUMBER.of(2).lock().unwrap() = 7;
        assert_eq!(*NUMBER.of(2).lock().unwrap(), 7, "made once");
        drop(held);
    }
}
