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

mod bytewise;
mod reserve;

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::Error;
use crate::geometry::{LINE, LINE_SHIFT, align_up, lines_for};
use crate::mem::depot;
use crate::mem::frag::FragMut;
use crate::mem::header::line_of;
use crate::mem::page::{Page, Released};
use crate::mem::pool::PagePool;
use crate::mem::raw::{RawFrag, Tag, WIPE};
use crate::mem::shelf::{Shelf, bump};
use crate::stats::CacheStats;

pub use reserve::Reservation;

/// How finely a page is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Granule {
    /// Whole 64-byte lines, as the kernel's network front ends do; freed lines
    /// are found again.
    #[default]
    Line,
    /// To the byte, exactly as the kernel's `page_frag_alloc_align`; a page is
    /// used again when all of it is dead.
    Byte,
}

/// Retired pages that a refill looks at although no free on this thread said
/// so: their bytes may have come home from elsewhere.
const GLANCES: u64 = 2;

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
    shelf: NonNull<Shelf>,
    /// `WIPE` if the pool says `init_on_free`, else 0.
    flags: u32,
    granule: Granule,
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
        Self {
            shelf: pool.depot().roster.take(),
            flags: if pool.init().on_free && granule == Granule::Line {
                WIPE
            } else {
                0
            },
            granule,
            pool: pool.clone(),
            _here: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn shelf(&self) -> &Shelf {
        // SAFETY: taken from the pool's roster, which `pool` keeps.
        unsafe { self.shelf.as_ref() }
    }

    /// The pool that pages come from.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// How finely pages are packed.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// A fragment of `size` bytes. No locked instruction; some ten
    /// instructions unless the hole is used up.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::SizeAbovePage`], [`Error::Exhausted`],
    /// [`Error::OutOfMemory`]; nothing has changed then.
    #[inline]
    pub fn alloc(&mut self, size: usize) -> Result<FragMut, Error> {
        let shelf = self.shelf();
        let cursor = shelf.cursor.get();
        let room = shelf.limit.get().addr().wrapping_sub(cursor.addr());
        // Room is whole lines, so what fits as it is fits rounded up. Zero
        // wraps around and fails like a size too large.
        if size.wrapping_sub(1) < room {
            return Ok(self.carve(cursor, size));
        }
        self.alloc_slow(size, 1)
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

    /// Takes `size` bytes at the cursor. The caller has seen that they fit.
    #[inline]
    fn carve(&self, cursor: *mut u8, size: usize) -> FragMut {
        let lines = lines_for(size);
        // SAFETY: room was seen behind the cursor, so it is in a page.
        let start = unsafe { NonNull::new_unchecked(cursor) };
        // SAFETY: the rounded size is at most the room.
        self.shelf()
            .cursor
            .set(unsafe { cursor.add(lines << LINE_SHIFT) });
        let tag = Tag::lines(line_of(start), lines, self.flags);
        // SAFETY: these lines were taken out of the map with the hole and are
        // handed out once, here.
        let raw = unsafe { RawFrag::carve(start, size, tag) };
        // SAFETY: nobody else has a handle of them.
        unsafe { FragMut::from_raw(raw) }
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(&mut self, size: usize, align: usize) -> Result<FragMut, Error> {
        self.check(size)?;
        if self.granule == Granule::Byte {
            let (page, offset) = bytewise::make_room(self, size, align)?;
            return Ok(bytewise::carve(self, page, offset, size));
        }
        self.make_room(size, align)?;
        let cursor = self.shelf().cursor.get();
        let gap = align_up(cursor.addr(), align) - cursor.addr();
        if gap != 0 {
            self.skip(gap);
        }
        Ok(self.carve(self.shelf().cursor.get(), size))
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
        let shelf = self.shelf();
        let cursor = shelf.cursor.get();
        if let (Some(page), Some(start)) = (shelf.current(), NonNull::new(cursor)) {
            page.put_lines(line_of(start), gap >> LINE_SHIFT);
            // SAFETY: the gap was seen to be within the hole.
            shelf.cursor.set(unsafe { cursor.add(gap) });
        }
    }

    /// Sees to it that `size` bytes at a multiple of `align` fit in the hole.
    pub(crate) fn make_room(&mut self, size: usize, align: usize) -> Result<(), Error> {
        if self.fits(size, align) {
            return Ok(());
        }
        bump(&self.shelf().counters.refills);
        let need = lines_for(size);
        let step = lines_for(align);
        self.close_hole();
        if let Some(page) = self.shelf().current()
            && self.carve_on(page, need, step)
        {
            bump(&self.shelf().counters.reuses);
            return Ok(());
        }
        self.put_current_away();
        if self.search_shelf(need, step, GLANCES) {
            bump(&self.shelf().counters.reuses);
            return Ok(());
        }
        if self.adopt_one(need, step) {
            return Ok(());
        }
        let refusal = match self.take_page() {
            Ok(page) => {
                self.start(page);
                self.carve_on(page, need, step);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        // At the limit: look at everything before refusing.
        if self.search_shelf(need, step, u64::MAX) || self.adopt_any(need, step) {
            return Ok(());
        }
        self.refuse(refusal);
        Err(refusal)
    }

    /// Counts a refusal.
    pub(crate) fn refuse(&self, refusal: Error) {
        bump(&self.shelf().counters.alloc_fail);
        if refusal == Error::Exhausted {
            self.pool.depot().exhausted.add(1);
        }
    }

    fn fits(&self, size: usize, align: usize) -> bool {
        let cursor = self.shelf().cursor.get().addr();
        let limit = self.shelf().limit.get().addr();
        align_up(cursor, align)
            .checked_add(size)
            .is_some_and(|end| end <= limit)
            && cursor != 0
    }

    /// Puts what is left of the hole back into the map.
    pub(crate) fn close_hole(&self) {
        let shelf = self.shelf();
        let cursor = shelf.cursor.get();
        let rest = shelf.limit.get().addr().wrapping_sub(cursor.addr());
        if let (Some(page), Some(start)) = (shelf.current(), NonNull::new(cursor)) {
            page.put_lines(line_of(start), rest >> LINE_SHIFT);
        }
        shelf.cursor.set(std::ptr::null_mut());
        shelf.limit.set(std::ptr::null_mut());
    }

    /// Opens the first hole in `page`, which is the current one, that fits.
    fn carve_on(&self, page: Page, need: usize, step: usize) -> bool {
        page.sweep();
        page.head().until.set(crate::mem::page::NEVER);
        let Some((first, count)) = page.find_hole(need, step) else {
            return false;
        };
        page.take_lines(first, count);
        let offset = (first - page.first_line()) << LINE_SHIFT;
        let bytes = count << LINE_SHIFT;
        // SAFETY: the hole lies in the page.
        let start = unsafe { page.base().add(offset) };
        if self.pool.init().on_alloc {
            // SAFETY: the hole's lines were just taken out of the map.
            unsafe { start.write_bytes(0, bytes) };
        }
        self.shelf().cursor.set(start.as_ptr());
        // SAFETY: the hole ends within the page or at its end.
        self.shelf().limit.set(unsafe { start.add(bytes) }.as_ptr());
        true
    }

    /// Makes an owned page that is in no list the one being carved.
    pub(crate) fn start(&self, page: Page) {
        page.set_role(crate::mem::page::Role::Current);
        self.shelf().current.set(page.head_ptr());
    }

    /// Retires the current page, whose hole is closed.
    fn put_current_away(&self) {
        let shelf = self.shelf();
        if let Some(page) = shelf.current() {
            shelf.current.set(std::ptr::null_mut());
            shelf.retire(page, page.free_lines());
        }
    }

    /// Looks for a hole in the ready pages, and in up to `glances` others.
    fn search_shelf(&self, need: usize, step: usize, glances: u64) -> bool {
        let shelf = self.shelf();
        for _ in 0..shelf.ready() {
            let Some(page) = shelf.take_ready() else {
                break;
            };
            if self.try_page(page, need, step) {
                return true;
            }
        }
        for _ in 0..shelf.retired().min(glances) {
            let Some(page) = shelf.take_oldest() else {
                break;
            };
            if self.try_page(page, need, step) {
                return true;
            }
        }
        false
    }

    /// Starts on an owned page of no list if it has a hole, else retires it.
    fn try_page(&self, page: Page, need: usize, step: usize) -> bool {
        self.start(page);
        let found = self.carve_on(page, need, step);
        if !found {
            self.put_current_away();
        }
        found
    }

    /// Adopts an orphan, if there is one. True if it has a hole that fits.
    fn adopt_one(&self, need: usize, step: usize) -> bool {
        let Some(page) = self.pool.depot().claim_orphan() else {
            return false;
        };
        if !page.adopt(self.shelf.as_ptr().cast()) {
            // Dead; its last free is on the way and will deliver it.
            depot::publish(page);
            return false;
        }
        bump(&self.shelf().counters.adopted);
        self.try_page(page, need, step)
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

    /// A page from the pool, owned.
    pub(crate) fn take_page(&self) -> Result<Page, Error> {
        let free = self.pool.depot().take()?;
        bump(&self.shelf().counters.pages_taken);
        let bytes = self.granule == Granule::Byte;
        Ok(Page::open(free, self.shelf.as_ptr().cast(), bytes))
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
    pub fn prepare(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        self.check(min)?;
        let (start, room) = if self.granule == Granule::Byte {
            let (page, offset) = bytewise::make_room(self, min, 1)?;
            // SAFETY: an offset in the page.
            (unsafe { page.base().add(offset) }, page.size() - offset)
        } else {
            self.make_room(min, 1)?;
            let cursor = self.shelf().cursor.get();
            let room = self.shelf().limit.get().addr() - cursor.addr();
            // SAFETY: `make_room` left a cursor in a page.
            (unsafe { NonNull::new_unchecked(cursor) }, room)
        };
        Ok(Reservation::new(self, start, room))
    }

    /// Takes the first `used` bytes of what `prepare` showed.
    pub(crate) fn commit(&mut self, used: usize) -> FragMut {
        if self.granule == Granule::Byte {
            let offset = usize::try_from(self.shelf().offset.get()).unwrap_or(0);
            // `prepare` has seen to it that there is a page.
            if let Some(page) = self.shelf().current() {
                return bytewise::carve(self, page, offset, used);
            }
        }
        self.carve(self.shelf().cursor.get(), used)
    }

    /// All the room there is, at least `min` bytes, as one fragment: `prepare`
    /// without a borrow, for callers whose language cannot have one. Give it
    /// to [`settle`](Self::settle).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn take_room(&mut self, min: usize) -> Result<FragMut, Error> {
        let room = self.prepare(min)?.len();
        Ok(self.commit(room))
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
        let last = self.last_carved(&room);
        let capacity = room.capacity();
        if used == 0 {
            drop(room);
            if let Some(page) = last {
                self.untake(page, capacity);
            }
            return Err(Error::ZeroSize);
        }
        room.shrink_to(used);
        if let Some(page) = last {
            self.untake(page, capacity - room.capacity());
        }
        Ok(room)
    }

    /// The current page, if `room` was the last thing carved there.
    fn last_carved(&self, room: &FragMut) -> Option<Page> {
        // A handle that was narrowed does not show where its bytes end, and
        // one that is shared frees nothing when it goes.
        if room.len() != room.capacity() || !room.is_unique() {
            return None;
        }
        let page = self.shelf().current()?;
        let end = room.as_ptr().addr() + room.capacity();
        let cursor = match self.granule {
            Granule::Line => self.shelf().cursor.get().addr(),
            Granule::Byte => {
                page.base().addr().get() + usize::try_from(self.shelf().offset.get()).unwrap_or(0)
            }
        };
        (room.page() == page.base().addr().get() && end == cursor).then_some(page)
    }

    /// Moves the cursor back over `bytes` that were carved last and have just
    /// been freed.
    fn untake(&self, page: Page, bytes: usize) {
        let shelf = self.shelf();
        if bytes == 0 {
            return;
        }
        if self.granule == Granule::Byte {
            bytewise::untake(self, page, bytes);
            return;
        }
        let cursor = shelf.cursor.get();
        // SAFETY: the bytes lie before the cursor in the same page.
        let Some(back) = NonNull::new(unsafe { cursor.sub(bytes) }) else {
            return;
        };
        page.take_lines(line_of(back), bytes >> LINE_SHIFT);
        if self.pool.init().on_alloc {
            // SAFETY: just taken out of the map.
            unsafe { back.write_bytes(0, bytes) };
        }
        shelf.cursor.set(back.as_ptr());
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
    pub fn trim(&mut self) {
        self.empty(true);
    }

    fn empty(&mut self, keep_alive: bool) {
        if self.granule == Granule::Line {
            self.close_hole();
        }
        let shelf = self.shelf();
        let current = shelf.current();
        shelf.current.set(std::ptr::null_mut());
        let ready = (0..shelf.ready()).map_while(|_| shelf.take_ready());
        let mut alive: Vec<Page> = Vec::new();
        for page in current.into_iter().chain(ready) {
            self.let_go(page, keep_alive, &mut alive);
        }
        while let Some(page) = shelf.take_oldest() {
            self.let_go(page, keep_alive, &mut alive);
        }
        for page in alive {
            shelf.retire(page, page.free_units());
        }
    }

    /// Gives a page of no list back, or puts it into `alive`.
    fn let_go(&self, page: Page, keep_alive: bool, alive: &mut Vec<Page>) {
        let counters = &self.shelf().counters;
        if page.sweep_is_dead() {
            bump(&counters.pages_given);
            depot::give(page.close());
        } else if keep_alive {
            alive.push(page);
        } else {
            match page.orphan() {
                Released::Dead(free) => {
                    bump(&counters.pages_given);
                    depot::give(free);
                }
                Released::Orphan(page) => {
                    bump(&counters.orphaned);
                    depot::publish(page);
                }
            }
        }
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
        for page in shelf.current().into_iter().chain(shelf.pages()) {
            stats.pages += 1;
            alive += page.alive_bytes();
        }
        stats.held_bytes = stats.pages * self.pool.page_size() as u64;
        stats.live_bytes = alive.saturating_sub(shelf.uncarved()) as u64;
        stats.pinned_bytes = stats.held_bytes.saturating_sub(stats.live_bytes);
        stats
    }
}

impl Drop for PageFragCache {
    fn drop(&mut self) {
        self.drain();
        self.shelf().vacate();
    }
}
