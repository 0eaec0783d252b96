//! What the owner of a page does with it: open, carve, sweep, let go, adopt.
//!
//! Everything here is called by the one thread the page names, or by the one
//! that is about to be named, and writes the owner's fields plainly.

use super::{
    BYTES, DEAD, FreePage, INDEX_SHIFT, LastFree, NEVER, NOBODY, ORPHAN, OWNED, Page, Released,
    Role, WHOLE,
};
use crate::geometry::{FULL, MAX_PAGE, MIN_PAGE, WORD_LINES, align_up};
use crate::mem::lines;
use crate::sync::{Ordering, OwnerU64, thread_token};

/// Units of a page, of which there are at most 2^20, as they are counted down.
fn units_i32(units: usize) -> i32 {
    i32::try_from(units).unwrap_or(NEVER)
}

/// Map words of the largest page.
const PAGE_WORDS: usize = MAX_PAGE / MIN_PAGE;

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
        head.known.set(NEVER);
        #[allow(clippy::cast_possible_truncation)] // below MAX_PAGES
        let number = (page.index() as u32) << INDEX_SHIFT;
        let kind = if bytes { BYTES } else { 0 };
        head.role.set(number | kind | Role::Current as u32);
        // Relaxed, both: no fragment exists; whoever gets one gets these too.
        head.tally.store(OWNED, Ordering::Relaxed);
        for word in page.words() {
            page.header().local[word].set(if bytes { 0 } else { FULL });
        }
        if !bytes {
            page.count_free(page.lines());
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
        let known = &self.head().known;
        known.set(known.get() - units_i32(count));
    }

    /// Puts lines that were taken and not used back into the map.
    pub(crate) fn put_lines(self, first: usize, count: usize) {
        if count != 0 {
            self.mark(first, count);
            self.count_free(count);
        }
    }

    /// So many more lines of the owner's map are free now, not by a free on its thread.
    fn count_free(self, lines: usize) {
        let known = &self.head().known;
        known.set(known.get() + units_i32(lines));
    }

    /// The owner wants to look at the page again when its thread has freed so many units.
    pub(crate) fn ask_after(self, units: i32) {
        let head = self.head();
        head.known.set(head.known.get() - head.until.get() + units);
        head.until.set(units);
    }

    /// Collects what other threads freed.
    pub(crate) fn sweep(self) {
        let words = self.words();
        for (at, remote) in self.header().remote[words.clone()].iter().enumerate() {
            // Relaxed: what is missed now is found at the next sweep.
            if remote.load(Ordering::Relaxed) != 0 {
                // Acquire, partner `post`: the bytes are ours to hand out.
                let freed = remote.swap(0, Ordering::Acquire);
                self.collect(words.start + at, freed);
            }
        }
        self.claim();
    }

    /// Was every line that was carved since the page was opened as a whole
    /// freed here, on the owner's thread? Then nothing is alive and nothing is
    /// on its way. `unused` lines of it were never carved. One comparison, for
    /// the case that matters most: packets that do not outlive their poll.
    pub(crate) fn is_all_back(self, unused: usize) -> bool {
        let freed = WHOLE - self.head().until.get();
        usize::try_from(freed).is_ok_and(|freed| freed + unused == self.lines())
    }

    /// Takes all lines of a dead page out of the map, to carve them.
    pub(crate) fn take_all(self) {
        self.head().until.set(WHOLE);
        self.head().known.set(WHOLE);
        for local in &self.header().local[self.words()] {
            local.set(0);
        }
    }

    /// Enters lines freed by the map road into the owner's map.
    fn collect(self, word: usize, freed: u64) {
        let header = self.header();
        let local = &header.local[word];
        debug_assert_eq!(local.get() & freed, 0, "freed twice");
        local.set(local.get() | freed);
        self.count_free(freed.count_ones() as usize);
        if freed >> (WORD_LINES - 1) & 1 == 1 {
            // Relaxed: acquired with the word whose last line this is.
            let beyond = header.spill[word].load(Ordering::Relaxed);
            if beyond != 0 {
                // Relaxed: the next to use it is a fragment we carve later.
                header.spill[word].store(0, Ordering::Relaxed);
                self.put_lines((word + 1) * WORD_LINES, usize::from(beyond));
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
        if pending != 0 {
            self.claim_notes(landed, pending);
        }
    }

    /// The cold half of `claim`.
    #[cold]
    #[inline(never)]
    fn claim_notes(self, landed: i64, pending: i64) {
        let head = self.head();
        // Notes may appear while we look: what is claimed is what was summed.
        let first = self.first_line();
        let mut seen = [0_u64; PAGE_WORDS];
        let mut noted = 0;
        for (line, count) in self.dead_notes() {
            let (word, bit, _) = lines::head_mask(line - first, 1);
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
            self.put_lines(
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
        let free = usize::try_from(self.head().known.get() - self.head().until.get());
        let free = free.unwrap_or(0);
        debug_assert_eq!(free, self.free_bits(), "lines were miscounted");
        free
    }

    /// The same, counted one by one.
    fn free_bits(self) -> usize {
        let map = &self.header().local[self.words()];
        map.iter()
            .map(|word| word.get().count_ones() as usize)
            .sum()
    }

    /// The first run of free lines at or after line `from` (of the page) that
    /// has `need` lines from a multiple of `align` on, as `(first, count)`.
    pub(crate) fn find_hole(
        self,
        from: usize,
        need: usize,
        align: usize,
    ) -> Option<(usize, usize)> {
        self.holes(from)
            .find(|&(first, count)| align_up(first, align) - first + need <= count)
    }

    /// The shortest run of free lines that `find_hole` could have returned; the
    /// first of them. None can be shorter than what is needed, so one that fits
    /// exactly ends the search.
    pub(crate) fn find_shortest(self, need: usize, align: usize) -> Option<(usize, usize)> {
        let mut shortest: Option<(usize, usize)> = None;
        for (first, count) in self.holes(0) {
            let fits = align_up(first, align) - first + need <= count;
            if fits && shortest.is_none_or(|(_, least)| count < least) {
                shortest = Some((first, count));
                if count == need {
                    break;
                }
            }
        }
        shortest
    }

    /// The runs of free lines at or after line `from`, as `(first, count)`.
    fn holes(&self, from: usize) -> impl Iterator<Item = (usize, usize)> {
        let map = &self.header().local[self.words()];
        let mut from = from;
        std::iter::from_fn(move || {
            let hole = lines::next_run(|word| map[word].get(), map.len(), from)?;
            from = hole.0 + hole.1;
            Some(hole)
        })
    }

    /// Lines of the longest hole.
    pub(crate) fn longest_hole(self) -> usize {
        let map = &self.header().local[self.words()];
        lines::longest_run(map.iter().map(OwnerU64::get))
    }

    /// Has something come home from other threads since the last sweep?
    pub(crate) fn has_news(self) -> bool {
        if self.is_bytes() {
            return self.is_dead_bytes();
        }
        // Relaxed, both: what is missed now is found on the next round, and
        // the sweep acquires what it collects.
        let words = &self.header().remote[self.words()];
        let landed = self.head().tally.load(Ordering::Relaxed) - OWNED;
        landed != self.head().claimed.get()
            || words.iter().any(|word| word.load(Ordering::Relaxed) != 0)
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
            self.sweep();
            self.is_whole()
        }
    }

    /// Is every line known to be free?
    pub(crate) fn is_whole(self) -> bool {
        self.free_lines() == self.lines()
    }

    /// Units known to be free without another sweep. Of a byte page only
    /// whether all are can be told: then it is all, otherwise none.
    pub(crate) fn free_units(self) -> usize {
        if !self.is_bytes() {
            self.free_lines()
        } else if self.is_dead_bytes() {
            self.units()
        } else {
            0
        }
    }

    /// Units of the whole page: lines, or bytes of a byte page.
    pub(crate) fn units(self) -> usize {
        if self.is_bytes() {
            self.size()
        } else {
            self.lines()
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
        // Acquire: if all has landed meanwhile, we are the last. No Release: the
        // owner's fields, and what was done to the bytes that came home to it, go
        // out with the ticket, which `publish` releases. The last free and who
        // adopts acquire it before they touch any of that; a last free that finds
        // it `HELD` touches nothing.
        let before = head.tally.fetch_sub(OWNED + target, Ordering::Acquire);
        if before - OWNED - target == 0 {
            return Released::Dead(LastFree(self).bury());
        }
        Released::Orphan(self)
    }

    /// Opens the closed words again.
    pub(super) fn reopen(self) {
        for word in self.words() {
            // A swap and not a store: a free that ors now comes before it, and
            // finds the word closed, or after it, and leaves its bits. Relaxed:
            // in the first case it has said nothing yet, and nothing is lost.
            self.header().remote[word].swap(0, Ordering::Relaxed);
        }
    }

    /// Makes an orphan the calling thread's. The caller holds its ticket.
    /// Fails when the orphan is dead and its last free is on the way to the
    /// depot; the ticket is then still the caller's.
    pub(crate) fn adopt(self, shelf: *mut ()) -> bool {
        let head = self.head();
        // Relaxed, all: the owner's fields came with the ticket, and nothing is
        // carved of what has landed before `claim` has acquired it: as a
        // read-modify-write, this one still shows it what `count` has released.
        let mut tally = head.tally.load(Ordering::Relaxed);
        loop {
            if tally == 0 {
                return false;
            }
            let owned = tally + OWNED + head.target.get();
            match head.tally.compare_exchange_weak(
                tally,
                owned,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => tally = now,
            }
        }
        self.reopen();
        head.shelf.set(shelf);
        self.ask_after(NEVER);
        self.set_role(Role::Current);
        // Relaxed: a hint for others, our own word for ourselves.
        head.owner.store(thread_token(), Ordering::Relaxed);
        true
    }

    /// A dead orphan whose last free left it to the ticket's holder.
    pub(crate) fn into_last(self) -> LastFree {
        // Relaxed: what all who freed it did was acquired by the last of them, and
        // came to us with the ticket.
        let tally = self.head().tally.load(Ordering::Relaxed);
        debug_assert_eq!(tally, 0, "not dead");
        LastFree(self)
    }
}
