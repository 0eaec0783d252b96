//! A list that runs through page heads: no memory of its own.

use std::ptr::{self, NonNull};

use crate::mem::header::PageHead;
use crate::mem::page::Page;
use crate::sync::{OwnerPtr, OwnerU64};

/// Pages in a row. Only the shelf's owner touches it.
#[derive(Debug)]
pub(super) struct List {
    first: OwnerPtr<PageHead>,
    len: OwnerU64,
}

impl List {
    pub(super) fn new() -> Self {
        Self {
            first: OwnerPtr::null(),
            len: OwnerU64::new(0),
        }
    }

    /// Pages in the list.
    pub(super) fn len(&self) -> u64 {
        self.len.get()
    }

    /// The page that was put in last.
    pub(super) fn first(&self) -> Option<Page> {
        // SAFETY: pages in the list are owned, so their regions are mapped.
        NonNull::new(self.first.get()).map(|head| unsafe { Page::of_head(head) })
    }

    /// Puts a page that is in no list in front.
    pub(super) fn push(&self, page: Page) {
        let next = self.first.get();
        page.head().prev.set(ptr::null_mut());
        page.head().next.set(next);
        if let Some(next) = NonNull::new(next) {
            // SAFETY: pages in the list are owned, so their heads are mapped.
            unsafe { next.as_ref() }.prev.set(page.head_ptr());
        }
        self.first.set(page.head_ptr());
        self.len.set(self.len.get() + 1);
    }

    /// Takes a page out of the list that it is in.
    pub(super) fn remove(&self, page: Page) {
        let (prev, next) = (page.head().prev.get(), page.head().next.get());
        match NonNull::new(prev) {
            // SAFETY: as in `push`.
            Some(prev) => unsafe { prev.as_ref() }.next.set(next),
            None => self.first.set(next),
        }
        if let Some(next) = NonNull::new(next) {
            // SAFETY: as in `push`.
            unsafe { next.as_ref() }.prev.set(prev);
        }
        self.len.set(self.len.get() - 1);
    }

    /// The pages, the one put in last first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Page> {
        std::iter::successors(self.first(), |page| {
            // SAFETY: as in `first`.
            NonNull::new(page.head().next.get()).map(|head| unsafe { Page::of_head(head) })
        })
    }
}
