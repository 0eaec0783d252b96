//! Where the kernel puts what a buffer has no room for.
//!
//! With GRO any message may be a super-buffer of almost 64 KiB, and what has no
//! place is lost. So behind each buffer there are 64 KiB of the landing:
//!
//! ```text
//!   message 0   [ buffer ][ slot 0, 64 KiB ]      mapped: addresses, no memory
//!   message 1   [ buffer ][ slot 1, 64 KiB ]      touched: only as far as written
//! ```
//!
//! Nothing stays here: segments are copied out, each into a fragment of its
//! own. (Super-buffers that may stay land in `berths`.) That a copy is right was
//! measured (54 segments of 1200 bytes, per packet: landing and copying 70 to
//! 83 ns, having the kernel scatter them over 54 fragments 77 to 85 ns; with 64
//! segments of 200 bytes 24 to 34 against 46 to 57): the landing stays in the
//! processor's cache, and scattering needs to know sizes in advance.

use crate::geometry::MAX_OS_PAGE;
use crate::mem::os::{self, Mapping};

/// Bytes of a slot: with them any super-buffer has room behind any buffer.
pub(super) const SLOT: usize = 64 * 1024;
/// Bytes that stay resident at most while the socket has more: of four
/// super-buffers in a call, above which nothing is gained.
const KEPT_BUSY: usize = 4 * SLOT;
/// The same when the socket was found empty. Touching the others again costs
/// time, but the ring was faster than the sender and has it.
const KEPT_IDLE: usize = SLOT;
// The first slot alone is never too much, so `give_back` finds what it is asked for.
const _: () = assert!(KEPT_IDLE >= SLOT && SLOT.is_multiple_of(MAX_OS_PAGE));

/// Memory behind the buffers, a slot for each message of a call.
#[derive(Debug)]
pub(super) struct Landing {
    /// `marks.len()` slots, ours alone until this value is dropped.
    mapping: Mapping,
    /// OS pages of each slot that are resident: those that were ever written,
    /// up to the furthest, since they were last given back.
    marks: Box<[usize]>,
    /// The sum of `marks`.
    resident: usize,
    os_page: usize,
}

// SAFETY: the mapping is owned by this value alone, is no thread's in
// particular, and is reached through `&self` and `&mut self` only.
unsafe impl Send for Landing {}

impl Landing {
    /// Addresses for so many slots. `None` when the OS has none.
    pub(super) fn map(slots: usize) -> Option<Self> {
        Some(Self {
            mapping: os::map_scratch(slots * SLOT)?,
            marks: vec![0; slots].into(),
            resident: 0,
            os_page: os::os_page_size(),
        })
    }

    /// OS pages that the messages of a call may touch without any being given
    /// back after it, as long as there are more messages.
    pub(super) fn room(&self) -> usize {
        KEPT_BUSY / self.os_page
    }

    /// OS pages that so many bytes of a slot lie in.
    pub(super) fn pages_for(&self, bytes: usize) -> usize {
        bytes.min(SLOT).div_ceil(self.os_page)
    }

    /// All slots, for the kernel to write to.
    pub(super) fn slots_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        let (start, len) = (self.mapping.base.as_ptr(), self.marks.len() * SLOT);
        // SAFETY: mapped readable and writable for that many bytes, zeroed by the
        // OS, and borrowed exclusively as `self` is.
        unsafe { std::slice::from_raw_parts_mut(start, len) }.chunks_exact_mut(SLOT)
    }

    /// What was written to a slot.
    pub(super) fn slot(&self, index: usize) -> &[u8] {
        assert!(index < self.marks.len(), "no slot {index}");
        // SAFETY: `index` is that of a slot (asserted), so this is within the
        // mapping.
        let start = unsafe { self.mapping.base.add(index * SLOT) };
        // SAFETY: mapped readable for a slot's bytes, zeroed by the OS, and
        // borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), SLOT) }
    }

    /// Notes that `pages` OS pages of a slot were written.
    pub(super) fn touch(&mut self, index: usize, pages: usize) {
        let more = pages.saturating_sub(self.marks[index]);
        self.marks[index] += more;
        self.resident += more;
    }

    /// Gives back all but the first slot if more is resident than may stay, which
    /// is less when the socket is `empty`. Nothing of what was written is needed
    /// any more.
    pub(super) fn settle(&mut self, empty: bool) {
        let kept = if empty { KEPT_IDLE } else { KEPT_BUSY };
        if self.resident * self.os_page > kept {
            self.give_back(1);
        }
    }

    /// Gives everything back. Nothing of what was written is needed any more.
    pub(super) fn clear(&mut self) {
        if self.resident > 0 {
            self.give_back(0);
        }
    }

    /// Gives back the slots from `first` on.
    fn give_back(&mut self, first: usize) {
        let touched = self.marks.iter().rposition(|&pages| pages > 0);
        let end = touched.map_or(0, |last| last + 1);
        assert!(first < end, "only what lies behind `first` can be too much");
        // SAFETY: `first` is below `end`, which is at most the number of slots.
        let start = unsafe { self.mapping.base.add(first * SLOT) };
        // SAFETY: slots of the mapping, borrowed exclusively; the caller needs
        // none of the bytes. Should the OS refuse (locked memory), they stay.
        unsafe { os::give_back(start, (end - first) * SLOT) };
        self.marks[first..end].fill(0);
        self.resident = self.marks.iter().sum();
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // SAFETY: what the slices borrowed has ended with the borrows of `self`.
        unsafe { os::unmap(self.mapping) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_whole() {
        let mut landing = Landing::map(3).unwrap();
        for (index, slot) in landing.slots_mut().enumerate() {
            assert_eq!(slot.len(), SLOT);
            slot.fill(u8::try_from(index).unwrap() + 1);
        }
        for index in 0..3 {
            let byte = u8::try_from(index).unwrap() + 1;
            assert!(landing.slot(index).iter().all(|&found| found == byte));
        }
    }

    #[test]
    fn what_one_super_buffer_touched_stays_and_more_goes_back_when_idle() {
        let mut landing = Landing::map(8).unwrap();
        landing.slots_mut().for_each(|slot| slot.fill(7));
        let pages = landing.pages_for(SLOT);
        landing.touch(0, pages);
        landing.settle(true);
        assert_eq!(landing.slot(3)[0], 7, "nobody said that it was touched");
        landing.touch(3, 1);
        landing.settle(false);
        assert_eq!(landing.slot(3)[0], 7, "not while there is more to come");
        landing.settle(true);
        assert_eq!(landing.resident, pages);
        assert_eq!(landing.slot(0)[SLOT - 1], 7, "kept");
        assert_eq!(landing.slot(3)[0], 0, "given back, mapped anew as zeros");
        landing.clear();
        assert_eq!((landing.slot(0)[0], landing.resident), (0, 0));
    }

    #[test]
    fn four_super_buffers_stay_while_there_is_more_and_a_fifth_does_not() {
        let mut landing = Landing::map(8).unwrap();
        let pages = landing.pages_for(SLOT);
        assert_eq!(landing.room(), 4 * pages);
        for index in 0..4 {
            landing.touch(index, pages);
            landing.settle(false);
        }
        assert_eq!(landing.resident, 4 * pages);
        landing.touch(4, pages);
        landing.settle(false);
        assert_eq!(landing.resident, pages);
    }

    #[test]
    fn touching_again_counts_once() {
        let mut landing = Landing::map(2).unwrap();
        landing.touch(1, 2);
        landing.touch(1, 1);
        landing.touch(1, 3);
        assert_eq!(landing.resident, 3);
        assert_eq!(landing.pages_for(0), 0);
        assert_eq!(landing.pages_for(1), 1);
    }

    #[test]
    fn no_addresses_are_no_landing() {
        assert!(Landing::map(usize::MAX / SLOT / 4).is_none());
    }
}
