//! What does it cost to run into a pool's limit, and to come back?
//!
//! A pool of 64 pages is filled until it refuses, all is given back, and again.
//! DPDK's pool is the one rival with a limit; its elements are of one size.

use std::time::{Duration, Instant};

use pagefrag::{FragMut, HugePages, PageFragCache, PagePool};
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::workload::PAGE;

const PAGES: usize = 64;
const SIZE: usize = 2048;

fn main() {
    machine::pin_to(0);
    let cycle = Group::new("fill to the limit and empty", &SIZE, PAGES * PAGE / SIZE);
    let refusal = Group::new("a refusal at the limit", &SIZE, 1);
    let (mut cycle, mut refusal) = (cycle, refusal);
    cycle.measure("pagefrag", || Limited::new(Full::Emptied));
    refusal.measure("pagefrag", || Limited::new(Full::Stays));
    stand::run("exhaustion", vec![cycle, refusal]);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    Emptied,
    Stays,
}

struct Limited {
    kept: Vec<FragMut>,
    cache: PageFragCache,
    pool: PagePool,
    full: Full,
}

impl Limited {
    fn new(full: Full) -> Self {
        let pool = PagePool::builder()
            .page_size(PAGE)
            .max_bytes(PAGES * PAGE)
            .huge_pages(HugePages::Never)
            .build()
            .expect("a valid pool");
        let mut limited = Self {
            kept: Vec::new(),
            cache: PageFragCache::new(&pool),
            pool,
            full,
        };
        limited.fill();
        limited
    }

    /// Takes until it is refused.
    fn fill(&mut self) {
        while let Ok(mut frag) = self.cache.alloc(SIZE) {
            frag[0] = 1;
            self.kept.push(frag);
        }
        assert_eq!(
            self.kept.len(),
            PAGES * PAGE / SIZE,
            "all of it, and not more"
        );
        assert!(self.pool.stats().held_bytes <= (PAGES * PAGE) as u64);
    }
}

impl Work for Limited {
    fn run(&mut self, rounds: u64, _: &mut dyn FnMut()) -> (Duration, u64) {
        let start = Instant::now();
        for _ in 0..rounds {
            if self.full == Full::Emptied {
                self.kept.clear();
                self.fill();
            } else {
                assert!(self.cache.alloc(SIZE).is_err(), "it is full");
            }
        }
        (start.elapsed(), 0)
    }

    fn live_bytes(&self) -> u64 {
        (self.kept.len() * SIZE) as u64
    }
}
