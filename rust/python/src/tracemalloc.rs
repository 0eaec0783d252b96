//! Regions in the books of Python's `tracemalloc`: one trace each, in a domain of their own.
//!
//! The two functions that keep these books are `CPython`'s, but no part of its stable ABI, so they are
//! looked up when a pool asks for them, the same way in every build. The one that forgets a trace takes
//! a lock of its own and no more. The one that notes a trace attaches by itself, if anything is being
//! traced; and before 3.14 a daemon thread that does so while the interpreter is ending is unwound by
//! the system from there, through whatever of ours it is in. So we attach first, by a call that puts
//! such a thread to sleep where it stands.
//!
//! By that call and not by `Python::attach`, which gives back references that were put aside: that runs
//! Python code, and we are in the middle of an allocation.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{NonNull, with_exposed_provenance};
use std::sync::OnceLock;

use pagefrag::RegionWatch;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::broken;

/// The domain: "page" as a number.
pub(crate) const DOMAIN: c_uint = 0x7061_6765;

type Track = unsafe extern "C" fn(c_uint, usize, usize) -> c_int;
type Untrack = unsafe extern "C" fn(c_uint, usize) -> c_int;

struct Books {
    track: Track,
    untrack: Untrack,
}

static BOOKS: OnceLock<Books> = OnceLock::new();

/// The address of a function of the interpreter's.
fn door(py: Python<'_>, name: &str) -> PyResult<*const c_void> {
    let ctypes = py.import("ctypes")?;
    let found = ctypes.getattr("pythonapi")?.getattr(name)?;
    let pointer = ctypes.call_method1("cast", (found, ctypes.getattr("c_void_p")?))?;
    Ok(with_exposed_provenance(
        pointer.getattr("value")?.extract()?,
    ))
}

fn books(py: Python<'_>) -> PyResult<Books> {
    let (track, untrack) = (
        door(py, "PyTraceMalloc_Track")?,
        door(py, "PyTraceMalloc_Untrack")?,
    );
    Ok(Books {
        // SAFETY: the function of this name has had this signature since CPython 3.7, and stays.
        track: unsafe { std::mem::transmute::<*const c_void, Track>(track) },
        // SAFETY: as above.
        untrack: unsafe { std::mem::transmute::<*const c_void, Untrack>(untrack) },
    })
}

fn mapped(first: NonNull<u8>, len: usize) {
    if let Some(books) = BOOKS.get() {
        // SAFETY: any thread may ask.
        if unsafe { ffi::Py_IsInitialized() } == 0 {
            // It is ending: nobody is going to read the books.
            return;
        }
        // SAFETY: there is an interpreter, or it ends in this moment; released below.
        let before = unsafe { ffi::PyGILState_Ensure() };
        // SAFETY: any thread may call it, with any numbers. When it has no memory for a trace, the
        // region is not in the books.
        unsafe { (books.track)(DOMAIN, first.addr().get(), len) };
        // SAFETY: what came before, from above, on the same thread.
        unsafe { ffi::PyGILState_Release(before) };
    }
}

fn unmapped(first: NonNull<u8>, _len: usize) {
    if let Some(books) = BOOKS.get() {
        // SAFETY: any thread may call it, with any numbers.
        unsafe { (books.untrack)(DOMAIN, first.addr().get()) };
    }
}

/// Who keeps the books; `PagefragError` in a Python that does not lend them.
pub(crate) fn watch(py: Python<'_>) -> PyResult<RegionWatch> {
    if BOOKS.get().is_none() {
        let found = books(py)
            .map_err(|error| broken(format!("this Python does not lend tracemalloc: {error}")))?;
        // Whoever comes second has found the same.
        let _ = BOOKS.set(found);
    }
    Ok(RegionWatch { mapped, unmapped })
}
