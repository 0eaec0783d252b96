//! A receive ring: fragments that wait for packets, and the packets that came.
//!
//! A driver gives empty buffers to the card ahead of time; a ring gives them to
//! `recvmmsg`. One system call fills as many as there are packets:
//!
//! ```text
//!   arm      cache -> [ buffer ][ buffer ][ buffer ] ... up to `slots`
//!   receive            packet    packet    (still armed)
//!   store    above copybreak: stays where the kernel wrote it, the tail is free again
//!            up to copybreak: copied into a small fragment, the buffer is used again
//!            super-buffer:    cut into its segments, which share it
//! ```
//!
//! The ring takes memory from the cache that each call brings, never waits in a
//! receive, and makes no heap call per packet. When the pool is at its limit it
//! goes on: what cannot be stored is read, thrown away and counted in
//! `rx_alloc_fail`, and the next call tries again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::mem::{FragMut, PageFragCache, PagePool, drop_many};
use crate::net::batch::{Origin, RxBatch, RxPacket};
use crate::net::queue::{DropCount, QueueStats};
use crate::net::socket::{self, Changed, MAX_MESSAGES, Messages, Readiness};

/// Bytes of a buffer that any super-buffer fits.
const GRO_BUFFER: usize = 64 * 1024;
/// Packets that the kernel coalesces at most (`UDP_GRO_CNT_MAX`).
const GRO_SEGMENTS: usize = 64;
/// Super-buffers that are armed at most: an idle ring keeps 192 KiB.
const GRO_SLOTS: usize = 3;
/// Super-buffers up to half full are copied out: what they leave of a page
/// is too small for the next one.
const GRO_COPYBREAK: usize = GRO_BUFFER / 2;

/// How a ring receives.
///
/// # Examples
/// ```
/// let options = pagefrag::net::RxOptions {
///     slots: 256,
///     ..Default::default()
/// };
/// assert_eq!(options.buf_size, 2048);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxOptions {
    /// Buffers that are armed at most, and packets that one system call brings
    /// at most: 1 to 1024.
    pub slots: usize,
    /// Bytes of a buffer; longer packets are truncated. 1 to the page size.
    pub buf_size: usize,
    /// Let the kernel coalesce packets of one flow (`UDP_GRO`). Takes effect when
    /// a page of the pool holds a super-buffer of 64 KiB; buffers are that large
    /// then, and up to half-full ones are copied out.
    pub gro: bool,
    /// Packets of up to this many bytes are copied into a fragment of their
    /// size; larger ones stay in the buffer. 0: only empty ones are.
    pub copybreak: usize,
    /// Note when the kernel took each packet in (`SO_TIMESTAMPNS`).
    pub timestamps: bool,
    /// Note through which interface each packet came (`IP_PKTINFO`). A packet
    /// socket tells it anyway.
    pub interfaces: bool,
}

impl Default for RxOptions {
    fn default() -> Self {
        Self {
            slots: 64,
            buf_size: 2048,
            gro: true,
            copybreak: 256,
            timestamps: false,
            interfaces: false,
        }
    }
}

impl RxOptions {
    fn check(&self, page_size: usize) -> io::Result<()> {
        if self.slots == 0 || self.slots > MAX_MESSAGES {
            return Err(invalid("slots must be from 1 to 1024"));
        }
        if self.buf_size == 0 || self.buf_size > page_size {
            return Err(invalid("buf_size must be from 1 to the page size"));
        }
        Ok(())
    }

    fn shape(&self, gro: bool) -> Shape {
        if gro {
            Shape {
                slots: self.slots.min(GRO_SLOTS),
                buffer: GRO_BUFFER,
                copybreak: self.copybreak.max(GRO_COPYBREAK),
            }
        } else {
            Shape {
                slots: self.slots,
                buffer: self.buf_size,
                copybreak: self.copybreak,
            }
        }
    }
}

/// What becomes of the options once it is known whether packets are coalesced.
struct Shape {
    slots: usize,
    buffer: usize,
    copybreak: usize,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A message that is not handed out, or not all of it.
#[derive(Debug)]
struct Pending {
    /// What is left; of a super-buffer, from the next segment on.
    rest: FragMut,
    /// Bytes of a segment; `None` for a packet that came alone.
    segment: Option<usize>,
    wire_len: usize,
    origin: Origin,
}

impl Pending {
    /// Packets in what is left.
    fn packets(&self) -> u64 {
        let segments = self
            .segment
            .map_or(1, |bytes| self.rest.len().div_ceil(bytes));
        segments.max(1) as u64
    }

    /// The next segment; `None` when what is left is the last packet.
    fn split(&mut self) -> Option<RxPacket> {
        let segment = self.segment.filter(|&bytes| bytes < self.rest.len())?;
        let frag = self.rest.split_to(segment);
        Some(RxPacket::segment(frag, self.origin.clone()))
    }

    /// What is left as the last packet.
    fn into_last(self) -> RxPacket {
        match self.segment {
            Some(_) => RxPacket::segment(self.rest, self.origin),
            None => RxPacket::whole(self.rest, self.origin, self.wire_len),
        }
    }
}

/// A receive ring over a datagram socket: UDP, UNIX, or a packet socket.
///
/// `S` is who owns the socket: a `UdpSocket`, a reference to one, an `OwnedFd`.
/// Options that the ring sets on the socket are put back when it is dropped.
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
/// assert_eq!(&batch.packets()[0].frag[..], b"hello");
/// assert_eq!(
///     batch.packets()[0].source.to_socket_addr(),
///     Some(sender.local_addr()?)
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct RxRing<S: AsFd> {
    socket: S,
    options: RxOptions,
    page_size: usize,
    gro: bool,
    /// Bytes of a buffer, and up to how many a packet is copied out.
    buffer: usize,
    copybreak: usize,
    /// Empty buffers, the warmest last: message 0 goes there.
    armed: Vec<FragMut>,
    /// Buffers that a call has emptied by copying, on their way back.
    again: Vec<FragMut>,
    pending: VecDeque<Pending>,
    messages: Messages,
    changed: [Option<Changed>; 4],
    stats: QueueStats,
    drops: DropCount,
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
        let wants_gro = options.gro && kind.is_udp() && page_size >= GRO_BUFFER;
        // A kernel without UDP_GRO coalesces nothing: no reason to refuse.
        let (gro, coalescing) = match socket::coalesce_packets(fd, wants_gro) {
            Ok(changed) => (wants_gro, changed),
            Err(_) => (false, None),
        };
        let dropped = socket::drops(fd);
        // Segment sizes come as control messages, and drops come along with
        // them; without segments it is cheaper to ask for the drops.
        let counts = gro || dropped.is_none();
        let counting = if counts {
            // Known since 2.6.33. Without it drops are not seen, no more.
            socket::count_drops(fd).unwrap_or(None)
        } else {
            None
        };
        let stamping = if options.timestamps {
            socket::stamp_packets(fd)?
        } else {
            None
        };
        let telling = if options.interfaces {
            socket::tell_interfaces(fd, kind)?
        } else {
            None
        };
        let notes = counts || options.timestamps || options.interfaces;
        let Shape {
            slots,
            buffer,
            copybreak,
        } = options.shape(gro);
        Ok(Self {
            drops: DropCount::from_baseline(dropped.unwrap_or(0)),
            page_size,
            gro,
            buffer,
            copybreak,
            armed: Vec::with_capacity(slots),
            again: Vec::with_capacity(slots),
            pending: VecDeque::with_capacity(slots),
            messages: Messages::new(slots, notes, kind),
            changed: [counting, coalescing, stamping, telling],
            stats: QueueStats::default(),
            options,
            socket,
        })
    }

    /// Receives what is there, at most `max` packets, without waiting.
    ///
    /// One system call, and one heap call for the batch;
    /// [`recv_into`](Self::recv_into) saves that too.
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
    /// than `max` is handed out over several calls.
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
        self.deliver_pending(max, batch);
        if batch.is_empty() {
            self.receive(cache, max, batch)?;
        }
        self.count_batch(batch.len());
        Ok(())
    }

    /// One `recvmmsg`.
    fn receive(
        &mut self,
        cache: &mut PageFragCache,
        max: usize,
        batch: &mut RxBatch,
    ) -> io::Result<()> {
        let fd = self.socket.as_fd();
        let want = max.min(self.messages.slots());
        arm(&mut self.armed, cache, want, self.buffer);
        if self.armed.is_empty() {
            let read = self.messages.discard(fd, want)?;
            self.count_discarded(read, batch);
            return Ok(());
        }
        let buffers = self.armed.iter_mut().rev().take(want);
        let read = self
            .messages
            .receive(fd, buffers.map(|buffer| &mut buffer[..]))?;
        let segments = if self.gro { GRO_SEGMENTS } else { 1 };
        batch.reserve(max.min(read * segments));
        for index in 0..read {
            self.take(cache, index, max, batch);
        }
        self.armed.append(&mut self.again);
        Ok(())
    }

    /// Hands out message `index`, which lies in the last armed buffer.
    fn take(&mut self, cache: &mut PageFragCache, index: usize, max: usize, batch: &mut RxBatch) {
        let Some(buffer) = self.armed.pop() else {
            return;
        };
        let wire_len = self.messages.wire_len(index);
        let notes = self.messages.notes(index);
        let origin = Origin::new(self.messages.name(index), notes);
        if let Some(drops) = notes.drops {
            self.drops = self.drops.seen(drops);
        }
        let stored = wire_len.min(buffer.len());
        let rest = self.store(cache, buffer, stored);
        let segment = notes.segment.filter(|&bytes| bytes > 0 && bytes < stored);
        if let Some(segment) = segment {
            self.count_super_buffer(stored, segment);
        }
        // The oldest first: nothing overtakes what waits already.
        self.pending.push_back(Pending {
            rest,
            segment,
            wire_len,
            origin,
        });
        self.deliver_pending(max, batch);
    }

    /// The fragment in which the first `len` bytes of `buffer` stay.
    ///
    /// A small packet for which there is no memory stays in its buffer: that
    /// needs none.
    fn store(&mut self, cache: &mut PageFragCache, mut buffer: FragMut, len: usize) -> FragMut {
        if len <= self.copybreak
            && let Ok(mut small) = cache.alloc(len.max(1))
        {
            small.truncate(len);
            small.copy_from_slice(&buffer[..len]);
            self.again.push(buffer);
            return small;
        }
        buffer.shrink_to(len.max(1));
        buffer.truncate(len);
        buffer
    }

    /// Hands out what waits, the oldest first.
    fn deliver_pending(&mut self, max: usize, batch: &mut RxBatch) {
        while batch.len() < max {
            let packet = match self.pending.front_mut().and_then(Pending::split) {
                Some(segment) => segment,
                None => match self.pending.pop_front() {
                    Some(oldest) => oldest.into_last(),
                    None => return,
                },
            };
            self.push(packet, batch);
        }
    }

    fn push(&mut self, packet: RxPacket, batch: &mut RxBatch) {
        self.stats.rx_packets += 1;
        self.stats.rx_bytes += packet.frag.len() as u64;
        self.stats.truncated += u64::from(packet.is_truncated());
        batch.push(packet);
    }

    fn count_super_buffer(&mut self, bytes: usize, segment: usize) {
        self.stats.rx_hw_gro_packets += 1;
        self.stats.rx_hw_gro_bytes += bytes as u64;
        self.stats.rx_hw_gro_wire_packets += bytes.div_ceil(segment) as u64;
        self.stats.rx_hw_gro_wire_bytes += bytes as u64;
    }

    /// Counts messages that were read and thrown away, by their packets.
    fn count_discarded(&mut self, read: usize, batch: &mut RxBatch) {
        for index in 0..read {
            let notes = self.messages.notes(index);
            if let Some(drops) = notes.drops {
                self.drops = self.drops.seen(drops);
            }
            let segment = notes.segment.unwrap_or(usize::MAX).max(1);
            let packets = self.messages.wire_len(index).div_ceil(segment).max(1) as u64;
            self.stats.rx_alloc_fail += packets;
            batch.discard(packets);
        }
    }

    fn count_batch(&mut self, packets: usize) {
        self.stats.batches += u64::from(packets > 0);
        self.stats.largest_batch = self.stats.largest_batch.max(packets as u64);
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
        !self.pending.is_empty()
    }

    /// Gives all armed buffers back, in one batch drop. Packets that are waiting
    /// to be handed out stay. The next receive arms again.
    pub fn drain(&mut self) {
        self.look_for_drops();
        drop_many(self.armed.drain(..));
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
    pub fn close(mut self) -> QueueStats {
        let mut stats = self.stats();
        stats.rx_hw_drops += self.pending.iter().map(Pending::packets).sum::<u64>();
        drop_many(self.pending.drain(..).map(|pending| pending.rest));
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

    /// Does the kernel coalesce packets for this ring?
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Bytes of a buffer: `buf_size`, or 64 KiB with GRO.
    pub fn buf_size(&self) -> usize {
        self.buffer
    }

    /// Buffers that wait for packets now.
    pub fn armed(&self) -> usize {
        self.armed.len()
    }
}

impl<S: AsFd> Drop for RxRing<S> {
    fn drop(&mut self) {
        self.drain();
        for changed in self.changed.into_iter().flatten() {
            changed.restore(self.socket.as_fd());
        }
    }
}

/// Fills `armed` up to `want` buffers, or as far as memory goes.
fn arm(armed: &mut Vec<FragMut>, cache: &mut PageFragCache, want: usize, bytes: usize) {
    while armed.len() < want
        && let Ok(buffer) = cache.alloc(bytes)
    {
        armed.push(buffer);
    }
}
