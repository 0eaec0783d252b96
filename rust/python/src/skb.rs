//! `SkBuff`: one packet in several pieces, with room in front and behind, as the kernel has it.
//!
//! What `put`, `push` and `pull` return are memoryviews of the linear part. They stay valid across
//! everything that only moves the borders of the data; what would move the data itself, or give it
//! away, is refused with `BufferError` while they exist.

use std::ffi::c_int;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use pagefrag::{Error, Frag, net};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PyTuple};

use crate::buffer::{Lent, lend, lends};
use crate::error::{released, value};
use crate::locked::{Known, Locked, Refused};
use crate::made::{self, Number, Text};
use crate::object::This;
use crate::tracking::Holds;
use crate::views::Views;
use crate::{args, fragment, home, object, tracking};

/// A packet: a linear part with headroom and tailroom, and up to 17 fragments behind it.
///
/// >>> skb = netdev_alloc_skb(1500)
/// >>> skb.put(b'payload') is not None
/// True
/// >>> skb.push(2)[:] = b'\x00\x07'
/// >>> skb.len, skb.tobytes()
/// (9, b'\x00\x07payload')
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct SkBuff {
    /// Locked for the length of one core call; no Python code runs under it.
    core: Locked<net::SkBuff>,
    /// Views of the linear part.
    views: Views,
    /// Those among them that may write.
    writable: Views,
    /// Whether tracked memory was ever in it; see `SkBuff::holds`. Relaxed everywhere: what is noted
    /// of another thread's packet in the same moment may be missing.
    tracked: AtomicBool,
}

impl Known for net::SkBuff {
    const NOUN: &'static str = "skb";
}

impl SkBuff {
    pub(crate) fn new(core: net::SkBuff) -> Self {
        Self {
            core: Locked::new(core),
            ..Self::empty()
        }
    }

    /// For a packet that is yet to be given.
    pub(crate) fn empty() -> Self {
        Self {
            core: Locked::empty(),
            views: Views::none(),
            writable: Views::none(),
            tracked: AtomicBool::new(false),
        }
    }

    /// From now on somebody may ask what it holds.
    pub(crate) fn track(&self) {
        self.tracked.store(true, Ordering::Relaxed);
    }

    /// An address in each allocation that the packet holds.
    fn places(&self) -> Vec<usize> {
        self.core.look(|core| {
            core.as_ref().map_or_else(Vec::new, |core| {
                let behind = core.frags().iter().map(|frag| frag.as_ptr().addr());
                std::iter::once(core.data().as_ptr().addr())
                    .chain(behind)
                    .collect()
            })
        })
    }

    /// Tells who looks for holders of memory: see `tracking::Holds`.
    pub(crate) fn holds(object: &Bound<'_, PyAny>, memory: &Range<usize>) -> Option<usize> {
        let this = object.cast_exact::<Self>().ok()?.get();
        let is_in = |place: &usize| memory.contains(place);
        let is_held = this.places().iter().any(is_in);
        is_held.then(|| this.views.number())
    }

    fn is_tracked(&self) -> bool {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Notes that the packet holds what `parent` holds or has held at these places.
    #[cold]
    pub(crate) fn shares(
        slf: &Bound<'_, Self>,
        parent: &Bound<'_, PyAny>,
        places: &[usize],
        how: &'static str,
    ) {
        for place in places {
            let party = (slf.as_any(), Self::holds as Holds);
            if tracking::shared_as(parent, *place, party, how) {
                slf.get().track();
            }
        }
    }

    /// Notes that a tracked packet was looked at, or is on its way.
    #[cold]
    pub(crate) fn touched(slf: &Bound<'_, Self>, how: &'static str) {
        if slf.get().is_tracked() {
            for place in slf.get().places() {
                tracking::touched_as((slf.as_any(), Self::holds as Holds), place, how);
            }
        }
    }

    fn with<R>(&self, how: impl FnOnce(&mut net::SkBuff) -> R) -> PyResult<R> {
        self.core.with(|core| Ok(how(core)))
    }

    fn try_with<R>(&self, how: impl FnOnce(&mut net::SkBuff) -> Result<R, Error>) -> PyResult<R> {
        self.core.with(|core| how(core).map_err(Refused::Core))
    }

    /// The same for what moves the linear part: not while it is looked at.
    fn try_moving<R>(&self, how: impl FnOnce(&mut net::SkBuff) -> Result<R, Error>) -> PyResult<R> {
        self.core.with(|core| {
            self.unseen(core)?;
            how(core).map_err(Refused::Core)
        })
    }

    fn unseen(&self, core: &net::SkBuff) -> Result<(), Refused> {
        self.views.over(core).map_err(Refused::Viewed)
    }

    fn count_out(&self, readonly: bool) {
        if !readonly {
            self.writable.end();
        }
        self.views.end();
    }

    /// Takes the packet out; the object is released by it.
    pub(crate) fn take(&self) -> PyResult<net::SkBuff> {
        let taken = self.core.take_if(|core| self.unseen(core))?;
        taken.ok_or_else(|| released("skb"))
    }

    /// Puts a packet in: the one that `take` took, or the first.
    pub(crate) fn give(&self, packet: net::SkBuff) {
        self.core.look(|core| *core = Some(packet));
    }
}

/// A packet whose linear part is counted as looked at for as long as this lives.
#[derive(Debug)]
pub(crate) struct KeptSkb(Py<SkBuff>);

impl KeptSkb {
    /// Keeps the packet as it is now: where its linear bytes are, and the fragments behind them.
    pub(crate) fn of(skb: &Bound<'_, SkBuff>) -> PyResult<(Self, *const [u8], Vec<Frag>)> {
        let this = skb.get();
        let (linear, behind) = this.with(|core| {
            this.views.begin(core);
            (std::ptr::from_ref(core.data()), core.frags().to_vec())
        })?;
        Ok((Self(skb.clone().unbind()), linear, behind))
    }
}

impl Drop for KeptSkb {
    fn drop(&mut self) {
        self.0.get().views.end();
    }
}

/// `memoryview(skb)[start:start + len]`.
fn view<'py>(skb: &Bound<'py, SkBuff>, start: usize, len: usize) -> PyResult<Bound<'py, PyAny>> {
    let part = made::slice(skb.py(), start, start + len)?;
    PyMemoryView::from(skb)?.get_item(part)
}

/// How much to put or push, and the bytes to fill it with, if given.
fn amount(what: &Bound<'_, PyAny>) -> PyResult<(usize, Option<Lent>)> {
    // SAFETY: attached, with an object that lives.
    if unsafe { ffi::PyIndex_Check(what.as_ptr()) } != 0 {
        match args::whole(what, "n") {
            // An array has `__index__` too, and fails in it unless it is a single number.
            Err(error) if error.is_instance_of::<PyTypeError>(what.py()) && lends(what) => {}
            number => return Ok((number?, None)),
        }
    }
    let bytes = Lent::or_copied(what)?;
    Ok((bytes.len(), Some(bytes)))
}

fn fill(bytes: Option<&Lent>, room: &mut [u8]) {
    if let Some(bytes) = bytes {
        // SAFETY: the room was made for so many bytes.
        unsafe { bytes.copy_to(room.as_mut_ptr()) };
    }
}

#[pymethods]
impl SkBuff {
    /// Moves `n` bytes of tailroom to the headroom of an empty skb.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.reserve(16)
    /// >>> skb.headroom
    /// 80
    fn reserve(&self, n: &Bound<'_, PyAny>) -> PyResult<()> {
        let n = args::whole(n, "n")?;
        self.try_with(|core| core.reserve(n))
    }

    /// Adds `n` bytes behind the linear data, or the given bytes; a view of what was added.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.put(5)[:] = b'hello'
    /// >>> skb.tobytes()
    /// b'hello'
    fn put<'py>(slf: &Bound<'py, Self>, n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (n, bytes) = amount(n)?;
        let before = slf.get().try_with(|core| {
            let before = core.head_len();
            fill(bytes.as_ref(), core.put(n)?);
            Ok(before)
        })?;
        view(slf, before, n)
    }

    /// Adds `n` bytes in front of the data, or the given bytes; a view of what was added.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.push(b'head').tobytes(), skb.headroom
    /// (b'head', 60)
    fn push<'py>(slf: &Bound<'py, Self>, n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (n, bytes) = amount(n)?;
        slf.get().try_with(|core| {
            fill(bytes.as_ref(), core.push(n)?);
            Ok(())
        })?;
        view(slf, 0, n)
    }

    /// Removes `n` bytes from the front of the linear data; a view of what is left of it.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> view = skb.put(b'headbody')
    /// >>> skb.pull(4).tobytes()
    /// b'body'
    fn pull<'py>(slf: &Bound<'py, Self>, n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let n = args::whole(n, "n")?;
        let left = slf.get().try_with(|core| core.pull(n).map(<[u8]>::len))?;
        view(slf, 0, left)
    }

    /// Keeps the first `n` bytes of all data.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> view = skb.put(b'headbody')
    /// >>> skb.trim(4)
    /// >>> skb.tobytes()
    /// b'head'
    fn trim(&self, n: &Bound<'_, PyAny>) -> PyResult<()> {
        let n = args::whole(n, "n")?;
        self.try_with(|core| core.trim(n))
    }

    /// Bytes in front of the data.
    ///
    /// >>> netdev_alloc_skb(100).headroom
    /// 64
    #[getter]
    fn headroom(&self) -> PyResult<Number> {
        self.with(|core| Number(core.headroom()))
    }

    /// Bytes behind the linear data that can still be put.
    ///
    /// >>> netdev_alloc_skb(100).tailroom >= 100
    /// True
    #[getter]
    fn tailroom(&self) -> PyResult<Number> {
        self.with(|core| Number(core.tailroom()))
    }

    /// Bytes of data, those in fragments included; the same as `len()`.
    ///
    /// >>> netdev_alloc_skb(100).len
    /// 0
    #[getter]
    fn len(&self) -> PyResult<Number> {
        self.with(|core| Number(core.len()))
    }

    /// Bytes of data that are in fragments.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.add_frag(netdev_alloc_frag(1000))
    /// >>> skb.data_len
    /// 1000
    #[getter]
    fn data_len(&self) -> PyResult<Number> {
        self.with(|core| Number(core.data_len()))
    }

    /// Bytes of memory that the packet accounts for; never less than what it holds.
    ///
    /// >>> netdev_alloc_skb(1500).truesize
    /// 2176
    #[getter]
    fn truesize(&self) -> PyResult<Number> {
        self.with(|core| Number(core.truesize()))
    }

    /// Appends a fragment's bytes without copying them. The fragment stays usable.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.add_frag(netdev_alloc_frag(1000))
    /// >>> skb.len
    /// 1000
    fn add_frag(slf: &Bound<'_, Self>, fragment: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = This::cast(fragment)?;
        let inside = fragment::enter(this)?;
        let original = fragment::page_frag(&inside)?;
        // SAFETY: nobody writes through a `Frag`, and sharers may read.
        let shared = || unsafe { Frag::from_raw(original.share()) };
        slf.get().try_with(|core| core.add_frag_with(shared))?;
        let place = inside.as_ptr().addr();
        drop(inside);
        if this.has_weak() {
            Self::shares(slf, fragment, &[place], "add_frag");
        }
        Ok(())
    }

    /// The fragments behind the linear part, sharing the memory, read-only.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.add_frag(netdev_alloc_frag(1000))
    /// >>> [frag.nbytes for frag in skb.frags]
    /// [1000]
    #[getter]
    fn frags<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let shared = slf.get().with(|core| core.frags().to_vec())?;
        let made: PyResult<Vec<_>> = shared
            .into_iter()
            .map(|frag| object::make(py, frag.into_raw(), true))
            .collect();
        let made = made?;
        if slf.get().is_tracked() {
            for frag in &made {
                tracking::shared_by(slf.as_any(), frag, "frags");
            }
        }
        made::tuple(py, made)
    }

    /// A second skb with the same data, shared. Neither may change the linear data afterwards.
    ///
    /// `BufferError` while a view exists that could.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.put(b'hello').release()
    /// >>> skb.clone().tobytes()
    /// b'hello'
    fn clone<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        // First, as there may be no memory for it: then nothing has been shared.
        let second = Bound::new(slf.py(), Self::empty())?;
        let shared = this.core.with(|core| {
            this.writable.over(core).map_err(Refused::Viewed)?;
            Ok(core.clone_skb())
        })?;
        second.get().give(shared);
        if this.is_tracked() {
            Self::shares(&second, slf.as_any(), &this.places(), "clone");
        }
        Ok(second)
    }

    /// Copies all data into one linear part, its own.
    ///
    /// If that takes a new head, it comes from the packet's own pool. `PoolExhausted`, and `ValueError`
    /// when everything does not fit one page, change nothing.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> skb.add_frag(netdev_alloc_frag(1000))
    /// >>> skb.linearize()
    /// >>> skb.len, skb.data_len
    /// (1000, 0)
    fn linearize(&self, py: Python<'_>) -> PyResult<()> {
        crate::thread_end::watch(py)?;
        self.try_moving(|core| {
            let pool = core.pool();
            core.linearize_with(|size| home::alloc_of(&pool, size))
        })
    }

    /// Moves all of `other` behind this skb's data if that is possible; whether it was.
    ///
    /// `other` is used up then, and `truesize` has grown by what it brought. False (too many
    /// fragments, shared data) changes nothing.
    ///
    /// >>> first, second = netdev_alloc_skb(1000), netdev_alloc_skb(1000)
    /// >>> view = first.put(b'one, '); view.release()
    /// >>> view = second.put(b'two'); view.release()
    /// >>> first.coalesce(second), first.tobytes()
    /// (True, b'one, two')
    fn coalesce(slf: &Bound<'_, Self>, other: &Bound<'_, Self>) -> PyResult<bool> {
        if slf.is(other) {
            return Err(value("an skb cannot be coalesced with itself"));
        }
        slf.get().with(|_| ())?;
        let places = if other.get().is_tracked() {
            other.get().places()
        } else {
            Vec::new()
        };
        let taken = other.get().take()?;
        match slf.get().with(|core| core.coalesce(taken))? {
            Ok(_) => {
                Self::shares(slf, other.as_any(), &places, "coalesce");
                Ok(true)
            }
            Err((_, refused)) => {
                other.get().give(refused);
                Ok(false)
            }
        }
    }

    /// The pieces in order, for `socket.sendmsg`.
    ///
    /// >>> skb = netdev_alloc_skb(100)
    /// >>> view = skb.put(b'head')
    /// >>> skb.add_frag(netdev_alloc_frag(1000))
    /// >>> [memoryview(piece).nbytes for piece in skb.buffers()]
    /// [4, 1000]
    fn buffers<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let linear = slf.get().with(|core| core.head_len())?;
        let mut pieces = Vec::new();
        if linear > 0 {
            pieces.push(PyMemoryView::from(slf)?.into_any());
        }
        pieces.extend(Self::frags(slf)?);
        made::list(py, pieces)
    }

    /// All data, copied.
    ///
    /// >>> netdev_alloc_skb(100).tobytes()
    /// b''
    fn tobytes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        Self::touched(slf, "tobytes");
        // Allocating bytes runs no Python code, so the lock may be held.
        slf.get().with(|core| {
            PyBytes::new_with(py, core.len(), |bytes| {
                let mut rest = bytes;
                let behind = core.frags().iter().map(|frag| &frag[..]);
                for piece in std::iter::once(core.data()).chain(behind) {
                    let (place, behind) = rest.split_at_mut(piece.len());
                    place.copy_from_slice(piece);
                    rest = behind;
                }
                Ok(())
            })
        })?
    }

    /// Gives the packet's memory back now; again does nothing. `BufferError` while views exist.
    ///
    /// >>> netdev_alloc_skb(100).release()
    fn release(&self) -> PyResult<()> {
        // Dropped here, with the lock given back.
        self.core.take_if(|core| self.unseen(core)).map(drop)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.with(|core| core.len())
    }

    /// An skb is true even if it is empty: it is a packet, not a container.
    #[allow(clippy::unused_self)] // the protocol's signature
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> Text {
        let parts = self.with(|core| {
            let (len, data_len, frags) = (core.len(), core.data_len(), core.nr_frags());
            let (headroom, tailroom, truesize) =
                (core.headroom(), core.tailroom(), core.truesize());
            format!(
                "<SkBuff len={len} data_len={data_len} frags={frags} headroom={headroom} \
                 tailroom={tailroom} truesize={truesize}>"
            )
        });
        Text(parts.unwrap_or_else(|_| "<SkBuff released>".to_owned()))
    }

    /// A memoryview of the bytes, as from Python 3.12 on.
    ///
    /// >>> netdev_alloc_skb(100).__buffer__(0).readonly
    /// False
    #[cfg(not(Py_3_12))]
    fn __buffer__<'py>(
        slf: &Bound<'py, Self>,
        flags: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        crate::buffer::view(slf.as_any(), flags)
    }

    /// # Safety
    /// Called by the interpreter with a view to fill.
    #[allow(clippy::needless_pass_by_value)] // the protocol's signature
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        // Counted under the lock: from then on the linear part stays where it is.
        let (memory, readonly) = this.with(|core| {
            this.views.begin(core);
            match core.data_mut() {
                Ok(data) => {
                    this.writable.begin(data);
                    ((data.as_mut_ptr(), data.len()), false)
                }
                Err(_) => ((core.data().as_ptr().cast_mut(), core.data().len()), true),
            }
        })?;
        // SAFETY: the linear part stays as long as `views` counts this view, which is the
        // interpreter's.
        let lent = unsafe { lend(&slf, view, flags, memory, readonly) };
        if lent.is_err() {
            this.count_out(readonly);
        } else {
            Self::touched(&slf, "view");
        }
        lent
    }

    /// # Safety
    /// Called by the interpreter once for each view that was filled.
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: the contract; as `lend` filled it.
        let readonly = unsafe { (*view).readonly } != 0;
        self.count_out(readonly);
    }
}
