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

use pagefrag::net::Source;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::buffer::Lent;
use crate::memory::Memory;
use crate::packet::Packet;
use crate::pickle::received;
use crate::shares::Shares;

const TRUNCATED: u8 = 1;
const SEGMENT: u8 = 2;
/// Bytes of a packet in the table.
const ROW: usize = 6 * 4 + 8 + 1;

/// The table, and the senders in the order of their first packet.
pub(crate) fn table<'a>(packets: &'a [Packet], shares: &Shares) -> (Vec<u8>, Vec<&'a [u8]>) {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut table = Vec::with_capacity(packets.len() * ROW);
    for (packet, spot) in packets.iter().zip(shares.spots()) {
        // The last one first: packets of one sender come together.
        let known = names.iter().rposition(|name| *name == packet.name());
        let sender = known.unwrap_or_else(|| {
            names.push(packet.name());
            names.len() - 1
        });
        let sender = u32::try_from(sender).unwrap_or(u32::MAX);
        for number in [
            spot.run,
            spot.start,
            spot.len,
            packet.wire_len,
            sender,
            packet.interface,
        ] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        table.extend_from_slice(&packet.timestamp.to_le_bytes());
        let truncated = if packet.truncated { TRUNCATED } else { 0 };
        table.push(truncated | if packet.segment { SEGMENT } else { 0 });
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
    PyValueError::new_err("the pickle's table does not belong to its buffers")
}

/// What is behind the version.
type State<'py> = (Vec<u8>, Vec<Vec<u8>>, u64, Vec<Bound<'py, PyAny>>);

/// The packets, their memory in the buffers, and how many were discarded.
pub(crate) fn packets(state: &Bound<'_, PyTuple>) -> PyResult<(Vec<(Packet, Memory)>, u64)> {
    let (table, names, discarded, runs): State<'_> = state.extract()?;
    let runs: PyResult<Vec<_>> = runs.iter().map(received).collect();
    Ok((read(&table, &names, &runs?)?, discarded))
}

/// Believes nothing.
fn read(table: &[u8], names: &[Vec<u8>], runs: &[Arc<Lent>]) -> PyResult<Vec<(Packet, Memory)>> {
    if !table.len().is_multiple_of(ROW) {
        return Err(wrong());
    }
    table
        .chunks_exact(ROW)
        .map(|mut row| {
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
            let name = names.get(sender as usize).ok_or_else(wrong)?;
            let source = Source::from_name(name);
            let packet = Packet {
                len,
                wire_len,
                offset: start,
                page: memory.page(),
                source,
                long_name: (name.len() > source.as_bytes().len()).then(|| name.clone().into()),
                timestamp,
                interface,
                truncated: flags & TRUNCATED != 0,
                segment: flags & SEGMENT != 0,
            };
            Ok((packet, memory))
        })
        .collect()
}
