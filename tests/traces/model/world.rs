//! The model as an executor: what `engine.rs` is for the core.

use pagefrag::Error;
use pagefrag::net::ContextError;

use super::cache::Cache;
use super::pages::{Frag, Name, Role};
use super::pool::Pool;
use super::skb::{Skb, head_bytes};
use crate::traces::run::Executor;
use crate::traces::said::{self, Books, Counts, ITSELF, Place, Said, Told, VIEWED};
use crate::traces::{Config, Fault, Op, STEPS, Step, THREADS, align, digest, size, write};

/// What a handle is.
#[derive(Debug)]
enum Held {
    Frag(Frag),
    /// And of which cache.
    Room(Frag, Kind),
    Skb(Skb),
}

impl Held {
    fn is_skb(&self) -> bool {
        matches!(self, Held::Skb(_))
    }
}

#[derive(Debug)]
struct Handle {
    held: Held,
    views: usize,
}

/// The caches of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lines,
    Bytes,
    Netdev,
    Napi,
}

fn granule(bytes: bool) -> Kind {
    if bytes { Kind::Bytes } else { Kind::Lines }
}

/// The pages that have a number, and it; and how many ever had one.
#[derive(Debug, Default)]
struct Names {
    known: Vec<(Name, usize)>,
    seen: usize,
}

impl Names {
    fn place(&mut self, pool: &Pool, frag: &Frag) -> Place {
        let (name, offset) = (pool.page_of(frag), frag.start);
        let known = self.known.iter().rfind(|&&(known, _)| known == name);
        let page = known.map_or(self.seen, |&(_, number)| number);
        if known.is_none() {
            self.known.push((name, page));
            self.seen += 1;
        }
        Place { page, offset }
    }

    fn facts(&mut self, pool: &Pool, frag: &Frag) -> said::Frag {
        said::Frag {
            place: self.place(pool, frag),
            len: frag.len,
            capacity: pool.pieces[frag.piece].size,
            readonly: frag.readonly,
        }
    }
}

/// A pool, the caches of all threads, and all handles.
pub(crate) struct World {
    config: Config,
    pool: Pool,
    /// By thread: its caches, in the order in which they were first used.
    tables: [Vec<(Kind, Cache)>; THREADS],
    polling: [bool; THREADS],
    handles: Vec<Handle>,
    names: Names,
}

impl World {
    /// A thread's cache, made when it is first used.
    fn cache(&mut self, thread: usize, kind: Kind) -> Cache {
        let table = &mut self.tables[thread];
        if let Some((_, cache)) = table.iter().find(|(known, _)| *known == kind) {
            return *cache;
        }
        let cache = Cache::new(&mut self.pool, thread, kind == Kind::Bytes);
        table.push((kind, cache));
        cache
    }

    /// Asks a cache; before memory that is short is a refusal, all idle
    /// pages of the thread go back.
    fn ask(
        &mut self,
        thread: usize,
        kind: Kind,
        call: impl Fn(Cache, &mut Pool) -> Result<Frag, Error>,
    ) -> Result<Frag, Error> {
        let cache = self.cache(thread, kind);
        match call(cache, &mut self.pool) {
            Err(Error::Exhausted | Error::OutOfMemory) if self.give_up_idle(thread) != 0 => {
                call(cache, &mut self.pool)
            }
            frag => frag,
        }
    }

    fn give_up_idle(&mut self, thread: usize) -> u64 {
        let pool = &mut self.pool;
        let caches = self.tables[thread].iter();
        caches.map(|(_, cache)| cache.trim(pool)).sum()
    }

    // What the log says.

    fn facts(&mut self, at: usize) -> Said {
        let (pool, names) = (&self.pool, &mut self.names);
        match &self.handles[at].held {
            Held::Skb(skb) => Said::Skb(skb.facts(pool)),
            Held::Room(room, _) => Said::Room(names.place(pool, room), room.len),
            Held::Frag(frag) => Said::Frag(names.facts(pool, frag)),
        }
    }

    fn keep(&mut self, held: Held) -> Said {
        self.handles.push(Handle { held, views: 0 });
        self.facts(self.handles.len() - 1)
    }

    // What makes handles.

    fn alloc(&mut self, thread: usize, kind: Kind, size: usize, align: usize) -> Told {
        let frag = self.ask(thread, kind, |cache, pool| cache.alloc(pool, size, align))?;
        Ok(self.keep(Held::Frag(frag)))
    }

    fn alloc_many(&mut self, thread: usize, count: usize, size: usize) -> Told {
        let mut made = Vec::new();
        for _ in 0..count {
            match self.ask(thread, Kind::Lines, |cache, pool| {
                cache.alloc(pool, size, 1)
            }) {
                Ok(frag) => made.push(frag),
                Err(error) => {
                    for frag in made {
                        self.pool.free(frag, thread);
                    }
                    return Err(error.into());
                }
            }
        }
        let (pool, names) = (&self.pool, &mut self.names);
        let facts = made.iter().map(|frag| names.facts(pool, frag)).collect();
        let views = 0;
        let held = made.into_iter().map(Held::Frag);
        self.handles.extend(held.map(|held| Handle { held, views }));
        Ok(Said::Many(facts))
    }

    fn skb(&mut self, thread: usize, kind: Kind, size: usize) -> Told {
        let size = head_bytes(size)?;
        let head = self.ask(thread, kind, |cache, pool| cache.alloc(pool, size, 1))?;
        Ok(self.keep(Held::Skb(Skb::new(head))))
    }

    fn poll(&mut self, thread: usize) -> Said {
        self.polling[thread] = !self.polling[thread];
        Said::Done(if self.polling[thread] {
            "entered"
        } else {
            "left"
        })
    }

    fn in_poll(&self, thread: usize) -> Result<(), Said> {
        if self.polling[thread] {
            Ok(())
        } else {
            Err(ContextError::OutsidePoll.into())
        }
    }

    /// A shortage is an answer in a poll; the caller's mistakes are refused.
    fn napi(&mut self, thread: usize, call: impl FnOnce(&mut Self) -> Told) -> Told {
        self.in_poll(thread)?;
        match call(self) {
            Err(Said::Refused(Error::Exhausted | Error::OutOfMemory)) => Ok(Said::Done("none")),
            said => said,
        }
    }

    // What is done to a handle.

    fn free(&mut self, held: Held, thread: usize) {
        match held {
            Held::Frag(frag) | Held::Room(frag, _) => self.pool.free(frag, thread),
            Held::Skb(skb) => skb.free(&mut self.pool, thread),
        }
    }

    fn on_handle(&mut self, step: Step) -> Told {
        let Step {
            op, thread, arg, ..
        } = step;
        let at = step.handle % self.handles.len();
        let viewed = self.handles[at].views != 0;
        let other = match &self.handles[arg % self.handles.len()].held {
            Held::Frag(frag) => Some(Frag { ..*frag }),
            _ => None,
        };
        let handle = &mut self.handles[at];
        let pool = &mut self.pool;
        match (op, &mut handle.held) {
            (Op::Consume, Held::Skb(_)) => {
                self.in_poll(thread)?;
                let held = self.handles.swap_remove(at).held;
                self.free(held, thread);
                return Ok(Said::Done("consumed"));
            }
            (Op::Commit, Held::Room(..)) | (Op::Release, _) | (Op::Trim, Held::Frag(_))
                if viewed =>
            {
                return Err(VIEWED);
            }
            (Op::Commit, Held::Room(room, _)) => {
                let used = arg % (room.len + 2);
                return self.commit(thread, at, used);
            }
            (Op::Release, _) => {
                let held = self.handles.swap_remove(at).held;
                self.free(held, thread);
                return Ok(Said::Done("released"));
            }
            (Op::Write, Held::Frag(Frag { readonly: true, .. })) => {
                return Err(Said::Not("read-only"));
            }
            (Op::Write, Held::Frag(frag) | Held::Room(frag, _)) => {
                write(pool.bytes_mut(frag), arg);
                return Ok(Said::Done("written"));
            }
            (Op::Read, Held::Frag(frag)) => {
                return Ok(Said::Digest(digest(pool.bytes(frag))));
            }
            (Op::Read, Held::Skb(skb)) => {
                return Ok(Said::Digest(digest(&skb.bytes(pool))));
            }
            (Op::Slice, Held::Frag(frag)) => {
                let mut part = pool.share(frag);
                let [a, b] = [arg & 0xFFFF, arg >> 16].map(|end| end % (part.len + 1));
                part.narrow(a.min(b), a.abs_diff(b));
                return Ok(self.keep(Held::Frag(part)));
            }
            (Op::Readonly, Held::Frag(frag)) => {
                let mut part = pool.share(frag);
                part.readonly = true;
                return Ok(self.keep(Held::Frag(part)));
            }
            (Op::Trim, Held::Frag(frag)) => {
                let keep = arg % (frag.len + 2);
                if keep > frag.len {
                    return Err(Said::Not("the fragment holds fewer bytes than that"));
                }
                pool.shrink(frag, keep, thread);
            }
            (Op::Trim, Held::Skb(skb)) => {
                let keep = arg % (skb.len() + 2);
                skb.trim(pool, keep, thread)?;
            }
            (Op::Clone, Held::Skb(skb)) => {
                let clone = skb.clone(pool);
                return Ok(self.keep(Held::Skb(clone)));
            }
            (Op::View, Held::Frag(_) | Held::Room(..)) => {
                handle.views += 1;
                return Ok(Said::Views(handle.views));
            }
            (Op::Unview, _) if viewed => {
                handle.views -= 1;
                return Ok(Said::Views(handle.views));
            }
            (Op::AddFrag, Held::Skb(skb)) => match other {
                Some(frag) => skb.add_frag(pool, &frag)?,
                None => return Ok(Said::Nothing),
            },
            (Op::Put, Held::Skb(skb)) => skb.put(pool, arg % 256, arg)?,
            (Op::Push, Held::Skb(skb)) => skb.push(pool, arg % 128, arg)?,
            (Op::Pull, Held::Skb(skb)) => skb.pull(arg % 256)?,
            (Op::Reserve, Held::Skb(skb)) => skb.reserve(arg % 128)?,
            _ => return Ok(Said::Nothing),
        }
        Ok(self.facts(at))
    }

    /// The first handle from `at` on, around the end, that is a right one.
    fn nearest(&self, at: usize, is_right: impl Fn(usize, &Held) -> bool) -> Option<usize> {
        let mut turned = (at..self.handles.len()).chain(0..at);
        turned.find(|&at| is_right(at, &self.handles[at].held))
    }

    /// What becomes of whole packets.
    fn on_packet(&mut self, step: Step) -> Told {
        let found = self.nearest(step.handle % self.handles.len(), |_, held| match step.op {
            Op::BuildSkb => matches!(held, Held::Frag(_)),
            _ => held.is_skb(),
        });
        let Some(at) = found else {
            return Ok(Said::Nothing);
        };
        let handle = &mut self.handles[at];
        let viewed = handle.views != 0;
        match &handle.held {
            Held::Frag(frag) => handle.held = Held::Skb(Skb::build(&self.pool, frag, viewed)?),
            Held::Room(..) => unreachable!("looked at before"),
            Held::Skb(_) if step.op == Op::Coalesce => return self.coalesce(step, at),
            Held::Skb(skb) => {
                let wanted = skb.head_for_all(&self.pool);
                self.linearize(step.thread, at, wanted)?;
            }
        }
        Ok(self.facts(at))
    }

    fn linearize(&mut self, thread: usize, at: usize, wanted: Option<usize>) -> Result<(), Error> {
        let head = wanted.map(|size| {
            self.ask(thread, Kind::Lines, |cache, pool| {
                cache.alloc(pool, size, 1)
            })
        });
        let head = head.transpose()?;
        if let Held::Skb(skb) = &mut self.handles[at].held {
            skb.linearize(&mut self.pool, head, thread);
        }
        Ok(())
    }

    /// Joins another skb to one, and the handle of the other goes.
    fn coalesce(&mut self, step: Step, at: usize) -> Told {
        let from = (step.arg >> 8) % self.handles.len();
        if from == at {
            return Err(ITSELF);
        }
        let Some(from) = self.nearest(from, |found, held| found != at && held.is_skb()) else {
            return Ok(Said::Nothing);
        };
        let [handle, other] = self
            .handles
            .get_disjoint_mut([at, from])
            .expect("two of them");
        let (Held::Skb(skb), Held::Skb(other)) = (&mut handle.held, &mut other.held) else {
            unreachable!("looked at before");
        };
        skb.coalesce(&mut self.pool, other, step.thread)
            .map_err(Said::Apart)?;
        self.handles.swap_remove(from);
        // The last one has taken its place.
        Ok(self.facts(if at == self.handles.len() { from } else { at }))
    }

    fn commit(&mut self, thread: usize, at: usize, used: usize) -> Told {
        let Held::Room(room, _) = &self.handles[at].held else {
            return Ok(Said::Nothing);
        };
        if used == 0 {
            return Err(Error::ZeroSize.into());
        }
        if used > room.len {
            return Err(Error::CommitAboveRoom.into());
        }
        let Held::Room(mut room, kind) = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        let cache = self.cache(thread, kind);
        cache.settle(&mut self.pool, &mut room, used);
        Ok(self.keep(Held::Frag(room)))
    }

    // What is done to all.

    /// A thread ends, and its caches with it. Thread 0 stays, and drains instead.
    fn exit(&mut self, thread: usize) -> Said {
        self.polling[thread] = false;
        if thread == 0 {
            for kind in [Kind::Lines, Kind::Bytes, Kind::Netdev] {
                self.cache(0, kind).drain(&mut self.pool);
            }
            return Said::Done("drained");
        }
        for (_, cache) in std::mem::take(&mut self.tables[thread]) {
            cache.drain(&mut self.pool);
        }
        Said::Done("ended")
    }

    fn drain(&mut self, thread: usize, kind: Kind) -> Said {
        self.cache(thread, kind).drain(&mut self.pool);
        Said::Done("drained")
    }

    fn trim_pool(&mut self, thread: usize) -> Said {
        self.give_up_idle(thread);
        let gone = self.pool.unmap();
        let (handles, pool) = (&self.handles, &self.pool);
        self.names.known.retain(|&(page, _)| {
            handles.iter().any(|handle| match &handle.held {
                Held::Frag(frag) | Held::Room(frag, _) => pool.page_of(frag) == page,
                Held::Skb(_) => false,
            })
        });
        Said::Regions(gone)
    }

    fn counted(&mut self, thread: usize, kind: Kind) -> Counts {
        let shelf = self.cache(thread, kind).shelf;
        self.pool.shelves[shelf].counts
    }

    fn audit(&mut self, thread: usize) -> Said {
        let [lines, bytes] = [Kind::Lines, Kind::Bytes].map(|kind| self.counted(thread, kind));
        let pool = &self.pool;
        let count = |roles: &[Role]| {
            let pages = pool.pages().filter(|(_, page)| roles.contains(&page.role));
            pages.count() as u64
        };
        let used = pool.pages().filter(|(_, page)| page.role != Role::Free);
        let in_use = used.clone().count();
        Said::Books(Box::new(Books {
            held: (in_use * self.config.page) as u64,
            live: used.map(|(_, page)| page.live_bytes() as u64).sum(),
            obtained: pool.pages_obtained,
            current: count(&[Role::Current]),
            retired: count(&[Role::Waiting, Role::Spare]),
            orphaned: count(&[Role::Orphan]),
            free: (pool.pages_mapped() - in_use) as u64,
            returned: pool.pages_returned,
            regions: pool.mapped as u64,
            peak: pool.peak as u64,
            exhausted: pool.exhausted,
            no_memory: pool.no_memory,
            huge_failed: pool.huge_failed,
            lines,
            bytes,
        }))
    }

    /// Rubbish dies in a finalizer that allocates: one comes and goes, then the
    /// first goes.
    fn cycle(&mut self, thread: usize, size: usize) -> Told {
        let ask = |world: &mut Self, size| {
            world.ask(thread, Kind::Lines, |cache, pool| {
                cache.alloc(pool, size, 1)
            })
        };
        let first = ask(self, size)?;
        let second = match ask(self, 64) {
            Ok(second) => second,
            Err(error) => {
                self.pool.free(first, thread);
                return Err(error.into());
            }
        };
        let places = [&first, &second].map(|frag| self.names.place(&self.pool, frag));
        self.pool.free(second, thread);
        self.pool.free(first, thread);
        Ok(Said::Places(places))
    }

    fn told(&mut self, step: Step) -> Told {
        let Step {
            op, thread, arg, ..
        } = step;
        let page = self.config.page;
        let (size, align) = (|| size(arg, page), align(arg));
        let many = || super::super::size(arg >> 8 << 8, page);
        let low = granule(arg & 1 != 0);
        match op {
            Op::Alloc => self.alloc(thread, Kind::Lines, size(), align),
            Op::AllocBytes => self.alloc(thread, Kind::Bytes, size(), align),
            Op::AllocMany => self.alloc_many(thread, 1 + arg % 8, many()),
            Op::NetdevFrag => self.alloc(thread, Kind::Netdev, size(), align),
            Op::NetdevSkb => self.skb(thread, Kind::Netdev, size()),
            Op::Poll => Ok(self.poll(thread)),
            Op::NapiFrag => self.napi(thread, |world| {
                world.alloc(thread, Kind::Napi, size(), align)
            }),
            Op::NapiSkb => self.napi(thread, |world| world.skb(thread, Kind::Napi, size())),
            Op::Prepare => {
                let room = self.ask(thread, low, |cache, pool| cache.take_room(pool, many()))?;
                Ok(self.keep(Held::Room(room, low)))
            }
            Op::Exit => Ok(self.exit(thread)),
            Op::Drain => Ok(self.drain(thread, low)),
            Op::TrimPool => Ok(self.trim_pool(thread)),
            Op::Audit => Ok(self.audit(thread)),
            Op::Cycle => self.cycle(thread, size()),
            _ if self.handles.is_empty() => Ok(Said::Nothing),
            Op::BuildSkb | Op::Linearize | Op::Coalesce => self.on_packet(step),
            _ => self.on_handle(step),
        }
    }
}

/// A refusal is said like an answer.
fn either(told: Told) -> Said {
    told.unwrap_or_else(|refusal| refusal)
}

impl Executor for World {
    fn new(config: Config) -> Self {
        Self {
            config,
            pool: Pool::new(config),
            tables: [(); THREADS].map(|()| Vec::new()),
            polling: [false; THREADS],
            handles: Vec::with_capacity(STEPS),
            names: Names::default(),
        }
    }

    fn step(&mut self, step: Step) -> Said {
        either(self.told(step))
    }

    fn end(&mut self) -> Vec<Said> {
        let mut told = Vec::from([0, 1, 2].map(|thread| self.exit(thread)));
        for handle in std::mem::take(&mut self.handles) {
            self.free(handle.held, 0);
        }
        if let Some(at) = self.tables[0]
            .iter()
            .position(|(kind, _)| *kind == Kind::Napi)
        {
            let (_, napi) = self.tables[0].remove(at);
            napi.drain(&mut self.pool);
        }
        told.push(self.trim_pool(0));
        told.push(self.audit(0));
        self.pool.end_faults();
        if self.config.faults.what() != Fault::None {
            told.push(either(self.cycle(0, 1)));
            self.drain(0, Kind::Lines);
            told.push(self.trim_pool(0));
        }
        told
    }
}
