//! A receive ring: fragments that wait for packets, and the packets that came.
//!
//! A driver gives empty buffers to the card ahead of time; a ring gives them to
//! `recvmmsg`. One system call fills as many as there are messages:
//!
//! ```text
//!   arm      cache -> [ buffer ][ buffer ][ buffer ] ... up to `slots`
//!   receive            packet    packet    (still armed)
//!   store    above copybreak: stays where it is, cut when its batch is opened
//!            up to copybreak: copied into a small fragment, the buffer is used again
//!            super-buffer:    as expected: stays in its `berths` until its batch is opened;
//!                             else each segment is copied into a fragment of its own, the
//!                             buffer and the landing behind it are used again
//! ```
//!
//! So no packet that is kept keeps more than its own lines, whatever it came with. With GRO
//! a message may need the `landing` behind its buffer; `guess` says how many to ask
//! for and what they will be like, and a `message` that is not handed out at once waits
//! where it landed. `hand_out` is the way from there into a batch.
//!
//! The ring takes memory from the cache that each call brings, never waits in a
//! receive, and makes no heap call per packet. When the pool is at its limit it
//! goes on: what cannot be stored is read, thrown away and counted in
//! `rx_alloc_fail`, and the next call tries again.

mod berths;
mod buffers;
mod guess;
mod hand_out;
mod landing;
mod message;
mod options;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::mem::{PageFragCache, PagePool};
use crate::net::batch::RxBatch;

use crate::net::queue::{DropCount, QueueStats};
use crate::net::socket::{self, Kind, Messages, Needs, Readiness};
use berths::Berths;
use buffers::Buffers;
use guess::Guess;
use landing::Landing;
use message::{Message, packets};
use options::invalid;

pub use options::RxOptions;

/// A receive ring over a datagram socket: UDP, UNIX, or a packet socket.
///
/// `S` is who owns the socket: a `UdpSocket`, a reference to one, an `OwnedFd`.
/// Options that the ring sets on the socket are put back when it is dropped, or
/// with the last ring of this process that needs them: rings may share a socket.
/// Whether packets are coalesced is decided by the first of them ([`gro`](Self::gro)).
///
/// Super-buffers that are left in the socket when coalescing ends are read from it
/// as one packet each: receive until there is nothing before going on without a ring.
///
/// A forked child has a copy of the packets that wait: it calls [`forget`](Self::forget)
/// before it goes on, or they are handed out twice.
///
/// # Examples
/// ```
/// use pagefrag::net::{RxOptions, RxRing};
/// use pagefrag::{PageFragCache, PagePool};
/// use std::net::UdpSocket;
///
/// let pool = PagePool::global();
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// let address = socket.local_addr()?;
/// let mut ring = RxRing::new(socket, pool, RxOptions::default())?;
/// let mut cache = PageFragCache::new(pool);
///
/// let sender = UdpSocket::bind("127.0.0.1:0")?;
/// sender.send_to(b"hello", address)?;
/// ring.wait(None)?;
/// let batch = ring.recv(&mut cache, 64)?;
/// let packet = batch.get(0).unwrap();
/// assert_eq!(packet.bytes, b"hello");
/// assert_eq!(packet.source().to_socket_addr(), Some(sender.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct RxRing<S: AsFd> {
    socket: S,
    options: RxOptions,
    page_size: usize,
    /// Behind the buffers, when the kernel coalesces.
    landing: Option<Landing>,
    guess: Guess,
    /// Empty buffers. While messages wait, the first ones are theirs.
    buffers: Buffers,
    /// Where super-buffers land that stay.
    berths: Berths,
    messages: Messages,
    /// Messages that came and are not handed out, or not all of them: the one
    /// that was begun, and those in `messages` from `next` on, `came` in all.
    begun: Option<Message>,
    next: usize,
    came: usize,
    /// Whether fewer came than were asked for: the socket had no more.
    emptied: bool,
    /// Where these have landed.
    footing: Footing,
    needs: Needs,
    stats: QueueStats,
    drops: DropCount,
}

/// Where the messages of a call begin; with GRO they go on in the landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footing {
    /// In an armed buffer each.
    Buffers,
    /// In a berth each.
    Berths,
    /// There was no memory: nowhere but in the landing.
    Nothing,
}

impl<S: AsFd> RxRing<S> {
    /// A ring over `socket`, to be filled from caches over `pool`. Allocates its
    /// arrays; memory of the pool is taken by the first receive.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range. The operating system's error
    /// for what is none of these sockets: `EBADF` when it is closed, `ENOTSOCK`,
    /// `EPROTOTYPE` for a stream socket, `EAFNOSUPPORT`, `EPROTONOSUPPORT`.
    pub fn new(socket: S, pool: &PagePool, options: RxOptions) -> io::Result<Self> {
        let page_size = pool.page_size();
        options.check(page_size)?;
        let fd = socket.as_fd();
        let kind = socket::kind(fd)?;
        let dropped = socket::drops(fd);
        let mut needs = Needs::default();
        if dropped.is_none() {
            needs.count_drops(fd);
        }
        let landing = Self::set_up(&mut needs, fd, kind, &options).inspect_err(|_| {
            needs.let_go(fd);
        })?;
        let notes =
            landing.is_some() || dropped.is_none() || options.timestamps || options.interfaces;
        let slots = options.slots;
        Ok(Self {
            drops: DropCount::from_baseline(dropped.unwrap_or(0)),
            page_size,
            landing,
            guess: Guess::default(),
            buffers: Buffers::new(options.buf_size),
            berths: Berths::default(),
            messages: Messages::new(slots, notes, kind),
            begun: None,
            next: 0,
            came: 0,
            emptied: true,
            footing: Footing::Nothing,
            needs,
            stats: QueueStats::default(),
            options,
            socket,
        })
    }

    /// Asks the socket for what `options` want, and maps the landing if packets are
    /// going to be coalesced: without it super-buffers would be cut off.
    fn set_up(
        needs: &mut Needs,
        fd: BorrowedFd<'_>,
        kind: Kind,
        options: &RxOptions,
    ) -> io::Result<Option<Landing>> {
        if options.timestamps {
            needs.stamp_packets(fd)?;
        }
        if options.interfaces {
            needs.tell_interfaces(fd, kind)?;
        }
        if !kind.is_udp() {
            return Ok(None);
        }
        let landing = options.gro.then(|| Landing::map(options.slots)).flatten();
        match (needs.coalesce_packets(fd, landing.is_some()), landing) {
            (false, _) => Ok(None),
            (true, Some(landing)) => Ok(Some(landing)),
            // Another ring on this socket has them coalesced.
            (true, None) => match Landing::map(options.slots) {
                Some(landing) => Ok(Some(landing)),
                None => Err(io::ErrorKind::OutOfMemory.into()),
            },
        }
    }

    /// Receives what is there, at most `max` packets, without waiting.
    ///
    /// One system call, and three heap calls for the batch;
    /// [`recv_into`](Self::recv_into) saves those too.
    ///
    /// # Errors
    /// As [`recv_into`](Self::recv_into).
    pub fn recv(&mut self, cache: &mut PageFragCache, max: usize) -> io::Result<RxBatch> {
        let mut batch = RxBatch::default();
        self.recv_into(cache, max, &mut batch)?;
        Ok(batch)
    }

    /// Receives what is there, at most `max` packets, without waiting, and puts
    /// it into `batch`, which is cleared first.
    ///
    /// Nothing there: an empty batch. Packets but no memory: an empty batch that
    /// [`discarded`](RxBatch::discarded) some. A super-buffer with more segments
    /// than `max` is handed out over several calls, of which the later make no
    /// system call: [`has_pending`](Self::has_pending) then, though the socket
    /// may have nothing to read.
    ///
    /// # Errors
    /// `InvalidInput` when `max` is 0 or the cache has pages of another size
    /// than the ring's pool. The operating system's errors, among them
    /// `ECONNREFUSED` on a connected socket whose peer is gone; no packet is
    /// lost to an error.
    pub fn recv_into(
        &mut self,
        cache: &mut PageFragCache,
        max: usize,
        batch: &mut RxBatch,
    ) -> io::Result<()> {
        batch.clear();
        if max == 0 {
            return Err(invalid("max must be at least 1"));
        }
        if cache.pool().page_size() != self.page_size {
            return Err(invalid("the cache has pages of another size than the ring"));
        }
        if self.has_pending() {
            let packets = max.min(self.pending());
            batch.reserve(packets, packets);
            self.hand_out(cache, max, batch);
        }
        if batch.is_empty() {
            self.receive(cache, max, batch)?;
        }
        self.count(batch);
        Ok(())
    }

    /// One `recvmmsg`. Nothing waits to be handed out.
    fn receive(
        &mut self,
        cache: &mut PageFragCache,
        max: usize,
        batch: &mut RxBatch,
    ) -> io::Result<()> {
        let want = self.arm(cache, self.messages_for(max));
        self.next = 0;
        self.came = 0;
        self.came = self.fill(want)?;
        self.emptied = self.came < want;
        let packets = max.min(self.look_over());
        let lots = match self.footing {
            Footing::Berths => packets.min(2 * self.came),
            Footing::Buffers | Footing::Nothing => packets,
        };
        batch.reserve(packets, lots);
        self.hand_out(cache, max, batch);
        Ok(())
    }

    /// Sees to it that `want` messages have somewhere to land, or as many as there is
    /// memory for, which it returns. Without any they are read all the same.
    fn arm(&mut self, cache: &mut PageFragCache, want: usize) -> usize {
        let (largest, step) = self.guess.largest();
        if self.expects_to_keep(largest, step) {
            let found = self.berths.arm(cache, want, step);
            if found > 0 {
                self.footing = Footing::Berths;
                return found;
            }
        }
        self.buffers.arm(cache, want);
        self.footing = if self.buffers.len() == 0 {
            Footing::Nothing
        } else {
            Footing::Buffers
        };
        want
    }

    /// Would a message like that stay where it landed?
    fn expects_to_keep(&self, wire_len: usize, step: usize) -> bool {
        self.landing.is_some()
            && step <= self.options.buf_size
            && Berths::parts_for(wire_len, step, self.page_size).is_some()
    }

    /// Messages to ask for when at most `max` packets are handed out.
    fn messages_for(&self, max: usize) -> usize {
        let slots = self.messages.slots();
        match &self.landing {
            Some(landing) => self.guess.messages(landing.room(), max, slots),
            None => max.min(slots),
        }
    }

    /// Has the kernel write up to `want` messages, each to where it begins and then to
    /// its slot of the landing; without memory into the landing alone, and without
    /// that nowhere.
    fn fill(&mut self, want: usize) -> io::Result<usize> {
        let fd = self.socket.as_fd();
        let Self {
            messages,
            buffers,
            berths,
            ..
        } = self;
        let buffers = buffers.slots_mut().take(want);
        match (&mut self.landing, self.footing) {
            (Some(landing), Footing::Berths) => {
                let parts = berths.parts_mut().take(want).zip(landing.slots_mut());
                messages.receive(
                    fd,
                    parts.map(|([first, second], slot)| [first, second, slot]),
                )
            }
            (Some(landing), Footing::Buffers) => {
                let parts = buffers.zip(landing.slots_mut());
                messages.receive(fd, parts.map(|(buffer, slot)| [buffer, slot, &mut []]))
            }
            (Some(landing), Footing::Nothing) => {
                let slots = landing.slots_mut().take(want);
                messages.receive(fd, slots.map(|slot| [slot, &mut [], &mut []]))
            }
            (None, Footing::Buffers) => {
                messages.receive(fd, buffers.map(|buffer| [buffer, &mut [], &mut []]))
            }
            (None, _) => messages.discard(fd, want),
        }
    }

    /// Waits until there is something to receive, at most for `timeout`
    /// (`None`: as long as it takes).
    ///
    /// # Errors
    /// As [`wait_readable`](crate::net::wait_readable).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Readiness> {
        if self.has_pending() {
            return Ok(Readiness::Ready);
        }
        self.note_wait();
        socket::wait_readable(self.socket.as_fd(), timeout)
    }

    /// Counts a wait that is made without the ring, by
    /// [`wait_readable`](crate::net::wait_readable). Whoever waits in slices
    /// counts the first.
    pub fn note_wait(&mut self) {
        self.stats.waits += 1;
        self.look_for_drops();
    }

    /// Remembers the drops so far, for when the socket cannot be asked any more.
    fn look_for_drops(&mut self) {
        if let Some(now) = socket::drops(self.socket.as_fd()) {
            self.drops = self.drops.seen(now);
        }
    }

    /// Are there packets that the next receive hands out without asking the
    /// socket? Then the socket need not be readable.
    pub fn has_pending(&self) -> bool {
        self.begun.is_some() || self.next < self.came
    }

    /// Packets that have been received and not handed out: of super-buffers with
    /// more segments than `max`, or of more super-buffers than were expected.
    /// They come first, and before the socket is asked again.
    pub fn pending(&self) -> usize {
        let later = (self.next..self.came).map(|index| {
            let segment = self.messages.notes(index).segment;
            packets(self.messages.wire_len(index), segment)
        });
        self.begun.as_ref().map_or(0, Message::left) + later.sum::<usize>()
    }

    /// Forgets what has come and is not handed out, uncounted: a forked child does
    /// before it goes on, or packets that its parent hands out come twice.
    pub fn forget(&mut self) {
        if self.has_pending() {
            self.begun = None;
            self.next = self.came;
            self.buffers.settle();
            self.berths.settle(0);
        }
    }

    /// Gives all armed buffers back, in one batch drop, and the memory behind
    /// them. Packets that are waiting to be handed out stay. The next receive
    /// arms again.
    pub fn drain(&mut self) {
        self.look_for_drops();
        let waiting = self.came - self.next + usize::from(self.begun.is_some());
        let waiting_in = |footing| if self.footing == footing { waiting } else { 0 };
        self.berths.drain(waiting_in(Footing::Berths));
        self.buffers.drain(waiting_in(Footing::Buffers));
        if !self.has_pending()
            && let Some(landing) = &mut self.landing
        {
            landing.clear();
        }
    }

    /// What was counted, drops of the kernel up to this moment included: one
    /// system call. Of a socket that was closed under the ring, drops up to the
    /// last wait or drain.
    pub fn stats(&self) -> QueueStats {
        let now = socket::drops(self.socket.as_fd());
        self.stats_with(now.map_or(self.drops, |now| self.drops.seen(now)))
    }

    /// What was counted, without a system call: drops of the kernel up to the
    /// last packet, wait or drain.
    pub fn counted(&self) -> QueueStats {
        self.stats_with(self.drops)
    }

    /// Ends receiving, as dropping the ring does, and tells the last counters:
    /// packets that were waiting to be handed out are in `rx_hw_drops`.
    pub fn close(self) -> QueueStats {
        let mut stats = self.stats();
        stats.rx_hw_drops += self.pending() as u64;
        stats
    }

    fn stats_with(&self, drops: DropCount) -> QueueStats {
        let drops = drops.total();
        QueueStats {
            rx_hw_drops: drops,
            rx_hw_drop_overruns: drops,
            ..self.stats
        }
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The options the ring was made with.
    pub fn options(&self) -> &RxOptions {
        &self.options
    }

    /// Does the kernel coalesce packets for this ring? As
    /// [`RxOptions::gro`] asked, unless the kernel cannot or a ring that shares
    /// the socket has asked for something else before.
    pub fn gro(&self) -> bool {
        self.landing.is_some()
    }

    /// Buffers that wait for packets now.
    pub fn armed(&self) -> usize {
        self.buffers.len()
    }
}

impl<S: AsFd> Drop for RxRing<S> {
    fn drop(&mut self) {
        self.forget();
        self.drain();
        self.needs.let_go(self.socket.as_fd());
    }
}
