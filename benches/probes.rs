//! The fast paths as functions of their own: callgrind counts what is executed
//! inside them, and their assembly is kept in `golden/`, so that a change is
//! seen as a diff. Each costs a call and a return more than when it is inlined.

use std::collections::VecDeque;

use pagefrag::{Error, Frag, FragMut, PageFragCache, RawFrag, drop_many};

use crate::kernel::{self, KernelCache, KernelFrag};

/// Ours: take.
///
/// # Errors
///
/// As [`PageFragCache::alloc`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_alloc(cache: &mut PageFragCache, size: usize) -> Result<FragMut, Error> {
    cache.alloc(size)
}

/// Ours: give back, here or elsewhere; for a clone, one holder less.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_free(frag: RawFrag) {
    drop(frag);
}

/// Ours: see the room and take a part of it.
///
/// # Errors
///
/// As [`PageFragCache::prepare`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_prepare_commit(
    cache: &mut PageFragCache,
    size: usize,
) -> Result<FragMut, Error> {
    cache.prepare(size)?.commit(size)
}

/// Ours: one holder more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_clone(frag: &Frag) -> Frag {
    frag.clone()
}

/// Ours: many at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_drain(frags: &mut Vec<FragMut>) {
    drop_many(frags.drain(..));
}

/// The kernel's scheme: take.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_kernel_alloc(cache: &mut KernelCache, size: usize) -> KernelFrag {
    cache.alloc(size)
}

/// The kernel's scheme: give back.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_kernel_free(frag: KernelFrag) {
    drop(frag);
}

/// The kernel's scheme: one reference more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_kernel_clone(frag: &KernelFrag) -> KernelFrag {
    frag.clone()
}

/// The kernel's scheme: many references at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn probe_kernel_drain(frags: &mut Vec<KernelFrag>) {
    kernel::drain(frags);
}

/// Keeps a window of `live` buffers of `sizes` for `rounds` rounds: takes one
/// and gives the oldest back.
pub fn window<B>(
    rounds: usize,
    live: usize,
    sizes: &[usize],
    mut take: impl FnMut(usize) -> B,
    mut give: impl FnMut(B),
) {
    let mut window = VecDeque::with_capacity(live + 1);
    for &size in sizes.iter().cycle().take(rounds) {
        window.push_back(take(size));
        if window.len() > live
            && let Some(oldest) = window.pop_front()
        {
            give(oldest);
        }
    }
}
