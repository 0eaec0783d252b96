//! Pointers that outlive what they point to, by each road that bytes take home; and a
//! program that compares what the sanitizer knows with what is alive, byte by byte.

use std::hint::black_box;
use std::thread;

use pagefrag::{FragMut, Granule, PageFragCache, PagePool, drop_many};

use super::Fault;

pub(crate) const FAULTS: &[Fault] = &[
    ("freed-here", freed_here),
    ("freed-last", freed_last),
    ("freed-elsewhere", freed_elsewhere),
    ("freed-in-a-batch", freed_in_a_batch),
    ("freed-in-a-run", freed_in_a_run),
    ("freed-orphan", freed_orphan),
    ("freed-shared", freed_shared),
    ("freed-wiped", freed_wiped),
    ("freed-bytes", freed_bytes),
    ("freed-page", freed_page),
    ("written", written),
    ("cut-off", cut_off),
    ("behind", behind),
    ("room-of-a-commit", room_of_a_commit),
    ("room-of-a-drop", room_of_a_drop),
    ("room-of-a-settlement", room_of_a_settlement),
];

fn pool() -> PagePool {
    PagePool::new(32 * 1024).expect("a power of two")
}

fn take(cache: &mut PageFragCache, size: usize) -> FragMut {
    let mut frag = cache.alloc(size).expect("memory");
    frag.fill(7);
    frag
}

/// Reads a byte that is nobody's.
fn read(stale: *const u8) {
    // SAFETY: none, that is the fault; the region is still mapped, so without a
    // sanitizer nothing happens.
    black_box(unsafe { stale.read_volatile() });
}

/// A fragment and another behind it, so that neither is what was carved last.
fn buried(cache: &mut PageFragCache, size: usize) -> (FragMut, [FragMut; 2]) {
    let frag = take(cache, size);
    (frag, [take(cache, 64), take(cache, 64)])
}

fn freed_here() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (frag, _others) = buried(&mut cache, 1500);
    let stale = frag.as_ptr();
    drop(frag);
    read(stale);
}

fn freed_last() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let frag = take(&mut cache, 1500);
    let stale = frag.as_ptr();
    drop(frag);
    read(stale);
}

fn freed_elsewhere() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (frag, _others) = buried(&mut cache, 1500);
    let stale = frag.as_ptr();
    thread::spawn(move || drop(frag)).join().expect("no panic");
    read(stale);
}

fn freed_in_a_batch() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (frag, others) = buried(&mut cache, 1500);
    let stale = frag.as_ptr();
    let parts = [frag, others.into_iter().next().expect("two")];
    thread::spawn(|| drop_many(parts)).join().expect("no panic");
    read(stale);
}

fn freed_in_a_run() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let parts: Vec<_> = (0..4).map(|_| take(&mut cache, 512)).collect();
    let _behind = take(&mut cache, 64);
    let stale = parts[2].as_ptr();
    drop_many(parts);
    read(stale);
}

fn freed_orphan() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (frag, _others) = buried(&mut cache, 1500);
    let stale = frag.as_ptr();
    drop(cache);
    drop(frag);
    read(stale);
}

fn freed_shared() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (frag, _others) = buried(&mut cache, 1500);
    let frag = frag.freeze();
    let part = frag.slice(700..800);
    let stale = part.as_ptr();
    drop(frag);
    black_box(part[99]);
    drop(part);
    read(stale);
}

fn freed_wiped() {
    let pool = PagePool::builder()
        .init_on_free(true)
        .build()
        .expect("a pool");
    let mut cache = PageFragCache::new(&pool);
    let (frag, _others) = buried(&mut cache, 1500);
    let stale = frag.as_ptr();
    drop(frag);
    read(stale);
}

fn freed_bytes() {
    let pool = pool();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let (frag, _others) = buried(&mut cache, 75);
    // Its first bytes share a mark with nobody, its last ones may.
    let stale = frag.as_ptr();
    drop(frag);
    read(stale);
}

fn freed_page() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let mut other = PageFragCache::new(&pool);
    let _keeps_the_region = take(&mut other, 64);
    let frag = take(&mut cache, 1500);
    let stale = frag.as_ptr();
    drop(frag);
    cache.drain();
    read(stale);
}

fn written() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (mut frag, _others) = buried(&mut cache, 1500);
    let stale = frag.as_mut_ptr();
    drop(frag);
    // SAFETY: none, that is the fault; see `read`.
    unsafe { stale.write_volatile(7) };
}

fn cut_off() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let (mut frag, _others) = buried(&mut cache, 1500);
    let stale = frag[1499..].as_ptr();
    frag.shrink_to(64);
    read(stale);
}

fn behind() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let frag = take(&mut cache, 1500);
    read(frag.as_ptr().wrapping_add(frag.capacity()));
}

fn room_of_a_commit() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let mut room = cache.prepare(2048).expect("memory");
    room.fill(7);
    let stale = room[64..].as_ptr();
    let _frag = room.commit(64).expect("it fits");
    read(stale);
}

fn room_of_a_drop() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let room = cache.prepare(2048).expect("memory");
    let stale = room.as_ptr();
    drop(room);
    read(stale);
}

fn room_of_a_settlement() {
    let pool = pool();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let room = cache.take_room(2048).expect("memory");
    let stale = room[80..].as_ptr();
    let _frag = cache.settle(room, 64).expect("it fits");
    read(stale);
}

/// May this byte be touched, as far as the sanitizer knows?
#[cfg(pagefrag_asan)]
fn is_shown(address: *const u8, _expected: bool) -> bool {
    unsafe extern "C" {
        fn __asan_address_is_poisoned(address: *const std::ffi::c_void) -> i32;
    }
    // SAFETY: a query about an address, which need not be mapped.
    unsafe { __asan_address_is_poisoned(address.cast()) == 0 }
}

/// Without a sanitizer, as expected.
#[cfg(not(pagefrag_asan))]
fn is_shown(_address: *const u8, expected: bool) -> bool {
    expected
}

/// Fragments come and go, are cut, shared and freed here and elsewhere; after each step
/// what the sanitizer takes for alive is exactly the lines of the live ones.
pub(crate) fn sound() {
    let pool = pool();
    let mut cache = PageFragCache::new(&pool);
    let mut noise = 1_u64;
    let mut below = |end: usize| {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(noise >> 33).expect("31 bits") % end
    };
    let mut alive: Vec<FragMut> = Vec::new();
    let mut compared = 0_u64;
    for step in 0..4_000 {
        match below(8) {
            0 | 1 if !alive.is_empty() => drop(alive.swap_remove(below(alive.len()))),
            2 if !alive.is_empty() => {
                let frag = alive.swap_remove(below(alive.len()));
                thread::spawn(move || drop(frag)).join().expect("no panic");
            }
            3 if !alive.is_empty() => {
                let at = below(alive.len());
                let len = 1 + below(alive[at].len());
                alive[at].shrink_to(len);
            }
            4 => {
                let mut room = cache.prepare(1 + below(2048)).expect("memory");
                room.fill(7);
                if let Ok(frag) = room.commit(below(2048)) {
                    alive.push(frag);
                }
            }
            5 => drop(take(&mut cache, 1 + below(2048))),
            6 if step % 64 == 0 => cache.drain(),
            _ => alive.push(take(&mut cache, 1 + below(2048))),
        }
        if alive.len() > 40 {
            alive.drain(..30);
        }
        if step % 16 == 0 {
            compared += compare(&alive);
        }
    }
    assert!(compared > 0);
    if cfg!(pagefrag_asan) {
        println!("{compared} lines compared, and the marks are those of what is alive");
    } else {
        println!("nothing compared: built without a sanitizer");
    }
}

/// Compares the first and last byte of each line of each page that has live fragments.
fn compare(alive: &[FragMut]) -> u64 {
    let mut pages: Vec<usize> = alive.iter().map(FragMut::page).collect();
    pages.sort_unstable();
    pages.dedup();
    let mut compared = 0;
    for page in pages {
        let ours: Vec<&FragMut> = alive.iter().filter(|frag| frag.page() == page).collect();
        let base = ours[0].as_ptr().wrapping_sub(ours[0].offset());
        for offset in (0..32 * 1024).step_by(64) {
            let covers = |f: &&&FragMut| (f.offset()..f.offset() + f.capacity()).contains(&offset);
            let expected = ours.iter().find(covers).is_some();
            for byte in [offset, offset + 63] {
                let shown = is_shown(base.wrapping_add(byte), expected);
                assert_eq!(shown, expected, "byte {byte} of a page");
            }
            compared += 1;
        }
    }
    compared
}
