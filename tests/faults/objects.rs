//! Memory of Python's objects that is refused on request.
//!
//! The first request puts us before the interpreter's allocators, in all three of its domains, for
//! good. From a request to its end the calls of the thread that made it are counted, and the n-th is
//! refused, once or from then on; other threads and other times are let through.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

/// `PyMemAllocatorEx`.
#[repr(C)]
struct Allocator {
    context: *mut c_void,
    malloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: extern "C" fn(*mut c_void, *mut c_void),
}

/// What a thread has asked for.
#[derive(Clone, Copy)]
struct Request {
    first: u64,
    lasts: bool,
    calls: u64,
    refused: u64,
}

thread_local! {
    static REQUEST: Cell<Option<Request>> = const { Cell::new(None) };
}

/// From here on the calling thread's call number `first` for an object's memory is refused, and all
/// later ones if `lasts` is not 0. Returns 0, or -1 in a program without Python.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pagefrag_starve(first: u64, lasts: c_int) -> c_int {
    static FOUND: OnceLock<bool> = OnceLock::new();
    if !*FOUND.get_or_init(stand_between) {
        return -1;
    }
    REQUEST.set(Some(Request {
        first,
        lasts: lasts != 0,
        calls: 0,
        refused: 0,
    }));
    0
}

/// Ends the calling thread's request; returns how many calls were refused.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pagefrag_fed() -> u64 {
    REQUEST.take().map_or(0, |request| request.refused)
}

fn is_refused() -> bool {
    let Some(mut request) = REQUEST.get() else {
        return false;
    };
    let call = request.calls;
    let refused = call == request.first || (call > request.first && request.lasts);
    request.calls += 1;
    request.refused += u64::from(refused);
    REQUEST.set(Some(request));
    refused
}

/// A function of the interpreter that this program is.
fn named(name: &CStr) -> Option<extern "C" fn(c_int, *mut Allocator)> {
    // SAFETY: a name that ends in a zero, looked up in what is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: both functions that are asked for have this type, and null is none.
    unsafe { std::mem::transmute(found) }
}

/// Puts us before the allocators of each domain. False without an interpreter.
fn stand_between() -> bool {
    let both = named(c"PyMem_GetAllocator").zip(named(c"PyMem_SetAllocator"));
    let Some((get, set)) = both else {
        return false;
    };
    for domain in 0..3 {
        let theirs = Box::leak(Box::new(Allocator {
            context: std::ptr::null_mut(),
            malloc,
            calloc,
            realloc,
            free,
        }));
        get(domain, theirs);
        let mut ours = Allocator {
            context: std::ptr::from_mut(theirs).cast(),
            malloc,
            calloc,
            realloc,
            free,
        };
        // Copied by the interpreter.
        set(domain, &raw mut ours);
    }
    true
}

fn theirs(context: *mut c_void) -> &'static Allocator {
    // SAFETY: the context that `stand_between` gave, which lives for ever and does not change.
    unsafe { &*context.cast::<Allocator>() }
}

extern "C" fn malloc(context: *mut c_void, size: usize) -> *mut c_void {
    if is_refused() {
        return std::ptr::null_mut();
    }
    let theirs = theirs(context);
    (theirs.malloc)(theirs.context, size)
}

extern "C" fn calloc(context: *mut c_void, count: usize, size: usize) -> *mut c_void {
    if is_refused() {
        return std::ptr::null_mut();
    }
    let theirs = theirs(context);
    (theirs.calloc)(theirs.context, count, size)
}

extern "C" fn realloc(context: *mut c_void, old: *mut c_void, size: usize) -> *mut c_void {
    if is_refused() {
        return std::ptr::null_mut();
    }
    let theirs = theirs(context);
    (theirs.realloc)(theirs.context, old, size)
}

extern "C" fn free(context: *mut c_void, memory: *mut c_void) {
    let theirs = theirs(context);
    (theirs.free)(theirs.context, memory);
}
