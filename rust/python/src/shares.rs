//! All the packets of a batch at once: their memory, kept by whoever gets an array, a column or a
//! pickle of it, and how few consecutive pieces of memory it is.
//!
//! ```text
//!   page    ░░[packet 0 ][packet 1 ]░░░░[packet 3]░░     page  ░░[packet 2]░░
//!              └─────── run 0 ──────┘    └ run 1 ┘                └ run 2 ┘
//! ```
//!
//! A run shows packets and the padding of their lines, never a byte of anybody else: what is
//! exported as a whole (a column written to a file, a pickle sent to another machine) tells nothing
//! but the batch. Packets lie side by side when the kernel had joined them, when they were moved
//! together (`copybreak`), and when the buffers are hardly larger than they are.

use crate::memory::{Memory, drop_many};

/// Longest run: offsets in it are 32-bit numbers with a sign in Arrow.
const LONGEST: usize = i32::MAX as usize;

/// Consecutive memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first: *const u8,
    pub(crate) len: usize,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spot {
    pub(crate) run: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// Shared memory of packets. May be dropped on any thread, with or without an interpreter.
pub(crate) struct Shares {
    /// Keeps what the others point to.
    memory: Vec<Memory>,
    runs: Vec<Run>,
    /// One for each packet.
    spots: Vec<Spot>,
}

// SAFETY: `Memory` is both; the pointers of the runs are only ever read through, and what they
// point to stays as long as `memory`, which does not change.
unsafe impl Send for Shares {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shares {}

impl Shares {
    /// One locked add for each packet was paid by who shared them; this sorts them by address.
    pub(crate) fn of(memory: Vec<Memory>) -> Self {
        let mut order: Vec<usize> = (0..memory.len())
            .filter(|&nth| !memory[nth].is_empty())
            .collect();
        order.sort_unstable_by_key(|&nth| memory[nth].as_ptr());
        let mut runs: Vec<Run> = Vec::new();
        let mut spots = vec![Spot::default(); memory.len()];
        // The page of the last run, and up to where it may go on.
        let (mut page, mut reach) = (0, 0);
        for nth in order {
            let packet = &memory[nth];
            let (first, len) = (packet.as_ptr().cast_const(), packet.len());
            if packet.page() != page || first.addr() > reach || !fits(runs.last(), first, len) {
                runs.push(Run { first, len: 0 });
                (page, reach) = (packet.page(), 0);
            }
            let number = runs.len() - 1;
            let run = &mut runs[number];
            let start = first.addr() - run.first.addr();
            run.len = run.len.max(start + len);
            reach = reach.max(first.addr() + packet.padded_len());
            spots[nth] = Spot {
                run: short(number),
                start: short(start),
                len: short(len),
            };
        }
        Self {
            memory,
            runs,
            spots,
        }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn spots(&self) -> &[Spot] {
        &self.spots
    }

    /// Where each packet starts, and how long it is.
    pub(crate) fn packets(&self) -> impl Iterator<Item = (*const u8, usize)> {
        self.memory
            .iter()
            .map(|packet| (packet.as_ptr().cast_const(), packet.len()))
    }
}

/// Whether the last run can be so long that it reaches the end of a packet.
fn fits(run: Option<&Run>, first: *const u8, len: usize) -> bool {
    run.is_some_and(|run| first.addr() - run.first.addr() <= LONGEST.saturating_sub(len))
}

/// A number that `LONGEST` bounds, or the number of packets, which memory does.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Drop for Shares {
    fn drop(&mut self) {
        drop_many(self.memory.drain(..));
    }
}
