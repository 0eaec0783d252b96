//! The plan of a trace, handed to the preloaded library (`tests/faults`).

/// Makes `plan` the plan, 0 for none. Returns how many calls failed under the
/// one before.
///
/// # Panics
/// If there is a plan and nobody to follow it.
pub(crate) fn follow(plan: u32) -> u32 {
    // SAFETY: a name that ends in a zero, looked up in what is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pagefrag_faults".as_ptr()) };
    assert!(
        plan == 0 || !found.is_null(),
        "a trace with faults is run with LD_PRELOAD=libpagefrag_faults.so"
    );
    if found.is_null() {
        return 0;
    }
    // SAFETY: the function of this name has this type.
    let set: extern "C" fn(u32) -> u32 = unsafe { std::mem::transmute(found) };
    set(plan)
}
