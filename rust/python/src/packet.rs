//! What is known of a received packet beside its bytes.

use pagefrag::net::{RxPacket, Source};

/// A packet as it came in; what its fragment becomes later does not change this.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) len: u32,
    pub(crate) wire_len: u32,
    pub(crate) offset: u32,
    pub(crate) page: usize,
    pub(crate) source: Source,
    /// The whole name of the sender where `source` has not room for it.
    pub(crate) long_name: Option<Box<[u8]>>,
    pub(crate) timestamp: i64,
    pub(crate) interface: u32,
    pub(crate) truncated: bool,
    pub(crate) segment: bool,
}

impl Packet {
    pub(crate) fn of(packet: &RxPacket) -> Self {
        let name = packet.name();
        Self {
            len: short(packet.frag.len()),
            wire_len: short(packet.wire_len()),
            offset: short(packet.frag.offset()),
            page: packet.frag.page(),
            source: packet.source,
            long_name: (name.len() > packet.source.as_bytes().len()).then(|| name.into()),
            timestamp: packet.timestamp().unwrap_or(0),
            interface: packet.interface().unwrap_or(0),
            truncated: packet.is_truncated(),
            segment: packet.is_segment(),
        }
    }

    /// The raw address of the sender.
    pub(crate) fn name(&self) -> &[u8] {
        match &self.long_name {
            Some(name) => name,
            None => self.source.as_bytes(),
        }
    }
}

/// A number below the size of a page or of a datagram, which are both below 4 GiB.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
