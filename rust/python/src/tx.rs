//! `TxRing`: datagrams out of any buffer, many with one system call.
//!
//! What is sent is held, not copied, until the kernel has it. Buffers that it has are dropped at
//! the end of a call, with no lock held, because that may run Python code. As in `ring.rs` the
//! ring works on a duplicate of the descriptor and looks at the user's socket before each call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;
use std::vec::IntoIter;

use pagefrag::net::{self, Completion, Source, TxOptions, TxStats};
use pyo3::exceptions::{PyOSError, PyResourceWarning};
use pyo3::ffi::PyObject_CheckBuffer;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::args::Whole;
use crate::destination::destinations;
use crate::error::{out_of_context, unsent};
use crate::held::Held;
use crate::ring::{BAD_DESCRIPTOR, Deadline, Turn, closed, fileno, from_io};
use crate::stats;

/// How long to sleep when the kernel says there is room and then has none.
const PAUSE: Duration = Duration::from_millis(1);

type Ring = net::TxRing<Arc<OwnedFd>, Held>;
type Waiting = IntoIter<(Held, Option<Source>)>;

/// The core's side of a ring, and what is left of it when it is closed.
struct Core {
    ring: Option<Ring>,
    /// The counters of a closed ring.
    last: TxStats,
    /// Who queued what is queued.
    process: u32,
}

impl Core {
    /// In a forked child: takes out what the parent has queued, which the parent sends.
    fn disown(&mut self) -> Vec<Held> {
        let process = std::process::id();
        match self.ring.as_mut() {
            Some(ring) if process != self.process => {
                self.process = process;
                ring.cancel()
            }
            _ => Vec::new(),
        }
    }
}

/// How a ring stands after it was asked to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The socket sends nothing more.
    Broken,
    Closed,
}

/// What one call has brought about so far.
#[derive(Default)]
struct Report {
    /// The number of the first datagram of this call.
    first: u64,
    /// Datagrams of this call that the ring has taken.
    accepted: usize,
    /// Buffers to be dropped when the call is over.
    gone: Vec<Held>,
    failed: Vec<(u64, io::Error)>,
    /// An error of the socket, or one about datagrams that were sent earlier.
    error: Option<io::Error>,
    /// Datagrams that wait for the kernel.
    queued: usize,
}

impl Report {
    fn note(&mut self, done: Completion<Held>) {
        self.gone.push(done.buffer);
        if let Err(error) = done.result {
            self.failed.push((done.number, error));
        }
    }

    /// A number that grows when something happens.
    fn progress(&self) -> usize {
        self.accepted + self.gone.len()
    }

    /// Raises what has to be told.
    fn finish(self, py: Python<'_>) -> PyResult<()> {
        if self.failed.is_empty() && self.error.is_none() {
            return Ok(());
        }
        // Numbers count up slowly from 0; those of earlier calls become negative.
        let index = |number: u64| number.wrapping_sub(self.first).cast_signed();
        let failed = self.failed.into_iter();
        let failed = failed.map(|(number, error)| (index(number), error));
        let failed: Vec<_> = failed.collect();
        Err(unsent(py, self.accepted, &failed, self.error.as_ref()))
    }
}

/// Sends datagrams over a UDP socket, many with one system call, from where they lie.
///
/// `slots` is how many datagrams can wait in the ring. With `gso` the kernel cuts runs of
/// datagrams to one destination, all of one size but the last, out of one message; where it
/// refuses, the ring goes on without.
///
/// Fragments, `SkBuff` and all other buffers are held until the kernel has them: until then
/// `release()` is a `BufferError`, and what is written to them may still be sent. A datagram is
/// sent once or told in a `SendError`; leaving a `with` block waits until all are sent. A forked
/// child gives up what its parent has queued, which the parent sends.
///
/// >>> import socket
/// >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> receiver.bind(('127.0.0.1', 0))
/// >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> with TxRing(sender) as ring:
/// ...     ring.send([b'one', netdev_alloc_frag(64)], to=receiver.getsockname())
/// 2
/// >>> receiver.recv(100)
/// b'one'
/// >>> receiver.close(); sender.close()
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct TxRing {
    sock: Py<PyAny>,
    fileno: i32,
    /// Locked while system calls that do not wait are made; no Python code runs under it.
    core: Mutex<Core>,
    /// A thread is in `send` or `flush`.
    busy: AtomicU32,
}

/// Holds one buffer, or each of several.
fn held(buffers: &Bound<'_, PyAny>) -> PyResult<Vec<Held>> {
    // SAFETY: attached, and a living object.
    if unsafe { PyObject_CheckBuffer(buffers.as_ptr()) } != 0 {
        return Ok(vec![Held::of(buffers)?]);
    }
    let mut held = Vec::with_capacity(buffers.len().unwrap_or(0));
    for buffer in buffers.try_iter()? {
        held.push(Held::of(&buffer?)?);
    }
    Ok(held)
}

impl TxRing {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> PyResult<Turn<'_>> {
        Turn::take(&self.busy).ok_or_else(|| out_of_context("another call is sending on this ring"))
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if fileno(self.sock.bind(py))? != self.fileno {
            // Our duplicate would keep the port.
            self.close(py);
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

    /// Queues and sends what goes without waiting. Runs detached.
    fn pass(&self, waiting: &mut Waiting, report: &mut Report) -> State {
        let mut core = self.core();
        report.gone.append(&mut core.disown());
        let Some(ring) = core.ring.as_mut() else {
            return State::Closed;
        };
        loop {
            while !ring.is_full()
                && let Some((held, to)) = waiting.next()
            {
                report.accepted += usize::from(ring.push(held, to).is_ok());
            }
            let flushed = ring.flush_with(|done| report.note(done));
            report.queued = ring.queued();
            match flushed {
                Ok(flushed) => report.error = flushed.notice.or(report.error.take()),
                Err(error) => {
                    report.error = Some(error);
                    return State::Broken;
                }
            }
            if ring.is_full() || waiting.as_slice().is_empty() {
                return State::Open;
            }
        }
    }

    /// Passes until `enough`, or until the time is over.
    fn pass_until(
        &self,
        py: Python<'_>,
        deadline: &Deadline,
        waiting: &mut Waiting,
        report: &mut Report,
        enough: impl Fn(&Waiting, &Report) -> bool,
    ) -> PyResult<()> {
        let _turn = self.turn()?;
        report.first = self.core().ring.as_ref().map_or(0, Ring::pushed);
        loop {
            self.check_open(py)?;
            let before = report.progress();
            let state = py.detach(|| self.pass(waiting, report));
            if state == State::Closed {
                return Err(closed());
            }
            if state == State::Broken || enough(waiting, report) {
                return Ok(());
            }
            let Some(slice) = deadline.slice() else {
                return Ok(());
            };
            let stalled = report.progress() == before;
            py.detach(|| self.wait(slice, stalled)).map_err(from_io)?;
            py.check_signals()?;
        }
    }

    /// Waits until there is room, with nothing locked. Runs detached.
    fn wait(&self, slice: Duration, stalled: bool) -> io::Result<()> {
        let fd = {
            let mut core = self.core();
            let Some(ring) = core.ring.as_mut() else {
                return Ok(());
            };
            ring.note_wait();
            // Ours for the length of the wait, also if the ring is closed meanwhile.
            Arc::clone(ring.socket())
        };
        if stalled {
            sleep(PAUSE.min(slice));
        }
        net::wait_writable(fd.as_fd(), Some(slice)).map(drop)
    }

    /// Sends what goes at once and takes the ring out; it, and what it could not send.
    fn shut(&self) -> Option<(Ring, Vec<Held>, Vec<Held>)> {
        let mut core = self.core();
        let mut gone = core.disown();
        let mut ring = core.ring.take()?;
        // What an error leaves behind is cancelled, and so counted.
        let _ = ring.flush_with(|done| gone.push(done.buffer));
        let cancelled = ring.cancel();
        core.last = ring.stats();
        Some((ring, gone, cancelled))
    }
}

#[pymethods]
impl TxRing {
    #[new]
    #[pyo3(signature = (sock, *, slots=Whole(64), gso=true), text_signature = "(sock, *, slots=64, gso=True)")]
    fn new(sock: Bound<'_, PyAny>, slots: Whole, gso: bool) -> PyResult<Self> {
        let fileno = fileno(&sock)?;
        if fileno < 0 {
            return Err(PyOSError::new_err((BAD_DESCRIPTOR, "the socket is closed")));
        }
        // SAFETY: not negative, and duplicated before anything else runs that could close it; a
        // number that is not open is answered with EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fileno) };
        let fd = fd.try_clone_to_owned().map_err(from_io)?;
        let slots = slots.0;
        let ring = net::TxRing::new(Arc::new(fd), TxOptions { slots, gso }).map_err(from_io)?;
        Ok(Self {
            sock: sock.unbind(),
            fileno,
            core: Mutex::new(Core {
                ring: Some(ring),
                last: TxStats::default(),
                process: std::process::id(),
            }),
            busy: AtomicU32::new(0),
        })
    }

    /// Sends each buffer as one datagram; how many of them the ring has taken.
    ///
    /// `buffers` is one buffer or any number of them; `to` is an address, an address (or None) for
    /// each, or None for where the socket is connected. What the kernel has no room for waits in
    /// the ring; when all slots are taken, `send` waits as long as `timeout` seconds, None for
    /// ever. When the time is over fewer than all were taken: the first ones.
    ///
    /// `SendError` tells what was not sent, after everything else was; the others must not be sent
    /// again.
    ///
    /// >>> tx_ring.send([b'ping', b''])
    /// 2
    /// >>> tx_ring.send(b'ping', to=('127.0.0.1', 9))
    /// 1
    #[pyo3(signature = (buffers, to=None, timeout=None))]
    fn send(
        &self,
        py: Python<'_>,
        buffers: &Bound<'_, PyAny>,
        to: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let deadline = Deadline::of(timeout)?;
        let held = held(buffers)?;
        let to = destinations(self.sock.bind(py), to, held.len())?;
        // Made here, so that it is dropped when the turn is over.
        let mut report = Report {
            gone: Vec::with_capacity(held.len()),
            ..Report::default()
        };
        let datagrams: Vec<_> = held.into_iter().zip(to).collect();
        let mut waiting = datagrams.into_iter();
        self.pass_until(py, &deadline, &mut waiting, &mut report, |waiting, _| {
            waiting.as_slice().is_empty()
        })?;
        let accepted = report.accepted;
        report.finish(py)?;
        Ok(accepted)
    }

    /// Waits until the kernel has everything, as long as `timeout` seconds, None for ever; how
    /// many datagrams still wait.
    ///
    /// `SendError` as from `send`, with negative indices: -1 is the datagram queued last.
    ///
    /// >>> tx_ring.flush()
    /// 0
    #[pyo3(signature = (timeout=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<usize> {
        let deadline = Deadline::of(timeout)?;
        let mut report = Report::default();
        let mut nothing = Vec::new().into_iter();
        self.pass_until(py, &deadline, &mut nothing, &mut report, |_, report| {
            report.queued == 0
        })?;
        let queued = report.queued;
        report.finish(py)?;
        Ok(queued)
    }

    /// A `TxStats` of what the ring has sent so far; stays readable after `close`.
    ///
    /// >>> tx_ring.stats().tx_packets
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = {
            let core = self.core();
            core.ring.as_ref().map_or(core.last, Ring::stats)
        };
        stats::transmit(py, &stats)
    }

    /// The socket's descriptor, for selectors; -1 after `close`.
    ///
    /// >>> tx_ring.fileno() > 0
    /// True
    fn fileno(&self) -> i32 {
        if self.core().ring.is_some() {
            self.fileno
        } else {
            -1
        }
    }

    /// Sends what goes without waiting and gives up the rest; how many that were.
    ///
    /// They are counted in `stats().tx_hw_drops`; `flush` first to wait for them. The socket stays
    /// open; again does nothing.
    ///
    /// >>> tx_ring.close()
    /// 0
    /// >>> tx_ring
    /// <TxRing closed>
    fn close(&self, py: Python<'_>) -> usize {
        let shut = py.detach(|| self.shut());
        shut.map_or(0, |(_, _, cancelled)| cancelled.len())
    }

    /// Datagrams that wait for the kernel.
    ///
    /// >>> tx_ring.queued
    /// 0
    #[getter]
    fn queued(&self) -> usize {
        self.core().ring.as_ref().map_or(0, Ring::queued)
    }

    /// Whether the kernel cuts datagrams for this ring; False from when it has refused.
    ///
    /// >>> TxRing(sender, gso=False).gso
    /// False
    #[getter]
    fn gso(&self) -> bool {
        self.core().ring.as_ref().is_some_and(Ring::gso)
    }

    /// The socket may refer to the ring: let the collector see it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.sock)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().core().ring.is_none() {
            return Err(closed());
        }
        Ok(slf)
    }

    #[pyo3(signature = (*args))]
    fn __exit__(&self, py: Python<'_>, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_clean = args.get_item(0).is_ok_and(|kind| kind.is_none());
        let flushed = if is_clean && self.core().ring.is_some() {
            self.flush(py, None).map(drop)
        } else {
            Ok(())
        };
        self.close(py);
        flushed
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        match core.ring.as_ref() {
            Some(ring) => {
                let (packets, queued) = (ring.stats().tx_packets, ring.queued());
                let slots = ring.options().slots;
                format!(
                    "<TxRing fd={} slots={slots} queued={queued} tx_packets={packets}>",
                    self.fileno
                )
            }
            None => "<TxRing closed>".to_owned(),
        }
    }
}

impl Drop for TxRing {
    /// A ring that nobody closed sends what goes, and warns about the rest.
    fn drop(&mut self) {
        let Some((_ring, _gone, cancelled)) = self.shut() else {
            return;
        };
        if cancelled.is_empty() {
            return;
        }
        let text = format!(
            "{} datagrams of an unclosed TxRing were not sent",
            cancelled.len()
        );
        let text = std::ffi::CString::new(text).unwrap_or_default();
        Python::attach(|py| {
            let kind = py.get_type::<PyResourceWarning>();
            if let Err(error) = PyErr::warn(py, &kind, &text, 1) {
                error.write_unraisable(py, None);
            }
        });
    }
}
