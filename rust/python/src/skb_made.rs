//! How a packet begins: around a fragment, or allocated by one of the contexts.

use pagefrag::{Error, FragMut, net};
use pyo3::prelude::*;

use crate::error::from_core;
use crate::fragment;
use crate::object::This;
use crate::skb::SkBuff;
use crate::tracking::{self, Holds, Sampler};

/// Makes a packet of a whole fragment, which is released by it.
///
/// The room for the kernel's shared info, 320 bytes, is taken off its end. `BufferError` while
/// views of the fragment exist, `ValueError` if it is too short or shares its memory.
///
/// >>> skb = build_skb(netdev_alloc_frag(2048))
/// >>> skb.headroom, skb.tailroom
/// (0, 1728)
#[pyfunction]
pub(crate) fn build_skb<'py>(fragment: &Bound<'py, PyAny>) -> PyResult<Bound<'py, SkBuff>> {
    let this = This::cast(fragment)?;
    // First, as there may be no memory for it: from there on nothing is in the way.
    let skb = Bound::new(fragment.py(), SkBuff::empty())?;
    if fragment::enter(this)?.len() <= net::SKB_SHARED_INFO {
        return Err(from_core(Error::HeadTooSmall));
    }
    let raw = fragment::take_unique(this)?;
    let place = raw.as_ptr().addr();
    // SAFETY: unique, as `take_unique` has checked with nobody inside.
    let head = unsafe { FragMut::from_raw(raw) };
    let core = net::SkBuff::build(head).map_err(|(error, _)| from_core(error))?;
    skb.get().give(core);
    if this.has_weak() {
        SkBuff::shares(&skb, fragment, &[place], "build_skb");
    }
    Ok(skb)
}

/// The object of a packet that was just allocated with room for `length` bytes, and counted if the
/// pool is tracked.
pub(crate) fn made<'py>(
    py: Python<'py>,
    core: net::SkBuff,
    length: usize,
    sampler: Option<&Sampler>,
) -> PyResult<Bound<'py, SkBuff>> {
    // One head, with no data in it yet and the room for the shared info at its end.
    let head = core.data().as_ptr().addr() - core.headroom();
    let memory = head..head + core.headroom() + core.tailroom() + net::SKB_SHARED_INFO;
    let skb = Bound::new(py, SkBuff::new(core))?;
    if let Some(pool) = sampler.and_then(|sampler| sampler.counted(py)) {
        skb.get().track();
        let party = (skb.as_any(), SkBuff::holds as Holds);
        tracking::born_as(party, pool, memory, length, "alloc");
    }
    Ok(skb)
}
