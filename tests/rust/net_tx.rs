//! What a transmit ring promises, on real sockets.

#[allow(dead_code, reason = "the other half is for receiving")]
mod net;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use net::{V4, families, set_option};
use pagefrag::net::{
    Completion, Payload, Readiness, Source, TxOptions, TxRing, netdev_alloc_frag, netdev_alloc_skb,
    wait_writable,
};
use pagefrag_tests::{fill, first_damage};

const SIZES: [usize; 5] = [0, 1, 1472, 9000, 65_507];

/// A socket that keeps a burst and gives up on what does not come.
fn receiver(bind: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(bind).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn read(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let len = socket.recv(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let nothing =
        matches!(socket.recv(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
    nothing
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, seed as u64);
    bytes
}

fn options(gso: bool) -> TxOptions {
    TxOptions {
        gso,
        ..TxOptions::default()
    }
}

fn ring<B: Payload>(bind: &str, gso: bool) -> TxRing<UdpSocket, B> {
    TxRing::new(UdpSocket::bind(bind).unwrap(), options(gso)).unwrap()
}

/// Pushes one datagram for each length, seeded with its place.
fn push_all(ring: &mut TxRing<UdpSocket, Vec<u8>>, lens: &[usize], to: Option<Source>) {
    for (seed, len) in lens.iter().enumerate() {
        ring.push(bytes(*len, seed), to).expect("room");
    }
}

/// Flushes, and tells which numbers went and which failed with which error.
fn flush<S: AsFd, B: Payload>(ring: &mut TxRing<S, B>) -> (Vec<u64>, Vec<(u64, i32)>, Option<i32>) {
    let (mut sent, mut failed) = (Vec::new(), Vec::new());
    let flushed = ring
        .flush_with(|done: Completion<B>| match done.result {
            Ok(()) => sent.push(done.number),
            Err(error) => failed.push((done.number, error.raw_os_error().unwrap())),
        })
        .unwrap();
    assert_eq!((sent.len(), failed.len()), (flushed.sent, flushed.failed));
    let notice = flushed.notice.and_then(|notice| notice.raw_os_error());
    (sent, failed, notice)
}

fn expect(socket: &UdpSocket, lens: &[usize]) {
    for (seed, len) in lens.iter().enumerate() {
        let got = read(socket);
        assert_eq!(got.len(), *len, "datagram {seed}");
        assert_eq!(first_damage(&got, seed as u64), None, "datagram {seed}");
    }
    assert!(is_empty(socket), "one datagram too many");
}

#[test]
fn datagrams_of_every_size_arrive_whole_and_in_order() {
    for bind in families() {
        for gso in [false, true] {
            for connected in [false, true] {
                let (socket, address) = receiver(bind);
                let mut ring = ring(bind, gso);
                let to = (!connected).then(|| address.into());
                if connected {
                    ring.socket().connect(address).unwrap();
                }
                push_all(&mut ring, &SIZES, to);
                assert_eq!(flush(&mut ring), (vec![0, 1, 2, 3, 4], vec![], None));
                expect(&socket, &SIZES);
                let stats = ring.stats();
                let total: usize = SIZES.iter().sum();
                assert_eq!((stats.tx_packets, stats.tx_bytes), (5, total as u64));
                assert_eq!((stats.tx_hw_drops, stats.tx_stop, ring.queued()), (0, 0, 0));
            }
        }
    }
}

#[test]
fn what_arrives_is_the_same_with_and_without_segments() {
    // Equal sizes, short ends, empty ones between, growing, and one alone.
    let lens: Vec<usize> = (0..60)
        .map(|nth: usize| match nth {
            0..12 => 1200,
            12 | 40 => 300,
            20 => 0,
            21..30 => 1,
            30..40 => 100 * nth,
            41..44 => 9000,
            _ => 64,
        })
        .collect();
    for bind in families() {
        for gso in [false, true] {
            let (socket, address) = receiver(bind);
            let mut ring = ring(bind, gso);
            push_all(&mut ring, &lens, Some(address.into()));
            assert_eq!(ring.flush().unwrap().sent, 60);
            expect(&socket, &lens);
            let stats = ring.stats();
            assert_eq!(stats.tx_hw_gso_packets > 0, gso);
            assert_eq!((stats.tx_packets, stats.gso_refused), (60, 0));
            assert_eq!((stats.batches, stats.largest_batch), (1, 60));
        }
    }
}

#[test]
fn a_run_ends_where_the_kernel_ends_it() {
    // Lengths, and how many datagrams go as messages that are cut.
    let cases: [(&[usize], &[u64]); 7] = [
        (&[1000; 100], &[64, 36]),
        (&[1200; 60], &[54, 6]),
        (&[1472, 1472, 5, 1472], &[3]),
        (&[5, 1472], &[]),
        (&[0, 0, 0], &[]),
        (&[700, 700, 0, 700, 700], &[2, 2]),
        (&[32_753, 32_753, 32_753], &[2]),
    ];
    for (lens, cut) in cases {
        let (socket, address) = receiver(V4);
        let options = TxOptions {
            slots: 100,
            gso: true,
        };
        let mut ring = TxRing::new(UdpSocket::bind(V4).unwrap(), options).unwrap();
        push_all(&mut ring, lens, Some(address.into()));
        assert_eq!(ring.flush().unwrap().sent, lens.len());
        expect(&socket, lens);
        let stats = ring.stats();
        assert_eq!(stats.tx_hw_gso_packets, cut.len() as u64, "{lens:?}");
        assert_eq!(stats.tx_hw_gso_wire_packets, cut.iter().sum::<u64>());
        assert_eq!(stats.tx_hw_gso_bytes, stats.tx_hw_gso_wire_bytes);
    }
}

#[test]
fn each_datagram_goes_to_its_own_destination() {
    let (one, two) = (receiver(V4), receiver(V4));
    let mut ring = ring(V4, true);
    for seed in 0..20 {
        let to = if seed % 5 < 3 { one.1 } else { two.1 };
        ring.push(bytes(100, seed), Some(to.into())).unwrap();
    }
    assert_eq!(ring.flush().unwrap().sent, 20);
    for seed in 0..20 {
        let socket = if seed % 5 < 3 { &one.0 } else { &two.0 };
        assert_eq!(first_damage(&read(socket), seed), None);
    }
    assert!(is_empty(&one.0) && is_empty(&two.0));
    assert_eq!(ring.stats().tx_hw_gso_packets, 8);
}

#[test]
fn an_skb_goes_out_of_all_its_pieces() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    for seed in 0..8_u8 {
        let mut skb = netdev_alloc_skb(256).unwrap();
        skb.put(3).unwrap().copy_from_slice(b"abc");
        skb.push(2).unwrap().copy_from_slice(&[seed, seed]);
        for piece in [&b"defg"[..], b"", b"hi"] {
            let mut frag = netdev_alloc_frag(8, 1).unwrap();
            frag[..piece.len()].copy_from_slice(piece);
            frag.truncate(piece.len());
            skb.add_frag(frag.freeze()).unwrap();
        }
        ring.push(skb, Some(address.into())).unwrap();
    }
    assert_eq!(ring.flush().unwrap().sent, 8);
    for seed in 0..8_u8 {
        assert_eq!(read(&socket), [&[seed, seed][..], b"abcdefghi"].concat());
    }
    assert_eq!(ring.stats().tx_hw_gso_packets, 1);
}

#[test]
fn a_run_has_no_more_pieces_than_the_kernel_takes() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    for seed in 0..64_u8 {
        let mut skb = netdev_alloc_skb(64).unwrap();
        skb.put(1).unwrap()[0] = seed;
        for _ in 0..17 {
            let mut frag = netdev_alloc_frag(1, 1).unwrap();
            frag[0] = seed;
            skb.add_frag(frag.freeze()).unwrap();
        }
        ring.push(skb, Some(address.into())).unwrap();
    }
    // 18 pieces each: 56 datagrams are 1008.
    assert_eq!(ring.flush().unwrap().sent, 64);
    assert_eq!(ring.stats().tx_hw_gso_packets, 2);
    assert_eq!(ring.stats().gso_refused, 0);
    for seed in 0..64_u8 {
        assert_eq!(read(&socket), [seed; 18]);
    }
}

#[test]
fn a_refused_segmentation_is_remembered_and_nothing_is_lost_or_doubled() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    // The kernel cuts nothing whose checksum it may not write.
    set_option(ring.socket(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    let lens = [500, 500, 500, 500, 9, 9, 9];
    for round in 0..3 {
        push_all(&mut ring, &lens, Some(address.into()));
        let numbers: Vec<u64> = (round * 7..round * 7 + 7).collect();
        assert_eq!(flush(&mut ring), (numbers, vec![], None));
        expect(&socket, &lens);
    }
    let stats = ring.stats();
    assert_eq!((stats.gso_refused, stats.tx_hw_gso_packets), (2, 0));
    assert_eq!((stats.tx_packets, stats.tx_hw_drops), (21, 0));
}

#[test]
fn segments_above_the_path_go_one_by_one_and_smaller_ones_go_on() {
    const IPV6_MTU: i32 = 24;
    for bind in families().into_iter().filter(|bind| *bind != V4) {
        let (socket, address) = receiver(bind);
        let mut ring = ring(bind, true);
        set_option(ring.socket(), libc::IPPROTO_IPV6, IPV6_MTU, 1280);
        let lens = [2000, 2000, 2000, 1000, 1000, 1000];
        for _ in 0..2 {
            push_all(&mut ring, &lens, Some(address.into()));
            assert_eq!(ring.flush().unwrap().sent, 6);
            expect(&socket, &lens);
        }
        let stats = ring.stats();
        assert!(ring.gso());
        assert_eq!((stats.gso_refused, stats.tx_hw_gso_packets), (1, 2));
    }
}

#[test]
fn a_datagram_that_is_too_long_is_told_by_number_and_the_others_go() {
    for bind in families() {
        for gso in [false, true] {
            let (socket, address) = receiver(bind);
            let mut ring = ring(bind, gso);
            let most = if bind == V4 { 65_507 } else { 65_527 };
            push_all(&mut ring, &[100, 100, most + 1, 100], Some(address.into()));
            let failed = vec![(2, libc::EMSGSIZE)];
            assert_eq!(flush(&mut ring), (vec![0, 1, 3], failed, None));
            for seed in [0, 1, 3] {
                assert_eq!(first_damage(&read(&socket), seed), None);
            }
            assert!(is_empty(&socket));
            let stats = ring.stats();
            assert_eq!((stats.tx_hw_drops, stats.tx_hw_drop_errors), (1, 1));
            assert_eq!((ring.gso(), stats.tx_packets), (gso, 3));
        }
    }
}

#[test]
fn a_datagram_to_nowhere_is_told_by_number() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    let port_0: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let broadcast: SocketAddr = "255.255.255.255:9".parse().unwrap();
    let targets = [
        Some(port_0),
        Some(port_0),
        Some(address),
        None,
        Some(broadcast),
    ];
    for to in targets {
        ring.push(bytes(10, 0), to.map(Source::from)).unwrap();
    }
    let (sent, failed, notice) = flush(&mut ring);
    assert_eq!((sent, notice), (vec![2], None));
    let errors = [libc::EINVAL, libc::EINVAL, libc::EDESTADDRREQ, libc::EACCES];
    assert_eq!(
        failed,
        [0, 1, 3, 4].into_iter().zip(errors).collect::<Vec<_>>()
    );
    assert!(ring.gso(), "the address was at fault, not the segments");
    expect(&socket, &[10]);
}

#[test]
fn a_refusing_peer_is_told_and_stops_nothing() {
    for bind in families() {
        for gso in [false, true] {
            let (socket, address) = receiver(bind);
            let mut ring = ring(bind, gso);
            ring.socket().connect(address).unwrap();
            drop(socket);
            push_all(&mut ring, &[10, 20, 30, 40], None);
            let (sent, failed, notice) = flush(&mut ring);
            assert_eq!((sent, failed), (vec![0, 1, 2, 3], vec![]));
            assert_eq!(notice, Some(libc::ECONNREFUSED));
            // Somebody listens again: everything arrives, once.
            push_all(&mut ring, &[5], None);
            flush(&mut ring);
            let socket = UdpSocket::bind(address).unwrap();
            push_all(&mut ring, &[7, 7, 7], None);
            let (sent, failed, notice) = flush(&mut ring);
            assert_eq!((sent, failed), (vec![5, 6, 7], vec![]));
            assert_eq!(notice, Some(libc::ECONNREFUSED), "about the one before");
            expect(&socket, &[7, 7, 7]);
            assert!(ring.gso() == gso && ring.stats().tx_hw_drops == 0);
        }
    }
}

#[test]
fn a_burst_beyond_the_send_buffer_arrives_whole() {
    for bind in families() {
        for gso in [false, true] {
            let (socket, address) = receiver(bind);
            let mut ring = ring(bind, gso);
            set_option(ring.socket(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1);
            for round in 0..20 {
                push_all(&mut ring, &[1400; 64], Some(address.into()));
                let mut got = 0;
                while ring.queued() > 0 {
                    got += ring.flush().unwrap().sent;
                    ring.wait(Some(Duration::from_millis(10))).unwrap();
                }
                assert_eq!(got, 64, "round {round}");
                expect(&socket, &[1400; 64]);
            }
            assert_eq!(ring.stats().tx_packets, 20 * 64);
        }
    }
}

#[test]
fn a_datagram_that_never_fits_the_send_buffer_is_told() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    set_option(ring.socket(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1);
    push_all(&mut ring, &[65_507, 10], Some(address.into()));
    let (sent, failed, _) = flush(&mut ring);
    match &failed[..] {
        // A kernel that charges the datagram as a whole takes it.
        [] => assert_eq!((sent, read(&socket).len()), (vec![0, 1], 65_507)),
        failed => assert_eq!((sent, failed), (vec![1], &[(0, libc::ENOBUFS)][..])),
    }
    assert_eq!(first_damage(&read(&socket), 1), None);
}

#[test]
fn a_socket_that_is_shut_down_keeps_the_queue() {
    let (_socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    ring.socket().connect(address).unwrap();
    push_all(&mut ring, &[10, 20], None);
    // SAFETY: plain numbers.
    let code = unsafe {
        libc::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(ring.socket()),
            libc::SHUT_WR,
        )
    };
    assert_eq!(code, 0);
    let error = ring.flush().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    assert_eq!(
        (ring.queued(), ring.cancel().len(), ring.queued()),
        (2, 2, 0)
    );
    assert_eq!(
        (ring.stats().tx_hw_drops, ring.stats().tx_hw_drop_errors),
        (2, 0)
    );
}

#[test]
fn a_peer_of_a_unix_socket_that_is_full_is_waited_for() {
    const COUNT: usize = 1024;
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    // Whichever is full first: its send buffer, or its peer's queue.
    set_option(&ours, libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 16);
    let options = TxOptions {
        slots: COUNT,
        gso: true,
    };
    let mut ring = TxRing::new(ours, options).unwrap();
    assert!(!ring.gso());
    for seed in 0..COUNT {
        ring.push(bytes(100 + seed % 50, seed), None).expect("room");
    }
    let sent = ring.flush().unwrap().sent;
    assert!((1..COUNT).contains(&sent), "{sent} went");
    assert_eq!((ring.queued(), ring.stats().tx_stop), (COUNT - sent, 1));
    let full = ring.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(full, Readiness::TimedOut);
    let mut got = vec![0; 200];
    for seed in 0..COUNT {
        let len = theirs.recv(&mut got).unwrap();
        assert_eq!(len, 100 + seed % 50);
        assert_eq!(first_damage(&got[..len], seed as u64), None);
        ring.flush().unwrap();
    }
    theirs.set_nonblocking(true).unwrap();
    assert!(theirs.recv(&mut got).is_err(), "one too many");
    let stats = ring.stats();
    assert_eq!((stats.tx_packets, stats.tx_hw_drops), (COUNT as u64, 0));
}

#[test]
fn a_unix_socket_has_one_peer_and_tells_when_it_is_gone() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let (_socket, address) = receiver(V4);
    let mut ring = TxRing::new(ours, options(true)).unwrap();
    ring.push(bytes(10, 0), Some(address.into())).unwrap();
    ring.push(bytes(10, 1), None).unwrap();
    assert_eq!(
        flush(&mut ring),
        (vec![1], vec![(0, libc::EINVAL)], None),
        "a destination is refused"
    );
    drop(theirs);
    ring.push(bytes(10, 2), None).unwrap();
    let (sent, failed, notice) = flush(&mut ring);
    assert_eq!((sent, notice), (vec![], Some(libc::ECONNREFUSED)));
    assert_eq!(failed, vec![(2, libc::ENOTCONN)]);
}

#[test]
fn nothing_is_cut_while_an_error_may_come_after_a_part_has_gone() {
    const IPV6_RECVERR: i32 = 25;
    for bind in families() {
        let (level, name) = if bind == V4 {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        } else {
            (libc::IPPROTO_IPV6, IPV6_RECVERR)
        };
        let (socket, address) = receiver(bind);
        let mut ring = ring(bind, true);
        for (on, messages) in [(0, 1), (1, 1), (0, 2)] {
            set_option(ring.socket(), level, name, on);
            assert_eq!(ring.gso(), on == 0);
            push_all(&mut ring, &[100; 10], Some(address.into()));
            assert_eq!(ring.flush().unwrap().sent, 10);
            expect(&socket, &[100; 10]);
            assert_eq!(ring.stats().tx_hw_gso_packets, messages);
        }
    }
}

#[test]
fn a_refusing_peer_is_told_though_the_error_queue_is_on() {
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    set_option(ring.socket(), libc::IPPROTO_IP, libc::IP_RECVERR, 1);
    ring.socket().connect(address).unwrap();
    drop(socket);
    push_all(&mut ring, &[10, 10, 10, 10], None);
    let (sent, failed, notice) = flush(&mut ring);
    assert_eq!((sent, failed), (vec![0, 1, 2, 3], vec![]));
    assert_eq!(notice, Some(libc::ECONNREFUSED));
    push_all(&mut ring, &[5], None);
    flush(&mut ring);
    let socket = UdpSocket::bind(address).unwrap();
    push_all(&mut ring, &[7, 7, 7], None);
    let (sent, failed, _) = flush(&mut ring);
    assert_eq!((sent, failed), (vec![5, 6, 7], vec![]));
    expect(&socket, &[7, 7, 7]);
}

#[test]
fn a_full_ring_gives_the_buffer_back() {
    let (socket, address) = receiver(V4);
    let options = TxOptions {
        slots: 2,
        gso: true,
    };
    let mut ring = TxRing::new(UdpSocket::bind(V4).unwrap(), options).unwrap();
    push_all(&mut ring, &[10, 10], Some(address.into()));
    assert!(ring.is_full());
    assert_eq!(ring.push(bytes(4, 9), None), Err(bytes(4, 9)));
    assert_eq!(flush(&mut ring).0, [0, 1]);
    assert_eq!(ring.push(bytes(4, 9), Some(address.into())), Ok(2));
    assert_eq!(ring.flush().unwrap().sent, 1);
    assert_eq!(read(&socket).len(), 10);
}

#[test]
fn fragments_are_kept_until_the_kernel_has_them() {
    let pool = pagefrag::PagePool::new(32 * 1024).unwrap();
    let mut cache = pagefrag::PageFragCache::new(&pool);
    let (socket, address) = receiver(V4);
    let mut ring = ring(V4, true);
    for seed in 0..10 {
        let mut frag = cache.alloc(1000).unwrap();
        fill(&mut frag, seed);
        ring.push(frag.freeze(), Some(address.into())).unwrap();
    }
    assert_eq!(pool.stats().live_bytes, 10 * 1024);
    assert_eq!(ring.flush().unwrap().sent, 10);
    assert_eq!(pool.stats().live_bytes, 0);
    expect(&socket, &[1000; 10]);
}

#[test]
fn what_is_no_udp_socket_is_refused() {
    let stream = TcpListener::bind(V4).unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let code = |fd| {
        let ring = TxRing::<_, Vec<u8>>::new(fd, TxOptions::default());
        ring.unwrap_err().raw_os_error().unwrap()
    };
    assert_eq!(code(stream.as_fd()), libc::EPROTOTYPE);
    assert_eq!(code(unix.as_fd()), libc::EPROTOTYPE);
    assert_eq!(code(file.as_fd()), libc::ENOTSOCK);
    for slots in [0, 1025, usize::MAX] {
        let socket = UdpSocket::bind(V4).unwrap();
        let ring = TxRing::<_, Vec<u8>>::new(socket, TxOptions { slots, gso: true });
        assert_eq!(ring.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn an_idle_socket_has_room() {
    let socket = UdpSocket::bind(V4).unwrap();
    assert_eq!(
        wait_writable(socket.as_fd(), None).unwrap(),
        Readiness::Ready
    );
}
