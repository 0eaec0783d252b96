//! What does a packet cost that is cloned four times, of which two go to
//! another thread?

use std::thread;
use std::time::{Duration, Instant};

use pagefrag::{PageFragCache, PagePool};
use pagefrag_benches::arms::{Arm, Counted, Malloc, Mimalloc};
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::workload::{HANDOFF_SLOTS, PAGE};
use pagefrag_benches::{machine, spsc};

const SIZE: usize = 1500;

/// Packets of a round, so that starting a thread is not what is measured.
const OBJECTS: usize = 16 * 1024;

fn main() {
    let mut group = Group::new("share", &SIZE, OBJECTS);
    share(&mut group, "pagefrag", || {
        let mut cache = PageFragCache::new(&PagePool::new(PAGE).expect("a valid page size"));
        move || cache.alloc(SIZE).expect("the pool has no limit").freeze()
    });
    share(&mut group, "kernel scheme", || {
        let mut cache = KernelCache::new();
        move || cache.alloc(SIZE)
    });
    share(&mut group, "bytes, split", || {
        let mut split = pagefrag_benches::arms::Split::start();
        move || split.alloc(SIZE).freeze()
    });
    counted::<Mimalloc>(&mut group);
    counted::<std::alloc::System>(&mut group);
    #[cfg(feature = "rivals")]
    {
        use pagefrag_benches::arms::{Jemalloc, Shared, Snmalloc};
        counted::<Snmalloc>(&mut group);
        counted::<Jemalloc>(&mut group);
        share(&mut group, "multitude, Arc", || {
            let mut arena = Shared::start();
            move || arena.alloc(SIZE)
        });
    }
    stand::run("share", vec![group]);
}

fn counted<A: Malloc>(group: &mut Group) {
    share(group, A::NAME, || {
        let mut arm = Counted::<A>::start();
        move || arm.alloc(SIZE)
    });
}

fn share<H, M>(group: &mut Group, name: &str, start: fn() -> M)
where
    H: Clone + Send + 'static,
    M: FnMut() -> H + 'static,
{
    group.measure(name, move || Share { start });
}

struct Share<M> {
    start: fn() -> M,
}

impl<H: Clone + Send + 'static, M: FnMut() -> H> Work for Share<M> {
    fn run(&mut self, rounds: u64, _: &mut dyn FnMut()) -> (Duration, u64) {
        let (mut producer, mut consumer) = spsc::queue::<[H; 2]>(HANDOFF_SLOTS);
        let start = self.start;
        let rounds = rounds * OBJECTS as u64;
        let warm = (rounds - OBJECTS as u64) / 4;
        thread::scope(|scope| {
            scope.spawn(move || {
                machine::pin_to(1);
                (0..warm + rounds).for_each(|_| drop(consumer.take()));
            });
            machine::pin_to(0);
            let mut make = start();
            let mut one = || {
                let first = make();
                let clones = [first.clone(), first.clone(), first.clone()];
                let [second, third, fourth] = clones;
                producer.put([third, fourth]);
                drop((first, second));
            };
            (0..warm).for_each(|_| one());
            let begin = Instant::now();
            (0..rounds).for_each(|_| one());
            (begin.elapsed(), 0)
        })
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}
