//! One page: who may write what, and the two roads by which bytes come home.
//!
//! # The plain-writer rule
//!
//! A page names its owner. **Only the thread it names writes the owner's
//! fields, and only that thread takes its own name off.** So the owner needs
//! no locked instruction, and nobody ever has to ask whether the owner is in
//! the middle of something: a page changes hands only when its owner lets go
//! (`orphan`) and, later, another thread picks it up (`adopt`).
//!
//! # The two roads
//!
//! The owner's thread sets the lines of a dead fragment in `local`, with plain
//! stores. Every other thread takes one of two roads, and each is final:
//!
//! * **The map road.** Or the fragment's lines into its word of `remote`: one
//!   locked instruction whatever the size, since lines beyond the word are
//!   left in `spill` first. The owner collects the word when it sweeps. If the
//!   bits come back *already set*, the word was closed (an orphan's words are
//!   all ones, which no live fragment's lines can be), nothing has been said
//!   yet, and the free goes on by the other road.
//! * **The count road.** Leave a note in the fragment's own slot, then add its
//!   lines to `tally`. While the page is owned, the tally is a large positive
//!   number and the owner finds the note when it sweeps. While the page is an
//!   orphan the tally is what is still missing, as a negative number, and
//!   whoever brings it to zero, *one* thread since it is one word, has the
//!   page.
//!
//! | `tally`      | the page is                                            |
//! |--------------|--------------------------------------------------------|
//! | `OWNED + d`  | owned (or nobody's); `d` units came by the count road   |
//! | `d - target` | an orphan; `target - d` units are still alive, `d <= target` |
//! | `0`          | dead: the one who brought it here owns it              |
//!
//! Why both: in the race between an owner letting go and a thread freeing,
//! the freeing thread's own locked instruction tells it which side it landed
//! on. It never has to look again, which it could not: after the instruction
//! that gives the bytes away the page may be gone.
//!
//! A note counts only once its addition has landed. The owner claims notes
//! when their lines sum to exactly what has landed and otherwise leaves them
//! for the next sweep, so a thread that stopped between note and addition
//! delays the reuse of some lines and nothing else, and no page is let go
//! while somebody is still about to touch its tally.
//!
//! # The way back
//!
//! What was carved last and is freed first needs no road. The head knows the
//! piece carved last: where it begins (`cursor`) and how long it is (`top`);
//! the next byte to carve comes behind it. **If a fragment's lines end where the
//! next byte would be carved, the owner's thread frees it by making it the room
//! that is carved next**, as if it had never been carved: two comparisons, one
//! store, no map, no count. Packets that do not outlive their turn are served
//! from the same, warm lines for ever, and a stack of fragments that is given
//! back in reverse leaves one hole.
//!
//! Nor does it ask whose the page is where the fragment is of the page that this
//! thread carves: `here.rs` keeps the head of that one at hand.
//!
//! Why that is right: the lines from there to the limit are those that are out
//! of the map and nobody's, and such a fragment makes them longer at their
//! start, also where it was carved in an earlier hole. Cursor and top stand in
//! the page's own head, so the fragment at the end of one page is never taken
//! for the one before the first byte of the next. A page that is not being
//! carved has no cursor (null), nor has a byte page, where the kernel's offsets
//! are promised. While a reservation shows the room, all of it is the piece
//! carved last, and no live fragment is or ends with that. Only the last sharer
//! gets here, and only the owner's thread: all others take the roads above, and
//! touch neither. And since no foreign code runs while the cache itself is
//! between two of its steps, there is no moment at which a free could move the
//! cursor under it.
//!
//! Why a length and not one cursor that moves back: the address that a free
//! writes went through the user's memory, and if the next allocation computed
//! its own from what was written there, each pair would wait for the whole way
//! of the one before. So a pair leaves the cursor alone, and the length only
//! decides a branch, which the processor guesses.
//!
//! Byte pages (`granule = 1`) have no maps: all frees of other threads take
//! the count road, in bytes, without notes. That is the kernel's page count,
//! apart from the owner's own frees being plain.

mod owner;
mod roads;

pub(crate) use roads::retreat;

use std::ptr::NonNull;

use crate::geometry::{LINE_SHIFT, MAX_PAGES, WORD_LINES};
use crate::mem::header::{Header, PageHead, line_of};
use crate::mem::poison;
use crate::sync::{Ordering, thread_token};

/// The owner of a page that is in the pool or on its way there.
pub(crate) const NOBODY: usize = 0;
/// The owner of a page whose cache has let go of it.
pub(crate) const ORPHAN: usize = 1;

/// The tally of an owned page before anything came by the count road.
const OWNED: i64 = 1 << 62;

/// Marks a note as "died by the count road"; the rest is its lines.
const DEAD: u32 = 1 << 31;

/// The countdown of a page that is being carved from its start, nothing of it
/// alive before: what is missing from here came home on the owner's thread.
const WHOLE: i32 = 1 << 30;

/// A countdown that does not run out and says nothing.
pub(crate) const NEVER: i32 = WHOLE - (1 << 24);

/// What a page is doing, for its owner and for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Role {
    /// In the pool, or on its way.
    Free = 0,
    /// Being carved.
    Current = 1,
    /// Owned, not carved, and not worth a look yet.
    Retired = 2,
    /// Owned, not carved, and worth a look.
    Ready = 3,
    /// Owned, not carved, and without live fragments.
    Spare = 4,
    /// Nobody's, with live fragments.
    Orphan = 5,
}

/// A role word is a role, this bit if the page is counted in bytes, the page's
/// number in its region, by which a head finds its header, and which of its
/// shelf's lists it is in.
const BYTES: u32 = 0x10;
const ROLE: u32 = 0xF;
const INDEX_SHIFT: u32 = 8;
const LIST_SHIFT: u32 = 24;
const LIST: u32 = u32::MAX << LIST_SHIFT;
const _: () = assert!(crate::geometry::MAX_PAGES <= 1 << (LIST_SHIFT - INDEX_SHIFT));

/// Bytes from a header to its first head.
const HEADS: usize = std::mem::offset_of!(Header, heads);

/// One page of a region. A name, not a handle: it keeps nothing alive.
///
/// Whoever holds a `Page` has a reason why its region stays mapped: a live
/// fragment in it, ownership, or the depot's ticket. The constructors ask for
/// that reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    header: NonNull<Header>,
    /// Bytes from the region's first head to this page's.
    at: usize,
}

/// A page without fragments that belongs to whoever holds this value: the
/// only way into the pool and out of it.
#[derive(Debug)]
#[must_use = "a page that is not given back is lost"]
pub(crate) struct FreePage(Page);

/// An orphan whose last unit has come home. The depot says whose it is now.
#[derive(Debug)]
#[must_use = "nobody else will deliver this page"]
pub(crate) struct LastFree(Page);

/// What became of a page whose owner let go.
#[derive(Debug)]
pub(crate) enum Released {
    /// Nothing in it was alive.
    Dead(FreePage),
    /// Fragments live on; the ticket is the caller's until it publishes.
    Orphan(Page),
}

impl Page {
    /// The page that `address` lies in.
    ///
    /// # Safety
    /// * `address` lies in a page of a mapped region and carries the
    ///   provenance of its mapping.
    /// * The region stays mapped for as long as the result is used.
    #[inline]
    pub(crate) unsafe fn containing(address: NonNull<u8>) -> Page {
        let header = Header::of(address);
        // SAFETY: the region is mapped, and so is its header.
        let shift = unsafe { header.as_ref() }.page_shift;
        let offset = line_of(address) << LINE_SHIFT;
        Page {
            header,
            at: (offset >> shift) * size_of::<PageHead>(),
        }
    }

    /// Page `index` of the region described by `header`.
    ///
    /// # Safety
    /// * The region is mapped and has that many pages.
    /// * It stays mapped for as long as the result is used.
    pub(crate) unsafe fn nth(header: NonNull<Header>, index: usize) -> Page {
        let at = index * size_of::<PageHead>();
        Page { header, at }
    }

    /// The page that `head`, which has been opened, describes.
    ///
    /// # Safety
    /// * `head` points into the header of a mapped region, with the provenance
    ///   of its mapping.
    /// * The region stays mapped for as long as the result is used.
    pub(crate) unsafe fn of_head(head: NonNull<PageHead>) -> Page {
        // SAFETY: mapped (caller).
        let role = unsafe { head.as_ref() }.role.peek();
        let index = ((role & !LIST) >> INDEX_SHIFT) as usize;
        let at = index * size_of::<PageHead>();
        // SAFETY: the header that the head is part of starts there.
        let header = unsafe { head.byte_sub(HEADS + at) }.cast();
        Page { header, at }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the region is mapped while this value is used (constructors).
        let header = unsafe { self.header.as_ref() };
        header.lifetime.used();
        header
    }

    /// What describes this page.
    #[inline]
    pub(crate) fn head(&self) -> &PageHead {
        // SAFETY: made by `head_ptr`, of a header that is mapped.
        unsafe { &*self.head_ptr() }
    }

    /// The head's address, with the provenance of the mapping.
    #[inline]
    pub(crate) fn head_ptr(self) -> *mut PageHead {
        debug_assert!(self.index() < MAX_PAGES);
        // SAFETY: within the header: an offset in the region shifted by a page
        // shift that is at least log2(MIN_PAGE) is below MAX_PAGES.
        unsafe { self.header.as_ptr().byte_add(HEADS + self.at).cast() }
    }

    /// The depot slot that the region reports to.
    pub(crate) fn slot(self) -> *const () {
        self.header().slot
    }

    /// The page's number in its region.
    pub(crate) fn index(self) -> usize {
        self.at / size_of::<PageHead>()
    }

    /// Bytes of the page.
    pub(crate) fn size(self) -> usize {
        1 << self.header().page_shift
    }

    /// The page's first byte.
    pub(crate) fn base(self) -> NonNull<u8> {
        let offset = self.index() << self.header().page_shift;
        // SAFETY: the region has this page.
        unsafe { Header::base(self.header).byte_add(offset) }
    }

    /// Lines of the page.
    pub(crate) fn lines(self) -> usize {
        self.size() >> LINE_SHIFT
    }

    /// The page's first line, counted from the region's.
    pub(crate) fn first_line(self) -> usize {
        self.index() << (self.header().page_shift - LINE_SHIFT)
    }

    fn words(self) -> std::ops::Range<usize> {
        let first = self.first_line() / WORD_LINES;
        first..first + self.lines() / WORD_LINES
    }

    /// Is this page owned by the calling thread?
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        // Relaxed: only this thread writes its own token here, and only this
        // thread takes it off, so it sees its own last word; any other value
        // sends the free down a road where a locked instruction decides.
        self.head().owner.load(Ordering::Relaxed) == thread_token()
    }

    pub(crate) fn role(self) -> Role {
        match self.head().role.peek() & ROLE {
            1 => Role::Current,
            2 => Role::Retired,
            3 => Role::Ready,
            4 => Role::Spare,
            5 => Role::Orphan,
            _ => Role::Free,
        }
    }

    pub(crate) fn set_role(self, role: Role) {
        let word = self.head().role.get() & !ROLE;
        self.head().role.set(word | role as u32);
    }

    /// Which of its shelf's lists the page is in: what `set_list` said last.
    pub(crate) fn list(self) -> usize {
        (self.head().role.get() >> LIST_SHIFT) as usize
    }

    pub(crate) fn set_list(self, list: usize) {
        debug_assert!(list < 1 << (u32::BITS - LIST_SHIFT));
        #[allow(clippy::cast_possible_truncation)] // a shelf has few lists
        let list = (list as u32) << LIST_SHIFT;
        self.head().role.set(self.head().role.get() & !LIST | list);
    }

    /// Is this page counted in bytes rather than mapped in lines?
    pub(crate) fn is_bytes(self) -> bool {
        self.head().role.peek() & BYTES != 0
    }
}

impl FreePage {
    /// A page that has just been mapped or taken out of the depot.
    ///
    /// # Safety
    /// The page has no fragments and no one else has it.
    pub(crate) unsafe fn assume(page: Page) -> FreePage {
        FreePage(page)
    }

    /// The page, given away.
    pub(crate) fn into_page(self) -> Page {
        self.0
    }

    /// Was it a byte page when it was last used?
    pub(crate) fn was_bytes(&self) -> bool {
        self.0.is_bytes()
    }

    /// Zeroes every byte.
    pub(crate) fn wipe(&self) {
        // SAFETY: without fragments and exclusively ours.
        unsafe { poison::wipe(self.0.base(), self.0.size()) };
    }
}

/// What statistics read, from any thread: exact at quiescence.
impl Page {
    /// Bytes of live fragments.
    pub(crate) fn alive_bytes(self) -> usize {
        let head = self.head();
        // Relaxed, all: what made it quiet has ordered the rest.
        let tally = head.tally.load(Ordering::Relaxed);
        if tally <= 0 {
            let units = usize::try_from(-tally).unwrap_or(0);
            return if self.is_bytes() {
                units.min(self.size())
            } else {
                units << LINE_SHIFT
            };
        }
        let landed = tally - OWNED;
        if self.is_bytes() {
            // Each sharer counts its bytes, as references of the page.
            let units = usize::try_from(head.balance.peek() - landed).unwrap_or(0);
            return units.min(self.size());
        }
        let mut free = usize::try_from(landed - head.claimed.peek()).unwrap_or(0);
        for word in self.words() {
            let local = self.header().local[word].peek();
            let remote = self.header().remote[word].load(Ordering::Relaxed);
            free += (local | remote).count_ones() as usize;
            if remote >> (WORD_LINES - 1) & 1 == 1 {
                free += usize::from(self.header().spill[word].load(Ordering::Relaxed));
            }
        }
        (self.lines().saturating_sub(free) << LINE_SHIFT).saturating_sub(self.uncarved_bytes())
    }

    /// Bytes of the hole that have been taken out of the map and not carved.
    pub(crate) fn uncarved_bytes(self) -> usize {
        let head = self.head();
        let carved = head.cursor.peek().addr() + head.top.peek();
        head.limit.peek().addr().saturating_sub(carved)
    }

    /// Who owns the page.
    pub(crate) fn owner(self) -> usize {
        // Relaxed: a snapshot.
        self.head().owner.load(Ordering::Relaxed)
    }
}
