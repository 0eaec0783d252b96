//! How much memory do a few long-lived buffers keep from being used again?
//!
//! R6: held / live in the two mixes of the workload table, and what an
//! operation costs, beside a scheme that uses a page again only when all of
//! it is dead; then 64 bytes that live long among buffers of many sizes, freed
//! here and elsewhere. A plain program: the answer is a table, not a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagefrag::{PageFragCache, PagePool};
use pagefrag_benches::elsewhere::Elsewhere;
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::record::{self, NANOSECONDS, Row};
use pagefrag_benches::workload::{
    Dice, Freed, MIXES, Mix, PAGE, SURVIVED, Spread, survivors_among,
};

/// Allocations of a run of the two mixes, and of one with survivors.
const ALLOCATIONS: usize = 3_000_000;
const SURVIVORS: usize = 500_000;

/// Allocations between two looks at the memory: no divisor of a batch, so that
/// the looks fall before, between and after what is freed elsewhere.
const LOOK_EVERY: usize = 9_973;

fn main() {
    println!("{}", machine::describe());
    machine::pin_to(0);
    println!("held / live of the second half of a run: mean, most, and most held / most live\n");
    let mut rows = Vec::new();
    for mix in MIXES {
        println!("{}", mix.name);
        for (spread, told) in [(Spread::Even, "evenly"), (Spread::Chance, "by chance")] {
            let work = Work {
                mix,
                spread,
                freed: Freed::Here,
                allocations: ALLOCATIONS,
            };
            rows.extend(compare(&work, mix.name, told));
        }
        println!();
    }
    println!("1 in 100 is 64 B and lives for 100,000 more; 64 others in flight");
    for short_size in SURVIVED {
        for freed in [
            Freed::Here,
            Freed::Both,
            Freed::There(64),
            Freed::There(512),
        ] {
            let work = Work {
                mix: survivors_among(short_size),
                spread: Spread::Even,
                freed,
                allocations: SURVIVORS,
            };
            let told = format!("{short_size} B, {}", freed.name());
            rows.extend(compare(&work, work.mix.name, &told));
        }
    }
    record::keep("pinning", rows);
}

/// What a run does.
struct Work {
    mix: Mix,
    spread: Spread,
    freed: Freed,
    allocations: usize,
}

fn compare(work: &Work, group: &str, told: &str) -> [Row; 2] {
    let whole = run(work, &mut Whole(KernelCache::new()));
    let holes = run(work, &mut Holes::new());
    [("whole-page reuse", whole), ("pagefrag", holes)].map(|(name, outcome)| {
        print_row(told, name, &outcome);
        Row::new(group, name, told)
            .with("held_live_mean", outcome.mean)
            .with("held_live_most", outcome.most)
            .with("held_live_peaks", outcome.peaks)
            .with(NANOSECONDS, outcome.nanoseconds)
    })
}

fn print_row(told: &str, name: &str, outcome: &Outcome) {
    let Outcome {
        mean,
        most,
        peaks,
        nanoseconds,
        held_mib,
    } = outcome;
    println!(
        "  {told:<38} {name:<17} {mean:>7.2} {most:>8.2} {peaks:>7.2}  {nanoseconds:>6.1} ns per \
         operation  {held_mib:>6.1} MiB held"
    );
}

struct Outcome {
    mean: f64,
    most: f64,
    peaks: f64,
    nanoseconds: f64,
    held_mib: f64,
}

/// What the mixes run against.
trait Subject {
    type Buffer;
    fn take(&mut self, size: usize) -> Self::Buffer;
    fn held_bytes(&self) -> u64;
}

struct Whole(KernelCache);

impl Subject for Whole {
    type Buffer = pagefrag_benches::kernel::KernelFrag;

    #[inline]
    fn take(&mut self, size: usize) -> Self::Buffer {
        let mut buffer = self.0.alloc(size);
        buffer.touch();
        buffer
    }

    fn held_bytes(&self) -> u64 {
        self.0.held_bytes() as u64
    }
}

struct Holes {
    cache: PageFragCache,
    pool: PagePool,
}

impl Holes {
    fn new() -> Self {
        let pool = PagePool::new(PAGE).expect("a valid page size");
        Self {
            cache: PageFragCache::new(&pool),
            pool,
        }
    }
}

impl Subject for Holes {
    type Buffer = pagefrag::FragMut;

    #[inline]
    fn take(&mut self, size: usize) -> Self::Buffer {
        let mut buffer = self.cache.alloc(size).expect("the pool has no limit");
        buffer[0] = 1;
        buffer
    }

    fn held_bytes(&self) -> u64 {
        self.pool.stats().held_bytes
    }
}

/// Does `work` and looks at the memory now and then, off the clock. What waits
/// to be freed elsewhere is alive.
fn run<S: Subject>(work: &Work, subject: &mut S) -> Outcome
where
    S::Buffer: Send + 'static,
{
    let Work { mix, freed, .. } = work;
    let marks = mix.long_lived(work.spread, work.allocations);
    let mut free = Free {
        of_two: freed.of_two(),
        dice: Dice::new(0xF4EE),
        elsewhere: Elsewhere::new(freed.batch()),
    };
    let mut short = VecDeque::with_capacity(mix.in_flight + 1);
    let mut long = VecDeque::new();
    let mut busy = Duration::ZERO;
    let mut looks = Vec::new();
    for (turn, slice) in marks.chunks(LOOK_EVERY).enumerate() {
        let start = Instant::now();
        for (step, &lives_long) in slice.iter().enumerate() {
            let now = turn * LOOK_EVERY + step;
            while long.front().is_some_and(|&(until, _)| until <= now) {
                let (_, buffer) = long.pop_front().expect("just seen");
                free.give(buffer, mix.long_size);
            }
            if lives_long {
                long.push_back((now + mix.long_life, subject.take(mix.long_size)));
                continue;
            }
            short.push_back(subject.take(mix.short_size));
            if short.len() > mix.in_flight {
                let buffer = short.pop_front().expect("more than none");
                free.give(buffer, mix.short_size);
            }
        }
        busy += start.elapsed();
        let live = short.len() * mix.short_size + long.len() * mix.long_size;
        looks.push((subject.held_bytes(), (live + free.waiting()) as u64));
    }
    busy -= free.elsewhere.waited();
    summarise(&looks[looks.len() / 2..], busy, work.allocations)
}

/// Frees here or elsewhere, as the dice say.
struct Free<B> {
    of_two: usize,
    dice: Dice,
    elsewhere: Elsewhere<(B, usize)>,
}

impl<B: Send + 'static> Free<B> {
    #[inline]
    fn give(&mut self, buffer: B, size: usize) {
        if self.of_two != 0 && self.dice.below(2) < self.of_two {
            self.elsewhere.free((buffer, size));
        }
    }

    /// Bytes that wait to be freed elsewhere.
    fn waiting(&self) -> usize {
        self.elsewhere.waiting().iter().map(|waits| waits.1).sum()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people, far below 2^52"
)]
fn summarise(looks: &[(u64, u64)], busy: Duration, allocations: usize) -> Outcome {
    let ratios: Vec<f64> = looks
        .iter()
        .map(|&(held, live)| held as f64 / live as f64)
        .collect();
    let most_held = looks.iter().map(|look| look.0).max().unwrap_or(0);
    let most_live = looks.iter().map(|look| look.1).max().unwrap_or(1);
    let held = looks.last().map_or(0, |look| look.0);
    Outcome {
        mean: ratios.iter().sum::<f64>() / ratios.len() as f64,
        most: ratios.iter().copied().fold(0.0, f64::max),
        peaks: most_held as f64 / most_live as f64,
        nanoseconds: busy.as_secs_f64() * 1e9 / allocations as f64,
        held_mib: held as f64 / f64::from(1 << 20),
    }
}
