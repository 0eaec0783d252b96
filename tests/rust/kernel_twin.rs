//! Granule 1 against a plain twin of the kernel's upward page-fragment
//! algorithm (6.13 and later): page change by page change, offset by offset,
//! and then the places where the kernel goes wrong and we do not follow.
//!
//! The twin counts as the kernel does: R references on the page, of which the
//! cache holds B in advance; a page is used again in place exactly when R falls
//! to 0 as B is given back. Which page comes when a new one is needed is the
//! only thing left open.

use std::collections::HashMap;

use pagefrag::{Error, FragMut, Granule, PageFragCache, PagePool};
use proptest::prelude::*;

/// The kernel's full bias with 4 KiB OS pages: one more than the bytes of the
/// largest page.
const FULL_BIAS: i64 = 32769;

/// The kernel's cache, as a few numbers.
#[derive(Debug)]
struct Twin {
    /// S: bytes of a page.
    size: usize,
    /// P: above this the kernel fails instead of taking another page.
    os_page: usize,
    /// The page being carved, if any.
    current: Option<usize>,
    /// R of every page that has references.
    references: HashMap<usize, i64>,
    /// B.
    bias: i64,
    /// O.
    offset: usize,
    pages_seen: usize,
    /// Pages whose R came to 0 while nobody carved them.
    freed: usize,
}

/// Where an allocation lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    page: usize,
    offset: usize,
}

impl Twin {
    fn new(size: usize, os_page: usize) -> Self {
        Self {
            size,
            os_page,
            current: None,
            references: HashMap::new(),
            bias: 0,
            offset: 0,
            pages_seen: 0,
            freed: 0,
        }
    }

    fn alloc(&mut self, size: usize, align: usize) -> Option<Place> {
        let page = match self.current {
            None => self.refill(),
            Some(page) => {
                let start = self.offset.next_multiple_of(align);
                if start + size <= self.size {
                    return Some(self.take(page, start, size));
                }
                if size > self.os_page {
                    return None;
                }
                if self.put(page, self.bias) {
                    // Nobody else: the same page again, from its start.
                    self.freed -= 1;
                    self.references.insert(page, FULL_BIAS);
                    self.bias = FULL_BIAS;
                    self.offset = 0;
                    page
                } else {
                    self.refill()
                }
            }
        };
        // A page from the start: any size up to the page fits.
        Some(self.take(page, 0, size))
    }

    fn refill(&mut self) -> usize {
        let page = self.pages_seen;
        self.pages_seen += 1;
        self.references.insert(page, FULL_BIAS);
        self.bias = FULL_BIAS;
        self.offset = 0;
        self.current = Some(page);
        page
    }

    fn take(&mut self, page: usize, start: usize, size: usize) -> Place {
        self.bias -= 1;
        self.offset = start + size;
        Place {
            page,
            offset: start,
        }
    }

    /// R -= count. Was that the last?
    fn put(&mut self, page: usize, count: i64) -> bool {
        let references = self
            .references
            .get_mut(&page)
            .expect("a page with references");
        *references -= count;
        if *references == 0 {
            self.references.remove(&page);
            self.freed += 1;
            return true;
        }
        false
    }

    fn free(&mut self, place: Place) {
        self.put(place.page, 1);
    }

    fn drain(&mut self) {
        if let Some(page) = self.current.take() {
            self.put(page, self.bias);
        }
    }

    fn r_b_o(&self) -> (i64, i64, usize) {
        let page = self.current.expect("a page");
        (self.references[&page], self.bias, self.offset)
    }
}

/// A byte that neighbours do not have.
fn mark(stamp: u64) -> u8 {
    (stamp % 251).to_le_bytes()[0]
}

/// Both, side by side.
struct Pair {
    pool: PagePool,
    cache: PageFragCache,
    twin: Twin,
    /// Address of each page that the twin numbers.
    addresses: HashMap<usize, usize>,
    kept: Vec<(FragMut, Place, u64)>,
    stamps: u64,
}

impl Pair {
    fn new(page: usize) -> Self {
        let pool = PagePool::new(page).unwrap();
        let cache = PageFragCache::with_granule(&pool, Granule::Byte);
        Self {
            pool,
            cache,
            // The sticky refusal is a difference of its own, tested below.
            twin: Twin::new(page, page),
            addresses: HashMap::new(),
            kept: Vec::new(),
            stamps: 0,
        }
    }

    fn alloc(&mut self, size: usize, align: usize) {
        let expected = self
            .twin
            .alloc(size, align)
            .expect("sizes up to the page succeed");
        let mut frag = self.cache.alloc_align(size, align).expect("memory");
        assert_eq!(
            frag.offset(),
            expected.offset,
            "alloc({size}, {align}) {:?}",
            self.twin
        );
        assert_eq!(frag.as_ptr().addr() % align, 0);
        assert_eq!((frag.len(), frag.capacity()), (size, size));
        if let Some(&address) = self.addresses.get(&expected.page) {
            assert_eq!(frag.page(), address, "the same page");
        } else {
            // Another page: not one with live fragments.
            let in_use = self
                .kept
                .iter()
                .any(|(other, ..)| other.page() == frag.page());
            assert!(!in_use, "a new page was expected: {:?}", self.twin);
            self.addresses.retain(|_, address| *address != frag.page());
            self.addresses.insert(expected.page, frag.page());
        }
        self.stamps += 1;
        // Cheap marks: what lies between is looked at in program.rs.
        frag[0] = mark(self.stamps);
        frag[size - 1] = mark(self.stamps);
        self.kept.push((frag, expected, self.stamps));
    }

    fn free(&mut self, index: usize) {
        let (frag, place, stamp) = self.kept.swap_remove(index);
        let (first, last) = (frag[0], frag[frag.len() - 1]);
        assert_eq!(
            (first, last),
            (mark(stamp), mark(stamp)),
            "overwritten in {place:?}"
        );
        self.twin.free(place);
        drop(frag);
    }

    fn free_elsewhere(&mut self, index: usize) {
        let (frag, place, _) = self.kept.swap_remove(index);
        self.twin.free(place);
        std::thread::spawn(move || drop(frag)).join().unwrap();
    }

    fn drain(&mut self) {
        self.twin.drain();
        self.cache.drain();
    }

    fn check(&self) {
        let stats = self.pool.audit().expect("the books balance");
        let live: usize = self.kept.iter().map(|(frag, ..)| frag.len()).sum();
        assert_eq!(stats.live_bytes, live as u64);
    }

    fn finish(mut self) {
        while !self.kept.is_empty() {
            self.free(self.kept.len() - 1);
        }
        self.drain();
        assert!(self.twin.references.is_empty(), "{:?}", self.twin);
        assert_eq!(
            self.twin.freed, self.twin.pages_seen,
            "each page was freed once"
        );
        self.check();
        self.pool.trim();
        assert_eq!(self.pool.stats().regions_mapped, 0);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        size: usize,
        align: usize,
    },
    /// Equal sizes in a row, as a driver asks for them.
    AllocMany {
        count: usize,
        size: usize,
        align: usize,
    },
    Free {
        which: prop::sample::Index,
    },
    FreeElsewhere {
        which: prop::sample::Index,
    },
    /// The oldest ones, as a queue does.
    FreeFirst {
        count: usize,
    },
    Drain,
}

fn op(page: usize) -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        4 => 1..=page / 8,
        2 => prop::sample::select(vec![1, 12, 63, 64, 65, 75, 640, 1500, 2048, 4096])
            .prop_map(move |size| size.min(page)),
        1 => 1..=page,
        1 => prop::sample::select(vec![page, page - 1, page / 2 + 1, page / 2]),
    ];
    let align = (0..=page.trailing_zeros()).prop_map(|shift| 1_usize << shift);
    let align = prop_oneof![3 => Just(1_usize), 2 => Just(64), 1 => align];
    prop_oneof![
        8 => (size.clone(), align.clone()).prop_map(|(size, align)| Op::Alloc { size, align }),
        3 => (1..40_usize, size, align)
            .prop_map(|(count, size, align)| Op::AllocMany { count, size, align }),
        6 => any::<prop::sample::Index>().prop_map(|which| Op::Free { which }),
        1 => any::<prop::sample::Index>().prop_map(|which| Op::FreeElsewhere { which }),
        4 => (1..40_usize).prop_map(|count| Op::FreeFirst { count }),
        1 => Just(Op::Drain),
    ]
}

fn program() -> impl Strategy<Value = (usize, Vec<Op>)> {
    prop::sample::select(vec![4 << 10, 32 << 10, 64 << 10])
        .prop_flat_map(|page| (Just(page), prop::collection::vec(op(page), 1..80)))
}

proptest! {
    #[test]
    fn every_offset_and_every_page_change_is_the_kernels((page, ops) in program()) {
        let mut pair = Pair::new(page);
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                Op::Alloc { size, align } => pair.alloc(size, align),
                Op::AllocMany { count, size, align } => {
                    (0..count).for_each(|_| pair.alloc(size, align));
                }
                Op::Free { which } if !pair.kept.is_empty() => {
                    pair.free(which.index(pair.kept.len()));
                }
                Op::FreeElsewhere { which } if !pair.kept.is_empty() => {
                    pair.free_elsewhere(which.index(pair.kept.len()));
                }
                Op::FreeFirst { count } => {
                    for _ in 0..count.min(pair.kept.len()) {
                        pair.free(0);
                    }
                }
                Op::Drain => pair.drain(),
                Op::Free { .. } | Op::FreeElsewhere { .. } => {}
            }
            if number % 8 == 0 {
                pair.check();
            }
        }
        pair.finish();
    }
}

/// The kernel's numbers for 1500 bytes at 64, step by step.
#[test]
fn fifteen_hundred_at_sixty_four_is_the_kernels_table() {
    let mut pair = Pair::new(32 * 1024);
    let offsets = [
        0, 1536, 3072, 4608, 6144, 7680, 9216, 10752, 12288, 13824, 15360, 16896, 18432, 19968,
        21504, 23040, 24576, 26112, 27648, 29184, 30720,
    ];
    for number in 1..=45 {
        pair.alloc(1500, 64);
        let (frag, place, _) = pair.kept.last().unwrap();
        assert_eq!(frag.offset(), offsets[(number - 1) % 21]);
        assert_eq!(place.page, (number - 1) / 21, "pages change at 22 and 43");
        match number {
            1 | 22 | 43 => assert_eq!(pair.twin.r_b_o(), (32769, 32768, 1500)),
            2 => assert_eq!(pair.twin.r_b_o(), (32769, 32767, 3036)),
            21 => assert_eq!(pair.twin.r_b_o(), (32769, 32748, 32220)),
            45 => assert_eq!(pair.twin.r_b_o(), (32769, 32766, 4572)),
            _ => {}
        }
    }
    assert_eq!(
        pair.twin.references[&0], 21,
        "page 0 was left with its fragments' references"
    );
    assert_eq!(pair.cache.stats().pages_taken, 3);
    pair.kept.reverse();
    for freed in 46..=87 {
        pair.free(pair.kept.len() - 1);
        assert_eq!(
            pair.twin.freed,
            [0, 1, 2][usize::from(freed >= 66) + usize::from(freed >= 87)]
        );
        pair.check();
    }
    // Step 88: the drain leaves page 2 with three references.
    pair.drain();
    assert_eq!(pair.twin.references[&2], 3);
    let stats = pair.pool.audit().unwrap();
    assert_eq!(
        (stats.pages_in_use, stats.pages_orphaned),
        (1, 1),
        "pages 0 and 1 are free"
    );
    for _ in 0..3 {
        assert_eq!(pair.pool.stats().pages_in_use, 1);
        pair.free(0);
    }
    assert_eq!(
        pair.pool.stats().pages_in_use,
        0,
        "step 91: the third free frees page 2"
    );
    assert_eq!(pair.twin.freed, 3);
    pair.finish();
}

/// Fragments per page and where the first and the last of them lie.
#[test]
fn as_many_fit_a_page_as_in_the_kernel() {
    for (size, align, count, last) in [
        (1, 1, 32768, 32767),
        (12, 1, 2730, 32748),
        (12, 64, 512, 32704),
        (75, 1, 436, 32625),
        (75, 64, 256, 32640),
        (640, 64, 51, 32000),
        (1024, 1, 32, 31744),
        (1500, 1, 21, 30000),
        (1536, 64, 21, 30720),
        (1920, 1, 17, 30720),
        (2048, 1, 16, 30720),
        (2048, 64, 16, 30720),
        (2048, 2048, 16, 30720),
        (3000, 128, 10, 27648),
        (4096, 1, 8, 28672),
        (9000, 1, 3, 18000),
    ] {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
        let mut twin = Twin::new(32 * 1024, 4096.max(size));
        let frags: Vec<FragMut> = (0..count)
            .map(|_| cache.alloc_align(size, align).unwrap())
            .collect();
        let places: Vec<Place> = (0..count).filter_map(|_| twin.alloc(size, align)).collect();
        assert!(
            frags.iter().all(|frag| frag.page() == frags[0].page()),
            "{size} at {align}"
        );
        assert!(
            frags
                .iter()
                .map(FragMut::offset)
                .eq(places.iter().map(|place| place.offset))
        );
        assert_eq!(
            (frags[0].offset(), frags[count - 1].offset()),
            (0, last),
            "{size} at {align}"
        );
        assert_eq!(
            count,
            1 + (32768 - size) / size.next_multiple_of(align),
            "the formula"
        );
        let next = cache.alloc_align(size, align).unwrap();
        assert_ne!(
            next.page(),
            frags[0].page(),
            "{size} at {align}: no more than {count}"
        );
        assert_eq!(next.offset(), 0);
    }
}

/// Rises strictly until the page is left or started anew.
#[test]
fn offsets_rise_and_consecutive_requests_touch() {
    let mut pair = Pair::new(32 * 1024);
    for _ in 0..40 {
        pair.alloc(700, 1);
    }
    for two in pair.kept.windows(2) {
        if two[0].1.page == two[1].1.page {
            assert_eq!(two[0].0.offset() + 700, two[1].0.offset());
        }
    }
    pair.finish();
}

// Deliberate differences ----------------------------------------------------

/// The kernel's sums wrap at 2^32: after 64 bytes a request for 0xffffffff
/// returns offset 64 and moves the cache's offset back, over live bytes.
#[test]
fn difference_a_size_near_2_to_the_32_is_refused_and_moves_nothing() {
    let wrapped = 64_u32.wrapping_add(0xffff_ffff);
    assert_eq!(wrapped, 63, "what the kernel computes, and finds to fit");
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let before = cache.alloc(64).unwrap();
    for size in [
        0xffff_ffff,
        0xffff_ffc0,
        0x1_0000_0000,
        0x8000_8001,
        usize::MAX,
    ] {
        assert_eq!(cache.alloc(size).unwrap_err(), Error::SizeAbovePage);
        assert_eq!(
            cache.alloc_align(size, 64).unwrap_err(),
            Error::SizeAbovePage
        );
    }
    let after = cache.alloc(64).unwrap();
    assert_eq!((after.page(), after.offset()), (before.page(), 64));
}

/// The kernel hands out the current address for a size of 0 and spends a
/// reference on it; after 32769 of them its bias wraps.
#[test]
fn difference_a_size_of_zero_is_refused_and_spends_nothing() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let before = cache.alloc(100).unwrap();
    for _ in 0..40_000 {
        assert_eq!(cache.alloc(0).unwrap_err(), Error::ZeroSize);
    }
    assert_eq!(cache.alloc(100).unwrap().offset(), 100);
    assert_eq!(before.offset(), 0);
}

/// The kernel fails 5000 bytes on a 4 KiB machine at the seventh and every
/// later call, until somebody asks for less.
#[test]
fn difference_a_size_above_one_os_page_does_not_fail_for_ever() {
    let mut kernel = Twin::new(32 * 1024, 4096);
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    let mut kept = Vec::new();
    for number in 1..=20 {
        let kernels = kernel.alloc(5000, 1);
        let ours = cache.alloc(5000).expect("memory exists");
        assert_eq!(kernels.is_some(), number <= 6);
        assert_eq!(ours.offset(), (number - 1) % 6 * 5000);
        if let Some(place) = kernels {
            assert_eq!(
                ours.offset(),
                place.offset,
                "alike as long as the kernel succeeds"
            );
        }
        kept.push(ours);
    }
    assert_eq!(cache.stats().pages_taken, 4);
}

/// The kernel warns about an alignment that is not a power of two and goes on
/// with a mask that makes no sense; one above the OS page is of the offset only.
#[test]
fn difference_an_alignment_is_a_power_of_two_and_of_the_address_or_refused() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::with_granule(&pool, Granule::Byte);
    for align in [0, 3, 48, 96, 64 * 1024, usize::MAX, 1 << 63] {
        assert_eq!(
            cache.alloc_align(10, align).unwrap_err(),
            Error::BadAlignment,
            "{align}"
        );
    }
    let _shift = cache.alloc(1).unwrap();
    for shift in 0..=15 {
        let frag = cache.alloc_align(10, 1 << shift).unwrap();
        assert_eq!(frag.as_ptr().addr() % (1 << shift), 0);
    }
}
