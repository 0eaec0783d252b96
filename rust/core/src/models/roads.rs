//! Frees from elsewhere against the owner's sweep and the owner's cursor.

use super::{Payload, WORD, model, overlaps, place, pool, settled};
use crate::{LINE, PageFragCache, drop_many};

/// A story of a cache of its own, in a pool of one region.
fn one_cache(story: impl Fn(&mut PageFragCache) + Sync + Send + 'static) {
    model(move || {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        story(&mut cache);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn remote_free_against_sweep() {
    one_cache(|cache| {
        let keep = cache.alloc(LINE).unwrap();
        let there = cache.alloc(LINE).unwrap();
        let old = place(&there);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(there));
        // Two lines are left in the page; the third needs a sweep or a page.
        let fill: Vec<_> = (0..3).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop((fill, keep));
    });
}

#[test]
fn a_run_across_words_against_sweep() {
    one_cache(|cache| {
        let keep = cache.alloc(LINE).unwrap();
        // Lines 1 and 2, freed as one.
        let run: Vec<_> = (0..2).map(|_| cache.alloc(LINE).unwrap()).collect();
        let old = (place(&run[0]).0, WORD);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop_many(run));
        let next = cache.alloc(WORD).unwrap();
        if overlaps(&next, old) {
            bytes.write();
        }
        other.join().unwrap();
        drop((next, keep));
    });
}

#[test]
fn a_free_across_words_against_sweep() {
    one_cache(|cache| {
        let keep = cache.alloc(LINE).unwrap();
        // Lines 1 and 2: the end of one word and the start of the next.
        let there = cache.alloc(WORD).unwrap();
        let old = place(&there);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(there));
        let next = cache.alloc(WORD).unwrap();
        if overlaps(&next, old) {
            bytes.write();
        }
        other.join().unwrap();
        drop((next, keep));
    });
}

#[test]
fn the_way_back_against_a_free_from_elsewhere() {
    one_cache(|cache| {
        let keep = cache.alloc(LINE).unwrap();
        let there = cache.alloc(LINE).unwrap();
        let last = cache.alloc(LINE).unwrap();
        let (old, end) = (place(&there), place(&last));
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(there));
        // Back to the end of what the other thread frees meanwhile, not beyond.
        drop(last);
        let again = cache.alloc(WORD).unwrap();
        assert_eq!(place(&again).0, end.0);
        drop(again);
        let fill: Vec<_> = (0..3).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop((fill, keep));
    });
}

#[test]
fn the_last_carved_freed_elsewhere_leaves_the_cursor() {
    one_cache(|cache| {
        let last = cache.alloc(LINE).unwrap();
        let old = place(&last);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(last));
        // The free goes by its road, whatever the owner does with the cursor.
        let room = cache.prepare(LINE).unwrap();
        let next = room.commit(LINE).unwrap();
        assert!(!overlaps(&next, old));
        drop(next);
        let fill: Vec<_> = (0..4).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop(fill);
    });
}
