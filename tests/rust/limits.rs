//! Where things end: an OS that refuses memory, arguments that make no sense,
//! and the sizes of the handles. All of it the same in debug and release.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use pagefrag::{
    DEFAULT_PAGE, Error, Frag, FragMut, Granule, LINE, LocalCache, MAX_PAGE, MIN_PAGE,
    PageFragCache, PagePool, REGION, RawFrag, os_page_size,
};
use pagefrag_tests::{fill, first_damage};

// The OS refuses -------------------------------------------------------------

/// Set in the child that has little memory.
const CHILD: &str = "PAGEFRAG_TESTS_CHILD";

/// Runs the named test of this file in a process of its own.
fn in_a_child(name: &str) {
    let output = Command::new(std::env::current_exe().expect("a test knows its file"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("a child can be started");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("1 passed"), "{text}");
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The OS gives `bytes` more of addresses than the process has, or any number.
fn limit_addresses(bytes: Option<usize>) {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux tells its size");
    let pages: usize = status.split(' ').next().unwrap().parse().unwrap();
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for the answer.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    assert_eq!(failed, 0, "a process may know its limits");
    limit.rlim_cur = bytes.map_or(limit.rlim_max, |bytes| {
        (pages * os_page_size() + bytes) as u64
    });
    // SAFETY: a valid limit.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(failed, 0, "a process may lower its limits");
}

#[test]
fn when_the_os_refuses_it_is_an_error_and_the_pool_goes_on() {
    if !is_child() {
        return in_a_child("when_the_os_refuses_it_is_an_error_and_the_pool_goes_on");
    }
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(DEFAULT_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut kept: Vec<FragMut> = Vec::with_capacity(10_000);
        limit_addresses(Some(32 << 20));
        let refusal = loop {
            match cache.alloc(DEFAULT_PAGE) {
                Ok(mut frag) => {
                    fill(&mut frag[..64], kept.len() as u64);
                    kept.push(frag);
                }
                Err(refusal) => break refusal,
            }
            assert!(kept.len() < 9_000, "32 MiB is the limit");
        };
        assert_eq!(refusal, Error::OutOfMemory);
        assert!(kept.len() >= REGION / DEFAULT_PAGE, "{}", kept.len());
        // Nothing is lost or changed, however often it is tried.
        for _ in 0..100 {
            assert_eq!(cache.alloc(DEFAULT_PAGE).unwrap_err(), Error::OutOfMemory);
            assert_eq!(cache.prepare(DEFAULT_PAGE).unwrap_err(), Error::OutOfMemory);
            assert_eq!(
                cache.take_room(DEFAULT_PAGE).unwrap_err(),
                Error::OutOfMemory
            );
        }
        let another = LocalCache::new(&pool, granule);
        assert_eq!(another.alloc(DEFAULT_PAGE).unwrap_err(), Error::OutOfMemory);
        for (number, frag) in kept.iter().enumerate() {
            assert_eq!(first_damage(&frag[..64], number as u64), None);
        }
        // What is free can be had again: one page, by the same cache.
        let one = kept.pop();
        drop(one);
        kept.push(cache.alloc(DEFAULT_PAGE).expect("a page has come home"));
        assert_eq!(cache.alloc(DEFAULT_PAGE).unwrap_err(), Error::OutOfMemory);
        // And when the OS has memory again, more of it.
        limit_addresses(None);
        kept.push(cache.alloc(DEFAULT_PAGE).expect("the OS has memory again"));
        let stats = pool.audit().unwrap();
        assert_eq!(stats.out_of_memory, 303, "{stats:?}");
        assert_eq!(stats.exhausted, 0);
        drop((kept, cache, another));
        pool.trim();
        assert_eq!(pool.audit().unwrap().regions_mapped, 0);
    }
}

#[test]
fn under_a_limit_of_the_os_a_cap_is_not_eaten_by_refusals() {
    if !is_child() {
        return in_a_child("under_a_limit_of_the_os_a_cap_is_not_eaten_by_refusals");
    }
    let pool = PagePool::builder()
        .page_size(MAX_PAGE)
        .max_bytes(REGION)
        .build()
        .unwrap();
    let mut cache = PageFragCache::new(&pool);
    limit_addresses(Some(0));
    for _ in 0..1000 {
        assert_eq!(cache.alloc(1).unwrap_err(), Error::OutOfMemory);
    }
    limit_addresses(None);
    let both = [
        cache.alloc(MAX_PAGE).unwrap(),
        cache.alloc(MAX_PAGE).unwrap(),
    ];
    assert_eq!(cache.alloc(1).unwrap_err(), Error::Exhausted);
    drop(both);
}

#[test]
fn a_pool_grows_beyond_its_first_chunk_of_regions() {
    let pool = PagePool::new(MAX_PAGE).unwrap();
    let mut cache = PageFragCache::new(&pool);
    // 200 regions, of which hardly a byte is touched.
    let mut kept: Vec<FragMut> = (0..400).map(|_| cache.alloc(MAX_PAGE).unwrap()).collect();
    for (number, frag) in kept.iter_mut().enumerate() {
        fill(&mut frag[..16], number as u64);
    }
    let stats = pool.audit().unwrap();
    assert_eq!((stats.regions_mapped, stats.regions_peak), (200, 200));
    for (number, frag) in kept.iter().enumerate() {
        assert_eq!(first_damage(&frag[..16], number as u64), None);
    }
    // Every other region goes, and its place is taken again.
    let mut number = 0;
    kept.retain(|_| {
        number += 1;
        (number - 1) % 4 < 2
    });
    cache.drain();
    assert!(pool.trim() > 0);
    let more: Vec<FragMut> = (0..200).map(|_| cache.alloc(MAX_PAGE).unwrap()).collect();
    assert_eq!(
        pool.audit().unwrap().live_bytes,
        ((kept.len() + more.len()) * MAX_PAGE) as u64
    );
    assert!(pool.stats().regions_mapped <= 201);
    drop((kept, more, cache));
    pool.trim();
    assert_eq!(pool.audit().unwrap().regions_mapped, 0);
}

/// A process that forks goes on in two, each with a pool of its own.
#[test]
fn after_a_fork_both_go_on() {
    if !is_child() {
        return in_a_child("after_a_fork_both_go_on");
    }
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let local = LocalCache::new(&pool, Granule::Line);
    let mut kept: Vec<FragMut> = (0..40).map(|_| cache.alloc(300).unwrap()).collect();
    kept.push(local.alloc(300).unwrap());
    for frag in &mut kept {
        fill(frag, 1);
    }
    // SAFETY: the test harness waits in another thread; the child runs only
    // what follows and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process can fork");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        assert!(kept.iter().all(|frag| first_damage(frag, 1).is_none()));
        for frag in &mut kept {
            fill(frag, 2);
        }
        kept.truncate(20);
        kept.push(local.alloc(300).unwrap());
        kept.push(cache.alloc(300).unwrap());
        assert_eq!(pool.audit().unwrap().live_bytes, 22 * 320);
        drop((kept, cache, local));
        pool.trim();
        assert_eq!(pool.audit().unwrap().regions_mapped, 0);
    }));
    if child == 0 {
        // SAFETY: ends the child, which shares nothing that needs an end.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child came through");
    assert!(outcome.is_ok(), "and so did the parent");
}

/// The C library hands the stack of a thread that a fork left behind, and with it the thread's
/// name, to the next thread of the child: that one shall not get the other's cache with it.
#[test]
fn a_thread_of_a_forked_child_has_no_cache_of_one_that_was_left_behind() {
    if !is_child() {
        return in_a_child("a_thread_of_a_forked_child_has_no_cache_of_one_that_was_left_behind");
    }
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let local = LocalCache::new(&pool, Granule::Line);
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let its_own = local.clone();
    let left_behind = thread::spawn(move || {
        tell.send(its_own.alloc(300).unwrap()).unwrap();
        // Alive, and the home of its cache, until the parent says so.
        stopped.recv().unwrap_err();
    });
    let old = told.recv().unwrap();
    // SAFETY: the other threads wait; the child runs only what follows and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process can fork");
    if child == 0 {
        let new = thread::spawn(move || local.alloc(300).unwrap())
            .join()
            .unwrap();
        let strange = new.page() == old.page();
        // SAFETY: ends the child, which shares nothing that needs an end.
        unsafe { libc::_exit(i32::from(strange)) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "a page with two owners");
    drop(stop);
    left_behind.join().unwrap();
}

// Bad input -------------------------------------------------------------------

#[test]
fn sizes_that_make_no_sense_are_refused_the_same_everywhere() {
    for page in [MIN_PAGE, DEFAULT_PAGE, MAX_PAGE] {
        let pool = PagePool::new(page).unwrap();
        for granule in [Granule::Line, Granule::Byte] {
            let mut cache = PageFragCache::with_granule(&pool, granule);
            let local = LocalCache::new(&pool, granule);
            for (size, expected) in [
                (0, Err(Error::ZeroSize)),
                (1, Ok(1)),
                (page - 1, Ok(page - 1)),
                (page, Ok(page)),
                (page + 1, Err(Error::SizeAbovePage)),
                ((1 << 31) - 1, Err(Error::SizeAbovePage)),
                (1 << 31, Err(Error::SizeAbovePage)),
                ((1 << 32) - 1, Err(Error::SizeAbovePage)),
                (1 << 32, Err(Error::SizeAbovePage)),
                ((1 << 32) + 1, Err(Error::SizeAbovePage)),
                (1 << 63, Err(Error::SizeAbovePage)),
                (usize::MAX - 63, Err(Error::SizeAbovePage)),
                (usize::MAX - 62, Err(Error::SizeAbovePage)),
                (usize::MAX, Err(Error::SizeAbovePage)),
                // What -1 becomes on its way through a C `int`.
                (
                    usize::try_from(u32::MAX).unwrap(),
                    Err(Error::SizeAbovePage),
                ),
            ] {
                let len = |result: Result<FragMut, Error>| result.map(|frag| frag.len());
                assert_eq!(len(cache.alloc(size)), expected, "alloc({size})");
                assert_eq!(len(cache.alloc_align(size, page)), expected, "at {page}");
                assert_eq!(len(local.alloc(size)), expected, "local alloc({size})");
                assert_eq!(len(local.alloc_align(size, 64)), expected, "local at 64");
                assert_eq!(cache.prepare(size).map(|_| ()), expected.map(|_| ()));
                assert_eq!(cache.take_room(size).map(|_| ()), expected.map(|_| ()));
                assert_eq!(local.take_room(size).map(|_| ()), expected.map(|_| ()));
            }
        }
        pool.trim();
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    }
}

#[test]
fn alignments_that_make_no_sense_are_refused_the_same_everywhere() {
    for page in [MIN_PAGE, DEFAULT_PAGE, MAX_PAGE] {
        let pool = PagePool::new(page).unwrap();
        for granule in [Granule::Line, Granule::Byte] {
            let mut cache = PageFragCache::with_granule(&pool, granule);
            for bad in [
                0,
                3,
                63,
                65,
                96,
                page - 1,
                page + 1,
                page * 2,
                1 << 63,
                usize::MAX,
            ] {
                assert_eq!(
                    cache.alloc_align(1, bad).unwrap_err(),
                    Error::BadAlignment,
                    "{bad}"
                );
            }
            assert_eq!(pool.stats().live_bytes, 0);
            for shift in 0..=page.trailing_zeros() {
                let frag = cache.alloc_align(1, 1 << shift).unwrap();
                assert_eq!(frag.as_ptr().addr() % (1 << shift), 0, "of the address");
                assert_eq!(frag.offset() % (1 << shift), 0, "of the offset");
            }
        }
    }
}

#[test]
fn page_sizes_and_limits_that_make_no_sense_are_refused() {
    for bad in [
        0,
        1,
        2048,
        4095,
        4097,
        12 * 1024,
        2 << 20,
        1 << 31,
        1 << 63,
        usize::MAX,
    ] {
        assert_eq!(PagePool::new(bad).unwrap_err(), Error::BadPageSize, "{bad}");
    }
    for bad in [0, 1, DEFAULT_PAGE, REGION - 1] {
        let refusal = PagePool::builder().max_bytes(bad).build().unwrap_err();
        assert_eq!(refusal, Error::BadMaxBytes, "{bad}");
    }
    for good in [REGION, REGION + 1, 1 << 40, usize::MAX - 1] {
        let pool = PagePool::builder().max_bytes(good).build().unwrap();
        assert_eq!(pool.max_bytes(), Some(good));
        assert_eq!(PageFragCache::new(&pool).alloc(1).unwrap().len(), 1);
    }
}

#[test]
fn commits_that_make_no_sense_are_refused_and_take_nothing() {
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let room = cache.prepare(10).unwrap().len();
        for (used, expected) in [
            (0, Error::ZeroSize),
            (room + 1, Error::CommitAboveRoom),
            (usize::MAX, Error::CommitAboveRoom),
        ] {
            assert_eq!(
                cache.prepare(10).unwrap().commit(used).unwrap_err(),
                expected
            );
            let taken = cache.take_room(10).unwrap();
            assert_eq!(taken.len(), room);
            assert_eq!(cache.settle(taken, used).unwrap_err(), expected);
            assert_eq!(pool.audit().unwrap().live_bytes, 0, "commit({used})");
        }
        assert_eq!(cache.prepare(10).unwrap().commit(room).unwrap().len(), room);
    }
}

/// A fragment that is not the room last taken, wherever it came from, must not
/// bring the cursor back over what lives behind it.
#[test]
fn settling_what_was_never_room_gives_nobodys_bytes_away() {
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        for (size, cut, next) in [(128, 64, 64), (100, 10, 10), (192, 128, 128), (200, 1, 64)] {
            for used in [0, 1] {
                let mut cache = PageFragCache::with_granule(&pool, granule);
                // Shown from `cut` on, so that its end seems to lie `cut` behind.
                let mut frag = cache.alloc(size).unwrap().freeze();
                frag.advance(cut);
                let mut live = cache.alloc(next).unwrap();
                fill(&mut live, 1);
                if let Ok(frag) = frag.try_into_mut() {
                    drop(cache.settle(frag, used));
                }
                // Parts of one fragment that share their lines.
                let mut front = cache.alloc(192).unwrap();
                fill(&mut front[..30], 2);
                let mut rest = front.split_off(32);
                let back = rest.split_off(32);
                drop(rest);
                let mut behind = cache.alloc(64).unwrap();
                fill(&mut behind, 3);
                drop(cache.settle(back, used));
                for _ in 0..8 {
                    cache.alloc(64).unwrap().fill(0xEE);
                }
                cache.alloc(1024).unwrap().fill(0xEE);
                assert_eq!(
                    first_damage(&live, 1),
                    None,
                    "{granule:?} {size} {cut} {used}"
                );
                assert_eq!(first_damage(&front[..30], 2), None);
                assert_eq!(first_damage(&behind, 3), None);
            }
        }
        pool.trim();
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    }
}

#[test]
fn ranges_out_of_bounds_panic_and_change_nothing() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    for granule in [Granule::Line, Granule::Byte] {
        let mut frag = PageFragCache::with_granule(&pool, granule)
            .alloc(100)
            .unwrap()
            .freeze();
        let mut bad = 0;
        let mut expect_panic = |what: &mut dyn FnMut()| {
            let outcome = catch_unwind(AssertUnwindSafe(what));
            assert!(
                outcome.is_err(),
                "case {bad} of {granule:?} was let through"
            );
            bad += 1;
        };
        expect_panic(&mut || drop(frag.slice(0..101)));
        expect_panic(&mut || drop(frag.slice(101..)));
        #[allow(clippy::reversed_empty_ranges)] // that is the case
        expect_panic(&mut || drop(frag.slice(5..4)));
        expect_panic(&mut || drop(frag.slice(0..=100)));
        expect_panic(&mut || drop(frag.slice(0..=usize::MAX)));
        expect_panic(&mut || drop(frag.slice(usize::MAX..)));
        expect_panic(&mut || frag.advance(101));
        expect_panic(&mut || drop(frag.split_off(101)));
        expect_panic(&mut || drop(frag.split_to(usize::MAX)));
        assert_eq!((frag.len(), frag.is_unique()), (100, true));
        assert_eq!(frag.slice(100..).len(), 0, "the end is in bounds");
        assert_eq!(frag.slice(..).len(), 100);
    }
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
}

// Sizes ------------------------------------------------------------------------

#[test]
fn handles_are_sixteen_bytes_so_that_they_travel_in_two_registers() {
    assert_eq!(size_of::<RawFrag>(), 16, "RawFrag");
    assert_eq!(size_of::<Frag>(), 16, "Frag");
    assert_eq!(size_of::<FragMut>(), 16, "FragMut");
    assert_eq!(size_of::<Option<Frag>>(), 16, "the pointer's niche");
    assert_eq!(size_of::<Option<FragMut>>(), 16, "the pointer's niche");
    assert_eq!(size_of::<Option<RawFrag>>(), 16, "the pointer's niche");
    assert_eq!(
        size_of::<Result<FragMut, Error>>(),
        16,
        "an error fits beside the niche"
    );
    assert_eq!(
        size_of::<Result<Frag, Error>>(),
        16,
        "an error fits beside the niche"
    );
    assert_eq!(
        size_of::<PagePool>(),
        size_of::<Option<PagePool>>(),
        "a pool has a niche"
    );
}

#[test]
fn handles_go_where_they_may() {
    fn goes_anywhere<T: Send + Sync>() {}
    goes_anywhere::<RawFrag>();
    goes_anywhere::<Frag>();
    goes_anywhere::<FragMut>();
    goes_anywhere::<PagePool>();
    goes_anywhere::<LocalCache>();
    goes_anywhere::<Error>();
}

#[test]
fn geometry_is_what_the_documents_say() {
    assert_eq!(
        (LINE, MIN_PAGE, DEFAULT_PAGE, MAX_PAGE),
        (64, 4096, 32768, 1 << 20)
    );
    assert_eq!(REGION, 2 << 20);
    assert!(os_page_size().is_power_of_two());
}

// What is there is found before anything is refused ----------------------------

#[test]
fn a_trim_that_finds_a_page_in_use_keeps_all_the_others() {
    let pool = PagePool::builder().page_size(MIN_PAGE).build().unwrap();
    let mut cache = PageFragCache::new(&pool);
    // The pages of a region are free in several words; only the last has one in use.
    let mut frags: Vec<_> = (0..REGION / MIN_PAGE)
        .map(|_| cache.alloc(MIN_PAGE).unwrap())
        .collect();
    let survivor = frags.pop();
    drop((frags, cache));
    assert_eq!(pool.trim(), 0);
    let stats = pool.audit().unwrap();
    assert_eq!((stats.pages_in_use, stats.pages_returned), (1, 0));
    assert_eq!(stats.pages_free, stats.pages_obtained - 1);
    drop(survivor);
    assert_eq!(pool.trim(), 1);
}

#[test]
fn the_last_of_many_orphans_is_found_before_an_allocation_is_refused() {
    let pool = PagePool::builder().max_bytes(REGION).build().unwrap();
    let kept: Vec<_> = (0..REGION / DEFAULT_PAGE)
        .map(|nth| {
            let mut cache = PageFragCache::new(&pool);
            let last = nth == REGION / DEFAULT_PAGE - 1;
            // Each cache lets go of its page, of which only the last has room.
            cache
                .alloc(DEFAULT_PAGE - if last { LINE } else { 0 })
                .unwrap()
        })
        .collect();
    assert_eq!(pool.stats().pages_orphaned, kept.len() as u64);
    let mut cache = PageFragCache::new(&pool);
    let found = cache.alloc(LINE).unwrap();
    assert_eq!(found.page(), kept[kept.len() - 1].page());
    assert_eq!(cache.alloc(LINE).unwrap_err(), Error::Exhausted);
}

#[test]
fn a_cap_between_two_regions_is_not_exceeded() {
    let max = REGION + REGION / 2;
    let pool = PagePool::builder().max_bytes(max).build().unwrap();
    let mut cache = PageFragCache::new(&pool);
    let kept: Vec<_> = std::iter::from_fn(|| cache.alloc(DEFAULT_PAGE).ok()).collect();
    assert_eq!(kept.len(), REGION / DEFAULT_PAGE);
    assert_eq!(pool.stats().regions_peak, 1);
}

#[test]
fn a_refusal_of_the_system_leaves_no_trace() {
    if !is_child() {
        return in_a_child("a_refusal_of_the_system_leaves_no_trace");
    }
    let pool = PagePool::builder().build().unwrap();
    let mut cache = PageFragCache::new(&pool);
    limit_addresses(Some(0));
    // As many as a pool can have regions.
    for _ in 0..70_000 {
        assert_eq!(cache.alloc(1).unwrap_err(), Error::OutOfMemory);
    }
    limit_addresses(None);
    assert_eq!(cache.alloc(1).unwrap().len(), 1);
}

#[test]
fn without_a_descriptor_to_ask_with_no_huge_pages_are_told() {
    if !is_child() {
        return in_a_child("without_a_descriptor_to_ask_with_no_huge_pages_are_told");
    }
    let pool = PagePool::builder().build().unwrap();
    let mut frag = PageFragCache::new(&pool).alloc(DEFAULT_PAGE).unwrap();
    frag.fill(1);
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for the answer.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) };
    assert_eq!(failed, 0, "a process may know its limits");
    let allow = |descriptors| {
        let limit = libc::rlimit {
            rlim_cur: descriptors,
            ..before
        };
        // SAFETY: a valid limit.
        let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(failed, 0, "a process may lower its limits");
    };
    allow(0);
    let stats = pool.audit().unwrap();
    // A sanitizer needs one at the end.
    allow(before.rlim_cur);
    assert_eq!((stats.huge_bytes, stats.regions_mapped), (0, 1));
}
