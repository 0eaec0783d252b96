//! Between two slices of a wait: what the interpreter wants of a thread that waits in a call.

use pyo3::prelude::*;

/// Handles signals; without a global lock also takes back what other threads have dropped.
pub(crate) fn pause(py: Python<'_>) -> PyResult<()> {
    py.check_signals()?;
    #[cfg(Py_GIL_DISABLED)]
    settle(py)?;
    Ok(())
}

/// Without a global lock an object belongs to the thread that made it: when another one drops the
/// last reference it is put aside, until its owner runs Python code. So we run some that does
/// nothing: who waits for packets does not keep those that others are done with.
#[cfg(Py_GIL_DISABLED)]
fn settle(py: Python<'_>) -> PyResult<()> {
    use pyo3::sync::PyOnceLock;

    static IDLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let idle = IDLE.get_or_try_init(py, || {
        py.eval(c"lambda: None", None, None).map(Bound::unbind)
    })?;
    idle.call0(py).map(drop)
}
