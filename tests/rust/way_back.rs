//! The way back: what was carved last and is freed first is carved again next,
//! at the same address, and nothing else ever moves the cursor.

use std::sync::mpsc;
use std::thread;

use pagefrag::{FragMut, Granule, LINE, MIN_PAGE, PageFragCache, PagePool, drop_many};
use pagefrag_tests::fill;
use proptest::prelude::*;
use proptest::sample::Index;

fn cache() -> PageFragCache {
    PageFragCache::new(&PagePool::new(32 * 1024).unwrap())
}

fn start(frag: &FragMut) -> usize {
    frag.as_ptr().addr()
}

#[test]
fn a_fragment_that_does_not_outlive_its_turn_gives_its_place_to_the_next() {
    let mut cache = cache();
    let first = start(&cache.alloc(1).unwrap());
    for size in [64, 256, 1500, 2048, 32 * 1024, 1] {
        for _ in 0..100 {
            assert_eq!(start(&cache.alloc(size).unwrap()), first, "{size}");
        }
    }
    assert_eq!(cache.stats().refills, 1, "the first page, and no more");
    assert_eq!(cache.stats().live_bytes, 0);
}

#[test]
fn a_stack_given_back_in_reverse_leaves_one_hole() {
    let mut cache = cache();
    let mut frags: Vec<_> = (1..12).map(|n| cache.alloc(n * 100).unwrap()).collect();
    let first = start(&frags[0]);
    frags.reverse();
    drop_many(frags);
    let whole = cache.alloc(32 * 1024).unwrap();
    assert_eq!((start(&whole), cache.stats().refills), (first, 1));
}

#[test]
fn out_of_order_only_the_last_goes_back() {
    let mut cache = cache();
    let [one, two, three] = [100, 200, 300].map(|size| cache.alloc(size).unwrap());
    let (second, third) = (start(&two), start(&three));
    drop(two);
    drop(three);
    let next = cache.alloc(64).unwrap();
    assert_eq!(start(&next), third, "the hole before it waits for a sweep");
    assert!(second < third);
    drop((one, next));
    assert_eq!(cache.stats().live_bytes, 0);
}

/// The end of one page is the address of the next one's first byte.
#[test]
fn the_end_of_one_page_is_not_the_start_of_the_next() {
    let mut cache = PageFragCache::new(&PagePool::new(MIN_PAGE).unwrap());
    let before = cache.alloc(MIN_PAGE).unwrap();
    let behind = cache.alloc(LINE).unwrap();
    let (edge, page) = (start(&behind), behind.page());
    assert_eq!(edge, start(&before) + MIN_PAGE, "pages come in order");
    drop(behind);
    drop(before);
    let next = cache.alloc(MIN_PAGE).unwrap();
    assert_eq!((start(&next), next.page()), (edge, page));
}

#[test]
fn a_free_elsewhere_does_not_move_the_cursor() {
    let mut cache = cache();
    let _anchor = cache.alloc(64).unwrap();
    let there = cache.alloc(64).unwrap();
    let end = start(&there) + there.capacity();
    thread::spawn(move || drop(there)).join().unwrap();
    assert_eq!(start(&cache.alloc(64).unwrap()), end);
}

/// Where this thread carved last is nothing to look at once it has let go of it.
#[test]
fn a_page_that_was_left_is_not_looked_at_again() {
    let (mut kept, mut gone) = (cache(), cache());
    let (first, last) = (kept.alloc(100).unwrap(), kept.alloc(100).unwrap());
    drop(gone.alloc(100).unwrap());
    gone.drain();
    assert_eq!(gone.pool().trim(), 1, "its bytes and its head are unmapped");
    drop((first, last));
    assert_eq!(kept.stats().live_bytes, 0);
}

#[test]
fn a_page_that_another_thread_carves_now_is_not_gone_back_in() {
    let pool = PagePool::new(MIN_PAGE).unwrap();
    let mut here = PageFragCache::new(&pool);
    let held = here.alloc(64).unwrap();
    here.drain();
    let (sender, receiver) = mpsc::channel();
    let (done, end) = mpsc::channel::<()>();
    let there = thread::spawn(move || {
        let mut cache = PageFragCache::new(&pool);
        let adopted = cache.alloc(128).unwrap();
        assert_eq!(adopted.page(), held.page(), "the orphan");
        sender.send((adopted, held)).unwrap();
        end.recv().unwrap();
        // What came home from elsewhere is found by a sweep, and not carved before.
        cache.alloc(64).unwrap().offset()
    });
    let (adopted, held) = receiver.recv().unwrap();
    let offset = adopted.offset();
    drop(adopted);
    done.send(()).unwrap();
    assert_eq!(there.join().unwrap(), offset + 128);
    drop(held);
}

#[test]
fn the_last_sharer_moves_it_and_no_other() {
    let mut cache = cache();
    let frag = cache.alloc(1000).unwrap().freeze();
    let first = frag.as_ptr().addr();
    let part = frag.slice(10..20);
    drop(frag);
    let other = cache.alloc(64).unwrap();
    assert_eq!(start(&other), first + 1024, "a slice lives");
    drop(other);
    drop(part);
    assert_eq!(start(&cache.alloc(64).unwrap()), first);
}

#[test]
fn what_is_cut_off_the_last_goes_back() {
    let mut cache = cache();
    let mut frag = cache.alloc(2048).unwrap();
    frag.shrink_to(100);
    let next = cache.alloc(64).unwrap();
    assert_eq!(start(&next), start(&frag) + 128);
    let mut front = cache.alloc(256).unwrap();
    let back = front.split_off(128);
    let cut = start(&back);
    drop(back);
    assert_eq!(start(&cache.alloc(64).unwrap()), cut);
    // Narrowed from both sides: what comes home is the whole.
    let mut frag = cache.alloc(1000).unwrap().freeze();
    let first = frag.as_ptr().addr();
    frag.advance(500);
    frag.truncate(10);
    drop(frag);
    assert_eq!(start(&cache.alloc(64).unwrap()), first);
}

#[test]
fn an_open_reservation_keeps_its_place() {
    let mut cache = cache();
    let before = cache.alloc(256).unwrap();
    let end = start(&before) + 256;
    let mut room = cache.prepare(100).unwrap();
    assert_eq!(room.as_mut_ptr().addr(), end);
    // It ends where the room begins, and its free must not move that.
    drop(before);
    fill(&mut room[..100], 7);
    let frag = room.commit(100).unwrap();
    assert_eq!(start(&frag), end);
    drop(frag);
    let room = cache.prepare(100).unwrap();
    drop(room);
    assert_eq!(
        start(&cache.alloc(64).unwrap()),
        end,
        "dropped, nothing taken"
    );
}

#[test]
fn a_leaked_reservation_keeps_the_room_and_nothing_else() {
    let mut cache = cache();
    let before = cache.alloc(256).unwrap();
    std::mem::forget(cache.prepare(100).unwrap());
    let next = cache.alloc(100).unwrap();
    assert_ne!(next.page(), before.page());
    drop((before, next));
    assert_eq!(cache.stats().live_bytes, 32 * 1024 - 256);
}

#[test]
fn bytes_that_come_back_are_zeroes_where_the_pool_says_so() {
    for (on_alloc, on_free) in [(true, false), (false, true), (true, true)] {
        let builder = PagePool::builder().init_on_alloc(on_alloc);
        let mut cache = PageFragCache::new(&builder.init_on_free(on_free).build().unwrap());
        for size in [1, 100, 1500] {
            let mut frag = cache.alloc(size).unwrap();
            let place = start(&frag);
            frag.fill(0xEE);
            drop(frag);
            let frag = cache.alloc(2048).unwrap();
            assert_eq!(start(&frag), place);
            assert!(frag.iter().all(|&byte| byte == 0), "{on_alloc} {on_free}");
        }
    }
}

#[test]
fn at_granule_1_offsets_are_the_kernels() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let anchor = cache.alloc(1).unwrap();
    for turn in 0..10 {
        assert_eq!(cache.alloc(100).unwrap().offset(), 1 + turn * 100);
    }
    drop(anchor);
}

/// What a program may do.
#[derive(Clone, Debug)]
enum Op {
    Alloc(usize),
    Last,
    Any(Index),
    Shrink(Index),
    Commit(usize, Index),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..3000_usize).prop_map(Op::Alloc),
        5 => Just(Op::Last),
        2 => any::<Index>().prop_map(Op::Any),
        1 => any::<Index>().prop_map(Op::Shrink),
        1 => (1..3000_usize, any::<Index>()).prop_map(|(min, used)| Op::Commit(min, used)),
    ]
}

/// A naive twin of the cursor: where it is, in which page, and how many bytes
/// behind it are known to be room because they just came back.
#[derive(Default)]
struct Twin {
    page: usize,
    cursor: usize,
    known: usize,
}

impl Twin {
    fn carved(&mut self, frag: &FragMut) {
        let (place, lines) = (start(frag), frag.capacity());
        if lines <= self.known {
            assert_eq!(place, self.cursor, "the bytes that came back come first");
        }
        let here = place == self.cursor && frag.page() == self.page;
        self.known = if here {
            self.known.saturating_sub(lines)
        } else {
            0
        };
        self.page = frag.page();
        self.cursor = place + lines;
    }

    fn freed(&mut self, page: usize, place: usize, lines: usize) {
        if page == self.page && place + lines == self.cursor {
            self.cursor = place;
            self.known += lines;
        }
    }
}

proptest! {
    #[test]
    fn what_came_back_last_is_carved_first(ops in prop::collection::vec(op(), 1..200)) {
        let mut cache = cache();
        let pool = cache.pool().clone();
        let mut twin = Twin::default();
        let mut frags: Vec<FragMut> = Vec::new();
        for op in ops {
            match op {
                Op::Alloc(size) => {
                    let mut frag = cache.alloc(size).unwrap();
                    twin.carved(&frag);
                    fill(&mut frag, size as u64);
                    frags.push(frag);
                }
                Op::Last => if let Some(frag) = frags.pop() {
                    twin.freed(frag.page(), start(&frag), frag.capacity());
                }
                Op::Any(which) => if !frags.is_empty() {
                    let frag = frags.remove(which.index(frags.len()));
                    twin.freed(frag.page(), start(&frag), frag.capacity());
                }
                Op::Shrink(to) => if let Some(frag) = frags.last_mut() {
                    let before = frag.capacity();
                    frag.shrink_to(to.index(frag.len()) + 1);
                    let after = frag.capacity();
                    if after != before {
                        twin.freed(frag.page(), start(frag) + after, before - after);
                    }
                    let len = frag.len();
                    fill(frag, len as u64);
                }
                Op::Commit(min, used) => {
                    let room = cache.prepare(min).unwrap();
                    let used = used.index(min) + 1;
                    let mut frag = room.commit(used).unwrap();
                    if min.next_multiple_of(LINE) <= twin.known || start(&frag) == twin.cursor {
                        twin.carved(&frag);
                    } else {
                        twin = Twin { page: frag.page(), cursor: start(&frag) + frag.capacity(), known: 0 };
                    }
                    fill(&mut frag, used as u64);
                    frags.push(frag);
                }
            }
            for frag in &frags {
                let mut expected = vec![0; frag.len()];
                fill(&mut expected, frag.len() as u64);
                prop_assert!(frag[..] == expected[..], "overwritten");
            }
            let alive: usize = frags.iter().map(FragMut::capacity).sum();
            prop_assert_eq!(cache.stats().live_bytes, alive as u64);
        }
        drop((frags, cache));
        let stats = pool.audit().expect("the books balance");
        prop_assert_eq!((stats.live_bytes, stats.pages_in_use), (0, 0));
    }
}
