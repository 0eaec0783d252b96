//! The cache: carves a page, one hole after the other.
//!
//! Allocating is: round up, compare, advance. When the hole is used up the
//! cold half looks for the next one, nearest first: the page it has, the pages
//! of its shelf, an orphan, the pool, the OS. In a fresh page the hole is the
//! whole page, and this is exactly the kernel's bump.
//!
//! ```text
//!    page   ████████░░░░░░░░░░░░░░████░░░░██
//!                   ▲    ▲        ▲      live lines stay where they are
//!                   │    cursor   limit
//!                   └ hole, taken out of the page's map as a whole
//! ```
//!
//! A fragment that ends at the cursor when it is freed is room again at once:
//! the way back, told in `page.rs`. So a fragment that does not outlive its turn costs
//! no map and no refill, and its successor gets the same bytes, still warm.

mod bytewise;
mod refill;
mod reserve;

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::Error;
use crate::geometry::{LINE, LINE_SHIFT, align_up};
use crate::mem::frag::FragMut;
use crate::mem::header::{PageHead, line_of};
use crate::mem::here::Place;
use crate::mem::poison;
use crate::mem::pool::PagePool;
use crate::mem::raw::{BYTES, CLEAN, RawFrag, WIPE};
use crate::mem::shelf::Shelf;
use crate::stats::CacheStats;

pub use reserve::Reservation;

/// How finely a page is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Granule {
    /// Whole 64-byte lines, as the kernel's network front ends do; freed lines
    /// are found again.
    #[default]
    Line,
    /// To the byte, exactly as the kernel's `page_frag_alloc_align` (6.13 and
    /// later, upward); a page is used again when all of it is dead.
    ///
    /// Three faults of the kernel's are left out on purpose:
    /// * `offset + size` that wraps around 32 bits hands out bytes that are in
    ///   use; here it is [`Error::SizeAbovePage`].
    /// * A size of 0 spends a reference and moves nothing, 32,769 times; here it
    ///   is [`Error::ZeroSize`].
    /// * A size above one OS page fails for ever once it does not fit the rest
    ///   of the current page; here any size up to the page's succeeds.
    Byte,
}

/// Carves fragments out of pages: the allocator's front door.
///
/// A cache lives on the thread that made it (neither `Send` nor `Sync`), which
/// is what lets it allocate, and its thread free, without a locked
/// instruction. Its fragments go anywhere. To have a cache on another thread,
/// make one there: it is a few words, and any number may share a pool.
///
/// Dropping a cache drains it.
///
/// # Examples
/// ```
/// use pagefrag::{PageFragCache, PagePool};
///
/// let pool = PagePool::new(32 * 1024)?;
/// let mut cache = PageFragCache::new(&pool);
/// let header = cache.alloc(14)?;
/// let frame = cache.alloc_align(1500, 256)?;
/// assert_eq!((header.page(), header.offset()), (frame.page(), 0));
/// assert_eq!(frame.offset(), 256);
/// # Ok::<(), pagefrag::Error>(())
/// ```
///
/// It cannot leave its thread:
/// ```compile_fail,E0277
/// fn sendable<T: Send>() {}
/// sendable::<pagefrag::PageFragCache>();
/// ```
/// nor be shared:
/// ```compile_fail,E0277
/// fn shareable<T: Sync>() {}
/// shareable::<pagefrag::PageFragCache>();
/// ```
#[derive(Debug)]
pub struct PageFragCache {
    place: Place,
    shelf: NonNull<Shelf>,
    /// What fragments of lines are told to do when they are freed: 0 unless the
    /// pool zeroes bytes. `BYTES` besides where there are none.
    flags: u64,
    granule: Granule,
    /// Why `alloc_words` had nothing, the last time.
    refusal: Error,
    pool: PagePool,
    /// The shelf is one thread's.
    _here: PhantomData<*mut ()>,
}

impl PageFragCache {
    /// A cache of the calling thread that packs in lines. Takes no page yet.
    pub fn new(pool: &PagePool) -> Self {
        Self::with_granule(pool, Granule::Line)
    }

    /// A cache of the calling thread. Takes no page yet.
    pub fn with_granule(pool: &PagePool, granule: Granule) -> Self {
        let init = pool.init();
        let shelf = pool.depot().roster.take();
        // SAFETY: taken from the pool's roster, which `pool` keeps.
        let nowhere = unsafe { shelf.as_ref() }.nowhere();
        Self {
            // SAFETY: as old as the shelf, which is this cache's until it is dropped.
            place: unsafe { Place::new(nowhere) },
            shelf,
            flags: match (init.on_free, init.on_alloc) {
                (true, _) => WIPE,
                (false, true) => CLEAN,
                (false, false) => 0,
            } | match granule {
                Granule::Line => 0,
                Granule::Byte => BYTES,
            },
            granule,
            refusal: Error::ZeroSize,
            pool: pool.clone(),
            _here: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn shelf(&self) -> &Shelf {
        // SAFETY: taken from the pool's roster, which `pool` keeps.
        unsafe { self.shelf.as_ref() }
    }

    /// The shelf's address, as pages keep it.
    fn shelf_ptr(&self) -> *mut () {
        self.shelf.as_ptr().cast()
    }

    /// The pool that pages come from.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// How finely pages are packed.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// A fragment of `size` bytes. No locked instruction; some fifteen
    /// instructions unless the hole is used up.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::SizeAbovePage`], [`Error::Exhausted`],
    /// [`Error::OutOfMemory`]; nothing has changed then.
    #[inline]
    pub fn alloc(&mut self, size: usize) -> Result<FragMut, Error> {
        match self.alloc_here(size) {
            Some(frag) => Ok(frag),
            None => self.alloc_cold(size),
        }
    }

    /// [`alloc`](Self::alloc) if the hole has room, and nothing else. What it
    /// returns stays in registers, which is worth a door of its own where it
    /// goes straight into another language's object.
    #[inline]
    pub fn alloc_here(&mut self, size: usize) -> Option<FragMut> {
        let hole = self.place.hole();
        let start = hole.advance();
        let room = hole.limit.get().addr().wrapping_sub(start.addr());
        // Room is whole lines, so what fits as it is fits rounded up. Zero
        // wraps around and fails like a size too large.
        (size.wrapping_sub(1) < room).then(|| self.carve(hole, start, size))
    }

    /// A fragment whose offset in its page, and so its address, is a multiple
    /// of `align`: a power of two up to the page size. Skipped bytes are free
    /// again at once.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), and [`Error::BadAlignment`].
    #[inline]
    pub fn alloc_align(&mut self, size: usize, align: usize) -> Result<FragMut, Error> {
        if align <= LINE && align.is_power_of_two() && self.granule == Granule::Line {
            // Every hole starts on a line.
            return self.alloc(size);
        }
        if !align.is_power_of_two() || align > self.pool.page_size() {
            return Err(Error::BadAlignment);
        }
        self.alloc_slow(size, align)
    }

    /// Fragments of `size` bytes, whole lines, that lie one behind the other, as one: as
    /// many as the hole has room for, but one at least and `most` at most.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    #[cfg_attr(loom, allow(dead_code))] // only rings ask for one, and no model has a socket
    pub(crate) fn alloc_run(&mut self, size: usize, most: usize) -> Result<FragMut, Error> {
        debug_assert!(size.is_multiple_of(LINE));
        if self.granule == Granule::Byte {
            return self.alloc(size);
        }
        self.check(size)?;
        self.make_room(size, 1)?;
        let hole = self.place.hole();
        let start = hole.advance();
        let room = hole.limit.get().addr() - start.addr();
        let count = (room / size).clamp(1, most.max(1));
        Ok(self.carve(hole, start, count * size))
    }

    /// Takes `size` bytes from `start` on, to which `hole` has advanced. The
    /// caller has seen that they fit.
    #[inline]
    fn carve(&self, hole: &PageHead, start: *mut u8, size: usize) -> FragMut {
        hole.top.set(align_up(size, LINE));
        self.hand_out(start, size)
    }

    /// The fragment of `size` bytes from `start` on, which have been carved.
    #[inline]
    fn hand_out(&self, start: *mut u8, size: usize) -> FragMut {
        // SAFETY: carved, so it is in a page.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: these lines were taken out of the map with the hole and are
        // handed out once, here.
        let raw = unsafe { RawFrag::carve(start, size, self.flags) };
        // SAFETY: nobody else has a handle of them.
        unsafe { FragMut::from_raw(raw) }
    }

    /// The cold half of `alloc`, unpacked where it is called: a `Result` that
    /// two halves may make goes through memory, two words stay in registers.
    #[inline]
    fn alloc_cold(&mut self, size: usize) -> Result<FragMut, Error> {
        let (start, word) = self.alloc_words(size);
        let Some(start) = start else {
            return Err(self.refusal);
        };
        // SAFETY: taken apart by `alloc_words`, once.
        let raw = unsafe { RawFrag::from_words(start, word) };
        // SAFETY: nobody else has a handle of it.
        Ok(unsafe { FragMut::from_raw(raw) })
    }

    #[cold]
    #[inline(never)]
    fn alloc_words(&mut self, size: usize) -> (Option<NonNull<u8>>, u64) {
        match self.alloc_slow(size, 1) {
            Ok(frag) => {
                let (start, word) = frag.into_raw().into_words();
                (Some(start), word)
            }
            Err(refusal) => {
                self.refusal = refusal;
                (None, 0)
            }
        }
    }

    fn alloc_slow(&mut self, size: usize, align: usize) -> Result<FragMut, Error> {
        self.check(size)?;
        if self.granule == Granule::Byte {
            let (page, offset) = bytewise::make_room(self, size, align)?;
            return Ok(bytewise::carve(self, page, offset, size));
        }
        self.make_room(size, align)?;
        let hole = self.place.hole();
        let start = hole.next_byte().addr();
        let gap = align_up(start, align) - start;
        if gap != 0 {
            self.skip(gap);
        }
        Ok(self.carve(hole, hole.advance(), size))
    }

    pub(crate) fn check(&self, size: usize) -> Result<(), Error> {
        if size == 0 {
            return Err(Error::ZeroSize);
        }
        if size > self.pool.page_size() {
            return Err(Error::SizeAbovePage);
        }
        Ok(())
    }

    /// Puts the next `gap` bytes, whole lines, back into the map.
    fn skip(&self, gap: usize) {
        let start = NonNull::new(self.place.hole().next_byte());
        if let (Some(page), Some(start)) = (self.place.page(), start) {
            page.put_lines(line_of(start), gap >> LINE_SHIFT);
            // SAFETY: the gap was seen to be within the hole.
            let behind = unsafe { start.add(gap) };
            page.head().set_top(behind.as_ptr(), 0);
        }
    }

    /// Shows all the room there is, at least `min` bytes, without taking it.
    /// What is then committed becomes a fragment at the same page and offset;
    /// dropping the reservation takes nothing. The borrow rules out another
    /// allocation in between.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    ///
    /// # Examples
    /// ```
    /// # use pagefrag::{PageFragCache, PagePool};
    /// # let pool = PagePool::new(32 * 1024)?;
    /// # let mut cache = PageFragCache::new(&pool);
    /// let mut room = cache.prepare(2048)?;
    /// assert!(room.len() >= 2048);
    /// room[..4].copy_from_slice(b"ping");
    /// let frag = room.commit(4)?;
    /// assert_eq!(&frag[..], b"ping");
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    #[inline]
    pub fn prepare(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        let hole = self.place.hole();
        let start = hole.advance();
        let room = hole.limit.get().addr().wrapping_sub(start.addr());
        // As in `alloc_here`.
        let (start, room) = if min.wrapping_sub(1) < room {
            // Until the reservation ends, all the room is the piece carved last.
            hole.top.set(room);
            // SAFETY: room was seen behind it, so it is in a page.
            (unsafe { NonNull::new_unchecked(start) }, room)
        } else {
            self.prepare_slow(min)?
        };
        poison::show(start, room);
        Ok(Reservation::new(self, start, room))
    }

    /// The cold half of `prepare`: where the room is, and how much.
    #[cold]
    #[inline(never)]
    fn prepare_slow(&mut self, min: usize) -> Result<(NonNull<u8>, usize), Error> {
        self.check(min)?;
        if self.granule == Granule::Byte {
            let (page, offset) = bytewise::make_room(self, min, 1)?;
            // SAFETY: an offset in the page.
            let start = unsafe { page.base().add(offset) };
            return Ok((start, page.size() - offset));
        }
        self.make_room(min, 1)?;
        let hole = self.place.hole();
        let start = hole.advance();
        let room = hole.limit.get().addr() - start.addr();
        hole.top.set(room);
        // SAFETY: `make_room` has found room in a page.
        Ok((unsafe { NonNull::new_unchecked(start) }, room))
    }

    /// Lines, and nothing to zero: carving is all there is to do.
    #[inline]
    fn is_plain(&self) -> bool {
        self.flags == 0
    }

    /// Ends a reservation of `room` bytes from `start` on, which has taken `taken` of
    /// them: the others are room.
    #[inline]
    fn put_room_back(&self, start: NonNull<u8>, room: usize, taken: usize) {
        if self.granule == Granule::Line {
            self.place.hole().top.set(taken);
        }
        // SAFETY: `taken` is at most `room`, which ends in the page.
        let behind = unsafe { start.add(taken) };
        if self.flags & (WIPE | CLEAN) != 0 {
            // The user may have written there, and it stays room.
            // SAFETY: free bytes, which only the reservation that ends could reach.
            unsafe { poison::wipe(behind, room - taken) };
        }
        poison::hide(behind, room - taken);
    }

    /// All the room there is, at least `min` bytes, as one fragment: `prepare`
    /// without a borrow, for callers whose language cannot have one. Give it
    /// to [`settle`](Self::settle).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn take_room(&mut self, min: usize) -> Result<FragMut, Error> {
        let room = self.prepare(min)?;
        let all = room.len();
        room.commit(all)
    }

    /// Keeps the first `used` bytes of `room`. The others are free again at
    /// once, and if nothing was allocated since, the next allocation follows
    /// directly.
    ///
    /// # Errors
    /// [`Error::ZeroSize`] or [`Error::CommitAboveRoom`]; the room is given
    /// back then.
    pub fn settle(&mut self, mut room: FragMut, used: usize) -> Result<FragMut, Error> {
        if used > room.len() {
            return Err(Error::CommitAboveRoom);
        }
        if self.granule == Granule::Byte {
            return bytewise::settle(self, room, used).ok_or(Error::ZeroSize);
        }
        if used == 0 {
            return Err(Error::ZeroSize);
        }
        // What is given back was carved last, and the cursor follows.
        room.shrink_to(used);
        Ok(room)
    }

    /// Gives everything back: dead pages to the pool, the others to their
    /// fragments. The cache may be used again.
    ///
    /// One locked instruction per map word of a page with live fragments, and
    /// a few per page.
    pub fn drain(&mut self) {
        self.empty(false);
    }

    /// Gives the pages back that have no live fragments, and keeps the others.
    /// Returns how many.
    pub fn trim(&mut self) -> usize {
        let before = self.shelf().counters.pages_given.get();
        self.empty(true);
        usize::try_from(self.shelf().counters.pages_given.get() - before).unwrap_or(0)
    }

    /// Bytes of the pages the cache owns: [`stats`](Self::stats) tells them too,
    /// and looks at every page. Four loads.
    pub fn held_bytes(&self) -> u64 {
        self.shelf().held_pages() * self.pool.page_size() as u64
    }

    /// The cache at this moment. Reads the map of every page it owns.
    pub fn stats(&self) -> CacheStats {
        let shelf = self.shelf();
        let counters = &shelf.counters;
        let mut stats = CacheStats {
            refills: counters.refills.get(),
            reuses: counters.reuses.get(),
            pages_taken: counters.pages_taken.get(),
            adopted: counters.adopted.get(),
            pages_given: counters.pages_given.get(),
            orphaned: counters.orphaned.get(),
            alloc_fail: counters.alloc_fail.get(),
            ..CacheStats::default()
        };
        let mut alive = 0;
        for page in self.place.page().into_iter().chain(shelf.pages()) {
            stats.pages += 1;
            alive += page.alive_bytes();
        }
        stats.held_bytes = stats.pages * self.pool.page_size() as u64;
        debug_assert_eq!(
            stats.held_bytes,
            self.held_bytes(),
            "a page was not counted"
        );
        stats.live_bytes = alive as u64;
        stats.pinned_bytes = stats.held_bytes.saturating_sub(stats.live_bytes);
        stats
    }
}

impl Drop for PageFragCache {
    fn drop(&mut self) {
        self.drain();
        debug_assert!(self.place.page().is_none());
        self.shelf().vacate();
    }
}
