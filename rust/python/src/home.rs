//! Where memory comes from when no cache is named: the calling thread's cache of the default pool.

use std::sync::LazyLock;

use pagefrag::{Error, FragMut, Granule, LocalCache, PagePool};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cache::PageFragCache;
use crate::error::from_core;
use crate::{siblings, thread_end};

static DEFAULT: LazyLock<LocalCache> =
    LazyLock::new(|| LocalCache::new(PagePool::global(), Granule::Line));

/// For copies of fragments that are longer than a default page.
fn largest() -> Result<&'static LocalCache, Error> {
    static LARGEST: std::sync::OnceLock<LocalCache> = std::sync::OnceLock::new();
    if let Some(cache) = LARGEST.get() {
        return Ok(cache);
    }
    let pool = PagePool::new(pagefrag::MAX_PAGE)?;
    Ok(LARGEST.get_or_init(|| LocalCache::new(&pool, Granule::Line)))
}

/// The `cache` of a call that has this one argument, by name.
pub(crate) fn asked_for<'py>(
    args: &Bound<'py, PyAny>,
    named: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PageFragCache>>> {
    if !args.cast::<PyTuple>()?.is_empty() {
        return Err(PyTypeError::new_err("copy() takes no positional arguments"));
    }
    let mut cache = None;
    for (name, value) in named
        .map(|named| named.cast::<PyDict>())
        .transpose()?
        .into_iter()
        .flatten()
    {
        if name.extract::<&str>()? != "cache" {
            return Err(PyTypeError::new_err(format!(
                "copy() got an unexpected keyword argument {name}"
            )));
        }
        if !value.is_none() {
            cache = Some(value.cast_into::<PageFragCache>()?);
        }
    }
    Ok(cache)
}

/// `size` bytes from this cache, or from the default one.
pub(crate) fn alloc(
    py: Python<'_>,
    cache: Option<&Bound<'_, PageFragCache>>,
    size: usize,
) -> PyResult<FragMut> {
    thread_end::watch(py)?;
    let found = match cache {
        Some(cache) => cache.get().core.alloc(size),
        None if size <= DEFAULT.pool().page_size() => DEFAULT.alloc(size),
        None => largest().and_then(|cache| cache.alloc(size)),
    };
    found.map_err(from_core)
}

/// `size` bytes of this pool: from the newest cache over it, or from one for this once. Runs no Python
/// code.
pub(crate) fn alloc_of(pool: &PagePool, size: usize) -> Result<FragMut, Error> {
    if pool.same_as(PagePool::global()) {
        return DEFAULT.alloc(size);
    }
    if let Some(cache) = siblings::over(pool) {
        return cache.alloc(size);
    }
    let cache = LocalCache::new(pool, Granule::Line);
    let found = cache.alloc(size);
    cache.drain();
    found
}
