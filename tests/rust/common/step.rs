//! One instruction at a time, in this process: the trap flag makes the CPU
//! deliver SIGTRAP after every instruction of one thread, and the handler sees
//! the next instruction before it runs.
//!
//! So locked instructions are counted where they are executed, not guessed
//! from a listing, and a thread can be stopped at any instruction there is.

use std::arch::asm;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};
use std::thread;

/// What was executed between two marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Executed {
    pub(crate) instructions: u64,
    /// With a lock prefix, or an exchange with memory, which locks by itself.
    pub(crate) locked: u64,
}

static INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);
static LOCKED: AtomicU64 = AtomicU64::new(0);
/// At every how many instructions the stepped thread stops and waits; 0: at none.
static STRIDE: AtomicU64 = AtomicU64::new(0);
static TURN: AtomicU32 = AtomicU32::new(STEPPED);

const STEPPED: u32 = 0;
const OTHER: u32 = 1;
const DONE: u32 = 2;

/// One stepped thread at a time: the counts are the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static INSTALLED: Once = Once::new();
    let guard = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    INSTALLED.call_once(|| {
        let handler: extern "C" fn(_, _, *mut libc::c_void) = on_trap;
        // SAFETY: all-zero bytes are a sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: a valid action; the handler touches atomics only.
        let failed = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()) };
        assert_eq!(failed, 0, "SIGTRAP can be handled");
    });
    guard
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO handlers get a ucontext.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let index = usize::try_from(libc::REG_RIP).expect("a small number");
    let next = context.uc_mcontext.gregs[index];
    // SAFETY: the next instruction is mapped, or it could not be next.
    if unsafe {
        is_locked(ptr::with_exposed_provenance(
            usize::try_from(next).unwrap_or(0),
        ))
    } {
        LOCKED.fetch_add(1, Ordering::Relaxed);
    }
    let number = INSTRUCTIONS.fetch_add(1, Ordering::Relaxed);
    let stride = STRIDE.load(Ordering::Relaxed);
    if stride != 0 && number.is_multiple_of(stride) {
        TURN.store(OTHER, Ordering::Release);
        wait_while(|| TURN.load(Ordering::Acquire) == OTHER);
    }
}

/// Spins a little, and then leaves the core to others.
fn wait_while(waiting: impl Fn() -> bool) {
    let mut turns = 0_u32;
    while waiting() {
        turns += 1;
        if turns < 500 {
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Does the instruction at `code` lock the bus?
///
/// # Safety
/// `code` points at a whole instruction.
unsafe fn is_locked(mut code: *const u8) -> bool {
    loop {
        // SAFETY: prefixes are followed by more of the same instruction.
        let byte = unsafe { code.read() };
        // SAFETY: as above; not read unless `byte` is not the last one.
        code = unsafe { code.add(1) };
        match byte {
            0xF0 => return true,
            // Operand size, address size, repeat, segments, REX.
            0x66 | 0x67 | 0xF2 | 0xF3 | 0x2E | 0x36 | 0x3E | 0x26 | 0x64 | 0x65 | 0x40..=0x4F => {}
            // XCHG locks if its operand is memory.
            // SAFETY: a ModRM byte follows these opcodes.
            0x86 | 0x87 => return unsafe { code.read() } >> 6 != 3,
            _ => return false,
        }
    }
}

/// The trap flag, while this value lives.
struct Stepping;

impl Stepping {
    #[inline(always)]
    #[allow(clippy::inline_always)] // a call more would be counted
    fn start() -> Self {
        // The first trap comes behind the instruction that follows `popfq`,
        // which would go by unseen: so that one does nothing.
        // SAFETY: sets the trap flag and changes nothing else; the compiler
        // keeps its red zone away from an asm that may use the stack.
        unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop") };
        Stepping
    }
}

impl Drop for Stepping {
    #[inline(always)]
    #[allow(clippy::inline_always)] // as for `start`
    fn drop(&mut self) {
        // SAFETY: clears the trap flag; otherwise as in `start`.
        unsafe { asm!("pushfq", "and qword ptr [rsp], -257", "popfq") };
    }
}

/// Runs `f` one instruction at a time and counts.
pub(crate) fn count(f: impl FnOnce()) -> Executed {
    let _alone = alone();
    STRIDE.store(0, Ordering::Relaxed);
    INSTRUCTIONS.store(0, Ordering::Relaxed);
    LOCKED.store(0, Ordering::Relaxed);
    {
        let _stepping = Stepping::start();
        f();
    }
    Executed {
        instructions: INSTRUCTIONS.load(Ordering::Relaxed),
        locked: LOCKED.load(Ordering::Relaxed),
    }
}

/// Runs `stopping` on a thread that stops at every `stride`th instruction, and
/// at each stop runs `other` on this one, with the number of the stop. Returns how
/// many stops there were.
///
/// If `other` ever waits for the stopped thread, nobody moves any more; after
/// a minute without a step the process says so and aborts.
pub(crate) fn stop_everywhere(
    stride: u64,
    stopping: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut())) + Send,
    mut other: impl FnMut(u64),
) -> u64 {
    let _alone = alone();
    TURN.store(STEPPED, Ordering::Relaxed);
    STRIDE.store(stride, Ordering::Relaxed);
    let stops = AtomicU64::new(0);
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| watch(&stops, &finished));
        let stepped = scope.spawn(move || {
            stopping(&mut |part| {
                let _stepping = Stepping::start();
                part();
            });
            TURN.store(DONE, Ordering::Release);
        });
        loop {
            match TURN.load(Ordering::Acquire) {
                DONE => break,
                OTHER => {
                    other(stops.fetch_add(1, Ordering::Relaxed));
                    TURN.store(STEPPED, Ordering::Release);
                }
                _ if stepped.is_finished() => break,
                now => wait_while(|| TURN.load(Ordering::Acquire) == now && !stepped.is_finished()),
            }
        }
        finished.store(true, Ordering::Relaxed);
        stepped.join().expect("the stopping thread came through");
    });
    STRIDE.store(0, Ordering::Relaxed);
    stops.into_inner()
}

fn watch(stops: &AtomicU64, finished: &AtomicBool) {
    let mut seen = 0;
    let mut idle = 0;
    while !finished.load(Ordering::Relaxed) {
        thread::sleep(std::time::Duration::from_millis(20));
        let now = stops.load(Ordering::Relaxed);
        idle = if now == seen { idle + 1 } else { 0 };
        seen = now;
        if idle == 60 * 50 {
            eprintln!("a thread stopped at instruction {now} blocks another");
            std::process::abort();
        }
    }
}
