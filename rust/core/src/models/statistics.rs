//! Somebody counts while others carve, grow, let go and adopt.
//!
//! Who counts reads so many words, each of which may be found as it was before or after, that a
//! story in which a page changes hands takes loom a preemption fewer: one, where others have two,
//! is the count as a whole at any step of the other thread, of whose last stores it has missed
//! any.

use loom::thread;

use super::{PAGE, model, model_with_fewer, pool, settled};
use crate::{FragMut, LINE, PageFragCache, PagePool, REGION};

/// Counts, and sees nothing that cannot have been, and what lies still in full: so many `quiet`
/// bytes, of whole pages that nobody touches.
fn count(pool: &PagePool, quiet: usize) {
    let stats = pool.counts();
    let pages = stats.regions_mapped * (REGION / PAGE) as u64;
    assert!(stats.regions_mapped <= stats.regions_peak, "{stats:?}");
    assert!(pages <= stats.pages_obtained, "{stats:?}");
    let seen = stats.pages_in_use + stats.pages_free;
    assert!(seen <= pages, "{stats:?}");
    assert!(stats.held_bytes >= quiet as u64, "{stats:?}");
    assert!(stats.live_bytes >= quiet as u64, "{stats:?}");
    assert!(stats.pinned_bytes <= stats.held_bytes, "{stats:?}");
    // A page on its way from one to another is nobody's for a moment, with all that lives in it.
    assert!(stats.live_bytes <= pages * stats.page_size, "{stats:?}");
}

/// Nobody works any more: what lives is exactly that.
fn counted(pool: &PagePool, live: usize) {
    let stats = pool.audit().expect("balanced books");
    assert_eq!(stats.live_bytes, live as u64, "{stats:?}");
}

/// A page that nobody touches while others count.
fn quiet_page(pool: &PagePool) -> (PageFragCache, FragMut) {
    let mut cache = PageFragCache::new(pool);
    let frag = cache.alloc(PAGE).unwrap();
    (cache, frag)
}

#[test]
fn statistics_against_carving() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let first = cache.alloc(LINE).unwrap();
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            count(&theirs, 0);
            drop(first);
        });
        let second = cache.alloc(LINE).unwrap();
        drop(cache.alloc(LINE).unwrap());
        drop(second);
        other.join().unwrap();
        counted(&pool, 0);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn statistics_against_growth() {
    model_with_fewer(1, || {
        let pool = pool(None);
        let full = [quiet_page(&pool), quiet_page(&pool)];
        let mut cache = PageFragCache::new(&pool);
        let theirs = pool.clone();
        let other = thread::spawn(move || count(&theirs, 2 * PAGE));
        let frag = cache.alloc(LINE).unwrap();
        other.join().unwrap();
        counted(&pool, 2 * PAGE + LINE);
        drop((frag, cache, full));
        settled(&pool);
    });
}

#[test]
fn statistics_against_letting_go() {
    model_with_fewer(1, || {
        let pool = pool(None);
        let full = quiet_page(&pool);
        let mut cache = PageFragCache::new(&pool);
        let survivor = cache.alloc(LINE).unwrap();
        let theirs = pool.clone();
        let other = thread::spawn(move || count(&theirs, PAGE));
        drop(cache);
        other.join().unwrap();
        counted(&pool, PAGE + LINE);
        drop((survivor, full));
        settled(&pool);
    });
}

#[test]
fn statistics_against_adoption() {
    model_with_fewer(1, || {
        let pool = pool(None);
        let full = quiet_page(&pool);
        let mut cache = PageFragCache::new(&pool);
        let [one, two, survivor] = [(); 3].map(|()| cache.alloc(LINE).unwrap());
        drop(cache);
        // Nobody's, so these leave notes, which are claimed while somebody counts.
        drop((one, two));
        let mut cache = PageFragCache::new(&pool);
        let theirs = pool.clone();
        let other = thread::spawn(move || count(&theirs, PAGE));
        let frag = cache.alloc(LINE).unwrap();
        other.join().unwrap();
        counted(&pool, PAGE + 2 * LINE);
        assert_eq!(cache.stats().adopted, 1);
        drop((frag, cache, survivor, full));
        settled(&pool);
    });
}
