//! Threads that run freely: producers and consumers, threads that end and
//! leave fragments behind, batches, clones, statistics and trim, all at once.
//! Bounded by counts, not by time; `PAGEFRAG_STRESS` multiplies them. At the
//! end of each story the books balance and no region is left.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use pagefrag::{
    Error, Frag, FragMut, Granule, LocalCache, MIN_PAGE, PageFragCache, PagePool, REGION,
    drop_many, thread_exit,
};
use pagefrag_tests::{fill, first_damage};

mod common;
use common::{Noise, rounds};

const GRANULES: [Granule; 2] = [Granule::Line, Granule::Byte];

/// Fewer rounds in builds with checks.
fn laps(base: usize) -> usize {
    rounds(if cfg!(debug_assertions) {
        base / 4
    } else {
        base
    })
}

fn assert_gone(pool: &PagePool) {
    pool.trim();
    let stats = pool.audit().expect("the books balance");
    assert_eq!((stats.live_bytes, stats.pages_in_use), (0, 0), "{stats:?}");
    assert_eq!(stats.regions_mapped, 0, "{stats:?}");
}

/// A fragment that says who wrote it: its seed is in its length and page.
fn stamp(frag: &mut FragMut, seed: u64) {
    let shown = frag.len().min(96);
    fill(&mut frag[..shown], seed);
    let tail = frag.len() - shown;
    fill(&mut frag[tail..], seed);
}

fn check(bytes: &[u8], seed: u64) {
    let shown = bytes.len().min(96);
    let tail = bytes.len() - shown;
    assert_eq!(
        first_damage(&bytes[tail..], seed),
        None,
        "the end of {seed}"
    );
    if tail == 0 || tail >= shown {
        assert_eq!(
            first_damage(&bytes[..shown], seed),
            None,
            "the start of {seed}"
        );
    }
}

fn check_all<F: std::ops::Deref<Target = [u8]>>(parcels: &[(u64, F)]) {
    for (seed, frag) in parcels {
        check(frag, *seed);
    }
}

type Parcel = (u64, Frag);

fn produce(pool: &PagePool, granule: Granule, out: &SyncSender<Parcel>, count: usize, seed: u64) {
    let mut cache = PageFragCache::with_granule(pool, granule);
    let mut noise = Noise::new(seed);
    for number in 0..count {
        let size = match noise.below(10) {
            0 => 1 + noise.below(pool.page_size()),
            1..=4 => 64,
            _ => 1 + noise.below(1500),
        };
        let mut frag = cache.alloc(size).expect("memory");
        let seed = seed << 32 | number as u64;
        stamp(&mut frag, seed);
        if noise.below(8) == 0 {
            check(&frag, seed);
            continue; // dropped at home
        }
        out.send((seed, frag.freeze())).expect("the consumer lives");
        if noise.below(500) == 0 {
            cache.drain();
        }
    }
}

/// Frees in all the ways there are, some much later.
fn consume(from: &Receiver<Parcel>, seed: u64) {
    let mut noise = Noise::new(seed);
    let mut kept: Vec<Parcel> = Vec::new();
    for (seed, frag) in from {
        check(&frag, seed);
        match noise.below(8) {
            0..=2 => drop(frag),
            3 => {
                let clone = frag.clone();
                drop(frag);
                check(&clone, seed);
            }
            4 => {
                if let Ok(mut own) = frag.try_into_mut() {
                    stamp(&mut own, !seed);
                    check(&own, !seed);
                }
            }
            _ => kept.push((seed, frag)),
        }
        if kept.len() > 64 {
            let some: Vec<Parcel> = kept.drain(..noise.below(64)).collect();
            check_all(&some);
            drop_many(some.into_iter().map(|(_, frag)| frag));
        }
    }
    check_all(&kept);
}

#[test]
fn what_producers_write_is_what_consumers_read() {
    for granule in GRANULES {
        for page in [MIN_PAGE, 32 * 1024] {
            let pool = PagePool::new(page).unwrap();
            thread::scope(|scope| {
                for pair in 0..2 {
                    let (out, from) = sync_channel(512);
                    let pool = &pool;
                    scope.spawn(move || produce(pool, granule, &out, laps(80_000), pair));
                    scope.spawn(move || consume(&from, pair + 99));
                }
            });
            assert_gone(&pool);
        }
    }
}

#[test]
fn a_page_is_freed_by_many_threads_while_its_owner_carves_it() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    thread::scope(|scope| {
        let (outs, froms): (Vec<_>, Vec<_>) = (0..3).map(|_| sync_channel::<Parcel>(64)).unzip();
        for from in froms {
            scope.spawn(move || {
                for (seed, frag) in from {
                    check(&frag, seed);
                }
            });
        }
        let mut cache = PageFragCache::new(&pool);
        let mut noise = Noise::new(3);
        for number in 0..laps(150_000) as u64 {
            let mut frag = cache.alloc(1 + noise.below(300)).unwrap();
            stamp(&mut frag, number);
            // Neighbours go to different threads.
            outs[noise.below(3)].send((number, frag.freeze())).unwrap();
        }
        drop(outs);
    });
    assert_gone(&pool);
}

#[test]
fn fragments_survive_their_threads_and_orphans_are_adopted() {
    for granule in GRANULES {
        let pool = PagePool::builder()
            .page_size(MIN_PAGE)
            .max_bytes(4 * REGION)
            .build()
            .unwrap();
        let survivors: Mutex<Vec<Parcel>> = Mutex::default();
        let adopted = AtomicUsize::new(0);
        for generation in 0..laps(80) as u64 {
            thread::scope(|scope| {
                for member in 0..3 {
                    let (pool, survivors, adopted) = (&pool, &survivors, &adopted);
                    scope.spawn(move || {
                        let seed = generation << 8 | member;
                        let mut noise = Noise::new(seed);
                        let mut cache = PageFragCache::with_granule(pool, granule);
                        for number in 0..400 {
                            let mut frag = cache.alloc(1 + noise.below(900)).unwrap();
                            let seed = seed << 16 | number;
                            stamp(&mut frag, seed);
                            if noise.below(4) == 0 {
                                survivors.lock().unwrap().push((seed, frag.freeze()));
                            }
                            if noise.below(6) == 0 {
                                let mut survivors = survivors.lock().unwrap();
                                if !survivors.is_empty() {
                                    let at = noise.below(survivors.len());
                                    let (seed, frag) = survivors.swap_remove(at);
                                    drop(survivors);
                                    check(&frag, seed);
                                }
                            }
                        }
                        let more = usize::try_from(cache.stats().adopted).unwrap();
                        adopted.fetch_add(more, Ordering::Relaxed);
                    });
                }
            });
            let mut kept = survivors.lock().unwrap();
            let some = kept.len().saturating_sub(500);
            let old: Vec<Parcel> = kept.drain(..some).collect();
            drop(kept);
            check_all(&old);
            drop_many(old.into_iter().map(|(_, frag)| frag));
            pool.audit().expect("no thread lives, so all is quiet");
        }
        let kept = survivors.into_inner().unwrap();
        check_all(&kept);
        drop(kept);
        if granule == Granule::Line {
            assert!(adopted.into_inner() > 0, "nobody carved an orphan");
        }
        assert_gone(&pool);
    }
}

#[test]
fn clones_race_with_drops() {
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let shelf: Arc<Vec<Mutex<Option<Parcel>>>> =
            Arc::new((0..16).map(|_| Mutex::default()).collect());
        thread::scope(|scope| {
            for worker in 0..4_u64 {
                let (pool, shelf) = (pool.clone(), Arc::clone(&shelf));
                scope.spawn(move || {
                    let mut noise = Noise::new(worker);
                    let mut cache = PageFragCache::with_granule(&pool, granule);
                    for number in 0..laps(40_000) as u64 {
                        let place = &shelf[noise.below(16)];
                        match noise.below(4) {
                            0 => {
                                let mut frag = cache.alloc(1 + noise.below(500)).unwrap();
                                let seed = worker << 32 | number;
                                stamp(&mut frag, seed);
                                let old = place.lock().unwrap().replace((seed, frag.freeze()));
                                drop(old);
                            }
                            1 => drop(place.lock().unwrap().take()),
                            2 => {
                                let clone = place.lock().unwrap().clone();
                                if let Some((seed, frag)) = clone {
                                    check(&frag, seed);
                                    // Mine alone, or still theirs: never both.
                                    if let Ok(mut own) = frag.try_into_mut() {
                                        stamp(&mut own, !seed);
                                        check(&own, !seed);
                                    }
                                }
                            }
                            _ => {
                                let clone = place.lock().unwrap().clone();
                                if let Some((_, mut frag)) = clone {
                                    let back = frag.split_off(frag.len() / 2);
                                    let many = vec![back.clone(), frag.slice(..), frag, back];
                                    drop_many(many);
                                }
                            }
                        }
                    }
                });
            }
        });
        drop(shelf);
        assert_gone(&pool);
    }
}

#[test]
fn trim_and_statistics_run_while_others_work() {
    let pool = PagePool::builder().page_size(128 * 1024).build().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watchers: Vec<_> = (0..2)
            .map(|watcher| {
                let (pool, stop) = (&pool, &stop);
                scope.spawn(move || {
                    let mut unmapped = 0;
                    while !stop.load(Ordering::Relaxed) {
                        unmapped += pool.trim();
                        if watcher == 0 {
                            let stats = pool.stats();
                            assert!(stats.pinned_bytes <= stats.held_bytes, "{stats:?}");
                            // A snapshot of the moving, which must not panic.
                            let _ = pool.audit();
                        }
                        thread::yield_now();
                    }
                    unmapped
                })
            })
            .collect();
        let workers: Vec<_> = (0..2_u64)
            .map(|worker| {
                let pool = &pool;
                scope.spawn(move || {
                    let mut noise = Noise::new(worker);
                    for lap in 0..laps(600) as u64 {
                        // Regions come and go with each lap.
                        let mut cache = PageFragCache::new(pool);
                        let mut kept = Vec::new();
                        for number in 0..noise.below(60) as u64 {
                            let mut frag = cache.alloc(1 + noise.below(128 * 1024)).unwrap();
                            stamp(&mut frag, lap << 16 | number);
                            kept.push((lap << 16 | number, frag));
                        }
                        check_all(&kept);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let unmapped: usize = watchers
            .into_iter()
            .map(|watcher| watcher.join().unwrap())
            .sum();
        assert!(unmapped > 0, "trim had nothing to do");
    });
    assert_gone(&pool);
}

#[test]
fn at_the_limit_threads_refuse_and_recover() {
    let pool = PagePool::builder()
        .page_size(MIN_PAGE)
        .max_bytes(REGION)
        .build()
        .unwrap();
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (out, from) = sync_channel::<Parcel>(4096);
        let from = Arc::new(Mutex::new(from));
        for worker in 0..3_u64 {
            let (pool, refused, out) = (&pool, &refused, out.clone());
            scope.spawn(move || {
                let cache = LocalCache::new(pool, Granule::Line);
                let mut noise = Noise::new(worker);
                for number in 0..laps(30_000) as u64 {
                    match cache.alloc(1 + noise.below(MIN_PAGE)) {
                        Ok(mut frag) => {
                            let seed = worker << 32 | number;
                            stamp(&mut frag, seed);
                            out.send((seed, frag.freeze())).unwrap();
                        }
                        Err(error) => {
                            assert_eq!(error, Error::Exhausted);
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                        }
                    }
                }
            });
        }
        drop(out);
        scope.spawn(move || {
            let mut held = Vec::new();
            for (seed, frag) in &*from.lock().unwrap() {
                check(&frag, seed);
                held.push(frag);
                if held.len() == 900 {
                    drop_many(held.drain(..));
                }
            }
        });
    });
    assert!(refused.into_inner() > 0, "the limit was never felt");
    let stats = pool.audit().unwrap();
    assert_eq!(stats.regions_peak, 1, "{stats:?}");
    assert_gone(&pool);
}

/// What runs when a thread's locals are torn down, in whatever order.
struct LastWords {
    cache: LocalCache,
    kept: Vec<Frag>,
    out: Option<SyncSender<Frag>>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        // The table of caches may be gone: allocating works all the same.
        for size in [1, 64, 1500, MIN_PAGE] {
            let mut frag = self.cache.alloc(size).expect("memory");
            stamp(&mut frag, size as u64);
            check(&frag, size as u64);
            let room = self.cache.take_room(10).expect("memory");
            drop(self.cache.settle(room, 5));
            self.cache.with(|inner| drop(inner.alloc(7)));
            if let Some(out) = &self.out {
                out.send(frag.freeze()).expect("somebody listens");
            }
        }
        self.cache.drain();
        drop_many(self.kept.drain(..));
    }
}

#[test]
fn destructors_of_a_thread_may_free_and_allocate_after_its_table_is_gone() {
    thread_local! {
        // Made before the table or after it, so torn down after or before it.
        static EARLY: RefCell<Option<LastWords>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<LastWords>> = const { RefCell::new(None) };
    }
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let cache = LocalCache::new(&pool, granule);
        for round in 0..laps(200) {
            let (out, from) = sync_channel(64);
            let there = cache.clone();
            thread::spawn(move || {
                let words = |kept| LastWords {
                    cache: there.clone(),
                    kept,
                    out: Some(out.clone()),
                };
                EARLY.set(Some(words(Vec::new())));
                let kept: Vec<Frag> = (0..20)
                    .map(|_| there.alloc(300).unwrap().freeze())
                    .collect();
                EARLY.with_borrow_mut(|early| {
                    early.as_mut().unwrap().kept.extend(kept.iter().cloned());
                });
                LATE.set(Some(words(kept)));
                if round % 3 == 0 {
                    thread_exit();
                }
            })
            .join()
            .unwrap();
            let last: Vec<Frag> = from.into_iter().collect();
            assert_eq!(last.len(), 8, "both destructors allocated four");
            for frag in last {
                check(&frag, frag.len() as u64);
            }
        }
        drop(cache);
        assert_gone(&pool);
    }
}

#[test]
fn a_local_cache_outlives_its_home_and_finds_a_new_one() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let cache = LocalCache::new(&pool, Granule::Line);
    for _ in 0..laps(800) {
        // Each thread is the home in turn, and often has its forerunner's token.
        let there = cache.clone();
        let frag = thread::spawn(move || {
            let kept = there.alloc(100).unwrap();
            drop(there.alloc(100).unwrap());
            there.with(|outer| {
                let a = outer.alloc(10).unwrap();
                let b = there.alloc(10).unwrap();
                assert_ne!(a.page(), b.page(), "within itself it finds another cache");
            });
            kept
        })
        .join()
        .unwrap();
        assert_eq!(frag.len(), 100);
        drop(cache.alloc(200).unwrap());
    }
    drop(cache);
    assert_gone(&pool);
}

#[test]
fn a_panic_that_unwinds_through_fragments_gives_them_back() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    for granule in GRANULES {
        let cache = LocalCache::new(&pool, granule);
        for _ in 0..3 {
            let there = cache.clone();
            let outcome = thread::spawn(move || {
                let _frag = there.alloc(100).unwrap();
                there.with(|inner| {
                    let _inner = inner.alloc(100).unwrap();
                    let mut room = inner.prepare(100).unwrap();
                    room[0] = 1;
                    std::panic::resume_unwind(Box::new("on purpose"));
                })
            })
            .join();
            assert!(outcome.is_err());
            let stats = pool.audit().expect("the books balance");
            assert_eq!(stats.live_bytes, 0);
        }
        // On a thread that goes on, the cache is found again afterwards.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.with(|_| std::panic::resume_unwind(Box::new("on purpose")))
        }));
        assert!(outcome.is_err());
        let first = cache.alloc(10).unwrap();
        let second = cache.alloc(10).unwrap();
        assert_eq!(first.page(), second.page());
    }
    assert_gone(&pool);
}

#[test]
fn an_iterator_that_panics_in_a_batch_loses_nothing() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let frags: Vec<FragMut> = (0..20).map(|_| cache.alloc(100).unwrap()).collect();
    let outcome = thread::spawn(move || {
        drop_many(frags.into_iter().enumerate().map(|(number, frag)| {
            if number == 10 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            frag
        }));
    })
    .join();
    assert!(outcome.is_err());
    drop(cache);
    assert_gone(&pool);
}
