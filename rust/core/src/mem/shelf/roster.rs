//! All shelves of a pool: kept for as long as the pool, and used again.

use std::ptr::{self, NonNull};

use super::Shelf;
use crate::sync::{AtomicPtr, Ordering};

/// All shelves of a pool, in use or not.
#[derive(Debug)]
pub(crate) struct Roster {
    first: AtomicPtr<Shelf>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self {
            first: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// A shelf for a new cache: one that was vacated, or a new one.
    pub(crate) fn take(&self) -> NonNull<Shelf> {
        for shelf in self.iter() {
            // Relaxed: a look before the locked instruction.
            if shelf.taken.load(Ordering::Relaxed) {
                continue;
            }
            // Acquire, partner `vacate`. Relaxed otherwise: not ours, go on.
            let taken =
                shelf
                    .taken
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                shelf.renew();
                return NonNull::from(shelf);
            }
        }
        let new = NonNull::from(Box::leak(Box::new(Shelf::new())));
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            // SAFETY: leaked above, freed only with the roster.
            unsafe { new.as_ref() }.next.store(first, Ordering::Relaxed);
            // Release, partner `iter`: the shelf's fields and its link.
            match self.first.compare_exchange_weak(
                first,
                new.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return new,
                Err(now) => first = now,
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Shelf> {
        // Acquire, partner `take`.
        let mut next = self.first.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: shelves are freed only with the roster.
            let shelf = unsafe { next.as_ref() }?;
            // Relaxed: written before the shelf was published.
            next = shelf.next.load(Ordering::Relaxed);
            Some(shelf)
        })
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        // Relaxed: the last handle of the pool is gone, and `Arc`'s own count has
        // ordered all that others did before that.
        let mut next = self.first.load(Ordering::Relaxed);
        while let Some(shelf) = NonNull::new(next) {
            // SAFETY: made by `Box::leak` in `take`; the roster is dropped
            // once, when nobody has the pool any more.
            let shelf = unsafe { Box::from_raw(shelf.as_ptr()) };
            next = shelf.next.load(Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::shelf::count;
    use crate::sync::OwnerU64;

    /// What a cache goes by when it begins.
    fn told(shelf: &Shelf) -> String {
        let numbers = [&shelf.debt, &shelf.pace, &shelf.small, &shelf.round_in];
        format!("{:?} {:?}", numbers.map(OwnerU64::get), shelf.counters)
    }

    #[test]
    fn a_shelf_that_is_taken_again_is_as_good_as_new() {
        let roster = Roster::new();
        let first = roster.take();
        // SAFETY: lives as long as the roster.
        let shelf = unsafe { first.as_ref() };
        let new = told(shelf);
        for cell in [&shelf.debt, &shelf.pace, &shelf.small, &shelf.round_in] {
            cell.set(7);
        }
        let counters = &shelf.counters;
        for counter in [
            &counters.refills,
            &counters.reuses,
            &counters.pages_taken,
            &counters.adopted,
            &counters.pages_given,
            &counters.orphaned,
            &counters.alloc_fail,
        ] {
            count(counter);
        }
        shelf.vacate();
        assert_eq!(roster.take(), first);
        assert_eq!(told(shelf), new);
    }
}
