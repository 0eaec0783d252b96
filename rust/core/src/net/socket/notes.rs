//! What the kernel says beside the bytes of a packet, read out of its control
//! messages: drops, the size of segments, the time, the interface.

use std::os::fd::{FromRawFd, OwnedFd};

use libc::c_int;

/// What the kernel told beside the bytes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Packets dropped at this socket before this one was queued, cumulative.
    pub(crate) drops: Option<u32>,
    /// Bytes of each segment of a coalesced super-buffer but the last.
    pub(crate) segment: Option<usize>,
    /// When the kernel took the packet in, in nanoseconds since 1970.
    pub(crate) timestamp: Option<i64>,
    /// Number of the interface through which it came.
    pub(crate) interface: Option<u32>,
}

impl Notes {
    /// Reads a buffer of control messages: header, data, padding to a word.
    pub(super) fn read(control: &[u8]) -> Self {
        let mut notes = Self::default();
        for (level, kind, data) in messages(control) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    notes.drops = number(data).map(u32::from_ne_bytes);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    notes.segment = number(data)
                        .map(c_int::from_ne_bytes)
                        .and_then(|bytes| usize::try_from(bytes).ok());
                }
                (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) => notes.timestamp = nanoseconds(data),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    notes.interface = number(data).map(u32::from_ne_bytes);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    // Behind the address the packet was sent to.
                    let index = data.get(16..).and_then(number);
                    notes.interface = index.map(u32::from_ne_bytes);
                }
                _ => {}
            }
        }
        notes
    }
}

/// Closes the descriptors that come along, those that a peer has sent (`SCM_RIGHTS`)
/// and the one that stands for it (`SCM_PIDFD`, where the user has asked the socket for
/// it): they are open in this process, and nobody else knows of them.
pub(super) fn close_rights(control: &[u8]) {
    for (level, kind, data) in messages(control) {
        if level == libc::SOL_SOCKET && [libc::SCM_RIGHTS, SCM_PIDFD].contains(&kind) {
            let numbers = data.chunks_exact(size_of::<c_int>()).filter_map(number);
            // A negative one says why there is none.
            for fd in numbers.map(c_int::from_ne_bytes).filter(|fd| *fd >= 0) {
                // SAFETY: not negative, and the kernel has opened this descriptor for
                // whoever reads the message, which is this function, once.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
}

/// Level, type and data of each control message, up to the first that claims more
/// than there is.
fn messages(mut control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    std::iter::from_fn(move || {
        let (len, level, kind) = control_header(control)?;
        let data = control.get(CONTROL_HEADER..len)?;
        // What is there is shorter than any number that could overflow.
        control = control
            .get(len.next_multiple_of(WORD)..)
            .unwrap_or_default();
        Some((level, kind, data))
    })
}

/// A `timespec` as the kernel writes it, two words.
fn nanoseconds(data: &[u8]) -> Option<i64> {
    let word = |at: usize| {
        let word = number(data.get(at * WORD..)?)?;
        i64::try_from(isize::from_ne_bytes(word)).ok()
    };
    word(0)?.checked_mul(1_000_000_000)?.checked_add(word(1)?)
}

/// Bytes of a control message's header as the kernel writes it: a word that
/// counts header and data, the level, the type.
const CONTROL_HEADER: usize = WORD + 2 * size_of::<c_int>();
const WORD: usize = size_of::<usize>();
/// A descriptor of the sender's process (Linux 6.5).
const SCM_PIDFD: c_int = 4;

/// Length, level and type of the control message that `control` begins with.
fn control_header(control: &[u8]) -> Option<(usize, c_int, c_int)> {
    let len = usize::from_ne_bytes(number(control)?);
    let level = c_int::from_ne_bytes(number(control.get(WORD..)?)?);
    let kind = c_int::from_ne_bytes(number(control.get(WORD + size_of::<c_int>()..)?)?);
    // A length that does not reach over its own header would never end.
    (len >= CONTROL_HEADER).then_some((len, level, kind))
}

/// The first `N` bytes.
fn number<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: c_int, kind: c_int, data: &[u8]) -> Vec<u8> {
        let len = CONTROL_HEADER + data.len();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(len.next_multiple_of(WORD), 0);
        bytes
    }

    #[test]
    fn notes_are_found_behind_messages_of_others() {
        let mut bytes = control(libc::SOL_SOCKET, libc::SO_MARK, &[9; 4]);
        let time = [1_700_000_000_isize, 999_999_999].map(isize::to_ne_bytes);
        bytes.extend(control(
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            time.as_flattened(),
        ));
        bytes.extend(control(
            libc::SOL_SOCKET,
            libc::SO_RXQ_OVFL,
            &7_u32.to_ne_bytes(),
        ));
        bytes.extend(control(
            libc::SOL_UDP,
            libc::UDP_GRO,
            &1200_i32.to_ne_bytes(),
        ));
        let expected = Notes {
            drops: Some(7),
            segment: Some(1200),
            timestamp: Some(1_700_000_000_999_999_999),
            interface: None,
        };
        assert_eq!(Notes::read(&bytes), expected);
    }

    #[test]
    fn the_interface_is_found_in_both_families() {
        let mut info = [0; 20];
        info[..4].copy_from_slice(&3_u32.to_ne_bytes());
        let v4 = control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info[..12]);
        assert_eq!(Notes::read(&v4).interface, Some(3));
        info.rotate_left(4);
        let v6 = control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        assert_eq!(Notes::read(&v6).interface, Some(3));
    }

    #[test]
    fn cut_or_senseless_control_messages_end_the_reading() {
        let whole = control(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
        for len in 0..whole.len() - 4 {
            assert_eq!(Notes::read(&whole[..len]), Notes::default());
        }
        assert_eq!(Notes::read(&[0; 64]), Notes::default());
        assert_eq!(Notes::read(&[0xff; 64]), Notes::default());
        // A length near the end of all numbers ends the reading too, everywhere.
        for len in [usize::MAX, usize::MAX - 7, isize::MAX.cast_unsigned()] {
            let mut bytes = whole.clone();
            bytes[..WORD].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0);
        }
    }

    /// Bytes of a small generator, with lengths, levels and types that mean
    /// something now and then.
    fn noise(seed: &mut u64, len: usize) -> Vec<u8> {
        let mut next = || {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed
        };
        let words = (0..len.div_ceil(8)).flat_map(|_| {
            let word = next();
            match word % 4 {
                0 => word.to_ne_bytes(),
                1 => (word >> 8 & 63).to_ne_bytes(),
                2 => (u64::MAX - (word >> 8 & 63)).to_ne_bytes(),
                _ => {
                    let kinds = [libc::SO_RXQ_OVFL, libc::SO_TIMESTAMPNS, libc::UDP_GRO];
                    let levels = [libc::SOL_SOCKET, libc::SOL_UDP, libc::IPPROTO_IPV6];
                    let [_, level, kind, ..] = word.to_le_bytes().map(|byte| usize::from(byte) % 3);
                    let (level, kind) = (levels[level], kinds[kind]);
                    (u64::from(kind.cast_unsigned()) << 32 | u64::from(level.cast_unsigned()))
                        .to_ne_bytes()
                }
            }
        });
        words.take(len).collect()
    }

    #[test]
    fn any_bytes_are_read_to_an_end_and_nothing_is_found_that_is_not_there() {
        let mut seed = 0x9E37_79B9_7F4A_7C15;
        for round in 0..20_000 {
            let bytes = noise(&mut seed, round % 257);
            let told: usize = messages(&bytes)
                .map(|(_, _, data)| CONTROL_HEADER + data.len())
                .sum();
            assert!(told <= bytes.len());
            let _ = Notes::read(&bytes);
        }
    }
}
