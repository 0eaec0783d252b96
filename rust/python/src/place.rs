//! Where a packet's bytes are: with the batch, or in the `Fragment` that was made of it.

use std::mem::replace;

use pyo3::prelude::*;

use crate::error::released;
use crate::fragment;
use crate::memory::Memory;
use crate::object::{self, This};

/// Where a packet's bytes are.
pub(crate) enum Place {
    /// Nobody has asked for it yet.
    Raw(Memory),
    /// Everybody who asks gets this `Fragment`.
    Made(Py<PyAny>),
    /// There was no memory for the object, and the bytes went with it.
    Lost,
}

impl Place {
    /// The `Fragment`; made now if it was not yet, read-only if the batch is.
    pub(crate) fn made<'py>(
        &mut self,
        py: Python<'py>,
        readonly: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Self::Made(made) = self {
            return Ok(made.bind(py).clone());
        }
        match replace(self, Self::Lost) {
            Self::Raw(memory) => {
                let made = object::make(py, memory, readonly)?;
                *self = Self::Made(made.clone().unbind());
                Ok(made)
            }
            _ => Err(released("fragment")),
        }
    }

    /// The memory for another holder; not of a fragment that was released.
    pub(crate) fn share(&self, py: Python<'_>) -> PyResult<Memory> {
        match self {
            Self::Raw(memory) => Ok(memory.share()),
            Self::Made(made) => {
                let this = This::cast(made.bind(py))?;
                Ok(fragment::enter(this)?.share())
            }
            Self::Lost => Err(released("fragment")),
        }
    }

    /// Bytes of memory that the packet has.
    pub(crate) fn footprint(&self, py: Python<'_>) -> usize {
        match self {
            Self::Raw(memory) => memory.footprint(),
            Self::Made(made) => This::cast(made.bind(py))
                .ok()
                .and_then(|this| this.body.gate.enter().ok())
                .map_or(0, |inside| inside.footprint()),
            Self::Lost => 0,
        }
    }
}

/// The packets' memory, as long as the batch has it.
pub(crate) struct Places {
    pub(crate) each: Vec<Place>,
    /// Whether somebody shares all of it and relies on nobody writing: fragments that are made
    /// from then on are read-only.
    pub(crate) frozen: bool,
}
