//! The cold half of a cache: where the next hole comes from, and giving up.

use super::{Granule, PageFragCache};
use crate::error::Error;
use crate::geometry::{LINE_SHIFT, align_up, lines_for};
use crate::mem::depot;
use crate::mem::header::line_of;
use crate::mem::page::{NEVER, Page, Released, Role};
use crate::mem::shelf::bump;

use std::ptr::{NonNull, null_mut};

/// Ready pages that a refill looks at. Those whose holes are too small go to
/// the end of the line, so the next refill looks at others. A look that finds
/// nothing is cheaper than a page more: with 4 the pinning bench held a tenth
/// more and took longer.
const LOOKS: u64 = 16;

/// Retired pages that a refill looks at although no free on this thread said
/// so: their bytes may have come home from elsewhere.
const GLANCES: u64 = 2;

/// A request of less than this part of a page rather fills a hole than starts
/// a page that is whole: small fragments that live long shall not sit in pages
/// that large ones could have as a whole.
const SMALL: usize = 8;

impl PageFragCache {
    /// Sees to it that `size` bytes at a multiple of `align` fit in the hole.
    pub(super) fn make_room(&mut self, size: usize, align: usize) -> Result<(), Error> {
        if self.fits(size, align) {
            return Ok(());
        }
        let shelf = self.shelf();
        bump(&shelf.counters.refills);
        let need = lines_for(size);
        let step = lines_for(align);
        if let Some(page) = shelf.current() {
            let small = need * SMALL <= page.lines() && shelf.ready() != 0;
            if !small && page.is_all_back(page.uncarved_bytes() >> LINE_SHIFT) {
                bump(&shelf.counters.reuses);
                self.carve_whole(page);
                return Ok(());
            }
            self.close_hole();
            // Forward only: what is freed behind is for the next time round.
            let from = usize::try_from(shelf.offset.get()).unwrap_or(0);
            if self.carve_hole(page, from, need, step) {
                bump(&shelf.counters.reuses);
                return Ok(());
            }
            page.sweep();
            if !small && page.is_whole() {
                bump(&shelf.counters.reuses);
                self.carve_whole(page);
                return Ok(());
            }
            self.put_current_away();
        }
        if self.search_shelf(need, step, LOOKS, GLANCES) || self.carve_spare() {
            bump(&self.shelf().counters.reuses);
            return Ok(());
        }
        if self.adopt_one(need, step) {
            return Ok(());
        }
        let refusal = match self.take_page() {
            Ok(page) => {
                self.carve_whole(page);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        // At the limit: look at everything before refusing.
        if self.search_shelf(need, step, u64::MAX, u64::MAX) {
            bump(&self.shelf().counters.reuses);
            return Ok(());
        }
        if self.adopt_any(need, step) {
            return Ok(());
        }
        self.refuse(refusal);
        Err(refusal)
    }

    /// Counts a refusal.
    pub(super) fn refuse(&self, refusal: Error) {
        bump(&self.shelf().counters.alloc_fail);
        self.pool().depot().count_refusal(refusal);
    }

    fn fits(&self, size: usize, align: usize) -> bool {
        let hole = self.shelf().hole();
        let cursor = hole.cursor.get().addr();
        let limit = hole.limit.get().addr();
        align_up(cursor, align)
            .checked_add(size)
            .is_some_and(|end| end <= limit)
            && cursor != 0
    }

    /// Puts what is left of the hole back into the map.
    pub(super) fn close_hole(&self) {
        let Some(page) = self.shelf().current() else {
            return;
        };
        let hole = page.head();
        if let Some(start) = NonNull::new(hole.cursor.get()) {
            page.put_lines(line_of(start), page.uncarved_bytes() >> LINE_SHIFT);
        }
        hole.cursor.set(null_mut());
        hole.limit.set(null_mut());
    }

    /// Carves an owned page without live fragments from its start.
    fn carve_whole(&self, page: Page) {
        self.start(page);
        self.shelf().offset.set(page.lines() as u64);
        page.take_all();
        self.open_hole(page, page.base(), page.size());
    }

    /// Opens the first hole of `page` at or after line `from` that fits.
    fn carve_hole(&self, page: Page, from: usize, need: usize, step: usize) -> bool {
        let Some((first, count)) = page.find_hole(from, need, step) else {
            return false;
        };
        self.start(page);
        self.shelf().offset.set((first + count) as u64);
        // Live fragments from before do not sum up: no `is_all_back`.
        page.head().until.set(NEVER);
        page.take_lines(page.first_line() + first, count);
        // SAFETY: the hole lies in the page.
        let start = unsafe { page.base().add(first << LINE_SHIFT) };
        self.open_hole(page, start, count << LINE_SHIFT);
        true
    }

    /// Carves `page` from `start` on; the bytes have been taken out of the map.
    fn open_hole(&self, page: Page, start: NonNull<u8>, bytes: usize) {
        if self.pool().init().on_alloc {
            // SAFETY: taken out of the map, so nobody else's.
            unsafe { start.write_bytes(0, bytes) };
        }
        let hole = page.head();
        hole.cursor.set(start.as_ptr());
        // SAFETY: the hole ends within the page or at its end.
        hole.limit.set(unsafe { start.add(bytes) }.as_ptr());
    }

    /// Makes an owned page that is in no list the one being carved.
    pub(super) fn start(&self, page: Page) {
        page.set_role(Role::Current);
        self.shelf().go_to(page);
    }

    /// Puts the current page away, whose hole is closed.
    pub(super) fn put_current_away(&self) {
        let shelf = self.shelf();
        if let Some(page) = shelf.current() {
            shelf.go_nowhere();
            self.put_away(page);
        }
    }

    /// Puts an owned page of no list away.
    pub(super) fn put_away(&self, page: Page) {
        if let Some(dead) = self.shelf().put_away(page, page.free_units()) {
            depot::give(dead);
        }
    }

    /// Looks for a hole in up to `looks` ready pages and `glances` retired ones.
    fn search_shelf(&self, need: usize, step: usize, looks: u64, glances: u64) -> bool {
        let shelf = self.shelf();
        let ready = shelf.ready().min(looks);
        let retired = shelf.retired().min(glances);
        (0..ready).any(|_| {
            shelf
                .take_ready()
                .is_some_and(|p| self.try_page(p, need, step))
        }) || (0..retired).any(|_| {
            shelf
                .take_oldest()
                .is_some_and(|p| self.try_page(p, need, step))
        })
    }

    /// Carves an owned page of no list if it has a hole, else puts it away.
    fn try_page(&self, page: Page, need: usize, step: usize) -> bool {
        page.sweep();
        let found = self.carve_hole(page, 0, need, step);
        if !found {
            self.put_away(page);
        }
        found
    }

    /// Carves a page that was kept for this.
    fn carve_spare(&self) -> bool {
        let spare = self.shelf().take_spare();
        spare.inspect(|&page| self.carve_whole(page)).is_some()
    }

    /// Adopts an orphan, if there is one. True if it has a hole that fits.
    fn adopt_one(&self, need: usize, step: usize) -> bool {
        while let Some(page) = self.pool().depot().claim_orphan() {
            if page.adopt(self.shelf_ptr()) {
                bump(&self.shelf().counters.adopted);
                return self.try_page(page, need, step);
            }
            // Dead; its last free is on the way and will deliver it. Until
            // then nobody else shall stop here.
            depot::publish(page, false);
        }
        false
    }

    /// Adopts orphans until one has a hole that fits.
    fn adopt_any(&self, need: usize, step: usize) -> bool {
        loop {
            let before = self.shelf().counters.adopted.get();
            if self.adopt_one(need, step) {
                return true;
            }
            if self.shelf().counters.adopted.get() == before {
                return false;
            }
        }
    }

    /// A page from the pool, owned and without a byte carved.
    pub(super) fn take_page(&self) -> Result<Page, Error> {
        let free = self.pool().depot().take()?;
        bump(&self.shelf().counters.pages_taken);
        if self.pool().init().on_free && free.was_bytes() {
            // Byte pages are wiped when they are started, not when they die.
            free.wipe();
        }
        let bytes = self.granule() == Granule::Byte;
        Ok(Page::open(free, self.shelf_ptr(), bytes))
    }

    /// Gives back every page, or every dead page.
    pub(super) fn empty(&mut self, keep_alive: bool) {
        if self.granule() == Granule::Line {
            self.close_hole();
        }
        let shelf = self.shelf();
        if let Some(page) = shelf.current() {
            shelf.go_nowhere();
            self.let_go(page, keep_alive);
        }
        while let Some(page) = shelf.take_spare() {
            bump(&shelf.counters.pages_given);
            depot::give(page.close());
        }
        // What is kept goes back to one of the lists, so count first.
        for _ in 0..shelf.ready() {
            shelf
                .take_ready()
                .into_iter()
                .for_each(|page| self.let_go(page, keep_alive));
        }
        for _ in 0..shelf.retired() {
            shelf
                .take_oldest()
                .into_iter()
                .for_each(|page| self.let_go(page, keep_alive));
        }
    }

    /// Gives a page of no list back, or keeps it if it is alive and shall be.
    fn let_go(&self, page: Page, keep_alive: bool) {
        let shelf = self.shelf();
        if page.sweep_is_dead() {
            bump(&shelf.counters.pages_given);
            depot::give(page.close());
        } else if keep_alive {
            self.put_away(page);
        } else {
            match page.orphan() {
                Released::Dead(free) => {
                    bump(&shelf.counters.pages_given);
                    depot::give(free);
                }
                Released::Orphan(page) => {
                    bump(&shelf.counters.orphaned);
                    depot::publish(page, !page.is_bytes());
                }
            }
        }
    }
}
