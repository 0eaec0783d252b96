//! What does a buffer cost in a queue: taken now, given back when as many
//! others as the window holds have been taken?
//!
//! R3: half of the best rival, for windows of 32, 256 and 4096 packets whose
//! sizes are the simple Internet mix, and of 1500 bytes.

use std::hint::black_box;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Head, Touch, Whole, value};
use pagefrag_benches::workload::{WINDOWS, imix};

/// Sizes in the table: a power of two, so that going round is a mask.
const TABLE: usize = 8192;

fn main() {
    machine::pin_to(0);
    let mut groups = Vec::new();
    for window in WINDOWS {
        groups.push(group::<Head>("fifo, IMIX", window, imix(TABLE)));
        groups.push(group::<Whole>("fifo, IMIX, all bytes", window, imix(TABLE)));
        groups.push(group::<Head>("fifo, 1500 B", window, vec![1500; TABLE]));
    }
    stand::run("fifo", groups);
}

fn group<T: Touch>(name: &str, window: usize, sizes: Vec<usize>) -> Group {
    let mut members = Members::<T> {
        group: Group::new(name, &window, 1),
        window,
        sizes,
        touch: PhantomData,
    };
    arms::every(&mut members);
    members.group
}

struct Members<T> {
    group: Group,
    window: usize,
    sizes: Vec<usize>,
    touch: PhantomData<T>,
}

impl<T: Touch> Visit for Members<T> {
    fn arm<A: Arm>(&mut self) {
        let (window, sizes) = (self.window, self.sizes.clone());
        let again = sizes.clone();
        self.group.arm(
            A::NAME,
            move || Fifo::<A, T>::new(window, sizes.clone()),
            move || Fifo::<A::Counting, T>::new(window, again.clone()),
        );
    }
}

struct Fifo<A: Arm, T> {
    live: Vec<A::Buffer>,
    sizes: Vec<usize>,
    turn: usize,
    arm: A,
    touch: PhantomData<T>,
}

impl<A: Arm, T: Touch> Fifo<A, T> {
    fn new(window: usize, sizes: Vec<usize>) -> Self {
        let mut arm = A::start();
        let first = |&size: &usize| {
            let mut buffer = arm.alloc(size);
            T::write::<A>(&mut buffer, size, 0);
            buffer
        };
        Self {
            live: sizes.iter().take(window).map(first).collect(),
            sizes,
            turn: window,
            arm,
            touch: PhantomData,
        }
    }
}

impl<A: Arm, T: Touch> Work for Fifo<A, T> {
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        let mut sum = 0;
        let window = self.live.len();
        let start = Instant::now();
        for round in 0..rounds {
            let size = black_box(self.sizes[self.turn % TABLE]);
            let mut buffer = self.arm.alloc(size);
            T::write::<A>(&mut buffer, size, value(round));
            let oldest = &mut self.live[self.turn & (window - 1)];
            sum += T::read::<A>(oldest);
            *oldest = buffer;
            self.turn += 1;
        }
        let elapsed = start.elapsed();
        held();
        (elapsed, sum)
    }

    fn live_bytes(&self) -> u64 {
        let turns = self.turn - self.live.len()..self.turn;
        turns.map(|turn| self.sizes[turn % TABLE] as u64).sum()
    }
}
