//! The sending half of the door: `sendmmsg`, and what goes with it.
//!
//! [`Outgoing`] is what `sendmmsg` reads: for each message a header, its pieces,
//! its destination, and the segment size at which the kernel cuts it. It is
//! filled in anew before each call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_uint, socklen_t};

use super::{Kind, NAME_BYTES, Name, kind, no_message, option, os_error};

/// Pieces of one message at most (the kernel's `UIO_MAXIOV`).
pub(crate) const MAX_PIECES: usize = 1024;

/// A control message with a segment size (`UDP_SEGMENT`), as the kernel reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct SegmentNote {
    len: usize,
    level: c_int,
    kind: c_int,
    segment: u16,
}

/// Header and data; what follows is padding.
const NOTE_LEN: usize = size_of::<usize>() + 2 * size_of::<c_int>() + size_of::<u16>();

impl SegmentNote {
    fn of(segment: u16) -> Self {
        Self {
            len: NOTE_LEN,
            level: libc::SOL_UDP,
            kind: libc::UDP_SEGMENT,
            segment,
        }
    }
}

/// One message while it is filled in.
#[derive(Clone, Copy, Debug, Default)]
struct Draft {
    pieces: usize,
    name_len: socklen_t,
    cut: bool,
}

/// The arrays behind `sendmmsg`, for up to a fixed number of messages.
pub(crate) struct Outgoing {
    drafts: Vec<Draft>,
    /// 1. The pointers in a header are read by the kernel only, in
    ///    [`Self::send`], and all that are passed there were filled in by it.
    headers: Box<[libc::mmsghdr]>,
    vectors: Vec<libc::iovec>,
    names: Box<[Name]>,
    notes: Box<[SegmentNote]>,
}

// SAFETY: the only parts that are not Send are the raw pointers in `headers` and
// `vectors`. Those in `headers` are dead outside of `send` (invariant 1); those in
// `vectors` are followed by `send` only, whose caller answers for them wherever
// it calls from.
unsafe impl Send for Outgoing {}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("slots", &self.headers.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Arrays for `slots` messages.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            drafts: Vec::with_capacity(slots),
            headers: vec![no_message(); slots].into(),
            vectors: Vec::with_capacity(slots),
            names: vec![Name([0; NAME_BYTES]); slots].into(),
            notes: vec![SegmentNote::of(0); slots].into(),
        }
    }

    /// Forgets all messages.
    pub(crate) fn clear(&mut self) {
        self.drafts.clear();
        self.vectors.clear();
    }

    /// Begins a message to `name`, a raw address; empty on a connected socket.
    pub(crate) fn open(&mut self, name: &[u8]) {
        let name_len = name.len().min(NAME_BYTES);
        self.names[self.drafts.len()].0[..name_len].copy_from_slice(&name[..name_len]);
        self.drafts.push(Draft {
            name_len: socklen_t::try_from(name_len).unwrap_or(0),
            ..Draft::default()
        });
    }

    /// Adds a piece to the last message.
    pub(crate) fn add(&mut self, piece: *const [u8]) {
        if let Some(draft) = self.drafts.last_mut()
            && !piece.is_empty()
        {
            draft.pieces += 1;
            self.vectors.push(libc::iovec {
                iov_base: piece.cast_mut().cast(),
                iov_len: piece.len(),
            });
        }
    }

    /// Has the last message cut into datagrams of `segment` bytes.
    pub(crate) fn cut(&mut self, segment: u16) {
        let note = self.drafts.len().checked_sub(1);
        if let (Some(note), Some(draft)) = (note, self.drafts.last_mut()) {
            draft.cut = true;
            self.notes[note] = SegmentNote::of(segment);
        }
    }

    /// One `sendmmsg` over all messages, without waiting. Returns how many the
    /// kernel took: the first ones. An error is the first message's; that of a
    /// later one the kernel does not tell.
    ///
    /// # Safety
    /// - Each piece added since [`clear`](Self::clear) can be read now.
    pub(crate) unsafe fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.fill_in();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let count = c_uint::try_from(self.drafts.len()).map_err(io::Error::other)?;
        let headers = self.headers.as_mut_ptr();
        // SAFETY: the first `count` headers were just filled in with pointers to
        // this value's arrays, which nobody changes meanwhile, and with counts
        // of what lies there; the pieces are readable by the contract.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, count, flags as _) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Points the headers to their parts.
    fn fill_in(&mut self) {
        let mut vectors = &mut self.vectors[..];
        let parts = self.names.iter_mut().zip(&mut self.notes);
        let headers = self.headers.iter_mut().zip(parts);
        for (draft, (message, (name, note))) in self.drafts.iter().zip(headers) {
            let (mine, rest) = vectors.split_at_mut(draft.pieces);
            vectors = rest;
            let header = &mut message.msg_hdr;
            (header.msg_name, header.msg_namelen) = match draft.name_len {
                0 => (std::ptr::null_mut(), 0),
                len => (name.0.as_mut_ptr().cast(), len),
            };
            header.msg_iov = mine.as_mut_ptr();
            header.msg_iovlen = draft.pieces as _;
            (header.msg_control, header.msg_controllen) = if draft.cut {
                (
                    std::ptr::from_mut(note).cast(),
                    size_of::<SegmentNote>() as _,
                )
            } else {
                (std::ptr::null_mut(), 0)
            };
            header.msg_flags = 0;
        }
    }
}

/// Which of the sockets that a ring can send over is this? As [`kind`], and
/// `EAFNOSUPPORT` for a packet socket.
pub(crate) fn sender_kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    match kind(fd)? {
        Kind::Packet => Err(os_error(libc::EAFNOSUPPORT)),
        kind => Ok(kind),
    }
}

/// Does the kernel tell the sender when a device's queue was full
/// (`IP_RECVERR`)? Without, such a packet counts as sent, like any that the
/// network loses.
pub(crate) fn tells_of_full_queues(fd: BorrowedFd<'_>, kind: Kind) -> bool {
    let is_on = |level, name| option(fd, level, name).is_ok_and(|value| value != 0);
    kind.is_udp() && is_on(libc::IPPROTO_IP, libc::IP_RECVERR)
        || kind == Kind::UdpV6 && is_on(libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
}

/// Does the kernel know how to cut a message into datagrams (`UDP_SEGMENT`,
/// Linux 4.18)? One that does not would ignore the note and send it whole.
pub(crate) fn can_segment(fd: BorrowedFd<'_>) -> bool {
    option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// The error that waits at the socket, told once (`SO_ERROR`).
pub(crate) fn pending_error(fd: BorrowedFd<'_>) -> Option<io::Error> {
    match option(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        Ok(0) | Err(_) => None,
        Ok(code) => Some(io::Error::from_raw_os_error(code)),
    }
}

/// Is nothing of this socket's on its way out (`SIOCOUTQ`)? Then waiting does
/// not make room.
pub(crate) fn is_idle(fd: BorrowedFd<'_>) -> bool {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one `int`, to `bytes`, which lives on.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    code == 0 && bytes == 0
}

/// What an error of sending says about who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody: a signal came.
    Signal,
    /// The socket's buffer is full: it will have room again.
    Full,
    /// The system has no memory for it, which may be about its size.
    NoMemory,
    /// The socket is closed or shut down: nothing can be sent.
    Socket,
    /// The kernel or the device cannot cut messages of this form.
    Segments,
    /// A size: of the datagram, or of the segments.
    Size,
    /// This datagram, or an earlier one of which the network tells now.
    Datagram,
}

impl Fault {
    /// Reads the error number.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINTR) => Self::Signal,
            Some(libc::EAGAIN) => Self::Full,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::NoMemory,
            Some(libc::EBADF | libc::ENOTSOCK | libc::EPIPE) | None => Self::Socket,
            Some(libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Self::Segments,
            Some(libc::EINVAL | libc::EMSGSIZE) => Self::Size,
            Some(_) => Self::Datagram,
        }
    }
}
