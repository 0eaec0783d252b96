//! Reserve, then commit: room that is shown before it is taken.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::{Granule, PageFragCache, bytewise};
use crate::error::Error;
use crate::geometry::{LINE, align_up};
use crate::mem::frag::FragMut;
use crate::mem::poison;

/// All the room a cache has at its cursor, shown and not taken; from
/// [`PageFragCache::prepare`].
///
/// Its end puts back what was not taken, so one that is leaked keeps the room.
/// It borrows the cache, so nothing else can be allocated from it meanwhile:
/// ```compile_fail,E0499
/// # let pool = pagefrag::PagePool::new(32 * 1024).unwrap();
/// let mut cache = pagefrag::PageFragCache::new(&pool);
/// let room = cache.prepare(100).unwrap();
/// let other = cache.alloc(100).unwrap();
/// room.commit(100).unwrap();
/// ```
#[must_use = "nothing is taken until `commit`"]
pub struct Reservation<'c> {
    cache: &'c mut PageFragCache,
    start: NonNull<u8>,
    room: usize,
    /// Bytes written through `BufMut`.
    #[cfg(feature = "bytes")]
    filled: usize,
}

impl<'c> Reservation<'c> {
    pub(crate) fn new(cache: &'c mut PageFragCache, start: NonNull<u8>, room: usize) -> Self {
        Self {
            cache,
            start,
            room,
            #[cfg(feature = "bytes")]
            filled: 0,
        }
    }

    /// The first byte of the room.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Makes the first `used` bytes a fragment. The rest was never taken.
    ///
    /// # Errors
    /// [`Error::ZeroSize`], [`Error::CommitAboveRoom`]; nothing is taken then.
    #[inline]
    pub fn commit(self, used: usize) -> Result<FragMut, Error> {
        // In parts from here on: a reservation that a cold half may see lies in memory.
        let ended = ManuallyDrop::new(self);
        let (cache, start, room) = (&*ended.cache, ended.start, ended.room);
        if used.wrapping_sub(1) >= room {
            cache.put_room_back(start, room, 0);
            return Err(Self::refusal(used));
        }
        if !cache.is_plain() {
            return Ok(Self::commit_with_care(cache, start, room, used));
        }
        // What is carved is shown again.
        poison::hide(start, room);
        Ok(cache.carve(cache.place.hole(), start.as_ptr(), used))
    }

    /// `commit` where bytes are zeroed, or counted one by one.
    #[cold]
    #[inline(never)]
    fn commit_with_care(
        cache: &PageFragCache,
        start: NonNull<u8>,
        room: usize,
        used: usize,
    ) -> FragMut {
        let (frag, taken) = if cache.granule() == Granule::Line {
            let frag = cache.hand_out(start.as_ptr(), used);
            (frag, align_up(used, LINE))
        } else {
            (bytewise::commit(cache, used), used)
        };
        // What is behind the fragment stays room.
        cache.put_room_back(start, room, taken);
        frag
    }

    /// Why nothing is taken.
    #[cold]
    fn refusal(used: usize) -> Error {
        if used == 0 {
            Error::ZeroSize
        } else {
            Error::CommitAboveRoom
        }
    }

    /// Makes what was written through [`bytes::BufMut`] a fragment.
    ///
    /// # Errors
    /// [`Error::ZeroSize`] if nothing was written.
    #[cfg(feature = "bytes")]
    pub fn commit_filled(self) -> Result<FragMut, Error> {
        let filled = self.filled;
        self.commit(filled)
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: free bytes of the page being carved, which the cache keeps
        // mapped, and which only this borrow of the cache can reach.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.room) }
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.room) }
    }
}

impl Drop for Reservation<'_> {
    #[inline]
    fn drop(&mut self) {
        self.cache.put_room_back(self.start, self.room, 0);
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

// SAFETY: `chunk_mut` is the part of the room behind `filled`, all of it
// writable; `advance_mut` moves `filled` within the room.
#[cfg(feature = "bytes")]
unsafe impl bytes::BufMut for Reservation<'_> {
    fn remaining_mut(&self) -> usize {
        self.room - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(
            count <= self.remaining_mut(),
            "advance by {count} beyond the room"
        );
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut bytes::buf::UninitSlice {
        let filled = self.filled;
        bytes::buf::UninitSlice::new(&mut self[filled..])
    }
}
