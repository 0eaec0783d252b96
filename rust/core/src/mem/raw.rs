//! The raw fragment: sixteen bytes that own lines of a page.
//!
//! ```text
//!   ptr ──► a byte of the page       8 bytes, never null
//!   word ─► len, bytes from there    low 21 bits
//!           tag, what is given back  the others
//! ```
//!
//! Two machine words and not three fields, so that a fragment travels in two
//! registers.
//!
//! `ptr` and `len` say what this handle shows and may be narrowed at will; the
//! tag says what comes home when the last handle goes. As long as that is what
//! is shown, in whole lines, the tag says nothing, and a fragment that was just
//! carved is an address and a length. From the address alone follow the region,
//! the page and its owner, so a fragment needs neither its cache nor its pool
//! to be freed, and keeps both alive as far as it must.
//!
//! What the bits of the word say is told in `tag.rs`.

mod tag;

use std::fmt;
use std::ptr::NonNull;

use crate::geometry::{LINE, LINE_SHIFT, align_up, lines_for};
use crate::mem::header::line_of;
use crate::mem::lines;
use crate::mem::page::{LastFree, Page};
use crate::mem::poison;
use crate::mem::shelf;
use crate::mem::{depot, here};
use crate::sync::{AtomicU64, Ordering, read_owned};
use tag::{LEN, SHARED, Tag, word};

pub(crate) use tag::{BYTES, CLEAN, WIPE};

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

// SAFETY: a raw fragment owns its share of its page's lines. Freeing them is
// safe on any thread: the page decides by its owner's token which road a free
// takes, and only the owner's own thread takes the one without locked
// instructions (page.rs). `share` and the accessors use atomics only. Reading
// and writing the bytes is left to unsafe code of whoever holds the pointer.
unsafe impl Send for RawFrag {}
// SAFETY: as for Send; `&RawFrag` offers `share` and accessors only.
unsafe impl Sync for RawFrag {}

impl RawFrag {
    /// `len` bytes of a line page, and the lines that they are in. `flags`:
    /// `WIPE`, `CLEAN` or 0.
    ///
    /// # Safety
    /// * `ptr` is where a line begins and `len`, not 0, reaches to the end of
    ///   its page at most.
    /// * The owner of the page has carved the lines for this value alone.
    /// * `ptr` carries the provenance of the region's mapping.
    #[inline]
    pub(crate) unsafe fn carve(ptr: NonNull<u8>, len: usize, flags: u64) -> RawFrag {
        debug_assert!(len != 0 && len as u64 <= LEN && ptr.addr().get().is_multiple_of(LINE));
        poison::show(ptr, align_up(len, LINE));
        RawFrag {
            ptr,
            word: AtomicU64::new(len as u64 | flags),
        }
    }

    /// `len` bytes of a byte page.
    ///
    /// # Safety
    /// * The bytes lie in a byte page, whose owner has carved them for this
    ///   value alone.
    /// * `ptr` carries the provenance of the region's mapping.
    pub(crate) unsafe fn carve_bytes(ptr: NonNull<u8>, len: usize) -> RawFrag {
        poison::show(ptr, len);
        // SAFETY: carved for this value alone (caller).
        unsafe { Self::part(ptr, len, Tag::bytes(len)) }
    }

    /// The fragment as two plain words. It lives on in them.
    #[inline]
    pub(crate) fn into_words(mut self) -> (NonNull<u8>, u64) {
        let words = (self.ptr, read_owned(&mut self.word));
        self.forget();
        words
    }

    /// The fragment that two words are.
    ///
    /// # Safety
    /// They come from `into_words` and are used once.
    #[inline]
    pub(crate) unsafe fn from_words(ptr: NonNull<u8>, word: u64) -> RawFrag {
        RawFrag {
            ptr,
            word: AtomicU64::new(word),
        }
    }

    /// A handle on what `tag` describes.
    ///
    /// # Safety
    /// * `ptr .. ptr + len` lies within what `tag` describes, or `len` is 0 and
    ///   `ptr` in the same page.
    /// * What `tag` describes is this value's alone.
    /// * `ptr` carries the provenance of the region's mapping.
    unsafe fn part(ptr: NonNull<u8>, len: usize, tag: Tag) -> RawFrag {
        RawFrag {
            ptr,
            word: AtomicU64::new(word(ptr, len, tag)),
        }
    }

    #[inline]
    fn tag(&self) -> Tag {
        // Relaxed: only the SHARED flag ever changes while the handle is
        // borrowed, and all who change it set it.
        Tag::of_words(self.ptr, self.word.load(Ordering::Relaxed))
    }

    fn set(&mut self, len: usize, tag: Tag) {
        // Relaxed: the handle is borrowed exclusively.
        self.word.store(word(self.ptr, len, tag), Ordering::Relaxed);
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
        #[allow(clippy::cast_possible_truncation)] // 21 bits
        {
            (word & LEN) as usize
        }
    }

    /// `len`, through an exclusive borrow.
    #[inline]
    pub(crate) fn len_owned(&mut self) -> usize {
        #[allow(clippy::cast_possible_truncation)] // 21 bits
        {
            (read_owned(&mut self.word) & LEN) as usize
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
        page.size().saturating_sub(page.alive_bytes())
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
        // Relaxed, both: see `tag`.
        let shared = self.word.load(Ordering::Relaxed) | SHARED;
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
        let tag = self.tag();
        if len != 0 {
            // An empty handle keeps its address, which must stay in its page.
            // SAFETY: within the fragment (asserted).
            self.ptr = unsafe { self.ptr.add(start) };
        }
        self.set(len, tag);
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
        let tag = self.tag().unshared();
        let kept = if tag.has(BYTES) {
            // A byte page counts bytes; one stays even of an empty fragment.
            let keep = len.max(1);
            (keep < tag.size()).then(|| (Tag::bytes(keep), Tag::bytes(tag.size() - keep)))
        } else {
            let flags = tag.flags();
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
            drop(unsafe { RawFrag::part(self.ptr, 0, give) });
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
            self.tag().unshared()
        } else {
            self.tag()
        };
        let inside = at != 0 && at != len && alone;
        if inside && tag.has(BYTES) {
            self.set(len, Tag::bytes(at));
            // SAFETY: the two tags together are the old one's bytes.
            let mut rest = unsafe { RawFrag::part(self.ptr, len, Tag::bytes(tag.size() - at)) };
            rest.narrow(at, len - at);
            self.narrow(0, at);
            return rest;
        }
        let cut = self.ptr.addr().get() + at;
        if inside && cut.is_multiple_of(LINE) {
            // SAFETY: `at` is below the length.
            let behind = unsafe { self.ptr.add(at) };
            let kept = line_of(behind) - tag.first();
            let flags = tag.flags();
            self.set(len, Tag::lines(tag.first(), kept, flags));
            let rest = Tag::lines(tag.first() + kept, tag.count() - kept, flags);
            self.narrow(0, at);
            // SAFETY: the lines behind the cut were part of this handle's tag
            // and are no more.
            return unsafe { RawFrag::part(behind, len - at, rest) };
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
        let plain = !tag.is_special() && !page.is_mine();
        plain.then(|| (page, (tag.first(), tag.count())))
    }

    /// The length of a fragment that comes home as it is shown, with nothing to look
    /// after: its lines are those that it lies in. For `batch`.
    #[inline]
    pub(crate) fn plain_len(&self) -> Option<usize> {
        // Relaxed: as in `tag`.
        let word = self.word.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // 21 bits
        (word <= LEN).then_some(word as usize)
    }

    /// The first byte that it shows; of a plain fragment the first of a line.
    #[inline]
    pub(crate) fn first_byte(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Ends the handle without freeing anything: its lines are the caller's.
    #[inline]
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }

    /// Frees what is not the piece carved last here. Out of line and of words, so that a
    /// handle that goes the short way lies nowhere.
    #[inline(never)]
    fn free(start: NonNull<u8>, word: u64) {
        if word > LEN {
            return Self::free_special(start, word);
        }
        #[allow(clippy::cast_possible_truncation)] // 21 bits
        let len = word as usize;
        poison::hide(start, align_up(len, LINE));
        Self::free_plain(start, len);
    }

    /// Frees what is not plain.
    #[inline(never)]
    fn free_special(start: NonNull<u8>, word: u64) {
        // SAFETY: as in `home`; the fragment is alive until the page hears of its end.
        let (page, tag) = (
            unsafe { Page::containing(start) },
            Tag::of_words(start, word),
        );
        if tag.has(BYTES) {
            if !tag.has(SHARED) {
                #[allow(clippy::cast_possible_truncation)] // 21 bits
                poison::hide(start, (word & LEN) as usize);
            }
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
        hide(page, tag.first(), tag.count());
        if page.is_mine() {
            Self::free_here(page, tag);
        } else {
            Self::deliver(page.free_elsewhere(tag.first(), tag.count()));
        }
    }

    /// Frees lines of one of the calling thread's pages.
    fn free_here(page: Page, tag: Tag) {
        let (first, count) = (tag.first(), tag.count());
        if page.retreat_over(start_of(page, first), count << LINE_SHIFT) {
            if tag.has(CLEAN) {
                wipe(page, first, count);
            }
        } else if page.free_here(first, count) {
            Self::wake(page);
        }
    }

    /// Frees neighbours of one page as if they were one plain fragment.
    #[inline(never)]
    pub(crate) fn free_run(start: NonNull<u8>, bytes: usize) {
        Self::free_plain(start, bytes);
    }

    /// Frees a plain fragment that is not the piece carved last here.
    #[inline]
    fn free_plain(start: NonNull<u8>, len: usize) {
        // SAFETY: as in `home`; the fragment is alive until the page hears of its end.
        let page = unsafe { Page::containing(start) };
        let (first, count) = (line_of(start), lines_for(len));
        // The less usual ways out are calls at the end: what they need to keep costs the
        // usual one nothing.
        if !page.is_mine() {
            Self::free_elsewhere(page, first, count);
        } else if page.retreat_over(start, len) {
            // The cache that carves this page is the one at work now.
            here::come_back(page);
        } else if lines::fit_a_word(first, count) {
            if page.free_here(first, count) {
                Self::wake(page);
            }
        } else {
            Self::free_wide(page, first, count);
        }
    }

    /// Frees lines of somebody else's page.
    #[inline(never)]
    fn free_elsewhere(page: Page, first: usize, count: usize) {
        Self::deliver(page.free_elsewhere(first, count));
    }

    /// Frees lines of one of the calling thread's pages that several words tell of.
    #[inline(never)]
    fn free_wide(page: Page, first: usize, count: usize) {
        if page.free_here(first, count) {
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
    // SAFETY: the fragment's lines, of which the caller is the last holder.
    unsafe { poison::wipe(start_of(page, first), count << LINE_SHIFT) };
}

/// Nobody has these lines of the region any more; said before they are freed.
#[inline]
pub(crate) fn hide(page: Page, first: usize, count: usize) {
    poison::hide(start_of(page, first), count << LINE_SHIFT);
}

/// Where line `first` of the region begins, which is in `page`.
fn start_of(page: Page, first: usize) -> NonNull<u8> {
    let offset = (first - page.first_line()) << LINE_SHIFT;
    // SAFETY: the line is in the page.
    unsafe { page.base().add(offset) }
}

impl Drop for RawFrag {
    #[inline]
    fn drop(&mut self) {
        let word = read_owned(&mut self.word);
        // What a word says beside the length makes it longer than any piece.
        #[allow(clippy::cast_possible_truncation)] // what says more is in the low half too
        let len = word as usize;
        if here::retreat(self.ptr, len) {
            poison::hide(self.ptr, align_up(len, LINE));
        } else {
            Self::free(self.ptr, word);
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
