//! What does a buffer cost that is taken and given back on one thread?
//!
//! R1: less than one uncontended locked add, which stands in the same group.
//! R2: half of the best rival.

use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Bare, Head, Touch, Whole, value};
use pagefrag_benches::workload::PAIR_SIZES;

fn main() {
    machine::pin_to(0);
    let mut groups = Vec::new();
    for size in PAIR_SIZES {
        groups.push(group::<Bare>("pair", size));
        groups.push(group::<Head>("pair, first 64 bytes", size));
        groups.push(group::<Whole>("pair, all bytes", size));
    }
    stand::run("pair", groups);
}

fn group<T: Touch>(name: &str, size: usize) -> Group {
    let mut members = Members::<T> {
        group: Group::new(name, &size, 1),
        size,
        touch: PhantomData,
    };
    members
        .group
        .measure("one locked add", move || LockedAdd::<T>::new(size));
    arms::every(&mut members);
    #[cfg(dpdk)]
    if T::NAME == Bare::NAME && size <= arms::Dpdk::MOST {
        members.group.measure("DPDK mbuf, loop in C", InC::new);
    }
    members.group
}

struct Members<T> {
    group: Group,
    size: usize,
    touch: PhantomData<T>,
}

impl<T: Touch> Visit for Members<T> {
    fn arm<A: Arm>(&mut self) {
        let size = self.size;
        if size <= A::MOST {
            self.group.arm(
                A::NAME,
                move || Pair::<A, T>::new(size),
                move || Pair::<A::Counting, T>::new(size),
            );
        }
    }
}

/// Takes a buffer, writes, reads, and gives it back at once.
struct Pair<A, T> {
    arm: A,
    size: usize,
    touch: PhantomData<T>,
}

impl<A: Arm, T: Touch> Pair<A, T> {
    fn new(size: usize) -> Self {
        Self {
            arm: A::start(),
            size,
            touch: PhantomData,
        }
    }
}

impl<A: Arm, T: Touch> Work for Pair<A, T> {
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        let mut sum = 0;
        let start = Instant::now();
        for round in 0..rounds {
            let size = black_box(self.size);
            let mut buffer = self.arm.alloc(size);
            // Lent and not moved: a move would be measured with it.
            black_box(&mut buffer);
            T::write::<A>(&mut buffer, size, value(round));
            sum += T::read::<A>(&mut buffer);
        }
        let elapsed = start.elapsed();
        held();
        (elapsed, sum)
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}

/// The measure: one locked add, and the same bytes written to one place.
struct LockedAdd<T> {
    count: AtomicU64,
    bytes: Pair<arms::Slots, T>,
}

impl<T: Touch> LockedAdd<T> {
    fn new(size: usize) -> Self {
        Self {
            count: AtomicU64::new(0),
            bytes: Pair::new(size),
        }
    }
}

impl<T: Touch> Work for LockedAdd<T> {
    fn run(&mut self, rounds: u64, _: &mut dyn FnMut()) -> (Duration, u64) {
        let mut sum = 0;
        let mut place = self.bytes.arm.alloc(1);
        let start = Instant::now();
        for round in 0..rounds {
            let size = black_box(self.bytes.size);
            black_box(&self.count).fetch_add(1, Ordering::Relaxed);
            T::write::<arms::Slots>(&mut place, size, value(round));
            sum += T::read::<arms::Slots>(&mut place);
        }
        (start.elapsed(), sum)
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}

/// DPDK as its own programs have it: the loop in C, no call for each.
#[cfg(dpdk)]
struct InC(arms::Dpdk);

#[cfg(dpdk)]
impl InC {
    fn new() -> Self {
        Self(Arm::start())
    }
}

#[cfg(dpdk)]
impl Work for InC {
    fn run(&mut self, rounds: u64, _: &mut dyn FnMut()) -> (Duration, u64) {
        let start = Instant::now();
        arms::pairs_in_c(&mut self.0, rounds);
        (start.elapsed(), 0)
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}
