//! The arms of a comparison: everything that hands out a buffer of a size.
//!
//! Each stands in the same groups and sees the same requests. An arm that
//! cannot do a request is left out of that group, not bent to it.

mod bump;
mod chunked;
mod counted;
#[cfg(dpdk)]
mod dpdk;
mod kernel;
mod ours;
mod slots;
mod split;

use std::ptr::NonNull;

#[cfg(feature = "rivals")]
pub use bump::Bump;
#[cfg(feature = "rivals")]
pub use chunked::{Boxed, Shared};
pub use counted::{Counted, Malloc, Mimalloc, Watched};
#[cfg(feature = "rivals")]
pub use counted::{Jemalloc, Snmalloc};
#[cfg(dpdk)]
pub use dpdk::{Dpdk, pairs_in_c};
pub use kernel::KernelDrain;
pub use ours::{Lines, Packed, Small, Together};
pub use slots::Slots;
pub use split::Split;

/// Hands out buffers; dropping one gives it back.
///
/// # Safety
///
/// `bytes` points at the first of as many bytes as were asked for, which
/// nobody else reaches while the buffer lives.
pub unsafe trait Arm: Sized + 'static {
    /// What is handed out. May be dropped on another thread.
    type Buffer: Send + 'static;

    /// The same arm with its calls to a general allocator counted, where they
    /// do not go through the global one.
    type Counting: Arm;

    /// What the tables call it.
    const NAME: &'static str;

    /// The most bytes it hands out.
    const MOST: usize = crate::workload::PAGE;

    /// Can it be asked for an alignment?
    const ALIGNS: bool = false;

    /// Starts it on the calling thread.
    fn start() -> Self;

    /// A buffer of `size` bytes.
    fn alloc(&mut self, size: usize) -> Self::Buffer;

    /// The same at a multiple of 64, where [`Self::ALIGNS`].
    #[inline]
    fn alloc_aligned(&mut self, size: usize) -> Self::Buffer {
        self.alloc(size)
    }

    /// Where the bytes of `buffer` begin.
    fn bytes(buffer: &mut Self::Buffer) -> NonNull<u8>;

    /// A buffer of each of `sizes`, at the end of `taken`.
    #[inline]
    fn take_many(&mut self, sizes: &[usize], taken: &mut Vec<Self::Buffer>) {
        taken.extend(sizes.iter().map(|&size| self.alloc(size)));
    }

    /// Gives all of `taken` back, in order.
    #[inline]
    fn give_many(&mut self, taken: &mut Vec<Self::Buffer>) {
        taken.clear();
    }

    /// One more cache that takes from the same memory, where an arm has that.
    #[must_use]
    fn beside(&self) -> Self {
        Self::start()
    }

    /// What it says that it holds, where it says so.
    fn holding(&self) -> Option<Holding> {
        None
    }

    /// Gives back to the OS what it can.
    fn trim(&mut self) {}

    /// Gives all of `taken` back on a thread that has no arm of its own.
    #[inline]
    fn give_elsewhere(taken: &mut Vec<Self::Buffer>) {
        taken.clear();
    }
}

/// What an arm says that it and those beside it hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Bytes of pages in use.
    pub held: u64,
    /// Regions that are mapped.
    pub regions: u64,
}

/// Does something with each arm in turn.
pub trait Visit {
    /// Does it with `A`.
    fn arm<A: Arm>(&mut self);
}

/// Shows `visitor` every arm that takes part everywhere.
pub fn every(visitor: &mut impl Visit) {
    visitor.arm::<Lines>();
    visitor.arm::<Packed>();
    rivals(visitor);
    #[cfg(dpdk)]
    visitor.arm::<Dpdk>();
}

/// Shows `visitor` the arms whose memory is looked at over time: those that take
/// any size from one thread and give it back on any.
pub fn keepers(visitor: &mut impl Visit) {
    visitor.arm::<Lines>();
    visitor.arm::<Small>();
    rivals(visitor);
}

/// Those of them that are not ours.
fn rivals(visitor: &mut impl Visit) {
    visitor.arm::<crate::kernel::KernelCache>();
    visitor.arm::<Split>();
    visitor.arm::<Counted<Mimalloc>>();
    visitor.arm::<Counted<std::alloc::System>>();
    #[cfg(feature = "rivals")]
    {
        visitor.arm::<Counted<Snmalloc>>();
        visitor.arm::<Counted<Jemalloc>>();
        visitor.arm::<Boxed>();
    }
}

/// Says which rivals this build does not have, and why.
pub fn tell_who_is_missing() {
    if cfg!(not(feature = "rivals")) {
        println!(
            "left out: snmalloc, jemalloc, multitude, bumpalo, DPDK (feature `rivals` is off)"
        );
    } else if cfg!(not(dpdk)) {
        println!("left out: DPDK (no libdpdk for pkg-config, as in libdpdk-dev)");
    }
}
