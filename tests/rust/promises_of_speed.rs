//! Promise 2, which instructions are locked, and promise 3, that nobody waits:
//! counted and tried one instruction at a time, in debug and release builds
//! alike. Only x86-64 Linux can be watched this closely; what is counted here
//! holds for every build, since the code has no other paths elsewhere.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use pagefrag::{Frag, FragMut, Granule, LocalCache, PageFragCache, PagePool, REGION, drop_many};

mod common;
use common::step::{self, Executed};

/// Runs `f` with fragments that a thread, alive and quiet until `f` returns,
/// carved at `sizes` from a fresh page.
fn with_foreign<R>(sizes: &[usize], f: impl FnOnce(Vec<FragMut>) -> R) -> R {
    let pool = PagePool::new(32 * 1024).unwrap();
    let (to_here, here) = mpsc::channel();
    let (to_owner, owner) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut cache = PageFragCache::new(&pool);
            let frags: Vec<_> = sizes
                .iter()
                .map(|&size| cache.alloc(size).unwrap())
                .collect();
            to_here.send(frags).unwrap();
            assert!(owner.recv().is_err(), "told by the other end's going");
            cache.drain();
            pool.trim();
            assert_eq!(pool.audit().unwrap().regions_mapped, 0, "all came home");
        });
        let result = f(here.recv().unwrap());
        drop(to_owner);
        result
    })
}

#[test]
fn the_counter_counts_what_is_known() {
    // Seen by others as far as the compiler knows, so that nothing is folded.
    let word = AtomicU64::new(0);
    let word = std::hint::black_box(&word);
    let none = step::count(|| {
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    });
    assert_eq!(none.locked, 0, "{none:?}");
    assert!(none.instructions >= 1, "{none:?}");
    let three = step::count(|| {
        word.fetch_add(1, Ordering::Relaxed);
        word.swap(2, Ordering::Relaxed);
        let _ = word.compare_exchange(2, 3, Ordering::Relaxed, Ordering::Relaxed);
    });
    assert_eq!(
        three.locked, 3,
        "add, exchange, compare and exchange: {three:?}"
    );
}

#[test]
fn promise_2_allocating_executes_no_locked_instruction() {
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut kept = vec![cache.alloc(1).unwrap()];
        kept.reserve(16);
        for size in [1, 64, 256, 1500, 2048, 4096] {
            let executed = step::count(|| kept.extend(cache.alloc(size)));
            assert_eq!(
                executed.locked, 0,
                "alloc({size}), {granule:?}: {executed:?}"
            );
            let executed = step::count(|| kept.extend(cache.alloc_align(size, 256)));
            assert_eq!(
                executed.locked, 0,
                "alloc_align({size}), {granule:?}: {executed:?}"
            );
        }
        let executed = step::count(|| {
            kept.extend(cache.prepare(100).and_then(|room| room.commit(100)));
        });
        assert_eq!(executed.locked, 0, "prepare and commit: {executed:?}");
        assert_eq!(kept.len(), 14);
    }
}

#[test]
fn promise_2_freeing_on_the_owners_thread_executes_no_locked_instruction() {
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let _anchor = cache.alloc(64).unwrap();
        for size in [1, 64, 256, 1500, 2048, 4096, 8192] {
            let frag = cache.alloc(size).unwrap();
            let executed = step::count(|| drop(frag));
            assert_eq!(
                executed.locked, 0,
                "drop of {size}, {granule:?}: {executed:?}"
            );
        }
        let mut room = Some(cache.take_room(1000).unwrap());
        let executed = step::count(|| drop(room.take().map(|room| cache.settle(room, 300))));
        assert_eq!(executed.locked, 0, "settle, {granule:?}: {executed:?}");
    }
}

#[test]
fn promise_2_a_steady_window_on_one_thread_executes_no_locked_instruction_at_all() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::new(&pool);
    // A window that rolls over pages and holes; the first laps obtain
    // the pages, and refills that carve on in owned pages are counted too.
    let mut window: Vec<Option<FragMut>> = (0..40).map(|_| None).collect();
    let mut lap = |cache: &mut PageFragCache| {
        for (index, slot) in window.iter_mut().enumerate() {
            *slot = None;
            *slot = cache.alloc([64, 576, 1500, 2048][index % 4]).ok();
        }
    };
    (0..50).for_each(|_| lap(&mut cache));
    let taken = cache.stats().pages_taken;
    let executed = step::count(|| lap(&mut cache));
    assert_eq!(cache.stats().pages_taken, taken, "steady");
    assert_eq!(executed.locked, 0, "{executed:?}");
}

#[test]
fn promise_2_local_cache_at_home_executes_no_locked_instruction() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let cache = LocalCache::new(&pool, Granule::Line);
    let _anchor = cache.alloc(64).unwrap();
    let mut frag = None;
    let executed = step::count(|| frag = cache.alloc(1500).ok());
    assert_eq!(executed.locked, 0, "{executed:?}");
    let executed = step::count(|| drop(frag.take()));
    assert_eq!(executed.locked, 0, "{executed:?}");
}

#[test]
fn promise_2_freeing_elsewhere_executes_one_locked_instruction() {
    // From each line of a word, so that fragments cross into the next.
    for lead in [1, 64, 1000, 2048, 4032, 4096] {
        for size in [1, 64, 256, 1500, 2048, 4096, 16384] {
            let executed = with_foreign(&[lead, size, 64], |mut frags| {
                let frag = frags.swap_remove(1);
                step::count(|| drop(frag))
            });
            assert_eq!(executed.locked, 1, "{size} behind {lead}: {executed:?}");
        }
    }
}

#[test]
fn promise_2_freeing_of_an_orphan_executes_one_and_the_page_goes_home_with_a_few() {
    let pool = PagePool::new(4096).unwrap();
    for size in [1, 64, 1024, 1984] {
        let mut cache = PageFragCache::new(&pool);
        let mut frags: Vec<_> = [size, 64, size]
            .map(|size| cache.alloc(size).unwrap())
            .into();
        drop(cache);
        let last = frags.pop();
        for frag in frags {
            let executed = step::count(|| drop(frag));
            assert!(
                (1..=2).contains(&executed.locked),
                "{size} of an orphan: {executed:?}"
            );
        }
        // The last one also gives the page to the pool: a page event.
        let executed = step::count(|| drop(last));
        assert!(executed.locked >= 1, "{executed:?}");
    }
}

#[test]
fn promise_2_the_last_free_of_an_orphan_executes_few_locked_instructions() {
    let pool = PagePool::new(4096).unwrap();
    let frag = PageFragCache::new(&pool).alloc(1500).unwrap();
    let executed = step::count(|| drop(frag));
    // The tally, the ticket, and what it takes to put a page into the pool.
    assert!(executed.locked <= 8, "{executed:?}");
}

#[test]
fn promise_2_a_batch_costs_as_many_as_the_map_words_it_touches() {
    let count = |sizes: &[usize]| -> Executed {
        with_foreign(sizes, |frags| {
            let mut frags = frags.into_iter();
            // The vector's own memory is not what is counted.
            step::count(|| drop_many(frags.by_ref()))
        })
    };
    for (sizes, what) in [
        (&[512; 64][..], "64 fragments in the 8 words of a page"),
        (&[64; 128], "128 in 2 words"),
        (&[64; 64], "64 in one word"),
        (&[1536; 21], "21 that cross words"),
        (&[4096; 8], "one for each word"),
        (&[32768], "the page"),
    ] {
        assert_eq!(count(sizes).locked, 1, "neighbours: {what}");
        // In reverse order as well.
        let reverse = with_foreign(sizes, |mut frags| {
            frags.reverse();
            let mut frags = frags.into_iter();
            step::count(|| drop_many(frags.by_ref()))
        });
        assert_eq!(reverse.locked, 1, "in reverse order: {what}");
    }
    // Every other one: no neighbours, but a word is a word.
    let apart = |reverse: bool| {
        with_foreign(&[256; 128], |frags| {
            let (mut some, others): (Vec<_>, Vec<_>) =
                frags.into_iter().partition(|frag| frag.offset() % 512 == 0);
            if reverse {
                some.reverse();
            }
            let mut some = some.into_iter();
            let executed = step::count(|| drop_many(some.by_ref()));
            drop_many(others);
            executed
        })
    };
    assert_eq!(apart(false).locked, 8, "64 apart in 8 words");
    assert_eq!(apart(true).locked, 8, "the same in reverse order");
}

#[test]
fn promise_2_a_batch_of_neighbours_costs_few_instructions_each() {
    let executed = with_foreign(&[512; 64], |frags| {
        let mut frags = frags.into_iter();
        step::count(|| drop_many(frags.by_ref()))
    });
    let most = if CHECKED { 400 } else { 25 };
    assert!(executed.instructions <= 64 * most, "{executed:?}");
}

#[test]
fn promise_2_a_batch_of_an_orphan_costs_one_and_the_page() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let mut frags: Vec<FragMut> = (0..64).map(|_| cache.alloc(512).unwrap()).collect();
    drop(cache);
    let last = frags.pop();
    let mut frags = frags.into_iter();
    let executed = step::count(|| drop_many(frags.by_ref()));
    assert_eq!(executed.locked, 1, "{executed:?}");
    drop(last);
}

#[test]
fn promise_2_a_drain_costs_as_many_as_the_words_and_a_few_for_the_page() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let frags: Vec<FragMut> = (0..64).map(|_| cache.alloc(512).unwrap()).collect();
    let executed = step::count(|| cache.drain());
    assert!(
        executed.locked <= 8 + 4,
        "64 live fragments in 8 words: {executed:?}"
    );
    assert_eq!(pool.stats().pages_orphaned, 1);
    drop(frags);
}

#[test]
fn promise_2_a_share_costs_one() {
    let pool = PagePool::new(32 * 1024).unwrap();
    for granule in [Granule::Line, Granule::Byte] {
        let frag = PageFragCache::with_granule(&pool, granule)
            .alloc(1500)
            .unwrap()
            .freeze();
        let mut clone = None;
        let executed = step::count(|| clone = Some(frag.clone()));
        assert_eq!(executed.locked, 1, "{granule:?}: {executed:?}");
    }
}

// 3 ------------------------------------------------------------------------

/// Where two threads leave fragments for each other. Nobody waits for a slot:
/// one that is in use is passed over.
#[derive(Default)]
struct Table {
    slots: [Mutex<Option<Frag>>; 16],
}

impl Table {
    /// Leaves a fragment; gives it back if there is no room.
    fn put(&self, frag: Frag) -> Option<Frag> {
        for slot in &self.slots {
            if let Ok(mut slot) = slot.try_lock()
                && slot.is_none()
            {
                *slot = Some(frag);
                return None;
            }
        }
        Some(frag)
    }

    fn take(&self) -> Option<Frag> {
        self.slots
            .iter()
            .find_map(|slot| slot.try_lock().ok()?.take())
    }
}

/// All that a thread does in its life, but for mapping regions.
fn live_once(cache: &mut PageFragCache, to: &Table, from: &Table, turn: u64) {
    let size = [64, 1500, 700, 4096][usize::try_from(turn % 4).unwrap()];
    if let Ok(frag) = cache.alloc(size) {
        drop(to.put(frag.freeze()));
    }
    match turn % 7 {
        0 => {
            if let Ok(frag) = cache.alloc(200) {
                let shared = frag.freeze();
                let part = shared.slice(10..100);
                drop(shared);
                drop(to.put(part));
            }
        }
        1 => drop(from.take()),
        2 => drop_many([from.take(), from.take()].into_iter().flatten()),
        3 => cache.drain(),
        4 => drop(cache.prepare(300).and_then(|room| room.commit(30))),
        5 => drop(cache.alloc_align(100, 1024)),
        _ => {
            let one = from.take();
            drop((one.clone(), one));
        }
    }
}

/// Instructions from one stop to the next. Not one: nobody waits here, but who
/// loses an exchange tries again, and a rival that acts between any two
/// instructions would win for ever. Lives differ in length, so over many of
/// them the stops fall on every instruction. Debug builds execute several times as many
/// for the same deeds, so a step twice as long is still shorter in deeds.
const STRIDE: u64 = if CHECKED { 61 } else { 31 };

/// Builds with checks have ten times the instructions: fewer rounds there.
const CHECKED: bool = cfg!(debug_assertions);

#[test]
fn promise_3_a_thread_that_stops_at_any_instruction_blocks_nobody() {
    for granule in [Granule::Line, Granule::Byte] {
        // One region and no more: only mapping and unmapping may take a lock.
        let pool = PagePool::builder()
            .page_size(4096)
            .max_bytes(REGION)
            .build()
            .unwrap();
        let anchor = PageFragCache::new(&pool).alloc(1).unwrap();
        let (ours, theirs) = (Table::default(), Table::default());
        let mut cache = PageFragCache::with_granule(&pool, granule);
        // Sizes and deeds meet in all pairs within 28 lives: 4 and 7 are coprime. In debug
        // builds, where every instruction is as slow and there are more, each meets once.
        let lives = if CHECKED { 7 } else { common::rounds(31) * 28 };
        let mut turn = 0;
        let stops = step::stop_everywhere(
            STRIDE,
            |step| {
                let mut cache = Some(PageFragCache::with_granule(&pool, granule));
                for life in 0..lives as u64 {
                    let cache = cache.as_mut().expect("not dropped yet");
                    step(&mut || live_once(cache, &theirs, &ours, life));
                }
                // Its last pages are let go under the same eyes.
                step(&mut || drop(cache.take()));
            },
            |stop| {
                for _ in 0..if CHECKED { 2 } else { 7 } {
                    turn += 1;
                    live_once(&mut cache, &ours, &theirs, turn);
                }
                if stop % 1024 == 0 {
                    pool.trim();
                    let stats = pool.stats();
                    assert!(stats.regions_mapped == 1, "{stats:?}");
                }
            },
        );
        println!("{granule:?}: stopped at {stops} instructions");
        assert!(stops > 500, "{stops}");
        drop((cache, ours, theirs, anchor));
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
        pool.trim();
        assert_eq!(pool.audit().unwrap().regions_mapped, 0);
    }
}

#[test]
fn promise_3_whole_lives_pass_while_a_thread_stands_in_the_middle_of_a_free() {
    let pool = PagePool::builder()
        .page_size(4096)
        .max_bytes(REGION)
        .build()
        .unwrap();
    let mut cache = PageFragCache::new(&pool);
    let nothing = Table::default();
    let rounds = common::rounds(if CHECKED { 4 } else { 31 });
    let mut owned: Vec<Frag> = Vec::new();
    for _ in 0..rounds {
        let frag = cache.alloc(96).unwrap().freeze();
        owned.extend([frag.clone(), frag]);
    }
    let orphans = pool.clone();
    let stops = step::stop_everywhere(
        STRIDE,
        move |step| {
            for _ in 0..rounds {
                step(&mut || drop(owned.pop()));
                step(&mut || drop(owned.pop()));
                let mut orphan = PageFragCache::new(&orphans).alloc(96).ok();
                step(&mut || drop(orphan.take()));
            }
        },
        |stop| (0..28).for_each(|turn| live_once(&mut cache, &nothing, &nothing, turn + stop)),
    );
    println!("stopped at {stops} instructions");
    assert!(stops > 60, "{stops}");
    drop((cache, nothing));
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
    pool.trim();
    assert_eq!(pool.audit().unwrap().regions_mapped, 0);
}
