//! Pages and regions between caches, the depot and the OS.

use loom::thread;

use super::{PAGE, Payload, Turn, model, overlaps, place, pool, settled, takes_a_line};
use crate::mem::os;
use crate::{Error, Granule, LINE, LocalCache, PageFragCache, PagePool, thread_exit};

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
        let other = takes_a_line(&pool);
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

#[test]
fn two_growers_of_one_directory() {
    model(|| {
        let pool = pool(None);
        let theirs = pool.clone();
        let other = thread::spawn(move || {
            let mut cache = PageFragCache::new(&theirs);
            drop(cache.alloc(LINE).unwrap());
        });
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        other.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_home_that_was_given_up_is_taken_over() {
    model(|| {
        let pool = pool(None);
        let here = LocalCache::new(&pool, Granule::Line);
        let there = here.clone();
        let other = thread::spawn(move || {
            there.with(|_| ());
            thread_exit();
        });
        here.with(|_| ());
        here.with(|_| ());
        other.join().unwrap();
        thread_exit();
        drop(here);
        settled(&pool);
    });
}

/// Looks at every region and at nothing in it, as statistics do first.
fn look(pool: &PagePool) {
    pool.depot().inspect(|region| assert_ne!(region.base(), 0));
}

#[test]
fn a_look_at_a_region_that_is_being_mapped() {
    model(|| {
        let pool = pool(None);
        let theirs = pool.clone();
        let looking = thread::spawn(move || look(&theirs));
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        looking.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_look_at_a_region_that_a_trim_has_left() {
    model(|| {
        let pool = pool(None);
        let (theirs, mapped) = (pool.clone(), Turn::new());
        let (before, trimmed) = (mapped.clone(), Turn::new());
        let then = trimmed.clone();
        let trimming = thread::spawn(move || {
            if before.has_come() {
                // Its first page is in use: the others are put back as they were.
                assert_eq!(theirs.trim(), 0);
                then.comes();
            }
        });
        let theirs = pool.clone();
        let looking = thread::spawn(move || {
            if trimmed.has_come() {
                look(&theirs);
            }
        });
        let mut cache = PageFragCache::new(&pool);
        let frag = cache.alloc(LINE).unwrap();
        mapped.comes();
        trimming.join().unwrap();
        looking.join().unwrap();
        drop(frag);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_page_that_comes_home_is_marked_however_it_was_looked_for() {
    model(|| {
        let pool = pool(Some(1));
        let mut cache = PageFragCache::new(&pool);
        let home = cache.alloc(PAGE).unwrap();
        // The region's other page, so that only the first is left.
        let mut other_page = PageFragCache::new(&pool);
        let full = other_page.alloc(PAGE).unwrap();
        let looking = takes_a_line(&pool);
        drop(home);
        drop(cache);
        looking.join().unwrap();
        assert!(pool.depot().marks_all_free());
        drop(full);
        drop(other_page);
        settled(&pool);
    });
}

#[test]
fn a_new_region_is_marked_however_it_was_looked_for() {
    model(|| {
        let pool = pool(Some(1));
        let looking = takes_a_line(&pool);
        let mut cache = PageFragCache::new(&pool);
        let frag = cache.alloc(LINE);
        looking.join().unwrap();
        assert!(pool.depot().marks_all_free());
        drop(frag);
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_slot_that_a_refusal_gave_up_is_taken_as_it_was_left() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        cache.drain();
        let (theirs, trimmed) = (pool.clone(), Turn::new());
        let (before, refused) = (trimmed.clone(), Turn::new());
        let then = refused.clone();
        let trimming = thread::spawn(move || {
            theirs.trim();
            trimmed.comes();
        });
        let theirs = pool.clone();
        let refusing = thread::spawn(move || {
            if before.has_come() {
                os::refuse_from_here();
                assert!(PageFragCache::new(&theirs).alloc(LINE).is_err());
                then.comes();
            }
        });
        if refused.has_come() {
            drop(cache.alloc(LINE).unwrap());
        }
        trimming.join().unwrap();
        refusing.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}

#[test]
fn a_page_of_a_region_that_the_os_left_us() {
    model(|| {
        let pool = pool(None);
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE).unwrap());
        cache.drain();
        let theirs = pool.clone();
        let refused = thread::spawn(move || {
            os::refuse_from_here();
            assert_eq!(theirs.trim(), 0);
        });
        drop(cache.alloc(LINE).unwrap());
        refused.join().unwrap();
        drop(cache);
        settled(&pool);
    });
}
