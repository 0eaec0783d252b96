//! A region's permanent entry: which of its pages are free, and whose its
//! orphans are.
//!
//! Pages, orphans and the region itself are each won by one compare-and-swap
//! on a word of the slot; the words are told in the parent.

use std::ptr;

use super::Depot;
use crate::geometry::MAX_PAGES;
use crate::mem::page::Page;
use crate::mem::region::{Region, RegionWatch};
use crate::sync::{AtomicU32, AtomicU64, GatedPtr, Ordering};

const FREE_WORDS: usize = MAX_PAGES.div_ceil(64);
const TICKET_WORDS: usize = MAX_PAGES.div_ceil(32);

pub(super) const HELD: u64 = 0;
pub(super) const OPEN: u64 = 1;
pub(super) const LAST: u64 = 2;
pub(super) const SHUT: u64 = 3;

/// A slot's gate when no region is mapped in it.
pub(super) const EMPTY: u32 = 1 << 31;
/// A slot's gate while its region is being mapped or unmapped.
pub(super) const BUSY: u32 = 1 << 30;

/// The permanent entry of a region.
#[derive(Debug)]
pub(super) struct Slot {
    /// `EMPTY`, `BUSY`, or how many are reading the region's header.
    pub(super) gate: AtomicU32,
    /// The region, valid unless the gate is `EMPTY`; written under `BUSY`, read by
    /// those who are counted in the gate, or have a page or an orphan's ticket.
    pub(super) region: GatedPtr<Region>,
    free: [AtomicU64; FREE_WORDS],
    tickets: [AtomicU64; TICKET_WORDS],
    pub(super) number: usize,
    pub(super) depot: *const Depot,
}

/// Where page `index` has its ticket in a ticket word.
fn shift(index: usize) -> usize {
    index % 32 * 2
}

impl Slot {
    pub(super) fn new(number: usize, depot: *const Depot) -> Self {
        Self {
            gate: AtomicU32::new(EMPTY),
            region: GatedPtr::null(),
            free: std::array::from_fn(|_| AtomicU64::new(0)),
            tickets: std::array::from_fn(|_| AtomicU64::new(0)),
            number,
            depot,
        }
    }

    fn region(&self) -> Option<Region> {
        // SAFETY: set and cleared under BUSY with every page in hand; callers
        // hold a page of the region, the gate, or BUSY itself.
        let region = unsafe { self.region.get().as_ref() }.copied()?;
        // SAFETY: mapped, for the same reason.
        unsafe { region.header().as_ref() }.lifetime.used();
        Some(region)
    }

    /// Takes a free page.
    pub(super) fn take(&self) -> Option<Page> {
        for (at, word) in self.free.iter().enumerate() {
            // Relaxed: the exchange decides.
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits & bits.wrapping_neg();
                // Acquire, partner `put` and `fill`: the page as it was given.
                let before = word.fetch_and(!bit, Ordering::Acquire);
                if before & bit != 0 {
                    let index = at * 64 + bit.trailing_zeros() as usize;
                    // SAFETY: the page's bit was set, so its region is mapped,
                    // and it is ours now, so it stays.
                    return self
                        .region()
                        .map(|r| unsafe { Page::nth(r.header(), index) });
                }
                bits = word.load(Ordering::Relaxed);
            }
        }
        None
    }

    /// Puts a page back.
    pub(super) fn put(&self, index: usize) {
        // Release, partner `take` and `unmap`: all that was done to the page.
        self.free[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
    }

    /// Maps a region in a slot whose gate is `BUSY` in the caller's name, and
    /// returns it with its first page.
    pub(super) fn map_region(&self, page_shift: u32) -> Option<(Region, Page)> {
        let region = Region::map(page_shift, ptr::from_ref(self).cast())?;
        self.region.set(Box::into_raw(Box::new(region)));
        // SAFETY: just mapped, and all its pages are the caller's.
        Some((region, unsafe { Page::nth(region.header(), 0) }))
    }

    pub(super) fn advise_huge(&self) -> bool {
        self.region().is_some_and(Region::advise_huge)
    }

    /// Opens a newly mapped region: all pages free but the first.
    pub(super) fn fill(&self, pages: usize) {
        // Release, partner `read`: the region.
        self.gate.store(0, Ordering::Release);
        for at in 0..pages.div_ceil(64) {
            let mask = all_pages(pages, at) & !u64::from(at == 0);
            // Release, partner `take`: the region.
            self.free[at].fetch_or(mask, Ordering::Release);
        }
    }

    /// Unmaps the region if all its pages are free and nobody is looking.
    pub(super) fn unmap(&self, pages: usize, watch: Option<RegionWatch>) -> bool {
        // Acquire, partner `read`. Fails when empty, busy or being read.
        if self
            .gate
            .compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        let words = pages.div_ceil(64);
        let mut won = 0;
        while won < words {
            let all = all_pages(pages, won);
            // Acquire, partner `put`: all that was done to the pages.
            let word = &self.free[won];
            if word
                .compare_exchange(all, 0, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                break;
            }
            won += 1;
        }
        let region = self.region().filter(|_| won == words);
        // SAFETY: with every page of it in hand, nothing in it is used.
        if region.is_some_and(|region| unsafe { region.unmap(watch) }) {
            let region = self.region.get();
            self.region.set(ptr::null_mut());
            // SAFETY: made in `map_region`; BUSY and all pages are ours.
            drop(unsafe { Box::from_raw(region) });
            // Release, partner `vacant_slot`.
            self.gate.store(EMPTY, Ordering::Release);
            return true;
        }
        // If the OS refused, the first page stays ours for now.
        let kept = u64::from(region.is_some());
        for (at, word) in self.free.iter().enumerate().take(won) {
            let mask = all_pages(pages, at) & !(kept * u64::from(at == 0));
            // Release, partner `take`: if the OS refused, what `Region::unmap` did
            // for nothing, to a sanitizer's marks. To pages that were not all won
            // nothing was done, and who put them is still released: taken and put
            // back, each is one read-modify-write.
            word.fetch_or(mask, Ordering::Release);
        }
        // Release, partner `read`: the region once more, of which this store
        // would else hide that `fill` has released it.
        self.gate.store(0, Ordering::Release);
        if let Some(region) = region {
            // Last, with the region open to others, as in `Depot::map`.
            region.tell_mapped(watch);
            self.put(0);
        }
        false
    }

    /// Runs `look` with the region, if there is one, and keeps it mapped.
    pub(super) fn read(&self, look: impl FnOnce(Region)) {
        // Acquire, partner `fill`. Refused while empty or busy.
        let entered = self
            .gate
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |gate| {
                (gate & (EMPTY | BUSY) == 0).then_some(gate + 1)
            });
        if entered.is_ok() {
            if let Some(region) = self.region() {
                look(region);
            }
            // Release, partner `unmap`: we are done looking.
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Has it a free page?
    #[cfg(loom)]
    pub(super) fn has_free(&self) -> bool {
        let mut words = self.free.iter();
        words.any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Is page `index` free, and is it an orphan whose ticket nobody holds?
    pub(super) fn look(&self, index: usize) -> (bool, bool) {
        // Relaxed, both: a snapshot.
        let free = self.free[index / 64].load(Ordering::Relaxed) >> (index % 64) & 1 == 1;
        let ticket = self.tickets[index / 32].load(Ordering::Relaxed) >> shift(index) & 3;
        (free, ticket == OPEN || ticket == SHUT)
    }

    /// Takes the ticket of an orphan that may be adopted.
    pub(super) fn claim_orphan(&self) -> Option<Page> {
        for (at, word) in self.tickets.iter().enumerate() {
            // Relaxed: the exchange decides.
            let bits = word.load(Ordering::Relaxed);
            let mut open = bits & 0x5555_5555_5555_5555 & !(bits >> 1);
            while open != 0 {
                let index = at * 32 + open.trailing_zeros() as usize / 2;
                open &= open - 1;
                if self.swap_ticket(index, |now| if now == OPEN { HELD } else { now }) == OPEN {
                    // SAFETY: an orphan's region is mapped, and it stays: with
                    // the ticket ours nobody can give the page back.
                    return self
                        .region()
                        .map(|r| unsafe { Page::nth(r.header(), index) });
                }
            }
        }
        None
    }

    /// Replaces a page's ticket by what `next` makes of it; returns what it was.
    pub(super) fn swap_ticket(&self, index: usize, next: impl Fn(u64) -> u64) -> u64 {
        let word = &self.tickets[index / 32];
        let at = shift(index);
        // Relaxed: the exchange decides.
        let mut bits = word.load(Ordering::Relaxed);
        loop {
            let now = bits >> at & 3;
            let new = bits & !(3 << at) | next(now) << at;
            // Release: what this thread did to the page before it let go of
            // the ticket. Acquire: what the ticket's last holder did.
            match word.compare_exchange_weak(bits, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return now,
                Err(other) => bits = other,
            }
        }
    }
}

/// The free word `at` of a region of `pages` pages, all of them free.
fn all_pages(pages: usize, at: usize) -> u64 {
    u64::MAX >> (64 - (pages - at * 64).min(64))
}
