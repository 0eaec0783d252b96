//! Numbers that Python hands us: what is accepted, and what is said about the rest.
//!
//! An argument may be any object with `__index__`, except `bool`: a size of `True` is a mistake
//! that would otherwise cost one line of memory and an afternoon. `__index__` runs code of the
//! user's, which may release fragments, drain caches or call us again; so all arguments are read
//! before anything is looked at or carved.

use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::error;

/// A whole number of at least 0. `TypeError` for what is not one, `ValueError` below 0,
/// `OverflowError` from `2**63`.
pub(crate) fn whole(number: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    if number.is_instance_of::<PyBool>() {
        return Err(error::kind(&format!("{name} must be an integer, not bool")));
    }
    let number: isize = number.extract()?;
    usize::try_from(number).map_err(|_| error::value(&format!("{name} must not be negative")))
}

/// [`whole`] for an argument with a default: given or not, `None` is no number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole(pub(crate) usize);

impl<'a, 'py> FromPyObject<'a, 'py> for Whole {
    type Error = PyErr;

    fn extract(number: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        whole(&number, "the number").map(Self)
    }
}

/// [`whole`] for arguments with a default, by their names: `#[pyo3(from_py_with = args::align)]`.
macro_rules! named {
    ($($name:ident),*) => {
        $(pub(crate) fn $name(number: &Bound<'_, PyAny>) -> PyResult<usize> {
            whole(number, stringify!($name))
        })*
    };
}

named!(align, budget, granule, page_size);

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
