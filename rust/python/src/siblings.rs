//! Caches found by their pool: where the copy of a fragment, or the new head of a packet, comes from
//! when no cache is named.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use pagefrag::{FragMut, LocalCache, PagePool, RawFrag, WeakLocalCache};
use pyo3::prelude::*;

use crate::error::from_core;
use crate::thread_end;

/// The cache that was made last over each pool, by the pool's number. Locked only while attached.
static LAST: LazyLock<Mutex<HashMap<usize, WeakLocalCache>>> = LazyLock::new(Mutex::default);

/// Remembers a new cache, for copies of fragments of its pool.
pub(crate) fn remember(cache: &LocalCache) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.len() == last.capacity() {
        last.retain(|_, known| known.upgrade().is_some());
    }
    last.insert(cache.pool().id(), cache.downgrade());
}

/// A cache over this pool, if one is left.
pub(crate) fn over(pool: &PagePool) -> Option<LocalCache> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let known = last.get(&pool.id()).and_then(WeakLocalCache::upgrade);
    drop(last);
    // A number may be another pool's by now.
    known.filter(|cache| cache.pool().same_as(pool))
}

/// `size` bytes from the pool of `original`; `None` if no cache over it is left.
pub(crate) fn alloc(py: Python<'_>, original: &RawFrag, size: usize) -> PyResult<Option<FragMut>> {
    let Some(cache) = over(&PagePool::of(original)) else {
        return Ok(None);
    };
    thread_end::watch(py)?;
    cache.alloc(size).map(Some).map_err(from_core)
}
