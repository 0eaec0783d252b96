//! The plan of a trace, handed to the preloaded library (`tests/faults`).

use std::sync::OnceLock;

type Set = extern "C" fn(u32) -> u32;

/// The library's function, if it is preloaded.
fn library() -> Option<Set> {
    static FOUND: OnceLock<Option<Set>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: a name that ends in a zero, looked up in what is loaded.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pagefrag_faults".as_ptr()) };
        // SAFETY: the function of this name has this type, and null is none.
        unsafe { std::mem::transmute::<*mut libc::c_void, Option<Set>>(found) }
    })
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
    library.map_or(0, |set| set(plan))
}
