//! Giving up a thread's caches when its Python thread ends.
//!
//! The core does so when the system thread ends, which is up to a moment after `Thread.join()` has
//! returned: whoever audits a pool after joining its workers would see pages that are still owned.
//! The interpreter clears a thread's dictionary before `join()` returns; so we leave an object in
//! it whose destruction gives the caches up.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::made;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Nothing was allocated on this thread yet.
    Fresh,
    /// An object waits in the thread's dictionary.
    Set,
    /// The Python thread has ended. What comes now (finalizers that run while the dictionary is
    /// cleared, a system thread that goes on without Python) is left to the core.
    Over,
}

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Fresh) };
}

/// The address of the calling thread's `WATCH`: its own as long as the thread lives.
fn identity() -> usize {
    WATCH.with(|watch| ptr::from_ref(watch).addr())
}

/// Lies in a thread's dictionary. May be destroyed on another thread: at interpreter exit, and in
/// a forked child.
#[pyclass(frozen, module = "pagefrag._pagefrag")]
struct ThreadEnd {
    thread: usize,
}

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        if identity() == self.thread {
            WATCH.set(Watch::Over);
            pagefrag::thread_exit();
        }
    }
}

/// Makes the type, with the module: made later, a lack of memory would be a panic.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    made::guarded(py, || {
        py.get_type::<ThreadEnd>();
        Ok(())
    })
}

/// Sees to it that the calling thread's caches are given up when its Python thread ends.
#[inline]
pub(crate) fn watch(py: Python<'_>) -> PyResult<()> {
    if WATCH.get() == Watch::Fresh {
        watch_thread(py)
    } else {
        Ok(())
    }
}

#[cold]
fn watch_thread(py: Python<'_>) -> PyResult<()> {
    // Before any Python code runs, so that a finalizer that allocates does not come here again.
    WATCH.set(Watch::Set);
    // An object that could not be left has taken its end for the thread's; the next call tries again.
    leave(py).inspect_err(|_| WATCH.set(Watch::Fresh))
}

/// Leaves an object in the calling thread's dictionary.
fn leave(py: Python<'_>) -> PyResult<()> {
    // `Bound`: what is dropped here ends here, also in a call that PyO3 does not know of.
    let end = Bound::new(py, ThreadEnd { thread: identity() })?;
    // SAFETY: attached.
    let dict = unsafe { ffi::PyThreadState_GetDict() };
    // SAFETY: borrowed from the thread state, which does not end while we are in it; or null, when
    // there is no memory for one.
    match unsafe { Bound::from_borrowed_ptr_or_opt(py, dict) } {
        Some(dict) => dict
            .cast_into::<PyDict>()?
            .set_item(made::text(py, "pagefrag.thread_end")?, end),
        None => Err(made::no_memory(py)),
    }
}
