//! The Rust core as an executor.
//!
//! It speaks of handles as the Python package has them: a fragment that may be
//! shared and written (`RawFrag`), a room, an skb. Views are counted here, as
//! the binding counts them there. This file has what makes handles and what is
//! done to all; what is done to one handle is in `handles.rs`.

mod handles;

use pagefrag::net::{NapiCache, NetdevCache, SkBuff};
use pagefrag::{Error, FragMut, Granule, HugePages, LocalCache, PagePool, REGION, RawFrag};

use super::run::Executor;
use super::said::{Books, Counts, Frag, Place, Said, Skb, Told};
use super::threads::Threads;
use super::{Config, Fault, Op, STEPS, Step, THREADS, align, faults, size};

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

/// A pool, the caches of all threads, and all handles.
pub(crate) struct World {
    config: Config,
    pool: PagePool,
    /// By granule: 64, 1.
    caches: [LocalCache; 2],
    netdev: NetdevCache,
    napi: [Option<NapiCache>; THREADS],
    handles: Vec<Handle>,
    /// The pages that have a number, and it.
    pages: Vec<(usize, usize)>,
    seen: usize,
    threads: Threads,
    /// Calls to the system that failed.
    pub(super) failed: u32,
}

impl World {
    fn ordinal(&mut self, page: usize) -> usize {
        if let Some(&(_, number)) = self.pages.iter().rfind(|&&(known, _)| known == page) {
            return number;
        }
        self.pages.push((page, self.seen));
        self.seen += 1;
        self.seen - 1
    }

    fn place(&mut self, page: usize, offset: usize) -> Place {
        let page = self.ordinal(page);
        Place { page, offset }
    }

    /// A page, an offset, lengths: what there is to say of a handle.
    fn facts(&mut self, at: usize) -> Said {
        match &self.handles[at].held {
            Held::Frag { raw, readonly } => {
                let (len, capacity, readonly) = (raw.len(), raw.capacity(), *readonly);
                let (page, offset) = (raw.page(), raw.offset());
                Said::Frag(Frag {
                    place: self.place(page, offset),
                    len,
                    capacity,
                    readonly,
                })
            }
            Held::Room { room, .. } => {
                let (len, page, offset) = (room.len(), room.page(), room.offset());
                Said::Room(self.place(page, offset), len)
            }
            Held::Skb(skb) => Said::Skb(Skb {
                len: skb.len(),
                data: skb.data_len(),
                head: skb.headroom(),
                tail: skb.tailroom(),
                truesize: skb.truesize(),
                frags: skb.nr_frags(),
            }),
        }
    }

    fn keep(&mut self, held: Held) -> Said {
        self.handles.push(Handle { held, views: 0 });
        self.facts(self.handles.len() - 1)
    }

    fn keep_new(&mut self, frag: FragMut) -> Said {
        self.keep(Held::Frag {
            raw: frag.into_raw(),
            readonly: false,
        })
    }

    // What makes handles.

    fn alloc(&mut self, thread: usize, granule: usize, size: usize, align: usize) -> Told {
        let cache = self.caches[granule].clone();
        let frag = self.threads.run(thread, move || {
            if align == 1 {
                cache.alloc(size)
            } else {
                cache.alloc_align(size, align)
            }
        });
        Ok(self.keep_new(frag?))
    }

    fn alloc_many(&mut self, thread: usize, count: usize, size: usize) -> Told {
        let cache = self.caches[0].clone();
        let frags: Result<Vec<FragMut>, Error> = self.threads.run(thread, move || {
            (0..count).map(|_| cache.alloc(size)).collect()
        });
        let mut made = Vec::with_capacity(count);
        for frag in frags? {
            let Said::Frag(facts) = self.keep_new(frag) else {
                unreachable!("a fragment was kept");
            };
            made.push(facts);
        }
        Ok(Said::Many(made))
    }

    fn netdev_frag(&mut self, thread: usize, size: usize, align: usize) -> Told {
        let netdev = self.netdev.clone();
        let alloc = move || netdev.alloc_frag(size, align);
        let frag = self.threads.run(thread, alloc);
        Ok(self.keep_new(frag?))
    }

    fn netdev_skb(&mut self, thread: usize, size: usize) -> Told {
        let netdev = self.netdev.clone();
        let skb = self.threads.run(thread, move || netdev.alloc_skb(size));
        Ok(self.keep(Held::Skb(skb?)))
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

    fn poll(&mut self, thread: usize) -> Told {
        let (open, done) = self.napi(thread, |napi| {
            if napi.is_polling() {
                (false, napi.leave())
            } else {
                (true, napi.enter(64))
            }
        });
        done?;
        Ok(Said::Done(if open { "entered" } else { "left" }))
    }

    fn napi_frag(&mut self, thread: usize, size: usize, align: usize) -> Told {
        let frag = self.napi(thread, move |napi| {
            let mut context = napi.context()?;
            match context.try_alloc_frag(size, align) {
                Err(Error::Exhausted | Error::OutOfMemory) => Ok(None),
                frag => frag.map(Some).map_err(Said::from),
            }
        })?;
        Ok(frag.map_or(Said::Done("none"), |frag| self.keep_new(frag)))
    }

    fn napi_skb(&mut self, thread: usize, size: usize) -> Told {
        let skb = self.napi(thread, move |napi| {
            let mut context = napi.context()?;
            match context.try_alloc_skb(size) {
                Err(Error::Exhausted | Error::OutOfMemory) => Ok(None),
                skb => skb.map(Some).map_err(Said::from),
            }
        })?;
        Ok(skb.map_or(Said::Done("none"), |skb| self.keep(Held::Skb(skb))))
    }

    fn prepare(&mut self, thread: usize, bytes: bool, min: usize) -> Told {
        let cache = self.caches[usize::from(bytes)].clone();
        let room = self.threads.run(thread, move || cache.take_room(min))?;
        Ok(self.keep(Held::Room { room, bytes }))
    }

    // What is done to all.

    fn exit(&mut self, thread: usize) -> Told {
        // A poll belongs to its thread.
        if self.napi[thread]
            .as_ref()
            .is_some_and(NapiCache::is_polling)
        {
            self.napi(thread, NapiCache::leave)?;
        }
        if self.threads.end(thread) {
            return Ok(Said::Done("ended"));
        }
        for cache in &self.caches {
            cache.drain();
        }
        self.netdev.drain();
        Ok(Said::Done("drained"))
    }

    fn drain(&mut self, thread: usize, bytes: bool) -> Said {
        let cache = self.caches[usize::from(bytes)].clone();
        self.threads.run(thread, move || cache.drain());
        Said::Done("drained")
    }

    fn trim_pool(&mut self, thread: usize) -> Said {
        let pool = self.pool.clone();
        let gone = self.threads.run(thread, move || pool.trim());
        let handles = &self.handles;
        self.pages.retain(|&(page, _)| {
            handles.iter().any(|handle| match &handle.held {
                Held::Frag { raw, .. } => raw.page() == page,
                Held::Room { room, .. } => room.page() == page,
                Held::Skb(_) => false,
            })
        });
        Said::Regions(gone)
    }

    /// What a cache of a thread has counted.
    fn counted(&mut self, thread: usize, granule: usize) -> Counts {
        let cache = self.caches[granule].clone();
        let stats = self.threads.run(thread, move || cache.stats());
        [
            stats.refills,
            stats.reuses,
            stats.pages_taken,
            stats.adopted,
            stats.pages_given,
            stats.orphaned,
            stats.alloc_fail,
        ]
    }

    fn audit(&mut self, thread: usize) -> Told {
        let stats = self.pool.audit();
        let stats = stats.map_err(|findings| Said::Broken(findings.to_string()))?;
        Ok(Said::Books(Box::new(Books {
            held: stats.held_bytes,
            live: stats.live_bytes,
            obtained: stats.pages_obtained,
            current: stats.pages_current,
            retired: stats.pages_retired,
            orphaned: stats.pages_orphaned,
            free: stats.pages_free,
            returned: stats.pages_returned,
            regions: stats.regions_mapped,
            peak: stats.regions_peak,
            exhausted: stats.exhausted,
            no_memory: stats.out_of_memory,
            huge_failed: stats.huge_failed,
            lines: self.counted(thread, 0),
            bytes: self.counted(thread, 1),
        })))
    }

    /// What a finalizer does that runs in the middle of things: one fragment
    /// goes, another comes and goes.
    fn cycle(&mut self, thread: usize, size: usize) -> Told {
        let cache = self.caches[0].clone();
        let places = self.threads.run(thread, move || {
            let first = cache.alloc(size)?;
            let second = cache.alloc(64)?;
            Ok::<_, Error>([&first, &second].map(|frag| (frag.page(), frag.offset())))
        })?;
        Ok(Said::Places(
            places.map(|(page, offset)| self.place(page, offset)),
        ))
    }

    // The steps.

    fn told(&mut self, step: Step) -> Told {
        let Step {
            op, thread, arg, ..
        } = step;
        let page = self.config.page;
        let (size, align) = (|| size(arg, page), align(arg));
        let many = || super::size(arg >> 8 << 8, page);
        let bytes = arg & 1 != 0;
        match op {
            Op::Alloc => self.alloc(thread, 0, size(), align),
            Op::AllocBytes => self.alloc(thread, 1, size(), align),
            Op::AllocMany => self.alloc_many(thread, 1 + arg % 8, many()),
            Op::NetdevFrag => self.netdev_frag(thread, size(), align),
            Op::NetdevSkb => self.netdev_skb(thread, size()),
            Op::Poll => self.poll(thread),
            Op::NapiFrag => self.napi_frag(thread, size(), align),
            Op::NapiSkb => self.napi_skb(thread, size()),
            Op::Prepare => self.prepare(thread, bytes, many()),
            Op::Exit => self.exit(thread),
            Op::Drain => Ok(self.drain(thread, bytes)),
            Op::TrimPool => Ok(self.trim_pool(thread)),
            Op::Audit => self.audit(thread),
            Op::Cycle => self.cycle(thread, size()),
            _ if self.handles.is_empty() => Ok(Said::Nothing),
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
        faults::follow(config.faults.plan());
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
            handles: Vec::with_capacity(STEPS),
            pages: Vec::new(),
            seen: 0,
            threads: Threads::default(),
            failed: 0,
            pool,
            config,
        }
    }

    fn step(&mut self, step: Step) -> Said {
        either(self.told(step))
    }

    fn end(&mut self) -> Vec<Said> {
        let mut told = Vec::from([0, 1, 2].map(|thread| either(self.exit(thread))));
        self.handles.clear();
        for napi in &mut self.napi {
            *napi = None;
        }
        told.push(self.trim_pool(0));
        told.push(either(self.audit(0)));
        self.failed = faults::follow(0);
        if self.config.faults.what() != Fault::None {
            told.push(either(self.cycle(0, 1)));
            self.caches[0].drain();
            told.push(self.trim_pool(0));
        }
        told
    }
}
