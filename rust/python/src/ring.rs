//! `RxRing`: datagrams from a socket straight into fragments, many with one system call.
//!
//! A ring works on a descriptor of its own (a duplicate), so that a number which the user closes
//! and the system uses again is never read from; and it looks at the user's socket before each
//! call, so that a closed socket is an error and not silence. The duplicate goes with `close`, and
//! when the socket is found closed, so that the port is free again.
//!
//! A fork copies what other threads hold and not the threads. So the one lock is held only while
//! attached to the interpreter, which whoever forks is too: a call that receives takes the core
//! out, makes its system call detached, and puts the core back. What a thread of another process
//! has out, or was doing, is over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use pagefrag::net::{self, QueueStats, Readiness, RxOptions};
use pagefrag::{Granule, LocalCache, process_number};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::args::{self, Given};
use crate::batch::Batch;
use crate::cache::PageFragCache;
use crate::deadline::Deadline;
use crate::error::{from_io, os, out_of_context, value};
use crate::made::{self, Number, Text};
use crate::pause::pause;
use crate::sock::{BAD_DESCRIPTOR, family, fileno};
use crate::turn::Turn;
use crate::{stats, thread_end, unclosed};

/// How long `close` leaves the interpreter to a call that has the core out.
pub(crate) const MOMENT: Duration = Duration::from_micros(50);

/// The core's side of a ring.
struct Core {
    ring: net::RxRing<Arc<OwnedFd>>,
    /// Who received what waits to be handed out.
    process: u64,
}

impl Core {
    /// What is there, without waiting. Runs detached.
    fn receive(&mut self, cache: &LocalCache, max: usize) -> io::Result<Batch> {
        let batch = cache.with(|cache| self.ring.recv(cache, max))?;
        Ok(Batch::of(batch, cache.clone()))
    }
}

/// Where the core is.
enum Place {
    Here(Box<Core>),
    /// In a call of this process, for a system call that does not wait.
    Out(u64),
    /// The same, and closed meanwhile.
    Closing(u64),
    Closed,
}

/// What changes in a ring.
struct State {
    place: Place,
    /// `drain` came while the core was out: for who puts it back.
    drain: bool,
    /// The counters when the core was last here.
    last: QueueStats,
    /// The options, for when the core is not here.
    slots: usize,
    gro: bool,
}

impl State {
    /// The core, if it is here. In a forked child without what its parent has received.
    fn core(&mut self) -> Option<&mut Core> {
        match &mut self.place {
            Place::Here(core) => {
                if core.ring.has_pending() && core.process != process_number() {
                    core.ring.forget();
                }
                Some(core)
            }
            Place::Out(_) | Place::Closing(_) | Place::Closed => None,
        }
    }

    /// Closed, or lost to a thread that a fork left behind.
    fn is_closed(&self) -> bool {
        match self.place {
            Place::Here(_) => false,
            Place::Out(process) => process != process_number(),
            Place::Closing(_) | Place::Closed => true,
        }
    }

    /// The counters; of a core that is out, as they were when it went.
    fn stats(&mut self) -> QueueStats {
        if let Some(core) = self.core() {
            self.last = core.ring.stats();
        }
        self.last
    }
}

/// Receives datagrams of a UDP, UNIX or packet socket into fragments.
///
/// `slots` is how many datagrams one system call can bring, `buf_size` how long each may be (a
/// longer one is cut, joined or not; `Batch.wire_lengths` tells). With `gro` the kernel may join
/// datagrams of one sender, which the ring takes apart again, each into a fragment of its own size.
/// Datagrams up to `copybreak` bytes are moved together so that they do not hold whole buffers. With
/// `timestamps` the kernel tells when each came, with `interfaces` through which interface
/// (`Batch.timestamps`, `Batch.interfaces`). `async for batch in ring` waits for batches; `cache` is
/// where the fragments come from; without one, the ring has its own over the default pool.
///
/// A pool at its limit is no error: what cannot be kept is read, thrown away and counted in
/// `stats().rx_alloc_fail`.
///
/// Rings may share a socket. The first of them decides whether datagrams are joined (`gro` tells),
/// and what a ring has asked of the socket stays as long as one of them needs it. Joined datagrams
/// that are left in the socket when the last ring closes are read from it as one each: receive until
/// there is nothing before going on without a ring.
///
/// In a forked child the ring goes on over the same socket, without what its parent has received
/// and not handed out (`pending`), unless another thread was receiving with it in the very moment
/// of the fork: then it is closed there.
///
/// >>> import socket
/// >>> sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> sock.bind(('127.0.0.1', 0))
/// >>> _ = sock.sendto(b'ping', sock.getsockname())
/// >>> with RxRing(sock) as ring:
/// ...     batch = ring.recv(timeout=5)
/// >>> batch[0].tobytes(), batch.addresses[0] == sock.getsockname()
/// (b'ping', True)
/// >>> sock.close()
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct RxRing {
    sock: Py<PyAny>,
    fileno: i32,
    cache: Py<PageFragCache>,
    /// Whether the cache is the ring's alone.
    own_cache: bool,
    /// Locked only while attached; no Python code runs under it.
    state: Mutex<State>,
    /// The process of the thread that is in `recv`; 0: none is.
    busy: AtomicU64,
    /// What to call when the ring is closed, and in which process. Locked only while attached.
    awaited: Mutex<Option<(u64, Py<PyAny>)>>,
}

/// A core that is out; goes back when dropped, which is done attached.
struct Taken<'a> {
    home: &'a RxRing,
    core: Option<Box<Core>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let Some(mut core) = self.core.take() else {
            return;
        };
        let mut state = self.home.state();
        if std::mem::take(&mut state.drain) {
            core.ring.drain();
        }
        if matches!(state.place, Place::Out(_)) {
            state.place = Place::Here(core);
        } else {
            state.last = core.ring.close();
            state.place = Place::Closed;
        }
    }
}

fn in_use() -> PyErr {
    out_of_context("another call is receiving on this ring")
}

pub(crate) fn closed() -> PyErr {
    value("operation on closed ring")
}

impl RxRing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> PyResult<Turn<'_>> {
        Turn::take(&self.busy, process_number()).ok_or_else(in_use)
    }

    fn awaited(&self) -> MutexGuard<'_, Option<(u64, Py<PyAny>)>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls who waits for the end. Runs Python code.
    fn tell_closed(&self, py: Python<'_>) {
        let awaited = self.awaited().take();
        if let Some((process, told)) = awaited
            && process == process_number()
            && let Err(error) = told.call0(py)
        {
            error.write_unraisable(py, None);
        }
    }

    /// Takes the core out of an open ring.
    fn take_out(&self) -> PyResult<Taken<'_>> {
        let mut state = self.state();
        if state.is_closed() {
            // First: making an exception can run Python code.
            drop(state);
            return Err(closed());
        }
        let (before, process) = (state.last, process_number());
        if let Some(core) = state.core() {
            core.process = process;
            // Without asking the kernel, which may have said more when it was asked.
            let mut now = core.ring.counted();
            now.rx_hw_drops = now.rx_hw_drops.max(before.rx_hw_drops);
            now.rx_hw_drop_overruns = now.rx_hw_drop_overruns.max(before.rx_hw_drop_overruns);
            state.last = now;
        }
        let place = std::mem::replace(&mut state.place, Place::Out(process));
        drop(state);
        match place {
            Place::Here(core) => Ok(Taken {
                home: self,
                core: Some(core),
            }),
            Place::Out(_) | Place::Closing(_) | Place::Closed => Err(in_use()),
        }
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if fileno(self.sock.bind(py))? != self.fileno {
            // Our duplicate would keep the port.
            self.close(py);
            return Err(os(BAD_DESCRIPTOR, "the ring's socket is closed"));
        }
        Ok(())
    }

    /// Closes as far as can be; true while a call of this process still has the core out, which
    /// is for a moment only.
    fn end(&self) -> bool {
        let mut state = self.state();
        state.core();
        match std::mem::replace(&mut state.place, Place::Closed) {
            Place::Here(core) => {
                state.last = core.ring.close();
                false
            }
            Place::Out(whose) | Place::Closing(whose) if whose == process_number() => {
                state.place = Place::Closing(whose);
                true
            }
            _ => false,
        }
    }

    /// What is there, without waiting.
    fn receive(&self, py: Python<'_>, cache: &LocalCache, max: usize) -> PyResult<Batch> {
        let mut taken = self.take_out()?;
        let core = taken.core.as_mut().ok_or_else(closed)?;
        let batch = py.detach(|| core.receive(cache, max));
        let batch = batch.map_err(|error| from_io(&error))?;
        Ok(batch.sampled(self.cache.get().sampler()))
    }

    /// Notes the `first` slice of a wait, and gives the descriptor: ours for the length of the
    /// slice, also if the ring is closed meanwhile.
    fn begin_wait(&self, first: bool) -> PyResult<Arc<OwnedFd>> {
        let mut state = self.state();
        let socket = state.core().map(|core| {
            if first {
                core.ring.note_wait();
            }
            Arc::clone(core.ring.socket())
        });
        drop(state);
        socket.ok_or_else(closed)
    }
}

#[pymethods]
impl RxRing {
    #[new]
    #[pyo3(signature = (sock, *, slots=Given::default(64), buf_size=Given::default(2048), gro=Given::default(true), copybreak=Given::default(1024), timestamps=Given::default(false), interfaces=Given::default(false), cache=None),
           text_signature = "(sock, *, slots=64, buf_size=2048, gro=True, copybreak=1024, timestamps=False, interfaces=False, cache=None)")]
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keywords"
    )]
    fn new(
        py: Python<'_>,
        sock: Bound<'_, PyAny>,
        #[pyo3(from_py_with = args::slots)] slots: Given<usize>,
        #[pyo3(from_py_with = args::buf_size)] buf_size: Given<usize>,
        gro: Given<bool>,
        #[pyo3(from_py_with = args::copybreak)] copybreak: Given<usize>,
        timestamps: Given<bool>,
        interfaces: Given<bool>,
        cache: Option<Py<PageFragCache>>,
    ) -> PyResult<Self> {
        let options = RxOptions {
            slots: slots.read()?,
            buf_size: buf_size.read()?,
            gro: gro.read()?,
            copybreak: copybreak.read()?,
            timestamps: timestamps.read()?,
            interfaces: interfaces.read()?,
        };
        let own_cache = cache.is_none();
        let cache = cache.map_or_else(
            || Py::new(py, PageFragCache::of(py, None, Granule::Line)?),
            Ok,
        )?;
        let fileno = fileno(&sock)?;
        if fileno < 0 {
            return Err(os(BAD_DESCRIPTOR, "the socket is closed"));
        }
        // SAFETY: not negative, and duplicated before anything else runs that could close it; a
        // number that is not open is answered with EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fileno) };
        let fd = fd.try_clone_to_owned().map_err(|error| from_io(&error))?;
        let ring = net::RxRing::new(Arc::new(fd), cache.get().core.pool(), options)
            .map_err(|error| from_io(&error))?;
        let state = State {
            drain: false,
            last: QueueStats::default(),
            slots: ring.options().slots,
            gro: ring.gro(),
            place: Place::Here(Box::new(Core {
                ring,
                process: process_number(),
            })),
        };
        Ok(Self {
            sock: sock.unbind(),
            fileno,
            cache,
            own_cache,
            state: Mutex::new(state),
            busy: AtomicU64::new(0),
            awaited: Mutex::new(None),
        })
    }

    /// Up to `max` packets; waits for the first one as long as `timeout` seconds, None for ever.
    ///
    /// Of datagrams that the kernel has joined there may be more than `max`. The rest is handed out
    /// by the next calls, before anything else: `pending` tells how many, and a selector does not.
    ///
    /// An empty `Batch` when the time is over, when the socket was shut down, and when everything
    /// that came had to be thrown away (`Batch.discarded`). Other threads run while this one
    /// waits, and signals are handled.
    ///
    /// >>> len(empty_ring.recv(timeout=0))
    /// 0
    #[pyo3(signature = (max=Given::default(64), timeout=Given::default(None)), text_signature = "($self, max=64, timeout=None)")]
    fn recv(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::max)] max: Given<usize>,
        #[pyo3(from_py_with = args::timeout)] timeout: Given<Option<f64>>,
    ) -> PyResult<Batch> {
        let max = max.read()?;
        let deadline = Deadline::of(timeout.read()?)?;
        thread_end::watch(py)?;
        let _turn = self.turn()?;
        let cache = self.cache.get().core.clone();
        let (mut first, mut last) = (true, false);
        loop {
            self.check_open(py)?;
            let batch = self.receive(py, &cache, max)?;
            if last || !batch.is_silent() {
                return Ok(batch);
            }
            let Some(slice) = deadline.slice() else {
                return Ok(batch);
            };
            drop(batch);
            let fd = self.begin_wait(std::mem::take(&mut first))?;
            let answer = py.detach(|| net::wait_readable(fd.as_fd(), Some(slice)));
            last = answer.map_err(|error| from_io(&error))? == Readiness::ShutDown;
            pause(py)?;
        }
    }

    /// Gives back the buffers that wait for packets, and the cache's pages if the cache is the
    /// ring's own. Received fragments stay valid; the next `recv` takes new buffers.
    ///
    /// >>> empty_ring.drain()
    fn drain(&self) {
        let mut state = self.state();
        match state.core() {
            Some(core) => core.ring.drain(),
            None => state.drain = true,
        }
        drop(state);
        if self.own_cache {
            self.cache.get().core.drain();
        }
    }

    /// A `QueueStats` of what the ring has received so far; stays readable after `close`.
    ///
    /// >>> empty_ring.stats().rx_packets
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.state().stats();
        stats::queue(py, &stats)
    }

    /// The socket's descriptor, for selectors; -1 when the ring or the socket is closed.
    ///
    /// >>> empty_ring.fileno() > 0
    /// True
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        // Once the socket is closed the number may be anybody's.
        let now = fileno(self.sock.bind(py))?;
        Ok(if now == self.fileno && !self.state().is_closed() {
            now
        } else {
            -1
        })
    }

    /// Ends receiving and gives back everything. The socket stays open; again does nothing.
    ///
    /// A thread that waits in `recv` gets a `ValueError`.
    ///
    /// >>> empty_ring.close()
    /// >>> empty_ring
    /// <RxRing closed>
    fn close(&self, py: Python<'_>) {
        while self.end() {
            py.detach(|| thread::sleep(MOMENT));
        }
        if self.own_cache {
            self.cache.get().core.drain();
        }
        self.tell_closed(py);
    }

    /// For `pagefrag.aio`: `told` is called when the ring is closed, on the thread that does so;
    /// None ends that. `ContextError` while another one waits to be told.
    #[pyo3(signature = (told))]
    fn _await(&self, told: Option<Py<PyAny>>) -> PyResult<()> {
        let mut awaited = self.awaited();
        let taken = awaited.as_ref();
        if told.is_some() && taken.is_some_and(|(process, _)| *process == process_number()) {
            drop(awaited);
            return Err(out_of_context("another task is waiting for this ring"));
        }
        let before = std::mem::replace(&mut *awaited, told.map(|told| (process_number(), told)));
        // Dropping the one before may run Python code.
        drop(awaited);
        drop(before);
        Ok(())
    }

    /// For `pagefrag.aio`: whether somebody waits to be told.
    #[getter]
    fn _awaited(&self) -> bool {
        let awaited = self.awaited();
        awaited
            .as_ref()
            .is_some_and(|(process, _)| *process == process_number())
    }

    /// Where the fragments come from.
    ///
    /// >>> empty_ring.cache.pool is default_pool()
    /// True
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PageFragCache> {
        self.cache.clone_ref(py)
    }

    /// Packets that were received and wait to be handed out by the next `recv`.
    ///
    /// Nothing may be left to read in the socket then: who watches it with a selector calls `recv`
    /// until this is 0. `recv` itself and `async for` look here first.
    ///
    /// >>> empty_ring.pending
    /// 0
    #[getter]
    fn pending(&self) -> Number {
        let mut state = self.state();
        Number(state.core().map_or(0, |core| core.ring.pending()))
    }

    /// Whether the kernel joins datagrams for this ring.
    ///
    /// >>> empty_ring.gro in (True, False)
    /// True
    #[getter]
    fn gro(&self) -> bool {
        let state = self.state();
        state.gro && !state.is_closed()
    }

    /// The socket may refer to the ring: let the collector see it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.sock)?;
        if let Ok(awaited) = self.awaited.try_lock()
            && let Some((_, told)) = awaited.as_ref()
        {
            visit.call(told)?;
        }
        visit.call(&self.cache)
    }

    /// Batches as they come, for `async for`, until the ring is closed: see `pagefrag.aio`.
    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        made::called(slf.py(), ("pagefrag.aio", "batches"), (slf,))
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().state().is_closed() {
            return Err(closed());
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyAny>) {
        self.close(py);
    }

    /// A picture for notebooks.
    fn _repr_html_(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        made::called(slf.py(), ("pagefrag._html", "rx_ring"), (slf,))
    }

    fn __repr__(&self, py: Python<'_>) -> Text {
        // First: this runs Python code.
        let family = family(self.sock.bind(py));
        let mut state = self.state();
        if state.is_closed() {
            return Text("<RxRing closed>".to_owned());
        }
        let (packets, slots) = (state.stats().rx_packets, state.slots);
        let pending = state.core().map_or(0, |core| core.ring.pending());
        Text(format!(
            "<RxRing fd={} family={family} slots={slots} pending={pending} rx_packets={packets}>",
            self.fileno
        ))
    }
}

impl Drop for RxRing {
    /// A ring that nobody closed warns.
    fn drop(&mut self) {
        if !self.state().is_closed() {
            unclosed::end(|py| self.__repr__(py).0);
        }
    }
}
