//! What the tests of `mem` share: one instruction at a time, and counts.
#![allow(dead_code)] // each test file uses its own part

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod step;

/// `PAGEFRAG_STRESS` times `base`: how often a stress test repeats itself.
pub(crate) fn rounds(base: usize) -> usize {
    let factor = std::env::var("PAGEFRAG_STRESS")
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    // A count of repetitions: what is lost in the last digits is not missed.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let count = (base as f64 * factor.unwrap_or(1.0)) as usize;
    count.max(1)
}

/// A small generator, the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }
}
