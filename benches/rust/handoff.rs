//! What does a buffer cost that is taken on one core and given back on another?
//!
//! R4: a producer, a ring of 512 slots, a consumer: the kernel's own test. The
//! ring alone stands in the same group.

use std::alloc::System;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use pagefrag_benches::arms::{Arm, Counted, Lines, Mimalloc, Packed, Split};
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::workload::{HANDOFF_SIZES, HANDOFF_SLOTS};
use pagefrag_benches::{machine, spsc};

/// Hand-offs per measured iteration, so that starting a thread is not what is
/// measured.
const OBJECTS: u64 = 200_000;

fn main() {
    println!("{}", machine::describe());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for size in HANDOFF_SIZES {
        let mut group = criterion.benchmark_group(format!("handoff/{size}"));
        group.throughput(Throughput::Elements(OBJECTS));
        handoff::<Nothing>(&mut group, size);
        handoff::<Lines>(&mut group, size);
        handoff::<Packed>(&mut group, size);
        handoff::<KernelCache>(&mut group, size);
        handoff::<Split>(&mut group, size);
        handoff::<Counted<Mimalloc>>(&mut group, size);
        handoff::<Counted<System>>(&mut group, size);
        group.finish();
    }
    criterion.final_summary();
}

/// No buffer at all: what the ring and the two threads cost.
struct Nothing;

impl Arm for Nothing {
    type Buffer = u128;
    const NAME: &'static str = "the ring alone";

    fn start() -> Self {
        Self
    }

    fn alloc(&mut self, size: usize) -> u128 {
        size as u128
    }

    fn touch(buffer: &mut u128) {
        *buffer += 1;
    }
}

fn handoff<A: Arm>(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    group.bench_function(A::NAME, |bencher| {
        bencher.iter_custom(|rounds| pass::<A>(rounds * OBJECTS, size));
    });
}

/// Passes `objects` buffers of `size` bytes from processor 0 to processor 1;
/// a quarter as many go first, unmeasured, so that pages are in place.
fn pass<A: Arm>(objects: u64, size: usize) -> Duration {
    let warm = objects / 4;
    let (mut producer, mut consumer) = spsc::queue::<A::Buffer>(HANDOFF_SLOTS);
    let done = &Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(move || {
            machine::pin_to(0);
            let mut arm = A::start();
            for _ in 0..warm + objects {
                let mut buffer = arm.alloc(black_box(size));
                A::touch(&mut buffer);
                producer.put(buffer);
            }
            // The arm outlives its buffers.
            done.wait();
        });
        machine::pin_to(1);
        (0..warm).for_each(|_| drop(consumer.take()));
        let start = Instant::now();
        (0..objects).for_each(|_| drop(black_box(consumer.take())));
        let elapsed = start.elapsed();
        done.wait();
        elapsed
    })
}
