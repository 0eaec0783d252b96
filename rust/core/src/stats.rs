//! Counters that others bump, and the snapshots that users read.
//!
//! Nothing here knows whom it counts. Nothing here is bumped on the way of a
//! single fragment: pages and regions are counted, and what is alive is read
//! off the maps when somebody asks.

use std::fmt;

use crate::sync::{AtomicU64, Ordering};

/// An event count that any thread may bump.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One locked add; only on page and region events.
    pub(crate) fn add(&self, n: u64) {
        // Relaxed: a count only; it orders nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: a snapshot.
        self.0.load(Ordering::Relaxed)
    }
}

/// A pool at one moment: exact when no other thread is using it. While others do, what they
/// leave alone is as it is, and each page counts once at most: one on its way from one to another
/// may be left out, and so may a region that is just being trimmed. Of the former its fragments may
/// still count, so for that moment `live_bytes` may pass `held_bytes`; `pinned_bytes` is 0 then.
///
/// `pages_obtained = pages_current + pages_retired + pages_orphaned +
/// pages_free + pages_returned` (promise 9), which
/// [`PagePool::audit`](crate::PagePool::audit) checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Bytes of a page.
    pub page_size: u64,
    /// Bytes of pages in use: owned by a cache, or orphaned.
    pub held_bytes: u64,
    /// Bytes of live fragments, in whole lines. At granule 1 in bytes, and a
    /// shared fragment counts once for each handle, up to its page: the count
    /// is the page's, as in the kernel.
    pub live_bytes: u64,
    /// `held_bytes - live_bytes`.
    pub pinned_bytes: u64,
    /// Pages ever mapped.
    pub pages_obtained: u64,
    /// Pages in use: `pages_current + pages_retired + pages_orphaned`.
    pub pages_in_use: u64,
    /// Pages that caches are carving.
    pub pages_current: u64,
    /// Pages that caches own and do not carve now.
    pub pages_retired: u64,
    /// Pages without an owner whose fragments live on.
    pub pages_orphaned: u64,
    /// Pages mapped and not in use.
    pub pages_free: u64,
    /// Pages ever unmapped.
    pub pages_returned: u64,
    /// Regions of 2 MiB mapped now.
    pub regions_mapped: u64,
    /// Most regions that were mapped at once.
    pub regions_peak: u64,
    /// Bytes backed by huge pages now, as the OS tells.
    pub huge_bytes: u64,
    /// Regions for which the OS took no advice to use huge pages.
    pub huge_failed: u64,
    /// Times an allocation was refused because of `max_bytes`.
    pub exhausted: u64,
    /// Times an allocation was refused because the OS gave no memory.
    pub out_of_memory: u64,
}

/// A cache at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Pages the cache owns.
    pub pages: u64,
    /// Bytes of those pages.
    pub held_bytes: u64,
    /// Bytes of live fragments in those pages, in whole lines.
    pub live_bytes: u64,
    /// `held_bytes - live_bytes`.
    pub pinned_bytes: u64,
    /// Times the cache ran out of room in its hole.
    pub refills: u64,
    /// Refills that carved on in a page the cache already had.
    pub reuses: u64,
    /// Pages taken from the pool.
    pub pages_taken: u64,
    /// Orphans adopted.
    pub adopted: u64,
    /// Pages given back to the pool.
    pub pages_given: u64,
    /// Pages let go with live fragments in them.
    pub orphaned: u64,
    /// Allocations refused for lack of memory.
    pub alloc_fail: u64,
}

impl std::ops::AddAssign for CacheStats {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.held_bytes += other.held_bytes;
        self.live_bytes += other.live_bytes;
        self.pinned_bytes += other.pinned_bytes;
        self.refills += other.refills;
        self.reuses += other.reuses;
        self.pages_taken += other.pages_taken;
        self.adopted += other.adopted;
        self.pages_given += other.pages_given;
        self.orphaned += other.orphaned;
        self.alloc_fail += other.alloc_fail;
    }
}

/// What an audit found wrong: a sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditError {
    findings: Vec<String>,
}

impl AuditError {
    pub(crate) fn check(findings: Vec<String>) -> Result<(), Self> {
        if findings.is_empty() {
            Ok(())
        } else {
            Err(Self { findings })
        }
    }

    /// The sentences.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the pool's books do not balance: {}",
            self.findings.join("; ")
        )
    }
}

impl std::error::Error for AuditError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{AuditError, CacheStats};

    #[test]
    fn an_audit_that_finds_nothing_is_no_error() {
        assert_eq!(AuditError::check(Vec::new()), Ok(()));
    }

    #[test]
    fn an_audit_tells_all_that_it_found() {
        let findings = vec!["one page is lost".to_owned(), "and one more".to_owned()];
        let error = AuditError::check(findings.clone()).unwrap_err();
        assert_eq!(error.findings(), findings);
        assert_eq!(
            error.to_string(),
            "the pool's books do not balance: one page is lost; and one more"
        );
    }

    #[test]
    fn what_caches_count_adds_up_one_by_one() {
        let one = CacheStats {
            pages: 1,
            held_bytes: 2,
            live_bytes: 3,
            pinned_bytes: 4,
            refills: 5,
            reuses: 6,
            pages_taken: 7,
            adopted: 8,
            pages_given: 9,
            orphaned: 10,
            alloc_fail: 11,
        };
        let mut sum = one;
        sum += one;
        let twice = CacheStats {
            pages: 2,
            held_bytes: 4,
            live_bytes: 6,
            pinned_bytes: 8,
            refills: 10,
            reuses: 12,
            pages_taken: 14,
            adopted: 16,
            pages_given: 18,
            orphaned: 20,
            alloc_fail: 22,
        };
        assert_eq!(sum, twice);
    }
}
