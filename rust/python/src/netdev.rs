//! The netdev context: buffers from anywhere, on any thread, also in the middle of anything.

use pagefrag::net;
use pyo3::prelude::*;

use crate::args::{self, Given};
use crate::error::from_core;
use crate::made::Text;
use crate::pool::{PagePool, default_sampler, or_default};
use crate::skb::SkBuff;
use crate::{object, skb_made, stats, thread_end, tracking};

/// The calling thread's netdev cache over a pool, the default one if none is given.
///
/// Usable from any thread, from finalizers and from signal handlers.
///
/// >>> netdev = NetdevCache()
/// >>> netdev.alloc_frag(1500).capacity, netdev.alloc_skb(1500).truesize
/// (1536, 2176)
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct NetdevCache {
    core: net::NetdevCache,
    pool: Py<PagePool>,
}

#[pymethods]
impl NetdevCache {
    #[new]
    #[pyo3(signature = (pool=None))]
    fn new(py: Python<'_>, pool: Option<Py<PagePool>>) -> PyResult<Self> {
        let pool = or_default(py, pool)?;
        Ok(Self {
            core: net::NetdevCache::new(&pool.get().core),
            pool,
        })
    }

    /// A fragment of `size` bytes, rounded up to lines as the kernel's front ends do.
    ///
    /// >>> NetdevCache().alloc_frag(100).nbytes
    /// 100
    #[pyo3(signature = (size, *, align=Given::default(1)), text_signature = "($self, size, *, align=1)")]
    fn alloc_frag<'py>(
        &self,
        py: Python<'py>,
        size: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::align)] align: Given<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (size, align) = (args::whole(size, "size")?, align.read()?);
        thread_end::watch(py)?;
        let frag = self.core.alloc_frag(size, align).map_err(from_core)?;
        let sampler = self.pool.get().sampler.as_deref();
        let made = object::make(py, frag.into_raw(), false)?;
        Ok(tracking::made(made, sampler))
    }

    /// An empty `SkBuff` with room for `length` bytes behind the usual headroom.
    ///
    /// >>> NetdevCache().alloc_skb(1500).headroom
    /// 64
    fn alloc_skb<'py>(
        &self,
        py: Python<'py>,
        length: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, SkBuff>> {
        let length = args::whole(length, "length")?;
        thread_end::watch(py)?;
        let core = self.core.alloc_skb(length).map_err(from_core)?;
        skb_made::made(py, core, length, self.pool.get().sampler.as_deref())
    }

    /// Gives up the pages that the calling thread carves. Living buffers stay valid.
    ///
    /// >>> NetdevCache().drain()
    fn drain(&self) {
        self.core.drain();
    }

    /// A `CacheStats` of the calling thread's share.
    ///
    /// >>> NetdevCache().stats().pages
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        stats::cache(py, &self.core.stats())
    }

    /// The pool that the pages come from.
    ///
    /// >>> NetdevCache().pool is default_pool()
    /// True
    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<PagePool> {
        self.pool.clone_ref(py)
    }

    fn __repr__(&self) -> Text {
        Text(format!(
            "<NetdevCache page_size={}>",
            self.core.pool().page_size()
        ))
    }
}

/// A fragment from the calling thread's netdev cache of the default pool.
///
/// >>> netdev_alloc_frag(1500).capacity
/// 1536
#[pyfunction]
#[pyo3(signature = (size, *, align=Given::default(1)), text_signature = "(size, *, align=1)")]
pub(crate) fn netdev_alloc_frag<'py>(
    py: Python<'py>,
    size: &Bound<'py, PyAny>,
    #[pyo3(from_py_with = args::align)] align: Given<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (size, align) = (args::whole(size, "size")?, align.read()?);
    thread_end::watch(py)?;
    let sampler = default_sampler(py)?;
    let frag = net::netdev_alloc_frag(size, align).map_err(from_core)?;
    let made = object::make(py, frag.into_raw(), false)?;
    Ok(tracking::made(made, sampler))
}

/// An empty `SkBuff` from the calling thread's netdev cache of the default pool.
///
/// >>> skb = netdev_alloc_skb(1500)
/// >>> skb.len, skb.headroom, skb.tailroom
/// (0, 64, 1536)
#[pyfunction]
pub(crate) fn netdev_alloc_skb<'py>(
    py: Python<'py>,
    length: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, SkBuff>> {
    let length = args::whole(length, "length")?;
    thread_end::watch(py)?;
    let sampler = default_sampler(py)?;
    let core = net::netdev_alloc_skb(length).map_err(from_core)?;
    skb_made::made(py, core, length, sampler)
}
