//! The roads by which bytes come home, and the counts of who shares them.
//!
//! Told in the parent, with the way back; here are the instructions. Each function that gives
//! bytes away ends with the instruction that does so.

use super::{DEAD, FreePage, LastFree, NEVER, NOBODY, ORPHAN, OWNED, Page, Role};
use std::ptr::NonNull;

use crate::geometry::{FULL, LINE, WORD_LINES, align_up, lines_for};
use crate::mem::header::{PageHead, line_of};
use crate::mem::lines;
use crate::sync::Ordering;

/// The owner's thread frees the lines of `bytes` bytes from `start` on, the first of
/// a line, the way back: if they are the piece carved last of `head`'s page. False
/// otherwise; then nothing has been said.
#[inline]
pub(crate) fn retreat(head: &PageHead, start: NonNull<u8>, bytes: usize) -> bool {
    if head.cursor.get() != start.as_ptr() || head.top.get() != align_up(bytes, LINE) {
        return false;
    }
    head.top.set(0);
    true
}

impl Page {
    /// `retreat` for lines that end where the next byte will be carved: the end
    /// of the last piece, or what was carved before a piece that is back.
    pub(crate) fn retreat_over(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let head = self.head();
        if align_up(start.addr().get() + bytes, LINE) != head.next_byte().addr() {
            return false;
        }
        debug_assert!(self.is_carved(start, bytes), "freed twice");
        match start.addr().get().checked_sub(head.cursor.get().addr()) {
            Some(left) => head.top.set(left),
            None => head.set_top(start.as_ptr(), 0),
        }
        true
    }

    /// Are the lines of `bytes` bytes from `start` on out of the owner's map?
    fn is_carved(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let mut known = 0;
        lines::for_each_word(line_of(start), lines_for(bytes), |word, mask| {
            known |= self.header().local[word].get() & mask;
        });
        known == 0
    }

    /// The owner's thread frees `count` lines from `first` (of the region).
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
    pub(super) fn mark(&self, first: usize, count: usize) {
        let (word, mask, beyond) = lines::head_mask(first, count);
        self.mark_word(word, mask);
        if beyond != 0 {
            self.mark_beyond(word + 1, beyond);
        }
    }

    /// The lines of a fragment that lie behind its first word.
    fn mark_beyond(&self, mut word: usize, mut count: usize) {
        while count > WORD_LINES {
            self.mark_word(word, FULL);
            word += 1;
            count -= WORD_LINES;
        }
        self.mark_word(word, FULL >> (WORD_LINES - count));
    }

    #[inline]
    fn mark_word(&self, word: usize, mask: u64) {
        let local = &self.header().local[word];
        let before = local.get();
        debug_assert_eq!(before & mask, 0, "freed twice");
        local.set(before | mask);
    }

    /// Any other thread frees `count` lines from `first` (of the region): one
    /// locked instruction, two if the page is or becomes an orphan meanwhile.
    pub(crate) fn free_elsewhere(self, first: usize, count: usize) -> Option<LastFree> {
        if !self.is_orphan() {
            let (word, mask, beyond) = lines::head_mask(first, count);
            if self.post(word, mask, beyond) {
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
        // Relaxed: a hint; `is_dead_bytes` decides with an acquire.
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
        // Acquire: the last one sees what all others did. The last of several
        // takes one from 0; until it has cleaned up, the slot reads as a note of
        // more lines than there are, and a sweep leaves all notes for the next.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::super::{DEAD, OWNED};
    use crate::mem::{Granule, PageFragCache, PagePool};
    use crate::sync::Ordering;

    const CHILD: &str = "PAGEFRAG_COUNTS_TOO_FAR";

    /// In a child process, which must be ended by it, a share of a fragment whose count
    /// is as far as `set` makes it.
    fn ends_the_process(name: &str, granule: Granule, set: fn(&super::Page, usize)) {
        if env::var_os(CHILD).is_some() {
            let pool = PagePool::new(32 * 1024).unwrap();
            let mut cache = PageFragCache::with_granule(&pool, granule);
            let raw = cache.alloc(100).unwrap().freeze().into_raw();
            let page = raw.home();
            set(&page, page.first_line());
            let _shared = raw.share();
            unreachable!("one more than can be counted");
        }
        let done = Command::new(env::current_exe().unwrap())
            .args(["--exact", &format!("mem::page::roads::tests::{name}")])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(done.status.signal(), Some(6), "{done:?}");
    }

    #[test]
    fn a_sharer_too_many_ends_the_process() {
        ends_the_process(
            "a_sharer_too_many_ends_the_process",
            Granule::Line,
            |page, line| page.header().notes[line].store(DEAD / 2, Ordering::Relaxed),
        );
    }

    #[test]
    fn a_byte_too_many_ends_the_process() {
        ends_the_process(
            "a_byte_too_many_ends_the_process",
            Granule::Byte,
            |page, _| page.head().tally.store(OWNED / 2 - 1, Ordering::Relaxed),
        );
    }
}
