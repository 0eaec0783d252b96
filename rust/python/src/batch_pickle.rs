//! A batch as a pickle: a few buffers, one for each run of consecutive memory, and a table that tells
//! which packet is where in them.
//!
//! ```text
//!   version │ table: 33 bytes a packet │ names of senders │ discarded │ run 0 │ run 1 │ ...
//!
//!   run, start, length, wire length, sender, interface (u32) │ time (i64) │ flags (u8)
//! ```
//!
//! Numbers are little-endian. Names are the kernel's, so a pickle goes between machines of one byte
//! order.

use std::sync::Arc;

use pagefrag::net::{RxFacts, RxOrigin};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::buffer::Lent;
use crate::error::value;
use crate::memory::Memory;
use crate::pickle::received;
use crate::shares::Shares;

const TRUNCATED: u8 = 1;
const SEGMENT: u8 = 2;
/// Bytes of a packet in the table.
const ROW: usize = 6 * 4 + 8 + 1;

/// The table, and the senders in the order of their first packet.
pub(crate) fn table<'a>(facts: &'a RxFacts, shares: &Shares) -> (Vec<u8>, Vec<&'a [u8]>) {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut table = Vec::with_capacity(facts.len() * ROW);
    for (fact, spot) in facts.iter().zip(shares.spots()) {
        // The last one first: packets of one sender come together.
        let known = names.iter().rposition(|name| *name == fact.name());
        let sender = known.unwrap_or_else(|| {
            names.push(fact.name());
            names.len() - 1
        });
        let sender = u32::try_from(sender).unwrap_or(u32::MAX);
        for number in [
            spot.run,
            spot.start,
            spot.len,
            u32::try_from(fact.wire_len()).unwrap_or(u32::MAX),
            sender,
            fact.interface().unwrap_or(0),
        ] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        table.extend_from_slice(&fact.timestamp().unwrap_or(0).to_le_bytes());
        let truncated = if fact.is_truncated() { TRUNCATED } else { 0 };
        table.push(truncated | if fact.is_segment() { SEGMENT } else { 0 });
    }
    (table, names)
}

/// `N` bytes off the front of a row, which has them.
fn take<const N: usize>(row: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = row.split_first_chunk() else {
        return [0; N];
    };
    *row = rest;
    *first
}

fn wrong() -> PyErr {
    value("the pickle's table does not belong to its buffers")
}

/// What is behind the version.
type State<'py> = (Vec<u8>, Vec<Vec<u8>>, u64, Vec<Bound<'py, PyAny>>);

/// What is known of the packets, their memory in the buffers, and how many were discarded.
pub(crate) fn packets(state: &Bound<'_, PyTuple>) -> PyResult<(RxFacts, Vec<Memory>, u64)> {
    let (table, names, discarded, runs): State<'_> = state.extract()?;
    let runs: PyResult<Vec<_>> = runs.iter().map(received).collect();
    let (facts, memory) = read(&table, &names, &runs?)?;
    Ok((facts, memory, discarded))
}

/// Believes nothing.
fn read(table: &[u8], names: &[Vec<u8>], runs: &[Arc<Lent>]) -> PyResult<(RxFacts, Vec<Memory>)> {
    if !table.len().is_multiple_of(ROW) {
        return Err(wrong());
    }
    let (mut facts, mut all) = (RxFacts::default(), Vec::new());
    for mut row in table.chunks_exact(ROW) {
        let row = &mut row;
        let mut number = || u32::from_le_bytes(take(row));
        let (run, start, len) = (number(), number(), number());
        let (wire_len, sender, interface) = (number(), number(), number());
        let timestamp = i64::from_le_bytes(take(row));
        let [flags] = take(row);
        let memory = match runs.get(run as usize) {
            Some(run) => Memory::lent(Arc::clone(run), start as usize, len as usize),
            // A packet of no bytes is in no run.
            None if len == 0 => Some(Memory::nothing()),
            None => None,
        };
        let memory = memory.ok_or_else(wrong)?;
        facts.begin(RxOrigin {
            name: names.get(sender as usize).ok_or_else(wrong)?,
            timestamp: (timestamp != 0).then_some(timestamp),
            interface: (interface != 0).then_some(interface),
            segment: flags & SEGMENT != 0,
        });
        facts.push(memory.page(), start, len, wire_len);
        all.push(memory);
    }
    Ok((facts, all))
}
