//! What is known of packets beside their bytes.
//!
//! A row of few words for each packet; who sent it, when and how is written once
//! for all packets that follow one another and have it in common: the segments of
//! a super-buffer, or a burst of one sender.
//!
//! ```text
//!   rows      [page, offset, len, wire len, 0][.. 0][.. 0][.. 1] ...
//!   origins   0: sender A, joined              1: sender B
//! ```

use std::ops::Range;

use crate::net::addr::{LongName, Source};

/// Where packets came from: the same for all segments of a super-buffer.
///
/// # Examples
/// ```
/// let origin = pagefrag::net::RxOrigin::default();
/// assert!(origin.name.is_empty() && !origin.segment);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxOrigin<'a> {
    /// The sender's raw `sockaddr`, of which up to 110 bytes are kept; empty when
    /// there is none.
    pub name: &'a [u8],
    /// When the kernel took them in, in nanoseconds since 1970.
    pub timestamp: Option<i64>,
    /// The number of the interface through which they came.
    pub interface: Option<u32>,
    /// Did the kernel coalesce them (`UDP_GRO`)?
    pub segment: bool,
}

/// An origin, kept.
#[derive(Clone, Debug)]
struct Origin {
    source: Source,
    /// The whole name, where `source` has not room for it.
    long_name: Option<LongName>,
    timestamp: Option<i64>,
    interface: Option<u32>,
    segment: bool,
}

impl Origin {
    fn of(origin: &RxOrigin<'_>) -> Self {
        Self {
            source: Source::from_name(origin.name),
            long_name: LongName::of(origin.name),
            timestamp: origin.timestamp,
            interface: origin.interface,
            segment: origin.segment,
        }
    }

    fn name(&self) -> &[u8] {
        match &self.long_name {
            Some(name) => name.as_bytes(),
            None => self.source.as_bytes(),
        }
    }

    #[inline]
    fn is(&self, origin: &RxOrigin<'_>) -> bool {
        self.timestamp == origin.timestamp
            && self.interface == origin.interface
            && self.segment == origin.segment
            && self.name() == origin.name
    }
}

/// What is a packet's own. 24 bytes.
#[derive(Clone, Copy, Debug)]
struct Row {
    page: usize,
    offset: u32,
    len: u32,
    wire_len: u32,
    /// Invariant: the number of an origin.
    origin: u32,
}

/// What is known of the packets of a batch, beside their bytes. Stays as it is
/// whatever becomes of the bytes.
///
/// # Examples
/// ```
/// use pagefrag::net::{RxFacts, RxOrigin};
///
/// let mut facts = RxFacts::default();
/// facts.begin(RxOrigin::default());
/// facts.push(0x8000, 64, 100, 3000);
/// let fact = facts.get(0).unwrap();
/// assert_eq!((fact.page(), fact.offset(), fact.len()), (0x8000, 64, 100));
/// assert!(fact.is_truncated());
/// ```
#[derive(Clone, Debug, Default)]
pub struct RxFacts {
    rows: Vec<Row>,
    origins: Vec<Origin>,
}

impl RxFacts {
    /// Packets that are known.
    #[inline]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is none known?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is known of the packet at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<RxFact<'_>> {
        self.rows.get(index).map(|row| self.fact(row))
    }

    #[inline]
    fn fact<'a>(&'a self, row: &'a Row) -> RxFact<'a> {
        RxFact {
            row,
            origin: &self.origins[row.origin as usize],
        }
    }

    /// The packets, one by one.
    pub fn iter(&self) -> RxFactIter<'_> {
        RxFactIter {
            facts: self,
            left: 0..self.len(),
        }
    }

    /// Bytes that the table takes.
    pub fn footprint(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.origins.capacity() * size_of::<Origin>()
    }

    /// The packets that are pushed from now on came from there.
    #[inline]
    pub fn begin(&mut self, origin: RxOrigin<'_>) {
        if !self.origins.last().is_some_and(|last| last.is(&origin)) {
            self.origins.push(Origin::of(&origin));
        }
    }

    /// A packet that lies in `page` at `offset` with `len` bytes, and was sent
    /// with `wire_len`.
    ///
    /// # Panics
    /// If nothing was begun.
    #[inline]
    pub fn push(&mut self, page: usize, offset: u32, len: u32, wire_len: u32) {
        assert!(!self.origins.is_empty(), "from nowhere");
        self.rows.push(Row {
            page,
            offset,
            len,
            wire_len,
            // As many as messages at most, of which there are at most 1024 a call,
            // or as the table of a pickle has rows.
            origin: u32::try_from(self.origins.len() - 1).unwrap_or(0),
        });
    }

    /// Packets that lie side by side in the `len` bytes from `offset` of `page` on:
    /// each of `step` bytes, as it was sent, and the last of what is left.
    pub(super) fn push_row(&mut self, page: usize, offset: u32, len: u32, step: u32) {
        assert!(!self.origins.is_empty(), "from nowhere");
        let origin = u32::try_from(self.origins.len() - 1).unwrap_or(0);
        let row = |at| {
            let len = step.min(len - at);
            Row {
                page,
                offset: offset + at,
                len,
                wire_len: len,
                origin,
            }
        };
        let count = len.div_ceil(step);
        self.rows.extend((0..count).map(|nth| row(nth * step)));
    }

    /// The packet at `index` has another place.
    pub(super) fn place(&mut self, index: usize, page: usize, offset: u32) {
        (self.rows[index].page, self.rows[index].offset) = (page, offset);
    }

    /// Bytes of each packet that were received.
    #[inline]
    pub fn lens(&self) -> impl ExactSizeIterator<Item = u32> {
        self.rows.iter().map(|row| row.len)
    }

    /// Bytes of all packets, and how many of them are truncated.
    pub(super) fn sums(&self) -> (u64, u64) {
        let truncated = |row: &Row| u64::from(row.wire_len > row.len);
        let bytes = self.rows.iter().map(|row| u64::from(row.len)).sum();
        (bytes, self.rows.iter().map(truncated).sum())
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.rows.reserve(more);
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.origins.clear();
    }
}

impl<'a> IntoIterator for &'a RxFacts {
    type Item = RxFact<'a>;
    type IntoIter = RxFactIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The facts of a batch, one packet after the other.
#[derive(Clone, Debug)]
pub struct RxFactIter<'a> {
    facts: &'a RxFacts,
    left: Range<usize>,
}

impl RxFactIter<'_> {
    /// The number of the next packet.
    pub(super) fn index(&self) -> usize {
        self.left.start
    }
}

impl<'a> Iterator for RxFactIter<'a> {
    type Item = RxFact<'a>;

    #[inline]
    fn next(&mut self) -> Option<RxFact<'a>> {
        self.facts.get(self.left.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for RxFactIter<'_> {}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RxFact<'a> {
    row: &'a Row,
    origin: &'a Origin,
}

#[allow(clippy::len_without_is_empty, reason = "a number that was noted")]
impl<'a> RxFact<'a> {
    /// Bytes that were received.
    #[inline]
    pub fn len(&self) -> usize {
        self.row.len as usize
    }

    /// Bytes that were sent; more than were received when the packet was
    /// truncated.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.row.wire_len as usize
    }

    /// Was the packet longer than its buffer? The rest is lost.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.row.wire_len > self.row.len
    }

    /// The address of the page in which it was received, or where it was put when its
    /// batch was opened.
    #[inline]
    pub fn page(&self) -> usize {
        self.row.page
    }

    /// Bytes from the page's start to its first byte.
    #[inline]
    pub fn offset(&self) -> usize {
        self.row.offset as usize
    }

    /// Who sent it.
    pub fn source(&self) -> Source {
        self.origin.source
    }

    /// The sender's raw `sockaddr`, whole: `source` has no room for the path of
    /// a UNIX socket. Empty when the kernel gave none.
    pub fn name(&self) -> &'a [u8] {
        self.origin.name()
    }

    /// When the kernel took it in, in nanoseconds since 1970; segments of one
    /// super-buffer have the same time. `None` unless the ring asks for it
    /// ([`RxOptions::timestamps`](crate::net::RxOptions::timestamps)).
    pub fn timestamp(&self) -> Option<i64> {
        self.origin.timestamp
    }

    /// The number of the interface through which it came. `None` unless the ring
    /// asks for it ([`RxOptions::interfaces`](crate::net::RxOptions::interfaces))
    /// or has a packet socket.
    pub fn interface(&self) -> Option<u32> {
        let told = self.origin.interface;
        told.or_else(|| self.origin.source.interface())
    }

    /// Did the kernel coalesce it with others (`UDP_GRO`)?
    pub fn is_segment(&self) -> bool {
        self.origin.segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_one_origin_is_written_once() {
        let mut facts = RxFacts::default();
        let names = [[1; 20], [1; 20], [2; 20], [1; 20]];
        for (nth, name) in (0..).zip(&names) {
            facts.begin(RxOrigin {
                name,
                ..RxOrigin::default()
            });
            facts.push(0, nth, 1, 1);
        }
        assert_eq!(facts.origins.len(), 3);
        let found: Vec<_> = facts.iter().map(|fact| fact.name().to_vec()).collect();
        assert_eq!(found, names);
    }

    #[test]
    fn one_difference_makes_another_origin() {
        let first = RxOrigin::default();
        let others = [
            RxOrigin {
                timestamp: Some(1),
                ..first
            },
            RxOrigin {
                interface: Some(0),
                ..first
            },
            RxOrigin {
                segment: true,
                ..first
            },
            RxOrigin {
                name: &[0; 100],
                ..first
            },
        ];
        for other in others {
            let mut facts = RxFacts::default();
            for origin in [first, other] {
                facts.begin(origin);
                facts.push(0, 0, 0, 0);
            }
            let found = facts.get(1).unwrap();
            assert_eq!(facts.origins.len(), 2);
            assert_eq!(found.timestamp(), other.timestamp);
            assert_eq!(found.interface(), other.interface);
            assert_eq!(found.is_segment(), other.segment);
            assert_eq!(found.name(), other.name);
        }
    }

    #[test]
    fn a_row_is_three_words() {
        assert_eq!(size_of::<Row>(), 24, "written for every packet");
    }
}
