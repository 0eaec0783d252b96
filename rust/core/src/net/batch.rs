//! Packets that came together.
//!
//! A batch is the fragments, and beside them what is known of each. As long as it
//! is whole, nothing is done for single packets: it goes back in one batch drop, in
//! which neighbours of one page are settled together, and a buffer that a packet
//! has not filled is not cut. It is cut when the fragment leaves the batch.

use std::ops::Deref;

use crate::mem::{FragMut, drop_many};
use crate::net::facts::{RxFact, RxFactIter, RxFacts};

/// Fragments as they were received, in the order in which they came.
///
/// A packet may lie in a larger buffer, whose tail is given back when the fragment
/// is taken out, by iterating. Dropping this is one batch drop.
#[derive(Debug, Default)]
pub struct RxFrags(Vec<FragMut>);

impl RxFrags {
    /// Bytes of memory that go back when all of them do: whole lines.
    pub fn footprint(&self) -> usize {
        self.0.iter().map(FragMut::capacity).sum()
    }

    /// Gives the tails of all buffers back. No locked instruction on the thread
    /// that received.
    fn cut(&mut self) {
        for frag in &mut self.0 {
            frag.shrink_to(frag.len());
        }
    }

    fn clear(&mut self) {
        drop_many(self.0.drain(..));
    }
}

impl Drop for RxFrags {
    fn drop(&mut self) {
        self.clear();
    }
}

impl IntoIterator for RxFrags {
    type Item = FragMut;
    type IntoIter = std::vec::IntoIter<FragMut>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.cut();
        std::mem::take(&mut self.0).into_iter()
    }
}

/// A packet of a batch. Derefs to what is known beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RxPacket<'a> {
    /// The payload: it is free again on its own, also if the kernel had coalesced
    /// the packet with others.
    pub frag: &'a FragMut,
    fact: RxFact<'a>,
}

impl<'a> Deref for RxPacket<'a> {
    type Target = RxFact<'a>;

    fn deref(&self) -> &RxFact<'a> {
        &self.fact
    }
}

/// What one receive call gave.
///
/// Its storage is used again when the batch is passed to
/// [`RxRing::recv_into`](crate::net::RxRing::recv_into) again: no heap call per
/// batch then.
///
/// # Examples
/// ```
/// let batch = pagefrag::net::RxBatch::default();
/// assert!(batch.is_empty() && batch.discarded() == 0);
/// ```
#[derive(Debug, Default)]
pub struct RxBatch {
    frags: RxFrags,
    /// One for each fragment.
    facts: RxFacts,
    discarded: u64,
}

impl RxBatch {
    /// Storage for `max` packets.
    pub fn with_capacity(max: usize) -> Self {
        let mut batch = Self::default();
        batch.reserve(max);
        batch
    }

    /// Packets in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.frags.0.len()
    }

    /// Is there no packet? See also [`discarded`](Self::discarded).
    pub fn is_empty(&self) -> bool {
        self.frags.0.is_empty()
    }

    /// Packets that were read and thrown away because the pool was at its limit,
    /// counted in `rx_alloc_fail`. An empty batch that discarded some says that
    /// memory is missing, not packets.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The packet at `index`, in the order in which they came.
    pub fn get(&self, index: usize) -> Option<RxPacket<'_>> {
        let frag = self.frags.0.get(index)?;
        let fact = self.facts.get(index)?;
        Some(RxPacket { frag, fact })
    }

    /// The packets one by one.
    pub fn iter(&self) -> RxPackets<'_> {
        RxPackets {
            frags: self.frags.0.iter(),
            facts: self.facts.iter(),
        }
    }

    /// What is known beside the bytes.
    pub fn facts(&self) -> &RxFacts {
        &self.facts
    }

    /// Takes the fragments out and keeps the storage. What is known of them is
    /// gone; [`into_parts`](Self::into_parts) keeps it.
    pub fn drain(&mut self) -> std::vec::Drain<'_, FragMut> {
        self.discarded = 0;
        self.facts.clear();
        self.frags.cut();
        self.frags.0.drain(..)
    }

    /// The fragments, and what is known of each. Costs nothing.
    pub fn into_parts(self) -> (RxFrags, RxFacts) {
        (self.frags, self.facts)
    }

    /// Gives all packets back in one batch drop and keeps the storage.
    pub fn clear(&mut self) {
        self.discarded = 0;
        self.facts.clear();
        self.frags.clear();
    }

    /// Makes room for `more` packets in two heap calls, if there is not.
    pub(super) fn reserve(&mut self, more: usize) {
        self.frags.0.reserve(more);
        self.facts.reserve(more);
    }

    /// What the next packets come from is told by `facts_mut().begin`.
    pub(super) fn facts_mut(&mut self) -> &mut RxFacts {
        &mut self.facts
    }

    /// A packet that was sent with `wire_len` bytes, on a page of `page_size`.
    #[inline]
    pub(super) fn push(&mut self, frag: FragMut, wire_len: usize, page_size: usize) {
        let address = frag.as_ptr().addr();
        let offset = address & (page_size - 1);
        let (len, page) = (short(frag.len()), address - offset);
        self.facts.push(page, short(offset), len, short(wire_len));
        self.frags.0.push(frag);
    }

    pub(super) fn discard(&mut self, packets: u64) {
        self.discarded += packets;
    }
}

/// The packets of a batch, one after the other.
#[derive(Clone, Debug)]
pub struct RxPackets<'a> {
    frags: std::slice::Iter<'a, FragMut>,
    facts: RxFactIter<'a>,
}

impl<'a> Iterator for RxPackets<'a> {
    type Item = RxPacket<'a>;

    fn next(&mut self) -> Option<RxPacket<'a>> {
        let (frag, fact) = (self.frags.next()?, self.facts.next()?);
        Some(RxPacket { frag, fact })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.frags.size_hint()
    }
}

impl ExactSizeIterator for RxPackets<'_> {}

impl<'a> IntoIterator for &'a RxBatch {
    type Item = RxPacket<'a>;
    type IntoIter = RxPackets<'a>;

    fn into_iter(self) -> RxPackets<'a> {
        self.iter()
    }
}

impl IntoIterator for RxBatch {
    type Item = FragMut;
    type IntoIter = std::vec::IntoIter<FragMut>;

    fn into_iter(self) -> Self::IntoIter {
        self.frags.into_iter()
    }
}

/// A number below the size of a page or of a datagram, which are both below 4 GiB.
#[inline]
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
