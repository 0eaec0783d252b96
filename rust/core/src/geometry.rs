//! Every size, shift, mask and rounding of the crate, each with a name and a unit.
//!
//! Memory comes as 2 MiB regions cut into pages of one size, and a page is
//! seen as 64-byte lines. A map word has a bit for each of [`WORD_LINES`]
//! lines, so the smallest page is the one that one word describes. Under the
//! model checker everything is tiny: two lines a word, two words a page, two
//! pages a region. The code above does not know the difference.

/// log2 of a line in bytes.
pub(crate) const LINE_SHIFT: u32 = 6;

/// Bytes of a line: the granule in which freed space is found again.
///
/// 64 is the cache line of the machines we run on, and what the kernel's
/// network front ends round fragment sizes to (`SMP_CACHE_BYTES`).
pub const LINE: usize = 1 << LINE_SHIFT;

/// log2 of a region in bytes.
#[cfg(not(loom))]
pub(crate) const REGION_SHIFT: u32 = 21;
#[cfg(loom)]
pub(crate) const REGION_SHIFT: u32 = 9;

/// Bytes of a region: what is mapped and unmapped at once, and its alignment.
/// One transparent huge page on x86-64 and on aarch64 with 4 KiB OS pages.
pub const REGION: usize = 1 << REGION_SHIFT;

/// Lines that one map word describes.
#[cfg(not(loom))]
pub(crate) const WORD_LINES: usize = 64;
#[cfg(loom)]
pub(crate) const WORD_LINES: usize = 2;

/// A map word in which every line is set.
pub(crate) const FULL: u64 = u64::MAX >> (64 - WORD_LINES);

/// Lines of a region.
pub(crate) const REGION_LINES: usize = REGION / LINE;
/// Map words of a region.
pub(crate) const REGION_WORDS: usize = REGION_LINES / WORD_LINES;

/// Bytes of the smallest page: one map word of lines.
pub const MIN_PAGE: usize = WORD_LINES * LINE;
/// Bytes of the largest page: half a region.
pub const MAX_PAGE: usize = REGION / 2;

/// Bytes of a page unless the pool says otherwise
/// (the kernel's `PAGE_FRAG_CACHE_MAX_SIZE`, `include/linux/mm_types_task.h`).
#[cfg(not(loom))]
pub const DEFAULT_PAGE: usize = 32 * 1024;
/// See the other form.
#[cfg(loom)]
pub const DEFAULT_PAGE: usize = MAX_PAGE;

/// Most pages a region can be cut into.
pub(crate) const MAX_PAGES: usize = REGION / MIN_PAGE;

/// Largest OS page we meet (aarch64, powerpc); headers are padded to it, so
/// that a region's first byte starts an OS page of its own everywhere.
pub(crate) const MAX_OS_PAGE: usize = 64 * 1024;

const _: () = assert!(LINE.is_power_of_two());
const _: () = assert!(DEFAULT_PAGE >= MIN_PAGE && DEFAULT_PAGE <= MAX_PAGE);
const _: () = assert!(REGION_WORDS * WORD_LINES == REGION_LINES);
// A line number fits 15 bits and a line count less one 14: see `raw::Tag`.
const _: () = assert!(REGION_LINES <= 1 << 15);
const _: () = assert!(MAX_PAGE / LINE <= 1 << 14);
#[cfg(not(loom))]
const _: () = assert!(MIN_PAGE == 4 * 1024 && MAX_PAGE == 1024 * 1024);

/// Lines that hold `bytes` bytes, at most a region's.
#[inline]
pub(crate) const fn lines_for(bytes: usize) -> usize {
    debug_assert!(bytes <= REGION);
    (bytes + (LINE - 1)) >> LINE_SHIFT
}

/// `value` rounded up to a multiple of `align`, a power of two.
#[inline]
pub(crate) const fn align_up(value: usize, align: usize) -> usize {
    debug_assert!(align.is_power_of_two());
    (value + (align - 1)) & !(align - 1)
}

/// Is this a page size that a pool accepts?
pub(crate) const fn is_page_size(bytes: usize) -> bool {
    bytes.is_power_of_two() && bytes >= MIN_PAGE && bytes <= MAX_PAGE
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rounding_meets_its_edges() {
        assert_eq!(lines_for(1), 1);
        assert_eq!(lines_for(LINE), 1);
        assert_eq!(lines_for(LINE + 1), 2);
        assert_eq!(align_up(0, 64), 0);
        assert_eq!(align_up(65, 64), 128);
    }

    #[test]
    fn page_sizes_are_powers_of_two_from_4_kib_to_1_mib() {
        let accepted: Vec<usize> = (0..=22)
            .map(|shift| 1 << shift)
            .filter(|&size| is_page_size(size))
            .collect();
        assert_eq!(accepted, (12..=20).map(|s| 1 << s).collect::<Vec<_>>());
        assert!(!is_page_size(0) && !is_page_size(12 * 1024) && !is_page_size(usize::MAX));
    }
}
