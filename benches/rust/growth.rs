//! Does an operation become dearer as more pages are alive?
//!
//! A window of 256 packets, 1500 bytes each, beside 1 to 100,000 pages' worth
//! of buffers that stay; none of those is written, so that it is the
//! allocators that are measured and not the machine's memory.

use std::time::{Duration, Instant};

use pagefrag_benches::arms::{Arm, Counted, Lines, Mimalloc};
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Head, Touch, value};

const LIVE_PAGES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// Half a page each: large enough to count pages, small enough for everybody.
const HALF: usize = 16 * 1024 - 64;

const SIZE: usize = 1500;
const WINDOW: usize = 256;

fn main() {
    machine::pin_to(0);
    let groups = LIVE_PAGES.into_iter().map(|pages| {
        let mut group = Group::new("growth", &pages, 1);
        add::<Lines>(&mut group, pages);
        add::<KernelCache>(&mut group, pages);
        add::<Counted<Mimalloc>>(&mut group, pages);
        add::<Counted<std::alloc::System>>(&mut group, pages);
        group
    });
    stand::run("growth", groups.collect());
}

fn add<A: Arm>(group: &mut Group, pages: usize) {
    group.measure(A::NAME, move || Growth::<A>::new(pages));
}

struct Growth<A: Arm> {
    window: Vec<A::Buffer>,
    _ballast: Vec<A::Buffer>,
    arm: A,
}

impl<A: Arm> Growth<A> {
    fn new(pages: usize) -> Self {
        let mut arm = A::start();
        Self {
            _ballast: (0..2 * pages).map(|_| arm.alloc(HALF)).collect(),
            window: (0..WINDOW).map(|_| arm.alloc(SIZE)).collect(),
            arm,
        }
    }
}

impl<A: Arm> Work for Growth<A> {
    fn run(&mut self, rounds: u64, _: &mut dyn FnMut()) -> (Duration, u64) {
        let start = Instant::now();
        for round in 0..rounds {
            let mut buffer = self.arm.alloc(SIZE);
            Head::write::<A>(&mut buffer, SIZE, value(round));
            let slot = usize::from(value(round)) % WINDOW;
            self.window[slot] = buffer;
        }
        (start.elapsed(), 0)
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}
