//! What copybreak decides: which packets are copied, so that their buffers are used again, and
//! which stay where they were read, and keep them.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use net::{Bench, V4, bench_on, hoard, one_region};
use pagefrag::PagePool;
use pagefrag::net::RxOptions;
use pagefrag_tests::first_damage;

/// Bytes of a buffer, and up to how many a packet is copied.
const BUFFER: usize = 2048;
const COPYBREAK: usize = 256;

fn plain(copybreak: usize) -> RxOptions {
    RxOptions {
        slots: 8,
        copybreak,
        gro: false,
        ..RxOptions::default()
    }
}

fn bench(copybreak: usize) -> Bench {
    let pool = PagePool::new(32 * 1024).unwrap();
    bench_on(pool, V4, plain(copybreak))
}

#[test]
fn up_to_copybreak_bytes_are_copied_and_one_more_stays_in_its_buffer() {
    for copybreak in [0, 1, 63, 64, COPYBREAK, 1000, BUFFER - 1, BUFFER] {
        let around = copybreak.saturating_sub(1)..=(copybreak + 1).min(BUFFER);
        for len in around {
            let mut bench = bench(copybreak);
            (0..8).for_each(|seed| bench.send(len, seed));
            let batch = bench.recv(8);
            assert_eq!(batch.len(), 8);
            for (seed, packet) in (0..).zip(&batch) {
                assert_eq!(first_damage(packet.bytes, seed), None);
            }
            // What was copied is as long as its packet, and the buffers are the ring's again; what
            // stayed has taken its buffer along.
            let copied = len <= copybreak;
            let room = len.max(1).next_multiple_of(64);
            let (kept, armed) = if copied { (room, 8) } else { (BUFFER, 0) };
            let told = format!("{len} bytes, copybreak {copybreak}");
            assert_eq!(bench.ring.armed(), armed, "{told}");
            bench.ring.drain();
            let alive = bench.pool.stats().live_bytes;
            assert_eq!(alive, 8 * kept as u64, "{told}");
            // Out of its batch each has its own lines, whichever it was.
            let frags = batch.open(&mut bench.cache).0;
            assert!(frags.iter().all(|frag| frag.capacity() == room), "{told}");
            assert_eq!(bench.pool.stats().live_bytes, 8 * room as u64, "{told}");
        }
    }
}

#[test]
fn what_may_be_copied_and_finds_no_memory_stays_in_its_buffer() {
    for len in [0, 1, 100, COPYBREAK - 1, COPYBREAK, COPYBREAK + 1] {
        let mut bench = bench_on(one_region(32 * 1024), V4, plain(COPYBREAK));
        bench.recv(4);
        assert_eq!(bench.ring.armed(), 4);
        let hoard = hoard(&mut bench.cache, 64);
        bench.send(len, 1);
        bench.send(0, 2);
        bench.send(len, 3);
        let batch = bench.recv(4);
        assert_eq!((batch.len(), batch.discarded()), (3, 0), "{len} bytes");
        for (seed, packet) in (1..).zip(&batch) {
            assert_eq!(packet.bytes.len(), if seed == 2 { 0 } else { len });
            assert_eq!(first_damage(packet.bytes, seed), None);
        }
        assert_eq!(bench.ring.stats().rx_alloc_fail, 0, "{len} bytes");
        drop(hoard);
    }
}

#[test]
fn above_copybreak_a_packet_stays_and_its_tail_is_free_when_it_leaves_its_batch() {
    let mut bench = bench(COPYBREAK);
    for seed in 0..8 {
        bench.send(300, seed);
    }
    let batch = bench.recv(8);
    let mut places: Vec<_> = batch.iter().map(|packet| packet.offset()).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        assert_eq!(
            pair[1] - pair[0],
            2048,
            "each in the buffer it was read into"
        );
    }
    let frags = batch.open(&mut bench.cache).0;
    for frag in &frags {
        assert_eq!(frag.capacity(), 320, "five lines of 32");
    }
    bench.ring.drain();
    assert_eq!(bench.pool.stats().live_bytes, 8 * 320);
}

#[test]
fn up_to_copybreak_packets_are_packed_and_the_buffers_used_again() {
    let mut bench = bench(COPYBREAK);
    let mut kept = Vec::new();
    for round in 0..200 {
        for seed in 0..50 {
            bench.send(100, round * 50 + seed);
        }
        kept.extend(bench.recv_all(50));
    }
    for (seed, packet) in kept.iter().enumerate() {
        assert_eq!(first_damage(&packet.frag, seed as u64), None);
    }
    bench.ring.drain();
    let stats = bench.pool.stats();
    assert_eq!(stats.live_bytes, 10_000 * 128, "two lines each");
    let (held, live) = (stats.held_bytes, stats.live_bytes);
    assert!(held * 2 <= live * 3, "held {held} live {live}: above 1.5");
}
