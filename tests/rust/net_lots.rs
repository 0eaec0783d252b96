//! What a batch has of its pages: whole runs of them while nobody opens it, which go
//! back with one reference each, and each packet its own lines afterwards.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(dead_code, reason = "it counts here, and stops threads elsewhere")]
#[path = "common/step.rs"]
mod step;

use std::collections::HashSet;
use std::net::UdpSocket;

use net::{Bench, V4, bench_on, default_bench, send_segmented};
use pagefrag::PagePool;
use pagefrag::net::{RxBatch, RxOptions};
use pagefrag_tests::first_damage;

fn plain(options: RxOptions) -> Bench {
    let gro = false;
    bench_on(
        PagePool::new(32 * 1024).unwrap(),
        V4,
        RxOptions { gro, ..options },
    )
}

fn pages(batch: &RxBatch) -> usize {
    let pages: HashSet<_> = batch.iter().map(|packet| packet.page()).collect();
    pages.len()
}

/// Locked instructions of giving `batch` back here, and on another thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn locked(here: &mut RxBatch, mut elsewhere: RxBatch) -> (u64, u64) {
    let here = step::count(|| here.clear()).locked;
    let elsewhere = std::thread::spawn(move || step::count(|| elsewhere.clear()).locked);
    (here, elsewhere.join().unwrap())
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn a_whole_batch_goes_back_with_one_reference_a_page() {
    let mut bench = plain(RxOptions::default());
    let mut batches = Vec::new();
    for _ in 0..3 {
        (0..64).for_each(|seed| bench.send(1200, seed));
        batches.push(bench.recv(64));
        assert_eq!((batches[0].len(), pages(&batches[0])), (64, 4));
    }
    let elsewhere = batches.pop().unwrap();
    assert_eq!(locked(&mut batches[0], elsewhere), (0, 4));
    drop(batches);
    bench.ring.drain();
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn a_super_buffer_that_stayed_goes_back_with_one_reference_a_page() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let mut batches = Vec::new();
    for _ in 0..4 {
        send_segmented(&bench, &vec![7; 54 * 1200], 1200);
        batches.push(bench.recv(64));
    }
    let elsewhere = batches.pop().unwrap();
    assert_eq!((elsewhere.len(), pages(&elsewhere)), (54, 2));
    assert_eq!(locked(&mut batches[2], elsewhere), (0, 2));
    drop(batches);
    bench.ring.drain();
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn packets_in_buffers_are_cut_where_they_are_when_their_batch_is_opened() {
    let mut bench = plain(RxOptions::default());
    (0..40).for_each(|seed| bench.send(1200, seed));
    let batch = bench.recv(64);
    let places: Vec<_> = batch.iter().map(|packet| packet.bytes.as_ptr()).collect();
    let (frags, facts) = batch.open(&mut bench.cache);
    for (seed, (frag, fact)) in (0..).zip(frags.iter().zip(&facts)) {
        assert_eq!(first_damage(frag, seed), None);
        assert_eq!((frag.capacity(), frag.is_unique()), (1216, true));
        assert_eq!((fact.page(), fact.offset()), (frag.page(), frag.offset()));
    }
    assert!(frags.iter().map(|frag| frag.as_ptr()).eq(places));
    bench.ring.drain();
    assert_eq!(bench.pool.stats().live_bytes, 40 * 1216);
    drop(frags);
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn short_and_long_packets_of_several_senders_come_in_order_each_with_its_own() {
    let mut bench = plain(RxOptions {
        copybreak: 256,
        ..RxOptions::default()
    });
    let senders: Vec<_> = (0..3).map(|_| UdpSocket::bind(V4).unwrap()).collect();
    for round in 0..50 {
        // Runs of the same sender and of the same kind, of every length up to seven.
        let packets: Vec<_> = (0..60)
            .map(|nth| (nth / (1 + round % 7) % 3, nth / (1 + round % 5) % 2))
            .collect();
        for (nth, (sender, long)) in packets.iter().enumerate() {
            let byte = u8::try_from(nth).unwrap();
            let bytes = vec![byte; 100 + 1100 * long];
            senders[*sender].send_to(&bytes, bench.address).unwrap();
        }
        let batch = bench.recv(64);
        assert_eq!(batch.len(), 60);
        for (nth, (packet, (sender, long))) in batch.iter().zip(&packets).enumerate() {
            assert_eq!(packet.bytes.len(), 100 + 1100 * long);
            assert!(packet.bytes.iter().all(|&byte| usize::from(byte) == nth));
            let from = senders[*sender].local_addr().unwrap();
            assert_eq!(packet.source().to_socket_addr(), Some(from));
            assert_eq!(batch.get(nth).unwrap().bytes, packet.bytes);
        }
        if round % 2 == 0 {
            let (frags, _) = batch.open(&mut bench.cache);
            for (nth, frag) in frags.iter().enumerate() {
                assert!(frag.iter().all(|&byte| usize::from(byte) == nth));
            }
        }
    }
    assert!(bench.recv(64).is_empty());
    assert_eq!(bench.ring.armed(), 64, "no buffer was lost");
    bench.ring.drain();
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}
