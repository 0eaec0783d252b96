//! Options that rings set on a socket for as long as they need them.
//!
//! An option is the socket's, and several rings may share a socket. So what rings
//! have asked for stands in one list for the process: the first to ask decides and
//! sets, the last to let go puts back what was there before. A ring that asks
//! for something else meanwhile is told what is.
//!
//! | socket | first ring | second ring | `UDP_GRO` while both live, then |
//! |--------|------------|-------------|----------------------------------|
//! | off    | on         | on          | on until the later is gone, off  |
//! | off    | on         | off         | on: the second takes packets apart too; off |
//! | off    | off        | on          | off: the second goes without; off |
//! | on     | off        | any         | off, on again                    |
//!
//! Without the list the ring that goes first would switch off what the other
//! relies on, and super-buffers already queued would lose their segment sizes.
//!
//! A child of a fork begins a list of its own: it shares the sockets and not the
//! needs, and what its parent had, a thread that the fork left behind may have
//! been in the middle of.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

use super::{Kind, get_option, option, set_option};
use crate::mem::process_number;
use crate::process::PerProcess;

/// An option of a socket that rings of this process have asked for.
#[derive(Debug)]
struct Entry {
    key: Key,
    on: bool,
    /// What puts it back: an option's name and value. `None` if nothing changed.
    back: Option<(c_int, c_int)>,
    /// How many rings need it; at least one.
    rings: usize,
}

/// Which option of which socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Which process asked: what a parent has asked for is not its child's to put back.
    process: u64,
    /// `SO_COOKIE`: never used again, unlike a descriptor's number.
    cookie: u64,
    level: c_int,
    name: c_int,
}

/// What rings of a process have asked for.
#[derive(Debug, Default)]
struct List {
    entries: Vec<Entry>,
    /// Sockets that had no number of their own so far.
    nameless: u64,
}

/// The list of each process.
static ASKED: PerProcess<Mutex<List>> = PerProcess::new();

/// The list of this process.
fn asked() -> MutexGuard<'static, List> {
    let list = ASKED.of(process_number());
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The options that a ring has asked for.
#[derive(Debug, Default)]
#[must_use = "what is asked for stays until it is let go"]
pub(crate) struct Needs(Vec<Key>);

impl Needs {
    /// Asks for coalescing of packets, or for none (`UDP_GRO`). Tells whether they
    /// are coalesced, which another ring may have decided. A kernel before 5.0
    /// coalesces nothing.
    pub(crate) fn coalesce_packets(&mut self, fd: BorrowedFd<'_>, on: bool) -> bool {
        self.ask(fd, libc::SOL_UDP, libc::UDP_GRO, on)
            .unwrap_or(false)
    }

    /// Asks for the kernel's drop count with each packet (`SO_RXQ_OVFL`). Costs a
    /// control message per packet once there was a drop; [`drops`](super::drops)
    /// costs nothing until somebody asks. Known since 2.6.33; without it drops are
    /// not seen, no more.
    pub(crate) fn count_drops(&mut self, fd: BorrowedFd<'_>) {
        let _ = self.ask(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, true);
    }

    /// Asks for the time at which the kernel took each packet in, in nanoseconds
    /// (`SO_TIMESTAMPNS`). Replaces microseconds, until it is put back.
    pub(crate) fn stamp_packets(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let micros = option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMP)?;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
        let back = (micros != 0).then_some((libc::SO_TIMESTAMP, micros));
        self.ask_and_note(fd, level, name, true, back).map(|_| ())
    }

    /// Asks for the interface through which each packet came (`IP_PKTINFO`). The
    /// names of a packet socket tell it anyway, and a UNIX socket has none.
    pub(crate) fn tell_interfaces(&mut self, fd: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
        let (level, name) = match kind {
            Kind::UdpV4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            Kind::UdpV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            Kind::Unix | Kind::Packet => return Ok(()),
        };
        self.ask(fd, level, name, true).map(|_| ())
    }

    /// Asks for an option and tells what it is now.
    fn ask(&mut self, fd: BorrowedFd<'_>, level: c_int, name: c_int, on: bool) -> io::Result<bool> {
        self.ask_and_note(fd, level, name, on, None)
    }

    /// As [`ask`](Self::ask); `back` puts back what was, if not the option itself.
    fn ask_and_note(
        &mut self,
        fd: BorrowedFd<'_>,
        level: c_int,
        name: c_int,
        on: bool,
        back: Option<(c_int, c_int)>,
    ) -> io::Result<bool> {
        let mut asked = asked();
        let key = Key {
            process: process_number(),
            cookie: cookie(fd).unwrap_or_else(|_| {
                asked.nameless += 1;
                !asked.nameless
            }),
            level,
            name,
        };
        let entries = &mut asked.entries;
        let on = if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
            entry.rings += 1;
            entry.on
        } else {
            let before = option(fd, level, name)?;
            let changes = (before != 0) != on;
            if changes {
                set_option(fd, level, name, c_int::from(on))?;
            }
            entries.push(Entry {
                key,
                on,
                back: back.or(changes.then_some((name, before))),
                rings: 1,
            });
            on
        };
        self.0.push(key);
        Ok(on)
    }

    /// Lets go of everything, and puts back what nobody else needs. A socket that
    /// is gone needs it no longer.
    pub(crate) fn let_go(&mut self, fd: BorrowedFd<'_>) {
        // Of what a parent process has asked for there is nothing to do.
        self.0.retain(|key| key.process == process_number());
        if self.0.is_empty() {
            return;
        }
        let entries = &mut asked().entries;
        // The latest first: nanoseconds stand on what was there before.
        for key in self.0.drain(..).rev() {
            let Some(at) = entries.iter().position(|entry| entry.key == key) else {
                continue;
            };
            entries[at].rings -= 1;
            if entries[at].rings == 0
                && let Some((name, before)) = entries.swap_remove(at).back
            {
                let _ = set_option(fd, key.level, name, before);
            }
        }
    }
}

/// A number that only this socket has, whatever descriptors refer to it
/// (`SO_COOKIE`, Linux 4.12). On an older kernel every ring has its own, and
/// rings that share a socket do not know of each other.
fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut value = [0_u64; 1];
    get_option(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(value[0])
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn drops_are_counted(socket: &UdpSocket) -> bool {
        option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL).unwrap() != 0
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri does not fork")]
    fn a_child_asks_while_a_thread_of_its_parent_is_in_the_list() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut needs = Needs::default();
        needs.count_drops(socket.as_fd());
        let inside = asked();
        // SAFETY: the child allocates, which the C library allows, and makes system calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a number. If the child waits for ever, this ends it.
            unsafe { libc::alarm(20) };
            let mut mine = Needs::default();
            mine.count_drops(socket.as_fd());
            mine.let_go(socket.as_fd());
            // What the parent needs stays on, also when what it had is let go here.
            needs.let_go(socket.as_fd());
            let code = c_int::from(!drops_are_counted(&socket));
            // SAFETY: ends the child where it is, without the tests of its parent.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: a child of ours, and a number to fill.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "a signal, or what it found");
        drop(inside);
        needs.let_go(socket.as_fd());
        assert!(!drops_are_counted(&socket));
    }
}
