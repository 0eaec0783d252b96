//! What does a buffer cost that is taken and given back on one thread?
//!
//! R1: less than one uncontended locked add, which stands in the same group.
//! R2: half of the best rival.

use std::alloc::System;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use pagefrag_benches::arms::{Arm, Counted, Lines, Mimalloc, Packed, Split};
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::workload::PAIR_SIZES;

fn main() {
    println!("{}", machine::describe());
    machine::pin_to(0);
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for size in PAIR_SIZES {
        let mut group = criterion.benchmark_group(format!("pair/{size}"));
        locked_add(&mut group);
        pair::<Lines>(&mut group, size);
        pair::<Packed>(&mut group, size);
        pair::<KernelCache>(&mut group, size);
        pair::<Split>(&mut group, size);
        pair::<Counted<Mimalloc>>(&mut group, size);
        pair::<Counted<System>>(&mut group, size);
        group.finish();
    }
    criterion.final_summary();
}

fn locked_add(group: &mut BenchmarkGroup<'_, WallTime>) {
    let count = AtomicUsize::new(0);
    group.bench_function("one locked add", |bencher| {
        bencher.iter(|| black_box(&count).fetch_add(1, Ordering::Relaxed));
    });
}

fn pair<A: Arm>(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let mut arm = A::start();
    group.bench_function(A::NAME, |bencher| {
        bencher.iter(|| drop(black_box(arm.alloc(black_box(size)))));
    });
}
