//! The shelf: the pages that one cache owns and does not carve now.
//!
//! Pages stand in lists that run through their heads: *retired*, those of which
//! too little is free; *ready*, those of which so much has come home that their
//! holes are worth carving, one list for each class of the longest hole; and
//! *spare*, a few without any live fragment.
//!
//! A page moves on in one of two ways. What dies on the owner's thread counts
//! down in the page's head, which is all that such a free does beside setting
//! its lines: no search, no sweep. What dies elsewhere is found on the owner's
//! *round*: a walk along all lists, page after page, of which each carving pays
//! for a few steps (`refill.rs` tells how many, and what that bounds).
//!
//! Shelves are never freed while their pool lives, only used again, so that
//! statistics may read any of them at any time.

mod list;
mod roster;

use std::ptr::{self, NonNull};

use crate::geometry::{LINE, MAX_PAGE};
use crate::mem::header::PageHead;
use crate::mem::page::{FreePage, NEVER, Page, Role};
use crate::sync::{AtomicBool, AtomicPtr, Ordering, OwnerPtr, OwnerU64};
use list::List;

pub(crate) use roster::Roster;

/// Dead pages that a shelf keeps for its next refill before it gives more
/// back: 256 KiB at the default page size, a burst of 170 full frames.
const SPARES: u64 = 8;

/// A page is worth carving when this part of it is free: an eighth. With a
/// quarter, 2 KiB buffers that live long among packets held 1.23 times what was
/// alive instead of 1.08, and 1.55 instead of 1.28 when freed elsewhere, for a
/// quarter fewer instructions.
const WORTH: usize = 8;

/// Holes are filled when more than this part of what is held is free in the lists: an
/// eighth. Until then a dead page or a new one is carved, which costs a tenth of the
/// search. So packets that leave in the order they came find whole pages, while what lives
/// long pays for its holes as before: 2 KiB buffers among packets hold 1.22 times what is
/// alive instead of 1.09, 64 bytes 2.3 instead of 2.0. With a quarter, 1.5 and 2.2.
const SLACK: u64 = 8;

/// The list of retired pages; each other has the ready pages of one class.
const RETIRED: usize = 0;
const LISTS: usize = 2 + class_of(MAX_PAGE / LINE);
const _: () = assert!(LISTS <= u64::BITS as usize);

/// Which class a hole of so many lines is of: four classes for each power of
/// two, so that a frame of 1500 bytes begins one, and so does one of 2 KiB.
const fn class_of(lines: usize) -> usize {
    let octave = lines.ilog2() as usize;
    if octave < 2 {
        return lines - 1;
    }
    (octave - 2) * 4 + (lines >> (octave - 2)) - 1
}

/// A cache's place and pages. All fields but `taken` and `next` belong to the
/// thread of the cache that took the shelf.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shelf {
    /// Where the search for the next hole of the page being carved goes on, in lines; of a
    /// byte page the next offset to carve, in bytes.
    pub(crate) offset: OwnerU64,
    /// Was the hole being carved opened for a small request?
    pub(crate) small: OwnerU64,
    /// Where small requests go on when a large one came between: the page that
    /// was left for it. Null, or a page of the lists, or the current one.
    nest: OwnerPtr<PageHead>,
    /// Lines carved and not yet paid for by steps of the round.
    pub(crate) debt: OwnerU64,
    /// Steps that a page's worth of lines pays for; the cache's to set.
    pub(crate) pace: OwnerU64,
    lists: [List; LISTS],
    /// A bit per list that has a page.
    filled: OwnerU64,
    /// Units that were free in the pages of the lists when each came there.
    waste: OwnerU64,
    /// The list that the round is in, and the next page of it.
    round_in: OwnerU64,
    round_at: OwnerPtr<PageHead>,
    spare: List,
    pub(crate) counters: Counters,
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

/// Counts what only statistics tell. `make bench-instructions` builds once
/// without, to tell what counting costs (R12).
pub(crate) fn bump(counter: &OwnerU64) {
    if cfg!(not(pagefrag_uncounted)) {
        count(counter);
    }
}

/// Counts what the cache goes by: the pages that came and went.
pub(crate) fn count(counter: &OwnerU64) {
    counter.set(counter.get() + 1);
}

impl Shelf {
    fn new() -> Self {
        let zero = || OwnerU64::new(0);
        Self {
            offset: zero(),
            small: zero(),
            nest: OwnerPtr::null(),
            debt: zero(),
            pace: OwnerU64::new(1),
            lists: std::array::from_fn(|_| List::new()),
            filled: zero(),
            waste: zero(),
            round_in: zero(),
            round_at: OwnerPtr::null(),
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

    /// Stands in for a page where there is none: its hole is always empty.
    pub(crate) fn nowhere(&self) -> NonNull<PageHead> {
        NonNull::from(&self.nowhere)
    }

    /// Puts a page of the calling thread that is in no list away, as a look at
    /// it has found it: `free` units of it are free. Returns a dead page that
    /// there is no use for.
    pub(crate) fn put_away(&self, page: Page, free: usize) -> Option<FreePage> {
        let all = page.units();
        if free == all {
            return self.put_spare(page);
        }
        let part = (all / WORTH).max(1);
        if page.is_bytes() || free < part {
            page.set_role(Role::Retired);
            self.enlist(page, RETIRED, free);
            page.ask_after(countdown(part.saturating_sub(free)));
        } else {
            page.set_role(Role::Ready);
            self.enlist(page, 1 + class_of(page.longest_hole()), free);
            // By then its longest hole may be much longer, or the page dead.
            page.ask_after(countdown((all / 4).min(all - free)));
        }
        None
    }

    fn enlist(&self, page: Page, list: usize, free: usize) {
        page.set_list(list);
        #[allow(clippy::cast_possible_truncation)] // a page has at most 2^20 units
        page.head().listed.set(free as u32);
        self.waste.set(self.waste.get() + free as u64);
        self.lists[list].push(page);
        self.filled.set(self.filled.get() | 1 << list);
    }

    /// Takes a page out of the list that it is in.
    pub(crate) fn take(&self, page: Page) {
        if self.round_at.get() == page.head_ptr() {
            self.round_at.set(page.head().next.get());
        }
        let list = page.list();
        let free = u64::from(page.head().listed.get());
        self.waste.set(self.waste.get() - free);
        self.lists[list].remove(page);
        if self.lists[list].len() == 0 {
            self.filled.set(self.filled.get() & !(1 << list));
        }
    }

    /// Keeps a dead page, or returns it if there are enough.
    fn put_spare(&self, page: Page) -> Option<FreePage> {
        self.unnest(page);
        if self.spare.len() >= SPARES {
            count(&self.counters.pages_given);
            return Some(page.close());
        }
        page.set_role(Role::Spare);
        page.ask_after(NEVER);
        self.spare.push(page);
        None
    }

    /// Takes a page without live fragments.
    pub(crate) fn take_spare(&self) -> Option<Page> {
        let page = self.spare.first()?;
        self.spare.remove(page);
        Some(page)
    }

    /// Takes a page with `need` lines in a row, of those that have them the one
    /// whose longest hole is about the shortest, so that long holes stay whole.
    /// Looks at no more than `looks` pages that may turn out not to have them.
    pub(crate) fn take_ready(&self, need: usize, step: usize, looks: usize) -> Option<Page> {
        let fits = |page: &Page| page.find_hole(0, need, step).is_some();
        let exact = 1 + class_of(need);
        let mut lists = self.filled.get() >> exact << exact;
        while lists != 0 {
            let list = lists.trailing_zeros() as usize;
            lists &= lists - 1;
            if let Some(page) = self.lists[list].iter().take(looks).find(fits) {
                self.take(page);
                return Some(page);
            }
        }
        None
    }

    /// Small requests shall go on in `page`.
    pub(crate) fn set_nest(&self, page: Page) {
        self.nest.set(page.head_ptr());
    }

    /// `page` dies or leaves the shelf, so nothing shall go on in it.
    pub(crate) fn unnest(&self, page: Page) {
        if self.nest.get() == page.head_ptr() {
            self.nest.set(ptr::null_mut());
        }
    }

    /// Takes the page where small requests go on, if it has `need` lines in a
    /// row.
    pub(crate) fn take_nest(&self, need: usize, step: usize) -> Option<Page> {
        // SAFETY: a page that leaves the shelf is no nest any more (`unnest`),
        // so this one is owned and its region mapped.
        let page = NonNull::new(self.nest.get()).map(|head| unsafe { Page::of_head(head) })?;
        if !matches!(page.role(), Role::Retired | Role::Ready) {
            return None;
        }
        if page.find_hole(0, need, step).is_none() {
            self.nest.set(ptr::null_mut());
            return None;
        }
        self.take(page);
        Some(page)
    }

    /// Is so much free in the lists that looking for holes is worth it?
    pub(crate) fn is_wasteful(&self, page_lines: usize) -> bool {
        self.waste.get() * SLACK > self.held_pages() * page_lines as u64
    }

    /// Pages that the cache owns. Four loads.
    pub(crate) fn held_pages(&self) -> u64 {
        let counters = &self.counters;
        let came = counters.pages_taken.get() + counters.adopted.get();
        let went = counters.pages_given.get() + counters.orphaned.get();
        came - went
    }

    /// Is there a ready page that is likely to have `need` lines in a row?
    pub(crate) fn has_ready(&self, need: usize) -> bool {
        self.filled.get() >> (1 + class_of(need)) != 0
    }

    /// The pages of the retired and ready lists.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Page> {
        self.lists.iter().flat_map(List::iter)
    }

    /// A page of the lists, if there is one.
    pub(crate) fn any_waiting(&self) -> Option<Page> {
        self.waiting().next()
    }

    /// The next page of the round through all lists; it stays where it is.
    pub(crate) fn next_on_round(&self) -> Option<Page> {
        let page = match NonNull::new(self.round_at.get()) {
            // SAFETY: `take` moves the round on from a page that leaves its
            // list, so this one is owned and its region mapped.
            Some(head) => unsafe { Page::of_head(head) },
            None => self.next_list_of_round()?,
        };
        self.round_at.set(page.head().next.get());
        Some(page)
    }

    /// The first page of the next list that has one.
    fn next_list_of_round(&self) -> Option<Page> {
        let filled = self.filled.get();
        let behind = filled >> 1 >> self.round_in.get() << 1 << self.round_in.get();
        // From the first list on again when there is none behind.
        let next = if behind == 0 { filled } else { behind };
        let list = (next != 0).then(|| next.trailing_zeros())?;
        self.round_in.set(u64::from(list));
        self.lists[list as usize].first()
    }

    /// The pages in all lists.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Page> {
        self.waiting().chain(self.spare.iter())
    }

    /// Makes an empty shelf as good as new for its next cache, which shall not
    /// pay the debts of the one before.
    fn renew(&self) {
        self.debt.set(0);
        self.pace.set(1);
        self.small.set(0);
        self.round_in.set(0);
        self.counters.reset();
    }

    /// Gives the shelf, which is empty, back to its roster.
    pub(crate) fn vacate(&self) {
        debug_assert!(self.pages().next().is_none());
        // Release, partner `Roster::take`: the fields as this owner left them.
        self.taken.store(false, Ordering::Release);
    }
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
    page.ask_after(NEVER);
    if !matches!(page.role(), Role::Retired | Role::Ready) {
        // Being carved, or with nothing left to wait for.
        return None;
    }
    shelf.take(page);
    let free = page.free_units();
    shelf.put_away(page, free)
}
