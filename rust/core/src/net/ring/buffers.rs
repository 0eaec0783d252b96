//! Buffers that wait for packets, in runs of neighbours.
//!
//! ```text
//!   run 1   [ buffer 2 ][ buffer 3 ][ buffer 4 ] ...     one fragment
//!   run 0   [ buffer 0 ][ buffer 1 ]                     the rest of one: warmest, used first
//! ```
//!
//! Buffers are carved as they come to lie, a page's worth at once, and a batch takes
//! them as they lie: a fragment for many packets, until somebody opens it.

use crate::geometry::{LINE, align_up};
use crate::mem::{FragMut, PageFragCache, drop_many};

/// Empty buffers. Message 0 goes to the first of the last run, and so on.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Each a whole number of buffers, `step` bytes apart.
    armed: Vec<FragMut>,
    /// Buffers in `armed`.
    count: usize,
    /// Runs that were emptied by copying, on their way back.
    again: Vec<FragMut>,
    /// Bytes of a buffer.
    size: usize,
    step: usize,
}

impl Buffers {
    /// None yet of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            armed: Vec::new(),
            count: 0,
            again: Vec::new(),
            size,
            step: align_up(size, LINE),
        }
    }

    /// Buffers that wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of a buffer.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Bytes from one buffer of a run to the next.
    pub(super) fn step(&self) -> usize {
        self.step
    }

    /// Takes up to `want` buffers, or as far as memory goes.
    pub(super) fn arm(&mut self, cache: &mut PageFragCache, want: usize) {
        while self.count < want
            && let Ok(run) = cache.alloc_run(self.step, want - self.count)
        {
            self.count += run.len() / self.step;
            self.armed.push(run);
        }
    }

    /// The buffers in the order of the messages.
    pub(super) fn slots(&self) -> impl Iterator<Item = &[u8]> {
        let runs = self.armed.iter().rev();
        runs.flat_map(|run| run.chunks_exact(self.step))
            .map(|slot| &slot[..self.size])
    }

    /// The same, for the kernel to write to.
    pub(super) fn slots_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (size, step) = (self.size, self.step);
        let runs = self.armed.iter_mut().rev();
        runs.flat_map(move |run| run.chunks_exact_mut(step))
            .map(move |slot| &mut slot[..size])
    }

    /// Takes off the first buffers, up to `most` that lie in one run.
    pub(super) fn take(&mut self, most: usize) -> Option<(FragMut, usize)> {
        let last = self.armed.last_mut()?;
        let there = last.len() / self.step;
        let run = if most < there {
            let rest = last.split_off(most * self.step);
            std::mem::replace(last, rest)
        } else {
            self.armed.pop()?
        };
        let count = most.min(there);
        self.count -= count;
        Some((run, count))
    }

    /// The first `count` buffers were emptied by copying.
    pub(super) fn reuse(&mut self, mut count: usize) {
        while count > 0
            && let Some((run, taken)) = self.take(count)
        {
            self.again.push(run);
            count -= taken;
        }
    }

    /// Nothing waits in buffers any more: those that were emptied are armed again.
    pub(super) fn settle(&mut self) {
        self.armed.append(&mut self.again);
        self.count = self.armed.iter().map(|run| run.len() / self.step).sum();
    }

    /// Gives back all but the first `kept`, if whole runs go.
    pub(super) fn give_back(&mut self, kept: usize) {
        let mut after = 0;
        let within = |run: &&FragMut| {
            let fits = after < kept;
            after += run.len() / self.step;
            fits
        };
        let stay = self.armed.iter().rev().take_while(within).count();
        drop_many(self.armed.drain(..self.armed.len() - stay));
        self.count = self.armed.iter().map(|run| run.len() / self.step).sum();
    }

    /// Gives back what is not of the `waiting` messages, which have the first.
    pub(super) fn drain(&mut self, waiting: usize) {
        drop_many(self.again.drain(..));
        self.give_back(waiting);
        // The rest of the last run that stays.
        let beyond = self.count.saturating_sub(waiting);
        if let Some(run) = self.armed.first_mut()
            && beyond > 0
        {
            run.shrink_to(run.len() - beyond * self.step);
            self.count = waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PagePool;

    fn starts(buffers: &Buffers) -> Vec<usize> {
        buffers.slots().map(|slot| slot.as_ptr().addr()).collect()
    }

    #[test]
    fn a_page_of_buffers_is_one_run_and_is_taken_as_it_lies() {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let mut buffers = Buffers::new(2000);
        buffers.arm(&mut cache, 40);
        assert_eq!((buffers.len(), buffers.armed.len()), (40, 3));
        let all = starts(&buffers);
        assert_eq!(all.len(), 40);
        assert!(buffers.slots().all(|slot| slot.len() == 2000));
        let written: Vec<_> = buffers
            .slots_mut()
            .map(|slot| slot.as_ptr().addr())
            .collect();
        assert_eq!(written, all);
        let (first, count) = buffers.take(5).unwrap();
        assert_eq!((first.as_ptr().addr(), count), (all[0], 5));
        assert_eq!(first.capacity(), 5 * 2048);
        let (rest, count) = buffers.take(64).unwrap();
        assert_eq!((rest.as_ptr().addr(), count), (all[5], 8 - 5));
        assert_eq!(starts(&buffers), all[8..]);
        buffers.reuse(20);
        assert_eq!(starts(&buffers), all[28..]);
        buffers.settle();
        assert_eq!(buffers.len(), 32);
        drop((first, rest, buffers));
        assert_eq!(pool.stats().live_bytes, 0);
    }

    #[test]
    fn what_waits_stays_through_a_drain() {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let mut buffers = Buffers::new(2048);
        buffers.arm(&mut cache, 40);
        let all = starts(&buffers);
        buffers.reuse(3);
        buffers.drain(20);
        assert_eq!(starts(&buffers), all[3..23]);
        assert_eq!((buffers.len(), pool.stats().live_bytes), (20, 20 * 2048));
        buffers.give_back(20);
        assert_eq!(buffers.len(), 20);
        buffers.drain(0);
        assert_eq!((buffers.len(), pool.stats().live_bytes), (0, 0));
    }

    #[test]
    fn buffers_of_a_page_each_are_runs_of_one() {
        let pool = PagePool::new(4096).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let mut buffers = Buffers::new(4096);
        buffers.arm(&mut cache, 5);
        assert_eq!((buffers.len(), buffers.armed.len()), (5, 5));
    }
}
