//! How many instructions does an operation take? The workloads that
//! `benches/python/instructions.py` runs under callgrind, which counts inside
//! the probes only.

use std::hint::black_box;
use std::thread;

use pagefrag::{FragMut, PageFragCache, PagePool};
use pagefrag_benches::kernel::{KernelCache, KernelFrag};
use pagefrag_benches::probes::{
    probe_alloc, probe_clone, probe_drain, probe_free, probe_kernel_alloc, probe_kernel_clone,
    probe_kernel_drain, probe_kernel_free, probe_prepare_commit, window,
};
use pagefrag_benches::workload::{PAGE, imix};

/// References of a drain, and the bytes of each: all of a page.
const REFERENCES: usize = 64;
const SMALL: usize = PAGE / REFERENCES;

const SIZE: usize = 1500;
const WINDOW: usize = 256;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [workload, rounds] = words.as_slice() else {
        println!("run by `make bench-instructions`");
        return;
    };
    run(workload, rounds.parse().expect("a number of rounds"));
}

fn run(workload: &str, rounds: usize) {
    let mut ours = PageFragCache::new(&PagePool::new(PAGE).expect("a valid page size"));
    let mut kernels = KernelCache::new();
    let take = |cache: &mut PageFragCache, size| probe_alloc(cache, size).expect("memory");
    match workload {
        // One at a time: every page is whole again when its end comes.
        "pair" => window(rounds, 0, &[SIZE], |size| take(&mut ours, size), give),
        "reserve" => {
            let reserve = |size| probe_prepare_commit(&mut ours, size).expect("memory");
            window(rounds, 0, &[SIZE], reserve, give);
        }
        // What it costs to find room again is in these.
        "window" => {
            let take = |size| take(&mut ours, size);
            window(rounds, WINDOW, &imix(4096), take, give);
        }
        "share" => {
            let frag = take(&mut ours, SIZE).freeze();
            // The first clone makes the count, which stays for a while.
            let kept = frag.clone();
            (0..rounds).for_each(|_| probe_free(probe_clone(black_box(&frag)).into_raw()));
            drop(kept);
        }
        "elsewhere" => elsewhere(rounds, || take(&mut ours, SMALL), each),
        "drain" => elsewhere(rounds, || take(&mut ours, SMALL), probe_drain),
        "kernel pair" => {
            let take = |size| probe_kernel_alloc(&mut kernels, size);
            window(rounds, 0, &[SIZE], take, probe_kernel_free);
        }
        "kernel window" => {
            let take = |size| probe_kernel_alloc(&mut kernels, size);
            window(rounds, WINDOW, &imix(4096), take, probe_kernel_free);
        }
        "kernel share" => {
            let frag = probe_kernel_alloc(&mut kernels, SIZE);
            (0..rounds).for_each(|_| probe_kernel_free(probe_kernel_clone(black_box(&frag))));
        }
        "kernel elsewhere" => {
            elsewhere(
                rounds,
                || probe_kernel_alloc(&mut kernels, SMALL),
                kernels_each,
            );
        }
        "kernel drain" => {
            elsewhere(
                rounds,
                || probe_kernel_alloc(&mut kernels, SMALL),
                probe_kernel_drain,
            );
        }
        _ => panic!("no workload {workload}"),
    }
}

fn give(frag: FragMut) {
    probe_free(frag.into_raw());
}

fn each(frags: &mut Vec<FragMut>) {
    frags.drain(..).for_each(give);
}

fn kernels_each(frags: &mut Vec<KernelFrag>) {
    frags.drain(..).for_each(probe_kernel_free);
}

/// Takes pages' worth of small buffers and gives each to a thread of its own.
fn elsewhere<B: Send>(rounds: usize, mut take: impl FnMut() -> B, give: fn(&mut Vec<B>)) {
    for _ in 0..rounds.div_ceil(REFERENCES) {
        let mut buffers: Vec<B> = (0..REFERENCES).map(|_| take()).collect();
        thread::scope(|scope| {
            scope.spawn(|| give(&mut buffers));
        });
    }
}
