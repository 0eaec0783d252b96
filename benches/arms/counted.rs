//! General allocators, each with a 16-byte reference count in front of the
//! bytes, so that their buffers can be shared as ours can.
//!
//! None of them replaces `malloc`: their symbols are prefixed, or another
//! arm's figures would be theirs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use mimalloc::MiMalloc;

use super::Arm;
use crate::heap;
use crate::workload::LINE;

/// Buffers of a general allocator.
pub struct Counted<A: Malloc>(A);

/// An allocator without state that can stand behind [`Counted`].
pub trait Malloc: GlobalAlloc + Copy + Send + 'static {
    /// What the tables call it.
    const NAME: &'static str;
    /// The allocator.
    const THE: Self;
}

impl Malloc for System {
    const NAME: &'static str = "glibc malloc";
    const THE: Self = System;
}

/// Names a foreign allocator as a value: the crates' own types are not `Copy`.
macro_rules! foreign {
    ($name:ident, $told:literal, $the:expr) => {
        #[doc = concat!($told, " as a value.")]
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        // SAFETY: both calls are handed on unchanged to an allocator that
        // keeps the contract.
        unsafe impl GlobalAlloc for $name {
            #[inline]
            unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                // SAFETY: the caller's promise, handed on.
                unsafe { $the.alloc(layout) }
            }

            #[inline]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
                // SAFETY: the caller's promise, handed on.
                unsafe { $the.dealloc(ptr, layout) };
            }
        }

        impl Malloc for $name {
            const NAME: &'static str = $told;
            const THE: Self = $name;
        }
    };
}

foreign!(Mimalloc, "mimalloc", MiMalloc);
#[cfg(feature = "rivals")]
foreign!(Snmalloc, "snmalloc", snmalloc_rs::SnMalloc);
#[cfg(feature = "rivals")]
foreign!(Jemalloc, "jemalloc", tikv_jemallocator::Jemalloc);

/// The same allocator with every call counted; never in a timed arm.
#[derive(Clone, Copy, Debug)]
pub struct Watched<A>(A);

// SAFETY: both calls are handed on unchanged.
unsafe impl<A: Malloc> GlobalAlloc for Watched<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        heap::note();
        // SAFETY: the caller's promise, handed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        heap::note();
        // SAFETY: the caller's promise, handed on.
        unsafe { self.0.dealloc(ptr, layout) };
    }
}

impl<A: Malloc> Malloc for Watched<A> {
    const NAME: &'static str = A::NAME;
    const THE: Self = Self(A::THE);
}

impl<A: Malloc> fmt::Debug for Counted<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(A::NAME)
    }
}

/// Sixteen bytes: what the rivals' buffers pay for being shareable.
#[repr(C, align(16))]
struct Header {
    count: AtomicUsize,
    size: u32,
    /// Bytes from the start of the allocation to the bytes that are handed
    /// out: this header, and before it whatever an alignment needs.
    lead: u32,
}

/// Lead of a buffer without and with an alignment.
const LEAD: usize = size_of::<Header>();
const ALIGNED_LEAD: usize = LINE;

/// A buffer of [`Counted`].
pub struct CountedBuffer<A: Malloc> {
    header: NonNull<Header>,
    malloc: A,
}

impl<A: Malloc> fmt::Debug for CountedBuffer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple(A::NAME).field(&self.header).finish()
    }
}

// SAFETY: the buffer is reached through this handle or its clones, its count
// is atomic, and all allocators may free on any thread.
unsafe impl<A: Malloc> Send for CountedBuffer<A> {}

#[inline]
fn layout_of(lead: usize, size: usize) -> Layout {
    // The lead is the alignment as well: a header's, or a line.
    Layout::from_size_align(lead + size, lead).expect("a packet is far below isize::MAX")
}

impl<A: Malloc> Counted<A> {
    #[inline]
    fn take(&mut self, lead: usize, size: usize) -> CountedBuffer<A> {
        // SAFETY: the layout holds at least the header, so it is not empty.
        let memory = unsafe { self.0.alloc(layout_of(lead, size)) };
        let memory = NonNull::new(memory).expect("memory");
        // SAFETY: the lead is at least a header, and inside the allocation.
        let header = unsafe { memory.add(lead - LEAD) }.cast::<Header>();
        let fresh = Header {
            count: AtomicUsize::new(1),
            size: u32::try_from(size).expect("a packet is small"),
            lead: u32::try_from(lead).expect("a line"),
        };
        // SAFETY: fresh memory of this layout, aligned for a header.
        unsafe { header.write(fresh) };
        CountedBuffer {
            header,
            malloc: self.0,
        }
    }
}

// SAFETY: as many bytes as were asked for lie behind the header, and this
// handle is the only one unless it was cloned.
unsafe impl<A: Malloc> Arm for Counted<A> {
    type Buffer = CountedBuffer<A>;
    type Counting = Counted<Watched<A>>;
    const NAME: &'static str = A::NAME;
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self(A::THE)
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> CountedBuffer<A> {
        self.take(LEAD, size)
    }

    #[inline]
    fn alloc_aligned(&mut self, size: usize) -> CountedBuffer<A> {
        self.take(ALIGNED_LEAD, size)
    }

    #[inline]
    fn bytes(buffer: &mut CountedBuffer<A>) -> NonNull<u8> {
        // SAFETY: the bytes begin one header further, in the same allocation.
        unsafe { buffer.header.add(1) }.cast()
    }
}

impl<A: Malloc> Clone for CountedBuffer<A> {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: the header lives until the count is zero, and we hold one.
        let header = unsafe { self.header.as_ref() };
        // Relaxed: who clones holds one already, as in `Arc`.
        header.count.fetch_add(1, Ordering::Relaxed);
        Self {
            header: self.header,
            malloc: self.malloc,
        }
    }
}

impl<A: Malloc> Drop for CountedBuffer<A> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the header lives until the count is zero, and we hold one.
        let header = unsafe { self.header.as_ref() };
        let (size, lead) = (header.size as usize, header.lead as usize);
        // Release, and Acquire by whoever is last: as in `Arc`.
        if header.count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let behind = self.header.as_ptr().wrapping_add(1).cast::<u8>();
            let start = behind.wrapping_sub(lead);
            // SAFETY: allocated with this layout; nobody else holds it.
            unsafe { self.malloc.dealloc(start, layout_of(lead, size)) };
        }
    }
}
