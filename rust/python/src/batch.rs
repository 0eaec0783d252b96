//! `Batch`: what one `recv` brought. A packet becomes a Python object when it is looked at as one;
//! whoever reads the batch as arrays creates none.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use pagefrag::LocalCache;
use pagefrag::net::{RxBatch, RxFact, RxFacts, Source};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PySlice, PyTuple};

use crate::batch_arrow::Layout;
use crate::error::{index as out_of_range, released};
use crate::loan::Loan;
use crate::locked::{Locked, Refused};
use crate::made::{self, Number, Text, guarded};
use crate::memory::{self, Memory};
use crate::numbers::{Kind, Numbers};
use crate::place::{Place, Places};
use crate::shares::Shares;
use crate::tracking::Sampler;
use crate::{arrow, batch_arrow, batch_numpy, batch_pickle, pickle, sender, thread_end};

/// The packets of one `RxRing.recv`: a sequence of fragments.
///
/// `batch[i]` is the same `Fragment` each time. `lengths`, `offsets`, `timestamps` and their like
/// are `Numbers`, which `numpy.asarray` takes as they are, without a copy. `release()` (or the end of a `with` block) gives back
/// everything that nobody else refers to. A batch holds the buffers of its ring until something of
/// it is looked at as a fragment, a column, a pickle, or by its `pages` or `offsets`; then each packet
/// holds its own lines, and those that the kernel had joined are copied out of where they landed.
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
    facts: RxFacts,
    /// Page and offset of each packet, where they are no longer those of the facts: what lay as
    /// the kernel had joined it was moved when the batch was opened. Set under the lock.
    moved: OnceLock<Box<[(usize, u32)]>>,
    /// `None` after release. Under the lock objects are made, which runs no Python code.
    places: Locked<Places>,
    discarded: u64,
    /// What tracks the fragments that are made of it, if anybody does.
    sampler: Option<Arc<Sampler>>,
}

impl Batch {
    /// Fragments will come from `cache`.
    pub(crate) fn of(batch: RxBatch, cache: LocalCache) -> Self {
        let discarded = batch.discarded();
        let (frags, facts) = batch.into_parts();
        Self::with(facts, Places::fresh(frags, cache), discarded)
    }

    fn with(facts: RxFacts, places: Places, discarded: u64) -> Self {
        Self {
            facts,
            moved: OnceLock::new(),
            places: Locked::new(places),
            discarded,
            sampler: None,
        }
    }

    /// The same, tracked.
    pub(crate) fn sampled(mut self, sampler: Option<Arc<Sampler>>) -> Self {
        self.sampler = sampler;
        self
    }

    /// Whether nothing came at all, not even something to throw away.
    pub(crate) fn is_silent(&self) -> bool {
        self.facts.is_empty() && self.discarded == 0
    }

    /// Runs `how`, which runs no Python code, with the places of the packets, each a fragment of
    /// its own by now.
    fn opened<R>(
        &self,
        py: Python<'_>,
        how: impl FnOnce(&mut Places) -> Result<R, Refused>,
    ) -> PyResult<R> {
        // Runs Python code, the first time on a thread.
        thread_end::watch(py)?;
        self.places.with(|places| {
            self.open(places);
            how(places)
        })
    }

    fn open(&self, places: &mut Places) {
        if let Some(moved) = places.open(&self.facts) {
            // Once only: places stay open.
            let _ = self.moved.set(moved);
        }
    }

    /// Page and offset of each packet, as its fragment has them; of a batch that was released
    /// unopened as they were.
    fn spots<N>(&self, py: Python<'_>, number: impl Fn(usize, u32) -> N) -> PyResult<Vec<N>> {
        thread_end::watch(py)?;
        self.places.look(|places| {
            if let Some(places) = places {
                self.open(places);
            }
        });
        Ok(match self.moved.get() {
            Some(moved) => moved.iter().map(|&(page, at)| number(page, at)).collect(),
            None => self.each(|fact| number(fact.page(), short(fact.offset()))),
        })
    }

    /// The fragments at these places.
    fn made<'py>(
        &self,
        py: Python<'py>,
        indices: impl Iterator<Item = usize>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut new = Vec::new();
        let made: Vec<_> = self.opened(py, |places| {
            let frozen = places.frozen;
            let each = places.each();
            let made = indices.map(|index| {
                if self.sampler.is_some() {
                    new.push(each[index].is_raw());
                }
                each[index].made(py, frozen)
            });
            made.collect()
        })?;
        if let Some(sampler) = &self.sampler {
            let new = made.iter().zip(new).filter(|(_, is_new)| *is_new);
            new.for_each(|(packet, _)| sampler.made(packet, "packet"));
        }
        Ok(made)
    }

    /// The memory of all packets for another holder, who relies on nobody writing it: one locked
    /// add for each packet. `ValueError` if the batch or one of its fragments was released.
    fn share(&self, py: Python<'_>) -> PyResult<Shares> {
        self.shared(py).map(Shares::of)
    }

    fn shared(&self, py: Python<'_>) -> PyResult<Vec<Memory>> {
        self.opened(py, |places| {
            let shared = places.shares(py);
            places.frozen |= shared.is_ok();
            shared
        })
    }

    /// A number of each packet.
    fn each<N>(&self, number: impl Fn(RxFact<'_>) -> N) -> Vec<N> {
        self.facts.iter().map(number).collect()
    }

    fn ints(&self, number: impl Fn(RxFact<'_>) -> usize) -> Numbers {
        Numbers::of(Kind::Ints(self.each(|fact| short(number(fact)))))
    }

    /// Each packet's memory, for who sends it: what is written meanwhile may be sent.
    pub(crate) fn parts(&self, py: Python<'_>) -> PyResult<Vec<Memory>> {
        self.opened(py, |places| places.shares(py))
    }

    /// Who sent each packet; `None` where that is no address of IP.
    pub(crate) fn sources(&self) -> impl Iterator<Item = Option<Source>> {
        let source = |fact: RxFact<'_>| fact.source().to_socket_addr().map(|_| fact.source());
        self.facts.iter().map(source)
    }

    fn give_up(&self) {
        // Out of the lock first: dropping fragments that Python made may free them.
        let places = self.places.look(Option::take);
        let mut made = Vec::new();
        memory::drop_many(
            places
                .into_iter()
                .flat_map(Places::into_each)
                .filter_map(|place| match place {
                    Place::Raw(memory) => memory,
                    Place::Made(object) => {
                        made.push(object);
                        None
                    }
                }),
        );
    }
}

#[pymethods]
impl Batch {
    /// Bytes of each packet, as `Numbers` of format 'I'.
    ///
    /// >>> list(empty_batch.lengths)
    /// []
    #[getter]
    fn lengths(&self) -> Numbers {
        Numbers::of(Kind::Ints(self.facts.lens().collect()))
    }

    /// Bytes of each packet as it was sent: above its length if the buffer was too small for it.
    ///
    /// >>> list(empty_batch.wire_lengths)
    /// []
    #[getter]
    fn wire_lengths(&self) -> Numbers {
        self.ints(|fact| fact.wire_len())
    }

    /// Where in its page each packet starts, as `Numbers` of format 'I'.
    ///
    /// >>> list(empty_batch.offsets)
    /// []
    #[getter]
    fn offsets(&self, py: Python<'_>) -> PyResult<Numbers> {
        let offsets = self.spots(py, |_, offset| offset)?;
        Ok(Numbers::of(Kind::Ints(offsets)))
    }

    /// The page of each packet, as `Fragment.page`, as `Numbers` of format 'N' (a machine word).
    ///
    /// >>> list(empty_batch.pages)
    /// []
    #[getter]
    fn pages(&self, py: Python<'_>) -> PyResult<Numbers> {
        let pages = self.spots(py, |page, _| page)?;
        Ok(Numbers::of(Kind::Words(pages)))
    }

    /// When the kernel took each packet in: nanoseconds since 1970, as `Numbers` of format 'q'.
    ///
    /// 0 without `RxRing(timestamps=True)`. Packets that the kernel has joined have one time.
    ///
    /// >>> list(empty_batch.timestamps)
    /// []
    #[getter]
    fn timestamps(&self) -> Numbers {
        Numbers::of(Kind::Longs(self.each(|fact| fact.timestamp().unwrap_or(0))))
    }

    /// The number of the interface through which each packet came, as `Numbers` of format 'I'.
    ///
    /// `socket.if_indextoname` knows its name. 0 without `RxRing(interfaces=True)`, unless the
    /// socket is a packet socket.
    ///
    /// >>> list(empty_batch.interfaces)
    /// []
    #[getter]
    fn interfaces(&self) -> Numbers {
        Numbers::of(Kind::Ints(self.each(|fact| fact.interface().unwrap_or(0))))
    }

    /// Whether each packet was longer than its buffer, as `Numbers` of format '?'.
    ///
    /// >>> list(empty_batch.truncated)
    /// []
    #[getter]
    fn truncated(&self) -> Numbers {
        Numbers::of(Kind::Flags(self.each(|fact| fact.is_truncated())))
    }

    /// Whether each packet is a segment of several that the kernel had joined (GRO), as
    /// `Numbers` of format '?'.
    ///
    /// >>> list(empty_batch.segments)
    /// []
    #[getter]
    fn segments(&self) -> Numbers {
        Numbers::of(Kind::Flags(self.each(|fact| fact.is_segment())))
    }

    /// Who sent each packet, as the `socket` module writes addresses; equal ones are one object.
    ///
    /// >>> empty_batch.addresses
    /// ()
    #[getter]
    fn addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mut known: HashMap<&[u8], Bound<'py, PyAny>> = HashMap::new();
        let mut found = Vec::with_capacity(self.facts.len());
        for fact in &self.facts {
            if let Some(known) = known.get(fact.name()) {
                found.push(known.clone());
                continue;
            }
            let made = guarded(py, || sender::address(py, fact))?;
            known.insert(fact.name(), made.clone());
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

    /// The bytes of all packets as few read-only memoryviews, each of consecutive memory.
    ///
    /// A view shows packets and the padding behind them (up to 63 bytes each, of whatever was there
    /// before), nothing else. `to_numpy` tells which packet is where. Copies nothing; one locked add
    /// for each packet. The views keep the memory.
    ///
    /// >>> empty_batch.runs()
    /// []
    fn runs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let shares = Arc::new(self.share(py)?);
        let views: PyResult<Vec<_>> = shares
            .runs()
            .iter()
            .map(|run| {
                // SAFETY: the run is the shares' memory.
                let loan = unsafe { Loan::new(shares.clone(), run.first, run.len) };
                Ok(guarded(py, || loan.view(py))?.into_any())
            })
            .collect();
        made::list(py, views?)
    }

    /// One record for each packet: where its bytes are, when it came, from whom.
    ///
    /// A read-only structured array. `address` is where the first byte lies, `run` and `start` are
    /// its place in `runs()`, `length` its bytes; `wire_length`, `truncated`, `segment` and
    /// `interface` are as the batch's own arrays; `timestamp` is a `datetime64[ns]`, `NaT` without
    /// one; `source` is the sender's IPv6 address, or IPv4 address mapped into IPv6, as sixteen
    /// bytes, and `port` its port (all 0 when it has none). Copies no packet; one locked add for
    /// each. The array keeps the packets' memory. `ImportError` without `NumPy`.
    ///
    /// >>> empty_batch.to_numpy().dtype.names[:4]
    /// ('address', 'timestamp', 'length', 'wire_length')
    fn to_numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let records = made::imported(py, "pagefrag._numpy", "records")?;
        let shares = self.share(py)?;
        let view = guarded(py, || batch_numpy::records(&self.facts, shares).view(py))?;
        records.call1((view,))
    }

    /// A `pyarrow.RecordBatch` of the columns `payload`, `timestamp`, `source` and `port`.
    ///
    /// `payload` is a `binary_view` column whose views point to the packets where they are: sixteen
    /// bytes are written for each packet and none copied (those of up to twelve bytes are in the
    /// view). `timestamp` is a `timestamp[ns, UTC]`, null without one; `source` the sender's IP
    /// address as a `string` and `port` a `uint16`, null when it has none. The column keeps the
    /// packets' memory, whatever becomes of the batch, and lets it go on any thread. One locked add
    /// for each packet. `ImportError` without pyarrow.
    ///
    /// Arrow relies on data that nobody changes: fragments that are taken out of the batch from now
    /// on are read-only. Do not write through one that was taken out before.
    ///
    /// Libraries that know Arrow's `PyCapsule` protocol take the batch itself:
    /// `polars.DataFrame(batch)`.
    ///
    /// >>> print(*empty_batch.to_arrow().schema.names)
    /// payload timestamp source port
    fn to_arrow(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        made::called(slf.py(), ("pagefrag._arrow", "record_batch"), (slf,))
    }

    /// The schema of `to_arrow` as an `arrow_schema` capsule.
    ///
    /// >>> type(empty_batch.__arrow_c_schema__()).__name__
    /// 'PyCapsule'
    #[allow(clippy::unused_self)] // the protocol's signature
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        arrow::schema_capsule(py, &batch_arrow::fields(Layout::View))
    }

    /// What `to_arrow` gives, as a pair of capsules.
    ///
    /// A `requested_schema` in which `payload` is `binary` or `large_binary` gets it so, copied once;
    /// anything else it asks for is left to the consumer.
    ///
    /// >>> print(*(type(capsule).__name__ for capsule in empty_batch.__arrow_c_array__()))
    /// PyCapsule PyCapsule
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let layout = Layout::asked(requested_schema)?;
        let (layout, columns) = batch_arrow::columns(self.share(py)?, &self.facts, layout);
        let schema = arrow::schema_capsule(py, &batch_arrow::fields(layout))?;
        let array = arrow::array_capsule(py, self.facts.len(), columns)?;
        Ok((schema, array))
    }

    /// Bytes of all packets together.
    ///
    /// >>> empty_batch.nbytes
    /// 0
    #[getter]
    fn nbytes(&self) -> Number {
        Number(self.facts.iter().map(|fact| fact.len()).sum())
    }

    /// What a pickle has of it: a table, and a buffer for each of its `runs()`.
    ///
    /// From protocol 5 on the buffers travel out of band if the pickler has a `buffer_callback`: no
    /// packet is copied. The batch that comes out makes read-only fragments over the buffers that the
    /// unpickler was given, and copies nothing either. As with all who share a batch, its fragments
    /// are read-only from now on. `ValueError` after release; a pickle of a newer layout is a
    /// `PagefragError`.
    ///
    /// >>> import pickle
    /// >>> len(pickle.loads(pickle.dumps(empty_batch)))
    /// 0
    fn __reduce_ex__<'py>(&self, py: Python<'py>, protocol: i32) -> PyResult<Bound<'py, PyAny>> {
        let shares = Arc::new(self.share(py)?);
        let (table, names) = batch_pickle::table(&self.facts, &shares);
        // SAFETY: that many bytes.
        let table = unsafe { made::bytes(py, table.as_ptr(), table.len()) }?;
        let names = names.into_iter().map(|name| {
            // SAFETY: that many bytes.
            let name = unsafe { made::bytes(py, name.as_ptr(), name.len()) }?;
            Ok(name.into_any())
        });
        let names = made::list(py, names.collect::<PyResult<_>>()?)?;
        let runs = shares.runs().iter().map(|run| {
            // SAFETY: the run is the shares' memory.
            let loan = unsafe { Loan::new(shares.clone(), run.first, run.len) };
            pickle::carried(Bound::new(py, loan)?.as_any(), true, protocol)
        });
        let runs = made::list(py, runs.collect::<PyResult<_>>()?)?;
        let restorer = pickle::restorer(py, "_restore_batch")?;
        let state = (pickle::VERSION, table, names, self.discarded, runs);
        guarded(py, || Ok((restorer, state).into_pyobject(py)?.into_any()))
    }

    /// Another batch of the same packets; the memory is shared, and both make read-only fragments.
    ///
    /// >>> import copy
    /// >>> len(copy.copy(empty_batch))
    /// 0
    fn __copy__(&self, py: Python<'_>) -> PyResult<Self> {
        let places = Places::shared(self.shared(py)?.into_iter());
        Ok(Self::with(self.facts.clone(), places, self.discarded))
    }

    /// What it takes of memory: itself, its table, and the lines of its packets.
    ///
    /// >>> empty_batch.__sizeof__() < 1000
    /// True
    fn __sizeof__(&self, py: Python<'_>) -> Number {
        let footprint = |places: &mut Option<Places>| {
            let places = places.as_ref();
            places.map_or(0, |places| places.footprint(py))
        };
        let memory = self.places.look(footprint);
        Number(size_of::<Self>() + self.facts.footprint() + memory)
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
        self.facts.len()
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let len = self.facts.len();
        if let Ok(key) = key.cast::<PySlice>() {
            let found = key.indices(len.cast_signed())?;
            // Neither start nor stop leave the sequence, so the sum does not overflow.
            let step = |nth: usize| (found.start + nth.cast_signed() * found.step).unsigned_abs();
            let made = self.made(py, (0..found.slicelength).map(step))?;
            return Ok(made::list(py, made)?.into_any());
        }
        let index: isize = key.extract().map_err(|error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(py) {
                out_of_range("batch index out of range")
            } else {
                error
            }
        })?;
        let from_start = if index < 0 {
            index + len.cast_signed()
        } else {
            index
        };
        let index = usize::try_from(from_start)
            .ok()
            .filter(|index| *index < len);
        let index = index.ok_or_else(|| out_of_range("batch index out of range"))?;
        let mut is_new = false;
        let made = self.opened(py, |places| {
            let frozen = places.frozen;
            let place = &mut places.each()[index];
            is_new = place.is_raw();
            place.made(py, frozen)
        })?;
        if is_new && let Some(sampler) = &self.sampler {
            sampler.made(&made, "packet");
        }
        Ok(made)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // All at once: whoever iterates wants them, and a list iterates fastest.
        let made = self.made(py, 0..self.facts.len())?;
        Ok(made::list(py, made)?.try_iter()?.into_any())
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().places.is_taken() {
            return Err(released("batch"));
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyAny>) {
        self.release();
    }

    fn __repr__(&self) -> Text {
        let state = if self.places.is_taken() {
            " released"
        } else {
            ""
        };
        let bytes: usize = self.facts.iter().map(|fact| fact.len()).sum();
        let packets = self.facts.len();
        Text(format!("<Batch packets={packets} bytes={bytes}{state}>"))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A batch out of a pickle: over the buffers as they are.
#[pyfunction(name = "_restore_batch", signature = (version, *state))]
pub(crate) fn restore_batch(version: u32, state: &Bound<'_, PyTuple>) -> PyResult<Batch> {
    // Before anything of the rest, whose shape only the layout tells.
    pickle::check(version)?;
    let (facts, memory, discarded) = batch_pickle::packets(state)?;
    let places = Places::shared(memory.into_iter());
    Ok(Batch::with(facts, places, discarded))
}

/// A number that was one of 32 bits.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
