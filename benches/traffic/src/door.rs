//! The door to the operating system: `sendmmsg`, `sendfile`, `recvmmsg`, the thread's time.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use libc::{c_int, c_uint, c_void, socklen_t};

const NO_MESSAGE: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

const NO_BUFFER: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Owns the descriptor that whoever started this process has left open for it.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer; a number that is not open is answered EBADF.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and nobody else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel cut each message of `socket` into datagrams of `bytes`; 0: not.
pub(crate) fn cut(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(io::Error::other)?;
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, bytes)
}

/// Lets the kernel join datagrams for `fd`.
pub(crate) fn join(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

fn set_option(fd: RawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let source: *const c_void = std::ptr::from_ref(&value).cast();
    // SAFETY: `source` and `len` describe `value`, which lives through the call.
    if unsafe { libc::setsockopt(fd, level, name, source, len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Is there something to read on the standard input, or its end?
pub(crate) fn input_waits() -> bool {
    let mut polled = libc::pollfd {
        fd: 0,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live `pollfd`, and no wait.
    unsafe { libc::poll(&raw mut polled, 1, 0) > 0 }
}

/// Processor time of the calling thread.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live `timespec`; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

/// Messages that are sent again and again.
pub(crate) struct Volley {
    /// Read by the kernel only, through `vectors`.
    _bytes: Box<[u8]>,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Volley {
    /// `bytes`, cut into messages of `message` bytes.
    pub(crate) fn new(mut bytes: Box<[u8]>, message: usize) -> Self {
        let mut vectors: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(message)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: chunk.len(),
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                let mut message = NO_MESSAGE;
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Self {
            _bytes: bytes,
            _vectors: vectors,
            headers,
        }
    }

    /// Sends up to `most` messages from the one at `first` on; returns how many went.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        first: usize,
        most: usize,
    ) -> io::Result<usize> {
        let end = (first + most).min(self.headers.len());
        let headers = &mut self.headers[first..end];
        let count = c_uint::try_from(headers.len()).map_err(io::Error::other)?;
        let pointer = headers.as_mut_ptr();
        // SAFETY: `count` live headers, each with one vector of `_vectors` over a
        // part of `_bytes`; both live as long as `self` and do not move with it.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), pointer, count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Messages in a file without a name, whose pages the kernel sends as they are.
pub(crate) struct Lent {
    file: File,
    message: usize,
    count: usize,
}

/// Where in the file a message starts: at an OS page of any machine, so that no
/// message touches one page more than it must.
const STRIDE: usize = 64 * 1024;

impl Lent {
    /// `bytes`, cut into messages of `message` bytes.
    pub(crate) fn new(bytes: &[u8], message: usize) -> io::Result<Self> {
        // SAFETY: a string that ends with a zero.
        let fd = unsafe { libc::memfd_create(c"messages".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else knows of it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        for (index, chunk) in bytes.chunks_exact(message).enumerate() {
            file.write_all_at(chunk, (index * message.next_multiple_of(STRIDE)) as u64)?;
        }
        Ok(Self {
            file,
            message,
            count: bytes.len() / message,
        })
    }

    /// Sends up to `most` messages from the one at `first` on; returns how many went.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        first: usize,
        most: usize,
    ) -> io::Result<usize> {
        let end = (first + most).min(self.count);
        for index in first..end {
            let mut at = libc::off_t::try_from(index * self.message.next_multiple_of(STRIDE))
                .map_err(io::Error::other)?;
            let (out, file) = (socket.as_raw_fd(), self.file.as_raw_fd());
            // SAFETY: `at` is a live number that the call moves on.
            let sent = unsafe { libc::sendfile(out, file, &raw mut at, self.message) };
            match usize::try_from(sent) {
                Ok(sent) if sent == self.message => {}
                Ok(_) => return Err(io::Error::other("the kernel took a part of a message")),
                Err(_) if index > first => return Ok(index - first),
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(end - first)
    }
}

/// Bytes for one control message with a number.
const CONTROL_BYTES: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Buffers that are received into again and again.
pub(crate) struct Buffers {
    bytes: Box<[u8]>,
    each: usize,
    controls: Box<[Control]>,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Buffers {
    /// Room for `slots` messages of up to `each` bytes; with `notes` the kernel
    /// tells of how many bytes the datagrams were that it has joined.
    pub(crate) fn new(slots: usize, each: usize, notes: bool) -> Self {
        let mut bytes = vec![0; slots * each].into_boxed_slice();
        let notes = if notes { slots } else { 0 };
        let mut controls = vec![Control([0; CONTROL_BYTES]); notes].into_boxed_slice();
        let mut vectors = vec![NO_BUFFER; slots].into_boxed_slice();
        let mut headers = vec![NO_MESSAGE; slots].into_boxed_slice();
        let parts = bytes.chunks_exact_mut(each).zip(&mut vectors);
        for ((chunk, vector), message) in parts.zip(&mut headers) {
            vector.iov_base = chunk.as_mut_ptr().cast();
            vector.iov_len = chunk.len();
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        for (control, message) in controls.iter_mut().zip(&mut headers) {
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        }
        Self {
            bytes,
            each,
            controls,
            _vectors: vectors,
            headers,
        }
    }

    /// One `recvmmsg`; waits for the first message if `wait`. 0: there was none,
    /// or none came for as long as the socket waits.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        for (message, _) in self.headers.iter_mut().zip(&self.controls) {
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        let flags = if wait {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        let count = c_uint::try_from(self.headers.len()).map_err(io::Error::other)?;
        let pointer = self.headers.as_mut_ptr();
        let no_limit = std::ptr::null_mut();
        // SAFETY: `count` live headers whose vectors and controls lie in arrays of
        // this value, which live as long and which nobody reads meanwhile.
        let read = unsafe { libc::recvmmsg(fd.as_raw_fd(), pointer, count, flags, no_limit) };
        match usize::try_from(read) {
            Ok(read) => Ok(read),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error => Err(error),
            },
        }
    }

    /// Message `index` of the last call: its bytes, and the bytes of each of its
    /// datagrams but the last.
    pub(crate) fn message(&self, index: usize) -> (&[u8], usize) {
        let len = self.headers[index].msg_len as usize;
        let from = index * self.each;
        (&self.bytes[from..from + len], self.segment(index, len))
    }

    fn segment(&self, index: usize, len: usize) -> usize {
        let header = &self.headers[index].msg_hdr;
        if header.msg_controllen == 0 {
            return len;
        }
        // SAFETY: the kernel filled in `header`; its control bytes are in `controls`.
        let note = unsafe { libc::CMSG_FIRSTHDR(header) };
        // SAFETY: null, or the head of a control message within `controls`.
        let Some(head) = (unsafe { note.as_ref() }) else {
            return len;
        };
        if (head.cmsg_level, head.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
            return len;
        }
        // SAFETY: a control message of this kind has a number after its head.
        let data: *const c_int = unsafe { libc::CMSG_DATA(note) }.cast();
        // SAFETY: as above; it may lie anywhere.
        let bytes = unsafe { data.read_unaligned() };
        usize::try_from(bytes).unwrap_or(len)
    }
}
