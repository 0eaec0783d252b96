//! The calling thread's cache, found for it.
//!
//! A [`LocalCache`] is one cache per thread behind one handle. Each thread
//! keeps its caches in a table that is drained when the thread ends. The
//! thread that uses a handle first becomes its *home* and finds its cache
//! through the handle itself, without a look at thread-local memory: for a
//! binding that is a shared library that saves a call on every allocation.
//! Other threads remember the handle they used last.
//!
//! When a thread's table is gone (its end is being torn down) an allocation
//! still works: a cache is made for it and drained at once, so the fragment's
//! page is an orphan from the start.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::mem::cache::{Granule, PageFragCache};
use crate::mem::frag::FragMut;
use crate::mem::pool::PagePool;
use crate::stats::CacheStats;
use crate::sync::{AtomicUsize, Ordering, OwnerPtr, thread_local, thread_token};

/// No thread is this handle's home yet.
const HOMELESS: usize = 0;
/// The home thread has lent its cache to a closure.
const LENT: usize = 2;

/// One [`PageFragCache`] per thread: use it from anywhere, also from within
/// itself.
///
/// A handle that is `Send`, `Sync` and cheap to clone. When a thread ends, or
/// the last handle goes, the caches are drained: on the calling thread at
/// once, on any other when that thread next uses a `LocalCache` or ends.
///
/// # Examples
/// ```
/// use pagefrag::{Granule, LocalCache, PagePool};
///
/// let pool = PagePool::new(32 * 1024)?;
/// let cache = LocalCache::new(&pool, Granule::Line);
/// let here = cache.alloc(100)?;
/// let clone = cache.clone();
/// let there = std::thread::spawn(move || clone.alloc(100)).join().unwrap()?;
/// assert_ne!(here.page(), there.page());
/// assert_eq!(pool.stats().pages_orphaned, 1, "the other thread has ended");
/// # Ok::<(), pagefrag::Error>(())
/// ```
#[derive(Clone)]
pub struct LocalCache {
    handle: Arc<Handle>,
}

struct Handle {
    pool: PagePool,
    granule: Granule,
    /// The token of the home thread, `HOMELESS` or `LENT`. Set by whoever
    /// becomes the home; after that only the home writes it.
    home_token: AtomicUsize,
    /// The home's cache, in the home's table. Only the home reads or writes.
    home: OwnerPtr<PageFragCache>,
}

/// A cache in a thread's table.
struct Entry {
    handle: Weak<Handle>,
    cache: NonNull<PageFragCache>,
    /// Lent to a closure.
    lent: bool,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::default());
}

/// The handle that this thread used last, and its cache: a look that saves the
/// table when the thread is not the handle's home. Never names a lent cache.
#[derive(Clone, Copy)]
struct Memo {
    handle: *const Handle,
    cache: *mut PageFragCache,
}

impl Memo {
    const NONE: Memo = Memo {
        handle: std::ptr::null(),
        cache: std::ptr::null_mut(),
    };
}

#[cfg(not(loom))]
thread_local!(static MEMO: Cell<Memo> = const { Cell::new(Memo::NONE) });
#[cfg(loom)]
thread_local!(static MEMO: Cell<Memo> = Cell::new(Memo::NONE));

impl LocalCache {
    /// A handle on one cache per thread. Makes none yet.
    pub fn new(pool: &PagePool, granule: Granule) -> Self {
        Self {
            handle: Arc::new(Handle {
                pool: pool.clone(),
                granule,
                home_token: AtomicUsize::new(HOMELESS),
                home: OwnerPtr::null(),
            }),
        }
    }

    /// The pool that pages come from.
    pub fn pool(&self) -> &PagePool {
        &self.handle.pool
    }

    /// How finely pages are packed.
    pub fn granule(&self) -> Granule {
        self.handle.granule
    }

    /// The calling thread's cache, if it can be told without the table.
    #[inline]
    fn at_hand(&self) -> Option<NonNull<PageFragCache>> {
        // Relaxed: only this thread can have written its own token.
        if self.handle.home_token.load(Ordering::Relaxed) == thread_token() {
            return NonNull::new(self.handle.home.get());
        }
        let memo = MEMO.try_with(Cell::get).ok()?;
        let mine = memo.handle == Arc::as_ptr(&self.handle);
        NonNull::new(memo.cache).filter(|_| mine)
    }

    /// Runs `ask`, which runs no foreign code, on the calling thread's cache;
    /// once more if this thread's caches had idle pages to give up.
    #[inline]
    fn ask<T>(&self, ask: impl Fn(&mut PageFragCache) -> Result<T, Error>) -> Result<T, Error> {
        let result = match self.at_hand() {
            // SAFETY: this thread's own cache, not lent (it would not be at
            // hand), and `ask` runs nothing that could use it again.
            Some(mut cache) => ask(unsafe { cache.as_mut() }),
            None => self.with(&ask),
        };
        let short = matches!(result, Err(Error::Exhausted | Error::OutOfMemory));
        if short && give_up_idle(&self.handle.pool) != 0 {
            return self.with(ask);
        }
        result
    }

    /// [`PageFragCache::alloc`] on the calling thread's cache.
    ///
    /// # Errors
    /// As there. Before [`Error::Exhausted`] or [`Error::OutOfMemory`] comes
    /// back, all caches of this thread have given up their idle pages.
    #[inline]
    pub fn alloc(&self, size: usize) -> Result<FragMut, Error> {
        self.ask(|cache| cache.alloc(size))
    }

    /// [`alloc`](Self::alloc) where that takes a compare and an add: on the
    /// thread whose cache is at hand, while its hole has room. `None` says to
    /// go the long way, and no more than that.
    #[inline]
    pub fn alloc_here(&self, size: usize) -> Option<FragMut> {
        // Relaxed: only this thread can have written its own token.
        if self.handle.home_token.load(Ordering::Relaxed) != thread_token() {
            return None;
        }
        let mut cache = NonNull::new(self.handle.home.get())?;
        // SAFETY: as in `ask`.
        unsafe { cache.as_mut() }.alloc_here(size)
    }

    /// [`PageFragCache::alloc_align`] on the calling thread's cache.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn alloc_align(&self, size: usize, align: usize) -> Result<FragMut, Error> {
        self.ask(|cache| cache.alloc_align(size, align))
    }

    /// [`PageFragCache::take_room`] on the calling thread's cache.
    ///
    /// # Errors
    /// As there.
    pub fn take_room(&self, min: usize) -> Result<FragMut, Error> {
        self.ask(|cache| cache.take_room(min))
    }

    /// [`PageFragCache::settle`], also for room that another thread took.
    ///
    /// # Errors
    /// As there.
    pub fn settle(&self, room: FragMut, used: usize) -> Result<FragMut, Error> {
        match self.at_hand() {
            // SAFETY: as in `ask`.
            Some(mut cache) => unsafe { cache.as_mut() }.settle(room, used),
            None => self.with(|cache| cache.settle(room, used)),
        }
    }

    /// A handle that keeps neither cache nor pool.
    pub fn downgrade(&self) -> WeakLocalCache {
        WeakLocalCache {
            handle: Arc::downgrade(&self.handle),
        }
    }

    /// Runs `f` with the calling thread's cache. Within `f` this handle may be
    /// used again: it then finds another cache, which is drained afterwards.
    pub fn with<R>(&self, f: impl FnOnce(&mut PageFragCache) -> R) -> R {
        match Loan::take(&self.handle) {
            // SAFETY: the loan keeps everybody else away from the cache, which
            // is the calling thread's.
            Some(mut loan) => f(unsafe { loan.cache.as_mut() }),
            None => f(&mut self.handle.new_cache()),
        }
    }

    /// Drains the calling thread's cache. The caches of other threads are
    /// theirs; they drain them when they end.
    pub fn drain(&self) {
        self.with(PageFragCache::drain);
    }

    /// Bytes of the pages that the calling thread's cache owns.
    pub fn held_bytes(&self) -> u64 {
        self.with(|cache| cache.held_bytes())
    }

    /// The calling thread's cache at this moment.
    pub fn stats(&self) -> CacheStats {
        self.with(|cache| cache.stats())
    }
}

/// A [`LocalCache`] that may be gone: see [`LocalCache::downgrade`].
#[derive(Clone, Debug)]
pub struct WeakLocalCache {
    handle: Weak<Handle>,
}

impl WeakLocalCache {
    /// The cache, if a handle of it is left.
    pub fn upgrade(&self) -> Option<LocalCache> {
        let handle = self.handle.upgrade()?;
        Some(LocalCache { handle })
    }
}

impl fmt::Debug for LocalCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache")
            .field("pool", &self.handle.pool)
            .field("granule", &self.handle.granule)
            .finish_non_exhaustive()
    }
}

impl Handle {
    fn new_cache(&self) -> PageFragCache {
        PageFragCache::with_granule(&self.pool, self.granule)
    }

    /// Makes the calling thread, whose cache this is, the home if there is
    /// none, or if it was and a fork has changed its token.
    fn settle_down(&self, cache: NonNull<PageFragCache>) {
        // Acquire, partner `Entry::drop`: the last home has written `home` for
        // the last time.
        let won =
            self.home_token
                .compare_exchange(HOMELESS, LENT, Ordering::Acquire, Ordering::Relaxed);
        if won.is_ok() {
            self.home.set(cache.as_ptr());
        } else if self.home.peek() != cache.as_ptr() {
            return;
        }
        // Relaxed: only ever compared with the reader's own token.
        self.home_token.store(thread_token(), Ordering::Relaxed);
    }

    fn is_home(&self) -> bool {
        // Relaxed: only this thread can have written its own token.
        self.home_token.load(Ordering::Relaxed) == thread_token()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The last handle is gone: this thread's cache is drained now, those
        // of others when they come by. A table that is being torn down, or is
        // in use further up this stack, does it itself.
        let orphans = TABLE.try_with(|table| {
            table
                .try_borrow_mut()
                .map(|mut table| table.take_closed())
                .unwrap_or_default()
        });
        drop(orphans);
    }
}

/// The calling thread's cache, taken for a while.
struct Loan<'a> {
    handle: &'a Arc<Handle>,
    cache: NonNull<PageFragCache>,
}

impl<'a> Loan<'a> {
    /// `None` while it is lent already, or after the table is gone.
    fn take(handle: &'a Arc<Handle>) -> Option<Self> {
        let (taken, closed) = TABLE
            .try_with(|table| {
                let mut table = table.try_borrow_mut().ok()?;
                let closed = table.take_closed();
                Some((table.lend(handle), closed))
            })
            .ok()
            .flatten()?;
        // Drained outside of the borrow.
        drop(closed);
        let cache = taken?;
        if handle.is_home() {
            // Relaxed: only for this thread's own eyes.
            handle.home_token.store(LENT, Ordering::Relaxed);
        }
        // If the thread is ending there is no memo any more.
        let _ = MEMO.try_with(|last| last.set(Memo::NONE));
        Some(Self { handle, cache })
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let back = TABLE.try_with(|table| {
            let mut table = table.borrow_mut();
            let entry = table.entries.iter_mut().find(|e| e.cache == self.cache);
            entry.is_some_and(|entry| {
                entry.lent = false;
                true
            })
        });
        if matches!(back, Ok(true)) {
            self.handle.settle_down(self.cache);
            let memo = Memo {
                handle: Arc::as_ptr(self.handle),
                cache: self.cache.as_ptr(),
            };
            // If the thread is ending there is no memo, and no need of one.
            let _ = MEMO.try_with(|last| last.set(memo));
        }
    }
}

impl Table {
    /// The cache for `handle`, marked as lent; made if there is none yet.
    fn lend(&mut self, handle: &Arc<Handle>) -> Option<NonNull<PageFragCache>> {
        let known = Arc::as_ptr(handle);
        if let Some(entry) = self.entries.iter_mut().find(|e| e.handle.as_ptr() == known) {
            if entry.lent {
                return None;
            }
            entry.lent = true;
            return Some(entry.cache);
        }
        let cache = NonNull::from(Box::leak(Box::new(handle.new_cache())));
        self.entries.push(Entry {
            handle: Arc::downgrade(handle),
            cache,
            lent: true,
        });
        Some(cache)
    }

    /// Entries whose handle is gone.
    fn take_closed(&mut self) -> Vec<Entry> {
        self.entries
            .extract_if(.., |e| !e.lent && e.handle.strong_count() == 0)
            .collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // If the thread is ending there is no memo any more.
        let _ = MEMO.try_with(|last| last.set(Memo::NONE));
        if let Some(handle) = self.handle.upgrade()
            && handle.is_home()
        {
            handle.home.set(std::ptr::null_mut());
            // Release, partner `settle_down`: this was our last word on `home`.
            handle.home_token.store(HOMELESS, Ordering::Release);
        }
        // SAFETY: leaked in `lend`; this entry is the only one to own it, and
        // it is not lent.
        drop(unsafe { Box::from_raw(self.cache.as_ptr()) });
    }
}

/// Drains all local caches of the calling thread, as its end would. For
/// bindings whose language has an end of threads of its own, before the OS's.
pub fn thread_exit() {
    let entries = TABLE.try_with(|table| {
        let mut table = table.borrow_mut();
        table
            .entries
            .extract_if(.., |entry| !entry.lent)
            .collect::<Vec<_>>()
    });
    drop(entries);
}

/// Lets the calling thread's local caches of `pool` give up idle pages.
/// Returns how many.
fn give_up_idle(pool: &PagePool) -> usize {
    let caches: Vec<_> = TABLE
        .try_with(|table| {
            let table = table.borrow();
            // SAFETY: not lent, so nobody else has it; entries own theirs.
            let ours = |e: &&Entry| !e.lent && unsafe { e.cache.as_ref() }.pool().same_as(pool);
            table.entries.iter().filter(ours).map(|e| e.cache).collect()
        })
        .unwrap_or_default();
    // SAFETY: as above; `trim` runs no foreign code.
    caches
        .into_iter()
        .map(|mut cache| unsafe { cache.as_mut() }.trim())
        .sum()
}

impl PagePool {
    /// Returns wholly free regions to the OS; first, the calling thread's
    /// local caches give up pages without live fragments. Returns how many
    /// regions were unmapped.
    ///
    /// A region that another thread's [`stats`](PagePool::stats) is reading at
    /// this moment stays mapped.
    ///
    /// Here and not with the pool, which knows no caches.
    pub fn trim(&self) -> usize {
        give_up_idle(self);
        self.depot().trim()
    }
}
