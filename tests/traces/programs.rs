//! Random traces: long ones in which every operation is as likely, and short ones that are
//! each about something.

/// Operations that make something to work with, by their numbers (`README.md`).
const SOURCES: [u8; 8] = [0, 2, 3, 4, 5, 7, 8, 10];
/// Some that make fragments, and one that makes skbs.
const FRAGS: [u8; 4] = [0, 2, 3, 4];
const SKB: u8 = 5;
/// What is done to packets: joining, linearizing and building, which is one number; putting, hanging a
/// fragment behind, cloning.
const PACKET: [u8; 12] = [1, 1, 1, 1, 19, 19, 19, 19, 23, 23, 23, 24];
const POLL: u8 = 6;
const RELEASE: u8 = 12;
const OPERATIONS: u8 = 32;

/// splitmix64, eight bytes at a time.
struct Noise(u64);

impl Noise {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// A number below `end`, which is small.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.word() >> 32).unwrap_or(0) % end
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, row: &[T]) -> T {
        row[self.below(row.len())]
    }
}

/// A trace of `steps` random steps without a fault.
#[must_use]
pub fn random(seed: u64, steps: usize) -> Vec<u8> {
    let mut noise = Noise(seed);
    let [page, limit, init, ..] = noise.word().to_le_bytes();
    let mut trace = vec![page, limit, init, 0];
    for _ in 0..steps {
        trace.extend(noise.word().to_le_bytes());
    }
    trace
}

/// A short trace out of a swarm: 8 to 40 steps (one in sixteen up to 160) of a few operations,
/// drawn anew for each trace, on pages that are mostly small, so that they fill; one in four is
/// about packets, one in eight takes first and then gives back, one in sixteen has calls of the
/// pool that fail, one in thirty-two runs on three threads.
///
/// What is rare among all operations is frequent in some traces: that is what a swarm is for
/// (Groce et al., "Swarm testing", 2012).
#[must_use]
pub fn swarm(seed: u64) -> Vec<u8> {
    let mut noise = Noise(seed);
    // 4, 8, 32 or 128 KiB.
    let page = noise.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]);
    let limit = noise.pick(&[0, 0, 1, 3]);
    let init = noise.pick(&[0, 0, 0, 0, 1, 2, 3, 3]);
    let [fault, ..] = noise.word().to_le_bytes();
    let fault = if noise.one_in(16) { fault } else { 0 };
    let mut trace = vec![page, limit, init, fault];
    let threads = if noise.one_in(32) { 3 } else { 1 };
    let source = noise.pick(&SOURCES);
    let mut others: [u8; 10] = std::array::from_fn(|_| noise.word().to_le_bytes()[0] % OPERATIONS);
    let packets = noise.one_in(4);
    let others = if packets {
        let second = match source {
            5 | 8 => noise.pick(&FRAGS),
            _ => SKB,
        };
        others[1] = second;
        others[2..].fill_with(|| noise.pick(&PACKET));
        &others
    } else {
        &others[..=noise.below(6)]
    };
    // What an argument says of a size and of an alignment.
    let kinds = [noise.word(), noise.word()].map(|word| word.to_le_bytes()[0] % 8);
    let aligned = noise.one_in(4);
    if matches!(source, 7 | 8) {
        trace.extend([POLL, 0, 0, 0, 0, 0, 0, 0]);
    }
    let most = if noise.one_in(16) { 153 } else { 33 };
    let steps = 8 + noise.below(most);
    let phases = noise.one_in(8);
    for step in 0..steps {
        let [.., mut handle, a, b, c, d] = noise.word().to_le_bytes();
        // Of sixteen, so many take and so many give back.
        let (take, give) = match phases {
            true if step < steps / 2 => (13, 0),
            true => (0, 13),
            false if packets => (4, 1),
            false => (6, 3),
        };
        let op = match noise.below(16) {
            draw if draw < take => source,
            draw if draw < take + give => RELEASE,
            _ => {
                if packets {
                    // Much is done to a few.
                    handle %= 3;
                }
                noise.pick(others)
            }
        };
        let kind = noise.pick(&kinds);
        let a = if aligned { a } else { a & 0x78 } & 0xF8 | kind;
        let thread = noise.word().to_le_bytes()[0] % threads;
        trace.extend([op, thread, handle, 0, a, b, c, d]);
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::{random, swarm};
    use crate::traces::{OPS, Op, PACKET, decode};

    #[test]
    fn a_seed_is_a_trace() {
        assert_eq!(random(7, 3), random(7, 3));
        assert_eq!(swarm(7), swarm(7));
        assert_ne!(swarm(7), swarm(8));
        assert_eq!(random(7, 3).len(), 4 + 3 * 8);
    }

    #[test]
    fn a_swarm_has_every_operation() {
        let mut seen: Vec<Op> = Vec::new();
        for seed in 0..200 {
            seen.extend(decode(&swarm(seed)).1.map(|step| step.op));
        }
        for op in OPS.iter().chain(&PACKET) {
            assert!(seen.contains(op), "{op:?}");
        }
    }
}
