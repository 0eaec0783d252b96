//! Random programs, run against the real thing and a naive twin that keeps
//! every live fragment's bytes: nothing overlaps, nothing is overwritten, and
//! the books balance to the byte after every step. Worker threads are real and
//! take turns, so that every step is a quiet moment.
//!
//! A program that fails is kept in `programs/` and run first the next time.

use std::collections::{BTreeMap, HashMap};

use pagefrag::{
    Error, Frag, FragMut, Granule, LINE, LocalCache, PageFragCache, PagePool, REGION, RawFrag,
    drop_many,
};
use pagefrag_tests::fill;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

#[path = "program/ops.rs"]
mod ops;
#[path = "program/workers.rs"]
mod workers;
use ops::{Op, op};
use workers::{Home, Worker};

const WORKERS: usize = 3;

#[derive(Debug)]
enum Held {
    Mut(FragMut),
    Shared(Frag),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match self {
            Held::Mut(frag) => frag,
            Held::Shared(frag) => frag,
        }
    }

    fn into_raw(self) -> RawFrag {
        match self {
            Held::Mut(frag) => frag.into(),
            Held::Shared(frag) => frag.into(),
        }
    }

    /// Page, offset, capacity, alone.
    fn facts(&self) -> (usize, usize, usize, bool) {
        match self {
            Held::Mut(f) => (f.page(), f.offset(), f.capacity(), f.is_unique()),
            Held::Shared(f) => (f.page(), f.offset(), f.capacity(), f.is_unique()),
        }
    }
}

/// A handle, and what it should show.
struct Handle {
    held: Held,
    /// The allocation it belongs to.
    life: u64,
    start: usize,
    shown: Vec<u8>,
}

/// What comes home at once.
#[derive(Clone, Debug)]
struct Life {
    start: usize,
    capacity: usize,
    handles: usize,
    bytes: bool,
    /// At granule 1 whoever was ever shared stays so.
    was_shared: bool,
}

impl Life {
    fn is_alone(&self) -> bool {
        self.handles == 1 && !(self.bytes && self.was_shared)
    }

    fn share(&mut self) {
        self.handles += 1;
        self.was_shared = true;
    }

    /// Keeps `len` bytes from `start` on, if nobody shares them.
    fn shrink(&mut self, start: usize, len: usize) {
        if self.is_alone() {
            self.capacity = if self.bytes {
                len.max(1)
            } else {
                (start - self.start + len).max(1).next_multiple_of(LINE)
            };
        }
    }
}

struct World {
    pool: PagePool,
    local: [LocalCache; 2],
    workers: [Option<Worker>; WORKERS],
    at: usize,
    handles: Vec<Handle>,
    lives: HashMap<u64, Life>,
    next: u64,
}

impl World {
    fn new(page: usize, regions: Option<usize>) -> Self {
        let builder = PagePool::builder().page_size(page);
        let pool = match regions {
            Some(regions) => builder.max_bytes(regions * REGION),
            None => builder,
        };
        let pool = pool.build().unwrap();
        let local = [Granule::Line, Granule::Byte].map(|g| LocalCache::new(&pool, g));
        Self {
            pool,
            local,
            workers: [const { None }; WORKERS],
            at: 0,
            handles: Vec::new(),
            lives: HashMap::new(),
            next: 0,
        }
    }

    /// Runs `f` on the thread whose turn it is.
    fn run<R: Send + 'static>(&mut self, f: impl FnOnce(&mut Home) -> R + Send + 'static) -> R {
        let worker = &mut self.workers[self.at];
        worker
            .get_or_insert_with(|| Worker::start(&self.pool, &self.local))
            .run(f)
    }

    fn may_refuse(&self, size: usize) -> impl Fn(Error) + use<> {
        let (page, capped) = (self.pool.page_size(), self.pool.max_bytes().is_some());
        move |error| match error {
            Error::SizeAbovePage => assert!(size > page, "{size} fits {page}"),
            Error::Exhausted => assert!(capped, "there is no limit"),
            other => panic!("alloc({size}): {other}"),
        }
    }

    /// Takes a new fragment into the books and writes to all of it.
    fn adopt(&mut self, mut frag: FragMut, bytes: bool) {
        let capacity = if bytes {
            frag.len()
        } else {
            frag.len().next_multiple_of(LINE)
        };
        assert_eq!(frag.capacity(), capacity);
        assert!(
            frag.offset() + capacity <= self.pool.page_size(),
            "within one page"
        );
        assert_eq!(frag.page() % self.pool.page_size(), 0);
        self.next += 1;
        write(&mut frag, self.next);
        let start = frag.page() + frag.offset();
        assert_eq!(start, frag.as_ptr().addr());
        let life = Life {
            start,
            capacity,
            handles: 1,
            bytes,
            was_shared: false,
        };
        self.lives.insert(self.next, life);
        let shown = frag.to_vec();
        self.handles.push(Handle {
            held: Held::Mut(frag),
            life: self.next,
            start,
            shown,
        });
    }

    fn life(&mut self, handle: &Handle) -> &mut Life {
        self.lives.get_mut(&handle.life).expect("a handle's life")
    }

    /// One handle less.
    fn release(&mut self, life: u64) {
        let entry = self.lives.get_mut(&life).expect("a handle's life");
        entry.handles -= 1;
        if entry.handles == 0 {
            self.lives.remove(&life);
        }
    }

    /// Any handle, and every other time the newest: what follows closely on
    /// one another is what meets the cursor.
    fn pick(&mut self, which: Index) -> Option<Handle> {
        if is_odd(which) {
            return self.handles.pop();
        }
        let count = self.handles.len();
        (count != 0).then(|| self.handles.swap_remove(which.index(count)))
    }

    fn drop_on_worker(&mut self, handle: Handle) {
        let held = handle.held;
        self.run(move |_| drop(held));
        self.release(handle.life);
    }

    /// Another handle of the life of `handle`, from `start` on.
    fn shared(&mut self, handle: &Handle, held: Held, from: usize, len: usize) -> Handle {
        self.life(handle).share();
        // A handle of no bytes stays where it was.
        let start = handle.start + if len == 0 { 0 } else { from };
        let shown = handle.shown[from..from + len].to_vec();
        Handle {
            held,
            life: handle.life,
            start,
            shown,
        }
    }

    fn split(&mut self, mut handle: Handle, at: usize, to: bool) {
        let len = handle.shown.len();
        let (front, back) = match handle.held {
            Held::Mut(mut frag) => self.run(move |_| {
                let (front, back) = if to {
                    (frag.split_to(at), frag)
                } else {
                    let back = frag.split_off(at);
                    (frag, back)
                };
                (Held::Mut(front), Held::Mut(back))
            }),
            Held::Shared(mut frag) => self.run(move |_| {
                let (front, back) = if to {
                    (frag.split_to(at), frag)
                } else {
                    let back = frag.split_off(at);
                    (frag, back)
                };
                (Held::Shared(front), Held::Shared(back))
            }),
        };
        handle.held = front;
        let cut = handle.start + at;
        let life = self.life(&handle);
        let clean = life.bytes || cut.is_multiple_of(LINE);
        let back = if life.is_alone() && clean && at != 0 && at != len {
            let kept = if life.bytes { at } else { cut - life.start };
            let behind = Life {
                start: cut,
                capacity: life.capacity - kept,
                ..life.clone()
            };
            let behind = Life {
                was_shared: false,
                ..behind
            };
            life.capacity = kept;
            self.next += 1;
            self.lives.insert(self.next, behind);
            Handle {
                held: back,
                life: self.next,
                start: cut,
                shown: handle.shown[at..].to_vec(),
            }
        } else {
            self.shared(&handle, back, at, len - at)
        };
        handle.shown.truncate(at);
        self.handles.extend([handle, back]);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Switch(worker) => self.at = worker,
            Op::Alloc(which, size, shift) => {
                let align = (1 << shift).min(self.pool.page_size());
                match self.run(move |home| home.alloc(which, size, align)) {
                    Ok(frag) => {
                        assert_eq!(frag.len(), size);
                        assert_eq!(frag.offset() % align, 0);
                        self.adopt(frag, which.bytes);
                    }
                    Err(error) => self.may_refuse(size)(error),
                }
            }
            Op::AllocMany(which, count, size) => {
                let frags = self.run(move |home| {
                    (0..count)
                        .map(|_| home.alloc(which, size, 1))
                        .collect::<Vec<_>>()
                });
                for frag in frags {
                    match frag {
                        Ok(frag) => self.adopt(frag, which.bytes),
                        Err(error) => self.may_refuse(size)(error),
                    }
                }
            }
            Op::Commit(which, min, used) => {
                let committed = self.run(move |home| {
                    home.with(which, |cache| {
                        let mut room = cache.prepare(min)?;
                        assert!(room.len() >= min);
                        room[0] = 0xCC;
                        let start = room.as_mut_ptr().addr();
                        let used = 1 + used.index(room.len());
                        let frag = room.commit(used)?;
                        assert_eq!((frag.len(), frag.as_ptr().addr()), (used, start));
                        Ok(frag)
                    })
                });
                match committed {
                    Ok(frag) => self.adopt(frag, which.bytes),
                    Err(error) => self.may_refuse(min)(error),
                }
            }
            Op::Abandon(which, min) => {
                let shown = self.run(move |home| {
                    home.with(which, |cache| {
                        cache.prepare(min).map(|mut room| room.fill(0xAB))
                    })
                });
                if let Err(error) = shown {
                    self.may_refuse(min)(error);
                }
            }
            Op::TakeRoom(which, min) => {
                match self.run(move |home| home.with(which, |cache| cache.take_room(min))) {
                    Ok(room) => {
                        assert!(room.len() >= min);
                        self.adopt(room, which.bytes);
                    }
                    Err(error) => self.may_refuse(min)(error),
                }
            }
            Op::Drain(which) => self.run(move |home| home.with(which, PageFragCache::drain)),
            Op::Trim => {
                let pool = self.pool.clone();
                self.run(move |_| pool.trim());
            }
            Op::EndThread => self.workers[self.at]
                .take()
                .into_iter()
                .for_each(Worker::end),
            Op::DropMany(from, count) => {
                let from = from.index(self.handles.len() + 1);
                let end = (from + count).min(self.handles.len());
                let (lives, held): (Vec<u64>, Vec<Held>) = self
                    .handles
                    .drain(from..end)
                    .map(|h| (h.life, h.held))
                    .unzip();
                self.run(move |_| drop_many(held.into_iter().map(Held::into_raw)));
                for life in lives {
                    self.release(life);
                }
            }
            op => self.step_of_one(op),
        }
    }

    /// What happens to one fragment.
    #[allow(clippy::too_many_lines)] // one arm per word
    fn step_of_one(&mut self, op: Op) {
        let (Op::Settle(_, which, _)
        | Op::Write(which)
        | Op::Clone(which)
        | Op::Slice(which, ..)
        | Op::SplitOff(which, _)
        | Op::SplitTo(which, _)
        | Op::SplitLine(which, _)
        | Op::ShrinkTo(which, _)
        | Op::Truncate(which, _)
        | Op::Advance(which, _)
        | Op::Freeze(which)
        | Op::TryIntoMut(which)
        | Op::Drop(which)) = op
        else {
            unreachable!("the others are done in `step`");
        };
        let Some(mut handle) = self.pick(which) else {
            return;
        };
        let len = handle.shown.len();
        match (op, handle.held) {
            (Op::Drop(_), held) => return self.drop_on_worker(Handle { held, ..handle }),
            (Op::SplitOff(_, at), held) => {
                return self.split(Handle { held, ..handle }, at.index(len + 1), false);
            }
            (Op::SplitTo(_, at), held) => {
                return self.split(Handle { held, ..handle }, at.index(len + 1), true);
            }
            (Op::SplitLine(_, at), held) => {
                let at = (handle.start + at.index(len + 1)) / LINE * LINE;
                let at = at.saturating_sub(handle.start);
                return self.split(Handle { held, ..handle }, at, false);
            }
            (Op::Settle(which, _, used), Held::Mut(frag)) => {
                let used = used.index(len + 2);
                let end = self.run(move |home| home.with(which, |cache| cache.settle(frag, used)));
                let Ok(frag) = end else {
                    let expected = if used == 0 {
                        Error::ZeroSize
                    } else {
                        Error::CommitAboveRoom
                    };
                    assert_eq!(end.unwrap_err(), expected);
                    return self.release(handle.life);
                };
                handle.held = Held::Mut(frag);
                let start = handle.start;
                self.life(&handle).shrink(start, used);
                handle.shown.truncate(used);
            }
            (Op::ShrinkTo(_, to), Held::Mut(mut frag)) => {
                let to = to.index(len + 1);
                handle.held = self.run(move |_| {
                    frag.shrink_to(to);
                    Held::Mut(frag)
                });
                let start = handle.start;
                self.life(&handle).shrink(start, to);
                handle.shown.truncate(to);
            }
            (Op::Write(_), Held::Mut(mut frag)) => {
                self.next += 1;
                write(&mut frag, self.next);
                handle.shown = frag.to_vec();
                handle.held = Held::Mut(frag);
            }
            (Op::Clone(_), Held::Shared(frag)) => {
                let (frag, clone) = self.run(move |_| (frag.clone(), frag));
                handle.held = Held::Shared(frag);
                let clone = self.shared(&handle, Held::Shared(clone), 0, len);
                self.handles.push(clone);
            }
            (Op::Slice(_, a, b), Held::Shared(frag)) => {
                let (a, b) = (a.index(len + 1), b.index(len + 1));
                let (from, to) = (a.min(b), a.max(b));
                let (frag, part) = self.run(move |_| {
                    let part = frag.slice(from..to);
                    (frag, part)
                });
                handle.held = Held::Shared(frag);
                let part = self.shared(&handle, Held::Shared(part), from, to - from);
                self.handles.push(part);
            }
            (Op::Truncate(_, to), Held::Mut(mut frag)) => {
                let to = to.index(len + 1);
                frag.truncate(to);
                handle.shown.truncate(to);
                handle.held = Held::Mut(frag);
            }
            (Op::Truncate(_, to), Held::Shared(mut frag)) => {
                let to = to.index(len + 1);
                frag.truncate(to);
                handle.shown.truncate(to);
                handle.held = Held::Shared(frag);
            }
            (Op::Advance(_, count), Held::Shared(mut frag)) => {
                let unit = if is_odd(count) { LINE } else { 1 };
                let count = count.index(len / unit + 1) * unit;
                frag.advance(count);
                handle.shown.drain(..count);
                // A handle of no bytes stays where it was.
                handle.start += if count == len { 0 } else { count };
                handle.held = Held::Shared(frag);
            }
            (Op::Freeze(_), Held::Mut(frag)) => handle.held = Held::Shared(frag.freeze()),
            (Op::TryIntoMut(_), Held::Shared(frag)) => {
                handle.held = match self.run(move |_| frag.try_into_mut()) {
                    Ok(frag) => Held::Mut(frag),
                    Err(frag) => Held::Shared(frag),
                };
                let alone = self.life(&handle).is_alone();
                assert_eq!(matches!(handle.held, Held::Mut(_)), alone);
            }
            (_, held) => handle.held = held,
        }
        self.handles.push(handle);
    }

    /// Everything is where it was put, and counted.
    fn check(&self) {
        let mut ranges: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        for handle in &self.handles {
            let life = &self.lives[&handle.life];
            assert!(
                handle.held.bytes() == handle.shown,
                "overwritten: {:?}",
                handle.held
            );
            let (page, offset, capacity, alone) = handle.held.facts();
            assert_eq!(page + offset, handle.start);
            assert_eq!(
                (capacity, alone),
                (life.capacity, life.is_alone()),
                "{life:?}"
            );
            let (start, end) = if life.bytes {
                (handle.start, handle.start + handle.shown.len())
            } else {
                (life.start, life.start + life.capacity)
            };
            assert!(handle.start >= start && handle.start + handle.shown.len() <= end);
            if start == end {
                continue;
            }
            if let Some((_, (other_end, other))) = ranges.range(..end).next_back()
                && *other != handle.life
            {
                assert!(*other_end <= start, "overlap at {start:#x}");
            }
            let entry = ranges.entry(start).or_insert((end, handle.life));
            entry.0 = entry.0.max(end);
        }
        let mut pages: HashMap<usize, usize> = HashMap::new();
        for life in self.lives.values() {
            let page = life.start & !(self.pool.page_size() - 1);
            // At granule 1 every handle counts: the count is the page's.
            let counted = if life.bytes { life.handles } else { 1 };
            *pages.entry(page).or_default() += counted * life.capacity;
        }
        let alive: usize = pages
            .values()
            .map(|bytes| (*bytes).min(self.pool.page_size()))
            .sum();
        let stats = self.pool.audit().expect("the books balance");
        assert_eq!(stats.live_bytes, alive as u64, "{stats:?}");
        assert_eq!(stats.held_bytes, stats.live_bytes + stats.pinned_bytes);
        assert!(stats.pages_in_use >= pages.len() as u64);
        assert!(
            self.pool
                .max_bytes()
                .is_none_or(|max| stats.regions_mapped * REGION as u64 <= max as u64)
        );
    }

    fn finish(mut self) {
        while let Some(handle) = self.handles.pop() {
            self.at = self.handles.len() % WORKERS;
            self.drop_on_worker(handle);
        }
        self.check();
        for worker in &mut self.workers {
            worker.take().into_iter().for_each(Worker::end);
        }
        self.pool.trim();
        let stats = self.pool.audit().expect("the books balance");
        assert_eq!(
            (stats.regions_mapped, stats.live_bytes),
            (0, 0),
            "{stats:?}"
        );
    }
}

/// A coin that an index carries beside its value.
fn is_odd(index: Index) -> bool {
    index.index(1 << 20) % 2 == 1
}

/// Bytes that differ from what was there and from all neighbours.
fn write(bytes: &mut [u8], seed: u64) {
    let (head, tail) = bytes.split_at_mut(bytes.len().min(256));
    fill(head, seed);
    tail.fill(seed.to_le_bytes()[0]);
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "programs/program.txt",
        ))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_program_keeps_every_byte_and_the_books(
        page in prop::sample::select(vec![4 << 10, 8 << 10, 32 << 10, 1 << 20]),
        regions in prop::option::weighted(0.3, 1..3_usize),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new(page, regions);
        for op in ops {
            world.step(op);
            world.check();
        }
        world.finish();
    }
}
