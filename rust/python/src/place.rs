//! Where a packet's bytes are: with the batch, or in the `Fragment` that was made of it.

use std::mem::take;

use pagefrag::net::{RxFacts, RxFrags};
use pagefrag::{FragMut, LocalCache};
use pyo3::prelude::*;

use crate::gate::Refusal;
use crate::locked::{Known, Refused};
use crate::memory::Memory;
use crate::object::{self, This};

/// Where a packet's bytes are.
pub(crate) enum Place {
    /// Nobody has asked for it yet. `None` on its way into a `Fragment`, which nobody sees: a lock
    /// is held for that long.
    Raw(Option<Memory>),
    /// Everybody who asks gets this `Fragment`.
    Made(Py<PyAny>),
}

impl Place {
    /// The `Fragment`; made now if it was not yet, read-only if the batch is.
    pub(crate) fn made<'py>(
        &mut self,
        py: Python<'py>,
        readonly: bool,
    ) -> Result<Bound<'py, PyAny>, Refused> {
        let memory = match self {
            Self::Raw(memory) => memory,
            Self::Made(made) => return Ok(made.bind(py).clone()),
        };
        let bytes = || memory.take().expect("it is asked for once, and then made");
        let made = object::try_make_with(py, bytes, readonly).ok_or(Refused::Raised)?;
        *self = Self::Made(made.clone().unbind());
        Ok(made)
    }

    /// Has nobody asked for it yet?
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    /// The memory for another holder; not of a fragment that was released.
    fn share(&self, py: Python<'_>) -> Result<Memory, Refused> {
        match self {
            Self::Raw(memory) => memory
                .as_ref()
                .map(Memory::share)
                .ok_or(Refused::Fragment(Refusal::Shut)),
            Self::Made(made) => {
                let refusal = match This::cast(made.bind(py)) {
                    Ok(this) => match this.body.gate.enter() {
                        Ok(inside) => return Ok(inside.share()),
                        Err(refusal) => refusal,
                    },
                    Err(_) => Refusal::Shut,
                };
                Err(Refused::Fragment(refusal))
            }
        }
    }

    /// Bytes of memory that the packet has.
    fn footprint(&self, py: Python<'_>) -> usize {
        match self {
            Self::Raw(memory) => memory.as_ref().map_or(0, Memory::footprint),
            Self::Made(made) => This::cast(made.bind(py))
                .ok()
                .and_then(|this| this.body.gate.enter().ok())
                .map_or(0, |inside| inside.footprint()),
        }
    }
}

/// The packets' memory, as long as the batch has it.
pub(crate) struct Places {
    each: Each,
    /// Whether somebody shares all of it and relies on nobody writing: fragments that are made
    /// from then on are read-only.
    pub(crate) frozen: bool,
}

impl Known for Places {
    const NOUN: &'static str = "batch";
}

enum Each {
    /// As it was received, and where fragments come from: nobody has asked for any of it yet.
    Fresh(RxFrags, LocalCache),
    Opened(Vec<Place>),
}

impl Places {
    pub(crate) fn fresh(frags: RxFrags, cache: LocalCache) -> Self {
        Self {
            each: Each::Fresh(frags, cache),
            frozen: false,
        }
    }

    /// Memory that others hold too.
    pub(crate) fn shared(memory: impl Iterator<Item = Memory>) -> Self {
        Self {
            each: Each::Opened(memory.map(|memory| Place::Raw(Some(memory))).collect()),
            frozen: true,
        }
    }

    /// Sees to it that every packet has a place of its own. What lay where it landed has been
    /// moved then: where to is told by page and offset. May allocate for the calling thread.
    pub(crate) fn open(&mut self, facts: &RxFacts) -> Option<Box<[(usize, u32)]>> {
        let Each::Fresh(frags, cache) = &mut self.each else {
            return None;
        };
        let frags = take(frags);
        let moves = frags.is_landed();
        let frags = cache.with(|cache| frags.open(cache, facts));
        let moved = moves.then(|| {
            let spot = |frag: &FragMut| (frag.page(), u32::try_from(frag.offset()).unwrap_or(0));
            frags.iter().map(spot).collect()
        });
        let places = frags.into_iter().map(FragMut::into_raw);
        self.each = Each::Opened(places.map(|raw| Place::Raw(Some(raw.into()))).collect());
        moved
    }

    /// A place for each packet; none before it was opened.
    pub(crate) fn each(&mut self) -> &mut [Place] {
        match &mut self.each {
            Each::Opened(each) => each,
            Each::Fresh(..) => &mut [],
        }
    }

    /// The memory of each packet for another holder.
    pub(crate) fn shares(&mut self, py: Python<'_>) -> Result<Vec<Memory>, Refused> {
        self.each().iter().map(|place| place.share(py)).collect()
    }

    /// The places if there are any; without, the memory goes back.
    pub(crate) fn into_each(self) -> Vec<Place> {
        match self.each {
            Each::Opened(each) => each,
            Each::Fresh(..) => Vec::new(),
        }
    }

    /// Bytes of memory that the packets have, and of what tells where.
    pub(crate) fn footprint(&self, py: Python<'_>) -> usize {
        match &self.each {
            Each::Fresh(frags, _) => frags.footprint(),
            Each::Opened(each) => {
                let lines: usize = each.iter().map(|place| place.footprint(py)).sum();
                lines + size_of_val(&each[..])
            }
        }
    }
}
