//! `Batch`: what one `recv` brought. A packet becomes a Python object when it is looked at as one;
//! whoever reads the batch as arrays creates none.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::replace;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagefrag::FragMut;
use pagefrag::net::{RxBatch, RxPacket, Source};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice, PyString, PyTuple};

use crate::error::{index as out_of_range, released};
use crate::made::{self, Text, guarded};
use crate::object;

/// A packet as it came in; what its fragment becomes later does not change this.
#[derive(Debug)]
struct Packet {
    len: u32,
    wire_len: u32,
    offset: u32,
    page: usize,
    source: Source,
    /// The whole name of the sender where `source` has not room for it.
    long_name: Option<Box<[u8]>>,
    timestamp: i64,
    interface: u32,
    truncated: bool,
    segment: bool,
}

impl Packet {
    fn of(packet: &RxPacket) -> Self {
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
    fn name(&self) -> &[u8] {
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

/// Where a packet's bytes are.
enum Place {
    /// Nobody has asked for it yet.
    Raw(FragMut),
    /// Everybody who asks gets this `Fragment`.
    Made(Py<PyAny>),
    /// There was no memory for the object, and the bytes went with it.
    Lost,
}

impl Place {
    fn made<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Self::Made(made) = self {
            return Ok(made.bind(py).clone());
        }
        match replace(self, Self::Lost) {
            Self::Raw(frag) => {
                let made = object::make(py, frag.into_raw(), false)?;
                *self = Self::Made(made.clone().unbind());
                Ok(made)
            }
            _ => Err(released("fragment")),
        }
    }
}

/// The packets of one `RxRing.recv`: a sequence of fragments.
///
/// `batch[i]` is the same `Fragment` each time. `lengths`, `offsets`, `timestamps` and their like
/// are memoryviews that `numpy.asarray` takes as they are, without a copy. `release()` (or the end of a `with` block) gives back
/// everything that nobody else refers to.
///
/// >>> import socket
/// >>> sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> sock.bind(('127.0.0.1', 0))
/// >>> _ = sock.sendto(b'ping', sock.getsockname())
/// >>> with RxRing(sock) as ring, ring.recv() as batch:
/// ...     len(batch), batch[0].tobytes(), list(batch.lengths)
/// (1, b'ping', [4])
/// >>> sock.close()
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct Batch {
    packets: Vec<Packet>,
    /// `None` after release. Under the lock objects are made, which runs no Python code.
    places: Mutex<Option<Vec<Place>>>,
    discarded: u64,
}

impl Batch {
    /// Takes all packets out of `batch`, whose storage can be used again.
    pub(crate) fn of(batch: &mut RxBatch) -> Self {
        let discarded = batch.discarded();
        let mut packets = Vec::with_capacity(batch.len());
        let mut places = Vec::with_capacity(batch.len());
        for packet in batch.drain() {
            packets.push(Packet::of(&packet));
            places.push(Place::Raw(packet.frag));
        }
        Self {
            packets,
            places: Mutex::new(Some(places)),
            discarded,
        }
    }

    /// Whether nothing came at all, not even something to throw away.
    pub(crate) fn is_silent(&self) -> bool {
        self.packets.is_empty() && self.discarded == 0
    }

    fn places(&self) -> MutexGuard<'_, Option<Vec<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fragments at these places.
    fn made<'py>(
        &self,
        py: Python<'py>,
        indices: impl Iterator<Item = usize>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut places = self.places();
        let places = places.as_mut().ok_or_else(|| released("batch"))?;
        indices.map(|index| places[index].made(py)).collect()
    }

    /// A memoryview of one number for each packet.
    fn array<'py, const N: usize>(
        &self,
        py: Python<'py>,
        format: &str,
        number: impl Fn(&Packet) -> [u8; N],
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut bytes = Vec::with_capacity(self.packets.len() * N);
        for packet in &self.packets {
            bytes.extend_from_slice(&number(packet));
        }
        // SAFETY: that many bytes.
        let bytes = unsafe { made::bytes(py, bytes.as_ptr(), bytes.len()) }?;
        guarded(py, || {
            PyMemoryView::from(&bytes)?.call_method1("cast", (format,))
        })
    }

    fn give_up(&self) {
        // Out of the lock first: dropping fragments that Python made may free them.
        let places = self.places().take();
        let mut made = Vec::new();
        pagefrag::drop_many(
            places
                .into_iter()
                .flatten()
                .filter_map(|place| match place {
                    Place::Raw(frag) => Some(frag),
                    Place::Made(object) => {
                        made.push(object);
                        None
                    }
                    Place::Lost => None,
                }),
        );
    }
}

/// An address as the `socket` module writes it.
fn address(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyAny>> {
    let host = address.ip().to_string();
    let tuple = match address {
        SocketAddr::V4(v4) => (host, v4.port()).into_pyobject(py)?.into_any(),
        SocketAddr::V6(v6) => (host, v6.port(), u32::from_be(v6.flowinfo()), v6.scope_id())
            .into_pyobject(py)?
            .into_any(),
    };
    Ok(tuple)
}

/// The same of a UNIX or a packet socket; `None` from a UNIX socket without a name.
#[cold]
fn other_address<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let part = |at: usize, len: usize| name.get(at..at + len);
    let (Some(&[first, second]), module) = (name.first_chunk::<2>(), py.import("socket")?) else {
        return Ok(py.None().into_bound(py));
    };
    let is_family = |constant| -> PyResult<bool> {
        let number: u16 = module.getattr(constant)?.extract()?;
        Ok(u16::from_ne_bytes([first, second]) == number)
    };
    if is_family("AF_UNIX")? {
        let path = &name[2..];
        if path.first().is_none_or(|first| *first == 0) {
            return Ok(PyBytes::new(py, path).into_any());
        }
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(OsStr::from_bytes(path).into_pyobject(py)?.into_any());
    }
    if is_family("AF_PACKET")?
        && let (Some(&[p0, p1, i0, i1, i2, i3, h0, h1, kind, len]), Some(rest)) = (
            part(2, 10).and_then(|part| part.first_chunk()),
            name.get(12..),
        )
    {
        let index = u32::from_ne_bytes([i0, i1, i2, i3]);
        let interface = module.call_method1("if_indextoname", (index,));
        // An interface that is gone has no name any more.
        let interface = interface.unwrap_or_else(|_| PyString::new(py, "").into_any());
        let hardware = PyBytes::new(py, &rest[..usize::from(len).min(rest.len())]);
        let (protocol, hardware_type) =
            (u16::from_be_bytes([p0, p1]), u16::from_ne_bytes([h0, h1]));
        return Ok((interface, protocol, kind, hardware_type, hardware)
            .into_pyobject(py)?
            .into_any());
    }
    Ok(py.None().into_bound(py))
}

#[pymethods]
impl Batch {
    /// Bytes of each packet, as a memoryview of format 'I'.
    ///
    /// >>> list(empty_batch.lengths)
    /// []
    #[getter]
    fn lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "I", |packet| packet.len.to_ne_bytes())
    }

    /// Bytes of each packet as it was sent: above its length if the buffer was too small for it.
    ///
    /// >>> list(empty_batch.wire_lengths)
    /// []
    #[getter]
    fn wire_lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "I", |packet| packet.wire_len.to_ne_bytes())
    }

    /// Where in its page each packet starts, as a memoryview of format 'I'.
    ///
    /// >>> list(empty_batch.offsets)
    /// []
    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "I", |packet| packet.offset.to_ne_bytes())
    }

    /// The page of each packet, as `Fragment.page`, as a memoryview of format 'N' (a machine word).
    ///
    /// >>> list(empty_batch.pages)
    /// []
    #[getter]
    fn pages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "N", |packet| packet.page.to_ne_bytes())
    }

    /// When the kernel took each packet in: nanoseconds since 1970, as a memoryview of format 'q'.
    ///
    /// 0 without `RxRing(timestamps=True)`. Packets that the kernel has joined have one time.
    ///
    /// >>> list(empty_batch.timestamps)
    /// []
    #[getter]
    fn timestamps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "q", |packet| packet.timestamp.to_ne_bytes())
    }

    /// The number of the interface through which each packet came, as a memoryview of format 'I'.
    ///
    /// `socket.if_indextoname` knows its name. 0 without `RxRing(interfaces=True)`, unless the
    /// socket is a packet socket.
    ///
    /// >>> list(empty_batch.interfaces)
    /// []
    #[getter]
    fn interfaces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "I", |packet| packet.interface.to_ne_bytes())
    }

    /// Whether each packet was longer than its buffer, as a memoryview of format '?'.
    ///
    /// >>> list(empty_batch.truncated)
    /// []
    #[getter]
    fn truncated<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "?", |packet| [u8::from(packet.truncated)])
    }

    /// Whether each packet is a segment of several that the kernel had joined (GRO), as a
    /// memoryview of format '?'.
    ///
    /// >>> list(empty_batch.segments)
    /// []
    #[getter]
    fn segments<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, "?", |packet| [u8::from(packet.segment)])
    }

    /// Who sent each packet, as the `socket` module writes addresses; equal ones are one object.
    ///
    /// >>> empty_batch.addresses
    /// ()
    #[getter]
    fn addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mut known: HashMap<&[u8], Bound<'py, PyAny>> = HashMap::new();
        let mut found = Vec::with_capacity(self.packets.len());
        for packet in &self.packets {
            if let Some(known) = known.get(packet.name()) {
                found.push(known.clone());
                continue;
            }
            let made = match packet.source.to_socket_addr() {
                Some(source) => guarded(py, || address(py, source))?,
                None => guarded(py, || other_address(py, packet.name()))?,
            };
            known.insert(packet.name(), made.clone());
            found.push(made);
        }
        made::tuple(py, found)
    }

    /// Packets that were read and thrown away because the pool was at its limit.
    ///
    /// >>> empty_batch.discarded
    /// 0
    #[getter]
    fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Gives back every packet that nobody else refers to; again does nothing.
    ///
    /// Fragments that were taken out of the batch stay as they are.
    ///
    /// >>> empty_batch.release()
    fn release(&self) {
        self.give_up();
    }

    fn __len__(&self) -> usize {
        self.packets.len()
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let len = self.packets.len();
        if let Ok(key) = key.cast::<PySlice>() {
            let found = key.indices(len.cast_signed())?;
            // Neither start nor stop leave the sequence, so the sum does not overflow.
            let step = |nth: usize| (found.start + nth.cast_signed() * found.step).unsigned_abs();
            let made = self.made(py, (0..found.slicelength).map(step))?;
            return Ok(made::list(py, made)?.into_any());
        }
        let index: isize = key.extract()?;
        let from_start = if index < 0 {
            index + len.cast_signed()
        } else {
            index
        };
        let index = usize::try_from(from_start)
            .ok()
            .filter(|index| *index < len);
        let index = index.ok_or_else(|| out_of_range("batch index out of range"))?;
        let mut places = self.places();
        places.as_mut().ok_or_else(|| released("batch"))?[index].made(py)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // All at once: whoever iterates wants them, and a list iterates fastest.
        let made = self.made(py, 0..self.packets.len())?;
        Ok(made::list(py, made)?.try_iter()?.into_any())
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().places().is_none() {
            return Err(released("batch"));
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyAny>) {
        self.release();
    }

    fn __repr__(&self) -> Text {
        let state = if self.places().is_none() {
            " released"
        } else {
            ""
        };
        let bytes: u64 = self
            .packets
            .iter()
            .map(|packet| u64::from(packet.len))
            .sum();
        let packets = self.packets.len();
        Text(format!("<Batch packets={packets} bytes={bytes}{state}>"))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.give_up();
    }
}
