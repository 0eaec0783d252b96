//! A transmit ring: datagrams that wait for the kernel, and how they leave.
//!
//! Buffers are pushed with a destination and lie in a queue of `slots`
//! descriptors. A flush offers all of them with one `sendmmsg`; neighbours of one
//! destination and one size go as one message which the kernel cuts (GSO):
//!
//! ```text
//!   queue     [1200 a][1200 a][1200 a][300 a][300 b][64 b] ... up to `slots`
//!   messages  <--------- cut at 1200 -------><-cut at 300->
//! ```
//!
//! A buffer leaves the queue in one of two ways, and its [`Completion`] says
//! which: the kernel took the datagram, once; or the kernel refuses it for good,
//! and then it was not sent. Everything else stays queued in order.
//!
//! Errors of UDP are of two kinds that look alike: about this datagram, or about
//! an earlier one of which the network has told meanwhile (`ECONNREFUSED`). The
//! second kind is told once. So the ring tries a datagram again, alone, and
//! believes only an error that stays.
//!
//! That is right as long as an error means that nothing went. With `IP_RECVERR`,
//! kernels older than a correction of `__dev_queue_xmit` ("TCP expects error to
//! mean none of the data was sent"; 6.18 has it) tell `ENOBUFS` of a message that
//! was cut when the device had no room for its last datagram, though others have
//! gone. So as long as that option is on, the ring has nothing cut.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::net::addr::Source;
use crate::net::payload::Payload;
use crate::net::queue::TxStats;
use crate::net::socket::{self, Fault, Kind, MAX_MESSAGES, MAX_PIECES, Outgoing, Readiness};

/// Segments of one message at most (`UDP_MAX_SEGMENTS` of every kernel that has it).
const MAX_SEGMENTS: usize = 64;
/// Payload of one message at most: 65,535 less the headers of IPv4 and UDP.
const MAX_RUN: usize = 65_507;
/// A destination that the kernel refuses (`EINVAL`), whatever the socket.
const NOWHERE: [u8; 2] = [0; 2];
/// Times a datagram is tried before its error is believed. Errors of earlier
/// datagrams come one at a time, and each may hide the next.
const TRIES: u32 = 4;

/// How a ring sends.
///
/// # Examples
/// ```
/// let options = pagefrag::net::TxOptions {
///     slots: 256,
///     ..Default::default()
/// };
/// assert!(options.gso);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxOptions {
    /// Datagrams that wait at most: 1 to 1024.
    pub slots: usize,
    /// Let the kernel cut runs of datagrams out of one message (`UDP_SEGMENT`).
    pub gso: bool,
}

impl Default for TxOptions {
    fn default() -> Self {
        Self {
            slots: 64,
            gso: true,
        }
    }
}

/// A buffer that has left the queue.
#[derive(Debug)]
pub struct Completion<B> {
    /// The buffer, to be used again or dropped.
    pub buffer: B,
    /// What [`TxRing::push`] answered for it.
    pub number: u64,
    /// `Ok`: the kernel has taken the datagram. `Err`: it refuses it; it was not
    /// sent.
    pub result: io::Result<()>,
}

/// What a flush came to.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Flushed {
    /// Datagrams that the kernel has taken.
    pub sent: usize,
    /// Datagrams that it refuses.
    pub failed: usize,
    /// An error that was told about datagrams sent earlier, such as
    /// `ECONNREFUSED` from a connected socket whose peer is gone. The kernel keeps
    /// one at a time: of several, one is told.
    pub notice: Option<io::Error>,
}

#[derive(Debug)]
struct Entry<B> {
    buffer: B,
    len: usize,
    pieces: usize,
    to: Option<Source>,
    number: u64,
}

/// Consecutive datagrams that go as one message.
#[derive(Clone, Copy, Debug)]
struct Run {
    datagrams: usize,
    bytes: usize,
    pieces: usize,
    /// Bytes of each datagram but the last.
    segment: usize,
}

impl Run {
    fn of<B>(first: &Entry<B>) -> Self {
        Self {
            datagrams: 1,
            bytes: first.len,
            pieces: first.pieces,
            segment: first.len,
        }
    }

    /// Does the datagram fit behind the run? Only if all before it are whole
    /// segments; an empty one would vanish.
    fn fits<B>(&self, next: &Entry<B>, most_bytes: usize) -> bool {
        self.bytes == self.segment * self.datagrams
            && (1..=self.segment).contains(&next.len)
            && self.datagrams < MAX_SEGMENTS
            && self.bytes + next.len <= most_bytes
            && self.pieces + next.pieces <= MAX_PIECES
    }

    fn add<B>(&mut self, next: &Entry<B>) {
        self.datagrams += 1;
        self.bytes += next.len;
        self.pieces += next.pieces;
    }
}

/// Which runs may be cut: those that the kernel has not refused so far.
#[derive(Clone, Copy, Debug)]
struct Segmenting {
    /// Not as long as an error may mean that a part has gone.
    is_safe: bool,
    /// Bytes of a segment at most; 0 is off.
    most_segment: usize,
    /// Bytes of a message at most.
    most_bytes: usize,
}

impl Segmenting {
    /// Remembers that `run` was refused although its first datagram went alone.
    fn learn(&mut self, fault: Fault, run: Run) {
        match fault {
            Fault::Segments => self.most_segment = 0,
            // Above what a packet of the device holds, most likely.
            Fault::Size => self.most_segment = run.segment - 1,
            Fault::NoMemory => self.most_bytes = run.bytes / 2,
            _ => {}
        }
    }
}

/// What is known about the oldest datagram, which the kernel has refused.
#[derive(Debug, Default)]
struct Trouble {
    tries: u32,
    /// The run it was in when the refusal came.
    suspect: Option<(Fault, Run)>,
    /// The first error, which may be about an earlier datagram: the one that is
    /// told once, if there is one.
    heard: Option<io::Error>,
}

impl Trouble {
    fn hear(&mut self, error: io::Error) {
        self.heard.get_or_insert(error);
    }
}

/// A transmit ring over a UDP socket, or over a UNIX one of datagrams that is
/// connected (a destination is refused there).
///
/// `S` is who owns the socket: a `UdpSocket`, a reference to one, an `OwnedFd`;
/// `B` what is sent. Nothing here waits but [`wait`](Self::wait), and no heap
/// call is made once the arrays have grown to what the buffers need.
///
/// A forked child has a copy of the queue: it calls [`cancel`](Self::cancel) before it
/// goes on, or datagrams go twice.
///
/// A socket on which the user has set `UDP_SEGMENT` cuts single datagrams above
/// that size, as it does without a ring.
///
/// # Examples
/// ```
/// use pagefrag::PagePool;
/// use pagefrag::net::{TxOptions, TxRing};
/// use std::net::UdpSocket;
///
/// let receiver = UdpSocket::bind("127.0.0.1:0")?;
/// let sender = UdpSocket::bind("127.0.0.1:0")?;
/// let mut ring = TxRing::new(sender, TxOptions::default())?;
/// for text in [&b"one"[..], b"two"] {
///     ring.push(text, Some(receiver.local_addr()?.into())).expect("room for 64");
/// }
/// assert_eq!(ring.flush()?.sent, 2);
/// let mut bytes = [0; 16];
/// assert_eq!(receiver.recv(&mut bytes)?, 3);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TxRing<S: AsFd, B: Payload> {
    socket: S,
    kind: Kind,
    options: TxOptions,
    queue: VecDeque<Entry<B>>,
    /// The number of the next datagram.
    next: u64,
    segmenting: Segmenting,
    /// What each message of the last call was made of.
    runs: Vec<Run>,
    outgoing: Outgoing,
    /// Set while the oldest datagram is tried alone.
    trouble: Option<Trouble>,
    /// The kernel had no room and has not taken anything since.
    stopped: bool,
    stats: TxStats,
}

impl<S: AsFd, B: Payload> TxRing<S, B> {
    /// A ring over `socket`. Allocates its arrays.
    ///
    /// # Errors
    /// `InvalidInput` for `slots` out of range. The operating system's error for
    /// what is no such socket, as of [`RxRing::new`](crate::net::RxRing::new).
    pub fn new(socket: S, options: TxOptions) -> io::Result<Self> {
        if options.slots == 0 || options.slots > MAX_MESSAGES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "slots must be from 1 to 1024",
            ));
        }
        let kind = socket::sender_kind(socket.as_fd())?;
        let gso = options.gso && kind.is_udp() && socket::can_segment(socket.as_fd());
        Ok(Self {
            queue: VecDeque::with_capacity(options.slots),
            next: 0,
            segmenting: Segmenting {
                is_safe: true,
                most_segment: if gso { MAX_RUN } else { 0 },
                most_bytes: MAX_RUN,
            },
            runs: Vec::with_capacity(options.slots),
            outgoing: Outgoing::new(options.slots),
            trouble: None,
            stopped: false,
            stats: TxStats::default(),
            options,
            kind,
            socket,
        })
    }

    /// Queues a datagram to `to`, or to where the socket is connected. Returns
    /// its number: 0, 1, 2 and so on.
    ///
    /// # Errors
    /// The buffer, when all slots are taken.
    pub fn push(&mut self, buffer: B, to: Option<Source>) -> Result<u64, B> {
        if self.queue.len() == self.options.slots {
            return Err(buffer);
        }
        let number = self.next;
        self.next += 1;
        self.queue.push_back(Entry {
            len: buffer.payload_len(),
            pieces: buffer.pieces().count(),
            buffer,
            to,
            number,
        });
        Ok(number)
    }

    /// Sends what the kernel takes now and drops those buffers, as
    /// [`flush_with`](Self::flush_with). Datagrams that the kernel refuses are
    /// counted and dropped too; who wants to know which, or wants the buffers
    /// back, uses that.
    ///
    /// # Errors
    /// As [`flush_with`](Self::flush_with).
    pub fn flush(&mut self) -> io::Result<Flushed> {
        self.flush_with(drop)
    }

    /// Sends what the kernel takes now, without waiting, and hands each buffer
    /// that leaves the queue to `done`, in order.
    ///
    /// One system call for all that is queued, when nothing goes wrong. A full
    /// socket is no error: the rest stays [`queued`](Self::queued).
    ///
    /// # Errors
    /// Of the socket as a whole: `EBADF` when it is closed, `EPIPE` when it is
    /// shut down. What is queued stays. Errors of single datagrams go to `done`.
    pub fn flush_with(&mut self, mut done: impl FnMut(Completion<B>)) -> io::Result<Flushed> {
        let mut flushed = Flushed::default();
        // The last call took less than it was offered: an error that it kept to
        // itself. The next one tells it, or it is gone.
        let (mut short, mut swallowed) = (false, false);
        self.segmenting.is_safe = !self.may_go_in_part();
        while !self.queue.is_empty() {
            match self.offer() {
                Ok(taken) => {
                    swallowed |= short;
                    short = taken < self.runs.len();
                    self.take(taken, &mut flushed, &mut done);
                }
                Err(error) => {
                    short = false;
                    if self.face(error, &mut flushed, &mut done)?.is_break() {
                        break;
                    }
                }
            }
        }
        if swallowed && flushed.notice.is_none() {
            flushed.notice = socket::pending_error(self.socket.as_fd());
        }
        Ok(flushed)
    }

    /// May a message that is cut be refused when a part of it has gone? Asked
    /// only when there may be one.
    fn may_go_in_part(&self) -> bool {
        self.queue.len() > 1
            && self.segmenting.most_segment > 0
            && socket::tells_of_full_queues(self.socket.as_fd(), self.kind)
    }

    /// One `sendmmsg` over the queue.
    fn offer(&mut self) -> io::Result<usize> {
        self.outgoing.clear();
        self.runs.clear();
        let mut entries = self.queue.iter().peekable();
        while let Some(first) = entries.next() {
            let mut run = Run::of(first);
            self.outgoing.open(match &first.to {
                None => &[],
                Some(to) if self.kind.is_udp() => to.as_bytes(),
                // Names of UNIX sockets are cut in a `Source`.
                Some(_) => &NOWHERE,
            });
            first
                .buffer
                .pieces()
                .for_each(|piece| self.outgoing.add(piece));
            if self.trouble.is_some() {
                self.runs.push(run);
                break;
            }
            if self.segmenting.is_safe && first.len <= self.segmenting.most_segment {
                let most = self.segmenting.most_bytes;
                while let Some(next) =
                    entries.next_if(|next| next.to == first.to && run.fits(next, most))
                {
                    run.add(next);
                    next.buffer
                        .pieces()
                        .for_each(|piece| self.outgoing.add(piece));
                }
            }
            if run.datagrams > 1 {
                // At most MAX_RUN, which is below 64 KiB.
                self.outgoing.cut(u16::try_from(run.segment).unwrap_or(0));
            }
            self.runs.push(run);
        }
        // SAFETY: all pieces were added above and belong to buffers which lie in
        // the queue, unchanged, until after the call (first point of `Payload`).
        unsafe { self.outgoing.send(self.socket.as_fd()) }
    }

    /// Lets go of the datagrams of the first `messages`.
    fn take(
        &mut self,
        messages: usize,
        flushed: &mut Flushed,
        done: &mut impl FnMut(Completion<B>),
    ) {
        let mut datagrams = 0;
        for run in &self.runs[..messages] {
            datagrams += run.datagrams;
            self.stats.count_run(run.datagrams as u64, run.bytes as u64);
        }
        self.stats.count_batch(datagrams as u64);
        flushed.sent += datagrams;
        self.stats.tx_wake += u64::from(std::mem::take(&mut self.stopped));
        if let Some(trouble) = self.trouble.take() {
            if let Some((fault, run)) = trouble.suspect {
                self.segmenting.learn(fault, run);
            }
            flushed.notice = trouble.heard.or(flushed.notice.take());
        }
        for entry in self.queue.drain(..datagrams) {
            done(Completion {
                buffer: entry.buffer,
                number: entry.number,
                result: Ok(()),
            });
        }
    }

    /// Decides what an error means, which is the oldest datagram's.
    fn face(
        &mut self,
        error: io::Error,
        flushed: &mut Flushed,
        done: &mut impl FnMut(Completion<B>),
    ) -> io::Result<ControlFlow<()>> {
        let fault = Fault::of(&error);
        match fault {
            Fault::Signal => return Ok(ControlFlow::Continue(())),
            Fault::Socket => return Err(error),
            Fault::Full => return Ok(self.stop()),
            Fault::NoMemory if !socket::is_idle(self.socket.as_fd()) => return Ok(self.stop()),
            _ => {}
        }
        let trouble = self.trouble.get_or_insert_default();
        match self.runs.first().filter(|run| run.datagrams > 1) {
            // Perhaps it is the run. The first datagram alone will show.
            Some(run) if fault != Fault::Datagram => {
                trouble.suspect = Some((fault, *run));
                self.stats.gso_refused += 1;
            }
            Some(_) => trouble.hear(error),
            None if trouble.tries + 1 == TRIES => self.fail(error, flushed, done),
            None => {
                trouble.tries += 1;
                trouble.hear(error);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The kernel has no room: what is queued waits.
    fn stop(&mut self) -> ControlFlow<()> {
        if !std::mem::replace(&mut self.stopped, true) {
            self.stats.tx_stop += 1;
        }
        ControlFlow::Break(())
    }

    /// Lets go of the oldest datagram, which the kernel refuses.
    fn fail(
        &mut self,
        error: io::Error,
        flushed: &mut Flushed,
        done: &mut impl FnMut(Completion<B>),
    ) {
        let heard = self.trouble.take().and_then(|trouble| trouble.heard);
        // Another error than the one that stayed was about something else.
        let other = heard.filter(|heard| heard.raw_os_error() != error.raw_os_error());
        flushed.notice = other.or(flushed.notice.take());
        flushed.failed += 1;
        self.stats.tx_hw_drops += 1;
        self.stats.tx_hw_drop_errors += 1;
        if let Some(entry) = self.queue.pop_front() {
            done(Completion {
                buffer: entry.buffer,
                number: entry.number,
                result: Err(error),
            });
        }
    }

    /// Takes everything that is queued back, unsent, and counts it as dropped.
    pub fn cancel(&mut self) -> Vec<B> {
        self.trouble = None;
        self.stats.tx_hw_drops += self.queue.len() as u64;
        self.queue.drain(..).map(|entry| entry.buffer).collect()
    }

    /// Waits until there is room to send, at most for `timeout` (`None`: as long
    /// as it takes).
    ///
    /// # Errors
    /// As [`wait_writable`](crate::net::wait_writable).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Readiness> {
        self.note_wait();
        socket::wait_writable(self.socket.as_fd(), timeout)
    }

    /// Counts a wait that was made without the ring, by
    /// [`wait_writable`](crate::net::wait_writable).
    pub fn note_wait(&mut self) {
        self.stats.waits += 1;
    }

    /// Datagrams that wait for the kernel.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Datagrams pushed so far, which is the number of the next one.
    pub fn pushed(&self) -> u64 {
        self.next
    }

    /// Are all slots taken?
    pub fn is_full(&self) -> bool {
        self.queue.len() == self.options.slots
    }

    /// Does the ring let the kernel cut messages? Not when it was told not to, no
    /// longer when the kernel has refused, and not while `IP_RECVERR` is on.
    pub fn gso(&self) -> bool {
        self.segmenting.most_segment > 0
            && !socket::tells_of_full_queues(self.socket.as_fd(), self.kind)
    }

    /// What was counted.
    pub fn stats(&self) -> TxStats {
        self.stats
    }

    /// The options the ring was made with.
    pub fn options(&self) -> &TxOptions {
        &self.options
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}
