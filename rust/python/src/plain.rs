//! `PlainFragment`: a fragment as a plain `#[pyclass(frozen)]`, to measure `Fragment` against.
//!
//! Only with the feature `plain-fragment`, only for `benches/python/bench_binding.py`. It has what
//! the comparison needs and nothing else: birth, death, a length, a buffer.

use std::ffi::c_int;

use pagefrag::{FragMut, Granule, LocalCache, RawFrag};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::args;
use crate::buffer::lend;
use crate::error::{from_core, from_gate};
use crate::gate::Gated;
use crate::pool::{PagePool, or_default};

/// The rival of `Fragment`.
#[pyclass(frozen, module = "pagefrag._pagefrag")]
pub(crate) struct PlainFragment {
    gate: Gated<RawFrag>,
}

#[pymethods]
impl PlainFragment {
    /// Bytes in the fragment.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        let inside = self.gate.enter();
        Ok(inside
            .map_err(|refusal| from_gate(refusal, "fragment"))?
            .len())
    }

    fn __len__(&self) -> PyResult<usize> {
        self.nbytes()
    }

    /// # Safety
    /// Called by the interpreter with a view to fill.
    #[allow(clippy::needless_pass_by_value)] // the protocol's signature
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let inside = slf.get().gate.enter();
        let inside = inside.map_err(|refusal| from_gate(refusal, "fragment"))?;
        let memory = (inside.as_ptr(), inside.len());
        // SAFETY: the bytes live as long as `inside` is counted; the view is the interpreter's.
        unsafe { lend(&slf, view, flags, memory, false) }?;
        inside.stay();
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter once for each view that was filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        // SAFETY: `__getbuffer__` stayed once for this view.
        unsafe { self.gate.leave() };
    }
}

/// The rival of `PageFragCache`.
#[pyclass(frozen, module = "pagefrag._pagefrag")]
pub(crate) struct PlainCache {
    core: LocalCache,
}

#[pymethods]
impl PlainCache {
    #[new]
    #[pyo3(signature = (pool=None))]
    fn new(py: Python<'_>, pool: Option<Py<PagePool>>) -> PyResult<Self> {
        let pool = or_default(py, pool)?;
        let core = LocalCache::new(&pool.get().core, Granule::Line);
        Ok(Self { core })
    }

    /// A fragment of `size` bytes.
    #[pyo3(signature = (size, *, align=args::Given::default(1)))]
    fn alloc(
        &self,
        size: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = args::align)] align: args::Given<usize>,
    ) -> PyResult<PlainFragment> {
        let size = args::whole(size, "size")?;
        let frag = self
            .core
            .alloc_align(size, align.read()?)
            .map_err(from_core)?;
        Ok(Self::wrapped(frag))
    }

    /// The same with an argument that costs least to read.
    fn alloc_bare(&self, size: usize) -> PyResult<PlainFragment> {
        Ok(Self::wrapped(self.core.alloc(size).map_err(from_core)?))
    }
}

impl PlainCache {
    fn wrapped(frag: FragMut) -> PlainFragment {
        PlainFragment {
            gate: Gated::new(frag.into_raw()),
        }
    }
}
