//! The model as an executor: what `engine.rs` is for the core.

use std::collections::HashMap;
use std::fmt::{Display, Write as _};

use pagefrag::Error;

use super::cache::Cache;
use super::pages::{Frag, Name, Page, Role};
use super::pool::Pool;
use super::skb::{Skb, head_bytes};
use crate::fill;
use crate::traces::{Config, Op, Step, THREADS, align, decode, digest, size};

/// What a handle is.
#[derive(Debug)]
enum Held {
    Frag(Frag),
    /// And of which cache.
    Room(Frag, &'static str),
    Skb(Skb),
}

#[derive(Debug)]
struct Handle {
    held: Held,
    views: usize,
}

/// A step's end: what the log says.
type Said = Result<String, String>;

const NOTHING: &str = "-";

fn no(error: impl Display) -> String {
    format!("refused: {error}")
}

fn granule(bytes: bool) -> &'static str {
    if bytes { "bytes" } else { "lines" }
}

/// A pool, the caches of all threads, and all handles.
struct World {
    config: Config,
    pool: Pool,
    /// By thread: its caches by name.
    tables: [Vec<(&'static str, Cache)>; THREADS],
    polling: [bool; THREADS],
    handles: Vec<Handle>,
    names: HashMap<Name, usize>,
    seen: usize,
}

#[allow(clippy::unnecessary_wraps)] // every step ends in one type
impl World {
    fn new(config: Config) -> Self {
        Self {
            config,
            pool: Pool::new(config),
            tables: [(); THREADS].map(|()| Vec::new()),
            polling: [false; THREADS],
            handles: Vec::new(),
            names: HashMap::new(),
            seen: 0,
        }
    }

    /// A thread's cache, made when it is first used.
    fn cache(&mut self, thread: usize, name: &'static str) -> Cache {
        let table = &mut self.tables[thread];
        if let Some((_, cache)) = table.iter().find(|(known, _)| *known == name) {
            return *cache;
        }
        let cache = Cache::new(&mut self.pool, thread, name == "bytes");
        table.push((name, cache));
        cache
    }

    /// Asks a cache; before memory that is short is a refusal, all idle
    /// pages of the thread go back.
    fn ask(
        &mut self,
        thread: usize,
        name: &'static str,
        call: impl Fn(Cache, &mut Pool) -> Result<Frag, Error>,
    ) -> Result<Frag, Error> {
        let cache = self.cache(thread, name);
        match call(cache, &mut self.pool) {
            Err(Error::Exhausted | Error::OutOfMemory) if self.give_up_idle(thread) != 0 => {
                call(cache, &mut self.pool)
            }
            frag => frag,
        }
    }

    fn give_up_idle(&mut self, thread: usize) -> usize {
        let pool = &mut self.pool;
        let caches = self.tables[thread].iter();
        caches.map(|(_, cache)| cache.trim(pool)).sum()
    }

    // What the log says.

    fn place(&mut self, frag: &Frag) -> String {
        let seen = &mut self.seen;
        let name = self.names.entry(self.pool.page_of(frag));
        let number = name.or_insert_with(|| {
            *seen += 1;
            *seen - 1
        });
        format!("P{number}+{}", frag.start)
    }

    fn facts(&mut self, at: usize) -> String {
        let handle = self.handles.swap_remove(at);
        let said = match &handle.held {
            Held::Skb(skb) => skb.facts(&self.pool),
            Held::Room(room, _) => format!("{} room={}", self.place(room), room.len),
            Held::Frag(frag) => format!(
                "{} len={} cap={} ro={}",
                self.place(frag),
                frag.len,
                self.pool.pieces[frag.piece].size,
                u8::from(frag.readonly)
            ),
        };
        self.put_back(at, handle);
        said
    }

    /// Puts a handle that was taken out back to where it was.
    fn put_back(&mut self, at: usize, handle: Handle) {
        self.handles.push(handle);
        let last = self.handles.len() - 1;
        self.handles.swap(at, last);
    }

    fn keep(&mut self, held: Held) -> Said {
        self.handles.push(Handle { held, views: 0 });
        Ok(self.facts(self.handles.len() - 1))
    }

    // What makes handles.

    fn alloc(&mut self, thread: usize, name: &'static str, size: usize, align: usize) -> Said {
        let frag = self.ask(thread, name, |cache, pool| cache.alloc(pool, size, align));
        self.keep(Held::Frag(frag.map_err(no)?))
    }

    fn alloc_many(&mut self, thread: usize, count: usize, size: usize) -> Said {
        let mut made = Vec::new();
        for _ in 0..count {
            match self.ask(thread, "lines", |cache, pool| cache.alloc(pool, size, 1)) {
                Ok(frag) => made.push(frag),
                Err(error) => {
                    for frag in made {
                        self.pool.free(frag, thread);
                    }
                    return Err(no(error));
                }
            }
        }
        let mut said = String::new();
        for frag in made {
            let _ = write!(said, "{}; ", self.keep(Held::Frag(frag))?);
        }
        Ok(said)
    }

    fn skb(&mut self, thread: usize, name: &'static str, size: usize) -> Said {
        let size = head_bytes(size).map_err(no)?;
        let head = self.ask(thread, name, |cache, pool| cache.alloc(pool, size, 1));
        self.keep(Held::Skb(Skb::new(head.map_err(no)?)))
    }

    fn poll(&mut self, thread: usize) -> &'static str {
        self.polling[thread] = !self.polling[thread];
        if self.polling[thread] {
            "entered"
        } else {
            "left"
        }
    }

    fn in_poll(&self, thread: usize) -> Result<(), String> {
        if self.polling[thread] {
            Ok(())
        } else {
            Err("refused: a napi call needs an open poll".to_owned())
        }
    }

    /// A shortage is an answer in a poll; the caller's mistakes are refused.
    fn napi(&mut self, thread: usize, call: impl FnOnce(&mut Self) -> Said) -> Said {
        self.in_poll(thread)?;
        let shortage = [Error::Exhausted, Error::OutOfMemory].map(no);
        match call(self) {
            Err(refusal) if shortage.contains(&refusal) => Ok("none".to_owned()),
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

    fn on_handle(&mut self, step: Step) -> Said {
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
                return Ok("consumed".to_owned());
            }
            (Op::Commit, Held::Room(..)) | (Op::Release, _) | (Op::Trim, Held::Frag(_))
                if viewed =>
            {
                return Err(no("viewed"));
            }
            (Op::Commit, Held::Room(room, _)) => {
                let used = arg % (room.len + 2);
                return self.commit(thread, at, used);
            }
            (Op::Release, _) => {
                let held = self.handles.swap_remove(at).held;
                self.free(held, thread);
                return Ok("released".to_owned());
            }
            (Op::Write, Held::Frag(Frag { readonly: true, .. })) => return Err(no("read-only")),
            (Op::Write, Held::Frag(frag) | Held::Room(frag, _)) => {
                fill(pool.bytes_mut(frag), arg as u64);
                return Ok("written".to_owned());
            }
            (Op::Read, Held::Frag(frag)) => {
                return Ok(format!("{:016x}", digest(pool.bytes(frag))));
            }
            (Op::Read, Held::Skb(skb)) => {
                return Ok(format!("{:016x}", digest(&skb.bytes(pool))));
            }
            (Op::Slice, Held::Frag(frag)) => {
                let mut part = pool.share(frag);
                let [a, b] = [arg & 0xFFFF, arg >> 16].map(|end| end % (part.len + 1));
                part.narrow(a.min(b), a.abs_diff(b));
                return self.keep(Held::Frag(part));
            }
            (Op::Readonly, Held::Frag(frag)) => {
                let mut part = pool.share(frag);
                part.readonly = true;
                return self.keep(Held::Frag(part));
            }
            (Op::Trim, Held::Frag(frag)) => {
                let keep = arg % (frag.len + 2);
                if keep > frag.len {
                    return Err(no("the fragment holds fewer bytes than that"));
                }
                pool.shrink(frag, keep, thread);
            }
            (Op::Trim, Held::Skb(skb)) => {
                let keep = arg % (skb.len() + 2);
                skb.trim(pool, keep, thread).map_err(no)?;
            }
            (Op::Clone, Held::Skb(skb)) => {
                let clone = skb.clone(pool);
                return self.keep(Held::Skb(clone));
            }
            (Op::View, Held::Frag(_) | Held::Room(..)) => {
                handle.views += 1;
                return Ok(format!("views={}", handle.views));
            }
            (Op::Unview, _) if viewed => {
                handle.views -= 1;
                return Ok(format!("views={}", handle.views));
            }
            (Op::AddFrag, Held::Skb(skb)) => match other {
                Some(frag) => skb.add_frag(pool, &frag).map_err(no)?,
                None => return Ok(NOTHING.to_owned()),
            },
            (Op::Put, Held::Skb(skb)) => skb.put(pool, arg % 256, arg).map_err(no)?,
            (Op::Push, Held::Skb(skb)) => skb.push(pool, arg % 128, arg).map_err(no)?,
            (Op::Pull, Held::Skb(skb)) => skb.pull(arg % 256).map_err(no)?,
            (Op::Reserve, Held::Skb(skb)) => skb.reserve(arg % 128).map_err(no)?,
            _ => return Ok(NOTHING.to_owned()),
        }
        Ok(self.facts(at))
    }

    fn commit(&mut self, thread: usize, at: usize, used: usize) -> Said {
        let Held::Room(room, _) = &self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        if used == 0 {
            return Err(no(Error::ZeroSize));
        }
        if used > room.len {
            return Err(no(Error::CommitAboveRoom));
        }
        let Held::Room(mut room, name) = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        let cache = self.cache(thread, name);
        cache.settle(&mut self.pool, &mut room, used);
        self.keep(Held::Frag(room))
    }

    // What is done to all.

    /// A thread ends, and its caches with it. Thread 0 stays, and drains instead.
    fn exit(&mut self, thread: usize) -> &'static str {
        self.polling[thread] = false;
        if thread == 0 {
            for name in ["lines", "bytes", "netdev"] {
                self.cache(0, name).drain(&mut self.pool);
            }
            return "drained";
        }
        for (_, cache) in std::mem::take(&mut self.tables[thread]) {
            cache.drain(&mut self.pool);
        }
        "ended"
    }

    fn trim_pool(&mut self, thread: usize) -> String {
        self.give_up_idle(thread);
        let gone = self.pool.unmap();
        let alive: Vec<Name> = { self.handles.iter() }
            .filter_map(|handle| match &handle.held {
                Held::Frag(frag) | Held::Room(frag, _) => Some(self.pool.page_of(frag)),
                Held::Skb(_) => None,
            })
            .collect();
        self.names.retain(|page, _| alive.contains(page));
        format!("regions={gone}")
    }

    fn audit(&mut self, thread: usize) -> String {
        let mut counted = String::new();
        for name in ["lines", "bytes"] {
            let shelf = self.cache(thread, name).shelf;
            let counts = self.pool.shelves[shelf]
                .counts
                .map(|count| count.to_string());
            let _ = write!(counted, " {name}={}", counts.join("/"));
        }
        let pool = &self.pool;
        let pages: Vec<&Page> = pool.pages().map(|(_, page)| page).collect();
        let count = |role| pages.iter().filter(|page| page.role == role).count();
        let free = count(Role::Free);
        let used = pages.iter().filter(|page| page.role != Role::Free);
        format!(
            "held={} live={} obtained={} current={} retired={} orphaned={} free={free} \
             returned={} regions={} peak={} exhausted={} no_memory={} \
             huge_failed={}{counted}",
            (pages.len() - free) * self.config.page,
            used.map(|page| page.live_bytes()).sum::<usize>(),
            pool.pages_obtained,
            count(Role::Current),
            count(Role::Waiting) + count(Role::Spare),
            count(Role::Orphan),
            pool.pages_returned,
            pool.mapped,
            pool.peak,
            pool.exhausted,
            pool.no_memory,
            pool.huge_failed
        )
    }

    /// Rubbish dies in a finalizer that allocates: one comes and goes, then the
    /// first goes.
    fn cycle(&mut self, thread: usize, size: usize) -> Said {
        let ask = |world: &mut Self, size| {
            world.ask(thread, "lines", |cache, pool| cache.alloc(pool, size, 1))
        };
        let first = ask(self, size).map_err(no)?;
        let second = match ask(self, 64) {
            Ok(second) => second,
            Err(error) => {
                self.pool.free(first, thread);
                return Err(no(error));
            }
        };
        let said = format!("{} {}", self.place(&first), self.place(&second));
        self.pool.free(second, thread);
        self.pool.free(first, thread);
        Ok(said)
    }

    fn step(&mut self, step: Step) -> Said {
        let Step {
            op, thread, arg, ..
        } = step;
        let (size, align) = (size(arg, self.config.page), align(arg));
        let many = super::super::size(arg >> 8 << 8, self.config.page);
        let low = granule(arg & 1 != 0);
        Ok(match op {
            Op::Alloc => self.alloc(thread, "lines", size, align)?,
            Op::AllocBytes => self.alloc(thread, "bytes", size, align)?,
            Op::AllocMany => self.alloc_many(thread, 1 + arg % 8, many)?,
            Op::NetdevFrag => self.alloc(thread, "netdev", size, align)?,
            Op::NetdevSkb => self.skb(thread, "netdev", size)?,
            Op::Poll => self.poll(thread).to_owned(),
            Op::NapiFrag => self.napi(thread, |world| world.alloc(thread, "napi", size, align))?,
            Op::NapiSkb => self.napi(thread, |world| world.skb(thread, "napi", size))?,
            Op::Prepare => {
                let room = self.ask(thread, low, |cache, pool| cache.take_room(pool, many));
                self.keep(Held::Room(room.map_err(no)?, low))?
            }
            Op::Exit => self.exit(thread).to_owned(),
            Op::Drain => {
                self.cache(thread, low).drain(&mut self.pool);
                "drained".to_owned()
            }
            Op::TrimPool => self.trim_pool(thread),
            Op::Audit => self.audit(thread),
            Op::Cycle => self.cycle(thread, size)?,
            _ if self.handles.is_empty() => NOTHING.to_owned(),
            _ => self.on_handle(step)?,
        })
    }
}

/// What every executor says of `trace`.
#[must_use]
pub fn log(trace: &[u8]) -> String {
    let (config, steps) = decode(trace);
    let mut world = World::new(config);
    let mut log = config.to_string();
    for (number, step) in steps.into_iter().enumerate() {
        let said = world.step(step).unwrap_or_else(|refusal| refusal);
        let _ = writeln!(log, "{number} {}{} {said}", step.op.word(), step.thread);
    }
    for thread in 0..THREADS {
        let _ = writeln!(log, "end {thread} {}", world.exit(thread));
    }
    for handle in std::mem::take(&mut world.handles) {
        world.free(handle.held, 0);
    }
    if let Some(at) = world.tables[0].iter().position(|(name, _)| *name == "napi") {
        let (_, napi) = world.tables[0].remove(at);
        napi.drain(&mut world.pool);
    }
    let regions = world.trim_pool(0);
    let _ = writeln!(log, "end {regions}\nend {}", world.audit(0));
    world.pool.end_faults();
    let place = world.cycle(0, 1).unwrap_or_else(|refusal| refusal);
    world.cache(0, "lines").drain(&mut world.pool);
    let regions = world.trim_pool(0);
    let _ = writeln!(log, "after {place}\nafter {regions}");
    log
}
