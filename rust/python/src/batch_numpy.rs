//! A batch as an array of records, one for each packet. The dtype is in `pagefrag/_numpy.py`, in
//! the same order.

use std::net::IpAddr;
use std::sync::Arc;

use pagefrag::net::RxFacts;

use crate::loan::Loan;
use crate::shares::Shares;

/// `NumPy`'s word for no time.
const NOT_A_TIME: i64 = i64::MIN;

/// No byte of it is padding.
#[repr(C)]
struct Record {
    address: usize,
    timestamp: i64,
    length: u32,
    wire_length: u32,
    run: u32,
    start: u32,
    interface: u32,
    port: u16,
    truncated: bool,
    segment: bool,
    /// IPv6, or IPv4 mapped into it, as on the wire.
    source: [u8; 16],
}

const _: () = assert!(size_of::<Record>() == 56, "the dtype's item size");

/// The records, which keep the packets' memory.
struct Kept {
    records: Vec<Record>,
    _shares: Shares,
}

/// The records of these packets as read-only bytes.
pub(crate) fn records(facts: &RxFacts, shares: Shares) -> Loan {
    let records: Vec<Record> = facts
        .iter()
        .zip(shares.packets().zip(shares.spots()))
        .map(|(fact, ((first, _), spot))| {
            let sender = fact.source().to_socket_addr();
            Record {
                address: first.addr(),
                timestamp: fact.timestamp().unwrap_or(NOT_A_TIME),
                length: spot.len,
                wire_length: u32::try_from(fact.wire_len()).unwrap_or(u32::MAX),
                run: spot.run,
                start: spot.start,
                interface: fact.interface().unwrap_or(0),
                port: sender.map_or(0, |sender| sender.port()),
                truncated: fact.is_truncated(),
                segment: fact.is_segment(),
                source: sender.map_or([0; 16], |sender| match sender.ip() {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                }),
            }
        })
        .collect();
    let kept = Arc::new(Kept {
        records,
        _shares: shares,
    });
    let memory = kept.records.as_ptr().cast::<u8>();
    let len = size_of_val(&kept.records[..]);
    // SAFETY: the records, none of whose bytes is padding; they do not move while `kept` lives.
    unsafe { Loan::new(kept, memory, len) }
}
