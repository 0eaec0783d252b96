//! Regions that are kept when they go, and are zero when they come back.
//!
//! What of a region's bytes was written is told by the executor, who is the only one to write
//! there: the allocator writes nothing but zeros between users' bytes. So few bytes have to be
//! made zero, and the others keep their memory. Now and then all of them are looked at.
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
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::{HEADER, REGION};

const LEN: usize = HEADER + REGION;
/// Regions that may be kept; who needs more has them from the system.
const PLACES: usize = 4;
/// An OS page, as a rule.
const OS_PAGE: usize = 4096;
/// OS pages of a header up to which it is cheaper to write zeros than to give them back.
const FEW: usize = 24;
/// Bits of a word of a map.
const WORD: usize = u64::BITS as usize;
/// Of so many regions that come back one is looked at as a whole.
const LOOK: u64 = 1024;

struct Place {
    /// Of the mapping, null as long as there is none.
    address: AtomicPtr<c_void>,
    is_out: AtomicBool,
    /// A bit for each OS page of the region into which somebody wrote.
    written: [AtomicU64; REGION / OS_PAGE / WORD],
}

static ALL: [Place; PLACES] = [const {
    Place {
        address: AtomicPtr::new(ptr::null_mut()),
        is_out: AtomicBool::new(false),
        written: [const { AtomicU64::new(0) }; REGION / OS_PAGE / WORD],
    }
}; PLACES];

/// Does the program tell where it writes?
static TELLS: AtomicBool = AtomicBool::new(false);
/// Regions that came back so far.
static CAME: AtomicU64 = AtomicU64::new(0);

/// A mapping that is as good as new. None if all are out.
pub(super) fn take() -> Option<NonNull<c_void>> {
    // Acquire, partner the store in `put`: what its thread wrote into the region is before what
    // is written here.
    let place = { ALL.iter() }.find(|place| !place.is_out.swap(true, Ordering::Acquire))?;
    // Relaxed: whoever has the place out writes it.
    let address = place.address.load(Ordering::Relaxed);
    if let Some(kept) = NonNull::new(address) {
        place.clear(kept);
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

/// Somebody wrote `len` bytes from `address` on, and will tell of all others.
pub(super) fn wrote(address: *const c_void, len: usize) {
    // Relaxed, and below: threads of a trace take turns, and hand over with locks.
    TELLS.store(true, Ordering::Relaxed);
    for place in &ALL {
        let base = { place.address.load(Ordering::Relaxed) }.wrapping_byte_add(HEADER);
        let first = address.addr().wrapping_sub(base.addr());
        if len == 0 || first >= REGION {
            continue;
        }
        for page in first / OS_PAGE..(first + len).div_ceil(OS_PAGE) {
            place.written[page / WORD].fetch_or(1 << (page % WORD), Ordering::Relaxed);
        }
    }
}

impl Place {
    /// Makes all bytes of its mapping zero.
    fn clear(&self, address: NonNull<c_void>) {
        if !TELLS.load(Ordering::Relaxed) || !is_plain() {
            give_back(address, LEN);
            return;
        }
        clear_header(address);
        for (word, map) in self.written.iter().enumerate() {
            let mut left = map.swap(0, Ordering::Relaxed);
            while left != 0 {
                let page = word * WORD + left.trailing_zeros() as usize;
                // SAFETY: a page of the region, which lies behind its header.
                let page = unsafe { address.byte_add(HEADER + page * OS_PAGE) };
                // SAFETY: ours, mapped and writable.
                unsafe { page.write_bytes(0, OS_PAGE) };
                left &= left - 1;
            }
        }
        if { CAME.fetch_add(1, Ordering::Relaxed) }.is_multiple_of(LOOK) {
            look_at(address);
        }
    }
}

/// Are OS pages of the size that they have as a rule?
fn is_plain() -> bool {
    // SAFETY: a query.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) == Ok(OS_PAGE)
}

/// Makes all bytes of a header zero: by writing if those that have memory are few, else by giving
/// it back.
fn clear_header(address: NonNull<c_void>) {
    let mut inside = [0_u8; HEADER / OS_PAGE];
    // SAFETY: within the mapping, which is ours, and there is a byte for each OS page.
    let asked = unsafe { libc::mincore(address.as_ptr(), HEADER, inside.as_mut_ptr()) };
    let used = || inside.iter().enumerate().filter(|(_, is)| **is & 1 != 0);
    if asked != 0 || used().count() > FEW {
        give_back(address, HEADER);
        return;
    }
    for (number, _) in used() {
        // SAFETY: within the header.
        let page = unsafe { address.byte_add(number * OS_PAGE) };
        // SAFETY: ours, mapped and writable.
        unsafe { page.write_bytes(0, OS_PAGE) };
    }
}

/// Ends the process if a byte of a mapping is not zero: somebody wrote where nobody may.
fn look_at(address: NonNull<c_void>) {
    let words = address.cast::<u64>().as_ptr();
    // SAFETY: ours, mapped, aligned, and as long; nobody writes now.
    let words = unsafe { std::slice::from_raw_parts(words, LEN / size_of::<u64>()) };
    if let Some(at) = words.iter().position(|&word| word != 0) {
        let at = at * size_of::<u64>();
        eprintln!("a write into a region that nobody told of, {at} bytes from its header on");
        std::process::abort();
    }
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
