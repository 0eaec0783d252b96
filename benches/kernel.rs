//! The rival that gave the idea: the Linux kernel's scheme, written plainly.
//!
//! A page of 32 KiB has one count. The cache takes the whole count at once and
//! hands it out one by one (its *bias*), so allocating is a compare and two
//! additions. A free is one locked subtraction. A page is used again only when
//! its last fragment is gone: one small fragment that lives keeps all of it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::workload::PAGE;

/// The count of a page that a cache holds, as in the kernel.
const BIAS: usize = PAGE + 1;

/// The kernel rounds sizes of network buffers to a cache line.
const ROUND: usize = 64;

struct Page {
    count: AtomicUsize,
    memory: NonNull<u8>,
    home: Arc<Store>,
}

/// Where pages wait for their next use. The kernel has lists per processor
/// here; a lock once per page is not what its scheme costs.
struct Store {
    idle: Mutex<Vec<Idle>>,
    obtained: AtomicUsize,
}

struct Idle(NonNull<Page>);

// SAFETY: a page in the store belongs to nobody but the store.
unsafe impl Send for Idle {}

impl Store {
    fn take(self: &Arc<Self>) -> NonNull<Page> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.map_or_else(|| self.obtain(), |idle| idle.0)
    }

    fn put(&self, page: NonNull<Page>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Idle(page));
    }

    #[cold]
    fn obtain(self: &Arc<Self>) -> NonNull<Page> {
        // SAFETY: the layout of a page is not empty.
        let memory = unsafe { alloc(page_layout()) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(page_layout())
        };
        self.obtained.fetch_add(1, Ordering::Relaxed);
        let page = Page {
            count: AtomicUsize::new(0),
            memory,
            home: Arc::clone(self),
        };
        NonNull::from(Box::leak(Box::new(page)))
    }

    /// Pages that are neither idle nor unborn.
    fn in_use(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.obtained.load(Ordering::Relaxed) - idle.len()
    }
}

fn page_layout() -> Layout {
    Layout::from_size_align(PAGE, PAGE).expect("a power of two")
}

/// The kernel's `page_frag_cache`.
pub struct KernelCache {
    store: Arc<Store>,
    page: NonNull<Page>,
    memory: NonNull<u8>,
    offset: usize,
    bias: usize,
}

impl fmt::Debug for KernelCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelCache")
            .field("offset", &self.offset)
            .field("bias", &self.bias)
            .finish_non_exhaustive()
    }
}

impl Default for KernelCache {
    fn default() -> Self {
        Self::new()
    }
}

impl KernelCache {
    /// A cache with a page of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Arc::new(Store {
            idle: Mutex::new(Vec::new()),
            obtained: AtomicUsize::new(0),
        }))
    }

    /// Another cache with the same store.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self::of(Arc::clone(&self.store))
    }

    fn of(store: Arc<Store>) -> Self {
        let page = store.take();
        let mut cache = Self {
            store,
            page,
            memory: NonNull::dangling(),
            offset: 0,
            bias: 0,
        };
        cache.begin(page);
        cache
    }

    /// A fragment of `size` bytes, which is at most a page.
    #[inline]
    pub fn alloc(&mut self, size: usize) -> KernelFrag {
        let end = self.offset + size.next_multiple_of(ROUND);
        if end > PAGE {
            return self.refill(size);
        }
        // SAFETY: `offset` is below the end of the page.
        let bytes = unsafe { self.memory.add(self.offset) };
        self.offset = end;
        self.bias -= 1;
        KernelFrag {
            bytes,
            page: self.page,
        }
    }

    #[cold]
    fn refill(&mut self, size: usize) -> KernelFrag {
        assert!(size <= PAGE, "larger than a page");
        // SAFETY: the cache holds `bias` of its count, so the page is there.
        let count = unsafe { &self.page.as_ref().count };
        // AcqRel: as a free that may be the last one.
        let dead = count.fetch_sub(self.bias, Ordering::AcqRel) == self.bias;
        let page = if dead { self.page } else { self.store.take() };
        self.begin(page);
        self.alloc(size)
    }

    fn begin(&mut self, page: NonNull<Page>) {
        // SAFETY: a page that is idle or wholly dead belongs to the caller.
        let body = unsafe { page.as_ref() };
        body.count.store(BIAS, Ordering::Relaxed);
        self.memory = body.memory;
        self.page = page;
        self.offset = 0;
        self.bias = BIAS;
    }

    /// Bytes of the pages that cannot be used for anything else now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.store.in_use() * PAGE
    }
}

impl Drop for KernelCache {
    fn drop(&mut self) {
        release(self.page, self.bias);
        let idle = std::mem::take(
            &mut *self
                .store
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for page in idle {
            // SAFETY: came from `Box::leak`, and nobody else has it.
            let body = unsafe { Box::from_raw(page.0.as_ptr()) };
            // SAFETY: allocated with this layout; its last fragment is gone.
            unsafe { dealloc(body.memory.as_ptr(), page_layout()) };
        }
    }
}

/// Gives `references` of the count of `page` back.
#[inline]
fn release(page: NonNull<Page>, references: usize) {
    // SAFETY: the caller holds these references, so the page is there.
    let body = unsafe { page.as_ref() };
    if body.count.fetch_sub(references, Ordering::Release) == references {
        fence(Ordering::Acquire);
        body.home.put(page);
    }
}

/// Gives all of `frags` back, neighbours of one page in one subtraction: the
/// kernel's `__page_frag_cache_drain`.
pub fn drain(frags: &mut Vec<KernelFrag>) {
    let mut frags = frags.drain(..).map(ManuallyDrop::new).peekable();
    while let Some(first) = frags.next() {
        let mut references = 1;
        while frags.next_if(|next| next.page == first.page).is_some() {
            references += 1;
        }
        release(first.page, references);
    }
}

/// A fragment in the kernel's scheme.
pub struct KernelFrag {
    bytes: NonNull<u8>,
    page: NonNull<Page>,
}

impl fmt::Debug for KernelFrag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KernelFrag").field(&self.bytes).finish()
    }
}

// SAFETY: the bytes are reached through this handle only, and the page's count
// is atomic.
unsafe impl Send for KernelFrag {}

impl KernelFrag {
    /// Where its bytes begin.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> NonNull<u8> {
        self.bytes
    }

    /// Writes the first byte.
    #[inline]
    pub fn touch(&mut self) {
        // SAFETY: a fragment has at least one byte, and this handle alone
        // reaches it.
        unsafe { self.bytes.write(1) };
    }
}

impl Clone for KernelFrag {
    /// One more reference of the page, as `get_page` does.
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: this fragment holds a reference, so the page is there.
        let body = unsafe { self.page.as_ref() };
        // Relaxed: who clones holds one already.
        body.count.fetch_add(1, Ordering::Relaxed);
        Self {
            bytes: self.bytes,
            page: self.page,
        }
    }
}

impl Drop for KernelFrag {
    #[inline]
    fn drop(&mut self) {
        release(self.page, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::KernelCache;
    use crate::workload::PAGE;

    #[test]
    fn a_dead_page_is_used_again() {
        let mut cache = KernelCache::new();
        for _ in 0..1000 {
            drop(cache.alloc(1500));
        }
        assert_eq!(cache.held_bytes(), PAGE);
    }

    #[test]
    fn one_small_fragment_keeps_its_page() {
        let mut cache = KernelCache::new();
        let kept: Vec<_> = (0..10)
            .map(|_| {
                let small = cache.alloc(64);
                (0..21).for_each(|_| drop(cache.alloc(1500)));
                small
            })
            .collect();
        assert!(cache.held_bytes() >= 10 * PAGE);
        drop(kept);
        assert_eq!(cache.held_bytes(), PAGE);
    }
}
