//! What a pool promises when the OS does not take a region back.
//!
//! This program has a `munmap` of its own, before the C library's, which refuses
//! regions while a test says so. Tests of one process; they take turns.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use pagefrag::{PageFragCache, PagePool, REGION, RegionWatch};

static REFUSES: AtomicBool = AtomicBool::new(false);

/// As the C library's, which it hides from this program.
///
/// # Safety
/// As `munmap(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> i32 {
    if len > REGION && REFUSES.load(Ordering::SeqCst) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    let done = unsafe { libc::syscall(libc::SYS_munmap, address, len) };
    i32::from(done == 0) - 1
}

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
