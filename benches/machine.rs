//! What a figure must name to mean anything: the machine it was taken on.

use std::fs;

use serde::{Deserialize, Serialize};

/// The processor and how many of it: never the name of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The model, as the kernel tells it.
    pub cpu: String,
    /// How many are online, whatever this process is bound to.
    pub cores: usize,
}

/// This machine.
#[must_use]
pub fn machine() -> Machine {
    let told = read("/proc/cpuinfo");
    let is_one = |line: &&str| line.starts_with("processor");
    Machine {
        cpu: field(&told, "model name"),
        cores: told.lines().filter(is_one).count(),
    }
}

/// The version of the kernel, without what a distributor adds.
#[must_use]
pub fn kernel() -> String {
    let release = read("/proc/sys/kernel/osrelease");
    let version = release.trim().split(['-', '+']).next();
    version.unwrap_or_default().into()
}

/// One line: processor, number of processors, kernel.
#[must_use]
pub fn describe() -> String {
    let Machine { cpu, cores } = machine();
    format!("{cpu}, {cores} processors, Linux {}", kernel())
}

/// Binds the calling thread to one processor, so that it does not wander
/// during a measurement. Does nothing where the OS refuses.
pub fn pin_to(processor: usize) {
    // SAFETY: `cpu_set_t` is plain words, for which all-zero bytes are valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a whole `cpu_set_t`; numbers beyond it are ignored.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: 0 is the calling thread; the pointer and the size are of `set`,
    // which the call only reads.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_once(':'))
        .map_or_else(
            || "unknown processor".into(),
            |(_, value)| value.trim().into(),
        )
}
