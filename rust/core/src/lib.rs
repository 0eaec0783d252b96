//! Packet buffers as page fragments: variable-length pieces carved out of
//! large aligned pages, counted one by one, allocated and freed without a
//! locked instruction on the thread that carves them, and given back without
//! pinning memory.
//!
//! It is the Linux kernel's page-fragment allocator for user space, without
//! its one weakness: there a 64-byte fragment that lives on keeps 32 KiB.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | OS page | the kernel's page (4, 16 or 64 KiB; read at run time). Never just "page" |
//! | page | what a cache carves: a power of two from 4 KiB to 1 MiB, 32 KiB by default |
//! | region | a 2 MiB mapping, 2 MiB-aligned, cut into equal pages |
//! | line | 64 bytes, the granule in which freed space is found again |
//! | fragment | consecutive bytes in one page, counted on its own |
//! | hole | consecutive free lines of a page that still has live fragments |
//! | owner | the one thread whose cache may carve a page |
//! | retire | the owner stops carving a page, and may come back to its holes |
//! | orphan | a page without an owner whose fragments live on |
//! | drain | give back everything a cache holds |
//! | trim | return wholly free regions to the OS |
//! | held, live, pinned | bytes of pages in use, bytes of live fragments, the difference |
//!
//! # The house
//!
//! Calls go down; a duty comes back up as a return value.
//!
//! ```text
//!                    net       skb, napi, netdev, rings
//!                     │
//!                   local      the calling thread's cache, found for it
//!                     │
//!                   cache      a cursor and a limit; refill, drain
//!                  ╱     ╲
//!               pool     frag  what users hold
//!                  ╲     ╱
//!                   depot      regions, free pages, orphans
//!                  ╱     ╲
//!              shelf     region
//!                  ╲     ╱
//!                   page       the plain-writer rule and the two roads
//!                     │
//!                  header      heads and maps of a region
//!                 ╱   │   ╲
//!            lines poison os    bit arithmetic; the doors to a sanitizer and to mmap
//!   ────────────────────────────────────────────────────────
//!    geometry    sync    process    error    stats
//! ```
//!
//! # The way of one fragment
//!
//! 1. [`PageFragCache::alloc`] compares the size with the room in its hole and
//!    moves the cursor. *No locked instruction.*
//! 2. When the hole is used up the cache sweeps its page, looks along its
//!    shelf, adopts an orphan, or takes a page from the depot, which maps a
//!    region if it must. *A few, per page.*
//! 3. The bytes are written through [`FragMut`]; [`FragMut::freeze`] makes it a
//!    [`Frag`] that can be cloned and sliced. *One per clone.*
//! 4. It is moved to wherever it is needed, as sixteen bytes.
//! 5. Dropped on the owner's thread, it is what is carved next if it was
//!    carved last; otherwise its lines are set in the page's map. *None.*
//!    Elsewhere they are posted to the second map. *One.*
//! 6. The owner sweeps, finds the lines, and carves them again. If the owner
//!    is gone each free is counted, and the last gives the page to the depot.
//!    *Two; and for the last a few more, once per page.*
//! 7. [`PagePool::trim`] unmaps regions whose pages are all free.

mod error;
mod geometry;
mod mem;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
pub mod net;
// Only `net` needs it, and a model.
#[cfg(any(test, not(loom)))]
mod process;
mod stats;
mod sync;

pub use error::Error;
pub use geometry::{DEFAULT_PAGE, LINE, MAX_PAGE, MIN_PAGE, REGION};
#[cfg(not(loom))]
pub use mem::process_number;
pub use mem::{
    Frag, FragMut, Granule, HugePages, LocalCache, PageFragCache, PagePool, PoolBuilder, RawFrag,
    RegionWatch, Reservation, WeakLocalCache, drop_many, os_page_size, thread_exit,
};
pub use stats::{AuditError, CacheStats, PoolStats};
