//! The context that may be used from anywhere: any thread, any finalizer, any moment.
//!
//! In the kernel `netdev_alloc_frag` and `netdev_alloc_skb` find the cache of
//! the CPU they run on; here they find the cache of the calling thread. What a
//! poll does on its own thread is faster through [`napi`](crate::net::NapiCache).

use std::sync::OnceLock;

use crate::error::Error;
use crate::geometry::LINE;
use crate::mem::{FragMut, Granule, LocalCache, PagePool};
use crate::net::headroom::{NET_SKB_PAD, head_bytes};
use crate::net::skb::SkBuff;
use crate::stats::CacheStats;

/// Fragments and skbs for any thread, each from a cache of its own
/// (`netdev_alloc_cache`).
///
/// A handle: cloning is cheap, all clones are the same. A thread's cache gives
/// its pages up when the thread ends.
///
/// # Examples
/// ```
/// use pagefrag::PagePool;
/// use pagefrag::net::NetdevCache;
///
/// let netdev = NetdevCache::new(&PagePool::new(32 * 1024)?);
/// let skb = netdev.alloc_skb(1500)?;
/// assert_eq!(skb.truesize(), 2176);
/// # Ok::<(), pagefrag::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NetdevCache {
    local: LocalCache,
}

impl NetdevCache {
    /// The netdev context over `pool`. No memory is taken yet.
    pub fn new(pool: &PagePool) -> Self {
        Self {
            local: LocalCache::new(pool, Granule::Line),
        }
    }

    /// A fragment of `size` bytes whose offset is a multiple of `align`
    /// (`netdev_alloc_frag_align`). It takes whole cache lines, so 1500 bytes
    /// cost 1536. No atomic instruction.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::SizeAbovePage`], [`Error::BadAlignment`]
    /// for what can never be; [`Error::Exhausted`], [`Error::OutOfMemory`] for
    /// what cannot be now.
    pub fn alloc_frag(&self, size: usize, align: usize) -> Result<FragMut, Error> {
        alloc_frag(&self.local, size, align)
    }

    /// An skb with room for `len` bytes of data behind `NET_SKB_PAD` bytes of
    /// headroom (`netdev_alloc_skb`). One fragment and one heap call.
    ///
    /// # Errors
    /// As [`alloc_frag`](Self::alloc_frag); the head is
    /// `skb_head_align(NET_SKB_PAD + len)` bytes and must fit a page.
    pub fn alloc_skb(&self, len: usize) -> Result<SkBuff, Error> {
        let head = self.local.alloc(head_bytes(NET_SKB_PAD, len)?)?;
        SkBuff::with_headroom(head, NET_SKB_PAD, Box::default)
    }

    /// Gives up the pages of the calling thread's cache; fragments live on.
    pub fn drain(&self) {
        self.local.drain();
    }

    /// What the calling thread's cache has counted.
    pub fn stats(&self) -> CacheStats {
        self.local.stats()
    }

    /// The pool the pages come from.
    pub fn pool(&self) -> &PagePool {
        self.local.pool()
    }
}

/// A fragment from the calling thread's cache, which packs by lines: up to a
/// line every fragment is aligned already, and the short way is open.
#[inline]
pub(super) fn alloc_frag(local: &LocalCache, size: usize, align: usize) -> Result<FragMut, Error> {
    if align.is_power_of_two() && align <= LINE {
        local.alloc(size)
    } else {
        local.alloc_align(size, align)
    }
}

/// The netdev context over [`PagePool::global`].
fn global() -> &'static NetdevCache {
    static GLOBAL: OnceLock<NetdevCache> = OnceLock::new();
    GLOBAL.get_or_init(|| NetdevCache::new(PagePool::global()))
}

/// [`NetdevCache::alloc_frag`] from the global pool.
///
/// # Errors
/// As there.
///
/// # Examples
/// ```
/// let fragment = pagefrag::net::netdev_alloc_frag(1500, 64)?;
/// assert_eq!(fragment.offset() % 64, 0);
/// # Ok::<(), pagefrag::Error>(())
/// ```
pub fn netdev_alloc_frag(size: usize, align: usize) -> Result<FragMut, Error> {
    global().alloc_frag(size, align)
}

/// [`NetdevCache::alloc_skb`] from the global pool.
///
/// # Errors
/// As there.
///
/// # Examples
/// ```
/// let skb = pagefrag::net::netdev_alloc_skb(1500)?;
/// assert_eq!((skb.headroom(), skb.tailroom()), (64, 1536));
/// # Ok::<(), pagefrag::Error>(())
/// ```
pub fn netdev_alloc_skb(len: usize) -> Result<SkBuff, Error> {
    global().alloc_skb(len)
}
