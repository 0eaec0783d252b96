//! The kernel's own memory calls, for what stands in front of the C library's: the preloaded
//! library, and test programs that refuse on request.

use std::ffi::c_void;
use std::ptr;

use libc::{c_int, off_t, size_t};

/// # Safety
/// As `mmap(2)`.
#[must_use]
pub unsafe fn map(
    address: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's own arguments.
    let made = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            address,
            len,
            protection,
            flags,
            file,
            offset,
        )
    };
    // An address, or -1, and that is `MAP_FAILED`.
    ptr::with_exposed_provenance_mut(usize::try_from(made).unwrap_or(usize::MAX))
}

/// # Safety
/// As `munmap(2)`.
pub unsafe fn unmap(address: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller's own arguments.
    let done = unsafe { libc::syscall(libc::SYS_munmap, address, len) };
    c_int::from(done == 0) - 1
}

/// # Safety
/// As `madvise(2)`.
pub unsafe fn advise(address: *mut c_void, len: size_t, advice: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    let done = unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) };
    c_int::from(done == 0) - 1
}
