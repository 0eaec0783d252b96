//! The promises that bound what can happen: a pool's limit (7), what a user's
//! overrun can reach (8), and the books (9).

use std::sync::mpsc;
use std::thread;

use pagefrag::{
    Error, Frag, FragMut, Granule, MAX_PAGE, MIN_PAGE, PageFragCache, PagePool, REGION, drop_many,
};
use pagefrag_tests::{fill, first_damage};

mod common;
use common::Noise;

const GRANULES: [Granule; 2] = [Granule::Line, Granule::Byte];

fn page_sizes() -> impl Iterator<Item = usize> {
    (12..=20).map(|shift| 1 << shift)
}

fn live(pool: &PagePool) -> u64 {
    pool.audit().expect("the books balance").live_bytes
}

/// Everything has come home and every region goes back to the OS.
fn assert_gone(pool: &PagePool) {
    assert_eq!(live(pool), 0, "something is still alive");
    pool.trim();
    let stats = pool.audit().expect("the books balance");
    assert_eq!(
        (stats.regions_mapped, stats.pages_in_use),
        (0, 0),
        "{stats:?}"
    );
}

// 7 ------------------------------------------------------------------------

#[test]
fn promise_7_max_bytes_is_reached_and_not_exceeded() {
    for page in page_sizes() {
        for (max, regions) in [(REGION, 1), (2 * REGION - 1, 1), (3 * REGION, 3)] {
            let pool = PagePool::builder()
                .page_size(page)
                .max_bytes(max)
                .build()
                .unwrap();
            for granule in GRANULES {
                let mut cache = PageFragCache::with_granule(&pool, granule);
                let mut kept = Vec::new();
                let refusal = loop {
                    match cache.alloc(page) {
                        Ok(frag) => kept.push(frag),
                        Err(refusal) => break refusal,
                    }
                };
                assert_eq!(refusal, Error::Exhausted);
                assert_eq!(kept.len(), regions * (REGION / page));
                let stats = pool.audit().unwrap();
                assert_eq!(stats.regions_mapped, regions as u64);
                assert!(stats.exhausted > 0 && cache.stats().alloc_fail > 0);
                // One free is enough to go on.
                kept.pop();
                kept.push(cache.alloc(page).expect("a page has come home"));
            }
        }
    }
}

#[test]
fn promise_7_max_bytes_is_never_exceeded_by_threads_in_a_hurry() {
    const REGIONS: usize = 2;
    let pool = PagePool::builder()
        .page_size(128 * 1024)
        .max_bytes(REGIONS * REGION)
        .build()
        .unwrap();
    let refused = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let pool = &pool;
                scope.spawn(move || {
                    let mut noise = Noise::new(worker);
                    let mut cache = PageFragCache::new(pool);
                    let mut kept: Vec<FragMut> = Vec::new();
                    let mut refused = 0;
                    for _ in 0..common::rounds(4000) {
                        match cache.alloc(1 + noise.below(128 * 1024)) {
                            Ok(frag) => kept.push(frag),
                            Err(error) => {
                                assert_eq!(error, Error::Exhausted);
                                refused += 1;
                                let half = kept.len() / 2;
                                kept.truncate(half);
                            }
                        }
                        if noise.below(64) == 0 {
                            cache.drain();
                            pool.trim();
                        }
                        if noise.below(64) == 0 {
                            let now = pool.stats();
                            assert!(now.regions_mapped <= REGIONS as u64, "{now:?}");
                        }
                    }
                    refused
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum::<usize>()
    });
    assert!(refused > 0, "the limit was never felt");
    let stats = pool.audit().unwrap();
    assert!(stats.regions_peak <= REGIONS as u64, "{stats:?}");
    assert_gone(&pool);
}

#[test]
fn promise_7_what_can_be_reclaimed_is_reclaimed_before_a_refusal() {
    for size in [64, 1536, 4096] {
        // All pages of the pool are orphans or retired, each with a hole.
        let pool = PagePool::builder()
            .page_size(MIN_PAGE)
            .max_bytes(REGION)
            .build()
            .unwrap();
        let mut kept = Vec::new();
        for _ in 0..REGION / MIN_PAGE / 2 {
            let mut cache = PageFragCache::new(&pool);
            kept.extend(cache.alloc(MIN_PAGE - size));
            kept.push(cache.alloc(size).unwrap());
        }
        let mut cache = PageFragCache::new(&pool);
        for _ in 0..REGION / MIN_PAGE / 2 {
            kept.push(cache.alloc(MIN_PAGE).unwrap());
        }
        assert_eq!(cache.alloc(size).unwrap_err(), Error::Exhausted);
        // A hole in an orphan, made on another thread.
        let at = kept.iter().position(|frag| frag.len() == size).unwrap();
        let gone = kept.remove(at);
        thread::spawn(move || drop(gone)).join().unwrap();
        let again = cache
            .alloc(size)
            .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
        assert_eq!(again.len(), size);
        // And a page that another thread's frees have emptied.
        drop(again);
        let rest = std::mem::take(&mut kept);
        thread::spawn(move || drop(rest)).join().unwrap();
        cache.alloc(MIN_PAGE).expect("everything is free");
    }
}

#[test]
fn promise_7_a_refusal_changes_nothing_and_prints_nothing() {
    let pool = PagePool::builder()
        .page_size(MAX_PAGE)
        .max_bytes(REGION)
        .build()
        .unwrap();
    for granule in GRANULES {
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let kept = [
            cache.alloc(MAX_PAGE).unwrap(),
            cache.alloc(MAX_PAGE).unwrap(),
        ];
        let before = pool.audit().unwrap();
        for _ in 0..10 {
            assert_eq!(cache.alloc(1).unwrap_err(), Error::Exhausted);
            assert_eq!(cache.prepare(1).unwrap_err(), Error::Exhausted);
            assert_eq!(cache.take_room(1).unwrap_err(), Error::Exhausted);
        }
        let after = pool.audit().unwrap();
        assert_eq!(after.exhausted, before.exhausted + 30);
        assert_eq!(after.live_bytes, before.live_bytes);
        assert_eq!(after.pages_in_use, before.pages_in_use);
        drop(kept);
        assert_eq!(cache.alloc(1).unwrap().len(), 1);
    }
}

// 8 ------------------------------------------------------------------------

#[test]
fn promise_8_scribbling_over_all_user_bytes_does_not_steer_the_allocator() {
    for granule in GRANULES {
        let pool = PagePool::builder()
            .page_size(MIN_PAGE)
            .max_bytes(REGION)
            .build()
            .unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut noise = Noise::new(8);
        let mut kept: Vec<FragMut> = Vec::new();
        // All user bytes of the region, free ones and other fragments' alike.
        let first = cache.alloc(1).unwrap();
        let region = (first.page() & !(REGION - 1)).wrapping_sub(first.page() + first.offset());
        let region = first
            .into_raw()
            .as_ptr()
            .wrapping_offset(region.cast_signed());
        let other = thread::scope(|scope| {
            let (send, receive) = mpsc::channel::<FragMut>();
            let other = scope.spawn(move || receive.into_iter().for_each(drop));
            for round in 0..400_usize {
                for _ in 0..20 {
                    kept.extend(cache.alloc(1 + noise.below(MIN_PAGE)).ok());
                }
                let byte = [0xFF, 0x00, 0x55, u8::try_from(round % 256).unwrap()][round % 4];
                // SAFETY: one user's bytes from end to end of the region, which
                // is mapped while `kept` or the cache have a page in it; these
                // are plain bytes, and nobody else writes them now.
                unsafe { region.write_bytes(byte, REGION) };
                for _ in 0..20 {
                    if !kept.is_empty() {
                        let frag = kept.swap_remove(noise.below(kept.len()));
                        assert!(frag.iter().all(|&b| b == byte), "the bytes are the user's");
                        if noise.below(2) == 0 {
                            drop(frag);
                        } else {
                            send.send(frag).unwrap();
                        }
                    }
                }
                if round % 50 == 49 {
                    cache.drain();
                }
            }
            drop(send);
            other.join()
        });
        other.unwrap();
        let expected: usize = kept.iter().map(FragMut::capacity).sum();
        assert_eq!(live(&pool), expected as u64);
        drop((kept, cache));
        assert_gone(&pool);
    }
}

#[test]
fn promise_8_nothing_is_written_into_a_fragments_bytes() {
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut whole = cache.alloc(MIN_PAGE).unwrap();
        fill(&mut whole, 8);
        let home = whole.page();
        drop(whole);
        // Carve, free here and elsewhere, share, batch and drain the page.
        let frags: Vec<Frag> = (0..16)
            .map(|_| cache.alloc(256).unwrap().freeze())
            .collect();
        assert!(frags.iter().all(|frag| frag.page() == home));
        let clones: Vec<Frag> = frags
            .iter()
            .step_by(3)
            .map(|frag| frag.slice(10..20))
            .collect();
        let mut frags = frags.into_iter();
        frags.by_ref().take(4).for_each(drop);
        let rest: Vec<Frag> = frags.collect();
        thread::spawn(move || drop_many(rest)).join().unwrap();
        cache.drain();
        thread::spawn(move || drop(clones)).join().unwrap();
        let again = cache.alloc(MIN_PAGE).unwrap();
        assert_eq!(again.page(), home, "the pool's lowest free page");
        assert_eq!(first_damage(&again, 8), None);
    }
}

// 9 ------------------------------------------------------------------------

#[test]
fn promise_9_pages_obtained_are_all_accounted_for_at_every_quiet_moment() {
    let pool = PagePool::new(8 * 1024).unwrap();
    let mut noise = Noise::new(9);
    let mut caches: Vec<PageFragCache> = (0..4)
        .map(|i| PageFragCache::with_granule(&pool, GRANULES[i % 2]))
        .collect();
    let mut kept: Vec<FragMut> = Vec::new();
    for step in 0..common::rounds(500) {
        match noise.below(20) {
            0 => caches[noise.below(4)].drain(),
            1 => {
                pool.trim();
            }
            2 => kept.truncate(noise.below(kept.len() + 1)),
            3 if !kept.is_empty() => {
                let some = kept.split_off(noise.below(kept.len()));
                thread::spawn(move || drop_many(some)).join().unwrap();
            }
            _ => kept.push(
                caches[noise.below(4)]
                    .alloc(1 + noise.below(8 * 1024))
                    .unwrap(),
            ),
        }
        let stats = pool
            .audit()
            .unwrap_or_else(|error| panic!("step {step}: {error}"));
        let sum = stats.pages_current
            + stats.pages_retired
            + stats.pages_orphaned
            + stats.pages_free
            + stats.pages_returned;
        assert_eq!(stats.pages_obtained, sum);
        let expected: usize = kept.iter().map(FragMut::capacity).sum();
        assert_eq!(stats.live_bytes, expected as u64, "step {step}");
        assert_eq!(stats.held_bytes, stats.live_bytes + stats.pinned_bytes);
        let caches_hold: u64 = caches.iter().map(|cache| cache.stats().pages).sum();
        assert_eq!(stats.pages_current + stats.pages_retired, caches_hold);
    }
    drop((kept, caches));
    assert_gone(&pool);
}

#[test]
fn promise_9_the_books_balance_however_often_a_fragment_is_shared() {
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let whole = cache.alloc(MIN_PAGE).unwrap().freeze();
        let clones: Vec<Frag> = (0..100).map(|_| whole.clone()).collect();
        assert_eq!(live(&pool), MIN_PAGE as u64);
        drop(cache);
        assert_eq!(live(&pool), MIN_PAGE as u64);
        drop(clones);
        assert_eq!(live(&pool), MIN_PAGE as u64);
        drop(whole);
        assert_gone(&pool);
    }
}
