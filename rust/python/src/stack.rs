//! Where Python is: the code of each frame and how far it has come. Which line that is, is told when
//! somebody asks.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::made;

/// Frames that are noted, from the innermost on.
const DEEPEST: usize = 32;

/// A stack of Python's, the innermost frame first.
#[derive(Debug)]
pub(crate) struct Stack(Vec<(Py<PyAny>, c_int)>);

impl Stack {
    /// The calling thread's. Some fifty nanoseconds a frame; runs no Python code.
    pub(crate) fn here(py: Python<'_>) -> Self {
        let mut frames = Vec::with_capacity(8);
        // SAFETY: attached.
        let frame = unsafe { ffi::PyEval_GetFrame() };
        // SAFETY: borrowed from the thread, which is in it; or null.
        let mut next = unsafe { Bound::from_borrowed_ptr_or_opt(py, frame.cast()) };
        while let Some(frame) = next
            && frames.len() < DEEPEST
        {
            // SAFETY: attached, with a living frame.
            let code = unsafe { ffi::PyFrame_GetCode(frame.as_ptr().cast()) };
            // SAFETY: a new reference, or null.
            let Some(code) = (unsafe { Bound::from_owned_ptr_or_opt(py, code.cast()) }) else {
                break;
            };
            frames.push((code.unbind(), instruction(&frame)));
            next = caller(&frame);
        }
        Self(frames)
    }

    /// Another one of the same frames.
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        let frames = self.0.iter();
        Self(frames.map(|(code, at)| (code.clone_ref(py), *at)).collect())
    }

    /// A list of pairs: code object, offset of the instruction in it.
    pub(crate) fn told<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pairs = self.0.iter().map(|(code, at)| {
            let pair: Bound<'py, PyTuple> = (code.bind(py), *at).into_pyobject(py)?;
            Ok(pair.into_any())
        });
        made::list(py, pairs.collect::<PyResult<_>>()?)
    }
}

/// The offset of the instruction that the frame is at.
#[cfg(not(Py_LIMITED_API))]
fn instruction(frame: &Bound<'_, PyAny>) -> c_int {
    // SAFETY: attached, with a living frame.
    unsafe { ffi::PyFrame_GetLasti(frame.as_ptr().cast()) }
}

/// The frame that called this one.
#[cfg(not(Py_LIMITED_API))]
fn caller<'py>(frame: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: attached, with a living frame.
    let caller = unsafe { ffi::PyFrame_GetBack(frame.as_ptr().cast()) };
    // SAFETY: a new reference, or null.
    unsafe { Bound::from_owned_ptr_or_opt(frame.py(), caller.cast()) }
}

#[cfg(Py_LIMITED_API)]
fn instruction(frame: &Bound<'_, PyAny>) -> c_int {
    let at = frame.getattr("f_lasti").and_then(|at| at.extract());
    at.unwrap_or(-1)
}

#[cfg(Py_LIMITED_API)]
fn caller<'py>(frame: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    frame
        .getattr("f_back")
        .ok()
        .filter(|caller| !caller.is_none())
}
