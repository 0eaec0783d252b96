//! A ring, the cache that feeds it, and somebody who sends: for the tests of rings.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pagefrag::net::{RxBatch, RxFact, RxFacts, RxOptions, RxRing};
use pagefrag::{FragMut, PageFragCache, PagePool};
use pagefrag_tests::fill;

pub(crate) const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

/// Where to bind: both families, or IPv4 alone on a machine without IPv6.
pub(crate) fn families() -> Vec<&'static str> {
    let (there, missing): (Vec<_>, Vec<_>) = [V4, V6]
        .into_iter()
        .partition(|bind| UdpSocket::bind(bind).is_ok());
    assert!(there.contains(&V4), "no IPv4 loopback");
    if !missing.is_empty() {
        eprintln!("skipped: this machine cannot bind {missing:?}");
    }
    there
}

/// A ring over a socket, the cache that feeds it, and somebody who sends.
pub(crate) struct Bench {
    pub(crate) pool: PagePool,
    pub(crate) cache: PageFragCache,
    pub(crate) ring: RxRing<UdpSocket>,
    pub(crate) sender: UdpSocket,
    pub(crate) address: SocketAddr,
}

pub(crate) fn bench_on(pool: PagePool, bind: &str, options: RxOptions) -> Bench {
    let socket = UdpSocket::bind(bind).unwrap();
    let address = socket.local_addr().unwrap();
    Bench {
        cache: PageFragCache::new(&pool),
        ring: RxRing::new(socket, &pool, options).unwrap(),
        sender: UdpSocket::bind(bind).unwrap(),
        address,
        pool,
    }
}

impl Bench {
    pub(crate) fn send(&self, len: usize, seed: u64) {
        let mut bytes = vec![0; len];
        fill(&mut bytes, seed);
        assert_eq!(self.sender.send_to(&bytes, self.address).unwrap(), len);
    }

    pub(crate) fn recv(&mut self, max: usize) -> RxBatch {
        self.ring.recv(&mut self.cache, max).unwrap()
    }

    /// Receives until `count` packets are there, and fails after a while.
    pub(crate) fn recv_all(&mut self, count: usize) -> Vec<Taken> {
        let mut packets = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while packets.len() < count {
            assert!(Instant::now() < end, "{} of {count} packets", packets.len());
            self.ring.wait(Some(Duration::from_millis(50))).unwrap();
            let batch = self.recv(count - packets.len());
            packets.extend(Taken::all(batch, &mut self.cache));
        }
        packets
    }
}

/// A packet out of its batch.
pub(crate) struct Taken {
    pub(crate) frag: FragMut,
    facts: Rc<RxFacts>,
    index: usize,
}

impl Taken {
    pub(crate) fn all(batch: RxBatch, cache: &mut PageFragCache) -> impl Iterator<Item = Self> {
        let (frags, facts) = batch.open(cache);
        let facts = Rc::new(facts);
        (0..).zip(frags).map(move |(index, frag)| Self {
            frag,
            facts: Rc::clone(&facts),
            index,
        })
    }

    pub(crate) fn fact(&self) -> RxFact<'_> {
        self.facts.get(self.index).unwrap()
    }
}

/// A pool that may have one region and no more.
pub(crate) fn one_region(page_size: usize) -> PagePool {
    PagePool::builder()
        .page_size(page_size)
        .max_bytes(2 << 20)
        .build()
        .unwrap()
}

/// Sets a socket option to a number.
pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    let source = (&raw const value).cast();
    // SAFETY: `source` and `len` describe `value`.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, source, len) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

/// A ring over default pages; `None` where the kernel cannot coalesce.
pub(crate) fn bench_with(pool: PagePool, bind: &str, options: RxOptions) -> Option<Bench> {
    let bench = bench_on(pool, bind, options);
    if !bench.ring.gro() {
        eprintln!("skipped: this kernel has no UDP_GRO");
        return None;
    }
    Some(bench)
}

pub(crate) fn default_bench() -> Option<Bench> {
    bench_with(PagePool::new(32 * 1024).unwrap(), V4, RxOptions::default())
}

/// Takes all memory of the cache's pool, in pieces down to `least` bytes.
pub(crate) fn hoard(cache: &mut PageFragCache, least: usize) -> Vec<FragMut> {
    let mut hoard = Vec::new();
    for size in [32 * 1024, 1024, 64]
        .into_iter()
        .filter(|&size| size >= least)
    {
        while let Ok(frag) = cache.alloc(size) {
            hoard.push(frag);
        }
    }
    hoard
}

/// Sends `bytes` as one super-buffer that the kernel cuts into segments (`UDP_SEGMENT`).
pub(crate) fn send_segmented(bench: &Bench, bytes: &[u8], segment: i32) {
    set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    assert_eq!(
        bench.sender.send_to(bytes, bench.address).unwrap(),
        bytes.len()
    );
    set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
}
