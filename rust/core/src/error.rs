//! What can go wrong, as one type.
//!
//! Every case leaves everything as it was. The type is `Copy` and exactly as
//! wide as a fragment's word, so that a `Result<FragMut, Error>` is the
//! fragment's own two words. A byte would do as well, but then compilers move the
//! word of a fragment byte by byte, which costs more than the allocation.

use std::fmt;

/// Why a call was refused. Nothing has changed when one of these comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u64)]
pub enum Error {
    /// A fragment of no bytes was asked for.
    ZeroSize,
    /// More bytes were asked for than a page of this pool has.
    SizeAbovePage,
    /// An alignment that is not a power of two, or above the page size.
    BadAlignment,
    /// The pool is at its `max_bytes` and nothing could be reclaimed.
    Exhausted,
    /// The operating system gave no memory.
    OutOfMemory,
    /// A page size that is not a power of two from 4 KiB to 1 MiB.
    BadPageSize,
    /// A `max_bytes` below one region of 2 MiB.
    BadMaxBytes,
    /// More was committed than was prepared.
    CommitAboveRoom,
    /// An `SkBuff` has less room in front of its data than was asked for.
    NoHeadroom,
    /// An `SkBuff` has less room behind its data than was asked for.
    NoTailroom,
    /// More was pulled or trimmed than an `SkBuff` has.
    AboveLength,
    /// An `SkBuff` has no free fragment slot.
    TooManyFrags,
    /// The data of an `SkBuff` is shared with a clone and may not change.
    Cloned,
    /// An `SkBuff` has data in fragments where only a linear one will do.
    NotLinear,
    /// An `SkBuff` already has data where only an empty one will do.
    NotEmpty,
    /// A fragment is too small to be the head of an `SkBuff`.
    HeadTooSmall,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroSize => "a fragment has at least one byte",
            Self::SizeAbovePage => "the size is above the page size of the pool",
            Self::BadAlignment => "the alignment is not a power of two up to the page size",
            Self::Exhausted => "the pool is at its max_bytes and nothing could be reclaimed",
            Self::OutOfMemory => "the operating system gave no memory for a region",
            Self::BadPageSize => "the page size is not a power of two from 4 KiB to 1 MiB",
            Self::BadMaxBytes => "max_bytes is below one region of 2 MiB",
            Self::CommitAboveRoom => "more bytes were committed than were prepared",
            Self::NoHeadroom => "the headroom is too small",
            Self::NoTailroom => "the tailroom is too small",
            Self::AboveLength => "the buffer holds fewer bytes than that",
            Self::TooManyFrags => "the buffer has no free fragment slot",
            Self::Cloned => "the data is shared with a clone and may not change",
            Self::NotLinear => "the buffer has data in fragments",
            Self::NotEmpty => "the buffer already has data",
            Self::HeadTooSmall => "the fragment has no room for data beside the shared info",
        })
    }
}

impl std::error::Error for Error {}
