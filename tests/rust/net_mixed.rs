//! Whatever comes, joined or alone, short or long: every byte is what was sent, in
//! order, and what is not handed out is counted.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use std::collections::VecDeque;

use net::{Bench, V4, bench_on, set_option};
use pagefrag::net::{RxBatch, RxOptions};
use pagefrag::{FragMut, PagePool};
use pagefrag_tests::fill;
use proptest::prelude::*;

/// Datagrams that are sent with one call: of one size and a shorter last one, or
/// one alone.
#[derive(Clone, Copy, Debug)]
struct Burst {
    size: usize,
    count: usize,
    last: usize,
}

fn burst() -> impl Strategy<Value = Burst> {
    let alone = prop::sample::select(vec![0, 1, 255, 257, 1472, 2048, 2049, 9000, 65_507]);
    let alone = alone.prop_map(|size| Burst {
        size,
        count: 1,
        last: 0,
    });
    let sizes = vec![
        1, 64, 100, 256, 257, 700, 1200, 1472, 2048, 2049, 8000, 30_000,
    ];
    let joined = (prop::sample::select(sizes), 2_usize..=63).prop_flat_map(|(size, count)| {
        let count = count.min(60_000 / size).max(1);
        (Just(size), Just(count), 0..=size.min(5000)).prop_map(|(size, count, last)| Burst {
            size,
            count,
            last,
        })
    });
    // Those that stay where they land, if the one before was of the same kind.
    let full = (
        prop::sample::select(vec![(1200, 53), (1472, 43), (512, 63)]),
        1_usize..=1200,
    );
    let full = full.prop_map(|((size, count), last)| Burst {
        size,
        count,
        last: last.min(size),
    });
    prop_oneof![1 => alone, 2 => joined, 2 => full]
}

/// Sends a burst and returns its datagrams.
fn send(bench: &Bench, burst: Burst, seed: u64) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; burst.size * burst.count + burst.last];
    fill(&mut bytes, seed);
    let cut = if bytes.len() > burst.size {
        burst.size
    } else {
        0
    };
    let segment = i32::try_from(cut).unwrap();
    set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    let sent = bench.sender.send_to(&bytes, bench.address).unwrap();
    assert_eq!(sent, bytes.len());
    if bytes.is_empty() {
        return vec![bytes];
    }
    bytes.chunks(burst.size).map(<[u8]>::to_vec).collect()
}

/// Sees that `batch` is the next of what was `sent`.
fn check(batch: &RxBatch, sent: &mut VecDeque<Vec<u8>>, buf_size: usize) {
    for packet in batch {
        let expected = sent.pop_front().expect("more came than was sent");
        let kept = expected.len().min(buf_size);
        assert_eq!(packet.wire_len(), expected.len());
        assert!(
            *packet.bytes == expected[..kept],
            "other bytes than were sent"
        );
        assert_eq!(packet.is_truncated(), kept < expected.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 256 }))]

    #[test]
    fn every_byte_comes_in_order_whatever_is_guessed(
        bursts in prop::collection::vec((burst(), 1_usize..=100, any::<bool>()), 1..60),
        slots in prop::sample::select(vec![1, 2, 64, 1024]),
        buf_size in prop::sample::select(vec![1, 100, 1200, 2048, 32 * 1024]),
        copybreak in prop::sample::select(vec![0, 256, 4096]),
        gro in any::<bool>(),
    ) {
        let options = RxOptions { slots, buf_size, copybreak, gro, ..RxOptions::default() };
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut bench = bench_on(pool, V4, options);
        let mut sent = VecDeque::new();
        let mut kept = VecDeque::new();
        let mut packets = 0;
        for (seed, (burst, max, drains)) in bursts.into_iter().enumerate() {
            sent.extend(send(&bench, burst, seed as u64));
            if drains {
                bench.ring.drain();
            }
            let mut rounds = 0;
            // Sometimes one call for a burst, so that the next one queues behind it:
            // joined, two have room in the socket.
            while !sent.is_empty() && (rounds == 0 || seed % 3 != 0 || !gro || bench.ring.has_pending()) {
                let batch = bench.recv(max);
                prop_assert!(batch.len() <= max && !batch.is_empty());
                check(&batch, &mut sent, buf_size);
                packets += batch.len() as u64;
                kept.push_back(batch);
                rounds += 1;
            }
            kept.drain(..kept.len().saturating_sub(20));
        }
        while !sent.is_empty() {
            let batch = bench.recv(64);
            prop_assert!(!batch.is_empty());
            check(&batch, &mut sent, buf_size);
            packets += batch.len() as u64;
        }
        prop_assert!(bench.recv(64).is_empty());
        let stats = bench.ring.close();
        prop_assert_eq!((stats.rx_packets, stats.rx_alloc_fail, stats.rx_hw_drops), (packets, 0, 0));
        kept.clear();
        bench.cache.drain();
        prop_assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
    }

    #[test]
    fn at_a_pools_limit_every_packet_is_handed_out_or_counted(
        bursts in prop::collection::vec((burst(), 1_usize..=100), 1..60),
        slots in prop::sample::select(vec![1, 64]),
        room in 0_usize..200 * 1024,
    ) {
        let pool = net::one_region(32 * 1024);
        let options = RxOptions { slots, ..RxOptions::default() };
        let mut bench = bench_on(pool, V4, options);
        let mut hoard: Vec<FragMut> = Vec::new();
        while let Ok(frag) = bench.cache.alloc(1024) {
            hoard.push(frag);
        }
        hoard.truncate(hoard.len() - room / 1024);
        let mut kept = Vec::new();
        let (mut sent, mut seen, mut lost) = (0, 0, 0);
        for (seed, (burst, max)) in bursts.into_iter().enumerate() {
            let datagrams = send(&bench, burst, seed as u64);
            sent += datagrams.len() as u64;
            let mut left = datagrams.iter();
            loop {
                let batch = bench.recv(max);
                if batch.is_empty() && batch.discarded() == 0 {
                    break;
                }
                for packet in &batch {
                    let found = left.any(|datagram| {
                        packet.wire_len() == datagram.len()
                            && datagram.starts_with(packet.bytes)
                    });
                    prop_assert!(found, "what was handed out is one of those sent, in order");
                }
                seen += batch.len() as u64;
                lost += batch.discarded();
                kept.push(batch);
            }
        }
        let stats = bench.ring.close();
        prop_assert_eq!((stats.rx_packets, stats.rx_alloc_fail), (seen, lost));
        prop_assert_eq!(seen + lost, sent);
    }
}
