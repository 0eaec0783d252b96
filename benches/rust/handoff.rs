//! What does a buffer cost that is taken on one core and given back on another?
//!
//! R4: a producer, a ring of 512 slots, a consumer: the kernel's own test,
//! with and without an alignment. The ring alone stands in the same group.

use std::marker::PhantomData;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Head, Touch, Whole, value};
use pagefrag_benches::workload::{HANDOFF_SIZES, HANDOFF_SLOTS};
use pagefrag_benches::{machine, spsc};

/// Buffers of a round, so that starting a thread is not what is measured.
const OBJECTS: usize = 16 * 1024;

/// Buffers that a consumer in the other form gives back at once.
const TOGETHER: usize = 32;

fn main() {
    let mut groups = Vec::new();
    for size in HANDOFF_SIZES {
        groups.push(group::<Head, Plain>("handoff", size));
        groups.push(group::<Head, Aligned>("handoff, aligned", size));
    }
    groups.push(group::<Whole, Plain>("handoff, all bytes", 1500));
    groups.push(group::<Head, InGroups>("handoff, dropped by 32", 1500));
    stand::run("handoff", groups);
}

fn group<T: Touch, F: Form>(name: &str, size: usize) -> Group {
    let mut members = Members::<T, F> {
        group: Group::new(name, &size, OBJECTS),
        size,
        of: PhantomData,
    };
    members.group.measure(arms::Slots::NAME, move || {
        Pass::<arms::Slots, T, F>::new(size)
    });
    arms::every(&mut members);
    if F::TOGETHER {
        members.arm::<arms::Together>();
    }
    members.group
}

struct Members<T, F> {
    group: Group,
    size: usize,
    of: PhantomData<(T, F)>,
}

impl<T: Touch, F: Form> Visit for Members<T, F> {
    fn arm<A: Arm>(&mut self) {
        let size = self.size;
        if size <= A::MOST && (A::ALIGNS || !F::ALIGNED) {
            self.group.arm(
                A::NAME,
                move || Pass::<A, T, F>::new(size),
                move || Pass::<A::Counting, T, F>::new(size),
            );
        }
    }
}

/// How a buffer is asked for and given back.
trait Form: 'static {
    const ALIGNED: bool = false;
    const TOGETHER: bool = false;
}

struct Plain;
struct Aligned;
struct InGroups;

impl Form for Plain {}
impl Form for Aligned {
    const ALIGNED: bool = true;
}
impl Form for InGroups {
    const TOGETHER: bool = true;
}

struct Pass<A, T, F> {
    size: usize,
    of: PhantomData<(A, T, F)>,
}

impl<A, T, F> Pass<A, T, F> {
    fn new(size: usize) -> Self {
        Self {
            size,
            of: PhantomData,
        }
    }
}

impl<A: Arm, T: Touch, F: Form> Work for Pass<A, T, F> {
    /// Passes buffers from processor 0 to processor 1; a quarter of all
    /// but the first round goes before, unmeasured, so that pages are in place.
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        let rounds = rounds * OBJECTS as u64;
        let warm = (rounds - OBJECTS as u64) / 4;
        let size = self.size;
        let (mut producer, mut consumer) = spsc::queue::<A::Buffer>(HANDOFF_SLOTS);
        let done = &Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(move || {
                machine::pin_to(0);
                let mut arm = A::start();
                for round in 0..warm + rounds {
                    let mut buffer = if F::ALIGNED {
                        arm.alloc_aligned(size)
                    } else {
                        arm.alloc(size)
                    };
                    T::write::<A>(&mut buffer, size, value(round));
                    producer.put(buffer);
                }
                // The arm outlives its buffers.
                done.wait();
            });
            machine::pin_to(1);
            take::<A, T, F>(&mut consumer, warm);
            let start = Instant::now();
            let sum = take::<A, T, F>(&mut consumer, rounds);
            let elapsed = start.elapsed();
            held();
            done.wait();
            (elapsed, sum)
        })
    }

    fn live_bytes(&self) -> u64 {
        (self.size * HANDOFF_SLOTS) as u64
    }
}

fn take<A: Arm, T: Touch, F: Form>(consumer: &mut spsc::Consumer<A::Buffer>, rounds: u64) -> u64 {
    let mut sum = 0;
    if !F::TOGETHER {
        for _ in 0..rounds {
            sum += T::read::<A>(&mut consumer.take());
        }
        return sum;
    }
    let mut taken = Vec::with_capacity(TOGETHER);
    for _ in 0..rounds {
        let mut buffer = consumer.take();
        sum += T::read::<A>(&mut buffer);
        taken.push(buffer);
        if taken.len() == TOGETHER {
            A::give_elsewhere(&mut taken);
        }
    }
    A::give_elsewhere(&mut taken);
    sum
}
