//! How much memory do a few long-lived buffers keep from being used again?
//!
//! R6: held / live in the two mixes of the workload table, and what an
//! operation costs, beside a scheme that uses a page again only when all of
//! it is dead. A plain program: the answer is a table, not a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagefrag::{PageFragCache, PagePool};
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::workload::{MIXES, Mix, PAGE, Spread};

/// Allocations of a run.
const ALLOCATIONS: usize = 3_000_000;

/// Allocations between two looks at the memory.
const LOOK_EVERY: usize = 10_000;

fn main() {
    println!("{}", machine::describe());
    machine::pin_to(0);
    println!("{ALLOCATIONS} allocations a run; held / live as mean and most of the second half\n");
    for mix in MIXES {
        println!("{}", mix.name);
        for (spread, told) in [(Spread::Even, "evenly"), (Spread::Chance, "by chance")] {
            let whole = run(&mix, spread, &mut Whole(KernelCache::new()));
            let holes = run(&mix, spread, &mut Holes::new());
            print_row(told, "whole-page reuse", &whole);
            print_row(told, "pagefrag", &holes);
        }
        println!();
    }
}

fn print_row(spread: &str, name: &str, outcome: &Outcome) {
    let Outcome {
        mean,
        most,
        nanoseconds,
        held_mib,
    } = outcome;
    println!(
        "  {spread:<9}  {name:<16}  held / live {mean:>7.2} mean {most:>7.2} most  \
         {nanoseconds:>6.1} ns per operation  {held_mib:>6.1} MiB held"
    );
}

struct Outcome {
    mean: f64,
    most: f64,
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

/// Runs `mix` and looks at the memory now and then, off the clock.
fn run<S: Subject>(mix: &Mix, spread: Spread, subject: &mut S) -> Outcome {
    let marks = mix.long_lived(spread, ALLOCATIONS);
    let mut short = VecDeque::with_capacity(mix.in_flight + 1);
    let mut long = VecDeque::new();
    let mut busy = Duration::ZERO;
    let mut looks = Vec::new();
    for (turn, slice) in marks.chunks(LOOK_EVERY).enumerate() {
        let start = Instant::now();
        for (step, &lives_long) in slice.iter().enumerate() {
            let now = turn * LOOK_EVERY + step;
            while long.front().is_some_and(|&(until, _)| until <= now) {
                long.pop_front();
            }
            if lives_long {
                long.push_back((now + mix.long_life, subject.take(mix.long_size)));
                continue;
            }
            short.push_back(subject.take(mix.short_size));
            if short.len() > mix.in_flight {
                short.pop_front();
            }
        }
        busy += start.elapsed();
        let live = short.len() * mix.short_size + long.len() * mix.long_size;
        looks.push((subject.held_bytes(), live as u64));
    }
    summarise(&looks[looks.len() / 2..], busy)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people, far below 2^52"
)]
fn summarise(looks: &[(u64, u64)], busy: Duration) -> Outcome {
    let ratios: Vec<f64> = looks
        .iter()
        .map(|&(held, live)| held as f64 / live as f64)
        .collect();
    let held = looks.last().map_or(0, |look| look.0);
    Outcome {
        mean: ratios.iter().sum::<f64>() / ratios.len() as f64,
        most: ratios.iter().copied().fold(0.0, f64::max),
        nanoseconds: busy.as_secs_f64() * 1e9 / ALLOCATIONS as f64,
        held_mib: held as f64 / f64::from(1 << 20),
    }
}
