//! `PageFragCache`: carves fragments out of pages. One object for any number of threads: each
//! thread that uses it carves pages of its own.
//!
//! `alloc`, `try_alloc` and `alloc_many` are in `fastcall.rs`: they are what is called for every
//! packet.

use std::sync::Arc;

use pagefrag::{Granule, LocalCache};
use pyo3::prelude::*;

use crate::args::{self, Given};
use crate::error::{from_core, value};
use crate::made::{Number, Text};
use crate::pool::{PagePool, or_default};
use crate::reservation::Reservation;
use crate::ticks::Ticks;
use crate::tracking::Sampler;
use crate::{siblings, stats, thread_end};

/// Carves fragments out of the pages of a pool, the default one if none is given.
///
/// With `granule=64` sizes are rounded up to lines of 64 bytes and space between living fragments
/// is found again; with `granule=1` fragments are packed to the byte, and pages are used again as
/// a whole. Any thread may use a cache: each carves pages of its own, so threads do not disturb
/// one another. Fragments outlive their cache.
///
/// With `granule=1` a fragment that was ever sliced counts as shared for good, also when the slices
/// are gone: `build_skb` refuses it, and `live_bytes` counts the bytes of each sharer.
///
/// >>> cache = PageFragCache()
/// >>> frag = cache.alloc(1500)
/// >>> frag.nbytes, frag.capacity
/// (1500, 1536)
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct PageFragCache {
    pub(crate) core: LocalCache,
    pool: Py<PagePool>,
    /// When `alloc` and its like are to note what they made.
    pub(crate) ticks: Ticks,
}

/// What `fastcall.rs` has put beside the methods of every day, under these names with `TRACKED`
/// before them: the same, and each counts.
const METHODS: [&str; 3] = ["alloc", "try_alloc", "alloc_many"];
pub(crate) const TRACKED: &str = "_tracked_";

/// Lets all caches go through the counting methods from now on, as soon as one of them is tracked:
/// until then nobody pays for a look at whether it is.
#[cold]
fn count(py: Python<'_>) -> PyResult<()> {
    let class = py.get_type::<PageFragCache>();
    METHODS.iter().try_for_each(|name| {
        let counting = class.getattr(format!("{TRACKED}{name}"))?;
        // Looked at each time: a module that is imported anew puts the others back.
        if class.getattr(*name)?.is(&counting) {
            return Ok(());
        }
        class.setattr(name, counting)
    })
}

impl PageFragCache {
    pub(crate) fn of(
        py: Python<'_>,
        pool: Option<Py<PagePool>>,
        granule: Granule,
    ) -> PyResult<Self> {
        let pool = or_default(py, pool)?;
        let core = LocalCache::new(&pool.get().core, granule);
        siblings::remember(&core);
        let every = pool.get().track;
        if every != 0 {
            count(py)?;
        }
        Ok(Self {
            ticks: Ticks::of(every),
            core,
            pool,
        })
    }

    /// What tracks packets and reservations of this cache, if anybody does.
    pub(crate) fn sampler(&self) -> Option<Arc<Sampler>> {
        self.pool.get().sampler.clone()
    }
}

#[pymethods]
impl PageFragCache {
    #[new]
    #[pyo3(signature = (pool=None, *, granule=Given::default(64)), text_signature = "(pool=None, *, granule=64)")]
    fn new(
        py: Python<'_>,
        pool: Option<Py<PagePool>>,
        #[pyo3(from_py_with = args::granule)] granule: Given<usize>,
    ) -> PyResult<Self> {
        let granule = match granule.read()? {
            64 => Granule::Line,
            1 => Granule::Byte,
            other => {
                return Err(value(&format!("granule is 64 or 1, not {other}")));
            }
        };
        Self::of(py, pool, granule)
    }

    /// Shows room for at least `min_size` bytes without taking it.
    ///
    /// The room is a writable buffer; `commit(used)` makes a fragment of its first bytes. What is
    /// not committed was never taken.
    ///
    /// >>> cache = PageFragCache()
    /// >>> with cache.prepare(2048) as room:
    /// ...     memoryview(room)[:5] = b'hello'
    /// ...     frag = room.commit(5)
    /// >>> frag.tobytes()
    /// b'hello'
    fn prepare(&self, py: Python<'_>, min_size: &Bound<'_, PyAny>) -> PyResult<Reservation> {
        let min_size = args::whole(min_size, "min_size")?;
        thread_end::watch(py)?;
        let room = self.core.take_room(min_size).map_err(from_core)?;
        Ok(Reservation::new(self.core.clone(), room, self.sampler()))
    }

    /// Gives up all pages that the calling thread carves. Living fragments stay valid.
    ///
    /// >>> cache = PageFragCache(PagePool())
    /// >>> frag = cache.alloc(64)
    /// >>> cache.drain()
    /// >>> cache.pool.stats().pages_orphaned
    /// 1
    fn drain(&self) {
        self.core.drain();
    }

    /// A `CacheStats` of the calling thread's share of this cache.
    ///
    /// >>> PageFragCache().stats().pages
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        stats::cache(py, &self.core.stats())
    }

    /// Bytes of the pages that the calling thread carves: as `stats().held_bytes`, at a glance.
    ///
    /// >>> cache = PageFragCache(PagePool())
    /// >>> frag = cache.alloc(64)
    /// >>> cache.held_bytes
    /// 32768
    #[getter]
    fn held_bytes(&self) -> Number {
        Number(usize::try_from(self.core.held_bytes()).unwrap_or(usize::MAX))
    }

    /// The pool that the pages come from.
    ///
    /// >>> PageFragCache().pool is default_pool()
    /// True
    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<PagePool> {
        self.pool.clone_ref(py)
    }

    /// 64 or 1: the bytes that sizes are rounded up to.
    ///
    /// >>> PageFragCache().granule
    /// 64
    #[getter]
    fn granule(&self) -> usize {
        match self.core.granule() {
            Granule::Line => 64,
            Granule::Byte => 1,
        }
    }

    fn __repr__(&self) -> Text {
        let page_size = self.core.pool().page_size();
        let granule = self.granule();
        let held = self.core.held_bytes();
        Text(format!(
            "<PageFragCache granule={granule} page_size={page_size} held={held}>"
        ))
    }
}
