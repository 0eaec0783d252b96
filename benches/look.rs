//! What an arm holds: looked at in a process of its own, so that no arm is
//! blamed for what another left behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use crate::heap;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bytes that became resident and private since before the arm started.
    pub resident: u64,
    /// Of all resident bytes, those in huge pages.
    pub huge: u64,
    /// Calls to a general allocator.
    pub heap_calls: u64,
    /// What the workload summed up.
    pub checksum: u64,
    /// Bytes that were live at that moment.
    pub live: u64,
}

impl Look {
    fn words(self) -> [u64; 5] {
        [
            self.resident,
            self.huge,
            self.heap_calls,
            self.checksum,
            self.live,
        ]
    }

    fn of([resident, huge, heap_calls, checksum, live]: [u64; 5]) -> Self {
        Self {
            resident,
            huge,
            heap_calls,
            checksum,
            live,
        }
    }
}

/// Looks out of the child process.
#[derive(Debug)]
pub struct Eye {
    before: u64,
    seen: Look,
}

impl Eye {
    /// Begins to count calls to the heap: the workload is in its stride.
    pub fn count(&mut self) {
        heap::count();
    }

    /// Looks at the memory while everything is held.
    pub fn look(&mut self) {
        self.seen.heap_calls = heap::counted();
        let (resident, huge) = memory();
        self.seen.resident = resident.saturating_sub(self.before);
        self.seen.huge = huge;
    }

    /// What the workload says at its end.
    pub fn end(&mut self, checksum: u64, live: u64) {
        self.seen.checksum = checksum;
        self.seen.live = live;
    }
}

/// Runs `work` in a child of this process, which has one thread, and tells
/// what it saw there.
///
/// # Panics
///
/// When the child cannot be made or does not come to its end.
pub fn look(work: impl FnOnce(&mut Eye)) -> Look {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let refused = unsafe { libc::pipe(ends.as_mut_ptr()) };
    assert_eq!(refused, 0, "a pipe");
    // SAFETY: two fresh descriptors, each owned once.
    let mut reader = unsafe { File::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let mut writer = unsafe { File::from_raw_fd(ends[1]) };
    // SAFETY: the child uses nothing that another thread could hold locked:
    // looks are taken before any bench starts one.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process");
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut eye = Eye {
                before: memory().0,
                seen: Look::default(),
            };
            work(&mut eye);
            let words = eye.seen.words().map(u64::to_ne_bytes);
            writer.write_all(words.as_flattened()).expect("a pipe");
        }));
        // SAFETY: ends this process at once; its parent does the rest.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    drop(writer);
    let mut words = [[0; 8]; 5];
    let read = reader.read_exact(words.as_flattened_mut());
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    read.expect("the child says what it saw");
    Look::of(words.map(u64::from_ne_bytes))
}

/// Private bytes that were written, and bytes in huge pages, of this process.
fn memory() -> (u64, u64) {
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
    use super::look;

    #[test]
    fn what_a_child_takes_is_seen() {
        let seen = look(|eye| {
            eye.count();
            let kept = std::hint::black_box(vec![1_u8; 8 << 20]);
            eye.look();
            eye.end(kept.len() as u64, 7);
        });
        assert!(seen.resident >= 8 << 20, "{seen:?}");
        assert!(seen.heap_calls >= 1, "{seen:?}");
        assert_eq!((seen.checksum, seen.live), (8 << 20, 7));
    }
}
