//! Zeroing: with `init_on_alloc` nobody reads what was there before, and with
//! `init_on_free` nothing of a dead fragment can be read by the next holder,
//! by whatever way the bytes came home.

use std::thread;

use pagefrag::{FragMut, Granule, MIN_PAGE, PageFragCache, PagePool, REGION, drop_many};

const SECRET: u8 = 0xA7;

/// Every combination that promises something.
fn zeroing() -> impl Iterator<Item = (PagePool, Granule)> {
    let switches = [(true, false), (false, true), (true, true)];
    switches.into_iter().flat_map(|(on_alloc, on_free)| {
        [Granule::Line, Granule::Byte].map(|granule| {
            // One region, so that bytes come round again.
            let pool = PagePool::builder()
                .page_size(MIN_PAGE)
                .max_bytes(REGION)
                .init_on_alloc(on_alloc)
                .init_on_free(on_free)
                .build()
                .unwrap();
            (pool, granule)
        })
    })
}

fn secret(mut frag: FragMut) -> FragMut {
    assert_clean(&frag, "when it was new");
    frag.fill(SECRET);
    frag
}

fn assert_clean(bytes: &[u8], way: &str) {
    let at = bytes.iter().position(|&byte| byte != 0);
    assert_eq!(
        at,
        None,
        "{way}: {:#x} at {at:?} of {}",
        bytes[at.unwrap_or(0)],
        bytes.len()
    );
}

/// Reads all that the cache can show: the rest of its hole, then whole pages.
fn assert_nothing_left(cache: &mut PageFragCache, way: &str) {
    let way = format!(
        "{way}, {:?}, alloc {}, free {}",
        cache.granule(),
        cache.pool().init_on_alloc(),
        cache.pool().init_on_free()
    );
    for size in [1, 63, 64, 65, 200] {
        assert_clean(&cache.alloc(size).unwrap(), &way);
    }
    assert_clean(&cache.prepare(1).unwrap(), &way);
    assert_clean(&cache.take_room(1).unwrap(), &way);
    for size in [64, 1000, MIN_PAGE] {
        let kept: Vec<FragMut> = (0..4).map(|_| cache.alloc(size).unwrap()).collect();
        for frag in kept {
            assert_clean(&frag, &way);
        }
    }
    cache.drain();
    assert_clean(&cache.alloc(MIN_PAGE).unwrap(), &way);
}

/// Runs `way` in every combination, with live neighbours and without.
fn try_way(name: &str, way: impl Fn(&mut PageFragCache)) {
    for neighbours in [false, true] {
        for (pool, granule) in zeroing() {
            let mut cache = PageFragCache::with_granule(&pool, granule);
            let neighbour = neighbours.then(|| cache.alloc(100).unwrap());
            way(&mut cache);
            assert_nothing_left(&mut cache, name);
            drop(neighbour);
            // And once more in pages that are used again.
            way(&mut cache);
            assert_nothing_left(&mut cache, name);
        }
    }
}

#[test]
fn no_secret_comes_back_after_a_drop() {
    try_way("a drop", |cache| {
        for size in [1, 64, 100, 1500, MIN_PAGE] {
            drop(secret(cache.alloc(size).unwrap()));
        }
        let some: Vec<FragMut> = (0..8).map(|_| secret(cache.alloc(300).unwrap())).collect();
        drop(some);
    });
}

#[test]
fn no_secret_comes_back_after_a_drop_elsewhere() {
    try_way("a drop elsewhere", |cache| {
        let some: Vec<FragMut> = (0..8).map(|_| secret(cache.alloc(300).unwrap())).collect();
        thread::spawn(move || drop(some)).join().unwrap();
    });
}

#[test]
fn no_secret_comes_back_after_a_batch() {
    try_way("a batch", |cache| {
        let some: Vec<FragMut> = (0..8).map(|_| secret(cache.alloc(300).unwrap())).collect();
        drop_many(some);
        let some: Vec<FragMut> = (0..8).map(|_| secret(cache.alloc(300).unwrap())).collect();
        thread::spawn(move || drop_many(some)).join().unwrap();
    });
}

#[test]
fn no_secret_comes_back_from_an_orphan() {
    try_way("an orphan", |cache| {
        let some: Vec<FragMut> = (0..8).map(|_| secret(cache.alloc(300).unwrap())).collect();
        cache.drain();
        let (mut left, right): (Vec<_>, Vec<_>) = some
            .into_iter()
            .enumerate()
            .partition(|(index, _)| index % 2 == 0);
        drop(right);
        drop(cache.alloc(64).unwrap());
        left.truncate(1);
        cache.drain();
        drop(left);
    });
}

#[test]
fn no_secret_comes_back_after_an_abandoned_reservation() {
    try_way("an abandoned reservation", |cache| {
        cache.prepare(500).unwrap().fill(SECRET);
        cache.prepare(1).unwrap().fill(SECRET);
    });
}

#[test]
fn no_secret_comes_back_from_behind_a_commit() {
    try_way("behind a commit", |cache| {
        for used in [1, 64, 65, 100] {
            let mut room = cache.prepare(500).unwrap();
            room.fill(SECRET);
            let frag = room.commit(used).unwrap();
            assert_eq!(frag.len(), used);
            assert!(
                frag.iter().all(|&byte| byte == SECRET),
                "what was committed stays"
            );
        }
    });
}

#[test]
fn no_secret_comes_back_after_settling() {
    try_way("settling", |cache| {
        for used in [0, 1, 64, 65, 100] {
            let room = secret(cache.take_room(500).unwrap());
            let settled = cache.settle(room, used);
            assert_eq!(settled.is_ok(), used != 0);
        }
        // With an allocation in between the room cannot be taken back at once.
        let room = secret(cache.take_room(500).unwrap());
        let between = cache.alloc(100).unwrap();
        drop(cache.settle(room, 10));
        drop(between);
    });
}

#[test]
fn no_secret_comes_back_after_a_room_too_large_was_settled() {
    try_way("settling too much", |cache| {
        let room = secret(cache.take_room(500).unwrap());
        let above = room.len() + 1;
        assert_eq!(
            cache.settle(room, above).unwrap_err(),
            pagefrag::Error::CommitAboveRoom
        );
    });
}

#[test]
fn no_secret_comes_back_after_shrinking() {
    try_way("shrinking", |cache| {
        for kept in [0, 1, 64, 100] {
            let mut frag = secret(cache.alloc(1000).unwrap());
            frag.shrink_to(kept);
            assert!(
                frag.iter().all(|&byte| byte == SECRET),
                "what is kept stays"
            );
        }
    });
}

#[test]
fn no_secret_comes_back_after_splitting() {
    try_way("splitting", |cache| {
        for cut in [0, 1, 64, 100, 640, 1000] {
            let mut front = secret(cache.alloc(1000).unwrap());
            let mut back = front.split_off(cut);
            let middle = back.split_to((1000 - cut) / 2);
            drop(front);
            assert!(back.iter().chain(&middle[..]).all(|&byte| byte == SECRET));
            let elsewhere = thread::spawn(move || drop(middle));
            elsewhere.join().unwrap();
            drop(back);
        }
    });
}

#[test]
fn no_secret_comes_back_after_sharing() {
    try_way("sharing", |cache| {
        let mut frag = secret(cache.alloc(1000).unwrap()).freeze();
        let part = frag.slice(100..200);
        let clone = frag.clone();
        frag.advance(300);
        drop(frag);
        thread::spawn(move || drop(clone)).join().unwrap();
        assert!(
            part.iter().all(|&byte| byte == SECRET),
            "the last sharer still reads it"
        );
        drop(part);
    });
}

#[test]
fn no_secret_comes_back_from_a_truncated_fragment() {
    try_way("truncating", |cache| {
        let mut frag = secret(cache.alloc(1000).unwrap());
        frag.truncate(3);
        drop(frag);
        let mut frozen = secret(cache.alloc(1000).unwrap()).freeze();
        frozen.truncate(3);
        drop(frozen.try_into_mut());
    });
}

#[test]
fn without_the_switches_bytes_stay_as_they_were() {
    for granule in [Granule::Line, Granule::Byte] {
        let pool = PagePool::new(MIN_PAGE).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let mut frag = cache.alloc(MIN_PAGE).unwrap();
        frag.fill(SECRET);
        drop(frag);
        assert!(
            cache
                .alloc(MIN_PAGE)
                .unwrap()
                .iter()
                .all(|&byte| byte == SECRET)
        );
        assert!(!pool.init_on_alloc() && !pool.init_on_free());
    }
}
