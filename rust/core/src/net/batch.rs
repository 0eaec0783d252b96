//! Packets that came together.
//!
//! A batch is a list: fragment, sender, length. Giving it back is one batch drop,
//! in which neighbours of one page are settled together.

use crate::mem::{FragMut, drop_many};
use crate::net::addr::{LongName, Source};
use crate::net::socket::Notes;

/// What is known of a message beside its bytes, the same for all segments of a
/// super-buffer.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    source: Source,
    /// The whole name, where `source` has not room for it.
    long_name: Option<LongName>,
    timestamp: i64,
    interface: u32,
}

impl Origin {
    /// Out of what the kernel wrote.
    pub(super) fn new(name: &[u8], notes: Notes) -> Self {
        let source = Source::from_name(name);
        Self {
            interface: notes.interface.or(source.interface()).unwrap_or(0),
            timestamp: notes.timestamp.unwrap_or(0),
            long_name: LongName::of(name),
            source,
        }
    }
}

/// One received packet.
#[derive(Debug)]
pub struct RxPacket {
    /// The payload: writable, ours alone, and free again on its own, also if the
    /// kernel had coalesced the packet with others.
    pub frag: FragMut,
    /// Who sent it.
    pub source: Source,
    long_name: Option<LongName>,
    timestamp: i64,
    interface: u32,
    wire_len: u32,
    segment: bool,
    truncated: bool,
}

impl RxPacket {
    /// A packet that came alone, and was sent with `wire_len` bytes.
    pub(super) fn whole(frag: FragMut, origin: Origin, wire_len: usize) -> Self {
        Self {
            truncated: wire_len > frag.len(),
            wire_len: u32::try_from(wire_len).unwrap_or(u32::MAX),
            frag,
            source: origin.source,
            long_name: origin.long_name,
            timestamp: origin.timestamp,
            interface: origin.interface,
            segment: false,
        }
    }

    /// A packet of `wire_len` bytes that the kernel had coalesced with others.
    pub(super) fn segment(frag: FragMut, origin: Origin, wire_len: usize) -> Self {
        let mut packet = Self::whole(frag, origin, wire_len);
        packet.segment = true;
        packet
    }

    /// Bytes that were sent; more than `frag` holds when the packet was
    /// truncated.
    pub fn wire_len(&self) -> usize {
        self.wire_len as usize
    }

    /// Was the packet longer than its buffer? The rest is lost.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The sender's raw `sockaddr`, whole: `source` has no room for the path of
    /// a UNIX socket. Empty when the kernel gave none.
    pub fn name(&self) -> &[u8] {
        match &self.long_name {
            Some(name) => name.as_bytes(),
            None => self.source.as_bytes(),
        }
    }

    /// When the kernel took it in, in nanoseconds since 1970; segments of one
    /// super-buffer have the same time. `None` unless the ring asks for it
    /// ([`RxOptions::timestamps`](crate::net::RxOptions::timestamps)).
    pub fn timestamp(&self) -> Option<i64> {
        (self.timestamp != 0).then_some(self.timestamp)
    }

    /// The number of the interface through which it came. `None` unless the ring
    /// asks for it ([`RxOptions::interfaces`](crate::net::RxOptions::interfaces))
    /// or has a packet socket.
    pub fn interface(&self) -> Option<u32> {
        (self.interface != 0).then_some(self.interface)
    }

    /// Did the kernel coalesce it with others (`UDP_GRO`)?
    pub fn is_segment(&self) -> bool {
        self.segment
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
    packets: Vec<RxPacket>,
    discarded: u64,
}

impl RxBatch {
    /// Storage for `max` packets.
    pub fn with_capacity(max: usize) -> Self {
        Self {
            packets: Vec::with_capacity(max),
            discarded: 0,
        }
    }

    /// Packets in the batch.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Is there no packet? See also [`discarded`](Self::discarded).
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets that were read and thrown away because the pool was at its limit,
    /// counted in `rx_alloc_fail`. An empty batch that discarded some says that
    /// memory is missing, not packets.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The packets, in the order in which they came.
    pub fn packets(&self) -> &[RxPacket] {
        &self.packets
    }

    /// The packet at `index`.
    pub fn get(&self, index: usize) -> Option<&RxPacket> {
        self.packets.get(index)
    }

    /// The packets one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, RxPacket> {
        self.packets.iter()
    }

    /// Takes the packets out and keeps the storage.
    pub fn drain(&mut self) -> std::vec::Drain<'_, RxPacket> {
        self.packets.drain(..)
    }

    /// Gives all packets back in one batch drop and keeps the storage.
    pub fn clear(&mut self) {
        self.discarded = 0;
        if !self.packets.is_empty() {
            drop_many(self.packets.drain(..).map(|packet| packet.frag));
        }
    }

    /// Makes room for `more` packets in one heap call, if there is not.
    pub(super) fn reserve(&mut self, more: usize) {
        self.packets.reserve(more);
    }

    pub(super) fn push(&mut self, packet: RxPacket) {
        self.packets.push(packet);
    }

    pub(super) fn discard(&mut self, packets: u64) {
        self.discarded += packets;
    }
}

impl Drop for RxBatch {
    fn drop(&mut self) {
        self.clear();
    }
}

impl IntoIterator for RxBatch {
    type Item = RxPacket;
    type IntoIter = std::vec::IntoIter<RxPacket>;

    fn into_iter(mut self) -> Self::IntoIter {
        std::mem::take(&mut self.packets).into_iter()
    }
}

impl<'a> IntoIterator for &'a RxBatch {
    type Item = &'a RxPacket;
    type IntoIter = std::slice::Iter<'a, RxPacket>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
