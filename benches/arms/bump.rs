//! `bumpalo`: an arena that is reset as a whole. It takes part only where all
//! buffers of a batch die together; it has no single free.
#![cfg(feature = "rivals")]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::Arm;
use crate::workload::PAGE;

/// An arena, reset after each batch.
#[derive(Debug)]
pub struct Bump(bumpalo::Bump);

/// A buffer that lives until the next reset.
#[derive(Debug)]
pub struct Bumped(NonNull<u8>);

// SAFETY: the bytes are reached through this handle only.
unsafe impl Send for Bumped {}

// SAFETY: the arena hands each byte out once between two resets, and the
// batch bench lets go of all buffers at the reset.
unsafe impl Arm for Bump {
    type Buffer = Bumped;
    type Counting = Self;
    const NAME: &'static str = "bumpalo, reset";

    fn start() -> Self {
        Self(bumpalo::Bump::with_capacity(PAGE))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> Bumped {
        let layout = Layout::from_size_align(size, 1).expect("a packet is small");
        Bumped(self.0.alloc_layout(layout))
    }

    #[inline]
    fn bytes(buffer: &mut Bumped) -> NonNull<u8> {
        buffer.0
    }

    #[inline]
    fn give_many(&mut self, taken: &mut Vec<Bumped>) {
        taken.clear();
        self.0.reset();
    }
}
