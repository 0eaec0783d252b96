//! How much of a buffer a workload writes: nothing, the first 64 bytes as
//! whoever reads a header does, or all of it.

use std::hint::black_box;

use crate::arms::Arm;
use crate::workload::LINE;

/// Writes to a fresh buffer.
pub trait Touch: 'static {
    /// What the tables call it.
    const NAME: &'static str;

    /// Writes what it writes to `size` bytes at `start`.
    ///
    /// # Safety
    ///
    /// Those bytes are there, and nobody else reaches them.
    unsafe fn write_at(start: *mut u8, size: usize, value: u8);

    /// Writes what it writes to the `size` bytes of `buffer`.
    #[inline]
    fn write<A: Arm>(buffer: &mut A::Buffer, size: usize, value: u8) {
        // SAFETY: `size` bytes are there, as an arm promises, and the buffer
        // is borrowed exclusively.
        unsafe { Self::write_at(A::bytes(buffer).as_ptr(), size, value) };
    }

    /// Reads one of those bytes back.
    #[inline]
    fn read<A: Arm>(buffer: &mut A::Buffer) -> u64 {
        // SAFETY: `write` wrote at least the first byte.
        let first = unsafe { A::bytes(buffer).read() };
        u64::from(first)
    }
}

/// Nothing is written: what the allocator alone costs.
#[derive(Debug)]
pub struct Bare;

/// The first 64 bytes.
#[derive(Debug)]
pub struct Head;

/// Every byte.
#[derive(Debug)]
pub struct Whole;

impl Touch for Bare {
    const NAME: &'static str = "bare";

    #[inline]
    unsafe fn write_at(_: *mut u8, _: usize, _: u8) {}

    #[inline]
    fn read<A: Arm>(_: &mut A::Buffer) -> u64 {
        0
    }
}

impl Touch for Head {
    const NAME: &'static str = "first 64 bytes";

    #[inline]
    unsafe fn write_at(start: *mut u8, size: usize, value: u8) {
        if size >= LINE {
            // SAFETY: `size` bytes are there, as the caller promises.
            unsafe { start.cast::<[u8; LINE]>().write([value; LINE]) };
        } else {
            // SAFETY: as above.
            unsafe { start.write_bytes(value, size) };
        }
        black_box(start);
    }
}

impl Touch for Whole {
    const NAME: &'static str = "all bytes";

    #[inline]
    unsafe fn write_at(start: *mut u8, size: usize, value: u8) {
        // SAFETY: `size` bytes are there, as the caller promises.
        unsafe { start.write_bytes(value, size) };
        black_box(start);
    }
}

/// The value that round `round` writes.
#[inline]
#[must_use]
pub fn value(round: u64) -> u8 {
    round.to_le_bytes()[0]
}
