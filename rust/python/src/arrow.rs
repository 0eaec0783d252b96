//! Arrow's C data interface: the two structures, filled with memory of ours, and the capsules that
//! carry them.
//!
//! The structures are written by hand. The crates that know them bring Arrow's whole type system
//! (`arrow-schema` and `arrow-array` add half a megabyte to a wheel of which all is 1 MB at most),
//! and a producer of four columns needs two `repr(C)` structures and two functions.
//!
//! Each array, a child too, owns what it points to and can be released by itself, as the
//! interface demands: a consumer may move a child out of its parent. A release runs on whatever
//! thread the consumer likes and asks no interpreter for anything, unless the memory is that of a
//! Python object (see `Lent`).

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::loan::Keeper;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const NULLABLE: i64 = 2;

/// `struct ArrowSchema` of the specification.
#[repr(C)]
struct RawSchema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
    children: *mut *mut RawSchema,
    dictionary: *mut RawSchema,
    release: Option<unsafe extern "C" fn(*mut RawSchema)>,
    private_data: *mut c_void,
}

/// `struct ArrowArray` of the specification.
#[repr(C)]
struct RawArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut RawArray,
    dictionary: *mut RawArray,
    release: Option<unsafe extern "C" fn(*mut RawArray)>,
    private_data: *mut c_void,
}

/// What a column is called and what is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static CStr,
    /// In the specification's words: `vz`, `tsn:UTC`, ...
    pub(crate) format: &'static CStr,
    pub(crate) nullable: bool,
}

/// A column: buffers, in the order that its format has them.
pub(crate) struct Column {
    pub(crate) len: usize,
    pub(crate) nulls: usize,
    /// Null where the format allows a buffer to be missing. Valid as long as `keeper`.
    pub(crate) buffers: Vec<*const c_void>,
    pub(crate) keeper: Keeper,
}

/// What an exported array owns.
struct Owned {
    buffers: Vec<*const c_void>,
    children: Vec<*mut RawArray>,
    _keeper: Option<Keeper>,
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl RawSchema {
    /// The names are static, so that what a schema owns is its children only.
    fn of(field: Field, children: &[Field]) -> Self {
        let children: Box<[*mut Self]> = children
            .iter()
            .map(|child| Box::into_raw(Box::new(Self::of(*child, &[]))))
            .collect();
        let n_children = count(children.len());
        Self {
            format: field.format.as_ptr(),
            name: field.name.as_ptr(),
            metadata: null(),
            flags: if field.nullable { NULLABLE } else { 0 },
            n_children,
            // A fat pointer's length is `n_children`, and given back in `release_schema`.
            children: Box::into_raw(children).cast(),
            dictionary: null_mut(),
            release: Some(release_schema),
            private_data: null_mut(),
        }
    }
}

/// # Safety
/// - `schema` was made by `RawSchema::of`, moved or not, and is not released yet.
unsafe extern "C" fn release_schema(schema: *mut RawSchema) {
    // SAFETY: the contract: a whole structure that is the caller's.
    let schema = unsafe { &mut *schema };
    schema.release = None;
    let len = usize::try_from(schema.n_children).unwrap_or(0);
    let children = std::ptr::slice_from_raw_parts_mut(schema.children, len);
    // SAFETY: from `of`, with the length that it had; taken back once, as `release` is gone.
    let children = unsafe { Box::from_raw(children) };
    for child in children {
        // SAFETY: from `of`, a box of its own, and this is its only owner.
        drop(unsafe { Box::from_raw(child) });
    }
}

impl Drop for RawSchema {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: not released yet, and ours.
            unsafe { release(self) };
        }
    }
}

impl RawArray {
    fn of(len: usize, nulls: usize, mut owned: Box<Owned>) -> Self {
        Self {
            length: count(len),
            null_count: count(nulls),
            offset: 0,
            n_buffers: count(owned.buffers.len()),
            n_children: count(owned.children.len()),
            buffers: owned.buffers.as_mut_ptr(),
            children: owned.children.as_mut_ptr(),
            dictionary: null_mut(),
            release: Some(release_array),
            private_data: Box::into_raw(owned).cast(),
        }
    }

    fn column(column: Column) -> Self {
        let owned = Owned {
            buffers: column.buffers,
            children: Vec::new(),
            _keeper: Some(column.keeper),
        };
        Self::of(column.len, column.nulls, Box::new(owned))
    }
}

/// # Safety
/// - `array` was made by `RawArray::of`, moved or not, and is not released yet.
unsafe extern "C" fn release_array(array: *mut RawArray) {
    // SAFETY: the contract: a whole structure that is the caller's.
    let array = unsafe { &mut *array };
    array.release = None;
    // SAFETY: from `of`; taken back once, as `release` is gone.
    let owned = unsafe { Box::from_raw(array.private_data.cast::<Owned>()) };
    for child in owned.children {
        // SAFETY: from `of`, a box of its own. A consumer that moved its content away has marked
        // it as released, and the box is still ours.
        drop(unsafe { Box::from_raw(child) });
    }
}

impl Drop for RawArray {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: not released yet, and ours.
            unsafe { release(self) };
        }
    }
}

/// # Safety
/// - Called by the interpreter with a capsule from `schema_capsule`.
unsafe extern "C" fn forget_schema(capsule: *mut ffi::PyObject) {
    // SAFETY: attached, with a capsule of that name.
    let found = unsafe { ffi::PyCapsule_GetPointer(capsule, SCHEMA.as_ptr()) };
    if !found.is_null() {
        // SAFETY: the box that the capsule was made with; its destructor runs once.
        drop(unsafe { Box::from_raw(found.cast::<RawSchema>()) });
    }
}

/// # Safety
/// - Called by the interpreter with a capsule from `array_capsule`.
unsafe extern "C" fn forget_array(capsule: *mut ffi::PyObject) {
    // SAFETY: attached, with a capsule of that name.
    let found = unsafe { ffi::PyCapsule_GetPointer(capsule, ARRAY.as_ptr()) };
    if !found.is_null() {
        // SAFETY: the box that the capsule was made with; its destructor runs once.
        drop(unsafe { Box::from_raw(found.cast::<RawArray>()) });
    }
}

/// The schema of a structure of these columns.
pub(crate) fn schema_capsule<'py>(
    py: Python<'py>,
    fields: &[Field],
) -> PyResult<Bound<'py, PyAny>> {
    let whole = Field {
        name: c"",
        format: c"+s",
        nullable: false,
    };
    let schema = Box::into_raw(Box::new(RawSchema::of(whole, fields)));
    // SAFETY: attached; not null, a static name, a destructor for exactly this.
    let capsule =
        unsafe { ffi::PyCapsule_New(schema.cast(), SCHEMA.as_ptr(), Some(forget_schema)) };
    if capsule.is_null() {
        // SAFETY: nobody took it.
        drop(unsafe { Box::from_raw(schema) });
    }
    // SAFETY: a new reference, or null with the error set.
    unsafe { Bound::from_owned_ptr_or_err(py, capsule) }
}

/// A structure of these columns, all of them of `len` rows.
pub(crate) fn array_capsule(
    py: Python<'_>,
    len: usize,
    columns: Vec<Column>,
) -> PyResult<Bound<'_, PyAny>> {
    let children = columns.into_iter();
    let owned = Owned {
        // No row of the structure itself is null.
        buffers: vec![null()],
        children: children
            .map(|column| Box::into_raw(Box::new(RawArray::column(column))))
            .collect(),
        _keeper: None,
    };
    let array = Box::into_raw(Box::new(RawArray::of(len, 0, Box::new(owned))));
    // SAFETY: attached; not null, a static name, a destructor for exactly this.
    let capsule = unsafe { ffi::PyCapsule_New(array.cast(), ARRAY.as_ptr(), Some(forget_array)) };
    if capsule.is_null() {
        // SAFETY: nobody took it.
        drop(unsafe { Box::from_raw(array) });
    }
    // SAFETY: a new reference, or null with the error set.
    unsafe { Bound::from_owned_ptr_or_err(py, capsule) }
}

/// The format in which a schema that somebody asks for has the column `name`; `None` when it has
/// no such column. `TypeError` or `ValueError` for what is not a schema.
pub(crate) fn asked_format(asked: &Bound<'_, PyAny>, name: &CStr) -> PyResult<Option<Vec<u8>>> {
    // SAFETY: attached, with an object that lives; sets an error unless it is such a capsule.
    let schema = unsafe { ffi::PyCapsule_GetPointer(asked.as_ptr(), SCHEMA.as_ptr()) };
    if schema.is_null() {
        return Err(PyErr::fetch(asked.py()));
    }
    // SAFETY: what a capsule of that name points to, by the protocol; the caller keeps it.
    let schema = unsafe { &*schema.cast::<RawSchema>() };
    if schema.release.is_none() || schema.children.is_null() {
        return Ok(None);
    }
    let len = usize::try_from(schema.n_children).unwrap_or(0);
    // SAFETY: so many pointers, by the interface.
    let children = unsafe { std::slice::from_raw_parts(schema.children, len) };
    for child in children {
        // SAFETY: a schema, by the interface.
        let child = unsafe { &**child };
        if child.name.is_null() || child.format.is_null() {
            continue;
        }
        // SAFETY: a string, by the interface.
        let found = unsafe { CStr::from_ptr(child.name) };
        if found == name {
            // SAFETY: a string, by the interface.
            let format = unsafe { CStr::from_ptr(child.format) };
            return Ok(Some(format.to_bytes().to_vec()));
        }
    }
    Ok(None)
}
