//! `RxRing`: datagrams from a socket straight into fragments, many with one system call.
//!
//! A ring works on a descriptor of its own (a duplicate), so that a number which the user closes
//! and the system uses again is never read from; and it looks at the user's socket before each
//! call, so that a closed socket is an error and not silence. The duplicate goes with `close`, and
//! when the socket is found closed, so that the port is free again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagefrag::net::{self, QueueStats, Readiness, RxBatch, RxOptions};
use pagefrag::{Granule, LocalCache};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::args::Whole;
use crate::batch::Batch;
use crate::cache::PageFragCache;
use crate::error::out_of_context;
use crate::{stats, thread_end};

/// How long a wait goes on before it looks for signals, `close` and closed sockets.
const SLICE: Duration = Duration::from_millis(20);

/// `EBADF`, which Linux and the BSDs agree on.
pub(crate) const BAD_DESCRIPTOR: i32 = 9;

/// The core's side of a ring, and what is left of it when it is closed.
struct Core {
    ring: Option<net::RxRing<Arc<OwnedFd>>>,
    /// Storage that each `recv` uses again.
    batch: RxBatch,
    /// The counters of a closed ring.
    last: QueueStats,
}

/// Receives datagrams of a UDP socket into fragments.
///
/// `slots` is how many datagrams one system call can bring, `buf_size` how long each may be (a
/// longer one is cut; `Batch.wire_lengths` tells). With `gro` the kernel may join datagrams of one
/// sender, which the ring takes apart again; it needs a cache whose pages hold 64 KiB. Datagrams
/// up to `copybreak` bytes are moved together so that they do not hold whole buffers. `cache` is
/// where the fragments come from; without one, the ring has its own over the default pool.
///
/// A pool at its limit is no error: what cannot be kept is read, thrown away and counted in
/// `stats().rx_alloc_fail`.
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
    /// Locked while a system call that does not wait is made; no Python code runs under it.
    core: Mutex<Core>,
    /// A thread is in `recv`.
    busy: AtomicBool,
}

/// The right to receive or send; ends when dropped.
pub(crate) struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    /// `None` while somebody else has it.
    pub(crate) fn take(busy: &'a AtomicBool) -> Option<Self> {
        // Acquire: partner of the Release in `Turn::drop`.
        busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Self(busy))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Release: partner of the Acquire in `take`.
        self.0.store(false, Ordering::Release);
    }
}

/// An `OSError` with its number, or `ValueError` for an argument that the core refuses.
pub(crate) fn from_io(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
            PyOSError::new_err((number, text))
        }
        None if error.kind() == io::ErrorKind::InvalidInput => {
            PyValueError::new_err(error.to_string())
        }
        None => error.into(),
    }
}

pub(crate) fn closed() -> PyErr {
    PyValueError::new_err("operation on closed ring")
}

/// The descriptor number of something like a socket; -1 when it is closed.
pub(crate) fn fileno(sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    let Ok(method) = sock.getattr("fileno") else {
        let found = sock.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "expected a socket, not {found}"
        )));
    };
    method.call0()?.extract()
}

/// When a wait ends.
pub(crate) enum Deadline {
    Never,
    At(Instant),
}

impl Deadline {
    pub(crate) fn of(timeout: Option<f64>) -> PyResult<Self> {
        let Some(seconds) = timeout.filter(|seconds| *seconds != f64::INFINITY) else {
            return Ok(Self::Never);
        };
        let wait = Duration::try_from_secs_f64(seconds);
        match wait {
            // Longer than a clock can tell is for ever.
            Ok(wait) => Ok(Instant::now()
                .checked_add(wait)
                .map_or(Self::Never, Self::At)),
            Err(_) if seconds > 0.0 => Ok(Self::Never),
            Err(_) => Err(PyValueError::new_err(
                "timeout must be a number of seconds, not negative",
            )),
        }
    }

    /// How long to wait now; `None` when it is over.
    pub(crate) fn slice(&self) -> Option<Duration> {
        match self {
            Self::Never => Some(SLICE),
            Self::At(end) => {
                let left = end.saturating_duration_since(Instant::now());
                (left > Duration::ZERO).then(|| left.min(SLICE))
            }
        }
    }
}

impl RxRing {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> PyResult<Turn<'_>> {
        Turn::take(&self.busy)
            .ok_or_else(|| out_of_context("another call is receiving on this ring"))
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if fileno(self.sock.bind(py))? != self.fileno {
            // Our duplicate would keep the port.
            self.close();
            return Err(PyOSError::new_err((
                BAD_DESCRIPTOR,
                "the ring's socket is closed",
            )));
        }
        if self.core().ring.is_none() {
            return Err(closed());
        }
        Ok(())
    }

    /// What is there, without waiting; `None` from a closed ring. Runs detached.
    fn receive(&self, cache: &LocalCache, max: usize) -> io::Result<Option<Batch>> {
        let mut core = self.core();
        let Core {
            ring: Some(ring),
            batch,
            ..
        } = &mut *core
        else {
            return Ok(None);
        };
        cache.with(|cache| ring.recv_into(cache, max, batch))?;
        Ok(Some(Batch::of(batch)))
    }

    /// Waits until something is there, with nothing locked. Runs detached.
    fn wait(&self, slice: Duration) -> io::Result<Readiness> {
        let fd = {
            let mut core = self.core();
            let Some(ring) = core.ring.as_mut() else {
                return Ok(Readiness::Interrupted);
            };
            ring.note_wait();
            // Ours for the length of the wait, also if the ring is closed meanwhile.
            Arc::clone(ring.socket())
        };
        net::wait_readable(fd.as_fd(), Some(slice))
    }
}

#[pymethods]
impl RxRing {
    #[new]
    #[pyo3(signature = (sock, *, slots=Whole(64), buf_size=Whole(2048), gro=true, copybreak=Whole(256), cache=None),
           text_signature = "(sock, *, slots=64, buf_size=2048, gro=True, copybreak=256, cache=None)")]
    fn new(
        py: Python<'_>,
        sock: Bound<'_, PyAny>,
        slots: Whole,
        buf_size: Whole,
        gro: bool,
        copybreak: Whole,
        cache: Option<Py<PageFragCache>>,
    ) -> PyResult<Self> {
        let options = RxOptions {
            slots: slots.0,
            buf_size: buf_size.0,
            gro,
            copybreak: copybreak.0,
        };
        let own_cache = cache.is_none();
        let cache = cache.map_or_else(
            || Py::new(py, PageFragCache::of(py, None, Granule::Line)?),
            Ok,
        )?;
        let fileno = fileno(&sock)?;
        if fileno < 0 {
            return Err(PyOSError::new_err((BAD_DESCRIPTOR, "the socket is closed")));
        }
        // SAFETY: not negative, and duplicated before anything else runs that could close it; a
        // number that is not open is answered with EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fileno) };
        let fd = fd.try_clone_to_owned().map_err(from_io)?;
        let ring =
            net::RxRing::new(Arc::new(fd), cache.get().core.pool(), options).map_err(from_io)?;
        let core = Core {
            ring: Some(ring),
            batch: RxBatch::default(),
            last: QueueStats::default(),
        };
        let (sock, core) = (sock.unbind(), Mutex::new(core));
        Ok(Self {
            sock,
            fileno,
            cache,
            own_cache,
            core,
            busy: AtomicBool::new(false),
        })
    }

    /// Up to `max` packets; waits for the first one as long as `timeout` seconds, None for ever.
    ///
    /// An empty `Batch` when the time is over, when the socket was shut down, and when everything
    /// that came had to be thrown away (`Batch.discarded`). Other threads run while this one
    /// waits, and signals are handled.
    ///
    /// >>> len(empty_ring.recv(timeout=0))
    /// 0
    #[pyo3(signature = (max=Whole(64), timeout=None), text_signature = "($self, max=64, timeout=None)")]
    fn recv(&self, py: Python<'_>, max: Whole, timeout: Option<f64>) -> PyResult<Batch> {
        let max = max.0;
        let deadline = Deadline::of(timeout)?;
        thread_end::watch(py)?;
        let _turn = self.turn()?;
        let cache = self.cache.get().core.clone();
        let mut last = false;
        loop {
            self.check_open(py)?;
            let batch = py
                .detach(|| self.receive(&cache, max))
                .map_err(from_io)?
                .ok_or_else(closed)?;
            if last || !batch.is_silent() {
                return Ok(batch);
            }
            let Some(slice) = deadline.slice() else {
                return Ok(batch);
            };
            drop(batch);
            last = py.detach(|| self.wait(slice)).map_err(from_io)? == Readiness::ShutDown;
            py.check_signals()?;
        }
    }

    /// Gives back the buffers that wait for packets, and the cache's pages if the cache is the
    /// ring's own. Received fragments stay valid; the next `recv` takes new buffers.
    ///
    /// >>> empty_ring.drain()
    fn drain(&self) {
        if let Some(ring) = self.core().ring.as_mut() {
            ring.drain();
        }
        if self.own_cache {
            self.cache.get().core.drain();
        }
    }

    /// A `QueueStats` of what the ring has received so far; stays readable after `close`.
    ///
    /// >>> empty_ring.stats().rx_packets
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = {
            let core = self.core();
            core.ring.as_ref().map_or(core.last, net::RxRing::stats)
        };
        stats::queue(py, &stats)
    }

    /// The socket's descriptor, for selectors; -1 after `close`.
    ///
    /// >>> empty_ring.fileno() > 0
    /// True
    fn fileno(&self) -> i32 {
        if self.core().ring.is_some() {
            self.fileno
        } else {
            -1
        }
    }

    /// Ends receiving and gives back everything. The socket stays open; again does nothing.
    ///
    /// A thread that waits in `recv` gets a `ValueError`.
    ///
    /// >>> empty_ring.close()
    /// >>> empty_ring
    /// <RxRing closed>
    fn close(&self) {
        let ring = {
            let mut core = self.core();
            core.last = core.ring.as_ref().map_or(core.last, net::RxRing::stats);
            core.ring.take()
        };
        let Some(ring) = ring else { return };
        drop(ring);
        if self.own_cache {
            self.cache.get().core.drain();
        }
    }

    /// Where the fragments come from.
    ///
    /// >>> empty_ring.cache.pool is default_pool()
    /// True
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PageFragCache> {
        self.cache.clone_ref(py)
    }

    /// Whether the kernel joins datagrams for this ring.
    ///
    /// >>> empty_ring.gro
    /// False
    #[getter]
    fn gro(&self) -> bool {
        self.core().ring.as_ref().is_some_and(net::RxRing::gro)
    }

    /// The socket may refer to the ring: let the collector see it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.sock)?;
        visit.call(&self.cache)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().core().ring.is_none() {
            return Err(closed());
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyAny>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        match core.ring.as_ref() {
            Some(ring) => {
                let (packets, slots) = (ring.stats().rx_packets, ring.options().slots);
                format!(
                    "<RxRing fd={} slots={slots} rx_packets={packets}>",
                    self.fileno
                )
            }
            None => "<RxRing closed>".to_owned(),
        }
    }
}
