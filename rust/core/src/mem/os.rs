//! The door to the operating system's memory: the only file of `mem` that
//! says libc.
//!
//! A mapping is anonymous, private and lazily filled: it costs addresses until
//! it is touched. Under loom the same door opens on the heap, so that a region
//! that is never unmapped shows as a leak.

use std::ptr::NonNull;

/// A mapping: `len` bytes from `start`, of which `base` is aligned as asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    /// First byte of the mapping.
    pub(crate) start: NonNull<u8>,
    /// Bytes mapped.
    pub(crate) len: usize,
    /// The aligned address within.
    pub(crate) base: NonNull<u8>,
}

#[cfg(not(loom))]
mod door {
    use super::{Mapping, NonNull};
    use crate::sync::{AtomicBool, Ordering};
    use std::io::{BufRead, BufReader};

    /// Maps `below` bytes, an address aligned to `align`, and `above` bytes
    /// from it. `None` when the OS refuses. All bytes are zero.
    pub(crate) fn map(below: usize, above: usize, align: usize) -> Option<Mapping> {
        let len = below + above + align;
        // SAFETY: a new anonymous mapping at an address of the OS's choice
        // touches no memory that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = NonNull::new(start.cast::<u8>())?;
        let head =
            (start.addr().get() + below).next_multiple_of(align) - below - start.addr().get();
        // SAFETY: `head` is at most `align`, within the mapping.
        let first = unsafe { start.add(head) };
        // SAFETY: `below` bytes further is still within it.
        let base = unsafe { first.add(below) };
        let tail = len - head - below - above;
        let mut mapping = Mapping { start, len, base };
        // The ends are given back. Should the OS refuse (it may be out of map
        // entries), they go with the mapping: addresses until then, never memory.
        if head == 0 || unmap_range(start, head) {
            mapping.start = first;
            mapping.len -= head;
        }
        // SAFETY: the tail begins where the region ends, in the mapping.
        if tail == 0 || unmap_range(unsafe { base.add(above) }, tail) {
            mapping.len -= tail;
        }
        Some(mapping)
    }

    fn unmap_range(start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: the range is ours (the callers') and no longer used.
        unsafe { libc::munmap(start.as_ptr().cast(), len) == 0 }
    }

    /// Gives a mapping back.
    ///
    /// # Safety
    /// Nothing in it is used any more.
    pub(crate) unsafe fn unmap(mapping: Mapping) -> bool {
        unmap_range(mapping.start, mapping.len)
    }

    /// Maps `len` bytes that will be written here and there and given back:
    /// never huge pages, of which one byte costs 2 MiB.
    pub(crate) fn map_scratch(len: usize) -> Option<Mapping> {
        if isize::try_from(len).is_err() {
            return None;
        }
        let mapping = map(0, len, os_page_size())?;
        // SAFETY: advice changes no contents; the range is mapped. A kernel
        // without huge pages refuses, and needs none.
        unsafe { libc::madvise(mapping.base.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
        Some(mapping)
    }

    /// Gives the memory behind whole OS pages back and keeps the addresses: they
    /// read as zero from now on. False when the OS refuses.
    ///
    /// # Safety
    /// The range is mapped, and nobody relies on its contents.
    pub(crate) unsafe fn give_back(start: NonNull<u8>, len: usize) -> bool {
        // SAFETY: mapped, and of no use to anybody (caller).
        unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) == 0 }
    }

    /// Asks for huge pages. False when the kernel cannot.
    pub(crate) fn advise_huge(base: NonNull<u8>, len: usize) -> bool {
        // SAFETY: advice changes no contents; the range is mapped.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) == 0 }
    }

    /// Has `then` called in every child that this process forks, before it
    /// does anything else. The first call decides.
    pub(crate) fn watch_forks(then: extern "C" fn()) {
        static WATCHED: AtomicBool = AtomicBool::new(false);
        // Relaxed, both, and no lock, which a fork might leave shut: of two threads that come
        // first at once both have it called, which is once too often.
        if WATCHED.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: a handler that touches an atomic and nothing else. Should
        // there be no memory to register it, forks are as they would be.
        unsafe { libc::pthread_atfork(None, None, Some(then)) };
        WATCHED.store(true, Ordering::Relaxed);
    }

    /// Maps an OS page that reads as zero in every child of this process, however it is forked.
    /// `None` where the kernel cannot (before 4.14).
    pub(crate) fn map_wiped_by_forks() -> Option<Mapping> {
        let mapping = map(0, os_page_size(), os_page_size())?;
        // SAFETY: advice on a page that is mapped, and empty.
        let advise = |advice| unsafe {
            libc::madvise(mapping.base.as_ptr().cast(), mapping.len, advice) == 0
        };
        // An emulator that takes any advice, also what means nothing, follows none.
        if advise(-1) || !advise(libc::MADV_WIPEONFORK) {
            unmap_range(mapping.start, mapping.len);
            return None;
        }
        Some(mapping)
    }

    /// Bytes of an OS page.
    pub(crate) fn os_page_size() -> usize {
        // SAFETY: a query without arguments that point anywhere.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    }

    /// Bytes of `ranges` that are backed by huge pages now, from
    /// `/proc/self/smaps`; 0 where there is no such file.
    pub(crate) fn huge_bytes(ranges: &[(usize, usize)]) -> u64 {
        if ranges.is_empty() {
            return 0;
        }
        let Ok(file) = std::fs::File::open("/proc/self/smaps") else {
            return 0;
        };
        let mut overlap = 0;
        let mut total = 0;
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if let Some(kib) = line.strip_prefix("AnonHugePages:") {
                let kib = kib
                    .trim()
                    .trim_end_matches("kB")
                    .trim()
                    .parse()
                    .unwrap_or(0_u64);
                total += (kib * 1024).min(overlap);
            } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
                // One of the some twenty other attributes of a mapping.
            } else if let Some((start, end)) = parse_range(&line) {
                overlap = ranges
                    .iter()
                    .map(|&(base, len)| end.min(base + len).saturating_sub(start.max(base)) as u64)
                    .sum();
            }
        }
        total
    }

    /// `7f00-7f80 rw-p ...` as a range of addresses.
    fn parse_range(line: &str) -> Option<(usize, usize)> {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some((address(start)?, address(end)?))
    }
}

#[cfg(loom)]
mod door {
    use super::{Mapping, NonNull};
    use crate::sync::{alloc_zeroed, dealloc, thread_local};
    use std::alloc::Layout;
    use std::cell::Cell;

    thread_local!(static REFUSES: Cell<bool> = Cell::new(false));

    /// From here on the OS gives the calling thread no memory, and takes none back.
    pub(crate) fn refuse_from_here() {
        REFUSES.with(|refuses| refuses.set(true));
    }

    fn refuses() -> bool {
        // What a thread frees while its locals end is taken back.
        REFUSES.try_with(Cell::get).unwrap_or(false)
    }

    fn layout(len: usize, align: usize) -> Layout {
        Layout::from_size_align(len, align).expect("a small power of two")
    }

    pub(crate) fn map(below: usize, above: usize, align: usize) -> Option<Mapping> {
        if refuses() {
            return None;
        }
        let below_aligned = below.next_multiple_of(align);
        let len = below_aligned + above;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout(len, align)) })?;
        // SAFETY: within the allocation.
        let base = unsafe { start.add(below_aligned) };
        Some(Mapping { start, len, base })
    }

    /// # Safety
    /// Nothing in it is used any more.
    pub(crate) unsafe fn unmap(mapping: Mapping) -> bool {
        if refuses() {
            return false;
        }
        let layout = layout(mapping.len, crate::geometry::REGION);
        // SAFETY: allocated above with this layout.
        unsafe { dealloc(mapping.start.as_ptr(), layout) };
        true
    }

    pub(crate) fn advise_huge(_: NonNull<u8>, _: usize) -> bool {
        true
    }

    pub(crate) fn huge_bytes(_: &[(usize, usize)]) -> u64 {
        0
    }

    pub(crate) fn watch_forks(_: extern "C" fn()) {}

    pub(crate) fn os_page_size() -> usize {
        4096
    }
}

#[cfg(loom)]
pub(crate) use door::refuse_from_here;
pub(crate) use door::{advise_huge, huge_bytes, map, os_page_size, unmap, watch_forks};
#[cfg(not(loom))]
pub(crate) use door::{give_back, map_scratch, map_wiped_by_forks};

/// Children for tests.
#[cfg(all(test, not(loom)))]
pub(crate) mod children {
    use std::panic::{self, AssertUnwindSafe};

    /// Who makes a child.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Fork {
        /// `fork`, which runs what was left for it (`watch_forks`).
        Library,
        /// The system call, of which the C library knows nothing.
        Kernel,
    }

    /// Does a child find that `is_so`? It allocates nothing, since threads may be left behind.
    pub(crate) fn found_by_a_child(fork: Fork, is_so: impl FnOnce() -> bool) -> bool {
        let none = 0_usize;
        let child = match fork {
            // SAFETY: the child reads words, makes system calls and ends below.
            Fork::Library => i64::from(unsafe { libc::fork() }),
            // SAFETY: as above; a copy of everything, on this stack's copy.
            Fork::Kernel => unsafe {
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none)
            },
        };
        if child == 0 {
            let found = panic::catch_unwind(AssertUnwindSafe(is_so));
            let code = i32::from(!found.unwrap_or(false));
            // SAFETY: ends the child where it is, without the tests of its parent.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        let child = i32::try_from(child).expect("a number of a process");
        // SAFETY: a child of ours, and a number to fill.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_aligned_zero_and_writable_to_its_last_byte() {
        let align = 2 << 20;
        let mapping = map(1 << 16, align, align).expect("2 MiB of addresses");
        assert_eq!(mapping.base.addr().get() % align, 0);
        assert_eq!(
            mapping.base.addr().get() - mapping.start.addr().get(),
            1 << 16
        );
        // SAFETY: the last byte of the mapping, which is ours.
        let last = unsafe { mapping.start.add(mapping.len - 1) };
        // SAFETY: mapped readable.
        assert_eq!(unsafe { last.read() }, 0);
        // SAFETY: mapped writable.
        unsafe { last.write(7) };
        assert!(huge_bytes(&[(mapping.base.addr().get(), align)]) <= align as u64);
        // SAFETY: not used any more.
        assert!(unsafe { unmap(mapping) });
    }

    #[test]
    fn what_is_given_back_reads_as_zero_and_can_be_written_again() {
        let len = 4 * os_page_size();
        let mapping = map_scratch(len).expect("a few OS pages");
        // SAFETY: mapped writable for so many bytes.
        unsafe { mapping.base.write_bytes(7, len) };
        // SAFETY: ours, and of no use.
        assert!(unsafe { give_back(mapping.base, len) });
        // SAFETY: still mapped.
        assert_eq!(unsafe { mapping.base.read() }, 0);
        // SAFETY: still mapped.
        unsafe { mapping.base.write(7) };
        // SAFETY: not used any more.
        assert!(unsafe { unmap(mapping) });
        assert!(map_scratch(usize::MAX).is_none());
    }

    #[test]
    fn more_than_the_address_space_is_refused_not_fatal() {
        assert!(map(1 << 16, 1 << 50, 2 << 20).is_none());
    }

    #[test]
    fn os_pages_are_a_power_of_two() {
        assert!(os_page_size().is_power_of_two());
    }
}
