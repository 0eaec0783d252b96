//! A batch as an Arrow record batch: `payload`, `timestamp`, `source`, `port`.
//!
//! `payload` is a `BinaryView` column, whose views point into the runs of memory that the packets
//! are: sixteen bytes are written for each packet, none of its own are copied (but up to twelve,
//! which the format wants in the view itself). The other columns are small and written anew.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::ptr::null;
use std::sync::Arc;

use pagefrag::net::{RxFacts, Source};
use pyo3::prelude::*;

use crate::arrow::{Column, Field};
use crate::loan::Keeper;
use crate::shares::{Shares, Spot};

const PAYLOAD: &CStr = c"payload";
/// Up to so many bytes are in the view.
const INLINE: usize = 12;

/// How the payload is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `binary_view`: points to the packets.
    View,
    /// `binary`: all packets, copied into one buffer.
    Binary,
    /// `large_binary`: the same with longer offsets.
    LargeBinary,
}

impl Layout {
    /// What is asked for, as far as we can; else the view, which the consumer casts.
    pub(crate) fn asked(schema: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(schema) = schema else {
            return Ok(Self::View);
        };
        let format = crate::arrow::asked_format(schema, PAYLOAD)?;
        Ok(match format.as_deref() {
            Some(b"z") => Self::Binary,
            Some(b"Z") => Self::LargeBinary,
            _ => Self::View,
        })
    }

    fn format(self) -> &'static CStr {
        match self {
            Self::View => c"vz",
            Self::Binary => c"z",
            Self::LargeBinary => c"Z",
        }
    }
}

/// The columns, in their order.
pub(crate) fn fields(layout: Layout) -> [Field; 4] {
    let field = |name, format, nullable| Field {
        name,
        format,
        nullable,
    };
    [
        field(PAYLOAD, layout.format(), false),
        field(c"timestamp", c"tsn:UTC", true),
        field(c"source", c"u", true),
        field(c"port", c"S", true),
    ]
}

/// A column of buffers that it owns itself.
fn owning(len: usize, nulls: usize, buffers: Vec<Buffer>) -> Column {
    let addresses = buffers.iter().map(Buffer::address).collect();
    Column {
        len,
        nulls,
        buffers: addresses,
        keeper: Arc::new(buffers),
    }
}

/// Memory of a column. A buffer of no bytes has an address nevertheless.
enum Buffer {
    Missing,
    Bytes(Vec<u8>),
    Shorts(Vec<u16>),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
}

impl Buffer {
    fn address(&self) -> *const c_void {
        match self {
            Self::Missing => null(),
            Self::Bytes(bytes) => bytes.as_ptr().cast(),
            Self::Shorts(shorts) => shorts.as_ptr().cast(),
            Self::Ints(ints) => ints.as_ptr().cast(),
            Self::Longs(longs) => longs.as_ptr().cast(),
        }
    }
}

/// Which rows have a value: a bit each, and how many have none.
fn validity(has: impl ExactSizeIterator<Item = bool>) -> (Buffer, usize) {
    let mut bits = vec![0_u8; has.len().div_ceil(8)];
    let mut nulls = 0;
    for (row, has) in has.enumerate() {
        if has {
            bits[row / 8] |= 1 << (row % 8);
        } else {
            nulls += 1;
        }
    }
    let missing = nulls == 0;
    (
        if missing {
            Buffer::Missing
        } else {
            Buffer::Bytes(bits)
        },
        nulls,
    )
}

/// A view of the format: length, then the bytes, or four of them, a buffer and an offset in it.
/// Sixteen bytes, aligned as consumers want them.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct View([u8; 16]);

impl View {
    /// # Safety
    /// - `len` bytes can be read at `first`.
    unsafe fn of(first: *const u8, len: usize, spot: Spot) -> Self {
        let mut view = [0; 16];
        view[..4].copy_from_slice(&spot.len.to_ne_bytes());
        let head = if len <= INLINE { len } else { 4 };
        // SAFETY: no more than `len` bytes, and no more than twelve.
        unsafe { first.copy_to_nonoverlapping(view[4..].as_mut_ptr(), head) };
        if len > INLINE {
            view[8..12].copy_from_slice(&spot.run.to_ne_bytes());
            view[12..].copy_from_slice(&spot.start.to_ne_bytes());
        }
        Self(view)
    }
}

/// What the payload's column keeps.
struct Kept {
    _shares: Arc<Shares>,
    _views: Vec<View>,
    _sizes: Vec<i64>,
}

fn viewed(shares: &Arc<Shares>) -> Column {
    let packets = shares.packets().zip(shares.spots());
    let views: Vec<View> = packets
        // SAFETY: the shares keep the bytes; a thread that writes them meanwhile is the user's.
        .map(|((first, len), spot)| unsafe { View::of(first, len, *spot) })
        .collect();
    let runs = shares.runs();
    let sizes: Vec<i64> = runs
        .iter()
        .map(|run| i64::try_from(run.len).unwrap_or(i64::MAX))
        .collect();
    let mut buffers = vec![null(), views.as_ptr().cast()];
    buffers.extend(runs.iter().map(|run| run.first.cast::<c_void>()));
    buffers.push(sizes.as_ptr().cast());
    Column {
        len: views.len(),
        nulls: 0,
        buffers,
        keeper: Arc::new(Kept {
            _shares: Arc::clone(shares),
            _views: views,
            _sizes: sizes,
        }),
    }
}

/// All packets in one buffer; `None` when the offsets of `Number` do not reach its end.
fn copied<N: TryFrom<usize>>(shares: &Shares, buffer: fn(Vec<N>) -> Buffer) -> Option<Column> {
    let mut bytes = Vec::new();
    let mut ends = vec![N::try_from(0).ok()?];
    for (first, len) in shares.packets() {
        // SAFETY: the shares keep the bytes; a thread that writes them meanwhile is the user's.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(first, len) });
        ends.push(N::try_from(bytes.len()).ok()?);
    }
    let buffers = vec![Buffer::Missing, buffer(ends), Buffer::Bytes(bytes)];
    Some(owning(shares.spots().len(), 0, buffers))
}

fn timestamps(facts: &RxFacts) -> Column {
    let (valid, nulls) = validity(facts.iter().map(|fact| fact.timestamp().is_some()));
    let times = facts
        .iter()
        .map(|fact| fact.timestamp().unwrap_or(0))
        .collect();
    owning(facts.len(), nulls, vec![valid, Buffer::Longs(times)])
}

/// The two columns of the sender: its address as text, and its port. Null for a sender that has
/// none (see `Batch.addresses` for those).
fn sources(facts: &RxFacts) -> [Column; 2] {
    let mut known: HashMap<Source, (String, u16)> = HashMap::new();
    let (mut text, mut ends, mut ports) = (Vec::new(), vec![0], Vec::new());
    for fact in facts {
        let (source, port) = known.entry(fact.source()).or_insert_with(|| {
            let address = fact.source().to_socket_addr();
            address.map_or_else(Default::default, |address| {
                (address.ip().to_string(), address.port())
            })
        });
        text.extend_from_slice(source.as_bytes());
        // Never as long: some forty bytes for each packet of a batch.
        ends.push(i32::try_from(text.len()).unwrap_or(i32::MAX));
        ports.push(*port);
    }
    let has = || {
        facts
            .iter()
            .map(|fact| fact.source().to_socket_addr().is_some())
    };
    let (valid, nulls) = validity(has());
    let source = vec![valid, Buffer::Ints(ends), Buffer::Bytes(text)];
    let (valid, _) = validity(has());
    [
        owning(facts.len(), nulls, source),
        owning(facts.len(), nulls, vec![valid, Buffer::Shorts(ports)]),
    ]
}

/// The schema that came out of it, and the columns.
pub(crate) fn columns(shares: Shares, facts: &RxFacts, layout: Layout) -> (Layout, Vec<Column>) {
    let shares = Arc::new(shares);
    let copied = match layout {
        Layout::View => None,
        Layout::Binary => copied(&shares, Buffer::Ints),
        Layout::LargeBinary => copied(&shares, Buffer::Longs),
    };
    // What does not fit stays a view.
    let layout = if copied.is_some() {
        layout
    } else {
        Layout::View
    };
    let payload = copied.unwrap_or_else(|| viewed(&shares));
    let [source, port] = sources(facts);
    (layout, vec![payload, timestamps(facts), source, port])
}

const _: () = {
    const fn keeps<T: Send + Sync>() {}
    keeps::<Kept>();
    keeps::<Keeper>();
};
