//! The raw fragment: sixteen bytes that own lines of a page.
//!
//! ```text
//!   ptr ──► a byte of the page       8 bytes, never null
//!   word ─► len, bytes from there    low 4 bytes
//!           tag, what is given back  high 4 bytes
//! ```
//!
//! Two machine words and not three fields, so that a fragment travels in two
//! registers.
//!
//! `ptr` and `len` say what this handle shows and may be narrowed at will; the
//! tag says what comes home when the last handle goes. From the address alone
//! follow the region, the page and its owner, so a fragment needs neither its
//! cache nor its pool to be freed, and keeps both alive as far as it must.
//!
//! | bits of the tag | of a line page          | of a byte page       |
//! |-----------------|-------------------------|----------------------|
//! | 0-14            | first line in the region | size - 1 (20 bits)  |
//! | 15-28           | lines - 1               |                      |
//! | 29              | wipe before it is freed |                      |
//! | 30              | has been shared         | has been shared      |
//! | 31              | 0                       | 1                    |

use std::fmt;
use std::ptr::NonNull;

use crate::geometry::{LINE, LINE_SHIFT, lines_for};
use crate::mem::depot;
use crate::mem::header::line_of;
use crate::mem::page::{LastFree, Page};
use crate::mem::shelf;
use crate::sync::{AtomicU64, Ordering};

/// What comes home when the last handle of a fragment goes: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

const COUNT_SHIFT: u32 = 15;
const FIRST: u32 = (1 << COUNT_SHIFT) - 1;
const COUNT: u32 = (1 << 14) - 1;
const SIZE: u32 = (1 << 20) - 1;
/// Zero the lines before they are freed (`init_on_free`).
pub(crate) const WIPE: u32 = 1 << 29;
const SHARED: u32 = 1 << 30;
const BYTES: u32 = 1 << 31;
/// Any of these sends a free off the short way.
const SPECIAL: u32 = WIPE | SHARED | BYTES;

impl Tag {
    /// `count` lines from line `first` of the region. `flags`: `WIPE` or 0.
    #[inline]
    pub(crate) fn lines(first: usize, count: usize, flags: u32) -> Tag {
        debug_assert!(first <= FIRST as usize && count > 0 && count - 1 <= COUNT as usize);
        #[allow(clippy::cast_possible_truncation)] // 15 and 14 bits: geometry asserts it
        Tag(first as u32 | ((count - 1) as u32) << COUNT_SHIFT | flags)
    }

    /// `size` bytes of a byte page.
    pub(crate) fn bytes(size: usize) -> Tag {
        debug_assert!(size > 0 && size - 1 <= SIZE as usize);
        #[allow(clippy::cast_possible_truncation)] // 20 bits: a page has at most 1 MiB
        Tag((size - 1) as u32 | BYTES)
    }

    #[inline]
    fn first(self) -> usize {
        (self.0 & FIRST) as usize
    }

    #[inline]
    fn count(self) -> usize {
        (self.0 >> COUNT_SHIFT & COUNT) as usize + 1
    }

    fn size(self) -> usize {
        (self.0 & SIZE) as usize + 1
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// An owned piece of a page, without rules about who reads or writes it.
///
/// [`FragMut`](crate::FragMut) and [`Frag`](crate::Frag) are made of this and
/// add the rules; a binding whose language has rules of its own may use it
/// directly. Dropping it gives the bytes back: no locked instruction on the
/// owner's thread, one elsewhere (two when the page is an orphan), one more if
/// it was shared.
pub struct RawFrag {
    ptr: NonNull<u8>,
    word: AtomicU64,
}

/// Where the tag stands in a fragment's word.
const TAG_SHIFT: u32 = 32;

fn word(len: u32, tag: Tag) -> u64 {
    u64::from(len) | u64::from(tag.0) << TAG_SHIFT
}

// SAFETY: a raw fragment owns its share of its page's lines. Freeing them is
// safe on any thread: the page decides by its owner's token which road a free
// takes, and only the owner's own thread takes the one without locked
// instructions (page.rs). `share` and the accessors use atomics only. Reading
// and writing the bytes is left to unsafe code of whoever holds the pointer.
unsafe impl Send for RawFrag {}
// SAFETY: as for Send; `&RawFrag` offers `share` and accessors only.
unsafe impl Sync for RawFrag {}

impl RawFrag {
    /// A handle on what `tag` describes.
    ///
    /// # Safety
    /// * `ptr .. ptr + len` lies within what `tag` describes, in a page whose
    ///   owner has carved it for this value alone, and carries the provenance
    ///   of the region's mapping.
    #[inline]
    pub(crate) unsafe fn carve(ptr: NonNull<u8>, len: usize, tag: Tag) -> RawFrag {
        debug_assert!(u32::try_from(len).is_ok());
        #[allow(clippy::cast_possible_truncation)] // a page has at most 1 MiB
        RawFrag {
            ptr,
            word: AtomicU64::new(word(len as u32, tag)),
        }
    }

    #[inline]
    fn tag(&self) -> Tag {
        // Relaxed: only the SHARED flag ever changes while the handle is
        // borrowed, and all who change it set it.
        Tag((self.word.load(Ordering::Relaxed) >> TAG_SHIFT) as u32)
    }

    fn set(&mut self, len: usize, tag: Tag) {
        #[allow(clippy::cast_possible_truncation)] // a page has at most 1 MiB
        let len = len as u32;
        // Relaxed: the handle is borrowed exclusively.
        self.word.store(word(len, tag), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn home(&self) -> Page {
        // SAFETY: the bytes are alive through this handle, so their page is
        // out of the pool and its region mapped; `ptr` has its provenance.
        unsafe { Page::containing(self.ptr) }
    }

    /// The first byte. Never null; valid for `len` bytes while this value lives.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Bytes that this handle shows.
    #[inline]
    pub fn len(&self) -> usize {
        // Relaxed: as in `tag`; the length changes only in exclusive hands.
        let word = self.word.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // the low half is meant
        {
            word as u32 as usize
        }
    }

    /// Does it show no bytes?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that come home when the last handle goes: the size in whole lines.
    pub fn capacity(&self) -> usize {
        let tag = self.tag();
        if tag.has(BYTES) {
            tag.size()
        } else {
            tag.count() << LINE_SHIFT
        }
    }

    /// Bytes from the first one shown to the end of what belongs to this
    /// fragment alone: the rest of the last line comes along, of a byte page
    /// nothing does.
    pub fn padded_len(&self) -> usize {
        let len = self.len();
        if self.tag().has(BYTES) {
            return len;
        }
        let end = self.ptr.addr().get() + len;
        len + (end.next_multiple_of(LINE) - end)
    }

    /// The address of the page: equal for fragments of one page.
    pub fn page(&self) -> usize {
        self.home().base().addr().get()
    }

    /// Bytes from the page's start to the first byte.
    pub fn offset(&self) -> usize {
        self.ptr.addr().get() - self.page()
    }

    /// Bytes of the page.
    pub fn page_size(&self) -> usize {
        self.home().size()
    }

    /// Bytes of this fragment's page that are held and not alive: what the
    /// page's fragments together keep from others at this moment.
    pub fn pinned_bytes(&self) -> usize {
        let page = self.home();
        let set_aside = shelf::uncarved_in(page) << LINE_SHIFT;
        (page.size() + set_aside)
            .saturating_sub(page.alive_bytes())
            .min(page.size())
    }

    /// Is this the only handle of its fragment? At granule 1 a fragment that
    /// has ever been shared never answers yes: the count is the page's.
    pub fn is_unique(&self) -> bool {
        let tag = self.tag();
        !tag.has(SHARED) || (!tag.has(BYTES) && self.home().is_unshared(tag.first()))
    }

    /// Another handle of the same bytes. One locked add.
    #[must_use]
    pub fn share(&self) -> RawFrag {
        let tag = self.tag();
        if tag.has(BYTES) {
            self.home().share_bytes(tag.size());
        } else {
            self.home().share(tag.first());
        }
        #[allow(clippy::cast_possible_truncation)] // a page has at most 1 MiB
        let shared = word(self.len() as u32, Tag(tag.0 | SHARED));
        // Relaxed: see `tag`.
        self.word.store(shared, Ordering::Relaxed);
        RawFrag {
            ptr: self.ptr,
            word: AtomicU64::new(shared),
        }
    }

    /// Shows only `len` bytes from `start` on.
    ///
    /// # Panics
    /// If the range does not lie within what is shown.
    pub fn narrow(&mut self, start: usize, len: usize) {
        assert!(
            start <= self.len() && len <= self.len() - start,
            "range out of bounds: {len} bytes from {start} of {}",
            self.len()
        );
        if len != 0 {
            // An empty handle keeps its address, which must stay in its page.
            // SAFETY: within the fragment (asserted).
            self.ptr = unsafe { self.ptr.add(start) };
        }
        self.set(len, self.tag());
    }

    /// Shows only the first `len` bytes, and gives the lines behind them back
    /// at once if this is the only handle.
    ///
    /// # Panics
    /// If fewer bytes are shown than that.
    pub fn shrink_to(&mut self, len: usize) {
        self.narrow(0, len);
        if !self.is_unique() {
            return;
        }
        let tag = Tag(self.tag().0 & !SHARED);
        let kept = if tag.has(BYTES) {
            // A byte page counts bytes; one stays even of an empty fragment.
            let keep = len.max(1);
            (keep < tag.size()).then(|| (Tag::bytes(keep), Tag::bytes(tag.size() - keep)))
        } else {
            let flags = tag.0 & WIPE;
            let into = self.offset_in_line_of(tag.first());
            let keep = lines_for(into + len).max(1);
            (keep < tag.count()).then(|| {
                let rest = tag.count() - keep;
                let behind = Tag::lines(tag.first() + keep, rest, flags);
                (Tag::lines(tag.first(), keep, flags), behind)
            })
        };
        if let Some((keep, give)) = kept {
            self.set(len, keep);
            // SAFETY: `give` was part of this handle's tag and is no more; the
            // address only has to lie in the page.
            drop(unsafe { RawFrag::carve(self.ptr, 0, give) });
        }
    }

    /// Bytes from the start of line `first` of the region to the first byte.
    fn offset_in_line_of(&self, first: usize) -> usize {
        let here = (line_of(self.ptr) << LINE_SHIFT) + self.ptr.addr().get() % LINE;
        here - (first << LINE_SHIFT)
    }

    /// Keeps the first `at` bytes and returns a handle on the rest. When this
    /// is the only handle and the cut falls between two lines, both parts are
    /// fragments of their own and no count is touched; otherwise they share.
    ///
    /// # Panics
    /// If `at` is above the length.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> RawFrag {
        let len = self.len();
        assert!(at <= len, "cut at {at} of {len} bytes");
        let alone = self.is_unique();
        let tag = if alone {
            Tag(self.tag().0 & !SHARED)
        } else {
            self.tag()
        };
        let inside = at != 0 && at != len && alone;
        if inside && tag.has(BYTES) {
            self.set(len, Tag::bytes(at));
            // SAFETY: the two tags together are the old one's bytes.
            let mut rest = unsafe { RawFrag::carve(self.ptr, len, Tag::bytes(tag.size() - at)) };
            rest.narrow(at, len - at);
            self.narrow(0, at);
            return rest;
        }
        let cut = self.ptr.addr().get() + at;
        if inside && cut.is_multiple_of(LINE) {
            // SAFETY: `at` is below the length.
            let behind = unsafe { self.ptr.add(at) };
            let kept = line_of(behind) - tag.first();
            let flags = tag.0 & WIPE;
            self.set(len, Tag::lines(tag.first(), kept, flags));
            let rest = Tag::lines(tag.first() + kept, tag.count() - kept, flags);
            self.narrow(0, at);
            // SAFETY: the lines behind the cut were part of this handle's tag
            // and are no more.
            return unsafe { RawFrag::carve(behind, len - at, rest) };
        }
        let mut rest = self.share();
        rest.narrow(at, len - at);
        self.narrow(0, at);
        rest
    }

    /// The page and the lines, if they are another thread's and can be freed
    /// with others of their page in one go; for `batch`.
    pub(crate) fn foreign_lines(&self) -> Option<(Page, (usize, usize))> {
        let (tag, page) = (self.tag(), self.home());
        let plain = tag.0 & SPECIAL == 0 && !page.is_mine();
        plain.then(|| (page, (tag.first(), tag.count())))
    }

    /// Ends the handle without freeing anything: its lines are the caller's.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }

    /// Frees what is not freed the short way.
    #[inline(never)]
    fn free_special(page: Page, tag: Tag) {
        if tag.has(BYTES) {
            if !page.is_mine() {
                Self::deliver(page.count(tag.size()));
            } else if page.free_bytes_here(tag.size()) {
                Self::wake(page);
            }
            return;
        }
        if tag.has(SHARED) && !page.unshare(tag.first()) {
            return;
        }
        if tag.has(WIPE) {
            wipe(page, tag.first(), tag.count());
        }
        if !page.is_mine() {
            Self::deliver(page.free_elsewhere(tag.first(), tag.count()));
        } else if page.free_here(tag.first(), tag.count()) {
            Self::wake(page);
        }
    }

    /// The owner asked to be told: has its shelf look after the page.
    #[cold]
    fn wake(page: Page) {
        if let Some(dead) = shelf::wake(page) {
            depot::give(dead);
        }
    }

    /// Brings a dead orphan home.
    fn deliver(last: Option<LastFree>) {
        if let Some(last) = last {
            depot::deliver(last);
        }
    }
}

/// Zeroes lines of the region that belong to a fragment nobody has any more.
fn wipe(page: Page, first: usize, count: usize) {
    let offset = (first - page.first_line()) << LINE_SHIFT;
    // SAFETY: the lines are in the page.
    let start = unsafe { page.base().add(offset) };
    // SAFETY: the fragment's lines, of which the caller is the last holder.
    unsafe { start.write_bytes(0, count << LINE_SHIFT) };
}

impl Drop for RawFrag {
    #[inline]
    fn drop(&mut self) {
        let tag = self.tag();
        let page = self.home();
        if tag.0 & SPECIAL != 0 || !page.is_mine() {
            Self::free_special(page, tag);
        } else if page.free_here(tag.first(), tag.count()) {
            Self::wake(page);
        }
    }
}

impl fmt::Debug for RawFrag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawFrag")
            .field("page", &format_args!("{:#x}", self.page()))
            .field("offset", &self.offset())
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
