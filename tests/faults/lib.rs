//! Memory calls that fail on request.
//!
//! Preloaded (`LD_PRELOAD`), this library stands between the allocator and the C
//! library's `mmap`, `munmap` and `madvise`. It lets everything through until a
//! program asks for a *plan*: then the n-th call of one kind fails, once or from
//! then on. So the product is tested as it is shipped, and has no hook.
//!
//! Only calls that look like the allocator's are counted, by their length.
//!
//! Without a plan it keeps the regions that go, as zero as new ones, for those that come: a short
//! trace would spend its time in the kernel otherwise (`kept.rs`).
//!
//! And there is no account of the process's mappings (`/proc/self/smaps`): the kernel writes it
//! for longer than a trace runs, for the bytes in huge pages, of which no trace speaks.
//!
//! Memory for Python's objects is refused on request too (`objects.rs`).

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use libc::{c_int, off_t, size_t};

mod kept;
mod objects;
pub mod system;

/// Bytes of a region.
const REGION: usize = 2 << 20;
/// Bytes of the header in front of it.
const HEADER: usize = 256 << 10;

/// What a plan is about: the low three bits of it.
const MAP: u32 = 1;
const UNMAP: u32 = 2;
const ADVISE: u32 = 3;
const ENDS: u32 = 4;
/// The failure lasts.
const LASTS: u32 = 8;
/// From here on the number of the first call that fails.
const FIRST_SHIFT: u32 = 4;

static PLAN: AtomicU32 = AtomicU32::new(0);
/// Calls of the plan's kind so far, and those that failed.
static CALLS: AtomicI64 = AtomicI64::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Makes `plan` the plan, 0 for none; returns how many calls failed under the one
/// before.
#[unsafe(no_mangle)]
pub extern "C" fn pagefrag_faults(plan: u32) -> u32 {
    // Relaxed, all: threads of a trace take turns, and hand over with locks.
    PLAN.store(plan, Ordering::Relaxed);
    CALLS.store(0, Ordering::Relaxed);
    FAILED.swap(0, Ordering::Relaxed)
}

/// Tells of `len` bytes that the program wrote, from `start` on. Who tells of one such write tells
/// of all into a pool's memory: then regions come back sooner.
#[unsafe(no_mangle)]
pub extern "C" fn pagefrag_wrote(start: *const c_void, len: size_t) {
    kept::wrote(start, len);
}

fn is_planned() -> bool {
    PLAN.load(Ordering::Relaxed) != 0
}

/// Does this call of `kind` fail?
fn fails(kind: u32) -> bool {
    let plan = PLAN.load(Ordering::Relaxed);
    if plan & 7 != kind {
        return false;
    }
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let first = i64::from(plan >> FIRST_SHIFT);
    let fails = call == first || (call > first && plan & LASTS != 0);
    if fails {
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
    fails
}

/// See the module.
///
/// # Safety
/// As `open(2)`; `mode` is looked at only if the flags have it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller's string.
    if unsafe { CStr::from_ptr(path) } == c"/proc/self/smaps" {
        refuse(libc::ENOENT);
        return -1;
    }
    // SAFETY: the caller's own arguments.
    let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    c_int::try_from(file).unwrap_or(-1)
}

fn refuse(error: c_int) {
    // SAFETY: the calling thread's own `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = error };
}

/// See the module.
///
/// # Safety
/// As `mmap(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let region = len == HEADER + 2 * REGION && flags & libc::MAP_NORESERVE != 0;
    if region
        && !is_planned()
        && let Some(kept) = kept::take()
    {
        return kept.as_ptr();
    }
    if region && fails(MAP) {
        refuse(libc::ENOMEM);
        return libc::MAP_FAILED;
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::map(address, len, protection, flags, file, offset) }
}

/// See the module.
///
/// # Safety
/// As `munmap(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(address: *mut c_void, len: size_t) -> c_int {
    // What `map` cuts off to align a region; nothing else is that large.
    let ends = (64 << 10..=REGION).contains(&len) && PLAN.load(Ordering::Relaxed) & 7 == ENDS;
    if len == HEADER + REGION && fails(UNMAP) || ends && fails(ENDS) {
        refuse(libc::ENOMEM);
        return -1;
    }
    // What lies behind a kept region was never mapped.
    let kept =
        len == REGION && kept::ends_at(address) || len == HEADER + REGION && kept::put(address);
    if kept {
        return 0;
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::unmap(address, len) }
}

/// See the module. While a plan is about advice, advice on huge pages that does
/// not fail is taken by nobody, so that all kernels say the same; nor is advice on
/// a region that is kept, which would keep it.
///
/// # Safety
/// As `madvise(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: size_t, advice: c_int) -> c_int {
    if len == REGION && advice == libc::MADV_HUGEPAGE {
        if fails(ADVISE) {
            refuse(libc::EINVAL);
            return -1;
        }
        if PLAN.load(Ordering::Relaxed) & 7 == ADVISE || kept::begins_at(address) {
            return 0;
        }
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::advise(address, len, advice) }
}
