//! How a ring receives: what its user may choose, and what is refused.

use std::io;

use crate::net::socket::MAX_MESSAGES;

/// How a ring receives.
///
/// # Examples
/// ```
/// let options = pagefrag::net::RxOptions {
///     slots: 256,
///     ..Default::default()
/// };
/// assert_eq!(options.buf_size, 2048);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxOptions {
    /// Buffers that are armed at most, and messages that one system call brings
    /// at most: 1 to 1024. A message is a packet, or several that were coalesced.
    pub slots: usize,
    /// Bytes of a buffer; longer packets are truncated, coalesced or not. 1 to
    /// the page size.
    pub buf_size: usize,
    /// Let the kernel coalesce packets of one flow (`UDP_GRO`). They are taken
    /// apart again, each copied into a fragment of its own size: when its batch is
    /// opened, or at once out of up to 64 KiB that the ring keeps for this. Costs
    /// that, and 64 KiB of addresses for each slot. Without effect where the kernel cannot, and
    /// where another ring on the socket has decided
    /// ([`RxRing::gro`](crate::net::RxRing::gro) tells).
    pub gro: bool,
    /// Packets of up to this many bytes are copied into a fragment of their
    /// size; larger ones stay in the buffer. 0: only empty ones are. Drivers
    /// have 256; half a buffer, the default here, costs no more that could be
    /// measured, and what is kept is then never less than half of what it holds.
    pub copybreak: usize,
    /// Note when the kernel took each packet in (`SO_TIMESTAMPNS`).
    pub timestamps: bool,
    /// Note through which interface each packet came (`IP_PKTINFO`). A packet
    /// socket tells it anyway.
    pub interfaces: bool,
}

impl Default for RxOptions {
    fn default() -> Self {
        Self {
            slots: 64,
            buf_size: 2048,
            gro: true,
            copybreak: 1024,
            timestamps: false,
            interfaces: false,
        }
    }
}

impl RxOptions {
    pub(super) fn check(&self, page_size: usize) -> io::Result<()> {
        if self.slots == 0 || self.slots > MAX_MESSAGES {
            return Err(invalid("slots must be from 1 to 1024"));
        }
        if self.buf_size == 0 || self.buf_size > page_size {
            return Err(invalid("buf_size must be from 1 to the page size"));
        }
        Ok(())
    }
}

pub(super) fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
