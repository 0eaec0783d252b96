//! Many threads that swap survivors through one table, and end often.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pagefrag::{Granule, LocalCache, PagePool};

use super::parcel::{Noise, Parcel};
use super::{Budget, Told};

const THREADS: u64 = 32;
/// Places of the table, far more than threads: most swaps meet nobody.
const PLACES: usize = 4096;
/// Allocations of one life.
const LIFE: u64 = 5_000;

type Table = Vec<Mutex<Option<Parcel>>>;

fn live(cache: &LocalCache, table: &Table, seed: u64, damaged: &AtomicU64) -> u64 {
    let mut noise = Noise::new(seed);
    let mut own: Vec<Parcel> = Vec::new();
    let mut done = 0;
    for number in 0..LIFE {
        if let Ok(frag) = cache.alloc(noise.size(32 * 1024)) {
            done += 1;
            own.push(Parcel::pack(frag, seed << 16 | number));
        }
        if own.len() > 32 {
            let at = noise.below(own.len());
            drop(own.swap_remove(at).unpack(damaged));
        }
        if noise.below(4) == 0 {
            let given = own.pop();
            let place = &table[noise.below(PLACES)];
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = std::mem::replace(&mut *place, given);
            drop(place);
            own.extend(taken);
        }
    }
    for parcel in own {
        drop(parcel.unpack(damaged));
    }
    done
}

pub(crate) fn run(pool: &PagePool, budget: Budget) -> Told {
    let damaged = AtomicU64::new(0);
    let total = AtomicU64::new(0);
    let lives = AtomicU64::new(0);
    let cache = LocalCache::new(pool, Granule::Line);
    let table: Table = (0..PLACES).map(|_| Mutex::default()).collect();
    while budget.is_left(total.load(Ordering::Relaxed)) {
        thread::scope(|scope| {
            let threads = (0..THREADS).map(|_| {
                scope.spawn(|| {
                    let seed = lives.fetch_add(1, Ordering::Relaxed) + 1;
                    let done = live(&cache, &table, seed, &damaged);
                    total.fetch_add(done, Ordering::Relaxed);
                })
            });
            // A scope ends with its closures; a thread that is joined has
            // drained its caches as well.
            for thread in threads.collect::<Vec<_>>() {
                thread.join().expect("a life comes through");
            }
        });
    }
    for place in table {
        if let Some(parcel) = place.into_inner().unwrap_or_else(PoisonError::into_inner) {
            drop(parcel.unpack(&damaged));
        }
    }
    drop(cache);
    Told {
        amount: total.into_inner(),
        unit: "allocations on 32 threads at a time",
        damaged: damaged.into_inner(),
    }
}
