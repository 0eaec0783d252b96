//! What a poll promises: no heap call per packet, failures as values and counts,
//! and nothing outside of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pagefrag::net::{
    ContextError, NET_IP_ALIGN, NET_SKB_PAD, NapiCache, RxBatch, RxOptions, RxRing, SkBuff,
};
use pagefrag::{Error, PageFragCache, PagePool};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to `System`, which keeps the contract;
// the count is a plain thread-local number that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's layout, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's block and layout, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Heap calls of this thread during `work`.
fn heap_calls(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

fn pool() -> PagePool {
    PagePool::new(32 * 1024).unwrap()
}

/// One packet as a driver sees it: a head, two fragments, gone again.
fn packet(ctx: &mut pagefrag::net::NapiContext<'_>) {
    let mut skb = ctx.alloc_skb(1500).unwrap();
    skb.put(100).unwrap().fill(7);
    for _ in 0..2 {
        let frag = ctx.alloc_frag(2048, 1).unwrap();
        skb.add_frag(frag.freeze()).unwrap();
    }
    ctx.consume_skb(skb);
}

#[test]
fn a_poll_makes_no_heap_call_per_packet() {
    let mut napi = NapiCache::new(&pool());
    napi.poll(64, |ctx| {
        for _ in 0..64 {
            packet(ctx);
        }
        let calls = heap_calls(|| {
            for _ in 0..10_000 {
                packet(ctx);
            }
        });
        assert_eq!(calls, 0);
    });
    let calls = heap_calls(|| {
        for _ in 0..1000 {
            napi.poll(64, packet);
        }
    });
    assert_eq!(calls, 0, "the array waits for the next poll");
}

#[test]
fn a_burst_keeps_its_structs_up_to_sixty_four() {
    let mut napi = NapiCache::new(&pool());
    napi.poll(64, |ctx| {
        let burst = |ctx: &mut pagefrag::net::NapiContext<'_>, count: usize| {
            let skbs: Vec<_> = (0..count).map(|_| ctx.alloc_skb(100).unwrap()).collect();
            for skb in skbs {
                ctx.consume_skb(skb);
            }
        };
        burst(ctx, 48);
        let kept = heap_calls(|| burst(ctx, 48));
        assert_eq!(kept, 2, "the test's own list comes and goes");
        burst(ctx, 64);
        let skbs: Vec<_> = (0..32).map(|_| ctx.alloc_skb(100).unwrap()).collect();
        let refill = heap_calls(|| drop(ctx.alloc_skb(100).unwrap()));
        assert_eq!(
            refill,
            16 + 1,
            "32 had stayed: sixteen at once, and the drop"
        );
        for skb in skbs {
            ctx.consume_skb(skb);
        }
    });
}

#[test]
fn budget_zero_keeps_nothing() {
    let mut napi = NapiCache::new(&pool());
    napi.poll(1, |ctx| drop(ctx.alloc_skb(100)));
    napi.poll(0, |ctx| {
        assert_eq!(ctx.budget(), 0);
        let skb = ctx.alloc_skb(100).unwrap();
        assert_eq!(
            heap_calls(|| ctx.consume_skb(skb)),
            1,
            "its struct is freed"
        );
    });
}

#[test]
fn consuming_gives_the_memory_back_at_once() {
    let pool = pool();
    let mut napi = NapiCache::new(&pool);
    napi.poll(64, |ctx| {
        let mut skb = ctx.alloc_skb(1500).unwrap();
        assert_eq!(skb.headroom(), NET_SKB_PAD + NET_IP_ALIGN);
        let frag = ctx.alloc_frag(4096, 64).unwrap().freeze();
        let kept = frag.clone();
        skb.add_frag(frag).unwrap();
        ctx.consume_skb(skb);
        assert_eq!(
            pool.stats().live_bytes,
            4096,
            "one fragment lives elsewhere"
        );
        drop(kept);
        assert_eq!(pool.stats().live_bytes, 0);
    });
}

#[test]
fn a_struct_from_the_array_remembers_nothing() {
    let mut napi = NapiCache::new(&pool());
    napi.poll(64, |ctx| {
        packet(ctx);
        let skb = ctx.alloc_skb(640).unwrap();
        assert_eq!((skb.len(), skb.nr_frags(), skb.truesize()), (0, 0, 1280));
        assert!(!skb.is_cloned());
        let mut clone_of = ctx.alloc_skb(100).unwrap();
        let twin = clone_of.clone_skb();
        ctx.consume_skb(clone_of);
        assert!(!twin.is_cloned(), "consuming gave the shared head up");
    });
}

#[test]
fn coalescing_in_a_poll_keeps_the_struct() {
    let mut napi = NapiCache::new(&pool());
    napi.poll(64, |ctx| {
        packet(ctx);
        let calls = heap_calls(|| {
            for _ in 0..100 {
                let mut to = ctx.alloc_skb(64).unwrap();
                to.put(64).unwrap().fill(1);
                let mut from = ctx.alloc_skb(1500).unwrap();
                from.put(1500).unwrap().fill(2);
                ctx.coalesce(&mut to, from).unwrap();
                assert_eq!(to.len(), 1564);
                ctx.consume_skb(to);
            }
        });
        assert!(calls <= 4, "at most the slots of two structs: {calls}");
    });
}

#[test]
fn a_failure_is_none_and_one_more_rx_alloc_fail() {
    let pool = PagePool::builder()
        .page_size(32 * 1024)
        .max_bytes(2 << 20)
        .build()
        .unwrap();
    let mut napi = NapiCache::new(&pool);
    let mut kept = Vec::new();
    napi.poll(64, |ctx| {
        while let Some(frag) = ctx.alloc_frag(32 * 1024, 1) {
            kept.push(frag);
        }
        assert!(ctx.alloc_skb(32_000).is_none());
        assert_eq!(
            ctx.try_alloc_frag(32 * 1024, 1).err(),
            Some(Error::Exhausted)
        );
        // The caller's mistakes: counted as lost buffers only where the reason is lost.
        assert_eq!(ctx.try_alloc_frag(0, 1).err(), Some(Error::ZeroSize));
        assert_eq!(ctx.try_alloc_frag(64, 3).err(), Some(Error::BadAlignment));
        assert_eq!(ctx.try_alloc_skb(1 << 40).err(), Some(Error::SizeAbovePage));
    });
    assert_eq!(napi.stats().rx_alloc_fail, 3);
    napi.poll(64, |ctx| assert!(ctx.alloc_frag(0, 1).is_none()));
    assert_eq!(napi.stats().rx_alloc_fail, 4);
    kept.clear();
    napi.poll(64, |ctx| assert!(ctx.alloc_frag(32 * 1024, 1).is_some()));
    assert_eq!(napi.stats().rx_alloc_fail, 4, "it recovers by itself");
}

#[test]
fn without_a_closure_every_call_is_checked() {
    let mut napi = NapiCache::new(&pool());
    assert_eq!(napi.context().err(), Some(ContextError::OutsidePoll));
    assert_eq!(napi.leave(), Err(ContextError::OutsidePoll));
    napi.enter(8).unwrap();
    assert_eq!(napi.enter(8), Err(ContextError::AlreadyPolling));
    assert_eq!(napi.context().unwrap().budget(), 8);
    let skb = napi.context().unwrap().alloc_skb(100).unwrap();
    napi.context().unwrap().consume_skb(skb);
    // A poll inside, on the same cache, does not end the outer one.
    napi.poll(3, |ctx| assert_eq!(ctx.budget(), 3));
    assert_eq!(napi.context().unwrap().budget(), 8);

    let mut napi = std::thread::spawn(move || {
        assert_eq!(napi.context().err(), Some(ContextError::OtherThread));
        assert_eq!(napi.leave(), Err(ContextError::OtherThread));
        assert!(napi.is_polling());
        napi
    })
    .join()
    .unwrap();
    napi.leave().unwrap();
    assert!(!napi.is_polling());
}

#[test]
fn a_panic_closes_the_poll() {
    let mut napi = NapiCache::new(&pool());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        napi.poll(64, |ctx| {
            let _skb = ctx.alloc_skb(100);
            panic!("the driver's own");
        })
    }));
    assert!(outcome.is_err());
    assert!(!napi.is_polling());
    assert_eq!(napi.context().err(), Some(ContextError::OutsidePoll));
    napi.poll(64, packet);
}

#[test]
fn an_skb_may_be_dropped_anywhere() {
    let pool = pool();
    let mut napi = NapiCache::new(&pool);
    let skbs: Vec<SkBuff> = napi.poll(64, |ctx| {
        (0..64).map(|_| ctx.alloc_skb(1500).unwrap()).collect()
    });
    std::thread::spawn(move || drop(skbs)).join().unwrap();
    assert_eq!(pool.stats().live_bytes, 0);
    drop(napi);
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn a_ring_makes_no_heap_call_in_steady_state() {
    let pool = pool();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut ring = RxRing::new(socket, &pool, RxOptions::default()).unwrap();
    let mut cache = PageFragCache::new(&pool);
    let mut batch = RxBatch::default();
    let mut round = |count: u64| {
        for _ in 0..count {
            for len in [0, 100, 1200] {
                for _ in 0..10 {
                    sender.send_to(&[7; 1500][..len], address).unwrap();
                }
            }
            ring.recv_into(&mut cache, 64, &mut batch).unwrap();
            assert_eq!(batch.len(), 30);
            batch.clear();
        }
    };
    round(8);
    assert_eq!(heap_calls(|| round(100)), 0);
    assert_eq!(ring.stats().rx_packets, 108 * 30);
}
