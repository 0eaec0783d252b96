//! Who holds what: one allocation in so many, with the Python stack that made it, and everybody who
//! has shared it since.
//!
//! Only what Python does is seen: objects that share a fragment's memory (fragments, and the `SkBuff`s
//! they went into), and who last asked one of them for a view or a share, or gave it to a ring to send. A record knows its holders by weak references and so keeps nothing
//! alive; it is over when no holder is left that is open. That is found out when somebody asks, so a
//! fragment's end costs what it costs with a weak reference, and no more.
//!
//! A fragment of an untracked allocation is told from others by having no weak reference at all, which
//! is one load; nothing is looked up for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyWeakrefMethods, PyWeakrefReference};

use crate::attached::attached;
use crate::error::forget;
use crate::made::{self, guarded};
use crate::memory::Memory;
use crate::object::This;
use crate::stack::Stack;
use crate::ticks::Ticks;

/// What samples the allocations of one pool that are no `alloc`s of a `PageFragCache`: packets,
/// reservations, and what the contexts give.
#[derive(Debug)]
pub(crate) struct Sampler {
    ticks: Ticks,
    pool: usize,
}

impl Sampler {
    /// One in `every` of the pool with this number; `None` for 0.
    pub(crate) fn of(every: u32, pool: usize) -> Option<Arc<Self>> {
        let ticks = Ticks::of(every);
        (every != 0).then(|| Arc::new(Self { ticks, pool }))
    }

    /// Counts a fragment that was made, and notes it if it is the one.
    pub(crate) fn made(&self, object: &Bound<'_, PyAny>, how: &'static str) {
        if self.ticks.tick(object.py()) {
            born(object, self.pool, how);
        }
    }

    /// Counts what is no fragment: the number of the pool, for [`born_as`], if it is the one.
    pub(crate) fn counted(&self, py: Python<'_>) -> Option<usize> {
        self.ticks.tick(py).then_some(self.pool)
    }
}

/// What was just allocated, and counted if the pool is tracked.
pub(crate) fn made<'py>(object: Bound<'py, PyAny>, sampler: Option<&Sampler>) -> Bound<'py, PyAny> {
    if let Some(sampler) = sampler {
        sampler.made(&object, "alloc");
    }
    object
}

/// Asks an object whether it holds memory in this range of addresses, and how many views of it
/// there are then.
pub(crate) type Holds = fn(&Bound<'_, PyAny>, &Range<usize>) -> Option<usize>;

/// As [`Holds`] of a fragment: it holds what it was seen to hold, until it is released.
fn fragment_holds(object: &Bound<'_, PyAny>, _memory: &Range<usize>) -> Option<usize> {
    let gate = &This::of(object)?.body.gate;
    let inside = gate.enter().ok()?;
    drop(inside);
    Some(gate.inside())
}

/// An object that shares the memory of an allocation.
struct Holder {
    /// A weak reference without a callback: an object has one of these at most.
    object: Py<PyWeakrefReference>,
    how: &'static str,
    /// `None`: that of the record.
    stack: Option<Stack>,
    holds: Holds,
}

/// Who was heard of last stands last.
struct Holders {
    /// The object that was made with the memory, until it is heard of again. Beside the others, so
    /// that most records need no list.
    origin: Option<Holder>,
    others: Vec<Holder>,
}

impl Holders {
    fn iter(&self) -> impl Iterator<Item = &Holder> {
        self.origin.iter().chain(&self.others)
    }

    fn has(&self, object: &Py<PyWeakrefReference>) -> bool {
        self.iter().any(|one| one.object.is(object))
    }

    /// Takes out what is known of the object.
    fn take(&mut self, object: &Py<PyWeakrefReference>) -> Option<Holder> {
        let is_it = |one: &mut Holder| one.object.is(object);
        let origin = self.origin.take_if(is_it);
        origin.or_else(|| self.others.extract_if(.., is_it).next())
    }
}

/// An allocation.
struct Record {
    pool: usize,
    /// Bytes that were asked for.
    size: usize,
    memory: Range<usize>,
    born: Instant,
    stack: Stack,
    /// Locked only while attached, alone or behind `RECORDS`; nothing is dropped or called under it.
    holders: Mutex<Holders>,
}

/// The records by the address of their first byte. Locked only while attached; nothing is dropped or
/// called under it.
static RECORDS: Mutex<BTreeMap<usize, Arc<Record>>> = Mutex::new(BTreeMap::new());

/// Records at which those that are over are looked for: twice as many as were left the last time.
static ENOUGH: AtomicUsize = AtomicUsize::new(FEW);
const FEW: usize = 1024;

fn records() -> MutexGuard<'static, BTreeMap<usize, Arc<Record>>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The holders that are open, the last one last.
    fn open<'py>(&self, py: Python<'py>) -> Vec<Open<'py>> {
        let all: Vec<_> = self
            .holders()
            .iter()
            .map(|holder| {
                let object = holder.object.clone_ref(py);
                let stack = holder.stack.as_ref().unwrap_or(&self.stack);
                (object, holder.how, stack.clone_ref(py), holder.holds)
            })
            .collect();
        all.into_iter()
            .filter_map(|(object, how, stack, holds)| {
                let object = object.bind(py).upgrade()?;
                let views = holds(&object, &self.memory)?;
                Some(Open {
                    object,
                    how,
                    stack,
                    views,
                })
            })
            .collect()
    }
}

/// A holder that was open a moment ago.
struct Open<'py> {
    object: Bound<'py, PyAny>,
    how: &'static str,
    stack: Stack,
    views: usize,
}

impl<'py> Open<'py> {
    /// Kind, how it came to hold, where, and how many views of it there are.
    fn told(&self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.object.py();
        let kind = self.object.get_type().name()?;
        let views = made::number(py, self.views)?;
        let how = made::text(py, self.how)?;
        let stack = self.stack.told(py)?.into_any();
        Ok(made::tuple(py, vec![kind.into_any(), how, stack, views])?.into_any())
    }
}

/// Runs what may fail for lack of memory: then there is no record, and the allocation is as it was.
fn quietly(note: impl FnOnce(Python<'_>) -> PyResult<()>) {
    attached(|py| {
        if let Err(error) = guarded(py, || note(py)) {
            forget(error);
        }
    });
}

/// The object's weak reference without a callback: the same one each time, as long as it lives.
fn weak(object: &Bound<'_, PyAny>) -> PyResult<Py<PyWeakrefReference>> {
    PyWeakrefReference::new(object).map(Bound::unbind)
}

/// Notes an allocation of the pool with this number, which `object`, a `Fragment`, holds alone.
#[cold]
pub(crate) fn born(object: &Bound<'_, PyAny>, pool: usize, how: &'static str) {
    let Some(inside) = This::cast(object)
        .ok()
        .and_then(|this| this.body.gate.enter().ok())
    else {
        return;
    };
    let (first, size) = (inside.as_ptr().addr(), inside.len());
    drop(inside);
    born_as(
        (object, fragment_holds),
        pool,
        first..first + size,
        size,
        how,
    );
}

/// Notes that `size` bytes were asked for, that this `memory` of the pool with this number was
/// given, and that the object holds it alone.
#[cold]
pub(crate) fn born_as(
    (object, holds): (&Bound<'_, PyAny>, Holds),
    pool: usize,
    memory: Range<usize>,
    size: usize,
    how: &'static str,
) {
    quietly(|py| {
        let holder = Holder {
            object: weak(object)?,
            how,
            stack: None,
            holds,
        };
        let first = memory.start;
        let record = Record {
            pool,
            size,
            memory,
            born: Instant::now(),
            stack: Stack::here(py),
            holders: Mutex::new(Holders {
                origin: Some(holder),
                others: Vec::new(),
            }),
        };
        let mut records = records();
        let over = records.insert(first, Arc::new(record));
        let many = records.len();
        drop(records);
        drop(over);
        // Relaxed: a number to compare with.
        if many > ENOUGH.load(Ordering::Relaxed) {
            let left = sweep(py, |_| true).len();
            ENOUGH.store(FEW.max(2 * left), Ordering::Relaxed);
        }
        Ok(())
    });
}

/// The record of the memory at `place`, if `holder` is known to hold it. Those of its earlier lives,
/// which may begin nearer, know other holders.
fn known(place: usize, holder: &Py<PyWeakrefReference>) -> Option<Arc<Record>> {
    let records = records();
    let near = records.range(place.saturating_sub(pagefrag::MAX_PAGE)..=place);
    let mut there = near.rev().map(|(_, record)| record);
    // No bytes at all are one place, too.
    let is_it = |record: &&Arc<Record>| {
        let is_in = place == record.memory.start || record.memory.contains(&place);
        is_in && record.holders().has(holder)
    };
    there.find(is_it).map(Arc::clone)
}

/// Notes that `this`, which has weak references, was looked at for longer than a moment.
#[cold]
pub(crate) fn touched(this: This<'_, '_>, memory: &Memory, how: &'static str) {
    let place = memory.as_ptr().addr();
    touched_as((&this.object, fragment_holds), place, how);
}

/// Notes that a ring holds `this`, which has weak references and memory at `place`, until it is sent.
#[cold]
pub(crate) fn sent(this: This<'_, '_>, place: usize) {
    touched_as((&this.object, fragment_holds), place, "send");
}

/// Notes that the object was looked at, which may hold the tracked memory at `place`.
#[cold]
pub(crate) fn touched_as(
    (object, holds): (&Bound<'_, PyAny>, Holds),
    place: usize,
    how: &'static str,
) {
    shared_as(object, place, (object, holds), how);
}

/// Notes that `child` shares the `memory` of `this`, which has weak references.
#[cold]
pub(crate) fn shared(
    this: This<'_, '_>,
    memory: &Memory,
    child: &Bound<'_, PyAny>,
    how: &'static str,
) {
    let place = memory.as_ptr().addr();
    shared_as(&this.object, place, (child, fragment_holds), how);
}

/// Notes that `child`, a `Fragment`, was made of what `parent` holds.
pub(crate) fn shared_by(parent: &Bound<'_, PyAny>, child: &Bound<'_, PyAny>, how: &'static str) {
    let Some(place) = This::cast(child)
        .ok()
        .and_then(|this| this.body.gate.enter().ok())
        .map(|inside| inside.as_ptr().addr())
    else {
        return;
    };
    shared_as(parent, place, (child, fragment_holds), how);
}

/// Notes that `child` holds what `parent` holds or has held at `place`, if that is tracked; whether
/// it is.
#[cold]
pub(crate) fn shared_as(
    parent: &Bound<'_, PyAny>,
    place: usize,
    (child, holds): (&Bound<'_, PyAny>, Holds),
    how: &'static str,
) -> bool {
    let mut is_known = false;
    quietly(|py| {
        let Some(record) = known(place, &weak(parent)?) else {
            return Ok(());
        };
        is_known = true;
        let object = weak(child)?;
        let stack = Some(Stack::here(py));
        let mut holders = record.holders();
        let before = holders.take(&object);
        holders.others.push(Holder {
            object,
            how,
            stack,
            holds,
        });
        drop(holders);
        drop(before);
        Ok(())
    });
    is_known
}

/// The records that are asked for and not over, oldest first, with their holders. Those that are
/// over are forgotten.
fn sweep(py: Python<'_>, asked: impl Fn(&Record) -> bool) -> Vec<(Arc<Record>, Vec<Open<'_>>)> {
    let all: Vec<_> = records()
        .iter()
        .filter(|(_, record)| asked(record))
        .map(|(first, record)| (*first, Arc::clone(record)))
        .collect();
    let mut open = Vec::with_capacity(all.len());
    for (first, record) in all {
        let holders = record.open(py);
        if !holders.is_empty() {
            open.push((record, holders));
            continue;
        }
        let mut records = records();
        // Its memory may have been tracked again meanwhile.
        let same = |now: &Arc<Record>| Arc::ptr_eq(now, &record);
        let over = records
            .get(&first)
            .is_some_and(same)
            .then(|| records.remove(&first));
        drop(records);
        drop(over);
    }
    open.sort_by_key(|(record, _)| record.born);
    open
}

/// What is held of the pool with this number: a list of `TrackedFragment`s, oldest first.
pub(crate) fn told(py: Python<'_>, pool: usize) -> PyResult<Bound<'_, PyList>> {
    let open = sweep(py, |record| record.pool == pool);
    let now = Instant::now();
    let told = open.iter().map(|(record, holders)| {
        let holders: PyResult<Vec<_>> = holders.iter().map(Open::told).collect();
        let holders = made::list(py, holders?)?;
        let age = now.saturating_duration_since(record.born).as_secs_f64();
        let told = record.stack.told(py)?;
        let all = (record.size, age, told, holders);
        made::called(py, ("pagefrag._tracking", "tracked"), all)
    });
    made::list(py, told.collect::<PyResult<_>>()?)
}
