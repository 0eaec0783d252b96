//! Numbers that Python hands us: what is accepted, and what is said about the rest.
//!
//! An argument may be any object with `__index__`, except `bool`: a size of `True` is a mistake
//! that would otherwise cost one line of memory and an afternoon. `__index__` runs code of the
//! user's, which may release fragments, drain caches or call us again; so all arguments are read
//! before anything is looked at or carved.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::{error, made};

/// A whole number of at least 0. `TypeError` for what is not one, `ValueError` below 0,
/// `OverflowError` from `2**63`.
pub(crate) fn whole(number: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    if number.is_instance_of::<PyBool>() {
        return Err(error::kind(&format!("{name} must be an integer, not bool")));
    }
    let number: isize = number.extract()?;
    usize::try_from(number).map_err(|_| error::value(&format!("{name} must not be negative")))
}

/// An argument as it came, good or bad, for the door to [`read`](Self::read). To an error that
/// `PyO3` finds by itself it adds a note, and when there is no memory for that the process ends.
pub(crate) struct Given<T>(PyResult<T>);

impl<T> Given<T> {
    /// What an argument is when it is not given.
    pub(crate) const fn default(value: T) -> Self {
        Self(Ok(value))
    }

    pub(crate) fn read(self) -> PyResult<T> {
        self.0
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<bool> {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = given.py();
        Ok(Self(made::guarded(py, || {
            given.extract().inspect_err(|error: &PyErr| {
                error.value(py); // makes the text while a lack of memory can still be told
            })
        })))
    }
}

/// [`whole`] for arguments with a default, by their names: `#[pyo3(from_py_with = args::align)]`.
/// Given or not: `None` is no number.
macro_rules! named {
    ($($name:ident),*) => {
        $(#[allow(clippy::unnecessary_wraps, reason = "PyO3 wants it")]
        pub(crate) fn $name(number: &Bound<'_, PyAny>) -> PyResult<Given<usize>> {
            Ok(Given(whole(number, stringify!($name))))
        })*
    };
}

named!(
    align, buf_size, budget, copybreak, granule, max, page_size, slots
);

/// Seconds to wait, `None` for ever: `#[pyo3(from_py_with = args::timeout)]`. What is negative or
/// no number at all is refused by who makes a deadline of it.
#[allow(clippy::unnecessary_wraps, reason = "PyO3 wants it")]
pub(crate) fn timeout(seconds: &Bound<'_, PyAny>) -> PyResult<Given<Option<f64>>> {
    if seconds.is_none() {
        return Ok(Given::default(None));
    }
    let found = seconds.extract::<f64>().map(Some);
    Ok(Given(found.map_err(|error| {
        let ours = error.is_instance_of::<PyTypeError>(seconds.py());
        let told = || error::kind("timeout must be a number of seconds or None");
        if ours { told() } else { error }
    })))
}

/// [`whole`], or the given default when the argument is missing.
pub(crate) fn whole_or(
    number: Option<&Bound<'_, PyAny>>,
    name: &str,
    default: usize,
) -> PyResult<usize> {
    number.map_or(Ok(default), |number| whole(number, name))
}

/// Whether an alignment is a power of two up to the page size, and a size is between 1 and the
/// page size. The core says the same; this is for doors whose core answers with a bare `None`.
pub(crate) fn fits(size: usize, align: usize, page_size: usize) -> PyResult<()> {
    use crate::error::from_core;
    if size == 0 {
        return Err(from_core(pagefrag::Error::ZeroSize));
    }
    if size > page_size {
        return Err(from_core(pagefrag::Error::SizeAbovePage));
    }
    if !align.is_power_of_two() || align > page_size {
        return Err(from_core(pagefrag::Error::BadAlignment));
    }
    Ok(())
}
