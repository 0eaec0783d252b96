//! `TxRing`: datagrams out of any buffer, many with one system call.
//!
//! What is sent is held, not copied, until the kernel has it. Buffers that it has are dropped at
//! the end of a call, with no lock held, because that may run Python code. As in `ring.rs` the
//! ring works on a duplicate of the descriptor and looks at the user's socket before each call;
//! and as there the one lock is held only while attached, and whoever makes system calls has
//! taken the core out, so that a fork finds the lock free.

mod report;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;
use std::vec::IntoIter;

use pagefrag::net::{self, Source, TxOptions, TxStats};
use pagefrag::process_number;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use self::report::Report;
use crate::args::{self, Given};
use crate::deadline::Deadline;
use crate::destination::destinations;
use crate::error::{from_io, os, out_of_context};
use crate::held::Held;
use crate::made::{Number, Text};
use crate::pause::pause;
use crate::ring::{MOMENT, closed};
use crate::sock::{BAD_DESCRIPTOR, family, fileno};
use crate::turn::Turn;
use crate::{stats, unclosed};

/// How long to sleep when the kernel says there is room and then has none.
const PAUSE: Duration = Duration::from_millis(1);

type Waiting = IntoIter<(Held, Option<Source>)>;

/// The core's side of a ring.
struct Core {
    ring: net::TxRing<Arc<OwnedFd>, Held>,
    /// Who queued what is queued.
    process: u64,
}

impl Core {
    /// In a forked child: takes out what the parent has queued, which the parent sends.
    fn disown(&mut self) -> Vec<Held> {
        let process = process_number();
        if process == self.process {
            return Vec::new();
        }
        self.process = process;
        self.ring.cancel()
    }

    /// Queues and sends what goes without waiting; whether the socket sends anything more. Runs
    /// detached.
    fn pass(&mut self, waiting: &mut Waiting, report: &mut Report) -> bool {
        report.gone.append(&mut self.disown());
        report.first.get_or_insert(self.ring.pushed());
        loop {
            while !self.ring.is_full()
                && let Some((held, to)) = waiting.next()
            {
                report.accepted += usize::from(self.ring.push(held, to).is_ok());
            }
            let flushed = self.ring.flush_with(|done| report.note(done));
            report.queued = self.ring.queued();
            match flushed {
                Ok(flushed) => report.error = flushed.notice.or(report.error.take()),
                Err(error) => {
                    report.error = Some(error);
                    return false;
                }
            }
            if self.ring.is_full() || waiting.as_slice().is_empty() {
                return true;
            }
        }
    }

    /// Sends what goes at once; the buffers, to be dropped attached, and how many were not sent.
    /// Runs detached.
    fn finish(&mut self) -> (Vec<Held>, usize) {
        let mut gone = self.disown();
        let mut unsent = 0;
        // An error of the socket leaves the rest in the ring: cancelled, and so counted.
        let _ = self.ring.flush_with(|done| {
            unsent += usize::from(done.result.is_err());
            gone.push(done.buffer);
        });
        let cancelled = self.ring.cancel();
        unsent += cancelled.len();
        gone.extend(cancelled);
        (gone, unsent)
    }

    fn seen(&self) -> Seen {
        Seen {
            stats: self.ring.stats(),
            queued: self.ring.queued(),
            gso: self.ring.gso(),
        }
    }
}

/// What can be asked of a ring at any time.
#[derive(Clone, Copy, Default)]
struct Seen {
    stats: TxStats,
    queued: usize,
    gso: bool,
}

/// Where the core is.
enum Place {
    Here(Box<Core>),
    /// In a call of this process, for system calls that do not wait.
    Out(u64),
    Closed,
}

/// What changes in a ring.
struct State {
    place: Place,
    /// Somebody wants to close: when the core is here again it is theirs.
    closing: bool,
    /// How it was when the core was last here.
    seen: Seen,
}

impl State {
    /// Closed, or lost to a thread that a fork left behind.
    fn is_closed(&self) -> bool {
        match self.place {
            Place::Here(_) => self.closing,
            Place::Out(process) => self.closing || process != process_number(),
            Place::Closed => true,
        }
    }

    fn seen(&mut self) -> Seen {
        if let Place::Here(core) = &self.place {
            self.seen = core.seen();
        }
        self.seen
    }
}

/// A core that is out; goes back when dropped, which is done attached.
struct Taken<'a> {
    home: &'a TxRing,
    core: Option<Box<Core>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            self.home.state().place = Place::Here(core);
        }
    }
}

/// What a close found.
enum Found {
    Core(Box<Core>),
    /// A call of this process has it, for a moment only.
    Busy,
    Nothing,
}

/// Sends datagrams over a UDP socket (or a connected UNIX one), many with one system call, from
/// where they lie.
///
/// `slots` is how many datagrams can wait in the ring. With `gso` the kernel cuts runs of
/// datagrams to one destination, all of one size but the last, out of one message; where it
/// refuses, the ring goes on without.
///
/// Fragments, `SkBuff` and all other buffers are held until the kernel has them: until then
/// `release()` is a `BufferError`, and what is written to them may still be sent. Packets of a
/// `Batch` are shared: `release()` gives back all but those. A datagram is
/// sent once or told in a `SendError`; leaving a `with` block waits until all are sent, leaving it
/// by an exception does not. A forked child gives up what its parent has queued, which the parent
/// sends; if another thread was in a system call of the ring in the very moment of the fork, the
/// ring is closed there.
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
    slots: usize,
    /// Locked only while attached; no Python code runs under it.
    state: Mutex<State>,
    /// The process of the thread that is in `send` or `flush`; 0: none is.
    busy: AtomicU64,
}

impl TxRing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> PyResult<Turn<'_>> {
        Turn::take(&self.busy, process_number())
            .ok_or_else(|| out_of_context("another call is sending on this ring"))
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if fileno(self.sock.bind(py))? != self.fileno {
            // Our duplicate would keep the port.
            self.shut(py);
            return Err(os(BAD_DESCRIPTOR, "the ring's socket is closed"));
        }
        Ok(())
    }

    /// Takes the core out of an open ring. Only by whose turn it is.
    fn take_out(&self) -> PyResult<Taken<'_>> {
        let mut state = self.state();
        if state.is_closed() {
            // First: making an exception can run Python code.
            drop(state);
            return Err(closed());
        }
        state.seen();
        let place = std::mem::replace(&mut state.place, Place::Out(process_number()));
        let Place::Here(core) = place else {
            state.place = place;
            drop(state);
            return Err(out_of_context("another call is sending on this ring"));
        };
        Ok(Taken {
            home: self,
            core: Some(core),
        })
    }

    /// Queues and sends what goes without waiting; whether the socket sends anything more.
    fn pass(&self, py: Python<'_>, waiting: &mut Waiting, report: &mut Report) -> PyResult<bool> {
        let mut taken = self.take_out()?;
        let core = taken.core.as_mut().ok_or_else(closed)?;
        Ok(py.detach(|| core.pass(waiting, report)))
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
        let mut first = true;
        loop {
            self.check_open(py)?;
            let before = report.progress();
            let more = self.pass(py, waiting, report)?;
            if !more || enough(waiting, report) {
                return Ok(());
            }
            let Some(slice) = deadline.slice() else {
                return Ok(());
            };
            let stalled = report.progress() == before;
            let fd = self.begin_wait(std::mem::take(&mut first))?;
            let waited = py.detach(|| {
                if stalled {
                    sleep(PAUSE.min(slice));
                }
                net::wait_writable(fd.as_fd(), Some(slice))
            });
            waited.map_err(|error| from_io(&error))?;
            pause(py)?;
        }
    }

    /// Notes the `first` slice of a wait, and gives the descriptor: ours for the length of the
    /// slice, also if the ring is closed meanwhile.
    fn begin_wait(&self, first: bool) -> PyResult<Arc<OwnedFd>> {
        let mut state = self.state();
        let socket = match &mut state.place {
            Place::Here(core) => {
                if first {
                    core.ring.note_wait();
                }
                Some(Arc::clone(core.ring.socket()))
            }
            Place::Out(_) | Place::Closed => None,
        };
        drop(state);
        socket.ok_or_else(closed)
    }

    /// The core, for good.
    fn withdraw(&self) -> Found {
        let mut state = self.state();
        match std::mem::replace(&mut state.place, Place::Closed) {
            Place::Here(core) => Found::Core(core),
            Place::Out(whose) if whose == process_number() => {
                state.place = Place::Out(whose);
                state.closing = true;
                Found::Busy
            }
            Place::Out(_) | Place::Closed => Found::Nothing,
        }
    }

    /// Sends what goes at once and closes; how many were not sent.
    fn shut(&self, py: Python<'_>) -> usize {
        let mut core = loop {
            match self.withdraw() {
                Found::Core(core) => break core,
                Found::Busy => py.detach(|| sleep(MOMENT)),
                Found::Nothing => return 0,
            }
        };
        let (gone, unsent) = py.detach(|| core.finish());
        self.state().seen = Seen {
            gso: false,
            ..core.seen()
        };
        // The port first, and then what may run Python code.
        drop(core);
        drop(gone);
        unsent
    }
}

#[pymethods]
impl TxRing {
    #[new]
    #[pyo3(signature = (sock, *, slots=Given::default(64), gso=Given::default(true)), text_signature = "(sock, *, slots=64, gso=True)")]
    fn new(
        sock: Bound<'_, PyAny>,
        #[pyo3(from_py_with = args::slots)] slots: Given<usize>,
        gso: Given<bool>,
    ) -> PyResult<Self> {
        let (slots, gso) = (slots.read()?, gso.read()?);
        let fileno = fileno(&sock)?;
        if fileno < 0 {
            return Err(os(BAD_DESCRIPTOR, "the socket is closed"));
        }
        // SAFETY: not negative, and duplicated before anything else runs that could close it; a
        // number that is not open is answered with EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fileno) };
        let fd = fd.try_clone_to_owned().map_err(|error| from_io(&error))?;
        let ring = net::TxRing::new(Arc::new(fd), TxOptions { slots, gso });
        let ring = ring.map_err(|error| from_io(&error))?;
        let core = Core {
            ring,
            process: process_number(),
        };
        Ok(Self {
            sock: sock.unbind(),
            fileno,
            slots,
            state: Mutex::new(State {
                seen: core.seen(),
                place: Place::Here(Box::new(core)),
                closing: false,
            }),
            busy: AtomicU64::new(0),
        })
    }

    /// Sends each buffer as one datagram; how many of them the ring has taken.
    ///
    /// `buffers` is one buffer or any number of them, or a `Batch`, whose packets go without a
    /// Python object for each; `to` is an address, an address (or None) for each, None for where
    /// the socket is connected, or a `Batch`: back to who sent its packets. What the kernel has no
    /// room for waits in the ring; when all slots are taken, `send` waits as long as `timeout`
    /// seconds, None for ever. When the time is over fewer than all were taken: the first ones.
    ///
    /// `SendError` tells what was not sent, after everything else was; the others must not be sent
    /// again. An exception that ends the wait (Ctrl-C, a closed ring or socket) has a `SendError`
    /// as its `__context__`: the first `accepted` are sent or in the ring, but for `failed`.
    ///
    /// >>> tx_ring.send([b'ping', b''])
    /// 2
    /// >>> tx_ring.send(b'ping', to=('127.0.0.1', 9))
    /// 1
    #[pyo3(signature = (buffers, to=None, timeout=Given::default(None)), text_signature = "($self, buffers, to=None, timeout=None)")]
    fn send(
        &self,
        py: Python<'_>,
        buffers: &Bound<'_, PyAny>,
        to: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::timeout)] timeout: Given<Option<f64>>,
    ) -> PyResult<Number> {
        let deadline = Deadline::of(timeout.read()?)?;
        let held = Held::all(buffers)?;
        let to = destinations(self.sock.bind(py), to, held.len())?;
        // Made here, so that it is dropped when the turn is over.
        let mut report = Report::of(held.len());
        let datagrams: Vec<_> = held.into_iter().zip(to).collect();
        let mut waiting = datagrams.into_iter();
        let all = |waiting: &Waiting, _: &Report| waiting.as_slice().is_empty();
        self.pass_until(py, &deadline, &mut waiting, &mut report, all)
            .map_err(|error| report.interrupted(py, error))?;
        report.finish(py)?;
        Ok(Number(report.accepted))
    }

    /// Waits until the kernel has everything, as long as `timeout` seconds, None for ever; how
    /// many datagrams still wait.
    ///
    /// `SendError` as from `send`, with negative indices: -1 is the datagram queued last.
    ///
    /// >>> tx_ring.flush()
    /// 0
    #[pyo3(signature = (timeout=Given::default(None)), text_signature = "($self, timeout=None)")]
    fn flush(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::timeout)] timeout: Given<Option<f64>>,
    ) -> PyResult<Number> {
        let deadline = Deadline::of(timeout.read()?)?;
        let mut report = Report::default();
        let mut nothing = Vec::new().into_iter();
        let all = |_: &Waiting, report: &Report| report.queued == 0;
        self.pass_until(py, &deadline, &mut nothing, &mut report, all)
            .map_err(|error| report.interrupted(py, error))?;
        report.finish(py)?;
        Ok(Number(report.queued))
    }

    /// A `TxStats` of what the ring has sent so far; stays readable after `close`.
    ///
    /// >>> tx_ring.stats().tx_packets
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.state().seen().stats;
        stats::transmit(py, &stats)
    }

    /// The socket's descriptor, for selectors; -1 when the ring or the socket is closed.
    ///
    /// >>> tx_ring.fileno() > 0
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

    /// Sends what goes without waiting and gives up the rest; how many that were.
    ///
    /// They are counted in `stats().tx_hw_drops`; `flush` first to wait for them. The socket stays
    /// open; again does nothing. A thread that waits in `send` or `flush` gets a `ValueError`.
    ///
    /// >>> tx_ring.close()
    /// 0
    /// >>> tx_ring
    /// <TxRing closed>
    fn close(&self, py: Python<'_>) -> Number {
        Number(self.shut(py))
    }

    /// Datagrams that wait for the kernel.
    ///
    /// >>> tx_ring.queued
    /// 0
    #[getter]
    fn queued(&self) -> Number {
        Number(self.state().seen().queued)
    }

    /// Whether the kernel cuts datagrams for this ring; False from when it has refused, and while
    /// the socket's `IP_RECVERR` is on: then an error does not say that nothing went.
    ///
    /// >>> with TxRing(sender, gso=False) as ring:
    /// ...     ring.gso
    /// False
    #[getter]
    fn gso(&self) -> bool {
        let mut state = self.state();
        !state.is_closed() && state.seen().gso
    }

    /// The socket may refer to the ring: let the collector see it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.sock)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().state().is_closed() {
            return Err(closed());
        }
        Ok(slf)
    }

    #[pyo3(signature = (*args))]
    fn __exit__(&self, py: Python<'_>, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_clean = args.get_item(0).is_ok_and(|kind| kind.is_none());
        let flushed = if is_clean && !self.state().is_closed() {
            self.flush(py, Given::default(None)).map(drop)
        } else {
            Ok(())
        };
        self.shut(py);
        flushed
    }

    fn __repr__(&self, py: Python<'_>) -> Text {
        // First: this runs Python code.
        let family = family(self.sock.bind(py));
        let mut state = self.state();
        if state.is_closed() {
            return Text("<TxRing closed>".to_owned());
        }
        let Seen { stats, queued, .. } = state.seen();
        let (fd, slots, packets) = (self.fileno, self.slots, stats.tx_packets);
        Text(format!(
            "<TxRing fd={fd} family={family} slots={slots} queued={queued} tx_packets={packets}>"
        ))
    }
}

impl Drop for TxRing {
    /// A ring that nobody closed sends what goes, and warns.
    fn drop(&mut self) {
        if self.state().is_closed() {
            return;
        }
        unclosed::end(|py| {
            let ring = self.__repr__(py).0;
            match self.shut(py) {
                0 => ring,
                unsent => format!("{ring}: {unsent} datagrams were not sent"),
            }
        });
    }
}
