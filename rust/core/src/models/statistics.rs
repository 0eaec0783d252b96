//! Somebody counts while others carve and free. (Whoever counts reads so many words that a story
//! with a page that changes hands as well takes loom hours; `trim_and_statistics_run_while_others_work`
//! in `tests/rust/threads.rs` runs those on real threads.)

use loom::thread;

use super::{model, pool, settled};
use crate::{LINE, PageFragCache, PagePool};

/// Counts, and sees nothing that cannot have been.
fn count(pool: &PagePool) {
    let stats = pool.counts();
    assert!(stats.regions_mapped <= stats.regions_peak.max(1));
    let seen = stats.pages_in_use + stats.pages_free;
    // Four pages: two regions at most, of two.
    assert!(seen <= 4, "{stats:?}");
    // A page on its way from one to another is nobody's for a moment, with all that lives in it.
    assert!(stats.live_bytes <= 4 * stats.page_size, "{stats:?}");
}

#[test]
fn statistics_against_carving() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let first = cache.alloc(LINE).unwrap();
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            count(&theirs);
            drop(first);
        });
        let second = cache.alloc(LINE).unwrap();
        drop(cache.alloc(LINE).unwrap());
        drop(second);
        other.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}
