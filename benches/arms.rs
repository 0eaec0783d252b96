//! The arms of a comparison: everything that hands out a buffer of a size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use bytes::BytesMut;
use mimalloc::MiMalloc;
use pagefrag::{FragMut, Granule, PageFragCache, PagePool};

use crate::kernel::{KernelCache, KernelFrag};
use crate::workload::PAGE;

/// Hands out buffers; dropping one gives it back.
pub trait Arm {
    /// What is handed out. May be dropped on another thread.
    type Buffer: Send;

    /// What the tables call it.
    const NAME: &'static str;

    /// Starts it on the calling thread.
    fn start() -> Self;

    /// A buffer of `size` bytes.
    fn alloc(&mut self, size: usize) -> Self::Buffer;

    /// Writes the first byte of `buffer`.
    fn touch(buffer: &mut Self::Buffer);
}

/// Ours: holes are found again in lines of 64 bytes.
#[derive(Debug)]
pub struct Lines(PageFragCache);

impl Arm for Lines {
    type Buffer = FragMut;
    const NAME: &'static str = "pagefrag";

    fn start() -> Self {
        Self(PageFragCache::new(&pool()))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size).expect("the pool has no limit")
    }

    #[inline]
    fn touch(buffer: &mut FragMut) {
        buffer[0] = 1;
    }
}

/// Ours, packed to the byte as the kernel does.
#[derive(Debug)]
pub struct Packed(PageFragCache);

impl Arm for Packed {
    type Buffer = FragMut;
    const NAME: &'static str = "pagefrag, granule 1";

    fn start() -> Self {
        Self(PageFragCache::with_granule(&pool(), Granule::Byte))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> FragMut {
        self.0.alloc(size).expect("the pool has no limit")
    }

    #[inline]
    fn touch(buffer: &mut FragMut) {
        buffer[0] = 1;
    }
}

fn pool() -> PagePool {
    PagePool::new(PAGE).expect("a valid page size")
}

/// The kernel's scheme: bump in a page with a count, reuse it when wholly dead.
impl Arm for KernelCache {
    type Buffer = KernelFrag;
    const NAME: &'static str = "kernel scheme";

    fn start() -> Self {
        Self::new()
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> KernelFrag {
        KernelCache::alloc(self, size)
    }

    #[inline]
    fn touch(buffer: &mut KernelFrag) {
        buffer.touch();
    }
}

/// `bytes`: a large `BytesMut`, from which the front is split off.
#[derive(Debug)]
pub struct Split(BytesMut);

impl Arm for Split {
    type Buffer = BytesMut;
    const NAME: &'static str = "bytes, split from 32 KiB";

    fn start() -> Self {
        Self(BytesMut::with_capacity(PAGE))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> BytesMut {
        if self.0.capacity() < size {
            self.0.reserve(PAGE);
        }
        // What was in the buffer may stay there: the other arms do not clear.
        // SAFETY: the capacity was just checked, and no byte is read before
        // it is written.
        unsafe { self.0.set_len(size) };
        self.0.split_to(size)
    }

    #[inline]
    fn touch(buffer: &mut BytesMut) {
        buffer[0] = 1;
    }
}

/// A general allocator with a 16-byte reference count in front of the bytes,
/// so that its buffers can be shared as ours can.
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

/// mimalloc as a value: the crate's own type is not `Copy`.
#[derive(Clone, Copy, Debug)]
pub struct Mimalloc;

// SAFETY: both calls are handed on unchanged to an allocator that keeps the
// contract.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, handed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { MiMalloc.dealloc(ptr, layout) };
    }
}

impl Malloc for Mimalloc {
    const NAME: &'static str = "mimalloc";
    const THE: Self = Mimalloc;
}

impl<A: Malloc> fmt::Debug for Counted<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(A::NAME)
    }
}

#[repr(C, align(16))]
struct Header {
    count: AtomicUsize,
    size: usize,
}

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

// SAFETY: the buffer is reached through this handle only, its count is atomic,
// and both allocators may free on any thread.
unsafe impl<A: Malloc> Send for CountedBuffer<A> {}

#[inline]
fn layout_of(size: usize) -> Layout {
    Layout::from_size_align(size_of::<Header>() + size, align_of::<Header>())
        .expect("a packet is far below isize::MAX")
}

impl<A: Malloc> Arm for Counted<A> {
    type Buffer = CountedBuffer<A>;
    const NAME: &'static str = A::NAME;

    fn start() -> Self {
        Self(A::THE)
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> CountedBuffer<A> {
        let layout = layout_of(size);
        // SAFETY: the layout holds at least the header, so it is not empty.
        let memory = unsafe { self.0.alloc(layout) };
        #[expect(clippy::cast_ptr_alignment, reason = "the layout asks for a header's")]
        let header = NonNull::new(memory.cast::<Header>()).expect("memory");
        let count = AtomicUsize::new(1);
        // SAFETY: fresh memory of this layout, aligned for a header.
        unsafe { header.write(Header { count, size }) };
        CountedBuffer {
            header,
            malloc: self.0,
        }
    }

    #[inline]
    fn touch(buffer: &mut CountedBuffer<A>) {
        // SAFETY: the bytes begin one header further, in the same allocation.
        let first = unsafe { buffer.header.add(1) };
        // SAFETY: `size` is at least one, so the first byte is there.
        unsafe { first.cast::<u8>().write(1) };
    }
}

impl<A: Malloc> Drop for CountedBuffer<A> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the header lives until the count is zero, and we hold one.
        let header = unsafe { self.header.as_ref() };
        let size = header.size;
        if header.count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: allocated with this layout; nobody else holds it.
            unsafe {
                self.malloc
                    .dealloc(self.header.as_ptr().cast(), layout_of(size));
            };
        }
    }
}
