//! Stories that two or three threads can tell about a page, in every order.
//!
//! Each model runs under loom, which tries all interleavings (up to a bound on
//! preemptions) and all values that the memory orderings allow. Geometry is
//! tiny here: a word has two lines, a page two words, a region two pages. Owner
//! cells check the plain-writer rule, and a `Payload` checks that bytes are
//! handed on only to who may see them.
//!
//! Every story ends the same way (`Pool::settled`): all fragments are dropped,
//! the books balance, and `trim` unmaps every region, so that a lost page, a
//! page given twice and a page given too early all fail it.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, mpsc};
use loom::thread;

use crate::{
    Error, Frag, FragMut, Granule, HugePages, LINE, PageFragCache, PagePool, REGION, drop_many,
};

/// Lines of a page here, and of a map word.
const PAGE: usize = crate::MAX_PAGE;
const WORD: usize = crate::MIN_PAGE;

/// Explores `story`; `LOOM_MAX_PREEMPTIONS` bounds it.
fn model(story: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(2);
    }
    builder.check(story);
}

/// A pool with one page size and, if any, a cap in regions.
fn pool(cap: Option<usize>) -> PagePool {
    let mut builder = PagePool::builder()
        .page_size(PAGE)
        .huge_pages(HugePages::Never);
    if let Some(regions) = cap {
        builder = builder.max_bytes(regions * REGION);
    }
    builder.build().expect("a valid pool")
}

/// All is dropped: the books balance and nothing stays mapped.
fn settled(pool: &PagePool) {
    let stats = pool.audit().expect("balanced books");
    assert_eq!(stats.live_bytes, 0, "{stats:?}");
    assert_eq!(stats.pages_in_use, 0, "{stats:?}");
    pool.trim();
    assert_eq!(pool.stats().regions_mapped, 0, "a page was lost");
}

/// Stands for the bytes of one line: who writes must be alone with it.
#[derive(Clone)]
struct Payload(Arc<UnsafeCell<()>>);

impl Payload {
    fn new() -> Self {
        Self(Arc::new(UnsafeCell::new(())))
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }

    fn read(&self) {
        self.0.with(|_| ());
    }
}

/// Is any byte of `new` where `old` was?
fn overlaps(new: &FragMut, old: (usize, usize)) -> bool {
    let start = new.as_ptr().addr();
    start < old.0 + old.1 && old.0 < start + new.capacity()
}

fn place(frag: &FragMut) -> (usize, usize) {
    (frag.as_ptr().addr(), frag.capacity())
}

#[test]
fn remote_free_against_sweep() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let keep = cache.alloc(LINE).unwrap();
        let there = cache.alloc(LINE).unwrap();
        let old = place(&there);
        let bytes = Payload::new();
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            witness.write();
            drop(there);
        });
        // Two lines are left in the page; the third needs a sweep or a page.
        let fill: Vec<_> = (0..3).map(|_| cache.alloc(LINE).unwrap()).collect();
        if fill.iter().any(|frag| overlaps(frag, old)) {
            bytes.write();
        }
        other.join().unwrap();
        drop((fill, keep));
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_free_across_words_against_sweep() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let keep = cache.alloc(LINE).unwrap();
        // Lines 1 and 2: the end of one word and the start of the next.
        let there = cache.alloc(WORD).unwrap();
        let old = place(&there);
        let bytes = Payload::new();
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            witness.write();
            drop(there);
        });
        let next = cache.alloc(WORD).unwrap();
        if overlaps(&next, old) {
            bytes.write();
        }
        other.join().unwrap();
        drop((next, keep));
        drop(cache);
        settled(&pool);
    });
}

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
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            witness.write();
            drop(one);
        });
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
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            witness.write();
            drop(one);
        });
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
fn give_back_against_take() {
    model(|| {
        let pool = pool(Some(1));
        let theirs = pool.clone();
        let mut cache = PageFragCache::new(&pool);
        let frag = cache.alloc(PAGE).unwrap();
        let old = place(&frag);
        let bytes = Payload::new();
        let witness = bytes.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            let one = cache.alloc(PAGE).unwrap();
            let two = cache.alloc(PAGE);
            if overlaps(&one, old) || two.as_ref().is_ok_and(|two| overlaps(two, old)) {
                witness.write();
            }
        });
        bytes.write();
        drop(frag);
        drop(cache);
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn two_takers_of_the_last_page() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let first = cache.alloc(PAGE).unwrap();
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            let frag = cache.alloc(PAGE);
            (frag.is_ok(), frag.err())
        });
        let mut second = PageFragCache::new(&pool);
        let mine = second.alloc(PAGE);
        let (theirs, refusal) = other.join().unwrap();
        // One may have had it after the other gave it back, but nobody was
        // refused for another reason.
        assert!(theirs || mine.is_ok());
        assert!(refusal.is_none_or(|refusal| refusal == Error::Exhausted));
        drop((first, mine));
        drop((cache, second));
        settled(&pool);
    });
}

#[test]
fn two_growers_under_one_cap() {
    model(|| {
        let pool = pool(Some(1));
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            drop(cache.alloc(LINE));
        });
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE));
        other.join().unwrap();
        drop(cache);
        assert!(pool.stats().regions_peak <= 1, "the cap was exceeded");
        settled(&pool);
    });
}

#[test]
fn trim_against_take() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        cache.drain();
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            theirs.trim();
        });
        let frag = cache.alloc(LINE).unwrap();
        other.join().unwrap();
        drop(frag);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn trim_against_the_last_free() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let last = cache.alloc(LINE).unwrap();
        drop(cache);
        let other = thread::spawn(move || drop(last));
        pool.trim();
        other.join().unwrap();
        settled(&pool);
    });
}

#[test]
fn two_trims() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        drop(cache);
        let theirs = pool.clone();
        let other = thread::spawn(move || theirs.trim());
        let here = pool.trim();
        assert_eq!(here + other.join().unwrap(), 1, "unmapped once");
        settled(&pool);
    });
}

#[test]
fn the_last_free_after_the_pool_handle_is_gone() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        let one = cache.alloc(LINE).unwrap();
        let two = cache.alloc(LINE).unwrap();
        drop(cache);
        drop(pool);
        let other = thread::spawn(move || drop(one));
        drop(two);
        other.join().unwrap();
        // Loom's end of the story finds what was not unmapped as a leak.
    });
}

#[test]
fn statistics_against_trim() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        drop(cache);
        let theirs = pool.clone();
        // Reading a header that has just been unmapped would be the end.
        let other = thread::spawn(move || assert_eq!(theirs.stats().live_bytes, 0));
        pool.trim();
        other.join().unwrap();
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

#[test]
fn a_vacated_shelf_is_taken_as_it_was_left() {
    model(|| {
        let pool = pool(None);
        let cache = PageFragCache::new(&pool);
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            drop(cache.alloc(LINE).unwrap());
        });
        drop(cache);
        other.join().unwrap();
        settled(&pool);
    });
}
