//! The shelf: where one cache keeps its place in a page, and the pages that it
//! owns and does not carve now.
//!
//! Pages stand in three lists that run through their heads: `retired`, those
//! not worth a look, oldest first; `ready`, those of which so much has come
//! home that their holes are; and `spare`, a few without any live fragment. A
//! page moves on when the countdown in its head runs out, which is all that a
//! free on the owner's thread does beside setting its lines: no search, no
//! sweep.
//!
//! Shelves are never freed while their pool lives, only used again, so that
//! statistics may read any of them at any time.

use std::ptr::{self, NonNull};

use crate::mem::header::PageHead;
use crate::mem::page::{FreePage, NEVER, Page, Role};
use crate::sync::{AtomicBool, AtomicPtr, Ordering, OwnerPtr, OwnerU64};

/// Dead pages that a shelf keeps for its next refill before it gives more
/// back: 256 KiB at the default page size, a burst of 170 full frames.
const SPARES: u64 = 8;

/// A page is worth a look when this part of it is free: a quarter. Waiting for
/// half of it held a seventh more in the pinning bench, with 2 KiB buffers that
/// live long among packets, and took as long.
const WORTH: usize = 4;

/// A cache's place and pages. All fields but `taken` and `next` belong to the
/// thread of the cache that took the shelf.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shelf {
    /// The page being carved; `nowhere` if there is none, so never null.
    current: OwnerPtr<PageHead>,
    /// Where the search for the next hole of `current` goes on, in lines; of a
    /// byte page the next offset to carve, in bytes.
    pub(crate) offset: OwnerU64,
    retired: List,
    ready: List,
    spare: List,
    pub(crate) counters: Counters,
    /// Stands in for a page where there is none: its hole is always empty.
    nowhere: PageHead,
    taken: AtomicBool,
    next: AtomicPtr<Shelf>,
}

/// What a cache counts, page events only.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) refills: OwnerU64,
    pub(crate) reuses: OwnerU64,
    pub(crate) pages_taken: OwnerU64,
    pub(crate) adopted: OwnerU64,
    pub(crate) pages_given: OwnerU64,
    pub(crate) orphaned: OwnerU64,
    pub(crate) alloc_fail: OwnerU64,
}

impl Counters {
    fn reset(&self) {
        self.refills.set(0);
        self.reuses.set(0);
        self.pages_taken.set(0);
        self.adopted.set(0);
        self.pages_given.set(0);
        self.orphaned.set(0);
        self.alloc_fail.set(0);
    }
}

/// Adds to a counter of one's own. `make bench-instructions` builds once
/// without, to tell what counting costs (R12).
pub(crate) fn bump(counter: &OwnerU64) {
    if cfg!(not(pagefrag_uncounted)) {
        counter.set(counter.get() + 1);
    }
}

impl Shelf {
    fn new() -> Self {
        let zero = || OwnerU64::new(0);
        Self {
            current: OwnerPtr::null(),
            offset: zero(),
            retired: List::new(),
            ready: List::new(),
            spare: List::new(),
            counters: Counters {
                refills: zero(),
                reuses: zero(),
                pages_taken: zero(),
                adopted: zero(),
                pages_given: zero(),
                orphaned: zero(),
                alloc_fail: zero(),
            },
            nowhere: PageHead::new(),
            taken: AtomicBool::new(true),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The page being carved.
    pub(crate) fn current(&self) -> Option<Page> {
        let head = NonNull::new(self.current.get())?;
        let there = !ptr::eq(head.as_ptr(), &raw const self.nowhere);
        // SAFETY: the shelf's owner owns the page, so its region is mapped.
        there.then(|| unsafe { Page::of_head(head) })
    }

    /// The head of the page being carved, or of no page: where the cursor and
    /// the limit are.
    #[inline]
    pub(crate) fn hole(&self) -> &PageHead {
        // SAFETY: the shelf's owner owns the page, so its head is mapped until
        // the owner, who is here, lets go of it; `nowhere` is as old as `self`.
        unsafe { &*self.current.get() }
    }

    /// From now on `page` is being carved.
    pub(crate) fn go_to(&self, page: Page) {
        self.current.set(page.head_ptr());
    }

    /// From now on no page is.
    pub(crate) fn go_nowhere(&self) {
        self.current.set((&raw const self.nowhere).cast_mut());
    }

    /// Puts a page of the calling thread that is in no list away, as a look at
    /// it has found it: `free` units of it are free. Returns a dead page that
    /// there is no use for.
    pub(crate) fn put_away(&self, page: Page, free: usize) -> Option<FreePage> {
        let all = page.units();
        if free == all {
            return self.put_spare(page);
        }
        if !page.is_bytes() && free >= all / WORTH {
            page.set_role(Role::Ready);
            page.head().until.set(countdown(all - free));
            self.ready.push(page);
        } else {
            page.set_role(Role::Retired);
            page.head().until.set(countdown(patience(all, free)));
            self.retired.push(page);
        }
        None
    }

    /// Keeps a dead page, or returns it if there are enough.
    fn put_spare(&self, page: Page) -> Option<FreePage> {
        if self.spare.len.get() >= SPARES {
            bump(&self.counters.pages_given);
            return Some(page.close());
        }
        page.set_role(Role::Spare);
        page.head().until.set(NEVER);
        self.spare.push(page);
        None
    }

    /// Takes the page that has waited longest in the ready list.
    pub(crate) fn take_ready(&self) -> Option<Page> {
        self.ready.pop()
    }

    /// Takes the page that was retired longest ago.
    pub(crate) fn take_oldest(&self) -> Option<Page> {
        self.retired.pop()
    }

    /// Takes a page without live fragments.
    pub(crate) fn take_spare(&self) -> Option<Page> {
        self.spare.pop()
    }

    /// Pages in the ready list.
    pub(crate) fn ready(&self) -> u64 {
        self.ready.len.get()
    }

    /// Pages in the retired list.
    pub(crate) fn retired(&self) -> u64 {
        self.retired.len.get()
    }

    /// The pages in all lists.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Page> {
        self.retired
            .iter()
            .chain(self.ready.iter())
            .chain(self.spare.iter())
    }

    /// Gives the shelf, which is empty, back to its roster.
    pub(crate) fn vacate(&self) {
        debug_assert!(self.current().is_none() && self.pages().next().is_none());
        // Release, partner `Roster::take`: the fields as this owner left them.
        self.taken.store(false, Ordering::Release);
    }
}

/// Units that may come home on the owner's thread before a retired page of
/// `all` units, `free` of them free, is worth a look.
fn patience(all: usize, free: usize) -> usize {
    (all / WORTH).saturating_sub(free).max(1)
}

fn countdown(units: usize) -> i32 {
    i32::try_from(units.max(1)).unwrap_or(NEVER)
}

/// The countdown of one of the calling thread's pages has run out: has it
/// looked after. Returns a dead page that the shelf does not want to keep.
#[cold]
pub(crate) fn wake(page: Page) -> Option<FreePage> {
    // SAFETY: the page is the calling thread's, so is its cache, whose shelf
    // this is; shelves live as long as the pool, and the page keeps that.
    let shelf = unsafe { &*page.head().shelf.get().cast::<Shelf>() };
    page.head().until.set(NEVER);
    match page.role() {
        Role::Retired => shelf.retired.remove(page),
        Role::Ready => shelf.ready.remove(page),
        // Being carved, or with nothing left to wait for.
        _ => return None,
    }
    let free = page.free_units();
    shelf.put_away(page, free)
}

/// A list that runs through page heads. Only the shelf's owner touches it.
#[derive(Debug)]
struct List {
    first: OwnerPtr<PageHead>,
    last: OwnerPtr<PageHead>,
    len: OwnerU64,
}

impl List {
    fn new() -> Self {
        Self {
            first: OwnerPtr::null(),
            last: OwnerPtr::null(),
            len: OwnerU64::new(0),
        }
    }

    /// Appends a page that is in no list.
    fn push(&self, page: Page) {
        let head = page.head_ptr();
        page.head().prev.set(self.last.get());
        page.head().next.set(ptr::null_mut());
        match NonNull::new(self.last.get()) {
            // SAFETY: pages in the list are owned, so their heads are mapped.
            Some(last) => unsafe { last.as_ref() }.next.set(head),
            None => self.first.set(head),
        }
        self.last.set(head);
        self.len.set(self.len.get() + 1);
    }

    /// Takes a page out of the list that it is in.
    fn remove(&self, page: Page) {
        let (prev, next) = (page.head().prev.get(), page.head().next.get());
        match NonNull::new(prev) {
            // SAFETY: as in `push`.
            Some(prev) => unsafe { prev.as_ref() }.next.set(next),
            None => self.first.set(next),
        }
        match NonNull::new(next) {
            // SAFETY: as in `push`.
            Some(next) => unsafe { next.as_ref() }.prev.set(prev),
            None => self.last.set(prev),
        }
        self.len.set(self.len.get() - 1);
    }

    /// The pages in order.
    fn iter(&self) -> impl Iterator<Item = Page> {
        let mut next = self.first.get();
        std::iter::from_fn(move || {
            // SAFETY: pages in the list are owned, so their regions are mapped.
            let page = unsafe { Page::of_head(NonNull::new(next)?) };
            next = page.head().next.get();
            Some(page)
        })
    }

    /// Takes the first page.
    fn pop(&self) -> Option<Page> {
        // SAFETY: pages in the list are owned, so their regions are mapped.
        let page = unsafe { Page::of_head(NonNull::new(self.first.get())?) };
        self.remove(page);
        Some(page)
    }
}

/// All shelves of a pool, in use or not.
#[derive(Debug)]
pub(crate) struct Roster {
    first: AtomicPtr<Shelf>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self {
            first: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// A shelf for a new cache: one that was vacated, or a new one.
    pub(crate) fn take(&self) -> NonNull<Shelf> {
        for shelf in self.iter() {
            // Relaxed: a look before the locked instruction.
            if shelf.taken.load(Ordering::Relaxed) {
                continue;
            }
            // Acquire, partner `vacate`. Relaxed otherwise: not ours, go on.
            let taken =
                shelf
                    .taken
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                shelf.counters.reset();
                return NonNull::from(shelf);
            }
        }
        let new = NonNull::from(Box::leak(Box::new(Shelf::new())));
        // SAFETY: leaked just now, and nobody else has it yet.
        unsafe { new.as_ref() }.go_nowhere();
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            // SAFETY: leaked above, freed only with the roster.
            unsafe { new.as_ref() }.next.store(first, Ordering::Relaxed);
            // Release, partner `iter`: the shelf's fields and its link.
            match self.first.compare_exchange_weak(
                first,
                new.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return new,
                Err(now) => first = now,
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Shelf> {
        // Acquire, partner `take`.
        let mut next = self.first.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: shelves are freed only with the roster.
            let shelf = unsafe { next.as_ref() }?;
            // Relaxed: written before the shelf was published.
            next = shelf.next.load(Ordering::Relaxed);
            Some(shelf)
        })
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        let mut next = self.first.load(Ordering::Acquire);
        while let Some(shelf) = NonNull::new(next) {
            // SAFETY: made by `Box::leak` in `take`; the roster is dropped
            // once, when nobody has the pool any more.
            let shelf = unsafe { Box::from_raw(shelf.as_ptr()) };
            next = shelf.next.load(Ordering::Relaxed);
        }
    }
}
