//! The pool as users hold it: what pages are like, how many there may be, and
//! what has become of them.

use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::geometry::{DEFAULT_PAGE, LINE_SHIFT, REGION, is_page_size};
use crate::mem::depot::{Depot, Init};
use crate::mem::os;
use crate::mem::page::{NOBODY, ORPHAN, Role};
use crate::mem::raw::RawFrag;
use crate::mem::region::RegionWatch;
use crate::stats::{AuditError, PoolStats};
use crate::sync::{Ordering, forked};

/// Whether regions ask the OS for huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Ask, and go on without when there are none; `huge_failed` counts.
    #[default]
    Auto,
    /// Do not ask.
    Never,
}

/// Where pages come from: 2 MiB regions cut into pages of one size.
///
/// A handle: clones are the same pool. The pool lives until its last handle,
/// its last cache and its last fragment are gone, in whatever order.
///
/// # Examples
/// ```
/// use pagefrag::{PageFragCache, PagePool};
///
/// let pool = PagePool::builder().max_bytes(64 << 20).build()?;
/// let frag = PageFragCache::new(&pool).alloc(1500)?;
/// assert_eq!(pool.stats().live_bytes, 1536, "whole lines");
/// drop(frag);
/// assert_eq!(pool.trim(), 1);
/// assert_eq!(pool.stats().regions_mapped, 0);
/// # Ok::<(), pagefrag::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PagePool {
    depot: Arc<Depot>,
    init: Init,
}

/// Says what a pool shall be like; see [`PagePool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder builds nothing until `build`"]
pub struct PoolBuilder {
    page_size: usize,
    max_bytes: Option<usize>,
    huge_pages: HugePages,
    init: Init,
    watch: Option<RegionWatch>,
}

impl PoolBuilder {
    /// Bytes of a page: a power of two from 4 KiB to 1 MiB (32 KiB).
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = bytes;
        self
    }

    /// The most bytes of regions that may be mapped at once (no limit). Whole
    /// regions count; the headers that describe them, an eighth more addresses of
    /// which little is ever touched, do not.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Whether to ask for huge pages (`Auto`).
    pub fn huge_pages(mut self, huge: HugePages) -> Self {
        self.huge_pages = huge;
        self
    }

    /// Zeroes bytes before they are handed out (off).
    pub fn init_on_alloc(mut self, on: bool) -> Self {
        self.init.on_alloc = on;
        self
    }

    /// Zeroes bytes when the last holder gives them back (off).
    pub fn init_on_free(mut self, on: bool) -> Self {
        self.init.on_free = on;
        self
    }

    /// Who is told of regions as they come and go (nobody).
    ///
    /// # Safety
    /// Both functions run in the middle of an allocation or of a `trim`: they use nothing of
    /// this pool, not its caches, its fragments or its figures, and do not unwind.
    pub unsafe fn watch(mut self, watch: RegionWatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The pool. Maps nothing yet.
    ///
    /// # Errors
    /// [`Error::BadPageSize`], [`Error::BadMaxBytes`].
    pub fn build(self) -> Result<PagePool, Error> {
        if !is_page_size(self.page_size) {
            return Err(Error::BadPageSize);
        }
        if self.max_bytes.is_some_and(|max| max < REGION) {
            return Err(Error::BadMaxBytes);
        }
        Ok(self.assemble())
    }

    fn assemble(self) -> PagePool {
        os::watch_forks(forked);
        let shift = self.page_size.trailing_zeros();
        let huge = self.huge_pages == HugePages::Auto;
        PagePool {
            depot: Depot::new(shift, self.max_bytes, huge, self.init, self.watch),
            init: self.init,
        }
    }
}

impl PagePool {
    /// A pool of pages of `page_size` bytes without a limit.
    ///
    /// # Errors
    /// [`Error::BadPageSize`].
    pub fn new(page_size: usize) -> Result<PagePool, Error> {
        Self::builder().page_size(page_size).build()
    }

    /// Starts saying what a pool shall be like.
    pub fn builder() -> PoolBuilder {
        PoolBuilder {
            page_size: DEFAULT_PAGE,
            max_bytes: None,
            huge_pages: HugePages::default(),
            init: Init::default(),
            watch: None,
        }
    }

    /// The process's pool: 32 KiB pages, no limit.
    pub fn global() -> &'static PagePool {
        static GLOBAL: OnceLock<PagePool> = OnceLock::new();
        GLOBAL.get_or_init(|| Self::builder().assemble())
    }

    /// The pool that a fragment came from. One locked add.
    pub fn of(frag: &RawFrag) -> PagePool {
        let depot = Depot::of(frag.home());
        PagePool {
            init: depot.init,
            depot,
        }
    }

    pub(crate) fn depot(&self) -> &Arc<Depot> {
        &self.depot
    }

    pub(crate) fn init(&self) -> Init {
        self.init
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> usize {
        1 << self.depot.page_shift()
    }

    /// log2 of the lines of a page.
    pub(crate) fn page_lines_shift(&self) -> u32 {
        self.depot.page_shift() - LINE_SHIFT
    }

    /// The most bytes of regions that may be mapped at once.
    pub fn max_bytes(&self) -> Option<usize> {
        self.depot.max_bytes()
    }

    /// Whether regions ask for huge pages.
    pub fn huge_pages(&self) -> HugePages {
        if self.depot.huge() {
            HugePages::Auto
        } else {
            HugePages::Never
        }
    }

    /// Are bytes zeroed before they are handed out?
    pub fn init_on_alloc(&self) -> bool {
        self.init.on_alloc
    }

    /// Are bytes zeroed when they come back?
    pub fn init_on_free(&self) -> bool {
        self.init.on_free
    }

    /// A number that is this pool's as long as it lives.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.depot).addr()
    }

    /// Is this the same pool?
    pub fn same_as(&self, other: &PagePool) -> bool {
        Arc::ptr_eq(&self.depot, &other.depot)
    }

    /// The pool at this moment: exact when no other thread is using it. Reads
    /// every page's map, some 20 ns a page, and all of `/proc/self/smaps`,
    /// which costs more than the rest the more a process has mapped; without
    /// the latter it is [`counts`](Self::counts).
    pub fn stats(&self) -> PoolStats {
        let mut stats = self.counts();
        stats.huge_bytes = self.huge_bytes();
        stats
    }

    /// The same without a question to the OS: `huge_bytes` is 0.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::{PageFragCache, PagePool};
    ///
    /// let pool = PagePool::new(32 * 1024)?;
    /// let mut cache = PageFragCache::new(&pool);
    /// let frag = cache.alloc(1500)?;
    /// assert_eq!(pool.counts().live_bytes, 1536);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn counts(&self) -> PoolStats {
        self.survey(|_| ())
    }

    /// Bytes of the mapped regions that are backed by huge pages now.
    fn huge_bytes(&self) -> u64 {
        let mut ranges = Vec::new();
        self.depot
            .inspect(|region| ranges.push((region.base(), REGION)));
        os::huge_bytes(&ranges)
    }

    /// The pool at this moment, and whether its books balance: pages obtained
    /// = current + retired + orphaned + free + returned, and every page is
    /// what its own head and the depot both say. For a quiet pool.
    ///
    /// # Errors
    /// What does not balance, a sentence each.
    pub fn audit(&self) -> Result<PoolStats, AuditError> {
        let mut findings = Vec::new();
        let mut stats = self.survey(|finding| findings.push(finding));
        stats.huge_bytes = self.huge_bytes();
        let accounted = stats.pages_current
            + stats.pages_retired
            + stats.pages_orphaned
            + stats.pages_free
            + stats.pages_returned;
        if stats.pages_obtained != accounted {
            findings.push(format!(
                "{} pages were obtained and {accounted} are accounted for",
                stats.pages_obtained
            ));
        }
        if stats.live_bytes > stats.held_bytes {
            findings.push(format!(
                "{} bytes are alive in {} held",
                stats.live_bytes, stats.held_bytes
            ));
        }
        AuditError::check(findings).map(|()| stats)
    }

    fn survey(&self, mut report: impl FnMut(String)) -> PoolStats {
        let depot = &*self.depot;
        let per_region = depot.pages_per_region() as u64;
        let mut stats = PoolStats {
            page_size: self.page_size() as u64,
            ..PoolStats::default()
        };
        let mut alive = 0;
        depot.inspect(|region| {
            stats.regions_mapped += 1;
            for (page, free, ticket) in region.pages() {
                let owner = page.owner();
                if free {
                    stats.pages_free += 1;
                    if owner != NOBODY || page.role() != Role::Free {
                        report(format!(
                            "page {:#x} is in the pool and owned",
                            page.base().addr()
                        ));
                    }
                    continue;
                }
                alive += page.alive_bytes();
                if owner == ORPHAN {
                    stats.pages_orphaned += 1;
                    if !ticket {
                        report(format!("orphan {:#x} has no ticket", page.base().addr()));
                    }
                } else if page.role() == Role::Current {
                    stats.pages_current += 1;
                } else if owner != NOBODY {
                    stats.pages_retired += 1;
                } else {
                    report(format!(
                        "page {:#x} is nobody's and not free",
                        page.base().addr()
                    ));
                }
            }
        });
        // After the look, so that each region seen is counted here: see `Depot::map`.
        stats.pages_obtained = depot.regions_mapped.get() * per_region;
        stats.pages_returned = depot.regions_unmapped.get() * per_region;
        // Relaxed: `read` has acquired what each region seen was counted with.
        stats.regions_peak = depot.regions_peak.load(Ordering::Relaxed) as u64;
        stats.huge_failed = depot.huge_failed.get();
        stats.exhausted = depot.exhausted.get();
        stats.out_of_memory = depot.out_of_memory.get();
        stats.pages_in_use = stats.pages_current + stats.pages_retired + stats.pages_orphaned;
        stats.held_bytes = stats.pages_in_use * stats.page_size;
        stats.live_bytes = alive as u64;
        stats.pinned_bytes = stats.held_bytes.saturating_sub(stats.live_bytes);
        stats
    }
}

/// Bytes of an OS page, as the OS tells at run time: 4, 16 or 64 KiB.
pub fn os_page_size() -> usize {
    os::os_page_size()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::PagePool;
    use crate::geometry::{DEFAULT_PAGE, REGION};
    use crate::mem::depot;
    use crate::mem::page::{FreePage, NOBODY, ORPHAN, Page, Role};
    use crate::sync::Ordering;

    const PAGES: usize = REGION / DEFAULT_PAGE;

    /// A pool, and a page that was taken out of it by nobody.
    fn with_a_page() -> (PagePool, Page) {
        let pool = PagePool::new(DEFAULT_PAGE).unwrap();
        let page = pool.depot.take().unwrap().into_page();
        (pool, page)
    }

    fn give_back(pool: &PagePool, page: Page) {
        // SAFETY: taken above, without fragments.
        depot::give(unsafe { FreePage::assume(page) });
        let stats = pool.audit().unwrap();
        assert_eq!(stats.pages_free, PAGES as u64);
    }

    #[test]
    fn an_audit_finds_a_page_that_is_lost() {
        let (pool, page) = with_a_page();
        let found = pool.audit().unwrap_err();
        let free = PAGES - 1;
        let expected = [
            format!("page {:#x} is nobody's and not free", page.base().addr()),
            format!("{PAGES} pages were obtained and {free} are accounted for"),
        ];
        assert_eq!(found.findings(), expected);
        give_back(&pool, page);
    }

    #[test]
    fn an_audit_finds_an_orphan_that_nobody_can_adopt() {
        let (pool, page) = with_a_page();
        page.head().owner.store(ORPHAN, Ordering::Relaxed);
        let found = pool.audit().unwrap_err();
        let expected = format!("orphan {:#x} has no ticket", page.base().addr());
        assert_eq!(found.findings(), [expected]);
        page.head().owner.store(NOBODY, Ordering::Relaxed);
        give_back(&pool, page);
    }

    #[test]
    fn an_audit_finds_a_page_of_the_pool_that_somebody_carves() {
        let (pool, page) = with_a_page();
        give_back(&pool, page);
        page.set_role(Role::Orphan);
        assert_eq!(page.role(), Role::Orphan);
        let found = pool.audit().unwrap_err();
        let expected = format!("page {:#x} is in the pool and owned", page.base().addr());
        assert_eq!(found.findings(), [expected]);
        page.set_role(Role::Free);
        assert!(pool.audit().is_ok());
    }

    #[test]
    fn an_audit_finds_more_alive_than_is_held() {
        let (pool, page) = with_a_page();
        page.head().tally.store(-2, Ordering::Relaxed);
        let found = pool.audit().unwrap_err();
        assert_eq!(found.findings()[2], "128 bytes are alive in 0 held");
        page.head().tally.store(0, Ordering::Relaxed);
        give_back(&pool, page);
    }
}
