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
//! Byte pages (`granule = 1`) have no maps: all frees of other threads take
//! the count road, in bytes, without notes. That is the kernel's page count,
//! apart from the owner's own frees being plain.

use std::ptr::NonNull;

use crate::geometry::{FULL, LINE_SHIFT, MAX_PAGE, MIN_PAGE, WORD_LINES};
use crate::mem::header::{Header, PageHead, line_of};
use crate::mem::lines;
use crate::sync::{Ordering, thread_token};

/// The owner of a page that is in the pool or on its way there.
pub(crate) const NOBODY: usize = 0;
/// The owner of a page whose cache has let go of it.
pub(crate) const ORPHAN: usize = 1;

/// The tally of an owned page before anything came by the count road.
const OWNED: i64 = 1 << 62;

/// Map words of the largest page.
const PAGE_WORDS: usize = MAX_PAGE / MIN_PAGE;

/// Marks a note as "died by the count road"; the rest is its lines.
const DEAD: u32 = 1 << 31;

/// A countdown that does not run out: the owner is looking anyway.
pub(crate) const NEVER: i32 = i32::MAX;

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
    /// Nobody's, with live fragments.
    Orphan = 4,
}

/// A role word is a role, this bit if the page is counted in bytes, and the
/// page's number in its region, by which a head finds its header.
const BYTES: u32 = 0x10;
const ROLE: u32 = 0xF;
const INDEX_SHIFT: u32 = 8;

/// One page of a region. A name, not a handle: it keeps nothing alive.
///
/// Whoever holds a `Page` has a reason why its region stays mapped: a live
/// fragment in it, ownership, or the depot's ticket. The constructors ask for
/// that reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    header: NonNull<Header>,
    index: usize,
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
            index: offset >> shift,
        }
    }

    /// Page `index` of the region described by `header`.
    ///
    /// # Safety
    /// * The region is mapped and has that many pages.
    /// * It stays mapped for as long as the result is used.
    pub(crate) unsafe fn nth(header: NonNull<Header>, index: usize) -> Page {
        Page { header, index }
    }

    /// The page that `head`, which has been opened, describes.
    ///
    /// # Safety
    /// * `head` points into the header of a mapped region, with the provenance
    ///   of its mapping.
    /// * The region stays mapped for as long as the result is used.
    pub(crate) unsafe fn of_head(head: NonNull<PageHead>) -> Page {
        // SAFETY: mapped (caller).
        let index = (unsafe { head.as_ref() }.role.peek() >> INDEX_SHIFT) as usize;
        let above = std::mem::offset_of!(Header, heads) + index * size_of::<PageHead>();
        // SAFETY: the header that the head is part of starts there.
        let header = unsafe { head.byte_sub(above) }.cast();
        Page { header, index }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the region is mapped while this value is used (constructors).
        unsafe { self.header.as_ref() }
    }

    /// What describes this page.
    #[inline]
    pub(crate) fn head(&self) -> &PageHead {
        debug_assert!(self.index < self.header().heads.len());
        // SAFETY: an offset in the region shifted by a page shift that is at
        // least log2(MIN_PAGE) is below MAX_PAGES.
        unsafe { self.header().heads.get_unchecked(self.index) }
    }

    /// The head's address, with the provenance of the mapping.
    pub(crate) fn head_ptr(self) -> *mut PageHead {
        let heads = std::mem::offset_of!(Header, heads) + self.index * size_of::<PageHead>();
        // SAFETY: within the header, which is mapped.
        unsafe { self.header.as_ptr().byte_add(heads).cast() }
    }

    /// The depot slot that the region reports to.
    pub(crate) fn slot(self) -> *const () {
        self.header().slot
    }

    /// The page's number in its region.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Bytes of the page.
    pub(crate) fn size(self) -> usize {
        1 << self.header().page_shift
    }

    /// The page's first byte.
    pub(crate) fn base(self) -> NonNull<u8> {
        let offset = self.index << self.header().page_shift;
        // SAFETY: the region has this page.
        unsafe { Header::base(self.header).byte_add(offset) }
    }

    /// Lines of the page.
    pub(crate) fn lines(self) -> usize {
        self.size() >> LINE_SHIFT
    }

    /// The page's first line, counted from the region's.
    pub(crate) fn first_line(self) -> usize {
        self.index << (self.header().page_shift - LINE_SHIFT)
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
            4 => Role::Orphan,
            _ => Role::Free,
        }
    }

    pub(crate) fn set_role(self, role: Role) {
        let word = self.head().role.get() & !ROLE;
        self.head().role.set(word | role as u32);
    }

    /// Is this page counted in bytes rather than mapped in lines?
    pub(crate) fn is_bytes(self) -> bool {
        self.head().role.peek() & BYTES != 0
    }
}

/// Freeing.
impl Page {
    /// The owner's thread frees `lines` lines from `first` (of the region).
    /// No locked instruction. True when the owner asked to be told by now.
    #[inline]
    pub(crate) fn free_here(&self, first: usize, count: usize) -> bool {
        self.mark(first, count);
        let left = self.head().until.get() - i32::try_from(count).unwrap_or(NEVER);
        self.head().until.set(left);
        left <= 0
    }

    /// Sets lines in the owner's map.
    #[inline]
    fn mark(&self, first: usize, count: usize) {
        let local = &self.header().local;
        if first % WORD_LINES + count <= WORD_LINES {
            let (word, mask) = lines::head_mask(first, count);
            let before = local[word].get();
            debug_assert_eq!(before & mask, 0, "freed twice");
            local[word].set(before | mask);
        } else {
            lines::for_each_word(first, count, |word, mask| {
                let before = local[word].get();
                debug_assert_eq!(before & mask, 0, "freed twice");
                local[word].set(before | mask);
            });
        }
    }

    /// Any other thread frees `count` lines from `first` (of the region): one
    /// locked instruction, two if the page is or becomes an orphan meanwhile.
    pub(crate) fn free_elsewhere(self, first: usize, count: usize) -> Option<LastFree> {
        if !self.is_orphan() {
            let (word, mask) = lines::head_mask(first, count);
            if self.post(word, mask, count - mask.count_ones() as usize) {
                return None;
            }
        }
        self.note(first, count);
        self.count(count)
    }

    /// Has the owner let go, as far as this thread can see?
    pub(crate) fn is_orphan(self) -> bool {
        // Relaxed: a hint that saves a locked instruction. A stale answer
        // either way ends on a road that is final.
        self.head().owner.load(Ordering::Relaxed) == ORPHAN
    }

    /// The map road: `mask` in `word`, and `beyond` lines behind the word.
    /// False if the word is closed; then nothing has been said.
    pub(crate) fn post(self, word: usize, mask: u64, beyond: usize) -> bool {
        let header = self.header();
        let spill = &header.spill[word];
        if beyond != 0 {
            // Relaxed: published by the release below. The slot is ours: only
            // the fragment across the end of this word may use it.
            spill.store(u16::try_from(beyond).unwrap_or(u16::MAX), Ordering::Relaxed);
        }
        // Release, partner `collect`: what this thread did with the bytes, and
        // the spill, are seen by the owner before it carves them again.
        let before = header.remote[word].fetch_or(mask, Ordering::Release);
        if before & mask == 0 {
            // Nothing of the page may be touched from here on.
            return true;
        }
        debug_assert_eq!(before, FULL, "freed twice");
        if beyond != 0 {
            // Relaxed: our lines are still alive, so nobody reads it.
            spill.store(0, Ordering::Relaxed);
        }
        false
    }

    /// The count road, first half: leaves a note that `count` lines from
    /// `first` are dead.
    pub(crate) fn note(self, first: usize, count: usize) {
        let note = DEAD | u32::try_from(count).unwrap_or(0);
        // Relaxed: published by the addition in `count`. The slot is ours: it
        // belongs to a line of the fragment that dies.
        self.header().notes[first].store(note, Ordering::Relaxed);
    }

    /// The count road, second half: `units` have come home.
    pub(crate) fn count(self, units: usize) -> Option<LastFree> {
        let units = i64::try_from(units).unwrap_or(0);
        // Release, partner `claim` and the last one here: what this thread did
        // with the bytes, and its notes. Acquire: the last one sees what all
        // others did before the page is used again.
        let before = self.head().tally.fetch_add(units, Ordering::AcqRel);
        // Unless this was the last, nothing of the page may be touched now.
        (before + units == 0).then_some(LastFree(self))
    }

    /// The owner's thread frees `bytes` of a byte page. True when that leaves
    /// the page dead, as far as can be seen.
    pub(crate) fn free_bytes_here(self, bytes: usize) -> bool {
        let head = self.head();
        let balance = head.balance.get() - i64::try_from(bytes).unwrap_or(0);
        head.balance.set(balance);
        // Relaxed: a hint; `sweep_bytes` decides with an acquire.
        balance == head.tally.load(Ordering::Relaxed) - OWNED
    }

    /// One more reference to `bytes` of a byte page: the count goes down by
    /// what one more drop will bring it up.
    pub(crate) fn share_bytes(self, bytes: usize) {
        // Relaxed: the sharer already has the bytes, and its drop releases.
        let before = self
            .head()
            .tally
            .fetch_sub(i64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        // An orphan's tally may sink far; an owned one must stay positive.
        if before < -OWNED || (0..OWNED / 2).contains(&before) {
            std::process::abort();
        }
    }
}

/// What the owner does.
impl Page {
    /// Makes a free page the calling thread's, every line of it known free.
    pub(crate) fn open(free: FreePage, shelf: *mut (), bytes: bool) -> Page {
        let page = free.into_page();
        let head = page.head();
        head.shelf.set(shelf);
        head.prev.set(std::ptr::null_mut());
        head.next.set(std::ptr::null_mut());
        head.claimed.set(0);
        head.balance.set(0);
        head.until.set(NEVER);
        #[allow(clippy::cast_possible_truncation)] // below MAX_PAGES
        let number = (page.index as u32) << INDEX_SHIFT;
        let kind = if bytes { BYTES } else { 0 };
        head.role.set(number | kind | Role::Current as u32);
        // Relaxed, both: no fragment exists; whoever gets one gets these too.
        head.tally.store(OWNED, Ordering::Relaxed);
        for word in page.words() {
            page.header().local[word].set(if bytes { 0 } else { FULL });
        }
        head.owner.store(thread_token(), Ordering::Relaxed);
        page
    }

    /// Takes lines that are free out of the map, to carve them.
    pub(crate) fn take_lines(self, first: usize, count: usize) {
        lines::for_each_word(first, count, |word, mask| {
            let local = &self.header().local[word];
            debug_assert_eq!(local.get() & mask, mask, "carving live lines");
            local.set(local.get() & !mask);
        });
    }

    /// Puts lines that were taken and not used back into the map.
    pub(crate) fn put_lines(self, first: usize, count: usize) {
        if count != 0 {
            self.mark(first, count);
        }
    }

    /// Collects what other threads freed and counts the free lines.
    pub(crate) fn sweep(self) -> usize {
        for word in self.words() {
            // Relaxed: what is missed now is found at the next sweep.
            if self.header().remote[word].load(Ordering::Relaxed) != 0 {
                // Acquire, partner `post`: the bytes are ours to hand out.
                let freed = self.header().remote[word].swap(0, Ordering::Acquire);
                self.collect(word, freed);
            }
        }
        self.claim();
        self.free_lines()
    }

    /// Enters lines freed by the map road into the owner's map.
    fn collect(self, word: usize, freed: u64) {
        let header = self.header();
        let local = &header.local[word];
        debug_assert_eq!(local.get() & freed, 0, "freed twice");
        local.set(local.get() | freed);
        if freed >> (WORD_LINES - 1) & 1 == 1 {
            // Relaxed: acquired with the word whose last line this is.
            let beyond = header.spill[word].load(Ordering::Relaxed);
            if beyond != 0 {
                // Relaxed: the next to use it is a fragment we carve later.
                header.spill[word].store(0, Ordering::Relaxed);
                self.mark((word + 1) * WORD_LINES, usize::from(beyond));
            }
        }
    }

    /// Enters lines freed by the count road into the owner's map, if every
    /// note that is there has landed.
    fn claim(self) {
        let head = self.head();
        // Acquire, partner `count`: the notes of all that has landed.
        let landed = head.tally.load(Ordering::Acquire) - OWNED;
        let pending = landed - head.claimed.get();
        if pending == 0 {
            return;
        }
        // Notes may appear while we look: what is claimed is what was summed.
        let first = self.first_line();
        let mut seen = [0_u64; PAGE_WORDS];
        let mut noted = 0;
        for (line, count) in self.dead_notes() {
            let (word, bit) = lines::head_mask(line - first, 1);
            seen[word] |= bit;
            noted += i64::from(count);
        }
        debug_assert!(noted >= pending, "landed without a note");
        if noted != pending {
            return;
        }
        let mut from = 0;
        while let Some((line, _)) = lines::next_run(|word| seen[word], PAGE_WORDS, from) {
            from = line + 1;
            let note = &self.header().notes[first + line];
            // Relaxed, both: landed, so it is ours; the next to use the slot is
            // a fragment we carve later.
            self.mark(
                first + line,
                (note.load(Ordering::Relaxed) & !DEAD) as usize,
            );
            note.store(0, Ordering::Relaxed);
        }
        head.claimed.set(landed);
    }

    /// Notes of the dead on lines not known to be free.
    fn dead_notes(self) -> impl Iterator<Item = (usize, u32)> {
        let first = self.first_line();
        (first..first + self.lines()).filter_map(move |line| {
            let known = self.header().local[line / WORD_LINES].get() >> (line % WORD_LINES) & 1;
            // Relaxed: the caller acquired the tally.
            let note = self.header().notes[line].load(Ordering::Relaxed);
            (known == 0 && note & DEAD != 0).then_some((line, note & !DEAD))
        })
    }

    /// Lines that the owner's map has as free.
    pub(crate) fn free_lines(self) -> usize {
        self.words()
            .map(|word| self.header().local[word].get().count_ones() as usize)
            .sum()
    }

    /// The first run of free lines at or after `from` (of the region), cut to
    /// start at a multiple of `align` lines, that has `need` lines.
    pub(crate) fn find_hole(self, need: usize, align: usize) -> Option<(usize, usize)> {
        let words = self.words();
        let origin = words.start * WORD_LINES;
        let word = |index: usize| self.header().local[words.start + index].get();
        let mut from = 0;
        while let Some((start, count)) = lines::next_run(word, words.len(), from) {
            let gap = crate::geometry::align_up(start, align) - start;
            if gap + need <= count {
                return Some((origin + start, count));
            }
            from = start + count;
        }
        None
    }

    /// The owner of a byte page carved `bytes` more.
    pub(crate) fn carve_bytes(self, bytes: usize) {
        let head = self.head();
        head.balance
            .set(head.balance.get() + i64::try_from(bytes).unwrap_or(0));
    }

    /// Is a byte page without fragments?
    pub(crate) fn is_dead_bytes(self) -> bool {
        // Acquire, partner `count`: the bytes are ours to hand out.
        let landed = self.head().tally.load(Ordering::Acquire) - OWNED;
        self.head().balance.get() == landed
    }

    /// Starts a dead byte page anew.
    pub(crate) fn restart_bytes(self) {
        self.head().balance.set(0);
        // Relaxed: dead, so nobody else counts here.
        self.head().tally.store(OWNED, Ordering::Relaxed);
    }

    /// Collects what other threads freed. Is anything still alive?
    pub(crate) fn sweep_is_dead(self) -> bool {
        if self.is_bytes() {
            self.is_dead_bytes()
        } else {
            self.sweep() == self.lines()
        }
    }

    /// Units known to be free, for `Shelf::retire`.
    pub(crate) fn free_units(self) -> usize {
        if self.is_bytes() {
            0
        } else {
            self.free_lines()
        }
    }

    /// The owner gives up a page that a sweep has found dead.
    pub(crate) fn close(self) -> FreePage {
        debug_assert!(self.sweep_is_dead());
        self.set_role(Role::Free);
        // Relaxed: the depot publishes the page.
        self.head().owner.store(NOBODY, Ordering::Relaxed);
        FreePage(self)
    }

    /// The owner lets go of a page of which nothing is being carved.
    ///
    /// Locked instructions: one per map word, and one.
    pub(crate) fn orphan(self) -> Released {
        let head = self.head();
        self.set_role(Role::Orphan);
        // Relaxed: a hint for others; the roads decide. From here on this
        // thread's own frees are those of a stranger.
        head.owner.store(ORPHAN, Ordering::Relaxed);
        let alive = if self.is_bytes() {
            head.claimed.set(0);
            head.balance.get()
        } else {
            for word in self.words() {
                // Acquire, partner `post`. Whoever ors later sees its own bits
                // set and takes the count road.
                let freed = self.header().remote[word].swap(FULL, Ordering::Acquire);
                self.collect(word, freed);
            }
            self.claim();
            let alive = self.lines() - self.free_lines();
            if alive == 0 {
                // All lines known, so nobody is on either road any more.
                self.reopen();
                self.set_role(Role::Free);
                head.owner.store(NOBODY, Ordering::Relaxed);
                return Released::Dead(FreePage(self));
            }
            i64::try_from(alive).unwrap_or(0)
        };
        let target = head.claimed.get() + alive;
        head.target.set(target);
        // Release, partner `count` of the last free and `adopt`: the owner's
        // fields. Acquire: if all has landed meanwhile, we are the last.
        let before = head.tally.fetch_sub(OWNED + target, Ordering::AcqRel);
        if before - OWNED - target == 0 {
            return Released::Dead(LastFree(self).bury());
        }
        Released::Orphan(self)
    }

    /// Opens the closed words again.
    fn reopen(self) {
        for word in self.words() {
            // A swap and not a store: a free that ors now comes before it, and
            // finds the word closed, or after it, and leaves its bits. Acquire:
            // in the first case it has said nothing yet, and nothing is lost.
            self.header().remote[word].swap(0, Ordering::Acquire);
        }
    }

    /// Makes an orphan the calling thread's. The caller holds its ticket.
    /// Fails when the orphan is dead and its last free is on the way to the
    /// depot; the ticket is then still the caller's.
    pub(crate) fn adopt(self, shelf: *mut ()) -> bool {
        let head = self.head();
        // Acquire here and below, partner `orphan` (through the ticket) and
        // `count`: notes and bytes of all that has landed.
        let mut tally = head.tally.load(Ordering::Acquire);
        loop {
            if tally == 0 {
                return false;
            }
            let owned = tally + OWNED + head.target.get();
            match head.tally.compare_exchange_weak(
                tally,
                owned,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => tally = now,
            }
        }
        self.reopen();
        head.shelf.set(shelf);
        head.until.set(NEVER);
        self.set_role(Role::Current);
        // Relaxed: a hint for others, our own word for ourselves.
        head.owner.store(thread_token(), Ordering::Relaxed);
        true
    }

    /// A dead orphan whose last free left it to the ticket's holder.
    pub(crate) fn into_last(self) -> LastFree {
        // Acquire, partner `count`: what all who freed it did.
        let tally = self.head().tally.load(Ordering::Acquire);
        debug_assert_eq!(tally, 0, "not dead");
        LastFree(self)
    }
}

impl LastFree {
    /// The page this is about.
    pub(crate) fn page(&self) -> Page {
        self.0
    }

    /// Cleans up after a dead orphan. The caller owns it: it is the last free,
    /// and no one holds the ticket.
    pub(crate) fn bury(self) -> FreePage {
        let page = self.0;
        if !page.is_bytes() {
            let first = page.first_line();
            for line in first..first + page.lines() {
                let known = page.header().local[line / WORD_LINES].get() >> (line % WORD_LINES) & 1;
                if known == 0 {
                    // Relaxed: the depot publishes the page.
                    page.header().notes[line].store(0, Ordering::Relaxed);
                }
            }
            page.reopen();
        }
        page.set_role(Role::Free);
        page.head().owner.store(NOBODY, Ordering::Relaxed);
        FreePage(page)
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
}

/// Sharing.
impl Page {
    /// One more sharer of the fragment that starts at line `first`: one locked
    /// add.
    pub(crate) fn share(self, first: usize) {
        // Relaxed: the sharer already has the bytes, and its drop releases.
        let before = self.header().notes[first].fetch_add(1, Ordering::Relaxed);
        // A process would need a billion handles to get here; wrapping would
        // free bytes that are in use.
        if before >= DEAD / 2 {
            std::process::abort();
        }
    }

    /// One sharer less. True for the last, after which the slot is clean.
    pub(crate) fn unshare(self, first: usize) -> bool {
        let note = &self.header().notes[first];
        if self.is_unshared(first) {
            return true;
        }
        // Release: what this sharer read or wrote comes before the reuse.
        // Acquire: the last one sees what all others did.
        if note.fetch_sub(1, Ordering::AcqRel) == 0 {
            // Relaxed: alone now; the road that follows publishes it.
            note.store(0, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Has the fragment that starts at line `first` one holder?
    pub(crate) fn is_unshared(self, first: usize) -> bool {
        // Acquire, partner `unshare`: a lone holder may write.
        self.header().notes[first].load(Ordering::Acquire) == 0
    }
}

/// What statistics read, from any thread: exact at quiescence.
impl Page {
    /// Bytes of live fragments, and of the hole being carved.
    pub(crate) fn alive_bytes(self) -> usize {
        let head = self.head();
        let tally = head.tally.load(Ordering::Acquire);
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
            // Acquire, partner `post`: the spill that goes with the word.
            let remote = self.header().remote[word].load(Ordering::Acquire);
            free += (local | remote).count_ones() as usize;
            if remote >> (WORD_LINES - 1) & 1 == 1 {
                free += usize::from(self.header().spill[word].load(Ordering::Relaxed));
            }
        }
        self.lines().saturating_sub(free) << LINE_SHIFT
    }

    /// Who owns the page.
    pub(crate) fn owner(self) -> usize {
        // Relaxed: a snapshot.
        self.head().owner.load(Ordering::Relaxed)
    }
}
