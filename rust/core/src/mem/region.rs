//! One region: mapped with its header, and unmapped with it.

use std::ptr::NonNull;

use crate::geometry::REGION;
use crate::mem::header::{HEADER_SPAN, Header};
use crate::mem::os;

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

    /// Unmaps the region. False when the OS refuses; then it stays mapped.
    ///
    /// # Safety
    /// Every page of it is the caller's and nothing in it is used any more.
    pub(crate) unsafe fn unmap(self) -> bool {
        #[cfg(loom)]
        // SAFETY: made by `map`, used by nobody (caller).
        unsafe {
            self.header.drop_in_place();
        }
        // SAFETY: used by nobody (caller).
        unsafe { os::unmap(self.mapping) }
    }
}
