//! A message that has come: one packet, or a super-buffer of several.

use crate::net::socket::PARTS;

/// A message of which packets are still to be handed out.
#[derive(Debug)]
pub(super) struct Message {
    /// Bytes as they were sent.
    pub(super) wire_len: usize,
    /// Bytes of each packet but the last.
    step: usize,
    /// Packets that are left, and where the next begins.
    left: usize,
    at: usize,
    joined: bool,
}

/// Where a packet lies in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Message {
    /// `segment`: what the kernel told of the size of segments, if anything.
    pub(super) fn new(wire_len: usize, segment: Option<usize>) -> Self {
        let (step, left) = steps(wire_len, segment);
        Self {
            wire_len,
            step,
            left,
            at: 0,
            joined: left > 1,
        }
    }

    /// Did the kernel coalesce it from several packets?
    pub(super) fn is_joined(&self) -> bool {
        self.joined
    }

    /// Bytes of each packet but the last.
    pub(super) fn step(&self) -> usize {
        self.step
    }

    /// Is nothing of it handed out yet?
    pub(super) fn is_whole(&self) -> bool {
        self.at == 0
    }

    /// Packets that are left.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The next packet.
    #[inline]
    pub(super) fn next_part(&mut self) -> Option<Part> {
        self.left = self.left.checked_sub(1)?;
        let part = Part {
            at: self.at,
            len: self.step.min(self.wire_len - self.at),
        };
        self.at += part.len;
        Some(part)
    }
}

/// Packets of a message.
pub(super) fn packets(wire_len: usize, segment: Option<usize>) -> usize {
    steps(wire_len, segment).1
}

/// Bytes of each packet but the last, and how many there are.
fn steps(wire_len: usize, segment: Option<usize>) -> (usize, usize) {
    match segment {
        Some(segment) if segment > 0 && segment < wire_len => (segment, wire_len.div_ceil(segment)),
        _ => (wire_len, 1),
    }
}

/// Copies what lies from `at` on in `parts`, one behind the other, as far as there is
/// something. Returns the bytes copied.
pub(super) fn gather(mut into: &mut [u8], parts: [&[u8]; PARTS], mut at: usize) -> usize {
    let wanted = into.len();
    for part in parts {
        let here = part.get(at..).unwrap_or_default();
        let (now, later) = into.split_at_mut(here.len().min(into.len()));
        now.copy_from_slice(&here[..now.len()]);
        into = later;
        at = at.saturating_sub(part.len());
    }
    wanted - into.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(mut message: Message) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| message.next_part().map(|part| (part.at, part.len))).collect()
    }

    #[test]
    fn a_super_buffer_is_cut_into_its_segments_the_last_may_be_short() {
        let whole = Message::new(2500, Some(1000));
        assert!(whole.is_joined() && whole.left() == 3);
        assert_eq!(parts(whole), [(0, 1000), (1000, 1000), (2000, 500)]);
        assert_eq!(parts(Message::new(3, Some(1))), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(parts(Message::new(2000, Some(1000))).len(), 2);
    }

    #[test]
    fn whatever_has_no_second_segment_is_one_packet() {
        for segment in [None, Some(0), Some(1000), Some(1001), Some(usize::MAX)] {
            let whole = Message::new(1000, segment);
            assert!(!whole.is_joined());
            assert_eq!(parts(whole), [(0, 1000)]);
            assert_eq!(packets(1000, segment), 1);
        }
        assert_eq!(
            parts(Message::new(0, None)),
            [(0, 0)],
            "empty ones are packets"
        );
        assert_eq!(parts(Message::new(0, Some(9))), [(0, 0)]);
    }

    #[test]
    fn the_parts_of_any_message_are_all_of_it_in_order() {
        for wire_len in [0, 1, 2, 63, 1000, 65_535, 65_536, usize::MAX] {
            for segment in [0, 1, 2, 62, 63, 999, 65_534, usize::MAX - 1, usize::MAX] {
                let mut whole = Message::new(wire_len, Some(segment));
                let left = whole.left();
                let mut end = 0;
                for number in 0..left.min(100_000) {
                    let part = whole.next_part().expect("so many are left");
                    assert_eq!(part.at, end);
                    assert!(part.len <= wire_len - end, "{number} of {left}");
                    assert!(part.len != 0 || wire_len == 0);
                    end += part.len;
                }
                assert!(whole.left() != 0 || end == wire_len && whole.next_part().is_none());
            }
        }
    }

    #[test]
    fn bytes_are_gathered_across_the_ends_of_the_parts() {
        let all: Vec<u8> = (0..100).collect();
        let cuts = [0, 1, 40, 99, 100];
        for (first, second) in cuts.iter().flat_map(|one| cuts.map(|two| (*one, two))) {
            let (head, tail) = all.split_at(first.max(second));
            let (head, middle) = head.split_at(first.min(second));
            for at in 0..=100 {
                for len in [0, 1, 30, 100] {
                    let mut into = vec![0xff; len];
                    let found = gather(&mut into, [head, middle, tail], at);
                    assert_eq!(into[..found], all[at..(at + len).min(100)]);
                    assert_eq!(found, len.min(100 - at));
                }
            }
        }
        assert_eq!(
            gather(&mut [0; 9], [&[1], &[2], &[]], 3),
            0,
            "behind the end"
        );
    }
}
