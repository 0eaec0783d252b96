//! The bytes of a `Fragment`: lines of a page, or part of a buffer that another object lends.
//!
//! A fragment that was carved is the first; one that came out of a pickle is the second, so that
//! what a library has received need not be copied into a page. Both are sixteen bytes and can be
//! shared and narrowed; only the first can become part of an `SkBuff`.

use std::ptr;
use std::sync::Arc;

use pagefrag::RawFrag;

use crate::buffer::Lent;

/// See the module.
pub(crate) enum Memory {
    Page(RawFrag),
    /// In a box, so that the common case stays as small as it is.
    Lent(Box<Part>),
}

/// Part of a lent buffer.
#[derive(Clone)]
pub(crate) struct Part {
    owner: Arc<Lent>,
    /// Invariant: `start + len` is at most the owner's length.
    start: usize,
    len: usize,
}

impl Part {
    fn first(&self) -> *const u8 {
        // Wrapping: an empty buffer may have no address at all.
        self.owner.memory().cast::<u8>().wrapping_add(self.start)
    }
}

impl From<RawFrag> for Memory {
    #[inline]
    fn from(raw: RawFrag) -> Self {
        Self::Page(raw)
    }
}

impl Memory {
    /// `len` bytes from `start` on of a lent buffer; `None` if it has not so many.
    pub(crate) fn lent(owner: Arc<Lent>, start: usize, len: usize) -> Option<Self> {
        let fits = start.checked_add(len)? <= owner.len();
        fits.then(|| Self::Lent(Box::new(Part { owner, start, len })))
    }

    /// All bytes of a lent buffer.
    pub(crate) fn all_of(owner: Arc<Lent>) -> Self {
        let len = owner.len();
        let part = Part {
            owner,
            start: 0,
            len,
        };
        Self::Lent(Box::new(part))
    }

    /// No bytes at all, of nobody.
    pub(crate) fn nothing() -> Self {
        Self::all_of(Arc::new(Lent::nothing()))
    }

    /// The first byte: valid for `len` bytes while this value lives, and for writing unless who
    /// lends it said that it is read-only.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Page(raw) => raw.as_ptr(),
            Self::Lent(part) if part.len == 0 => ptr::NonNull::dangling().as_ptr(),
            Self::Lent(part) => part.first().cast_mut(),
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Page(raw) => raw.len(),
            Self::Lent(part) => part.len,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that come home when the last fragment of the allocation goes. Of a lent buffer the
    /// bytes that are shown: the rest is counted by the others who show it.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Self::Page(raw) => raw.capacity(),
            Self::Lent(part) => part.len,
        }
    }

    /// A number that is equal for memory of one page or of one lent buffer: where that starts.
    pub(crate) fn page(&self) -> usize {
        match self {
            Self::Page(raw) => raw.page(),
            Self::Lent(part) => part.owner.memory().cast::<u8>().addr(),
        }
    }

    /// Bytes from there to the first one.
    pub(crate) fn offset(&self) -> usize {
        match self {
            Self::Page(raw) => raw.offset(),
            Self::Lent(part) => part.start,
        }
    }

    /// Bytes that are held because of this one and not shown by it, or by its page's others.
    pub(crate) fn pinned_bytes(&self) -> usize {
        match self {
            Self::Page(raw) => raw.pinned_bytes(),
            Self::Lent(part) => part.owner.len() - part.len,
        }
    }

    /// Bytes from the first one to the end of what is nobody else's: see `RawFrag::padded_len`.
    /// A lent buffer is one packet beside the other, all of it ours.
    pub(crate) fn padded_len(&self) -> usize {
        match self {
            Self::Page(raw) => raw.padded_len(),
            Self::Lent(part) => part.owner.len() - part.start,
        }
    }

    /// Bytes of memory that this one accounts for: whole lines, and of what is lent what is shown.
    pub(crate) fn footprint(&self) -> usize {
        match self {
            Self::Page(raw) => raw.padded_len(),
            Self::Lent(part) => part.len,
        }
    }

    /// Another handle of the same bytes. One locked add.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Page(raw) => Self::Page(raw.share()),
            Self::Lent(part) => Self::Lent(part.clone()),
        }
    }

    /// Shows only `len` bytes from `start` on, which the caller has checked.
    pub(crate) fn narrow(&mut self, start: usize, len: usize) {
        match self {
            Self::Page(raw) => raw.narrow(start, len),
            Self::Lent(part) => {
                assert!(start + len <= part.len, "checked by the caller");
                part.start += start;
                part.len = len;
            }
        }
    }

    /// Shows only the first `len` bytes, which the caller has checked, and gives back what it can.
    pub(crate) fn shrink_to(&mut self, len: usize) {
        match self {
            Self::Page(raw) => raw.shrink_to(len),
            Self::Lent(_) => self.narrow(0, len),
        }
    }

    /// Lines of a page that nobody shares.
    pub(crate) fn is_own(&self) -> bool {
        match self {
            Self::Page(raw) => raw.is_unique(),
            Self::Lent(_) => false,
        }
    }

    /// The fragment of a page, if it is one.
    pub(crate) fn page_frag(&self) -> Option<&RawFrag> {
        match self {
            Self::Page(raw) => Some(raw),
            Self::Lent(_) => None,
        }
    }

    /// The same, taken out.
    pub(crate) fn into_page_frag(self) -> Option<RawFrag> {
        match self {
            Self::Page(raw) => Some(raw),
            Self::Lent(_) => None,
        }
    }
}

/// Gives many back at once: neighbours of a page with one locked instruction. What is lent goes one
/// by one.
pub(crate) fn drop_many(many: impl Iterator<Item = Memory>) {
    pagefrag::drop_many(many.filter_map(Memory::into_page_frag));
}

const _: () = assert!(size_of::<Memory>() == 16, "a page's fragment, and no more");
