//! What the types of `net` tell of themselves, and the doors that lend their storage.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use std::io::{Error, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use net::{V4, bench_on, bench_with, send_segmented};
use pagefrag::net::{
    ContextError, NapiCache, NetdevCache, RxBatch, RxOptions, RxRing, Source, TxOptions, TxRing,
};
use pagefrag::{Granule, PageFragCache, PagePool};
use pagefrag_tests::{fill, first_damage};

fn pool() -> PagePool {
    PagePool::new(32 * 1024).unwrap()
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Error> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// --- receiving ---

#[test]
fn a_batch_with_room_is_filled_and_emptied_into_a_list() {
    let mut bench = bench_on(pool(), V4, RxOptions::default());
    let mut batch = RxBatch::with_capacity(8);
    let mut kept = Vec::new();
    for round in 0..3 {
        bench.send(1200, round);
        bench.ring.wait(None).unwrap();
        bench
            .ring
            .recv_into(&mut bench.cache, 8, &mut batch)
            .unwrap();
        assert_eq!(batch.len(), 1);
        batch.drain_into(&mut bench.cache, &mut kept);
        assert!(batch.is_empty() && batch.facts().get(0).is_none());
    }
    for (seed, frag) in (0..).zip(&kept) {
        assert_eq!(first_damage(frag, seed), None);
    }
    assert_eq!(kept.len(), 3);
}

#[test]
fn super_buffers_come_whole_through_a_cache_that_packs_to_the_byte() {
    let Some(mut bench) = bench_with(pool(), V4, RxOptions::default()) else {
        return;
    };
    bench.cache = PageFragCache::with_granule(&bench.pool, Granule::Byte);
    let mut bytes = vec![0; 40 * 1200];
    fill(&mut bytes, 9);
    for _ in 0..20 {
        send_segmented(&bench, &bytes, 1200);
        let packets = bench.recv_all(40);
        for (packet, expected) in packets.iter().zip(bytes.chunks(1200)) {
            assert_eq!(&packet.frag[..], expected);
        }
    }
}

#[test]
fn rings_and_senders_are_printed() {
    let bench = bench_on(pool(), V4, RxOptions::default());
    let told = format!("{:?}", bench.ring);
    assert!(told.contains("Messages { slots: 64, .. }"), "{told}");
    let ring: TxRing<UdpSocket, Vec<u8>> =
        TxRing::new(UdpSocket::bind(V4).unwrap(), TxOptions::default()).unwrap();
    let told = format!("{ring:?}");
    assert!(told.contains("Outgoing { slots: 64, .. }"), "{told}");
    assert_eq!(ring.options().slots, 64);
    let nobody = Source::from_name(&[]);
    assert_eq!(format!("{nobody:?}"), "Source([])");
    let someone: Source = "127.0.0.1:53"
        .parse::<std::net::SocketAddr>()
        .unwrap()
        .into();
    assert_eq!(format!("{someone:?}"), "Source(127.0.0.1:53)");
}

// --- sockets that are none of ours ---

#[test]
fn datagrams_that_are_not_udp_are_refused_by_their_number() {
    const UDP_LITE: i32 = 136;
    let Ok(lite) = socket(libc::AF_INET, libc::SOCK_DGRAM, UDP_LITE) else {
        eprintln!("skipped: this kernel has no UDP-Lite");
        return;
    };
    let refused = RxRing::new(lite.as_fd(), &pool(), RxOptions::default()).map(|_| ());
    let code = refused.unwrap_err().raw_os_error();
    assert_eq!(code, Some(libc::EPROTONOSUPPORT));
}

#[test]
fn nothing_is_sent_through_a_packet_socket() {
    let packets = match socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0) {
        Ok(packets) => packets,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            eprintln!("skipped: packet sockets take CAP_NET_RAW");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let ring: Result<TxRing<_, Vec<u8>>, _> = TxRing::new(packets, TxOptions::default());
    let code = ring.map(|_| ()).unwrap_err().raw_os_error();
    assert_eq!(code, Some(libc::EAFNOSUPPORT));
}

// --- contexts ---

#[test]
fn an_skb_is_built_inside_a_poll_with_a_struct_of_its_array() {
    let pool = pool();
    let mut napi = NapiCache::new(&pool);
    assert_eq!(napi.pool().page_size(), pool.page_size());
    napi.poll(8, |ctx| {
        let head = ctx.alloc_frag(2048, 1).unwrap();
        let mut skb = ctx.build_skb(head).unwrap();
        skb.put(100).unwrap().fill(1);
        assert_eq!(skb.len(), 100);
        ctx.consume_skb(skb);
        let small = ctx.alloc_frag(1, 1).unwrap();
        let (_, small) = ctx.build_skb(small).unwrap_err();
        assert_eq!(small.len(), 1, "it comes back");
    });
}

#[test]
fn netdev_tells_its_pool_and_what_its_thread_holds() {
    let pool = pool();
    let netdev = NetdevCache::new(&pool);
    let frag = netdev.alloc_frag(1000, 1).unwrap();
    let stats = netdev.stats();
    assert_eq!((stats.pages, stats.live_bytes), (1, 1024));
    assert_eq!(netdev.pool().stats().live_bytes, 1024);
    drop(frag);
}

#[test]
fn why_a_context_is_refused_is_told_in_a_sentence() {
    let told = [
        ContextError::OutsidePoll,
        ContextError::OtherThread,
        ContextError::AlreadyPolling,
    ]
    .map(|error| error.to_string());
    assert_eq!(
        told,
        [
            "a napi call needs an open poll",
            "the poll is open on another thread",
            "a poll is open already"
        ]
    );
}
