//! What the preloaded library (`tests/faults`) is told: the plan of a trace, and what it writes.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

type Set = extern "C" fn(u32) -> u32;
type Wrote = extern "C" fn(*const c_void, usize);

/// The library's functions, if it is preloaded.
fn library() -> Option<(Set, Wrote)> {
    static FOUND: OnceLock<Option<(Set, Wrote)>> = OnceLock::new();
    // SAFETY: a name that ends in a zero, looked up in what is loaded.
    let named = |name: &CStr| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    *FOUND.get_or_init(|| {
        let (set, wrote) = (named(c"pagefrag_faults"), named(c"pagefrag_wrote"));
        // SAFETY: the function of this name has this type, and null is none.
        let set = unsafe { std::mem::transmute::<*mut c_void, Option<Set>>(set) };
        // SAFETY: as above.
        let wrote = unsafe { std::mem::transmute::<*mut c_void, Option<Wrote>>(wrote) };
        set.zip(wrote)
    })
}

/// Tells that `bytes` of a pool were written.
pub(crate) fn wrote(bytes: &[u8]) {
    if let Some((_, wrote)) = library() {
        wrote(bytes.as_ptr().cast(), bytes.len());
    }
}

/// Makes `plan` the plan, 0 for none. Returns how many calls failed under the
/// one before.
///
/// # Panics
/// If there is a plan and nobody to follow it.
pub(crate) fn follow(plan: u32) -> u32 {
    let library = library();
    assert!(
        plan == 0 || library.is_some(),
        "a trace with faults is run with LD_PRELOAD=libpagefrag_faults.so"
    );
    library.map_or(0, |(set, _)| set(plan))
}
