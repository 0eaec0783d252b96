//! What a packet buffer promises: the kernel's sizes, errors that change nothing,
//! and a truesize that never lies.

use std::io::Write;
use std::os::unix::net::UnixStream;

use pagefrag::net::{MAX_SKB_FRAGS, NET_SKB_PAD, NetdevCache, SKB_SHARED_INFO, SkBuff};
use pagefrag::{Error, Frag, PageFragCache, PagePool};
use pagefrag_tests::{fill, first_damage};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn netdev() -> NetdevCache {
    NetdevCache::new(&PagePool::new(32 * 1024).unwrap())
}

fn skb_with(netdev: &NetdevCache, room: usize, data: &[u8]) -> SkBuff {
    let mut skb = netdev.alloc_skb(room).unwrap();
    skb.put(data.len()).unwrap().copy_from_slice(data);
    skb
}

fn frag_with(netdev: &NetdevCache, data: &[u8]) -> Frag {
    let mut frag = netdev.alloc_frag(data.len(), 1).unwrap();
    frag.copy_from_slice(data);
    frag.freeze()
}

fn bytes(skb: &SkBuff) -> Vec<u8> {
    let mut out = Vec::new();
    skb.copy_to(&mut out);
    out
}

/// Everything that can be asked of an skb without changing it.
fn picture(skb: &SkBuff) -> (Vec<u8>, [usize; 7]) {
    let numbers = [
        skb.len(),
        skb.data_len(),
        skb.head_len(),
        skb.headroom(),
        skb.tailroom(),
        skb.truesize(),
        skb.nr_frags(),
    ];
    (bytes(skb), numbers)
}

#[test]
fn heads_have_the_kernels_sizes() {
    let netdev = netdev();
    for (len, fragment, truesize) in [
        (321, 768, 1024),
        (640, 1024, 1280),
        (1000, 1408, 1664),
        (1500, 1920, 2176),
        (2048, 2432, 2688),
        (3000, 3392, 3648),
        (3712, 4096, 4352),
    ] {
        let skb = netdev.alloc_skb(len).unwrap();
        assert_eq!(skb.truesize(), truesize, "len {len}");
        assert_eq!(skb.headroom(), NET_SKB_PAD);
        assert_eq!(skb.tailroom(), fragment - SKB_SHARED_INFO - NET_SKB_PAD);
        assert!(skb.is_empty() && skb.tailroom() >= len);
    }
}

#[test]
fn an_skb_is_one_pointer_and_goes_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<SkBuff>();
    anywhere::<NetdevCache>();
    assert_eq!(size_of::<Option<SkBuff>>(), size_of::<usize>());
}

#[test]
fn seventeen_heads_of_1500_bytes_share_a_page() {
    let netdev = netdev();
    let skbs: Vec<_> = (0..34).map(|_| netdev.alloc_skb(1500).unwrap()).collect();
    let page = |skb: &SkBuff| skb.data().as_ptr().addr() & !(32 * 1024 - 1);
    for seventeen in skbs.chunks(17) {
        assert!(seventeen.iter().all(|skb| page(skb) == page(&seventeen[0])));
    }
    assert_ne!(page(&skbs[0]), page(&skbs[17]));
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let netdev = netdev();
    assert_eq!(netdev.alloc_skb(0).err(), Some(Error::ZeroSize));
    for len in [32 * 1024, 1 << 31, 1 << 32, usize::MAX] {
        assert_eq!(netdev.alloc_skb(len).err(), Some(Error::SizeAbovePage));
    }
    let largest = 32 * 1024 - SKB_SHARED_INFO - NET_SKB_PAD;
    assert_eq!(netdev.alloc_skb(largest).unwrap().tailroom(), largest);
    assert_eq!(
        netdev.alloc_skb(largest + 1).err(),
        Some(Error::SizeAbovePage)
    );
    assert_eq!(netdev.alloc_frag(64, 3).err(), Some(Error::BadAlignment));
    assert_eq!(netdev.alloc_frag(0, 1).err(), Some(Error::ZeroSize));
}

#[test]
fn a_fragment_is_built_into_a_head_or_comes_back() {
    let netdev = netdev();
    let mut buffer = netdev.alloc_frag(SKB_SHARED_INFO, 1).unwrap();
    fill(&mut buffer, 1);
    let (error, buffer) = SkBuff::build(buffer).unwrap_err();
    assert_eq!(error, Error::HeadTooSmall);
    assert_eq!(first_damage(&buffer, 1), None);

    let mut buffer = netdev.alloc_frag(2048, 1).unwrap();
    fill(&mut buffer, 2);
    let mut skb = SkBuff::build(buffer).unwrap();
    assert_eq!(skb.truesize(), 2048 + 256);
    assert_eq!((skb.headroom(), skb.tailroom()), (0, 2048 - 320));
    let data = skb.put(2048 - 320).unwrap();
    assert_eq!(first_damage(data, 2), None, "building writes nothing");
    assert_eq!(skb.put(1).err(), Some(Error::NoTailroom));
}

#[test]
fn data_grows_and_shrinks_at_both_ends() {
    let netdev = netdev();
    let mut skb = skb_with(&netdev, 100, b"payload");
    skb.push(4).unwrap().copy_from_slice(b"head");
    skb.put(4).unwrap().copy_from_slice(b"tail");
    assert_eq!(skb.data(), b"headpayloadtail");
    assert_eq!(skb.pull(4).unwrap(), b"payloadtail");
    skb.trim(7).unwrap();
    assert_eq!(skb.data(), b"payload");
    assert_eq!(skb.headroom(), NET_SKB_PAD);
    skb.data_mut().unwrap()[0] = b'P';
    assert_eq!(skb.data(), b"Payload");
}

#[test]
fn a_refused_call_changes_nothing() {
    let netdev = netdev();
    let mut skb = skb_with(&netdev, 100, b"payload");
    let before = picture(&skb);
    let (headroom, tailroom) = (skb.headroom(), skb.tailroom());
    assert_eq!(skb.reserve(1), Err(Error::NotEmpty));
    assert_eq!(skb.put(tailroom + 1).err(), Some(Error::NoTailroom));
    assert_eq!(skb.put(usize::MAX).err(), Some(Error::NoTailroom));
    assert_eq!(skb.push(headroom + 1).err(), Some(Error::NoHeadroom));
    assert_eq!(skb.push(usize::MAX).err(), Some(Error::NoHeadroom));
    assert_eq!(skb.pull(8).err(), Some(Error::AboveLength));
    assert_eq!(skb.trim(8), Err(Error::AboveLength));
    assert_eq!(picture(&skb), before);

    let mut empty = netdev.alloc_skb(100).unwrap();
    let room = empty.tailroom();
    assert_eq!(empty.reserve(room + 1), Err(Error::NoTailroom));
    assert_eq!(empty.headroom(), NET_SKB_PAD);
    empty.reserve(room).unwrap();
    assert_eq!(empty.tailroom(), 0);
}

#[test]
fn seventeen_fragments_fit_and_the_next_comes_back() {
    let netdev = netdev();
    let mut skb = skb_with(&netdev, 100, b"head");
    let base = skb.truesize();
    for count in 1..=MAX_SKB_FRAGS {
        let frag = frag_with(&netdev, &[u8::try_from(count).unwrap(); 100]);
        skb.add_frag(frag).unwrap();
        assert_eq!(skb.nr_frags(), count);
        assert_eq!(skb.truesize(), base + 128 * count, "two lines each");
    }
    let before = picture(&skb);
    let unasked = skb.add_frag_with(|| unreachable!("there is no slot for it"));
    assert_eq!(unasked, Err(Error::TooManyFrags));
    let (error, frag) = skb.add_frag(frag_with(&netdev, b"late")).unwrap_err();
    assert_eq!((error, &frag[..]), (Error::TooManyFrags, &b"late"[..]));
    assert_eq!(picture(&skb), before);
    assert_eq!((skb.len(), skb.data_len(), skb.head_len()), (1704, 1700, 4));
    assert_eq!(skb.put(1).err(), Some(Error::NotLinear));
    assert_eq!(skb.tailroom(), 0);
    assert_eq!(skb.pull(5).err(), Some(Error::AboveLength));
}

#[test]
fn trimming_gives_whole_fragments_back() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut skb = skb_with(&netdev, 100, b"head");
    for letter in *b"abc" {
        skb.add_frag(frag_with(&netdev, &[letter; 64])).unwrap();
    }
    let full = pool.stats().live_bytes;
    let expected = bytes(&skb)[..4 + 64 + 10].to_vec();
    skb.trim(4 + 64 + 10).unwrap();
    assert_eq!(bytes(&skb), expected);
    assert_eq!(skb.nr_frags(), 2);
    assert_eq!(pool.stats().live_bytes, full - 64);
    skb.trim(3).unwrap();
    assert_eq!((bytes(&skb), skb.nr_frags()), (b"hea".to_vec(), 0));
    assert!(skb.tailroom() > 0);
}

#[test]
fn a_clone_shares_and_neither_may_write_until_one_is_gone() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut skb = skb_with(&netdev, 100, b"shared");
    skb.add_frag(frag_with(&netdev, b"frag")).unwrap();
    let live = pool.stats().live_bytes;

    let mut twin = skb.clone_skb();
    assert_eq!(pool.stats().live_bytes, live, "nothing was copied");
    assert_eq!(bytes(&twin), b"sharedfrag");
    assert!(skb.is_cloned() && twin.is_cloned());
    for side in [&mut skb, &mut twin] {
        let before = picture(side);
        assert_eq!(side.push(1).err(), Some(Error::Cloned));
        assert_eq!(side.data_mut().err(), Some(Error::Cloned));
        assert_eq!(picture(side), before);
    }
    twin.trim(6).unwrap();
    assert_eq!(twin.put(1).err(), Some(Error::Cloned));
    assert_eq!(twin.pull(3).unwrap(), b"red");
    assert_eq!(bytes(&skb), b"sharedfrag", "the other does not notice");

    drop(skb);
    assert!(!twin.is_cloned());
    twin.put(1).unwrap()[0] = b'!';
    assert_eq!(twin.data(), b"red!");
    drop(twin);
    assert_eq!(pool.stats().live_bytes, 0);
}

#[test]
fn what_fits_the_tailroom_is_copied() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut to = skb_with(&netdev, 1000, b"to");
    let live = pool.stats().live_bytes;
    let mut from = skb_with(&netdev, 1000, b"from");
    from.add_frag(frag_with(&netdev, b"frag")).unwrap();
    let twin_of_from = from.clone_skb();
    assert_eq!(to.coalesce(from).unwrap(), 0);
    assert_eq!((to.data(), to.nr_frags()), (&b"tofromfrag"[..], 0));
    drop(twin_of_from);
    assert_eq!(
        pool.stats().live_bytes,
        live,
        "the other is given back whole"
    );
}

#[test]
fn a_head_is_stolen_as_a_fragment() {
    let netdev = netdev();
    let mut to = skb_with(&netdev, 64, &[1; 64]);
    let mut from = skb_with(&netdev, 1500, &[2; 1500]);
    from.add_frag(frag_with(&netdev, &[3; 100])).unwrap();
    let (charged, struct_alone) = (from.truesize(), 256);
    let before = to.truesize();
    let delta = to.coalesce(from).unwrap();
    assert_eq!(delta, charged - struct_alone, "kernel: all but the struct");
    assert_eq!(to.truesize(), before + delta);
    assert_eq!(to.nr_frags(), 2);
    let expected = [vec![1; 64], vec![2; 1500], vec![3; 100]].concat();
    assert_eq!(bytes(&to), expected);
}

#[test]
fn an_empty_head_is_given_back_and_not_stolen() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut to = skb_with(&netdev, 64, &[1; 64]);
    let mut from = netdev.alloc_skb(1000).unwrap();
    let head = from.truesize();
    from.add_frag(frag_with(&netdev, &[2; 1000])).unwrap();
    let charged = from.truesize();
    assert_eq!(to.coalesce(from).unwrap(), charged - head);
    assert_eq!(to.nr_frags(), 1);
    drop(to);
    assert_eq!(pool.stats().live_bytes, 0);
}

#[test]
fn coalescing_is_refused_as_in_the_kernel_and_both_stay_whole() {
    let netdev = netdev();
    let filled = |frags: usize| {
        let mut skb = skb_with(&netdev, 64, &[9; 64]);
        for _ in 0..frags {
            skb.add_frag(frag_with(&netdev, &[8; 64])).unwrap();
        }
        skb
    };
    let refused = |to: &mut SkBuff, from: SkBuff, why: Error| {
        let before = (picture(to), picture(&from));
        let (error, from) = to.coalesce(from).unwrap_err();
        assert_eq!(error, why);
        assert_eq!((picture(to), picture(&from)), before);
    };
    refused(&mut filled(9), filled(8), Error::TooManyFrags);
    filled(9).coalesce(filled(7)).unwrap();

    let mut target = filled(0);
    let _twin = target.clone_skb();
    refused(&mut target, filled(0), Error::Cloned);

    let mut source = filled(0);
    let _twin = source.clone_skb();
    refused(&mut filled(0), source, Error::Cloned);

    // Without data in the head nothing is stolen, so 17 may come, clone or not.
    let mut headless = filled(17);
    headless.pull(64).unwrap();
    let _twin = headless.clone_skb();
    let mut to = filled(0);
    to.coalesce(headless).unwrap();
    assert_eq!(to.nr_frags(), 17);
}

#[test]
fn a_new_head_is_as_long_as_was_asked_or_nothing_changes() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut skb = skb_with(&netdev, 64, b"ab");
    skb.add_frag(frag_with(&netdev, &[3; 4000])).unwrap();
    assert!(skb.pool().same_as(&pool));
    let before = picture(&skb);
    let short = skb.linearize_with(|size| netdev.alloc_frag(size - 1, 1));
    assert_eq!(short, Err(Error::HeadTooSmall));
    assert_eq!(picture(&skb), before);
    let content = bytes(&skb);
    skb.linearize_with(|size| netdev.alloc_frag(size + 64, 1))
        .unwrap();
    assert_eq!(skb.data(), content);
    let tailroom = skb.tailroom();
    assert!(tailroom >= 64, "what is more is room");
    skb.put(tailroom).unwrap().fill(9);
    assert_eq!(skb.tailroom(), 0);
    drop(skb);
    netdev.drain();
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn linearizing_uses_the_heads_room_or_takes_a_new_head() {
    let pool = PagePool::new(32 * 1024).unwrap();
    let netdev = NetdevCache::new(&pool);
    let mut cache = PageFragCache::new(&pool);

    let mut roomy = skb_with(&netdev, 1000, b"ab");
    roomy.add_frag(frag_with(&netdev, b"cd")).unwrap();
    let place = roomy.data().as_ptr();
    roomy.linearize(&mut cache).unwrap();
    assert_eq!((roomy.data(), roomy.nr_frags()), (&b"abcd"[..], 0));
    assert_eq!(roomy.data().as_ptr(), place);

    let mut tight = skb_with(&netdev, 64, &[1; 64]);
    tight.add_frag(frag_with(&netdev, &[2; 4000])).unwrap();
    tight.push(3).unwrap().fill(0);
    let expected = bytes(&tight);
    tight.linearize(&mut cache).unwrap();
    assert_eq!(tight.data(), expected);
    assert_eq!(tight.headroom(), NET_SKB_PAD - 3, "headroom is kept");

    let mut cloned = skb_with(&netdev, 1000, b"ab");
    cloned.add_frag(frag_with(&netdev, b"cd")).unwrap();
    let twin = cloned.clone_skb();
    cloned.linearize(&mut cache).unwrap();
    cloned.data_mut().unwrap()[0] = b'X';
    assert_eq!(
        (bytes(&cloned), bytes(&twin)),
        (b"Xbcd".to_vec(), b"abcd".to_vec())
    );

    let mut large = skb_with(&netdev, 64, b"x");
    for _ in 0..2 {
        large
            .add_frag(frag_with(&netdev, &vec![5; 20_000]))
            .unwrap();
    }
    let before = picture(&large);
    assert_eq!(large.linearize(&mut cache), Err(Error::SizeAbovePage));
    assert_eq!(picture(&large), before);

    drop((roomy, tight, cloned, twin, large, cache));
    netdev.drain();
    assert_eq!(pool.audit().unwrap().live_bytes, 0);
}

#[test]
fn slices_reach_a_real_socket_in_order() {
    let netdev = netdev();
    let mut skb = skb_with(&netdev, 100, b"one,");
    skb.add_frag(frag_with(&netdev, b"two,")).unwrap();
    let mut emptied = frag_with(&netdev, b"gone");
    emptied.truncate(0);
    skb.add_frag(emptied).unwrap();
    skb.add_frag(frag_with(&netdev, b"three")).unwrap();
    let slices: Vec<_> = skb.io_slices().collect();
    assert_eq!(slices.len(), 3, "empty pieces are left out");

    let (mut here, there) = UnixStream::pair().unwrap();
    assert_eq!(here.write_vectored(&slices).unwrap(), skb.len());
    drop(here);
    assert_eq!(std::io::read_to_string(there).unwrap(), "one,two,three");
}

/// What a program may do to a handful of skbs.
#[derive(Clone, Debug)]
enum Op {
    Alloc(usize),
    Put(usize, usize),
    Push(usize, usize),
    Pull(usize, usize),
    Trim(usize, usize),
    AddFrag(usize, usize),
    Clone(usize),
    Coalesce(usize, usize),
    Linearize(usize),
    Drop(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..8_usize;
    let size = prop_oneof![0..80_usize, 0..3000_usize];
    prop_oneof![
        3 => (1..3000_usize).prop_map(Op::Alloc),
        4 => (who.clone(), size.clone()).prop_map(|(i, n)| Op::Put(i, n)),
        1 => (who.clone(), size.clone()).prop_map(|(i, n)| Op::Push(i, n)),
        1 => (who.clone(), size.clone()).prop_map(|(i, n)| Op::Pull(i, n)),
        1 => (who.clone(), size.clone()).prop_map(|(i, n)| Op::Trim(i, n)),
        4 => (who.clone(), 1..3000_usize).prop_map(|(i, n)| Op::AddFrag(i, n)),
        2 => who.clone().prop_map(Op::Clone),
        3 => (who.clone(), who.clone()).prop_map(|(i, j)| Op::Coalesce(i, j)),
        1 => who.clone().prop_map(Op::Linearize),
        1 => who.prop_map(Op::Drop),
    ]
}

/// An skb and the bytes it should hold.
struct Pair {
    skb: SkBuff,
    twin: Vec<u8>,
}

struct World {
    pool: PagePool,
    netdev: NetdevCache,
    cache: PageFragCache,
    pairs: Vec<Pair>,
    /// Grows with each write, so that no two writes look alike.
    seed: u64,
}

impl World {
    fn new() -> Self {
        let pool = PagePool::new(32 * 1024).unwrap();
        Self {
            netdev: NetdevCache::new(&pool),
            cache: PageFragCache::new(&pool),
            pairs: Vec::new(),
            seed: 0,
            pool,
        }
    }

    fn fresh_bytes(&mut self, len: usize) -> Vec<u8> {
        self.seed += 1;
        let mut bytes = vec![0; len];
        fill(&mut bytes, self.seed);
        bytes
    }

    fn step(&mut self, op: &Op) {
        let alive = self.pairs.len();
        match *op {
            Op::Alloc(len) if alive < 8 => {
                let skb = self.netdev.alloc_skb(len).unwrap();
                self.pairs.push(Pair {
                    skb,
                    twin: Vec::new(),
                });
            }
            Op::Put(i, n) if i < alive => {
                let bytes = self.fresh_bytes(n);
                let pair = &mut self.pairs[i];
                if let Ok(room) = pair.skb.put(n) {
                    room.copy_from_slice(&bytes);
                    pair.twin.extend(bytes);
                }
            }
            Op::Push(i, n) if i < alive => {
                let bytes = self.fresh_bytes(n);
                let pair = &mut self.pairs[i];
                if let Ok(room) = pair.skb.push(n) {
                    room.copy_from_slice(&bytes);
                    pair.twin.splice(0..0, bytes);
                }
            }
            Op::Pull(i, n) if i < alive => {
                let pair = &mut self.pairs[i];
                if pair.skb.pull(n).is_ok() {
                    pair.twin.drain(..n);
                }
            }
            Op::Trim(i, n) if i < alive => {
                let pair = &mut self.pairs[i];
                assert_eq!(pair.skb.trim(n).is_ok(), n <= pair.twin.len());
                pair.twin.truncate(n);
            }
            Op::AddFrag(i, n) if i < alive => {
                let bytes = self.fresh_bytes(n);
                let frag = frag_with(&self.netdev, &bytes);
                if self.pairs[i].skb.add_frag(frag).is_ok() {
                    self.pairs[i].twin.extend(bytes);
                }
            }
            Op::Clone(i) if i < alive && alive < 8 => {
                let pair = &mut self.pairs[i];
                let (skb, twin) = (pair.skb.clone_skb(), pair.twin.clone());
                self.pairs.push(Pair { skb, twin });
            }
            Op::Coalesce(i, j) if i < alive && j < alive && i != j => self.coalesce(i, j),
            Op::Linearize(i) if i < alive => {
                let skb = &mut self.pairs[i].skb;
                if skb.linearize(&mut self.cache).is_ok() {
                    assert_eq!(skb.nr_frags(), 0);
                }
            }
            Op::Drop(i) if i < alive => {
                self.pairs.swap_remove(i);
            }
            _ => {}
        }
    }

    fn coalesce(&mut self, i: usize, j: usize) {
        let from = self.pairs.remove(j);
        let i = if j < i { i - 1 } else { i };
        let to = &mut self.pairs[i];
        let before = to.skb.truesize();
        match to.skb.coalesce(from.skb) {
            Ok(delta) => {
                assert_eq!(to.skb.truesize(), before + delta);
                to.twin.extend(from.twin);
            }
            Err((_, skb)) => self.pairs.push(Pair {
                skb,
                twin: from.twin,
            }),
        }
    }

    fn check(&self) {
        for Pair { skb, twin } in &self.pairs {
            assert_eq!(&bytes(skb), twin);
            assert_eq!(skb.len(), twin.len());
            assert_eq!(skb.len(), skb.head_len() + skb.data_len());
            assert!(skb.nr_frags() <= MAX_SKB_FRAGS);
            let sent: usize = skb.io_slices().map(|slice| slice.len()).sum();
            assert_eq!(sent, twin.len());
        }
        let charged: usize = self.pairs.iter().map(|pair| pair.skb.truesize()).sum();
        let held = self.pool.stats().live_bytes;
        assert!(
            charged as u64 >= held,
            "{charged} bytes charged, {held} held"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        // A program that failed once is kept, and run first from then on.
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "programs/net_skb.txt",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn truesize_is_never_below_the_memory_held(program in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &program {
            world.step(op);
            world.check();
        }
        world.pairs.clear();
        prop_assert_eq!(world.pool.stats().live_bytes, 0);
    }
}
