//! Where the calling thread carves: the page that one of its caches was at last.
//!
//! The way back (told in `page.rs`) needs the head of the page that a fragment is in, and
//! the proof that the page is the calling thread's. From the fragment's address both take
//! the region's header, a shift and the owner's token. A page that one of this thread's
//! caches is carving takes one load, and is theirs.

use std::cell::Cell;
use std::ptr::{self, NonNull};

use crate::mem::header::PageHead;
use crate::mem::page::{self, Page, Role};
use crate::sync::thread_local;

// 1. Null, or the page of one of this thread's places: only such pages arrive, and one
//    that its cache stops carving is taken off (`leave`) before anything else happens to
//    it. So it is owned, and its head is mapped. (A cache that was leaked by a thread
//    with the same token, long ended, stops never: its page stays as it is for ever.)
#[cfg(not(loom))]
thread_local!(static HERE: Cell<*const PageHead> = const { Cell::new(ptr::null()) });
#[cfg(loom)]
thread_local!(static HERE: Cell<*const PageHead> = Cell::new(ptr::null()));

/// The page that one cache carves.
#[derive(Debug)]
pub(crate) struct Place {
    head: Cell<NonNull<PageHead>>,
    /// Stands in for a page where there is none: its hole is always empty.
    nowhere: NonNull<PageHead>,
}

impl Place {
    /// No page.
    ///
    /// # Safety
    /// `nowhere` lives as long as the result, and is carved by nobody.
    pub(crate) unsafe fn new(nowhere: NonNull<PageHead>) -> Self {
        Self {
            head: Cell::new(nowhere),
            nowhere,
        }
    }

    /// The page, if there is one.
    pub(crate) fn page(&self) -> Option<Page> {
        let head = Some(self.head.get()).filter(|head| *head != self.nowhere)?;
        // SAFETY: the cache owns the page (`go_to`), so its region is mapped.
        Some(unsafe { Page::of_head(head) })
    }

    /// The head of the page, or of no page: where the cursor and the limit are.
    #[inline]
    pub(crate) fn hole(&self) -> &PageHead {
        // SAFETY: the cache owns the page until it lets go of it, and then is elsewhere;
        // `nowhere` outlives this value.
        unsafe { self.head.get().as_ref() }
    }

    /// From now on `page` is being carved, which the cache owns.
    pub(crate) fn go_to(&self, page: Page) {
        self.leave();
        self.head.set(NonNull::from(page.head()));
        arrive(page);
    }

    /// From now on no page is.
    pub(crate) fn go_nowhere(&self) {
        self.leave();
        self.head.set(self.nowhere);
    }

    fn leave(&self) {
        let _ = HERE.try_with(|here| {
            if ptr::eq(here.get(), self.head.get().as_ptr()) {
                here.set(ptr::null());
            }
        });
    }
}

/// One of this thread's caches carves `page` now.
fn arrive(page: Page) {
    // Without thread-local memory, at the end of a thread, fragments go the longer way.
    let _ = HERE.try_with(|here| here.set(page.head_ptr()));
}

/// What was carved last in `page` has come back to it: of this thread's caches the one
/// that carves it is at work.
pub(crate) fn come_back(page: Page) {
    debug_assert!(page.is_mine() && page.role() == Role::Current);
    arrive(page);
}

/// Frees the lines of `bytes` bytes from `start` on the way back, if they are the piece
/// carved last in this thread's page. False otherwise; then nothing has been said.
#[inline]
pub(crate) fn retreat(start: NonNull<u8>, bytes: usize) -> bool {
    let Ok(head) = HERE.try_with(Cell::get) else {
        return false;
    };
    // SAFETY: invariant 1; `leave` runs on this thread, so not meanwhile.
    unsafe { head.as_ref() }.is_some_and(|head| page::retreat(head, start, bytes))
}
