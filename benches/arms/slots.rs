//! No allocator at all: slots that are written again and again.

use std::ptr::NonNull;

use super::Arm;
use crate::workload::{HANDOFF_SLOTS, LINE};

/// More slots than can be in flight.
const SLOTS: usize = 2 * HANDOFF_SLOTS;

/// The largest size that the hand-off bench asks for.
const MOST: usize = 2048;

/// Slots in a circle: what a hand-off costs when buffers cost nothing.
#[derive(Debug)]
pub struct Slots {
    memory: &'static mut [u8],
    next: usize,
}

/// The first byte of a slot.
#[derive(Debug)]
pub struct Slot(NonNull<u8>);

// SAFETY: a slot is used again only after twice as many as can be in flight.
unsafe impl Send for Slot {}

// SAFETY: slots lie one behind the other, and each comes again only after all
// others, when whoever had it is done.
unsafe impl Arm for Slots {
    type Buffer = Slot;
    type Counting = Self;
    const NAME: &'static str = "the ring alone";
    const MOST: usize = MOST;
    const ALIGNS: bool = true;

    fn start() -> Self {
        Self {
            // Slots outlive whoever started them; a run leaves 2 MiB behind.
            memory: vec![0; SLOTS * MOST].leak(),
            next: 0,
        }
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> Slot {
        let step = size.next_multiple_of(LINE);
        let start = self.next * step;
        self.next = (self.next + 1) % SLOTS;
        Slot(NonNull::from(&mut self.memory[start]))
    }

    #[inline]
    fn bytes(buffer: &mut Slot) -> NonNull<u8> {
        buffer.0
    }
}
