//! Where super-buffers land that stay where they landed.
//!
//! When the last super-buffer was large, the next one lands in memory of the pool,
//! in two parts that end between two segments, if it is like the last:
//!
//! ```text
//!   message 0   [ 27 of 1200 ░][ 27 of 1200 ░][ slot 0 of the landing ]
//!   message 1   [ 27 of 1200 ░][ 27 of 1200 ░][ slot 1 of the landing ]
//! ```
//!
//! Then a batch takes the parts as they are, and nothing is done for a single
//! packet until somebody opens it. A message that is not as expected is copied out,
//! as out of any buffer, and its parts are used again. That is also what happens to
//! one that would fill its parts by less than three quarters: a batch that nobody
//! opens never holds more than a third above its packets.

use super::landing::SLOT;
use crate::mem::{FragMut, PageFragCache, drop_many};

/// Bytes of a part.
const PART: usize = SLOT / 2;

/// Parts of a message.
const PARTS: usize = 2;

/// Memory for super-buffers that stay.
#[derive(Debug, Default)]
pub(super) struct Berths {
    /// Whole parts, two for each message; the last two are of the first that is not
    /// handed out.
    armed: Vec<FragMut>,
    /// Parts that were emptied by copying, on their way back.
    again: Vec<FragMut>,
    /// Bytes of a segment that messages of this call were expected to have.
    step: usize,
}

impl Berths {
    /// How many parts messages of `wire_len` bytes in segments of `step` would stay in;
    /// `None` if they are better copied out.
    pub(super) fn parts_for(wire_len: usize, step: usize, page_size: usize) -> Option<usize> {
        if page_size < PART || step == 0 || step > PART {
            return None;
        }
        let parts = wire_len.div_ceil(room(step));
        (parts <= PARTS && 4 * wire_len >= 3 * parts * PART).then_some(parts)
    }

    /// Takes memory for up to `want` messages in segments of `step`. Returns for how many
    /// there is some.
    pub(super) fn arm(&mut self, cache: &mut PageFragCache, want: usize, step: usize) -> usize {
        self.step = step;
        while self.armed.len() < PARTS * want
            && let Ok(part) = cache.alloc(PART)
        {
            self.armed.push(part);
        }
        want.min(self.armed.len() / PARTS)
    }

    /// The parts of each message, for the kernel to write to.
    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = [&mut [u8]; PARTS]> {
        let room = room(self.step);
        let mut parts = self.armed.iter_mut().rev();
        std::iter::from_fn(move || {
            let (first, second) = (parts.next()?, parts.next()?);
            Some([&mut first[..room], &mut second[..room]])
        })
    }

    /// Bytes that a message has in its parts at most.
    pub(super) fn room(&self) -> usize {
        PARTS * room(self.step)
    }

    /// The parts of the message that is being handed out.
    pub(super) fn parts(&self) -> [&[u8]; PARTS] {
        let room = room(self.step);
        match &self.armed[..] {
            [.., second, first] => [&first[..room], &second[..room]],
            _ => [&[], &[]],
        }
    }

    /// The parts of a message that stays, each with the bytes in it; `None` if it is
    /// not as expected. Takes the message off.
    pub(super) fn keep(
        &mut self,
        wire_len: usize,
        step: usize,
        page_size: usize,
    ) -> Option<impl Iterator<Item = (FragMut, usize)>> {
        let parts = Self::parts_for(wire_len, step, page_size)?;
        if step != self.step || self.armed.len() < PARTS {
            return None;
        }
        let room = room(step);
        let first = self.armed.pop().map(|part| (part, room.min(wire_len)));
        let second = self.armed.pop().and_then(|part| {
            if parts == PARTS {
                Some((part, wire_len - room))
            } else {
                self.again.push(part);
                None
            }
        });
        Some(first.into_iter().chain(second))
    }

    /// Has the only packet of the message that is being handed out, of `len` bytes, all of
    /// them in the first part?
    pub(super) fn could_keep_lone(&self, len: usize) -> bool {
        len <= room(self.step) && self.armed.len() >= PARTS
    }

    /// That packet where it landed, and no more: what is behind it is free at once. Takes
    /// the message off.
    pub(super) fn keep_lone(&mut self, len: usize) -> Option<FragMut> {
        let mut first = self.armed.pop()?;
        self.again.extend(self.armed.pop());
        first.shrink_to(len.max(1));
        Some(first)
    }

    /// The message that is being handed out was copied out of its parts.
    pub(super) fn leave(&mut self) {
        let left = self.armed.len().saturating_sub(PARTS);
        self.again.extend(self.armed.drain(left..));
    }

    /// Nothing waits any more: keeps memory for `messages` and gives the other back.
    /// Did it give back any?
    pub(super) fn settle(&mut self, messages: usize) -> bool {
        self.armed.append(&mut self.again);
        self.give_back(0, PARTS * messages)
    }

    /// Gives back what is not of the `waiting` messages.
    pub(super) fn drain(&mut self, waiting: usize) {
        drop_many(self.again.drain(..));
        self.give_back(PARTS * waiting, 0);
    }

    /// Gives back all but the last `last` and `more` others.
    fn give_back(&mut self, last: usize, more: usize) -> bool {
        let excess = self.armed.len().saturating_sub(last + more);
        drop_many(self.armed.drain(..excess));
        excess > 0
    }
}

/// Bytes of a part that whole segments take.
fn room(step: usize) -> usize {
    PART / step.clamp(1, PART) * step.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PagePool;

    #[test]
    fn full_super_buffers_stay_and_half_empty_ones_do_not() {
        let page = 32 * 1024;
        assert_eq!(Berths::parts_for(54 * 1200, 1200, page), Some(2));
        assert_eq!(Berths::parts_for(44 * 1472, 1472, page), Some(2));
        assert_eq!(Berths::parts_for(64 * 512, 512, page), Some(1));
        assert_eq!(Berths::parts_for(27 * 1200, 1200, page), Some(1));
        assert_eq!(Berths::parts_for(28 * 1200, 1200, page), None);
        assert_eq!(Berths::parts_for(64 * 100, 100, page), None);
        assert_eq!(Berths::parts_for(65_507, 9000, page), None, "three parts");
        assert_eq!(Berths::parts_for(54 * 1200, 1200, 16 * 1024), None);
        for step in [0, usize::MAX, PART + 1] {
            assert_eq!(Berths::parts_for(60_000, step, page), None);
        }
    }

    #[test]
    fn a_message_that_stays_takes_its_parts_along() {
        let pool = PagePool::new(PART).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let mut berths = Berths::default();
        assert_eq!(berths.arm(&mut cache, 2, 1200), 2);
        assert_eq!(berths.room(), 54 * 1200);
        let first: Vec<_> = berths.parts_mut().map(|[part, _]| part.as_ptr()).collect();
        assert!(
            berths.keep(54 * 1200, 1000, PART).is_none(),
            "not like that"
        );
        let kept: Vec<_> = berths.keep(50 * 1200, 1200, PART).unwrap().collect();
        let lens: Vec<_> = kept.iter().map(|(_, len)| *len).collect();
        assert_eq!(lens, [27 * 1200, 23 * 1200]);
        assert_eq!(kept[0].0.as_ptr(), first[0]);
        assert_eq!(berths.parts()[0].as_ptr(), first[1], "the next is in front");
        let kept: Vec<_> = berths.keep(27 * 1200, 1200, PART).unwrap().collect();
        assert_eq!(kept.len(), 1, "the other part is used again");
        assert!(!berths.settle(1));
        assert!(berths.settle(0));
        assert_eq!(pool.stats().live_bytes, 3 * PART as u64, "those kept");
    }

    #[test]
    fn what_waits_stays_through_a_drain() {
        let pool = PagePool::new(PART).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let mut berths = Berths::default();
        berths.arm(&mut cache, 3, 1472);
        berths.leave();
        let waits = berths.parts()[0].as_ptr();
        berths.drain(1);
        assert_eq!(berths.parts()[0].as_ptr(), waits);
        assert_eq!(pool.stats().live_bytes, 2 * PART as u64);
        berths.drain(0);
        assert_eq!(pool.stats().live_bytes, 0);
    }
}
