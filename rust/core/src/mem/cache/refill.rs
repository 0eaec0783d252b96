//! The cold half of a cache: where the next hole comes from, and giving up.
//!
//! # What bounds the memory that is held
//!
//! *Finding.* What the owner frees is known at once. What others free is found
//! on the owner's round, of which every page's worth of carved lines buys at
//! least one step, and sixteen after a step that found something, fewer by and
//! by while others do not; a page from the pool costs [`TOLL`] more. So when a
//! burst has died elsewhere, carving a sixteenth of what is held is enough to
//! see all of it and to give the dead pages back. Nothing is given back while the
//! owner uses up no hole, be it idle or on the way back each time, and does not
//! trim: until then what is held is what was held before.
//!
//! *Slack.* Holes are looked for when an eighth of what is held is known to be free in
//! them (`shelf.rs`); before that a page without fragments does, or a new one.
//!
//! *Fitting.* A page is offered again when an eighth of it is free, and its
//! longest hole decides for whom. Small requests and large ones open different
//! holes, so that what is small and lives long gathers in few pages.
//!
//! *What cannot be bounded.* Fragments do not move. Whoever sees addresses and
//! keeps one line of each page holds the whole page with it, 512 times as much
//! at 32 KiB, against any request longer than the longest hole, as with every
//! allocator that does not move; requests that fit the holes still get them.

use super::{Granule, PageFragCache};
use crate::error::Error;
use crate::geometry::{LINE_SHIFT, align_up, lines_for};
use crate::mem::depot;
use crate::mem::header::line_of;
use crate::mem::page::{NEVER, Page, Released, Role};
use crate::mem::poison;
use crate::mem::shelf::{bump, count};

use std::ptr::{NonNull, null_mut};

/// Ready pages of one class that a refill looks at: those of the request's own
/// may turn out to have no hole that is long enough.
const LOOKS: usize = 4;

/// Steps of the round that a page's worth of carved lines pays for, in
/// quarters: so many after a step that found something, and one less after each
/// that did not.
const FASTEST: u64 = 64;
const SLOWEST: u64 = 4;
const QUARTERS: u32 = 2;

/// Steps of the round that a page from the pool costs at least, unless what
/// they find makes it needless.
const TOLL: usize = 32;

/// A request of up to this part of a page is *small*: it rather fills a hole
/// than starts a page that is whole. A larger one opens no more of a hole than
/// it takes, so that no small one comes to lie behind it: small fragments that
/// live long shall not sit where large ones could have been. A large fragment
/// pays for that with a refill, which its size makes small.
///
/// With an eighth, 4 KiB was small, and 64 bytes that live long among buffers of
/// 4 KiB held 1.9 to 3.6 times what was alive, now 1.1 to 1.4; first in, first
/// out without survivors takes half as many instructions again (572 to 865).
/// With a thirty-second, every full frame would pay for a refill.
const SMALL: usize = 16;

/// Is a request of `need` lines small in a page of `lines`?
fn is_small(need: usize, lines: usize) -> bool {
    need <= (lines / SMALL).max(1)
}

impl PageFragCache {
    /// Sees to it that `size` bytes at a multiple of `align` fit in the hole.
    pub(super) fn make_room(&mut self, size: usize, align: usize) -> Result<(), Error> {
        if self.fits(size, align) {
            return Ok(());
        }
        let shelf = self.shelf();
        bump(&shelf.counters.refills);
        self.pay();
        let need = lines_for(size);
        let step = lines_for(align);
        let mut left = None;
        if let Some(page) = self.place.page() {
            let small = is_small(need, page.lines())
                && shelf.has_ready(need)
                && shelf.is_wasteful(page.lines());
            if !small && page.is_all_back(page.uncarved_bytes() >> LINE_SHIFT) {
                bump(&shelf.counters.reuses);
                self.carve_whole(page, need);
                return Ok(());
            }
            self.close_hole();
            let changes = is_small(need, page.lines()) != (shelf.small.get() != 0);
            // Forward only: what is freed behind is for the next time round.
            let from = usize::try_from(shelf.offset.get()).unwrap_or(0);
            if !changes && self.carve_hole(page, from, need, step) {
                bump(&shelf.counters.reuses);
                return Ok(());
            }
            page.sweep();
            if !small && page.is_whole() {
                bump(&shelf.counters.reuses);
                self.carve_whole(page, need);
                return Ok(());
            }
            if changes && shelf.small.get() != 0 {
                shelf.set_nest(page);
            }
            left = (changes && !page.is_whole()).then_some(page);
            self.put_current_away();
        }
        if self.search_shelf(need, step)
            || left.is_some_and(|page| self.go_back(page, need, step))
            || self.carve_spare(need)
            || self.search_round(need, step)
        {
            bump(&self.shelf().counters.reuses);
            return Ok(());
        }
        if self.adopt_one(need, step) {
            return Ok(());
        }
        let refusal = match self.take_page() {
            Ok(page) => {
                self.carve_whole(page, need);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        // At the limit: look at everything before refusing.
        if self.search_all(need, step) {
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
        let hole = self.place.hole();
        let start = hole.next_byte().addr();
        let limit = hole.limit.get().addr();
        align_up(start, align)
            .checked_add(size)
            .is_some_and(|end| end <= limit)
            && start != 0
    }

    /// Puts what is left of the hole back into the map.
    pub(super) fn close_hole(&self) {
        let shelf = self.shelf();
        let Some(page) = self.place.page() else {
            return;
        };
        let hole = page.head();
        if let Some(start) = NonNull::new(hole.next_byte()) {
            let lines = page.uncarved_bytes() >> LINE_SHIFT;
            page.put_lines(line_of(start), lines);
            let debt = shelf.debt.get();
            shelf.debt.set(debt.saturating_sub(lines as u64));
        }
        hole.set_top(null_mut(), 0);
        hole.limit.set(null_mut());
    }

    /// Carves an owned page without live fragments from its start.
    fn carve_whole(&self, page: Page, need: usize) {
        let small = is_small(need, page.lines());
        self.shelf().small.set(u64::from(small));
        if !small {
            // What of the page was never carved is not in the map yet.
            self.close_hole();
            self.carve_run(page, 0, need);
            return;
        }
        self.start(page);
        self.shelf().offset.set(page.lines() as u64);
        page.take_all();
        self.open_hole(page, page.base(), page.size());
    }

    /// Opens the first hole of `page` at or after line `from` that fits.
    fn carve_hole(&self, page: Page, from: usize, need: usize, step: usize) -> bool {
        let Some(hole) = page.find_hole(from, need, step) else {
            return false;
        };
        self.open_part(page, hole, need, step);
        true
    }

    /// Goes on in the page that was put away last, which had live fragments, if
    /// it has a hole: rather one page of small and large than one more page.
    fn go_back(&self, page: Page, need: usize, step: usize) -> bool {
        self.shelf().take(page);
        let found = self.carve_hole(page, 0, need, step);
        if !found {
            self.put_away(page);
        }
        found
    }

    /// Opens the shortest hole of `page` that fits.
    fn carve_shortest(&self, page: Page, need: usize, step: usize) -> bool {
        let Some(hole) = page.find_shortest(need, step) else {
            return false;
        };
        self.open_part(page, hole, need, step);
        true
    }

    /// Opens a hole that fits: all of it, or what a large request takes.
    fn open_part(&self, page: Page, (first, count): (usize, usize), need: usize, step: usize) {
        let small = is_small(need, page.lines());
        self.shelf().small.set(u64::from(small));
        let part = if small {
            count
        } else {
            align_up(first, step) - first + need
        };
        self.carve_run(page, first, part);
    }

    /// Opens `count` lines of `page` from `first` on.
    fn carve_run(&self, page: Page, first: usize, count: usize) {
        self.start(page);
        self.shelf().offset.set((first + count) as u64);
        // Live fragments from before do not sum up: no `is_all_back`.
        page.ask_after(NEVER);
        page.take_lines(page.first_line() + first, count);
        // SAFETY: the hole lies in the page.
        let start = unsafe { page.base().add(first << LINE_SHIFT) };
        self.open_hole(page, start, count << LINE_SHIFT);
    }

    /// Carves `page` from `start` on; the bytes have been taken out of the map.
    fn open_hole(&self, page: Page, start: NonNull<u8>, bytes: usize) {
        if self.pool().init().on_alloc {
            // SAFETY: of a page that is owned, taken out of the map, so nobody else's.
            unsafe { poison::wipe(start, bytes) };
        }
        let debt = self.shelf().debt.get();
        self.shelf().debt.set(debt + (bytes >> LINE_SHIFT) as u64);
        let hole = page.head();
        hole.set_top(start.as_ptr(), 0);
        // SAFETY: the hole ends within the page or at its end.
        hole.limit.set(unsafe { start.add(bytes) }.as_ptr());
    }

    /// Makes an owned page that is in no list the one being carved.
    pub(super) fn start(&self, page: Page) {
        page.set_role(Role::Current);
        self.place.go_to(page);
    }

    /// Puts the current page away, whose hole is closed.
    pub(super) fn put_current_away(&self) {
        if let Some(page) = self.place.page() {
            self.place.go_nowhere();
            self.put_away(page);
        }
    }

    /// Puts an owned page of no list away.
    pub(super) fn put_away(&self, page: Page) {
        if let Some(dead) = self.shelf().put_away(page, page.free_units()) {
            depot::give(dead);
        }
    }

    /// Takes the steps of the round that carving has paid for.
    #[inline]
    fn pay(&self) {
        let shelf = self.shelf();
        let steps =
            (shelf.debt.get() * shelf.pace.get()) >> (self.pool().page_lines_shift() + QUARTERS);
        if steps != 0 {
            shelf.debt.set(0);
            self.go_round(steps);
        }
    }

    /// Looks at the next pages of the round, as many as `steps` says, and puts
    /// those away anew of which something came home from elsewhere.
    pub(super) fn go_round(&self, steps: u64) {
        let shelf = self.shelf();
        let mut pace = shelf.pace.get();
        for page in (0..steps).map_while(|_| shelf.next_on_round()) {
            if page.has_news() {
                pace = FASTEST;
                shelf.take(page);
                if !page.is_bytes() {
                    page.sweep();
                }
                self.put_away(page);
            } else {
                pace = SLOWEST.max(pace - 1);
            }
        }
        shelf.pace.set(pace);
    }

    /// Looks at every page of the lists.
    pub(super) fn go_all_round(&self) {
        // Twice as many steps as pages: one that is put away anew may stand
        // before the round once more.
        self.go_round(self.shelf().waiting().count() as u64 * 2);
    }

    /// Carves the best of the ready pages, if one has a hole that fits and looking is worth
    /// it.
    fn search_shelf(&self, need: usize, step: usize) -> bool {
        let shelf = self.shelf();
        let lines = 1 << self.pool().page_lines_shift();
        let small = is_small(need, lines);
        let nest = small.then(|| shelf.take_nest(need, step)).flatten();
        let page = nest.or_else(|| {
            let ready = shelf.is_wasteful(lines);
            ready.then(|| shelf.take_ready(need, step, LOOKS)).flatten()
        });
        page.is_some_and(|page| {
            page.sweep();
            self.carve_shortest(page, need, step)
        })
    }

    /// Carves what some steps of the round bring to light.
    fn search_round(&self, need: usize, step: usize) -> bool {
        (0..TOLL).any(|_| {
            self.go_round(1);
            let shelf = self.shelf();
            shelf.has_ready(need) && self.search_shelf(need, step) || self.carve_spare(need)
        })
    }

    /// Collects all that came home, and carves any page with a hole that fits.
    fn search_all(&self, need: usize, step: usize) -> bool {
        let shelf = self.shelf();
        self.go_all_round();
        if self.carve_spare(need) {
            return true;
        }
        let fits = |page: &Page| page.find_hole(0, need, step).is_some();
        let found = shelf.waiting().find(fits);
        found.is_some_and(|page| {
            shelf.take(page);
            self.carve_hole(page, 0, need, step)
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
    fn carve_spare(&self, need: usize) -> bool {
        let spare = self.shelf().take_spare();
        let found = spare.inspect(|&page| self.carve_whole(page, need));
        found.is_some()
    }

    /// Adopts an orphan, if there is one. True if it has a hole that fits.
    fn adopt_one(&self, need: usize, step: usize) -> bool {
        while let Some(page) = self.pool().depot().claim_orphan() {
            if page.adopt(self.shelf_ptr()) {
                count(&self.shelf().counters.adopted);
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
        count(&self.shelf().counters.pages_taken);
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
        if let Some(page) = self.place.page() {
            self.place.go_nowhere();
            self.let_go(page, keep_alive);
        }
        if keep_alive {
            self.go_all_round();
        }
        while let Some(page) = shelf.take_spare() {
            count(&shelf.counters.pages_given);
            depot::give(page.close());
        }
        while let Some(page) = shelf.any_waiting().filter(|_| !keep_alive) {
            shelf.take(page);
            self.let_go(page, false);
        }
    }

    /// Gives a page of no list back, or keeps it if it is alive and shall be.
    fn let_go(&self, page: Page, keep_alive: bool) {
        let shelf = self.shelf();
        shelf.unnest(page);
        if page.sweep_is_dead() {
            count(&shelf.counters.pages_given);
            depot::give(page.close());
        } else if keep_alive {
            self.put_away(page);
        } else {
            match page.orphan() {
                Released::Dead(free) => {
                    count(&shelf.counters.pages_given);
                    depot::give(free);
                }
                Released::Orphan(page) => {
                    count(&shelf.counters.orphaned);
                    depot::publish(page, !page.is_bytes());
                }
            }
        }
    }
}
