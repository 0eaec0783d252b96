//! What handles tell, lend and compare: the traits by which maps, formatters and generic code
//! use them.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pagefrag::{
    DEFAULT_PAGE, Frag, FragMut, Granule, LocalCache, PageFragCache, PagePool, RawFrag,
};

fn cache() -> PageFragCache {
    PageFragCache::new(&PagePool::new(DEFAULT_PAGE).unwrap())
}

fn frag_of(cache: &mut PageFragCache, bytes: &[u8]) -> FragMut {
    let mut frag = cache.alloc(bytes.len()).unwrap();
    frag.copy_from_slice(bytes);
    frag
}

#[test]
#[allow(
    clippy::mutable_key_type,
    reason = "what changes in a handle is no part of the key"
)]
fn fragments_are_found_by_their_bytes() {
    let mut cache = cache();
    let words: [&[u8]; 3] = [b"alpha", b"beta", b"gamma"];
    let hashed: HashMap<Frag, u32> = { words.iter() }
        .zip(0..)
        .map(|(word, number)| (frag_of(&mut cache, word).freeze(), number))
        .collect();
    assert_eq!(hashed.get(&b"beta"[..]), Some(&1));
    assert_eq!(hashed.get(&b"delta"[..]), None);
    let set: HashSet<FragMut> = words.iter().map(|word| frag_of(&mut cache, word)).collect();
    assert!(set.contains(&b"gamma"[..]));
}

#[test]
fn fragments_are_equal_when_their_bytes_are() {
    let mut cache = cache();
    let (one, same) = (frag_of(&mut cache, b"abc"), frag_of(&mut cache, b"abc"));
    let other = frag_of(&mut cache, b"abd");
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_eq!(one, b"abc"[..]);
    let (one, same) = (one.freeze(), same.freeze());
    assert_eq!(one, same);
    assert_eq!(one, b"abc"[..]);
    assert_ne!(one, b"ab"[..]);
}

#[test]
fn a_fragment_is_lent_frozen_and_part_of_it_shown() {
    let mut frag = frag_of(&mut cache(), b"0123456789");
    let bytes: &mut [u8] = frag.as_mut();
    bytes[0] = b'x';
    let frozen = Frag::from(frag);
    let after = frozen.slice((Bound::Excluded(0), Bound::Included(3)));
    assert_eq!(after, b"123"[..]);
    let lent: &[u8] = frozen.as_ref();
    assert_eq!(lent, b"x123456789");
}

#[test]
fn what_a_fragment_pins_is_the_rest_of_its_page() {
    let mut cache = cache();
    let frag = frag_of(&mut cache, &[1; 100]);
    assert_eq!(frag.pinned_bytes(), DEFAULT_PAGE - 128);
    let frozen = frag.freeze();
    assert_eq!(frozen.pinned_bytes(), DEFAULT_PAGE - 128);
    let raw = frozen.into_raw();
    assert_eq!((raw.page_size(), raw.is_empty()), (DEFAULT_PAGE, false));
}

#[test]
fn a_raw_handle_that_shows_nothing_is_empty() {
    let mut raw = frag_of(&mut cache(), b"some").into_raw();
    raw.narrow(4, 0);
    assert!(raw.is_empty());
    assert_eq!(raw.capacity(), 64, "and holds what it held");
}

#[test]
fn a_range_that_is_out_of_bounds_is_told_with_its_numbers() {
    let mut raw: RawFrag = frag_of(&mut cache(), b"four").into_raw();
    let panic = catch_unwind(AssertUnwindSafe(|| raw.narrow(3, 2))).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert_eq!(said, "range out of bounds: 2 bytes from 3 of 4");
    assert_eq!(raw.len(), 4, "nothing has changed");
}

#[test]
fn handles_are_printed_by_place_and_length_and_not_by_content() {
    let mut cache = cache();
    let frag = frag_of(&mut cache, b"secret");
    let page = frag.page();
    let told = format!("{frag:?}");
    assert_eq!(
        told,
        format!("FragMut {{ page: {page:#x}, offset: 0, len: 6, .. }}")
    );
    let frozen = frag.freeze();
    assert_eq!(format!("{frozen:?}"), told.replace("FragMut", "Frag"));
    let raw = frozen.into_raw();
    assert_eq!(
        format!("{raw:?}"),
        format!("RawFrag {{ page: {page:#x}, offset: 0, len: 6, capacity: 64, .. }}")
    );
    let room = cache.prepare(100).unwrap();
    let told = format!("Reservation {{ room: {}, .. }}", room.len());
    assert_eq!(format!("{room:?}"), told);
}

#[test]
fn a_local_cache_is_printed_with_its_pool() {
    let local = LocalCache::new(&PagePool::new(DEFAULT_PAGE).unwrap(), Granule::Byte);
    let told = format!("{local:?}");
    assert!(told.starts_with("LocalCache { pool: PagePool {"), "{told}");
    assert!(told.contains("granule: Byte"), "{told}");
}

#[test]
fn room_that_is_used_up_is_kept_as_it_is() {
    let pool = PagePool::new(DEFAULT_PAGE).unwrap();
    for granule in [Granule::Line, Granule::Byte] {
        let mut cache = PageFragCache::with_granule(&pool, granule);
        let room = cache.take_room(100).unwrap();
        let (place, len) = (room.offset(), room.len());
        let kept = cache.settle(room, len).unwrap();
        assert_eq!((kept.offset(), kept.len()), (place, len));
    }
}
