//! Memory of ours as a read-only buffer: what `NumPy`, pickle and `memoryview` get of a whole
//! batch.

use std::any::Any;
use std::ffi::c_int;
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::buffer::lend;
use crate::made;

/// What keeps memory where it is, whatever it is.
pub(crate) type Keeper = Arc<dyn Any + Send + Sync>;

/// Bytes that a keeper keeps. Not made by users, who get a `memoryview` of it.
#[pyclass(frozen, module = "pagefrag._pagefrag")]
pub(crate) struct Loan {
    memory: *const u8,
    len: usize,
    _keeper: Keeper,
}

// SAFETY: the memory is only lent for reading, and the keeper, which is both, keeps it.
unsafe impl Send for Loan {}
// SAFETY: as for `Send`.
unsafe impl Sync for Loan {}

impl Loan {
    /// Makes the type, with the module: made later, a lack of memory would be a panic.
    pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
        made::guarded(py, || {
            py.get_type::<Self>();
            Ok(())
        })
    }

    /// # Safety
    /// - `len` bytes can be read at `memory` as long as `keeper` lives.
    pub(crate) unsafe fn new(keeper: Keeper, memory: *const u8, len: usize) -> Self {
        Self {
            memory,
            len,
            _keeper: keeper,
        }
    }

    /// A view of it, which keeps it.
    pub(crate) fn view(self, py: Python<'_>) -> PyResult<Bound<'_, PyMemoryView>> {
        PyMemoryView::from(Bound::new(py, self)?.as_any())
    }
}

#[pymethods]
impl Loan {
    /// # Safety
    /// Called by the interpreter with a view to fill.
    #[allow(clippy::needless_pass_by_value)] // the protocol's signature
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let memory = (this.memory.cast_mut(), this.len);
        // SAFETY: the interpreter's view; it refers to this object, which keeps the memory.
        unsafe { lend(&slf, view, flags, memory, true) }
    }
}
