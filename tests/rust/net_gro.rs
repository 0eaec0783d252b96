//! What a ring promises about packets that the kernel has coalesced (`UDP_GRO`).

mod net;

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use net::{Bench, V4, bench_on, families, one_region, set_option};
use pagefrag::net::{Readiness, RxOptions, RxRing};
use pagefrag::{FragMut, PagePool};
use pagefrag_tests::{fill, first_damage};

#[test]
fn coalesced_packets_are_segments_that_share_their_buffer() {
    for bind in families() {
        let mut bench = bench_on(
            PagePool::new(64 * 1024).unwrap(),
            bind,
            RxOptions::default(),
        );
        if !bench.ring.gro() {
            eprintln!("skipped: this kernel has no UDP_GRO");
            return;
        }
        let mut bytes = vec![0; 40 * 1200 + 7];
        fill(&mut bytes, 3);
        send_segmented(&bench, &bytes, 1200);
        let packets = bench.recv_all(41);
        let from = bench.sender.local_addr().unwrap();
        for (index, packet) in packets.iter().enumerate() {
            let expected = &bytes[index * 1200..bytes.len().min((index + 1) * 1200)];
            assert_eq!(&packet.frag[..], expected);
            assert_eq!(packet.frag.page(), packets[0].frag.page());
            assert_eq!(packet.wire_len(), expected.len());
            assert!(packet.is_segment());
            assert_eq!(packet.source.to_socket_addr(), Some(from));
        }
        let stats = bench.ring.stats();
        assert_eq!((stats.rx_packets, stats.rx_hw_gro_packets), (41, 1));
        assert_eq!(stats.rx_hw_gro_wire_packets, 41);
        assert_eq!(stats.rx_bytes, stats.rx_hw_gro_bytes);
        bench.ring.drain();
        drop(packets);
        assert_eq!(bench.pool.stats().live_bytes, 0);
    }
}

#[test]
fn segments_above_max_wait_and_nothing_overtakes_them() {
    let mut bench = bench_on(PagePool::new(64 * 1024).unwrap(), V4, RxOptions::default());
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    for seed in 0..3 {
        let mut bytes = vec![0; 10 * 100];
        fill(&mut bytes, seed);
        send_segmented(&bench, &bytes, 100);
        bench.send(5, seed);
    }
    let mut out = Vec::new();
    while out.len() < 33 {
        let batch = bench.recv(7);
        assert!(!batch.is_empty() && batch.len() <= 7);
        let waits = bench.ring.stats().waits;
        if bench.ring.has_pending() {
            assert_eq!(bench.ring.wait(None).unwrap(), Readiness::Ready);
            assert_eq!(bench.ring.stats().waits, waits, "nothing was waited for");
        }
        out.extend(batch);
    }
    let lengths: Vec<_> = out.iter().map(|packet| packet.frag.len()).collect();
    assert_eq!(lengths, [[100; 10].as_slice(), &[5]].concat().repeat(3));
    assert!(!bench.ring.has_pending());
    assert_eq!(bench.ring.stats().largest_batch, 7);
}

#[test]
fn packets_that_a_close_leaves_behind_are_counted() {
    let mut bench = bench_on(PagePool::new(64 * 1024).unwrap(), V4, RxOptions::default());
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    send_segmented(&bench, &[7; 9 * 100 + 50], 100);
    assert_eq!(bench.recv(3).len(), 3);
    let stats = bench.ring.close();
    assert_eq!((stats.rx_packets, stats.rx_hw_drops), (3, 7));
    assert_eq!(stats.rx_hw_drop_overruns, 0);
    bench.cache.drain();
    assert_eq!(bench.pool.stats().live_bytes, 0);
}

#[test]
fn a_lone_packet_with_gro_on_does_not_keep_a_super_buffer() {
    let mut bench = bench_on(PagePool::new(64 * 1024).unwrap(), V4, RxOptions::default());
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    let mut kept = Vec::new();
    for seed in 0..100 {
        bench.send(1200, seed);
        kept.extend(bench.recv_all(1));
    }
    for (seed, packet) in kept.iter().enumerate() {
        assert_eq!(first_damage(&packet.frag, seed as u64), None);
        assert!(!packet.is_segment());
    }
    bench.ring.drain();
    assert_eq!(bench.pool.stats().live_bytes, 100 * 1216);
}

#[test]
fn small_pages_or_a_plain_no_leave_packets_alone() {
    for (page_size, gro) in [(32 * 1024, true), (64 * 1024, false)] {
        let options = RxOptions {
            gro,
            ..RxOptions::default()
        };
        let mut bench = bench_on(PagePool::new(page_size).unwrap(), V4, options);
        assert!(!bench.ring.gro());
        assert_eq!(bench.ring.buf_size(), 2048);
        let mut bytes = vec![0; 2500];
        fill(&mut bytes, 1);
        send_segmented(&bench, &bytes, 1000);
        let packets = bench.recv_all(3);
        let lengths: Vec<_> = packets.iter().map(|packet| packet.frag.len()).collect();
        assert_eq!(lengths, [1000, 1000, 500]);
        assert!(packets.iter().all(|packet| !packet.is_segment()));
    }
}

#[test]
fn the_socket_gets_its_options_back() {
    let socket = UdpSocket::bind(V4).unwrap();
    let pool = PagePool::new(64 * 1024).unwrap();
    let options = || {
        [
            option(&socket, libc::SOL_UDP, libc::UDP_GRO),
            option(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
        ]
    };
    let ring = RxRing::new(&socket, &pool, RxOptions::default()).unwrap();
    assert_eq!(options(), [i32::from(ring.gro()); 2]);
    drop(ring);
    assert_eq!(options(), [0, 0]);
}

#[test]
fn a_super_buffer_without_memory_counts_by_its_packets() {
    let mut bench = bench_on(one_region(64 * 1024), V4, RxOptions::default());
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    let mut hoard: Vec<FragMut> = Vec::new();
    while let Ok(frag) = bench.cache.alloc(64 * 1024) {
        hoard.push(frag);
    }
    send_segmented(&bench, &[1; 2050], 100);
    bench.send(0, 1);
    let batch = bench.recv(64);
    assert_eq!((batch.len(), batch.discarded()), (0, 21 + 1));
    assert_eq!(bench.ring.stats().rx_alloc_fail, 22);
    hoard.clear();
    send_segmented(&bench, &[1; 2050], 100);
    assert_eq!(bench.recv_all(21).len(), 21);
}

#[test]
fn segments_are_written_and_kept_each_on_its_own() {
    let mut bench = bench_on(PagePool::new(64 * 1024).unwrap(), V4, RxOptions::default());
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    // 100 bytes: copied out, segments share lines. 1280 of 50: stays, cut between lines.
    for (segment, count) in [(100, 20), (1280, 50)] {
        let mut bytes = vec![0; segment * count];
        fill(&mut bytes, 1);
        send_segmented(&bench, &bytes, i32::try_from(segment).unwrap());
        let mut packets = bench.recv_all(count);
        for (index, packet) in packets.iter_mut().enumerate() {
            packet.frag.fill(u8::try_from(index).unwrap());
        }
        for (index, packet) in packets.iter().enumerate() {
            assert!(packet.frag.iter().all(|&byte| usize::from(byte) == index));
        }
        let last = packets.pop();
        drop(packets);
        bench.ring.drain();
        assert!(bench.pool.stats().live_bytes > 0, "the last one lives");
        drop(last);
        assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
    }
}

fn option(socket: &UdpSocket, level: i32, name: i32) -> i32 {
    let mut value = 0_i32;
    let mut len = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    let target = (&raw mut value).cast();
    // SAFETY: `target` and `len` describe `value`.
    let code = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, target, &raw mut len) };
    assert_eq!(code, 0);
    value
}

/// Sends `bytes` as one super-buffer that the kernel cuts into segments (`UDP_SEGMENT`).
fn send_segmented(bench: &Bench, bytes: &[u8], segment: i32) {
    set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    assert_eq!(
        bench.sender.send_to(bytes, bench.address).unwrap(),
        bytes.len()
    );
    set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
}
