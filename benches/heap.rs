//! How often a general allocator is called: the benches' global allocator
//! counts while it is told to, and otherwise is glibc's with one look at a
//! flag that nobody writes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// One more call, if calls are being counted.
#[inline]
pub fn note() {
    // Relaxed, both: a count only, read when the threads that bump it ended.
    if COUNTING.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Begins to count anew.
pub fn count() {
    // Relaxed, both: threads that allocate are started afterwards.
    CALLS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
}

/// Stops counting and tells how many there were.
pub fn counted() -> u64 {
    // Relaxed, both: threads that allocated were joined before.
    COUNTING.store(false, Ordering::Relaxed);
    CALLS.load(Ordering::Relaxed)
}

struct Noted;

// SAFETY: every call is handed on unchanged to glibc's allocator.
unsafe impl GlobalAlloc for Noted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(ptr, layout) };
    }
}

#[global_allocator]
static GLOBAL: Noted = Noted;

#[cfg(test)]
mod tests {
    #[test]
    fn a_call_is_counted_while_it_is_told_to() {
        super::count();
        drop(std::hint::black_box(Box::new(7_u64)));
        assert!(super::counted() >= 2, "taken and given back");
    }
}
