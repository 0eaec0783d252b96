//! The word of a fragment's handle, bit by bit: how many bytes it shows, and what it gives
//! back.
//!
//! | bits of the word | of a line page              | of a byte page     |
//! |------------------|-----------------------------|--------------------|
//! | 0-20             | bytes shown                 | bytes shown        |
//! | 21               | wipe before it is freed     |                    |
//! | 22               | wipe before it is carved again at once |         |
//! | 23               | has been shared             | has been shared    |
//! | 24               | 0                           | 1                  |
//! | 25               | 32-60 say what is given back | 0                 |
//! | 32-46            | first line in the region    | size - 1 (20 bits) |
//! | 47-60            | lines - 1                   |                    |

use std::ptr::NonNull;

use crate::geometry::{LINE, MAX_PAGE, lines_for};
use crate::mem::header::line_of;

/// What comes home when the last handle of a fragment goes, and how: a
/// fragment's word without the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u64);

/// The length in a fragment's word. A word that is no more than this is of a
/// *plain* fragment: it comes home as it is shown, with nothing to look after.
pub(super) const LEN: u64 = (1 << 21) - 1;
/// Zero the lines before they are freed (`init_on_free`).
pub(crate) const WIPE: u64 = 1 << 21;
/// Zero the lines if they go straight back to the hole that they came from,
/// which shows zeroes only (`init_on_alloc`).
pub(crate) const CLEAN: u64 = 1 << 22;
pub(super) const SHARED: u64 = 1 << 23;
/// It is of a byte page, which comes home in bytes.
pub(crate) const BYTES: u64 = 1 << 24;
const TOLD: u64 = 1 << 25;
/// What parts of a fragment inherit.
const FLAGS: u64 = WIPE | CLEAN | SHARED;
/// Any of these keeps a fragment from being freed with others in one go.
const SPECIAL: u64 = WIPE | SHARED | BYTES;

const FIRST_SHIFT: u32 = 32;
const FIRST: u64 = (1 << 15) - 1;
const COUNT_SHIFT: u32 = 47;
const COUNT: u64 = (1 << 14) - 1;
const SIZE: u64 = (1 << 20) - 1;

const _: () = assert!(MAX_PAGE as u64 <= LEN && MAX_PAGE as u64 - 1 <= SIZE);

impl Tag {
    /// `count` lines from line `first` of the region.
    #[inline]
    pub(super) fn lines(first: usize, count: usize, flags: u64) -> Tag {
        let (first, last) = (first as u64, count as u64 - 1);
        debug_assert!(first <= FIRST && last <= COUNT && flags & !FLAGS == 0);
        Tag(first << FIRST_SHIFT | last << COUNT_SHIFT | TOLD | flags)
    }

    /// `size` bytes of a byte page.
    pub(super) fn bytes(size: usize) -> Tag {
        let last = size as u64 - 1;
        debug_assert!(last <= SIZE);
        Tag(last << FIRST_SHIFT | BYTES)
    }

    /// The whole tag of the handle with these words.
    #[inline]
    pub(super) fn of_words(start: NonNull<u8>, word: u64) -> Tag {
        if word & (TOLD | BYTES) != 0 {
            return Tag(word & !LEN);
        }
        #[allow(clippy::cast_possible_truncation)] // 21 bits
        let len = (word & LEN) as usize;
        Tag::lines(line_of(start), lines_for(len), word & FLAGS)
    }

    /// The same for the only handle.
    pub(super) fn unshared(self) -> Tag {
        Tag(self.0 & !SHARED)
    }

    /// Does anything keep it from being freed with others in one go?
    pub(super) fn is_special(self) -> bool {
        self.0 & SPECIAL != 0
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // 15 bits
    pub(super) fn first(self) -> usize {
        (self.0 >> FIRST_SHIFT & FIRST) as usize
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // 14 bits
    pub(super) fn count(self) -> usize {
        (self.0 >> COUNT_SHIFT & COUNT) as usize + 1
    }

    #[allow(clippy::cast_possible_truncation)] // 20 bits
    pub(super) fn size(self) -> usize {
        (self.0 >> FIRST_SHIFT & SIZE) as usize + 1
    }

    #[inline]
    pub(super) fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// What parts of this tag's fragment inherit when it has one handle.
    pub(super) fn flags(self) -> u64 {
        self.0 & FLAGS & !SHARED
    }
}

/// The word of a handle that shows `len` bytes from `ptr` on and gives back
/// what `tag` says. Where that is what is shown, the word does not repeat it.
#[inline]
pub(super) fn word(ptr: NonNull<u8>, len: usize, tag: Tag) -> u64 {
    debug_assert!(len as u64 <= LEN);
    let as_shown = tag.has(TOLD)
        && ptr.addr().get().is_multiple_of(LINE)
        && tag.first() == line_of(ptr)
        && tag.count() == lines_for(len);
    let tag = if as_shown { tag.0 & FLAGS } else { tag.0 };
    len as u64 | tag
}
