//! What describes a region: one header, directly below the region's first byte.
//!
//! ```text
//!   mapping ──► ┌──────────────────────────┐
//!               │ Header                   │ heads, maps, notes; only what is
//!               │  (HEADER_SPAN bytes)     │ touched ever becomes resident
//!      base ──► ├──────────────────────────┤ 2 MiB-aligned
//!               │ page 0 │ page 1 │ ...    │ nothing but users' bytes
//!               └──────────────────────────┘
//! ```
//!
//! Any address in the region leads here by a mask and a subtraction, and the
//! whole 2 MiB can be one huge page. Nothing of ours lies between users'
//! bytes, so no overrun of theirs can steer the allocator.

use std::ptr::NonNull;

use crate::geometry::{
    LINE_SHIFT, MAX_OS_PAGE, MAX_PAGES, REGION, REGION_LINES, REGION_WORDS, align_up,
};
use crate::sync::{
    AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Lifetime, OwnerI32, OwnerI64,
    OwnerPtr, OwnerU32, OwnerU64, OwnerUsize,
};

/// Bytes from a header to the first byte of its region.
pub(crate) const HEADER_SPAN: usize = align_up(size_of::<Header>(), MAX_OS_PAGE);

/// What describes one page. Who may touch which field is told in `page.rs`.
///
/// Two cache lines: what the owner writes with each fragment, and what others read
/// (`owner`) and write (`tally`) with each. So neither takes the other's line away; with
/// `owner` in the first, a fragment handed to another core cost a line's way there and
/// back more.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct PageHead {
    /// Where the piece carved last begins. Null unless the page is being carved
    /// in lines.
    pub(crate) cursor: OwnerPtr<u8>,
    /// Bytes of that piece; 0 when it has come back.
    pub(crate) top: OwnerUsize,
    /// The end of the hole being carved.
    pub(crate) limit: OwnerPtr<u8>,
    /// Units that the owner's thread may still free before it should look at
    /// the page again; counts down.
    pub(crate) until: OwnerI32,
    /// What the owner is doing with the page (a `Role`).
    pub(crate) role: OwnerU32,
    /// `until` plus the lines that the owner's map has as free: a free on the owner's
    /// thread counts the one down and so the other up, with one store.
    pub(crate) known: OwnerI32,
    /// Units that were free when the page came into the list that it is in.
    pub(crate) listed: OwnerU32,
    /// The owner's shelf, opaque here.
    pub(crate) shelf: OwnerPtr<()>,
    /// Neighbours in a list of the shelf.
    pub(crate) prev: OwnerPtr<PageHead>,
    /// See `prev`.
    pub(crate) next: OwnerPtr<PageHead>,
    /// Whose page this is: `NOBODY`, `ORPHAN` or a thread's token.
    pub(crate) owner: AtomicUsize,
    /// The count road. See `page.rs`.
    pub(crate) tally: AtomicI64,
    /// Byte pages only: bytes carved less bytes freed here.
    pub(crate) balance: OwnerI64,
    /// Units freed by the count road that the owner has taken note of.
    pub(crate) claimed: OwnerI64,
    /// The count at which an orphan is dead: the owner's last word about it.
    pub(crate) target: OwnerI64,
}

impl PageHead {
    /// A head like those of a new region: nobody's, with nothing to carve.
    pub(crate) fn new() -> Self {
        Self {
            cursor: OwnerPtr::null(),
            top: OwnerUsize::new(0),
            limit: OwnerPtr::null(),
            until: OwnerI32::new(0),
            role: OwnerU32::new(0),
            known: OwnerI32::new(0),
            listed: OwnerU32::new(0),
            shelf: OwnerPtr::null(),
            prev: OwnerPtr::null(),
            next: OwnerPtr::null(),
            owner: AtomicUsize::new(0),
            tally: AtomicI64::new(0),
            balance: OwnerI64::new(0),
            claimed: OwnerI64::new(0),
            target: OwnerI64::new(0),
        }
    }

    /// The next byte to carve. Null if there is none.
    #[inline]
    pub(crate) fn next_byte(&self) -> *mut u8 {
        // The end of a piece in a page, or null and 0.
        self.cursor.get().wrapping_add(self.top.get())
    }

    /// `next_byte`, of which the owner will carve. A branch and not a sum: when
    /// pieces come back one by one the processor guesses it, and the address of
    /// the next piece need not wait for the free of the one before, whose own
    /// address went through memory.
    #[inline]
    pub(crate) fn advance(&self) -> *mut u8 {
        let start = self.cursor.get();
        let top = self.top.get();
        if top == 0 {
            return start;
        }
        let start = start.wrapping_add(top);
        self.set_top(start, 0);
        start
    }

    /// Notes the piece that was carved last.
    #[inline]
    pub(crate) fn set_top(&self, start: *mut u8, bytes: usize) {
        self.cursor.set(start);
        self.top.set(bytes);
    }
}

/// Describes a region. All-zero bytes are a valid header of a region whose
/// pages are nobody's, which is how the OS delivers it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Header {
    /// log2 of the page size. Written before the region is published.
    pub(crate) page_shift: u32,
    /// Where dead pages go: the depot's slot, opaque here. Written before the
    /// region is published.
    pub(crate) slot: *const (),
    pub(crate) heads: [PageHead; MAX_PAGES],
    /// A bit per line that the owner knows to be free. Owner only.
    pub(crate) local: [OwnerU64; REGION_WORDS],
    /// A bit per line freed by other threads and not yet seen by the owner.
    pub(crate) remote: [AtomicU64; REGION_WORDS],
    /// Lines beyond word *w* that a fragment freed into `remote[w]` covers.
    pub(crate) spill: [AtomicU16; REGION_WORDS],
    /// One per line, used by the fragment that starts there: while it lives,
    /// how many sharers it has besides one; when it died by the count road,
    /// how long it was.
    pub(crate) notes: [AtomicU32; REGION_LINES],
    /// From the mapping to the unmapping.
    pub(crate) lifetime: Lifetime,
}

impl Header {
    /// The header of the region that `address` lies in.
    #[inline]
    pub(crate) fn of(address: NonNull<u8>) -> NonNull<Header> {
        let base = region_base(address);
        // SAFETY: every region is mapped together with HEADER_SPAN bytes below
        // its base, and `address` carries the provenance of that mapping.
        unsafe { base.byte_sub(HEADER_SPAN) }.cast()
    }

    /// The first byte of the region that this header describes.
    #[inline]
    pub(crate) fn base(header: NonNull<Header>) -> NonNull<u8> {
        // SAFETY: the inverse of `of`, within the same mapping.
        unsafe { header.byte_add(HEADER_SPAN) }.cast()
    }
}

/// The first byte of the region that `address` lies in.
#[inline]
pub(crate) fn region_base(address: NonNull<u8>) -> NonNull<u8> {
    let base = address.as_ptr().map_addr(|a| a & !(REGION - 1));
    // SAFETY: no region starts at 0: its header lies below it.
    unsafe { NonNull::new_unchecked(base) }
}

/// The line of its region that `address` lies in.
#[inline]
pub(crate) fn line_of(address: NonNull<u8>) -> usize {
    (address.addr().get() & (REGION - 1)) >> LINE_SHIFT
}

/// Loom's words are not plain memory: they have to be made.
#[cfg(loom)]
impl Header {
    pub(crate) fn new() -> Self {
        use std::array::from_fn;
        Header {
            page_shift: 0,
            slot: std::ptr::null(),
            heads: from_fn(|_| PageHead::new()),
            local: from_fn(|_| OwnerU64::new(0)),
            remote: from_fn(|_| AtomicU64::new(0)),
            spill: from_fn(|_| AtomicU16::new(0)),
            notes: from_fn(|_| AtomicU32::new(0)),
            lifetime: Lifetime::new(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_page_head_is_two_cache_lines_with_what_others_touch_in_the_second() {
        assert_eq!(size_of::<PageHead>(), 128);
        assert_eq!(std::mem::offset_of!(PageHead, owner), 64);
        assert_eq!(std::mem::offset_of!(PageHead, tally), 72);
    }

    #[test]
    fn the_header_costs_an_eighth_of_a_region_in_addresses() {
        assert_eq!(HEADER_SPAN % MAX_OS_PAGE, 0);
        const { assert!(HEADER_SPAN <= REGION / 8) };
    }
}
