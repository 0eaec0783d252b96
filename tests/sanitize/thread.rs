//! Bytes that two threads touch without an order between them; and the same with one.
//!
//! What the threads say to each other goes through one atomic word of this file, so that
//! nothing else orders what they do.

use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread;

use pagefrag::{FragMut, PageFragCache, PagePool};

use super::Fault;

pub(crate) const FAULTS: &[Fault] = &[
    ("race-on-a-payload", race_on_a_payload),
    ("race-with-the-next-owner", race_with_the_next_owner),
];

const SIZE: usize = 1500;

/// One place for one fragment on its way; null when it is empty.
struct Hatch(AtomicPtr<FragMut>);

impl Hatch {
    fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn put(&self, frag: FragMut, order: Ordering) {
        let boxed = Box::into_raw(Box::new(frag));
        while self
            .0
            .compare_exchange(ptr::null_mut(), boxed, order, Ordering::Relaxed)
            .is_err()
        {
            thread::yield_now();
        }
    }

    fn take(&self, order: Ordering) -> FragMut {
        loop {
            let boxed = self.0.swap(ptr::null_mut(), order);
            if !boxed.is_null() {
                // SAFETY: made by `put`, and taken out once.
                return *unsafe { Box::from_raw(boxed) };
            }
            thread::yield_now();
        }
    }
}

/// One thread takes and writes, the other compares and gives back.
fn hand_over(count: usize, put: Ordering, take: Ordering) {
    let pool = PagePool::new(32 * 1024).expect("a power of two");
    let hatch = Hatch::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = Vec::new();
            for number in 0..count {
                let frag = hatch.take(take);
                assert!(frag.iter().all(|&byte| byte == stamp(number)), "damaged");
                // Some live longer, so that pages retire and become holes.
                kept.push(frag);
                if number % 7 == 0 {
                    kept.clear();
                }
            }
        });
        let mut cache = PageFragCache::new(&pool);
        for number in 0..count {
            let mut frag = cache.alloc(SIZE).expect("memory");
            frag.fill(stamp(number));
            hatch.put(frag, put);
        }
    });
    assert_eq!(pool.audit().expect("the books balance").live_bytes, 0);
}

fn stamp(number: usize) -> u8 {
    u8::try_from(number % 251).expect("below 256")
}

pub(crate) fn sound() {
    hand_over(200_000, Ordering::Release, Ordering::Acquire);
    println!("200000 fragments handed over, none damaged");
}

/// The fragment changes hands, and what was written into it is not published.
fn race_on_a_payload() {
    hand_over(2_000, Ordering::Relaxed, Ordering::Relaxed);
}

/// A thread gives a fragment back and writes into it once more, while its owner has
/// carved the same bytes again.
fn race_with_the_next_owner() {
    let pool = PagePool::new(4096).expect("a power of two");
    let mut cache = PageFragCache::new(&pool);
    let hatch = Hatch::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2_000 {
                let mut frag = hatch.take(Ordering::Acquire);
                let stale = frag.as_mut_ptr();
                drop(frag);
                // SAFETY: none, that is the fault; the cache keeps the page mapped.
                unsafe { stale.write_volatile(1) };
            }
        });
        for _ in 0..2_000 {
            let mut frag = cache.alloc(SIZE).expect("memory");
            frag.fill(0);
            black_box(&frag[..]);
            hatch.put(frag, Ordering::Release);
        }
    });
}
