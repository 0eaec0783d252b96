//! `PagePool`: where pages come from, how much there may be, and what became of them.

use std::sync::Arc;

use pagefrag::HugePages;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::args::{self, Given};
use crate::error::{broken, from_core, out_of_context, value};
use crate::made::{self, Number, Text};
use crate::ticks::RAREST;
use crate::tracking::Sampler;
use crate::{stats, tracemalloc, tracking};

/// Pages of one size, cut from regions of 2 MiB, for any number of caches and threads.
///
/// `page_size` is a power of two from 4096 to 1048576. The regions mapped at one time never hold
/// more than `max_bytes`; a request that would need more raises `PoolExhausted`. `huge_pages` is
/// "auto" (ask for transparent huge pages, do without them silently) or "never". `init_on_alloc`
/// and `init_on_free` fill memory with zeros when a fragment is carved or freed; without them a
/// fresh fragment shows whatever was there before.
///
/// With `track=n` about one allocation in `n` is noted with the Python stack that made it and with
/// who shares it: `tracked()` lists those that are alive. With `tracemalloc=True` each region is
/// noted in `tracemalloc`, where it is traced, in the domain `PagePool.TRACEMALLOC_DOMAIN`.
///
/// A pool lives as long as any of its caches or fragments.
///
/// >>> pool = PagePool(max_bytes=64 << 20)
/// >>> frag = PageFragCache(pool).alloc(1500)
/// >>> pool.stats().pages_in_use
/// 1
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct PagePool {
    pub(crate) core: pagefrag::PagePool,
    /// One allocation in so many is tracked; 0: none.
    pub(crate) track: u32,
    /// What tracks all that is no `alloc` of a cache; `None` when nothing is tracked.
    pub(crate) sampler: Option<Arc<Sampler>>,
    tracemalloc: bool,
}

impl PagePool {
    fn of(core: pagefrag::PagePool, track: u32, tracemalloc: bool) -> Self {
        Self {
            sampler: Sampler::of(track, core.id()),
            core,
            track,
            tracemalloc,
        }
    }
}

/// One in how many is tracked: from 1 to `RAREST`.
fn rarity(every: usize) -> Option<u32> {
    let every = u32::try_from(every).ok()?;
    (1..=RAREST).contains(&every).then_some(every)
}

/// The same, asked for by an argument.
fn asked(track: &Bound<'_, PyAny>) -> PyResult<u32> {
    let every = args::whole(track, "track")?;
    rarity(every).ok_or_else(|| value(&format!("track is a number from 1 to {RAREST}, or None")))
}

#[pymethods]
impl PagePool {
    #[new]
    #[pyo3(signature = (page_size=Given::default(32768), *, max_bytes=None, huge_pages="auto", init_on_alloc=false, init_on_free=false, track=None, tracemalloc=false),
           text_signature = "(page_size=32768, *, max_bytes=None, huge_pages='auto', init_on_alloc=False, init_on_free=False, track=None, tracemalloc=False)")]
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keywords"
    )]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = args::page_size)] page_size: Given<usize>,
        max_bytes: Option<&Bound<'_, PyAny>>,
        huge_pages: &str,
        init_on_alloc: bool,
        init_on_free: bool,
        track: Option<&Bound<'_, PyAny>>,
        tracemalloc: bool,
    ) -> PyResult<Self> {
        let page_size = page_size.read()?;
        let track = track.map_or(Ok(0), asked)?;
        let max_bytes = max_bytes
            .map(|bytes| args::whole(bytes, "max_bytes"))
            .transpose()?;
        let huge_pages = match huge_pages {
            "auto" => HugePages::Auto,
            "never" => HugePages::Never,
            other => {
                let why = format!("huge_pages is 'auto' or 'never', not {other:?}");
                return Err(value(&why));
            }
        };
        let mut builder = pagefrag::PagePool::builder()
            .page_size(page_size)
            .huge_pages(huge_pages)
            .init_on_alloc(init_on_alloc)
            .init_on_free(init_on_free);
        if let Some(max_bytes) = max_bytes {
            builder = builder.max_bytes(max_bytes);
        }
        if tracemalloc {
            let watch = tracemalloc::watch(py)?;
            // SAFETY: these enter the region in the interpreter's own books, which run no Python
            // code and know nothing of pools.
            builder = unsafe { builder.watch(watch) };
        }
        let core = builder.build().map_err(from_core)?;
        Ok(Self::of(core, track, tracemalloc))
    }

    /// A `PoolStats` of this moment; exact when no thread is in the middle of something.
    ///
    /// >>> pool = PagePool()
    /// >>> frag = PageFragCache(pool).alloc(2048)
    /// >>> stats = pool.stats()
    /// >>> stats.held_bytes, stats.live_bytes, stats.pinned_bytes
    /// (32768, 2048, 30720)
    ///
    /// `huge_bytes` is asked of the system, which goes through all that the process has mapped: the
    /// better part of a millisecond, or more. With `huge=False` it is 0, and the rest costs some 20
    /// ns for each page of the mapped regions.
    #[pyo3(signature = (*, huge=Given::default(true)), text_signature = "($self, *, huge=True)")]
    fn stats<'py>(&self, py: Python<'py>, huge: Given<bool>) -> PyResult<Bound<'py, PyAny>> {
        let stats = if huge.read()? {
            self.core.stats()
        } else {
            self.core.counts()
        };
        stats::pool(py, &stats)
    }

    /// Checks that no page is lost or counted twice; the `PoolStats` it checked.
    ///
    /// `PagefragError` with one sentence for each law that is broken. Call it while no other
    /// thread uses the pool.
    ///
    /// >>> PagePool().audit().pages_obtained
    /// 0
    fn audit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        stats::pool(py, &self.core.audit().map_err(broken)?)
    }

    /// Returns wholly free regions to the system; how many.
    ///
    /// >>> pool = PagePool()
    /// >>> cache = PageFragCache(pool)
    /// >>> cache.alloc(64).release()
    /// >>> cache.drain()
    /// >>> pool.trim(), pool.stats().regions_mapped
    /// (1, 0)
    fn trim(&self) -> Number {
        Number(self.core.trim())
    }

    /// The tracked allocations that somebody holds, oldest first, each a `TrackedFragment`.
    ///
    /// >>> pool = PagePool(track=1)
    /// >>> kept = PageFragCache(pool).alloc(1500)[:20]
    /// >>> [record] = pool.tracked()
    /// >>> record.size, record.last_holder.how
    /// (1500, 'slice')
    /// >>> del kept
    /// >>> pool.tracked()
    /// []
    fn tracked<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        tracking::told(py, self.core.id())
    }

    /// The domain of `tracemalloc` in which regions are noted.
    #[classattr]
    const TRACEMALLOC_DOMAIN: u32 = tracemalloc::DOMAIN;

    /// What the pool may hold at most, in bytes of regions; None when there is no limit.
    ///
    /// >>> PagePool(max_bytes=64 << 20).max_bytes
    /// 67108864
    #[getter]
    fn max_bytes(&self) -> Option<Number> {
        self.core.max_bytes().map(Number)
    }

    /// Bytes of one page, which is also the largest fragment.
    ///
    /// >>> PagePool(65536).page_size
    /// 65536
    #[getter]
    fn page_size(&self) -> Number {
        Number(self.core.page_size())
    }

    /// Whether transparent huge pages are asked for: "auto" or "never".
    ///
    /// >>> PagePool().huge_pages
    /// 'auto'
    #[getter]
    fn huge_pages(&self) -> &'static str {
        match self.core.huge_pages() {
            HugePages::Never => "never",
            HugePages::Auto => "auto",
        }
    }

    /// Whether a fragment is all zeros when it is carved.
    ///
    /// >>> PagePool(init_on_alloc=True).init_on_alloc
    /// True
    #[getter]
    fn init_on_alloc(&self) -> bool {
        self.core.init_on_alloc()
    }

    /// Whether memory is filled with zeros when it is freed.
    ///
    /// >>> PagePool().init_on_free
    /// False
    #[getter]
    fn init_on_free(&self) -> bool {
        self.core.init_on_free()
    }

    /// One allocation in so many is tracked; None when none is.
    ///
    /// >>> PagePool(track=1024).track
    /// 1024
    #[getter]
    fn track(&self) -> Option<u32> {
        (self.track != 0).then_some(self.track)
    }

    /// Whether regions are noted in `tracemalloc`.
    ///
    /// >>> PagePool(tracemalloc=True).tracemalloc
    /// True
    #[getter]
    fn tracemalloc(&self) -> bool {
        self.tracemalloc
    }

    /// A picture for notebooks.
    fn _repr_html_(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        made::called(slf.py(), ("pagefrag._html", "pool"), (slf,))
    }

    fn __repr__(&self) -> Text {
        let stats = self.core.counts();
        let limit = self
            .core
            .max_bytes()
            .map_or("None".to_owned(), |bytes| bytes.to_string());
        Text(format!(
            "<PagePool page_size={} held={} live={} max_bytes={limit}>",
            self.core.page_size(),
            stats.held_bytes,
            stats.live_bytes,
        ))
    }
}

static DEFAULT: PyOnceLock<Py<PagePool>> = PyOnceLock::new();

/// Says how the default pool is tracked, to a program that says nothing.
const TRACK: &str = "PAGEFRAG_TRACK";

/// What the environment asks for; 0: no tracking.
fn asked_outside() -> PyResult<u32> {
    let Some(text) = std::env::var_os(TRACK).filter(|text| !text.is_empty()) else {
        return Ok(0);
    };
    let text = text.to_string_lossy();
    let every = text.parse().ok().and_then(rarity);
    every.ok_or_else(|| {
        value(&format!(
            "{TRACK} is a number from 1 to {RAREST}, not {text:?}"
        ))
    })
}

/// The default pool, made by the first who asks, and as they ask.
fn the_default(py: Python<'_>, track: Option<u32>) -> PyResult<&'static Py<PagePool>> {
    DEFAULT.get_or_try_init(py, || {
        let track = track.map_or_else(asked_outside, Ok)?;
        let core = pagefrag::PagePool::global().clone();
        Py::new(py, PagePool::of(core, track, false))
    })
}

/// The pool of everything that is not given one: 32 KiB pages, no limit.
///
/// With `track=n` it tracks as `PagePool(track=n)` does. That is for the first call of a program, before
/// anything is allocated from it, and `ContextError` later; the environment variable `PAGEFRAG_TRACK=n`
/// does the same from outside.
///
/// >>> default_pool().page_size, default_pool() is default_pool()
/// (32768, True)
#[pyfunction]
#[pyo3(signature = (*, track=None))]
pub(crate) fn default_pool(
    py: Python<'_>,
    track: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PagePool>> {
    let track = track.map(asked).transpose()?;
    let pool = the_default(py, track)?;
    match track {
        Some(every) if every != pool.get().track => Err(out_of_context(format!(
            "the default pool is in use, and not tracked like that: ask before anything is \
             allocated, or set {TRACK}={every} in the environment"
        ))),
        _ => Ok(pool.clone_ref(py)),
    }
}

/// What tracks the default pool, if it is tracked.
pub(crate) fn default_sampler(py: Python<'_>) -> PyResult<Option<&'static Sampler>> {
    Ok(the_default(py, None)?.get().sampler.as_deref())
}

/// The pool that was asked for, or the default one.
pub(crate) fn or_default(py: Python<'_>, pool: Option<Py<PagePool>>) -> PyResult<Py<PagePool>> {
    pool.map_or_else(|| Ok(the_default(py, None)?.clone_ref(py)), Ok)
}
