//! Fragments as Rust users hold them: one that may write, and one that is shared.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Bound, Deref, DerefMut, RangeBounds};

use crate::mem::raw::RawFrag;

/// A piece of a page that is yours alone: read it, write it, then
/// [`freeze`](Self::freeze) it to share it, or drop it to give it back.
///
/// Sixteen bytes, passed in registers. Fresh fragments show whatever the bytes
/// held before, unless the pool says `init_on_alloc`.
///
/// Dropping executes no locked instruction on the thread whose cache carved
/// it, and at most two on any other. The last fragment of a page whose cache
/// is gone brings the page home as well: a few more, once per page.
///
/// # Examples
/// ```
/// use pagefrag::{PageFragCache, PagePool};
///
/// let pool = PagePool::new(32 * 1024)?;
/// let mut cache = PageFragCache::new(&pool);
/// let mut frag = cache.alloc(5)?;
/// frag.copy_from_slice(b"hello");
/// let shared = frag.freeze();
/// let word = shared.slice(1..4);
/// drop(shared);
/// assert_eq!(&word[..], b"ell");
/// # Ok::<(), pagefrag::Error>(())
/// ```
pub struct FragMut(RawFrag);

/// A piece of a page that may have several holders and that nobody writes.
///
/// Sixteen bytes, passed in registers. Cloning and slicing cost one locked
/// add; dropping costs a load when it has become the only holder again.
pub struct Frag(RawFrag);

impl FragMut {
    /// Wraps a raw fragment.
    ///
    /// # Safety
    /// * It is the only handle of its fragment, or no other handle shows any
    ///   byte that it shows.
    /// * Nobody reads or writes those bytes but through it.
    #[inline]
    pub unsafe fn from_raw(raw: RawFrag) -> FragMut {
        FragMut(raw)
    }

    /// The raw fragment, for a binding with rules of its own.
    #[inline]
    pub fn into_raw(self) -> RawFrag {
        self.0
    }

    /// Makes it shareable and read-only. Costs nothing.
    #[inline]
    pub fn freeze(self) -> Frag {
        Frag(self.0)
    }

    /// Keeps showing only the first `len` bytes; the rest stays part of the
    /// fragment. Does nothing if there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        self.0.narrow(0, len);
    }

    /// Keeps the first `len` bytes and gives the lines behind them back at
    /// once: no locked instruction on the owner's thread.
    ///
    /// # Panics
    /// If it shows fewer bytes than that.
    pub fn shrink_to(&mut self, len: usize) {
        self.0.shrink_to(len);
    }

    /// Keeps the first `at` bytes and returns the rest. If the cut falls
    /// between two 64-byte lines (or at granule 1 anywhere), each part is
    /// freed on its own; otherwise the parts share a count, and the lines come
    /// home with the later of them.
    ///
    /// # Panics
    /// If `at` is above the length.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> FragMut {
        FragMut(self.0.split_off(at))
    }

    /// Returns the first `at` bytes and keeps the rest; see
    /// [`split_off`](Self::split_off).
    ///
    /// # Panics
    /// If `at` is above the length.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> FragMut {
        let rest = self.split_off(at);
        std::mem::replace(self, rest)
    }
}

impl Frag {
    /// Wraps a raw fragment.
    ///
    /// # Safety
    /// Nobody writes the bytes that it shows while this value or a clone of it
    /// lives.
    #[inline]
    pub unsafe fn from_raw(raw: RawFrag) -> Frag {
        Frag(raw)
    }

    /// The raw fragment, for a binding with rules of its own.
    #[inline]
    pub fn into_raw(self) -> RawFrag {
        self.0
    }

    /// A handle on part of the bytes. One locked add.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Frag {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.checked_add(1).expect("range out of bounds"),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.checked_add(1).expect("range out of bounds"),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        assert!(
            start <= end && end <= self.len(),
            "range {start}..{end} out of bounds of {} bytes",
            self.len()
        );
        let mut part = self.0.share();
        part.narrow(start, end - start);
        Frag(part)
    }

    /// Keeps the first `at` bytes and returns the rest; see
    /// [`FragMut::split_off`].
    ///
    /// # Panics
    /// If `at` is above the length.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Frag {
        Frag(self.0.split_off(at))
    }

    /// Returns the first `at` bytes and keeps the rest.
    ///
    /// # Panics
    /// If `at` is above the length.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> Frag {
        let rest = self.split_off(at);
        std::mem::replace(self, rest)
    }

    /// Forgets the first `count` bytes: they stay part of the fragment.
    ///
    /// # Panics
    /// If it shows fewer bytes than that.
    pub fn advance(&mut self, count: usize) {
        let len = self.len();
        assert!(count <= len, "advance by {count} of {len} bytes");
        self.0.narrow(count, len - count);
    }

    /// Keeps showing only the first `len` bytes. Does nothing if there are no
    /// more than that.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        self.0.narrow(0, len);
    }

    /// Back to a fragment that may write, if nobody shares it. One load.
    ///
    /// At granule 1 the count is the page's, as in the kernel, so a fragment
    /// that has ever been shared stays shared.
    ///
    /// # Errors
    /// Itself, unchanged, if another handle lives.
    pub fn try_into_mut(self) -> Result<FragMut, Frag> {
        if self.is_unique() {
            Ok(FragMut(self.0))
        } else {
            Err(self)
        }
    }
}

impl Clone for Frag {
    fn clone(&self) -> Self {
        Frag(self.0.share())
    }
}

macro_rules! common {
    ($name:ident) => {
        impl $name {
            /// The handle itself, for those who look at it only.
            #[cfg(not(loom))] // only `net` needs it
            pub(crate) fn raw(&self) -> &RawFrag {
                &self.0
            }

            /// The address of the page: equal for fragments of one page,
            /// different for different live pages.
            pub fn page(&self) -> usize {
                self.0.page()
            }

            /// Bytes from the page's start to the first byte.
            pub fn offset(&self) -> usize {
                self.0.offset()
            }

            /// Bytes that come home when the fragment dies: whole lines.
            pub fn capacity(&self) -> usize {
                self.0.capacity()
            }

            /// Bytes of this fragment's page that are held and not alive now.
            pub fn pinned_bytes(&self) -> usize {
                self.0.pinned_bytes()
            }

            /// Is this the only handle of its fragment?
            pub fn is_unique(&self) -> bool {
                self.0.is_unique()
            }
        }

        impl Deref for $name {
            type Target = [u8];

            #[inline]
            fn deref(&self) -> &[u8] {
                // SAFETY: valid for `len` bytes while `self` lives; bytes of a
                // mapping are always initialised; nobody writes them but
                // through an exclusive borrow (`from_raw`).
                unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                self
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self[..] == other[..]
            }
        }

        impl Eq for $name {}

        impl PartialEq<[u8]> for $name {
            fn eq(&self, other: &[u8]) -> bool {
                self[..] == *other
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                // As the slice's, which `Borrow` promises.
                self[..].hash(state);
            }
        }

        impl From<$name> for RawFrag {
            fn from(frag: $name) -> RawFrag {
                frag.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("page", &format_args!("{:#x}", self.page()))
                    .field("offset", &self.offset())
                    .field("len", &self.len())
                    .finish_non_exhaustive()
            }
        }
    };
}

common!(FragMut);
common!(Frag);

impl DerefMut for FragMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and exclusive: no other handle shows these
        // bytes (`from_raw`), and this one is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.len_owned()) }
    }
}

impl AsMut<[u8]> for FragMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl From<FragMut> for Frag {
    fn from(frag: FragMut) -> Frag {
        frag.freeze()
    }
}
