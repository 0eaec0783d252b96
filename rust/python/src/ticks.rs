//! One in so many: a countdown that is met at random, so that what repeats is met too.
//!
//! A countdown from a fixed number would see the same kind of allocation each time in a program that
//! makes them in turn. This one starts anywhere between 1 and twice the number.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

    /// Counts one. True says to ask `is_it`, and no more: that keeps four instructions for the others.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        // Relaxed, a load and a store: two threads that count at once count one, or one of them
        // counts on from what the other has ended. Below 0 is over, too.
        let left = self.left.load(Ordering::Relaxed).wrapping_sub(1);
        self.left.store(left, Ordering::Relaxed);
        left.cast_signed() <= 0
    }

    /// Starts anew after a countdown; whether the one that ended it is to be noted.
    #[cold]
    pub(crate) fn is_it(&self) -> bool {
        // Relaxed: as above.
        self.left.store(distance(self.every), Ordering::Relaxed);
        self.every != 0
    }

    /// Counts one; whether it is to be noted.
    pub(crate) fn tick(&self) -> bool {
        self.is_over() && self.is_it()
    }
}

/// How far the next one is: `every` on average.
fn distance(every: u32) -> u32 {
    match every {
        0 => i32::MAX.cast_unsigned(),
        1 => 1,
        // Below twice `RAREST`, which an i32 holds.
        _ => 1 + chance() % (2 * every - 1),
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
