//! The promises of the allocator that can be kept or broken by one thread, or
//! by threads that take turns. Each test is named by the number and the words
//! of the promise it keeps. Promises 2 and 3 are in `promises_of_speed.rs`, and
//! 7 to 9 in `promises_of_bounds.rs`.

use std::thread;

use pagefrag::{
    Error, Frag, FragMut, Granule, MIN_PAGE, PageFragCache, PagePool, REGION, drop_many,
};
use pagefrag_tests::{fill, first_damage};

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

/// Pages full of live fragments that a cache has retired, and one of them
/// emptied: by its owner, or by another thread.
fn one_dead_among_many(granule: Granule, elsewhere: bool) -> (PageFragCache, usize, Vec<FragMut>) {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, granule);
    let mut kept: Vec<FragMut> = (0..4 * 100).map(|_| cache.alloc(1024).unwrap()).collect();
    let dead: Vec<FragMut> = kept.drain(4 * 50..4 * 51).collect();
    let home = dead[0].page();
    if elsewhere {
        thread::spawn(move || drop(dead)).join().unwrap();
    } else {
        drop(dead);
    }
    (cache, home, kept)
}

#[test]
fn promise_4_a_dead_page_is_found_among_a_hundred_live_ones() {
    for granule in GRANULES {
        let (mut cache, home, kept) = one_dead_among_many(granule, false);
        assert_eq!(
            cache.alloc(MIN_PAGE).unwrap().page(),
            home,
            "{granule:?}: at once"
        );
        assert_eq!(cache.stats().pages_taken, 100);
        drop(kept);
    }
}

#[test]
fn promise_4_a_page_that_others_emptied_is_found_after_a_few_refills() {
    for granule in GRANULES {
        let (mut cache, home, mut kept) = one_dead_among_many(granule, true);
        // Two of the hundred are looked at in each refill.
        let found = (0..100).position(|_| {
            let frag = cache.alloc(MIN_PAGE).unwrap();
            let found = frag.page() == home;
            kept.push(frag);
            found
        });
        assert!(
            found.is_some_and(|refills| refills <= 51),
            "{granule:?}: {found:?}"
        );
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
        // Tests beside this one may be given an address as soon as it is free,
        // but not all of so many.
        let pages: Vec<(usize, Frag)> = (0..32)
            .map(|_| {
                let pool = PagePool::new(MIN_PAGE).unwrap();
                let mut cache = PageFragCache::with_granule(&pool, granule);
                let shared = cache.alloc(1000).unwrap().freeze();
                (shared.page(), shared)
            })
            .collect();
        let mut given = Vec::new();
        for (page, shared) in pages {
            assert!(is_mapped(page), "alive without its pool and cache");
            let parts: Vec<Frag> = (0..10)
                .map(|i| shared.slice(i * 100..(i + 1) * 100))
                .collect();
            drop(shared);
            assert!(is_mapped(page), "alive while a part of it is");
            drop_many(parts);
            given.push(page);
        }
        let still = given.iter().filter(|&&page| is_mapped(page)).count();
        assert!(still < given.len(), "none of {still} regions was unmapped");
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

#[test]
fn padding_is_the_rest_of_the_last_line_and_of_a_byte_page_nothing() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    for (granule, size, padded) in [
        (Granule::Line, 1, 64),
        (Granule::Line, 64, 64),
        (Granule::Line, 1500, 1536),
        (Granule::Byte, 1500, 1500),
    ] {
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut raw = cache.alloc(size).unwrap().into_raw();
        assert_eq!(raw.padded_len(), padded);
        if size == 1500 && granule == Granule::Line {
            // From the tenth byte on two hundred: up to byte 256 of the fragment.
            raw.narrow(10, 200);
            assert_eq!(raw.padded_len(), 246);
        }
    }
    assert_gone(&pool);
}

#[test]
fn whoever_brings_fragments_to_be_dropped_may_drain_their_cache_between_two() {
    let pool = PagePool::new(32 * 1024).unwrap();
    for at in 0..8 {
        let mut cache = PageFragCache::new(&pool);
        let frags: Vec<_> = (0..8).map(|_| cache.alloc(512).unwrap()).collect();
        let kept = cache.alloc(512).unwrap();
        drop_many(frags.into_iter().enumerate().map(|(nth, frag)| {
            if nth == at {
                cache.drain();
            }
            frag
        }));
        assert_eq!(pool.audit().unwrap().live_bytes, 512);
        drop(kept);
        assert_eq!(pool.audit().unwrap().pages_in_use, 0);
    }
}

#[test]
fn a_batch_that_goes_on_in_the_next_page_gives_both_pages_back() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let frags: Vec<_> = (0..4)
        .map(|_| cache.alloc(pool.page_size()).unwrap())
        .collect();
    assert!(
        frags
            .windows(2)
            .all(|two| two[0].as_ptr().addr() + two[0].len() == two[1].as_ptr().addr()),
        "the pages of a new region lie side by side"
    );
    // Orphans, of which each is given back by its own count.
    drop(cache);
    drop_many(frags);
    assert_eq!(pool.audit().unwrap().pages_in_use, 0);
    assert_eq!(pool.trim(), 1);
}
