//! What a `Fragment` can do: the rules of a Python buffer class, in the words of `memoryview`.
//!
//! Indexing, comparing and hashing follow `memoryview`; slicing gives a fragment that shares the
//! memory instead of a view that would cost the collector two objects; `release` refuses while
//! anybody looks. `fragment_type.rs` hangs these functions into the type's slots.

pub(crate) mod doc;

use std::ptr;

use pagefrag::RawFrag;
use pyo3::exceptions::{PyException, PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyMemoryView, PySlice, PyTuple};

use crate::attached::attached;
use crate::buffer::Lent;
use crate::cache::PageFragCache;
use crate::error::{forget, from_gate, kind, value};
use crate::gate::Inside;
use crate::made::{self, number, text};
use crate::memory::Memory;
use crate::object::{This, make, make_with};
use crate::{args, home, object, pickle, siblings, tracking};

type Answer<'py> = PyResult<Bound<'py, PyAny>>;

/// Goes in to look; `ValueError` after release.
pub(crate) fn enter<'a>(this: This<'a, '_>) -> PyResult<Inside<'a, Memory>> {
    this.body
        .gate
        .enter()
        .map_err(|refusal| from_gate(refusal, "fragment"))
}

/// A `Fragment` that is counted as looked at for as long as this lives, as by a buffer view.
#[derive(Debug)]
pub(crate) struct KeptFragment(Py<PyAny>);

impl KeptFragment {
    /// Keeps the fragment; and where its bytes are.
    pub(crate) fn of(this: This<'_, '_>) -> PyResult<(Self, *const [u8])> {
        let inside = enter(this)?;
        let bytes = ptr::slice_from_raw_parts(inside.as_ptr().cast_const(), inside.len());
        inside.stay();
        Ok((Self(this.object.to_owned().unbind()), bytes))
    }
}

impl Drop for KeptFragment {
    fn drop(&mut self) {
        // SAFETY: `of` was given a `Fragment`, and this holds a reference to it.
        let body = unsafe { object::body(self.0.as_ptr()) };
        // SAFETY: `of` stayed once, and this is dropped once.
        unsafe { body.gate.leave() };
    }
}

/// Takes the memory out for another owner: not while views exist, not while others share it.
/// The object is released by it.
pub(crate) fn take_unique(this: This<'_, '_>) -> PyResult<RawFrag> {
    if this.body.readonly {
        return Err(kind("the fragment is read-only"));
    }
    page_frag(&*enter(this)?)?;
    let taken = this.body.gate.take_if(Memory::is_own);
    taken
        .map_err(|refusal| from_gate(refusal, "fragment"))?
        .and_then(Memory::into_page_frag)
        .ok_or_else(|| value("the fragment shares its memory with another one"))
}

/// The lines of a page that a fragment is; `ValueError` for one that came out of a pickle.
pub(crate) fn page_frag(memory: &Memory) -> PyResult<&RawFrag> {
    memory
        .page_frag()
        .ok_or_else(|| value("the fragment's bytes are another object's: take a copy() of it"))
}

fn truth(py: Python<'_>, truth: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, truth).to_owned().into_any()
}

pub(crate) fn nbytes<'py>(this: This<'_, 'py>) -> Answer<'py> {
    number(this.py(), enter(this)?.len())
}

pub(crate) fn capacity<'py>(this: This<'_, 'py>) -> Answer<'py> {
    number(this.py(), enter(this)?.capacity())
}

pub(crate) fn page<'py>(this: This<'_, 'py>) -> Answer<'py> {
    number(this.py(), enter(this)?.page())
}

pub(crate) fn offset<'py>(this: This<'_, 'py>) -> Answer<'py> {
    number(this.py(), enter(this)?.offset())
}

pub(crate) fn pinned_bytes<'py>(this: This<'_, 'py>) -> Answer<'py> {
    number(this.py(), enter(this)?.pinned_bytes())
}

pub(crate) fn readonly<'py>(this: This<'_, 'py>) -> Answer<'py> {
    enter(this)?;
    Ok(truth(this.py(), this.body.readonly))
}

pub(crate) fn len(this: This<'_, '_>) -> PyResult<isize> {
    Ok(enter(this)?.len().cast_signed())
}

/// Also of a released fragment, so that a debugger can always print.
pub(crate) fn repr<'py>(this: This<'_, 'py>) -> Answer<'py> {
    let described = match this.body.gate.enter() {
        Err(_) => "<Fragment released>".to_owned(),
        Ok(raw) => format!(
            "<Fragment len={} cap={} page={:#x}+{} exports={} {}>",
            raw.len(),
            raw.capacity(),
            raw.page(),
            raw.offset(),
            this.body.gate.inside().saturating_sub(1),
            if this.body.readonly { "ro" } else { "rw" },
        ),
    };
    text(this.py(), &described)
}

fn bytes<'py>(py: Python<'py>, raw: &Memory) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the fragment's bytes, alive while `raw` is borrowed.
    unsafe { made::bytes(py, raw.as_ptr(), raw.len()) }
}

pub(crate) fn tobytes<'py>(this: This<'_, 'py>) -> Answer<'py> {
    let inside = enter(this)?;
    if this.has_weak() {
        tracking::touched(this, &inside, "tobytes");
    }
    Ok(bytes(this.py(), &inside)?.into_any())
}

pub(crate) fn hex<'py>(
    this: This<'_, 'py>,
    args: &Bound<'py, PyAny>,
    named: Option<&Bound<'py, PyAny>>,
) -> Answer<'py> {
    let named = named.map(|named| named.cast::<PyDict>()).transpose()?;
    tobytes(this)?.call_method("hex", args.cast::<PyTuple>()?, named)
}

pub(crate) fn hash(this: This<'_, '_>) -> PyResult<isize> {
    let inside = enter(this)?;
    if !this.body.readonly {
        return Err(PyValueError::new_err("cannot hash writable fragment"));
    }
    bytes(this.py(), &inside)?.hash()
}

/// `==` (or `!=` when not `wanted`).
pub(crate) fn equals<'py>(
    this: This<'_, 'py>,
    other: &Bound<'py, PyAny>,
    wanted: bool,
) -> Answer<'py> {
    let py = this.py();
    // Inside from here on, so that the other object's code cannot release what we compare.
    let Ok(inside) = this.body.gate.enter() else {
        return Ok(truth(py, this.object.is(other) == wanted));
    };
    let lent = match Lent::by(other) {
        Ok(lent) => lent,
        // Not a buffer, or one that refuses: the other side may know better.
        Err(error) if error.is_instance_of::<PyException>(py) => {
            forget(error);
            return Ok(py.NotImplemented().into_bound(py));
        }
        Err(error) => return Err(error),
    };
    match lent {
        Some(lent) if lent.is_unsigned() => {
            // SAFETY: compared only if there are `len()` bytes in the fragment.
            let same = lent.len() == inside.len() && unsafe { lent.equals(inside.as_ptr()) };
            Ok(truth(py, same == wanted))
        }
        // Other formats and shapes: memoryview knows the rules, between two of its kind.
        _ => {
            let same = PyMemoryView::from(&this.object)?.eq(PyMemoryView::from(other)?)?;
            Ok(truth(py, same == wanted))
        }
    }
}

/// Where `index` points in `len` bytes, counted from the end when negative.
fn place(index: isize, len: usize) -> PyResult<usize> {
    let from_start = if index < 0 {
        index + len.cast_signed()
    } else {
        index
    };
    usize::try_from(from_start)
        .ok()
        .filter(|place| *place < len)
        .ok_or_else(|| PyIndexError::new_err("index out of bounds"))
}

/// A key that is not a slice as a number; what does not fit a machine word is out of bounds.
fn index(key: &Bound<'_, PyAny>) -> PyResult<isize> {
    key.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(key.py()) {
            forget(error);
            PyIndexError::new_err("index out of bounds")
        } else {
            error
        }
    })
}

/// Start and length of a slice of `len` bytes; steps other than 1 have no memory to share.
fn span(key: &Bound<'_, PySlice>, len: usize) -> PyResult<(usize, usize)> {
    let found = key.indices(len.cast_signed())?;
    if found.step != 1 {
        return Err(PyValueError::new_err(
            "a fragment can be sliced with step 1 only",
        ));
    }
    Ok((found.start.unsigned_abs(), found.slicelength))
}

/// The byte at `index`, which the interpreter has counted from the start already.
pub(crate) fn item<'py>(this: This<'_, 'py>, index: isize) -> Answer<'py> {
    let inside = enter(this)?;
    // Below 0 it still is when there are not so many bytes: that is not to be counted again.
    if index < 0 {
        return Err(PyIndexError::new_err("index out of bounds"));
    }
    let place = place(index, inside.len())?;
    // SAFETY: `place` is below the length.
    let byte = unsafe { inside.as_ptr().add(place) };
    // SAFETY: a byte of a fragment that stays while we are inside. Volatile, because a thread
    // without the interpreter may be writing: the value is then either, never undefined.
    number(this.py(), usize::from(unsafe { byte.read_volatile() }))
}

pub(crate) fn subscript<'py>(this: This<'_, 'py>, key: &Bound<'py, PyAny>) -> Answer<'py> {
    let Ok(key) = key.cast::<PySlice>() else {
        let index = index(key)?;
        return item(this, place(index, enter(this)?.len())?.cast_signed());
    };
    let inside = enter(this)?;
    let (start, len) = span(key, inside.len())?;
    let part = || {
        let mut part = inside.share();
        part.narrow(start, len);
        part
    };
    let made = make_with(this.py(), part, this.body.readonly)?;
    Ok(followed(this, &inside, made, "slice"))
}

/// A fragment that shares the memory of this one, and is known to do so if this one is tracked.
fn followed<'py>(
    this: This<'_, 'py>,
    memory: &Memory,
    made: Bound<'py, PyAny>,
    how: &'static str,
) -> Bound<'py, PyAny> {
    if this.has_weak() {
        tracking::shared(this, memory, &made, how);
    }
    made
}

fn writable<'a>(this: This<'a, '_>) -> PyResult<Inside<'a, Memory>> {
    let inside = enter(this)?;
    if this.body.readonly {
        return Err(PyTypeError::new_err("cannot modify read-only fragment"));
    }
    Ok(inside)
}

/// `fragment[key] = value`; no value means `del`.
pub(crate) fn assign(
    this: This<'_, '_>,
    key: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    drop(writable(this)?);
    let value = value.ok_or_else(|| PyTypeError::new_err("cannot delete memory"))?;
    match key.cast::<PySlice>() {
        // In `PyO3`'s eyes, too: what is lent goes back at once.
        Ok(key) => attached(|_| assign_slice(this, key, value)),
        Err(_) => assign_item(this, index(key)?, value),
    }
}

fn assign_item(this: This<'_, '_>, index: isize, value: &Bound<'_, PyAny>) -> PyResult<()> {
    // As memoryview does: where before what. Looked up again below, as reading the value may run
    // code that releases or trims.
    place(index, writable(this)?.len())?;
    let value: u8 = value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            forget(error);
            PyValueError::new_err("byte must be in range(0, 256)")
        } else {
            error
        }
    })?;
    let inside = writable(this)?;
    let place = place(index, inside.len())?;
    // SAFETY: `place` is below the length.
    let byte = unsafe { inside.as_ptr().add(place) };
    // SAFETY: a byte of a writable fragment that stays while we are inside.
    unsafe { byte.write_volatile(value) };
    Ok(())
}

fn assign_slice(
    this: This<'_, '_>,
    key: &Bound<'_, PySlice>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let value = Lent::or_copied(value)?;
    let inside = writable(this)?;
    let (start, len) = span(key, inside.len())?;
    if value.len() != len {
        let found = value.len();
        return Err(PyValueError::new_err(format!(
            "cannot assign {found} bytes to a slice of {len}"
        )));
    }
    // SAFETY: a slice of `inside.len()` bytes lies within them.
    let target = unsafe { inside.as_ptr().add(start) };
    // SAFETY: `len` bytes of a writable fragment that stays while we are inside.
    unsafe { value.copy_to(target) };
    Ok(())
}

/// Keeps the first bytes; what is behind them is free again at once, unless somebody shares it.
pub(crate) fn trim<'py>(this: This<'_, 'py>, keep: &Bound<'py, PyAny>) -> Answer<'py> {
    let keep = args::whole(keep, "n")?;
    let trimmed = this.body.gate.alter(|raw| {
        let enough = keep <= raw.len();
        if enough {
            raw.shrink_to(keep);
        }
        enough
    });
    if trimmed.map_err(|refusal| from_gate(refusal, "fragment"))? {
        Ok(this.object.to_owned())
    } else {
        Err(PyValueError::new_err(
            "the fragment holds fewer bytes than that",
        ))
    }
}

pub(crate) fn toreadonly<'py>(this: This<'_, 'py>) -> Answer<'py> {
    let inside = enter(this)?;
    let made = make_with(this.py(), || inside.share(), true)?;
    Ok(followed(this, &inside, made, "toreadonly"))
}

/// The same bytes in memory of their own.
pub(crate) fn copy<'py>(
    this: This<'_, 'py>,
    args: &Bound<'py, PyAny>,
    named: Option<&Bound<'py, PyAny>>,
) -> Answer<'py> {
    let cache = home::asked_for(args, named)?;
    copied(this, cache.as_ref(), false)
}

fn copied<'py>(
    this: This<'_, 'py>,
    cache: Option<&Bound<'py, PageFragCache>>,
    readonly: bool,
) -> Answer<'py> {
    let inside = enter(this)?;
    let size = inside.len().max(1);
    let beside = match (cache, inside.page_frag()) {
        (None, Some(original)) => siblings::alloc(this.py(), original, size)?,
        _ => None,
    };
    let copy = beside.map_or_else(|| home::alloc(this.py(), cache, size), Ok);
    let mut copy = copy?.into_raw();
    // SAFETY: both have that many bytes, and the copy is fresh, so they do not overlap.
    unsafe {
        inside
            .as_ptr()
            .copy_to_nonoverlapping(copy.as_ptr(), inside.len());
    };
    if inside.is_empty() {
        copy.narrow(0, 0);
    }
    let made = make(this.py(), copy, readonly)?;
    let sampler = cache.and_then(|cache| cache.get().sampler());
    Ok(tracking::made(made, sampler.as_deref()))
}

/// What a pickle has of it: version, bytes, whether it is read-only.
pub(crate) fn reduce<'py>(this: This<'_, 'py>, protocol: &Bound<'py, PyAny>) -> Answer<'py> {
    let (py, readonly) = (this.py(), this.body.readonly);
    // Before anything is imported.
    enter(this)?;
    let bytes = pickle::carried(&this.object, readonly, protocol.extract()?)?;
    let restorer = pickle::restorer(py, "_restore_fragment")?;
    let reduced = (restorer, (pickle::VERSION, bytes, readonly));
    Ok(reduced.into_pyobject(py)?.into_any())
}

/// `copy.copy`: another fragment of the same memory.
pub(crate) fn shallow<'py>(this: This<'_, 'py>) -> Answer<'py> {
    let inside = enter(this)?;
    let made = make_with(this.py(), || inside.share(), this.body.readonly)?;
    Ok(followed(this, &inside, made, "copy"))
}

/// `copy.deepcopy`: the same bytes in memory of their own, read-only if this one is.
pub(crate) fn deep<'py>(this: This<'_, 'py>, _memo: &Bound<'py, PyAny>) -> Answer<'py> {
    copied(this, None, this.body.readonly)
}

/// Gives the memory back; again does nothing; `BufferError` while views exist.
pub(crate) fn release<'py>(this: This<'_, 'py>) -> Answer<'py> {
    use crate::gate::Refusal;
    match this.body.gate.take() {
        // Dropped here, after the gate is shut: the memory is free again.
        Ok(_) | Err(Refusal::Shut) => Ok(this.py().None().into_bound(this.py())),
        Err(refusal) => Err(from_gate(refusal, "fragment")),
    }
}

/// PEP 688 for the one interpreter that has the typing of it but not the method.
#[cfg(not(Py_3_12))]
pub(crate) fn buffer<'py>(this: This<'_, 'py>, flags: &Bound<'py, PyAny>) -> Answer<'py> {
    crate::buffer::view(&this.object, flags)
}

pub(crate) fn enter_with<'py>(this: This<'_, 'py>) -> Answer<'py> {
    enter(this)?;
    Ok(this.object.to_owned())
}

pub(crate) fn exit_with<'py>(
    this: This<'_, 'py>,
    _args: &Bound<'py, PyAny>,
    _named: Option<&Bound<'py, PyAny>>,
) -> Answer<'py> {
    release(this)
}
