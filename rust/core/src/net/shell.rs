//! The struct behind an skb, and the small array in which a thread keeps idle ones.
//!
//! The kernel allocates an `sk_buff` for each packet and frees it a moment
//! later, so a poll keeps the freed ones at hand: up to 64 in an array, refilled
//! 16 at a time when it is empty, and relieved of its upper half when it is full
//! (`napi_skb_cache`, `net/core/skbuff.c`, Linux up to 6.18; newer kernels use
//! 128, 32 and 32). A shell that comes back from the array costs no heap call,
//! and neither do its 17 fragment slots once it has had them.

use std::cell::RefCell;

use crate::mem::{Frag, FragMut, drop_many};
use crate::net::headroom::{MAX_SKB_FRAGS, SK_BUFF};
use crate::sync::thread_local;

/// Shells that the array holds at most (`NAPI_SKB_CACHE_SIZE`).
pub(super) const ARRAY_SIZE: usize = 64;
/// Shells that an empty array is refilled with (`NAPI_SKB_CACHE_BULK`).
pub(super) const ARRAY_BULK: usize = 16;
/// Shells that a full array keeps (`NAPI_SKB_CACHE_HALF`).
pub(super) const ARRAY_HALF: usize = ARRAY_SIZE / 2;

/// The head of an skb.
#[derive(Debug, Default)]
pub(super) enum Head {
    /// None: the shell is idle.
    #[default]
    Gone,
    /// Ours alone, may be written.
    Own(FragMut),
    /// Shared with clones, or was until a moment ago.
    Shared(Frag),
}

/// What the kernel calls `struct sk_buff` together with its shared info.
///
/// Invariants, made by [`SkBuff`](crate::net::SkBuff) alone:
/// 1. `data + linear <= end`, and `end + SKB_SHARED_INFO` is the head's length.
/// 2. `nonlinear` is the sum of the lengths of `frags`.
/// 3. An idle shell has no head and no frags, and numbers that mean nothing.
#[derive(Debug, Default)]
pub(super) struct Shell {
    pub(super) head: Head,
    /// Offset of the first byte of data in the head.
    pub(super) data: usize,
    /// Bytes of data in the head.
    pub(super) linear: usize,
    /// Offset in the head at which the shared info would begin.
    pub(super) end: usize,
    /// Up to 17; the room for all of them is taken with the first.
    pub(super) frags: Vec<Frag>,
    /// Bytes of data in `frags`.
    pub(super) nonlinear: usize,
}

// What an skb is charged for its struct covers the struct.
const _: () = assert!(size_of::<Shell>() <= SK_BUFF);

impl Shell {
    /// Gives everything back that the shell holds; the slots stay.
    fn empty(&mut self) {
        self.head = Head::Gone;
        match self.frags.len() {
            0 => {}
            1 => self.frags.clear(),
            _ => drop_many(self.frags.drain(..)),
        }
    }

    /// Makes room for 17 frags, the first time.
    pub(super) fn open_slots(&mut self) {
        if self.frags.capacity() < MAX_SKB_FRAGS {
            self.frags.reserve_exact(MAX_SKB_FRAGS - self.frags.len());
        }
    }
}

/// Idle shells of one thread.
#[derive(Debug)]
pub(super) struct ShellArray {
    #[allow(clippy::vec_box, reason = "a shell moves in and out as one pointer")]
    idle: Vec<Box<Shell>>,
}

thread_local! {
    /// The array of this thread while no poll uses it.
    static PARKED: RefCell<Option<ShellArray>> = const { RefCell::new(None) };
}

impl ShellArray {
    /// The array of the calling thread; a new one when another poll has it.
    pub(super) fn of_thread() -> Self {
        PARKED
            .try_with(|parked| parked.borrow_mut().take())
            .ok()
            .flatten()
            .unwrap_or_else(|| Self {
                idle: Vec::with_capacity(ARRAY_SIZE),
            })
    }

    /// Leaves the array to the next poll on this thread. When a poll inside
    /// this one left its own, the fuller of the two stays.
    pub(super) fn park(self) {
        // An error means that the thread is ending: the shells go to the heap.
        let _ = PARKED.try_with(|parked| {
            let mut parked = parked.borrow_mut();
            if parked
                .as_ref()
                .is_none_or(|other| other.idle.len() <= self.idle.len())
            {
                *parked = Some(self);
            }
        });
    }

    /// An idle shell. No heap call unless the array is empty, then 16 at once.
    #[inline]
    #[allow(clippy::unnecessary_box_returns, reason = "the box is what is kept")]
    pub(super) fn get(&mut self) -> Box<Shell> {
        self.idle.pop().unwrap_or_else(|| self.refill())
    }

    #[cold]
    #[allow(clippy::unnecessary_box_returns, reason = "the box is what is kept")]
    fn refill(&mut self) -> Box<Shell> {
        self.idle
            .extend((1..ARRAY_BULK).map(|_| Box::<Shell>::default()));
        Box::default()
    }

    /// Empties a shell and keeps it; at 64 the upper 32 go to the heap.
    #[inline]
    pub(super) fn put(&mut self, mut shell: Box<Shell>) {
        shell.empty();
        self.idle.push(shell);
        if self.idle.len() == ARRAY_SIZE {
            self.idle.truncate(ARRAY_HALF);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fresh() -> ShellArray {
        ShellArray {
            idle: Vec::with_capacity(ARRAY_SIZE),
        }
    }

    #[test]
    fn an_empty_array_is_refilled_by_sixteen() {
        let mut array = fresh();
        let shell = array.get();
        assert_eq!(array.idle.len(), 15);
        drop(shell);
    }

    #[test]
    fn a_full_array_gives_its_upper_half_to_the_heap() {
        let mut array = fresh();
        for kept in 1..ARRAY_SIZE {
            array.put(Box::default());
            assert_eq!(array.idle.len(), kept);
        }
        array.put(Box::default());
        assert_eq!(array.idle.len(), 32);
    }

    #[test]
    fn the_array_of_a_thread_is_found_again() {
        let mut array = ShellArray::of_thread();
        array.put(Box::default());
        let kept = array.idle.len();
        array.park();
        let again = ShellArray::of_thread();
        assert_eq!(again.idle.len(), kept);
        assert_eq!(ShellArray::of_thread().idle.len(), 0, "lent already");
        again.park();
    }

    #[test]
    fn the_fuller_of_two_parked_arrays_stays() {
        let (mut full, empty) = (fresh(), fresh());
        full.put(Box::default());
        full.park();
        empty.park();
        assert_eq!(ShellArray::of_thread().idle.len(), 1);
    }
}
