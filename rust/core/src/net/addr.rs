//! Who sent a packet, or who is to get one, kept as the kernel writes it.
//!
//! Turning an address into a `SocketAddr` or a Python tuple costs more than
//! receiving the packet, and many users look at few of them. So the raw
//! `sockaddr` is kept, cut to what an IPv6 one needs, and read when asked for.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use crate::net::socket::{FAMILY_INET, FAMILY_INET6, FAMILY_PACKET, LONG_NAME_BYTES, NAME_BYTES};

const V4_BYTES: usize = 16;
const V6_BYTES: usize = 28;
const _: () = assert!(NAME_BYTES >= V6_BYTES);

/// The source address of a packet: a raw `sockaddr` of up to 28 bytes. An answer
/// goes where it came from, so a destination is one too.
///
/// Two are equal when the kernel wrote the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    /// 1. Bytes from `len` on are zero, so that equality may look at all.
    bytes: [u8; NAME_BYTES],
    /// 2. At most `NAME_BYTES`.
    len: u32,
}

impl Source {
    /// Copies a `sockaddr` that the kernel wrote, cut at 28 bytes.
    pub fn from_name(name: &[u8]) -> Self {
        let mut bytes = [0; NAME_BYTES];
        let len = name.len().min(NAME_BYTES);
        bytes[..len].copy_from_slice(&name[..len]);
        Self {
            bytes,
            len: u32::try_from(len).unwrap_or(0),
        }
    }

    /// The address and port, when it is an IPv4 or IPv6 one. No allocation.
    ///
    /// `None` when the kernel gave no address.
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        let raw = self.as_bytes();
        match u16::from_ne_bytes(field(raw, 0)?) {
            FAMILY_INET if raw.len() >= V4_BYTES => {
                let port = u16::from_be_bytes(field(raw, 2)?);
                let ip = Ipv4Addr::from(field::<4>(raw, 4)?);
                Some(SocketAddrV4::new(ip, port).into())
            }
            FAMILY_INET6 if raw.len() >= V6_BYTES => {
                let port = u16::from_be_bytes(field(raw, 2)?);
                // As std keeps it: the bytes of the wire, read in our own order.
                let flow = u32::from_ne_bytes(field(raw, 4)?);
                let ip = Ipv6Addr::from(field::<16>(raw, 8)?);
                let scope = u32::from_ne_bytes(field(raw, 24)?);
                Some(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// The interface that a packet socket's address names.
    pub(super) fn interface(&self) -> Option<u32> {
        let raw = self.as_bytes();
        match u16::from_ne_bytes(field(raw, 0)?) {
            FAMILY_PACKET => field(raw, 4).map(u32::from_ne_bytes),
            _ => None,
        }
    }

    /// The raw `sockaddr` in the machine's byte order; empty when the kernel
    /// gave none. The path of a UNIX socket is cut:
    /// [`RxFact::name`](crate::net::RxFact::name) has all of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl From<SocketAddr> for Source {
    /// The address as a raw `sockaddr`, to send to.
    fn from(address: SocketAddr) -> Self {
        let mut raw = [0; NAME_BYTES];
        let len = match address {
            SocketAddr::V4(v4) => {
                raw[..2].copy_from_slice(&FAMILY_INET.to_ne_bytes());
                raw[4..8].copy_from_slice(&v4.ip().octets());
                V4_BYTES
            }
            SocketAddr::V6(v6) => {
                raw[..2].copy_from_slice(&FAMILY_INET6.to_ne_bytes());
                raw[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                raw[8..24].copy_from_slice(&v6.ip().octets());
                raw[24..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                V6_BYTES
            }
        };
        raw[2..4].copy_from_slice(&address.port().to_be_bytes());
        Self::from_name(&raw[..len])
    }
}

/// A name that [`Source`] has no room for, which only UNIX sockets have. A heap
/// call for each, and a word beside every packet.
#[derive(Clone, Debug)]
pub(super) struct LongName(Arc<(u8, [u8; LONG_NAME_BYTES])>);

impl LongName {
    /// The name, if it is that long.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        if name.len() <= NAME_BYTES {
            return None;
        }
        let mut bytes = [0; LONG_NAME_BYTES];
        let len = name.len().min(LONG_NAME_BYTES);
        bytes[..len].copy_from_slice(&name[..len]);
        Some(Self(Arc::new((u8::try_from(len).ok()?, bytes))))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        let (len, bytes) = &*self.0;
        &bytes[..usize::from(*len)]
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_socket_addr() {
            Some(addr) => write!(f, "Source({addr})"),
            None => write!(f, "Source({:02x?})", self.as_bytes()),
        }
    }
}

/// `N` bytes of `raw` from `at` on.
fn field<const N: usize>(raw: &[u8], at: usize) -> Option<[u8; N]> {
    raw.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_name() -> Vec<u8> {
        let mut name = FAMILY_INET.to_ne_bytes().to_vec();
        name.extend(4242_u16.to_be_bytes());
        name.extend([127, 0, 0, 1]);
        name.extend([0; 8]);
        name
    }

    #[test]
    fn an_ipv4_name_is_read_back() {
        let source = Source::from_name(&v4_name());
        assert_eq!(
            source.to_socket_addr(),
            Some("127.0.0.1:4242".parse().unwrap())
        );
        assert_eq!(source.as_bytes(), v4_name());
        assert_eq!(format!("{source:?}"), "Source(127.0.0.1:4242)");
    }

    #[test]
    fn an_ipv6_name_keeps_flow_and_scope() {
        let mut name = FAMILY_INET6.to_ne_bytes().to_vec();
        name.extend(53_u16.to_be_bytes());
        name.extend(7_u32.to_ne_bytes());
        name.extend(Ipv6Addr::LOCALHOST.octets());
        name.extend(3_u32.to_ne_bytes());
        let expected = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 53, 7, 3);
        assert_eq!(
            Source::from_name(&name).to_socket_addr(),
            Some(expected.into())
        );
    }

    #[test]
    fn an_address_is_written_as_the_kernel_does() {
        let v4: SocketAddr = "127.0.0.1:4242".parse().unwrap();
        assert_eq!(Source::from(v4), Source::from_name(&v4_name()));
        let v6 = SocketAddr::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 53, 7, 3));
        assert_eq!(Source::from(v6).to_socket_addr(), Some(v6));
        assert_eq!(Source::from(v6).as_bytes().len(), V6_BYTES);
    }

    #[test]
    fn a_long_name_is_kept_whole() {
        let name: Vec<u8> = (0..60).collect();
        let long = LongName::of(&name).unwrap();
        assert_eq!(long.as_bytes(), name);
        assert_eq!(Source::from_name(&name).as_bytes(), &name[..NAME_BYTES]);
        assert!(LongName::of(&name[..NAME_BYTES]).is_none());
    }

    #[test]
    fn a_short_or_missing_name_is_no_address() {
        for len in 0..V4_BYTES {
            assert_eq!(Source::from_name(&v4_name()[..len]).to_socket_addr(), None);
        }
        assert!(Source::from_name(&[]).as_bytes().is_empty());
    }
}
