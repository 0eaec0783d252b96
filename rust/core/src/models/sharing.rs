//! Several holders of one fragment.

use loom::thread;

use super::{PAGE, Payload, model, pool, settled};
use crate::{Frag, Granule, LINE, PageFragCache};

#[test]
fn clone_against_drop() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let frag: Frag = cache.alloc(LINE).unwrap().freeze();
        let other = frag.clone();
        let bytes = Payload::new();
        let witness = bytes.clone();
        let reader = thread::spawn(move || {
            let again = other.clone();
            witness.read();
            drop(other);
            drop(again);
        });
        let third = frag.clone();
        drop(frag);
        // Whoever is alone may write.
        if third.try_into_mut().is_ok() {
            bytes.write();
        }
        reader.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn the_last_of_two_sharers_on_two_threads() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let whole: Frag = cache.alloc(PAGE).unwrap().freeze();
        let part = whole.slice(1..2);
        let bytes = Payload::new();
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            witness.read();
            drop(part);
        });
        drop(whole);
        // The region has another page; if it is this one again, we may write.
        let first = cache.alloc(PAGE).unwrap();
        let second = cache.alloc(PAGE);
        if second.is_ok() {
            bytes.write();
        }
        other.join().unwrap();
        drop((first, second));
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn byte_pages_clone_against_drop_and_reuse() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
        let frag: Frag = cache.alloc(PAGE).unwrap().freeze();
        let other = frag.clone();
        let bytes = Payload::new();
        let witness = bytes.clone();
        let reader = thread::spawn(move || {
            witness.read();
            drop(other);
        });
        let page = frag.page();
        drop(frag);
        let next = cache.alloc(PAGE).unwrap();
        if next.page() == page {
            bytes.write();
        }
        reader.join().unwrap();
        drop(next);
        drop(cache);
        settled(&pool);
    });
}
