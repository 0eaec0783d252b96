//! What a transmit ring holds of a Python object until the kernel has its bytes.
//!
//! An object is held as an exported buffer is: it may be read and written, but what would move or
//! free its memory is refused with `BufferError` meanwhile.

use std::ptr;

use pagefrag::Frag;
use pagefrag::net::Payload;
use pyo3::ffi::PyObject_CheckBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::batch::Batch;
use crate::buffer::Lent;
use crate::error::in_use;
use crate::fragment::KeptFragment;
use crate::memory::Memory;
use crate::object::This;
use crate::skb::{KeptSkb, SkBuff};
use crate::tracking;

/// Whatever keeps the bytes where they are.
#[allow(dead_code)] // held, not looked at
enum Owner {
    Bytes(Py<PyBytes>),
    /// A packet of a batch.
    Packet(Memory),
    Fragment(KeptFragment),
    Skb(KeptSkb),
    Other(Lent),
}

/// One datagram's bytes. Dropped while attached, and with no lock held: it may run Python code.
pub(crate) struct Held {
    /// Invariant: readable as long as `_owner` lives.
    linear: *const [u8],
    /// What an skb has behind its linear part.
    frags: Vec<Frag>,
    _owner: Owner,
}

// SAFETY: all parts but the pointer are `Send`, and that is followed only while the owner lives,
// which keeps the memory on whichever thread the value is.
unsafe impl Send for Held {}

impl Held {
    /// Holds a `Fragment`, an `SkBuff` or any object with consecutive bytes. `TypeError` without
    /// buffers, `ValueError` after release, `BufferError` when the bytes are not consecutive.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut frags = Vec::new();
        let (linear, owner) = if let Some(this) = This::of(object) {
            let (kept, linear) = KeptFragment::of(this)?;
            if this.has_weak() {
                tracking::sent(this, linear.cast::<u8>().addr());
            }
            (linear, Owner::Fragment(kept))
        } else if let Ok(skb) = object.cast_exact::<SkBuff>() {
            let (kept, linear, behind) = KeptSkb::of(skb)?;
            SkBuff::touched(skb, "send");
            frags = behind;
            (linear, Owner::Skb(kept))
        } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            let linear = ptr::from_ref(bytes.as_bytes());
            (linear, Owner::Bytes(bytes.clone().unbind()))
        } else {
            let lent = Lent::consecutive(object)?
                .ok_or_else(|| in_use("a datagram's bytes must be consecutive"))?;
            (lent.memory(), Owner::Other(lent))
        };
        Ok(Self {
            linear,
            frags,
            _owner: owner,
        })
    }

    /// Shares the memory of a packet.
    fn packet(memory: Memory) -> Self {
        Self {
            linear: ptr::slice_from_raw_parts(memory.as_ptr().cast_const(), memory.len()),
            frags: Vec::new(),
            _owner: Owner::Packet(memory),
        }
    }

    /// Holds one buffer, or each of several. The packets of a `Batch` are shared as they lie in it,
    /// without an object for each.
    pub(crate) fn all(buffers: &Bound<'_, PyAny>) -> PyResult<Vec<Self>> {
        if let Ok(batch) = buffers.cast_exact::<Batch>() {
            let parts = batch.get().parts(buffers.py())?;
            return Ok(parts.into_iter().map(Self::packet).collect());
        }
        // SAFETY: attached, and a living object.
        if unsafe { PyObject_CheckBuffer(buffers.as_ptr()) } != 0 {
            return Ok(vec![Self::of(buffers)?]);
        }
        let mut held = Vec::with_capacity(buffers.len().unwrap_or(0));
        for buffer in buffers.try_iter()? {
            held.push(Self::of(&buffer?)?);
        }
        Ok(held)
    }
}

// SAFETY: point by point:
// - the owner keeps the linear part, and the fragments are shared, so both can be read;
// - neither field changes.
unsafe impl Payload for Held {
    fn pieces(&self) -> impl Iterator<Item = *const [u8]> {
        let behind = self.frags.iter().map(|frag| ptr::from_ref(&frag[..]));
        std::iter::once(self.linear).chain(behind)
    }
}
