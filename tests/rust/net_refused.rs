//! What rings do when the kernel refuses what it mostly grants.
//!
//! This program has socket calls of its own, before the C library's, which refuse what a test names,
//! on that test's thread, as often as it says; everything else goes to the kernel.

#[allow(dead_code, reason = "the other half is for super-buffers")]
mod net;

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use net::{V4, bench_on, set_option};
use pagefrag::net::{
    Readiness, RxOptions, RxRing, TxOptions, TxRing, wait_readable, wait_writable,
};
use pagefrag::{PageFragCache, PagePool};
use pagefrag_tests::{fill, first_damage, system};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Reading an option: level and name.
    Ask(c_int, c_int),
    /// Setting one.
    Set(c_int, c_int),
    Receive,
    Send,
    Poll,
    /// Waiting for nothing but the time.
    Nap,
    /// Mapping more than a mebibyte.
    Map,
}

/// As often as it comes.
const ALWAYS: u32 = u32::MAX;

thread_local! {
    /// What is refused, with which error, and how many times more.
    static PLAN: Cell<Option<(Call, c_int, u32)>> = const { Cell::new(None) };
}

/// Has `call` refused with `error` so many `times` while `f` runs.
fn refusing<R>(call: Call, error: c_int, times: u32, f: impl FnOnce() -> R) -> R {
    PLAN.set(Some((call, error, times)));
    let done = f();
    let (.., left) = PLAN.take().unwrap();
    assert!(left < times, "{call:?} was never asked for");
    done
}

/// Is this the call? Then its error is set.
fn refuses(call: Call) -> bool {
    let Some((refused, error, times)) = PLAN.get() else {
        return false;
    };
    if refused != call || times == 0 {
        return false;
    }
    PLAN.set(Some((refused, error, times - 1)));
    // SAFETY: the calling thread's own `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = error };
    true
}

fn int(done: c_long) -> c_int {
    c_int::try_from(done).unwrap_or(-1)
}

/// As the C library's, which it hides from this program, like those below.
///
/// # Safety
/// As `getsockopt(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut libc::socklen_t,
) -> c_int {
    if refuses(Call::Ask(level, name)) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    int(unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) })
}

/// # Safety
/// As `setsockopt(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: libc::socklen_t,
) -> c_int {
    if refuses(Call::Set(level, name)) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    int(unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, value, len) })
}

/// # Safety
/// As `recvmmsg(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut libc::mmsghdr,
    count: libc::c_uint,
    flags: c_int,
    timeout: *mut libc::timespec,
) -> c_int {
    if refuses(Call::Receive) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    int(unsafe { libc::syscall(libc::SYS_recvmmsg, fd, messages, count, flags, timeout) })
}

/// # Safety
/// As `sendmmsg(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendmmsg(
    fd: c_int,
    messages: *mut libc::mmsghdr,
    count: libc::c_uint,
    flags: c_int,
) -> c_int {
    if refuses(Call::Send) {
        return -1;
    }
    // SAFETY: the caller's own arguments.
    int(unsafe { libc::syscall(libc::SYS_sendmmsg, fd, messages, count, flags) })
}

/// # Safety
/// As `ppoll(2)`, without a signal mask.
#[unsafe(no_mangle)]
unsafe extern "C" fn ppoll(
    polled: *mut libc::pollfd,
    count: libc::nfds_t,
    timeout: *const libc::timespec,
    mask: *const libc::sigset_t,
) -> c_int {
    assert!(mask.is_null());
    // SAFETY: one or more of them, the caller's own.
    let nobody = unsafe { (*polled).fd } < 0;
    if refuses(if nobody { Call::Nap } else { Call::Poll }) {
        return -1;
    }
    // The kernel writes what is left of the time, the C library does not.
    // SAFETY: null, or the caller's own.
    let mut left = unsafe { timeout.as_ref() }.copied();
    let left: *mut libc::timespec = left
        .as_mut()
        .map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: the caller's own arguments, and no mask.
    int(unsafe { libc::syscall(libc::SYS_ppoll, polled, count, left, mask, 8) })
}

/// # Safety
/// As `mmap(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    if len > 1 << 20 && refuses(Call::Map) {
        return libc::MAP_FAILED;
    }
    // SAFETY: the caller's own arguments.
    unsafe { system::map(address, len, protection, flags, file, offset) }
}

fn number(socket: &impl AsRawFd, level: c_int, name: c_int) -> c_int {
    let (mut value, mut len): (c_int, libc::socklen_t) = (0, 4);
    let target = (&raw mut value).cast();
    // SAFETY: `target` and `len` describe `value`.
    let code = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, target, &raw mut len) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    value
}

fn plain() -> RxOptions {
    RxOptions {
        gro: false,
        ..RxOptions::default()
    }
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, seed);
    bytes
}

// --- receiving ---

#[test]
fn drops_are_told_with_packets_where_the_socket_cannot_be_asked() {
    let socket = UdpSocket::bind(V4).unwrap();
    let address = socket.local_addr().unwrap();
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 8 * 1024);
    let pool = PagePool::new(32 * 1024).unwrap();
    let memory = Call::Ask(libc::SOL_SOCKET, libc::SO_MEMINFO);
    refusing(memory, libc::ENOPROTOOPT, ALWAYS, || {
        let mut ring = RxRing::new(&socket, &pool, plain()).unwrap();
        let mut cache = PageFragCache::new(&pool);
        let sender = UdpSocket::bind(V4).unwrap();
        for _ in 0..200 {
            sender.send_to(&[1; 1000], address).unwrap();
        }
        while !ring.recv(&mut cache, 64).unwrap().is_empty() {}
        let before = ring.stats();
        assert!(before.rx_packets < 200);
        sender.send_to(b"brings the count", address).unwrap();
        assert_eq!(ring.recv(&mut cache, 64).unwrap().len(), 1);
        let stats = ring.stats();
        assert_eq!(stats.rx_packets + stats.rx_hw_drop_overruns, 201);
    });
    assert_eq!(
        number(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
        0,
        "put back"
    );
}

#[test]
fn a_ring_that_is_refused_an_option_puts_the_others_back() {
    let socket = UdpSocket::bind(V4).unwrap();
    let options = RxOptions {
        timestamps: true,
        interfaces: true,
        ..plain()
    };
    let interfaces = Call::Set(libc::IPPROTO_IP, libc::IP_PKTINFO);
    let made = refusing(interfaces, libc::EPERM, 1, || {
        RxRing::new(&socket, PagePool::global(), options).map(|_| ())
    });
    assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EPERM));
    let stamps = number(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    assert_eq!(stamps, 0);
}

#[test]
fn without_addresses_for_super_buffers_none_are_asked_for() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut bench = refusing(Call::Map, libc::ENOMEM, 1, || {
        bench_on(pool, V4, RxOptions::default())
    });
    assert!(!bench.ring.gro());
    bench.send(1200, 7);
    let packets = bench.recv_all(1);
    assert_eq!(first_damage(&packets[0].frag, 7), None);
}

#[test]
fn a_ring_that_would_cut_super_buffers_off_is_refused() {
    let socket = UdpSocket::bind(V4).unwrap();
    let pool = PagePool::global();
    let ring = RxRing::new(&socket, pool, RxOptions::default()).unwrap();
    if !ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    let second = refusing(Call::Map, libc::ENOMEM, 1, || {
        RxRing::new(&socket, pool, plain()).map(|_| ())
    });
    assert_eq!(second.unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert!(ring.gro(), "the first goes on");
    drop(ring);
    assert_eq!(number(&socket, libc::SOL_UDP, libc::UDP_GRO), 0);
}

#[test]
fn rings_that_cannot_tell_sockets_apart_put_back_what_they_changed() {
    let socket = UdpSocket::bind(V4).unwrap();
    let stamps = || number(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    let options = RxOptions {
        timestamps: true,
        ..plain()
    };
    let cookie = Call::Ask(libc::SOL_SOCKET, libc::SO_COOKIE);
    refusing(cookie, libc::ENOPROTOOPT, ALWAYS, || {
        let ring = RxRing::new(&socket, PagePool::global(), options).unwrap();
        assert_eq!(stamps(), 1);
        drop(ring);
        assert_eq!(stamps(), 0);
    });
}

#[test]
fn a_receive_that_a_signal_ends_is_made_again() {
    let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), V4, plain());
    bench.send(100, 1);
    assert_eq!(bench.ring.wait(None).unwrap(), Readiness::Ready);
    let batch = refusing(Call::Receive, libc::EINTR, 3, || bench.recv(64));
    assert_eq!(batch.len(), 1);
}

#[test]
fn an_error_of_receiving_is_told_and_costs_no_packet() {
    let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), V4, plain());
    bench.send(100, 1);
    let refused = refusing(Call::Receive, libc::ENOMEM, 1, || {
        bench.ring.recv(&mut bench.cache, 64).map(|_| ())
    });
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(bench.recv_all(1).len(), 1);
    assert_eq!(bench.ring.stats().rx_packets, 1);
}

// --- waiting ---

#[test]
fn a_wait_that_the_system_refuses_says_so() {
    let socket = UdpSocket::bind(V4).unwrap();
    let fd = socket.as_fd();
    let error = |wait: &dyn Fn() -> std::io::Result<Readiness>| {
        let refused = refusing(Call::Poll, libc::ENOMEM, 1, wait);
        refused.unwrap_err().raw_os_error()
    };
    assert_eq!(error(&|| wait_readable(fd, None)), Some(libc::ENOMEM));
    assert_eq!(error(&|| wait_writable(fd, None)), Some(libc::ENOMEM));
    let ended = refusing(Call::Poll, libc::EINTR, 1, || wait_writable(fd, None));
    assert_eq!(ended.unwrap(), Readiness::Interrupted);
}

#[test]
fn what_lies_in_the_error_queue_ends_no_wait() {
    let socket = UdpSocket::bind(V4).unwrap();
    set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1);
    let gone = UdpSocket::bind(V4).unwrap().local_addr().unwrap();
    socket.send_to(b"to nobody", gone).unwrap();
    let fd = socket.as_fd();
    let told = wait_readable(fd, None).unwrap_err();
    assert_eq!(told.raw_os_error(), Some(libc::ECONNREFUSED), "told once");
    let short = Some(Duration::from_millis(20));
    assert_eq!(wait_readable(fd, short).unwrap(), Readiness::TimedOut);
    let ended = refusing(Call::Nap, libc::EINTR, 1, || wait_readable(fd, None));
    assert_eq!(ended.unwrap(), Readiness::Interrupted);
    socket
        .send_to(b"to us", socket.local_addr().unwrap())
        .unwrap();
    assert_eq!(wait_readable(fd, None).unwrap(), Readiness::Ready);
}

// --- sending ---

fn sender(gso: bool) -> (UdpSocket, SocketAddr, TxRing<UdpSocket, Vec<u8>>) {
    let receiver = UdpSocket::bind(V4).unwrap();
    let timeout = Some(Duration::from_secs(20));
    receiver.set_read_timeout(timeout).unwrap();
    let address = receiver.local_addr().unwrap();
    let options = TxOptions {
        gso,
        ..TxOptions::default()
    };
    let ring = TxRing::new(UdpSocket::bind(V4).unwrap(), options).unwrap();
    (receiver, address, ring)
}

/// Sends eight datagrams of 500 bytes, of which the first try ends with `error`.
fn send_in_spite_of(error: c_int) -> TxRing<UdpSocket, Vec<u8>> {
    let (receiver, address, mut ring) = sender(true);
    for seed in 0..8 {
        ring.push(bytes(500, seed), Some(address.into())).unwrap();
    }
    let flushed = refusing(Call::Send, error, 1, || ring.flush().unwrap());
    assert_eq!((flushed.sent, flushed.failed, ring.queued()), (8, 0, 0));
    let mut buffer = [0; 2048];
    for seed in 0..8 {
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 500);
        assert_eq!(first_damage(&buffer[..500], seed), None);
    }
    ring
}

#[test]
fn a_send_that_a_signal_ends_is_made_again() {
    assert_eq!(send_in_spite_of(libc::EINTR).stats().gso_refused, 0);
}

#[test]
fn a_device_that_cannot_cut_is_not_asked_again() {
    let ring = send_in_spite_of(libc::EIO);
    assert_eq!((ring.stats().gso_refused, ring.gso()), (1, false));
}

#[test]
fn a_system_short_of_memory_is_given_smaller_messages() {
    let ring = send_in_spite_of(libc::ENOBUFS);
    if !ring.gso() {
        eprintln!("skipped: this kernel has no UDP_SEGMENT");
        return;
    }
    let stats = ring.stats();
    // One alone, as the message of eight was refused; then no more than half of it: 4 + 3.
    assert_eq!((stats.gso_refused, stats.tx_hw_gso_packets), (1, 2));
    assert_eq!(stats.tx_hw_gso_wire_packets, 7);
}

#[test]
fn a_system_short_of_memory_is_waited_for_while_datagrams_are_on_their_way() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut ring = TxRing::new(ours, TxOptions::default()).unwrap();
    ring.push(vec![1; 100], None).unwrap();
    assert_eq!(ring.flush().unwrap().sent, 1);
    ring.push(vec![2; 100], None).unwrap();
    let flushed = refusing(Call::Send, libc::ENOBUFS, 1, || ring.flush().unwrap());
    assert_eq!((flushed.sent, flushed.failed, ring.queued()), (0, 0, 1));
    assert_eq!(ring.stats().tx_stop, 1);
    assert_eq!(ring.flush().unwrap().sent, 1);
    assert_eq!(ring.stats().tx_wake, 1);
    let mut buffer = [0; 200];
    assert_eq!(theirs.recv(&mut buffer).unwrap(), 100);
    assert_eq!(theirs.recv(&mut buffer).unwrap(), 100);
}
