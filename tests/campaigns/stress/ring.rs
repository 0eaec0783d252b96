//! One thread takes and fills, another compares and gives back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use pagefrag::{Granule, PageFragCache, PagePool, drop_many};

use super::parcel::{Noise, Parcel};
use super::{Budget, Told};

/// Eight batches of 64 make the 512 slots of the kernel's own test.
const BATCH: usize = 64;
const BATCHES: usize = 8;

/// Takes, as the kernel's test does: 75 bytes, as they come and aligned to
/// 64, and among them other sizes. Some die at home.
fn produce(
    pool: &PagePool,
    budget: Budget,
    out: &SyncSender<Vec<Parcel>>,
    empties: &Receiver<Vec<Parcel>>,
    damaged: &AtomicU64,
) -> u64 {
    let mut caches = [Granule::Line, Granule::Byte].map(|g| PageFragCache::with_granule(pool, g));
    let mut noise = Noise::new(1);
    let mut done = 0;
    while budget.is_left(done) {
        let mut batch = empties.try_recv().unwrap_or_default();
        let cache = &mut caches[noise.below(2)];
        for _ in 0..BATCH {
            let taken = match noise.below(4) {
                0 => cache.alloc(noise.size(32 * 1024)),
                1 => cache.alloc_align(75, 64),
                _ => cache.alloc(75),
            };
            let Ok(frag) = taken else { continue };
            done += 1;
            let parcel = Parcel::pack(frag, done);
            if noise.below(16) == 0 {
                drop(parcel.unpack(damaged));
            } else {
                batch.push(parcel);
            }
        }
        if out.send(batch).is_err() {
            break;
        }
    }
    done
}

fn consume(from: &Receiver<Vec<Parcel>>, empties: &SyncSender<Vec<Parcel>>, damaged: &AtomicU64) {
    let mut noise = Noise::new(2);
    let mut kept = Vec::new();
    for mut batch in from {
        if noise.below(2) == 0 {
            drop_many(batch.drain(..).map(|parcel| parcel.unpack(damaged)));
        }
        for parcel in batch.drain(..) {
            match noise.below(128) {
                0 => kept.push(parcel),
                1 => drop(parcel.share().unpack(damaged)),
                _ => drop(parcel.unpack(damaged)),
            }
        }
        if kept.len() > 10_000 {
            drop_many(kept.drain(..).map(|parcel| parcel.unpack(damaged)));
        }
        // When nobody takes empties, this one is the allocator's.
        let _ = empties.try_send(batch);
    }
    drop_many(kept.into_iter().map(|parcel| parcel.unpack(damaged)));
}

pub(crate) fn run(pool: &PagePool, budget: Budget) -> Told {
    let damaged = AtomicU64::new(0);
    let (out, from) = sync_channel(BATCHES);
    let (back, empties) = sync_channel(BATCHES);
    let amount = thread::scope(|scope| {
        let damaged = &damaged;
        scope.spawn(move || consume(&from, &back, damaged));
        let amount = produce(pool, budget, &out, &empties, damaged);
        drop(out); // with it the consumer ends
        amount
    });
    Told {
        amount,
        unit: "allocations",
        damaged: damaged.load(Ordering::Relaxed),
    }
}
