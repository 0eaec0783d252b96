//! What a receive ring promises, on real sockets.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use net::{Bench, Taken, V4, bench_on, families, one_region, set_option};
use pagefrag::net::{Readiness, RxOptions, RxRing, wait_readable};
use pagefrag::{FragMut, PageFragCache, PagePool};
use pagefrag_tests::first_damage;

fn bench(options: RxOptions) -> Bench {
    bench_on(PagePool::new(32 * 1024).unwrap(), V4, options)
}

fn no_gro() -> RxOptions {
    RxOptions {
        gro: false,
        ..RxOptions::default()
    }
}

#[test]
fn packets_arrive_whole_in_order_and_signed() {
    for bind in families() {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut bench = bench_on(pool.clone(), bind, RxOptions::default());
        let sizes = [0, 1, 63, 64, 65, 255, 256, 257, 1200, 1472, 2047, 2048];
        for (seed, len) in sizes.into_iter().enumerate() {
            bench.send(len, seed as u64);
        }
        let batch = bench.recv(64);
        assert_eq!(batch.len(), sizes.len());
        let from = bench.sender.local_addr().unwrap();
        for (seed, (packet, len)) in batch.iter().zip(sizes).enumerate() {
            assert_eq!(packet.bytes.len(), len);
            assert_eq!(packet.wire_len(), len);
            assert_eq!(first_damage(packet.bytes, seed as u64), None);
            assert_eq!(packet.source().to_socket_addr(), Some(from));
            assert!(!packet.is_truncated() && !packet.is_segment());
        }
        let stats = bench.ring.stats();
        let total: usize = sizes.iter().sum();
        assert_eq!((stats.rx_packets, stats.rx_bytes), (12, total as u64));
        assert_eq!((stats.batches, stats.largest_batch), (1, 12));
        drop((batch, bench));
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    }
}

#[test]
fn nothing_there_is_an_empty_batch() {
    let mut bench = bench(RxOptions::default());
    let batch = bench.recv(64);
    assert!(batch.is_empty() && batch.discarded() == 0);
    assert_eq!(bench.ring.stats().batches, 0);
    assert_eq!(bench.ring.armed(), 64, "armed for the next call");
}

#[test]
fn the_largest_datagram_fits_a_page_of_64_kib() {
    let options = RxOptions {
        buf_size: 64 * 1024,
        ..no_gro()
    };
    let mut bench = bench_on(PagePool::new(64 * 1024).unwrap(), V4, options);
    bench.send(9000, 1);
    bench.send(65_507, 2);
    let packets = bench.recv_all(2);
    assert_eq!(
        (packets[0].frag.len(), packets[1].frag.len()),
        (9000, 65_507)
    );
    assert_eq!(first_damage(&packets[0].frag, 1), None);
    assert_eq!(first_damage(&packets[1].frag, 2), None);
}

#[test]
fn a_packet_that_is_too_long_is_flagged_and_counted() {
    let mut bench = bench(RxOptions {
        buf_size: 512,
        ..RxOptions::default()
    });
    bench.send(512, 1);
    bench.send(513, 2);
    bench.send(9000, 3);
    let packets = bench.recv_all(3);
    let seen: Vec<_> = packets
        .iter()
        .map(|packet| {
            (
                packet.fact().is_truncated(),
                packet.frag.len(),
                packet.fact().wire_len(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(false, 512, 512), (true, 512, 513), (true, 512, 9000)]
    );
    assert_eq!(
        first_damage(&packets[2].frag, 3),
        None,
        "what fits is right"
    );
    assert_eq!(bench.ring.stats().truncated, 2);
    assert_eq!(bench.ring.stats().rx_packets, 3);
}

#[test]
fn a_full_pool_costs_packets_and_nothing_else() {
    let mut bench = bench_on(one_region(32 * 1024), V4, no_gro());
    let mut hoard: Vec<FragMut> = Vec::new();
    while let Ok(frag) = bench.cache.alloc(32 * 1024) {
        hoard.push(frag);
    }
    for seed in 0..40 {
        bench.send(1000, seed);
    }
    let batch = bench.recv(30);
    assert_eq!((batch.len(), batch.discarded()), (0, 30));
    let batch = bench.recv(30);
    assert_eq!((batch.len(), batch.discarded()), (0, 10));
    assert_eq!(bench.ring.stats().rx_alloc_fail, 40);
    assert_eq!(bench.ring.stats().rx_packets, 0);

    hoard.truncate(hoard.len() - 2);
    for seed in 0..20 {
        bench.send(1000, seed);
    }
    let packets = bench.recv_all(20);
    for (seed, packet) in packets.iter().enumerate() {
        assert_eq!(first_damage(&packet.frag, seed as u64), None);
    }
    assert_eq!(
        bench.ring.stats().rx_alloc_fail,
        40,
        "it recovers by itself"
    );
}

#[test]
fn every_packet_is_handed_out_or_counted_while_memory_comes_and_goes() {
    let mut bench = bench_on(one_region(32 * 1024), V4, no_gro());
    let mut kept = Vec::new();
    let (mut sent, mut received) = (0, 0);
    for round in 0..400 {
        for _ in 0..20 {
            bench.send(1400, sent);
            sent += 1;
        }
        for _ in 0..3 {
            let batch = bench.recv(64);
            received += batch.len() as u64;
            for packet in Taken::all(batch, &mut bench.cache) {
                // What was sent when is in the pattern: damage would show.
                let alive = (0..sent)
                    .rev()
                    .any(|seed| first_damage(&packet.frag, seed).is_none());
                assert!(alive);
                kept.push(packet);
            }
        }
        if round % 100 == 99 {
            kept.clear();
        }
    }
    let stats = bench.ring.stats();
    assert_eq!(stats.rx_packets, received);
    assert!(stats.rx_alloc_fail > 0, "the pool was never full");
    assert_eq!(stats.rx_packets + stats.rx_alloc_fail, sent);
    assert!(bench.pool.stats().held_bytes <= 2 << 20);
}

#[test]
fn drain_gives_every_armed_buffer_back_and_the_ring_goes_on() {
    let mut bench = bench(no_gro());
    bench.recv(64);
    assert_eq!(bench.pool.stats().live_bytes, 64 * 2048);
    bench.ring.drain();
    assert_eq!((bench.ring.armed(), bench.pool.stats().live_bytes), (0, 0));
    bench.send(1000, 5);
    let batch = bench.recv(64);
    assert_eq!(first_damage(batch.get(0).unwrap().bytes, 5), None);
    drop(batch);
    drop(bench.ring);
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn a_batch_outlives_its_ring_its_cache_and_its_thread() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let batch = thread::spawn({
        let pool = pool.clone();
        move || {
            let mut bench = bench_on(pool, V4, no_gro());
            for seed in 0..10 {
                bench.send(1000, seed);
            }
            bench.recv(64)
        }
    })
    .join()
    .unwrap();
    assert_eq!(batch.len(), 10);
    for (seed, packet) in batch.iter().enumerate() {
        assert_eq!(first_damage(packet.bytes, seed as u64), None);
    }
    drop(batch);
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn no_more_than_max_packets_come_at_once() {
    let mut bench = bench(RxOptions {
        slots: 4,
        ..no_gro()
    });
    for seed in 0..10 {
        bench.send(10, seed);
    }
    let sizes: Vec<_> = [3, 64, 64, 64].map(|max| bench.recv(max).len()).into();
    assert_eq!(sizes, [3, 4, 3, 0]);
    assert_eq!(bench.ring.stats().largest_batch, 4);
}

#[test]
fn what_the_kernel_drops_is_counted_from_the_ring_on() {
    let socket = UdpSocket::bind(V4).unwrap();
    let address = socket.local_addr().unwrap();
    let sender = UdpSocket::bind(V4).unwrap();
    let pool = PagePool::new(32 * 1024).unwrap();
    set_receive_buffer(&socket, 8 * 1024);
    let burst = || {
        for _ in 0..200 {
            sender.send_to(&[1; 1000], address).unwrap();
        }
    };
    burst();
    let mut buffer = [0; 2048];
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut buffer).is_ok() {}

    let mut ring = RxRing::new(&socket, &pool, no_gro()).unwrap();
    let mut cache = PageFragCache::new(&pool);
    assert_eq!(
        ring.stats().rx_hw_drop_overruns,
        0,
        "earlier drops are not ours"
    );
    burst();
    let batch = ring.recv(&mut cache, 64).unwrap();
    let after_burst = ring.stats();
    assert!(!batch.is_empty());
    assert_eq!(
        after_burst.rx_packets + after_burst.rx_hw_drop_overruns,
        200
    );
    // The next packet brings the count along; it is not counted twice.
    sender.send_to(b"late", address).unwrap();
    assert_eq!(ring.recv(&mut cache, 64).unwrap().len(), 1);
    let stats = ring.stats();
    assert_eq!(stats.rx_hw_drop_overruns, after_burst.rx_hw_drop_overruns);
    assert_eq!(stats.rx_hw_drops, stats.rx_hw_drop_overruns);
}

#[test]
fn what_no_ring_can_receive_from_is_refused_with_its_number() {
    let pool = PagePool::global();
    let code = |socket: std::os::fd::BorrowedFd<'_>| {
        RxRing::new(socket, pool, RxOptions::default())
            .map(|_| ())
            .unwrap_err()
            .raw_os_error()
    };
    let tcp = TcpListener::bind(V4).unwrap();
    assert_eq!(code(tcp.as_fd()), Some(libc::EPROTOTYPE));
    let (stream, _other) = UnixStream::pair().unwrap();
    assert_eq!(code(stream.as_fd()), Some(libc::EPROTOTYPE));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(code(file.as_fd()), Some(libc::ENOTSOCK));
}

#[test]
fn a_unix_socket_gives_packets_names_and_times() {
    let pool = PagePool::global();
    let path = std::env::temp_dir().join(format!("pagefrag-{}-{:060}", std::process::id(), 7));
    let sender = UnixDatagram::bind(&path).unwrap();
    let (socket, other) = UnixDatagram::pair().unwrap();
    let options = RxOptions {
        timestamps: true,
        ..RxOptions::default()
    };
    let mut ring = RxRing::new(&socket, pool, options).unwrap();
    let mut cache = PageFragCache::new(pool);
    other.send(b"nameless").unwrap();
    let first = ring.recv(&mut cache, 64).unwrap();
    let packet = first.get(0).unwrap();
    assert_eq!(packet.bytes, b"nameless");
    assert!(packet.name().is_empty());
    assert!(packet.timestamp().is_some());
    assert_eq!(packet.interface(), None);

    let listener = UnixDatagram::bind(path.with_extension("in")).unwrap();
    let mut ring = RxRing::new(&listener, pool, RxOptions::default()).unwrap();
    sender.send_to(b"named", path.with_extension("in")).unwrap();
    let second = ring.recv(&mut cache, 64).unwrap();
    let name = second.get(0).unwrap().name();
    assert_eq!(
        name[2..].strip_suffix(&[0]),
        Some(path.as_os_str().as_encoded_bytes())
    );
    assert_eq!(second.get(0).unwrap().source().to_socket_addr(), None);
    assert_eq!(second.get(0).unwrap().timestamp(), None);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(path.with_extension("in")).unwrap();
}

#[test]
fn each_packet_tells_its_time_and_interface() {
    for bind in families() {
        let options = RxOptions {
            timestamps: true,
            interfaces: true,
            ..RxOptions::default()
        };
        let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), bind, options);
        let before = SystemTime::now();
        for seed in 0..10 {
            bench.send(100, seed);
        }
        let packets = bench.recv_all(10);
        let times: Vec<_> = packets
            .iter()
            .filter_map(|packet| packet.fact().timestamp())
            .collect();
        assert_eq!(times.len(), 10);
        assert!(times.is_sorted());
        let first = Duration::from_nanos(times[0].unsigned_abs());
        assert!(SystemTime::UNIX_EPOCH + first >= before);
        let interface = packets[0].fact().interface();
        assert!(interface.is_some());
        assert!(
            packets
                .iter()
                .all(|packet| packet.fact().interface() == interface)
        );
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let pool = PagePool::global();
    let socket = UdpSocket::bind(V4).unwrap();
    let good = RxOptions::default();
    for options in [
        RxOptions { slots: 0, ..good },
        RxOptions {
            slots: 1025,
            ..good
        },
        RxOptions {
            slots: usize::MAX,
            ..good
        },
        RxOptions {
            buf_size: 0,
            ..good
        },
        RxOptions {
            buf_size: 32 * 1024 + 1,
            ..good
        },
    ] {
        let error = RxRing::new(&socket, pool, options).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), None);
    }
    let mut ring = RxRing::new(&socket, pool, good).unwrap();
    let mut cache = PageFragCache::new(pool);
    let mut other = PageFragCache::new(&PagePool::new(4096).unwrap());
    assert!(ring.recv(&mut cache, 0).is_err());
    assert!(ring.recv(&mut other, 1).is_err());
    assert_eq!(ring.armed(), 0, "nothing was taken");
}

#[test]
fn waiting_ends_with_the_packet_the_time_or_the_socket() {
    let mut bench = bench(RxOptions::default());
    let short = Some(Duration::from_millis(20));
    let before = Instant::now();
    assert_eq!(bench.ring.wait(short).unwrap(), Readiness::TimedOut);
    assert!(before.elapsed() >= Duration::from_millis(20));
    assert_eq!(
        bench.ring.wait(Some(Duration::ZERO)).unwrap(),
        Readiness::TimedOut
    );

    let (sender, address) = (bench.sender.try_clone().unwrap(), bench.address);
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        sender.send_to(b"now", address).unwrap();
    });
    assert_eq!(bench.ring.wait(None).unwrap(), Readiness::Ready);
    late.join().unwrap();
    assert_eq!(bench.recv(1).get(0).unwrap().bytes, b"now");
    assert_eq!(bench.ring.stats().waits, 3);

    let socket = bench.ring.socket();
    socket.connect(bench.sender.local_addr().unwrap()).unwrap();
    shut_down(socket);
    let answer = wait_readable(socket.as_fd(), None).unwrap();
    assert_eq!(answer, Readiness::ShutDown);
    assert!(bench.recv(1).is_empty());
}

#[test]
fn a_peer_that_is_gone_is_an_error_once_and_costs_no_packet() {
    let mut bench = bench(RxOptions::default());
    let nobody = UdpSocket::bind(V4).unwrap().local_addr().unwrap();
    bench.send(10, 1);
    bench.ring.socket().connect(nobody).unwrap();
    bench.ring.socket().send(b"anyone?").unwrap();
    let error = bench.ring.recv(&mut bench.cache, 64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert_eq!(bench.recv(64).len(), 1);
    assert!(bench.recv(64).is_empty());
}

#[test]
fn a_ring_moves_to_another_thread_with_its_buffers() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut bench = bench_on(pool.clone(), V4, no_gro());
    bench.send(1000, 1);
    assert_eq!(bench.recv(64).len(), 1);
    let Bench {
        mut ring,
        sender,
        address,
        ..
    } = bench;
    thread::spawn(move || {
        let mut cache = PageFragCache::new(&pool);
        for _ in 0..100 {
            sender.send_to(&[7; 1000], address).unwrap();
            let batch = ring.recv(&mut cache, 64).unwrap();
            assert_eq!(batch.get(0).unwrap().bytes, [7; 1000]);
        }
        drop((ring, cache));
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    })
    .join()
    .unwrap();
}

#[test]
fn fifty_thousand_packets_keep_their_bytes_while_batches_live_on() {
    for (bind, page_size) in families().into_iter().zip([32 * 1024, 64 * 1024]) {
        let pool = PagePool::new(page_size).unwrap();
        let mut bench = bench_on(pool.clone(), bind, RxOptions::default());
        let mut window = std::collections::VecDeque::new();
        let mut seen = 0;
        for round in 0..1000_u64 {
            for index in 0..50 {
                let seed = round * 50 + index;
                bench.send(usize::try_from(seed * 37 % 2049).unwrap(), seed);
            }
            for packet in bench.recv_all(50) {
                window.push_back((seen, packet));
                seen += 1;
            }
            while window.len() > 500 {
                let (seed, packet) = window.pop_front().unwrap();
                assert_eq!(packet.frag.len() as u64, seed * 37 % 2049);
                assert_eq!(first_damage(&packet.frag, seed), None);
            }
        }
        drop((window, bench));
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    }
}

fn set_receive_buffer(socket: &UdpSocket, bytes: i32) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
}

fn shut_down(socket: &UdpSocket) {
    // SAFETY: a plain call on an open descriptor.
    let code = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
    assert_eq!(code, 0);
}
