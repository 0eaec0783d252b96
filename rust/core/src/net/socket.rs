//! The door to the operating system: the one file of `net` that names libc
//! (with `send`, its other half, `notes`, what the kernel says beside the bytes, and
//! `options`, what rings ask a socket for).
//!
//! [`Messages`] is what `recvmmsg` reads and writes: for each slot a header, a
//! buffer in up to three parts, a place for the sender's name and one for control messages. It is
//! allocated once, filled in before each call, and read back afterwards without
//! unsafe code. Nothing here waits, but [`wait_readable`] and [`wait_writable`].

mod notes;
mod options;
mod send;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::{c_int, c_short, c_uint, c_void, socklen_t};

pub(super) use notes::Notes;
pub(super) use options::Needs;
pub(super) use send::{
    Fault, MAX_PIECES, Outgoing, can_segment, is_idle, pending_error, sender_kind,
    tells_of_full_queues,
};

/// Bytes kept of a sender's name beside each packet: what an IPv6 `sockaddr` has.
pub(super) const NAME_BYTES: usize = 28;
const _: () = assert!(NAME_BYTES == size_of::<libc::sockaddr_in6>());
const _: () = assert!(NAME_BYTES >= size_of::<libc::sockaddr_ll>());
/// Bytes of the longest name there is, the one of a UNIX socket.
pub(super) const LONG_NAME_BYTES: usize = 110;
/// Bytes that names of which none is long have each.
const NAME_STRIDE: usize = NAME_BYTES.next_multiple_of(8);
const _: () = assert!(LONG_NAME_BYTES == size_of::<libc::sockaddr_un>());
/// `sa_family` of an IPv4 address.
pub(super) const FAMILY_INET: u16 = 2;
/// `sa_family` of an IPv6 address.
pub(super) const FAMILY_INET6: u16 = 10;
/// `sa_family` of a packet socket's address.
pub(super) const FAMILY_PACKET: u16 = 17;
const _: () = assert!(FAMILY_INET as c_int == libc::AF_INET);
const _: () = assert!(FAMILY_PACKET as c_int == libc::AF_PACKET);
const _: () = assert!(FAMILY_INET6 as c_int == libc::AF_INET6);
/// Messages that one `recvmmsg` takes at most (the kernel's `UIO_MAXIOV`).
pub(super) const MAX_MESSAGES: usize = 1024;

/// Bytes for the control messages of a packet: a drop count and a segment size
/// (24 each), a timestamp (32) and an interface (40), with room for what the user
/// may have asked the socket for and the kernel writes before the segment size: times
/// of the device (64) and where they were taken (32), a mark and a priority (24 each).
/// Without its segment size a super-buffer would be taken for one packet; what comes
/// behind the interface and no longer fits (`MSG_CTRUNC`) is nothing that we read.
const CONTROL_BYTES: usize = 24 + 24 + 32 + 40 + 64 + 32 + 24 + 24;

/// Parts that the buffer of a message may have.
pub(super) const PARTS: usize = 3;

/// `SK_MEMINFO_DROPS` and the number of values (`linux/sock_diag.h`).
const MEMINFO_DROPS: usize = 8;
const MEMINFO_VALUES: usize = 9;

/// How long a wait looks away from a socket whose error queue is not empty.
const NAP: Duration = Duration::from_millis(1);

/// Waits until `fd` is readable, at most for `timeout` (`None`: as long as it
/// takes). Receives nothing.
///
/// What lies in the error queue of a socket (`IP_RECVERR`) is for whoever asked
/// for it, and ends no wait.
///
/// # Errors
/// The operating system's, `EBADF` for a descriptor that is closed; the
/// socket's own, which is told once: `ECONNREFUSED` when the peer is gone.
///
/// # Examples
/// ```
/// use pagefrag::net::{Readiness, wait_readable};
/// use std::{net::UdpSocket, os::fd::AsFd, time::Duration};
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// let answer = wait_readable(socket.as_fd(), Some(Duration::from_millis(1)))?;
/// assert_eq!(answer, Readiness::TimedOut);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Readiness> {
    // Longer than a clock can tell is as long as it takes.
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
    let mut limit = timeout;
    loop {
        let found = poll(Some(fd), libc::POLLIN | libc::POLLRDHUP, limit)?;
        if found != Some(libc::POLLERR) {
            return readiness(found);
        }
        // Asking takes the error away. If there is none it is the error queue:
        // poll cannot be told to overlook that, and would return at once.
        match option(fd, libc::SOL_SOCKET, libc::SO_ERROR)? {
            0 => {}
            code => return Err(os_error(code)),
        }
        let nap = left().map_or(NAP, |left| left.min(NAP));
        if poll(None, 0, Some(nap))?.is_none() {
            return Ok(Readiness::Interrupted);
        }
        limit = left();
        if limit == Some(Duration::ZERO) {
            return Ok(Readiness::TimedOut);
        }
    }
}

/// Waits until there is room to send through `fd`, at most for `timeout`
/// (`None`: as long as it takes). Sends nothing.
///
/// # Errors
/// The operating system's, `EBADF` for a descriptor that is closed.
///
/// # Examples
/// ```
/// use pagefrag::net::{Readiness, wait_writable};
/// use std::{net::UdpSocket, os::fd::AsFd};
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// assert_eq!(wait_writable(socket.as_fd(), None)?, Readiness::Ready);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Readiness> {
    readiness(poll(Some(fd), libc::POLLOUT, timeout)?)
}

/// What is up with `fd`, once one of `events` is or the time is over (0); without
/// a descriptor, nothing but the time. `None`: a signal came first.
fn poll(
    fd: Option<BorrowedFd<'_>>,
    events: c_short,
    limit: Option<Duration>,
) -> io::Result<Option<c_short>> {
    let mut polled = libc::pollfd {
        // The kernel passes over negative numbers.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events,
        revents: 0,
    };
    let limit = limit.map(timespec);
    let limit_ptr = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the first two arguments are one live `pollfd`, `limit_ptr` is null
    // or points to `limit`, which lives to the end of this function, and a null
    // signal mask is allowed.
    let ready = unsafe { libc::ppoll(&raw mut polled, 1, limit_ptr, std::ptr::null()) };
    if ready >= 0 {
        return Ok(Some(polled.revents));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        error => Err(error),
    }
}

fn readiness(found: Option<c_short>) -> io::Result<Readiness> {
    match found {
        None => Ok(Readiness::Interrupted),
        Some(0) => Ok(Readiness::TimedOut),
        Some(events) if events & libc::POLLNVAL != 0 => Err(os_error(libc::EBADF)),
        Some(events) if events & (libc::POLLRDHUP | libc::POLLHUP) != 0 => Ok(Readiness::ShutDown),
        Some(_) => Ok(Readiness::Ready),
    }
}

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Readiness {
    /// There is a packet or room for one, or an error that the call will tell.
    Ready,
    /// The time is up.
    TimedOut,
    /// A signal came first. Whoever has signal handlers to run does so and
    /// waits for the rest of the time.
    Interrupted,
    /// The socket was shut down for reading. Packets that are queued can still
    /// be received; when there is none there never will be.
    ShutDown,
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn os_error(code: c_int) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// What kind of socket a ring is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    UdpV4,
    UdpV6,
    Unix,
    Packet,
}

impl Kind {
    pub(super) fn is_udp(self) -> bool {
        matches!(self, Self::UdpV4 | Self::UdpV6)
    }
}

/// Which of the sockets that a ring can be over is this? What is wrong is
/// told by the error number: `EBADF` closed, `ENOTSOCK` no socket, `EPROTOTYPE`
/// a stream, `EAFNOSUPPORT` another family, `EPROTONOSUPPORT` not UDP.
pub(super) fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let message = option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let family = option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let kind = match (family, message) {
        (libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_DGRAM) => return Ok(Kind::Packet),
        (libc::AF_UNIX, libc::SOCK_DGRAM) => return Ok(Kind::Unix),
        (libc::AF_INET, libc::SOCK_DGRAM) => Kind::UdpV4,
        (libc::AF_INET6, libc::SOCK_DGRAM) => Kind::UdpV6,
        (_, libc::SOCK_DGRAM) => return Err(os_error(libc::EAFNOSUPPORT)),
        _ => return Err(os_error(libc::EPROTOTYPE)),
    };
    if option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)? != libc::IPPROTO_UDP {
        return Err(os_error(libc::EPROTONOSUPPORT));
    }
    Ok(kind)
}

/// How many packets the kernel has dropped at this socket since it was made;
/// `None` where it does not say (`SO_MEMINFO`, Linux 4.12).
pub(super) fn drops(fd: BorrowedFd<'_>) -> Option<u32> {
    let mut values = [0_u32; MEMINFO_VALUES];
    let bytes = get_option(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut values).ok()?;
    (bytes == size_of_val(&values)).then_some(values[MEMINFO_DROPS])
}

fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; 1];
    get_option(fd, level, name, &mut value)?;
    Ok(value[0])
}

/// Reads an option made of plain numbers and returns the bytes written.
fn get_option<T: Number, const N: usize>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    values: &mut [T; N],
) -> io::Result<usize> {
    let mut len = socklen_t::try_from(size_of_val(values)).map_err(io::Error::other)?;
    let target: *mut c_void = values.as_mut_ptr().cast();
    // SAFETY: `target` and `len` describe `values`, borrowed for the call, and
    // any bytes the kernel writes are valid numbers.
    let code = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, target, &raw mut len) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(len as usize)
}

/// Types for which any bytes are a value.
trait Number: Copy {}
impl Number for c_int {}
impl Number for u32 {}
impl Number for u64 {}

fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let source: *const c_void = std::ptr::from_ref(&value).cast();
    // SAFETY: `source` and `len` describe `value`, which lives through the call.
    let code = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, source, len) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Name([u8; NAME_BYTES]);

#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// The arrays behind `recvmmsg`, for up to a fixed number of messages.
pub(super) struct Messages {
    /// 1. The pointers in a header are read by the kernel only, in [`Self::call`],
    ///    and all of the headers passed there were filled in just before.
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[[libc::iovec; PARTS]]>,
    /// `name_bytes` for each message.
    names: Box<[u8]>,
    name_bytes: usize,
    /// Empty when nothing is to be told beside the bytes.
    controls: Box<[Control]>,
    /// Descriptors may come along, which nobody here wants.
    rights: bool,
}

// SAFETY: the only parts that are not Send are the raw pointers in `headers` and
// `vectors`. They are used during one call of `Messages::call` and filled in anew
// before each (invariant 1), with addresses of memory that this value owns or
// that the caller of that call has borrowed. Between calls they are dead, so
// it does not matter on which thread they lie.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages")
            .field("slots", &self.headers.len())
            .finish_non_exhaustive()
    }
}

impl Messages {
    /// Arrays for `slots` messages, the only heap calls there are. With
    /// `notes` there is room for control messages; without, the kernel writes
    /// none, which saves time per packet.
    pub(super) fn new(slots: usize, notes: bool, kind: Kind) -> Self {
        let name_bytes = match kind {
            Kind::Unix => LONG_NAME_BYTES,
            Kind::UdpV4 | Kind::UdpV6 | Kind::Packet => NAME_STRIDE,
        };
        Self {
            rights: notes && kind == Kind::Unix,
            headers: vec![no_message(); slots].into(),
            vectors: vec![[NO_BUFFER; PARTS]; slots].into(),
            names: vec![0; slots * name_bytes].into(),
            name_bytes,
            controls: vec![Control([0; CONTROL_BYTES]); if notes { slots } else { 0 }].into(),
        }
    }

    /// Messages that one call takes at most.
    pub(super) fn slots(&self) -> usize {
        self.headers.len()
    }

    /// Receives into `buffers`, one message each: into its first part, then its
    /// second, then its third. Does not wait. Returns how many came; 0 when there is
    /// nothing.
    pub(super) fn receive<'b>(
        &mut self,
        fd: BorrowedFd<'_>,
        buffers: impl Iterator<Item = [&'b mut [u8]; PARTS]>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (vectors, parts) in self.vectors.iter_mut().zip(buffers) {
            *vectors = parts.map(|part| libc::iovec {
                iov_base: part.as_mut_ptr().cast(),
                iov_len: part.len(),
            });
            count += 1;
        }
        self.call(fd, count)
    }

    /// Reads up to `count` messages and throws their bytes away.
    pub(super) fn discard(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = count.min(self.vectors.len());
        self.vectors[..count].fill([NO_BUFFER; PARTS]);
        self.call(fd, count)
    }

    /// One `recvmmsg` over the first `count` vectors.
    fn call(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        self.fill_in(count);
        // MSG_TRUNC: the length told is the one that was sent.
        let mut flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        if self.rights {
            // Packet sockets refuse flags that mean nothing to them.
            flags |= libc::MSG_CMSG_CLOEXEC;
        }
        let headers = self.headers.as_mut_ptr();
        let count = c_uint::try_from(count).map_err(io::Error::other)?;
        loop {
            // SAFETY: the first `count` headers were filled in above with names,
            // vectors and controls that `self` owns; the vectors point to buffers
            // that the caller of `receive` has borrowed mutably for longer than
            // this call, or to none; a null timeout is allowed.
            let received = unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    headers,
                    count,
                    flags as _,
                    std::ptr::null_mut(),
                )
            };
            if let Ok(received) = usize::try_from(received) {
                if self.rights {
                    (0..received).for_each(|index| notes::close_rights(self.control(index)));
                }
                return Ok(received);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        }
    }

    /// Points the first `count` headers to their parts, as the kernel changes
    /// the lengths in them with each call.
    fn fill_in(&mut self, count: usize) {
        let mut controls = self.controls.iter_mut();
        let name_len = socklen_t::try_from(self.name_bytes).unwrap_or(0);
        let names = self.names.chunks_exact_mut(self.name_bytes);
        let parts = self.vectors.iter_mut().zip(names);
        for (message, (vectors, name)) in self.headers[..count].iter_mut().zip(parts) {
            let header = &mut message.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = name_len;
            // One part is cheaper for the kernel than one and empty ones.
            let last = vectors.iter().rposition(|part| part.iov_len != 0);
            header.msg_iovlen = last.unwrap_or(0) as _;
            header.msg_iovlen += 1;
            header.msg_iov = vectors.as_mut_ptr();
            (header.msg_control, header.msg_controllen) = match controls.next() {
                Some(control) => (control.0.as_mut_ptr().cast(), CONTROL_BYTES as _),
                None => (std::ptr::null_mut(), 0),
            };
            header.msg_flags = 0;
        }
    }

    /// Bytes of message `index` as it was sent.
    #[inline]
    pub(super) fn wire_len(&self, index: usize) -> usize {
        self.headers[index].msg_len as usize
    }

    /// The raw address of the sender of message `index`; empty when the kernel
    /// gave none.
    pub(super) fn name(&self, index: usize) -> &[u8] {
        let len = self.headers[index].msg_hdr.msg_namelen as usize;
        &self.names[index * self.name_bytes..][..len.min(self.name_bytes)]
    }

    /// Has the kernel told the same beside the bytes of message `index` as of the one
    /// before? May say no although it has.
    #[inline]
    pub(super) fn is_like_the_one_before(&self, index: usize) -> bool {
        let Some([before, this]) = self.headers.get(index.wrapping_sub(1)..=index) else {
            return false;
        };
        if self.name_bytes != NAME_STRIDE
            || !self.controls.is_empty()
                && (this.msg_hdr.msg_controllen, before.msg_hdr.msg_controllen) != (0, 0)
            || this.msg_hdr.msg_namelen != before.msg_hdr.msg_namelen
        {
            return false;
        }
        let names = &self.names[(index - 1) * NAME_STRIDE..];
        // Whole, with what earlier names have left behind them: nothing to look for.
        names.get(..NAME_STRIDE) == names.get(NAME_STRIDE..2 * NAME_STRIDE)
    }

    /// What the control messages of message `index` say.
    #[inline]
    pub(super) fn notes(&self, index: usize) -> Notes {
        match self.control(index) {
            [] => Notes::default(),
            control => Notes::read(control),
        }
    }

    #[inline]
    fn control(&self, index: usize) -> &[u8] {
        #[allow(clippy::unnecessary_cast, reason = "narrower in some C libraries")]
        let len = self.headers[index].msg_hdr.msg_controllen as usize;
        match self.controls.get(index) {
            Some(control) => &control.0[..len.min(CONTROL_BYTES)],
            None => &[],
        }
    }
}

/// A vector without a buffer.
const NO_BUFFER: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn no_message() -> libc::mmsghdr {
    // SAFETY: all fields are numbers and pointers, for which zero is a value
    // (some C libraries add private padding, so they cannot be named).
    unsafe { std::mem::zeroed() }
}
