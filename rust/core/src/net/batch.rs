//! Packets that came together.
//!
//! A batch is the memory in which packets lie, in lots, and beside it what is known
//! of each packet. As long as it is whole, nothing is done for single packets: it
//! goes back lot by lot, a page's worth with one reference. Each packet gets a
//! fragment of its own when the batch is opened.
//!
//! ```text
//!   apart    [ packet ░░░░ ][ packet ░ ][ packet ░░ ]   buffers: cut where they are
//!   landed   [ packet | packet | packet | packet ░ ]    segments: copied out
//! ```

use std::iter::once;
use std::ops::Deref;

use crate::mem::{FragMut, PageFragCache, drop_many};
use crate::net::facts::{RxFact, RxFactIter, RxFacts};

/// Packets in one fragment, one every `step` bytes.
#[derive(Debug)]
struct Lot {
    frag: FragMut,
    /// The number of the first packet behind it.
    end: u32,
    /// Whole lines, unless they have landed.
    step: u32,
    /// Did they land side by side?
    landed: bool,
}

impl Lot {
    /// Gives each of its `count` packets a fragment of its own. Those that landed
    /// side by side are copied out of it: cut where they are, one that is kept
    /// would keep room that fits no other super-buffer.
    fn open(
        self,
        count: usize,
        cache: &mut PageFragCache,
        mut lens: impl Iterator<Item = usize>,
        all: &mut Vec<FragMut>,
    ) {
        let step = self.step as usize;
        let mut frag = self.frag;
        if !self.landed {
            return Self::cut(frag, step, lens.take(count), all);
        }
        for nth in 0..count {
            let len = lens.next().unwrap_or(0);
            let Ok(mut own) = cache.alloc(len) else {
                let rest = if nth == 0 {
                    frag
                } else {
                    frag.split_off(nth * step)
                };
                return Self::cut(rest, step, once(len).chain(lens.take(count - nth - 1)), all);
            };
            own.copy_from_slice(&frag[nth * step..][..len]);
            all.push(own);
        }
    }

    /// Packets of these lengths where they are, each with its own lines; those that
    /// share a line, as they may have landed, are freed together.
    fn cut(
        mut frag: FragMut,
        step: usize,
        lens: impl Iterator<Item = usize>,
        all: &mut Vec<FragMut>,
    ) {
        let mut lens = lens.peekable();
        while let Some(len) = lens.next() {
            if lens.peek().is_none() {
                frag.shrink_to(len);
                return all.push(frag);
            }
            let mut own = frag.split_to(step);
            own.shrink_to(len);
            all.push(own);
        }
    }
}

/// The memory of packets as they were received, in the order in which they came.
/// Dropping this is one batch drop.
#[derive(Debug, Default)]
pub struct RxFrags(Vec<Lot>);

impl RxFrags {
    /// Bytes of memory that go back when all of them do: whole lines.
    pub fn footprint(&self) -> usize {
        self.0.iter().map(|lot| lot.frag.capacity()).sum()
    }

    /// Do packets lie side by side, as they landed? Then [`open`](Self::open) gives them
    /// another place than their facts tell.
    pub fn is_landed(&self) -> bool {
        self.0.iter().any(|lot| lot.landed)
    }

    /// Every packet in a fragment of its own, of which there are as many as `facts`,
    /// those that came with this.
    ///
    /// A buffer that its packet does not fill is cut: no locked instruction on the
    /// thread that received. Packets that the kernel has coalesced may lie where
    /// they landed: they are copied into fragments from `cache`, or stay there and
    /// are freed with their neighbours if it has no memory.
    pub fn open(mut self, cache: &mut PageFragCache, facts: &RxFacts) -> Vec<FragMut> {
        let mut all = Vec::with_capacity(facts.len());
        self.open_into(cache, facts, &mut all);
        all
    }

    fn open_into(&mut self, cache: &mut PageFragCache, facts: &RxFacts, all: &mut Vec<FragMut>) {
        let mut lens = facts.iter().map(|fact| fact.len());
        let mut from = 0;
        for lot in self.0.drain(..) {
            let end = lot.end as usize;
            lot.open(end - from, cache, lens.by_ref(), all);
            from = end;
        }
    }

    /// Packets that are in it.
    #[inline]
    fn len(&self) -> usize {
        self.0.last().map_or(0, |lot| lot.end as usize)
    }

    /// The `len` bytes of the packet at `index`.
    fn bytes(&self, index: usize, len: usize) -> Option<&[u8]> {
        let nth = self.0.partition_point(|lot| lot.end as usize <= index);
        let before = nth.checked_sub(1).map_or(0, |nth| self.0[nth].end as usize);
        let lot = self.0.get(nth)?;
        lot.frag
            .get((index - before) * lot.step as usize..)?
            .get(..len)
    }

    /// `count` packets in `frag`, one every `step` bytes.
    #[inline]
    fn push(&mut self, frag: FragMut, step: usize, count: usize, landed: bool) {
        self.0.push(Lot {
            frag,
            end: short(self.len() + count),
            step: short(step),
            landed,
        });
    }

    fn clear(&mut self) {
        drop_many(self.0.drain(..).map(|lot| lot.frag));
    }
}

impl Drop for RxFrags {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A packet of a batch. Derefs to what is known beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RxPacket<'a> {
    /// The payload, where it was received.
    pub bytes: &'a [u8],
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
    /// One for each packet.
    facts: RxFacts,
    discarded: u64,
}

impl RxBatch {
    /// Storage for `max` packets.
    pub fn with_capacity(max: usize) -> Self {
        let mut batch = Self::default();
        batch.reserve(max, max);
        batch
    }

    /// Packets in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Is there no packet? See also [`discarded`](Self::discarded).
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Packets that were read and thrown away because the pool was at its limit,
    /// counted in `rx_alloc_fail`. An empty batch that discarded some says that
    /// memory is missing, not packets.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The packet at `index`, in the order in which they came.
    pub fn get(&self, index: usize) -> Option<RxPacket<'_>> {
        let fact = self.facts.get(index)?;
        let bytes = self.frags.bytes(index, fact.len())?;
        Some(RxPacket { bytes, fact })
    }

    /// The packets one by one.
    pub fn iter(&self) -> RxPackets<'_> {
        RxPackets {
            lots: self.frags.0.iter(),
            lot: None,
            at: 0,
            facts: self.facts.iter(),
        }
    }

    /// What is known beside the bytes.
    pub fn facts(&self) -> &RxFacts {
        &self.facts
    }

    /// Takes the packets out, each in a fragment of its own behind those in `into`,
    /// and keeps the storage. What is known of them is gone;
    /// [`open`](Self::open) keeps it.
    pub fn drain_into(&mut self, cache: &mut PageFragCache, into: &mut Vec<FragMut>) {
        self.frags.open_into(cache, &self.facts, into);
        self.facts.clear();
        self.discarded = 0;
    }

    /// Every packet in a fragment of its own, and what is known of each.
    ///
    /// Segments of a super-buffer are copied out of it, into fragments from `cache`;
    /// if it has no memory they stay and are freed with their neighbours. Other
    /// packets stay where they are.
    pub fn open(self, cache: &mut PageFragCache) -> (Vec<FragMut>, RxFacts) {
        let (frags, mut facts) = self.into_parts();
        let moved = frags.is_landed();
        let all = frags.open(cache, &facts);
        if moved {
            for (index, frag) in all.iter().enumerate() {
                facts.place(index, frag.page(), short(frag.offset()));
            }
        }
        (all, facts)
    }

    /// The memory as it is, and what is known of each packet. Costs nothing.
    pub fn into_parts(self) -> (RxFrags, RxFacts) {
        (self.frags, self.facts)
    }

    /// Gives all packets back in one batch drop and keeps the storage.
    pub fn clear(&mut self) {
        self.discarded = 0;
        self.facts.clear();
        self.frags.clear();
    }

    /// Makes room for `more` packets in `lots` pieces of memory in two heap calls,
    /// if there is not.
    pub(super) fn reserve(&mut self, more: usize, lots: usize) {
        self.frags.0.reserve(lots);
        self.facts.reserve(more);
    }

    /// What the next packets come from is told by `facts_mut().begin`.
    pub(super) fn facts_mut(&mut self) -> &mut RxFacts {
        &mut self.facts
    }

    /// A packet of `len` bytes in `frag` that was sent with `wire_len` bytes, on a page
    /// of `page_size`.
    #[inline]
    pub(super) fn push(&mut self, frag: FragMut, len: usize, wire_len: usize, page_size: usize) {
        self.note(&frag, len, wire_len, page_size);
        self.push_apart(frag, 0, 1);
    }

    /// A packet in the first `len` bytes of `bytes`, which `push_apart` brings.
    #[inline]
    pub(super) fn note(&mut self, bytes: &[u8], len: usize, wire_len: usize, page_size: usize) {
        let (page, offset) = place(bytes, page_size);
        self.facts.push(page, offset, short(len), short(wire_len));
    }

    /// The memory of the next `count` packets that were noted, one every `step` bytes.
    #[inline]
    pub(super) fn push_apart(&mut self, frag: FragMut, step: usize, count: usize) {
        self.frags.push(frag, step, count, false);
    }

    /// Packets that lie side by side in the first `len` bytes of `frag`, each of `step`
    /// bytes but the last, which may be shorter.
    pub(super) fn push_landed(&mut self, frag: FragMut, len: usize, step: usize, page_size: usize) {
        let (page, offset) = place(&frag, page_size);
        let before = self.len();
        self.facts.push_row(page, offset, short(len), short(step));
        self.frags.push(frag, step, self.len() - before, true);
    }

    pub(super) fn discard(&mut self, packets: u64) {
        self.discarded += packets;
    }
}

/// The page of some bytes, and where in it they start.
#[inline]
fn place(bytes: &[u8], page_size: usize) -> (usize, u32) {
    let address = bytes.as_ptr().addr();
    let offset = address & (page_size - 1);
    (address - offset, short(offset))
}

/// The packets of a batch, one after the other.
#[derive(Clone, Debug)]
pub struct RxPackets<'a> {
    lots: std::slice::Iter<'a, Lot>,
    /// The lot of the next packet, and where the packet begins in it, unless the next
    /// begins a lot.
    lot: Option<&'a Lot>,
    at: usize,
    facts: RxFactIter<'a>,
}

impl<'a> Iterator for RxPackets<'a> {
    type Item = RxPacket<'a>;

    fn next(&mut self) -> Option<RxPacket<'a>> {
        let index = self.facts.index();
        let fact = self.facts.next()?;
        if self.lot.is_none_or(|lot| lot.end as usize <= index) {
            (self.lot, self.at) = (self.lots.next(), 0);
        }
        let lot = self.lot?;
        let bytes = lot.frag.get(self.at..)?.get(..fact.len())?;
        self.at += lot.step as usize;
        Some(RxPacket { bytes, fact })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.facts.size_hint()
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

/// A number below the size of a page or of a datagram, which are both below 4 GiB.
#[inline]
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
