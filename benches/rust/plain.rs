//! What does an allocation take in a program that never reserves? The same
//! workload as one of `instructions`, built without `prepare` and `commit`, so
//! that the two can be compared instruction by instruction (R7).

use pagefrag::{FragMut, PageFragCache, PagePool};
use pagefrag_benches::probes::{probe_alloc, probe_free, window};
use pagefrag_benches::workload::{PAGE, imix};

/// Live buffers, as there.
const WINDOW: usize = 256;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [workload, rounds] = words.as_slice() else {
        println!("run by `make bench-instructions`");
        return;
    };
    assert_eq!(workload, "window", "the one workload that is here");
    let rounds = rounds.parse().expect("a number of rounds");
    let mut cache = PageFragCache::new(&PagePool::new(PAGE).expect("a valid page size"));
    let take = |size| probe_alloc(&mut cache, size).expect("memory");
    let give = |frag: FragMut| probe_free(frag.into_raw());
    window(rounds, WINDOW, &imix(4096), take, give);
}
