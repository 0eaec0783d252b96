//! The Rust core as an executor.
//!
//! It speaks of handles as the Python package has them: a fragment that may be
//! shared and written (`RawFrag`), a room, an skb. Views are counted here, as
//! the binding counts them there.

use std::collections::HashMap;
use std::fmt::Write as _;

use pagefrag::net::{ContextError, NapiCache, NetdevCache, SkBuff};
use pagefrag::{Error, Frag, FragMut, Granule, HugePages, LocalCache, PagePool, REGION, RawFrag};

use super::threads::Threads;
use super::{Config, Fault, Op, Step, THREADS, align, decode, digest, faults, size};
use crate::fill;

/// What a handle is.
enum Held {
    Frag { raw: RawFrag, readonly: bool },
    Room { room: FragMut, bytes: bool },
    Skb(SkBuff),
}

struct Handle {
    held: Held,
    views: usize,
}

/// A step's end: what the log says.
type Said = Result<String, String>;

struct World {
    config: Config,
    pool: PagePool,
    /// By granule: 64, 1.
    caches: [LocalCache; 2],
    netdev: NetdevCache,
    napi: [Option<NapiCache>; THREADS],
    handles: Vec<Handle>,
    pages: HashMap<usize, usize>,
    seen: usize,
    threads: Threads,
}

fn no(error: Error) -> String {
    format!("refused: {error}")
}

fn out_of_context(error: ContextError) -> String {
    format!("refused: {error}")
}

const NOTHING: &str = "-";
const VIEWED: &str = "refused: viewed";

/// The bytes of a handle that is not an skb.
fn bytes_of(raw: &RawFrag) -> &[u8] {
    // SAFETY: the handle keeps the bytes; threads take turns, so nobody
    // writes.
    unsafe { std::slice::from_raw_parts(raw.as_ptr(), raw.len()) }
}

#[allow(clippy::unnecessary_wraps)] // every step ends in one type
impl World {
    fn new(config: Config) -> Self {
        let mut builder = PagePool::builder()
            .page_size(config.page)
            .huge_pages(match config.faults.what() {
                Fault::Advise => HugePages::Auto,
                _ => HugePages::Never,
            })
            .init_on_alloc(config.init_on_alloc)
            .init_on_free(config.init_on_free);
        if config.regions != 0 {
            builder = builder.max_bytes(config.regions * REGION);
        }
        let pool = builder.build().expect("the head of a trace is valid");
        Self {
            caches: [Granule::Line, Granule::Byte].map(|g| LocalCache::new(&pool, g)),
            netdev: NetdevCache::new(&pool),
            napi: [(); THREADS].map(|()| Some(NapiCache::new(&pool))),
            handles: Vec::new(),
            pages: HashMap::new(),
            seen: 0,
            threads: Threads::default(),
            pool,
            config,
        }
    }

    fn ordinal(&mut self, page: usize) -> usize {
        *self.pages.entry(page).or_insert_with(|| {
            self.seen += 1;
            self.seen - 1
        })
    }

    /// A page, an offset, lengths: what there is to say of a handle.
    fn facts(&mut self, at: usize) -> String {
        match &self.handles[at].held {
            Held::Frag { raw, readonly } => {
                let (len, capacity, mark) = (raw.len(), raw.capacity(), u8::from(*readonly));
                let (page, offset) = (raw.page(), raw.offset());
                let page = self.ordinal(page);
                format!("P{page}+{offset} len={len} cap={capacity} ro={mark}")
            }
            Held::Room { room, .. } => {
                let (len, page, offset) = (room.len(), room.page(), room.offset());
                format!("P{}+{offset} room={len}", self.ordinal(page))
            }
            Held::Skb(skb) => format!(
                "skb len={} data={} head={} tail={} true={} frags={}",
                skb.len(),
                skb.data_len(),
                skb.headroom(),
                skb.tailroom(),
                skb.truesize(),
                skb.nr_frags()
            ),
        }
    }

    fn keep(&mut self, held: Held) -> String {
        self.handles.push(Handle { held, views: 0 });
        self.facts(self.handles.len() - 1)
    }

    fn keep_new(&mut self, frag: FragMut) -> String {
        self.keep(Held::Frag {
            raw: frag.into_raw(),
            readonly: false,
        })
    }

    fn alloc(&mut self, thread: usize, granule: usize, size: usize, align: usize) -> Said {
        let cache = self.caches[granule].clone();
        let frag = self.threads.run(thread, move || {
            if align == 1 {
                cache.alloc(size)
            } else {
                cache.alloc_align(size, align)
            }
        });
        frag.map(|frag| self.keep_new(frag)).map_err(no)
    }

    fn alloc_many(&mut self, thread: usize, count: usize, size: usize) -> Said {
        let cache = self.caches[0].clone();
        let frags: Result<Vec<FragMut>, Error> = self.threads.run(thread, move || {
            (0..count).map(|_| cache.alloc(size)).collect()
        });
        let mut said = String::new();
        for frag in frags.map_err(no)? {
            let facts = self.keep_new(frag);
            let _ = write!(said, "{facts}; ");
        }
        Ok(said)
    }

    /// Runs `f` with a thread's napi cache, on that thread.
    fn napi<R: Send + 'static>(
        &mut self,
        thread: usize,
        f: impl FnOnce(&mut NapiCache) -> R + Send + 'static,
    ) -> R {
        let mut napi = self.napi[thread].take().expect("it was put back");
        let (napi, said) = self.threads.run(thread, move || {
            let said = f(&mut napi);
            (napi, said)
        });
        self.napi[thread] = Some(napi);
        said
    }

    fn poll(&mut self, thread: usize) -> Said {
        let (open, done) = self.napi(thread, |napi| {
            if napi.is_polling() {
                (false, napi.leave())
            } else {
                (true, napi.enter(64))
            }
        });
        done.map_err(out_of_context)?;
        Ok(if open { "entered" } else { "left" }.to_owned())
    }

    fn napi_frag(&mut self, thread: usize, size: usize, align: usize) -> Said {
        let frag = self.napi(thread, move |napi| {
            let mut context = napi.context().map_err(out_of_context)?;
            match context.try_alloc_frag(size, align) {
                Err(Error::Exhausted | Error::OutOfMemory) => Ok(None),
                frag => frag.map(Some).map_err(no),
            }
        })?;
        Ok(frag.map_or_else(|| "none".to_owned(), |frag| self.keep_new(frag)))
    }

    fn napi_skb(&mut self, thread: usize, size: usize) -> Said {
        let skb = self.napi(thread, move |napi| {
            let mut context = napi.context().map_err(out_of_context)?;
            match context.try_alloc_skb(size) {
                Err(Error::Exhausted | Error::OutOfMemory) => Ok(None),
                skb => skb.map(Some).map_err(no),
            }
        })?;
        Ok(skb.map_or_else(|| "none".to_owned(), |skb| self.keep(Held::Skb(skb))))
    }

    fn consume(&mut self, thread: usize, at: usize) -> Said {
        if !matches!(self.handles[at].held, Held::Skb(_)) {
            return Ok(NOTHING.to_owned());
        }
        self.napi(thread, |napi| {
            napi.context().map(drop).map_err(out_of_context)
        })?;
        let Held::Skb(skb) = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        self.napi(thread, |napi| {
            let mut context = napi.context().expect("asked before");
            context.consume_skb(skb);
        });
        Ok("consumed".to_owned())
    }

    fn prepare(&mut self, thread: usize, bytes: bool, min: usize) -> Said {
        let cache = self.caches[usize::from(bytes)].clone();
        let room = self.threads.run(thread, move || cache.take_room(min));
        room.map(|room| self.keep(Held::Room { room, bytes }))
            .map_err(no)
    }

    fn commit(&mut self, thread: usize, at: usize, arg: usize) -> Said {
        let Held::Room { room, bytes } = &self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        if self.handles[at].views != 0 {
            return Err(VIEWED.to_owned());
        }
        let (used, bytes) = (arg % (room.len() + 2), *bytes);
        if used == 0 {
            return Err(no(Error::ZeroSize));
        }
        if used > room.len() {
            return Err(no(Error::CommitAboveRoom));
        }
        let Held::Room { room, .. } = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        let cache = self.caches[usize::from(bytes)].clone();
        let frag = self.threads.run(thread, move || cache.settle(room, used));
        frag.map(|frag| self.keep_new(frag)).map_err(no)
    }

    fn release(&mut self, thread: usize, at: usize) -> Said {
        if self.handles[at].views != 0 {
            return Err(VIEWED.to_owned());
        }
        let held = self.handles.swap_remove(at).held;
        self.threads.run(thread, move || drop(held));
        Ok("released".to_owned())
    }

    fn write(&mut self, at: usize, seed: usize) -> Said {
        let (start, len) = match &mut self.handles[at].held {
            Held::Frag { readonly: true, .. } => return Err("refused: read-only".to_owned()),
            Held::Frag { raw, .. } => (raw.as_ptr(), raw.len()),
            Held::Room { room, .. } => (room.as_mut_ptr(), room.len()),
            Held::Skb(_) => return Ok(NOTHING.to_owned()),
        };
        // SAFETY: the handle keeps the bytes; threads take turns, so nobody
        // else looks at them now.
        fill(
            unsafe { std::slice::from_raw_parts_mut(start, len) },
            seed as u64,
        );
        Ok("written".to_owned())
    }

    fn read(&self, at: usize) -> Said {
        let digest = match &self.handles[at].held {
            Held::Frag { raw, .. } => digest(bytes_of(raw)),
            Held::Room { .. } => return Ok(NOTHING.to_owned()),
            Held::Skb(skb) => {
                let mut bytes = Vec::new();
                skb.copy_to(&mut bytes);
                digest(&bytes)
            }
        };
        Ok(format!("{digest:016x}"))
    }

    fn slice(&mut self, thread: usize, at: usize, arg: usize) -> Said {
        let Held::Frag { raw, readonly } = &self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        let (a, b) = (
            (arg & 0xFFFF) % (raw.len() + 1),
            (arg >> 16) % (raw.len() + 1),
        );
        let (readonly, mut part) = (*readonly, raw.share());
        let part = self.threads.run(thread, move || {
            part.narrow(a.min(b), a.abs_diff(b));
            part
        });
        Ok(self.keep(Held::Frag {
            raw: part,
            readonly,
        }))
    }

    fn readonly(&mut self, at: usize) -> Said {
        let Held::Frag { raw, .. } = &self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        let raw = raw.share();
        Ok(self.keep(Held::Frag {
            raw,
            readonly: true,
        }))
    }

    fn trim(&mut self, thread: usize, at: usize, arg: usize) -> Said {
        let viewed = self.handles[at].views != 0;
        match &mut self.handles[at].held {
            Held::Room { .. } => return Ok(NOTHING.to_owned()),
            Held::Frag { .. } if viewed => return Err(VIEWED.to_owned()),
            Held::Frag { raw, .. } => {
                let keep = arg % (raw.len() + 2);
                if keep > raw.len() {
                    return Err("refused: the fragment holds fewer bytes than that".to_owned());
                }
            }
            Held::Skb(_) => {}
        }
        // On its thread: what is cut off may come home there.
        let Handle { mut held, views } = self.handles.swap_remove(at);
        let (held, done) = self.threads.run(thread, move || {
            let done = match &mut held {
                Held::Frag { raw, .. } => {
                    raw.shrink_to(arg % (raw.len() + 2));
                    Ok(())
                }
                Held::Skb(skb) => skb.trim(arg % (skb.len() + 2)),
                Held::Room { .. } => unreachable!("looked at before"),
            };
            (held, done)
        });
        // Back to where it was.
        self.handles.push(Handle { held, views });
        let last = self.handles.len() - 1;
        self.handles.swap(at, last);
        done.map_err(no)?;
        Ok(self.facts(at))
    }

    /// What changes an skb's linear part.
    fn shape(&mut self, op: Op, at: usize, arg: usize) -> Said {
        let Held::Skb(skb) = &mut self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        match op {
            Op::Put => skb.put(arg % 256).map(|room| fill(room, arg as u64)),
            Op::Push => skb.push(arg % 128).map(|room| fill(room, arg as u64)),
            Op::Pull => skb.pull(arg % 256).map(drop),
            _ => skb.reserve(arg % 128),
        }
        .map_err(no)?;
        Ok(self.facts(at))
    }

    fn add_frag(&mut self, at: usize, arg: usize) -> Said {
        let from = arg % self.handles.len();
        let (Held::Frag { raw, .. }, Held::Skb(_)) =
            (&self.handles[from].held, &self.handles[at].held)
        else {
            return Ok(NOTHING.to_owned());
        };
        // SAFETY: threads take turns; nobody writes while somebody reads.
        let shared = unsafe { Frag::from_raw(raw.share()) };
        let Held::Skb(skb) = &mut self.handles[at].held else {
            unreachable!("looked at before");
        };
        skb.add_frag(shared).map_err(|(error, _)| no(error))?;
        Ok(self.facts(at))
    }

    fn clone_skb(&mut self, at: usize) -> Said {
        let Held::Skb(skb) = &mut self.handles[at].held else {
            return Ok(NOTHING.to_owned());
        };
        let clone = skb.clone_skb();
        Ok(self.keep(Held::Skb(clone)))
    }

    fn view(&mut self, at: usize, more: bool) -> Said {
        let handle = &mut self.handles[at];
        if matches!(handle.held, Held::Skb(_)) || (!more && handle.views == 0) {
            return Ok(NOTHING.to_owned());
        }
        handle.views = if more {
            handle.views + 1
        } else {
            handle.views - 1
        };
        Ok(format!("views={}", handle.views))
    }

    fn exit(&mut self, thread: usize) -> Said {
        let open = self.napi(thread, |napi| napi.is_polling());
        if open {
            // A poll belongs to its thread.
            self.napi(thread, NapiCache::leave)
                .map_err(out_of_context)?;
        }
        if self.threads.end(thread) {
            return Ok("ended".to_owned());
        }
        for cache in &self.caches {
            cache.drain();
        }
        self.netdev.drain();
        Ok("drained".to_owned())
    }

    fn drain(&mut self, thread: usize, bytes: bool) -> Said {
        let cache = self.caches[usize::from(bytes)].clone();
        self.threads.run(thread, move || cache.drain());
        Ok("drained".to_owned())
    }

    fn trim_pool(&mut self, thread: usize) -> Said {
        let pool = self.pool.clone();
        let gone = self.threads.run(thread, move || pool.trim());
        let alive: Vec<usize> = { self.handles.iter() }
            .filter_map(|handle| match &handle.held {
                Held::Frag { raw, .. } => Some(raw.page()),
                Held::Room { room, .. } => Some(room.page()),
                Held::Skb(_) => None,
            })
            .collect();
        self.pages.retain(|page, _| alive.contains(page));
        Ok(format!("regions={gone}"))
    }

    /// What the caches of a thread have counted.
    fn counted(&mut self, thread: usize) -> String {
        let mut said = String::new();
        for (name, cache) in ["lines", "bytes"].into_iter().zip(self.caches.clone()) {
            let stats = self.threads.run(thread, move || cache.stats());
            let _ = write!(
                said,
                " {name}={}/{}/{}/{}/{}/{}/{}",
                stats.refills,
                stats.reuses,
                stats.pages_taken,
                stats.adopted,
                stats.pages_given,
                stats.orphaned,
                stats.alloc_fail
            );
        }
        said
    }

    fn audit(&mut self, thread: usize) -> Said {
        let stats = self
            .pool
            .audit()
            .map_err(|error| format!("broken: {error}"))?;
        let counted = self.counted(thread);
        Ok(format!(
            "held={} live={} obtained={} current={} retired={} orphaned={} free={} returned={} \
             regions={} peak={} exhausted={} no_memory={} \
             huge_failed={}{counted}",
            stats.held_bytes,
            stats.live_bytes,
            stats.pages_obtained,
            stats.pages_current,
            stats.pages_retired,
            stats.pages_orphaned,
            stats.pages_free,
            stats.pages_returned,
            stats.regions_mapped,
            stats.regions_peak,
            stats.exhausted,
            stats.out_of_memory,
            stats.huge_failed
        ))
    }

    /// What a finalizer does that runs in the middle of things: one fragment
    /// goes, another comes and goes.
    fn cycle(&mut self, thread: usize, size: usize) -> Said {
        let cache = self.caches[0].clone();
        let (first, second) = self
            .threads
            .run(thread, move || {
                let first = cache.alloc(size)?;
                let second = cache.alloc(64)?;
                let places = |frag: &FragMut| (frag.page(), frag.offset());
                Ok((places(&first), places(&second)))
            })
            .map_err(no)?;
        let [first, second] =
            [first, second].map(|(page, offset)| format!("P{}+{offset}", self.ordinal(page)));
        Ok(format!("{first} {second}"))
    }

    fn step(&mut self, step: Step) -> Said {
        let Step {
            op,
            thread,
            handle,
            arg,
        } = step;
        let (size, align) = (size(arg, self.config.page), align(arg));
        match op {
            Op::Alloc => return self.alloc(thread, 0, size, align),
            Op::AllocBytes => return self.alloc(thread, 1, size, align),
            Op::AllocMany => {
                return self.alloc_many(
                    thread,
                    1 + arg % 8,
                    super::size(arg >> 8 << 8, self.config.page),
                );
            }
            Op::NetdevFrag => {
                let netdev = self.netdev.clone();
                let frag = self
                    .threads
                    .run(thread, move || netdev.alloc_frag(size, align));
                return frag.map(|frag| self.keep_new(frag)).map_err(no);
            }
            Op::NetdevSkb => {
                let netdev = self.netdev.clone();
                let skb = self.threads.run(thread, move || netdev.alloc_skb(size));
                return skb.map(|skb| self.keep(Held::Skb(skb))).map_err(no);
            }
            Op::Poll => return self.poll(thread),
            Op::NapiFrag => return self.napi_frag(thread, size, align),
            Op::NapiSkb => return self.napi_skb(thread, size),
            Op::Prepare => {
                let min = super::size(arg >> 8 << 8, self.config.page);
                return self.prepare(thread, arg & 1 != 0, min);
            }
            Op::Exit => return self.exit(thread),
            Op::Drain => return self.drain(thread, arg & 1 != 0),
            Op::TrimPool => return self.trim_pool(thread),
            Op::Audit => return self.audit(thread),
            Op::Cycle => return self.cycle(thread, size),
            _ => {}
        }
        if self.handles.is_empty() {
            return Ok(NOTHING.to_owned());
        }
        let at = handle % self.handles.len();
        match op {
            Op::Consume => self.consume(thread, at),
            Op::Commit => self.commit(thread, at, arg),
            Op::Release => self.release(thread, at),
            Op::Write => self.write(at, arg),
            Op::Read => self.read(at),
            Op::Slice => self.slice(thread, at, arg),
            Op::Readonly => self.readonly(at),
            Op::Trim => self.trim(thread, at, arg),
            Op::AddFrag => self.add_frag(at, arg),
            Op::Clone => self.clone_skb(at),
            Op::View => self.view(at, true),
            Op::Unview => self.view(at, false),
            op => self.shape(op, at, arg),
        }
    }
}

/// Runs `trace` and returns its log.
#[must_use]
pub fn log(trace: &[u8]) -> String {
    log_and_faults(trace).0
}

/// The same, and how many of the pool's calls to the system failed.
#[must_use]
pub fn log_and_faults(trace: &[u8]) -> (String, u32) {
    let (config, steps) = decode(trace);
    faults::follow(config.faults.plan());
    let mut world = World::new(config);
    let mut log = config.to_string();
    for (number, step) in steps.into_iter().enumerate() {
        let said = match world.step(step) {
            Ok(said) | Err(said) => said,
        };
        let _ = writeln!(log, "{number} {}{} {said}", step.op.word(), step.thread);
    }
    // The end: everything goes, thread by thread, and nothing is left.
    for thread in 0..THREADS {
        let said = world.exit(thread).unwrap_or_else(|said| said);
        let _ = writeln!(log, "end {thread} {said}");
    }
    world.handles.clear();
    for napi in &mut world.napi {
        *napi = None;
    }
    let said = world.trim_pool(0).unwrap_or_else(|said| said);
    let books = world.audit(0).unwrap_or_else(|said| said);
    let _ = writeln!(log, "end {said}\nend {books}");
    // After the faults everything works again.
    let failed = faults::follow(0);
    let place = world.cycle(0, 1).unwrap_or_else(|said| said);
    world.caches[0].drain();
    let said = world.trim_pool(0).unwrap_or_else(|said| said);
    let _ = writeln!(log, "after {place}\nafter {said}");
    (log, failed)
}
