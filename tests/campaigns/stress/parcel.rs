//! A fragment that says what it should contain.

use std::sync::atomic::{AtomicU64, Ordering};

use pagefrag::{Frag, FragMut};
use pagefrag_tests::{fill, first_damage};

/// A generator of numbers, the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap_or(0)
    }

    /// A size as packets have it: mostly small, now and then a large one.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        match self.below(64) {
            0 => 1 + self.below(most),
            1..=15 => 1 + self.below(2048.min(most)),
            16..=31 => 64,
            _ => 1 + self.below(200.min(most)),
        }
    }
}

/// A fragment full of its pattern.
#[derive(Debug)]
pub(crate) struct Parcel {
    frag: Frag,
    seed: u64,
}

impl Parcel {
    /// Fills `frag` with the pattern of `seed`, which no other living one has.
    pub(crate) fn pack(mut frag: FragMut, seed: u64) -> Self {
        fill(&mut frag, seed);
        Self::found(frag, seed)
    }

    /// Takes it that `frag` is full of the pattern of `seed`.
    pub(crate) fn found(frag: FragMut, seed: u64) -> Self {
        Self {
            frag: frag.freeze(),
            seed,
        }
    }

    /// Another handle of the same bytes.
    pub(crate) fn share(&self) -> Self {
        Self {
            frag: self.frag.clone(),
            seed: self.seed,
        }
    }

    /// Compares the bytes, and gives the fragment to whoever frees it.
    pub(crate) fn unpack(self, damaged: &AtomicU64) -> Frag {
        if first_damage(&self.frag, self.seed).is_some() {
            // A tally that is read when all threads have ended.
            damaged.fetch_add(1, Ordering::Relaxed);
        }
        self.frag
    }
}
