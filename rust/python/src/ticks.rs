//! One in so many: a countdown that is met at random, so that what repeats is met too.
//!
//! A countdown from a fixed number would see the same kind of allocation each time in a program that
//! makes them in turn. This one starts anywhere between 0 and twice the number, and is over below 0:
//! the sign is what a processor knows of a number that it has just counted down in memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::prelude::*;

/// The largest number that can be asked for.
pub(crate) const RAREST: u32 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ticks {
    left: AtomicU32,
    /// 0: never.
    every: u32,
}

impl Ticks {
    /// One in `every`, which is at most `RAREST`; none for 0.
    pub(crate) fn of(every: u32) -> Self {
        let left = AtomicU32::new(distance(every));
        Self { left, every }
    }

    /// Counts one. True says to ask `is_it`, and no more: that keeps two instructions for the others,
    /// a decrement in memory and a jump.
    ///
    /// # Safety
    /// - The interpreter is attached.
    #[inline]
    #[cfg(not(Py_GIL_DISABLED))]
    pub(crate) unsafe fn is_over(&self) -> bool {
        // SAFETY: whoever counts is attached, here and below: with a global lock one thread at a
        // time. Not as an atomic, which the compiler would load, count and store.
        let left = unsafe { &mut *self.left.as_ptr() };
        *left = left.wrapping_sub(1);
        left.cast_signed() < 0
    }

    /// The same without a global lock.
    ///
    /// # Safety
    /// - As there.
    #[inline]
    #[cfg(Py_GIL_DISABLED)]
    pub(crate) unsafe fn is_over(&self) -> bool {
        // Relaxed, a load and a store: two threads that count at once count one, or one of them
        // counts on from what the other has ended.
        let left = self.left.load(Ordering::Relaxed).wrapping_sub(1);
        self.left.store(left, Ordering::Relaxed);
        left.cast_signed() < 0
    }

    /// Starts anew after a countdown; whether the one that ended it is to be noted.
    ///
    /// # Safety
    /// - The interpreter is attached.
    #[cold]
    pub(crate) unsafe fn is_it(&self) -> bool {
        // Relaxed: nobody else counts, or as above.
        self.left.store(distance(self.every), Ordering::Relaxed);
        self.every != 0
    }

    /// Counts one; whether it is to be noted.
    pub(crate) fn tick(&self, _py: Python<'_>) -> bool {
        // SAFETY: `_py` says so.
        let is_over = unsafe { self.is_over() };
        // SAFETY: as above.
        is_over && unsafe { self.is_it() }
    }
}

/// How many go before the next one: one less than `every` on average.
fn distance(every: u32) -> u32 {
    match every {
        0 => i32::MAX.cast_unsigned(),
        1 => 0,
        // Below twice `RAREST`, which an i32 holds.
        _ => chance() % (2 * every - 1),
    }
}

/// A number at random: a step of splitmix64.
fn chance() -> u32 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    static STATE: AtomicU64 = AtomicU64::new(0);
    // Relaxed: a number of its own for each, and nothing else.
    let mut word = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((word ^ (word >> 31)) >> 32).unwrap_or(0)
}
