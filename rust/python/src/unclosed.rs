//! The warning of a ring that is collected while it is open, as of a socket or a file.
//!
//! It comes out of an object's end, where nobody can catch: a warning that is turned into an error
//! is told by `sys.unraisablehook`, and an exception that is on its way stays on its way.

use std::ffi::CString;
use std::ptr::null_mut;

use pyo3::exceptions::PyResourceWarning;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::attached::attached;

/// Ends what was not closed and warns: `unclosed ` and what `end` says it was.
#[cold]
pub(crate) fn end(end: impl FnOnce(Python<'_>) -> String) {
    attached(|py| {
        let on_its_way = PyErr::take(py);
        warn(py, &end(py));
        if let Some(error) = on_its_way {
            error.restore(py);
        }
    });
}

fn warn(py: Python<'_>, what: &str) {
    let text = CString::new(format!("unclosed {what}")).unwrap_or_default();
    let kind = py.get_type::<PyResourceWarning>();
    // Made here, because CPython 3.11 relies on it when it warns, and crashes when there is no
    // memory for it. Without a frame the warning is of `sys`, line 1, as CPython has it then.
    // SAFETY: attached.
    let has_frame = !unsafe { ffi::PyEval_GetFrame() }.is_null();
    let refused = if has_frame {
        // SAFETY: attached, with a class of warnings and a text.
        unsafe { ffi::PyErr_WarnEx(kind.as_ptr(), text.as_ptr(), 1) }
    } else {
        let sys = c"sys".as_ptr();
        // SAFETY: as above; no registry of what was told before is allowed.
        unsafe { ffi::PyErr_WarnExplicit(kind.as_ptr(), text.as_ptr(), sys, 1, sys, null_mut()) }
    };
    if refused != 0 {
        // SAFETY: attached, with an exception set.
        unsafe { ffi::PyErr_WriteUnraisable(null_mut()) };
    }
}
