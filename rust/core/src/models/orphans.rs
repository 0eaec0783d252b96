//! Letting go, adopting, and the last free.

use loom::sync::mpsc;
use loom::thread;

use super::{PAGE, Payload, WORD, model, overlaps, place, pool, settled, takes_a_line};
use crate::{Granule, LINE, PageFragCache, drop_many};

#[test]
fn orphaning_against_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let there = cache.alloc(LINE).unwrap();
        let other = thread::spawn(move || drop(there));
        drop(cache);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn orphaning_against_a_free_across_words() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let first = cache.alloc(LINE).unwrap();
        let there = cache.alloc(WORD).unwrap();
        let other = thread::spawn(move || drop(there));
        drop(cache);
        drop(first);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn orphaning_against_two_frees() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let one = cache.alloc(LINE).unwrap();
        let two = cache.alloc(WORD).unwrap();
        let first = thread::spawn(move || drop(one));
        let second = thread::spawn(move || drop(two));
        drop(cache);
        first.join().unwrap();
        second.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn the_last_two_frees_of_an_orphan() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let one = cache.alloc(WORD).unwrap();
        let two = cache.alloc(WORD).unwrap();
        drop(cache);
        let other = thread::spawn(move || drop(one));
        drop(two);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn the_last_free_sees_what_the_others_wrote() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let one = cache.alloc(WORD).unwrap();
        let two = cache.alloc(WORD).unwrap();
        let old = place(&one);
        drop(cache);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(one));
        drop(two);
        let mut cache = PageFragCache::new(&pool);
        let all = cache.alloc(PAGE).unwrap();
        if overlaps(&all, old) {
            bytes.write();
        }
        other.join().unwrap();
        drop(all);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn adoption_against_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let one = cache.alloc(LINE).unwrap();
        let two = cache.alloc(LINE).unwrap();
        let old = place(&one);
        drop(cache);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(one));
        let mut cache = PageFragCache::new(&pool);
        let fill: Vec<_> = (0..3).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop((fill, two));
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn adoption_against_the_last_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let last = cache.alloc(LINE).unwrap();
        drop(cache);
        let other = thread::spawn(move || drop(last));
        let mut cache = PageFragCache::new(&pool);
        let mine = cache.alloc(LINE).unwrap();
        other.join().unwrap();
        drop(mine);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn two_adopters_of_one_orphan() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let survivor = cache.alloc(LINE).unwrap();
        drop(cache);
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            drop(cache.alloc(LINE).unwrap());
        });
        let mut cache = PageFragCache::new(&pool);
        let mine = cache.alloc(LINE).unwrap();
        other.join().unwrap();
        drop((mine, survivor));
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn orphaned_adopted_and_orphaned_again_against_a_slow_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let slow = cache.alloc(LINE).unwrap();
        let other = thread::spawn(move || drop(slow));
        drop(cache);
        let mut cache = PageFragCache::new(&pool);
        let mine = cache.alloc(LINE).unwrap();
        drop(cache);
        drop(mine);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn thread_exit_against_free() {
    model(|| {
        let pool = pool(None);
        let theirs = pool.clone();
        let (send, receive) = mpsc::channel();
        let owner = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            send.send(cache.alloc(LINE).unwrap()).unwrap();
            // The cache is drained here, while the other end frees.
        });
        drop(receive.recv().unwrap());
        owner.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn two_exits_with_each_others_fragments() {
    model(|| {
        let pool = pool(None);
        let theirs = pool.clone();
        let mut cache = PageFragCache::new(&pool);
        let gift = cache.alloc(LINE).unwrap();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            let back = cache.alloc(LINE).unwrap();
            drop(cache);
            drop(gift);
            back
        });
        drop(cache);
        drop(other.join().unwrap());
        settled(&pool);
    });
}

#[test]
fn a_batch_against_orphaning() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let frags: Vec<_> = (0..3).map(|_| cache.alloc(LINE).unwrap()).collect();
        let other = thread::spawn(move || drop_many(frags));
        drop(cache);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn a_batch_against_a_free_of_its_neighbour() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let frags: Vec<_> = (0..2).map(|_| cache.alloc(LINE).unwrap()).collect();
        let rest = cache.alloc(WORD).unwrap();
        drop(cache);
        let other = thread::spawn(move || drop_many(frags));
        drop(rest);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn byte_pages_orphaning_against_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
        let one = cache.alloc(10).unwrap();
        let two = cache.alloc(20).unwrap();
        let other = thread::spawn(move || drop(two));
        drop(cache);
        drop(one);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn what_landed_while_letting_go_is_seen() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let there = cache.alloc(LINE).unwrap();
        let old = place(&there);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(there));
        drop(cache);
        // The page comes back to this thread only when the other is done with it.
        let mut cache = PageFragCache::new(&pool);
        let all: Vec<_> = (0..2).map_while(|_| cache.alloc(PAGE).ok()).collect();
        if all.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop(all);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn an_orphan_is_found_however_it_was_looked_for() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let survivor = cache.alloc(LINE).unwrap();
        // The region's other page, so that only the orphan is left.
        let mut other_page = PageFragCache::new(&pool);
        let full = other_page.alloc(PAGE).unwrap();
        let looking = takes_a_line(&pool);
        drop(cache);
        looking.join().unwrap();
        let mut cache = PageFragCache::new(&pool);
        let found = cache.alloc(LINE).expect("an orphan with room");
        drop((found, survivor, full));
        drop((cache, other_page));
        settled(&pool);
    });
}

#[test]
fn a_note_that_has_not_landed_waits() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let slow = cache.alloc(LINE).unwrap();
        let landed = cache.alloc(LINE).unwrap();
        let keep = cache.alloc(LINE).unwrap();
        let old = place(&slow);
        drop(cache);
        let bytes = Payload::new();
        let other = bytes.written_elsewhere(move || drop(slow));
        // One has landed when the page is adopted, the other may be on its way.
        drop(landed);
        let mut cache = PageFragCache::new(&pool);
        let fill: Vec<_> = (0..2).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop((fill, keep));
        drop(cache);
        settled(&pool);
    });
}
