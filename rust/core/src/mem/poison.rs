//! Which bytes nobody may touch, told to `AddressSanitizer`.
//!
//! A sanitizer knows what `malloc` gave and took. Of a page it knows nothing: to it
//! all of a region is alive from `mmap` to `munmap`. So a build with `--cfg
//! pagefrag_asan` (`make sanitize`) tells it more: **a byte of a page is shown while a
//! fragment or a reservation has it, and hidden otherwise.** What reads or writes a
//! hidden byte, such as a pointer that outlived its fragment, ends the process there
//! and then. In every other build the functions below are nothing.
//!
//! * Bytes are hidden *before* they are given away: afterwards they may be shown
//!   already, to whoever has carved them.
//! * A sanitizer marks eight bytes at a time. Lines are whole marks; at granule 1 two
//!   neighbours may share one, so `hide` leaves the marks at both ends alone unless
//!   they are its own, and only the owner, who shows, writes to one that is shared.

use std::ptr::NonNull;

#[cfg(pagefrag_asan)]
mod door {
    use super::NonNull;
    use std::ffi::c_void;

    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const c_void, len: usize);
        fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
    }

    /// Bytes that a sanitizer marks at a time.
    const MARK: usize = 8;

    pub(super) fn hide(start: NonNull<u8>, len: usize) {
        let skipped = start.addr().get().next_multiple_of(MARK) - start.addr().get();
        let whole = len.saturating_sub(skipped) / MARK * MARK;
        // SAFETY: marks in the sanitizer's own memory, of bytes that are mapped.
        unsafe {
            __asan_poison_memory_region(start.as_ptr().wrapping_add(skipped).cast(), whole);
        }
    }

    pub(super) fn show(start: NonNull<u8>, len: usize) {
        // SAFETY: as in `hide`.
        unsafe { __asan_unpoison_memory_region(start.as_ptr().cast(), len) }
    }
}

#[cfg(not(pagefrag_asan))]
mod door {
    use super::NonNull;

    #[inline]
    pub(super) fn hide(_: NonNull<u8>, _: usize) {}

    #[inline]
    pub(super) fn show(_: NonNull<u8>, _: usize) {}
}

/// From now on nobody has the `len` bytes from `start` on.
#[inline]
pub(crate) fn hide(start: NonNull<u8>, len: usize) {
    door::hide(start, len);
}

/// From now on somebody has the `len` bytes from `start` on.
#[inline]
pub(crate) fn show(start: NonNull<u8>, len: usize) {
    door::show(start, len);
}

/// Zeroes `len` bytes from `start` on that nobody has.
///
/// # Safety
/// * They lie in a mapped page.
/// * Nobody has them but the caller, who may carve or free them.
pub(crate) unsafe fn wipe(start: NonNull<u8>, len: usize) {
    show(start, len);
    // SAFETY: mapped, and nobody else's (caller).
    unsafe { start.write_bytes(0, len) };
    hide(start, len);
}
