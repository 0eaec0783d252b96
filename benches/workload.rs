//! The requests: which sizes, in which order, and how long each one lives.

/// Sizes of the pair bench (R1), in bytes, and a jumbo frame.
pub const PAIR_SIZES: [usize; 5] = [64, 256, 1500, 2048, 9000];

/// Live buffers of the first-in-first-out bench (R3).
pub const WINDOWS: [usize; 3] = [32, 256, 4096];

/// Packets of a poll: the kernel's budget.
pub const POLL: usize = 64;

/// The simple Internet mix: bytes, and how many in twelve.
pub const IMIX: [(usize, usize); 3] = [(64, 7), (576, 4), (1500, 1)];

/// Sizes of the hand-off bench (R4), in bytes: the kernel's own test.
pub const HANDOFF_SIZES: [usize; 4] = [12, 75, 1500, 2048];

/// Slots of the ring of the hand-off bench.
pub const HANDOFF_SLOTS: usize = 512;

/// Bytes of a cache line, which every machine here has.
pub const LINE: usize = 64;

/// Bytes of a page in every arm that has pages.
pub const PAGE: usize = 32 * 1024;

/// A mix in which a few allocations live long among many that do not.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// What it is.
    pub name: &'static str,
    /// What tables call it.
    pub short_name: &'static str,
    /// One allocation in so many lives long.
    pub one_in: usize,
    /// Its size in bytes.
    pub long_size: usize,
    /// How many further allocations it lives for.
    pub long_life: usize,
    /// Size of all the others, in bytes.
    pub short_size: usize,
    /// How many of the others are in flight.
    pub in_flight: usize,
}

/// The two mixes of the pinning bench (R6).
pub const MIXES: [Mix; 2] = [
    Mix {
        name: "1 in 100 is 64 B and lives for 100,000 more; the rest 1500 B, 64 in flight",
        short_name: "64 B",
        one_in: 100,
        long_size: 64,
        long_life: 100_000,
        short_size: 1500,
        in_flight: 64,
    },
    Mix {
        name: "1 in 20 is 2 KiB and lives for 100,000 more; the rest 1500 B, 64 in flight",
        short_name: "2 KiB",
        one_in: 20,
        long_size: 2048,
        long_life: 100_000,
        short_size: 1500,
        in_flight: 64,
    },
];

/// Sizes of what is short-lived where 64 bytes in a hundred live long.
pub const SURVIVED: [usize; 8] = [256, 1500, 2048, 4096, 9000, 12_000, 16 * 1024, 32 * 1024];

/// The mix of [`SURVIVED`] with one of its sizes.
#[must_use]
pub fn survivors_among(short_size: usize) -> Mix {
    Mix {
        name: "1 in 100 is 64 B and lives for 100,000 more; 64 others in flight",
        short_size,
        ..MIXES[0]
    }
}

/// Who frees what a mix takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// The thread that took it.
    Here,
    /// That thread or another, each with the same chance.
    Both,
    /// Another thread, so many at a time.
    There(usize),
}

impl Freed {
    /// What the tables call it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Here => "freed here".into(),
            Self::Both => "half freed elsewhere".into(),
            Self::There(batch) => format!("freed elsewhere, {batch} at a time"),
        }
    }

    /// Of two frees, how many happen elsewhere.
    #[must_use]
    pub fn of_two(self) -> usize {
        match self {
            Self::Here => 0,
            Self::Both => 1,
            Self::There(_) => 2,
        }
    }

    /// Buffers that are freed elsewhere at a time.
    #[must_use]
    pub fn batch(self) -> usize {
        match self {
            Self::There(batch) => batch,
            Self::Here | Self::Both => 64,
        }
    }
}

/// How the long-lived allocations of a mix are spread among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// At equal distances: hardly a page is spared.
    Even,
    /// Each with the same chance, the same ones in every arm and every run.
    Chance,
}

impl Mix {
    /// Which of `allocations` allocations live long.
    #[must_use]
    pub fn long_lived(&self, spread: Spread, allocations: usize) -> Vec<bool> {
        let mut dice = Dice::new(0x5EED);
        (0..allocations)
            .map(|index| match spread {
                Spread::Even => index % self.one_in == 0,
                Spread::Chance => dice.below(self.one_in) == 0,
            })
            .collect()
    }
}

/// `count` sizes of [`IMIX`] in a fixed random order, each as often as its
/// share says.
#[must_use]
pub fn imix(count: usize) -> Vec<usize> {
    let mut dice = Dice::new(0x1317);
    let all: usize = IMIX.iter().map(|&(_, share)| share).sum();
    let one = |_| {
        let mut left = dice.below(all);
        let mut sizes = IMIX.iter();
        let fits = |&&(_, share): &&(usize, usize)| {
            let here = left < share;
            left = left.saturating_sub(share);
            here
        };
        sizes.find(fits).map_or(0, |&(size, _)| size)
    };
    (0..count).map(one).collect()
}

/// The numbers below `count` in a fixed random order.
#[must_use]
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut dice = Dice::new(0x0DE6);
    let mut order: Vec<_> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, dice.below(last + 1));
    }
    order
}

/// Numbers with a fixed seed (`SplitMix64`).
#[derive(Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number below `bound`.
    ///
    /// # Panics
    ///
    /// When `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::{MIXES, Spread, imix, shuffled};

    #[test]
    fn the_internet_mix_keeps_its_shares_and_an_order_each_number() {
        let sizes = imix(12_000);
        for (size, share) in super::IMIX {
            let found = sizes.iter().filter(|&&each| each == size).count();
            assert!(found.abs_diff(share * 1000) < 300, "{found} of {size}");
        }
        let mut order = shuffled(64);
        assert_ne!(order[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..64));
    }

    #[test]
    fn a_mix_is_the_same_each_time_and_as_dense_as_it_says() {
        for mix in MIXES {
            let expected = 100_000 / mix.one_in;
            for spread in [Spread::Even, Spread::Chance] {
                let marks = mix.long_lived(spread, 100_000);
                assert_eq!(marks, mix.long_lived(spread, 100_000));
                let long = marks.iter().filter(|&&long| long).count();
                assert!(
                    long.abs_diff(expected) < expected / 5,
                    "{long} of {expected}"
                );
            }
        }
    }
}
