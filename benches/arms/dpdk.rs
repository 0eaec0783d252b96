//! DPDK's pool of packet buffers, through a small C shim (`dpdk.c`): each of
//! 2 KiB whatever was asked for, with a cache for each thread.
//!
//! It is started without huge pages, as everything else here.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::{NonNull, null_mut};

use super::Arm;

/// Bytes of each.
const ROOM: usize = 2048;

#[repr(C)]
struct Pool {
    _opaque: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

#[repr(C)]
struct Taken {
    mbuf: *mut c_void,
    bytes: *mut u8,
}

unsafe extern "C" {
    fn pagefrag_dpdk_pool() -> *mut Pool;
    fn pagefrag_dpdk_register();
    fn pagefrag_dpdk_take(pool: *mut Pool) -> Taken;
    fn pagefrag_dpdk_give(mbuf: *mut c_void);
    fn pagefrag_dpdk_take_bulk(pool: *mut Pool, mbufs: *mut *mut c_void, count: c_uint) -> c_int;
    fn pagefrag_dpdk_give_bulk(mbufs: *mut *mut c_void, count: c_uint);
    fn pagefrag_dpdk_bytes(mbuf: *mut c_void) -> *mut u8;
    fn pagefrag_dpdk_pairs(pool: *mut Pool, rounds: c_ulong);
}

/// The process's pool of 2 KiB packet buffers, which stays.
#[derive(Debug)]
pub struct Dpdk(NonNull<Pool>);

/// A packet buffer; its bytes begin behind DPDK's headroom.
#[derive(Debug)]
pub struct Mbuf {
    mbuf: NonNull<c_void>,
    bytes: NonNull<u8>,
}

// SAFETY: a buffer may be freed by any thread, which is what the pool's ring
// is for, and is reached through this handle only.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: taken from a pool that outlives it, and given back once.
        unsafe { pagefrag_dpdk_give(self.mbuf.as_ptr()) };
    }
}

// SAFETY: each buffer has 2 KiB of room, `MOST` is that, and one handle.
unsafe impl Arm for Dpdk {
    type Buffer = Mbuf;
    type Counting = Self;
    const NAME: &'static str = "DPDK mbuf";
    const MOST: usize = ROOM;

    fn start() -> Self {
        // SAFETY: no demands; DPDK is started once, behind a lock.
        let pool = unsafe { pagefrag_dpdk_pool() };
        Self(NonNull::new(pool).expect("DPDK starts without huge pages"))
    }

    #[inline]
    fn alloc(&mut self, _size: usize) -> Mbuf {
        // SAFETY: the pool is alive, and this thread is registered.
        let taken = unsafe { pagefrag_dpdk_take(self.0.as_ptr()) };
        Mbuf {
            mbuf: NonNull::new(taken.mbuf).expect("a pool large enough"),
            bytes: NonNull::new(taken.bytes).expect("with its buffer"),
        }
    }

    #[inline]
    fn bytes(buffer: &mut Mbuf) -> NonNull<u8> {
        buffer.bytes
    }

    #[inline]
    fn take_many(&mut self, sizes: &[usize], taken: &mut Vec<Mbuf>) {
        let mut mbufs = [null_mut(); crate::workload::POLL];
        let mbufs = &mut mbufs[..sizes.len()];
        let count = c_uint::try_from(mbufs.len()).expect("a poll");
        // SAFETY: the pool is alive; `mbufs` has room for `count`.
        let refused =
            unsafe { pagefrag_dpdk_take_bulk(self.0.as_ptr(), mbufs.as_mut_ptr(), count) };
        assert_eq!(refused, 0, "a pool large enough");
        taken.extend(mbufs.iter().map(|&mbuf| {
            // SAFETY: a buffer of ours, as all of them after `refused`.
            let bytes = unsafe { pagefrag_dpdk_bytes(mbuf) };
            Mbuf {
                mbuf: NonNull::new(mbuf).expect("all or none"),
                bytes: NonNull::new(bytes).expect("with its buffer"),
            }
        }));
    }

    #[inline]
    fn give_many(&mut self, taken: &mut Vec<Mbuf>) {
        give_bulk(taken);
    }

    #[inline]
    fn give_elsewhere(taken: &mut Vec<Mbuf>) {
        // SAFETY: no demands.
        unsafe { pagefrag_dpdk_register() };
        give_bulk(taken);
    }
}

fn give_bulk(taken: &mut Vec<Mbuf>) {
    let mut mbufs: Vec<*mut c_void> = Vec::with_capacity(taken.len());
    mbufs.extend(
        taken
            .drain(..)
            .map(|mbuf| std::mem::ManuallyDrop::new(mbuf).mbuf.as_ptr()),
    );
    let count = c_uint::try_from(mbufs.len()).expect("a batch");
    // SAFETY: each was taken from a pool that outlives it, and is given once.
    unsafe { pagefrag_dpdk_give_bulk(mbufs.as_mut_ptr(), count) };
}

/// Takes and gives back `rounds` times in C, without a call for each.
pub fn pairs_in_c(dpdk: &mut Dpdk, rounds: u64) {
    // SAFETY: the pool is alive, and this thread is registered.
    unsafe { pagefrag_dpdk_pairs(dpdk.0.as_ptr(), rounds) };
}
