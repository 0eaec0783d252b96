//! The depot: where a pool's regions are written down, free pages are found,
//! and dead ones arrive.
//!
//! A region has a *slot*, which outlives its mapping. The slot has one bit per
//! page that is free (a set bit **is** membership in the pool, there is no
//! other list), and two bits per page for orphans, the *ticket*:
//!
//! | ticket | the page is                                                 |
//! |--------|-------------------------------------------------------------|
//! | `HELD` | not an orphan, or an orphan somebody is dealing with        |
//! | `OPEN` | an orphan that may be adopted                               |
//! | `SHUT` | an orphan not to adopt: of bytes, or with its last free underway |
//! | `LAST` | dead; the last free left it to whoever holds the ticket     |
//!
//! The last free of an orphan takes an `OPEN` or `SHUT` ticket and with it the
//! page; if the ticket is `HELD` it leaves `LAST` behind and is done. Whoever
//! holds a ticket finds that when it publishes the orphan again. One word, one
//! winner, nobody waits.
//!
//! No locks: a slot, a region's bytes under the cap and a page are each won by
//! one compare-and-swap. A thread that stops in `grow` keeps one slot from
//! others, and no more.
//!
//! A depot lives until its pool's last handle and its last page are gone: each
//! page that is out counts as a reference to it.

mod slot;

use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::error::Error;
use crate::geometry::REGION;
use crate::mem::page::{FreePage, LastFree, Page};
use crate::mem::poison;
use crate::mem::region::{Region, RegionWatch};
use crate::mem::shelf::Roster;
use crate::stats::Counter;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Lifetime, Ordering, yield_now};
use slot::{BUSY, EMPTY, HELD, LAST, OPEN, SHUT, Slot};

/// Slots in a chunk of the directory.
#[cfg(not(loom))]
const CHUNK: usize = 64;
#[cfg(loom)]
const CHUNK: usize = 2;
/// Chunks in the directory: 65,536 regions, 128 GiB in one pool.
#[cfg(not(loom))]
const CHUNKS: usize = 1024;
#[cfg(loom)]
const CHUNKS: usize = 1;

/// Times an allocation at the limit yields to threads that are mapping or
/// unmapping before it is refused.
#[cfg(not(loom))]
const PATIENCE: u32 = 1000;
#[cfg(loom)]
const PATIENCE: u32 = 2;

/// 64 slots, and which of them are worth a look.
#[derive(Debug)]
struct Chunk {
    slots: [Slot; CHUNK],
    /// A bit per slot that may have a free page.
    with_free: AtomicU64,
    /// A bit per slot that may have an orphan to adopt.
    with_orphans: AtomicU64,
    lifetime: Lifetime,
}

/// What is zeroed when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Init {
    pub(crate) on_alloc: bool,
    pub(crate) on_free: bool,
}

/// What a pool is made of. See the module.
#[derive(Debug)]
pub(crate) struct Depot {
    /// This depot as its `Arc` knows it, for the slots.
    me: *const Depot,
    page_shift: u32,
    max_bytes: usize,
    huge: bool,
    watch: Option<RegionWatch>,
    /// For whoever finds the pool by one of its fragments.
    pub(crate) init: Init,
    chunks: [AtomicPtr<Chunk>; CHUNKS],
    /// Chunks that exist; grows only.
    grown: AtomicUsize,
    mapped: AtomicUsize,
    pub(crate) roster: Roster,
    pub(crate) regions_mapped: Counter,
    pub(crate) regions_unmapped: Counter,
    pub(crate) regions_peak: AtomicUsize,
    pub(crate) huge_failed: Counter,
    pub(crate) exhausted: Counter,
    pub(crate) out_of_memory: Counter,
}

// SAFETY: `me` and `Slot::depot` point to the depot that contains them and are
// only read; everything else is atomic. Pages handed out are exclusive by the
// compare-and-swap that took their bit.
unsafe impl Send for Depot {}
// SAFETY: as for Send.
unsafe impl Sync for Depot {}

impl Depot {
    pub(crate) fn new(
        page_shift: u32,
        max_bytes: Option<usize>,
        huge: bool,
        init: Init,
        watch: Option<RegionWatch>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.as_ptr(),
            page_shift,
            max_bytes: max_bytes.unwrap_or(usize::MAX),
            huge,
            watch,
            init,
            chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            grown: AtomicUsize::new(0),
            mapped: AtomicUsize::new(0),
            roster: Roster::new(),
            regions_mapped: Counter::new(),
            regions_unmapped: Counter::new(),
            regions_peak: AtomicUsize::new(0),
            huge_failed: Counter::new(),
            exhausted: Counter::new(),
            out_of_memory: Counter::new(),
        })
    }

    /// The depot of a page that is out and stays so during the call.
    pub(crate) fn of(page: Page) -> Arc<Self> {
        // SAFETY: as in `give`: the page keeps the depot alive, and the depot its slots.
        let slot = unsafe { &*page.slot().cast::<Slot>() };
        // SAFETY: the Arc's own pointer, with a positive count: the page's.
        unsafe { Arc::increment_strong_count(slot.depot) };
        // SAFETY: the count that was just added is this one's.
        unsafe { Arc::from_raw(slot.depot) }
    }

    pub(crate) fn page_shift(&self) -> u32 {
        self.page_shift
    }

    pub(crate) fn pages_per_region(&self) -> usize {
        REGION >> self.page_shift
    }

    pub(crate) fn max_bytes(&self) -> Option<usize> {
        (self.max_bytes != usize::MAX).then_some(self.max_bytes)
    }

    pub(crate) fn huge(&self) -> bool {
        self.huge
    }

    /// A page for a cache: from the pool if it has one, else from the OS.
    pub(crate) fn take(&self) -> Result<FreePage, Error> {
        self.take_free().map_or_else(|| self.grow(), Ok)
    }

    /// A page that the pool has, lowest region first, so that the others have
    /// a chance to become wholly free.
    fn take_free(&self) -> Option<FreePage> {
        self.chunks().find_map(|chunk| {
            chunk
                .find(&chunk.with_free, Slot::take)
                .map(|page| self.lend(page))
        })
    }

    /// Counts a page that goes out, see the module's last paragraph.
    fn lend(&self, page: Page) -> FreePage {
        // SAFETY: `me` is the Arc's own pointer, and the caller's borrow comes
        // from one of its holders, so the count is positive.
        unsafe { Arc::increment_strong_count(self.me) };
        // SAFETY: its bit was taken by this thread; see `Slot::take`, `map`.
        unsafe { FreePage::assume(page) }
    }

    /// A page that the pool has, whatever the summaries say: a thread that
    /// stopped while it was unmarking a slot hides nothing from this.
    fn take_hidden(&self) -> Option<FreePage> {
        let mut slots = self.chunks().flat_map(|chunk| &chunk.slots);
        slots.find_map(Slot::take).map(|page| self.lend(page))
    }

    /// Maps another region and takes its first page.
    #[cold]
    fn grow(&self) -> Result<FreePage, Error> {
        for _ in 0..PATIENCE {
            if let Some(page) = self.take_hidden() {
                return Ok(page);
            }
            // Relaxed, all: a sum under a limit; it orders nothing.
            let reserved =
                self.mapped
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                        bytes
                            .checked_add(REGION)
                            .filter(|&sum| sum <= self.max_bytes)
                    });
            if reserved.is_ok() {
                return self.map();
            }
            // A region that is just being mapped or unmapped is about to
            // make room; a thread that stopped doing so is not waited for.
            let busy = |slot: &Slot| slot.gate.load(Ordering::Relaxed) == BUSY;
            if !self.chunks().flat_map(|chunk| &chunk.slots).any(busy) {
                break;
            }
            yield_now();
        }
        self.take_hidden().ok_or(Error::Exhausted)
    }

    /// Maps a region whose bytes have been reserved and takes its first page.
    fn map(&self) -> Result<FreePage, Error> {
        let mapped = self.vacant_slot().and_then(|(chunk, slot)| {
            let mapped = slot.map_region(self.page_shift);
            if mapped.is_some() {
                if self.huge && !slot.advise_huge() {
                    self.huge_failed.add(1);
                }
                // Before it is open, so that whoever sees it finds it counted.
                self.count_mapped();
                slot.fill(self.pages_per_region());
                // Release: see `Chunk::find`.
                chunk.with_free.fetch_or(bit_of(slot), Ordering::Release);
            } else {
                // Release, partner `vacant_slot`: who had the slot before us and
                // what it did there; of our own there is nothing.
                slot.gate.store(EMPTY, Ordering::Release);
            }
            mapped
        });
        let Some((region, page)) = mapped else {
            self.mapped.fetch_sub(REGION, Ordering::Relaxed);
            return Err(Error::OutOfMemory);
        };
        let page = self.lend(page);
        // Last, with the region open to others: it may wait for an interpreter.
        // Ours by one page, the region stays meanwhile.
        region.tell_mapped(self.watch);
        Ok(page)
    }

    /// Counts a region that has just been mapped, whose bytes were reserved.
    fn count_mapped(&self) {
        self.regions_mapped.add(1);
        // Relaxed, both: a high-water mark; who opens the region releases it.
        let now = self.mapped.load(Ordering::Relaxed) / REGION;
        self.regions_peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts an allocation that was refused for good.
    pub(crate) fn count_refusal(&self, refusal: Error) {
        match refusal {
            Error::OutOfMemory => self.out_of_memory.add(1),
            _ => self.exhausted.add(1),
        }
    }

    /// A slot without a region, its gate `BUSY` in the caller's name.
    fn vacant_slot(&self) -> Option<(&Chunk, &Slot)> {
        loop {
            // Before the look, so that a chunk that somebody adds meanwhile is
            // looked at and not added to. Relaxed: a number only.
            let grown = self.grown.load(Ordering::Relaxed);
            for chunk in self.chunks() {
                for slot in &chunk.slots {
                    // Relaxed: a look before the locked instruction.
                    if slot.gate.load(Ordering::Relaxed) != EMPTY {
                        continue;
                    }
                    // Acquire, partner the stores of `EMPTY`.
                    let won = slot.gate.compare_exchange(
                        EMPTY,
                        BUSY,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    );
                    if won.is_ok() {
                        return Some((chunk, slot));
                    }
                }
            }
            self.add_chunk(grown)?;
        }
    }

    /// Chunk `at` of the directory, if nobody has added it; `None` when the
    /// directory is full.
    fn add_chunk(&self, at: usize) -> Option<()> {
        let place = self.chunks.get(at)?;
        let first = at * CHUNK;
        let new = Box::into_raw(Box::new(Chunk {
            slots: std::array::from_fn(|i| Slot::new(first + i, self.me)),
            with_free: AtomicU64::new(0),
            with_orphans: AtomicU64::new(0),
            lifetime: Lifetime::new(),
        }));
        // Release, partner `chunks`: the chunk's fields.
        let placed =
            place.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
        if placed.is_err() {
            // SAFETY: made above, seen by nobody.
            drop(unsafe { Box::from_raw(new) });
        }
        // Whoever placed it, it is there now. Release: for `chunks`.
        let _ = self
            .grown
            .compare_exchange(at, at + 1, Ordering::Release, Ordering::Relaxed);
        Some(())
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        // Acquire, partner `add_chunk`.
        let grown = self.grown.load(Ordering::Acquire);
        self.chunks[..grown].iter().filter_map(|chunk| {
            // SAFETY: chunks are freed only with the depot.
            let chunk = unsafe { chunk.load(Ordering::Acquire).as_ref() }?;
            chunk.lifetime.used();
            Some(chunk)
        })
    }

    fn chunk_of(&self, slot: &Slot) -> Option<&Chunk> {
        // Relaxed: the chunk is in sight already, the slot is a part of it.
        let chunk = self.chunks[slot.number / CHUNK].load(Ordering::Relaxed);
        // SAFETY: chunks are freed only with the depot.
        let chunk = unsafe { chunk.as_ref() }?;
        chunk.lifetime.used();
        Some(chunk)
    }

    /// Notes that a slot may have a free page.
    fn mark_free(&self, slot: &Slot) {
        if let Some(chunk) = self.chunk_of(slot) {
            // Release: see `Chunk::find`.
            chunk.with_free.fetch_or(bit_of(slot), Ordering::Release);
        }
    }

    /// Unmaps every region whose pages are all free. Returns how many.
    pub(crate) fn trim(&self) -> usize {
        self.chunks()
            .flat_map(|chunk| &chunk.slots)
            .filter(|slot| {
                let unmapped = slot.unmap(self.pages_per_region(), self.watch);
                if !unmapped {
                    // Its pages may have been looked for while they were held.
                    self.mark_free(slot);
                }
                unmapped
            })
            .inspect(|_| {
                self.regions_unmapped.add(1);
                // Relaxed: a sum under a limit.
                self.mapped.fetch_sub(REGION, Ordering::Relaxed);
            })
            .count()
    }

    /// Lets `each` see every mapped region: its header, its first byte, which
    /// pages are free, which are orphans. No region is unmapped meanwhile.
    pub(crate) fn inspect(&self, mut each: impl FnMut(&RegionView<'_>)) {
        for slot in self.chunks().flat_map(|chunk| &chunk.slots) {
            slot.read(|region| {
                each(&RegionView {
                    slot,
                    region,
                    pages: self.pages_per_region(),
                });
            });
        }
    }

    /// Is every slot marked that has a free page? Exact at quiescence.
    #[cfg(loom)]
    pub(crate) fn marks_all_free(&self) -> bool {
        self.chunks().all(|chunk| {
            let marked = chunk.with_free.load(Ordering::Relaxed);
            let mut slots = chunk.slots.iter();
            slots.all(|slot| !slot.has_free() || marked & bit_of(slot) != 0)
        })
    }

    /// An orphan to adopt: its ticket is the caller's.
    pub(crate) fn claim_orphan(&self) -> Option<Page> {
        self.chunks()
            .find_map(|chunk| chunk.find(&chunk.with_orphans, Slot::claim_orphan))
    }
}

/// A mapped region as statistics see it.
#[derive(Debug)]
pub(crate) struct RegionView<'a> {
    slot: &'a Slot,
    region: Region,
    pages: usize,
}

impl RegionView<'_> {
    pub(crate) fn base(&self) -> usize {
        self.region.base().addr().get()
    }

    /// Each page, whether it is free, and whether it is an orphan with a
    /// published ticket.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (Page, bool, bool)> {
        (0..self.pages).map(|index| {
            // SAFETY: the region has this page, and `inspect` keeps it mapped
            // while this view lives.
            let page = unsafe { Page::nth(self.region.header(), index) };
            let (free, orphan) = self.slot.look(index);
            (page, free, orphan)
        })
    }
}

/// Puts a page into its pool. The depot may be gone afterwards.
pub(crate) fn give(free: FreePage) {
    let page = free.into_page();
    // SAFETY: the slot lives as long as the depot, which the page, being out,
    // keeps alive until the count below goes down.
    let slot = unsafe { &*page.slot().cast::<Slot>() };
    let depot = slot.depot;
    // Of a byte page more may be shown than was alive.
    poison::hide(page.base(), page.size());
    slot.put(page.index());
    // SAFETY: alive until the count below goes down.
    unsafe { &*depot }.mark_free(slot);
    // SAFETY: the depot is in an Arc, and the page's count is ours to give up.
    unsafe { Arc::decrement_strong_count(depot) };
}

/// The last free of an orphan: the page, if nobody holds the ticket.
pub(crate) fn deliver(last: LastFree) {
    let page = last.page();
    // SAFETY: as in `give`: a dead orphan is still out.
    let slot = unsafe { &*page.slot().cast::<Slot>() };
    // Unless the ticket was free, page and slot are the holder's business.
    if slot.swap_ticket(page.index(), |now| if now == HELD { LAST } else { HELD }) != HELD {
        give(last.bury());
    }
}

/// Publishes an orphan whose ticket is the caller's, for adoption or not. The
/// caller keeps the depot alive; the page may be gone afterwards.
pub(crate) fn publish(page: Page, adoptable: bool) {
    // SAFETY: the caller keeps the depot alive.
    let slot = unsafe { &*page.slot().cast::<Slot>() };
    let state = if adoptable { OPEN } else { SHUT };
    let found = slot.swap_ticket(page.index(), |now| if now == LAST { HELD } else { state });
    if found == LAST {
        give(page.into_last().bury());
    } else if adoptable {
        // SAFETY: the slot is of a depot that the caller keeps alive.
        let depot = unsafe { &*slot.depot };
        if let Some(chunk) = depot.chunk_of(slot) {
            // Release: see `Chunk::find`.
            chunk.with_orphans.fetch_or(bit_of(slot), Ordering::Release);
        }
    }
}

/// A slot's bit in its chunk's summaries.
fn bit_of(slot: &Slot) -> u64 {
    1 << (slot.number % CHUNK)
}

impl Chunk {
    /// Asks the slots that `summary` marks, in order, until one answers.
    ///
    /// A slot that has nothing is unmarked, and asked once more afterwards:
    /// who puts something in does so first and marks the slot second, so either
    /// its mark comes after ours is taken off, or we take it off and see what it
    /// put in: marking releases, taking a mark off acquires.
    fn find<T>(&self, summary: &AtomicU64, ask: impl Fn(&Slot) -> Option<T>) -> Option<T> {
        // Relaxed: a mark missed now is found next time.
        let mut marked = summary.load(Ordering::Relaxed);
        while marked != 0 {
            let slot = &self.slots[marked.trailing_zeros() as usize];
            marked &= marked - 1;
            if let Some(found) = ask(slot) {
                return Some(found);
            }
            // Acquire, partners `map`, `mark_free` and `publish`.
            summary.fetch_and(!bit_of(slot), Ordering::Acquire);
            if let Some(found) = ask(slot) {
                // Relaxed: we have put nothing in. The mark of whoever has was taken
                // off and comes back by one read-modify-write each, and still
                // releases what it did.
                summary.fetch_or(bit_of(slot), Ordering::Relaxed);
                return Some(found);
            }
        }
        None
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        for place in &self.chunks {
            // Relaxed, here and below: the last handle is gone, and `Arc`'s own
            // count has ordered all that others did before that.
            let Some(chunk) = NonNull::new(place.load(Ordering::Relaxed)) else {
                continue;
            };
            // SAFETY: made in `add_chunk`, and this is the depot's end.
            let chunk = unsafe { Box::from_raw(chunk.as_ptr()) };
            chunk.lifetime.ended();
            for slot in &chunk.slots {
                let region = slot.region.peek();
                if !region.is_null() {
                    // SAFETY: made in `map_region`.
                    let region = unsafe { Box::from_raw(region) };
                    // SAFETY: a page that is out would keep the depot alive,
                    // so nothing in the region is used.
                    if !unsafe { region.unmap(self.watch) } {
                        // It stays in the books: nobody will ever give it back.
                        region.tell_mapped(self.watch);
                    }
                }
            }
        }
    }
}
