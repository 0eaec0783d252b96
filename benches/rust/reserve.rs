//! What does it cost to see the room first and take what was used of it?
//!
//! R7: prepare and commit within 1.3 times an allocation. That allocation
//! itself does not become dearer by it is counted in instructions, by
//! `make bench-instructions`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pagefrag::{FragMut, PageFragCache, PagePool};
use pagefrag_benches::arms::{Lines, Split};
use pagefrag_benches::machine;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Bare, Head, Touch, value};
use pagefrag_benches::workload::{PAGE, imix};

const TABLE: usize = 4096;

/// What a receiver must reserve when it does not know what comes.
const MOST: usize = 2048;

fn main() {
    machine::pin_to(0);
    let mut groups = Vec::new();
    for size in [64, 256, 1500, 2048] {
        groups.push(group::<Bare>(
            "reserve",
            &size.to_string(),
            vec![size; TABLE],
        ));
        groups.push(group::<Head>(
            "reserve, first 64 bytes",
            &size.to_string(),
            vec![size; TABLE],
        ));
    }
    groups.push(group::<Head>(
        "reserve, first 64 bytes",
        "IMIX",
        imix(TABLE),
    ));
    stand::run("reserve", groups);
}

fn group<T: Touch>(name: &str, told: &str, sizes: Vec<usize>) -> Group {
    let mut group = Group::new(name, told, 1);
    add::<T>(&mut group, "alloc", &sizes, |cache, size, value| {
        let mut frag = cache.alloc(size).expect("the pool has no limit");
        T::write::<Lines>(&mut frag, size, value);
        frag
    });
    add::<T>(
        &mut group,
        "prepare and commit",
        &sizes,
        |cache, size, value| {
            let mut room = cache.prepare(size).expect("the pool has no limit");
            // SAFETY: as much room was prepared, and the borrow is exclusive.
            unsafe { T::write_at(room.as_mut_ptr(), size, value) };
            room.commit(size).expect("it was prepared")
        },
    );
    add::<T>(
        &mut group,
        "prepare 2048, commit what came",
        &sizes,
        |cache, size, value| {
            let mut room = cache.prepare(MOST).expect("the pool has no limit");
            // SAFETY: as much room was prepared, and the borrow is exclusive.
            unsafe { T::write_at(room.as_mut_ptr(), size, value) };
            room.commit(size).expect("it was prepared")
        },
    );
    add::<T>(
        &mut group,
        "alloc 2048, shrink to what came",
        &sizes,
        |cache, size, value| {
            let mut frag = cache.alloc(MOST).expect("the pool has no limit");
            T::write::<Lines>(&mut frag, size, value);
            frag.shrink_to(size);
            frag
        },
    );
    let again = sizes.clone();
    let reserve = move || Reserve {
        take: take_bytes::<T>,
        from: BytesMut::with_capacity(PAGE),
        sizes: sizes.clone(),
        turn: 0,
        read: |buffer: &mut BytesMut| T::read::<Split>(buffer),
    };
    let counting = move || Reserve {
        take: take_bytes::<T>,
        from: BytesMut::with_capacity(PAGE),
        sizes: again.clone(),
        turn: 0,
        read: |buffer: &mut BytesMut| T::read::<Split>(buffer),
    };
    group.arm("bytes, reserve 2048 and split", reserve, counting);
    group
}

fn take_bytes<T: Touch>(from: &mut BytesMut, size: usize, value: u8) -> BytesMut {
    if from.capacity() < MOST {
        from.reserve(PAGE);
    }
    let room = from.spare_capacity_mut().as_mut_ptr().cast();
    // SAFETY: the capacity was just seen to, and is ours.
    unsafe { T::write_at(room, size, value) };
    // SAFETY: the capacity was seen to; what was not written is not read.
    unsafe { from.set_len(size) };
    from.split_to(size)
}

fn add<T: Touch>(
    group: &mut Group,
    name: &str,
    sizes: &[usize],
    take: fn(&mut PageFragCache, usize, u8) -> FragMut,
) {
    let (sizes, again) = (sizes.to_vec(), sizes.to_vec());
    let start = move |sizes: &[usize]| Reserve {
        take,
        from: PageFragCache::new(&PagePool::new(PAGE).expect("a valid page size")),
        sizes: sizes.to_vec(),
        turn: 0,
        read: |frag: &mut FragMut| T::read::<Lines>(frag),
    };
    group.arm(name, move || start(&sizes), move || start(&again));
}

struct Reserve<F, B> {
    take: fn(&mut F, usize, u8) -> B,
    from: F,
    sizes: Vec<usize>,
    turn: usize,
    read: fn(&mut B) -> u64,
}

impl<F, B> Work for Reserve<F, B> {
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        let mut sum = 0;
        let start = Instant::now();
        for round in 0..rounds {
            let size = black_box(self.sizes[self.turn % TABLE]);
            self.turn += 1;
            let mut buffer = (self.take)(&mut self.from, size, value(round));
            black_box(&mut buffer);
            sum += (self.read)(&mut buffer);
        }
        let elapsed = start.elapsed();
        held();
        (elapsed, sum)
    }

    fn live_bytes(&self) -> u64 {
        0
    }
}
