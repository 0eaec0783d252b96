//! What does a buffer cost in a poll: 64 are taken, written, and given back
//! together, with bulk calls where an arm has them?
//!
//! An arena that is reset takes part here: all of a batch dies at once.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Head, Touch, Whole, value};
use pagefrag_benches::workload::{POLL, imix};

fn main() {
    machine::pin_to(0);
    let groups = [("1500 B", vec![1500; POLL]), ("IMIX", imix(POLL))]
        .into_iter()
        .flat_map(|(told, sizes)| {
            [
                group::<Head>("poll of 64", told, sizes.clone()),
                group::<Whole>("poll of 64, all bytes", told, sizes),
            ]
        });
    stand::run("batch", groups.collect());
}

fn group<T: Touch>(name: &str, told: &str, sizes: Vec<usize>) -> Group {
    let mut members = Members::<T> {
        group: Group::new(name, told, POLL),
        sizes,
        touch: PhantomData,
    };
    arms::every(&mut members);
    members.arm::<arms::Together>();
    #[cfg(feature = "rivals")]
    members.arm::<arms::Bump>();
    members.group
}

struct Members<T> {
    group: Group,
    sizes: Vec<usize>,
    touch: PhantomData<T>,
}

impl<T: Touch> Visit for Members<T> {
    fn arm<A: Arm>(&mut self) {
        let (sizes, again) = (self.sizes.clone(), self.sizes.clone());
        self.group.arm(
            A::NAME,
            move || Poll::<A, T>::new(sizes.clone()),
            move || Poll::<A::Counting, T>::new(again.clone()),
        );
    }
}

struct Poll<A: Arm, T> {
    taken: Vec<A::Buffer>,
    sizes: Vec<usize>,
    arm: A,
    touch: PhantomData<T>,
}

impl<A: Arm, T: Touch> Poll<A, T> {
    fn new(sizes: Vec<usize>) -> Self {
        Self {
            taken: Vec::with_capacity(sizes.len()),
            sizes,
            arm: A::start(),
            touch: PhantomData,
        }
    }

    fn fill(&mut self, round: u64) {
        self.arm.take_many(&self.sizes, &mut self.taken);
        for (buffer, &size) in self.taken.iter_mut().zip(&self.sizes) {
            T::write::<A>(buffer, size, value(round));
        }
    }
}

impl<A: Arm, T: Touch> Work for Poll<A, T> {
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        let mut sum = 0;
        let start = Instant::now();
        for round in 0..rounds {
            self.fill(round);
            sum += self.taken.iter_mut().map(T::read::<A>).sum::<u64>();
            self.arm.give_many(&mut self.taken);
        }
        let elapsed = start.elapsed();
        self.fill(0);
        held();
        self.arm.give_many(&mut self.taken);
        (elapsed, sum)
    }

    fn live_bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| size as u64).sum()
    }
}
