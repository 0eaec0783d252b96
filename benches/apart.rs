//! A child process for each arm, so that no arm is blamed for what another left
//! behind: the memory of a process says who of it took what to nobody.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs `work` in a child of this process, which has one thread, and tells
/// what it found there.
///
/// # Panics
///
/// When the child cannot be made or does not come to its end.
pub fn apart<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> T {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let refused = unsafe { libc::pipe(ends.as_mut_ptr()) };
    assert_eq!(refused, 0, "a pipe");
    // SAFETY: two fresh descriptors, each owned once.
    let mut reader = unsafe { File::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let mut writer = unsafe { File::from_raw_fd(ends[1]) };
    // SAFETY: the child uses nothing that another thread could hold locked:
    // arms are looked at before any bench starts one.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process");
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let found = serde_json::to_vec(&work()).expect("plain figures");
            writer.write_all(&found).expect("a pipe");
        }));
        // SAFETY: ends this process at once; its parent does the rest.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    drop(writer);
    let mut found = Vec::new();
    let read = reader.read_to_end(&mut found);
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    read.expect("a pipe");
    serde_json::from_slice(&found).expect("the child says what it found")
}

/// Bytes of this process that are private and were written, and of all its
/// bytes those in huge pages.
#[must_use]
pub fn resident() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let bytes = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        kib.unwrap_or(0_u64) * 1024
    };
    (bytes("Private_Dirty:"), bytes("AnonHugePages:"))
}

#[cfg(test)]
mod tests {
    use super::{apart, resident};

    #[test]
    fn what_a_child_takes_is_seen_there_and_not_here() {
        let (grew, length) = apart(|| {
            let before = resident().0;
            let kept = std::hint::black_box(vec![1_u8; 8 << 20]);
            (resident().0 - before, kept.len())
        });
        assert!(grew >= 8 << 20, "{grew}");
        assert_eq!(length, 8 << 20);
    }
}
