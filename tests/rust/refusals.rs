//! What a pool promises when the OS gives no region, does not take one back, or takes no advice.
//!
//! This program has a `mmap`, a `munmap` and a `madvise` of its own, before the C library's, which
//! refuse regions while a test says so. Tests of one process; they take turns.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use pagefrag::{Error, PageFragCache, PagePool, REGION, RegionWatch};
use pagefrag_tests::system;

/// Does the OS give no regions?
static GIVES_NONE: AtomicBool = AtomicBool::new(false);
/// Does it take none back, and no advice?
static REFUSES: AtomicBool = AtomicBool::new(false);
/// Does it cut nothing off a region?
static KEEPS_ENDS: AtomicBool = AtomicBool::new(false);
/// The mapping of the region that it gave last: where it began, and how much of it is left.
static LAST: AtomicUsize = AtomicUsize::new(0);
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// As the C library's, which it hides from this program.
///
/// # Safety
/// As `mmap(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: usize,
    protection: i32,
    flags: i32,
    file: i32,
    offset: i64,
) -> *mut c_void {
    if len > REGION && GIVES_NONE.load(Ordering::SeqCst) {
        return libc::MAP_FAILED;
    }
    // SAFETY: the caller's own arguments.
    let made = unsafe { system::map(address, len, protection, flags, file, offset) };
    if len > REGION && made != libc::MAP_FAILED {
        LAST.store(made.addr(), Ordering::SeqCst);
        LEFT.store(len, Ordering::SeqCst);
    }
    made
}

/// As the C library's, which it hides from this program.
///
/// # Safety
/// As `munmap(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> i32 {
    let refused = if len > REGION { &REFUSES } else { &KEEPS_ENDS };
    if refused.load(Ordering::SeqCst) {
        return -1;
    }
    // A region, its header, and what it is aligned by.
    if address.addr().wrapping_sub(LAST.load(Ordering::SeqCst)) < 3 * REGION {
        LEFT.fetch_sub(len, Ordering::SeqCst);
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::unmap(address, len) }
}

/// As the C library's, which it hides from this program.
///
/// # Safety
/// As `madvise(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: i32) -> i32 {
    if len == REGION && REFUSES.load(Ordering::SeqCst) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::advise(address, len, advice) }
}

thread_local!(static CALLS: Cell<u64> = const { Cell::new(0) });

/// The system's heap, with a count of calls per thread.
struct Counting;

// SAFETY: all of it is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's layout, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's block and layout, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Regions in the books.
static NOTED: AtomicIsize = AtomicIsize::new(0);
/// The pool that has something asked of it while the watch is told, by another thread.
static POOL: Mutex<Option<PagePool>> = Mutex::new(None);

fn mapped(_: NonNull<u8>, _: usize) {
    NOTED.fetch_add(1, Ordering::SeqCst);
    if REFUSES.load(Ordering::SeqCst)
        && let Some(pool) = POOL.lock().unwrap().take()
    {
        let work = || {
            assert_eq!(pool.stats().regions_mapped, 1);
            PageFragCache::new(&pool).alloc(1500).map(drop)
        };
        let done = thread::scope(|scope| scope.spawn(work).join().unwrap());
        assert_eq!(done, Ok(()), "nobody has to wait for the watch");
    }
}

fn unmapped(_: NonNull<u8>, _: usize) {
    NOTED.fetch_sub(1, Ordering::SeqCst);
}

/// A pool of one region that is watched, which is free.
fn free_region() -> PagePool {
    let watch = RegionWatch { mapped, unmapped };
    // SAFETY: the watch uses no pool itself; the thread that it waits for does.
    let builder = unsafe { PagePool::builder().max_bytes(REGION).watch(watch) };
    let pool = builder.build().unwrap();
    drop(PageFragCache::new(&pool).alloc(1500).unwrap());
    pool
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_region_that_is_not_given_leaves_no_trace() {
    let _turn = turn();
    let pool = PagePool::builder().build().unwrap();
    let mut cache = PageFragCache::new(&pool);
    GIVES_NONE.store(true, Ordering::SeqCst);
    // The first may make the place where regions are written down.
    assert_eq!(cache.alloc(1).unwrap_err(), Error::OutOfMemory);
    let before = CALLS.get();
    // More than that place has room for: each region that was not given has left its own.
    let refused = (0..1000).all(|_| cache.alloc(1).is_err_and(|e| e == Error::OutOfMemory));
    let calls = CALLS.get() - before;
    GIVES_NONE.store(false, Ordering::SeqCst);
    assert!(refused);
    assert_eq!(calls, 0, "the place for them has not grown");
    let frag = cache.alloc(1).unwrap();
    assert_eq!(pool.audit().unwrap().regions_mapped, 1);
    drop((frag, cache));
    assert_eq!(pool.trim(), 1);
}

#[test]
fn a_region_that_stays_is_in_use_before_its_watch_is_told() {
    let _turn = turn();
    let pool = free_region();
    *POOL.lock().unwrap() = Some(pool.clone());
    REFUSES.store(true, Ordering::SeqCst);
    assert_eq!(pool.trim(), 0);
    REFUSES.store(false, Ordering::SeqCst);
    assert_eq!(NOTED.load(Ordering::SeqCst), 1);
    let stats = pool.audit().unwrap();
    assert_eq!((stats.regions_mapped, stats.exhausted), (1, 0));
    assert_eq!(stats.pages_free, stats.pages_obtained, "none is lost");
    assert_eq!(pool.trim(), 1);
    assert_eq!(NOTED.load(Ordering::SeqCst), 0);
}

#[test]
fn what_a_pool_that_ends_cannot_give_back_stays_in_the_books() {
    let _turn = turn();
    let pool = free_region();
    assert_eq!(NOTED.load(Ordering::SeqCst), 1);
    REFUSES.store(true, Ordering::SeqCst);
    drop(pool);
    REFUSES.store(false, Ordering::SeqCst);
    assert_eq!(NOTED.swap(0, Ordering::SeqCst), 1);
}

#[test]
fn what_could_not_be_cut_off_a_region_goes_with_it() {
    let _turn = turn();
    let pool = PagePool::builder().build().unwrap();
    KEEPS_ENDS.store(true, Ordering::SeqCst);
    drop(PageFragCache::new(&pool).alloc(1500).unwrap());
    KEEPS_ENDS.store(false, Ordering::SeqCst);
    assert!(
        LEFT.load(Ordering::SeqCst) > 2 * REGION,
        "nothing was cut off"
    );
    assert_eq!(pool.trim(), 1);
    assert_eq!(
        LEFT.load(Ordering::SeqCst),
        0,
        "bytes of addresses are lost"
    );
}

#[test]
fn huge_pages_that_the_os_refuses_are_counted_and_no_more() {
    let _turn = turn();
    let pool = PagePool::builder().build().unwrap();
    REFUSES.store(true, Ordering::SeqCst);
    let frag = PageFragCache::new(&pool).alloc(1500).unwrap();
    REFUSES.store(false, Ordering::SeqCst);
    assert_eq!(frag.len(), 1500);
    let stats = pool.stats();
    assert_eq!((stats.huge_failed, stats.regions_mapped), (1, 1));
}
