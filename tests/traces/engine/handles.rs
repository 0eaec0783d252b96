//! What a step does to one handle.

use pagefrag::net::{NapiCache, SKB_SHARED_INFO, SkBuff};
use pagefrag::{Error, Frag, FragMut, RawFrag};

use super::{Handle, Held, World};
use crate::traces::said::{ITSELF, Said, Told, VIEWED};
use crate::traces::{Op, Step, digest, faults};

/// The bytes of a handle that is not an skb.
fn bytes_of(raw: &RawFrag) -> &[u8] {
    // SAFETY: the handle keeps the bytes; threads take turns, so nobody
    // writes.
    unsafe { std::slice::from_raw_parts(raw.as_ptr(), raw.len()) }
}

/// Writes the pattern of a step, and says so.
fn write(bytes: &mut [u8], arg: usize) {
    crate::traces::write(bytes, arg);
    faults::wrote(bytes);
}

impl Held {
    fn is_skb(&self) -> bool {
        matches!(self, Held::Skb(_))
    }
}

impl World {
    /// A step that names a handle, of which there is one.
    pub(super) fn on_handle(&mut self, step: Step) -> Told {
        let Step {
            op, thread, arg, ..
        } = step;
        let at = step.handle % self.handles.len();
        match op {
            Op::Consume => self.consume(thread, at),
            Op::Commit => self.commit(thread, at, arg),
            Op::Release => self.release(thread, at),
            Op::Write => self.write(at, arg),
            Op::Read => Ok(self.read(at)),
            Op::Slice => Ok(self.slice(thread, at, arg)),
            Op::Readonly => Ok(self.readonly(at)),
            Op::Trim => self.trim(thread, at, arg),
            Op::AddFrag => self.add_frag(at, arg),
            Op::BuildSkb | Op::Linearize | Op::Coalesce => self.packet(step, at),
            Op::Clone => Ok(self.clone_skb(at)),
            Op::View => Ok(self.view(at, true)),
            Op::Unview => Ok(self.view(at, false)),
            op => self.shape(op, at, arg),
        }
    }

    fn consume(&mut self, thread: usize, at: usize) -> Told {
        if !matches!(self.handles[at].held, Held::Skb(_)) {
            return Ok(Said::Nothing);
        }
        self.napi(thread, |napi| napi.context().map(drop))?;
        let Held::Skb(skb) = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        let consume = |napi: &mut NapiCache| napi.context().map(|mut poll| poll.consume_skb(skb));
        self.napi(thread, consume)?;
        Ok(Said::Done("consumed"))
    }

    fn commit(&mut self, thread: usize, at: usize, arg: usize) -> Told {
        let Held::Room { room, bytes } = &self.handles[at].held else {
            return Ok(Said::Nothing);
        };
        if self.handles[at].views != 0 {
            return Err(VIEWED);
        }
        let (used, bytes) = (arg % (room.len() + 2), *bytes);
        if used == 0 {
            return Err(Error::ZeroSize.into());
        }
        if used > room.len() {
            return Err(Error::CommitAboveRoom.into());
        }
        let Held::Room { room, .. } = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        let cache = self.caches[usize::from(bytes)].clone();
        let frag = self.threads.run(thread, move || cache.settle(room, used));
        Ok(self.keep_new(frag?))
    }

    fn release(&mut self, thread: usize, at: usize) -> Told {
        if self.handles[at].views != 0 {
            return Err(VIEWED);
        }
        let held = self.handles.swap_remove(at).held;
        self.threads.run(thread, move || drop(held));
        Ok(Said::Done("released"))
    }

    fn write(&mut self, at: usize, seed: usize) -> Told {
        let (start, len) = match &mut self.handles[at].held {
            Held::Frag { readonly: true, .. } => return Err(Said::Not("read-only")),
            Held::Frag { raw, .. } => (raw.as_ptr(), raw.len()),
            Held::Room { room, .. } => (room.as_mut_ptr(), room.len()),
            Held::Skb(_) => return Ok(Said::Nothing),
        };
        // SAFETY: the handle keeps the bytes; threads take turns, so nobody
        // else looks at them now.
        write(unsafe { std::slice::from_raw_parts_mut(start, len) }, seed);
        Ok(Said::Done("written"))
    }

    fn read(&self, at: usize) -> Said {
        match &self.handles[at].held {
            Held::Frag { raw, .. } => Said::Digest(digest(bytes_of(raw))),
            Held::Room { .. } => Said::Nothing,
            Held::Skb(skb) => {
                let mut bytes = Vec::new();
                skb.copy_to(&mut bytes);
                Said::Digest(digest(&bytes))
            }
        }
    }

    fn slice(&mut self, thread: usize, at: usize, arg: usize) -> Said {
        let Held::Frag { raw, readonly } = &self.handles[at].held else {
            return Said::Nothing;
        };
        let [a, b] = [arg & 0xFFFF, arg >> 16].map(|end| end % (raw.len() + 1));
        let (readonly, mut part) = (*readonly, raw.share());
        let raw = self.threads.run(thread, move || {
            part.narrow(a.min(b), a.abs_diff(b));
            part
        });
        self.keep(Held::Frag { raw, readonly })
    }

    fn readonly(&mut self, at: usize) -> Said {
        let Held::Frag { raw, .. } = &self.handles[at].held else {
            return Said::Nothing;
        };
        let raw = raw.share();
        self.keep(Held::Frag {
            raw,
            readonly: true,
        })
    }

    fn trim(&mut self, thread: usize, at: usize, arg: usize) -> Told {
        let viewed = self.handles[at].views != 0;
        match &mut self.handles[at].held {
            Held::Room { .. } => return Ok(Said::Nothing),
            Held::Frag { .. } if viewed => return Err(VIEWED),
            Held::Frag { raw, .. } => {
                let keep = arg % (raw.len() + 2);
                if keep > raw.len() {
                    return Err(Said::Not("the fragment holds fewer bytes than that"));
                }
            }
            Held::Skb(_) => {}
        }
        // On its thread: what is cut off may come home there.
        self.on_thread(thread, at, move |held| match held {
            Held::Frag { raw, .. } => {
                raw.shrink_to(arg % (raw.len() + 2));
                Ok(())
            }
            Held::Skb(skb) => skb.trim(arg % (skb.len() + 2)),
            Held::Room { .. } => unreachable!("looked at before"),
        })?;
        Ok(self.facts(at))
    }

    /// Does something to a handle on a thread, and puts it back to where it was.
    fn on_thread<R: Send + 'static>(
        &mut self,
        thread: usize,
        at: usize,
        act: impl FnOnce(&mut Held) -> R + Send + 'static,
    ) -> R {
        let Handle { mut held, views } = self.handles.swap_remove(at);
        let (held, done) = self.threads.run(thread, move || {
            let done = act(&mut held);
            (held, done)
        });
        self.put_back(at, Handle { held, views });
        done
    }

    /// Puts back what was taken from place `at`.
    fn put_back(&mut self, at: usize, handle: Handle) {
        self.handles.push(handle);
        let last = self.handles.len() - 1;
        self.handles.swap(at, last);
    }

    /// What changes an skb's linear part.
    fn shape(&mut self, op: Op, at: usize, arg: usize) -> Told {
        let Held::Skb(skb) = &mut self.handles[at].held else {
            return Ok(Said::Nothing);
        };
        match op {
            Op::Put => write(skb.put(arg % 256)?, arg),
            Op::Push => write(skb.push(arg % 128)?, arg),
            Op::Pull => skb.pull(arg % 256).map(drop)?,
            _ => skb.reserve(arg % 128)?,
        }
        Ok(self.facts(at))
    }

    fn add_frag(&mut self, at: usize, arg: usize) -> Told {
        let from = arg % self.handles.len();
        let Ok([to, from]) = self.handles.get_disjoint_mut([at, from]) else {
            return Ok(Said::Nothing); // one handle is not both
        };
        let (Held::Skb(skb), Held::Frag { raw, .. }) = (&mut to.held, &from.held) else {
            return Ok(Said::Nothing);
        };
        // SAFETY: threads take turns; nobody writes while somebody reads.
        skb.add_frag_with(|| unsafe { Frag::from_raw(raw.share()) })?;
        Ok(self.facts(at))
    }

    /// The first handle from `at` on, around the end, that is a right one.
    fn nearest(&self, at: usize, is_right: impl Fn(usize, &Held) -> bool) -> Option<usize> {
        let mut turned = (at..self.handles.len()).chain(0..at);
        turned.find(|&at| is_right(at, &self.handles[at].held))
    }

    /// What becomes of whole packets.
    fn packet(&mut self, step: Step, at: usize) -> Told {
        let found = self.nearest(at, |_, held| match step.op {
            Op::BuildSkb => matches!(held, Held::Frag { .. }),
            _ => held.is_skb(),
        });
        let Some(at) = found else {
            return Ok(Said::Nothing);
        };
        match step.op {
            Op::BuildSkb => self.build_skb(at),
            Op::Linearize => self.linearize(step.thread, at),
            _ => self.coalesce(step.thread, at, step.arg),
        }
    }

    /// The binding's checks, in its order.
    fn build_skb(&mut self, at: usize) -> Told {
        let handle = &mut self.handles[at];
        let Held::Frag { raw, readonly } = &handle.held else {
            return Ok(Said::Nothing);
        };
        if raw.len() <= SKB_SHARED_INFO {
            return Err(Error::HeadTooSmall.into());
        }
        if *readonly {
            return Err(Said::Not("the fragment is read-only"));
        }
        if handle.views != 0 {
            return Err(VIEWED);
        }
        if !raw.is_unique() {
            return Err(Said::Not("the fragment shares its memory with another one"));
        }
        let Held::Frag { raw, .. } = self.handles.swap_remove(at).held else {
            unreachable!("looked at before");
        };
        // SAFETY: unique, as was looked up just now; threads take turns.
        let head = unsafe { FragMut::from_raw(raw) };
        let skb = SkBuff::build(head).map_err(|(error, _)| error)?;
        let (held, views) = (Held::Skb(skb), 0);
        self.put_back(at, Handle { held, views });
        Ok(self.facts(at))
    }

    /// With a head from the thread's cache of lines.
    fn linearize(&mut self, thread: usize, at: usize) -> Told {
        let cache = self.caches[0].clone();
        self.on_thread(thread, at, move |held| match held {
            Held::Skb(skb) => {
                skb.linearize_with(|size| cache.alloc(size))?;
                faults::wrote(skb.data());
                Ok::<_, Error>(())
            }
            _ => unreachable!("looked at before"),
        })?;
        Ok(self.facts(at))
    }

    fn coalesce(&mut self, thread: usize, at: usize, arg: usize) -> Told {
        let from = (arg >> 8) % self.handles.len();
        if from == at {
            return Err(ITSELF);
        }
        let Some(from) = self.nearest(from, |found, held| found != at && held.is_skb()) else {
            return Ok(Said::Nothing);
        };
        let Held::Skb(other) = self.handles.swap_remove(from).held else {
            unreachable!("looked at before");
        };
        // The last one has taken its place.
        let at = if at == self.handles.len() { from } else { at };
        let done = self.on_thread(thread, at, move |held| match held {
            Held::Skb(skb) => {
                let before = skb.truesize();
                let grown = skb.coalesce(other)?;
                assert_eq!(skb.truesize(), before + grown, "it grew as it said");
                faults::wrote(skb.data());
                Ok::<_, (Error, SkBuff)>(())
            }
            _ => unreachable!("looked at before"),
        });
        if let Err((error, other)) = done {
            let (held, views) = (Held::Skb(other), 0);
            self.put_back(from, Handle { held, views });
            return Err(Said::Apart(error));
        }
        Ok(self.facts(at))
    }

    fn clone_skb(&mut self, at: usize) -> Said {
        let Held::Skb(skb) = &mut self.handles[at].held else {
            return Said::Nothing;
        };
        let clone: SkBuff = skb.clone_skb();
        self.keep(Held::Skb(clone))
    }

    fn view(&mut self, at: usize, more: bool) -> Said {
        let handle = &mut self.handles[at];
        if matches!(handle.held, Held::Skb(_)) || (!more && handle.views == 0) {
            return Said::Nothing;
        }
        handle.views = if more {
            handle.views + 1
        } else {
            handle.views - 1
        };
        Said::Views(handle.views)
    }
}
