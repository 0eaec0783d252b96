//! The kernel's scheme: bump in a page with a count, reuse it when wholly dead.

use std::ptr::NonNull;

use super::{Arm, Holding};
use crate::kernel::{self, KernelCache, KernelFrag};

// SAFETY: a fragment is as many bytes as were asked for, rounded up, and this
// handle is the only one. Its sizes are whole lines, so it is aligned as well.
unsafe impl Arm for KernelCache {
    type Buffer = KernelFrag;
    type Counting = Self;
    const NAME: &'static str = "kernel scheme";
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self::new()
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> KernelFrag {
        KernelCache::alloc(self, size)
    }

    #[inline]
    fn bytes(buffer: &mut KernelFrag) -> NonNull<u8> {
        buffer.bytes()
    }

    fn beside(&self) -> Self {
        KernelCache::beside(self)
    }

    fn holding(&self) -> Option<Holding> {
        Some(Holding {
            held: self.held_bytes() as u64,
            regions: 0,
        })
    }
}

/// The kernel's own drain: all references of a page in one subtraction.
#[derive(Debug)]
pub struct KernelDrain(KernelCache);

// SAFETY: as for `KernelCache`, which it is.
unsafe impl Arm for KernelDrain {
    type Buffer = KernelFrag;
    type Counting = Self;
    const NAME: &'static str = "kernel scheme, drained";

    fn start() -> Self {
        Self(KernelCache::new())
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> KernelFrag {
        self.0.alloc(size)
    }

    #[inline]
    fn bytes(buffer: &mut KernelFrag) -> NonNull<u8> {
        buffer.bytes()
    }

    #[inline]
    fn give_elsewhere(taken: &mut Vec<KernelFrag>) {
        kernel::drain(taken);
    }
}
