//! Ours, in its two ways of packing.

use std::ptr::NonNull;

use pagefrag::{FragMut, Granule, HugePages, PageFragCache, PagePool, drop_many};

use super::{Arm, Holding};
use crate::workload::{LINE, PAGE};

/// Ours: holes are found again in lines of 64 bytes.
#[derive(Debug)]
pub struct Lines(PageFragCache);

// SAFETY: a fragment is as many bytes as were asked for, and this handle is
// the only one.
unsafe impl Arm for Lines {
    type Buffer = FragMut;
    type Counting = Self;
    const NAME: &'static str = "pagefrag";
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self(PageFragCache::new(&pool()))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size).expect("the pool has no limit")
    }

    #[inline]
    fn alloc_aligned(&mut self, size: usize) -> FragMut {
        let frag = self.0.alloc_align(size, LINE);
        frag.expect("the pool has no limit")
    }

    #[inline]
    fn bytes(buffer: &mut FragMut) -> NonNull<u8> {
        NonNull::from(&mut **buffer).cast()
    }

    fn beside(&self) -> Self {
        Self(PageFragCache::new(self.0.pool()))
    }

    fn holding(&self) -> Option<Holding> {
        let stats = self.0.pool().stats();
        Some(Holding {
            held: stats.held_bytes,
            regions: stats.regions_mapped,
        })
    }

    fn trim(&mut self) {
        self.0.trim();
        self.0.pool().trim();
    }
}

/// Ours, in a pool that asks for no huge pages.
#[derive(Debug)]
pub struct Small(Lines);

// SAFETY: as for `Lines`, which it is.
unsafe impl Arm for Small {
    type Buffer = FragMut;
    type Counting = Self;
    const NAME: &'static str = "pagefrag, no huge pages";

    fn start() -> Self {
        let pool = PagePool::builder()
            .page_size(PAGE)
            .huge_pages(HugePages::Never)
            .build();
        let pool = pool.expect("a valid page size");
        Self(Lines(PageFragCache::new(&pool)))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size)
    }

    #[inline]
    fn bytes(buffer: &mut FragMut) -> NonNull<u8> {
        Lines::bytes(buffer)
    }

    fn beside(&self) -> Self {
        Self(self.0.beside())
    }

    fn holding(&self) -> Option<Holding> {
        self.0.holding()
    }

    fn trim(&mut self) {
        self.0.trim();
    }
}

/// Ours, packed to the byte as the kernel does.
#[derive(Debug)]
pub struct Packed(PageFragCache);

// SAFETY: as for `Lines`.
unsafe impl Arm for Packed {
    type Buffer = FragMut;
    type Counting = Self;
    const NAME: &'static str = "pagefrag, granule 1";
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self(PageFragCache::with_granule(&pool(), Granule::Byte))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size).expect("the pool has no limit")
    }

    #[inline]
    fn alloc_aligned(&mut self, size: usize) -> FragMut {
        let frag = self.0.alloc_align(size, LINE);
        frag.expect("the pool has no limit")
    }

    #[inline]
    fn bytes(buffer: &mut FragMut) -> NonNull<u8> {
        Lines::bytes(buffer)
    }
}

/// Ours, with `drop_many` wherever several go at once.
#[derive(Debug)]
pub struct Together(Lines);

// SAFETY: as for `Lines`, which it is.
unsafe impl Arm for Together {
    type Buffer = FragMut;
    type Counting = Self;
    const NAME: &'static str = "pagefrag, drop_many";
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self(Lines::start())
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size)
    }

    #[inline]
    fn alloc_aligned(&mut self, size: usize) -> FragMut {
        self.0.alloc_aligned(size)
    }

    #[inline]
    fn bytes(buffer: &mut FragMut) -> NonNull<u8> {
        Lines::bytes(buffer)
    }

    #[inline]
    fn give_many(&mut self, taken: &mut Vec<FragMut>) {
        drop_many(taken.drain(..));
    }

    #[inline]
    fn give_elsewhere(taken: &mut Vec<FragMut>) {
        drop_many(taken.drain(..));
    }
}

fn pool() -> PagePool {
    PagePool::new(PAGE).expect("a valid page size")
}
