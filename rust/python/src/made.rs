//! Python's own objects, made so that a lack of memory is a `MemoryError`.
//!
//! `PyO3`'s constructors of numbers, strings and bytes panic when the interpreter has no memory for
//! them. In a method that would be a `PanicException`, which nobody expects; in a slot that `PyO3`
//! does not know of, the end of the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

/// What is set when there is no memory, without asking for any.
#[cold]
pub(crate) fn no_memory(py: Python<'_>) -> PyErr {
    // SAFETY: attached.
    unsafe { ffi::PyErr_NoMemory() };
    PyErr::fetch(py)
}

/// Runs what may panic in one of `PyO3`'s constructors; that is a `MemoryError` then.
pub(crate) fn guarded<R>(py: Python<'_>, how: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    // What `how` leaves half done is the caller's to see to: it holds no lock of ours.
    catch_unwind(AssertUnwindSafe(how)).unwrap_or_else(|_| Err(no_memory(py)))
}

pub(crate) fn number(py: Python<'_>, number: usize) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached.
    let made = unsafe { ffi::PyLong_FromSize_t(number) };
    // SAFETY: a new reference, or null with the error set.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

pub(crate) fn text<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, with so many bytes of UTF-8.
    let made =
        unsafe { ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len().cast_signed()) };
    // SAFETY: a new reference, or null with the error set.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

/// An empty dictionary.
pub(crate) fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: attached.
    let made = unsafe { ffi::PyDict_New() };
    // SAFETY: a new reference, or null with the error set.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, made) }?;
    // SAFETY: that function makes nothing else.
    Ok(unsafe { made.cast_into_unchecked() })
}

/// # Safety
/// - `len` bytes can be read at `memory`.
pub(crate) unsafe fn bytes(
    py: Python<'_>,
    memory: *const u8,
    len: usize,
) -> PyResult<Bound<'_, PyBytes>> {
    // SAFETY: attached, and the contract.
    let made = unsafe { ffi::PyBytes_FromStringAndSize(memory.cast(), len.cast_signed()) };
    // SAFETY: a new reference, or null with the error set.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, made) }?;
    // SAFETY: that function makes nothing else.
    Ok(unsafe { made.cast_into_unchecked() })
}

/// `slice(start, stop)`.
pub(crate) fn slice(py: Python<'_>, start: usize, stop: usize) -> PyResult<Bound<'_, PyAny>> {
    let (start, stop) = (number(py, start)?, number(py, stop)?);
    // SAFETY: attached, with two numbers that live; no step is 1.
    let made = unsafe { ffi::PySlice_New(start.as_ptr(), stop.as_ptr(), null_mut()) };
    // SAFETY: a new reference, or null with the error set.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

/// A number that a method returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) usize);

impl<'py> IntoPyObject<'py> for Number {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        number(py, self.0)
    }
}

/// A string that a method returns.
#[derive(Debug)]
pub(crate) struct Text(pub(crate) String);

impl<'py> IntoPyObject<'py> for Text {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        text(py, &self.0)
    }
}

/// What a module of Python has under `name`.
pub(crate) fn imported<'py>(
    py: Python<'py>,
    module: &str,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    guarded(py, || py.import(module)?.getattr(name))
}

/// What `function` of a module of Python makes of `args`.
pub(crate) fn called<'py>(
    py: Python<'py>,
    (module, function): (&str, &str),
    args: impl IntoPyObject<'py, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    let function = imported(py, module, function)?;
    // The call is not guarded: a panic of ours further down is no lack of memory.
    let args = guarded(py, || args.into_pyobject(py))?;
    function.call1(args)
}

/// A list of these.
pub(crate) fn list<'py>(
    py: Python<'py>,
    items: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    guarded(py, || PyList::new(py, items))
}

/// A tuple of these.
pub(crate) fn tuple<'py>(
    py: Python<'py>,
    items: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    guarded(py, || PyTuple::new(py, items))
}
