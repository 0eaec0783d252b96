//! The Python type `Fragment`: the table of its slots, methods and attributes.
//!
//! This file talks C for a fragment: each function here has the signature that the interpreter
//! wants, calls the safe one in `fragment.rs` that knows the rules, and hands back what that says.
//! What an object is made of is told in `object.rs`, which gets the finished type.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::attached::attached;
use crate::error::set;
use crate::made::guarded;
use crate::object::This;
use crate::{fragment, object, tracking};

unsafe extern "C" fn get_buffer(
    object: *mut ffi::PyObject,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> c_int {
    // SAFETY: the interpreter calls its slots attached, with an object of the slot's type.
    let this = unsafe { This::assume(object) };
    let refused = |error: PyErr| {
        set(error);
        // SAFETY: the caller's view, to be marked as empty on failure.
        unsafe { (*view).obj = null_mut() };
        -1
    };
    let inside = match fragment::enter(this) {
        Ok(inside) => inside,
        Err(error) => return refused(error),
    };
    let (memory, len) = (inside.as_ptr(), inside.len().cast_signed());
    let readonly = c_int::from(this.body.readonly);
    // SAFETY: the bytes live as long as `inside` is counted; the view takes a reference to the
    // object. Refuses a writable view of a read-only fragment by itself, with nothing taken.
    let done = unsafe { ffi::PyBuffer_FillInfo(view, object, memory.cast(), len, readonly, flags) };
    if done == 0 {
        if this.has_weak() {
            tracking::touched(this, &inside, "view");
        }
        inside.stay();
    }
    done
}

unsafe extern "C" fn release_buffer(object: *mut ffi::PyObject, _view: *mut ffi::Py_buffer) {
    // SAFETY: the object is alive: the view that goes now holds a reference.
    let body = unsafe { object::body(object) };
    // SAFETY: the interpreter releases each view once, and `get_buffer` stayed once for it.
    unsafe { body.gate.leave() };
}

/// What a slot hands back to the interpreter.
fn hand_back<'py>(
    py: Python<'py>,
    answer: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> *mut ffi::PyObject {
    match guarded(py, answer) {
        Ok(object) => object.into_ptr(),
        Err(error) => {
            set(error);
            null_mut()
        }
    }
}

/// The same for slots that return a number and -1 for an error.
fn hand_back_number(py: Python<'_>, answer: impl FnOnce() -> PyResult<isize>) -> isize {
    guarded(py, answer).unwrap_or_else(|error| {
        set(error);
        -1
    })
}

/// Wraps a safe function `fn(This) -> PyResult<Bound<PyAny>>` for C, with the unused arguments
/// that the slot or method kind passes besides.
macro_rules! plain {
    ($safe:path) => {
        plain!($safe, _unused: *mut ffi::PyObject)
    };
    ($safe:path, $($unused:ident: $type:ty),*) => {{
        unsafe extern "C" fn raw(object: *mut ffi::PyObject, $($unused: $type),*) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
            let this = unsafe { This::assume(object) };
            hand_back(this.py(), || $safe(this))
        }
        raw
    }};
}

/// Wraps a safe function `fn(This, &Bound<PyAny>) -> PyResult<Bound<PyAny>>` for C.
macro_rules! with_one {
    ($safe:path) => {{
        unsafe extern "C" fn raw(
            object: *mut ffi::PyObject,
            other: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
            let this = unsafe { This::assume(object) };
            // SAFETY: an argument that the caller keeps alive during the call.
            let other = unsafe { Borrowed::from_ptr(this.py(), other) };
            hand_back(this.py(), || $safe(this, &other))
        }
        raw
    }};
}

/// Wraps a safe function that takes positional and named arguments.
macro_rules! with_named {
    ($safe:path) => {{
        unsafe extern "C" fn raw(
            object: *mut ffi::PyObject,
            args: *mut ffi::PyObject,
            named: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
            let this = unsafe { This::assume(object) };
            // SAFETY: a tuple that the caller keeps alive during the call.
            let args = unsafe { Borrowed::from_ptr(this.py(), args) };
            // SAFETY: a dict that the caller keeps alive during the call, or null.
            let named = unsafe { Borrowed::from_ptr_or_opt(this.py(), named) };
            hand_back(this.py(), || $safe(this, &args, named.as_deref()))
        }
        raw
    }};
}

unsafe extern "C" fn length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
    let this = unsafe { This::assume(object) };
    hand_back_number(this.py(), || fragment::len(this))
}

unsafe extern "C" fn iter(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls attached, with a sequence that it keeps alive.
    unsafe { ffi::PySeqIter_New(object) }
}

unsafe extern "C" fn hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
    let this = unsafe { This::assume(object) };
    hand_back_number(this.py(), || fragment::hash(this))
}

unsafe extern "C" fn item(
    object: *mut ffi::PyObject,
    index: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
    let this = unsafe { This::assume(object) };
    hand_back(this.py(), || fragment::item(this, index))
}

unsafe extern "C" fn assign(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
    let this = unsafe { This::assume(object) };
    // SAFETY: an argument that the caller keeps alive during the call.
    let key = unsafe { Borrowed::from_ptr(this.py(), key) };
    // SAFETY: an argument that the caller keeps alive during the call; null means deletion.
    let value = unsafe { Borrowed::from_ptr_or_opt(this.py(), value) };
    match guarded(this.py(), || fragment::assign(this, &key, value.as_deref())) {
        Ok(()) => 0,
        Err(error) => {
            set(error);
            -1
        }
    }
}

unsafe extern "C" fn compare(
    object: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls attached, with an object of this type, kept alive.
    let this = unsafe { This::assume(object) };
    // SAFETY: an argument that the caller keeps alive during the call.
    let other = unsafe { Borrowed::from_ptr(this.py(), other) };
    let wanted = match op {
        ffi::Py_EQ => true,
        ffi::Py_NE => false,
        _ => {
            return this.py().NotImplemented().into_ptr();
        }
    };
    // In `PyO3`'s eyes, too: what is lent goes back at once.
    hand_back(this.py(), || {
        attached(|_| fragment::equals(this, &other, wanted))
    })
}

const fn method(
    name: &'static CStr,
    call: ffi::PyMethodDefPointer,
    flags: c_int,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: call,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// The table of methods, with the empty entry that ends it.
fn methods() -> Vec<ffi::PyMethodDef> {
    use ffi::PyMethodDefPointer as P;
    use fragment as f;
    let none = |name, call, doc| method(name, P { PyCFunction: call }, ffi::METH_NOARGS, doc);
    let one = |name, call, doc| method(name, P { PyCFunction: call }, ffi::METH_O, doc);
    let named = |name, call, doc| {
        method(
            name,
            P {
                PyCFunctionWithKeywords: call,
            },
            ffi::METH_VARARGS | ffi::METH_KEYWORDS,
            doc,
        )
    };
    vec![
        none(c"tobytes", plain!(f::tobytes), f::doc::TOBYTES),
        named(c"hex", with_named!(f::hex), f::doc::HEX),
        one(c"trim", with_one!(f::trim), f::doc::TRIM),
        none(c"toreadonly", plain!(f::toreadonly), f::doc::TOREADONLY),
        named(c"copy", with_named!(f::copy), f::doc::COPY),
        none(c"release", plain!(f::release), f::doc::RELEASE),
        one(c"__reduce_ex__", with_one!(f::reduce), f::doc::REDUCE),
        none(c"__copy__", plain!(f::shallow), f::doc::SHALLOW),
        one(c"__deepcopy__", with_one!(f::deep), f::doc::DEEP),
        none(c"__enter__", plain!(f::enter_with), f::doc::ENTER),
        named(c"__exit__", with_named!(f::exit_with), f::doc::EXIT),
        // From 3.12 on the interpreter adds it by itself.
        #[cfg(not(Py_3_12))]
        one(c"__buffer__", with_one!(f::buffer), f::doc::BUFFER),
        ffi::PyMethodDef::zeroed(),
    ]
}

fn getter(name: &'static CStr, get: ffi::getter, doc: &'static CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: doc.as_ptr(),
        closure: null_mut(),
    }
}

/// The table of attributes, with the empty entry that ends it.
fn attributes() -> Vec<ffi::PyGetSetDef> {
    use fragment as f;
    vec![
        getter(
            c"nbytes",
            plain!(f::nbytes, _closure: *mut c_void),
            f::doc::NBYTES,
        ),
        getter(
            c"capacity",
            plain!(f::capacity, _closure: *mut c_void),
            f::doc::CAPACITY,
        ),
        getter(
            c"page",
            plain!(f::page, _closure: *mut c_void),
            f::doc::PAGE,
        ),
        getter(
            c"offset",
            plain!(f::offset, _closure: *mut c_void),
            f::doc::OFFSET,
        ),
        getter(
            c"readonly",
            plain!(f::readonly, _closure: *mut c_void),
            f::doc::READONLY,
        ),
        getter(
            c"pinned_bytes",
            plain!(f::pinned_bytes, _closure: *mut c_void),
            f::doc::PINNED,
        ),
        ffi::PyGetSetDef::default(),
    ]
}

/// Where the interpreter keeps its list of weak references, with the empty entry that ends it.
fn members() -> PyResult<Vec<ffi::PyMemberDef>> {
    let weak = ffi::PyMemberDef {
        name: c"__weaklistoffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: object::WEAK.try_into()?,
        flags: ffi::Py_READONLY,
        doc: null(),
    };
    Ok(vec![weak, ffi::PyMemberDef::default()])
}

fn slot(slot: c_int, pfunc: *const c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot {
        slot,
        pfunc: pfunc.cast_mut(),
    }
}

/// Adds the type to the module. A second import makes a second module, and gets the same type: the
/// objects do not know through which of them they are used.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = module.py();
    let kind = TYPE.get_or_try_init(py, || create(py))?;
    // SAFETY: the lock holds one type for good; basic size and flags are in its spec, and the flags
    // neither ask for the collector nor allow subclasses; `dealloc` is in the slots.
    unsafe { object::adopt(kind) };
    module.add("Fragment", kind)
}

fn create(py: Python<'_>) -> PyResult<Py<PyType>> {
    // The type refers to them for good.
    let methods = Vec::leak(methods());
    let attributes = Vec::leak(attributes());
    let members = Vec::leak(members()?);
    let repr: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject =
        plain!(fragment::repr,);
    let subscript: ffi::binaryfunc = with_one!(fragment::subscript);
    let mut slots = [
        slot(ffi::Py_tp_doc, fragment::doc::CLASS.as_ptr().cast()),
        slot(ffi::Py_tp_dealloc, object::dealloc as *const c_void),
        slot(ffi::Py_tp_repr, repr as *const c_void),
        slot(ffi::Py_tp_iter, iter as *const c_void),
        slot(ffi::Py_tp_hash, hash as *const c_void),
        slot(ffi::Py_tp_richcompare, compare as *const c_void),
        slot(ffi::Py_tp_methods, methods.as_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes.as_ptr().cast()),
        slot(ffi::Py_tp_members, members.as_ptr().cast()),
        slot(ffi::Py_mp_length, length as *const c_void),
        slot(ffi::Py_mp_subscript, subscript as *const c_void),
        slot(ffi::Py_mp_ass_subscript, assign as *const c_void),
        slot(ffi::Py_sq_length, length as *const c_void),
        slot(ffi::Py_sq_item, item as *const c_void),
        slot(ffi::Py_bf_getbuffer, get_buffer as *const c_void),
        slot(ffi::Py_bf_releasebuffer, release_buffer as *const c_void),
        slot(0, null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_IMMUTABLETYPE
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let name: *const c_char = c"pagefrag.Fragment".as_ptr();
    let mut spec = ffi::PyType_Spec {
        name,
        basicsize: c_int::try_from(object::SIZE)?,
        itemsize: 0,
        flags: flags.try_into()?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the slots and the tables they name are complete, each function has the signature of
    // its slot, and the basic size is that of the object.
    let kind = unsafe { ffi::PyType_FromSpec(&raw mut spec) };
    // SAFETY: a new reference, or null with the error set.
    let kind = unsafe { Bound::from_owned_ptr_or_err(py, kind) }?;
    Ok(kind.cast_into::<PyType>()?.unbind())
}
