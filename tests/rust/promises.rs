//! The promises of the allocator that can be kept or broken by one thread, or
//! by threads that take turns. Each test is named by the number and the words
//! of the promise it keeps; counting locked instructions and stopping threads
//! is in `promises_of_speed.rs`.

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

// 1 ------------------------------------------------------------------------

#[test]
fn promise_1_every_size_from_one_byte_to_the_page_succeeds() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    for granule in GRANULES {
        let mut cache = PageFragCache::with_granule(&pool, granule);
        for size in 1..=MIN_PAGE {
            let mut frag = cache
                .alloc(size)
                .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
            assert_eq!(frag.len(), size);
            fill(&mut frag, size as u64);
            assert_eq!(first_damage(&frag, size as u64), None);
        }
    }
    assert_gone(&pool);
}

#[test]
fn promise_1_the_edges_of_every_page_size_succeed_in_any_state_of_the_cache() {
    for page in page_sizes() {
        let pool = PagePool::new(page).unwrap();
        for granule in GRANULES {
            let mut cache = PageFragCache::with_granule(&pool, granule);
            let mut kept = Vec::new();
            for size in [
                page,
                1,
                page,
                page - 1,
                2,
                page - 63,
                page - 64,
                page / 2 + 1,
                page,
            ] {
                let mut frag = cache.alloc(size).unwrap();
                fill(&mut frag, size as u64);
                kept.push(frag);
            }
            for frag in &kept {
                assert_eq!(first_damage(frag, frag.len() as u64), None);
                assert!(frag.offset() + frag.len() <= page);
            }
        }
        assert_gone(&pool);
    }
}

#[test]
fn promise_1_larger_than_the_page_is_an_error_that_says_so() {
    for page in page_sizes() {
        let pool = PagePool::new(page).unwrap();
        for granule in GRANULES {
            let mut cache = PageFragCache::with_granule(&pool, granule);
            for size in [page + 1, page * 2, usize::MAX] {
                assert_eq!(cache.alloc(size).unwrap_err(), Error::SizeAbovePage);
            }
        }
        assert_eq!(pool.stats().pages_obtained, 0, "a refusal maps nothing");
    }
    assert!(
        Error::SizeAbovePage
            .to_string()
            .contains("above the page size")
    );
}

#[test]
fn promise_1_zero_and_overflow_are_errors_that_change_nothing() {
    let pool = PagePool::new(32 * 1024).unwrap();
    for granule in GRANULES {
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let before = cache.alloc(64).unwrap();
        let (pool_before, cache_before) = (pool.stats(), cache.stats());
        for (size, error) in [
            (0, Error::ZeroSize),
            (0xffff_ffff, Error::SizeAbovePage),
            (0x8000_8001, Error::SizeAbovePage),
            (usize::MAX - 62, Error::SizeAbovePage),
            (usize::MAX, Error::SizeAbovePage),
        ] {
            assert_eq!(cache.alloc(size).unwrap_err(), error);
            assert_eq!(cache.alloc_align(size, 256).unwrap_err(), error);
            assert_eq!(cache.prepare(size).unwrap_err(), error);
            assert_eq!(cache.take_room(size).unwrap_err(), error);
        }
        assert_eq!((pool.stats(), cache.stats()), (pool_before, cache_before));
        let after = cache.alloc(64).unwrap();
        assert_eq!((after.page(), after.offset()), (before.page(), 64));
        drop((before, after));
        drop(cache);
    }
    assert_gone(&pool);
}

// 4 ------------------------------------------------------------------------

#[test]
fn promise_4_a_page_whose_fragments_are_all_dead_is_reused_at_once_by_its_owner() {
    for granule in GRANULES {
        let pool = PagePool::builder()
            .page_size(MIN_PAGE)
            .max_bytes(REGION)
            .build()
            .unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let home = cache.alloc(MIN_PAGE).unwrap().page();
        for _ in 0..1000 {
            let whole = cache.alloc(MIN_PAGE).unwrap();
            assert_eq!((whole.page(), whole.offset()), (home, 0));
        }
        // Freed elsewhere it is reused just as well.
        for _ in 0..20 {
            let whole = cache.alloc(MIN_PAGE).unwrap();
            assert_eq!((whole.page(), whole.offset()), (home, 0));
            thread::spawn(move || drop(whole)).join().unwrap();
        }
        assert_eq!(cache.stats().pages_taken, 1);
    }
}

#[test]
fn promise_4_a_dead_orphan_goes_back_to_the_pool() {
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let frags: Vec<FragMut> = (0..4).map(|_| cache.alloc(1024).unwrap()).collect();
        drop(cache);
        for (gone, frag) in frags.into_iter().enumerate() {
            let stats = pool.audit().unwrap();
            assert_eq!(
                (stats.pages_orphaned, stats.live_bytes),
                (1, 4096 - 1024 * gone as u64)
            );
            drop(frag);
        }
        let stats = pool.audit().unwrap();
        assert_eq!((stats.pages_orphaned, stats.pages_in_use), (0, 0));
        assert_gone(&pool);
    }
}

// 5 ------------------------------------------------------------------------

#[test]
fn promise_5_the_owner_finds_the_holes_of_a_page_with_live_fragments() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let mut frags: Vec<Option<FragMut>> = (0..64).map(|_| cache.alloc(512).ok()).collect();
    let home = frags[0].as_ref().unwrap().page();
    for (index, frag) in frags.iter_mut().flatten().enumerate() {
        fill(frag, index as u64);
    }
    for slot in frags.iter_mut().step_by(2) {
        *slot = None;
    }
    let filled: Vec<FragMut> = (0..32).map(|_| cache.alloc(512).unwrap()).collect();
    for (hole, frag) in filled.iter().enumerate() {
        assert_eq!(
            (frag.page(), frag.offset()),
            (home, hole * 1024),
            "every hole, in order"
        );
    }
    for (index, frag) in frags
        .iter()
        .enumerate()
        .filter_map(|(i, f)| Some((i, f.as_ref()?)))
    {
        assert_eq!(
            first_damage(frag, index as u64),
            None,
            "the live ones were left alone"
        );
    }
    assert_eq!(cache.stats().pages, 1);
}

#[test]
fn promise_5_a_hole_of_two_frees_that_touch_is_one_hole() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let mut frags: Vec<Option<FragMut>> = (0..8).map(|_| cache.alloc(512).ok()).collect();
    let home = frags[0].as_ref().unwrap().page();
    let (third, fourth) = (frags[3].take(), frags[4].take());
    drop(third);
    thread::spawn(move || drop(fourth)).join().unwrap();
    let across = cache.alloc(1024).unwrap();
    assert_eq!((across.page(), across.offset()), (home, 3 * 512));
}

#[test]
fn promise_5_one_small_fragment_does_not_keep_a_page_from_its_owner() {
    let pool = PagePool::builder().max_bytes(REGION).build().unwrap();
    let mut cache = PageFragCache::new(&pool);
    // One 64-byte fragment in each of the pool's 64 pages, and all else freed.
    let mut small = Vec::new();
    for _ in 0..64 {
        small.push(cache.alloc(64).unwrap());
        drop(cache.alloc(32 * 1024 - 64).unwrap());
    }
    let pages: std::collections::HashSet<usize> = small.iter().map(FragMut::page).collect();
    let mut large = Vec::new();
    while let Ok(frag) = cache.alloc(2048) {
        large.push(frag);
    }
    let room = (32 * 1024 - 64) / 2048 * 64;
    assert!(
        large.len() >= room,
        "{} of {room} fit beside {} pages",
        large.len(),
        pages.len()
    );
    assert!(pool.audit().unwrap().regions_mapped == 1);
}

// 6 ------------------------------------------------------------------------

#[test]
fn promise_6_a_fragment_outlives_its_cache_its_thread_and_its_pool_handle() {
    for granule in GRANULES {
        let (mut frag, watcher) = thread::spawn(move || {
            let pool = PagePool::new(MIN_PAGE).unwrap();
            let frag = PageFragCache::with_granule(&pool, granule)
                .alloc(1000)
                .unwrap();
            (frag, pool)
        })
        .join()
        .unwrap();
        fill(&mut frag, 6);
        assert_eq!(
            live(&watcher),
            if granule == Granule::Byte { 1000 } else { 1024 }
        );
        drop(watcher);
        assert_eq!(
            first_damage(&frag, 6),
            None,
            "the pool's last handle is gone"
        );
        thread::spawn(move || {
            assert_eq!(first_damage(&frag, 6), None);
            drop(frag);
        })
        .join()
        .unwrap();
    }
}

#[test]
fn promise_6_the_last_drop_of_a_pool_without_handles_unmaps_its_region() {
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let shared = PageFragCache::with_granule(&pool, granule)
            .alloc(1000)
            .unwrap()
            .freeze();
        drop(pool);
        let page = shared.page();
        assert!(is_mapped(page));
        let parts: Vec<Frag> = (0..10)
            .map(|i| shared.slice(i * 100..(i + 1) * 100))
            .collect();
        drop(shared);
        assert!(is_mapped(page));
        drop_many(parts);
        // Another test may have been given the same addresses since.
        if is_mapped(page) {
            println!("address {page:#x} is in use again; not told apart");
        }
    }
}

/// Does `/proc/self/maps` show the address?
fn is_mapped(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux tells its mappings");
    maps.lines().any(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let at = |text| usize::from_str_radix(text, 16).unwrap();
        (at(start)..at(end)).contains(&address)
    })
}

#[test]
fn promise_6_a_drop_during_thread_exit_gives_the_space_back() {
    thread_local! {
        static KEPT: std::cell::RefCell<Vec<Frag>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    for granule in GRANULES {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let foreign = cache.alloc(700).unwrap().freeze();
        let on_its_own = pool.clone();
        thread::spawn(move || {
            KEPT.with_borrow_mut(|kept| {
                kept.push(foreign.clone());
                kept.push(foreign);
                let own = PageFragCache::with_granule(&on_its_own, granule)
                    .alloc(700)
                    .unwrap();
                kept.push(own.freeze());
            });
        })
        .join()
        .unwrap();
        drop(cache);
        assert_gone(&pool);
    }
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
