//! Which process this is among those that it was forked from.
//!
//! A child finds in its memory what its parents have written there, and must know it from its own.
//! The system's number of a process does not tell: it is given away again when a process has
//! ended, also to a child of its child. So each process takes a number of its own, one more than
//! all that were taken before in its line of forks. That it has none yet it knows by a word that the
//! kernel wipes in every child, however it was forked (`MADV_WIPEONFORK`, Linux 4.14).
//!
//! Where the kernel does not, its number is the system's, and how many forks of the line the C
//! library has told of. Only a child that was made behind the library's back, and is given the
//! number of a parent that has ended, takes that one's things for its own there.

use std::process;
use std::ptr;

use crate::mem::os;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, forked, forks};

/// How many numbers were taken in this line.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The word that forks wipe, in which a process keeps its number; null until somebody asks.
static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// What `WORD` points to where there is no such word.
static NO_WORD: AtomicU64 = AtomicU64::new(0);

/// A number of the calling process, never 0, which none has that it was forked from: by it a process
/// knows what is its own in the memory that a fork has copied, as it does not by the system's
/// number, which is given away again. Two loads; before Linux 4.14 a system call.
///
/// # Examples
/// ```
/// let mine = pagefrag::process_number();
/// assert_eq!(pagefrag::process_number(), mine);
/// ```
pub fn process_number() -> u64 {
    word().map_or_else(|| told_apart(process::id(), forks()), number_in)
}

/// The number that stands in `word`, or a new one if a fork has wiped it.
fn number_in(word: &AtomicU64) -> u64 {
    // Relaxed, all: numbers only, nothing is read because of them that is not in the memory of
    // whoever reads them.
    let number = word.load(Ordering::Relaxed);
    if number != 0 {
        return number;
    }
    let new = TAKEN.fetch_add(1, Ordering::Relaxed) + 1;
    // Another thread may have been faster.
    let before = word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
    before.map_or_else(|other| other, |_| new)
}

/// The number of a process whose word nobody would wipe.
fn told_apart(id: u32, forks: u16) -> u64 {
    u64::from(id) << u16::BITS | u64::from(forks)
}

fn word() -> Option<&'static AtomicU64> {
    // Relaxed, here and below: what it points to comes from the kernel, and nobody else has
    // written there before.
    let mut found = WORD.load(Ordering::Relaxed);
    if found.is_null() {
        found = make_word();
    }
    let is_there = !ptr::eq(found, &raw const NO_WORD);
    // SAFETY: mapped in `make_word` and never unmapped; of zeroes, which are a word.
    is_there.then(|| unsafe { &*found })
}

/// No lock: a thread of the parent may be in here while another one forks.
#[cold]
fn make_word() -> *mut AtomicU64 {
    os::watch_forks(forked);
    let mapping = os::map_wiped_by_forks();
    let new = match mapping {
        Some(mapping) => mapping.base.as_ptr().cast(),
        None => (&raw const NO_WORD).cast_mut(),
    };
    let (first, order) = (ptr::null_mut(), Ordering::Relaxed);
    match WORD.compare_exchange(first, new, order, order) {
        Ok(_) => new,
        Err(other) => {
            // SAFETY: mapped above, seen by nobody.
            mapping.map(|mapping| unsafe { os::unmap(mapping) });
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::os::children::{Fork, found_by_a_child};

    /// A child and its child each find a number by `how` that none before has.
    fn differs(fork: Fork, how: impl Fn() -> u64) -> bool {
        let mine = how();
        assert_eq!(how(), mine, "steady");
        found_by_a_child(fork, || {
            let childs = how();
            let is_new = childs != mine && childs == how();
            is_new && found_by_a_child(fork, || ![mine, childs].contains(&how()))
        })
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri does not fork")]
    fn a_child_has_another_number_however_it_was_forked() {
        for fork in [Fork::Library, Fork::Kernel] {
            assert!(differs(fork, process_number), "{fork:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri does not fork")]
    fn a_child_with_its_parents_id_has_another_number() {
        let Some(word) = word() else {
            eprintln!("left out: this kernel wipes nothing when a process forks");
            return;
        };
        for fork in [Fork::Library, Fork::Kernel] {
            assert!(differs(fork, || number_in(word)), "{fork:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri does not fork")]
    fn where_nothing_is_wiped_a_child_with_its_parents_id_has_another_number() {
        os::watch_forks(forked);
        assert!(differs(Fork::Library, || told_apart(1, forks())));
        assert!(differs(Fork::Kernel, || told_apart(process::id(), 0)));
    }
}
