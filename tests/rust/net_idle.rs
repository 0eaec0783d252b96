//! What a ring that waits for packets keeps of the machine's memory.

#[allow(dead_code, reason = "each test file uses its own part")]
mod net;

use net::{Bench, V4, bench_on, set_option};
use pagefrag::PagePool;
use pagefrag::net::RxOptions;

const RINGS: usize = 100;
const MOST: usize = 256 * 1024;

/// Bytes of this process that are resident.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * pagefrag::os_page_size()
}

/// Sends super-buffers, packets alone, packets too long, and both again.
fn burst(bench: &Bench, form: &str) {
    let segmented = |bytes: &[u8], segment| {
        set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        bench.sender.send_to(bytes, bench.address).unwrap();
        set_option(&bench.sender, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
    };
    match form {
        "joined" => (0..3).for_each(|_| segmented(&vec![7; 54 * 1200], 1200)),
        "few joined" => (0..20).for_each(|_| segmented(&vec![7; 5 * 1200], 1200)),
        "alone" => (0..50).for_each(|_| bench.send(1200, 1)),
        _ => (0..3).for_each(|_| bench.send(65_507, 1)),
    }
}

#[test]
fn an_idle_ring_keeps_at_most_256_kib_whatever_came() {
    for page_size in [4096, 32 * 1024] {
        let pool = PagePool::new(page_size).unwrap();
        for forms in [
            &["joined"][..],
            &["alone"],
            &["few joined"],
            &["long"],
            &["alone", "joined", "long", "few joined"],
            &["joined", "alone"],
        ] {
            // Warm: what the process takes once is not a ring's.
            drop(bench_on(pool.clone(), V4, RxOptions::default()));
            let before = resident();
            let mut benches = Vec::new();
            for _ in 0..RINGS {
                let mut bench = bench_on(pool.clone(), V4, RxOptions::default());
                for form in forms {
                    for _ in 0..3 {
                        burst(&bench, form);
                        while !bench.recv(64).is_empty() {}
                    }
                }
                benches.push(bench);
            }
            let each = resident().saturating_sub(before) / RINGS;
            eprintln!(
                "pages of {page_size}, {forms:?}: {} KiB a ring",
                each / 1024
            );
            assert!(each <= MOST, "{each} bytes a ring after {forms:?}");
            drop(benches);
            pool.trim();
        }
    }
}
