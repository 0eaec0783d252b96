//! Any bytes are control messages: they are read to an end, and what is found is what is there.
#![no_main]

// The core's own file: what reads control messages is no part of what it shows.
#[allow(dead_code)]
#[path = "../../../rust/core/src/net/socket/notes.rs"]
mod notes;

use libfuzzer_sys::fuzz_target;
use notes::Notes;

const WORD: usize = size_of::<usize>();
/// Bytes of a length, a level and a type.
const HEADER: usize = WORD + 8;

/// The first four bytes as a number, if there are as many.
fn number(data: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// Seconds and nanoseconds, if they are a time that can be told.
fn time(data: &[u8]) -> Option<i64> {
    let word = |at: usize| Some(i64::from_ne_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let told = i128::from(word(0)?) * 1_000_000_000;
    // Each step has to be a number, as the sum has.
    let told = i64::try_from(told).ok()?;
    told.checked_add(word(8)?)
}

/// The same once more, as one would tell it: no word about how a walk could go wrong.
fn told(control: &[u8]) -> Notes {
    let mut notes = Notes::default();
    let mut at = 0_u128;
    let end = control.len() as u128;
    while at + HEADER as u128 <= end {
        let head = &control[usize::try_from(at).unwrap()..];
        let len = usize::from_ne_bytes(head[..WORD].try_into().unwrap()) as u128;
        if len < HEADER as u128 || at + len > end {
            break;
        }
        let data = &head[HEADER..usize::try_from(len).unwrap()];
        let unsigned = |data: &[u8]| number(data).map(i32::cast_unsigned);
        match (
            number(&head[WORD..]).unwrap(),
            number(&head[WORD + 4..]).unwrap(),
        ) {
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => notes.drops = unsigned(data),
            (libc::SOL_UDP, libc::UDP_GRO) => {
                notes.segment = number(data).and_then(|bytes| bytes.try_into().ok());
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) => notes.timestamp = time(data),
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => notes.interface = unsigned(data),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                notes.interface = data.get(16..).and_then(unsigned);
            }
            _ => {}
        }
        at += len.next_multiple_of(WORD as u128);
    }
    notes
}

fuzz_target!(|control: &[u8]| assert_eq!(Notes::read(control), told(control)));
