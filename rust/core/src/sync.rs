//! The one door to atomics, thread-locals and the identity of a thread.
//!
//! Everything above runs unchanged under the loom model checker: this file
//! decides whether a word comes from `std` or from `loom`, and nobody else
//! names either.
//!
//! [`OwnerCell`] is the word of the *plain-writer rule* (told in
//! [`page`](crate::mem)): at any time one thread may write it, and that thread
//! needs no locked instruction to do so. In a normal build it is a relaxed
//! atomic, which on every machine we know costs a plain load or store, so that
//! statistics may read it from elsewhere. Under loom each owner access also
//! touches an `UnsafeCell`, and a second writer fails the model.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};

#[cfg(loom)]
pub(crate) use loom::{
    alloc::{alloc_zeroed, dealloc},
    thread::yield_now,
    thread_local,
};
#[cfg(not(loom))]
pub(crate) use std::{thread::yield_now, thread_local};

/// What a word holds that is this thread's alone, read as plain memory: an atomic has to
/// lie somewhere to be read, plain memory may stay in a register.
#[inline]
pub(crate) fn read_owned(word: &mut AtomicU64) -> u64 {
    #[cfg(not(loom))]
    return *word.get_mut();
    #[cfg(loom)]
    return word.with_mut(|word| *word);
}

macro_rules! owner_cell {
    ($(#[$doc:meta])* $name:ident, $atomic:ty, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name {
            value: $atomic,
            #[cfg(loom)]
            writer: loom::cell::UnsafeCell<()>,
        }

        // Not every width needs every verb.
        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self {
                    value: <$atomic>::new(value),
                    #[cfg(loom)]
                    writer: loom::cell::UnsafeCell::new(()),
                }
            }

            /// Reads as the owner.
            #[inline]
            pub(crate) fn get(&self) -> $value {
                #[cfg(loom)]
                self.writer.with_mut(|_| ());
                // Relaxed: only the owner writes, and it sees its own stores.
                self.value.load(Ordering::Relaxed)
            }

            /// Writes as the owner.
            #[inline]
            pub(crate) fn set(&self, value: $value) {
                #[cfg(loom)]
                self.writer.with_mut(|_| ());
                // Relaxed: whoever owns next gets it from the release that
                // handed ownership over, not from this store.
                self.value.store(value, Ordering::Relaxed);
            }

            /// Reads from anywhere: exact at quiescence, otherwise a guess.
            #[inline]
            pub(crate) fn peek(&self) -> $value {
                self.value.load(Ordering::Relaxed)
            }
        }
    };
}

owner_cell!(
    /// A 64-bit word that one thread at a time may write.
    OwnerU64, AtomicU64, u64
);
owner_cell!(
    /// A signed 64-bit word that one thread at a time may write.
    OwnerI64, AtomicI64, i64
);
owner_cell!(
    /// A size that one thread at a time may write.
    OwnerUsize, AtomicUsize, usize
);
owner_cell!(
    /// A 32-bit word that one thread at a time may write.
    OwnerU32, AtomicU32, u32
);

owner_cell!(
    /// A signed 32-bit word that one thread at a time may write.
    OwnerI32, AtomicI32, i32
);

/// An address that one thread at a time may write.
#[derive(Debug)]
pub(crate) struct OwnerPtr<T> {
    value: AtomicPtr<T>,
    #[cfg(loom)]
    writer: loom::cell::UnsafeCell<()>,
}

impl<T> OwnerPtr<T> {
    pub(crate) fn null() -> Self {
        Self {
            value: AtomicPtr::new(std::ptr::null_mut()),
            #[cfg(loom)]
            writer: loom::cell::UnsafeCell::new(()),
        }
    }

    /// Reads as the owner.
    #[inline]
    pub(crate) fn get(&self) -> *mut T {
        #[cfg(loom)]
        self.writer.with_mut(|_| ());
        // Relaxed: as for the other owner cells.
        self.value.load(Ordering::Relaxed)
    }

    /// Writes as the owner.
    #[inline]
    pub(crate) fn set(&self, value: *mut T) {
        #[cfg(loom)]
        self.writer.with_mut(|_| ());
        // Relaxed: as for the other owner cells.
        self.value.store(value, Ordering::Relaxed);
    }

    /// Reads from anywhere: exact at quiescence, otherwise a guess.
    #[inline]
    pub(crate) fn peek(&self) -> *mut T {
        self.value.load(Ordering::Relaxed)
    }
}

/// An address behind a gate: read by those who are let in, written by whoever has shut all
/// others out, its owner for that long. The gate orders it, so it asks for no order itself; loom
/// holds the gate to that.
#[derive(Debug)]
pub(crate) struct GatedPtr<T>(OwnerPtr<T>);

impl<T> GatedPtr<T> {
    pub(crate) fn null() -> Self {
        Self(OwnerPtr::null())
    }

    /// Reads as one who was let in.
    #[inline]
    pub(crate) fn get(&self) -> *mut T {
        #[cfg(loom)]
        self.0.writer.with(|_| ());
        self.0.peek()
    }

    /// Writes with all others shut out.
    pub(crate) fn set(&self, value: *mut T) {
        self.0.set(value);
    }

    /// Reads when nobody can write any more.
    pub(crate) fn peek(&self) -> *mut T {
        self.0.peek()
    }
}

/// Stands for memory that one thread makes, many use and one ends: a region's
/// header, a chunk of slots. Nothing in a normal build. To loom it is a cell
/// that the first and the last write and all others read, so a use that is not
/// ordered behind the making or before the end fails the model.
#[derive(Debug)]
pub(crate) struct Lifetime {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
}

// Nothing to do with oneself in a normal build.
#[cfg_attr(not(loom), allow(clippy::unused_self))]
impl Lifetime {
    /// The memory has just been made.
    pub(crate) fn new() -> Self {
        #[cfg(loom)]
        let cell = loom::cell::UnsafeCell::new(());
        #[cfg(loom)]
        cell.with_mut(|_| ());
        Self {
            #[cfg(loom)]
            cell,
        }
    }

    /// The calling thread uses the memory.
    #[inline]
    pub(crate) fn used(&self) {
        #[cfg(loom)]
        self.cell.with(|_| ());
    }

    /// Nobody uses the memory any more.
    pub(crate) fn ended(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }
}

/// How often this process was forked from another, in a token's high bits,
/// which no user address of the machines we know has.
#[cfg(not(loom))]
static GENERATION: AtomicUsize = AtomicUsize::new(0);
#[cfg(not(loom))]
const GENERATION_STEP: usize = 1 << 48;

/// A forked child calls this: from here on no token is one that was given
/// before. The C library hands the stacks of threads that the fork left behind
/// to new ones, whose tokens would otherwise be theirs.
#[cfg(not(loom))]
pub(crate) extern "C" fn forked() {
    // Relaxed: the child has one thread; those it starts see it.
    GENERATION.fetch_add(GENERATION_STEP, Ordering::Relaxed);
}

/// A number that grows with each fork down to this process that the C library has told of.
#[cfg(not(loom))]
pub(crate) fn forks() -> u16 {
    // Relaxed: as in `thread_token`.
    let forks = GENERATION.load(Ordering::Relaxed) / GENERATION_STEP;
    u16::try_from(forks).unwrap_or(u16::MAX)
}

/// Nobody forks a model.
#[cfg(loom)]
pub(crate) extern "C" fn forked() {}

/// A number that no other living thread has, and no thread of a process that
/// this one was forked from: the address the thread pointer holds, and the
/// generation. Two instructions. It may come again after the thread has ended,
/// so whoever is named by it gives everything up before the thread ends. A cache
/// that is leaked does not: whoever has the number next is then the one thread
/// that its pages name, which is all that they ask for.
#[cfg(not(loom))]
#[inline]
pub(crate) fn thread_token() -> usize {
    // Relaxed: changes only in a fresh child.
    thread_pointer() ^ GENERATION.load(Ordering::Relaxed)
}

#[cfg(all(not(loom), not(miri), target_arch = "x86_64", target_os = "linux"))]
#[inline]
fn thread_pointer() -> usize {
    let token: usize;
    // SAFETY: the x86-64 ELF TLS ABI keeps the thread pointer itself at fs:0;
    // the instruction reads eight bytes there and touches nothing else.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) token,
            options(nostack, preserves_flags, readonly, pure));
    }
    token
}

#[cfg(all(not(loom), not(miri), target_arch = "aarch64", target_os = "linux"))]
#[inline]
fn thread_pointer() -> usize {
    let token: usize;
    // SAFETY: tpidr_el0 is the thread pointer, readable from user space.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) token,
            options(nostack, preserves_flags, nomem, pure));
    }
    token
}

/// Elsewhere: the address of a thread-local word.
#[cfg(all(
    not(loom),
    any(
        miri,
        not(all(
            any(target_arch = "x86_64", target_arch = "aarch64"),
            target_os = "linux"
        ))
    )
))]
#[inline]
fn thread_pointer() -> usize {
    thread_local!(static HERE: u64 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// Under loom all threads share one real thread, so they are numbered.
#[cfg(loom)]
pub(crate) fn thread_token() -> usize {
    loom::thread_local!(static TOKEN: usize = {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(16);
        NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    });
    TOKEN.with(|token| *token)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::thread_token;

    #[test]
    fn a_token_is_steady_on_a_thread_and_differs_between_living_threads() {
        let mine = thread_token();
        assert_eq!(mine, thread_token());
        assert!(mine > 1, "0 and 1 mean nobody and orphan");
        let other = std::thread::spawn(thread_token).join().unwrap();
        assert_ne!(mine, other);
    }
}
