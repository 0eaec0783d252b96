//! What a ring promises about packets that the kernel has coalesced (`UDP_GRO`).

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use net::{
    Taken, V4, bench_on, bench_with, default_bench, families, hoard, one_region, send_segmented,
    set_option,
};
use pagefrag::net::{Readiness, RxOptions, RxRing};
use pagefrag::{PageFragCache, PagePool};
use pagefrag_tests::{fill, first_damage};

#[test]
fn coalesced_packets_are_segments_each_in_a_fragment_of_its_own() {
    for bind in families() {
        for page_size in [4096, 32 * 1024, 1 << 20] {
            let pool = PagePool::new(page_size).unwrap();
            let Some(mut bench) = bench_with(pool, bind, RxOptions::default()) else {
                return;
            };
            let mut bytes = vec![0; 40 * 1200 + 7];
            fill(&mut bytes, 3);
            send_segmented(&bench, &bytes, 1200);
            let packets = bench.recv_all(41);
            let from = bench.sender.local_addr().unwrap();
            for (index, packet) in packets.iter().enumerate() {
                let expected = &bytes[index * 1200..bytes.len().min((index + 1) * 1200)];
                assert_eq!(&packet.frag[..], expected);
                assert_eq!(packet.frag.capacity(), expected.len().next_multiple_of(64));
                assert_eq!(packet.fact().wire_len(), expected.len());
                assert!(packet.fact().is_segment() && packet.frag.is_unique());
                assert_eq!(packet.fact().source().to_socket_addr(), Some(from));
            }
            let stats = bench.ring.stats();
            assert_eq!((stats.rx_packets, stats.rx_hw_gro_packets), (41, 1));
            assert_eq!(stats.rx_hw_gro_wire_packets, 41);
            assert_eq!(stats.rx_bytes, stats.rx_hw_gro_bytes);
            bench.ring.drain();
            assert_eq!(bench.pool.stats().live_bytes, 40 * 1216 + 64);
            drop(packets);
            assert_eq!(bench.pool.stats().live_bytes, 0);
        }
    }
}

#[test]
fn segments_above_max_wait_and_nothing_overtakes_them() {
    let Some(mut bench) = default_bench() else {
        return;
    };
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
        assert_eq!(bench.ring.pending() > 0, bench.ring.has_pending());
        if bench.ring.has_pending() {
            assert_eq!(bench.ring.wait(None).unwrap(), Readiness::Ready);
            assert_eq!(bench.ring.stats().waits, waits, "nothing was waited for");
        }
        out.extend(Taken::all(batch, &mut bench.cache));
    }
    let lengths: Vec<_> = out.iter().map(|packet| packet.frag.len()).collect();
    assert_eq!(lengths, [[100; 10].as_slice(), &[5]].concat().repeat(3));
    assert!(!bench.ring.has_pending());
    assert_eq!(bench.ring.stats().largest_batch, 7);
}

#[test]
fn packets_that_a_close_leaves_behind_are_counted() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    send_segmented(&bench, &[7; 9 * 100 + 50], 100);
    assert_eq!(bench.recv(3).len(), 3);
    assert_eq!(bench.ring.pending(), 7);
    let stats = bench.ring.close();
    assert_eq!((stats.rx_packets, stats.rx_hw_drops), (3, 7));
    assert_eq!(stats.rx_hw_drop_overruns, 0);
    bench.cache.drain();
    assert_eq!(bench.pool.stats().live_bytes, 0);
}

#[test]
fn a_lone_packet_with_gro_on_keeps_no_more_than_itself() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let mut kept = Vec::new();
    for seed in 0..100 {
        bench.send(1200, seed);
        kept.extend(bench.recv_all(1));
    }
    for (seed, packet) in kept.iter().enumerate() {
        assert_eq!(first_damage(&packet.frag, seed as u64), None);
        assert!(!packet.fact().is_segment());
    }
    bench.ring.drain();
    assert_eq!(bench.pool.stats().live_bytes, 100 * 1216);
}

#[test]
fn a_plain_no_leaves_packets_alone() {
    let options = RxOptions {
        gro: false,
        ..RxOptions::default()
    };
    let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), V4, options);
    assert!(!bench.ring.gro());
    let mut bytes = vec![0; 2500];
    fill(&mut bytes, 1);
    send_segmented(&bench, &bytes, 1000);
    let packets = bench.recv_all(3);
    let lengths: Vec<_> = packets.iter().map(|packet| packet.frag.len()).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
    assert!(packets.iter().all(|packet| !packet.fact().is_segment()));
}

#[test]
fn packets_longer_than_a_buffer_are_truncated_the_same_with_gro_on_and_off() {
    let mut seen = Vec::new();
    for gro in [true, false] {
        let options = RxOptions {
            gro,
            buf_size: 1000,
            ..RxOptions::default()
        };
        let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), V4, options);
        let mut bytes = vec![0; 3 * 1400 + 1000];
        fill(&mut bytes, 1);
        send_segmented(&bench, &bytes, 1400);
        bench.send(65_507, 2);
        let packets = bench.recv_all(5);
        for (index, packet) in packets[..4].iter().enumerate() {
            assert_eq!(packet.frag[..], bytes[index * 1400..][..1000]);
        }
        assert_eq!(first_damage(&packets[4].frag, 2), None);
        let facts = packets.iter().map(|packet| {
            (
                packet.fact().is_truncated(),
                packet.frag.len(),
                packet.fact().wire_len(),
            )
        });
        seen.push((facts.collect::<Vec<_>>(), bench.ring.stats().truncated));
    }
    assert_eq!(seen[0], seen[1]);
    let long = (true, 1000, 1400);
    let expected = vec![long, long, long, (false, 1000, 1000), (true, 1000, 65_507)];
    assert_eq!(seen[0], (expected, 4));
}

#[test]
fn segments_are_told_behind_all_that_a_user_asks_the_socket_for() {
    // Drops are told once there was one.
    let options = RxOptions {
        timestamps: true,
        interfaces: true,
        ..RxOptions::default()
    };
    let Some(mut bench) = bench_with(PagePool::new(32 * 1024).unwrap(), V4, options) else {
        return;
    };
    let socket = bench.ring.socket();
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1);
    for _ in 0..50 {
        bench.send(1000, 1);
    }
    let socket = bench.ring.socket();
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 200_000);
    let software = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    let software = i32::try_from(software).unwrap();
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, software);
    for name in [libc::IP_RECVTTL, libc::IP_RECVTOS, libc::IP_RECVORIGDSTADDR] {
        set_option(socket, libc::IPPROTO_IP, name, 1);
    }
    while !bench.recv(64).is_empty() {}
    assert!(bench.ring.stats().rx_hw_drop_overruns > 0);
    send_segmented(&bench, &[7; 2500], 1000);
    let packets = bench.recv_all(3);
    assert!(packets.iter().all(|packet| packet.fact().is_segment()));
    assert!(
        packets
            .iter()
            .all(|packet| packet.fact().timestamp().is_some())
    );
}

#[test]
fn what_others_have_the_kernel_coalesce_is_told_packet_by_packet() {
    let options = RxOptions {
        gro: false,
        timestamps: true,
        ..RxOptions::default()
    };
    let mut bench = bench_on(PagePool::new(32 * 1024).unwrap(), V4, options);
    let socket = bench.ring.socket();
    if !RxRing::new(socket, &bench.pool, RxOptions::default()).is_ok_and(|other| other.gro()) {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return;
    }
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    let mut bytes = vec![0; 4500];
    fill(&mut bytes, 5);
    send_segmented(&bench, &bytes, 1000);
    let packets = bench.recv_all(5);
    let lens: Vec<_> = packets.iter().map(|packet| packet.frag.len()).collect();
    assert_eq!(lens, [1000, 1000, 48, 0, 0], "what the buffer had room for");
    for (packet, expected) in packets.iter().zip(bytes.chunks(1000)) {
        assert_eq!(packet.fact().wire_len(), expected.len());
        assert_eq!(
            packet.fact().is_truncated(),
            packet.frag.len() < expected.len()
        );
        assert_eq!(packet.frag[..], expected[..packet.frag.len()]);
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, 0);
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
    assert_eq!(options(), [i32::from(ring.gro()), 0]);
    drop(ring);
    assert_eq!(options(), [0, 0]);
}

#[test]
fn rings_that_share_a_socket_keep_what_the_other_needs_whoever_goes_first() {
    if default_bench().is_none() {
        return;
    }
    let socket = UdpSocket::bind(V4).unwrap();
    let address = socket.local_addr().unwrap();
    let pool = PagePool::new(32 * 1024).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let sender = UdpSocket::bind(V4).unwrap();
    set_option(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, 1000);
    let state = || {
        [
            option(&socket, libc::SOL_UDP, libc::UDP_GRO),
            option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
            option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO),
        ]
    };
    let other = socket.try_clone().unwrap();
    for first_stays in [true, false] {
        for (gro, other_gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let options = |gro, noted| RxOptions {
                gro,
                timestamps: noted,
                interfaces: true,
                ..RxOptions::default()
            };
            let first = RxRing::new(&socket, &pool, options(gro, first_stays)).unwrap();
            let second = RxRing::new(&other, &pool, options(other_gro, !first_stays)).unwrap();
            assert_eq!([first.gro(), second.gro()], [gro; 2], "the first decides");
            // What is queued when one goes is still cut right by the other.
            sender.send_to(&[7; 3500], address).unwrap();
            let (mut stays, goes) = if first_stays {
                (first, second)
            } else {
                (second, first)
            };
            drop(goes);
            assert_eq!(state(), [i32::from(gro), 1, 1]);
            sender.send_to(&[7; 3500], address).unwrap();
            let mut packets = Vec::new();
            while packets.len() < 8 {
                let batch = stays.recv(&mut cache, 64).unwrap();
                packets.extend(Taken::all(batch, &mut cache));
            }
            for (index, packet) in packets.iter().enumerate() {
                let len = if index % 4 == 3 { 500 } else { 1000 };
                assert_eq!((packet.frag.len(), packet.fact().wire_len()), (len, len));
                assert!(packet.fact().timestamp().is_some() && packet.fact().interface().is_some());
            }
            drop(stays);
            assert_eq!(state(), [0; 3]);
        }
    }
}

#[test]
fn what_was_on_before_the_first_ring_is_on_after_the_last() {
    let socket = UdpSocket::bind(V4).unwrap();
    let pool = PagePool::new(32 * 1024).unwrap();
    set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1);
    set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
    let options = RxOptions {
        timestamps: true,
        interfaces: true,
        ..RxOptions::default()
    };
    let state = || {
        [libc::SO_TIMESTAMP, libc::SO_TIMESTAMPNS]
            .map(|name| option(&socket, libc::SOL_SOCKET, name))
    };
    let first = RxRing::new(&socket, &pool, options).unwrap();
    let second = RxRing::new(&socket, &pool, options).unwrap();
    drop(first);
    assert_eq!(state(), [0, 1]);
    drop(second);
    assert_eq!(state(), [1, 0]);
    assert_eq!(option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO), 1);
}

#[test]
fn a_super_buffer_without_memory_counts_by_its_packets() {
    let pool = one_region(32 * 1024);
    let Some(mut bench) = bench_with(pool, V4, RxOptions::default()) else {
        return;
    };
    let hoard = hoard(&mut bench.cache, 64);
    send_segmented(&bench, &[1; 2050], 100);
    bench.send(0, 1);
    let batch = bench.recv(64);
    assert_eq!((batch.len(), batch.discarded()), (0, 21 + 1));
    assert_eq!(bench.ring.stats().rx_alloc_fail, 22);
    assert!(!bench.ring.has_pending());
    drop(hoard);
    send_segmented(&bench, &[1; 2050], 100);
    assert_eq!(bench.recv_all(21).len(), 21);
    assert_eq!(
        bench.ring.stats().rx_alloc_fail,
        22,
        "it recovers by itself"
    );
}

#[test]
fn of_a_super_buffer_only_the_segments_without_memory_are_lost() {
    let options = RxOptions {
        slots: 1,
        ..RxOptions::default()
    };
    let Some(mut bench) = bench_with(one_region(32 * 1024), V4, options) else {
        return;
    };
    let mut hoard = hoard(&mut bench.cache, 64);
    // Room for the buffer and five packets of 1000 bytes.
    hoard.retain(|frag| frag.capacity() != 1024);
    let page = hoard.swap_remove(0);
    drop(page);
    let kept = bench.cache.alloc(32 * 1024 - 7 * 1024).unwrap();
    let mut bytes = vec![0; 20 * 1000 + 10];
    fill(&mut bytes, 4);
    send_segmented(&bench, &bytes, 1000);
    let batch = bench.recv(64);
    assert_eq!(batch.discarded() + batch.len() as u64, 21);
    assert_eq!(batch.len(), 5);
    for (packet, expected) in batch.iter().zip(bytes.chunks(1000)) {
        assert_eq!(packet.bytes, expected);
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, batch.discarded());
    drop((kept, batch));
}

#[test]
fn segments_are_written_and_kept_each_on_its_own() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    for (segment, count) in [(1, 60), (100, 20), (1280, 50)] {
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
        let last = packets.pop().unwrap();
        drop(packets);
        bench.ring.drain();
        let alive = bench.pool.stats().live_bytes;
        assert_eq!(alive, last.frag.capacity() as u64, "the last one, alone");
        drop(last);
        assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
    }
}

#[test]
fn one_segment_in_twenty_that_is_kept_holds_little_more_than_itself() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    for segment in [1200, 300, 100] {
        let bytes = vec![7; 50 * segment];
        let mut kept = Vec::new();
        let mut seen = 0;
        for _ in 0..2000 {
            send_segmented(&bench, &bytes, i32::try_from(segment).unwrap());
            for packet in bench.recv_all(50) {
                if seen % 20 == 0 {
                    kept.push(packet);
                }
                seen += 1;
            }
        }
        let stats = bench.pool.stats();
        let (held, live) = (stats.held_bytes, stats.live_bytes);
        eprintln!(
            "{} of {segment} bytes kept: held {held}, live {live}",
            kept.len()
        );
        assert!(
            held < 2 * live,
            "held {held}, live {live} at {segment} bytes"
        );
    }
}

#[test]
fn pending_packets_keep_their_bytes_through_a_drain() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let mut bytes = vec![0; 50 * 1200];
    fill(&mut bytes, 9);
    send_segmented(&bench, &bytes, 1200);
    for seed in 0..3 {
        bench.send(1500, seed);
    }
    let batch = bench.recv(7);
    let mut packets: Vec<_> = Taken::all(batch, &mut bench.cache).collect();
    bench.ring.drain();
    assert_eq!(bench.ring.pending(), 46);
    let mut hog = Vec::new();
    for _ in 0..100 {
        let mut frag = bench.cache.alloc(2048).unwrap();
        frag.fill(0xee);
        hog.push(frag);
    }
    while packets.len() < 53 {
        let batch = bench.recv(11);
        packets.extend(Taken::all(batch, &mut bench.cache));
    }
    for (packet, expected) in packets.iter().zip(bytes.chunks(1200)) {
        assert_eq!(packet.frag[..], *expected);
    }
    for (seed, packet) in (0..).zip(&packets[50..]) {
        assert_eq!(first_damage(&packet.frag, seed), None);
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
