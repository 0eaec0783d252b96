//! What a ring promises about super-buffers that stay where they landed until somebody
//! opens their batch.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use net::{Bench, V4, bench_with, default_bench, hoard, one_region, send_segmented};
use pagefrag::FragMut;
use pagefrag::net::{RxBatch, RxOptions};
use pagefrag_tests::fill;

/// Bytes of a full super-buffer of packets of 1200 bytes, the last but 7 bytes.
const FULL: usize = 54 * 1200 - 7;

/// The second of two full super-buffers, which stays where it landed, and its bytes.
fn landed(bench: &mut Bench) -> (RxBatch, Vec<u8>) {
    let mut bytes = vec![0; FULL];
    for seed in [1, 2] {
        fill(&mut bytes, seed);
        send_segmented(bench, &bytes, 1200);
        if seed == 1 {
            assert_eq!(bench.recv_all(54).len(), 54);
        }
    }
    let batch = bench.recv(64);
    assert_eq!(batch.len(), 54);
    (batch, bytes)
}

fn has_landed(batch: RxBatch) -> bool {
    batch.into_parts().0.is_landed()
}

#[test]
fn a_full_super_buffer_stays_where_it_landed_until_its_batch_is_opened() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let (batch, bytes) = landed(&mut bench);
    let expected: Vec<_> = bytes.chunks(1200).collect();
    let found: Vec<_> = batch.iter().map(|packet| packet.bytes).collect();
    assert_eq!(found, expected);
    let each = (0..54).map(|index| batch.get(index).unwrap().bytes);
    assert_eq!(each.collect::<Vec<_>>(), expected);
    assert!(batch.get(54).is_none());
    assert_eq!(batch.facts().lens().sum::<u32>() as usize, FULL);
    bench.ring.drain();
    assert_eq!(bench.pool.stats().live_bytes, 64 * 1024, "two pages, whole");
    let (frags, facts) = batch.open(&mut bench.cache);
    assert_eq!(
        bench.pool.stats().live_bytes,
        54 * 1216,
        "each its own lines"
    );
    for ((frag, fact), expected) in frags.iter().zip(&facts).zip(expected) {
        assert_eq!(frag[..], *expected);
        assert_eq!(frag.capacity(), 1216);
        assert!(frag.is_unique() && fact.is_segment());
        assert_eq!((fact.page(), fact.offset()), (frag.page(), frag.offset()));
    }
}

#[test]
fn a_batch_that_nobody_opens_goes_back_whole_anywhere() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let (batch, _) = landed(&mut bench);
    assert!(has_landed(batch));
    let (batch, _) = landed(&mut bench);
    std::thread::spawn(move || drop(batch)).join().unwrap();
    bench.ring.drain();
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn without_memory_for_copies_packets_stay_and_none_is_lost() {
    let Some(mut bench) = bench_with(one_region(32 * 1024), V4, RxOptions::default()) else {
        return;
    };
    for spare in [0, 7 * 1216] {
        let (batch, bytes) = landed(&mut bench);
        bench.ring.drain();
        let mut hoard = hoard(&mut bench.cache, 64);
        hoard.retain(|frag| frag.capacity() != 1024);
        let _rest = (spare != 0).then(|| {
            hoard.swap_remove(0);
            bench.cache.alloc(32 * 1024 - spare).unwrap()
        });
        let before = bench.pool.stats().live_bytes;
        let (mut frags, facts) = batch.open(&mut bench.cache);
        assert_eq!((frags.len(), facts.len()), (54, 54));
        for (index, frag) in frags.iter_mut().enumerate() {
            assert_eq!(frag[..], bytes[index * 1200..FULL.min((index + 1) * 1200)]);
            frag.fill(u8::try_from(index).unwrap());
        }
        for (index, (frag, fact)) in frags.iter().zip(&facts).enumerate() {
            assert!(frag.iter().all(|&byte| usize::from(byte) == index));
            assert_eq!((fact.page(), fact.offset()), (frag.page(), frag.offset()));
        }
        drop(frags);
        assert!(bench.pool.stats().live_bytes <= before - 2 * (32 * 1024 - 64));
        drop(hoard);
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, 0);
}

#[test]
fn what_is_copied_out_makes_way_for_the_message_behind_it() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    drop(landed(&mut bench));
    let mut expected = Vec::new();
    // All of them land where full super-buffers of 1200-byte packets were expected.
    for (len, segment, seed) in [(30_000, 1000, 1), (900, 0, 2), (FULL, 1200, 3)] {
        let mut bytes = vec![0; len];
        fill(&mut bytes, seed);
        send_segmented(&bench, &bytes, segment);
        let size = usize::try_from(segment).unwrap();
        let packets = bytes.chunks(if size == 0 { len } else { size });
        expected.extend(packets.map(<[u8]>::to_vec));
    }
    let batch = bench.recv(500);
    let found: Vec<_> = batch.iter().map(|packet| packet.bytes).collect();
    assert!(found == expected, "{} packets", found.len());
}

#[test]
fn at_the_limit_a_packet_that_came_alone_stays_where_it_landed() {
    let Some(mut bench) = bench_with(one_region(32 * 1024), V4, RxOptions::default()) else {
        return;
    };
    for (len, seed) in [900, 1, 0, 2048, 3000].into_iter().zip(0..) {
        drop(landed(&mut bench));
        assert!(bench.recv(64).is_empty(), "memory for another one");
        let hoard = hoard(&mut bench.cache, 64);
        bench.send(len, seed);
        let mut expected = vec![0; len];
        fill(&mut expected, seed);
        let batch = bench.recv(64);
        let packet = batch.get(0).expect("nothing is lost");
        assert_eq!(packet.wire_len(), len);
        assert_eq!(packet.bytes, &expected[..len.min(2048)]);
        // The ring needs no such memory any more, and the packet its lines.
        let lines = packet.bytes.len().max(1).next_multiple_of(64);
        let hoarded: usize = hoard.iter().map(FragMut::capacity).sum();
        assert_eq!(bench.pool.stats().live_bytes, (hoarded + lines) as u64);
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, 0);
}

#[test]
fn what_is_not_as_expected_is_copied_out_and_comes_in_order() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    let (batch, _) = landed(&mut bench);
    drop(batch);
    // Each lands where a full super-buffer of 1200-byte packets was expected.
    for (seed, (len, segment)) in (0..).zip([
        (900, 0),
        (60_000, 1000),
        (FULL, 1200),
        (2400, 1200),
        (FULL, 1200),
        (65_000, 0),
        (FULL, 1200),
        (0, 0),
    ]) {
        let mut bytes = vec![0; len];
        fill(&mut bytes, seed);
        send_segmented(&bench, &bytes, segment);
        let size = usize::try_from(segment).unwrap();
        let all = [bytes.as_slice()];
        let mut expected: Vec<_> = bytes.chunks(size.max(1)).collect();
        if segment == 0 {
            expected = all.to_vec();
        }
        let mut seen = 0;
        while seen < expected.len() {
            // Not all at once: they wait where they landed.
            let batch = bench.recv(40);
            for packet in &batch {
                let whole = expected[seen];
                assert_eq!(packet.wire_len(), whole.len());
                assert_eq!(packet.bytes, &whole[..whole.len().min(2048)]);
                seen += 1;
            }
        }
        let (batch, _) = landed(&mut bench);
        assert!(has_landed(batch));
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, 0);
}

#[test]
fn asked_for_fewer_than_a_super_buffer_has_it_hands_out_no_more_and_loses_none() {
    let Some(mut bench) = default_bench() else {
        return;
    };
    for (seed, max) in (0..).zip([1, 2, 7, 40, 53, 54, 55, 60, 107, 108]) {
        drop(landed(&mut bench));
        // Two of them: the second finds what the first has left of `max`.
        let mut bytes = [vec![0; FULL], vec![0; FULL]];
        for (bytes, seed) in bytes.iter_mut().zip(2 * seed..) {
            fill(bytes, seed);
            send_segmented(&bench, bytes, 1200);
        }
        let mut expected = bytes.iter().flat_map(|bytes| bytes.chunks(1200));
        let (mut left, mut stayed) = (2 * 54, 0);
        while left > 0 {
            let batch = bench.recv(max);
            assert!((1..=max.min(left)).contains(&batch.len()), "of {max}");
            left -= batch.len();
            for packet in &batch {
                assert_eq!(packet.bytes, expected.next().unwrap(), "of {max}");
            }
            stayed += usize::from(has_landed(batch));
        }
        // Where there was room for all of one, it stayed.
        assert_eq!(stayed > 0, max >= 54, "of {max}");
        assert!(bench.recv(max).is_empty());
    }
    assert_eq!(bench.ring.stats().rx_alloc_fail, 0);
    bench.ring.drain();
    assert_eq!(bench.pool.audit().unwrap().live_bytes, 0);
}
