//! Threads that end, and whose fragments outlive them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pagefrag::{Granule, LocalCache, PagePool, drop_many};

use super::parcel::{Noise, Parcel};
use super::{Budget, Told};

/// Fragments that a thread leaves behind.
const LEFT: usize = 4;
/// How many of them wait for their end, so that they outlive many threads.
const WAITING: usize = 4096;

/// A thread's life: it takes some, frees some, and leaves the rest.
fn live(cache: &LocalCache, seed: u64, damaged: &AtomicU64) -> Vec<Parcel> {
    let mut noise = Noise::new(seed);
    let mut left = Vec::with_capacity(LEFT);
    for number in 0..2 * LEFT as u64 {
        let Ok(frag) = cache.alloc(noise.size(4096)) else {
            continue;
        };
        let parcel = Parcel::pack(frag, seed << 8 | number);
        if number % 2 == 0 {
            left.push(parcel);
        } else {
            drop(parcel.unpack(damaged));
        }
    }
    left
}

pub(crate) fn run(pool: &PagePool, budget: Budget) -> Told {
    let damaged = AtomicU64::new(0);
    let cache = LocalCache::new(pool, Granule::Line);
    let mut waiting: VecDeque<Parcel> = VecDeque::new();
    let mut amount = 0;
    while budget.is_left(amount) {
        // Two at a time, so that lives overlap.
        thread::scope(|scope| {
            let (cache, damaged) = (&cache, &damaged);
            let both = [amount, amount + 1]
                .map(|seed| scope.spawn(move || live(cache, seed + 1, damaged)));
            for thread in both {
                match thread.join() {
                    Ok(left) => waiting.extend(left),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        amount += 2;
        if waiting.len() > WAITING {
            let old = waiting.drain(..WAITING / 2);
            drop_many(old.map(|parcel| parcel.unpack(&damaged)));
        }
    }
    drop_many(waiting.into_iter().map(|parcel| parcel.unpack(&damaged)));
    drop(cache);
    Told {
        amount,
        unit: "threads, four fragments of each outlived it",
        damaged: damaged.load(Ordering::Relaxed),
    }
}
