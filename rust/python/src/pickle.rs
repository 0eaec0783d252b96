//! Pickles: their version, how bytes travel in them, and how a fragment comes out of one.
//!
//! From protocol 5 on bytes travel as a `PickleBuffer`, which a pickler with a `buffer_callback` takes
//! out of band without a copy and another one writes in band; before, as `bytes` or `bytearray`. What
//! comes out is a fragment over the very object that the unpickler got the bytes in: no copy of ours
//! on either side.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyType};

use crate::buffer::Lent;
use crate::error::{broken, value};
use crate::made;
use crate::memory::Memory;
use crate::object;

/// The layout of what we write, and the newest that we read.
pub(crate) const VERSION: u32 = 1;

/// `PagefragError` for a layout that a newer pagefrag has written.
pub(crate) fn check(version: u32) -> PyResult<()> {
    if version <= VERSION {
        return Ok(());
    }
    Err(broken(format!(
        "this pickle has layout {version}, of a newer pagefrag; this one reads up to {VERSION}"
    )))
}

/// What an unpickler shall call.
pub(crate) fn restorer<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    made::imported(py, "pagefrag._pagefrag", name)
}

/// The bytes of `exporter` as this protocol carries them.
pub(crate) fn carried<'py>(
    exporter: &Bound<'py, PyAny>,
    readonly: bool,
    protocol: i32,
) -> PyResult<Bound<'py, PyAny>> {
    static BUFFER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = exporter.py();
    if protocol >= 5 {
        let buffer = made::guarded(py, || BUFFER.import(py, "pickle", "PickleBuffer"))?;
        return buffer.call1((exporter,));
    }
    // Called as types, so that no memory is an error and no panic.
    if readonly {
        py.get_type::<PyBytes>().call1((exporter,))
    } else {
        py.get_type::<PyByteArray>().call1((exporter,))
    }
}

/// Borrows the bytes that a pickle brought, for as long as anybody looks at them.
pub(crate) fn received(bytes: &Bound<'_, PyAny>) -> PyResult<Arc<Lent>> {
    let lent = Lent::by(bytes)?;
    let lent = lent.ok_or_else(|| value("a pickle's bytes must be consecutive"))?;
    Ok(Arc::new(lent))
}

/// A fragment out of a pickle: over `bytes` as they are, read-only if it was or they are.
#[pyfunction(name = "_restore_fragment")]
pub(crate) fn restore_fragment<'py>(
    version: u32,
    bytes: &Bound<'py, PyAny>,
    readonly: bool,
) -> PyResult<Bound<'py, PyAny>> {
    check(version)?;
    let lent = received(bytes)?;
    let readonly = readonly || lent.is_readonly();
    let memory = Memory::all_of(lent);
    object::make(bytes.py(), memory, readonly)
}
