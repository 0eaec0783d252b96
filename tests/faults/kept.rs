//! Regions that are kept when they go, and are zero when they come back.
//!
//! ```text
//!   address ──► ┌──────────┐
//!               │  header  │ HEADER bytes
//!               ├──────────┤ aligned to a region
//!               │  region  │ REGION bytes; what the allocator cuts off behind it is not there
//!               └──────────┘
//! ```

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::{HEADER, REGION};

const LEN: usize = HEADER + REGION;
/// Regions that may be kept; who needs more has them from the system.
const PLACES: usize = 4;
/// Bytes from the start of a mapping on that most traces write into.
const NEAR: usize = HEADER + (64 << 10);
/// An OS page, as a rule.
const OS_PAGE: usize = 4096;
/// OS pages up to which it is cheaper to write zeros than to give them back.
const FEW: usize = 64;

struct Place {
    /// Of the mapping, null as long as there is none.
    address: AtomicPtr<c_void>,
    is_out: AtomicBool,
}

static ALL: [Place; PLACES] = [const {
    Place {
        address: AtomicPtr::new(ptr::null_mut()),
        is_out: AtomicBool::new(false),
    }
}; PLACES];

/// A mapping that is as good as new. None if all are out.
pub(super) fn take() -> Option<NonNull<c_void>> {
    // Acquire, partner the store in `put`: what its thread wrote into the region is before what
    // is written here.
    let place = { ALL.iter() }.find(|place| !place.is_out.swap(true, Ordering::Acquire))?;
    // Relaxed: whoever has the place out writes it.
    let address = place.address.load(Ordering::Relaxed);
    if let Some(kept) = NonNull::new(address) {
        clear(kept);
        return Some(kept);
    }
    let made = map();
    let address = made.map_or(ptr::null_mut(), NonNull::as_ptr);
    place.address.store(address, Ordering::Relaxed);
    if made.is_none() {
        place.is_out.store(false, Ordering::Release);
    }
    made
}

/// Is this the end of a mapping that is out?
pub(super) fn ends_at(address: *mut c_void) -> bool {
    ALL.iter().any(|place| {
        // Relaxed: asked by the thread that has just taken it.
        let start = place.address.load(Ordering::Relaxed);
        !start.is_null() && start.wrapping_byte_add(LEN) == address
    })
}

/// Is this the first byte of a region that is out?
pub(super) fn begins_at(base: *mut c_void) -> bool {
    ends_at(base.wrapping_byte_add(REGION))
}

/// Keeps a mapping that came from here. False if it did not.
pub(super) fn put(address: *mut c_void) -> bool {
    let mut all = ALL.iter();
    // Relaxed: it was out, so nobody changes the address.
    let place = all.find(|place| place.address.load(Ordering::Relaxed) == address);
    // Release, partner `take`.
    place.inspect(|place| place.is_out.store(false, Ordering::Release));
    place.is_some()
}

/// Maps a region with its header below, and nothing else.
fn map() -> Option<NonNull<c_void>> {
    let len = LEN + REGION;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let none: *mut c_void = ptr::null_mut();
    // SAFETY: a new mapping touches no memory that exists.
    let made = unsafe { libc::syscall(libc::SYS_mmap, none, len, access, flags, -1, 0) };
    let made = usize::try_from(made).ok().filter(|&made| made != 0)?;
    let start = ptr::with_exposed_provenance_mut::<c_void>(made);
    let head = (made + HEADER).next_multiple_of(REGION) - HEADER - made;
    let first = start.wrapping_byte_add(head);
    for (end, len) in [(start, head), (first.wrapping_byte_add(LEN), REGION - head)] {
        if len != 0 {
            // SAFETY: the ends of the new mapping, which nobody uses.
            unsafe { libc::syscall(libc::SYS_munmap, end, len) };
        }
    }
    NonNull::new(first)
}

/// Makes all bytes of a mapping zero: near ones by writing, far ones by giving them back.
fn clear(address: NonNull<c_void>) {
    let mut inside = [0_u8; NEAR / OS_PAGE];
    // SAFETY: within the mapping, which is ours, and there is a byte for each OS page or more.
    let asked = unsafe { libc::mincore(address.as_ptr(), NEAR, inside.as_mut_ptr()) };
    // SAFETY: a query.
    let plain = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) == Ok(OS_PAGE);
    let used = || inside.iter().enumerate().filter(|(_, is)| **is & 1 != 0);
    if asked != 0 || !plain || used().count() > FEW {
        give_back(address, LEN);
        return;
    }
    for (number, _) in used() {
        // SAFETY: within the mapping.
        let page = unsafe { address.byte_add(number * OS_PAGE) };
        // SAFETY: ours, mapped and writable.
        unsafe { page.write_bytes(0, OS_PAGE) };
    }
    // SAFETY: within the mapping.
    give_back(unsafe { address.byte_add(NEAR) }, LEN - NEAR);
}

/// Gives the memory behind a part of a mapping back: it is zero from then on.
fn give_back(start: NonNull<c_void>, len: usize) {
    // SAFETY: ours, and nobody uses it now.
    let gone = unsafe { libc::syscall(libc::SYS_madvise, start, len, libc::MADV_DONTNEED) };
    if gone != 0 {
        // SAFETY: ours, mapped and writable.
        unsafe { start.write_bytes(0, len) };
    }
}
