//! What an arm holds: looked at in a process of its own.

use serde::{Deserialize, Serialize};

use crate::apart::{apart, resident};
use crate::heap;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        let (resident, huge) = resident();
        self.seen.resident = resident.saturating_sub(self.before);
        self.seen.huge = huge;
    }

    /// What the workload says at its end.
    pub fn end(&mut self, checksum: u64, live: u64) {
        self.seen.checksum = checksum;
        self.seen.live = live;
    }
}

/// Runs `work` in a process of its own and tells what it saw there.
///
/// # Panics
///
/// As [`apart`].
pub fn look(work: impl FnOnce(&mut Eye)) -> Look {
    apart(|| {
        let mut eye = Eye {
            before: resident().0,
            seen: Look::default(),
        };
        work(&mut eye);
        eye.seen
    })
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
