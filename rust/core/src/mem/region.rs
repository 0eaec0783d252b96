//! One region: mapped with its header, and unmapped with it.

use std::ptr::NonNull;

use crate::geometry::REGION;
use crate::mem::header::{HEADER_SPAN, Header};
use crate::mem::{os, poison};

/// Who is told of a pool's regions as they come and go: their first byte and
/// their length.
///
/// Called on whichever thread maps or unmaps, with no lock of the pool's held
/// and in the middle of an allocation or of a fragment's end: neither function
/// may use the pool, nor panic. `unmapped` comes before the memory goes, so
/// that nobody else can have the address yet; should the OS refuse to take it,
/// `mapped` follows.
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use pagefrag::{PageFragCache, PagePool, RegionWatch};
///
/// static MAPPED: AtomicUsize = AtomicUsize::new(0);
/// let watch = RegionWatch {
///     mapped: |_, len| {
///         MAPPED.fetch_add(len, Ordering::Relaxed);
///     },
///     unmapped: |_, len| {
///         MAPPED.fetch_sub(len, Ordering::Relaxed);
///     },
/// };
/// // SAFETY: both only count.
/// let pool = unsafe { PagePool::builder().watch(watch) }.build()?;
/// let frag = PageFragCache::new(&pool).alloc(1500)?;
/// assert_eq!(MAPPED.load(Ordering::Relaxed), pagefrag::REGION);
/// drop((frag, pool));
/// assert_eq!(MAPPED.load(Ordering::Relaxed), 0);
/// # Ok::<(), pagefrag::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RegionWatch {
    /// A region was mapped and is in use, or is still.
    pub mapped: fn(NonNull<u8>, usize),
    /// A region is about to be unmapped.
    pub unmapped: fn(NonNull<u8>, usize),
}

/// A mapped region. Dropping the value does not unmap it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    header: NonNull<Header>,
    mapping: os::Mapping,
}

impl Region {
    /// Maps a region of pages of `1 << page_shift` bytes that reports to
    /// `slot`. `None` when the OS gives no memory.
    pub(crate) fn map(page_shift: u32, slot: *const ()) -> Option<Region> {
        let mapping = os::map(HEADER_SPAN, REGION, REGION)?;
        let header = Header::of(mapping.base);
        #[cfg(loom)]
        // SAFETY: mapped, aligned below a region, and nobody has it yet.
        unsafe {
            header.write(Header::new());
        }
        let raw = header.as_ptr();
        // SAFETY: mapped, zero bytes are a valid header, nobody has it yet.
        unsafe { (*raw).page_shift = page_shift };
        // SAFETY: as above.
        unsafe { (*raw).slot = slot };
        poison::hide(mapping.base, REGION);
        Some(Region { header, mapping })
    }

    /// The region's header.
    pub(crate) fn header(self) -> NonNull<Header> {
        self.header
    }

    /// The region's first byte.
    pub(crate) fn base(self) -> NonNull<u8> {
        self.mapping.base
    }

    /// Asks for huge pages. False when the kernel cannot.
    pub(crate) fn advise_huge(self) -> bool {
        os::advise_huge(self.base(), REGION)
    }

    /// Tells `watch` that it was mapped.
    pub(crate) fn tell_mapped(self, watch: Option<RegionWatch>) {
        if let Some(watch) = watch {
            (watch.mapped)(self.base(), REGION);
        }
    }

    /// Tells `watch` and unmaps the region. False when the OS refuses: then it
    /// stays mapped, and the caller tells, when others can use it again.
    ///
    /// # Safety
    /// Every page of it is the caller's and nothing in it is used any more.
    pub(crate) unsafe fn unmap(self, watch: Option<RegionWatch>) -> bool {
        if let Some(watch) = watch {
            (watch.unmapped)(self.base(), REGION);
        }
        // SAFETY: made by `map`, still mapped.
        unsafe { self.header.as_ref() }.lifetime.ended();
        // Loom's words are not in the mapping alone; they end with it.
        #[cfg(loom)]
        // SAFETY: made by `map`, used by nobody (caller); dropped once, if it is unmapped.
        let words = std::mem::ManuallyDrop::new(unsafe { self.header.read() });
        // What is mapped here next is not ours.
        poison::show(self.base(), REGION);
        // SAFETY: used by nobody (caller).
        let unmapped = unsafe { os::unmap(self.mapping) };
        if !unmapped {
            poison::hide(self.base(), REGION);
            return false;
        }
        #[cfg(loom)]
        drop(std::mem::ManuallyDrop::into_inner(words));
        true
    }
}
